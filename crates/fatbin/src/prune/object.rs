//! Object files, which are linked before anything runs: a region shrinks at its place, and what lies behind it moves to the
//! front of the file. No address is known yet, and relocations name symbols and sections.

use std::ops::Range;

use super::check::{equal, same};
use super::rewrite::{Changes, Piece, copy_entries, region_header};
use super::{Cut, Fat, Placed, SYMBOL, SYMBOLS, Served, Stop, drops_all, fats, refused, sums};
use crate::elf::{Elf, REL, RELA, RELA_ENTRY, field};
use crate::region::{REGION_HEADER, Region};
use crate::selection::Selection;
use crate::source::{Fields, Source, Window};

/// `ET_REL`.
const OBJECT: u16 = 1;
/// Sections are moved by multiples of this at least.
const LEAST: u64 = 8;
/// Alignments above this are not kept.
const MOST: u64 = 1 << 16;

/// An object file as it will be.
pub(super) struct Object {
    pub(super) pieces: Vec<Piece>,
    pub(super) regions: u64,
    /// Regions that stay as they are, since something points into them.
    pub(super) pinned: u64,
    pub(super) code: Vec<Cut>,
}

/// The plan for an object file.
pub(super) struct Planned {
    /// The file as it will be; nothing where it stays as it is.
    pub(super) object: Option<Object>,
    /// True if all of its code is for the GPUs.
    pub(super) needed: bool,
    /// True if any of its code is for the GPUs.
    pub(super) served: Served,
    /// Sections whose code stays as it is, and its bytes.
    pub(super) pinned: Vec<(String, u64)>,
}

/// Tells if a file is one that is linked before anything runs.
pub(super) fn is_object(elf: &Elf) -> bool {
    elf.kind == OBJECT
}

/// Finds out how to cut an object file.
pub(super) fn plan<S: Source + ?Sized>(
    window: &mut Window<'_, S>,
    elf: &Elf,
    selection: &Selection,
) -> Result<Planned, Stop> {
    let fats = fats(window, elf)?;
    if elf.sections.iter().any(|section| section.kind == REL && section.has_content()) {
        return Err(refused("it has relocations without addends"));
    }
    let (mut served, mut needed) = (Served::default(), true);
    for (fat, region) in fats.iter().flat_map(|fat| fat.regions.iter().map(move |region| (fat, region))) {
        let keeps = keeps(fat, region, selection);
        needed &= keeps.iter().all(|keep| *keep);
        if !drops_all(&fat.section.name, selection) {
            served.add(region, &keeps);
        }
    }
    let mut shrunk = Vec::new();
    let mut pinned = Vec::new();
    for fat in &fats {
        if is_alone(window, elf, fat)? {
            shrunk.push((fat, shrink(window, elf, fat, selection)?));
        } else {
            pinned.push((fat.section.name.clone(), fat.regions.iter().map(|region| region.size).sum()));
        }
    }
    shrunk.retain(|(_, shrunk)| shrunk.cut.start < shrunk.cut.end);
    if shrunk.is_empty() {
        return Ok(Planned { object: None, needed, served, pinned });
    }
    let moved = |offset: u64| {
        let gone = shrunk.iter().map(|(_, shrunk)| offset.min(shrunk.cut.end).saturating_sub(shrunk.cut.start));
        offset - gone.sum::<u64>()
    };
    let mut changes = Changes::default();
    changes.put(field::SECTION_HEADERS, moved(elf.section_headers).to_le_bytes());
    for section in elf.sections.iter().filter(|section| section.kind != 0) {
        changes.put(section.header + field::OFFSET, moved(section.offset).to_le_bytes());
    }
    for (fat, Shrunk { placed, cut }) in &shrunk {
        changes.put(fat.section.header + field::SIZE, placed.size.to_le_bytes());
        let mut pieces = vec![Piece::Bytes(region_header(placed.size))];
        copy_entries(&fat.regions[0].entries, &placed.keeps, &mut pieces);
        pieces.push(Piece::Zeros(cut.start - (placed.offset + placed.size)));
        changes.replace(fat.range.clone(), pieces);
    }
    symbols(window, elf, &shrunk, &mut changes)?;
    let regions = fats.iter().map(|fat| fat.regions.len() as u64).sum();
    let object = Object {
        pieces: changes.pieces(window.size())?,
        regions,
        pinned: regions - shrunk.len() as u64,
        code: sums(shrunk.iter().map(|(fat, shrunk)| (&fat.regions[0], &shrunk.placed))),
    };
    Ok(Planned { object: Some(object), needed, served, pinned })
}

fn keeps(fat: &Fat<'_>, region: &Region, selection: &Selection) -> Vec<bool> {
    if drops_all(&fat.section.name, selection) { vec![false; region.entries.len()] } else { selection.keeps(region) }
}

/// A region that shrinks, and what is cut out behind it.
struct Shrunk {
    placed: Placed,
    cut: Range<u64>,
}

