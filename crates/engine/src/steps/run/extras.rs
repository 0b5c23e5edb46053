//! Things that a command has besides files of images: caches, secrets, the SSH agent, a network.

use std::path::{Path, PathBuf};
use std::time::SystemTime;

use kiln_plan::digest::Digest;
use kiln_plan::size;
use kiln_plan::stack::{Network, SecretSource};
use kiln_sandbox::{Given, MemoryFile, Mount};
use kiln_store::{CacheDirectory, StoreError, TemporaryDirectory};
use serde::Serialize;

use crate::agent::Agent;
use crate::error::{BuildError, FetchError, Result, SecretError};
use crate::secrets::{self, Searched};
use crate::workshop::Workshop;

/// The program that connects commands with other machines by any protocol.
const SLIRP: &str = "slirp4netns";
/// The port of a command's proxy, at its own loopback interface.
const PORT: u16 = 3128;
/// The paths at which commands find the agent, the certificates of this machine, and settings of apt.
const AGENT: &str = "/dev/ssh-agent";
const CERTIFICATES: &str = "/dev/ca-certificates.crt";
const APT_CONFIG: &str = "/dev/apt-network.conf";
/// The program that forbids services to start (invoke-rc.d(8)).
const POLICY: &str = "usr/sbin/policy-rc.d";
/// Paths of apt and dpkg that nobody needs in an image.
const OF_APT: [&str; 9] = [
    POLICY,
    "var/lib/apt/lists",
    "var/cache/apt",
    "var/cache/ldconfig",
    "var/log/apt",
    "var/log/dpkg.log",
    "var/log/alternatives.log",
    "var/lib/dpkg/status-old",
    "var/lib/dpkg/lock-frontend",
];
/// Files in which distributions keep the certificates that are trusted.
const BUNDLES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];
/// Variables by which programs are told of such a file: OpenSSL and Go, curl, Python's requests, pip, git, Node.js, Amazon's tools.
const OF_BUNDLE: [&str; 7] = [
    "SSL_CERT_FILE",
    "CURL_CA_BUNDLE",
    "REQUESTS_CA_BUNDLE",
    "PIP_CERT",
    "GIT_SSL_CAINFO",
    "NODE_EXTRA_CA_CERTS",
    "AWS_CA_BUNDLE",
];
const OF_PROXY: [&str; 6] = ["http_proxy", "https_proxy", "HTTP_PROXY", "HTTPS_PROXY", "all_proxy", "ALL_PROXY"];
const NO_PROXY: [&str; 2] = ["no_proxy", "NO_PROXY"];
/// Names of the command's own loopback interface.
const OWN: [&str; 3] = ["localhost", "127.0.0.1", "::1"];

/// Things that a command has besides files of images.
#[derive(Default, Serialize)]
pub(crate) struct Extras {
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) caches: Vec<Cache>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(crate) secrets: Vec<Secret>,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) ssh: bool,
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    pub(crate) apt: bool,
    #[serde(skip_serializing_if = "is_none")]
    pub(crate) network: Network,
    /// The directory of the stack file.
    #[serde(skip)]
    pub(crate) directory: PathBuf,
    /// The file of the image that names its name servers, without a leading slash and without links.
    #[serde(skip)]
    pub(crate) resolver: String,
}

/// A directory whose content stays for the next time.
#[derive(Serialize)]
pub(crate) struct Cache {
    /// Path in the image, without a leading slash and without links.
    pub(crate) path: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) id: Option<String>,
    /// The digest of whom it belongs to.
    #[serde(skip)]
    pub(crate) owner: Digest,
    #[serde(skip)]
    pub(crate) is_private: bool,
    #[serde(skip)]
    pub(crate) max_size: u64,
}

/// A secret. Its content is not in the key: whoever may use the result may lack it.
#[derive(Serialize)]
pub(crate) struct Secret {
    pub(crate) name: String,
    /// Path in the image, without a leading slash and without links.
    pub(crate) path: String,
    pub(crate) mode: u32,
    #[serde(skip)]
    pub(crate) source: Option<SecretSource>,
}

fn is_none(network: &Network) -> bool {
    *network == Network::None
}

/// Everything that a command was lent; it is taken back when the value is dropped.
pub(super) struct Lent {
    pub(super) given: Given,
    pub(super) searched: Searched,
    since: SystemTime,
    caches: Vec<(CacheDirectory, String, u64)>,
    _agent: Option<(Agent, TemporaryDirectory)>,
}

