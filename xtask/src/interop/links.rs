//! What kiln says the dynamic loader finds is what the loader finds: `ldd`, for every program and library of a system and
//! for wheels.
//!
//! `ldd` runs the loader itself, so that it answers for this machine alone and is no way to look at an image. Names with
//! a slash are left out, the interpreter among them: there is nothing to find; and the vdso, which is no file.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use kiln_link::{Machine, Settings, Tree};

use super::gpu_wheels::{Wheels, X86_64};
use super::report::{Checks, none, same};
use super::{Result, programs};

/// Where a system's programs and libraries lie.
const SYSTEM: [&str; 5] = ["usr/bin/", "usr/sbin/", "usr/lib/", "usr/lib32/", "usr/lib64/"];
/// Links from files to libraries that must at least have been compared.
const LEAST: usize = 100;

/// Names, and where they are found, if they are.
type Links = BTreeMap<String, Option<PathBuf>>;

/// Compares the programs and libraries of this system.
pub(crate) fn check_system(checks: &mut Checks) {
    checks.check("kiln finds the libraries that ldd finds, for all of this system", || {
        let tree = Tree::of_directory(Path::new("/"), threads())?;
        let objects = tree.objects().into_iter().filter(|(_, object)| object.machine == Machine::X86_64);
        let paths = objects.map(|(path, _)| path);
        let of_system = |path: &String| SYSTEM.iter().any(|directory| path.starts_with(directory));
        compare(&tree, Path::new("/"), paths.filter(of_system).collect())
    });
}

/// Compares the libraries of wheels, where the system around them is not looked at.
pub(crate) fn check_wheels(wheels: &Wheels, checks: &mut Checks) {
    checks.check("kiln finds the libraries that ldd finds, for the wheels", || {
        let root = fs_err::canonicalize(wheels.unpacked.join(X86_64))?;
        let tree = Tree::of_directory(&root, threads())?;
        let paths = tree.objects().into_iter().map(|(path, _)| path).collect();
        compare(&tree, &root, paths)
    });
}

fn threads() -> usize {
    std::thread::available_parallelism().map_or(1, usize::from)
}

fn compare(tree: &Tree, root: &Path, paths: Vec<String>) -> Result<()> {
    programs::find("ldd").ok_or("there is no ldd")?;
    let (next, outcome) = (AtomicUsize::new(0), Mutex::new((0, Vec::new())));
    std::thread::scope(|scope| {
        for _ in 0..threads() {
            scope.spawn(|| {
                while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
                    let (compared, wrong) = one(tree, root, path);
                    let mut outcome = outcome.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
                    outcome.0 += compared;
                    outcome.1.extend(wrong);
                }
            });
        }
    });
    let (compared, wrong) = outcome.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    super::complain(&format!("{} files, {compared} links", paths.len()));
    none("links differ", &wrong)?;
    same("whether enough links were compared", compared >= LEAST, true)
}

/// How many links of a file were compared, and what is wrong with them.
fn one(tree: &Tree, root: &Path, path: &str) -> (usize, Vec<String>) {
    let theirs = match ldd(&root.join(path)) {
        Ok(Some(links)) => links,
        Ok(None) => return (0, Vec::new()),
        Err(error) => return (0, vec![format!("{path}: {error}")]),
    };
    let ours = ours(tree, root, path);
    let mut wrong = Vec::new();
    for name in ours.keys().chain(theirs.keys().filter(|name| !ours.contains_key(*name))) {
        let (our, their) = (ours.get(name), theirs.get(name));
        if !agree(root, our, their) {
            wrong.push(format!("{path}: {name}: kiln says {our:?}, ldd {their:?}"));
        }
    }
    (ours.len(), wrong)
}

/// Whether both say the same. What is outside of the root, kiln cannot know of: to it such a library is missing, and what
/// that one needs in turn is not asked for.
fn agree(root: &Path, our: Option<&Option<PathBuf>>, their: Option<&Option<PathBuf>>) -> bool {
    match (our, their) {
        (Some(Some(our)), Some(Some(their))) => our == their,
        (Some(None), Some(None)) => true,
        (Some(None) | None, Some(Some(their))) => !their.starts_with(root),
        _ => false,
    }
}

fn ours(tree: &Tree, root: &Path, path: &str) -> Links {
    let mut links = Links::new();
    for load in tree.loads(path, &Settings::default()) {
        if !load.library.contains('/') && !is_interpreter(&load.library) {
            let found = load.path.map(|path| real(&root.join(path)));
            links.entry(load.library).or_insert(found);
        }
    }
    links
}

/// What the loader lists; nothing for what it does not load, such as programs without an interpreter.
fn ldd(path: &Path) -> Result<Option<Links>> {
    let mut ldd = Command::new("ldd");
    ldd.arg(path).env_clear().env("PATH", "/usr/bin:/bin").env("LC_ALL", "C").stdin(Stdio::null());
    let output = ldd.output()?;
    let mut links = Links::new();
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        let Some((name, found)) = line.trim().split_once(" => ") else { continue };
        if name.contains('/') || is_interpreter(name) {
            continue;
        }
        let found = found.split(" (0x").next().unwrap_or(found);
        links.insert(name.to_owned(), (found != "not found").then(|| real(Path::new(found))));
    }
    Ok((!links.is_empty()).then_some(links))
}

fn is_interpreter(name: &str) -> bool {
    name.starts_with("ld-linux")
}

/// A path without links.
fn real(path: &Path) -> PathBuf {
    fs_err::canonicalize(path).unwrap_or_else(|_| path.to_owned())
}
