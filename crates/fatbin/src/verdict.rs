//! Verdicts on GPU code for a GPU, with reasons: for a person, one sentence.

use std::collections::BTreeSet;

use kiln_plan::gpu::{
    Architecture, Capability, CudaRelease, DriverVersion, Form, GpuTable, PtxDriver, PtxVersion, runs_on,
};
use serde::Serialize;

use crate::coverage::{Coverage, Extent, Tally};
use crate::entry::Compression;
use crate::listing::{Alike, Code, Group, Listing, RELOCATABLE};

/// Kernels without code that are named.
const MOST_NAMES: usize = 3;
/// Characters of a name that are shown to a person.
const LONGEST_NAME: usize = 60;

/// The way in which a file serves a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The GPU.
    pub gpu: Capability,
    /// The best way in which any region serves it.
    pub coverage: Coverage,
    /// The share of the file that serves it.
    pub extent: Extent,
    /// Counts of regions by the way in which they serve it.
    pub regions: Tally,
    /// The number of regions that were emptied by a cut, which are among those that do not serve it.
    #[serde(skip_serializing_if = "is_zero")]
    pub emptied: u64,
    /// Counts of kernels, where those were looked at.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub kernels: Option<Tally>,
    /// Some of the kernels that are not served.
    #[serde(skip_serializing_if = "BTreeSet::is_empty")]
    pub absent: BTreeSet<String>,
    /// The architectures of the file that run on it; all of them where none does.
    pub architectures: BTreeSet<Architecture>,
    /// The version of the PTX language that the driver must understand, where it compiles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ptx: Option<PtxVersion>,
    /// The oldest Linux driver that takes the code; nothing where every driver for the GPU does, or where it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<DriverVersion>,
    /// The newest driver that is known to be too old, where the oldest that takes the code is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_after: Option<DriverVersion>,
    /// The reason for that driver: `CUDA 13`, `Zstandard`, `PTX 8.7`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver_for: Option<String>,
    /// The change that helps, where it is missing or slow to start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

impl Listing {
    /// Judges the file for a GPU; `None` where it has no code that a driver loads. `cuda` is the major version of the CUDA
    /// libraries that it is linked with, where that is known.
    pub fn verdict(&self, gpu: Capability, cuda: Option<u8>) -> Option<Verdict> {
        let regions = self.regions_for(gpu)?;
        if regions.total() == 0 {
            return None;
        }
        let coverage = regions.best();
        let groups =
            || self.loadable().flat_map(|code: &Code| &code.groups).filter(|group| group.hollow < group.entries);
        let serves = |group: &&Group| {
            let runs = |architecture| runs_on(architecture, gpu);
            let form = |form| group.architecture.is_some_and(|architecture| architecture.form == form);
            group.architecture.is_some_and(runs)
                && match coverage {
                    Coverage::Native => form(Form::Real) || regions.ptx > 0,
                    Coverage::Ptx => form(Form::Virtual),
                    Coverage::Missing => false,
                }
        };
        let serving: Vec<&Group> = groups().filter(serves).collect();
        let named: Vec<&Group> = if serving.is_empty() { groups().collect() } else { serving };
        let architectures: BTreeSet<Architecture> = named.iter().filter_map(|group| group.architecture).collect();
        let kernels = self.loadable().map(|code| code.kernels(gpu)).reduce(|one, other| Some(one? + other?)).flatten();
        let ptx = if compiles(&regions) { self.language(gpu) } else { None };
        // What it is linked with says it best: the runtime that registers the code is of the release that made it.
        let cuda = cuda.or_else(|| named.iter().any(|group| group.cuda_13).then_some(13));
        let taken: BTreeSet<Architecture> = self.alike().filter_map(|alike| alike.choice(gpu)).collect();
        let taken = |group: &&Group| group.architecture.is_some_and(|architecture| taken.contains(&architecture));
        let needs = Needs::of(&groups().filter(taken).collect::<Vec<_>>(), ptx, cuda);
        let extent = self.extent(gpu);
        let missing = coverage == Coverage::Missing || extent == Extent::Thin;
        let advice = match self.emptied() {
            1.. if missing => Some("it was cut to other GPUs: cut the original for this one too".to_owned()),
            _ => advice(if missing { Coverage::Missing } else { coverage }, gpu, &architectures, cuda),
        };
        let absent = self.alike().flat_map(|alike| alike.absent(gpu));
        let absent = absent.take(MOST_NAMES).collect();
        Some(Verdict {
            gpu,
            coverage,
            extent,
            regions,
            emptied: self.emptied(),
            kernels,
            absent,
            architectures,
            ptx,
            driver: needs.driver,
            driver_after: needs.after,
            driver_for: needs.reason,
            advice,
        })
    }

