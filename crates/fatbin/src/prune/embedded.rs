//! Code in sections of data that a program finds through tables: cut where the table is of a known form.
//!
//! Found in cuBLASLt 12.0 to 13.4, cuSPARSELt 0.8 and cuDNN 9.26, where no instruction has the address of such code:
//!
//! - Regions of `.cask_resource` lie one behind the other, eight zeros behind each. A table holds two pointers for each: to
//!   the end, those zeros included, and to the beginning. Such rows are cut as a whole or not at all.
//! - Cubins in Zstandard frames in `.ldata` and `.data` lie at multiples of 32. Each kernel has a descriptor: u32
//!   architecture and u32, pointer to the frame, pointer, u32 bytes of the frame and u32 bytes inflated.
//!
//! All pointers are filled in by relative relocations, so all of them are known. Code that anything else points at, or
//! that no table of these forms names, keeps its place (`fixed.rs`).

use std::collections::{BTreeMap, BTreeSet};

use super::references::each_symbol;
use super::rewrite::Moved;
use super::room::Dynamic;
use super::{Fat, Stop, Way, fixed};
use crate::elf::{Elf, Section};
use crate::inflate;
use crate::read::may_hide_code;
use crate::region::Region;
use crate::relocation::{self, Relocation};
use crate::search::{Form, search};
use crate::source::{Fields, Source, Window};

/// Bytes of zeros that may lie behind each piece of code.
const MOST_PADDING: u64 = 64;
/// Bytes of code in a row that are worth a segment of their own.
const LEAST: u64 = 256 << 10;
const WORD: u64 = 8;
/// Places in a descriptor, from its pointer to the frame on: the architecture, and both sizes.
const ARCHITECTURE: u64 = 8;
const SIZES: u64 = 16;

/// A pointer to code, or to where it ends.
#[derive(Debug, Clone, Copy)]
pub(super) struct Pointer {
    /// The address of the pointer.
    pub(super) location: u64,
    /// The place in the file of the relocation's addend, besides the word itself.
    pub(super) addend: Option<u64>,
    /// The address of the code.
    pub(super) code: u64,
    /// For a pointer to the end, how many bytes of padding it counts in.
    pub(super) behind: Option<u64>,
}

impl Pointer {
    /// The address that it holds, and the one that it holds when its code lies somewhere else.
    pub(super) fn moves(&self, code: &Moved) -> (u64, u64) {
        match self.behind {
            None => (self.code, code.address),
            Some(behind) => (self.code + code.before + behind, code.address + code.size + behind),
        }
    }
}

/// A relative relocation that leads to code, or to where it ends.
#[derive(Debug, Clone, Copy)]
struct Found {
    location: u64,
    target: u64,
    addend: Option<u64>,
}

/// Code in sections of data, and all pointers to it.
#[derive(Default)]
pub(super) struct Embedded<'e> {
    pub(super) fats: Vec<Fat<'e>>,
    pub(super) pointers: Vec<Pointer>,
    /// Addresses of code in `fats` that stays whatever GPUs are wanted.
    pub(super) stays: BTreeSet<u64>,
    /// Code of which that is so, and that is in none of them.
    pub(super) rest: Vec<Region>,
}

impl Embedded<'_> {
    /// Bytes of code that is never cut.
    pub(super) fn uncut(&self) -> u64 {
        let code = self.fats.iter().flat_map(|fat| fat.regions.iter().map(move |region| (fat.address(region), region)));
        let stays = code.filter(|(address, _)| self.stays.contains(address)).map(|(_, region)| region);
        self.rest.iter().chain(stays).map(|region| region.size).sum()
    }
}

