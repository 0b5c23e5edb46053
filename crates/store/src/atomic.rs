//! Files that are replaced whole or not at all: data reaches the disk, then the name, then the directory.
//!
//! Everything that kiln writes outside a container layer goes through here: blobs, recipes, layouts, archives, locks,
//! pruned files, credentials. The temporary file lies beside its target, so that the rename stays within a file system.

use std::ffi::OsStr;
use std::io::{self, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::{MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::temporary::{self, TemporaryDirectory, TemporaryFile};

/// Links that are followed to a target, as the kernel does at most.
const MAX_LINKS: u32 = 40;
/// The mode of a file that replaces none. It does not depend on the umask.
const MODE: u32 = 0o644;

/// A file that takes its place when it is committed. Dropped before, it leaves what was there.
#[derive(Debug)]
pub struct AtomicFile {
    target: PathBuf,
    out: Out,
    mode: u32,
}

#[derive(Debug)]
enum Out {
    /// The target is replaced.
    Replace(TemporaryFile),
    /// The target is a device, a pipe or a terminal, and written into.
    Into(fs_err::File),
}

impl AtomicFile {
    /// Begins to replace a file. A link is followed to the file that it names; what is no regular file is written into.
    /// The new file has the mode of the old one, or 0644.
    pub fn create(path: &Path) -> io::Result<Self> {
        Self::with_mode(path, MODE, None)
    }

    /// Begins to replace a file by way of a temporary one in another directory of its file system, which holds no more than
    /// a few files: what dead processes left there is removed.
    pub fn create_by_way_of(staging: &Path, path: &Path) -> io::Result<Self> {
        Self::with_mode(path, MODE, Some(staging))
    }

    /// Begins to replace a file that holds secrets: mode 0600, whatever the old one had.
    pub fn create_private(path: &Path) -> io::Result<Self> {
        let mut file = Self::with_mode(path, 0o600, None)?;
        file.mode = 0o600;
        Ok(file)
    }

    fn with_mode(path: &Path, mode: u32, staging: Option<&Path>) -> io::Result<Self> {
        let (target, mode) = match fs_err::metadata(path) {
            Ok(found) if found.is_dir() => {
                let problem = format!("`{}` is a directory", path.display());
                return Err(io::Error::new(io::ErrorKind::IsADirectory, problem));
            }
            Ok(_) if is_stdout(path) => {
                // The descriptor itself, so that what was written to it before and what follows keep their places.
                let descriptor = io::stdout().as_fd().try_clone_to_owned()?;
                let out = Out::Into(fs_err::File::from_parts(descriptor.into(), path));
                return Ok(Self { target: path.to_owned(), out, mode });
            }
            Ok(found) if !found.is_file() || is_open_elsewhere(path) => {
                let out = Out::Into(fs_err::OpenOptions::new().write(true).open(path)?);
                return Ok(Self { target: path.to_owned(), out, mode });
            }
            Ok(found) => (follow(path)?, found.permissions().mode() & 0o7777),
            Err(error) if error.kind() == io::ErrorKind::NotFound => (follow(path)?, mode),
            Err(error) => return Err(error),
        };
        let directory = staging.unwrap_or_else(|| parent(&target));
        temporary::collect(directory, false)?;
        let out = Out::Replace(TemporaryFile::create(directory)?);
        Ok(Self { target, out, mode })
    }

    /// Replaces a file by these bytes.
    pub fn write(path: &Path, bytes: &[u8]) -> io::Result<()> {
        let mut file = Self::create(path)?;
        file.write_all(bytes)?;
        file.commit()
    }

    /// Replaces a file by a copy of another, with its mode.
    pub fn copy(from: &Path, to: &Path) -> io::Result<()> {
        let mut source = fs_err::File::open(from)?;
        let mut file = Self::create(to)?;
        io::copy(&mut source, &mut file)?;
        file.mode = source.metadata()?.permissions().mode() & 0o7777;
        file.commit()
    }

    /// The file that is written: the temporary one, or the device.
    pub fn file(&self) -> &fs_err::File {
        match &self.out {
            Out::Replace(temporary) => temporary.file(),
            Out::Into(file) => file,
        }
    }

    /// Gives the new file this mode.
    pub fn set_mode(&mut self, mode: u32) {
        self.mode = mode;
    }

    /// Puts the file in its place: its data, its name and its directory are on the disk afterwards.
    pub fn commit(self) -> io::Result<()> {
        let directory = parent(&self.target).to_owned();
        if self.commit_in_group()? { sync_directory(&directory) } else { Ok(()) }
    }

    /// Puts the file in its place without waiting for the directory: the caller syncs it once for a group of files.
    /// Returns false where a device was written into.
    pub fn commit_in_group(self) -> io::Result<bool> {
        match self.out {
            Out::Into(mut file) => {
                file.flush()?;
                Ok(false)
            }
            Out::Replace(temporary) => {
                temporary.file().set_permissions(PermissionsExt::from_mode(self.mode))?;
                temporary.rename(&self.target)?;
                Ok(true)
            }
        }
    }
}

impl Write for AtomicFile {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut file = self.file();
        file.write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut file = self.file();
        file.flush()
    }
}

/// Gives a file another name, in the place of what has it now. The name is on the disk afterwards.
pub fn replace_by_link(file: &Path, name: &Path) -> io::Result<()> {
    let free = TemporaryDirectory::create(parent(name))?;
    let linked = free.path().join("link");
    fs_err::hard_link(file, &linked)?;
    fs_err::rename(&linked, name)?;
    sync_directory(parent(name))
}

/// Gives a directory its name after all that is in it has reached the disk, in the place of a damaged one. The name is on
/// the disk afterwards. Both lie in one file system, and the caller holds a lock.
pub fn put_directory(from: &Path, to: &Path) -> io::Result<()> {
    sync_tree(from)?;
    match fs_err::symlink_metadata(to) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        found => {
            found?;
            // First out of sight: a kill must not leave a part of it under its name.
            let old = TemporaryDirectory::create(parent(to))?;
            fs_err::rename(to, old.path().join("old"))?;
        }
    }
    name_directory(from, to)
}

