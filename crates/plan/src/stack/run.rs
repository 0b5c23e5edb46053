//! Commands that run while an image is built.

use std::collections::BTreeMap;

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
