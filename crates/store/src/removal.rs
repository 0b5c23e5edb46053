//! Removing directories that others filled.

use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;
use std::sync::OnceLock;

/// Removes what belongs to other ids than this process's.
type Other = fn(&Path) -> io::Result<()>;

static OTHER: OnceLock<Other> = OnceLock::new();

/// Says how a directory is removed in which files belong to other ids that this user has: the store does not know them.
pub fn remove_others_by(other: Other) {
    // It was said before.
    let _ = OTHER.set(other);
}

/// Removes a directory with all that is in it, also where its user made directories that may not be written.
pub fn remove_tree(path: &Path) -> io::Result<()> {
    match fs_err::remove_dir_all(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
        done => return done,
    }
    let done = open_up(path).and_then(|()| fs_err::remove_dir_all(path));
    match (done, OTHER.get()) {
        (Err(error), Some(other)) if error.kind() == io::ErrorKind::PermissionDenied => other(path),
        (done, _) => done,
    }
}

/// Lets the owner write into all directories.
fn open_up(directory: &Path) -> io::Result<()> {
    fs_err::set_permissions(directory, PermissionsExt::from_mode(0o700))?;
    for entry in fs_err::read_dir(directory)? {
        let entry = entry?;
        if entry.file_type()?.is_dir() {
            open_up(&entry.path())?;
        }
    }
    Ok(())
}
