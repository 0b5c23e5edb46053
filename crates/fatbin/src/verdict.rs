//! What GPU code means for a GPU, and why: for a person, one sentence.

use std::collections::BTreeSet;

use kiln_plan::gpu::{Architecture, Capability, CudaRelease, Form, GpuTable, PtxVersion, runs_on};
use serde::Serialize;

use crate::coverage::{Coverage, Tally};
use crate::entry::Compression;
use crate::listing::{Code, Group, Listing, RELOCATABLE};

/// The release from which on drivers inflate Zstandard (CUDA 12.8 release notes, `--compress-mode`).
const ZSTD: CudaRelease = CudaRelease { major: 12, minor: 8 };

/// How a file serves a GPU.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Verdict {
    /// The GPU.
    pub gpu: Capability,
    /// The best way in which any region serves it.
    pub coverage: Coverage,
    /// How many regions serve it in which way.
    pub regions: Tally,
    /// What of the file runs on it; of a file that does not, what it has.
    pub architectures: BTreeSet<Architecture>,
    /// The version of the PTX language that the driver must understand, where it compiles.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ptx: Option<PtxVersion>,
    /// The oldest Linux driver that understands the PTX, or the compression; nothing where every driver for the GPU does,
    /// or where it is not known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub driver: Option<&'static str>,
    /// What to change, where it is missing or slow to start.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub advice: Option<String>,
}

impl Listing {
    /// How the file serves a GPU; nothing where it has no code that a driver loads.
    pub fn verdict(&self, gpu: Capability) -> Option<Verdict> {
        let places = || self.code.iter().filter(|code| code.place != RELOCATABLE);
        let regions = places().map(|code| code.coverage(gpu)).reduce(|one, other| one + other)?;
        if regions == Tally::default() {
            return None;
        }
        let coverage = regions.best();
        let groups = || places().flat_map(|code: &Code| &code.groups);
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
        let used: Vec<&Group> = groups().filter(serves).collect();
        let named: Vec<&Group> = if used.is_empty() { groups().collect() } else { used.clone() };
        let architectures: BTreeSet<Architecture> = named.iter().filter_map(|group| group.architecture).collect();
        let compiled = if regions.ptx > 0 { used.iter().filter_map(|group| group.ptx).max() } else { None };
        let zstd = used.iter().any(|group| group.compression == Compression::Zstd).then_some(ZSTD);
        let release = compiled.and_then(PtxVersion::release).max(zstd);
        let driver = release.and_then(CudaRelease::toolkit_driver);
        let advice = advice(coverage, gpu, &architectures);
        Some(Verdict { gpu, coverage, regions, architectures, ptx: compiled, driver, advice })
    }
}

fn advice(coverage: Coverage, gpu: Capability, has: &BTreeSet<Architecture>) -> Option<String> {
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
            _ if has.iter().all(|architecture| architecture.capability > gpu) => {
                format!("take an older release of it, or compile it for {wanted}")
            }
            _ => format!("take a newer release of it, or compile it for {wanted} or with PTX"),
        }),
    }
}

impl std::fmt::Display for Verdict {
    /// Without the GPU: `native (sm_80, sm_86)`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let native = self.coverage == Coverage::Native;
        let named = self.architectures.iter().filter(|architecture| !native || architecture.form == Form::Real);
        let names: Vec<String> = named.map(ToString::to_string).collect();
        let names = names.join(", ");
        match self.coverage {
            Coverage::Native => write!(f, "native ({names})")?,
            Coverage::Ptx => write!(f, "through PTX ({names}), compiled at the first start")?,
            Coverage::Missing => write!(f, "missing: it has {names}")?,
        }
        if native && self.regions.ptx > 0 {
            write!(f, ", {} of its regions through PTX", self.regions.ptx)?;
        }
        if let Some(driver) = self.driver {
            write!(f, "; needs driver {driver}")?;
        }
        self.advice.iter().try_for_each(|advice| write!(f, "; {advice}"))
    }
}
