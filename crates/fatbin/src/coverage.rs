//! Whether the code of a region runs on a GPU, and how.

use kiln_plan::gpu::{Capability, Form, runs_on};

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
    /// How it serves a GPU. What it holds for the linker alone serves none.
    pub fn coverage(&self, gpu: Capability) -> Coverage {
        let runs = |form: Form| {
            self.entries
                .iter()
                .filter(|entry| entry.is_loadable())
                .filter_map(|entry| entry.architecture())
                .any(|architecture| architecture.form == form && runs_on(architecture, gpu))
        };
        if runs(Form::Real) {
            Coverage::Native
        } else if runs(Form::Virtual) {
            Coverage::Ptx
        } else {
            Coverage::Missing
        }
    }
}

impl Tally {
    pub(crate) fn count(&mut self, coverage: Coverage) {
        match coverage {
            Coverage::Native => self.native += 1,
            Coverage::Ptx => self.ptx += 1,
            Coverage::Missing => self.missing += 1,
        }
    }

    /// The worst that can be said of a library that has code at all: some of NVIDIA's own have regions without code for a
    /// GPU that they support, so one that is served anywhere is taken to be served.
    pub fn verdict(&self) -> Coverage {
        match (self.native, self.ptx) {
            (1.., _) => Coverage::Native,
            (0, 1..) => Coverage::Ptx,
            (0, 0) => Coverage::Missing,
        }
    }
}
