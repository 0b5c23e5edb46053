//! Archives: tar with any compression, and zip, told apart by how they begin. They become trees as layers do, whose rules keep
//! hostile members inside.

use std::io::{self, BufReader, Read, Seek, SeekFrom, Write};
use std::path::Path;

use kiln_oci::tree::unpack;

use super::{Download, owners};
use crate::error::{BuildError, Result};
use crate::workshop::Workshop;

const BUFFER: usize = 1 << 20;
/// The place of `ustar` in a tar that is not compressed (POSIX, pax, "ustar Interchange Format").
const USTAR: u64 = 257;
/// Bytes that a symbolic link in a zip may have.
const LONGEST_LINK: u64 = 4096;
/// KiB of memory that the dictionary of an old LZMA file may take.
const DICTIONARY: u32 = 1 << 20;

/// The form of an archive.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Form {
    Tar,
    Gzip,
    Bzip2,
    Xz,
    Lzip,
    Lzma,
    Zstd,
    Zip,
}

/// The first bytes of each form (RFC 1952, RFC 8878, and the formats' own specifications).
const MAGIC: [(&[u8], Form); 8] = [
    (b"\x1f\x8b", Form::Gzip),
    (b"BZh", Form::Bzip2),
    (b"\xfd7zXZ\0", Form::Xz),
    (b"LZIP", Form::Lzip),
    (b"\x5d\0\0", Form::Lzma),
    (b"\x28\xb5\x2f\xfd", Form::Zstd),
    (b"PK\x03\x04", Form::Zip),
    (b"PK\x05\x06", Form::Zip),
];

impl Workshop<'_> {
    /// Unpacks a download into an empty directory.
    pub(super) fn unpack_archive(&self, download: &Download, directory: &Path) -> Result<()> {
        let mut file = self.open_download(download)?;
        let name = &download.file;
        let form = form_of(&mut file)?.ok_or_else(|| BuildError::Mistake {
            message: format!("`{name}` is no archive that kiln knows"),
            hint: "it unpacks tar (plain, or compressed by gzip, bzip2, xz, lzma, lzip or zstd) and zip; without `unpack` the \
                   file itself is copied"
                .into(),
        })?;
        let size = file.metadata()?.len();
        let work = self.work("unpack", name.as_str(), Some(size));
        let advance = |bytes| work.advance(bytes);
        let file = BufReader::with_capacity(BUFFER, Counted { file, advance: &advance });
        let mut watch = |_| work.advance(0).map_err(io::Error::from);
        let done = match form {
            Form::Zip => unpack_zip(file, directory, &mut watch),
            form => inflated(form, file)
                .map_err(Into::into)
                .and_then(|tar| Ok(unpack(tar, directory, owners(), &mut watch).map(drop)?)),
        };
        self.cancel.check()?;
        done.map_err(|source| BuildError::Unreadable { what: format!("the archive `{name}`"), source })
    }
}

fn form_of(file: &mut (impl Read + Seek)) -> io::Result<Option<Form>> {
    let mut start = Vec::new();
    file.by_ref().take(USTAR + 5).read_to_end(&mut start)?;
    file.seek(SeekFrom::Start(0))?;
    if let Some((_, form)) = MAGIC.iter().find(|(magic, _)| start.starts_with(magic)) {
        return Ok(Some(*form));
    }
    // An archive of nothing is all zeros.
    let is_tar = start.ends_with(b"ustar") || start.len() == USTAR as usize + 5 && start.iter().all(|byte| *byte == 0);
    Ok(is_tar.then_some(Form::Tar))
}

fn inflated<'r>(form: Form, file: impl Read + 'r) -> io::Result<Box<dyn Read + 'r>> {
    let file = BufReader::with_capacity(BUFFER, file);
    let tar: Box<dyn Read> = match form {
        Form::Gzip => Box::new(flate2::bufread::MultiGzDecoder::new(file)),
        Form::Bzip2 => Box::new(bzip2::bufread::MultiBzDecoder::new(file)),
        Form::Xz => Box::new(lzma_rust2::XzReader::new(file, true)),
        Form::Lzip => Box::new(lzma_rust2::LzipReader::new(file)),
        Form::Lzma => Box::new(lzma_rust2::LzmaReader::new_mem_limit(file, DICTIONARY, None)?),
        Form::Zstd => Box::new(zstd::stream::Decoder::with_buffer(file)?),
        Form::Tar | Form::Zip => Box::new(file),
    };
    Ok(Box::new(BufReader::with_capacity(BUFFER, tar)))
}

type Problem = Box<dyn std::error::Error + Send + Sync>;

