//! Commands that run while an image is built.

use std::collections::BTreeMap;

use serde::Serialize;

use super::copy::Copy;
use super::image::{CommandLine, Value};
use crate::diagnostic::Span;

/// A command that runs while the image is built.
#[derive(Debug, Clone)]
pub struct Run {
    /// The command.
    pub command: CommandLine,
    /// The place of the command.
    pub span: Span,
    /// The shell of a line.
    pub shell: Shell,
    /// Environment variables of this command alone.
    pub env: BTreeMap<String, Value>,
    /// `user`, `user:group` or `uid:gid`; root where nothing is said.
    pub user: Option<(String, Span)>,
    /// The directory that it starts in.
    pub workdir: Option<String>,
    /// The time after which it is ended, in nanoseconds.
    pub timeout: Option<u64>,
    /// Files that it sees, and that the image does not get.
    pub bind: Vec<Copy>,
    /// Its network.
    pub network: Network,
    /// The age at which its result is made again, in seconds.
    pub max_age: Option<u64>,
    /// Directories whose content stays for the next time.
    pub caches: Vec<CacheMount>,
    /// Secrets that it can read.
    pub secrets: Vec<SecretMount>,
    /// It may use the SSH agent of whoever builds.
    pub ssh: bool,
    /// It calls apt.
    pub apt: bool,
}

impl Run {
    /// Returns a command without options.
    pub(super) fn new(command: CommandLine, span: Span) -> Self {
        Self {
            command,
            span,
            shell: Shell::Sh,
            env: BTreeMap::new(),
            user: None,
            workdir: None,
            timeout: None,
            bind: Vec::new(),
            network: Network::None,
            max_age: None,
            caches: Vec::new(),
            secrets: Vec::new(),
            ssh: false,
            apt: false,
        }
    }
}

/// The network of a command.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// None.
    #[default]
    None,
    /// A proxy of HTTP, with hosts that may be this machine or on its link: `HOST` or `HOST:PORT`.
    Proxy(Vec<String>),
    /// Other machines by any protocol.
    Full,
}

/// A directory whose content stays for the next time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheMount {
    /// Absolute path in the image.
    pub to: String,
    /// The place of the path.
    pub span: Span,
    /// Commands of the stack that name the same id share it.
    pub id: Option<String>,
    /// A command gets another one while it is in use, and does not wait.
    pub is_private: bool,
    /// Bytes above which it is emptied.
    pub max_size: u64,
}

/// A secret that a command can read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SecretMount {
    /// Its name.
    pub name: String,
    /// Absolute path in the image.
    pub to: String,
    /// The place of the path.
    pub span: Span,
    /// Permission bits.
    pub mode: u32,
}

/// The source of a secret.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum SecretSource {
    /// A file: relative to the stack file, below the home directory (`~/`), or absolute.
    File(String),
    /// An environment variable.
    Env(String),
    /// A program, which prints it.
    Command(CommandLine),
}

/// A shell that runs a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Shell {
    /// `sh -e`.
    #[default]
    Sh,
    /// `bash -euo pipefail`.
    Bash,
}
