//! From the upper directory of an overlay to a layer: what a command changed, in an order and with times that do not depend on when
//! and where it ran.
//!
//! Left out is what differs between two runs of the same command though nothing changed: logs and caches of apt, dpkg and ldconfig,
//! backups of account files, sockets, and files below `/run` and the mounts of a runtime. Days of password changes are those of
//! 1980; a machine's id is emptied (machine-id(5)).

mod differences;

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::io::{self, BufReader, Read, Write};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};

use kiln_plan::digest::Digest;
use kiln_plan::whiteout;
use rustix::io::Errno;
use sha2::{Digest as _, Sha256};
use tar::EntryType;

use super::lower::{Lower, Shown};
use super::names::shown;
use super::{HELD, OF_OVERLAY, OPAQUE, OWNER, Owners};
use crate::bytecode;
use crate::debian::{is_backup, shadow};
use crate::error::OciError;
use crate::header::{Member, Writer};
use crate::time::OLDEST;

/// A text file that is rewritten is shorter.
const MAX_TEXT: u64 = 4 << 20;

/// The extended attribute of capabilities where the kernel does not know of them, and its pax record.
const HELD_CAPABILITY: &str = "user.kiln.xattr.security.capability";
const CAPABILITY: &[u8] = b"SCHILY.xattr.security.capability";

/// The kind of a changed path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Change {
    /// A directory; true if it hides all that lies below it in lower layers.
    Directory(bool),
    /// A file of so many bytes.
    File(u64),
    /// Another name of an earlier path.
    HardLink(Vec<u8>),
    /// A link to this text.
    Symlink(Vec<u8>),
    /// A named pipe.
    Pipe,
    /// The removal of the path.
    Whiteout,
}

pub(super) struct Entry {
    change: Change,
    pub(super) mode: u32,
    pub(super) owner: (u32, u32),
    /// Seconds since 1970, as the command left it.
    time: u64,
    /// As pax records.
    pub(super) records: Vec<(Vec<u8>, Vec<u8>)>,
    /// True if capabilities are among them that the kernel did not know of.
    has_held_capability: bool,
    /// The content, where it is not the file's.
    text: Option<Vec<u8>>,
    /// Device and inode of a file that has other names.
    inode: Option<(u64, u64)>,
}

impl Entry {
    fn whiteout() -> Self {
        let (change, records) = (Change::Whiteout, Vec::new());
        Self {
            change,
            mode: 0o644,
            owner: (0, 0),
            time: 0,
            records,
            has_held_capability: false,
            text: None,
            inode: None,
        }
    }
}

/// The directory of a command's changes.
pub struct Upper<'u> {
    /// Its path.
    pub path: &'u Path,
    /// The trees that it lies over, the lowest first.
    pub lower: &'u [PathBuf],
    /// The form in which it says what was removed.
    pub form: Form,
    /// The place where owners are kept.
    pub owners: Owners,
    /// Knows the noted owners of files that have no attributes.
    pub others: &'u dyn Fn(&Path) -> Option<(u32, u32)>,
}

/// A form in which an upper directory says what was removed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Form {
    /// That of overlayfs.
    Overlay,
    /// That of layers: files whose names begin with `.wh.`.
    Layer,
}

/// The changes of a command, by path.
pub struct Changes {
    upper: PathBuf,
    pub(super) entries: BTreeMap<Vec<u8>, Entry>,
    /// Modes of files with several names, by device and inode, as the command left them.
    modes: BTreeMap<(u64, u64), u32>,
}

impl Changes {
    /// Reads an upper directory.
    ///
    /// # Errors
    ///
    /// If it cannot be read, or holds a name that no layer can hold.
    pub fn of(upper: &Upper<'_>) -> Result<Self, OciError> {
        let mut changes = Self { upper: upper.path.to_owned(), entries: BTreeMap::new(), modes: BTreeMap::new() };
        changes.directory(b"", upper)?;
        changes.hide_what_is_there(&Lower(upper.lower))?;
        if upper.owners == Owners::Noted {
            changes.drop_capabilities(&Lower(upper.lower))?;
        }
        changes.leave_out();
        changes.link();
        Ok(changes)
    }

