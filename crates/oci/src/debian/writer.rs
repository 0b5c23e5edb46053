//! A tar writer whose bytes depend on nothing but what it is given.
//!
//! Plain ustar (POSIX.1-2017, `pax`, "ustar Interchange Format") without user and group names, with one time for
//! everything; a pax header stands before a member only where ustar cannot say what must be said.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use crate::FILE_TIME;

/// The longest path or link name that a ustar field holds.
const MAX_NAME: usize = 100;

/// The first size that eleven octal digits cannot say: 8 GiB.
const SIZE_LIMIT: u64 = 1 << 33;

/// The first id that seven octal digits cannot say.
const ID_LIMIT: u64 = 1 << 21;

/// What a member is, apart from its data.
pub(super) struct Description<'a> {
    pub(super) path: &'a [u8],
    pub(super) link: &'a [u8],
    pub(super) kind: EntryType,
    pub(super) mode: u32,
    pub(super) uid: u64,
    pub(super) gid: u64,
    pub(super) size: u64,
    /// Further pax records: extended attributes.
    pub(super) records: &'a [(Vec<u8>, Vec<u8>)],
}

/// Writes one archive.
pub(super) struct Writer<W> {
    out: W,
    written: u64,
}

impl<W: Write> Writer<W> {
    pub(super) fn new(out: W) -> Self {
        Self { out, written: 0 }
    }

    /// Writes a member whose data is what `data` holds, which must be exactly as long as described.
    pub(super) fn member(&mut self, member: &Description<'_>, data: impl Read) -> io::Result<()> {
        let records = records(member);
        if !records.is_empty() {
            let path = [b"PaxHeaders/", member.path].concat();
            let header = header(
                &path,
                b"",
                EntryType::XHeader,
                0o644,
                0,
                0,
                records.len() as u64,
            );
            self.put(header.as_bytes())?;
            self.data(records.as_slice(), records.len() as u64)?;
        }
        let (uid, gid) = (field(member.uid, ID_LIMIT), field(member.gid, ID_LIMIT));
        let size = field(member.size, SIZE_LIMIT);
        let header = header(
            member.path,
            member.link,
            member.kind,
            member.mode,
            uid,
            gid,
            size,
        );
        self.put(header.as_bytes())?;
        self.data(data, member.size)
    }

    /// Writes the end of the archive and gives its size.
    pub(super) fn finish(mut self) -> io::Result<u64> {
        self.put(&[0; 1024])?;
        self.out.flush()?;
        Ok(self.written)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }

    fn data(&mut self, data: impl Read, size: u64) -> io::Result<()> {
        let copied = io::copy(&mut data.take(size), &mut self.out)?;
        if copied < size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.written += size;
        let padding = usize::try_from(size.wrapping_neg() % 512).unwrap_or_default();
        self.put([0; 512].get(..padding).unwrap_or_default())
    }
}

/// What goes into a field that may be too small; a pax record says the truth then.
fn field(value: u64, limit: u64) -> u64 {
    if value < limit { value } else { 0 }
}

fn header(
    path: &[u8],
    link: &[u8],
    kind: EntryType,
    mode: u32,
    uid: u64,
    gid: u64,
    size: u64,
) -> Header {
    let mut header = Header::new_ustar();
    let old = header.as_old_mut();
    copy(&mut old.name, path);
    copy(&mut old.linkname, link);
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(uid);
    header.set_gid(gid);
    header.set_size(size);
    header.set_mtime(FILE_TIME);
    header.set_cksum();
    header
}

/// Fills a field with as much as fits.
fn copy(field: &mut [u8], bytes: &[u8]) {
    for (to, from) in field.iter_mut().zip(bytes) {
        *to = *from;
    }
}

fn records(member: &Description<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    for (key, name) in [("path", member.path), ("linkpath", member.link)] {
        if name.len() > MAX_NAME || !name.is_ascii() {
            push_record(&mut bytes, key.as_bytes(), name);
        }
    }
    for (key, value, limit) in [
        ("size", member.size, SIZE_LIMIT),
        ("uid", member.uid, ID_LIMIT),
        ("gid", member.gid, ID_LIMIT),
    ] {
        if value >= limit {
            push_record(&mut bytes, key.as_bytes(), value.to_string().as_bytes());
        }
    }
    for (key, value) in member.records {
        push_record(&mut bytes, key, value);
    }
    bytes
}

/// `LENGTH KEY=VALUE\n`, where the length counts its own digits.
fn push_record(bytes: &mut Vec<u8>, key: &[u8], value: &[u8]) {
    let rest = key.len() + value.len() + 3;
    let mut length = rest + 1;
    while rest + length.to_string().len() > length {
        length += 1;
    }
    bytes.extend_from_slice(length.to_string().as_bytes());
    bytes.push(b' ');
    bytes.extend_from_slice(key);
    bytes.push(b'=');
    bytes.extend_from_slice(value);
    bytes.push(b'\n');
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::entries::Entries;

    #[test]
    fn what_ustar_cannot_say_is_read_back_all_the_same() {
        let long = [b"usr/".as_slice(), &[b'x'; 200]].concat();
        let attribute = (
            b"SCHILY.xattr.security.capability".to_vec(),
            b"\x01\0\n=\xff".to_vec(),
        );
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        for (path, link) in [
            (long.as_slice(), b"".as_slice()),
            ("usr/é".as_bytes(), &long),
            (b"plain", b"a"),
        ] {
            let member = Description {
                path,
                link,
                kind: if link.is_empty() {
                    EntryType::Regular
                } else {
                    EntryType::Symlink
                },
                mode: 0o755,
                uid: 3_000_000,
                gid: 7,
                size: if link.is_empty() { 3 } else { 0 },
                records: std::slice::from_ref(&attribute),
            };
            writer.member(&member, b"abc".as_slice()).unwrap();
        }
        let size = writer.finish().unwrap();
        assert_eq!(size, bytes.len() as u64);
        let mut entries = Entries::new(bytes.as_slice());
        let mut read = Vec::new();
        while let Some(member) = entries.next_member().unwrap() {
            assert_eq!((member.uid, member.gid, member.mode), (3_000_000, 7, 0o755));
            assert!(member.records.contains(&attribute));
            read.push((member.path, member.link));
        }
        let expected = [
            (long.clone(), Vec::new()),
            ("usr/é".as_bytes().to_vec(), long),
            (b"plain".to_vec(), b"a".to_vec()),
        ];
        assert_eq!(read, expected);
    }

    #[test]
    fn the_length_of_a_record_counts_its_own_digits() {
        for size in 0..1100 {
            let mut bytes = Vec::new();
            push_record(&mut bytes, b"path", &vec![b'x'; size]);
            let text = String::from_utf8(bytes.clone()).unwrap();
            assert_eq!(
                text.split(' ').next().unwrap().parse::<usize>().unwrap(),
                bytes.len()
            );
        }
    }

    #[test]
    fn data_that_ends_early_is_an_error() {
        let member = Description {
            path: b"a",
            link: b"",
            kind: EntryType::Regular,
            mode: 0,
            uid: 0,
            gid: 0,
            size: 4,
            records: &[],
        };
        assert!(
            Writer::new(io::sink())
                .member(&member, b"abc".as_slice())
                .is_err()
        );
    }
}
