//! The zip archive that a wheel is, read without trusting it.
//!
//! Everything that a layer needs is known after this: where each entry's deflate stream lies, how long it is and what
//! its content must sum to. The content itself is not looked at here; whoever inflates it checks size and CRC-32.
//! Formats: PKWARE APPNOTE 6.3.10, sections 4.3.7 (local header) and 4.4.

use std::collections::{BTreeMap, HashMap, HashSet};
use std::io;

pub use rawzip::FileReader;
use rawzip::{CompressionMethod, EntryMode, ReaderAt, ZipLocator};

/// Entries that one wheel may hold at most; the largest published wheels hold about 50,000.
const MAX_ENTRIES: usize = 2_000_000;
/// Bytes of a path (Linux's `PATH_MAX`).
const MAX_PATH: usize = 4096;
const LOCAL_HEADER: usize = 30;

/// A wheel's archive, checked to be consistent in itself.
#[derive(Debug)]
pub struct Archive<R> {
    reader: R,
    entries: Vec<Entry>,
    by_path: BTreeMap<String, usize>,
}

/// One file of an archive; directories are not kept.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Relative path with `/` between components; never absolute, never with `..`.
    pub path: String,
    /// How the content is stored.
    pub method: Method,
    /// Bytes of the stored stream.
    pub compressed: u64,
    /// Bytes of the content.
    pub size: u64,
    /// CRC-32 of the content.
    pub crc: u32,
    /// Where the stored stream begins in the file.
    pub offset: u64,
    /// Whether any execute bit is set.
    pub executable: bool,
}

/// How an entry's content is stored.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Method {
    /// As it is.
    Stored,
    /// As a raw deflate stream.
    Deflated,
}

/// What is wrong with an archive.
#[derive(Debug, thiserror::Error)]
pub enum ArchiveError {
    /// It could not be read.
    #[error("it cannot be read")]
    Io(#[from] io::Error),
    /// It is not a zip archive, or is cut off.
    #[error("it is truncated or not a zip archive ({0})")]
    NotZip(String),
    /// An entry is not acceptable.
    #[error("its entry `{entry}` {problem}")]
    Entry {
        /// Path of the entry, escaped.
        entry: String,
        /// A clause that follows the name.
        problem: String,
    },
    /// There are too many entries.
    #[error("it has more than {MAX_ENTRIES} entries")]
    TooMany,
}

fn bad(entry: &[u8], problem: impl Into<String>) -> ArchiveError {
    ArchiveError::Entry { entry: entry.escape_ascii().to_string(), problem: problem.into() }
}

impl<R: ReaderAt> Archive<R> {
    /// Reads the directory of an archive of `size` bytes and checks every local header against it.
    pub fn open(reader: R, size: u64) -> Result<Self, ArchiveError> {
        let mut buffer = vec![0; rawzip::RECOMMENDED_BUFFER_SIZE];
        let not_zip = |error: rawzip::Error| ArchiveError::NotZip(error.to_string());
        let archive =
            ZipLocator::new().locate_in_reader(reader, &mut buffer, size).map_err(|(_, error)| not_zip(error))?;
        let directory = archive.directory_offset();
        let mut entries = Vec::new();
        let mut listing = archive.entries(&mut buffer);
        let mut headers = Vec::new();
        while let Some(record) = listing.next_entry().map_err(not_zip)? {
            if entries.len() >= MAX_ENTRIES {
                return Err(ArchiveError::TooMany);
            }
            let raw = record.file_path();
            let path = check_path(raw.as_ref())?;
            if record.is_dir() {
                if record.uncompressed_size_hint() != 0 {
                    return Err(bad(path.as_bytes(), "is a directory with content"));
                }
                continue;
            }
            let header = record.local_header_offset();
            let entry = Entry {
                method: method(record.compression_method(), path.as_bytes())?,
                compressed: record.compressed_size_hint(),
                size: record.uncompressed_size_hint(),
                crc: record.crc32(),
                offset: 0,
                executable: executable(record.mode()),
                path,
            };
            if entry.method == Method::Stored && entry.compressed != entry.size {
                return Err(bad(entry.path.as_bytes(), "is stored, and its two sizes differ"));
            }
            if record.flags().is_encrypted() {
                return Err(bad(entry.path.as_bytes(), "is encrypted"));
            }
            headers.push((header, entries.len()));
            entries.push(entry);
        }
        let reader = archive.into_inner();
        check_local_headers(&reader, &mut entries, &mut headers, directory)?;
        let entries = without_doubles(entries)?;
        let by_path = index(&entries)?;
        Ok(Self { reader, entries, by_path })
    }