/// Unpacks a zip by way of a tar, which a thread writes.
fn unpack_zip(
    file: impl Read + Seek + Send,
    directory: &Path,
    watch: &mut dyn FnMut(u64) -> io::Result<()>,
) -> std::result::Result<(), Problem> {
    let (tar, out) = io::pipe()?;
    std::thread::scope(|scope| {
        let writer = scope.spawn(move || as_tar(file, out));
        let tar = BufReader::with_capacity(BUFFER, tar);
        let unpacked = unpack(tar, directory, owners(), watch);
        // A zip that cannot be read ends the tar early: its own error says more.
        match writer.join().unwrap_or_else(|_| Err("the thread that reads it failed".into())) {
            Err(error) if !is_broken_pipe(&*error) => Err(error),
            _ => Ok(unpacked.map(drop)?),
        }
    })
}

fn is_broken_pipe(error: &(dyn std::error::Error + Send + Sync + 'static)) -> bool {
    error.downcast_ref::<io::Error>().is_some_and(|error| error.kind() == io::ErrorKind::BrokenPipe)
}

fn as_tar(file: impl Read + Seek, out: impl Write) -> std::result::Result<(), Problem> {
    let mut zip = zip::ZipArchive::new(file)?;
    let mut tar = tar::Builder::new(io::BufWriter::with_capacity(BUFFER, out));
    for at in 0..zip.len() {
        let mut entry = zip.by_index(at)?;
        // As in a tar, names begin at the root of the archive.
        let name = entry.name()?.trim_start_matches('/').to_owned();
        if name.is_empty() {
            continue;
        }
        let mode = entry.unix_mode();
        let mut header = tar::Header::new_gnu();
        let time = entry.last_modified().map_or(0, seconds);
        header.set_mtime(time);
        header.set_size(0);
        if entry.is_dir() {
            header.set_entry_type(tar::EntryType::Directory);
            header.set_mode(mode.map_or(0o755, |mode| mode & 0o7777));
            tar.append_data(&mut header, &name, io::empty())?;
        } else if entry.is_symlink() {
            let mut target = Vec::new();
            entry.by_ref().take(LONGEST_LINK).read_to_end(&mut target)?;
            header.set_entry_type(tar::EntryType::Symlink);
            header.set_mode(0o777);
            tar.append_link(&mut header, &name, String::from_utf8(target)?)?;
        } else {
            header.set_entry_type(tar::EntryType::Regular);
            header.set_mode(mode.map_or(0o644, |mode| mode & 0o7777));
            header.set_size(entry.size());
            tar.append_data(&mut header, &name, &mut entry)?;
        }
    }
    Ok(tar.into_inner()?.flush()?)
}

/// Returns seconds since 1970 of a time of MS-DOS, which has no zone.
fn seconds(time: zip::DateTime) -> u64 {
    let (year, month) = (u64::from(time.year()), u64::from(time.month()));
    // Days from the civil calendar, with years that begin in March.
    let (year, month) = if month > 2 { (year, month - 3) } else { (year - 1, month + 9) };
    let days = year * 365 + year / 4 - year / 100 + year / 400 + (153 * month + 2) / 5 + u64::from(time.day());
    let since_1970 = days.saturating_sub(719_469);
    since_1970 * 86_400 + u64::from(time.hour()) * 3600 + u64::from(time.minute()) * 60 + u64::from(time.second())
}

/// A file that tells how much of it is read.
struct Counted<'a> {
    file: fs_err::File,
    advance: &'a (dyn Fn(u64) -> std::result::Result<(), kiln_plan::event::Cancelled> + Sync),
}

impl Read for Counted<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.file.read(buffer)?;
        (self.advance)(read as u64).map_err(io::Error::from)?;
        Ok(read)
    }
}

