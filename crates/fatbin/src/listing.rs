//! All GPU code of one file: of shared objects and programs, static libraries, loose `.fatbin` and `.cubin` files.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use kiln_plan::gpu::{Architecture, Capability, Form, PtxVersion, Suffix};
use serde::{Deserialize, Serialize};

use crate::coverage::{Tally, coverage};
use crate::elf::{Elf, ElfError, Machine, Section};
use crate::entry::{Compression, Kind};
use crate::region::{self, MAGIC, Malformed, Region, Regions};
use crate::source::{Source, WINDOW, Window};

/// Sections that hold nothing but regions: code to be loaded, and code for the linker.
pub(crate) const REGION_SECTIONS: [&str; 2] = [".nv_fatbin", RELOCATABLE];
/// The one of them that holds code for the linker: no driver takes it from there.
pub(crate) const RELOCATABLE: &str = "__nv_relfatbin";
/// Sections of AMD's compilers, whose format is another.
const HIP_SECTIONS: [&str; 2] = [".hip_fatbin", ".hipFatBinSegment"];
/// Sections below this many bytes are not searched for code.
const WORTH_SEARCHING: u64 = 4096;
/// Bytes that are searched together at first.
const FIRST_STEP: usize = 256;
/// `SHT_PROGBITS`.
const PROGBITS: u32 = 1;
/// Tables of the compiler, by which exceptions find their way: large, and no place for code.
const UNWINDING: [&str; 3] = [".eh_frame", ".eh_frame_hdr", ".gcc_except_table"];
const ELF: &[u8] = b"\x7fELF";
const ARCHIVE: &[u8] = b"!<arch>\n";
/// Bytes of the header of an archive's member.
const MEMBER: u64 = 60;

/// What a file is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Found {
    /// A shared object, a program or an object file.
    Elf(Machine),
    /// Machine code for one architecture.
    Cubin,
    /// Regions alone.
    Fatbin,
    /// A static library.
    Archive,
}

/// A file that cannot be listed.
#[derive(Debug, thiserror::Error)]
pub enum FatbinError {
    /// Its headers.
    #[error(transparent)]
    Elf(#[from] ElfError),
    /// Reading.
    #[error("cannot be read")]
    Io(#[from] io::Error),
}

/// All GPU code of a file.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listing {
    /// What the file is.
    pub format: Found,
    /// Where there is code, in the order of the file.
    pub code: Vec<Code>,
    /// Whether there is code for AMD's GPUs, which is not looked into.
    pub hip: bool,
    /// Places that make no sense: section and what is wrong.
    pub malformed: Vec<String>,
}

/// The code of one place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// A section, and what of it.
    pub place: String,
    /// Regions.
    pub regions: u64,
    /// Bytes that the regions take up.
    pub bytes: u64,
    /// By what the code is.
    pub groups: Vec<Group>,
    /// Regions by what they hold that a driver takes: what decides which GPUs they serve.
    pub alike: Vec<Alike>,
}

/// Regions that hold code for the same architectures.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Alike {
    /// Ascending, each once.
    pub architectures: Vec<Architecture>,
    /// How many.
    pub regions: u64,
}

/// Entries that are alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// What they are for; nothing where that cannot be told.
    pub architecture: Option<Architecture>,
    /// What they hold.
    pub kind: Kind,
    /// How they are compressed.
    pub compression: Compression,
    /// How many.
    pub entries: u64,
    /// Bytes that they take up.
    pub bytes: u64,
    /// The latest version of the language, where it is PTX.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ptx: Option<PtxVersion>,
    /// Options that they were compiled with, the first few.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub options: BTreeSet<String>,
    /// What they were compiled from, where that is said, the first few.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub identifiers: BTreeSet<String>,
}

/// Whether a file that begins so, with eight bytes, is of a kind that can hold GPU code: an ELF file, a static library, or
/// regions alone.
pub fn may_be_listed(start: &[u8]) -> bool {
    [ELF, ARCHIVE, &MAGIC.to_le_bytes()].iter().any(|magic| start.starts_with(magic))
}

