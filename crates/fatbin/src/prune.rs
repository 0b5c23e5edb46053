//! Cutting GPU code out of a shared object, so that what stays works as before.
//!
//! Regions are packed to the front of their section, each with the entries that [`Selection`] keeps, and the pages that
//! become free behind them are cut out of the file. No address changes but those of regions, which the wrappers'
//! relocations name; whatever else points at a region pins it to its place. Where anything is not as it is known to be, the
//! file is left as it is and the reason is told.
//!
//! The result is a list of pieces, so that a library of a gigabyte is pruned in a few megabytes of memory.

mod archive;
mod check;
mod embedded;
mod fixed;
mod layout;
mod loose;
mod object;
mod operands;
mod references;
mod rewrite;
mod room;
#[cfg(test)]
mod tests;
mod uncut;

use std::collections::BTreeMap;
use std::io;
use std::ops::Range;

use kiln_plan::gpu::{Architecture, runs_on};
use serde::Serialize;

use crate::ar::{ARCHIVE, THIN};
use crate::cubin::{self, Cubin};
use crate::elf::{Elf, ElfError, Machine, Section};
use crate::entry::{Entry, Kind};
use crate::inflate::EMPTY_FRAME;
use crate::listing::RELOCATABLE;
use crate::read::REGION_SECTIONS;
use crate::region::{ALIGNMENT, REGION_HEADER, Region, Regions};
use crate::selection::{Selection, serves};
use crate::source::{Source, Window};

pub use check::check;
use layout::Layout;
use object::Object;
use references::References;
pub use rewrite::{Rewrite, Rewritten};
use room::Dynamic;
pub use uncut::{Uncut, uncut};

/// Raised when the same file would be pruned to other bytes.
pub const PRUNE_VERSION: u32 = 5;
/// `SHT_SYMTAB`, and bytes of a symbol.
const SYMBOLS: u32 = 2;
const SYMBOL: u64 = 24;
/// `ET_DYN`: shared objects, and programs that can be loaded anywhere.
const SHARED: u16 = 3;
/// The bytes that a file of regions begins with.
const MAGIC: [u8; 4] = crate::region::MAGIC.to_le_bytes();

/// Frames begin at multiples of this.
const FRAME_ALIGNMENT: u64 = 32;

/// The result of planning for a file.
#[derive(Debug)]
pub enum Decision {
    /// There is no GPU code that could be cut.
    NoCode,
    /// The file stays as it is, because all of it is needed, or so much that no page becomes free.
    Stays {
        /// True if all code stays that can be cut.
        needed: bool,
        /// True unless there is code, and none for any of the GPUs.
        serves: bool,
        /// Bytes of code that is never cut.
        uncut: u64,
    },
    /// It is machine code for one architecture, which is needed or not.
    Loose(Architecture, bool),
    /// The file stays as it is, because it is not as files are known to be: a clause.
    Refused(String),
    /// The way to write it anew.
    Rewrite(Box<Rewrite>),
}

/// The fate of a file with GPU code.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum Outcome {
    /// Some was cut.
    Pruned(Box<Rewrite>),
    /// All code that can be cut is needed.
    Needed {
        /// Bytes of code that is never cut.
        #[serde(skip_serializing_if = "is_zero")]
        uncut: u64,
    },
    /// So little can be cut that no page becomes free.
    Small {
        /// True unless none of the code is for any of the GPUs.
        serves: bool,
        /// Bytes of code that is never cut.
        #[serde(skip_serializing_if = "is_zero")]
        uncut: u64,
    },
    /// It is machine code for one architecture. A wheel leaves out what no GPU needs; elsewhere it stays.
    Loose {
        /// The architecture that it is for.
        architecture: Architecture,
        /// True if it runs on one of the GPUs.
        needed: bool,
    },
    /// The file is as it was.
    Refused {
        /// A clause.
        reason: String,
    },
}

impl Outcome {
    /// The fate of a file, if the pruned one passes the check; `None` where there is no code that could be
    /// cut.
    pub fn of(
        decision: Decision,
        check: impl FnOnce(&Rewrite) -> io::Result<Result<(), String>>,
    ) -> io::Result<Option<Self>> {
        Ok(Some(match decision {
            Decision::NoCode => return Ok(None),
            Decision::Stays { needed: true, serves: true, uncut } => Self::Needed { uncut },
            Decision::Stays { serves, uncut, .. } => Self::Small { serves, uncut },
            Decision::Loose(architecture, needed) => Self::Loose { architecture, needed },
            Decision::Refused(reason) => Self::Refused { reason },
            Decision::Rewrite(rewrite) => match check(&rewrite)? {
                Ok(()) => Self::Pruned(rewrite),
                Err(problem) => Self::Refused { reason: format!("the pruned file was not sound: {problem}") },
            },
        }))
    }
}

