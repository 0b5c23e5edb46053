//! The layout of a pruned file: the pages that are cut out, and the mapping of the rest so that no address changes.

use std::ops::Range;

use super::room::{self, Dynamic};
use super::{Fat, Placed, Stop, Way, refused};
use crate::elf::{Elf, Machine, PROGRAM_HEADER, SECTION_HEADER, Section, Segment};

const PAGE: u64 = 4 << 10;
/// The largest pages of aarch64, for which linkers lay files out.
const LARGE_PAGE: u64 = 64 << 10;
/// Bytes of the smallest hole between regions that is cut out, and its least share of the section: every hole costs a
/// segment, and tools that go by sections no longer find addresses behind it.
const LEAST_HOLE: u64 = 1 << 20;
const LEAST_SHARE: u64 = 8;
/// `PF_X`.
const EXECUTABLE: u32 = 1;
/// Program headers that there may be: their number has 16 bits, of which the highest value means something else.
const MOST_SEGMENTS: usize = 0xfffe;

/// A range that is cut out of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Hole {
    pub(super) start: u64,
    pub(super) end: u64,
    /// True if its addresses hold zeros, rather than nothing.
    zeros: bool,
}

impl Hole {
    fn size(&self) -> u64 {
        self.end - self.start
    }

    /// Tells if some bytes lie in it, or a part of them.
    pub(super) fn meets(&self, range: &Range<u64>) -> bool {
        range.start < self.end && self.start < range.end
    }
}

/// The layout of the file. Offsets are those before anything is cut, unless said otherwise.
#[derive(Debug)]
pub(super) struct Layout {
    /// Holes, ascending, each within a section of code.
    pub(super) cuts: Vec<Hole>,
    /// The program headers, with offsets after cutting.
    pub(super) segments: Vec<Segment>,
    /// The place of the program headers.
    pub(super) table: u64,
    /// The place among what became free of program headers, or of what makes room for them.
    pub(super) freed: Option<u64>,
    /// The sections that make room for program headers.
    pub(super) displaced: Option<Range<u64>>,
}

