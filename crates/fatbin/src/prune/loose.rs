//! Files that are nothing but regions (`.fatbin`): the regions follow one another in a smaller file.

use super::rewrite::{Piece, Rewrite, copy_entries, region_header};
use super::{Decision, Placed, Served, Stop, refused, sums};
use crate::region::{ALIGNMENT, REGION_HEADER, Region, Regions};
use crate::selection::Selection;
use crate::source::{Source, Window};

pub(super) fn plan<S: Source + ?Sized>(window: &mut Window<'_, S>, selection: &Selection) -> Result<Decision, Stop> {
    let before = window.size();
    let regions = regions(window)?;
    let (mut pieces, mut placed, mut at) = (Vec::new(), Vec::new(), 0);
    let mut served = Served::default();
    for region in &regions {
        let keeps = selection.keeps(region);
        served.add(region, &keeps);
        let kept = region.entries.iter().zip(&keeps).filter(|(_, keep)| **keep);
        let size = REGION_HEADER + kept.map(|(entry, _)| entry.size()).sum::<u64>();
        pieces.push(Piece::Bytes(region_header(size)));
        copy_entries(&region.entries, &keeps, &mut pieces);
        pieces.push(Piece::Zeros(size.next_multiple_of(ALIGNMENT) - size));
        placed.push(Placed { offset: at, size, keeps });
        at += size.next_multiple_of(ALIGNMENT);
    }
    if placed.iter().all(|placed| placed.keeps.iter().all(|keep| *keep)) {
        return Ok(Decision::Stays { needed: true, serves: true, uncut: 0 });
    }
    let code = sums(regions.iter().zip(&placed));
    let mut rewrite = Rewrite::of_pieces(before, (regions.len() as u64, 0), code, pieces);
    rewrite.serves = served.holds();
    Ok(Decision::Rewrite(Box::new(rewrite)))
}

pub(super) fn regions<S: Source + ?Sized>(window: &mut Window<'_, S>) -> Result<Vec<Region>, Stop> {
    let end = window.size();
    let mut found = Regions::new(window, 0..end);
    let mut regions = Vec::new();
    while let Some(region) = found.next_region()? {
        regions.push(region.map_err(|malformed| refused(malformed.to_string()))?);
    }
    Ok(regions)
}