impl Decision {
    /// Tells if a file has code, and none for any of the GPUs would be left.
    pub fn is_emptied(&self) -> bool {
        match self {
            Self::Stays { serves, .. } => !serves,
            Self::Rewrite(rewrite) => !rewrite.serves,
            Self::Loose(_, needed) => !needed,
            Self::NoCode | Self::Refused(_) => false,
        }
    }
}

impl Outcome {
    /// Tells if a file has code, and none for any of the GPUs is left.
    pub fn is_emptied(&self) -> bool {
        match self {
            Self::Pruned(rewrite) => !rewrite.serves,
            Self::Small { serves, .. } => !serves,
            Self::Loose { needed, .. } => !needed,
            Self::Needed { .. } | Self::Refused { .. } => false,
        }
    }
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// True if any code that a driver loads is left; nothing where there was none.
#[derive(Debug, Clone, Copy, Default)]
struct Served(Option<bool>);

impl Served {
    fn add(&mut self, region: &Region, keeps: &[bool]) {
        if region.entries.iter().any(Entry::is_loadable) {
            self.0 = Some(self.0 == Some(true) || serves(region, keeps));
        }
    }

    fn merge(&mut self, other: Self) {
        self.0 = self.0.max(other.0);
    }

    /// That of other code, where there was none here.
    fn or(self, other: Self) -> Self {
        Self(self.0.or(other.0))
    }

    /// False if all of it is gone.
    fn holds(self) -> bool {
        self.0 != Some(false)
    }
}

/// Bytes of code of one kind and architecture.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Cut {
    /// The architecture that it is for; `None` where that cannot be told.
    pub architecture: Option<Architecture>,
    /// Its kind.
    pub kind: Kind,
    /// Bytes before.
    pub before: u64,
    /// Bytes after.
    pub after: u64,
    /// True if any of what stays is loaded: linkers leave empty cubins.
    #[serde(skip)]
    pub loads: bool,
}

/// The reasons for which planning ends early.
enum Stop {
    Refused(String),
    Io(io::Error),
}

impl From<io::Error> for Stop {
    fn from(error: io::Error) -> Self {
        Self::Io(error)
    }
}

fn refused(reason: impl Into<String>) -> Stop {
    Stop::Refused(reason.into())
}

/// The way in which a program finds code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Way {
    /// Through a wrapper that it registers.
    Wrapped,
    /// Through a table of ends and beginnings.
    Paired,
    /// Through descriptors of kernels: a cubin in a Zstandard frame.
    Framed,
    /// In a way that is not understood: each piece keeps its place.
    Fixed,
}

/// Code that lies in a row: all of a section of regions, or a part of one of data.
struct Fat<'e> {
    index: usize,
    section: &'e Section,
    way: Way,
    /// The place in the file.
    range: Range<u64>,
    regions: Vec<Region>,
}

/// A file's headers, and what its loader goes by.
struct File<'e> {
    elf: &'e Elf,
    dynamic: &'e Dynamic,
}

/// The new place of a region and the part of it that stays.
struct Placed {
    /// Its position in the file, before anything is cut out.
    offset: u64,
    /// Bytes that it takes up.
    size: u64,
    /// For every entry, whether it stays.
    keeps: Vec<bool>,
}

/// Bytes at the beginning of a file by which [`may_be_pruned`] tells.
pub const BEGINNING: usize = 20;

/// Tells if a file that begins so may have GPU code that can be cut: ELF files of so many bytes and more, cubins of any size,
/// static libraries, and regions alone.
pub fn may_be_pruned(start: &[u8], size: u64) -> bool {
    let large = start.starts_with(b"\x7fELF")
        || start.starts_with(ARCHIVE)
        || start.starts_with(THIN)
        || start.starts_with(&MAGIC);
    large && size >= LEAST || cubin::is_cubin(start)
}

/// Files below this many bytes hold no code that would free a page.
const LEAST: u64 = 16 << 10;

/// Finds out how to prune a file.
pub fn prune<S: Source + ?Sized>(source: &S, selection: &Selection) -> io::Result<Decision> {
    match plan(source, selection) {
        Ok(decision) => Ok(decision),
        Err(Stop::Refused(reason)) => Ok(Decision::Refused(reason)),
        Err(Stop::Io(error)) => Err(error),
    }
}

