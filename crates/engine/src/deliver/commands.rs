//! Names of commands that are performed again.

use crate::error::{BuildError, Result};
use crate::images::Images;
use crate::node::NodeId;

/// Refuses a name that is none of a command.
pub(super) fn require_command(name: &str, images: &Images) -> Result<()> {
    let mistake = |message: String| BuildError::Mistake {
        message,
        hint: "name an image that is built, for all of its commands, or one of them by its number: `IMAGE:1`".into(),
    };
    let (image, number) = match name.rsplit_once(':') {
        Some((image, number)) => (image, Some(number)),
        None => (name, None),
    };
    if images.unplanned.iter().any(|(unplanned, ..)| unplanned == image) {
        return Ok(());
    }
    let mut found: Vec<NodeId> = Vec::new();
    for nodes in images.images.iter().filter(|nodes| nodes.name == image) {
        let commands = nodes.commands.as_slice();
        found.extend(match number.map(str::parse::<usize>) {
            None => commands,
            Some(Ok(number @ 1..)) => commands.get(number - 1..number).unwrap_or_default(),
            Some(_) => &[],
        });
    }
    if !found.is_empty() {
        return Ok(());
    }
    let count = images.images.iter().find(|nodes| nodes.name == image).map(|nodes| nodes.commands.len());
    Err(mistake(match count {
        None => format!("no image `{image}` is built"),
        Some(0) => format!("`{image}` has no commands"),
        Some(count) => format!("`{name}` is no command: `{image}` has {count}"),
    }))
}
