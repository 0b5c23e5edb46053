//! From the parts of a system, as they were unpacked and as its scripts changed them, to one archive whose bytes depend on the packages
//! alone.
//!
//! Packages and their scripts give nearly the same files everywhere. What still differs is undone here, and what a system only needs
//! while it runs is left out:
//!
//! - Order, times and the names of owners are the file system's: sorted by path, one time for all files (see
//!   [`crate::time`]), numbers only.
//! - `/dev/*`, `/proc/*`, `/sys/*`, `/tmp/*`, files in `/run` and device nodes are dropped: the runtime mounts its own,
//!   and an ordinary user could not make them.
//! - `/etc/hostname` and `/etc/resolv.conf` are dropped: they are the machine's.
//! - `/etc/machine-id` is emptied, as machine-id(5) wants it for images.
//! - Logs, caches of apt, ldconfig, man and debconf, package lists, locks and backups (`*-old`, `passwd-`) are dropped,
//!   or emptied where a package made the file: they hold times or the mirror's present state, or depend on the host's
//!   apt.
//! - `/etc/shadow` holds the day of its creation where the tools do not know `SOURCE_DATE_EPOCH`: 1980-01-01.
//! - A `.pyc` that holds the time and size of its source as they were gets the new time (PEP 552), or Python would compile it
//!   again on every start; any other stays as it is.

use std::collections::BTreeMap;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};

use kiln_plan::whiteout;
use tar::EntryType;

use super::NormaliseError;
use crate::bytecode;
use crate::facts::entries::Entries;
use crate::header::{Member, Writer};
use crate::time::OLDEST;

/// What the index of an archive may take: some million members.
const MAX_INDEX: usize = 512 * 1024 * 1024;

/// The file that hides all that earlier parts have in its directory.
const OPAQUE: &str = ".wh..wh..opq";

/// The largest file that is rewritten in memory.
const MAX_TEXT: u64 = 4 * 1024 * 1024;

const BUFFER: usize = 256 * 1024;

/// Days from 1970-01-01 to 1980-01-01, as shadow(5) counts.
const DAY: &str = "3652";

/// What [`normalise`] wrote.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Normalised {
    /// Members of the archive.
    pub members: u64,
    /// Size of the archive in bytes.
    pub size: u64,
}

/// What stands behind one path or, with hard links, behind several.
struct Inode {
    kind: EntryType,
    mode: u32,
    uid: u64,
    gid: u64,
    /// Seconds since 1970.
    time: u64,
    size: u64,
    /// The part that has its content, and where.
    part: usize,
    offset: u64,
    /// Target of a symbolic link.
    link: Vec<u8>,
    /// Extended attributes as pax records.
    records: Vec<(Vec<u8>, Vec<u8>)>,
}

/// An archive by path, and the contents behind the paths.
#[derive(Default)]
struct Index {
    paths: BTreeMap<Vec<u8>, usize>,
    inodes: Vec<Inode>,
    /// Bytes of memory, roughly.
    cost: usize,
}

/// What becomes of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Treatment {
    Keep,
    Drop,
    Empty,
    Shadow,
    Bytecode,
}

/// Reads the parts of a system, twice, and writes them deterministically as one archive (see the module's description). Later parts lie
/// over earlier ones, of which they delete files as layers do (OCI image specification, "Whiteouts"). Files get `time`, in seconds since
/// 1970.
///
/// # Errors
///
/// If a part is no sound archive, or the result cannot be written.
pub fn normalise<R: Read + Seek>(parts: &mut [R], out: impl Write, time: u64) -> Result<Normalised, NormaliseError> {
    let index = index(parts)?;
    let mut writer = Writer::new(BufWriter::with_capacity(BUFFER, out));
    // Where each content was written first: sorting may put a hard link before what it linked to.
    let mut first: BTreeMap<usize, &[u8]> = BTreeMap::new();
    let mut members = 0;
    for (path, id) in &index.paths {
        let Some(inode) = index.inodes.get(*id) else {
            continue;
        };
        let treatment = Treatment::of(path, inode);
        let Some(raw) = parts.get_mut(inode.part).filter(|_| treatment != Treatment::Drop) else {
            continue;
        };
        let earlier = first.get(id).copied();
        first.entry(*id).or_insert(path);
        let source = std::str::from_utf8(path).ok().filter(|_| treatment == Treatment::Bytecode);
        let source = source.and_then(|path| index.inode(&bytecode::source_path(path)?));
        let source = source.map(|source| (source.time as u32, source.size as u32));
        let rewriting = Rewriting { treatment, earlier, source, time };
        write(&mut writer, raw, (path, inode), &rewriting)
            .map_err(|source| NormaliseError::Member { path: String::from_utf8_lossy(path).into_owned(), source })?;
        members += 1;
    }
    let size = writer.finish().map_err(NormaliseError::Write)?;
    Ok(Normalised { members, size })
}

