//! The members of a tar stream, read with bounded memory.
//!
//! The iterator of the `tar` crate reads long names and pax records whole, however long the stream claims that they
//! are, and takes a read that ends early for the end of a file. Layers come from registries, so that only its
//! [`Header`] is used here. Read are ustar, pax (POSIX.1-2017, `pax`, "pax Interchange Format") and GNU tar's long
//! names and sparse members (tar manual, "Basic Tar Format"); as in Go's `archive/tar`, members that cannot hold data
//! hold none, whatever size they state.

use std::io::{self, Read};

use tar::{EntryType, GnuExtSparseHeader, Header};

const BLOCK: u64 = 512;

/// The longest extension header that is read: a path or link name with its extended attributes is far below this.
const MAX_EXTENSION: u64 = 1024 * 1024;

/// A tar stream that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum TarError {
    /// The underlying stream failed.
    #[error("reading the archive failed at byte {position}")]
    Read {
        /// Offset in the archive.
        position: u64,
        /// Why.
        source: io::Error,
    },
    /// The stream ended where something had to follow.
    #[error("the archive ends at byte {position}, inside {inside}")]
    Truncated {
        /// Offset in the archive.
        position: u64,
        /// What was being read.
        inside: String,
    },
    /// A header's checksum does not fit: not a tar, or a damaged one.
    #[error("the header at byte {position} of the archive has a wrong checksum")]
    Checksum {
        /// Offset of the header in the archive.
        position: u64,
    },
    /// A header or an extended header has a field that means nothing.
    #[error("the header at byte {position} of the archive has an invalid {field}")]
    Field {
        /// Offset of the header in the archive.
        position: u64,
        /// Which field.
        field: &'static str,
    },
    /// An extended header that is longer than any path or attribute can be.
    #[error(
        "the extended header at byte {position} of the archive is {size} bytes long (at most {MAX_EXTENSION} are read)"
    )]
    TooLong {
        /// Offset of the header in the archive.
        position: u64,
        /// What it claims.
        size: u64,
    },
}

/// One member of an archive.
#[derive(Debug)]
pub struct Member {
    /// The path as written.
    pub path: Vec<u8>,
    /// The target of a link; empty for everything else.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: EntryType,
    /// Permission bits only.
    pub(crate) mode: u32,
    pub(crate) uid: u64,
    pub(crate) gid: u64,
    /// Seconds since 1970; 0 where the field makes no sense.
    pub(crate) time: u64,
    /// Bytes of data in the archive.
    pub size: u64,
    /// Where the data starts.
    pub(crate) offset: u64,
    /// Whether the data in the archive is a sparse encoding of the file's content.
    pub(crate) sparse: bool,
    /// Pax records, in the order of the archive.
    pub(crate) records: Vec<(Vec<u8>, Vec<u8>)>,
}

/// Headers that describe the member after them.
#[derive(Default)]
struct Extensions {
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    records: Vec<(Vec<u8>, Vec<u8>)>,
    any: bool,
}

/// A tar stream that is read member by member; reading from it gives the data of the latest member.
pub struct Entries<R> {
    reader: R,
    position: u64,
    /// Bytes left of the data of the member at hand.
    data: u64,
    padding: u64,
    /// The path of the member at hand, for messages.
    path: Vec<u8>,
    finished: bool,
}

impl<R: Read> Entries<R> {
    /// Reads an uncompressed tar stream.
    pub fn new(reader: R) -> Self {
        Self { reader, position: 0, data: 0, padding: 0, path: Vec::new(), finished: false }
    }

