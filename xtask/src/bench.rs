//! Benchmarks: kiln beside its peers, on one machine, in one run.
//!
//! Machines differ and are noisy, so that what counts are ratios between medians of the same run. Everything is measured
//! as a whole process, with the operating system's own account of time and memory.

mod assemble;
mod fatbin;
mod measure;
mod push;
mod run;

use clap::{Args, Subcommand};

/// Measure kiln beside its peers
#[derive(Debug, Args)]
pub(crate) struct Bench {
    #[command(subcommand)]
    which: Which,
}

#[derive(Debug, Subcommand)]
enum Which {
    /// From local wheels to an image: against uv and tar with pigz and zstd, Docker and buildah where they are installed
    Assemble(assemble::Assemble),
    /// Images to a local registry: against skopeo, Docker and buildah
    Push(push::Push),
    /// Commands of images, the layers that they make, and layers as directories: against crun, uv, Docker and buildah
    Run(run::Run),
    /// GPU code in torch's libraries, listed and cut: against cuobjdump and pigz
    Fatbin(fatbin::Fatbin),
}

impl Bench {
    pub(crate) fn run(&self) -> Result<(), String> {
        match &self.which {
            Which::Assemble(assemble) => assemble.run(),
            Which::Push(push) => push.run(),
            Which::Run(run) => run.run(),
            Which::Fatbin(fatbin) => fatbin.run(),
        }
    }
}