impl Layout {
    /// Lays the file out; `None` where no page becomes free.
    pub(super) fn find(
        elf: &Elf,
        fats: &[Fat<'_>],
        placed: &[Vec<Placed>],
        dynamic: &Dynamic,
    ) -> Result<Option<Self>, Stop> {
        let page = page(elf);
        let mut cuts = Vec::new();
        for (fat, placed) in fats.iter().zip(placed) {
            if fat.way == Way::Fixed {
                cuts.extend(runs(fat, placed, page).into_iter().filter(|hole| may_be_zeros(elf, fat, hole, page)));
                continue;
            }
            let holes = holes(fat, placed, page);
            if holes.is_empty() {
                continue;
            }
            if !agrees(load(elf, fat)?, page) {
                return Err(refused("a segment's place in the file and in memory do not agree"));
            }
            cuts.extend(holes);
        }
        cuts.sort_by_key(|cut| cut.start);
        if elf.segments.len() + cuts.len() > MOST_SEGMENTS {
            return Err(refused("it has more segments than its header can count"));
        }
        let mut layout = Self { cuts, segments: Vec::new(), table: elf.program_headers, freed: None, displaced: None };
        let segments = loop {
            if layout.cuts.is_empty() {
                return Ok(None);
            }
            if let Some(segments) = layout.make_room(elf, fats, placed, dynamic, page) {
                break segments;
            }
            // Zeros may be in the file too, so that they need no program header.
            let zeros = layout.cuts.iter().enumerate().filter(|(_, hole)| hole.zeros);
            let Some((least, _)) = zeros.min_by_key(|(_, hole)| hole.size()) else { return Ok(None) };
            layout.cuts.remove(least);
        };
        layout.check_apart(elf, fats)?;
        layout.map(elf, &segments, page)?;
        Ok(Some(layout))
    }

    /// Makes room for the program headers; returns those of the old ones that stay. Nothing where there is none.
    fn make_room(
        &mut self,
        elf: &Elf,
        fats: &[Fat<'_>],
        placed: &[Vec<Placed>],
        dynamic: &Dynamic,
        page: u64,
    ) -> Option<Vec<Segment>> {
        let all = (elf.segments.len() + self.cuts.len()) as u64 * PROGRAM_HEADER;
        let mut segments = elf.segments.clone();
        let mut bytes = all;
        // Notes are found by their sections too.
        while !has_room(elf, bytes) {
            let Some(note) = segments.iter().rposition(|segment| segment.kind == Segment::NOTE) else { break };
            segments.remove(note);
            bytes -= PROGRAM_HEADER;
        }
        if has_room(elf, bytes) {
            return Some(segments);
        }
        // The first pages that would become free are mapped already.
        let mut take = |bytes: u64| {
            let fits = |cut: &Hole| is_behind_all(cut, fats, placed) && cut.size() > bytes;
            let cut = self.cuts.iter_mut().find(|cut| fits(cut))?;
            let start = cut.start;
            cut.start += bytes;
            Some(start)
        };
        if let Some(range) = room::behind(elf, dynamic, all) {
            let shift = range.start % room::ALIGNMENT;
            if let Some(start) = take((shift + range.end - range.start).next_multiple_of(page)) {
                self.freed = Some(start + shift);
                self.displaced = Some(range);
                return Some(elf.segments.clone());
            }
        }
        self.table = take(all.next_multiple_of(page))?;
        self.freed = Some(self.table);
        Some(elf.segments.clone())
    }

    /// The place, before cutting, of something that makes room for program headers: its offset and address.
    pub(super) fn displaced(&self, elf: &Elf, offset: u64) -> Option<(u64, u64)> {
        let range = self.displaced.as_ref().filter(|range| range.contains(&offset))?;
        let place = self.freed? + (offset - range.start);
        Some((place, elf.address_of(place)?))
    }

    /// The place after cutting of something in the file before.
    pub(super) fn moved(&self, offset: u64) -> u64 {
        let gone = self.cuts.iter().map(|cut| offset.min(cut.end).saturating_sub(cut.start));
        offset - gone.sum::<u64>()
    }

    /// Refuses to cut anything but GPU code.
    fn check_apart(&self, elf: &Elf, fats: &[Fat<'_>]) -> Result<(), Stop> {
        let meets = |range: Range<u64>| self.cuts.iter().any(|cut| cut.meets(&range));
        let headers = |at: u64, bytes: u64| at..at.saturating_add(bytes);
        for (index, section) in elf.sections.iter().enumerate() {
            let overlaps = |fat: &Fat<'_>| {
                let (one, other) = (fat.section.range(), section.range());
                fat.index != index && one.start < other.end && other.start < one.end
            };
            if section.has_content() && fats.iter().any(overlaps) {
                return Err(refused(format!("its section `{}` overlaps with GPU code", section.name)));
            }
        }
        let other = elf.segments.iter().filter(|segment| !segment.is_loaded() && segment.size > 0);
        if other.into_iter().any(|segment| meets(headers(segment.offset, segment.size)))
            || meets(headers(elf.section_headers, elf.sections.len() as u64 * SECTION_HEADER))
            || meets(headers(elf.program_headers, elf.segments.len() as u64 * PROGRAM_HEADER))
        {
            return Err(refused("GPU code overlaps with headers"));
        }
        Ok(())
    }

    /// Splits segments where something is cut out, and moves all that lies behind.
    fn map(&mut self, elf: &Elf, old: &[Segment], page: u64) -> Result<(), Stop> {
        let table_bytes = (old.len() + self.cuts.len()) as u64 * PROGRAM_HEADER;
        let mut segments = Vec::new();
        for segment in old {
            if segment.kind == Segment::PROGRAM_HEADERS {
                let address = elf.address_of(self.table).ok_or_else(|| refused("its headers are not mapped"))?;
                let (offset, size) = (self.moved(self.table), table_bytes);
                segments.push(Segment { offset, address, physical: address, size, memory: size, ..*segment });
            } else if segment.is_loaded() {
                self.split(elf, segment, page, &mut segments);
            } else if let Some((offset, address)) = self.displaced(elf, segment.offset).filter(|_| segment.size > 0) {
                segments.push(Segment { offset: self.moved(offset), address, physical: address, ..*segment });
            } else {
                segments.push(Segment { offset: self.moved(segment.offset), ..*segment });
            }
        }
        self.segments = segments;
        Ok(())
    }

    fn split(&self, elf: &Elf, segment: &Segment, page: u64, segments: &mut Vec<Segment>) {
        let end = segment.offset.saturating_add(segment.size);
        let inside = self.cuts.iter().filter(|cut| segment.offset <= cut.start && cut.end <= end);
        let mut pieces = Vec::new();
        let mut from = segment.offset;
        for cut in inside {
            pieces.push((from, cut.start, if cut.zeros { cut.size() } else { 0 }));
            from = cut.end;
        }
        // What is zero in memory and not in the file follows the last piece.
        pieces.push((from, end, segment.memory.saturating_sub(segment.size)));
        let split = pieces.len() > 1;
        for (from, to, zeros) in pieces {
            let address = segment.address.wrapping_add(from - segment.offset);
            let offset = self.moved(from);
            let agrees =
                segment.alignment <= page || (!split && address.abs_diff(offset).is_multiple_of(segment.alignment));
            let (size, memory) = (to - from, (to - from).saturating_add(zeros));
            if memory > 0 {
                let alignment = if agrees { segment.alignment } else { page };
                let physical = segment.physical.wrapping_add(from - segment.offset);
                // A piece without instructions need not be executable because the one before it is.
                let instructions = |section: &Section| section.is_executable() && (from..to).contains(&section.offset);
                let keeps = !split || elf.sections.iter().any(instructions);
                let flags = if keeps { segment.flags } else { segment.flags & !EXECUTABLE };
                segments.push(Segment { flags, offset, address, physical, size, memory, alignment, ..*segment });
            }
        }
    }
}

impl Elf {
    /// The address of a place in the file.
    fn address_of(&self, offset: u64) -> Option<u64> {
        let loaded = self.segments.iter().filter(|segment| segment.is_loaded());
        loaded
            .filter_map(|segment| offset.checked_sub(segment.offset).map(|into| (segment, into)))
            .find(|(segment, into)| *into < segment.size)
            .map(|(segment, into)| segment.address.wrapping_add(into))
    }
}

/// Pages of a section that hold nothing any more: behind its regions, and large holes between them, before a region that
/// must stay where it is.
fn holes(fat: &Fat<'_>, placed: &[Placed], page: u64) -> Vec<Hole> {
    let least = LEAST_HOLE.max(fat.section.size / LEAST_SHARE);
    let mut holes = Vec::new();
    let mut free = fat.range.start;
    for (at, next) in placed.iter().enumerate() {
        holes.extend(pages(free..next.offset, page, false).filter(|hole| hole.size() >= least));
        free = next.offset + next.size + fat.padding(at);
    }
    holes.extend(pages(free..fat.range.end, page, false));
    holes
}

/// Large runs of pieces that keep their place and of which nothing stays.
fn runs(fat: &Fat<'_>, placed: &[Placed], page: u64) -> Vec<Hole> {
    let mut holes = Vec::new();
    let mut run: Option<Range<u64>> = None;
    for (region, placed) in fat.regions.iter().zip(placed) {
        let end = region.offset + region.size;
        run = match (run, placed.size) {
            (Some(run), 0) => Some(run.start..end),
            (None, 0) => Some(region.offset..end),
            (ended, _) => {
                holes.extend(ended.and_then(|run| pages(run, page, true)));
                None
            }
        };
    }
    holes.extend(run.and_then(|run| pages(run, page, true)));
    holes.retain(|hole| hole.size() >= LEAST_HOLE);
    holes
}

/// The whole pages of a range.
fn pages(range: Range<u64>, page: u64, zeros: bool) -> Option<Hole> {
    let (start, end) = (range.start.next_multiple_of(page), range.end / page * page);
    (start < end).then_some(Hole { start, end, zeros })
}

/// Tells if a hole can be zeros in memory alone: in a library, within one segment that the loader maps and nothing else names.
fn may_be_zeros(elf: &Elf, fat: &Fat<'_>, hole: &Hole, page: u64) -> bool {
    let range = |segment: &Segment| segment.offset..segment.offset.saturating_add(segment.size);
    let others = elf.segments.iter().filter(|segment| !segment.is_loaded() && segment.size > 0);
    // The kernel, which maps programs, knows zeros behind the last segment alone.
    let is_program = elf.segments.iter().any(|segment| segment.kind == Segment::INTERPRETER);
    load(elf, fat).is_ok_and(|load| agrees(load, page))
        && !is_program
        && !others.into_iter().any(|segment| hole.meets(&range(segment)))
}

/// Tells if a segment's place in the file and in memory are the same within a page.
fn agrees(segment: &Segment, page: u64) -> bool {
    segment.address.abs_diff(segment.offset).is_multiple_of(page)
}

/// Tells if no region of its section lies behind a hole: what is put there is not in the section any more.
fn is_behind_all(cut: &Hole, fats: &[Fat<'_>], placed: &[Vec<Placed>]) -> bool {
    let within = |fat: &Fat<'_>| fat.way == Way::Wrapped && fat.range.contains(&cut.start);
    let last = fats.iter().zip(placed).find(|(fat, _)| within(fat)).and_then(|(_, placed)| placed.last());
    last.is_some_and(|last| last.offset + last.size <= cut.start)
}

/// The pages for which the file is laid out.
fn page(elf: &Elf) -> u64 {
    let mut loaded = elf.segments.iter().filter(|segment| segment.is_loaded());
    let large = loaded.all(|segment| segment.address.abs_diff(segment.offset).is_multiple_of(LARGE_PAGE));
    if elf.machine == Machine::Aarch64 && large { LARGE_PAGE } else { PAGE }
}

/// The one segment that maps a section.
pub(super) fn load<'e>(elf: &'e Elf, fat: &Fat<'_>) -> Result<&'e Segment, Stop> {
    let section = fat.section;
    let mut loads = elf.segments.iter().filter(|segment| {
        let end = segment.offset.checked_add(segment.size);
        segment.is_loaded() && segment.offset <= section.offset && end.is_some_and(|end| section.range().end <= end)
    });
    match (loads.next(), loads.next()) {
        (Some(load), None)
            if load.memory >= load.size
                && load.address.checked_add(load.memory).is_some()
                && section.address.checked_sub(load.address) == Some(section.offset - load.offset) =>
        {
            Ok(load)
        }
        _ => Err(refused(format!(
            "its section `{}` is not mapped by one segment, as where it was pruned before: prune the original",
            section.name
        ))),
    }
}

/// Tells if the program headers can grow where they are.
fn has_room(elf: &Elf, bytes: u64) -> bool {
    let table = elf.program_headers;
    let sections = elf.sections.iter().filter(|section| section.has_content()).map(|section| section.offset);
    let segments = elf.segments.iter().filter(|segment| segment.kind != Segment::PROGRAM_HEADERS && segment.size > 0);
    let next = sections
        .chain(segments.map(|segment| segment.offset))
        .chain([elf.section_headers])
        .filter(|offset| *offset > table)
        .min();
    table.checked_add(bytes).is_some_and(|end| next.is_some_and(|next| end <= next))
}
