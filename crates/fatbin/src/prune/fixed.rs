//! Code in sections of data that keeps its place, because what finds it is not understood: a piece that no GPU needs gives
//! way to zeros, and large runs of such pieces are cut out of the file and are zeros in memory alone.
//!
//! That is right if a program looks for each piece by itself, and not for one behind another: then nothing asks for a piece
//! that is for another GPU. So of pieces that lie in a row nearly all must be named one by one, by relocations, symbols
//! or instructions. Found in cuFFT 10.9 to 12.2, where a piece is code of one architecture, in onnxruntime and TensorFlow.

use std::collections::BTreeSet;
use std::ops::Range;

use super::layout::load;
use super::references::each_symbol;
use super::rewrite::region_header;
use super::room::Dynamic;
use super::{Fat, Stop, Way, operands, refused};
use crate::elf::Elf;
use crate::entry::{Entry, Kind};
use crate::inflate::EMPTY_FRAME;
use crate::region::{REGION_HEADER, Region};
use crate::relocation::{self, Relocation};
use crate::search::Form;
use crate::source::{Source, Window};

/// Bytes of code that are worth reading all instructions.
const LEAST: u64 = 256 << 10;
/// Of so many pieces in a row, one may be named in a way that is not known.
const ONE_OF: usize = 10;

/// Rows of code that keep their place.
#[derive(Default)]
pub(super) struct Fixed<'e> {
    /// Rows of which something can be cut.
    pub(super) fats: Vec<Fat<'e>>,
    /// Addresses of pieces in them that stay whatever GPUs are wanted.
    pub(super) stays: BTreeSet<u64>,
    /// Pieces of rows that are not understood.
    pub(super) rest: Vec<Region>,
}

/// Pieces by their addresses, ascending.
struct Pieces {
    ranges: Vec<Range<u64>>,
    /// For each, whether something names it.
    named: Vec<bool>,
    /// For each, whether something leads into it or writes there.
    struck: Vec<bool>,
}

/// Sorts rows of code into what can be cut and what cannot.
pub(super) fn sort<'e, S: Source + ?Sized>(
    window: &mut Window<'_, S>,
    elf: &Elf,
    dynamic: &Dynamic,
    rows: Vec<Fat<'e>>,
) -> Result<Fixed<'e>, Stop> {
    // Of a section in pieces, as where it was pruned before, addresses do not follow from places in the file.
    let is_whole = |row: &Fat<'_>| !elf.is_fixed() && load(elf, row).is_ok();
    let (rows, hopeless): (Vec<_>, Vec<_>) =
        rows.into_iter().partition(|row| row.regions.iter().any(is_understood) && is_whole(row));
    let mut fixed = Fixed { rest: hopeless.into_iter().flat_map(|row| row.regions).collect(), ..Fixed::default() };
    if rows.iter().flat_map(|row| &row.regions).map(|region| region.size).sum::<u64>() < LEAST {
        fixed.rest.extend(rows.into_iter().flat_map(|row| row.regions));
        return Ok(fixed);
    }
    let pieces = Pieces::find(window, elf, dynamic, &rows)?;
    for row in rows {
        let places: Vec<Option<usize>> = row.regions.iter().map(|region| pieces.at(row.address(region))).collect();
        let named = |place: &Option<usize>| place.is_some_and(|place| pieces.named[place]);
        let unnamed = places.iter().filter(|place| !named(place)).count();
        if unnamed * ONE_OF > places.len() {
            fixed.rest.extend(row.regions);
            continue;
        }
        for (region, place) in row.regions.iter().zip(&places) {
            let struck = place.is_none_or(|place| pieces.struck[place]);
            if !named(place) || struck || !is_understood(region) {
                fixed.stays.insert(row.address(region));
            }
        }
        fixed.fats.push(Fat { way: Way::Fixed, ..row });
    }
    Ok(fixed)
}

/// Tells if a piece is nothing but code that a driver takes for some GPUs and not for others.
fn is_understood(region: &Region) -> bool {
    let known = |entry: &Entry| entry.is_loadable() && matches!(entry.kind, Kind::Ptx | Kind::Cubin);
    !region.entries.is_empty() && region.entries.iter().all(known)
}

impl Pieces {
    fn find<S: Source + ?Sized>(
        window: &mut Window<'_, S>,
        elf: &Elf,
        dynamic: &Dynamic,
        rows: &[Fat<'_>],
    ) -> Result<Self, Stop> {
        let range = |row: &Fat<'_>, region| row.address(region)..row.address(region).saturating_add(region.size);
        let mut ranges: Vec<_> =
            rows.iter().flat_map(|row| row.regions.iter().map(|region| range(row, region))).collect();
        ranges.sort_by_key(|range| range.start);
        let mut pieces = Self { named: vec![false; ranges.len()], struck: vec![false; ranges.len()], ranges };
        relocation::each(window, elf, |relocation| {
            let (location, target) = match relocation {
                Relocation::Relative { location, target, .. } => (location, Some(target)),
                Relocation::Other { location, target } => (location, target),
            };
            target.into_iter().for_each(|target| pieces.name(target, true));
            if let Some(at) = pieces.at(location) {
                pieces.struck[at] = true;
            }
        })?
        .map_err(refused)?;
        each_symbol(window, elf, |symbol| {
            pieces.name(symbol.address, !symbol.is_section);
            Ok(())
        })?;
        operands::each(window, elf, dynamic, |address| pieces.name(address, false))?;
        Ok(pieces)
    }

    /// The piece that an address lies in.
    fn at(&self, address: u64) -> Option<usize> {
        let at = self.ranges.partition_point(|range| range.start <= address).checked_sub(1)?;
        self.ranges[at].contains(&address).then_some(at)
    }

    /// Notes an address that something names. What leads into a piece is of weight where it is `certain` to be an address.
    fn name(&mut self, address: u64, certain: bool) {
        let Some(at) = self.at(address) else { return };
        if self.ranges[at].start == address {
            self.named[at] = true;
        } else if certain {
            self.struck[at] = true;
        }
    }
}

/// The bytes that take the place of a piece that is cut: a region without entries, a frame without content. Of a cubin zeros
/// are left, which the driver takes for nothing.
pub(super) fn stub(region: &Region) -> Vec<u8> {
    match Form::of(region) {
        Form::Region => region_header(REGION_HEADER),
        Form::Frame => EMPTY_FRAME.to_vec(),
        Form::Cubin => Vec::new(),
    }
}
