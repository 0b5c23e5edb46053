//! Kernels: the entry points of code, each in the region that a program registers it with. What fails at run time is a
//! kernel for which its region has no code.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use kiln_plan::gpu::Architecture;
use serde::{Deserialize, Serialize};

use crate::concatenated::Part;
use crate::cubin;
use crate::entry::{Entry, Kind};
use crate::inflate;
use crate::region::Region;
use crate::source::{Source, Window};

/// Names that are kept of what may be very many.
const MOST_NAMES: usize = 8;
/// Bytes of a cubin in which the names of its sections are looked for, before its table of sections is.
const MORE_NAMES: u64 = 1 << 20;

/// The kernels of regions that hold code for the same architectures.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kernels {
    /// The number of kernels: names in any architecture's code, added up over regions.
    pub all: u64,
    /// The number of each architecture, in the order of the architectures.
    pub by: Vec<u64>,
    /// The first few that each architecture has not, though others of its region have.
    pub lacking: Vec<BTreeSet<String>>,
    /// The first few of all.
    pub names: BTreeSet<String>,
    /// Regions with code of which the kernels cannot be told.
    pub unread: u64,
}

impl Kernels {
    /// Adds the kernels of a region that has code for these architectures.
    pub(crate) fn add<S: Source + ?Sized>(
        &mut self,
        region: &Region,
        architectures: &[Architecture],
        source: &mut Window<'_, S>,
    ) -> io::Result<()> {
        self.by.resize(architectures.len(), 0);
        self.lacking.resize(architectures.len(), BTreeSet::new());
        let mut by: BTreeMap<Architecture, BTreeSet<String>> = BTreeMap::new();
        for (at, entry) in region.entries.iter().enumerate().filter(|(_, entry)| entry.is_loadable()) {
            if region.parts_of(at).next().is_some() {
                match of_parts(region, at, source)? {
                    Some(found) => found.into_iter().for_each(|(of, names)| by.entry(of).or_default().extend(names)),
                    None => {
                        self.unread += 1;
                        return Ok(());
                    }
                }
                continue;
            }
            let Some(architecture) = entry.architecture() else { continue };
            match names(entry, source)? {
                Some(names) => by.entry(architecture).or_default().extend(names),
                None => {
                    self.unread += 1;
                    return Ok(());
                }
            }
        }
        let all: BTreeSet<&String> = by.values().flatten().collect();
        self.all += all.len() as u64;
        for (at, architecture) in architectures.iter().enumerate() {
            let own = by.get(architecture);
            self.by[at] += own.map_or(0, BTreeSet::len) as u64;
            let lacks = all.iter().filter(|name| own.is_none_or(|own| !own.contains(**name)));
            let room = MOST_NAMES.saturating_sub(self.lacking[at].len());
            self.lacking[at].extend(lacks.take(room).map(|name| (*name).clone()));
        }
        let room = MOST_NAMES.saturating_sub(self.names.len());
        self.names.extend(all.into_iter().take(room).cloned());
        Ok(())
    }

    /// Adds those of other regions with the same architectures.
    pub(crate) fn merge(&mut self, other: Self) {
        self.all += other.all;
        self.unread += other.unread;
        self.by.resize(other.by.len(), 0);
        self.lacking.resize(other.by.len(), BTreeSet::new());
        for (own, more) in self.by.iter_mut().zip(other.by) {
            *own += more;
        }
        for (own, more) in self.lacking.iter_mut().zip(other.lacking) {
            own.extend(more.into_iter().take(MOST_NAMES.saturating_sub(own.len())));
        }
        self.names.extend(other.names.into_iter().take(MOST_NAMES.saturating_sub(self.names.len())));
    }
}

/// The kernels that code for an architecture has.
type Names = (Architecture, BTreeSet<String>);

/// The kernels of the pieces of a concatenated entry; nothing where they cannot be told.
fn of_parts<S: Source + ?Sized>(
    region: &Region,
    at: usize,
    source: &mut Window<'_, S>,
) -> io::Result<Option<Vec<Names>>> {
    let Some(payload) = inflate::payload(source, &region.entries[at], u64::MAX)? else { return Ok(None) };
    let names = |part: &Part| -> Option<BTreeSet<String>> {
        let bytes = part.within(&payload)?;
        if part.entry.kind == Kind::Ptx {
            Some(cubin::kernels_of_ptx(bytes))
        } else {
            cubin::kernels_of_sections(bytes)
        }
    };
    let loadable = region.parts_of(at).filter(|part| part.entry.is_loadable());
    Ok(loadable.map(|part| Some((part.entry.architecture()?, names(part)?))).collect())
}

/// The kernels of an entry; nothing where that cannot be told.
fn names<S: Source + ?Sized>(entry: &Entry, source: &mut Window<'_, S>) -> io::Result<Option<BTreeSet<String>>> {
    match entry.kind {
        Kind::Ptx => Ok(inflate::payload(source, entry, u64::MAX)?.map(|text| cubin::kernels_of_ptx(&text))),
        Kind::Cubin => {
            let mut found = None;
            let enough = |start: &[u8]| {
                found = cubin::kernels(start);
                found.as_ref().is_none_or(|(_, complete)| *complete)
            };
            let Some(start) = inflate::beginning(source, entry, MORE_NAMES, enough)? else { return Ok(None) };
            match found.filter(|(_, complete)| *complete).or_else(|| cubin::kernels(&start)) {
                Some((names, complete)) if complete || (start.len() as u64) < MORE_NAMES => return Ok(Some(names)),
                _ => {}
            }
            Ok(inflate::payload(source, entry, u64::MAX)?.and_then(|whole| cubin::kernels_of_sections(&whole)))
        }
        _ => Ok(None),
    }
}
