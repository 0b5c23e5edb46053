//! Downloads that can go on where they stopped. One process writes a partial file at a time, and what becomes a blob is the
//! file whose bytes were hashed.

use std::io::{self, Seek, SeekFrom, Write};
use std::os::unix::fs::PermissionsExt;

use kiln_plan::digest::Digest;
use sha2::{Digest as _, Sha256};

use crate::verified::{self, Identity, each_part};
use crate::{Result, Store, StoreError, temporary};

/// A download that this process alone writes. Dropped, it stays for a later one.
#[derive(Debug)]
pub struct Partial<'a> {
    store: &'a Store,
    expected: Digest,
    file: fs_err::File,
    hasher: Sha256,
    size: u64,
}

impl Store {
    /// Opens the download of some content, with what an earlier one left of it. `None` while another process writes it.
    pub fn partial(&self, digest: &Digest) -> Result<Option<Partial<'_>>> {
        let path = self.root().join("partial").join(format!("{}.part", digest.hex()));
        if fs_err::symlink_metadata(&path).is_ok_and(|found| !found.is_file()) {
            verified::remove(&path)?;
        }
        loop {
            let mut options = fs_err::OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).open(&path)?;
            match file.file().try_lock() {
                Ok(()) => {}
                Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
                Err(std::fs::TryLockError::Error(error)) => return Err(error.into()),
            }
            // The one before may have become a blob, or have been collected, between opening and locking.
            let named = fs_err::metadata(&path).map(|found| Identity::of(&found).inode).ok();
            if named == Some(Identity::of(&file.metadata()?).inode) {
                return Partial::open(self, *digest, file).map(Some);
            }
        }
    }
}

impl<'a> Partial<'a> {
    fn open(store: &'a Store, expected: Digest, mut file: fs_err::File) -> Result<Self> {
        let (mut hasher, mut size) = (Sha256::new(), 0);
        each_part(&mut file, |part| {
            hasher.update(part);
            size += part.len() as u64;
            Ok(())
        })?;
        Ok(Self { store, expected, file, hasher, size })
    }

    /// Bytes that are there.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// Returns the digest of what is there.
    pub fn digest(&self) -> Digest {
        Digest::finish(self.hasher.clone())
    }

    /// Begins again with nothing.
    pub fn restart(&mut self) -> Result<()> {
        self.file.file().set_len(0)?;
        self.file.seek(SeekFrom::Start(0))?;
        (self.hasher, self.size) = (Sha256::new(), 0);
        Ok(())
    }

    /// Removes what is there.
    pub fn discard(self) -> Result<()> {
        Ok(fs_err::remove_file(self.file.path())?)
    }

    /// Puts the content in its place. Content of another digest is removed: an error of kind
    /// [`StoreError::WrongDigest`].
    pub fn finish(self) -> Result<()> {
        let (store, expected, found) = (self.store, self.expected, self.digest());
        if found != expected {
            self.discard()?;
            return Err(StoreError::WrongDigest { expected, found });
        }
        self.file.set_permissions(PermissionsExt::from_mode(0o644))?;
        temporary::rename(&self.file, self.file.path(), &store.blob_path(&expected))?;
        store.added_blob(&expected, &self.file.metadata()?)
    }
}

impl Write for Partial<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}
