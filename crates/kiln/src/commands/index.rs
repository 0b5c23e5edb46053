//! `kiln index`

use clap::Args;
use kiln_engine::Upgrade;
use kiln_plan::digest::Digest;
use kiln_plan::event::Cancel;

use super::build::{pushed_json, pushed_line};
use super::{Outcome, print, print_json, with_project};
use crate::arguments::{Global, StackOptions};

/// Join what several machines pushed with `kiln build --platform P --push` into one index, and move the tags to it.
/// Nothing is built
#[derive(Debug, Args)]
#[command(name = "index")]
pub(crate) struct IndexCommand {
    /// The image
    image: String,
    /// Digests of its manifests, one for each platform [default: they follow from the lock and the cache]
    manifests: Vec<Digest>,
    #[command(flatten)]
    stack: StackOptions,
}

impl IndexCommand {
    pub(crate) fn run(&self, global: &Global, cancel: &Cancel) -> Outcome {
        let joined = with_project(global, &self.stack, cancel, |project| {
            project.chosen(std::slice::from_ref(&self.image))?;
            let lock = project.lock(&Upgrade::Nothing, true)?;
            Ok(project.join(&self.image, &lock, &self.manifests)?)
        })?;
        if global.json { print_json(&pushed_json(&joined)) } else { print(&pushed_line(&joined)) }
    }
}
