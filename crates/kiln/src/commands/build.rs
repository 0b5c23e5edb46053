//! `kiln build`

use std::process::ExitCode;

use clap::Args;
use kiln_build::{Built, Output, Upgrade};
use kiln_plan::event::Cancel;
use kiln_plan::size;
use serde_json::json;

use super::{Outcome, count, print, print_json, with_project};
use crate::arguments::{Global, StackOptions};

/// Build images: lock what is missing, fetch wheels, splice layers, compose
#[derive(Debug, Args)]
pub(crate) struct Build {
    /// Images to build [default: all]
    images: Vec<String>,
    /// Where the images go: `oci:DIR` (an OCI layout) or `docker-archive:FILE`; several times for several places
    #[arg(short, long, value_name = "OUTPUT")]
    output: Vec<Output>,
    /// Load the images into the Docker daemon
    #[arg(long)]
    load: bool,
    /// Fail rather than change `kiln.lock`
    #[arg(long)]
    locked: bool,
    #[command(flatten)]
    stack: StackOptions,
}

impl Build {
    pub(crate) fn run(&self, global: &Global, cancel: &Cancel) -> Outcome {
        let built = with_project(global, &self.stack, cancel, |project| {
            project.chosen(&self.images)?;
            let lock = project.lock(&Upgrade::Nothing, self.locked)?;
            let built = project.build(&self.images, &lock)?;
            for output in self.output.iter().chain(self.load.then_some(&Output::Docker)) {
                project.output(output, &built, &self.images)?;
            }
            Ok(built)
        })?;
        if global.json {
            let images: Vec<_> = built.iter().map(image_json).collect();
            return print_json(&json!({ "images": images }));
        }
        let lines: Vec<String> = built.iter().map(line).collect();
        print(&lines.concat())?;
        Ok(ExitCode::SUCCESS)
    }
}

/// `torch sha256:0123... 2.71 GB in 19 layers (unchanged)`
fn line(built: &Built) -> String {
    let layers = built.images.first().map_or(0, |image| image.layers.len());
    let bytes: u64 = built.images.iter().flat_map(|image| &image.layers).map(|layer| layer.size).sum();
    let platforms = match built.images.len() {
        1 => String::new(),
        count => format!(" for {count} platforms"),
    };
    let unchanged = if built.unchanged { " (unchanged)" } else { "" };
    let size = size::format(bytes);
    format!("{} {} {size} in {}{platforms}{unchanged}\n", built.name, built.digest, count(layers, "layer"))
}

fn image_json(built: &Built) -> serde_json::Value {
    let platforms: Vec<_> = built
        .images
        .iter()
        .map(|image| {
            json!({
                "platform": image.platform,
                "manifest": image.manifest,
                "config": image.config,
                "layers": image.layers,
            })
        })
        .collect();
    json!({ "name": built.name, "digest": built.digest, "unchanged": built.unchanged, "platforms": platforms })
}
