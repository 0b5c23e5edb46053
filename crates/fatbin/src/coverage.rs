//! Whether the code of a region runs on a GPU, and how.

use kiln_plan::gpu::{Architecture, Capability, Form, runs_on};

use crate::region::Region;

/// How a region serves a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Coverage {
    /// With machine code.
    Native,
    /// With PTX, which the driver compiles when it is first needed.
    Ptx,
    /// Not at all.
    Missing,
}

/// How many regions serve a GPU in which way.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, serde::Serialize)]
pub struct Tally {
    /// With machine code.
    pub native: u64,
    /// With PTX alone.
    pub ptx: u64,
    /// Not at all.
    pub missing: u64,
}

impl Region {
    /// What its code is for that a driver takes, ascending, each once. What it holds for the linker alone is left out.
    pub fn architectures(&self) -> Vec<Architecture> {
        let loadable = self.entries.iter().filter(|entry| entry.is_loadable());
        let mut architectures: Vec<Architecture> = loadable.filter_map(|entry| entry.architecture()).collect();
        architectures.sort_unstable();
        architectures.dedup();
        architectures
    }

    /// How it serves a GPU.
    pub fn coverage(&self, gpu: Capability) -> Coverage {
        coverage(&self.architectures(), gpu)
    }
}

/// How code for some architectures serves a GPU.
pub(crate) fn coverage(architectures: &[Architecture], gpu: Capability) -> Coverage {
    let runs = |form| architectures.iter().any(|code| code.form == form && runs_on(*code, gpu));
    if runs(Form::Real) {
        Coverage::Native
    } else if runs(Form::Virtual) {
        Coverage::Ptx
    } else {
        Coverage::Missing
    }
}

impl std::ops::Add for Tally {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self { native: self.native + other.native, ptx: self.ptx + other.ptx, missing: self.missing + other.missing }
    }
}

impl Tally {
    pub(crate) fn count(&mut self, coverage: Coverage, regions: u64) {
        match coverage {
            Coverage::Native => self.native += regions,
            Coverage::Ptx => self.ptx += regions,
            Coverage::Missing => self.missing += regions,
        }
    }

    /// The best way in which any region serves. Some of NVIDIA's own libraries have regions without code for a GPU that they
    /// support, so that a file which is served anywhere is taken to be served.
    pub fn best(&self) -> Coverage {
        match (self.native, self.ptx) {
            (1.., _) => Coverage::Native,
            (0, 1..) => Coverage::Ptx,
            (0, 0) => Coverage::Missing,
        }
    }
}
