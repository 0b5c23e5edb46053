//! Lists all GPU code of one file: of shared objects and programs, static libraries, libraries of Windows, and loose `.fatbin`,
//! `.cubin` and `.ptx` files.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::Range;

use crate::ar::{ARCHIVE, Member, THIN};
use crate::elf::{Elf, ElfError, Machine, Section};
use crate::entry::Entry;
use crate::listing::{Depth, FatbinError, Found, Listing, RELOCATABLE};
use crate::loose;
use crate::region::{MAGIC, Malformed, Region, Regions};
use crate::relocation::{self, Relocation};
use crate::search::{Form, search};
use crate::source::{Part, Source, Window};
use crate::summary::Summary;
use crate::wrapper::wrappers;

/// Sections that hold nothing but regions: code to be loaded, and code for the linker.
pub(crate) const REGION_SECTIONS: [&str; 2] = [".nv_fatbin", RELOCATABLE];
/// Sections of AMD's compilers, whose format is another.
const HIP_SECTIONS: [&str; 2] = [".hip_fatbin", ".hipFatBinSegment"];
/// Sections below this many bytes are not searched for code.
const WORTH_SEARCHING: u64 = 4096;
/// The place of code that is all of a file.
const WHOLE: &str = "the file";
/// Bytes of the longest name of a section on Windows, and sections there that may hold code among other data.
const PE_NAME: usize = 8;
const PE_DATA: [&str; 2] = [".rdata", ".data"];
/// Tables of the compiler, by which exceptions find their way: large, and no place for code.
const UNWINDING: [&str; 3] = [".eh_frame", ".eh_frame_hdr", ".gcc_except_table"];
const ELF: &[u8] = b"\x7fELF";
/// Archives in archives that are looked into.
const MOST_NESTED: u32 = 4;
const WINDOWS: &[u8] = b"MZ";

/// Tells if a file that begins so, with eight bytes, is of a kind that can hold GPU code: an ELF file, a static library, a
/// library of Windows, regions alone, or PTX.
pub fn may_be_listed(start: &[u8]) -> bool {
    let magics: [&[u8]; 5] = [ELF, ARCHIVE, THIN, WINDOWS, &MAGIC.to_le_bytes()];
    magics.iter().any(|magic| start.starts_with(magic)) || loose::may_be_ptx(start)
}

/// Lists the GPU code of a file by its headers. Nothing where the file has none and is none.
pub fn list<S: Source + ?Sized>(source: &S) -> Result<Option<Listing>, FatbinError> {
    list_with(source, Depth::Headers)
}

/// Lists the GPU code of a file. Nothing where the file has none and is none.
pub fn list_with<S: Source + ?Sized>(source: &S, depth: Depth) -> Result<Option<Listing>, FatbinError> {
    list_within(source, depth, 0)
}

/// Lists a file that lies in so many archives.
fn list_within<S: Source + ?Sized>(source: &S, depth: Depth, archives: u32) -> Result<Option<Listing>, FatbinError> {
    // Of a directory's files most are no such thing: they are not worth a window.
    let mut start = [0; 8];
    let read = source.read_at(&mut start, 0)?;
    let start = &start[..read];
    if !may_be_listed(start) {
        return Ok(None);
    }
    let mut window = Window::new(source)?;
    if start.starts_with(ARCHIVE) {
        return archive(source, &mut window, depth, archives + 1);
    }
    if start.starts_with(THIN) {
        let mut listing = Listing::new(Found::Archive, depth);
        listing.unseen.push("it is a thin archive: its members are files of their own, which have the code".into());
        return Ok(Some(listing));
    }
    if start.starts_with(&MAGIC.to_le_bytes()) {
        let mut listing = Listing::new(Found::Fatbin, depth);
        let end = window.size();
        listing.regions(&mut window, WHOLE, 0..end)?;
        return Ok(Some(listing));
    }
    if start.starts_with(WINDOWS) {
        return windows(&mut window, depth);
    }
    if !start.starts_with(ELF) {
        return ptx(&mut window, depth);
    }
    match Elf::read(&mut window) {
        // CUDA 13 knows no processors of 32 bits, and none that are big-endian.
        Err(ElfError::NotElf | ElfError::Unsupported) => Ok(None),
        Err(error) => Err(error.into()),
        Ok(elf) => elf_listing(&mut window, &elf, depth),
    }
}