    /// The next member, or nothing after the last.
    pub fn next_member(&mut self) -> Result<Option<Member>, TarError> {
        self.skip_data()?;
        let mut extensions = Extensions::default();
        loop {
            let position = self.position;
            let Some(header) = self.header()? else {
                if extensions.any {
                    return Err(self.truncated("an extended header".to_owned()));
                }
                return Ok(None);
            };
            let size = number(&header.as_old().size, header.entry_size())
                .ok_or(TarError::Field { position, field: "size" })?;
            extensions.any = true;
            match header.entry_type() {
                EntryType::GNULongName => extensions.path = Some(until_nul(self.extension(position, size)?)),
                EntryType::GNULongLink => extensions.link = Some(until_nul(self.extension(position, size)?)),
                EntryType::XHeader => {
                    let records = self.extension(position, size)?;
                    extensions.records =
                        parse_records(&records).ok_or(TarError::Field { position, field: "pax record" })?;
                }
                // Global records carry a comment of the tool that wrote the archive, and nothing that layers use.
                EntryType::XGlobalHeader => {
                    self.hold(size);
                    self.skip_data()?;
                }
                _ => return self.member(position, &header, size, extensions).map(Some),
            }
        }
    }

    /// Reads what follows the last member, so that a hash taken of the stream on its way covers all of it.
    pub fn drain(&mut self) -> Result<(), TarError> {
        let position = self.position;
        io::copy(&mut self.reader, &mut io::sink()).map(|_| ()).map_err(|source| TarError::Read { position, source })
    }

    fn member(
        &mut self,
        position: u64,
        header: &Header,
        size: u64,
        extensions: Extensions,
    ) -> Result<Member, TarError> {
        let invalid = |field| TarError::Field { position, field };
        let (kind, old) = (header.entry_type(), header.as_old());
        let mut member = Member {
            path: extensions.path.unwrap_or_else(|| header.path_bytes().into_owned()),
            link: extensions
                .link
                .or_else(|| header.link_name_bytes().map(|name| name.into_owned()))
                .unwrap_or_default(),
            kind,
            mode: number(&old.mode, header.mode()).ok_or(invalid("mode"))? & 0o7777,
            uid: number(&old.uid, header.uid()).ok_or(invalid("user id"))?,
            gid: number(&old.gid, header.gid()).ok_or(invalid("group id"))?,
            time: header.mtime().unwrap_or(0),
            size,
            offset: 0,
            sparse: kind.is_gnu_sparse(),
            records: extensions.records,
        };
        member.apply_records().map_err(invalid)?;
        if !(kind.is_hard_link() || kind.is_symlink()) {
            member.link.clear();
        }
        if kind.is_dir()
            || kind.is_hard_link()
            || kind.is_symlink()
            || kind.is_character_special()
            || kind.is_block_special()
            || kind.is_fifo()
        {
            member.size = 0;
        }
        self.path.clone_from(&member.path);
        if kind.is_gnu_sparse() && header.as_gnu().is_some_and(tar::GnuHeader::is_extended) {
            self.skip_sparse_map()?;
        }
        self.hold(member.size);
        member.offset = self.position;
        Ok(member)
    }

    fn skip_sparse_map(&mut self) -> Result<(), TarError> {
        let mut block = GnuExtSparseHeader::new();
        loop {
            if self.fill(block.as_mut_bytes())? < BLOCK as usize {
                return Err(self.truncated("the map of a sparse member".to_owned()));
            }
            if !block.is_extended() {
                return Ok(());
            }
        }
    }

    /// The next header; nothing at the end marker or where the stream ends between members, as some tools leave it.
    fn header(&mut self) -> Result<Option<Header>, TarError> {
        if self.finished {
            return Ok(None);
        }
        let position = self.position;
        let mut header = Header::new_old();
        match self.fill(header.as_mut_bytes())? as u64 {
            0 => {
                self.finished = true;
                return Ok(None);
            }
            BLOCK => {}
            _ => return Err(self.truncated(format!("the header at byte {position}"))),
        }
        let bytes = header.as_bytes();
        if bytes.iter().all(|byte| *byte == 0) {
            self.finished = true;
            return Ok(None);
        }
        // The field itself, bytes 148 to 155, counts as spaces.
        let outside = bytes
            .iter()
            .enumerate()
            .filter(|(at, _)| !(148..156).contains(at))
            .map(|(_, byte)| u32::from(*byte))
            .sum::<u32>();
        if header.cksum().ok() != Some(outside + 8 * u32::from(b' ')) {
            return Err(TarError::Checksum { position });
        }
        Ok(Some(header))
    }