    /// The files, in the order of the directory.
    pub fn entries(&self) -> &[Entry] {
        &self.entries
    }

    /// The file of this path.
    pub fn entry(&self, path: &str) -> Option<&Entry> {
        self.by_path.get(path).map(|at| &self.entries[*at])
    }

    /// What the archive is read from.
    pub fn reader(&self) -> &R {
        &self.reader
    }

    /// The first bytes of a file's content; fewer where there are not as many.
    pub fn beginning<const N: usize>(&self, entry: &Entry) -> Result<Vec<u8>, ArchiveError> {
        let mut stored = [0; 512];
        let stored = &mut stored[..entry.compressed.min(512) as usize];
        self.reader.read_exact_at(stored, entry.offset)?;
        let mut content = Vec::with_capacity(N);
        match entry.method {
            Method::Stored => content.extend(stored.iter().take(N)),
            Method::Deflated => {
                let mut stream = flate2::Decompress::new(false);
                let inflated = stream.decompress_vec(stored, &mut content, flate2::FlushDecompress::None);
                inflated.map_err(|_| bad(entry.path.as_bytes(), "is not a valid deflate stream"))?;
            }
        }
        Ok(content)
    }

    /// The content of a file that may have at most `limit` bytes, checked against its size and CRC-32.
    pub fn read(&self, entry: &Entry, limit: u64) -> Result<Vec<u8>, ArchiveError> {
        let wrong = |problem: &str| bad(entry.path.as_bytes(), problem);
        if entry.size > limit || entry.compressed > limit {
            return Err(wrong(&format!("is larger than the {limit} bytes that such a file may have")));
        }
        let mut stored = vec![0; entry.compressed as usize];
        self.reader.read_exact_at(&mut stored, entry.offset)?;
        let content = match entry.method {
            Method::Stored => stored,
            Method::Deflated => {
                let mut content = vec![0; entry.size as usize];
                inflate_exact(&stored, &mut content).map_err(wrong)?;
                content
            }
        };
        if crc32fast::hash(&content) != entry.crc {
            return Err(wrong("does not have the content that its CRC-32 says"));
        }
        Ok(content)
    }
}

/// Inflates a whole deflate stream into a buffer of exactly the declared size.
pub fn inflate_exact(stream: &[u8], content: &mut [u8]) -> Result<(), &'static str> {
    let mut decompressor = libdeflater::Decompressor::new();
    match decompressor.deflate_decompress(stream, content) {
        Ok(written) if written == content.len() => Ok(()),
        Ok(_) | Err(libdeflater::DecompressionError::InsufficientSpace) => {
            Err("does not have the size that is declared")
        }
        Err(libdeflater::DecompressionError::BadData) => Err("is not a valid deflate stream"),
    }
}

/// A path that an installer may write below its directory.
fn check_path(raw: &[u8]) -> Result<String, ArchiveError> {
    let text = std::str::from_utf8(raw).map_err(|_| bad(raw, "has a name that is not UTF-8"))?;
    let relative = text.strip_suffix('/').unwrap_or(text);
    let problem = if relative.is_empty() || relative.len() > MAX_PATH {
        Some("has an impossible name")
    } else if relative.starts_with('/') {
        Some("has an absolute path")
    } else if relative.contains('\\') {
        Some("has a backslash in its path")
    } else if relative.contains('\0') {
        Some("has a zero byte in its path")
    } else if relative.split('/').any(|part| matches!(part, "" | "." | "..")) {
        Some("has a path that leaves its directory or is not plain")
    } else {
        None
    };
    match problem {
        Some(problem) => Err(bad(raw, problem)),
        None => Ok(relative.to_owned()),
    }
}

fn method(method: CompressionMethod, path: &[u8]) -> Result<Method, ArchiveError> {
    match method {
        CompressionMethod::STORE => Ok(Method::Stored),
        CompressionMethod::DEFLATE => Ok(Method::Deflated),
        other => Err(bad(path, format!("is compressed with method {other}; wheels may be stored or deflated"))),
    }
}

fn executable(mode: EntryMode) -> bool {
    mode.permissions() & 0o111 != 0
}

