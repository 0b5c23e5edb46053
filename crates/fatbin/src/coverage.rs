//! True if the code of a region runs on a GPU, and how.

use kiln_plan::gpu::{Architecture, Capability, Form, runs_on};

use serde::Serialize;

use crate::entry::{Entry, Kind};
use crate::region::Region;

/// The way in which a region serves a GPU.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Coverage {
    /// With machine code.
    Native,
    /// With PTX, which the driver compiles when it is first needed.
    Ptx,
    /// Not at all.
    Missing,
}

/// Counts of regions by the way in which they serve a GPU.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Tally {
    /// With machine code.
    pub native: u64,
    /// With PTX alone.
    pub ptx: u64,
    /// Not at all.
    pub missing: u64,
    /// Code that a linker makes machine code of, for whatever it links for (LTO-IR), or that cannot be looked into.
    #[serde(skip_serializing_if = "is_zero")]
    pub unknown: u64,
}

#[expect(clippy::trivially_copy_pass_by_ref, reason = "serde passes references")]
fn is_zero(number: &u64) -> bool {
    *number == 0
}

/// The share of a file that serves a GPU, beside the architecture that is served best.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Extent {
    /// As much as is usual of the architectures that a file is for.
    Served,
    /// So little that something may be missing.
    Partial,
    /// So little that it is for other GPUs.
    Thin,
}

impl Extent {
    /// Judges how much is served, beside how much of the architecture that is served best. Below 8% it is for other GPUs:
    /// what serves so little is one region that a linker added, or code that all files of a package share, such as the PTX
    /// of cuSPARSELt 0.7.1 for V100, which it does not support (454 of 7,801 kernels; 512 for B300). Below a tenth
    /// something may be missing: of NVIDIA's and torch's libraries the one that is served least on a GPU of its release
    /// notes is cuSPARSELt 0.7.1, with 804 kernels for A100.
    pub(crate) fn of(served: u64, best: u64) -> Self {
        match (served, best) {
            (served, best) if served.saturating_mul(25) < best.saturating_mul(2) => Self::Thin,
            (served, best) if served.saturating_mul(10) < best => Self::Partial,
            _ => Self::Served,
        }
    }
}

impl Extent {
    /// Judges how many regions serve, beside those that a cut emptied, whose kernels are gone: of cuSPARSELt 0.7.1, 34 serve
    /// A100 of 1,055, so that one in fifty is enough; one alone is what a linker added.
    pub(crate) fn after_cut(served: u64, emptied: u64) -> Self {
        let thin = served.saturating_mul(50) < served + emptied || served == 1 && emptied >= 20;
        if thin { Self::Thin } else { Self::Served }
    }
}

impl Region {
    /// Architectures of the code that a driver takes, ascending, each once. What it holds for the linker alone is left out.
    pub fn architectures(&self) -> Vec<Architecture> {
        let loadable = self.code().map(|(entry, _)| entry).filter(|entry| entry.is_loadable());
        let loadable = loadable.filter(|entry| entry.kind != Kind::Concatenated);
        let mut architectures: Vec<Architecture> = loadable.filter_map(Entry::architecture).collect();
        architectures.sort_unstable();
        architectures.dedup();
        architectures
    }

    /// The way in which it serves a GPU.
    pub fn coverage(&self, gpu: Capability) -> Coverage {
        coverage(&self.architectures(), gpu)
    }
}

/// The way in which code for some architectures serves a GPU.
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
        Self {
            native: self.native + other.native,
            ptx: self.ptx + other.ptx,
            missing: self.missing + other.missing,
            unknown: self.unknown + other.unknown,
        }
    }
}

impl Tally {
    /// Adds so many.
    pub(crate) fn count(&mut self, coverage: Coverage, regions: u64) {
        match coverage {
            Coverage::Native => self.native += regions,
            Coverage::Ptx => self.ptx += regions,
            Coverage::Missing => self.missing += regions,
        }
    }

    /// Returns how many are served, natively or through PTX.
    pub fn served(&self) -> u64 {
        self.native + self.ptx
    }

    /// Returns how many there are of which it can be said.
    pub fn total(&self) -> u64 {
        self.served() + self.missing
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
