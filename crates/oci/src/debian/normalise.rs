//! From the archive that mmdebstrap writes to one whose bytes depend on the packages alone.
//!
//! mmdebstrap is reproducible on one machine with one version of itself. What still differs between machines is undone
//! here, and what a system only needs while it runs is left out:
//!
//! - Order, times and the names of owners are the file system's: sorted by path, one time for all files (see
//!   [`crate::time`]), numbers only.
//! - `/dev/*`, `/proc/*`, `/sys/*`, `/tmp/*`, files in `/run` and device nodes are dropped: the runtime mounts its own,
//!   and an ordinary user could not make them.
//! - `/etc/hostname` and `/etc/resolv.conf` are dropped: mmdebstrap copies them from the host.
//! - `/etc/machine-id` is emptied, as machine-id(5) wants it for images.
//! - Logs, caches of apt, ldconfig, man and debconf, package lists, locks and backups (`*-old`, `passwd-`) are dropped,
//!   or emptied where a package made the file: they hold times or the mirror's present state, or depend on the host's
//!   apt.
//! - `/etc/shadow` holds the day of its creation where the tools do not know `SOURCE_DATE_EPOCH`: 1980-01-01.
//! - `/etc/apt/sources.list` loses `signed-by`, which mmdebstrap adds with a path of the host where the host's apt does
//!   not trust the archive anyway. The mirror's address stays: it is mmdebstrap's constant or the stack file's word,
//!   not the machine's.
//! - `99mmdebstrap` in the configuration of apt and dpkg is dropped: options that were for the bootstrap alone.
//! - A `.pyc` that holds the time and size of its source as they were gets the new time (PEP 552), or Python would compile it
//!   again on every start; any other stays as it is.

use std::collections::BTreeMap;
use std::io::{self, BufReader, BufWriter, Read, Seek, SeekFrom, Write};

use kiln_plan::whiteout;
use tar::EntryType;

use super::DebianError;
use crate::bytecode;
use crate::facts::entries::Entries;
use crate::header::{Member, Writer};
use crate::time::OLDEST;

/// What the index of an archive may take: some million members.
const MAX_INDEX: usize = 512 * 1024 * 1024;

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
}

/// What becomes of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Treatment {
    Keep,
    Drop,
    Empty,
    Shadow,
    Sources,
    Bytecode,
}

/// Reads the archive that mmdebstrap wrote, twice, and writes it deterministically (see the module's description). Files get
/// `time`, in seconds since 1970.
pub fn normalise(mut raw: impl Read + Seek, out: impl Write, time: u64) -> Result<Normalised, DebianError> {
    let index = index(BufReader::with_capacity(BUFFER, &mut raw))?;
    let keyring = index.keyring();
    let mut writer = Writer::new(BufWriter::with_capacity(BUFFER, out));
    // Where each content was written first: sorting may put a hard link before what it linked to.
    let mut first: BTreeMap<usize, &[u8]> = BTreeMap::new();
    let mut members = 0;
    for (path, id) in &index.paths {
        let Some(inode) = index.inodes.get(*id) else {
            continue;
        };
        let treatment = Treatment::of(path, inode);
        if treatment == Treatment::Drop {
            continue;
        }
        let earlier = first.get(id).copied();
        first.entry(*id).or_insert(path);
        let source = std::str::from_utf8(path).ok().filter(|_| treatment == Treatment::Bytecode);
        let source = source.and_then(|path| index.inode(&bytecode::source_path(path)?));
        let source = source.map(|source| (source.time as u32, source.size as u32));
        let rewriting = Rewriting { treatment, earlier, keyring, source, time };
        write(&mut writer, &mut raw, (path, inode), &rewriting)
            .map_err(|source| DebianError::Member { path: String::from_utf8_lossy(path).into_owned(), source })?;
        members += 1;
    }
    let size = writer.finish().map_err(DebianError::Write)?;
    Ok(Normalised { members, size })
}