/// Reads every local header, checks that it says what the directory says and that no two entries overlap, and fills in
/// where each stream begins.
fn check_local_headers<R: ReaderAt>(
    reader: &R,
    entries: &mut [Entry],
    headers: &mut [(u64, usize)],
    directory: u64,
) -> Result<(), ArchiveError> {
    headers.sort_unstable();
    let mut end_of_previous = 0;
    let mut buffer = vec![0; LOCAL_HEADER + MAX_PATH];
    for &(offset, at) in headers.iter() {
        let entry = &mut entries[at];
        let path = entry.path.clone();
        let wrong = |problem: &str| bad(path.as_bytes(), problem);
        if offset < end_of_previous {
            return Err(wrong("overlaps another entry"));
        }
        let header = &mut buffer[..LOCAL_HEADER + path.len()];
        reader
            .read_exact_at(header, offset)
            .map_err(|_| wrong("has its local header outside the file: the wheel is truncated"))?;
        entry.offset = check_local_header(header, entry, offset)?;
        end_of_previous = entry
            .offset
            .checked_add(entry.compressed)
            .filter(|end| *end <= directory)
            .ok_or_else(|| wrong("reaches beyond the end of the archive"))?;
    }
    Ok(())
}

/// Checks one local header and says where the stream behind it begins.
fn check_local_header(header: &[u8], entry: &Entry, offset: u64) -> Result<u64, ArchiveError> {
    let wrong = |problem: &str| bad(entry.path.as_bytes(), problem);
    let u16_at = |at: usize| u16::from_le_bytes([header[at], header[at + 1]]);
    let u32_at = |at: usize| u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]);
    if header[..4] != *b"PK\x03\x04" {
        return Err(wrong("has no local header where the directory says"));
    }
    let flags = u16_at(6);
    let expected = match entry.method {
        Method::Stored => 0,
        Method::Deflated => 8,
    };
    if flags & 1 != 0 {
        return Err(wrong("is encrypted"));
    }
    if u16_at(8) != expected {
        return Err(wrong("has a local header with another compression method than the directory says"));
    }
    let (name, extra) = (usize::from(u16_at(26)), u64::from(u16_at(28)));
    if name != entry.path.len() || header[LOCAL_HEADER..] != *entry.path.as_bytes() {
        return Err(wrong("has a local header with another name than the directory says"));
    }
    // Flag 3: sizes and CRC follow the data. Zip64: sizes are all ones and stand in an extra field.
    if flags & 8 == 0 {
        let agrees = |local: u32, declared: u64| local == u32::MAX || u64::from(local) == declared;
        if u32_at(14) != entry.crc || !agrees(u32_at(18), entry.compressed) || !agrees(u32_at(22), entry.size) {
            return Err(wrong("has a local header with another CRC or size than the directory says"));
        }
    }
    Ok(offset + (LOCAL_HEADER + name) as u64 + extra)
}

/// Leaves one of several entries with one path and one content, as pip and uv do; with other content they are refused.
fn without_doubles(entries: Vec<Entry>) -> Result<Vec<Entry>, ArchiveError> {
    let mut places: HashMap<String, usize> = HashMap::with_capacity(entries.len());
    let mut kept: Vec<Entry> = Vec::with_capacity(entries.len());
    for entry in entries {
        match places.get(&entry.path).map(|at| &kept[*at]) {
            Some(same) if (same.crc, same.size) == (entry.crc, entry.size) => continue,
            Some(_) => return Err(bad(entry.path.as_bytes(), "is there twice, with different content")),
            None => places.insert(entry.path.clone(), kept.len()),
        };
        kept.push(entry);
    }
    Ok(kept)
}

/// No file where another entry needs a directory.
fn index(entries: &[Entry]) -> Result<BTreeMap<String, usize>, ArchiveError> {
    let mut by_path = BTreeMap::new();
    let mut directories = HashSet::new();
    for (at, entry) in entries.iter().enumerate() {
        by_path.insert(entry.path.clone(), at);
        for (slash, _) in entry.path.match_indices('/') {
            directories.insert(&entry.path[..slash]);
        }
    }
    match entries.iter().find(|entry| directories.contains(entry.path.as_str())) {
        Some(entry) => Err(bad(entry.path.as_bytes(), "is a file, and other entries lie below it")),
        None => Ok(by_path),
    }
}

#[cfg(test)]
mod tests;
