//! The local content-addressed store: blobs and blob recipes by digest, results of steps by key.
//!
//! Layout below the store's directory:
//!
//! | path | holds |
//! | --- | --- |
//! | `blobs/sha256/<hex>` | content: wheels, manifests, configs, layers that no recipe can stand for |
//! | `recipes/sha256/<hex>` | how a spliced layer of that digest is put together from wheels |
//! | `trees/sha256/<hex>` | layers unpacked, by diff id: what steps that run programs stand on |
//! | `metadata.db` | results of steps, what uses what, when it was last used (SQLite, WAL) |
//! | `tools/` | programs that kiln installed for itself |
//! | `partial/` | downloads that were interrupted |
//! | `locks/`, `temporary/` | locks between processes; files being written |
//!
//! Every file is written under a temporary name, synced and renamed, so that a file that is there is whole; directories are
//! synced once for a group of files ([`Store::sync`]). The database holds only what can be found out again, and a file is
//! trusted only while it is the one that was read and found right (`verified.rs`). Processes share a store: a step is made
//! by the one that gets its lock, and found by the others.

mod atomic;
mod blob;
mod cache_directory;
mod damage;
mod error;
mod gc;
mod link;
mod lock;
mod metadata;
mod partial;
mod recipe;
mod regular;
mod removal;
mod temporary;
mod tree;
mod verified;
mod verifying;

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};

pub use atomic::{AtomicFile, is_stdout, parent, put_directory, put_new_directory, replace_by_link, sync_directory};
pub use blob::{BlobWriter, Content, Opener};
pub use cache_directory::CacheDirectory;
pub use damage::Verified;
pub use error::StoreError;
pub use gc::{GcReport, Kept, Removed, Usage};
use kiln_plan::digest::Digest;
pub use link::Linked;
pub use lock::{Lock, Wait};
pub use metadata::Root;
pub use partial::Partial;
pub use recipe::{Recipe, RecipeReader, RecipeWriter, Segment};
pub use regular::open_regular;
pub use removal::{remove_others_by, remove_tree};
pub use temporary::{TemporaryDirectory, collect_left_behind, is_temporary};
pub use tree::OWNERS;
pub use verified::digest_of;
pub use verifying::{Verifying, WrongContent};

const BLOBS: &str = "blobs/sha256";
const RECIPES: &str = "recipes/sha256";
const DATABASE: &str = "metadata.db";

/// A result of the store's own functions.
pub type Result<T> = std::result::Result<T, StoreError>;

/// An open store.
#[derive(Debug)]
pub struct Store {
    root: PathBuf,
    database: Mutex<rusqlite::Connection>,
    /// Content that was opened: the first to look at when something turns out to be damaged.
    opened: Mutex<BTreeSet<Digest>>,
    /// Blobs that this process hashed: they need no second reading in the same command.
    hashed: Mutex<BTreeSet<Digest>>,
    /// Files that were damaged and have been removed.
    discarded: AtomicUsize,
    /// Whether files took their names that the directories on the disk may not show yet.
    unsynced: AtomicBool,
    /// Held as long as the store is open, so that garbage collection waits.
    _in_use: Lock,
}

impl Store {
    /// Opens a store, making it where it does not exist. Waits while another process collects garbage in it.
    pub fn open(root: &Path) -> Result<Self> {
        Self::open_waiting(root, &mut || Ok(()))
    }

    /// Opens a store as [`open`](Self::open) does, and calls `wait` while it waits.
    pub fn open_waiting(root: &Path, wait: Wait<'_>) -> Result<Self> {
        for directory in
            [BLOBS, RECIPES, tree::TREES, cache_directory::CACHES, "tools", "partial", "locks", "temporary"]
        {
            fs_err::create_dir_all(root.join(directory))?;
        }
        // Absolute, because links and other processes are given these paths.
        let root = fs_err::canonicalize(root)?;
        let in_use = Lock::shared(&root.join("locks/store"), wait)?;
        let store = Self::with_lock(root, in_use, wait)?;
        temporary::collect(&store.temporary(), false)?;
        Ok(store)
    }

    fn with_lock(root: PathBuf, in_use: Lock, wait: Wait<'_>) -> Result<Self> {
        // One process at a time: SQLite does not wait while another turns a new database to write-ahead logging.
        let opening = Lock::exclusive(&root.join("locks/opening"), wait)?;
        let database = Mutex::new(metadata::open(&root.join(DATABASE))?);
        drop(opening);
        Ok(Self {
            root,
            database,
            opened: Mutex::default(),
            hashed: Mutex::default(),
            discarded: AtomicUsize::new(0),
            unsynced: AtomicBool::new(false),
            _in_use: in_use,
        })
    }

    /// Begins a new database in place of a damaged one. Results of steps are found out again.
    pub fn reset_database(&self) -> Result<()> {
        let _opening = Lock::exclusive(&self.root.join("locks/opening"), &mut || Ok(()))?;
        let path = self.root.join(DATABASE);
        metadata::remove(&path)?;
        *self.database() = metadata::open(&path)?;
        Ok(())
    }

    /// Waits until everything that was stored is on the disk: the names of files whose data is there already, then the
    /// database's log. Once for a group of steps, since each wait takes milliseconds.
    pub fn sync(&self) -> Result<()> {
        if !self.unsynced.swap(false, Ordering::AcqRel) {
            return Ok(());
        }
        sync_directory(&self.root.join(BLOBS))?;
        sync_directory(&self.root.join(RECIPES))?;
        match fs_err::File::open(self.root.join(format!("{DATABASE}-wal"))) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            log => Ok(log?.sync_all()?),
        }
    }

    fn renamed(&self) {
        self.unsynced.store(true, Ordering::Release);
    }

    fn opened(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        self.opened.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn hashed(&self) -> MutexGuard<'_, BTreeSet<Digest>> {
        self.hashed.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The store's directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// Where programs are installed.
    pub fn tools(&self) -> PathBuf {
        self.root.join("tools")
    }

    /// Takes the lock of this name, if no other process has it.
    pub fn try_lock(&self, name: &str) -> Result<Option<Lock>> {
        Lock::try_exclusive(&self.root.join("locks").join(name))
    }

    /// A directory for the files of one running program, removed with the value.
    pub fn temporary_directory(&self) -> Result<TemporaryDirectory> {
        Ok(TemporaryDirectory::create(&self.temporary())?)
    }

    fn temporary(&self) -> PathBuf {
        self.root.join("temporary")
    }

    fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.root.join(BLOBS).join(digest.hex())
    }

    fn recipe_path(&self, digest: &Digest) -> PathBuf {
        self.root.join(RECIPES).join(digest.hex())
    }

    fn database(&self) -> MutexGuard<'_, rusqlite::Connection> {
        // A panic while the lock was held cannot have left a transaction open: dropping one rolls it back.
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