/// Finds the code of a shared object that can be cut: what tables of known forms name, and what keeps its place.
pub(super) fn find<'e, S: Source + ?Sized>(
    window: &mut Window<'_, S>,
    elf: &'e Elf,
    dynamic: &Dynamic,
) -> Result<Embedded<'e>, Stop> {
    let mut rows = Vec::new();
    let has_place = |section: &Section| section.address.checked_add(section.size).is_some();
    let sections = elf.sections.iter().enumerate();
    for (index, section) in sections.filter(|(_, section)| may_hide_code(section) && has_place(section)) {
        rows.extend(rows_of(window, index, section)?);
    }
    let is_worth = |row: &Fat<'_>| row.regions.iter().map(|region| region.size).sum::<u64>() >= LEAST;
    let may_move = |row: &Fat<'_>| row.way != Way::Fixed && !elf.is_fixed() && is_worth(row);
    let (mut rows, mut others): (Vec<_>, Vec<_>) = rows.into_iter().partition(may_move);
    rows.sort_by_key(Fat::start);
    let references = if rows.is_empty() { Vec::new() } else { references(window, elf, &rows)? };
    let mut embedded = Embedded::default();
    for (row, found) in rows.into_iter().zip(references) {
        let pointers = match (found, row.way) {
            (None, _) => None,
            (Some(found), Way::Framed) => described(window, elf, &row, &found)?,
            (Some(found), _) => paired(&row, &found),
        };
        match pointers {
            Some(pointers) => {
                embedded.fats.push(row);
                embedded.pointers.extend(pointers);
            }
            None => others.push(row),
        }
    }
    let fixed = fixed::sort(window, elf, dynamic, others)?;
    embedded.fats.extend(fixed.fats);
    (embedded.stays, embedded.rest) = (fixed.stays, fixed.rest);
    Ok(embedded)
}

/// Code of one form, one behind the other with nothing but zeros between.
fn rows_of<'e, S: Source + ?Sized>(
    window: &mut Window<'_, S>,
    index: usize,
    section: &'e Section,
) -> Result<Vec<Fat<'e>>, Stop> {
    let mut found: Vec<(Form, Region)> = Vec::new();
    // Bytes that make no sense are no code.
    _ = search(window, section.range(), |form, region, _| {
        if form == Form::Region || !region.entries.is_empty() {
            found.push((form, region.clone()));
        }
        Ok(())
    })?;
    let mut rows: Vec<Fat<'e>> = Vec::new();
    let mut follows = 0;
    for (form, region) in found {
        let way = match form {
            Form::Region => Way::Paired,
            Form::Frame => Way::Framed,
            Form::Cubin => Way::Fixed,
        };
        let end = region.offset + region.size;
        let padded = end + zeros(window, end, section.range().end)?;
        match rows.last_mut().filter(|row| row.way == way && follows >= region.offset) {
            Some(row) => row.regions.push(region),
            None => rows.push(Fat { index, section, way, range: region.offset..end, regions: vec![region] }),
        }
        if let Some(row) = rows.last_mut() {
            // Tables say where a region ends, and count the zeros in.
            row.range.end = if way == Way::Paired { padded } else { end };
        }
        follows = padded;
    }
    Ok(rows)
}

/// The number of zeros at a position, as far as padding goes.
fn zeros<S: Source + ?Sized>(window: &mut Window<'_, S>, at: u64, end: u64) -> Result<u64, Stop> {
    let most = MOST_PADDING.min(end - at);
    let bytes = window.bytes(at, most as usize)?;
    Ok(bytes.iter().take_while(|byte| **byte == 0).count() as u64)
}

