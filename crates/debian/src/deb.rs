//! Packages (deb(5)): an archive of ar(5) with the files `debian-binary`, `control.tar` and `data.tar`, whose names say how they are
//! compressed.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read};

/// Bytes of `control.tar` at most; the largest of Debian has some megabytes of checksums.
const MAX_CONTROL: u64 = 64 << 20;
/// The start of an archive of ar.
const MAGIC: &[u8; 8] = b"!<arch>\n";
/// Bytes before each of its files.
const HEADER: usize = 60;

/// A package that cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum DebError {
    /// It is no package.
    #[error("it is no Debian package: {0}")]
    Format(&'static str),
    /// A member compressed in an unknown way.
    #[error("its member `{0}` is compressed in a way that kiln does not know")]
    Compression(String),
    /// Reading it, or what is compressed in it.
    #[error("it cannot be read")]
    Io(#[from] io::Error),
}

/// A file of `control.tar`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ControlFile {
    /// Permission bits.
    pub mode: u32,
    /// Content.
    pub content: Vec<u8>,
}

/// A package, of which the files for the system are to be read.
pub struct Deb<'r> {
    /// The files about it by name: `control`, `postinst`, `conffiles` and others.
    pub control: BTreeMap<String, ControlFile>,
    /// The tar of the files that it installs.
    pub data: Box<dyn Read + 'r>,
}

impl<'r> Deb<'r> {
    /// Reads a package up to its files.
    ///
    /// # Errors
    ///
    /// If it is none.
    pub fn read(mut from: impl Read + 'r) -> Result<Self, DebError> {
        let mut magic = [0; MAGIC.len()];
        from.read_exact(&mut magic)?;
        if magic != *MAGIC {
            return Err(DebError::Format("it is no archive of ar"));
        }
        let (name, size) = header(&mut from)?;
        let version = content(&mut from, size.min(1 << 10))?;
        if name != "debian-binary" || !version.starts_with(b"2.") {
            return Err(DebError::Format("its version is not 2"));
        }
        let mut control = None;
        loop {
            let (name, size) = header(&mut from)?;
            if let Some(end) = name.strip_prefix("control.tar") {
                let tar = content(&mut from, size)?;
                control = Some(files(inflated(end, io::Cursor::new(tar))?)?);
            } else if let Some(end) = name.strip_prefix("data.tar") {
                let control = control.ok_or(DebError::Format("`control.tar` is missing"))?;
                return Ok(Self { control, data: inflated(end, from.take(size))? });
            } else if name.starts_with('_') {
                // A later version of the format may have such a member, which readers skip.
                content(&mut from, size)?;
            } else {
                return Err(DebError::Format("it has a member that no package has"));
            }
        }
    }

    /// Returns the text of a file about it.
    pub fn text(&self, name: &str) -> Option<&str> {
        std::str::from_utf8(&self.control.get(name)?.content).ok()
    }
}

/// Reads the name and the size of the next file.
fn header(from: &mut impl Read) -> Result<(String, u64), DebError> {
    let mut bytes = [0; HEADER];
    from.read_exact(&mut bytes)?;
    let text = |from: usize, to: usize| std::str::from_utf8(&bytes[from..to]).map(str::trim).ok();
    let (name, size) = (text(0, 16), text(48, 58).and_then(|text| text.parse().ok()));
    match (name, size) {
        (Some(name), Some(size)) if bytes[58..] == *b"`\n" => Ok((name.trim_end_matches('/').to_owned(), size)),
        _ => Err(DebError::Format("a header of a member is damaged")),
    }
}

/// Reads a file, and the byte that makes its size even.
fn content(from: &mut impl Read, size: u64) -> Result<Vec<u8>, DebError> {
    if size > MAX_CONTROL {
        return Err(DebError::Format("its description is too large"));
    }
    let mut content = Vec::new();
    from.take(size).read_to_end(&mut content)?;
    if content.len() as u64 != size {
        return Err(io::Error::from(io::ErrorKind::UnexpectedEof).into());
    }
    if size % 2 == 1 {
        from.read_exact(&mut [0])?;
    }
    Ok(content)
}