    fn extension(&mut self, position: u64, size: u64) -> Result<Vec<u8>, TarError> {
        if size > MAX_EXTENSION {
            return Err(TarError::TooLong { position, size });
        }
        self.hold(size);
        self.path = b"an extended header".to_vec();
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).map_err(|error| self.failed(error))?;
        self.skip_data()?;
        Ok(bytes)
    }

    fn hold(&mut self, size: u64) {
        self.data = size;
        self.padding = size.wrapping_neg() % BLOCK;
    }

    /// Passes over what is left of the member at hand.
    fn skip_data(&mut self) -> Result<(), TarError> {
        io::copy(&mut *self, &mut io::sink()).map_err(|error| self.failed(error))?;
        self.data = std::mem::take(&mut self.padding);
        io::copy(&mut *self, &mut io::sink()).map_err(|error| self.failed(error))?;
        Ok(())
    }

    /// Fills the buffer as far as the stream goes.
    fn fill(&mut self, buffer: &mut [u8]) -> Result<usize, TarError> {
        let mut filled = 0;
        while let Some(rest) = buffer.get_mut(filled..).filter(|rest| !rest.is_empty()) {
            match self.reader.read(rest) {
                Ok(0) => break,
                Ok(count) => {
                    filled += count;
                    self.position += count as u64;
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(source) => {
                    let position = self.position;
                    return Err(TarError::Read { position, source });
                }
            }
        }
        Ok(filled)
    }

    fn truncated(&self, inside: String) -> TarError {
        TarError::Truncated { position: self.position, inside }
    }

    /// The error that reading the member's data gave, as one of the archive.
    pub(crate) fn failed(&self, source: io::Error) -> TarError {
        match source.downcast::<TarError>() {
            Ok(error) => error,
            Err(source) => TarError::Read { position: self.position, source },
        }
    }
}

impl<R: Read> Read for Entries<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let wanted = usize::try_from(self.data).map_or(buffer.len(), |left| left.min(buffer.len()));
        let Some(part) = buffer.get_mut(..wanted).filter(|part| !part.is_empty()) else {
            return Ok(0);
        };
        let count = self.reader.read(part)?;
        if count == 0 {
            let inside = format!("`{}`", String::from_utf8_lossy(&self.path));
            return Err(io::Error::new(io::ErrorKind::UnexpectedEof, self.truncated(inside)));
        }
        self.data -= count as u64;
        self.position += count as u64;
        Ok(count)
    }
}

impl Member {
    /// Lets pax records replace what the header says; the name of a field that cannot be read is the error.
    fn apply_records(&mut self) -> Result<(), &'static str> {
        let number = |value: &[u8], field| {
            std::str::from_utf8(value).ok().and_then(|value| value.parse::<u64>().ok()).ok_or(field)
        };
        let mut sparse_path = None;
        for (key, value) in &self.records {
            match key.as_slice() {
                b"path" => self.path.clone_from(value),
                b"linkpath" => self.link.clone_from(value),
                b"size" => self.size = number(value, "size")?,
                b"uid" => self.uid = number(value, "user id")?,
                b"gid" => self.gid = number(value, "group id")?,
                b"GNU.sparse.name" => sparse_path = Some(value.clone()),
                _ => {}
            }
            self.sparse |= key.starts_with(b"GNU.sparse.");
        }
        if let Some(path) = sparse_path {
            self.path = path;
        }
        Ok(())
    }
}

/// A numeric field, where one left blank means zero, as it does to Go and to GNU tar.
fn number<T: Default>(field: &[u8], parsed: io::Result<T>) -> Option<T> {
    if field.iter().all(|byte| matches!(byte, 0 | b' ')) {
        return Some(T::default());
    }
    parsed.ok()
}

