//! The files that installing a wheel gives, and lists of them.

use std::io::Read as _;

use kiln_wheel::archive::FileReader;
use kiln_wheel::install::{Content, InstalledFile, Scheme, Wheel};
use kiln_wheel::name::InvalidWheelName;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::error::{BuildError, Result};

/// Bytes that a list of files may have, compressed and not.
pub(crate) const LIST_LIMIT: u64 = 512 << 20;
/// A level of zstd: lists are written once for each wheel, and sent to caches.
const LIST_LEVEL: i32 = 3;

/// A file: path, bytes, CRC-32.
pub(crate) type Listed = (String, u64, u32);

/// Returns the files that an installer would write for a wheel.
pub(crate) fn files(name: &str, file: fs_err::File, scheme: &Scheme) -> Result<Vec<InstalledFile>> {
    told(name, file, scheme).map(|(files, _)| files)
}

/// Returns the files that an installer would write for a wheel, and its packages that are namespaces.
pub(crate) fn told(name: &str, file: fs_err::File, scheme: &Scheme) -> Result<(Vec<InstalledFile>, Vec<String>)> {
    let unusable =
        |error: Box<dyn std::error::Error + Send + Sync>| BuildError::Wheel { file: name.to_owned(), source: error };
    let parsed = name.parse().map_err(|error| unusable(Box::<InvalidWheelName>::new(error)))?;
    let size = file.metadata()?.len();
    let wheel =
        Wheel::open(parsed, FileReader::from(file.into_file()), size).map_err(|error| unusable(error.into()))?;
    let files = wheel.install(scheme).map_err(|error| unusable(error.into()))?;
    Ok((files, wheel.namespaces()))
}

/// Returns the entry of a list.
pub(crate) fn listed(file: InstalledFile) -> Listed {
    match file.content {
        Content::Entry(entry) => (file.path, entry.size, entry.crc),
        Content::Bytes(bytes) => (file.path, bytes.len() as u64, crc32fast::hash(&bytes)),
    }
}

/// Writes a list.
pub(crate) fn write_list<T: Serialize>(files: &[T]) -> std::io::Result<Vec<u8>> {
    zstd::bulk::compress(&serde_json::to_vec(files)?, LIST_LEVEL)
}

/// Reads the list of a wheel; `None` where it is none, or too long.
pub(crate) fn read_list(bytes: &[u8]) -> Option<Vec<Listed>> {
    read_list_of(bytes)
}

/// Reads a list of anything; `None` where it is none, or too long.
pub(crate) fn read_list_of<T: DeserializeOwned>(bytes: &[u8]) -> Option<Vec<T>> {
    let mut json = Vec::new();
    zstd::stream::Decoder::new(bytes).ok()?.take(LIST_LIMIT).read_to_end(&mut json).ok()?;
    serde_json::from_slice(&json).ok()
}