fn shrink<S: Source + ?Sized>(
    window: &mut Window<'_, S>,
    elf: &Elf,
    fat: &Fat<'_>,
    selection: &Selection,
) -> Result<Shrunk, Stop> {
    let region = &fat.regions[0];
    let keeps = keeps(fat, region, selection);
    let kept = region.entries.iter().zip(&keeps).filter(|(_, keep)| **keep);
    let size = REGION_HEADER + kept.map(|(entry, _)| entry.size()).sum::<u64>();
    let placed = Placed { offset: region.offset, size, keeps };
    let mut alignment = LEAST;
    for section in elf.sections.iter().filter(|section| section.offset > fat.section.offset) {
        let wanted = window.array(section.header + field::ALIGNMENT)?.map_or(0, u64::from_le_bytes);
        alignment = alignment.max(wanted);
    }
    if !alignment.is_power_of_two() || alignment > MOST {
        return Err(refused("its sections have an alignment that is not known"));
    }
    let end = fat.range.end;
    let gone = (end - (placed.offset + size)) / alignment * alignment;
    Ok(Shrunk { placed, cut: end - gone..end })
}

/// Tells if a section holds one region, to whose beginning alone relocations and symbols lead.
fn is_alone<S: Source + ?Sized>(window: &mut Window<'_, S>, elf: &Elf, fat: &Fat<'_>) -> Result<bool, Stop> {
    if fat.regions.len() != 1 || fat.regions[0].offset != fat.range.start {
        return Ok(false);
    }
    for section in elf.sections.iter().filter(|section| section.kind == RELA && section.has_content()) {
        let target = window.array(section.header + field::INFO)?.map_or(0, u32::from_le_bytes);
        if target as usize == fat.index {
            return Ok(false);
        }
        let Some(table) = elf.sections.get(section.link as usize) else { return Ok(false) };
        // Symbols and relocations lie far apart.
        let mut symbols = window.another();
        for at in (section.offset..).step_by(RELA_ENTRY as usize).take((section.size / RELA_ENTRY) as usize) {
            let Some(bytes) = window.array::<{ RELA_ENTRY as usize }>(at)? else { break };
            let fields = Fields(&bytes);
            let (symbol, addend) = (fields.u64(8) >> 32, fields.u64(16));
            if symbol == 0 {
                continue;
            }
            let place = table.offset.checked_add(symbol * SYMBOL);
            let Some(bytes) = place.map(|place| symbols.array::<{ SYMBOL as usize }>(place)).transpose()?.flatten()
            else {
                return Ok(false);
            };
            let fields = Fields(&bytes);
            if usize::from(fields.u16(6)) == fat.index && fields.u64(8).wrapping_add(addend) != 0 {
                return Ok(false);
            }
        }
    }
    let mut inside = false;
    super::references::each_symbol(window, elf, |symbol| {
        inside |= symbol.section == fat.index && symbol.address != 0;
        Ok(())
    })?;
    Ok(!inside)
}

/// The sizes of symbols for regions that shrink.
fn symbols<S: Source + ?Sized>(
    window: &mut Window<'_, S>,
    elf: &Elf,
    shrunk: &[(&Fat<'_>, Shrunk)],
    changes: &mut Changes,
) -> Result<(), Stop> {
    super::references::each_symbol(window, elf, |symbol| {
        let own = shrunk.iter().find(|(fat, _)| fat.index == symbol.section);
        if let Some((_, shrunk)) = own.filter(|(_, shrunk)| symbol.size > shrunk.placed.size) {
            changes.put(symbol.offset + 16, shrunk.placed.size.to_le_bytes());
        }
        Ok(())
    })
}

/// Compares an object file with what it was cut to.
pub(super) fn check<S: Source + ?Sized, T: Source + ?Sized>(
    old: &mut Window<'_, S>,
    new: &mut Window<'_, T>,
    selection: &Selection,
) -> Result<(), Stop> {
    let read = |error| refused(format!("it {error}"));
    let (before, after) = (Elf::read(old).map_err(read)?, Elf::read(new).map_err(read)?);
    let (old_fats, new_fats) = (fats(old, &before)?, fats(new, &after)?);
    if before.sections.len() != after.sections.len() || old_fats.len() != new_fats.len() {
        return Err(refused("its sections are not the same"));
    }
    for (index, (one, other)) in before.sections.iter().zip(&after.sections).enumerate() {
        let is_fat = old_fats.iter().any(|fat| fat.index == index);
        let kept = is_fat || one.kind == SYMBOLS || !one.has_content();
        if (&one.name, one.kind, one.link) != (&other.name, other.kind, other.link)
            || !kept && !equal(old, one.range(), new, other.range())?
        {
            return Err(refused(format!("its section `{}` has changed", one.name)));
        }
    }
    for (one, other) in old_fats.iter().zip(&new_fats) {
        let drops_all = drops_all(&one.section.name, selection);
        if one.regions.len() != other.regions.len() {
            return Err(refused("there are fewer regions"));
        }
        one.regions.iter().zip(&other.regions).try_for_each(|(old, new)| same(old, new, drops_all, selection))?;
    }
    Ok(())
}