    /// Tells if its kernels are worth looking at: where up to 80% of its regions have code for a GPU.
    pub fn is_partly_for(&self, gpu: Capability) -> bool {
        let regions = self.regions_for(gpu).unwrap_or_default();
        let (served, total) = (regions.served(), regions.total());
        served > 0 && served * 5 <= total * 4
    }

    /// Places whose code a driver loads.
    fn loadable(&self) -> impl Iterator<Item = &Code> {
        self.code.iter().filter(|code| code.place != RELOCATABLE)
    }

    fn alike(&self) -> impl Iterator<Item = &Alike> {
        self.loadable().flat_map(|code| &code.alike)
    }

    /// The latest version of the PTX language among what the driver compiles for a GPU.
    fn language(&self, gpu: Capability) -> Option<PtxVersion> {
        let choices = self.alike().filter_map(|alike| alike.languages.get(&alike.choice(gpu)?));
        choices.max().copied()
    }

    fn regions_for(&self, gpu: Capability) -> Option<Tally> {
        self.loadable().map(|code| code.coverage(gpu)).reduce(|one, other| one + other)
    }

    /// Regions that were emptied by a cut.
    fn emptied(&self) -> u64 {
        self.loadable().map(|code| code.emptied).sum()
    }

    /// Judges the share of the file that serves a GPU, in kernels where they were looked at, else in regions. Regions that
    /// were emptied by a cut are taken to have served another GPU, since their kernels are gone.
    fn extent(&self, gpu: Capability) -> Extent {
        let served = |gpu| {
            let kernels =
                self.loadable().map(|code| code.kernels(gpu)).reduce(|one, other| Some(one? + other?)).flatten();
            let kernels = kernels.filter(|kernels| kernels.total() > 0);
            kernels.or_else(|| self.regions_for(gpu)).unwrap_or_default().served()
        };
        let all = self.alike().flat_map(|alike| &alike.architectures);
        let capabilities: BTreeSet<Capability> = all.map(|architecture| architecture.capability).collect();
        let extent = Extent::of(served(gpu), capabilities.into_iter().map(served).max().unwrap_or(0));
        let regions = self.regions_for(gpu).unwrap_or_default().served();
        extent.max(Extent::after_cut(regions, self.emptied()))
    }
}

/// Tells if so much is compiled by the driver that a driver which cannot is too old: not where it is a few of thousands, as
/// in cuBLASLt, which chooses others then.
fn compiles(tally: &Tally) -> bool {
    tally.ptx > 0 && tally.ptx * 20 >= tally.served()
}

/// The drivers that take some code.
#[derive(Debug, Default)]
struct Needs {
    /// The oldest.
    driver: Option<DriverVersion>,
    /// The newest that is known not to, where the oldest is not known.
    after: Option<DriverVersion>,
    reason: Option<String>,
}

impl Needs {
    /// Those of code that the driver takes: with the language of what it compiles, and the CUDA release that made it.
    fn of(taken: &[&Group], ptx: Option<PtxVersion>, cuda: Option<u8>) -> Self {
        let language = ptx.map(|version| (version.driver(), format!("PTX {version}")));
        if let Some((PtxDriver::After(after), reason)) = language {
            return Self { driver: None, after: Some(after), reason: Some(reason) };
        }
        let of_language = language.and_then(|(driver, reason)| match driver {
            PtxDriver::From(driver) => Some((driver, reason)),
            _ => None,
        });
        let zstandard = taken.iter().any(|group| group.compression == Compression::Zstd);
        let of_major = || Some((DriverVersion::of_cuda(cuda?)?, format!("CUDA {}", cuda?)));
        let of_compression = || Some((DriverVersion::of_zstandard(cuda)?, "Zstandard".to_owned()));
        let needs = [
            of_language,
            if zstandard { of_compression() } else { None },
            if taken.is_empty() { None } else { of_major() },
        ];
        let (driver, reason) = needs.into_iter().flatten().max_by(|one, other| one.0.cmp(&other.0)).unzip();
        Self { driver, after: None, reason }
    }
}

fn advice(coverage: Coverage, gpu: Capability, has: &BTreeSet<Architecture>, cuda: Option<u8>) -> Option<String> {
    let wanted = gpu.architecture();
    match coverage {
        Coverage::Native => None,
        Coverage::Ptx => {
            Some(format!("compile it for {wanted} to save the time that the driver takes at the first start"))
        }
        Coverage::Missing => Some(match GpuTable::get().other_name(gpu) {
            // The same hardware, which CUDA 13 renamed: no driver takes the one for the other.
            Some(old) if has.iter().any(|architecture| architecture.capability == old) => {
                format!(
                    "{} is the name of this GPU in other releases of CUDA: compile it for {wanted}",
                    old.architecture()
                )
            }
            _ if has.iter().all(|architecture| architecture.capability > gpu) => older(gpu, cuda),
            _ => newer(gpu, cuda),
        }),
    }
}

