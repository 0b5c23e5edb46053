//! Entries that hold the code of several architectures in one compressed payload (nvcc 13.4 and later, `--concat`).
//!
//! The header goes on with a table at byte 64: u32 count, u32 bytes of the table, and for each piece a record of 64 bytes:
//! u16 kind, u16 0x0101, at 4 u32 place and at 8 u32 bytes in the inflated payload, at 24 the version, at 28 u32 architecture,
//! at 40 u64 flags. Options may follow a record, so that the next is found by the place of its piece, which is behind that of
//! the one before. Found by experiment with nvcc and cuobjdump 13.5.

use std::io;
use std::ops::Range;

use crate::entry::{Entry, HEADER, Kind};
use crate::hollow;
use crate::inflate;
use crate::source::{Fields, Source, Window};

/// Bytes of the table before its records, and of a record.
const BEFORE: u64 = 8;
const RECORD: u64 = 64;
/// The second field of a record, and bytes that records are multiples of.
const VERSION: u16 = 0x0101;
const STEP: u64 = 8;
/// Bytes of a payload that is inflated to find out if pieces of it have nothing in them.
const MOST: u64 = 1 << 20;

/// A place in the file that makes no sense, and a clause that says why.
type Problem = (u64, &'static str);

/// A piece of a concatenated entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Part {
    /// The place of its entry in the region.
    pub of: usize,
    /// The piece as an entry of its own: of the bytes of the payload it has its share.
    pub entry: Entry,
    /// The place in the inflated payload, and bytes.
    pub place: (u64, u64),
}

impl Part {
    /// The piece of an inflated payload.
    pub(crate) fn within<'p>(&self, payload: &'p [u8]) -> Option<&'p [u8]> {
        let (from, size) = self.place;
        let from = usize::try_from(from).ok()?;
        payload.get(from..from.checked_add(usize::try_from(size).ok()?)?)
    }
}

/// Reads the pieces of an entry; none where it is of another kind.
pub(crate) fn parts<S: Source + ?Sized>(
    source: &mut Window<'_, S>,
    entry: &Entry,
    of: usize,
) -> io::Result<Result<Vec<Part>, Problem>> {
    if entry.kind != Kind::Concatenated {
        return Ok(Ok(Vec::new()));
    }
    let malformed = (entry.offset, "a table of code is longer than its header");
    let table = entry.offset + HEADER as u64;
    let Some(count) = source.array::<4>(table)?.map(u32::from_le_bytes) else { return Ok(Err(malformed)) };
    let (mut parts, mut at, mut behind) = (Vec::new(), table + BEFORE, 0);
    for _ in 0..count {
        let Some((found, record)) = record(source, at..entry.offset + entry.header, behind)? else {
            return Ok(Err(malformed));
        };
        at = found;
        let fields = Fields(&record);
        let place = (u64::from(fields.u32(4)), u64::from(fields.u32(8)));
        let inflated = if entry.uncompressed > 0 { entry.uncompressed } else { entry.payload };
        if place.0 + place.1 > inflated {
            return Ok(Err((at, "a piece of code is longer than what holds it")));
        }
        let share = u128::from(entry.payload) * u128::from(place.1) / u128::from(inflated.max(1));
        behind = place.0 + place.1;
        parts.push(Part { of, entry: entry.part(at, &record, share as u64), place });
        at += RECORD;
    }
    mark_hollow(source, entry, &mut parts)?;
    Ok(Ok(parts))
}

/// The next record of a range, whose piece begins at a place of the payload, and where it is.
fn record<S: Source + ?Sized>(
    source: &mut Window<'_, S>,
    range: Range<u64>,
    behind: u64,
) -> io::Result<Option<(u64, [u8; RECORD as usize])>> {
    for at in range.clone().step_by(STEP as usize) {
        let Some(record) = source.array::<{ RECORD as usize }>(at)?.filter(|_| at + RECORD <= range.end) else { break };
        let fields = Fields(&record);
        if fields.u16(2) == VERSION && u64::from(fields.u32(4)) == behind {
            return Ok(Some((at, record)));
        }
    }
    Ok(None)
}

/// Finds the pieces in which nothing is to be loaded.
fn mark_hollow<S: Source + ?Sized>(source: &mut Window<'_, S>, entry: &Entry, parts: &mut [Part]) -> io::Result<()> {
    let may_be = |part: &Part| hollow::may_be(part.entry.kind, part.place.1);
    if entry.uncompressed > MOST || !parts.iter().any(may_be) {
        return Ok(());
    }
    let Some(payload) = inflate::payload(source, entry, MOST)? else { return Ok(()) };
    for part in parts.iter_mut().filter(|part| may_be(part)) {
        if let Some(bytes) = part.within(&payload) {
            part.entry.hollow = hollow::is(part.entry.kind, bytes)?;
        }
    }
    Ok(())
}