impl Seek for Counted<'_> {
    fn seek(&mut self, to: SeekFrom) -> io::Result<u64> {
        self.file.seek(to)
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use base64::Engine as _;
    use base64::prelude::BASE64_STANDARD;

    use super::*;

    /// A tar with the file `a`, as gzip, bzip2, xz, lzip, xz (LZMA) and zstd compress it.
    const COMPRESSED: [&str; 6] = [
        "H4sIAAAAAAACA0tkoD0wAAIzExMwDQToNBCYIrGB4oaGhqbGDAoGdHAbQ2lxSWIR0Pqi/PwSfOoIyaN7boiAjNScnHyGUTAKRsEoGAUjDQAAX9JmzAAI\
         AAA=",
        "QlpoOTFBWSZTWV00bXkAADV7kMmAAEBAAG8AAADiRJ4ABAAACCAAVDUAADQGgkkCaGmTQ0NgtOHf6JAKkOGK4proTZJwmVXIRd9mE85IzImOALZ86CGx\
         y9zYDOqEfF3JFOFCQXTRteQ=",
        "/Td6WFoAAATm1rRGAgAhARwAAAAQz1jM4Af/AEhdADCAM1AYaImDAdzibiEFVzU4EMnOeUq7XqtIVxTR2cT4b/Emd9jaDW1UL79sUdjdA7q/GnVVMTS8\
         axDic8/4IpTxA6xWjyiJAAD4qHn+bFXwIAABZIAQAAAAnH7PsbHEZ/sCAAAAAARZWg==",
        "TFpJUAEMADCAM1AYaImDAdzibiEFVyRlFdYVMcE+d787ry62pjrxM9GwK/fACFIsdhnWb5Zpjd6aqfgYee2oioeKDSXxfBP7z012VN/8O5ugX9JmzAAI\
         AAAAAAAAZQAAAAAAAAA=",
        "XQAAgAD//////////wAwgDNQGGiJgwHc4m4hBVc1OBDJznlKu16rSFcU0dnE+G/xJnfY2g1tVC+/bFHY3QO6vxp1VTE0vGsQ4nPP+CKU8QOsVqnIyp//\
         9Suzbg==",
        "KLUv/QRoHQIA8kIJD7BrDOQJzUtebGNySEBOASaEzJGlpF5V2GoODOPudse/QpB/Swog8DY2Dvf5i6QUgIXAgAOFH0xecIHA4fyEsbC0K0M=",
    ];
    /// A zip of Python's `zipfile`: an executable file, a link, and a file of a system without modes.
    const ZIP: &str = "UEsDBBQAAAAIAAFgXVjRidJCCgAAAGQAAAADAAAAZC9hy0jNycnPoC0BAFBLAwQUAAAAAAABYF1YQ7636AEAAAABAAAABgAAAGQvbGlua2FQSwME\
         FAAAAAAAAWBdWIMW3IwBAAAAAQAAAAUAAABwbGFpbnhQSwECFAMUAAAACAABYF1Y0YnSQgoAAABkAAAAAwAAAAAAAAAAAAAA7QEAAAAAZC9hUEsBAhQD\
         FAAAAAAAAWBdWEO+t+gBAAAAAQAAAAYAAAAAAAAAAAAAAP+hKwAAAGQvbGlua1BLAQIUABQAAAAAAAFgXViDFtyMAQAAAAEAAAAFAAAAAAAAAAAAAACA\
         AVAAAABwbGFpblBLBQYAAAAAAwADAJgAAAB0AAAAAAA=";

    fn decoded(text: &str) -> Vec<u8> {
        BASE64_STANDARD.decode(text.replace([' ', '\n'], "")).unwrap()
    }

    #[test]
    fn a_tar_is_unpacked_whatever_compressed_it() {
        for (at, text) in COMPRESSED.iter().enumerate() {
            let bytes = decoded(text);
            let form = form_of(&mut io::Cursor::new(&bytes)).unwrap().unwrap();
            let directory = tempfile::tempdir().unwrap();
            let tar = inflated(form, bytes.as_slice()).unwrap();
            unpack(tar, directory.path(), owners(), &mut |_| Ok(())).unwrap();
            assert_eq!(fs_err::read_to_string(directory.path().join("a")).unwrap(), "hello", "{at} {form:?}");
        }
    }

    #[test]
    fn a_zip_is_unpacked_with_modes_links_and_times() {
        let directory = tempfile::tempdir().unwrap();
        unpack_zip(io::Cursor::new(decoded(ZIP)), directory.path(), &mut |_| Ok(())).unwrap();
        let place = |path: &str| directory.path().join(path);
        assert_eq!(fs_err::read_to_string(place("d/a")).unwrap(), "hello".repeat(20));
        assert_eq!(fs_err::metadata(place("d/a")).unwrap().permissions().mode() & 0o7777, 0o755);
        assert_eq!(fs_err::metadata(place("plain")).unwrap().permissions().mode() & 0o7777, 0o664);
        assert_eq!(fs_err::read_link(place("d/link")).unwrap(), Path::new("a"));
        let modified = fs_err::metadata(place("d/a")).unwrap().modified().unwrap();
        let since = modified.duration_since(std::time::UNIX_EPOCH).unwrap().as_secs();
        assert_eq!(since, 1_709_208_002, "2024-02-29 12:00:02");
    }

    #[test]
    fn text_is_no_archive_and_an_empty_tar_is_one() {
        let form = |bytes: &[u8]| form_of(&mut io::Cursor::new(bytes)).unwrap();
        assert_eq!(form(b"#!/bin/sh\n"), None);
        assert_eq!(form(&[0; 1024]), Some(Form::Tar));
        assert_eq!(form(b""), None);
    }

    #[test]
    fn a_zip_that_ends_early_is_refused_with_its_own_reason() {
        let bytes = decoded(ZIP);
        let directory = tempfile::tempdir().unwrap();
        let error = unpack_zip(io::Cursor::new(&bytes[..60]), directory.path(), &mut |_| Ok(())).unwrap_err();
        assert!(error.to_string().contains("Could not find EOCD"), "{error}");
    }
}