/// Like [`put_directory`], where nothing has the name yet: a file or a directory with something in it that has it is an
/// error, and stays.
pub fn put_new_directory(from: &Path, to: &Path) -> io::Result<()> {
    sync_tree(from)?;
    name_directory(from, to)
}

fn name_directory(from: &Path, to: &Path) -> io::Result<()> {
    fs_err::rename(from, to)?;
    sync_directory(parent(to))
}

/// Waits until everything below a directory is on the disk: all of its file system at once, since trees have thousands of files,
/// and syncing each by itself takes milliseconds.
fn sync_tree(directory: &Path) -> io::Result<()> {
    Ok(rustix::fs::syncfs(fs_err::File::open(directory)?.file())?)
}

/// Waits until the names in a directory are on the disk.
pub fn sync_directory(directory: &Path) -> io::Result<()> {
    match fs_err::File::open(directory)?.sync_all() {
        // Some file systems cannot sync directories; they keep names by other means.
        Err(error) if error.kind() == io::ErrorKind::InvalidInput => Ok(()),
        synced => synced,
    }
}

/// Returns the directory that a file lies in.
pub fn parent(path: &Path) -> &Path {
    path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."))
}

/// Returns the path that a chain of links ends at; it need not exist.
fn follow(path: &Path) -> io::Result<PathBuf> {
    let mut path = path.to_owned();
    for _ in 0..MAX_LINKS {
        match fs_err::symlink_metadata(&path) {
            Ok(found) if found.is_symlink() => path = parent(&path).join(fs_err::read_link(&path)?),
            _ => return Ok(path),
        }
    }
    let problem = format!("`{}` is a link that leads in a circle", path.display());
    Err(io::Error::other(problem))
}

/// Whether a path leads to what this process has as its standard output.
pub fn is_stdout(path: &Path) -> bool {
    let identity = |found: std::fs::Metadata| (found.dev(), found.ino());
    let own = io::stdout().as_fd().try_clone_to_owned();
    let own = own.and_then(|own| fs_err::File::from_parts(own.into(), path).metadata());
    own.is_ok_and(|own| fs_err::metadata(path).is_ok_and(|found| identity(found) == identity(own)))
}

/// Whether a path names a descriptor of some process (`/dev/stdout`, `/proc/self/fd/1`): who opened it expects the bytes
/// in that file, not in another of its name.
fn is_open_elsewhere(path: &Path) -> bool {
    let Ok(directory) = fs_err::canonicalize(parent(path)) else { return false };
    let descriptors = directory.starts_with("/proc") && directory.file_name() == Some(OsStr::new("fd"));
    let standard = ["stdin", "stdout", "stderr"].map(|name| Some(OsStr::new(name)));
    descriptors || (directory == Path::new("/dev") && standard.contains(&path.file_name()))
}

