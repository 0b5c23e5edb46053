//! True if a pruned file still is what it was: looked at as the loader and the driver will, from the written file alone.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::ops::Range;

use super::embedded::{self, Pointer};
use super::rewrite::Moved;
use super::{EMPTY_FRAME, Fat, MAGIC, Stop, Way, archive, fats, fixed, loose, object, refused, room};
use crate::ar::ARCHIVE;
use crate::elf::{Elf, Segment};
use crate::entry::Entry;
use crate::inflate;
use crate::region::{self, Region};
use crate::relocation::{self, Relocation};
use crate::selection::Selection;
use crate::source::{Source, Window};
use crate::wrapper::{Wrapper, wrappers};

/// The least that the offset and address of what is mapped agree in.
const PAGE: u64 = 4096;
/// Bytes that are compared at once.
const CHUNK: usize = 64 << 10;

/// Compares a file with what it was pruned to. The inner error is a clause that says what does not hold.
///
/// Every address has the content that it had but for GPU code; every wrapper leads to a region that serves the wanted
/// GPUs as the old one did, out of the same entries; nothing that is mapped overlaps or leads out of the file.
pub fn check<S: Source + ?Sized, T: Source + ?Sized>(
    before: &S,
    after: &T,
    selection: &Selection,
) -> io::Result<Result<(), String>> {
    match compare(before, after, selection) {
        Ok(()) => Ok(Ok(())),
        Err(Stop::Refused(problem)) => Ok(Err(problem)),
        Err(Stop::Io(error)) => Err(error),
    }
}

fn compare<S: Source + ?Sized, T: Source + ?Sized>(before: &S, after: &T, selection: &Selection) -> Result<(), Stop> {
    let (mut one, mut other) = (Window::new(before)?, Window::new(after)?);
    if one.bytes(0, MAGIC.len())? == MAGIC {
        let (old, new) = (loose::regions(&mut one)?, loose::regions(&mut other)?);
        if old.len() != new.len() {
            return Err(refused("there are fewer regions"));
        }
        return old.iter().zip(&new).try_for_each(|(old, new)| same(old, new, false, selection));
    }
    if one.bytes(0, ARCHIVE.len())? == ARCHIVE {
        return archive::check(before, after, selection);
    }
    let (mut old, mut new) = (View::open(before)?, View::open(after)?);
    if object::is_object(&old.elf) {
        return object::check(&mut old.window, &mut new.window, selection);
    }
    mapped(&new.elf, new.window.size())?;
    sections(&mut old, &mut new)?;
    // Regions by themselves, as tools see them.
    fats(&mut new.window, &new.elf)?;
    let (old_wrappers, new_wrappers) = (old.wrappers()?, new.wrappers()?);
    if old_wrappers.len() != new_wrappers.len() {
        return Err(refused("there are fewer wrappers"));
    }
    let old_elf = old.elf.clone();
    let sections = fats(&mut old.window, &old_elf)?;
    let holds = |address: u64| sections.iter().find(|fat| fat.section.memory().contains(&address));
    let pointed: BTreeSet<u64> = old_wrappers.iter().map(|wrapper| wrapper.region).collect();
    let moved = old_wrappers.iter().zip(&new_wrappers);
    if moved.clone().any(|(one, other)| one.pointer != other.pointer) {
        return Err(refused("a wrapper is somewhere else"));
    }
    let moved = moved.map(|(one, other)| (one.region, other.region));
    let addresses = sections.iter().flat_map(|fat| fat.regions.iter().map(|region| fat.address(region)));
    let stayed = addresses.filter(|address| !pointed.contains(address)).map(|address| (address, address));
    let pairs: BTreeSet<(u64, u64)> = moved.chain(stayed).collect();
    for (from, to) in pairs {
        let Some(fat) = holds(from) else { continue };
        let drops_all = super::drops_all(&fat.section.name, selection);
        same(&old.region(from)?, &new.region(to)?, drops_all, selection)?;
    }
    tables(&mut old, &mut new, selection)
}