fn until_nul(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// Reads `LENGTH KEY=VALUE\n` records, where the length counts the whole record.
fn parse_records(mut bytes: &[u8]) -> Option<Vec<(Vec<u8>, Vec<u8>)>> {
    let mut records = Vec::new();
    while !bytes.is_empty() {
        let space = bytes.iter().position(|byte| *byte == b' ')?;
        let length = std::str::from_utf8(bytes.get(..space)?).ok()?.parse::<usize>().ok()?;
        let record = bytes.get(space + 1..length)?.strip_suffix(b"\n")?;
        let equals = record.iter().position(|byte| *byte == b'=')?;
        records.push((record.get(..equals)?.to_vec(), record.get(equals + 1..)?.to_vec()));
        bytes = bytes.get(length..)?;
    }
    Some(records)
}

#[cfg(test)]
mod tests {
    use tar::Builder;

    use super::*;

    fn archive(path: &str, data: &[u8]) -> Vec<u8> {
        let mut builder = Builder::new(Vec::new());
        let mut header = Header::new_gnu();
        header.set_size(data.len() as u64);
        header.set_mode(0o100_644);
        builder.append_data(&mut header, path, data).unwrap();
        builder.into_inner().unwrap()
    }

    fn error(bytes: &[u8]) -> String {
        let mut entries = Entries::new(bytes);
        loop {
            match entries.next_member() {
                Ok(Some(_)) => {}
                Ok(None) => return "none".to_owned(),
                Err(error) => return error.to_string(),
            }
        }
    }

    #[test]
    fn long_names_and_data_are_read() {
        let path = format!("etc/{}", "x".repeat(300));
        let bytes = archive(&path, &[7; 700]);
        let mut entries = Entries::new(bytes.as_slice());
        let member = entries.next_member().unwrap().unwrap();
        assert_eq!((member.path, member.mode, member.size), (path.into_bytes(), 0o644, 700));
        let mut data = Vec::new();
        entries.read_to_end(&mut data).unwrap();
        assert_eq!(data, [7; 700]);
        assert!(entries.next_member().unwrap().is_none());
        assert!(entries.next_member().unwrap().is_none());
    }

    #[test]
    fn pax_records_replace_the_header() {
        let mut builder = Builder::new(Vec::new());
        builder.append_pax_extensions([("path", b"usr/b".as_slice()), ("size", b"3"), ("uid", b"4000000000")]).unwrap();
        let mut header = Header::new_ustar();
        header.set_size(0);
        header.set_mode(0o644);
        header.set_path("wrong").unwrap();
        header.set_cksum();
        builder.append(&header, io::empty()).unwrap();
        let mut bytes = builder.into_inner().unwrap();
        bytes.truncate(bytes.len() - 1024);
        bytes.extend_from_slice(b"abc");
        bytes.resize(bytes.len() + 509, 0);
        let mut entries = Entries::new(bytes.as_slice());
        let member = entries.next_member().unwrap().unwrap();
        assert_eq!((member.path.as_slice(), member.size, member.uid), (b"usr/b".as_slice(), 3, 4_000_000_000));
        let mut data = String::new();
        entries.read_to_string(&mut data).unwrap();
        assert_eq!(data, "abc");
    }

    #[test]
    fn a_truncated_archive_is_an_error_that_names_the_member() {
        let bytes = archive("etc/passwd", &[7; 2000]);
        assert_eq!(error(&bytes), "none");
        assert_eq!(error(&bytes[..1000]), "the archive ends at byte 1000, inside `etc/passwd`");
        assert_eq!(error(&bytes[..300]), "the archive ends at byte 300, inside the header at byte 0");
    }

    #[test]
    fn what_is_no_tar_is_refused() {
        assert!(error(&[b'x'; 600]).contains("wrong checksum"));
    }

    #[test]
    fn an_extended_header_cannot_make_us_allocate_what_it_claims() {
        let mut header = Header::new_gnu();
        header.set_entry_type(EntryType::GNULongName);
        header.set_size(1 << 40);
        header.set_mode(0);
        header.set_uid(0);
        header.set_gid(0);
        header.set_cksum();
        assert!(error(header.as_bytes()).contains("is 1099511627776 bytes long"));
    }

    #[test]
    fn records_whose_lengths_lie_are_refused() {
        for bytes in ["3", "9 a=b\n", "6 ab\n", "0 a=b\n", "99999999999999999999 a=b\n", "2 a=b\n"] {
            assert!(parse_records(bytes.as_bytes()).is_none(), "{bytes}");
        }
        assert_eq!(parse_records(b"6 a=b\n").unwrap(), [(b"a".to_vec(), b"b".to_vec())]);
    }
}
