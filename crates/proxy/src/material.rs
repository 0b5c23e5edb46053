//! Records of what passed.

use std::collections::BTreeMap;
use std::fmt;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use serde::{Deserialize, Serialize};

/// Requests that are recorded one by one; of further ones the number and the bytes are recorded, by host.
const LISTED: usize = 1000;

/// Something that passed a proxy.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", tag = "kind")]
pub enum Material {
    /// An answer.
    Http {
        /// Method of the request.
        method: String,
        /// Address without user information.
        url: String,
        /// Status of the answer.
        status: u16,
        /// Bytes of its content.
        bytes: u64,
        /// SHA-256 of its content, in hexadecimal digits. `None` if the content ended early.
        sha256: Option<String>,
    },
    /// Encrypted connections to a host.
    Tunnel {
        /// `HOST:PORT`.
        host: String,
        /// Number of connections.
        connections: u64,
        /// Bytes that the command sent.
        sent: u64,
        /// Bytes that it received.
        received: u64,
    },
    /// Requests that were refused.
    Refused {
        /// `HOST:PORT`.
        host: String,
    },
    /// A host that was not reached.
    Unreachable {
        /// `HOST:PORT`.
        host: String,
        /// The reason.
        problem: String,
    },
}

impl fmt::Display for Material {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Http { method, url, status, bytes, sha256 } => {
                write!(f, "{method} {url}: {status}, {bytes} bytes")?;
                match sha256 {
                    Some(sha256) => write!(f, ", sha256:{sha256}"),
                    None => f.write_str(", ended early"),
                }
            }
            Self::Tunnel { host, connections, sent, received } => {
                write!(f, "{host}: {connections} connections, {received} bytes received, {sent} bytes sent")
            }
            Self::Refused { host } => write!(f, "{host}: refused, since it is this machine or on its link"),
            Self::Unreachable { host, problem } => write!(f, "{host}: {problem}"),
        }
    }
}

impl Material {
    /// Returns it with its text changed, such as to hide secrets.
    #[must_use]
    pub fn map_text(self, change: &impl Fn(String) -> String) -> Self {
        match self {
            Self::Http { method, url, status, bytes, sha256 } => {
                Self::Http { method, url: change(url), status, bytes, sha256 }
            }
            Self::Tunnel { host, connections, sent, received } => {
                Self::Tunnel { host: change(host), connections, sent, received }
            }
            Self::Refused { host } => Self::Refused { host: change(host) },
            Self::Unreachable { host, problem } => Self::Unreachable { host: change(host), problem: change(problem) },
        }
    }
}

/// Bytes of the connections to one host.
#[derive(Debug, Default)]
pub(crate) struct Traffic {
    pub(crate) connections: AtomicU64,
    pub(crate) sent: AtomicU64,
    pub(crate) received: AtomicU64,
}

/// Everything that passed a proxy so far.
#[derive(Debug, Default)]
pub struct Materials {
    list: Mutex<Vec<Material>>,
    hosts: Mutex<BTreeMap<String, Arc<Traffic>>>,
}

impl Materials {
    /// Returns the traffic with a host, which gets another connection.
    pub(crate) fn connected(&self, host: &str) -> Arc<Traffic> {
        let mut hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let traffic = Arc::clone(hosts.entry(host.to_owned()).or_default());
        traffic.connections.fetch_add(1, Ordering::Relaxed);
        traffic
    }

    pub(crate) fn note(&self, material: Material) {
        let mut list = self.list.lock().unwrap_or_else(PoisonError::into_inner);
        if list.len() < LISTED {
            list.push(material);
        } else if let Material::Http { url, bytes, .. } = material {
            drop(list);
            let host = url.split('/').nth(2).unwrap_or_default();
            self.connected(host).received.fetch_add(bytes, Ordering::Relaxed);
        }
    }

    /// Returns all of it, each once, in the order of addresses.
    pub(crate) fn all(&self) -> Vec<Material> {
        let mut all = self.list.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let hosts = self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        all.extend(hosts.iter().map(|(host, traffic)| Material::Tunnel {
            host: host.clone(),
            connections: traffic.connections.load(Ordering::Relaxed),
            sent: traffic.sent.load(Ordering::Relaxed),
            received: traffic.received.load(Ordering::Relaxed),
        }));
        all.sort();
        all.dedup();
        all
    }
}