fn index(raw: impl Read) -> Result<Index, DebianError> {
    let mut index = Index::default();
    let mut cost = 0_usize;
    let mut entries = Entries::new(raw);
    while let Some(member) = entries.next_member().map_err(DebianError::Raw)? {
        let refused =
            |reason| DebianError::Refused { path: String::from_utf8_lossy(&member.path).into_owned(), reason };
        let path = clean(&member.path).ok_or_else(|| refused("leaves the root"))?;
        if path.is_empty() {
            continue;
        }
        if path.split(|byte| *byte == b'/').any(|name| name.starts_with(whiteout::PREFIX.as_bytes())) {
            return Err(refused("has a name that begins with `.wh.`, by which layers delete files"));
        }
        if member.sparse {
            return Err(refused("is a sparse member"));
        }
        cost = cost.saturating_add(256 + path.len() + member.link.len());
        let id = if member.kind.is_hard_link() {
            let target = clean(&member.link).and_then(|target| index.paths.get(&target).copied());
            target.ok_or_else(|| refused("is a hard link to nothing"))?
        } else {
            let mut records = member.records;
            records.retain(|(key, _)| is_kept_record(key));
            records.sort();
            cost = records.iter().fold(cost, |cost, (key, value)| cost.saturating_add(key.len() + value.len() + 64));
            index.inodes.push(Inode {
                kind: if member.kind.is_contiguous() { EntryType::Regular } else { member.kind },
                mode: member.mode,
                uid: member.uid,
                gid: member.gid,
                time: member.time,
                size: member.size,
                offset: member.offset,
                link: member.link,
                records,
            });
            index.inodes.len() - 1
        };
        index.paths.insert(path, id);
        if cost > MAX_INDEX {
            return Err(DebianError::TooMuch);
        }
    }
    Ok(index)
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

    /// The keyring that `sources.list` has to name, where apt does not trust any key by default.
    fn keyring(&self) -> Option<&'static str> {
        let trusted = b"etc/apt/trusted.gpg.d/";
        let mut keys = self.paths.range(trusted.to_vec()..).take_while(|(path, _)| path.starts_with(trusted));
        if keys.next().is_some() || self.paths.contains_key(b"etc/apt/trusted.gpg".as_slice()) {
            return None;
        }
        [
            "/usr/share/keyrings/debian-archive-keyring.gpg",
            "/usr/share/keyrings/debian-archive-keyring.pgp",
            "/usr/share/keyrings/ubuntu-archive-keyring.gpg",
        ]
        .into_iter()
        .find(|path| self.paths.contains_key(path.trim_start_matches('/').as_bytes()))
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
            // apt makes these itself, with the host's idea of the user id of `_apt`.
            let made_by_apt = matches!(
                path,
                "var/lib/apt/lists/partial" | "var/lib/apt/lists/auxfiles" | "var/cache/apt/archives/partial"
            );
            return if made_by_apt { Self::Drop } else { Self::Keep };
        }
        match path {
            _ if is_backup(folder, name) => Self::Drop,
            "etc/machine-id" => Self::Empty,
            "var/log/btmp" | "var/log/wtmp" | "var/log/lastlog" | "var/log/faillog" => Self::Empty,
            "etc/hostname" | "etc/resolv.conf" => Self::Drop,
            "etc/apt/apt.conf.d/99mmdebstrap" | "etc/dpkg/dpkg.cfg.d/99mmdebstrap" => Self::Drop,
            "var/lib/dpkg/lock" | "var/lib/dpkg/lock-frontend" | "var/lib/dpkg/triggers/Lock" => Self::Drop,
            "var/lib/dbus/machine-id" | "var/lib/systemd/random-seed" => Self::Drop,
            _ if below(&["run", "var/log", "var/lib/apt/lists"]) => Self::Drop,
            _ if below(&["var/cache/apt", "var/cache/ldconfig", "var/cache/man"]) => Self::Drop,
            _ if !inode.kind.is_file() => Self::Keep,
            "etc/shadow" => Self::Shadow,
            "etc/apt/sources.list" => Self::Sources,
            _ if folder == "etc/apt/sources.list.d" && name.ends_with(".list") => Self::Sources,
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
    /// The keyring for `sources.list`.
    keyring: Option<&'a str>,
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
    let &Rewriting { treatment, earlier, keyring, source, time } = rewriting;
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
        Treatment::Shadow | Treatment::Sources => {
            let text = read_text(data)?;
            let text = match treatment {
                Treatment::Shadow => shadow(&text),
                _ => sources(&text, keyring),
            };
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

/// Takes `signed-by` out of one-line sources (sources.list(5)): mmdebstrap adds the path of the host's keyring where
/// the host's apt does not trust the archive anyway, as on any host that is not Debian. Inside, the keys are those that
/// the archive's keyring package brings: trusted by default, or `keyring`.
fn sources(text: &str, keyring: Option<&str>) -> String {
    let mut out = String::new();
    for line in text.lines() {
        let mut words: Vec<&str> = line.split_whitespace().collect();
        if !matches!(words.first(), Some(&("deb" | "deb-src"))) {
            out.push_str(line);
            out.push('\n');
            continue;
        }
        let kind = words.remove(0);
        let rest = words.join(" ");
        let (options, rest) = match rest.strip_prefix('[').and_then(|rest| rest.split_once(']')) {
            Some((options, rest)) => (options, rest.trim_start()),
            None => ("", rest.as_str()),
        };
        let mut options: Vec<String> =
            options.split_whitespace().filter(|option| !option.starts_with("signed-by")).map(str::to_owned).collect();
        options.extend(keyring.map(|keyring| format!("signed-by={keyring}")));
        out.push_str(kind);
        if !options.is_empty() {
            out.push_str(&format!(" [{}]", options.join(" ")));
        }
        out.push_str(&format!(" {rest}\n"));
    }
    out
}

#[cfg(test)]
mod tests;