/// Compares what the tables of data point at.
fn tables<S: Source + ?Sized, T: Source + ?Sized>(
    old: &mut View<'_, S>,
    new: &mut View<'_, T>,
    selection: &Selection,
) -> Result<(), Stop> {
    let elf = old.elf.clone();
    let dynamic = room::dynamic(&mut old.window, &elf)?;
    let found = embedded::find(&mut old.window, &elf, &dynamic)?;
    for fat in found.fats.iter().filter(|fat| fat.way == Way::Fixed) {
        in_place(old, new, fat, &found.stays, selection)?;
    }
    let mut targets: BTreeMap<u64, u64> = found.pointers.iter().map(|pointer| (pointer.location, 0)).collect();
    relocation::each(&mut new.window, &new.elf, |relocation| {
        if let Relocation::Relative { location, target, .. } = relocation
            && let Some(known) = targets.get_mut(&location)
        {
            *known = target;
        }
    })?
    .map_err(refused)?;
    let mut moved: BTreeMap<u64, Moved> = BTreeMap::new();
    for pointer in found.pointers.iter().filter(|pointer| pointer.behind.is_none()) {
        let code = found.fats.iter().find_map(|fat| Some((fat.way, &fat.regions[fat.region_at(pointer.code)?])));
        let (Some((way, region)), false) = (code, moved.contains_key(&pointer.code)) else { continue };
        let address = targets[&pointer.location];
        let size = match way {
            Way::Framed => frame(&mut old.window, region, new, address, selection)?,
            _ => {
                let kept = new.region(address)?;
                same(region, &kept, false, selection)?;
                kept.size
            }
        };
        moved.insert(pointer.code, Moved { before: region.size, size, address });
    }
    let leads = |pointer: &Pointer| {
        let code = moved.get(&pointer.code);
        code.is_some_and(|code| pointer.moves(code).1 == targets[&pointer.location])
    };
    if !found.pointers.iter().all(leads) {
        return Err(refused("a pointer of a table leads somewhere else"));
    }
    Ok(())
}

/// Compares code that keeps its place: it is as it was, or something empty took its place.
fn in_place<S: Source + ?Sized, T: Source + ?Sized>(
    old: &mut View<'_, S>,
    new: &mut View<'_, T>,
    fat: &Fat<'_>,
    stays: &BTreeSet<u64>,
    selection: &Selection,
) -> Result<(), Stop> {
    for region in &fat.regions {
        let address = fat.address(region);
        let kept = stays.contains(&address) || selection.keeps(region).contains(&true);
        let stub = fixed::stub(region);
        let sound = match new.elf.offset_of(address) {
            Some(offset) if kept => {
                let range = region.offset..region.offset + region.size;
                equal(&mut old.window, range, &mut new.window, offset..offset + region.size)?
            }
            Some(offset) => new.window.bytes(offset, stub.len())? == stub,
            // Zeros that are in memory alone.
            None => !kept && new.elf.segments.iter().any(|segment| segment.is_loaded() && segment.holds(address)),
        };
        if !sound {
            return Err(refused(format!("the code at {:#x} has changed", region.offset)));
        }
    }
    Ok(())
}

/// Compares a frame with the one that takes its place; returns the bytes of that.
fn frame<S: Source + ?Sized, T: Source + ?Sized>(
    old: &mut Window<'_, S>,
    region: &Region,
    new: &mut View<'_, T>,
    address: u64,
    selection: &Selection,
) -> Result<u64, Stop> {
    let offset = new.elf.offset_of(address).ok_or_else(|| refused("a descriptor points at what is not in the file"))?;
    let end = new.window.size();
    let size = inflate::zstd_frame(&mut new.window, offset, end)?;
    let stays = selection.keeps(region).contains(&true);
    let wanted = if stays { region.size } else { EMPTY_FRAME.len() as u64 };
    if size != Some(wanted) {
        return Err(refused(format!("the frame at {offset:#x} is not the one that was there")));
    }
    let size = if stays { region.size } else { 0 };
    if !equal(old, region.offset..region.offset + size, &mut new.window, offset..offset + size)? {
        return Err(refused(format!("the frame at {offset:#x} has changed")));
    }
    Ok(wanted)
}

/// A file as the loader sees it.
struct View<'a, S: Source + ?Sized> {
    window: Window<'a, S>,
    elf: Elf,
}

impl<'a, S: Source + ?Sized> View<'a, S> {
    fn open(source: &'a S) -> Result<Self, Stop> {
        let mut window = Window::new(source)?;
        let elf = Elf::read(&mut window).map_err(|error| refused(format!("it {error}")))?;
        Ok(Self { window, elf })
    }