fn index<R: Read + Seek>(parts: &mut [R]) -> Result<Index, NormaliseError> {
    let mut index = Index::default();
    for (number, part) in parts.iter_mut().enumerate() {
        index.add(number, BufReader::with_capacity(BUFFER, part))?;
    }
    Ok(index)
}

impl Index {
    fn add(&mut self, part: usize, raw: impl Read) -> Result<(), NormaliseError> {
        let mut entries = Entries::new(raw);
        while let Some(member) = entries.next_member().map_err(NormaliseError::Raw)? {
            let refused =
                |reason| NormaliseError::Refused { path: String::from_utf8_lossy(&member.path).into_owned(), reason };
            let path = clean(&member.path).ok_or_else(|| refused("leaves the root"))?;
            if path.is_empty() {
                continue;
            }
            let whiteout = |name: &&[u8]| name.starts_with(whiteout::PREFIX.as_bytes());
            let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').collect();
            match names.iter().position(whiteout) {
                None => {}
                Some(at) if part > 0 && at + 1 == names.len() => {
                    self.delete(part, &names);
                    continue;
                }
                Some(_) => return Err(refused("has a name that begins with `.wh.`, by which layers delete files")),
            }
            if member.sparse {
                return Err(refused("is a sparse member"));
            }
            self.cost = self.cost.saturating_add(256 + path.len() + member.link.len());
            let id = if member.kind.is_hard_link() {
                let target = clean(&member.link).and_then(|target| self.paths.get(&target).copied());
                target.ok_or_else(|| refused("is a hard link to nothing"))?
            } else {
                self.inode_of(part, member)
            };
            if !self.inodes.get(id).is_some_and(|inode| inode.kind.is_dir()) {
                self.delete_below(&path, |_| true);
            }
            self.paths.insert(path, id);
            if self.cost > MAX_INDEX {
                return Err(NormaliseError::TooMuch);
            }
        }
        Ok(())
    }

    fn inode_of(&mut self, part: usize, member: crate::facts::entries::Member) -> usize {
        let mut records = member.records;
        records.retain(|(key, _)| is_kept_record(key));
        records.sort();
        self.cost =
            records.iter().fold(self.cost, |cost, (key, value)| cost.saturating_add(key.len() + value.len() + 64));
        self.inodes.push(Inode {
            kind: if member.kind.is_contiguous() { EntryType::Regular } else { member.kind },
            mode: member.mode,
            uid: member.uid,
            gid: member.gid,
            time: member.time,
            size: member.size,
            part,
            offset: member.offset,
            link: member.link,
            records,
        });
        self.inodes.len() - 1
    }

    /// Deletes what a path `DIRECTORY/.wh.NAME` of a part hides in earlier ones.
    fn delete(&mut self, part: usize, names: &[&[u8]]) {
        let Some((last, above)) = names.split_last() else { return };
        let hidden = last.strip_prefix(whiteout::PREFIX.as_bytes()).unwrap_or_default();
        let is_earlier = |inode: &Inode| inode.part < part;
        if *last == OPAQUE.as_bytes() {
            return self.delete_below(&above.join(&b'/'), is_earlier);
        }
        let path = [above, &[hidden]].concat().join(&b'/');
        self.delete_below(&path, is_earlier);
        if self.paths.get(&path).and_then(|id| self.inodes.get(*id)).is_some_and(is_earlier) {
            self.paths.remove(&path);
        }
    }

    fn delete_below(&mut self, path: &[u8], is_meant: impl Fn(&Inode) -> bool) {
        let start = if path.is_empty() { Vec::new() } else { [path, b"/"].concat() };
        let below = self.paths.range(start.clone()..).take_while(|(path, _)| path.starts_with(&start));
        let meant = below.filter(|(_, id)| self.inodes.get(**id).is_some_and(&is_meant));
        let meant: Vec<Vec<u8>> = meant.map(|(path, _)| path.clone()).collect();
        for path in meant {
            self.paths.remove(&path);
        }
    }
}

/// Extended attributes belong to files, except SELinux's labels, which are the host's.
fn is_kept_record(key: &[u8]) -> bool {
    key.strip_prefix(b"SCHILY.xattr.").is_some_and(|name| !name.starts_with(b"security.selinux"))
        || key.starts_with(b"SCHILY.acl.")
}

/// A path without `.`, doubled and outer slashes; nothing for one with `..`.
fn clean(path: &[u8]) -> Option<Vec<u8>> {
    let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".").collect();
    (!names.contains(&b"..".as_slice())).then(|| names.join(&b'/'))
}

impl Index {
    fn inode(&self, path: &str) -> Option<&Inode> {
        self.inodes.get(*self.paths.get(path.as_bytes())?)
    }
}

