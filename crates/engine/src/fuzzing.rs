//! Doors to parsers of what caches and stores say, for the fuzz targets alone.

pub use crate::history::seconds;
use crate::installed;
pub use crate::remote::rewritten;

/// Paths with size and CRC-32.
pub type Paths = Vec<(String, u64, u32)>;

/// Reads a list of paths as the cache keeps it; nothing where it is none, or too long.
pub fn read_list(bytes: &[u8]) -> Option<Paths> {
    installed::read_list(bytes)
}

/// Writes a list of paths as the cache keeps it.
pub fn write_list(paths: &Paths) -> std::io::Result<Vec<u8>> {
    installed::write_list(paths)
}
