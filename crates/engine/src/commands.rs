//! The way in which a build performs the commands of its images.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

use kiln_sandbox::Sandbox;

use crate::driver::Driver;
use crate::error::{BuildError, Result};
use crate::graph::Graph;
use crate::node::NodeId;
use crate::workshop::Workshop;

/// The way in which a build performs the commands of its images.
#[derive(Debug, Clone, Copy, Default)]
pub struct Commands<'a> {
    /// Commands that are performed though their results are known: `IMAGE` for all of an image, `IMAGE:N` for its Nth.
    pub again: &'a [String],
    /// Each command is performed twice, also where its result is known, and must change the same.
    pub twice: bool,
    /// A shell is opened where a command failed.
    pub shell: Option<&'a dyn UserTerminal>,
}

/// The user's terminal, for a shell in the file system of a command that failed.
pub trait UserTerminal: fmt::Debug + Send + Sync {
    /// Shows a terminal to the user until `run` returns. `run` gets the end of it that programs have, and its kind, as `TERM` says it.
    fn lend(&self, command: &str, run: &mut dyn FnMut(OwnedFd, &str)) -> io::Result<()>;
}

/// Fails before anything starts where a command must be performed and no sandbox can be made here.
pub(crate) fn require_sandbox(
    workshop: &Workshop<'_>,
    graph: &Graph,
    driver: &Driver<'_>,
    wanted: &[NodeId],
) -> Result<()> {
    let is_command = |id: &NodeId| graph.entry(*id).step.command().is_some();
    if !graph.with_reads(wanted.iter().copied()).iter().any(is_command) {
        return Ok(());
    }
    driver.settle(wanted.iter().copied())?;
    let unknown = driver.unknown();
    let Some(command) = unknown.iter().find_map(|id| graph.entry(*id).step.command()) else { return Ok(()) };
    let directory = workshop.store.temporary_directory()?;
    let tried = Sandbox::default().try_out(directory.path());
    tried.map(drop).map_err(|source| BuildError::Sandbox { command, remedy: source.remedy(directory.path()), source })
}
