//! Where the dynamic loader looks for a library (ld.so(8); glibc, `elf/dl-load.c`).

use std::cell::RefCell;
use std::collections::HashMap;

use kiln_fatbin::Machine;
use kiln_picture::{LONGEST, NodeId};

use crate::configuration;
use crate::object::Object;
use crate::tree::Tree;

/// Paths that the strings of one entry may stand for: `$LIB` differs between distributions.
const MOST_VARIANTS: usize = 9;
/// Strings that are replaced in one entry.
const MOST_TOKENS: usize = 16;

/// A file that needs libraries, and where it says that they are.
pub(crate) struct Needer<'t> {
    object: &'t Object,
    /// Path of its directory, which is what `$ORIGIN` stands for.
    origin: String,
    rpath: Vec<String>,
    runpath: Vec<String>,
}

impl<'t> Needer<'t> {
    /// A file by the path that it was found at.
    pub(crate) fn new(object: &'t Object, path: &str) -> Self {
        let origin = path.rsplit_once('/').map_or("", |(parent, _)| parent).to_owned();
        let directories = |entries: &[String]| {
            let expanded = entries.iter().flat_map(|entry| expand(entry, &origin, object.machine));
            // Other paths begin at the working directory, which is known when the program runs.
            expanded.filter(|path| path.starts_with('/') && path.len() <= LONGEST).collect()
        };
        // DT_RPATH is nothing where there is DT_RUNPATH.
        let rpath = if object.runpath.is_empty() { directories(&object.rpath) } else { Vec::new() };
        Self { object, rpath, runpath: directories(&object.runpath), origin }
    }
}

/// A library that was found.
pub(crate) struct Hit {
    /// The path that it was found at, which may be a link.
    pub(crate) path: String,
    pub(crate) place: NodeId,
}

/// The directories of a tree and its settings.
pub(crate) struct Search<'t> {
    tree: &'t Tree,
    library_path: Vec<String>,
    configured: Vec<String>,
    /// Directories that have been looked up.
    known: RefCell<HashMap<String, Option<NodeId>>>,
}

impl<'t> Search<'t> {
    pub(crate) fn new(tree: &'t Tree, library_path: &[String]) -> Self {
        let library_path = library_path.iter().filter(|path| path.starts_with('/')).cloned().collect();
        Self { tree, library_path, configured: configuration::directories(tree), known: RefCell::default() }
    }

    /// Looks for a library that the first of the needers needs; the others are those that it was loaded for, whose
    /// `DT_RPATH` counts too.
    pub(crate) fn find(&self, needers: &[&Needer<'_>], name: &str) -> Option<Hit> {
        let needer = needers.first()?;
        let machine = needer.object.machine;
        if name.contains('/') {
            let paths = expand(name, &needer.origin, machine).into_iter();
            return paths.filter(|path| path.starts_with('/')).find_map(|path| self.open(path, machine));
        }
        if needer.object.runpath.is_empty()
            && let Some(hit) = needers.iter().find_map(|needer| self.look(&needer.rpath, name, machine))
        {
            return Some(hit);
        }
        self.look(&self.library_path, name, machine)
            .or_else(|| self.look(&needer.runpath, name, machine))
            .or_else(|| self.system(needer, name))
    }

    /// Looks in the directories that all programs share.
    fn system(&self, needer: &Needer<'_>, name: &str) -> Option<Hit> {
        let machine = needer.object.machine;
        let defaults = defaults(machine);
        let is_default = |directory: &str| defaults.contains(&directory.trim_matches('/'));
        for directory in &self.configured {
            if needer.object.nodeflib && is_default(directory) {
                continue;
            }
            if let Some(hit) = self.candidate(directory, name, machine) {
                return Some(hit);
            }
        }
        let defaults = if needer.object.nodeflib { &[][..] } else { defaults };
        defaults.iter().find_map(|directory| self.candidate(directory, name, machine))
    }

    fn look(&self, directories: &[String], name: &str, machine: Machine) -> Option<Hit> {
        directories.iter().find_map(|directory| self.candidate(directory, name, machine))
    }

    fn candidate(&self, directory: &str, name: &str, machine: Machine) -> Option<Hit> {
        let place = self.known.borrow().get(directory).copied();
        let place = place.unwrap_or_else(|| {
            let place = self.tree.find(directory);
            self.known.borrow_mut().insert(directory.to_owned(), place);
            place
        });
        if !self.tree.has(place?, name) {
            return None;
        }
        self.open(format!("{directory}/{name}"), machine)
    }

    /// The library at a path, if it is one for this machine: what is for another is passed over.
    fn open(&self, path: String, machine: Machine) -> Option<Hit> {
        let place = self.tree.find(&path)?;
        (self.tree.object_at(place)?.machine == machine).then(|| Hit { path: tidy(&path), place })
    }
}

/// Directories that are searched last: those of Debian, and those of Red Hat and others.
fn defaults(machine: Machine) -> &'static [&'static str] {
    match machine {
        Machine::X86_64 => {
            &["lib/x86_64-linux-gnu", "usr/lib/x86_64-linux-gnu", "lib64", "usr/lib64", "lib", "usr/lib"]
        }
        Machine::Aarch64 => {
            &["lib/aarch64-linux-gnu", "usr/lib/aarch64-linux-gnu", "lib64", "usr/lib64", "lib", "usr/lib"]
        }
        _ => &[],
    }
}

/// What an entry stands for once `$ORIGIN`, `$LIB` and `$PLATFORM` are replaced, with or without braces.
fn expand(entry: &str, origin: &str, machine: Machine) -> Vec<String> {
    let (platform, libraries) = match machine {
        Machine::Aarch64 => ("aarch64", ["lib/aarch64-linux-gnu", "lib64", "lib"]),
        _ => ("x86_64", ["lib/x86_64-linux-gnu", "lib64", "lib"]),
    };
    let origin = format!("/{}", origin.trim_start_matches('/'));
    let mut expanded = vec![String::new()];
    let mut rest = entry;
    for _ in 0..MOST_TOKENS {
        let Some((before, after)) = rest.split_once('$') else { break };
        let tokens = [("ORIGIN", &[origin.as_str()][..]), ("LIB", &libraries[..]), ("PLATFORM", &[platform][..])];
        let token = tokens.into_iter().find_map(|(name, values)| Some((values, after_token(after, name)?)));
        // A dollar sign that is none of these stands for itself.
        let (values, after) = token.unwrap_or((&["$"], after));
        let variants =
            expanded.iter().flat_map(|known| values.iter().map(move |value| [known, before, value].concat()));
        expanded = variants.take(MOST_VARIANTS).collect();
        rest = after;
    }
    expanded.iter().map(|known| [known, rest].concat()).collect()
}

/// What follows a token, where the text begins with it.
fn after_token<'e>(text: &'e str, name: &str) -> Option<&'e str> {
    if let Some(inside) = text.strip_prefix('{') {
        return inside.strip_prefix(name)?.strip_prefix('}');
    }
    let rest = text.strip_prefix(name)?;
    (!rest.starts_with(|next: char| next.is_ascii_alphanumeric() || next == '_')).then_some(rest)
}

/// A path without a slash before it, and without empty parts.
fn tidy(path: &str) -> String {
    path.split('/').filter(|part| !part.is_empty() && *part != ".").collect::<Vec<_>>().join("/")
}