/// Lists the GPU code of a file. Nothing where the file has none and is none.
pub fn list<S: Source + ?Sized>(source: &S) -> Result<Option<Listing>, FatbinError> {
    // Of a directory's files most are no such thing: they are not worth a window.
    let mut start = [0; 8];
    let read = source.read_at(&mut start, 0)?;
    let start = &start[..read];
    if !may_be_listed(start) {
        return Ok(None);
    }
    let mut window = Window::new(source)?;
    if start.starts_with(ARCHIVE) {
        return archive(source, &mut window);
    }
    if start.starts_with(&MAGIC.to_le_bytes()) {
        let mut listing = Listing::new(Found::Fatbin);
        let end = window.size();
        listing.regions(&mut window, "the file", 0..end)?;
        return Ok(Some(listing));
    }
    match Elf::read(&mut window) {
        // CUDA 13 knows no processors of 32 bits, and none that are big-endian.
        Err(ElfError::NotElf | ElfError::Unsupported) => Ok(None),
        Err(error) => Err(error.into()),
        Ok(elf) => elf_listing(&mut window, &elf),
    }
}

fn elf_listing<S: Source + ?Sized>(window: &mut Window<'_, S>, elf: &Elf) -> Result<Option<Listing>, FatbinError> {
    if elf.machine == Machine::Cuda {
        return Ok(Some(cubin(elf, window.size())));
    }
    let mut listing = Listing::new(Found::Elf(elf.machine));
    listing.hip = HIP_SECTIONS.iter().any(|name| elf.named(name).next().is_some());
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
        if REGION_SECTIONS.contains(&section.name.as_str()) {
            listing.regions(window, &section.name, section.range())?;
        } else if may_hide_code(section) {
            listing.search(window, section)?;
        }
    }
    let empty = listing.code.is_empty() && listing.malformed.is_empty() && !listing.hip;
    Ok((!empty).then_some(listing))
}

/// Whether a section is worth searching for code: of those with content that is loaded, and is neither instructions nor a
/// table.
fn may_hide_code(section: &Section) -> bool {
    section.kind == PROGBITS
        && section.is_loaded()
        && section.size >= WORTH_SEARCHING
        && !section.is_executable()
        && !UNWINDING.contains(&section.name.as_str())
}

/// Where in some bytes the first multiple of eight is at which a region may begin.
fn find_magic(bytes: &[u8]) -> Option<usize> {
    // Blocks are looked at without a branch for each word, which is several times as fast.
    const BLOCK: usize = 256;
    let magic = |word: &[u8]| word.starts_with(&MAGIC.to_le_bytes());
    let block =
        bytes.chunks(BLOCK).position(|block| block.chunks_exact(8).fold(false, |found, word| found | magic(word)))?;
    let words = bytes[block * BLOCK..].chunks_exact(8);
    words.into_iter().position(magic).map(|word| block * BLOCK + word * 8)
}

/// A cubin tells its architecture in its flags: in ABI 7 in the lowest byte, from 8 on in the next.
fn cubin(elf: &Elf, size: u64) -> Listing {
    let number = if elf.abi >= 8 { (elf.flags >> 8) & 0xff } else { elf.flags & 0xff };
    let capability = Capability::from_number(number);
    let architecture = capability.map(|capability| Architecture { capability, suffix: Suffix::None, form: Form::Real });
    let (kind, compression) = (Kind::Cubin, Compression::None);
    let group = Group {
        architecture,
        kind,
        compression,
        entries: 1,
        bytes: size,
        ptx: None,
        options: BTreeSet::new(),
        identifiers: BTreeSet::new(),
    };
    let alike = Alike { architectures: architecture.into_iter().collect(), regions: 1 };
    let code = Code { place: "the file".into(), regions: 1, bytes: size, groups: vec![group], alike: vec![alike] };
    Listing { code: vec![code], ..Listing::new(Found::Cubin) }
}