    fn wrappers(&mut self) -> Result<Vec<Wrapper>, Stop> {
        wrappers(&mut self.window, &self.elf)?.map_err(refused)
    }

    /// The region at an address of memory.
    fn region(&mut self, address: u64) -> Result<Region, Stop> {
        let offset =
            self.elf.offset_of(address).ok_or_else(|| refused("a wrapper points at what is not in the file"))?;
        let end = self.window.size();
        region::read(&mut self.window, offset, end)?.map_err(|malformed| refused(malformed.to_string()))
    }
}

fn mapped(elf: &Elf, size: u64) -> Result<(), Stop> {
    let mut free = 0;
    for segment in elf.segments.iter().filter(|segment| segment.is_loaded()) {
        let alignment = segment.alignment.max(1);
        let agrees = |by: u64| segment.address % by == segment.offset % by;
        let inside = segment.offset.checked_add(segment.size).is_some_and(|end| end <= size);
        if !agrees(alignment) || !agrees(PAGE.min(alignment)) || !inside || segment.memory < segment.size {
            return Err(refused("a segment is not where it can be mapped from"));
        }
        if segment.address < free {
            return Err(refused("segments overlap"));
        }
        free = segment.address.saturating_add(segment.memory);
    }
    let table = elf.segments.iter().find(|segment| segment.kind == Segment::PROGRAM_HEADERS);
    if table.is_some_and(|table| elf.offset_of(table.address) != Some(elf.program_headers)) {
        return Err(refused("its program headers are not mapped"));
    }
    Ok(())
}

fn sections<S: Source + ?Sized, T: Source + ?Sized>(old: &mut View<'_, S>, new: &mut View<'_, T>) -> Result<(), Stop> {
    if old.elf.sections.len() != new.elf.sections.len() {
        return Err(refused("its sections are not the same"));
    }
    let dynamic = room::dynamic(&mut new.window, &new.elf)?;
    for (one, other) in old.elf.sections.iter().zip(&new.elf.sections) {
        let named = one.address == other.address
            || room::named(other, &dynamic).is_some()
                && equal(&mut old.window, one.range(), &mut new.window, other.range())?;
        if !named || (&one.name, one.kind) != (&other.name, other.kind) || other.size > one.size {
            return Err(refused(format!("its section `{}` has changed", one.name)));
        }
        // Where tools look for a section is where the loader takes it from.
        let loaded = other.address != 0 && other.has_content();
        if loaded
            && new.elf.offset_of(other.address) != Some(other.offset)
            && old.elf.offset_of(one.address) == Some(one.offset)
        {
            return Err(refused(format!("its section `{}` is mapped from somewhere else", one.name)));
        }
    }
    Ok(())
}

/// Tells if two ranges have the same content.
pub(super) fn equal<S: Source + ?Sized, T: Source + ?Sized>(
    old: &mut Window<'_, S>,
    one: Range<u64>,
    new: &mut Window<'_, T>,
    other: Range<u64>,
) -> io::Result<bool> {
    if one.end - one.start != other.end - other.start {
        return Ok(false);
    }
    for at in (0..one.end - one.start).step_by(CHUNK) {
        let most = usize::try_from(one.end - one.start - at).unwrap_or(CHUNK).min(CHUNK);
        if old.bytes(one.start + at, most)? != new.bytes(other.start + at, most)? {
            return Ok(false);
        }
    }
    Ok(true)
}

/// The entry without its position.
fn content(entry: &Entry) -> Entry {
    Entry { offset: 0, ..*entry }
}

pub(super) fn same(old: &Region, new: &Region, drops_all: bool, selection: &Selection) -> Result<(), Stop> {
    let mut rest = old.entries.iter().map(content);
    if !new.entries.iter().map(content).all(|entry| rest.any(|known| known == entry)) {
        return Err(refused(format!("the region at {:#x} has entries that were not there", new.offset)));
    }
    if drops_all {
        return Ok(());
    }
    for gpu in &selection.gpus {
        if old.coverage(*gpu) != new.coverage(*gpu) {
            return Err(refused(format!("the region at {:#x} no longer serves {gpu} as it did", new.offset)));
        }
    }
    Ok(())
}
