//! Locks between processes, by `flock` on files: the kernel releases them when a process ends, however it ends.

use std::path::Path;

use crate::Result;

/// A lock, released when dropped.
#[derive(Debug)]
pub struct Lock(#[expect(dead_code, reason = "holding the file open is holding the lock")] fs_err::File);

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
}