    /// Returns the changed paths, without a leading slash.
    pub fn paths(&self) -> impl Iterator<Item = (&[u8], &Change)> {
        self.entries.iter().map(|(path, entry)| (path.as_slice(), &entry.change))
    }

    /// Returns the bytes of all files.
    pub fn size(&self) -> u64 {
        let size = |entry: &Entry| if let Change::File(size) = entry.change { size } else { 0 };
        self.entries.values().map(size).sum()
    }

    /// Returns true if nothing changed.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Leaves out a path and everything below it, and directories above it that hold no other change.
    pub fn leave_out_below(&mut self, path: &[u8]) {
        let is_below = |other: &[u8], above: &[u8]| {
            other.strip_prefix(above).is_some_and(|rest| rest.is_empty() || rest.first() == Some(&b'/'))
        };
        self.entries.retain(|other, _| !is_below(other, path));
        let slashes = path.iter().enumerate().rev().filter(|(_, byte)| **byte == b'/');
        for above in slashes.map(|(slash, _)| &path[..slash]) {
            if self.entries.keys().filter(|other| is_below(other, above)).count() == 1 {
                self.entries.remove(above);
            }
        }
    }

    fn directory(&mut self, path: &[u8], upper: &Upper<'_>) -> Result<(), OciError> {
        for entry in fs_err::read_dir(self.place(path))? {
            let name = entry?.file_name();
            let name = name.as_bytes();
            let inner = |name: &[u8]| if path.is_empty() { name.to_vec() } else { [path, b"/", name].concat() };
            if let Some(hidden) = name.strip_prefix(whiteout::PREFIX.as_bytes()) {
                if upper.form == Form::Overlay {
                    let problem = whiteout::problem(&String::from_utf8_lossy(name));
                    return Err(OciError::Member { path: shown(&inner(name)), problem });
                }
                if hidden != b".wh..opq" {
                    self.entries.insert(inner(hidden), Entry::whiteout());
                } else if let Some(above) = self.entries.get_mut(path) {
                    above.change = Change::Directory(true);
                }
                continue;
            }
            let inner = inner(name);
            let Some(entry) = self.entry(&inner, upper)? else { continue };
            let is_directory = matches!(entry.change, Change::Directory(_));
            self.entries.insert(inner.clone(), entry);
            if is_directory {
                self.directory(&inner, upper)?;
            }
        }
        Ok(())
    }

    /// Lets directories hide directories alone, and whiteouts what a layer has: overlays make other directories opaque, too, and not
    /// each kernel the same ones; and a sandbox shows files of its own.
    fn hide_what_is_there(&mut self, lower: &Lower<'_>) -> io::Result<()> {
        let mut gone = Vec::new();
        for (path, entry) in &mut self.entries {
            match entry.change {
                Change::Directory(true) => entry.change = Change::Directory(lower.at(path)? == Shown::Directory),
                Change::Whiteout if lower.at(path)? == Shown::Nothing => gone.push(path.clone()),
                _ => {}
            }
        }
        gone.iter().for_each(|path| drop(self.entries.remove(path)));
        Ok(())
    }

    /// Takes held capabilities from files that were written to or given away, as the kernel does where it knows of them
    /// (capabilities(7), "File capabilities").
    fn drop_capabilities(&mut self, lower: &Lower<'_>) -> io::Result<()> {
        for (path, entry) in self.entries.iter_mut().filter(|(_, entry)| entry.has_held_capability) {
            let Some(below) = lower.place(path)? else { continue };
            let (was, is) = (
                fs_err::symlink_metadata(&below)?,
                fs_err::symlink_metadata(self.upper.join(OsStr::from_bytes(path)))?,
            );
            let noted = attributes(&below)?.into_iter().find(|(name, _)| name == OWNER.as_bytes());
            let noted = noted.and_then(|(_, text)| owner(&text)).unwrap_or((0, 0));
            let state = |found: &std::fs::Metadata| (found.len(), found.mtime(), found.mtime_nsec());
            if noted != entry.owner || state(&was) != state(&is) {
                entry.records.retain(|(name, _)| name != CAPABILITY);
            }
        }
        Ok(())
    }