impl Extras {
    pub(super) fn is_empty(&self) -> bool {
        self.caches.is_empty() && self.secrets.is_empty() && !self.ssh && !self.apt && is_none(&self.network)
    }

    /// Returns true if the command reaches other machines.
    pub(super) fn has_network(&self) -> bool {
        !is_none(&self.network)
    }

    /// Returns paths whose content the image does not get.
    pub(super) fn paths(&self) -> impl Iterator<Item = &str> {
        let caches = self.caches.iter().map(|cache| cache.path.as_str());
        let of_apt = if self.apt { &OF_APT[..] } else { &[] };
        let resolver = (self.network == Network::Full).then_some(self.resolver.as_str());
        caches
            .chain(self.secrets.iter().map(|secret| secret.path.as_str()))
            .chain(resolver)
            .chain(of_apt.iter().copied())
    }

    /// Returns hosts that the command's proxy allows although they are this machine or on its link.
    pub(super) fn allow(&self) -> &[String] {
        match &self.network {
            Network::Proxy(allow) => allow,
            Network::None | Network::Full => &[],
        }
    }

    /// Gets everything for a command of a user. `name` is the command and its place.
    pub(super) fn lend(&self, workshop: &Workshop<'_>, user: (u32, u32), name: (&str, &str)) -> Result<Lent> {
        if self.has_network() && workshop.surroundings.offline {
            return Err(FetchError::OfflineCommand(name.0.to_owned()).into());
        }
        let mut given = Given::default();
        let contents = self.secrets.iter().map(|secret| {
            let source = secret.source.as_ref();
            let missing = || SecretError::unusable(&secret.name, "the stack declares no source".into());
            secrets::read(workshop, &secret.name, source.ok_or_else(missing)?, &self.directory)
        });
        let contents: Vec<Vec<u8>> = contents.collect::<Result<_>>()?;
        let searched = Searched::new(contents.iter().map(Vec::as_slice));
        for (secret, content) in self.secrets.iter().zip(contents) {
            let path = Path::new("/").join(&secret.path);
            given.files.push(MemoryFile { path, content, mode: secret.mode, owner: user });
        }
        let mut caches = Vec::new();
        for cache in &self.caches {
            let directory = cache.open(workshop)?;
            let (from, to) = (directory.content().to_owned(), Path::new("/").join(&cache.path));
            given.mounts.push(Mount { from, to, writable: true });
            caches.push((directory, format!("/{}", cache.path), cache.max_size));
        }
        let agent = self.ssh.then(|| lend_agent(workshop, name, &mut given)).transpose()?;
        self.lend_network(workshop, &mut given)?;
        if self.apt {
            let (path, content) = (format!("/{POLICY}").into(), b"#!/bin/sh\nexit 101\n".to_vec());
            given.files.push(MemoryFile { path, content, mode: 0o755, owner: (0, 0) });
        }
        Ok(Lent { given, searched, since: SystemTime::now(), caches, _agent: agent })
    }

    /// Adds variables that lead to what a command has, where it does not set them itself.
    pub(super) fn add_variables(&self, given: &Given, env: &mut Vec<(String, String)>) {
        let mut add = |name: &str, value: &str| {
            if !env.iter().any(|(known, _)| known == name) {
                env.push((name.to_owned(), value.to_owned()));
            }
        };
        if self.apt {
            add("DEBIAN_FRONTEND", "noninteractive");
            add("PYTHONHASHSEED", "0");
        }
        if self.ssh {
            add("SSH_AUTH_SOCK", AGENT);
        }
        if let Network::Proxy(allow) = &self.network {
            OF_PROXY.iter().for_each(|name| add(name, &format!("http://127.0.0.1:{PORT}")));
            let is_own = |host: &&str| !allow.iter().any(|named| named.trim_start_matches('[').starts_with(host));
            let own: Vec<&str> = OWN.into_iter().filter(is_own).collect();
            NO_PROXY.iter().for_each(|name| add(name, &own.join(",")));
        }
        if given.mounts.iter().any(|mount| mount.to == Path::new(CERTIFICATES)) {
            OF_BUNDLE.iter().for_each(|name| add(name, CERTIFICATES));
            env.retain(|(name, value)| (name.as_str(), value.as_str()) != ("APT_CONFIG", kiln_sandbox::APT_CONFIG));
            env.push(("APT_CONFIG".to_owned(), APT_CONFIG.to_owned()));
        }
    }

