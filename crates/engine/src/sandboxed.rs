//! Commands in the sandbox over trees of layers: what they say is told as it comes, and its end is kept for errors.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::path::PathBuf;
use std::sync::Once;
use std::time::Duration;

use kiln_oci::layer::Layer;
use kiln_oci::whole::LayerWriter;
use kiln_plan::event::Work;
use kiln_plan::stack::Compression;
use kiln_proxy::{Material, Proxy, Rules, Upstream};
use kiln_sandbox::{Command, Ids, LONGEST_LINE, Output, Ran, Root, Sandbox, SandboxError};
use kiln_store::remove_tree;

use crate::error::{BuildError, Result, SecretError};
use crate::inside::Done;
use crate::owners;
use crate::secrets::{Searched, Searching};
use crate::workshop::{Workshop, owners_of};

/// The last lines that are kept.
const LINES: usize = 100;
/// Bytes of each, and of all of them.
const SHOWN: usize = 2000;
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

/// The conditions under which a command runs.
#[derive(Default)]
pub(crate) struct Conditions<'c> {
    pub(crate) timeout: Option<Duration>,
    /// Hosts that its proxy allows although they are this machine or on its link.
    pub(crate) allow: &'c [String],
    /// Secrets that it has.
    pub(crate) secrets: Option<&'c Searched>,
}

/// The end of a command.
pub(crate) struct Finished {
    pub(crate) ran: Ran,
    /// Its last lines.
    pub(crate) lines: Vec<String>,
    /// The record of its proxy.
    pub(crate) materials: Vec<Material>,
}

/// Runs a command. `shown` is the command in errors of the sandbox.
pub(crate) fn run(
    workshop: &Workshop<'_>,
    (root, command): (&Root, &Command),
    conditions: &Conditions<'_>,
    shown: &str,
    work: &Work<'_>,
) -> Result<Finished> {
    let sandbox = Sandbox { timeout: conditions.timeout, ..Sandbox::default() };
    let redact = |text: String| match conditions.secrets {
        Some(secrets) => secrets.redact(text),
        None => text,
    };
    let mut last = Last::default();
    let mut proxy = None;
    let ran = sandbox.run(root, command, |output| {
        match output {
            Some(Output::Stdout(mut line) | Output::Stderr(mut line)) => {
                // Where a line was cut, a secret may have been.
                if line.len() == LONGEST_LINE {
                    line.truncate(LONGEST_LINE - conditions.secrets.map_or(0, Searched::longest));
                }
                let line = redact(String::from_utf8_lossy(&line).into_owned());
                work.output(&line);
                last.push(line);
            }
            Some(Output::Listener(listener)) => proxy = Some(Proxy::start(listener, rules(workshop, conditions.allow))),
            None => {}
        }
        // Without its proxy a command would only fail later.
        !matches!(proxy, Some(Err(_))) && workshop.cancel.check().is_ok()
    });
    let failed = |source: SandboxError| BuildError::Sandbox {
        command: shown.to_owned(),
        remedy: source.remedy(&root.directory),
        source,
    };
    let ran = ran.map_err(failed)?;
    let passed = proxy.transpose().map_err(|error| failed(SandboxError::Helper(error)))?.map(Proxy::finish);
    let materials = passed.unwrap_or_default().into_iter().map(|material| material.map_text(&redact)).collect();
    if ran.copied {
        static WARNED: Once = Once::new();
        WARNED.call_once(|| workshop.warn(COPIED));
    }
    Ok(Finished { ran, lines: last.lines.into(), materials })
}

/// Returns the layer of what a command changed, if it changed anything. `name` is the command and its place.
pub(crate) fn pack(
    workshop: &Workshop<'_>,
    done: &Done<'_>,
    compression: Compression,
    name: (&str, &str),
    secrets: &Searched,
    work: &Work<'_>,
) -> Result<Vec<Layer>> {
    let ids = Ids::of_this_process();
    let mut out = LayerWriter::new(workshop.store, compression.into(), workshop.surroundings.jobs)?;
    let mut watch = |bytes| work.advance(bytes).map_err(io::Error::from);
    let mut searching = Searching::new(&mut out, secrets);
    let packed = done.pack(ids, &mut searching, &mut watch)?;
    let (command, place) = (name.0.to_owned(), name.1.to_owned());
    if searching.found {
        let files = files_with_secrets(done, ids, secrets)?;
        return Err(SecretError::Left { command, place, files }.into());
    }
    let Some(are_known) = packed else { return Ok(Vec::new()) };
    let layer = out.finish()?;
    if !are_known {
        workshop.warn(format!(
            "owners of files of `{command}` in {place} may be lost: its layer is not shared, and not pushed"
        ));
    }
    owners::note(workshop.store, &layer, are_known)?;
    Ok(vec![layer])
}

/// Returns the files of a layer whose name, target or content holds a secret; the paths are redacted.
fn files_with_secrets(done: &Done<'_>, ids: Ids, secrets: &Searched) -> Result<Vec<String>> {
    let (reader, mut writer) = io::pipe()?;
    std::thread::scope(|scope| {
        let found = scope.spawn(move || -> io::Result<Vec<String>> {
            let mut files = Vec::new();
            for entry in tar::Archive::new(io::BufReader::with_capacity(1 << 20, reader)).entries()? {
                let mut entry = entry?;
                let target = entry.link_name_bytes().map(|target| secrets.is_in(&target)).unwrap_or_default();
                let path = entry.path_bytes().into_owned();
                let mut out = Searching::new(io::sink(), secrets);
                io::copy(&mut entry, &mut out)?;
                if target || out.found || secrets.is_in(&path) {
                    files.push(format!("`/{}`", secrets.redact(String::from_utf8_lossy(&path).into_owned())));
                }
            }
            Ok(files)
        });
        let packed = done.pack(ids, &mut writer, &mut |_| Ok(()));
        drop(writer);
        let found = found.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        packed?;
        Ok(found)
    })
}

/// Returns the rules of a command's proxy.
pub(crate) fn rules(workshop: &Workshop<'_>, allow: &[String]) -> Rules {
    let environment = &workshop.surroundings.environment;
    let variable = |name: &str| Some(environment.get(name)?.to_str()?.to_owned());
    Rules { allow: allow.to_vec(), upstream: Upstream::of(variable) }
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
    if line.len() > SHOWN {
        line.truncate(line.floor_char_boundary(SHOWN));
        line.push_str("...");
    }
    line
}