    /// Returns a path of the upper directory as it goes into the layer; `None` for a socket.
    fn entry(&mut self, path: &[u8], upper: &Upper<'_>) -> Result<Option<Entry>, OciError> {
        let owners = upper.owners;
        let place = self.place(path);
        let found = fs_err::symlink_metadata(&place)?;
        let kind = found.file_type();
        if kind.is_char_device() && found.rdev() == 0 {
            return Ok(Some(Entry::whiteout()));
        }
        let needed = if kind.is_dir() { 0o700 } else { 0o400 };
        if owners == Owners::Noted && (kind.is_dir() || kind.is_file()) && found.mode() & needed != needed {
            // Root of the namespace may read it, and its owner outside may not.
            fs_err::set_permissions(&place, PermissionsExt::from_mode(found.mode() | needed))?;
        }
        let attributes = if kind.is_symlink() { Vec::new() } else { attributes(&place)? };
        let held = |name: &str| attributes.iter().find(|(known, _)| known == name.as_bytes()).map(|(_, value)| value);
        let change = if kind.is_dir() {
            Change::Directory(held(OPAQUE).is_some_and(|value| value == b"y"))
        } else if kind.is_symlink() {
            Change::Symlink(fs_err::read_link(&place)?.into_os_string().as_bytes().to_vec())
        } else if kind.is_fifo() {
            Change::Pipe
        } else if kind.is_file() {
            Change::File(found.len())
        } else {
            return Ok(None);
        };
        let inode = (kind.is_file() && found.nlink() > 1).then(|| (found.dev(), found.ino()));
        let noted = match owners {
            Owners::Given => Some((found.uid(), found.gid())),
            Owners::Noted => held(OWNER).and_then(|text| owner(text)).or_else(|| (upper.others)(&place)),
        };
        let owner = noted.unwrap_or((0, 0));
        let time = u64::try_from(found.mtime()).unwrap_or(0);
        let mode = match inode {
            Some(inode) => *self.modes.entry(inode).or_insert(found.mode() & 0o7777),
            None => found.mode() & 0o7777,
        };
        let records = records(&attributes);
        let has_held_capability = held(HELD_CAPABILITY).is_some();
        Ok(Some(Entry { mode, owner, time, records, has_held_capability, text: None, inode, change }))
    }

    fn place(&self, path: &[u8]) -> PathBuf {
        self.upper.join(OsStr::from_bytes(path))
    }

    /// Removes what changes from run to run, and rewrites what holds a day or a number of the machine.
    fn leave_out(&mut self) {
        let upper = self.upper.clone();
        self.entries.retain(|path, entry| {
            let Ok(path) = std::str::from_utf8(path) else { return true };
            if matches!(entry.change, Change::Whiteout) {
                return !is_below(path, &["run", "dev", "proc", "sys"]) && !is_of_runtime(path);
            }
            if !matches!(entry.change, Change::Directory(_)) && is_volatile(path) {
                return false;
            }
            if let Change::File(size) = entry.change {
                entry.text = match path {
                    "etc/machine-id" | "var/lib/dbus/machine-id" => Some(Vec::new()),
                    "etc/shadow" if size < MAX_TEXT => {
                        fs_err::read_to_string(upper.join(path)).ok().map(|text| shadow(&text).into_bytes())
                    }
                    _ => None,
                };
                if let Some(text) = &entry.text {
                    entry.change = Change::File(text.len() as u64);
                }
            }
            true
        });
    }

    /// Turns further names of a file into hard links: each stands after the path that it leads to.
    fn link(&mut self) {
        let mut first = BTreeMap::new();
        for (path, entry) in &mut self.entries {
            let Some(inode) = entry.inode else { continue };
            match first.get(&inode) {
                Some(target) => entry.change = Change::HardLink(Vec::clone(target)),
                None => drop(first.insert(inode, path.clone())),
            }
        }
    }

