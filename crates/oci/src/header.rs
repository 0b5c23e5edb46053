//! Tar headers that depend on nothing but what is in them.
//!
//! Plain ustar where that can say it (POSIX.1-1988), with a pax header before it where it cannot: names above 100 bytes
//! or not in ASCII, sizes of 8 GiB and more (POSIX.1-2001, "pax Interchange Format"). The prefix field of ustar is not
//! used: two ways to write one name would be two layers.

use tar::{EntryType, Header};

/// File times in layers: 1980-01-01T00:00:00Z, the oldest that Python's zip tools accept, in seconds since 1970.
pub const FILE_TIME: u64 = 315_532_800;

const BLOCK: usize = 512;
const NAME: usize = 100;
/// The largest number that eleven octal digits write.
const LARGEST_SIZE: u64 = 0o77_777_777_777;

/// What a tar header says.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member<'a> {
    /// Path without a leading slash.
    pub path: &'a str,
    /// What it is.
    pub kind: Kind<'a>,
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
}

/// What a member of a tar is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind<'a> {
    /// A file of so many bytes, which follow.
    File(u64),
    /// A directory.
    Directory,
    /// A symbolic link to this.
    Symlink(&'a str),
}

impl Member<'_> {
    /// Appends the header.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let (kind, size, link) = match self.kind {
            Kind::File(size) => (EntryType::Regular, size, ""),
            Kind::Directory => (EntryType::Directory, 0, ""),
            Kind::Symlink(to) => (EntryType::Symlink, 0, to),
        };
        let slash = if kind == EntryType::Directory { "/" } else { "" };
        let path = format!("{}{slash}", self.path);
        let mut records = Vec::new();
        for (key, value) in [("path", path.as_str()), ("linkpath", link)] {
            if value.len() > NAME || !value.is_ascii() {
                pax_record(&mut records, key, value);
            }
        }
        if size > LARGEST_SIZE {
            pax_record(&mut records, "size", &size.to_string());
        }
        if !records.is_empty() {
            let name = "PaxHeaders/0";
            push(out, name, EntryType::XHeader, records.len() as u64, "", 0o644, (0, 0));
            out.extend_from_slice(&records);
            out.resize(out.len() + padding(records.len() as u64), 0);
        }
        push(out, &path, kind, size.min(LARGEST_SIZE), link, self.mode, self.owner);
    }
}

fn push(out: &mut Vec<u8>, path: &str, kind: EntryType, size: u64, link: &str, mode: u32, owner: (u32, u32)) {
    let mut header = Header::new_ustar();
    let fields = header.as_old_mut();
    copy(&mut fields.name, path);
    copy(&mut fields.linkname, link);
    header.set_entry_type(kind);
    header.set_size(size);
    header.set_mode(mode);
    header.set_uid(u64::from(owner.0));
    header.set_gid(u64::from(owner.1));
    header.set_mtime(FILE_TIME);
    header.set_cksum();
    out.extend_from_slice(header.as_bytes());
}

/// As much of a text as fits, cut between characters; a pax record holds the whole where it does not fit.
fn copy(field: &mut [u8; NAME], text: &str) {
    let end = (0..=text.len().min(NAME)).rev().find(|end| text.is_char_boundary(*end)).unwrap_or(0);
    field[..end].copy_from_slice(&text.as_bytes()[..end]);
}

/// `LENGTH KEY=VALUE\n`, where the length counts its own digits.
fn pax_record(out: &mut Vec<u8>, key: &str, value: &str) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + rest.to_string().len();
    if length.to_string().len() + rest != length {
        length += 1;
    }
    out.extend_from_slice(format!("{length} {key}={value}\n").as_bytes());
}

/// Zero bytes after content of this size, up to the next block.
pub(crate) fn padding(size: u64) -> usize {
    let over = (size % BLOCK as u64) as usize;
    if over == 0 { 0 } else { BLOCK - over }
}

/// What ends an archive: two blocks of zeros.
pub(crate) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

#[cfg(test)]
mod tests {
    use std::io::Read;

    use super::*;

    fn read_back(members: &[(Member<'_>, &[u8])]) -> Vec<(String, String, u32, u64)> {
        let mut bytes = Vec::new();
        for (member, content) in members {
            member.write(&mut bytes);
            bytes.extend_from_slice(content);
            bytes.resize(bytes.len() + padding(content.len() as u64), 0);
        }
        bytes.extend_from_slice(&END);
        let mut archive = tar::Archive::new(bytes.as_slice());
        let mut found = Vec::new();
        for entry in archive.entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = String::from_utf8(entry.path_bytes().to_vec()).unwrap();
            let link = entry.link_name_bytes().map(|link| String::from_utf8(link.to_vec()).unwrap());
            let mut content = Vec::new();
            entry.read_to_end(&mut content).unwrap();
            let header = entry.header();
            assert_eq!(header.mtime().unwrap(), FILE_TIME);
            found.push((path, link.unwrap_or_default(), header.mode().unwrap(), content.len() as u64));
        }
        found
    }

    #[test]
    fn long_and_foreign_names_survive() {
        for length in [1, 99, 100, 101, 155, 300, 970, 1010] {
            for letter in ["a", "é"] {
                let path = letter.repeat(length);
                let file = Member { path: &path, kind: Kind::File(3), mode: 0o644, owner: (0, 0) };
                let link = Member { path: "l", kind: Kind::Symlink(&path), mode: 0o777, owner: (0, 0) };
                let found = read_back(&[(file, b"abc"), (link, b"")]);
                assert_eq!(found[0], (path.clone(), String::new(), 0o644, 3));
                assert_eq!(found[1], ("l".into(), path, 0o777, 0));
            }
        }
    }

    #[test]
    fn directories_end_with_a_slash() {
        let directory = Member { path: "opt/venv", kind: Kind::Directory, mode: 0o755, owner: (0, 0) };
        assert_eq!(read_back(&[(directory, b"")])[0].0, "opt/venv/");
    }

    #[test]
    fn a_size_of_many_gigabytes_is_written_in_a_pax_header() {
        let mut bytes = Vec::new();
        Member { path: "big", kind: Kind::File(9 << 30), mode: 0o644, owner: (0, 0) }.write(&mut bytes);
        assert!(String::from_utf8_lossy(&bytes).contains("19 size=9663676416\n"));
    }
}
