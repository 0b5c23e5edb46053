//! The GPU code of one file, as it is listed.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use kiln_plan::gpu::{Architecture, Capability, CudaRelease, Form, PtxVersion, runs_on};
use serde::{Deserialize, Serialize};

use crate::coverage::{Coverage, Tally, coverage};
use crate::elf::{ElfError, Machine};
use crate::entry::{Compression, Kind};
use crate::kernels::Kernels;

/// The section that holds code for the linker: no driver takes it from there.
pub(crate) const RELOCATABLE: &str = "__nv_relfatbin";

/// The format of a file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Found {
    /// A shared object, a program or an object file.
    Elf(Machine),
    /// Machine code for one architecture.
    Cubin,
    /// Regions alone.
    Fatbin,
    /// PTX as text.
    Ptx,
    /// A static library.
    Archive,
    /// A library or program of Windows.
    Windows,
    /// A compiler for GPUs, which has no code of its own.
    Compiler,
}

/// The depth to which code is looked at.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Depth {
    /// Headers: regions and entries.
    #[default]
    Headers,
    /// Names in machine code and PTX too: kernels.
    Kernels,
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
    /// The format of the file.
    pub format: Found,
    /// Places with code, in the order of the file.
    pub code: Vec<Code>,
    /// True if there is code for AMD's GPUs, which is not looked into.
    pub hip: bool,
    /// True if the loader does not find a section where it lies.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub damaged: bool,
    /// Places that make no sense: section and what is wrong.
    pub malformed: Vec<String>,
    /// Places that were not looked into, or not to the end, and why.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub unseen: Vec<String>,
    /// The CUDA release that it compiles with, where it is a compiler for GPUs.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub compiler: Option<CudaRelease>,
    #[serde(skip)]
    pub(crate) depth: Depth,
}

/// The code of one place.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Code {
    /// A section, and what of it.
    pub place: String,
    /// Regions.
    pub regions: u64,
    /// The number of regions that were emptied by a cut.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub emptied: u64,
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
    /// True if there is intermediate code for the linker alone (LTO-IR).
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub lto: bool,
    /// The latest version of the language, by the architecture of the PTX.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub languages: BTreeMap<Architecture, PtxVersion>,
    /// Their number.
    pub regions: u64,
    /// Their kernels, where those were looked at.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub kernels: Option<Kernels>,
}

/// Entries that are alike.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Group {
    /// The architecture that they are for; `None` where that cannot be told.
    pub architecture: Option<Architecture>,
    /// Their content.
    pub kind: Kind,
    /// Their compression.
    pub compression: Compression,
    /// Their number.
    pub entries: u64,
    /// Bytes that they take up.
    pub bytes: u64,
    /// The number of them that have nothing in them.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub hollow: u64,
    /// True if some of them were made by CUDA 13 or later.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub cuda_13: bool,
    /// The latest version of the language, where it is PTX.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub ptx: Option<PtxVersion>,
    /// Options that they were compiled with, the first few.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub options: BTreeSet<String>,
    /// The names of their sources, where those are said, the first few.
    #[serde(default, skip_serializing_if = "BTreeSet::is_empty")]
    pub identifiers: BTreeSet<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Alike {
    /// The architecture whose code the driver takes for a GPU.
    pub(crate) fn choice(&self, gpu: Capability) -> Option<Architecture> {
        self.chosen(gpu).map(|at| self.architectures[at])
    }

    /// The place of the architecture whose code the driver takes for a GPU: the latest machine code that runs, else the
    /// latest PTX.
    fn chosen(&self, gpu: Capability) -> Option<usize> {
        let runs = |form| {
            let places = self.architectures.iter().enumerate();
            places.rev().find(|(_, code)| code.form == form && runs_on(**code, gpu)).map(|(at, _)| at)
        };
        runs(Form::Real).or_else(|| runs(Form::Virtual))
    }

    /// Counts kernels by the way in which they are served; `None` where they were not looked at.
    fn kernels(&self, gpu: Capability) -> Option<Tally> {
        let kernels = self.kernels.as_ref()?;
        // Code for the linker, and what could not be looked into: as many kernels as there are regions, at least.
        let unknown = kernels.unread + if self.lto { self.regions } else { 0 };
        let mut tally = Tally { unknown, ..Tally::default() };
        let chosen = self.chosen(gpu);
        let served = chosen.and_then(|at| kernels.by.get(at)).copied().unwrap_or(0);
        let native = chosen.is_some_and(|at| self.architectures[at].form == Form::Real);
        tally.count(if native { Coverage::Native } else { Coverage::Ptx }, served);
        tally.missing = kernels.all - served.min(kernels.all);
        Some(tally)
    }

    /// Some kernels that are not served.
    pub(crate) fn absent(&self, gpu: Capability) -> BTreeSet<String> {
        let Some(kernels) = &self.kernels else { return BTreeSet::new() };
        match self.chosen(gpu) {
            Some(at) => kernels.lacking.get(at).cloned().unwrap_or_default(),
            None => kernels.names.clone(),
        }
    }
}