    /// Returns the digest of everything that goes into the layer but times.
    pub fn digest(&self) -> Result<Digest, OciError> {
        let (mut hash, mut buffer) = (Sha256::new(), vec![0; 256 << 10]);
        for (path, entry) in &self.entries {
            let Entry { change, mode, owner, records, .. } = entry;
            hash.update(format!("{path:?} {change:?} {mode:o} {owner:?} {records:?}\n"));
            if let Change::File(_) = change {
                let mut content = self.content(path, entry, 0)?;
                loop {
                    let read = content.read(&mut buffer)?;
                    if read == 0 {
                        break;
                    }
                    hash.update(&buffer[..read]);
                }
            }
        }
        Ok(Digest::finish(hash))
    }

    /// Opens the content of a file. Bytecode of a source that is among the changes too, and is as it was compiled, gets the source's
    /// time.
    fn content<'e>(&self, path: &[u8], entry: &'e Entry, time: u64) -> io::Result<Box<dyn Read + 'e>> {
        if let Some(text) = &entry.text {
            return Ok(Box::new(text.as_slice()));
        }
        let mut data = BufReader::with_capacity(256 << 10, fs_err::File::open(self.place(path))?);
        let source = std::str::from_utf8(path).ok().and_then(bytecode::source_path);
        let Some(source) = source.and_then(|source| self.entries.get(source.as_bytes())) else {
            return Ok(Box::new(data));
        };
        let mut head = Vec::new();
        data.by_ref().take(bytecode::HEAD as u64).read_to_end(&mut head)?;
        let is_fresh = match source.change {
            Change::File(size) => bytecode::source(&head) == Some((source.time as u32, size as u32)),
            _ => false,
        };
        if is_fresh {
            bytecode::date(&mut head, time);
        }
        Ok(Box::new(io::Cursor::new(head).chain(data)))
    }

    /// Writes the layer's tar. Files get `time`, in seconds since 1970; directories and links the oldest one. `advance` gets bytes of
    /// content.
    pub fn write(
        &self,
        time: u64,
        out: &mut impl Write,
        advance: &mut dyn FnMut(u64) -> io::Result<()>,
    ) -> Result<(), OciError> {
        let mut writer = Writer::new(out);
        for (path, entry) in &self.entries {
            self.member(path, entry, time, &mut writer).map_err(|error| {
                io::Error::new(error.kind(), format!("`/{}` became another while it was read: {error}", shown(path)))
            })?;
            if let Change::File(size) = entry.change {
                advance(size)?;
            }
        }
        writer.finish()?;
        Ok(())
    }

    fn member(&self, path: &[u8], entry: &Entry, time: u64, writer: &mut Writer<impl Write>) -> io::Result<()> {
        let mut name = path.to_vec();
        let (kind, link, size): (_, &[u8], _) = match &entry.change {
            Change::Directory(_) => {
                name.push(b'/');
                (EntryType::Directory, b"", 0)
            }
            Change::File(size) => (EntryType::Regular, b"", *size),
            Change::HardLink(to) => (EntryType::Link, to, 0),
            Change::Symlink(to) => (EntryType::Symlink, to, 0),
            Change::Pipe => (EntryType::Fifo, b"", 0),
            Change::Whiteout => {
                let last = path.iter().rposition(|byte| *byte == b'/').map_or(0, |slash| slash + 1);
                name.splice(last..last, whiteout::PREFIX.bytes());
                (EntryType::Regular, b"", 0)
            }
        };
        let (uid, gid) = (u64::from(entry.owner.0), u64::from(entry.owner.1));
        let is_file = matches!(entry.change, Change::File(_) | Change::HardLink(_));
        let time = if is_file { time } else { OLDEST };
        let member =
            Member { path: &name, link, kind, mode: entry.mode, uid, gid, time, size, records: &entry.records };
        match &entry.change {
            Change::File(_) => writer.member(&member, self.content(path, entry, time)?)?,
            _ => writer.member(&member, io::empty())?,
        }
        if entry.change == Change::Directory(true) {
            let marker = [path, b"/.wh..wh..opq"].concat();
            writer.member(&Member { path: &marker, ..Member::file("", 0) }, io::empty())?;
        }
        Ok(())
    }
}

