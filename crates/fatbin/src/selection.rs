//! The entries of a region that some GPUs need: pruning keeps them.
//!
//! For every region and every GPU that is wanted: what ran before runs after, and what ran as machine code before does so
//! after. So every cubin stays that runs on one of them, also those for earlier minors, on which cuBLAS and cuFFT rely;
//! PTX stays only where a GPU has nothing else; and whatever is not understood stays. A region in which nothing is to be
//! loaded stays as it is, so that an empty one is always one that was cut.

use kiln_plan::gpu::{Capability, runs_on};

use crate::entry::{Entry, Kind};
use crate::region::Region;

/// The GPUs that code is kept for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Selection {
    /// Their capabilities.
    pub gpus: Vec<Capability>,
    /// True if all PTX stays, for GPUs that come later.
    pub keep_ptx: bool,
    /// True if all code for the linker goes (`__nv_relfatbin`), which a program that only runs does not need.
    pub drop_relocatable: bool,
}

impl Selection {
    /// For every entry of a region, whether it stays.
    pub fn keeps(&self, region: &Region) -> Vec<bool> {
        if !region.entries.iter().any(Entry::is_loadable) {
            return vec![true; region.entries.len()];
        }
        let mut keeps: Vec<bool> = region.entries.iter().map(|entry| self.stays_by_itself(entry)).collect();
        // Of pieces that share a payload all stay or none.
        for (at, keep) in keeps.iter_mut().enumerate().filter(|(at, _)| region.parts_of(*at).next().is_some()) {
            *keep = region.parts_of(at).any(|part| self.stays_by_itself(&part.entry));
        }
        for gpu in &self.gpus {
            let runs = |entry: &Entry| entry.architecture().is_some_and(|architecture| runs_on(architecture, *gpu));
            if region.code().any(|(entry, _)| entry.kind == Kind::Cubin && !entry.hollow && runs(entry)) {
                continue;
            }
            // PTX among such pieces.
            for part in region.parts.iter().filter(|part| part.entry.kind == Kind::Ptx && runs(&part.entry)) {
                keeps[part.of] = true;
            }
            let is_ptx = |entry: &Entry| entry.kind == Kind::Ptx && !entry.hollow && runs(entry);
            let ptx = || region.entries.iter().filter(|entry| is_ptx(entry));
            // The driver takes the latest that it can compile; there may be several pieces of it.
            let Some(latest) = ptx().map(|entry| entry.number).max() else { continue };
            for (entry, keep) in region.entries.iter().zip(&mut keeps) {
                *keep |= is_ptx(entry) && entry.number == latest;
            }
        }
        if !serves(region, &keeps) {
            region.entries.iter().zip(&mut keeps).for_each(|(entry, keep)| *keep &= !entry.hollow);
        }
        keeps
    }

    /// Tells if an entry stays whatever else is in its region.
    fn stays_by_itself(&self, entry: &Entry) -> bool {
        match (entry.kind, entry.architecture()) {
            (Kind::Cubin, Some(architecture)) => self.gpus.iter().any(|gpu| runs_on(architecture, *gpu)),
            (Kind::Ptx, Some(_)) => self.keep_ptx,
            _ => true,
        }
    }
}

/// Tells if anything of a region that stays is loaded.
pub(crate) fn serves(region: &Region, keeps: &[bool]) -> bool {
    region.entries.iter().zip(keeps).any(|(entry, keep)| *keep && entry.is_loadable())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::Coverage;

    fn entry(kind: Kind, number: u32, flags: u64) -> Entry {
        Entry {
            offset: 0,
            kind,
            header: 64,
            payload: 8,
            version: (8, 0),
            number,
            flags,
            options: 0,
            identifier: (0, 0),
            uncompressed: 0,
            compressed: 0,
            hollow: false,
        }
    }

    fn region(entries: Vec<Entry>) -> Region {
        Region { offset: 0, size: 16, entries, parts: Vec::new() }
    }

    fn kept(entries: &[(Kind, u32)], gpus: &[&str]) -> Vec<u32> {
        let whole = region(entries.iter().map(|(kind, number)| entry(*kind, *number, 0)).collect());
        let gpus = gpus.iter().map(|text| text.parse().unwrap()).collect();
        let keeps = Selection { gpus, keep_ptx: false, drop_relocatable: false }.keeps(&whole);
        whole.entries.iter().zip(keeps).filter(|(_, keep)| *keep).map(|(entry, _)| entry.number).collect()
    }

    #[test]
    fn earlier_minors_stay_and_ptx_only_where_there_is_nothing_else() {
        let all = [(Kind::Cubin, 80), (Kind::Cubin, 86), (Kind::Cubin, 90), (Kind::Ptx, 70), (Kind::Ptx, 90)];
        assert_eq!(kept(&all, &["8.9"]), [80, 86]);
        assert_eq!(kept(&all, &["9.0"]), [90]);
        assert_eq!(kept(&all, &["12.0"]), [90]);
        assert_eq!(kept(&all[..4], &["12.0"]), [70]);
        assert_eq!(kept(&all, &["7.5"]), [70]);
        assert_eq!(kept(&all, &["8.9", "9.0"]), [80, 86, 90]);
    }

    #[test]
    fn what_is_not_understood_stays() {
        let all = [(Kind::Cubin, 75), (Kind::Lto, 75), (Kind::Other(0x200), 75), (Kind::Concatenated, 75)];
        assert_eq!(kept(&all, &["9.0"]), [75, 75, 75]);
        assert_eq!(kept(&[(Kind::Cubin, 99_999)], &["9.0"]), [99_999]);
    }

    proptest! {
        #[test]
        fn what_served_a_gpu_serves_it_alike(
            entries in proptest::collection::vec((0usize..3, 0usize..8, 0usize..3), 0..12),
            gpus in proptest::collection::vec(0usize..6, 1..4),
            keep_ptx in any::<bool>(),
        ) {
            let kinds = [Kind::Cubin, Kind::Ptx, Kind::Concatenated];
            let numbers = [75, 80, 86, 87, 90, 100, 103, 120];
            let flags = [0, 0x10_0000, 0x20_0000];
            let capabilities = ["7.5", "8.6", "8.7", "9.0", "10.3", "12.0"];
            let build = |(kind, number, flag): (usize, usize, usize)| entry(kinds[kind], numbers[number], flags[flag]);
            let before = region(entries.into_iter().map(build).collect());
            let gpus: Vec<Capability> = gpus.into_iter().map(|at| capabilities[at].parse().unwrap()).collect();
            let keeps = Selection { gpus: gpus.clone(), keep_ptx, drop_relocatable: false }.keeps(&before);
            let entries = before.entries.iter().zip(keeps).filter(|(_, keep)| *keep).map(|(entry, _)| *entry).collect();
            let after = region(entries);
            for gpu in gpus {
                prop_assert_eq!(before.coverage(gpu), after.coverage(gpu));
                prop_assert!(after.coverage(gpu) != Coverage::Missing || before.coverage(gpu) == Coverage::Missing);
            }
        }
    }
}
