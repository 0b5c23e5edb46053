//! Temporary files and directories that name their owner: the process that made one holds a lock on it, so that another
//! process can tell what a dead one left and remove it at once.
//!
//! An owner that loses the race for its own new file to such a collector takes another name; a collector removes only what
//! it has locked and what still has its name. The kernel releases the lock however the owner ends.

use std::ffi::OsStr;
use std::fs::Metadata;
use std::io;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::Path;

use fs_err::os::unix::fs::OpenOptionsExt;

use crate::Result;

const PREFIX: &str = ".kiln-";
const SUFFIX: &str = ".tmp";

/// A file that is being written; removed when dropped, unless it is given a name of its own.
#[derive(Debug)]
pub(crate) struct TemporaryFile(tempfile::NamedTempFile<fs_err::File>);

impl TemporaryFile {
    /// Makes a file that its owner alone may read.
    pub(crate) fn create(directory: &Path) -> io::Result<Self> {
        builder()
            .make_in(directory, |path| {
                let file = fs_err::OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)?;
                own(path, file)
            })
            .map(Self)
    }

    pub(crate) fn file(&self) -> &fs_err::File {
        self.0.as_file()
    }

    /// Gives the file another name, in the place of what has it, after its content has reached the disk.
    pub(crate) fn rename(self, target: &Path) -> io::Result<()> {
        let (file, path) = self.0.into_parts();
        rename(&file, &path, target)?;
        // The name is gone: there is nothing left to remove.
        let _ = path.keep();
        drop(file);
        Ok(())
    }
}

/// A directory for the files of one running program; removed when dropped.
#[derive(Debug)]
pub struct TemporaryDirectory {
    directory: tempfile::TempDir,
    _lock: fs_err::File,
}

impl TemporaryDirectory {
    /// Makes one in another directory.
    pub fn create(parent: &Path) -> io::Result<Self> {
        loop {
            let directory = builder().tempdir_in(parent)?;
            let owned = fs_err::File::open(directory.path()).and_then(|file| own(directory.path(), file));
            match owned {
                Ok(_lock) => return Ok(Self { directory, _lock }),
                Err(error) if matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::NotFound) => {}
                Err(error) => return Err(error),
            }
        }
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        self.directory.path()
    }
}

/// Gives a file another name, in the place of what has it now, after its content has reached the disk.
pub(crate) fn rename(file: &fs_err::File, from: &Path, to: &Path) -> io::Result<()> {
    let span = tracing::debug_span!("write", path = %to.display());
    span.in_scope(|| {
        file.sync_all()?;
        fs_err::rename(from, to)
    })
}

/// Syncs a temporary file and gives it its name. Its mode does not depend on the umask.
pub(crate) fn persist(file: TemporaryFile, path: &Path, record: impl FnOnce(&Metadata) -> Result<()>) -> Result<()> {
    file.file().set_permissions(PermissionsExt::from_mode(0o644))?;
    let written = file.file().metadata()?;
    file.rename(path)?;
    record(&written)
}

fn builder() -> tempfile::Builder<'static, 'static> {
    let mut builder = tempfile::Builder::new();
    builder.prefix(PREFIX).suffix(SUFFIX).rand_bytes(10);
    builder
}

/// Locks what was just made. `AlreadyExists` if a collector was faster: the caller takes another name.
fn own(path: &Path, file: fs_err::File) -> io::Result<fs_err::File> {
    if lock(&file)? && is_at(path, &file) { Ok(file) } else { Err(io::ErrorKind::AlreadyExists.into()) }
}

/// Takes the lock of an open file; false where another process holds it. File systems without locks have no collector.
fn lock(file: &fs_err::File) -> io::Result<bool> {
    match file.file().try_lock() {
        Ok(()) => Ok(true),
        Err(std::fs::TryLockError::WouldBlock) => Ok(false),
        Err(std::fs::TryLockError::Error(error)) if error.kind() == io::ErrorKind::Unsupported => Ok(true),
        Err(std::fs::TryLockError::Error(error)) => Err(error),
    }
}

