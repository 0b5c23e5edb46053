//! Files that were read once and found to have the digest that they are kept under.
//!
//! A file is known by device, inode, size, and the times of its last change of content and of state (which no program can
//! set). What differs in any of them, and what the database does not know, is read again before it is trusted: a lost
//! database, a local wheel that was edited behind a hard link, a truncated blob and a copied store are one case.

use std::fs::Metadata;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime};

use kiln_plan::digest::Digest;
use sha2::{Digest as _, Sha256};

use crate::{Result, Store, open_regular};

/// A file that changed this recently may change again without another time: file systems count in ticks of up to 10 ms.
const TICK: Duration = Duration::from_millis(100);
/// Bytes that are read at once.
const BUFFER: usize = 256 << 10;

/// How a file is known again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Identity {
    pub(crate) device: u64,
    pub(crate) inode: u64,
    pub(crate) size: u64,
    /// Nanoseconds since 1970, like `changed`.
    pub(crate) modified: i64,
    pub(crate) changed: i64,
}

impl Identity {
    pub(crate) fn of(found: &Metadata) -> Self {
        let nanoseconds = |seconds: i64, rest: i64| seconds.saturating_mul(1_000_000_000).saturating_add(rest);
        Self {
            device: found.dev(),
            inode: found.ino(),
            size: found.size(),
            modified: nanoseconds(found.mtime(), found.mtime_nsec()),
            changed: nanoseconds(found.ctime(), found.ctime_nsec()),
        }
    }

    /// Whether the content was not changed in between; links that come and go change the state alone.
    pub(crate) fn has_content_of(&self, other: &Self) -> bool {
        Self { changed: 0, ..*self } == Self { changed: 0, ..*other }
    }
}

/// Whether a file was written so recently that its times do not tell the next change.
pub(crate) fn is_fresh(found: &Metadata) -> bool {
    let now = SystemTime::now();
    !found.modified().is_ok_and(|modified| now.duration_since(modified).is_ok_and(|age| age > TICK))
}

/// Reads to the end and gives away part by part.
pub(crate) fn each_part(mut reader: impl Read, mut take: impl FnMut(&[u8]) -> io::Result<()>) -> io::Result<()> {
    let mut buffer = vec![0; BUFFER];
    loop {
        match reader.read(&mut buffer) {
            Ok(0) => return Ok(()),
            Ok(read) => take(&buffer[..read])?,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
            Err(error) => return Err(error),
        }
    }
}

/// Reads to the end and returns the digest. `advance` is told of bytes as they are read; an error ends the reading.
pub fn digest_of(reader: impl Read, advance: &dyn Fn(u64) -> io::Result<()>) -> io::Result<Digest> {
    let mut hasher = Sha256::new();
    each_part(reader, |part| {
        hasher.update(part);
        advance(part.len() as u64)
    })?;
    Ok(Digest::finish(hasher))
}

/// Removes a file, or a directory that stands in its place.
pub(crate) fn remove(path: &Path) -> io::Result<()> {
    if fs_err::symlink_metadata(path)?.is_dir() { fs_err::remove_dir_all(path) } else { fs_err::remove_file(path) }
}

impl Store {
    /// Returns true if a file, in the store or elsewhere, has this digest: known from before, or read now.
    pub fn verify_file(&self, path: &Path, digest: &Digest) -> Result<bool> {
        self.verify_with(path, digest, |file| Ok(digest_of(file, &|_| Ok(()))? == *digest))
    }

    /// Returns the digest of a file, in the store or elsewhere: known from before, or read now. It is an error if the file
    /// changes while it is read.
    pub fn file_digest(&self, path: &Path, advance: &dyn Fn(u64) -> io::Result<()>) -> Result<Digest> {
        let file = open_regular(path)?;
        let before = file.metadata()?;
        if let Ok(Some(known)) = self.verified(&Identity::of(&before)) {
            return Ok(known);
        }
        let digest = digest_of(&file, advance)?;
        let after = file.metadata()?;
        if !Identity::of(&before).has_content_of(&Identity::of(&after)) {
            return Err(io::Error::other(format!("{} changed while it was read", path.display())).into());
        }
        self.remember_read(&before, &after, &digest);
        Ok(digest)
    }

    /// Records the digest that a file was read to have, unless a later change could hide behind its times.
    fn remember_read(&self, before: &Metadata, after: &Metadata, digest: &Digest) {
        if Identity::of(before) == Identity::of(after) && !is_fresh(after) {
            // Not recorded, it is read again the next time.
            let _ = self.remember_verified(&Identity::of(after), digest);
        }
    }

    /// Records that a file, which this process has just written, has this digest: it is not read again while it is unchanged.
    pub fn note_verified(&self, path: &Path, digest: &Digest) -> Result<()> {
        self.remember_verified(&Identity::of(&fs_err::metadata(path)?), digest)
    }

    /// Returns true if a file has this digest: known from before, or found by a function that reads it.
    pub(crate) fn verify_with(
        &self,
        path: &Path,
        digest: &Digest,
        is_right: impl Fn(&fs_err::File) -> io::Result<bool>,
    ) -> Result<bool> {
        let found = fs_err::metadata(path)?;
        if !found.is_file() {
            // Opening a pipe would wait for whoever writes into it.
            return Ok(false);
        }
        // What the database cannot tell just now, the file does.
        if self.verified(&Identity::of(&found)).is_ok_and(|known| known == Some(*digest)) {
            return Ok(true);
        }
        let file = open_regular(path)?;
        let before = file.metadata()?;
        if !is_right(&file)? {
            return Ok(false);
        }
        let after = file.metadata()?;
        // Another process that links the file changes the time of its state, not its content.
        if !Identity::of(&before).has_content_of(&Identity::of(&after)) {
            return Ok(false);
        }
        self.remember_read(&before, &after, digest);
        Ok(true)
    }

    /// Whether a file of the store is there and what its name says. One that is not is removed: it can be made again.
    pub(crate) fn holds(&self, path: &Path, verify: impl FnOnce() -> Result<bool>) -> bool {
        let identity = || fs_err::symlink_metadata(path).map(|found| Identity::of(&found)).ok();
        let Some(before) = identity() else { return false };
        match verify() {
            Ok(true) => true,
            Ok(false) => {
                // Another process may have put the right content there in the meantime. Where the wrong one cannot be
                // removed it is not trusted either.
                if identity() == Some(before) {
                    let _ = self.discard(path);
                }
                false
            }
            Err(_) => false,
        }
    }

    /// Removes a file that is damaged.
    pub(crate) fn discard(&self, path: &Path) -> Result<()> {
        self.discarded.fetch_add(1, Ordering::Relaxed);
        Ok(remove(path)?)
    }

    /// Returns how many damaged files were found and removed since the store was opened.
    pub fn discarded(&self) -> usize {
        self.discarded.load(Ordering::Relaxed)
    }
}
