//! `kiln pull`

use clap::Args;
use kiln_engine::Output;
use kiln_plan::event::Cancel;
use kiln_plan::platform::Platform;
use kiln_plan::reference::Reference;

use super::build::{image_json, line};
use super::{Outcome, json_text, print_beside, require_one_stdout, with_workshop};
use crate::arguments::Global;
use crate::render::Failure;

/// Copy an image from a registry to a layout, an archive or the Docker daemon
///
/// A layout gets all that the reference names, byte for byte: every platform, attestations and annotations, under the
/// digest that the registry has. With `--platform` it gets the images for those platforms, and kiln says what is left out.
#[derive(Debug, Args)]
pub(crate) struct Pull {
    /// Such as `ghcr.io/acme/arr/train:latest`
    reference: Reference,
    /// Destination: `oci:DIR` (an OCI layout), `oci-archive:FILE` or `docker-archive:FILE` (`-` is stdout); several times
    /// for several places
    #[arg(short, long, value_name = "OUTPUT", required_unless_present = "load")]
    output: Vec<Output>,
    /// Load it into the Docker daemon
    #[arg(long)]
    load: bool,
    /// For which platforms, separated by commas [default: all; this machine's for Docker]
    #[arg(long, value_name = "PLATFORMS", value_delimiter = ',')]
    platform: Vec<Platform>,
}

impl Pull {
    pub(crate) fn run(&self, global: &Global, cancel: &Cancel) -> Outcome {
        let outputs: Vec<Output> = self.output.iter().cloned().chain(self.load.then_some(Output::Docker)).collect();
        require_one_stdout(&outputs)?;
        let mut platforms = self.platform.clone();
        platforms.sort();
        platforms.dedup();
        let unknown =
            || Failure::usage("no image runs on this machine").hint("say which one: `--platform linux/amd64`");
        let here = platforms.first().copied().or_else(Platform::host).ok_or_else(unknown)?;
        let pulled = with_workshop(global, cancel, |workshop| {
            Ok(workshop.pull(&self.reference, &platforms, here, &outputs)?)
        })?;
        let text = if global.json { json_text(&image_json(&pulled)) } else { line(&pulled) };
        print_beside(&outputs, &text)
    }
}