fn plan<S: Source + ?Sized>(source: &S, selection: &Selection) -> Result<Decision, Stop> {
    let mut window = Window::new(source)?;
    if window.bytes(0, MAGIC.len())? == MAGIC {
        return loose::plan(&mut window, selection);
    }
    if window.bytes(0, ARCHIVE.len())? == ARCHIVE {
        return archive::plan(source, &mut window, selection);
    }
    if window.bytes(0, THIN.len())? == THIN {
        return Err(refused("it is a thin archive: cut its members, which are files of their own"));
    }
    let elf = match Elf::read(&mut window) {
        Ok(elf) if matches!(elf.machine, Machine::X86_64 | Machine::Aarch64) => elf,
        Ok(elf) if elf.machine == Machine::Cuda => {
            let cubins = crate::loose::cubins(&mut window)?;
            let Some((_, first)) = cubins.first() else { return Err(refused("its headers make no sense")) };
            let runs = |cubin: &Cubin| selection.gpus.iter().any(|gpu| runs_on(cubin.architecture, *gpu));
            let needed = cubins.iter().any(|(_, cubin)| runs(cubin) || cubin.hollow);
            return Ok(Decision::Loose(first.architecture, needed));
        }
        Ok(_) | Err(ElfError::NotElf | ElfError::Unsupported) => return Ok(Decision::NoCode),
        Err(ElfError::Damaged(problem)) => return Err(refused(format!("it is damaged: {problem}"))),
        Err(ElfError::Io(error)) => return Err(error.into()),
    };
    if object::is_object(&elf) {
        return object(&mut window, &elf, selection);
    }
    let mut fats = fats(&mut window, &elf)?;
    let dynamic = room::dynamic(&mut window, &elf)?;
    let embedded = embedded::find(&mut window, &elf, &dynamic)?;
    if fats.is_empty() && embedded.fats.is_empty() && embedded.rest.is_empty() {
        return Ok(Decision::NoCode);
    }
    if elf.kind != SHARED && !elf.is_fixed() {
        return Err(refused("it is neither a library nor a program"));
    }
    let mut references = References::find(&mut window, &elf, &fats)?;
    let uncut = embedded.uncut();
    references.pointers.extend(embedded.pointers);
    references.pin(embedded.stays);
    fats.extend(embedded.fats);
    let placed: Vec<Vec<Placed>> = fats.iter().map(|fat| place(fat, &references, selection)).collect();
    let serves = served(&fats, &placed, &embedded.rest, selection).holds();
    let Some(layout) = Layout::find(&elf, &fats, &placed, &dynamic)? else {
        let needed = placed.iter().flatten().flat_map(|placed| &placed.keeps).all(|keep| *keep);
        return Ok(Decision::Stays { needed, serves, uncut });
    };
    let file = File { elf: &elf, dynamic: &dynamic };
    let mut rewrite = Rewrite::new(&mut window, &file, &fats, &placed, &references, &layout)?;
    (rewrite.serves, rewrite.uncut) = (serves, uncut);
    Ok(Decision::Rewrite(Box::new(rewrite)))
}