    fn lend_network(&self, workshop: &Workshop<'_>, given: &mut Given) -> Result<()> {
        match self.network {
            Network::None => return Ok(()),
            Network::Proxy(_) => given.network = kiln_sandbox::Network::Listener(PORT),
            Network::Full => {
                let program = workshop.surroundings.environment.find(SLIRP).ok_or_else(|| BuildError::Program {
                    program: SLIRP.into(),
                    purpose: "for `network = \"full\"`".into(),
                    problem: "is not on PATH".into(),
                    hint: "install slirp4netns, or use `network = true` for what speaks HTTP".into(),
                })?;
                given.network = kiln_sandbox::Network::Outside(program);
                let content = format!("nameserver {}\n", kiln_sandbox::NAME_SERVER).into_bytes();
                let path = Path::new("/").join(&self.resolver);
                given.files.push(MemoryFile { path, content, mode: 0o644, owner: (0, 0) });
            }
        }
        let own = workshop.surroundings.environment.get("SSL_CERT_FILE").map(PathBuf::from);
        let bundle = own.into_iter().chain(BUNDLES.map(PathBuf::from)).find_map(|path| fs_err::canonicalize(path).ok());
        if let Some(from) = bundle {
            given.mounts.push(Mount { from, to: CERTIFICATES.into(), writable: false });
            let content = format!("{}Acquire::https::CaInfo \"{CERTIFICATES}\";\n", kiln_sandbox::APT_AS_ROOT);
            given.files.push(MemoryFile {
                path: APT_CONFIG.into(),
                content: content.into_bytes(),
                mode: 0o644,
                owner: (0, 0),
            });
        }
        Ok(())
    }
}

impl Cache {
    fn open(&self, workshop: &Workshop<'_>) -> Result<CacheDirectory> {
        let mut is_told = false;
        let mut wait = || {
            if !std::mem::replace(&mut is_told, true) {
                workshop.warn(format!("waiting for the cache `/{}`: another build uses it", self.path));
            }
            workshop.cancel.check().map_err(|_| StoreError::Io(std::io::ErrorKind::Interrupted.into()))
        };
        let opened = workshop.store.cache_directory(&self.owner, self.is_private, &mut wait);
        workshop.cancel.check().map_err(BuildError::from)?;
        Ok(opened?)
    }
}

impl Lent {
    /// Removes secrets from caches, and empties those that have become too large.
    pub(super) fn settle_caches(&self, workshop: &Workshop<'_>) -> Result<()> {
        for (directory, path, most) in &self.caches {
            for file in self.searched.files(directory.content(), self.since)? {
                fs_err::remove_file(&file)?;
                let inside = file.strip_prefix(directory.content()).unwrap_or(&file).display();
                workshop.warn(format!("`{path}/{inside}` held a secret, and was removed from the cache"));
            }
            if let Some(bytes) = directory.bound(*most)? {
                let (bytes, most) = (size::format(bytes), size::format(*most));
                workshop.warn(format!("the cache `{path}` had {bytes}, more than {most}: it was emptied"));
            }
        }
        Ok(())
    }
}

fn lend_agent(
    workshop: &Workshop<'_>,
    (command, place): (&str, &str),
    given: &mut Given,
) -> Result<(Agent, TemporaryDirectory)> {
    let none = |problem: String| SecretError::NoAgent { command: command.to_owned(), place: place.to_owned(), problem };
    let socket = workshop.surroundings.environment.get("SSH_AUTH_SOCK").filter(|path| !path.is_empty());
    let socket = PathBuf::from(socket.ok_or_else(|| none("`SSH_AUTH_SOCK` is not set".into()))?);
    std::os::unix::net::UnixStream::connect(&socket)
        .map_err(|error| none(format!("the agent at `{}` does not answer: {error}", socket.display())))?;
    let directory = workshop.store.temporary_directory()?;
    let agent = Agent::start(directory.path(), socket)?;
    given.mounts.push(Mount { from: agent.socket().to_owned(), to: AGENT.into(), writable: true });
    Ok((agent, directory))
}
