//! Layers as copies in one directory, where overlays cannot be mounted.
//!
//! Each file is copied and none is linked, so that no command writes into a tree; what are several names of one file in a tree are
//! several files, as an overlay treats them once one is written to. After the command, what it changed is moved to the directory of
//! the changes, where files with the names of whiteouts say what was removed (OCI image specification, "Whiteouts"): who cannot mount
//! an overlay may be unable to make those of overlayfs, too. A file has changed if its inode is another or was changed later (`ctime`),
//! a time that no command can set.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::fs::Metadata;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use fs_err::os::unix::fs::symlink;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, Timespec, Timestamps, Uid, XattrFlags, chownat, lgetxattr, llistxattr,
    lsetxattr, mknodat, open, utimensat,
};
use rustix::io::Errno;
use rustix::process::fchdir;

use crate::owners::Inode;

const OPAQUE: &str = "user.overlay.opaque";
/// Names of whiteouts (OCI image specification).
const WHITEOUT: &[u8] = b".wh.";
const HIDES_ALL: &[u8] = b".wh..wh..opq";
/// Extended attributes of overlayfs itself.
const OF_OVERLAY: [&[u8]; 2] = [b"user.overlay.", b"trusted.overlay."];
/// Longer than the clock by which the kernel dates changes stands still.
const TICK: Duration = Duration::from_millis(20);

/// An inode as it was copied, and when it was changed.
type State = (Inode, (i64, i64));

/// The content of a directory, as it was copied.
#[derive(Default)]
struct Known {
    directories: BTreeMap<OsString, (State, Known)>,
    others: BTreeMap<OsString, State>,
}

/// Copies of layers, and where their changes go.
pub(crate) struct Copies {
    /// The directory that holds both, as it can be reached after the change of root.
    directory: OwnedFd,
    copies: PathBuf,
    upper: PathBuf,
    known: Known,
}

impl Copies {
    /// Copies trees, the lowest first, to `copies`. It and `upper` are names in `directory`.
    pub(crate) fn new(layers: &[&Path], directory: &Path, copies: &str, upper: &str) -> io::Result<Self> {
        let to = directory.join(copies);
        fs_err::create_dir(&to)?;
        for layer in layers {
            copy_attributes(layer, &fs_err::symlink_metadata(layer)?, &to)?;
            lay(layer, &to)?;
        }
        let known = Known::of(&to)?;
        std::thread::sleep(TICK);
        let directory = open(directory, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
        Ok(Self { directory, copies: copies.into(), upper: upper.into(), known })
    }

    /// Moves what changed to the directory of the changes. Nothing else may write now.
    pub(crate) fn separate(self) -> io::Result<()> {
        fchdir(&self.directory)?;
        self.known.separate(&self.copies, &self.upper).map(drop)
    }
}

fn state(path: &Path, found: &Metadata) -> io::Result<State> {
    Ok((Inode::of(path)?, (found.ctime(), found.ctime_nsec())))
}

impl Known {
    fn of(directory: &Path) -> io::Result<Self> {
        let mut known = Self::default();
        for entry in fs_err::read_dir(directory)? {
            let entry = entry?;
            let found = entry.metadata()?;
            let state = state(&entry.path(), &found)?;
            if found.is_dir() {
                known.directories.insert(entry.file_name(), (state, Self::of(&entry.path())?));
            } else {
                known.others.insert(entry.file_name(), state);
            }
        }
        Ok(known)
    }

