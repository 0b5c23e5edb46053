//! The local content-addressed store: blobs and blob recipes by digest, results of steps by key.
//!
//! Layout below the store's directory:
//!
//! | path | holds |
//! | --- | --- |
//! | `blobs/sha256/<hex>` | content: wheels, manifests, configs, layers that no recipe can stand for |
//! | `recipes/sha256/<hex>` | how a spliced layer of that digest is put together from wheels |
//! | `metadata.db` | results of steps, what uses what, when it was last used (SQLite, WAL) |
//! | `tools/` | programs that kiln installed for itself |
//! | `partial/` | downloads that were interrupted |
//! | `locks/`, `temporary/` | locks between processes; files being written |
//!
//! Every file comes to be by writing a temporary file, syncing it and renaming it, so that a file that is there is whole.
//! Presence on disk is the truth; the database only remembers what would be expensive to find out again. Two processes
//! may share a store: what both make is made by the one that gets the lock, and found by the other.

mod blob;
mod error;
mod gc;
mod lock;
mod metadata;
mod recipe;

use std::path::{Path, PathBuf};
use std::sync::{Mutex, MutexGuard};

pub use blob::{BlobWriter, Content, Linked, Opener};
pub use error::StoreError;
pub use gc::{GcReport, Kept, Removed, Usage};
use kiln_plan::digest::Digest;
pub use lock::Lock;
pub use metadata::Root;
pub use recipe::{Recipe, RecipeReader, RecipeWriter, Segment};

/// A result of the store's own functions.
pub type Result<T> = std::result::Result<T, StoreError>;

/// An open store.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    database: Mutex<rusqlite::Connection>,
    /// Held as long as the store is open, so that garbage collection waits.
    _in_use: Lock,
}

impl Store {
    /// Opens a store, making it where it does not exist. Waits while another process collects garbage in it.
    pub fn open(root: &Path) -> Result<Self> {
        for directory in ["blobs/sha256", "recipes/sha256", "tools", "partial", "locks", "temporary"] {
            fs_err::create_dir_all(root.join(directory))?;
        }
        // Absolute, because links and other processes are given these paths.
        let root = fs_err::canonicalize(root)?;
        let in_use = Lock::shared(&root.join("locks/store"))?;
        // One process at a time: SQLite does not wait while another turns a new database to write-ahead logging.
        let opening = Lock::exclusive(&root.join("locks/opening"))?;
        let database = Mutex::new(metadata::open(&root.join("metadata.db"))?);
        drop(opening);
        Ok(Self { root, database, _in_use: in_use })
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where programs are installed.
    pub fn tools(&self) -> PathBuf {
        self.root.join("tools")
    }

    /// Where an interrupted download of some content is kept.
    pub fn partial(&self, digest: &Digest) -> PathBuf {
        self.root.join("partial").join(format!("{}.part", digest.hex()))
    }

    /// Waits until no other process holds the lock of this name, and takes it.
    pub fn lock(&self, name: &str) -> Result<Lock> {
        Lock::exclusive(&self.root.join("locks").join(name))
    }

    /// A directory for the files of one running program, removed with the value.
    pub fn temporary_directory(&self) -> Result<tempfile::TempDir> {
        Ok(tempfile::tempdir_in(self.root.join("temporary"))?)
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("blobs/sha256").join(digest.hex())
    }

    fn recipe_path(&self, digest: &Digest) -> PathBuf {
        self.root.join("recipes/sha256").join(digest.hex())
    }

    fn database(&self) -> MutexGuard<'_, rusqlite::Connection> {
        // A panic while the lock was held cannot have left a transaction open: dropping one rolls it back.
        self.database.lock().unwrap_or_else(std::sync::PoisonError::into_inner)
    }
}
