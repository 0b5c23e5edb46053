//! Layers of Debian: what differs between machines and what a system needs only while it runs are no part of one.

mod normalise;

use std::io;

pub use normalise::{Normalised, normalise};
pub(crate) use normalise::{is_backup, shadow};

use crate::facts::TarError;

/// A system that is no layer.
#[derive(Debug, thiserror::Error)]
pub enum NormaliseError {
    /// A part is no sound tar.
    #[error("an archive of its files cannot be read")]
    Raw(#[source] TarError),
    /// A member that has no place in a layer.
    #[error("`{path}` {reason}")]
    Refused {
        /// The member.
        path: String,
        /// What is wrong with it.
        reason: &'static str,
    },
    /// More members than any system has.
    #[error("it has too many files")]
    TooMuch,
    /// A member that cannot be copied.
    #[error("`{path}` cannot be copied")]
    Member {
        /// The member.
        path: String,
        /// The reason.
        source: io::Error,
    },
    /// The archive cannot be finished.
    #[error("the archive cannot be written")]
    Write(#[source] io::Error),
}