    /// Moves what changed below a directory that was copied. Returns true if anything did.
    fn separate(&self, copies: &Path, upper: &Path) -> io::Result<bool> {
        let mut changed = false;
        let mut names = BTreeMap::new();
        for entry in fs_err::read_dir(copies)? {
            let entry = entry?;
            names.insert(entry.file_name(), entry.metadata()?);
        }
        for (name, found) in &names {
            let (from, to) = (copies.join(name), upper.join(name));
            let now = state(&from, found)?;
            match self.directories.get(name) {
                Some((known, below)) if found.is_dir() && known.0 == now.0 => {
                    fs_err::create_dir(&to)?;
                    if below.separate(&from, &to)? || *known != now {
                        copy_attributes(&from, found, &to)?;
                        changed = true;
                    } else {
                        fs_err::remove_dir(&to)?;
                    }
                }
                hidden => {
                    if self.others.get(name) != Some(&now) {
                        refuse_whiteouts(&from, found.is_dir())?;
                        fs_err::rename(from, &to)?;
                        if hidden.is_some() && found.is_dir() {
                            fs_err::write(to.join(OsStr::from_bytes(HIDES_ALL)), "")?;
                        }
                        changed = true;
                    }
                }
            }
        }
        for name in self.directories.keys().chain(self.others.keys()).filter(|name| !names.contains_key(*name)) {
            fs_err::write(upper.join(OsStr::from_bytes(&[WHITEOUT, name.as_bytes()].concat())), "")?;
            changed = true;
        }
        Ok(changed)
    }
}

/// Refuses names that a layer cannot hold.
fn refuse_whiteouts(path: &Path, is_directory: bool) -> io::Result<()> {
    if path.file_name().is_some_and(|name| name.as_bytes().starts_with(WHITEOUT)) {
        return Err(io::Error::other(format!("`{}`: in a layer, such a name removes another file", path.display())));
    }
    let entries = if is_directory { Some(fs_err::read_dir(path)?) } else { None };
    entries.into_iter().flatten().try_for_each(|entry| {
        let entry = entry?;
        refuse_whiteouts(&entry.path(), entry.file_type()?.is_dir())
    })
}

/// Lays the content of a tree over what is there.
fn lay(tree: &Path, to: &Path) -> io::Result<()> {
    for entry in fs_err::read_dir(tree)? {
        let entry = entry?;
        let (from, name, found) = (entry.path(), entry.file_name(), entry.metadata()?);
        if let Some(hidden) = name.as_bytes().strip_prefix(WHITEOUT) {
            remove(&to.join(OsStr::from_bytes(hidden)))?;
            continue;
        }
        let to = to.join(name);
        let is_merged =
            found.is_dir() && !hides_all(&from) && fs_err::symlink_metadata(&to).is_ok_and(|to| to.is_dir());
        if !is_merged {
            remove(&to)?;
        }
        if found.is_dir() {
            match fs_err::create_dir(&to) {
                Err(error) if error.kind() == io::ErrorKind::AlreadyExists => {}
                done => done?,
            }
            lay(&from, &to)?;
        } else if found.is_file() {
            fs_err::copy(&from, &to)?;
        } else if found.is_symlink() {
            symlink(fs_err::read_link(&from)?, &to)?;
        } else if found.file_type().is_fifo() {
            mknodat(CWD, &to, FileType::Fifo, Mode::from_raw_mode(0o600), 0)?;
        } else {
            // A whiteout, or a device that nobody could open.
            continue;
        }
        copy_attributes(&from, &found, &to)?;
    }
    Ok(())
}

fn hides_all(directory: &Path) -> bool {
    let marker = directory.join(OsStr::from_bytes(HIDES_ALL));
    lgetxattr(directory, OPAQUE, &mut [0; 1]).is_ok() || fs_err::symlink_metadata(marker).is_ok()
}

fn remove(path: &Path) -> io::Result<()> {
    let removed = match fs_err::symlink_metadata(path) {
        Ok(found) if found.is_dir() => fs_err::remove_dir_all(path),
        _ => fs_err::remove_file(path),
    };
    match removed {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        removed => removed,
    }
}

/// Copies owner, extended attributes, mode and time, in the order in which none takes another away.
fn copy_attributes(from: &Path, found: &Metadata, to: &Path) -> io::Result<()> {
    let (user, group) = (Uid::from_raw(found.uid()), Gid::from_raw(found.gid()));
    match chownat(CWD, to, Some(user), Some(group), AtFlags::SYMLINK_NOFOLLOW) {
        // One that is not mapped: an overlay shows nobody's.
        Err(Errno::INVAL | Errno::PERM) => {}
        done => done?,
    }
    let mut names = vec![0; 64 << 10];
    let length = llistxattr(from, names.as_mut_slice()).unwrap_or(0);
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        if OF_OVERLAY.iter().any(|prefix| name.starts_with(prefix)) {
            continue;
        }
        let mut value = vec![0; 64 << 10];
        let length = lgetxattr(from, OsStr::from_bytes(name), value.as_mut_slice())?;
        match lsetxattr(to, OsStr::from_bytes(name), &value[..length], XattrFlags::empty()) {
            // Those of security modules are the kernel's.
            Ok(()) | Err(Errno::PERM | Errno::OPNOTSUPP) => {}
            Err(error) => return Err(error.into()),
        }
    }
    if !found.is_symlink() {
        fs_err::set_permissions(to, PermissionsExt::from_mode(found.mode() & 0o7777))?;
    }
    let time = Timespec { tv_sec: found.mtime(), tv_nsec: found.mtime_nsec() as _ };
    let times = Timestamps { last_access: time, last_modification: time };
    Ok(utimensat(CWD, to, &times, AtFlags::SYMLINK_NOFOLLOW)?)
}
