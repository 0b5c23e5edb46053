//! What can go wrong while making, reading and writing images.

use kiln_plan::digest::Digest;
use kiln_plan::event::Cancelled;
use kiln_store::{StoreError, WrongContent};

/// An error about images and layers.
#[derive(Debug, thiserror::Error)]
pub enum OciError {
    /// An entry of a wheel.
    #[error("the wheel `{wheel}` cannot be used: its entry `{entry}` {problem}")]
    Entry {
        /// File name of the wheel.
        wheel: String,
        /// Path in the wheel.
        entry: String,
        /// A clause that follows the entry's name.
        problem: String,
    },
    /// A wheel is not the one that is locked.
    #[error("the wheel `{wheel}` is not the one that is locked: {expected} was expected, and it has {found}")]
    WrongWheel {
        /// File name of the wheel.
        wheel: String,
        /// What the lock says.
        expected: Digest,
        /// What it is.
        found: Digest,
    },
    /// A path that no layer can hold.
    #[error("`/{path}` cannot be in a layer: {problem}")]
    Member {
        /// The path, without a leading slash.
        path: String,
        /// A clause.
        problem: String,
    },
    /// The user wants to stop.
    #[error("interrupted")]
    Interrupted,
    /// Reading or writing.
    #[error(transparent)]
    Io(std::io::Error),
    /// The store.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// A layout that is not what it should be.
    #[error("`{path}` is not a usable OCI image layout: {problem}")]
    Layout {
        /// The layout.
        path: String,
        /// A clause.
        problem: String,
    },
    /// A layout that lacks an image of some name.
    #[error("{path} has no image `{name}`: {has}")]
    NoImage {
        /// The layout.
        path: String,
        /// The name.
        name: String,
        /// A clause about the names that it has.
        has: String,
    },
    /// Bytes of a layer that are needed and not there.
    #[error("the layer {digest} of {base} is only described, and its bytes are needed to write the image out")]
    NoBytes {
        /// Which layer.
        digest: Digest,
        /// Where it belongs.
        base: String,
    },
    /// Content that was read and is not what its digest says.
    #[error("`{place}` is damaged")]
    Damaged {
        /// A path, or a repository.
        place: String,
        /// What was found there.
        source: WrongContent,
    },
    /// JSON of a manifest or config.
    #[error("{what} is not valid")]
    Json {
        /// What it is.
        what: String,
        /// Why.
        source: serde_json::Error,
    },
}

impl OciError {
    pub(crate) fn entry(wheel: &str, entry: &str, problem: &str) -> Self {
        Self::Entry { wheel: wheel.to_owned(), entry: entry.to_owned(), problem: problem.to_owned() }
    }
}

impl From<Cancelled> for OciError {
    fn from(_: Cancelled) -> Self {
        Self::Interrupted
    }
}

impl From<std::io::Error> for OciError {
    fn from(error: std::io::Error) -> Self {
        match error.get_ref() {
            Some(inner) if inner.is::<Cancelled>() => Self::Interrupted,
            _ => Self::Io(error),
        }
    }
}
