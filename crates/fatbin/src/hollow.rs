//! Code with nothing in it: linkers put such into libraries that have no kernel, for the lowest architecture alone, and
//! compilers for an architecture that a kernel leaves out.

use std::io;

use crate::cubin;
use crate::entry::{Compression, Entry, Kind};
use crate::inflate;
use crate::source::{Source, Window};

/// Bytes that a cubin without anything in it has at most, and PTX.
const CUBIN: u64 = 4096;
const PTX: u64 = 1024;
/// Directives that every module of PTX begins with (PTX ISA, "PTX Module Directives").
const BEGINNINGS: [&str; 3] = [".version", ".target", ".address_size"];

/// Tells if code of a kind and of so many bytes may have nothing in it.
pub(crate) fn may_be(kind: Kind, bytes: u64) -> bool {
    match kind {
        Kind::Cubin => bytes <= CUBIN,
        Kind::Ptx => bytes <= PTX,
        _ => false,
    }
}

/// Tells if code has nothing in it: a cubin no section that is loaded, PTX nothing behind its first directives.
pub(crate) fn is(kind: Kind, code: &[u8]) -> io::Result<bool> {
    if kind == Kind::Ptx {
        return Ok(is_ptx(code));
    }
    let found = cubin::read(&mut Window::new(code)?, 0, code.len() as u64)?;
    Ok(found.is_some_and(|cubin| cubin.hollow))
}

/// Tells if an entry has nothing in it.
pub(crate) fn is_entry<S: Source + ?Sized>(source: &mut Window<'_, S>, entry: &Entry) -> io::Result<bool> {
    let bytes = if entry.compression() == Compression::None { entry.payload } else { entry.uncompressed };
    if !may_be(entry.kind, bytes) {
        return Ok(false);
    }
    inflate::payload(source, entry, CUBIN)?.map_or(Ok(false), |payload| is(entry.kind, &payload))
}

fn is_ptx(text: &[u8]) -> bool {
    let Ok(text) = std::str::from_utf8(text) else { return false };
    let mut lines = text.trim_end_matches('\0').lines().map(|line| line.split("//").next().unwrap_or_default().trim());
    let is_first = |line: &str| BEGINNINGS.iter().any(|directive| line.starts_with(directive));
    text.contains(BEGINNINGS[0]) && lines.all(|line| line.is_empty() || is_first(line))
}