fn is_at(path: &Path, file: &fs_err::File) -> bool {
    let identity = |found: std::fs::Metadata| (found.dev(), found.ino());
    let named = fs_err::symlink_metadata(path).map(identity).ok();
    named.is_some() && named == file.metadata().map(identity).ok()
}

/// Whether a file name is one that kiln gives to a temporary file.
pub fn is_temporary(name: &OsStr) -> bool {
    let name = name.as_encoded_bytes();
    name.starts_with(PREFIX.as_bytes()) && name.ends_with(SUFFIX.as_bytes())
}

/// Removes the temporary files and directories that dead processes left in a directory.
pub fn collect_left_behind(directory: &Path) -> io::Result<()> {
    collect(directory, false)
}

/// The same; with `all`, what has another name counts too: the directory holds nothing but temporary files.
pub(crate) fn collect(directory: &Path, all: bool) -> io::Result<()> {
    for entry in fs_err::read_dir(directory)? {
        let entry = entry?;
        if all || is_temporary(&entry.file_name()) {
            collect_one(&entry.path())?;
        }
    }
    Ok(())
}

fn collect_one(path: &Path) -> io::Result<()> {
    let found = match fs_err::symlink_metadata(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        found => found?,
    };
    let removed = if found.is_dir() || found.is_file() {
        let file = match fs_err::File::open(path) {
            // Of another user, or gone already.
            Err(error) if matches!(error.kind(), io::ErrorKind::NotFound | io::ErrorKind::PermissionDenied) => {
                return Ok(());
            }
            file => file?,
        };
        if !lock(&file)? || !is_at(path, &file) {
            return Ok(());
        }
        if found.is_dir() { crate::removal::remove_tree(path) } else { fs_err::remove_file(path) }
    } else {
        fs_err::remove_file(path)
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left(directory: &Path) -> usize {
        fs_err::read_dir(directory).unwrap().count()
    }

    #[test]
    fn what_a_living_owner_writes_is_not_collected_and_goes_with_it() {
        let directory = tempfile::tempdir().unwrap();
        let file = TemporaryFile::create(directory.path()).unwrap();
        let folder = TemporaryDirectory::create(directory.path()).unwrap();
        collect(directory.path(), true).unwrap();
        assert!(file.file().path().exists() && folder.path().exists());
        drop((file, folder));
        assert_eq!(left(directory.path()), 0);
    }

    #[test]
    fn what_a_dead_process_left_is_collected_and_what_others_wrote_is_not() {
        let directory = tempfile::tempdir().unwrap();
        fs_err::write(directory.path().join(".kiln-0123456789.tmp"), "left").unwrap();
        fs_err::create_dir(directory.path().join(".kiln-abcdefghij.tmp")).unwrap();
        fs_err::write(directory.path().join(".kiln-abcdefghij.tmp/inside"), "left").unwrap();
        fs_err::write(directory.path().join("notes.tmp"), "a person's").unwrap();
        collect(directory.path(), false).unwrap();
        assert_eq!(left(directory.path()), 1);
        collect(directory.path(), true).unwrap();
        assert_eq!(left(directory.path()), 0);
    }

    #[test]
    fn owners_and_collectors_race_without_losing_a_file() {
        let directory = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for _ in 0..2 {
                scope.spawn(|| {
                    for _ in 0..300 {
                        let file = TemporaryFile::create(directory.path()).unwrap();
                        assert!(is_at(file.file().path(), file.file()));
                        drop(TemporaryDirectory::create(directory.path()).unwrap());
                    }
                });
            }
            scope.spawn(|| (0..300).for_each(|_| collect(directory.path(), false).unwrap()));
        });
        assert_eq!(left(directory.path()), 0);
    }
}