/// Returns the extended attributes of a file.
pub(super) fn attributes(place: &Path) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut names = vec![0; 64 << 10];
    let length = match rustix::fs::llistxattr(place, names.as_mut_slice()) {
        Err(Errno::OPNOTSUPP) => return Ok(Vec::new()),
        length => length?,
    };
    let mut all = Vec::new();
    for name in names[..length].split(|byte| *byte == 0).filter(|name| !name.is_empty()) {
        let mut value = vec![0; 64 << 10];
        let length = rustix::fs::lgetxattr(place, OsStr::from_bytes(name), value.as_mut_slice())?;
        value.truncate(length);
        all.push((name.to_vec(), value));
    }
    all.sort();
    Ok(all)
}

/// Returns the pax records of extended attributes: those that are held for a user without rights come back under their names.
pub(super) fn records(attributes: &[(Vec<u8>, Vec<u8>)]) -> Vec<(Vec<u8>, Vec<u8>)> {
    let mut records: Vec<_> = attributes
        .iter()
        .filter_map(|(name, value)| {
            let name = name.strip_prefix(HELD.as_bytes()).unwrap_or(name);
            let is_internal = OF_OVERLAY.iter().any(|prefix| name.starts_with(prefix.as_bytes()))
                || name == OWNER.as_bytes()
                || name.starts_with(b"security.selinux");
            let value = if name == b"security.capability" { plain_capability(value) } else { value.clone() };
            (!is_internal).then(|| ([b"SCHILY.xattr.", name].concat(), value))
        })
        .collect();
    records.sort();
    records
}

/// Returns the capabilities of a file without the namespace that set them (`struct vfs_ns_cap_data`, version 3, of capability.h: a
/// root id follows 20 bytes that are those of version 2).
fn plain_capability(value: &[u8]) -> Vec<u8> {
    match value {
        [low, second, third, 3, rest @ ..] if value.len() == 24 => [&[*low, *second, *third, 2], &rest[..16]].concat(),
        other => other.to_vec(),
    }
}

pub(super) fn owner(text: &[u8]) -> Option<(u32, u32)> {
    let (user, group) = std::str::from_utf8(text).ok()?.split_once(':')?;
    Some((user.parse().ok()?, group.parse().ok()?))
}

fn is_below(path: &str, directories: &[&str]) -> bool {
    directories.iter().any(|above| path.strip_prefix(above).is_some_and(|rest| rest.starts_with('/')))
}

/// Returns true for a file over which runtimes put one of their own, and the sandbox, too.
fn is_of_runtime(path: &str) -> bool {
    matches!(path, "etc/hosts" | "etc/hostname" | "etc/resolv.conf")
}

/// Returns true for a file that a command changes though it did nothing that counts, and that a system makes again when it needs it.
fn is_volatile(path: &str) -> bool {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let is_log = matches!(
        path,
        "var/log/dpkg.log"
            | "var/log/alternatives.log"
            | "var/log/bootstrap.log"
            | "var/log/btmp"
            | "var/log/wtmp"
            | "var/log/lastlog"
            | "var/log/faillog"
            | "var/lib/systemd/random-seed"
            | "var/cache/apt/pkgcache.bin"
            | "var/cache/apt/srcpkgcache.bin"
            | "var/lib/dpkg/lock"
            | "var/lib/dpkg/lock-frontend"
            | "var/lib/dpkg/triggers/Lock"
            | "var/lib/apt/lists/lock"
            | "var/cache/apt/archives/lock"
    );
    is_backup(folder, name)
        || is_log
        || is_of_runtime(path)
        || is_below(path, &["run", "dev", "proc", "sys", "var/log/apt", "var/cache/ldconfig"])
}
