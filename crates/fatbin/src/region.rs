//! Regions: a header and entries one after the other, with zeros between regions.

use std::io;
use std::ops::Range;

use crate::concatenated::{self, Part};
use crate::entry::{Entry, HEADER, LEAST_HEADER};
use crate::hollow;
use crate::source::{Fields, Source, Window};

/// The bytes that a region begins with.
pub(crate) const MAGIC: u32 = 0xBA55_ED50;
/// Bytes of a region's header.
pub(crate) const REGION_HEADER: u64 = 16;
/// Regions begin at multiples of this.
pub(crate) const ALIGNMENT: u64 = 8;
/// Bytes of padding that are looked at together.
const STRIDE: usize = 4096;

/// A region.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Region {
    /// Its position in the file.
    pub offset: u64,
    /// Bytes that it takes up, its header included.
    pub size: u64,
    /// Its entries.
    pub entries: Vec<Entry>,
    /// The pieces of those entries that are concatenated.
    pub parts: Vec<Part>,
}

/// Bytes that make no sense.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("at byte {offset:#x} {problem}")]
pub struct Malformed {
    /// The position, from the beginning of the file.
    pub offset: u64,
    /// A clause.
    pub problem: &'static str,
}

/// Walks the regions of a range of a file.
pub struct Regions<'w, 'a, S: Source + ?Sized> {
    source: &'w mut Window<'a, S>,
    position: u64,
    end: u64,
    /// Zeros that have room for a region's header.
    gaps: Vec<Range<u64>>,
}

impl Region {
    /// A cubin that lies somewhere without a region around it.
    pub(crate) fn bare(entry: Entry) -> Self {
        Self { offset: entry.offset, size: entry.size(), entries: vec![entry], parts: Vec::new() }
    }

    /// The pieces of an entry, where it is concatenated.
    pub(crate) fn parts_of(&self, of: usize) -> impl Iterator<Item = &Part> {
        self.parts.iter().filter(move |part| part.of == of)
    }

    /// All code, of concatenated entries each piece; true for pieces.
    pub(crate) fn code(&self) -> impl Iterator<Item = (&Entry, bool)> {
        let whole = self.entries.iter().enumerate().filter(|(at, _)| self.parts_of(*at).next().is_none());
        whole.map(|(_, entry)| (entry, false)).chain(self.parts.iter().map(|part| (&part.entry, true)))
    }
}

impl<'w, 'a, S: Source + ?Sized> Regions<'w, 'a, S> {
    /// The regions of a range, which must be filled with them.
    pub fn new(source: &'w mut Window<'a, S>, range: Range<u64>) -> Self {
        Self { source, position: range.start, end: range.end, gaps: Vec::new() }
    }

    /// Zeros before, between and behind the regions so far that have room for a region's header.
    pub(crate) fn gaps(self) -> Vec<Range<u64>> {
        self.gaps
    }

    /// The next region; nothing at the end. After something malformed, nothing more comes.
    pub fn next_region(&mut self) -> io::Result<Option<Result<Region, Malformed>>> {
        if let Err(malformed) = self.skip_padding()? {
            self.position = self.end;
            return Ok(Some(Err(malformed)));
        }
        if self.position >= self.end {
            return Ok(None);
        }
        let region = read(self.source, self.position, self.end)?;
        self.position = region.as_ref().map_or(self.end, |region| region.offset + region.size);
        Ok(Some(region))
    }

    /// The source that the regions are read from.
    pub(crate) fn source(&mut self) -> &mut Window<'a, S> {
        self.source
    }

    /// Passes over zeros.
    fn skip_padding(&mut self) -> io::Result<Result<(), Malformed>> {
        let start = self.position;
        while self.position < self.end {
            let most = usize::try_from(self.end - self.position).unwrap_or(STRIDE).min(STRIDE);
            let bytes = self.source.bytes(self.position, most)?;
            if bytes.is_empty() {
                return Ok(Err(Malformed { offset: self.position, problem: "the file ends" }));
            }
            match bytes.iter().position(|byte| *byte != 0) {
                None => self.position += bytes.len() as u64,
                Some(at) => {
                    // A region's magic has no zero byte, so it begins where the zeros end.
                    self.position += at as u64;
                    break;
                }
            }
        }
        if self.position - start >= REGION_HEADER {
            self.gaps.push(start..self.position);
        }
        Ok(Ok(()))
    }
}

/// Reads the region at a position, which must end before `end` and begin at a multiple of eight.
pub(crate) fn read<S: Source + ?Sized>(
    source: &mut Window<'_, S>,
    offset: u64,
    end: u64,
) -> io::Result<Result<Region, Malformed>> {
    if !offset.is_multiple_of(ALIGNMENT) {
        return Ok(Err(Malformed { offset, problem: "a region does not begin at a multiple of eight" }));
    }
    read_anywhere(source, offset, end)
}

/// Reads the region at a position, which must end before `end`. What a program embeds as data lies anywhere.
pub(crate) fn read_anywhere<S: Source + ?Sized>(
    source: &mut Window<'_, S>,
    offset: u64,
    end: u64,
) -> io::Result<Result<Region, Malformed>> {
    let malformed = |offset, problem| Ok(Err(Malformed { offset, problem }));
    let Some(header) = source.array::<16>(offset)? else { return malformed(offset, "a region is cut off") };
    let fields = Fields(&header);
    if fields.u32(0) != MAGIC {
        return malformed(offset, "there is something that is no region");
    }
    if fields.u16(4) != 1 || u64::from(fields.u16(6)) != REGION_HEADER {
        return malformed(offset, "a region has an unknown version");
    }
    let region_end = offset.checked_add(REGION_HEADER).and_then(|body| body.checked_add(fields.u64(8)));
    let Some(region_end) = region_end.filter(|region_end| *region_end <= end) else {
        return malformed(offset, "a region is longer than what holds it");
    };
    let (mut entries, mut parts) = (Vec::new(), Vec::new());
    let mut position = offset + REGION_HEADER;
    while position < region_end {
        let left = region_end - position;
        let entry = Entry::read(position, source.bytes(position, HEADER)?);
        if left < LEAST_HEADER || entry.header < LEAST_HEADER || entry.size() > left {
            return malformed(position, "an entry is longer than its region");
        }
        position += entry.size();
        let hollow = hollow::is_entry(source, &entry)?;
        match concatenated::parts(source, &entry, entries.len())? {
            Ok(own) => parts.extend(own),
            Err((offset, problem)) => return malformed(offset, problem),
        }
        entries.push(Entry { hollow, ..entry });
    }
    Ok(Ok(Region { offset, size: region_end - offset, entries, parts }))
}
