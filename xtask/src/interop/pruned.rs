//! Pruned libraries, seen through other people's programs: they have the code that they should have, and are in nothing
//! else other libraries than before.
//!
//! The same wheels as those whose GPU code is listed, pruned to one GPU. That what stays also computes the same is for
//! `verification` to say, on a machine that has a GPU.

mod loading;
mod messages;
mod wheel;

use std::collections::{BTreeMap, BTreeSet};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;
use sha2::{Digest as _, Sha256};

use super::gpu_code::{self, Counts, LEAST};
use super::gpu_wheels::{AARCH64, Wheels};
use super::report::{Checks, none, same};
use super::{Result, Suite, programs};

/// What is pruned to: capability 9.0, which GH200 has as well, so that it does for aarch64 too.
pub(super) const GPUS: &str = "H100";
/// What runs on it as machine code, as cuobjdump calls it.
const NATIVE: [&str; 2] = ["sm_90.cubin", "sm_90a.cubin"];

/// What `kiln prune --json` says.
#[derive(Deserialize)]
pub(crate) struct Report {
    pub(crate) inputs: Vec<Input>,
}

/// One thing that was pruned.
#[derive(Deserialize)]
pub(crate) struct Input {
    pub(crate) output: PathBuf,
    pub(crate) before: u64,
    pub(crate) after: u64,
    pub(crate) files: Vec<Library>,
}

/// A library.
#[derive(Deserialize)]
pub(crate) struct Library {
    /// Below the input.
    pub(crate) path: PathBuf,
    outcome: String,
    reason: Option<String>,
    #[serde(default)]
    code: Vec<Code>,
}

#[derive(Deserialize)]
struct Code {
    architecture: Option<String>,
    kind: String,
    after: u64,
}

impl Library {
    /// Whether something was cut out of it.
    pub(crate) fn is_pruned(&self) -> bool {
        self.outcome == "pruned"
    }

    /// Architectures of the PTX that stays, as cuobjdump writes them.
    fn ptx(&self) -> BTreeSet<String> {
        let stays = self.code.iter().filter(|code| code.kind == "ptx" && code.after > 0);
        stays.filter_map(|code| Some(cuobjdumps_name(code.architecture.as_deref()?))).collect()
    }
}

fn cuobjdumps_name(architecture: &str) -> String {
    format!("{}.ptx", architecture.replace("compute_", "sm_").trim_end_matches('f'))
}

/// Where libraries are before and after.
struct Trees<'a> {
    before: &'a Path,
    after: &'a Path,
    libraries: Vec<Library>,
}

impl Trees<'_> {
    /// Libraries that were pruned, each before and after.
    fn pruned(&self) -> impl Iterator<Item = (&Library, PathBuf, PathBuf)> {
        let pruned = self.libraries.iter().filter(|library| library.is_pruned());
        pruned.map(|library| (library, self.before.join(&library.path), self.after.join(&library.path)))
    }
}

/// Makes the checks.
pub(crate) fn check(suite: &Suite, wheels: &Wheels, listed: &[gpu_code::File], checks: &mut Checks) {
    let after = suite.work.join("gpu-code/pruned");
    let before = &wheels.unpacked;
    let pruned = checks.check("kiln prunes every library of the wheels", || prune(suite, before, &after, listed));
    if let Some(libraries) = pruned {
        let trees = Trees { before, after: &after, libraries };
        checks.check("cuobjdump lists in pruned libraries what should stay", || entries(suite, wheels, &trees, listed));
        loading::check(wheels, &trees, checks);
        loading::check_memory(&trees, checks);
        messages::check(&trees, checks);
        checks.check("pruning again changes nothing", || again(suite, &trees));
        checks.check("pruning in place gives the same and leaves other names of the files alone", || {
            in_place(suite, &trees)
        });
        loading::check_wrappers(wheels, &trees, checks);
        suite.remove("gpu-code/pruned");
    }
    wheel::check(suite, wheels, checks);
}

/// Runs `kiln prune` on one input.
fn run(suite: &Suite, input: &Path, arguments: &[&str]) -> Result<Input> {
    let mut kiln = suite.kiln(&suite.work);
    kiln.args(["--json", "prune", "--gpus", GPUS]).arg(input).args(arguments);
    let report: Report = programs::json(&mut kiln)?;
    report.inputs.into_iter().next().ok_or_else(|| "kiln tells of no input".into())
}

fn prune(suite: &Suite, before: &Path, after: &Path, listed: &[gpu_code::File]) -> Result<Vec<Library>> {
    let input = run(suite, before, &["--output", &after.to_string_lossy()])?;
    let mut wrong: Vec<String> = Vec::new();
    for library in &input.files {
        if library.outcome == "refused" {
            wrong.push(format!("{}: refused: {:?}", library.path.display(), library.reason));
        }
    }
    for file in listed.iter().filter(|file| file.is_shared_object_with_sections()) {
        if !input.files.iter().any(|library| file.file == before.join(&library.path)) {
            wrong.push(format!("{}: not told of", file.file.display()));
        }
    }
    none("libraries were not looked at", &wrong)?;
    let pruned = || input.files.iter().filter(|library| library.is_pruned());
    same("whether enough were pruned", pruned().count() >= LEAST, true)?;
    same("whether one for aarch64 was pruned", pruned().any(|library| library.path.starts_with(AARCH64)), true)?;
    same("whether it is smaller", input.after < input.before, true)?;
    Ok(input.files)
}

