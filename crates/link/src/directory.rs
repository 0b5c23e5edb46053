//! Trees from directories on disk.

use std::io::{self, Read as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use kiln_fatbin::{ElfError, Source};
use kiln_plan::parallel;

use crate::configuration::is_configuration;
use crate::object::Object;
use crate::tree::{Node, Tree, What};

/// Bytes of a configuration file that are read.
const CONFIGURATION: u64 = 64 << 10;

/// A file that may be an object.
struct Candidate {
    node: usize,
    path: PathBuf,
    /// Whether its text is wanted, and not what it may be else.
    is_configuration: bool,
}

impl Tree {
    /// A picture of a directory: a root file system, or a part of one. Links stay links, and those that begin with a
    /// slash begin at this directory. `threads` read files at once; of each no more than headers is read.
    ///
    /// Other file systems that are mounted below are left out, so that a system's root can be looked at while it runs.
    /// What may not be read, and files that are damaged, are in the picture without content.
    ///
    /// # Errors
    ///
    /// Reading fails, for other reasons than permissions.
    pub fn of_directory(root: &Path, threads: usize) -> io::Result<Self> {
        let (mut nodes, candidates) = names(root)?;
        let found = parallel::each(&candidates, threads, read)?;
        for (candidate, what) in candidates.iter().zip(found) {
            if let Some(what) = what {
                nodes[candidate.node].what = what;
            }
        }
        let mut tree = Self::new();
        tree.add_layer(nodes);
        Ok(tree)
    }
}

/// Everything below a directory, and which of it is to be read.
fn names(root: &Path) -> io::Result<(Vec<Node>, Vec<Candidate>)> {
    let device = fs_err::metadata(root)?.dev();
    let (mut nodes, mut candidates) = (Vec::new(), Vec::new());
    let mut waiting = vec![(root.to_owned(), String::new())];
    while let Some((directory, inside)) = waiting.pop() {
        let Some(entries) = permitted(fs_err::read_dir(&directory))? else { continue };
        for entry in entries {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let path = if inside.is_empty() { name.into_owned() } else { format!("{inside}/{name}") };
            let kind = entry.file_type()?;
            let what = if kind.is_symlink() {
                let target = fs_err::read_link(entry.path())?;
                What::Symlink(target.to_string_lossy().into_owned())
            } else if kind.is_dir() {
                if entry.metadata()?.dev() == device {
                    waiting.push((entry.path(), path.clone()));
                }
                What::Directory
            } else {
                if kind.is_file() {
                    let is_configuration = is_configuration(&path);
                    candidates.push(Candidate { node: nodes.len(), path: entry.path(), is_configuration });
                }
                What::File { object: None, text: None }
            };
            nodes.push(Node { path, what });
        }
    }
    Ok((nodes, candidates))
}

/// What is of interest in a file, if anything is.
fn read(candidate: &Candidate) -> io::Result<Option<What>> {
    let Some(file) = permitted(fs_err::File::open(&candidate.path))? else { return Ok(None) };
    if candidate.is_configuration {
        let mut text = Vec::new();
        file.take(CONFIGURATION).read_to_end(&mut text)?;
        return Ok(Some(What::File { object: None, text: Some(String::from_utf8_lossy(&text).into_owned()) }));
    }
    // Most files are something else: four bytes tell it at the least cost.
    let mut start = [0; 4];
    if file.read_at(&mut start, 0)? < start.len() || start != *b"\x7fELF" {
        return Ok(None);
    }
    match Object::read(&file) {
        Ok(Some(object)) => Ok(Some(What::File { object: Some(Box::new(object)), text: None })),
        Err(ElfError::Io(error)) => Err(error),
        Ok(None) | Err(_) => Ok(None),
    }
}

/// Nothing where something may not be read, or has gone meanwhile.
fn permitted<T>(result: io::Result<T>) -> io::Result<Option<T>> {
    match result {
        Ok(value) => Ok(Some(value)),
        Err(error) if matches!(error.kind(), io::ErrorKind::PermissionDenied | io::ErrorKind::NotFound) => Ok(None),
        Err(error) => Err(error),
    }
}