impl Treatment {
    fn of(path: &[u8], inode: &Inode) -> Self {
        let Ok(path) = std::str::from_utf8(path) else {
            return Self::Keep;
        };
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        let below = |folders: &[&str]| {
            let is_above = |folder: &&str| path.strip_prefix(*folder).is_some_and(|rest| rest.starts_with('/'));
            folders.iter().any(is_above)
        };
        if inode.kind.is_character_special() || inode.kind.is_block_special() || below(&["dev", "proc", "sys", "tmp"]) {
            return Self::Drop;
        }
        if inode.kind.is_dir() {
            return if path == "var/lib/apt/lists/auxfiles" { Self::Drop } else { Self::Keep };
        }
        match path {
            _ if is_backup(folder, name) => Self::Drop,
            "etc/machine-id" => Self::Empty,
            "var/log/btmp" | "var/log/wtmp" | "var/log/lastlog" | "var/log/faillog" => Self::Empty,
            "etc/hostname" | "etc/resolv.conf" => Self::Drop,
            "var/lib/dpkg/lock" | "var/lib/dpkg/lock-frontend" | "var/lib/dpkg/triggers/Lock" => Self::Drop,
            "var/lib/dbus/machine-id" | "var/lib/systemd/random-seed" => Self::Drop,
            _ if below(&["run", "var/log", "var/lib/apt/lists"]) => Self::Drop,
            _ if below(&["var/cache/apt", "var/cache/ldconfig", "var/cache/man"]) => Self::Drop,
            _ if !inode.kind.is_file() => Self::Keep,
            "etc/shadow" => Self::Shadow,
            _ if name.ends_with(".pyc") => Self::Bytecode,
            _ => Self::Keep,
        }
    }
}

/// Returns true for the copies that tools make of account files, dpkg's status and debconf's answers before they change them.
pub(crate) fn is_backup(folder: &str, name: &str) -> bool {
    match folder {
        "etc" => matches!(name, "passwd-" | "group-" | "shadow-" | "gshadow-" | "subuid-" | "subgid-"),
        "var/lib/dpkg" | "var/cache/debconf" => name.ends_with("-old"),
        _ => false,
    }
}

/// The form of a member in a tar.
struct Rewriting<'a> {
    treatment: Treatment,
    /// The path under which its content was written already.
    earlier: Option<&'a [u8]>,
    /// Time and size of a bytecode's source as they were.
    source: Option<(u32, u32)>,
    /// The time of files.
    time: u64,
}

fn write<R: Read + Seek>(
    writer: &mut Writer<impl Write>,
    raw: &mut R,
    (path, inode): (&[u8], &Inode),
    rewriting: &Rewriting<'_>,
) -> io::Result<()> {
    let &Rewriting { treatment, earlier, source, time } = rewriting;
    let slashed = [path, b"/"].concat();
    let mut member = Member {
        path: if inode.kind.is_dir() { &slashed } else { path },
        link: &inode.link,
        kind: inode.kind,
        mode: inode.mode,
        uid: inode.uid,
        gid: inode.gid,
        time: if inode.kind.is_file() { time } else { OLDEST },
        size: inode.size,
        records: &inode.records,
    };
    if let Some(earlier) = earlier.filter(|_| inode.kind.is_file()) {
        (member.kind, member.link, member.size) = (EntryType::Link, earlier, 0);
        return writer.member(&member, io::empty());
    }
    raw.seek(SeekFrom::Start(inode.offset))?;
    let mut data = raw.take(inode.size);
    match treatment {
        Treatment::Shadow => {
            let text = shadow(&read_text(data)?);
            member.size = text.len() as u64;
            writer.member(&member, text.as_bytes())
        }
        Treatment::Empty => {
            member.size = 0;
            writer.member(&member, io::empty())
        }
        Treatment::Bytecode => {
            let mut start = Vec::with_capacity(16);
            data.by_ref().take(bytecode::HEAD as u64).read_to_end(&mut start)?;
            // Bytecode of another state of its source is stale, and stays so.
            if source.is_some() && bytecode::source(&start) == source {
                bytecode::date(&mut start, time);
            }
            writer.member(&member, start.as_slice().chain(data))
        }
        Treatment::Keep | Treatment::Drop => writer.member(&member, data),
    }
}

fn read_text(data: impl Read) -> io::Result<String> {
    let mut text = String::new();
    data.take(MAX_TEXT + 1).read_to_string(&mut text)?;
    if text.len() as u64 > MAX_TEXT {
        return Err(io::Error::new(io::ErrorKind::FileTooLarge, "too large for a configuration file"));
    }
    Ok(text)
}

/// Dates the last change of every password to 1980-01-01; none, and 0 for a change that is due, stay (shadow(5)).
pub(crate) fn shadow(text: &str) -> String {
    let line = |line: &str| {
        let mut fields: Vec<&str> = line.split(':').collect();
        if let Some(day) = fields.get_mut(2)
            && !day.is_empty()
            && *day != "0"
        {
            *day = DAY;
        }
        fields.join(":") + "\n"
    };
    text.lines().map(line).collect()
}

#[cfg(test)]
mod tests;