/// What cuobjdump counts after, against what kiln counted before and what it says that stays.
fn entries(suite: &Suite, wheels: &Wheels, trees: &Trees<'_>, listed: &[gpu_code::File]) -> Result<()> {
    let listed_after = gpu_code::inspect(suite, trees.after)?;
    let of = |files: &[gpu_code::File], path: &Path, count: fn(&gpu_code::Listing) -> Counts| -> Counts {
        let listing = files.iter().find(|file| file.file == path).and_then(|file| file.listing.as_ref());
        listing.map(count).unwrap_or_default()
    };
    let (mut wrong, mut compared) = (Vec::new(), 0);
    for (library, before, after) in trees.pruned() {
        let Some(theirs) = gpu_code::dumped(&wheels.cuobjdump, &after)? else { continue };
        compared += 1;
        // Linkers leave cubins with nothing in them, which stay where their region has nothing else, and go with what they
        // stand beside.
        let loaded = |counts: Counts, hollow: Counts| -> Counts {
            let rest = |(name, count): (String, u64)| {
                let count = count.saturating_sub(hollow.get(&name).copied().unwrap_or(0));
                (count > 0).then_some((name, count))
            };
            counts.into_iter().filter_map(rest).collect()
        };
        let before_cut = loaded(of(listed, &before, gpu_code::counts), of(listed, &before, gpu_code::hollow));
        let expected = native(&before_cut);
        let (cubins, ptx): (Counts, Counts) = theirs.clone().into_iter().partition(|(name, _)| name.ends_with("cubin"));
        let cubins = loaded(cubins, of(&listed_after, &after, gpu_code::hollow));
        if cubins != expected {
            wrong.push(format!("{}: cubins {cubins:?}, not {expected:?}", library.path.display()));
        }
        // Of code in data, cuobjdump says nothing.
        let everywhere = of(&listed_after, &after, gpu_code::counts_of_all);
        let (ptx, expected): (BTreeSet<String>, _) = (ptx.into_keys().collect(), library.ptx());
        if !ptx.is_subset(&expected) || !expected.iter().all(|name| everywhere.contains_key(name)) {
            wrong.push(format!("{}: {ptx:?}, not {expected:?}", library.path.display()));
        }
        let ours = of(&listed_after, &after, gpu_code::counts);
        if ours != theirs {
            wrong.push(format!("{}: {theirs:?}, and kiln counts {ours:?}", library.path.display()));
        }
    }
    none("lists are wrong", &wrong)?;
    same("whether enough libraries were compared", compared >= LEAST, true)
}

/// What of a library's code runs on the GPU as machine code.
fn native(counts: &Counts) -> Counts {
    let runs = counts.iter().filter(|(name, _)| NATIVE.contains(&name.as_str()));
    runs.map(|(name, count)| (name.clone(), *count)).collect()
}

fn again(suite: &Suite, trees: &Trees<'_>) -> Result<()> {
    let before = digests(trees.after, &trees.libraries)?;
    let files = run(suite, trees.after, &["--in-place"])?.files;
    none("files were pruned again", &names(files.iter().filter(|library| library.is_pruned())))?;
    same("whether the files are as they were", digests(trees.after, &trees.libraries)? == before, true)
}

/// Prunes other names of the unpruned files.
fn in_place(suite: &Suite, trees: &Trees<'_>) -> Result<()> {
    let linked = suite.work.join("gpu-code/linked");
    programs::output(Command::new("cp").arg("-al").arg(trees.before).arg(&linked))?;
    let before = digests(trees.before, &trees.libraries)?;
    run(suite, &linked, &["--in-place"])?;
    same("whether the other names have what they had", digests(trees.before, &trees.libraries)? == before, true)?;
    let (copy, linked_after) = (digests(trees.after, &trees.libraries)?, digests(&linked, &trees.libraries)?);
    let differ = trees.libraries.iter().filter(|library| copy.get(&library.path) != linked_after.get(&library.path));
    none("files differ from those of the copy", &names(differ))?;
    let mut shared = Vec::new();
    for (library, before, _) in trees.pruned() {
        if fs_err::metadata(before)?.ino() == fs_err::metadata(linked.join(&library.path))?.ino() {
            shared.push(library);
        }
    }
    none("pruned files still have the other name", &names(shared.into_iter()))?;
    suite.remove("gpu-code/linked");
    Ok(())
}

fn names<'l>(libraries: impl Iterator<Item = &'l Library>) -> Vec<String> {
    libraries.map(|library| library.path.display().to_string()).collect()
}

/// What is in the libraries of a tree.
fn digests(tree: &Path, libraries: &[Library]) -> Result<BTreeMap<PathBuf, Vec<u8>>> {
    let digest = |library: &Library| Ok((library.path.clone(), digest(&tree.join(&library.path))?));
    libraries.iter().map(digest).collect()
}

/// SHA-256 of a file.
fn digest(path: &Path) -> Result<Vec<u8>> {
    let (mut hasher, mut file) = (Sha256::new(), fs_err::File::open(path)?);
    let mut buffer = vec![0; 1 << 20];
    loop {
        match std::io::Read::read(&mut file, &mut buffer)? {
            0 => return Ok(hasher.finalize().to_vec()),
            read => hasher.update(&buffer[..read]),
        }
    }
}