/// Says what helps where all code is for later GPUs.
fn older(gpu: Capability, cuda: Option<u8>) -> String {
    let wanted = gpu.architecture();
    let last = CudaRelease::known().filter(|release| release.can_compile(&wanted)).max();
    match (last, cuda) {
        // CUDA 13 has no code for GPUs before Turing, so that no later release will help.
        (Some(last), Some(cuda)) if last.major < cuda => format!(
            "its build for CUDA {} may have it (another wheel or index of the same release), or an older release; if there is \
             none, compile it for {wanted}",
            last.major
        ),
        _ => format!("an older release of it may have it; if there is none, compile it for {wanted}"),
    }
}

/// Says what helps where there is code for earlier GPUs, or for other ones.
fn newer(gpu: Capability, cuda: Option<u8>) -> String {
    let wanted = gpu.architecture();
    let first = CudaRelease::known().find(|release| release.can_compile(&wanted));
    match (first, cuda) {
        (Some(first), Some(cuda)) if first.major >= cuda && first > CudaRelease { major: cuda, minor: 0 } => format!(
            "its build for CUDA {first} or later may have it (another wheel or index of the same release), or a newer \
             release; if there is none, compile it for {wanted} or with PTX"
        ),
        _ => format!("a newer release of it may have it; if there is none, compile it for {wanted} or with PTX"),
    }
}

impl Verdict {
    /// The driver that it needs, with the reason, behind a semicolon; empty where any will do.
    pub fn drivers(&self) -> String {
        let reason = self.driver_for.as_ref().map(|reason| format!(" ({reason})")).unwrap_or_default();
        match (&self.driver, &self.driver_after) {
            (Some(driver), _) => format!("; needs driver {driver}{reason}"),
            (None, Some(after)) => {
                format!("; needs a driver newer than {after}, the newest that this kiln knows of{reason}")
            }
            (None, None) => String::new(),
        }
    }
}

/// The beginning of a name, which C++ makes very long.
fn shortened(name: &str) -> String {
    match name.char_indices().nth(LONGEST_NAME) {
        Some((at, _)) => format!("{}...", &name[..at]),
        None => name.to_owned(),
    }
}

impl std::fmt::Display for Verdict {
    /// Without the GPU: `native (sm_80, sm_86) in 191 of 193 regions`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let native = self.coverage == Coverage::Native;
        let named = self.architectures.iter().filter(|architecture| !native || architecture.form == Form::Real);
        let names: Vec<String> = named.map(ToString::to_string).collect();
        let names = names.join(", ");
        let Tally { native: by_code, ptx, unknown, .. } = self.regions;
        let total =
            if self.regions.total() == 1 { "1 region".into() } else { format!("{} regions", self.regions.total()) };
        if self.extent == Extent::Thin && self.coverage != Coverage::Missing {
            write!(f, "too little: ")?;
        }
        match self.coverage {
            Coverage::Native => write!(f, "native ({names}) in {by_code} of {total}")?,
            Coverage::Ptx => write!(f, "through PTX ({names}) in {ptx} of {total}, compiled at the first start")?,
            Coverage::Missing if names.is_empty() => write!(f, "missing in {total}")?,
            Coverage::Missing => write!(f, "missing in {total}: it has {names}")?,
        }
        if native && ptx > 0 {
            write!(f, ", through PTX in {ptx}")?;
        }
        if unknown > 0 {
            write!(f, ", {unknown} with code for the linker alone")?;
        }
        if self.emptied > 0 && self.regions.missing > 0 {
            write!(f, ", {} emptied by a cut", self.emptied)?;
        }
        if let Some(kernels) = self.kernels.as_ref().filter(|kernels| kernels.total() + kernels.unknown > 0) {
            write!(f, "; kernels: {} native, {} through PTX, {} absent", kernels.native, kernels.ptx, kernels.missing)?;
            if kernels.unknown > 0 {
                write!(f, ", {} unknown", kernels.unknown)?;
            }
            if !self.absent.is_empty() && self.coverage != Coverage::Missing {
                let names: Vec<String> = self.absent.iter().map(|name| shortened(name)).collect();
                write!(f, " ({})", names.join(", "))?;
            }
        }
        f.write_str(&self.drivers())?;
        if self.extent == Extent::Partial {
            write!(f, "; most of it has no code for this GPU")?;
        }
        self.advice.iter().try_for_each(|advice| write!(f, "; {advice}"))
    }
}