/// Every object of a static library, added up by section.
fn archive<S: Source + ?Sized>(source: &S, window: &mut Window<'_, S>) -> Result<Option<Listing>, FatbinError> {
    let mut listing = Listing::new(Found::Archive);
    let mut position = ARCHIVE.len() as u64;
    while let Some(header) = window.array::<60>(position)? {
        let size = std::str::from_utf8(&header[48..58]).ok().and_then(|text| text.trim().parse::<u64>().ok());
        let from = position + MEMBER;
        let Some(size) = size.filter(|size| from.checked_add(*size).is_some_and(|end| end <= window.size())) else {
            listing.malformed.push(format!("at byte {position:#x} a member of the archive is cut off"));
            break;
        };
        let member = Part { source, from, size };
        // Archives in archives would be no end of them.
        let nested = window.bytes(from, ARCHIVE.len())?.starts_with(ARCHIVE);
        // Members begin at even positions.
        position = from + size + (size & 1);
        if nested {
            continue;
        }
        match list(&member as &dyn Source) {
            Ok(Some(found)) => listing.add(found),
            Ok(None) | Err(FatbinError::Elf(_)) => {}
            Err(error) => return Err(error),
        }
    }
    Ok(Some(listing))
}

/// A part of a source.
struct Part<'a, S: Source + ?Sized> {
    source: &'a S,
    from: u64,
    size: u64,
}

impl<S: Source + ?Sized> Source for Part<'_, S> {
    fn size(&self) -> io::Result<u64> {
        Ok(self.size)
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let left = usize::try_from(self.size.saturating_sub(position)).unwrap_or(usize::MAX).min(buffer.len());
        self.source.read_at(&mut buffer[..left], self.from.saturating_add(position))
    }
}

impl Listing {
    fn new(format: Found) -> Self {
        Self { format, code: Vec::new(), hip: false, malformed: Vec::new() }
    }

    /// Adds the regions of a range that holds nothing else.
    fn regions<S: Source + ?Sized>(
        &mut self,
        window: &mut Window<'_, S>,
        place: &str,
        range: std::ops::Range<u64>,
    ) -> Result<(), FatbinError> {
        let mut summary = Summary::default();
        let mut regions = Regions::new(window, range);
        while let Some(region) = regions.next_region()? {
            match region {
                Ok(region) => summary.add(&region, regions.source())?,
                Err(malformed) => self.complain(place, malformed),
            }
        }
        self.code.extend(summary.finish(place));
        Ok(())
    }

    /// Looks for regions in a section that holds other things too.
    fn search<S: Source + ?Sized>(&mut self, window: &mut Window<'_, S>, section: &Section) -> Result<(), FatbinError> {
        let mut summary = Summary::default();
        let end = section.offset + section.size;
        // What looks like regions and is none costs time: as much as the section would if it were all entries.
        let mut patience = section.size;
        // Regions begin at multiples of eight of the file.
        let mut position = section.offset.next_multiple_of(8);
        // One region often follows another, so that little is read after each, and ever more where none comes.
        let mut step = FIRST_STEP;
        while position < end {
            let most = usize::try_from(end - position).unwrap_or(step).min(step);
            let bytes = window.bytes(position, most)?;
            if bytes.len() < 8 {
                break;
            }
            let Some(at) = find_magic(bytes) else {
                position += (bytes.len() & !7) as u64;
                step = (step * 2).min(WINDOW);
                continue;
            };
            position += at as u64;
            match region::read(window, position, end)? {
                Ok(region) => {
                    summary.add(&region, window)?;
                    position = (region.offset + region.size).next_multiple_of(8);
                    step = FIRST_STEP;
                }
                // Four bytes may look like a region by chance.
                Err(malformed) => {
                    let looked = malformed.offset.saturating_sub(position) + 8;
                    if looked > patience {
                        self.complain(&section.name, malformed);
                        break;
                    }
                    patience -= looked;
                    position += 8;
                }
            }
        }
        self.code.extend(summary.finish(&section.name));
        Ok(())
    }

