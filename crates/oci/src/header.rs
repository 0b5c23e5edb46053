//! Tar headers that depend on nothing but what is in them.
//!
//! Plain ustar (POSIX.1-2017, `pax`, "ustar Interchange Format") without user and group names; a pax header stands before a member only where ustar cannot say what must be said. The prefix field of
//! ustar is not used: two ways to write one name would be two layers.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use crate::time::OLDEST;

const BLOCK: usize = 512;
/// The longest path or link name that a ustar field holds.
const MAX_NAME: usize = 100;
/// The first size that eleven octal digits cannot say: 8 GiB.
const SIZE_LIMIT: u64 = 1 << 33;
/// The first id that seven octal digits cannot say.
const ID_LIMIT: u64 = 1 << 21;

/// What ends an archive: two blocks of zeros.
pub(crate) const END: [u8; 2 * BLOCK] = [0; 2 * BLOCK];

/// What a member of a tar is, apart from its data.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Member<'a> {
    /// Path without a leading slash; a directory's with a final one.
    pub(crate) path: &'a [u8],
    /// Target of a link.
    pub(crate) link: &'a [u8],
    pub(crate) kind: EntryType,
    /// Permission bits.
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    /// Seconds since 1970.
    pub(crate) time: u64,
    /// Bytes of data, which follow.
    pub(crate) size: u64,
    /// Further pax records: extended attributes.
    pub(crate) records: &'a [(Vec<u8>, Vec<u8>)],
}

impl<'a> Member<'a> {
    /// Returns a file of the oldest time, mode 0644, of root.
    pub(crate) fn file(path: &'a str, size: u64) -> Self {
        let (path, link, records) = (path.as_bytes(), b"".as_slice(), [].as_slice());
        Self { path, link, kind: EntryType::Regular, mode: 0o644, uid: 0, gid: 0, time: OLDEST, size, records }
    }

    /// Appends the header.
    pub(crate) fn write(&self, out: &mut Vec<u8>) {
        let records = self.pax_records();
        if !records.is_empty() {
            let extended = Member { kind: EntryType::XHeader, ..Member::file("PaxHeaders/0", records.len() as u64) };
            out.extend_from_slice(extended.ustar().as_bytes());
            out.extend_from_slice(&records);
            out.resize(out.len() + padding(records.len() as u64), 0);
        }
        out.extend_from_slice(self.ustar().as_bytes());
    }

    fn ustar(&self) -> Header {
        let mut header = Header::new_ustar();
        let fields = header.as_old_mut();
        copy(&mut fields.name, self.path);
        copy(&mut fields.linkname, self.link);
        header.set_entry_type(self.kind);
        header.set_mode(self.mode);
        header.set_uid(field(self.uid, ID_LIMIT));
        header.set_gid(field(self.gid, ID_LIMIT));
        header.set_size(field(self.size, SIZE_LIMIT));
        header.set_mtime(self.time);
        header.set_cksum();
        header
    }

    fn pax_records(&self) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (key, name) in [("path", self.path), ("linkpath", self.link)] {
            if name.len() > MAX_NAME || !name.is_ascii() {
                push_record(&mut bytes, key.as_bytes(), name);
            }
        }
        let numbers = [("size", self.size, SIZE_LIMIT), ("uid", self.uid, ID_LIMIT), ("gid", self.gid, ID_LIMIT)];
        for (key, value, limit) in numbers {
            if value >= limit {
                push_record(&mut bytes, key.as_bytes(), value.to_string().as_bytes());
            }
        }
        for (key, value) in self.records {
            push_record(&mut bytes, key, value);
        }
        bytes
    }
}

/// What goes into a field that may be too small; a pax record says the truth then.
fn field(value: u64, limit: u64) -> u64 {
    if value < limit { value } else { 0 }
}

/// Fills a field with as much as fits.
fn copy(field: &mut [u8], bytes: &[u8]) {
    for (to, from) in field.iter_mut().zip(bytes) {
        *to = *from;
    }
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

/// Zero bytes after content of this size, up to the next block.
pub(crate) fn padding(size: u64) -> usize {
    (size.wrapping_neg() % BLOCK as u64) as usize
}

/// Writes one archive, member by member.
pub(crate) struct Writer<W> {
    out: W,
    written: u64,
}

impl<W: Write> Writer<W> {
    pub(crate) fn new(out: W) -> Self {
        Self { out, written: 0 }
    }

    /// Writes a member whose data is what `data` holds, which must be exactly as long as described.
    pub(crate) fn member(&mut self, member: &Member<'_>, data: impl Read) -> io::Result<()> {
        let mut header = Vec::new();
        member.write(&mut header);
        self.put(&header)?;
        let copied = io::copy(&mut data.take(member.size), &mut self.out)?;
        if copied < member.size {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.written += member.size;
        self.put(&END[..padding(member.size)])
    }

    /// Writes the end of the archive and gives its size.
    pub(crate) fn finish(mut self) -> io::Result<u64> {
        self.put(&END)?;
        self.out.flush()?;
        Ok(self.written)
    }

    fn put(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.written += bytes.len() as u64;
        self.out.write_all(bytes)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::facts::entries::Entries;

    #[test]
    fn what_ustar_cannot_say_is_read_back_all_the_same() {
        let long = [b"usr/".as_slice(), &[b'x'; 200]].concat();
        let attribute = (b"SCHILY.xattr.security.capability".to_vec(), b"\x01\0\n=\xff".to_vec());
        let mut bytes = Vec::new();
        let mut writer = Writer::new(&mut bytes);
        for (path, link) in [(long.as_slice(), b"".as_slice()), ("usr/é".as_bytes(), &long), (b"plain", b"a")] {
            let member = Member {
                path,
                link,
                kind: if link.is_empty() { EntryType::Regular } else { EntryType::Symlink },
                mode: 0o755,
                uid: 3_000_000,
                gid: 7,
                time: OLDEST,
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
        let expected =
            [(long.clone(), Vec::new()), ("usr/é".as_bytes().to_vec(), long), (b"plain".to_vec(), b"a".to_vec())];
        assert_eq!(read, expected);
    }

    #[test]
    fn the_length_of_a_record_counts_its_own_digits() {
        for size in 0..1100 {
            let mut bytes = Vec::new();
            push_record(&mut bytes, b"path", &vec![b'x'; size]);
            let text = String::from_utf8(bytes.clone()).unwrap();
            assert_eq!(text.split(' ').next().unwrap().parse::<usize>().unwrap(), bytes.len());
        }
    }

    #[test]
    fn data_that_ends_early_is_an_error() {
        let member = Member::file("a", 4);
        assert!(Writer::new(io::sink()).member(&member, b"abc".as_slice()).is_err());
    }
}