/// The relocations that lead to each row; nothing for one that anything else leads to or writes into.
fn references<S: Source + ?Sized>(
    window: &mut Window<'_, S>,
    elf: &Elf,
    rows: &[Fat<'_>],
) -> Result<Vec<Option<Vec<Found>>>, Stop> {
    let mut found: Vec<Option<Vec<Found>>> = vec![Some(Vec::new()); rows.len()];
    relocation::each(window, elf, |relocation| {
        let (location, target) = match relocation {
            Relocation::Relative { location, target, .. } => (location, Some(target)),
            Relocation::Other { location, target } => (location, target),
        };
        if let Some(at) = within(rows, location).filter(|at| location < rows[*at].end()) {
            found[at] = None;
        }
        let Some(target) = target else { return };
        let Some(at) = within(rows, target) else { return };
        match relocation {
            Relocation::Relative { addend, .. } => {
                found[at].iter_mut().for_each(|found| found.push(Found { location, target, addend }));
            }
            Relocation::Other { .. } => found[at] = None,
        }
    })?
    .map_err(super::refused)?;
    each_symbol(window, elf, |symbol| {
        if let Some(at) = within(rows, symbol.address).filter(|_| !symbol.is_section) {
            found[at] = None;
        }
        Ok(())
    })?;
    Ok(found)
}

/// The row that an address lies in, or at the end of.
fn within(rows: &[Fat<'_>], address: u64) -> Option<usize> {
    let at = rows.partition_point(|row| row.start() <= address).checked_sub(1)?;
    let end = rows[at].end();
    (address < end || address == end && rows[at].way == Way::Paired).then_some(at)
}

/// The pointers of a table that has, for each region of a row, one to its end and behind it one to its beginning. Nothing
/// where a region has none, or where something else leads into it.
fn paired(row: &Fat<'_>, found: &[Found]) -> Option<Vec<Pointer>> {
    let targets: BTreeMap<u64, u64> = found.iter().map(|found| (found.location, found.target)).collect();
    let (mut pointers, mut known) = (Vec::new(), BTreeSet::new());
    for Found { location, target, addend } in found.iter().copied() {
        let (at, into) = row.place_of(target)?;
        let region = &row.regions[at];
        let code = row.address(region);
        let behind = into.checked_sub(region.size);
        if into == 0 {
            let end = location.checked_sub(WORD).and_then(|before| targets.get(&before)?.checked_sub(target));
            let ends = region.size..=region.size + MOST_PADDING;
            known.extend(end.filter(|end| ends.contains(end)).map(|_| at));
        } else if behind.is_none() {
            return None;
        } else if targets.get(&location.saturating_add(WORD)) != Some(&code) {
            // Where the row ends, something else may begin.
            continue;
        }
        pointers.push(Pointer { location, addend, code, behind });
    }
    // Where an entry has an odd size, what follows would lose its alignment.
    let even = row.regions.iter().flat_map(|region| &region.entries).all(|entry| entry.size().is_multiple_of(WORD));
    (even && known.len() == row.regions.len()).then_some(pointers)
}

/// The pointers of descriptors to the frames of a row. Nothing where a frame has none, or where something else leads to it.
fn described<S: Source + ?Sized>(
    window: &mut Window<'_, S>,
    elf: &Elf,
    row: &Fat<'_>,
    found: &[Found],
) -> Result<Option<Vec<Pointer>>, Stop> {
    let mut facts = Vec::new();
    for region in &row.regions {
        let inflated = inflate::zstd_content(window, region.offset)?;
        let number = region.entries.first().map(|entry| entry.number);
        let (Some(inflated), Some(number)) = (inflated, number) else { return Ok(None) };
        facts.push((number, region.size | inflated << 32));
    }
    let (mut pointers, mut known) = (Vec::new(), BTreeSet::new());
    for Found { location, target, addend } in found.iter().copied() {
        let Some((at, 0)) = row.place_of(target) else { return Ok(None) };
        let place = location.checked_sub(ARCHITECTURE).and_then(|address| elf.offset_of(address));
        let Some(place) = place else { return Ok(None) };
        let Some(bytes) = window.array::<{ (ARCHITECTURE + SIZES + WORD) as usize }>(place)? else { return Ok(None) };
        let fields = Fields(&bytes);
        if (fields.u32(0), fields.u64((ARCHITECTURE + SIZES) as usize)) != facts[at] {
            return Ok(None);
        }
        known.insert(at);
        pointers.push(Pointer { location, addend, code: target, behind: None });
    }
    Ok((known.len() == row.regions.len()).then_some(pointers))
}

impl Fat<'_> {
    /// The address at which it begins.
    pub(super) fn start(&self) -> u64 {
        self.section.address_of(self.range.start)
    }

    /// The address at which it ends.
    fn end(&self) -> u64 {
        self.start() + (self.range.end - self.range.start)
    }

    /// The region that an address lies in or behind, and how far from its beginning.
    fn place_of(&self, address: u64) -> Option<(usize, u64)> {
        let offset = self.section.offset.checked_add(address.checked_sub(self.section.address)?)?;
        let at = self.regions.partition_point(|region| region.offset <= offset).checked_sub(1)?;
        let into = offset - self.regions[at].offset;
        (offset <= self.range.end).then_some((at, into))
    }

    /// The bytes of zeros behind a region that belong to it.
    pub(super) fn padding(&self, at: usize) -> u64 {
        let region = &self.regions[at];
        let next = self.regions.get(at + 1).map_or(self.range.end, |next| next.offset);
        if self.way == Way::Paired { next - (region.offset + region.size) } else { 0 }
    }
}
