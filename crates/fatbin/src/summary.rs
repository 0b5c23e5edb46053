//! Regions of one place, added up.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use kiln_plan::gpu::{Architecture, PtxVersion};

use crate::cubin;
use crate::entry::{Compression, Entry, FIRST_OF_BLACKWELL, Kind};
use crate::inflate;
use crate::kernels::Kernels;
use crate::listing::{Alike, Code, Depth, Group};
use crate::region::Region;
use crate::source::{Source, Window};

/// Texts of a kind that are kept.
const MOST_TEXTS: usize = 8;
/// Bytes of a cubin in which the assembler's note is looked for.
const BEGINNING: u64 = 1 << 20;

/// The properties that tell entries apart: form, number, suffix, kind and compression.
type Key = (Kind, Option<Architecture>, Compression);

/// Entries that are alike, added up.
#[derive(Default)]
struct Sum {
    entries: u64,
    bytes: u64,
    hollow: u64,
    cuda_13: bool,
    ptx: Option<PtxVersion>,
    options: BTreeSet<String>,
    identifiers: BTreeSet<String>,
}

/// Regions that hold code for the same architectures, added up.
#[derive(Default)]
struct Same {
    regions: u64,
    languages: BTreeMap<Architecture, PtxVersion>,
    kernels: Kernels,
}

#[derive(Default)]
pub(crate) struct Summary {
    depth: Depth,
    regions: u64,
    emptied: u64,
    bytes: u64,
    groups: BTreeMap<Key, Sum>,
    alike: BTreeMap<(Vec<Architecture>, bool), Same>,
}

impl Summary {
    pub(crate) fn new(depth: Depth) -> Self {
        Self { depth, ..Self::default() }
    }

    pub(crate) fn add<S: Source + ?Sized>(&mut self, region: &Region, source: &mut Window<'_, S>) -> io::Result<()> {
        self.regions += 1;
        self.bytes += region.size;
        if region.entries.is_empty() {
            self.emptied += 1;
            return Ok(());
        }
        for (entry, is_part) in region.code() {
            let sum = self.groups.entry((entry.kind, entry.architecture(), entry.compression())).or_default();
            sum.entries += 1;
            sum.hollow += u64::from(entry.hollow);
            sum.bytes += entry.size();
            if !entry.hollow {
                sum.ptx = sum.ptx.max(entry.ptx());
            }
            // Code of one kind in a file is of one release: one that says so is enough.
            if sum.entries == sum.hollow + 1 && !entry.hollow && !is_part {
                sum.cuda_13 |= is_said_to_be_of_cuda_13(entry, source)?;
            }
            sum.cuda_13 |= is_part || entry.is_of_cuda_13();
            if sum.options.len() < MOST_TEXTS {
                sum.options.extend(entry.options_text(source)?);
            }
            if sum.identifiers.len() < MOST_TEXTS {
                sum.identifiers.extend(entry.identifier_text(source)?);
            }
        }
        let architectures = region.architectures();
        let only_lto = architectures.is_empty() && region.entries.iter().any(|entry| entry.kind == Kind::Lto);
        let same = self.alike.entry((architectures.clone(), only_lto)).or_default();
        same.regions += 1;
        for (entry, _) in region.code().filter(|(entry, _)| !entry.hollow) {
            if let (Some(version), Some(architecture)) = (entry.ptx(), entry.architecture()) {
                let latest = same.languages.entry(architecture).or_insert(version);
                *latest = version.max(*latest);
            }
        }
        if self.depth == Depth::Kernels {
            same.kernels.add(region, &architectures, source)?;
        }
        Ok(())
    }

    pub(crate) fn finish(self, place: &str) -> Option<Code> {
        let group = |((kind, architecture, compression), sum): (Key, Sum)| {
            let Sum { entries, bytes, hollow, cuda_13, ptx, options, identifiers } = sum;
            Group { architecture, kind, compression, entries, bytes, hollow, cuda_13, ptx, options, identifiers }
        };
        let depth = self.depth;
        let alike = |((architectures, lto), Same { regions, languages, kernels })| {
            let kernels = (depth == Depth::Kernels).then_some(kernels);
            Alike { architectures, lto, languages, regions, kernels }
        };
        (self.regions > 0).then(|| Code {
            place: place.to_owned(),
            regions: self.regions,
            emptied: self.emptied,
            bytes: self.bytes,
            groups: self.groups.into_iter().map(group).collect(),
            alike: self.alike.into_iter().map(alike).collect(),
        })
    }
}

/// Tells if the assembler's note in a cubin says that it is of CUDA 13 or later. Headers alone do not tell that of code for
/// Blackwell, and cubins by themselves have none.
fn is_said_to_be_of_cuda_13<S: Source + ?Sized>(entry: &Entry, source: &mut Window<'_, S>) -> io::Result<bool> {
    if entry.kind != Kind::Cubin || entry.header > 0 && entry.number < FIRST_OF_BLACKWELL {
        return Ok(false);
    }
    let said = |start: &[u8]| cubin::cuda(start).is_some();
    let start = inflate::beginning(source, entry, BEGINNING, said)?.unwrap_or_default();
    Ok(cubin::cuda(&start).is_some_and(|major| major >= 13))
}
