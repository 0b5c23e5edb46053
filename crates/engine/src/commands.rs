//! The way in which a build performs the commands of its images.

use std::fmt;
use std::io;
use std::os::fd::OwnedFd;

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