impl Listing {
    /// A file without code.
    pub fn new(format: Found, depth: Depth) -> Self {
        Self {
            format,
            code: Vec::new(),
            hip: false,
            damaged: false,
            malformed: Vec::new(),
            unseen: Vec::new(),
            compiler: None,
            depth,
        }
    }

    /// Tells if there is neither code nor anything that could be some.
    pub fn is_empty(&self) -> bool {
        let silent = self.malformed.is_empty() && self.unseen.is_empty();
        self.code.is_empty() && silent && !self.hip && self.compiler.is_none()
    }

    /// Tells if there is code of any kind, empty cubins apart.
    pub fn has_code(&self) -> bool {
        self.hip || self.code.iter().flat_map(|code| &code.groups).any(|group| group.entries > group.hollow)
    }

    /// Adds what another file has.
    pub fn add(&mut self, other: Self) {
        self.hip |= other.hip;
        self.damaged |= other.damaged;
        self.malformed.extend(other.malformed);
        self.unseen.extend(other.unseen);
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
        self.emptied += other.emptied;
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
                    known.hollow += group.hollow;
                    known.cuda_13 |= group.cuda_13;
                    known.ptx = known.ptx.max(group.ptx);
                    known.options.extend(group.options);
                    known.identifiers.extend(group.identifiers);
                }
                None => self.groups.push(group),
            }
        }
        for more in other.alike {
            let same = |known: &&mut Alike| (&known.architectures, known.lto) == (&more.architectures, more.lto);
            match self.alike.iter_mut().find(same) {
                Some(known) => {
                    known.regions += more.regions;
                    for (architecture, version) in more.languages {
                        let latest = known.languages.entry(architecture).or_insert(version);
                        *latest = version.max(*latest);
                    }
                    match (&mut known.kernels, more.kernels) {
                        (Some(own), Some(kernels)) => own.merge(kernels),
                        (own, kernels) => *own = own.take().or(kernels),
                    }
                }
                None => self.alike.push(more),
            }
        }
    }

    /// Counts of regions by the way in which they serve a GPU: those that were emptied by a cut serve none, and those in
    /// which nothing was ever to be loaded need not.
    pub fn coverage(&self, gpu: Capability) -> Tally {
        let mut tally = Tally { missing: self.emptied, ..Tally::default() };
        for alike in &self.alike {
            if alike.lto {
                tally.unknown += alike.regions;
            } else if !alike.architectures.is_empty() {
                tally.count(coverage(&alike.architectures, gpu), alike.regions);
            }
        }
        tally
    }

    /// Counts kernels by the way in which they are served; `None` where they were not looked at.
    pub fn kernels(&self, gpu: Capability) -> Option<Tally> {
        let mut tally = Tally::default();
        for alike in &self.alike {
            tally = tally + alike.kernels(gpu)?;
        }
        Some(tally)
    }
}