/// True if any code is left for the GPUs. Code for the linker counts where there is no other, unless it was asked to go.
fn served(fats: &[Fat<'_>], placed: &[Vec<Placed>], rest: &[Region], selection: &Selection) -> Served {
    let (mut loaded, mut linked) = (Served::default(), Served::default());
    for (fat, placed) in fats.iter().zip(placed).filter(|(fat, _)| !drops_all(&fat.section.name, selection)) {
        let served = if fat.section.name == RELOCATABLE { &mut linked } else { &mut loaded };
        for (region, placed) in fat.regions.iter().zip(placed) {
            match fat.way {
                // What cannot be cut stays, for whatever GPU it is.
                Way::Fixed => served.add(region, &selection.keeps(region)),
                _ => served.add(region, &placed.keeps),
            }
        }
    }
    rest.iter().for_each(|region| loaded.add(region, &selection.keeps(region)));
    loaded.or(linked)
}

/// Tells if all code of a section goes.
fn drops_all(section: &str, selection: &Selection) -> bool {
    selection.drop_relocatable && section == RELOCATABLE
}

fn object<S: Source + ?Sized>(window: &mut Window<'_, S>, elf: &Elf, selection: &Selection) -> Result<Decision, Stop> {
    if fats(window, elf)?.is_empty() {
        return Ok(Decision::NoCode);
    }
    let object::Planned { object, needed, served, .. } = object::plan(window, elf, selection)?;
    let serves = served.holds();
    let Some(object) = object else { return Ok(Decision::Stays { needed, serves, uncut: 0 }) };
    let Object { pieces, regions, pinned, code } = object;
    let mut rewrite = Rewrite::of_pieces(window.size(), (regions, pinned), code, pieces);
    rewrite.serves = serves;
    Ok(Decision::Rewrite(Box::new(rewrite)))
}

fn fats<'e, S: Source + ?Sized>(window: &mut Window<'_, S>, elf: &'e Elf) -> Result<Vec<Fat<'e>>, Stop> {
    let mut fats = Vec::new();
    for (index, section) in elf.sections.iter().enumerate() {
        if !section.has_content() || !REGION_SECTIONS.contains(&section.name.as_str()) {
            continue;
        }
        let mut regions = Vec::new();
        let mut found = Regions::new(window, section.range());
        while let Some(region) = found.next_region()? {
            regions.push(region.map_err(|malformed| refused(format!("in `{}` {malformed}", section.name)))?);
        }
        if section.address.checked_add(section.size).is_none() {
            return Err(refused(format!("its section `{}` has no place in memory", section.name)));
        }
        if !regions.is_empty() {
            fats.push(Fat { index, section, way: Way::Wrapped, range: section.range(), regions });
        }
    }
    Ok(fats)
}

/// Packs regions to the front of their row, in order, around those that must stay where they are.
fn place(fat: &Fat<'_>, references: &References, selection: &Selection) -> Vec<Placed> {
    if fat.way == Way::Fixed {
        return fat.regions.iter().map(|region| in_place(fat, region, references, selection)).collect();
    }
    let drops_all = drops_all(&fat.section.name, selection);
    let mut free = fat.aligned(fat.range.start);
    let mut placed = Vec::new();
    // All code that was found in such a table is for Blackwell, and none of it was run from a new place yet.
    let keeps_all = fat.way == Way::Paired && fat.regions.iter().any(|region| selection.keeps(region).contains(&true));
    for (at, region) in fat.regions.iter().enumerate() {
        let keeps = match region.entries.len() {
            entries if drops_all || keeps_all => vec![keeps_all; entries],
            _ => selection.keeps(region),
        };
        let kept = region.entries.iter().zip(&keeps).filter(|(_, keep)| **keep);
        let size = match (fat.way, kept.map(|(entry, _)| entry.size()).sum()) {
            (Way::Framed, 0) => EMPTY_FRAME.len() as u64,
            (Way::Framed, size) => size,
            (_, size) => REGION_HEADER + size,
        };
        let offset = if references.pins(fat.address(region)) { region.offset } else { free };
        free = fat.aligned(offset + size + fat.padding(at));
        placed.push(Placed { offset, size, keeps });
    }
    placed
}

/// The fate of a piece that keeps its place: it stays as a whole or goes.
fn in_place(fat: &Fat<'_>, region: &Region, references: &References, selection: &Selection) -> Placed {
    let keeps = references.pins(fat.address(region)) || selection.keeps(region).contains(&true);
    let size = if keeps { region.size } else { 0 };
    Placed { offset: region.offset, size, keeps: vec![keeps; region.entries.len()] }
}

impl Fat<'_> {
    /// The address of a region.
    fn address(&self, region: &Region) -> u64 {
        self.section.address_of(region.offset)
    }

    /// The first place from here on where a region may begin.
    fn aligned(&self, offset: u64) -> u64 {
        match self.way {
            Way::Wrapped => offset.next_multiple_of(ALIGNMENT),
            Way::Paired | Way::Fixed => offset,
            // Addresses and offsets agree in whole pages.
            Way::Framed => offset.next_multiple_of(FRAME_ALIGNMENT),
        }
    }

    /// The region that begins at an address.
    fn region_at(&self, address: u64) -> Option<usize> {
        let offset = address.checked_sub(self.section.address)?.checked_add(self.section.offset)?;
        self.regions.binary_search_by_key(&offset, |region| region.offset).ok()
    }
}

/// Bytes by architecture and kind, before and after.
fn cuts(fats: &[Fat<'_>], placed: &[Vec<Placed>]) -> Vec<Cut> {
    sums(fats.iter().zip(placed).flat_map(|(fat, placed)| fat.regions.iter().zip(placed)))
}

fn sums<'r>(regions: impl Iterator<Item = (&'r Region, &'r Placed)>) -> Vec<Cut> {
    let mut sums: BTreeMap<(Kind, Option<Architecture>), Cut> = BTreeMap::new();
    for (region, placed) in regions {
        let mut add = |entry: &Entry, keep: bool| {
            let (kind, architecture) = (entry.kind, entry.architecture());
            let none = Cut { architecture, kind, before: 0, after: 0, loads: false };
            let sum = sums.entry((kind, architecture)).or_insert(none);
            sum.before += entry.size();
            sum.after += if keep { entry.size() } else { 0 };
            sum.loads |= keep && entry.is_loadable();
        };
        for (at, (entry, keep)) in region.entries.iter().zip(&placed.keeps).enumerate() {
            match region.parts_of(at).next() {
                Some(_) => region.parts_of(at).for_each(|part| add(&part.entry, *keep)),
                None => add(entry, *keep),
            }
        }
    }
    sums.into_values().collect()
}
