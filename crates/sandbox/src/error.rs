//! Reasons for which a command did not run.

use std::fmt;
use std::io;

use serde::{Deserialize, Serialize};

/// A sandbox that could not be made.
#[derive(Debug, thiserror::Error)]
pub enum SandboxError {
    /// The kernel refused a part of it.
    #[error("{stage}: {problem}")]
    Refused {
        /// The part.
        stage: Stage,
        /// The kernel's words.
        problem: String,
    },
    /// The helper, or a pipe to it, failed.
    #[error("the helper of the sandbox failed")]
    Helper(#[source] io::Error),
}

/// A part of making a sandbox.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Stage {
    /// Namespaces (`unshare(2)`).
    Namespaces,
    /// The control groups.
    Limits,
    /// The map of user and group ids.
    Ids,
    /// The overlay of the layers.
    Overlay,
    /// `/proc`, `/dev` and other file systems.
    Mounts,
    /// Caches, secrets and sockets that the command is given.
    Given,
    /// The network.
    Network,
    /// The change to the command's user, and to its privileges.
    User,
}

impl fmt::Display for Stage {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Namespaces => "namespaces cannot be made",
            Self::Limits => "memory cannot be limited",
            Self::Ids => "user ids cannot be mapped",
            Self::Overlay => "the layers cannot be laid over one another",
            Self::Mounts => "file systems cannot be mounted",
            Self::Given => "what the command is given cannot be mounted",
            Self::Network => "the network cannot be set up",
            Self::User => "the user cannot be changed",
        })
    }
}

/// A refusal, as the helper sends it.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Refusal {
    pub(crate) stage: Stage,
    pub(crate) problem: String,
}

impl Refusal {
    /// Returns what turns an error of a part into a refusal.
    pub(crate) fn of(stage: Stage, what: impl fmt::Display) -> impl FnOnce(io::Error) -> Self {
        move |error| Self { stage, problem: format!("{what}: {error}") }
    }
}