fn elf_listing<S: Source + ?Sized>(
    window: &mut Window<'_, S>,
    elf: &Elf,
    depth: Depth,
) -> Result<Option<Listing>, FatbinError> {
    if elf.machine == Machine::Cuda {
        return cubins(window, depth).map(Some);
    }
    let mut listing = Listing::new(Found::Elf(elf.machine), depth);
    listing.hip = HIP_SECTIONS.iter().any(|name| elf.named(name).next().is_some());
    let mut gaps = Vec::new();
    // Sections do not overlap; those that do must not make the same bytes be read again and again.
    let mut left = window.size();
    for section in &elf.sections {
        if !section.has_content() {
            continue;
        }
        let Some(rest) = left.checked_sub(section.size) else {
            listing.malformed.push(format!("{}: it overlaps with other sections", section.name));
            break;
        };
        left = rest;
        listing.damaged |= is_astray(elf, section);
        if REGION_SECTIONS.contains(&section.name.as_str()) {
            let zeros = listing.regions(window, &section.name, section.range())?;
            gaps.extend(zeros.into_iter().map(|zeros| section.address_of(zeros.start)..section.address_of(zeros.end)));
        } else if may_hide_code(section) {
            listing.search(window, &section.name, section.range())?;
        }
    }
    listing.malformed.extend(leads_to_zeros(window, elf, gaps)?);
    Ok((!listing.is_empty()).then_some(listing))
}

/// Finds pointers to zeros between regions, where a region was: nothing that prunes leaves such.
fn leads_to_zeros<S: Source + ?Sized>(
    window: &mut Window<'_, S>,
    elf: &Elf,
    mut gaps: Vec<Range<u64>>,
) -> Result<Option<String>, FatbinError> {
    if gaps.is_empty() || elf.segments.is_empty() {
        return Ok(None);
    }
    gaps.sort_by_key(|gap| gap.start);
    let mut places = BTreeSet::new();
    let mut note = |target: u64| {
        let gap = gaps.partition_point(|gap| gap.start <= target).checked_sub(1).map(|at| &gaps[at]);
        places.extend(gap.filter(|gap| gap.contains(&target)).map(|_| target));
    };
    // Tables that cannot be read are no code.
    _ = relocation::each(window, elf, |relocation| match relocation {
        Relocation::Relative { target, .. } => note(target),
        Relocation::Other { target, .. } => target.into_iter().for_each(&mut note),
    })?;
    wrappers(window, elf)?.into_iter().flatten().for_each(|wrapper| note(wrapper.region));
    let of_several = || format!("{} pointers lead to zeros where regions were, the first", places.len());
    Ok(places.first().map(|first| {
        let what =
            if places.len() == 1 { "a pointer leads to zeros where a region was,".to_owned() } else { of_several() };
        format!("{what} at address {first:#x}")
    }))
}

/// Tells if the loader maps something else where a section says that it lies: in a pruned file, tools that lay files out anew
/// do such damage (GNU strip, eu-strip).
fn is_astray(elf: &Elf, section: &Section) -> bool {
    let object_file = elf.segments.is_empty();
    !object_file && section.is_loaded() && section.size > 0 && elf.offset_of(section.address) != Some(section.offset)
}

/// Tells if a section is worth searching for code: of those with content that is loaded, and is neither instructions nor a
/// table.
pub(crate) fn may_hide_code(section: &Section) -> bool {
    section.is_data()
        && section.size >= WORTH_SEARCHING
        && !REGION_SECTIONS.contains(&section.name.as_str())
        && !UNWINDING.contains(&section.name.as_str())
}

/// A cubin, or several one after the other.
fn cubins<S: Source + ?Sized>(window: &mut Window<'_, S>, depth: Depth) -> Result<Listing, FatbinError> {
    let mut listing = Listing::new(Found::Cubin, depth);
    let mut summary = Summary::new(depth);
    let found = loose::cubins(window)?;
    if found.is_empty() {
        listing.malformed.push("its headers make no sense".into());
    }
    for (at, cubin) in found {
        summary.add(&Region::bare(Entry::bare(at, &cubin, None)), window)?;
    }
    listing.code.extend(summary.finish(WHOLE));
    Ok(listing)
}

