//! Locks between processes, by `flock` on files: the kernel releases them when a process ends, however it ends.

use std::os::unix::fs::MetadataExt;
use std::path::Path;

use crate::Result;

/// A lock, released when dropped.
#[derive(Debug)]
pub struct Lock(fs_err::File);

impl Lock {
    fn file(path: &Path) -> Result<fs_err::File> {
        Ok(fs_err::OpenOptions::new().create(true).truncate(false).write(true).open(path)?)
    }

    /// Waits for a lock that others may share.
    pub(crate) fn shared(path: &Path) -> Result<Self> {
        let file = Self::file(path)?;
        file.file().lock_shared()?;
        Ok(Self(file))
    }

    /// Waits for a lock that nobody shares.
    pub(crate) fn exclusive(path: &Path) -> Result<Self> {
        let file = Self::file(path)?;
        file.file().lock()?;
        Ok(Self(file))
    }

    /// Takes a lock that nobody shares, if nobody has it.
    pub(crate) fn try_exclusive(path: &Path) -> Result<Option<Self>> {
        loop {
            let file = Self::file(path)?;
            match file.file().try_lock() {
                Ok(()) => {}
                Err(std::fs::TryLockError::WouldBlock) => return Ok(None),
                Err(std::fs::TryLockError::Error(error)) => return Err(error.into()),
            }
            // Whoever had it may have removed the file between opening and locking.
            let inode = |found: std::fs::Metadata| (found.dev(), found.ino());
            if fs_err::symlink_metadata(path).map(inode).ok() == Some(inode(file.metadata()?)) {
                return Ok(Some(Self(file)));
            }
        }
    }

    /// Gives the lock up, and removes its file: nobody will need it again.
    pub fn remove(self) -> Result<()> {
        match fs_err::remove_file(self.0.path()) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(()),
            removed => Ok(removed?),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_lock_whose_file_was_removed_is_not_taken_by_two() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("lock");
        let first = Lock::try_exclusive(&path).unwrap().unwrap();
        assert!(Lock::try_exclusive(&path).unwrap().is_none());
        let waiting = Lock::file(&path).unwrap();
        first.remove().unwrap();
        assert!(!path.exists());
        let second = Lock::try_exclusive(&path).unwrap().unwrap();
        // The file that was opened before has no name any more: its lock protects nothing.
        waiting.file().try_lock().unwrap();
        assert!(Lock::try_exclusive(&path).unwrap().is_none());
        drop(second);
        assert!(Lock::try_exclusive(&path).unwrap().is_some());
    }
}
