//! From a layer's tar to a tree.
//!
//! The tar is foreign. Each directory above a member is opened within the tree (`openat2` with `RESOLVE_IN_ROOT`: links lead
//! nowhere else), and the member is made there by its last name alone, which follows no link.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::io::{self, Read};
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::path::Path;

use kiln_plan::whiteout;
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, Timespec, Timestamps, Uid, XattrFlags, chmodat, chownat,
    fchmod, fchown, fsetxattr, ftruncate, futimens, linkat, mkdirat, mknodat, openat, openat2, seek, symlinkat,
    unlinkat, utimensat,
};
use rustix::io::Errno;

use super::names::{components, shown};
use super::{HELD, OF_OVERLAY, OPAQUE, OWNER, Others, Owners};
use crate::facts::entries::{Entries, Member, TarError};

/// Bytes of zeros that become a hole.
const HOLE: usize = 64 << 10;
const BUFFER: usize = 256 << 10;

/// A layer that cannot be unpacked.
#[derive(Debug, thiserror::Error)]
pub enum TreeError {
    /// The tar.
    #[error(transparent)]
    Archive(#[from] TarError),
    /// A member that no tree can hold.
    #[error("its member `{path}` {problem}")]
    Member {
        /// The path in the tar.
        path: String,
        /// A clause that follows the path.
        problem: &'static str,
    },
    /// The file system.
    #[error("its member `{path}` cannot be written")]
    Io {
        /// The path in the tar.
        path: String,
        /// The reason.
        source: io::Error,
    },
}

/// Unpacks a tar, which is not compressed, into an empty directory. `watch` gets the bytes of content that were written since the last
/// call; its error ends the work.
///
/// Devices are made only by root, and nobody can open them under the mount options of a sandbox. Files of zeros get holes.
///
/// Returns the owners of links and pipes, which can have no attribute ([`Owners::Noted`]), by path; those of root are left out.
pub fn unpack(
    tar: impl Read,
    to: &Path,
    owners: Owners,
    watch: &mut dyn FnMut(u64) -> io::Result<()>,
) -> Result<Others, TreeError> {
    let root = openat(CWD, to, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .map_err(|error| TreeError::Io { path: "/".into(), source: error.into() })?;
    let mut entries = Entries::new(tar);
    let mut tree = Tree {
        root,
        owners,
        last: None,
        directories: BTreeMap::new(),
        hidden: BTreeSet::new(),
        opaque: BTreeSet::new(),
        others: Others::new(),
        buffer: vec![0; BUFFER],
    };
    while let Some(member) = entries.next_member()? {
        tree.member(&member, &mut entries, watch)?;
    }
    entries.drain()?;
    tree.finish()
}

struct Tree {
    root: OwnedFd,
    owners: Owners,
    /// The directory of the last member: the next one mostly lies there, too.
    last: Option<(Vec<u8>, OwnedFd)>,
    /// Directories whose attributes are set at the end: files that are made in one change its time, and need its mode.
    directories: BTreeMap<Vec<u8>, Attributes>,
    /// Paths that the layer hides. What it has there itself stays.
    hidden: BTreeSet<Vec<u8>>,
    /// Directories that hide all below them.
    opaque: BTreeSet<Vec<u8>>,
    /// Owners of what can have no attribute.
    others: Others,
    buffer: Vec<u8>,
}

struct Attributes {
    mode: u32,
    owner: (u32, u32),
    time: u64,
    xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Attributes {
    fn of(member: &Member) -> Option<Self> {
        let owner = (u32::try_from(member.uid).ok()?, u32::try_from(member.gid).ok()?);
        let xattrs = member.attributes().xattrs;
        let is_ours = |name: &[u8]| {
            let starts = |prefix: &&str| name.starts_with(prefix.as_bytes());
            OF_OVERLAY.iter().chain(&["user.kiln."]).any(starts)
        };
        let xattrs = xattrs.into_iter().filter(|(name, _)| !is_ours(name)).collect();
        Some(Self { mode: member.mode, owner, time: member.time, xattrs })
    }
}

impl Tree {
    fn member(
        &mut self,
        member: &Member,
        data: &mut impl Read,
        watch: &mut dyn FnMut(u64) -> io::Result<()>,
    ) -> Result<(), TreeError> {
        let refused = |problem| TreeError::Member { path: shown(&member.path), problem };
        let failed = |source: io::Error| TreeError::Io { path: shown(&member.path), source };
        let names = components(&member.path).ok_or(refused("leaves the root"))?;
        let attributes = Attributes::of(member).ok_or(refused("has an owner that no file can have"))?;
        let path = names.join(&b'/');
        let Some((name, above)) = names.split_last() else {
            if member.kind.is_dir() {
                self.directories.insert(path, attributes);
            }
            return Ok(());
        };
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            self.whiteout(above.join(&b'/'), hidden);
            return Ok(());
        }
        if above.iter().any(|name| name.starts_with(b".wh.")) {
            return Err(refused("lies below a whiteout"));
        }
        if member.sparse {
            return Err(refused("is stored in parts (a sparse member of GNU tar), which layers do not have"));
        }
        let parent = self.parent(above.join(&b'/')).map_err(failed)?;
        let name = OsStr::from_bytes(name);
        if member.kind.is_dir() {
            self.directory(&parent, name).map_err(failed)?;
            self.directories.insert(path, attributes);
        } else {
            self.make_room(&parent, name).map_err(failed)?;
            self.directories.retain(|known, _| !is_at_or_below(known, &path));
            self.others.retain(|known, _| !is_at_or_below(known, &path));
            if member.kind.is_hard_link() {
                self.hard_link(&parent, name, &member.link).map_err(|error| match error.kind() {
                    io::ErrorKind::NotFound => refused("is a hard link to a file that the layer does not have"),
                    _ => failed(error),
                })?;
                let same = components(&member.link).and_then(|names| self.others.get(&names.join(&b'/')).copied());
                self.others.extend(same.map(|owner| (path, owner)));
            } else {
                self.leaf(&parent, name, member, &attributes, data, watch).map_err(failed)?;
                let has_attributes = !member.kind.is_symlink() && !member.kind.is_fifo();
                if self.owners == Owners::Noted && !has_attributes && attributes.owner != (0, 0) {
                    self.others.insert(path, attributes.owner);
                }
            }
        }
        self.last = Some((above.join(&b'/'), parent));
        Ok(())
    }

    fn whiteout(&mut self, directory: Vec<u8>, hidden: &[u8]) {
        match hidden {
            b".wh..opq" => drop(self.opaque.insert(directory)),
            // AUFS's own files hide nothing.
            _ if hidden.starts_with(b".wh.") || matches!(hidden, b"" | b"." | b"..") => {}
            _ => drop(self.hidden.insert(join(&directory, hidden))),
        }
    }

    /// Opens the directory of a member.
    fn parent(&mut self, path: Vec<u8>) -> io::Result<OwnedFd> {
        if let Some((known, opened)) = self.last.take()
            && known == path
        {
            return Ok(opened);
        }
        self.made(&path)
    }

    /// Opens a directory of the tree, and makes what is missing of it: root's, 0755.
    fn made(&self, path: &[u8]) -> io::Result<OwnedFd> {
        match self.open(path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => {}
            opened => return opened,
        }
        for end in path.iter().enumerate().filter(|(_, byte)| **byte == b'/').map(|(at, _)| at).chain([path.len()]) {
            let (directory, name) = split(&path[..end]);
            let parent = self.open(directory)?;
            match mkdirat(&parent, OsStr::from_bytes(name), Mode::from_raw_mode(0o755)) {
                // The umask has taken from the mode.
                Ok(()) => chmodat(&parent, OsStr::from_bytes(name), Mode::from_raw_mode(0o755), AtFlags::empty())?,
                Err(Errno::EXIST) => {}
                Err(error) => return Err(error.into()),
            }
        }
        self.open(path)
    }

    fn open(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(path) };
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        Ok(openat2(&self.root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)?)
    }

    fn directory(&self, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
        match mkdirat(parent, name, Mode::from_raw_mode(0o700)) {
            Err(Errno::EXIST) => {}
            done => return Ok(done?),
        }
        let kind = FileType::from_raw_mode(rustix::fs::statat(parent, name, AtFlags::SYMLINK_NOFOLLOW)?.st_mode);
        if kind == FileType::Directory {
            return Ok(());
        }
        unlinkat(parent, name, AtFlags::empty())?;
        Ok(mkdirat(parent, name, Mode::from_raw_mode(0o700))?)
    }

    /// Removes an earlier member of the same path.
    fn make_room(&self, parent: &OwnedFd, name: &OsStr) -> io::Result<()> {
        match unlinkat(parent, name, AtFlags::empty()) {
            Ok(()) | Err(Errno::NOENT) => Ok(()),
            Err(Errno::ISDIR) => {
                let directory = Path::new("/proc/self/fd").join(parent.as_raw_fd().to_string());
                fs_err::remove_dir_all(directory.join(name))
            }
            Err(error) => Err(error.into()),
        }
    }

    fn hard_link(&self, parent: &OwnedFd, name: &OsStr, target: &[u8]) -> io::Result<()> {
        let names = components(target).ok_or(io::ErrorKind::NotFound)?;
        let (last, above) = names.split_last().ok_or(io::ErrorKind::NotFound)?;
        let directory = self.open(&above.join(&b'/'))?;
        Ok(linkat(directory, OsStr::from_bytes(last), parent, name, AtFlags::empty())?)
    }

    fn leaf(
        &mut self,
        parent: &OwnedFd,
        name: &OsStr,
        member: &Member,
        attributes: &Attributes,
        data: &mut impl Read,
        watch: &mut dyn FnMut(u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let kind = member.kind;
        if kind.is_symlink() {
            symlinkat(OsStr::from_bytes(&member.link), parent, name)?;
            if self.owners == Owners::Given {
                let (user, group) = ids(attributes.owner);
                chownat(parent, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?;
            }
            return Ok(utimensat(parent, name, &times(attributes.time), AtFlags::SYMLINK_NOFOLLOW)?);
        }
        let special = match kind {
            _ if kind.is_fifo() => FileType::Fifo,
            _ if kind.is_character_special() => FileType::CharacterDevice,
            _ if kind.is_block_special() => FileType::BlockDevice,
            _ => FileType::RegularFile,
        };
        if special != FileType::RegularFile {
            return self.special(parent, name, special, attributes);
        }
        let flags = OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let file = openat(parent, name, flags, Mode::from_raw_mode(0o600))?;
        self.content(&file, member.size, data, watch)?;
        self.finish_file(&file, attributes)
    }

    /// Makes a pipe or, as root, a device.
    fn special(&self, parent: &OwnedFd, name: &OsStr, kind: FileType, attributes: &Attributes) -> io::Result<()> {
        if kind != FileType::Fifo && self.owners == Owners::Noted {
            return Ok(());
        }
        // A device without a number would be a whiteout; the numbers mean nothing where no device can be opened.
        let device = if kind == FileType::Fifo { 0 } else { rustix::fs::makedev(1, 3) };
        mknodat(parent, name, kind, Mode::from_raw_mode(0o600), device)?;
        if self.owners == Owners::Given {
            let (user, group) = ids(attributes.owner);
            chownat(parent, name, user, group, AtFlags::SYMLINK_NOFOLLOW)?;
        }
        // Whatever the process's umask is. It is no link: it was just made.
        chmodat(parent, name, Mode::from_raw_mode(attributes.mode), AtFlags::empty())?;
        Ok(utimensat(parent, name, &times(attributes.time), AtFlags::SYMLINK_NOFOLLOW)?)
    }

    fn content(
        &mut self,
        file: &OwnedFd,
        size: u64,
        data: &mut impl Read,
        watch: &mut dyn FnMut(u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let mut left = size;
        while left > 0 {
            let wanted = usize::try_from(left).unwrap_or(BUFFER).min(BUFFER);
            let part = &mut self.buffer[..wanted];
            data.read_exact(part)?;
            for piece in part.chunks(HOLE) {
                if piece.len() == HOLE && is_zero(piece) {
                    seek(file, rustix::fs::SeekFrom::Current(HOLE as i64))?;
                } else {
                    write_all(file, piece)?;
                }
            }
            left -= wanted as u64;
            watch(wanted as u64)?;
        }
        // A hole at the end does not make a file longer.
        Ok(ftruncate(file, size)?)
    }

    /// Sets owner, mode, attributes and time: an owner takes away bits of the mode, and capabilities.
    fn finish_file(&self, file: &OwnedFd, attributes: &Attributes) -> io::Result<()> {
        self.own(file, attributes.owner)?;
        for (name, value) in &attributes.xattrs {
            self.attribute(file, name, value)?;
        }
        fchmod(file, Mode::from_raw_mode(attributes.mode))?;
        Ok(futimens(file, &times(attributes.time))?)
    }

    fn own(&self, file: &OwnedFd, owner: (u32, u32)) -> io::Result<()> {
        match self.owners {
            Owners::Given => {
                let (user, group) = ids(owner);
                Ok(fchown(file, user, group)?)
            }
            Owners::Noted if owner == (0, 0) => Ok(()),
            Owners::Noted => {
                let text = format!("{}:{}", owner.0, owner.1);
                Ok(fsetxattr(file, OWNER, text.as_bytes(), XattrFlags::empty())?)
            }
        }
    }

    /// Sets an extended attribute; one that this user may not set is held in another.
    fn attribute(&self, file: &OwnedFd, name: &[u8], value: &[u8]) -> io::Result<()> {
        let set = |name: &[u8]| fsetxattr(file, OsStr::from_bytes(name), value, XattrFlags::empty());
        let is_of_user = name.starts_with(b"user.");
        if self.owners == Owners::Given || is_of_user {
            match set(name) {
                // Attributes of security modules that this machine does not have, and of other file systems.
                Err(Errno::OPNOTSUPP | Errno::PERM) if !is_of_user => {}
                done => return Ok(done?),
            }
        }
        Ok(set(&[HELD.as_bytes(), name].concat())?)
    }

    fn finish(self) -> Result<Others, TreeError> {
        let failed = |path: &[u8]| {
            let path = shown(path);
            move |source: io::Error| TreeError::Io { path, source }
        };
        for path in &self.hidden {
            let (directory, name) = split(path);
            let Ok(parent) = self.made(directory) else { continue };
            match rustix::fs::statat(&parent, OsStr::from_bytes(name), AtFlags::SYMLINK_NOFOLLOW) {
                Ok(found) if FileType::from_raw_mode(found.st_mode) == FileType::Directory => {
                    self.hide_below(path).map_err(failed(path))?;
                }
                // The layer's own file hides the other by itself.
                Ok(_) => {}
                Err(_) => {
                    let kind = FileType::CharacterDevice;
                    let done = match mknodat(&parent, OsStr::from_bytes(name), kind, Mode::empty(), 0) {
                        Err(Errno::PERM) => mark(&parent, name),
                        done => done,
                    };
                    done.map_err(|error| failed(path)(error.into()))?;
                }
            }
        }
        for path in &self.opaque {
            self.made(path).map_err(failed(path))?;
            self.hide_below(path).map_err(failed(path))?;
        }
        // The deepest first, since each changes the time of the one above.
        for (path, attributes) in self.directories.iter().rev() {
            let done = self.readable(path).and_then(|opened| self.finish_file(&opened, attributes));
            done.map_err(failed(path))?;
        }
        Ok(self.others)
    }

    fn hide_below(&self, path: &[u8]) -> io::Result<()> {
        let directory = self.readable(path)?;
        Ok(match fsetxattr(&directory, OPAQUE, b"y", XattrFlags::empty()) {
            Err(Errno::PERM | Errno::OPNOTSUPP) => mark(&directory, b".wh..opq"),
            done => done,
        }?)
    }

    /// Opens a directory to change its attributes, which a path alone does not allow.
    fn readable(&self, path: &[u8]) -> io::Result<OwnedFd> {
        let path = if path.is_empty() { OsStr::new(".") } else { OsStr::from_bytes(path) };
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        Ok(openat2(&self.root, path, flags, Mode::empty(), ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS)?)
    }
}

/// Makes the file that stands for a whiteout where no device can.
fn mark(directory: &OwnedFd, hidden: &[u8]) -> rustix::io::Result<()> {
    let name = [whiteout::PREFIX.as_bytes(), hidden].concat();
    mknodat(directory, OsStr::from_bytes(&name), FileType::RegularFile, Mode::from_raw_mode(0o644), 0)
}

fn ids(owner: (u32, u32)) -> (Option<Uid>, Option<Gid>) {
    (Some(Uid::from_raw(owner.0)), Some(Gid::from_raw(owner.1)))
}

fn times(seconds: u64) -> Timestamps {
    let time = Timespec { tv_sec: i64::try_from(seconds).unwrap_or(0), tv_nsec: 0 };
    Timestamps { last_access: time, last_modification: time }
}

fn is_zero(bytes: &[u8]) -> bool {
    bytes.iter().all(|byte| *byte == 0)
}

fn write_all(file: &OwnedFd, mut bytes: &[u8]) -> io::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(file, bytes) {
            Ok(written) => bytes = &bytes[written..],
            Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}

fn split(path: &[u8]) -> (&[u8], &[u8]) {
    match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (b"", path),
    }
}

fn join(directory: &[u8], name: &[u8]) -> Vec<u8> {
    if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() }
}

fn is_at_or_below(path: &[u8], above: &[u8]) -> bool {
    path.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.first() == Some(&b'/'))
}
