//! The commands of images, before they are performed: which ones are performed again, and whether they can be here.

use std::collections::BTreeSet;

use kiln_sandbox::Sandbox;

use crate::build::Build;
use crate::commands::Commands;
use crate::error::{BuildError, Result};
use crate::graph::Images;
use crate::node::NodeId;
use crate::project::Project;

/// Returns the commands that are performed though their results are known.
pub(super) fn again(commands: Commands<'_>, images: &Images) -> Result<BTreeSet<NodeId>> {
    let mut again = BTreeSet::new();
    if commands.twice {
        again.extend(images.images.iter().flat_map(|image| &image.commands));
    }
    for name in commands.again {
        again.extend(named(name, images)?);
    }
    Ok(again)
}

/// Returns the commands of a name, on all platforms.
fn named(name: &str, images: &Images) -> Result<Vec<NodeId>> {
    let mistake = |message: String| BuildError::Mistake {
        message,
        hint: "name an image that is built, for all of its commands, or one of them by its number: `IMAGE:1`".into(),
    };
    let (image, number) = match name.rsplit_once(':') {
        Some((image, number)) => (image, Some(number)),
        None => (name, None),
    };
    let mut found = Vec::new();
    for nodes in images.images.iter().filter(|nodes| nodes.name == image) {
        let commands = nodes.commands.as_slice();
        found.extend(match number.map(str::parse::<usize>) {
            None => commands,
            Some(Ok(number @ 1..)) => commands.get(number - 1..number).unwrap_or_default(),
            Some(_) => &[],
        });
    }
    if !found.is_empty() {
        return Ok(found);
    }
    let count = images.images.iter().find(|nodes| nodes.name == image).map(|nodes| nodes.commands.len());
    Err(mistake(match count {
        None => format!("no image `{image}` is built"),
        Some(0) => format!("`{image}` has no commands"),
        Some(count) => format!("`{name}` is no command: `{image}` has {count}"),
    }))
}

impl Project<'_> {
    /// Fails before anything starts where a command must be performed and no sandbox can be made here.
    pub(super) fn require_sandbox(&self, build: &Build<'_>, wanted: &[NodeId]) -> Result<()> {
        if build.images.images.iter().all(|image| image.commands.is_empty()) {
            return Ok(());
        }
        build.driver.settle(wanted.iter().copied())?;
        let unknown = build.driver.unknown();
        let mut commands = unknown.iter().filter_map(|id| build.images.graph.entry(*id).step.command());
        let Some(command) = commands.next() else { return Ok(()) };
        let directory = self.workshop.store.temporary_directory()?;
        Sandbox::default().try_out(directory.path()).map_err(|source| BuildError::Sandbox {
            command,
            remedy: source.remedy(directory.path()),
            source,
        })
    }
}
