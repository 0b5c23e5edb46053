//! Locks between processes, by `flock` on files: the kernel releases them when a process ends, however it ends.

use std::os::unix::fs::MetadataExt;
use std::path::Path;
use std::time::Duration;

use crate::Result;

/// The pause between two looks at a lock that another process has.
const PAUSE: Duration = Duration::from_millis(50);

/// Called before each pause while another process has a lock: it may tell the user, and an error ends the waiting.
pub type Wait<'w> = &'w mut dyn FnMut() -> Result<()>;

/// A lock, released when dropped.
#[derive(Debug)]
pub struct Lock(fs_err::File);

impl Lock {
    fn file(path: &Path) -> Result<fs_err::File> {
        Ok(fs_err::OpenOptions::new().create(true).truncate(false).write(true).open(path)?)
    }

    /// Waits for a lock that others may share.
    pub(crate) fn shared(path: &Path, wait: Wait<'_>) -> Result<Self> {
        Self::taken(path, wait, |file| file.file().try_lock_shared())
    }

    /// Waits for a lock that nobody shares.
    pub(crate) fn exclusive(path: &Path, wait: Wait<'_>) -> Result<Self> {
        Self::taken(path, wait, |file| file.file().try_lock())
    }

    fn taken(
        path: &Path,
        wait: Wait<'_>,
        try_lock: fn(&fs_err::File) -> std::result::Result<(), std::fs::TryLockError>,
    ) -> Result<Self> {
        let file = Self::file(path)?;
        loop {
            match try_lock(&file) {
                Ok(()) => return Ok(Self(file)),
                Err(std::fs::TryLockError::WouldBlock) => wait()?,
                Err(std::fs::TryLockError::Error(error)) => return Err(error.into()),
            }
            std::thread::sleep(PAUSE);
        }
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
    use crate::{Store, StoreError};

    #[test]
    fn whoever_waits_for_a_store_is_told_and_may_stop() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        /// Stops at the third look.
        fn stop(looks: &mut u32) -> Result<()> {
            *looks += 1;
            if *looks < 3 { Ok(()) } else { Err(StoreError::Io(std::io::Error::other("enough"))) }
        }
        let mut looks = 0;
        // Garbage collection waits for those who use the store.
        let error = Store::collect_garbage(directory.path(), 0, false, &mut || stop(&mut looks)).unwrap_err();
        assert!(matches!(error, StoreError::Io(error) if error.to_string() == "enough"));
        assert_eq!(looks, 3);
        drop(store);
        let alone = Lock::exclusive(&directory.path().join("locks/store"), &mut || Ok(())).unwrap();
        looks = 0;
        assert!(Store::open_waiting(directory.path(), &mut || stop(&mut looks)).is_err());
        assert_eq!(looks, 3);
        drop(alone);
        Store::open_waiting(directory.path(), &mut || panic!("nobody has it")).unwrap();
    }

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