/// Returns what is compressed as the end of a name says: `.xz`.
///
/// # Errors
///
/// If nobody knows that end.
pub fn inflated<'r>(name: &str, from: impl Read + 'r) -> Result<Box<dyn Read + 'r>, DebError> {
    let from = BufReader::with_capacity(128 << 10, from);
    Ok(match name {
        "" => Box::new(from),
        ".gz" => Box::new(flate2::bufread::MultiGzDecoder::new(from)),
        ".xz" => Box::new(lzma_rust2::XzReader::new(from, true)),
        ".zst" => Box::new(zstd::stream::Decoder::with_buffer(from)?),
        ".bz2" => Box::new(bzip2::bufread::MultiBzDecoder::new(from)),
        other => return Err(DebError::Compression(format!("tar{other}"))),
    })
}

fn files(tar: impl Read) -> Result<BTreeMap<String, ControlFile>, DebError> {
    let mut files = BTreeMap::new();
    let (mut tar, mut left) = (tar::Archive::new(tar.take(MAX_CONTROL)), MAX_CONTROL);
    for entry in tar.entries()? {
        let mut entry = entry?;
        if !entry.header().entry_type().is_file() {
            continue;
        }
        let path = String::from_utf8_lossy(&entry.path_bytes()).into_owned();
        let name = path.strip_prefix("./").unwrap_or(&path).to_owned();
        if name.contains('/') || name.is_empty() {
            return Err(DebError::Format("a file of `control.tar` lies in a directory"));
        }
        let (mode, mut content) = (entry.header().mode()? & 0o7777, Vec::new());
        entry.by_ref().take(left).read_to_end(&mut content)?;
        left -= content.len() as u64;
        files.insert(name, ControlFile { mode, content });
    }
    Ok(files)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::{ar as deb, tar};

    #[test]
    fn a_package_has_files_about_it_and_files_for_the_system() {
        let control = tar(&[("./control", 0o644, b"Package: ab\n"), ("./postinst", 0o755, b"#!/bin/sh\n")]);
        let data = tar(&[("./usr/bin/ab", 0o755, b"program")]);
        let whole = deb(&[
            ("debian-binary", b"2.0\n"),
            ("_extra", b"odd"),
            ("control.tar.zst", &zstd::encode_all(control.as_slice(), 1).unwrap()),
            ("data.tar", &data),
        ]);
        let mut read = Deb::read(whole.as_slice()).unwrap();
        assert_eq!(read.text("control"), Some("Package: ab\n"));
        assert_eq!(read.control["postinst"].mode, 0o755);
        let mut found = Vec::new();
        read.data.read_to_end(&mut found).unwrap();
        assert_eq!(found, data);
        // Each cut is an error, or ends the files early.
        for length in 0..whole.len() {
            let done = Deb::read(&whole[..length]).map(|mut read| read.data.read_to_end(&mut Vec::new()));
            assert!(done.is_err() || length > whole.len() - data.len() - 2, "{length}");
        }
    }

    #[test]
    fn what_is_no_package_is_refused() {
        let error = |bytes: &[u8]| Deb::read(bytes).err().unwrap().to_string();
        assert_eq!(error(b"PK\x03\x04 more bytes"), "it is no Debian package: it is no archive of ar");
        assert_eq!(error(&deb(&[("debian-binary", b"3.0\n")])), "it is no Debian package: its version is not 2");
        assert_eq!(
            error(&deb(&[("debian-binary", b"2.0\n"), ("data.tar", b"")])),
            "it is no Debian package: `control.tar` is missing"
        );
        assert_eq!(
            error(&deb(&[("debian-binary", b"2.0\n"), ("control.tar.br", b"")])),
            "its member `tar.br` is compressed in a way that kiln does not know"
        );
        let nested = tar(&[("./a/control", 0o644, b"")]);
        assert!(error(&deb(&[("debian-binary", b"2.0\n"), ("control.tar", &nested)])).contains("lies in a directory"));
    }
}