#[cfg(test)]
mod tests {
    #[test]
    fn a_directory_takes_the_place_of_a_damaged_one_whole() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("new"), root.path().join("tool"));
        fs_err::create_dir_all(from.join("bin/below")).unwrap();
        fs_err::write(from.join("bin/program"), "new").unwrap();
        symlink("program", from.join("bin/link")).unwrap();
        fs_err::create_dir_all(to.join("left")).unwrap();
        put_directory(&from, &to).unwrap();
        assert_eq!(fs_err::read_to_string(to.join("bin/link")).unwrap(), "new");
        assert!(!to.join("left").exists() && !from.exists());
        assert_eq!(fs_err::read_dir(root.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_new_directory_takes_the_place_of_nothing() {
        let root = tempfile::tempdir().unwrap();
        let (from, to) = (root.path().join("new"), root.path().join("pruned"));
        fs_err::create_dir_all(from.join("lib")).unwrap();
        fs_err::create_dir_all(to.join("kept")).unwrap();
        assert!(put_new_directory(&from, &to).is_err());
        assert!(to.join("kept").is_dir());
        fs_err::remove_dir_all(&to).unwrap();
        put_new_directory(&from, &to).unwrap();
        assert!(to.join("lib").is_dir() && !from.exists());
    }

    use std::os::unix::fs::symlink;

    use super::*;

    fn names(directory: &Path) -> Vec<String> {
        let mut names: Vec<String> = fs_err::read_dir(directory)
            .unwrap()
            .map(|entry| entry.unwrap().file_name().into_string().unwrap())
            .collect();
        names.sort();
        names
    }

    #[test]
    fn a_file_is_replaced_when_it_is_committed_and_not_before() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("kiln.lock");
        AtomicFile::write(&path, b"old").unwrap();
        let mut file = AtomicFile::create(&path).unwrap();
        file.write_all(b"new").unwrap();
        assert_eq!(fs_err::read(&path).unwrap(), b"old");
        file.commit().unwrap();
        assert_eq!(fs_err::read(&path).unwrap(), b"new");
        drop(AtomicFile::create(&path).unwrap());
        assert_eq!(names(directory.path()), ["kiln.lock"]);
    }

    #[test]
    fn the_file_that_a_link_names_is_replaced_and_the_link_stays() {
        let directory = tempfile::tempdir().unwrap();
        let (real, link) = (directory.path().join("shared/kiln.lock"), directory.path().join("kiln.lock"));
        fs_err::create_dir(directory.path().join("shared")).unwrap();
        symlink("second", &link).unwrap();
        symlink("shared/kiln.lock", directory.path().join("second")).unwrap();
        for content in [b"made", b"kept"] {
            AtomicFile::write(&link, content).unwrap();
            assert!(fs_err::symlink_metadata(&link).unwrap().is_symlink());
            assert_eq!(fs_err::read(&real).unwrap(), content);
        }
        assert_eq!(names(&directory.path().join("shared")), ["kiln.lock"]);
    }

    #[test]
    fn a_circle_of_links_and_a_directory_are_errors() {
        let directory = tempfile::tempdir().unwrap();
        symlink("b", directory.path().join("a")).unwrap();
        symlink("a", directory.path().join("b")).unwrap();
        assert!(AtomicFile::create(&directory.path().join("a")).is_err());
        assert!(AtomicFile::create(directory.path()).is_err());
    }

    #[test]
    fn a_pipe_is_written_into_and_stays_a_pipe() {
        let directory = tempfile::tempdir().unwrap();
        let pipe = directory.path().join("pipe");
        assert!(std::process::Command::new("mkfifo").arg(&pipe).status().unwrap().success());
        let reader = std::thread::spawn({
            let pipe = pipe.clone();
            move || fs_err::read(pipe).unwrap()
        });
        AtomicFile::write(&pipe, b"through").unwrap();
        assert_eq!(reader.join().unwrap(), b"through");
        assert!(!fs_err::metadata(&pipe).unwrap().is_file());
    }

    #[test]
    fn a_device_is_written_into() {
        use std::os::unix::fs::FileTypeExt;
        let directory = tempfile::tempdir().unwrap();
        let link = directory.path().join("nowhere");
        symlink("/dev/null", &link).unwrap();
        AtomicFile::write(&link, b"gone").unwrap();
        assert!(fs_err::metadata("/dev/null").unwrap().file_type().is_char_device());
    }

    #[test]
    fn a_descriptor_of_a_process_gets_the_bytes_in_the_file_that_it_has_open() {
        use std::os::fd::AsRawFd;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("redirected");
        let open = fs_err::File::create(&path).unwrap();
        AtomicFile::write(Path::new(&format!("/proc/self/fd/{}", open.as_raw_fd())), b"bytes").unwrap();
        assert_eq!(open.metadata().unwrap().len(), 5);
    }

    #[test]
    fn the_mode_of_the_old_file_stays_unless_the_new_one_is_private() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("file");
        let mode = || fs_err::metadata(&path).unwrap().permissions().mode() & 0o7777;
        AtomicFile::write(&path, b"").unwrap();
        assert_eq!(mode(), 0o644);
        fs_err::set_permissions(&path, PermissionsExt::from_mode(0o640)).unwrap();
        AtomicFile::write(&path, b"").unwrap();
        assert_eq!(mode(), 0o640);
        AtomicFile::create_private(&path).unwrap().commit().unwrap();
        assert_eq!(mode(), 0o600);
    }
}