    fn complain(&mut self, place: &str, malformed: Malformed) {
        self.malformed.push(format!("{place}: {malformed}"));
    }

    fn add(&mut self, other: Self) {
        self.hip |= other.hip;
        self.malformed.extend(other.malformed);
        for code in other.code {
            match self.code.iter_mut().find(|known| known.place == code.place) {
                Some(known) => known.add(code),
                None => self.code.push(code),
            }
        }
    }
}

impl Code {
    fn add(&mut self, other: Self) {
        self.regions += other.regions;
        self.bytes += other.bytes;
        for group in other.groups {
            let same = |known: &&mut Group| {
                (known.architecture, known.kind, known.compression)
                    == (group.architecture, group.kind, group.compression)
            };
            match self.groups.iter_mut().find(same) {
                Some(known) => {
                    known.entries += group.entries;
                    known.bytes += group.bytes;
                    known.ptx = known.ptx.max(group.ptx);
                    known.options.extend(group.options);
                    known.identifiers.extend(group.identifiers);
                }
                None => self.groups.push(group),
            }
        }
        for more in other.alike {
            match self.alike.iter_mut().find(|known| known.architectures == more.architectures) {
                Some(known) => known.regions += more.regions,
                None => self.alike.push(more),
            }
        }
    }

    /// How many regions serve a GPU in which way. Empty regions serve nobody and need not.
    pub fn coverage(&self, gpu: Capability) -> Tally {
        let mut tally = Tally::default();
        for alike in self.alike.iter().filter(|alike| !alike.architectures.is_empty()) {
            tally.count(coverage(&alike.architectures, gpu), alike.regions);
        }
        tally
    }
}

/// What entries are told apart by: form, number, suffix, kind and compression.
type Key = (Kind, Option<Architecture>, Compression);

/// Texts of a kind that are kept.
const MOST_TEXTS: usize = 8;

/// Entries that are alike, added up.
#[derive(Default)]
struct Sum {
    entries: u64,
    bytes: u64,
    ptx: Option<PtxVersion>,
    options: BTreeSet<String>,
    identifiers: BTreeSet<String>,
}

#[derive(Default)]
struct Summary {
    regions: u64,
    bytes: u64,
    groups: BTreeMap<Key, Sum>,
    alike: BTreeMap<Vec<Architecture>, u64>,
}

impl Summary {
    fn add<S: Source + ?Sized>(&mut self, region: &Region, source: &mut Window<'_, S>) -> io::Result<()> {
        self.regions += 1;
        self.bytes += region.size;
        for entry in &region.entries {
            let sum = self.groups.entry((entry.kind, entry.architecture(), entry.compression())).or_default();
            sum.entries += 1;
            sum.bytes += entry.size();
            sum.ptx = sum.ptx.max(entry.ptx());
            if sum.options.len() < MOST_TEXTS {
                sum.options.extend(entry.options_text(source)?);
            }
            if sum.identifiers.len() < MOST_TEXTS {
                sum.identifiers.extend(entry.identifier_text(source)?);
            }
        }
        *self.alike.entry(region.architectures()).or_default() += 1;
        Ok(())
    }

    fn finish(self, place: &str) -> Option<Code> {
        let group = |((kind, architecture, compression), sum): (Key, Sum)| {
            let Sum { entries, bytes, ptx, options, identifiers } = sum;
            Group { architecture, kind, compression, entries, bytes, ptx, options, identifiers }
        };
        let alike = |(architectures, regions)| Alike { architectures, regions };
        (self.regions > 0).then(|| Code {
            place: place.to_owned(),
            regions: self.regions,
            bytes: self.bytes,
            groups: self.groups.into_iter().map(group).collect(),
            alike: self.alike.into_iter().map(alike).collect(),
        })
    }
}