/// A file that is one piece of code.
fn loose_file<S: Source + ?Sized>(
    window: &mut Window<'_, S>,
    format: Found,
    depth: Depth,
    entry: Entry,
) -> Result<Listing, FatbinError> {
    let mut listing = Listing::new(format, depth);
    let mut summary = Summary::new(depth);
    summary.add(&Region::bare(entry), window)?;
    listing.code.extend(summary.finish(WHOLE));
    Ok(listing)
}

fn ptx<S: Source + ?Sized>(window: &mut Window<'_, S>, depth: Depth) -> Result<Option<Listing>, FatbinError> {
    let Some((architecture, version)) = loose::ptx(window)? else { return Ok(None) };
    let entry = Entry::of_text(architecture, version, window.size());
    loose_file(window, Found::Ptx, depth, entry).map(Some)
}

/// A library of Windows: the regions of its sections, whose names are cut off.
fn windows<S: Source + ?Sized>(window: &mut Window<'_, S>, depth: Depth) -> Result<Option<Listing>, FatbinError> {
    let mut listing = Listing::new(Found::Windows, depth);
    for (name, offset, size) in loose::pe_sections(window)? {
        let full = REGION_SECTIONS.iter().find(|full| full.starts_with(&name) && name.len() == PE_NAME);
        if let Some(full) = full {
            listing.regions(window, full, offset..offset + size)?;
        } else if PE_DATA.contains(&name.as_str()) && size >= WORTH_SEARCHING {
            listing.search(window, &name, offset..offset + size)?;
        }
    }
    Ok((!listing.is_empty()).then_some(listing))
}

/// Every object of a static library, added up by section.
fn archive<S: Source + ?Sized>(
    source: &S,
    window: &mut Window<'_, S>,
    depth: Depth,
    archives: u32,
) -> Result<Option<Listing>, FatbinError> {
    let mut listing = Listing::new(Found::Archive, depth);
    let mut position = ARCHIVE.len() as u64;
    while position < window.size() {
        let member = match Member::read_whole(window, position)? {
            Ok(member) => member,
            Err(problem) => {
                listing.malformed.push(problem);
                break;
            }
        };
        let part = Part { source, from: member.from, size: member.size };
        let nested = window.bytes(member.from, ARCHIVE.len())?.starts_with(ARCHIVE);
        if nested && archives >= MOST_NESTED {
            listing.unseen.push(format!("at byte {position:#x} there is an archive in {archives} others"));
        } else {
            match list_within(&part as &dyn Source, depth, archives) {
                Ok(Some(found)) => listing.add(found),
                Ok(None) => {}
                Err(FatbinError::Elf(error)) => {
                    listing.malformed.push(format!("at byte {position:#x} a member of the archive {error}"));
                }
                Err(error) => return Err(error),
            }
        }
        position = member.next();
    }
    Ok((!listing.is_empty()).then_some(listing))
}

impl Listing {
    /// Adds the regions of a range that holds nothing else. Returns the zeros between them that have room for another.
    fn regions<S: Source + ?Sized>(
        &mut self,
        window: &mut Window<'_, S>,
        place: &str,
        range: Range<u64>,
    ) -> Result<Vec<Range<u64>>, FatbinError> {
        let mut summary = Summary::new(self.depth);
        let mut regions = Regions::new(window, range);
        while let Some(region) = regions.next_region()? {
            match region {
                Ok(region) => summary.add(&region, regions.source())?,
                Err(malformed) => self.complain(place, malformed),
            }
        }
        let gaps = regions.gaps();
        self.code.extend(summary.finish(place));
        Ok(gaps)
    }

    /// Looks for code in a section that holds other things too.
    fn search<S: Source + ?Sized>(
        &mut self,
        window: &mut Window<'_, S>,
        section: &str,
        range: Range<u64>,
    ) -> Result<(), FatbinError> {
        let mut summaries: BTreeMap<Form, Summary> = BTreeMap::new();
        let depth = self.depth;
        let searched = search(window, range, |form, region, window| {
            summaries.entry(form).or_insert_with(|| Summary::new(depth)).add(region, window)
        })?;
        self.code.extend(summaries.into_iter().filter_map(|(form, summary)| summary.finish(&form.place(section))));
        if let Err(malformed) = searched {
            self.unseen.push(format!("{section}: {malformed} that looks like code: the rest was not searched"));
        }
        Ok(())
    }

    fn complain(&mut self, place: &str, malformed: Malformed) {
        self.malformed.push(format!("{place}: {malformed}"));
    }
}
