//! Commands in the sandbox over trees of layers: what they say is told as it comes, and its end is kept for errors.

use std::collections::{BTreeMap, VecDeque};
use std::path::PathBuf;
use std::sync::Once;
use std::time::Duration;

use kiln_plan::event::Work;
use kiln_sandbox::{Command, Ids, Output as Line, Ran, Root, Sandbox};
use kiln_store::remove_tree;

use crate::error::{BuildError, Result};
use crate::workshop::{Workshop, owners_of};

/// The last lines that are kept.
const LINES: usize = 100;
/// Bytes of each, and of all of them.
const LONGEST_LINE: usize = 2000;
const BYTES: usize = 16 << 10;

/// A warning.
const COPIED: &str = "no overlay can be mounted over the store here, so each command runs over copies of its layers; another file system \
                      for the store may be faster";

/// Makes a directory for a command over layers, the lowest first, and removes it after `act`.
pub(crate) fn over<T>(workshop: &Workshop<'_>, layers: &[PathBuf], act: impl FnOnce(&Root) -> Result<T>) -> Result<T> {
    let directory = workshop.store.temporary_directory()?;
    let owners_below = match Ids::of_this_process() {
        Ids::One => owners_of(layers)?,
        Ids::All | Ids::Range(..) => BTreeMap::new(),
    };
    let root = Root { layers: layers.to_vec(), owners_below, directory: directory.path().to_owned() };
    let done = act(&root);
    // Directories that may not be written stay otherwise.
    remove_tree(directory.path())?;
    done
}

/// Runs a command, and returns its end and its last lines. `shown` is the command in errors of the sandbox.
pub(crate) fn run(
    workshop: &Workshop<'_>,
    (root, command): (&Root, &Command),
    timeout: Option<Duration>,
    shown: &str,
    work: &Work<'_>,
) -> Result<(Ran, Vec<String>)> {
    let sandbox = Sandbox { timeout, ..Sandbox::default() };
    let mut last = Last::default();
    let ran = sandbox.run(root, command, |line| {
        if let Some(Line::Stdout(line) | Line::Stderr(line)) = line {
            let line = String::from_utf8_lossy(&line).into_owned();
            work.output(&line);
            last.push(line);
        }
        workshop.cancel.check().is_ok()
    });
    let ran = ran.map_err(|source| BuildError::Sandbox {
        command: shown.to_owned(),
        remedy: source.remedy(&root.directory),
        source,
    })?;
    if ran.copied {
        static WARNED: Once = Once::new();
        WARNED.call_once(|| workshop.warn(COPIED));
    }
    Ok((ran, last.lines.into()))
}

/// The last lines of a command.
#[derive(Default)]
struct Last {
    lines: VecDeque<String>,
    bytes: usize,
}

impl Last {
    fn push(&mut self, line: String) {
        let line = cut(line);
        self.bytes += line.len();
        self.lines.push_back(line);
        while self.lines.len() > LINES || self.bytes > BYTES {
            self.bytes -= self.lines.pop_front().map_or(0, |line| line.len());
        }
    }
}

/// Cuts a line that nobody would read.
fn cut(mut line: String) -> String {
    if line.len() > LONGEST_LINE {
        line.truncate(line.floor_char_boundary(LONGEST_LINE));
        line.push_str("...");
    }
    line
}
