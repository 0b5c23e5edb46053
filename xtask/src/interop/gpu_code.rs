//! GPU code: what kiln lists in real libraries is what NVIDIA's own `cuobjdump` lists, for every architecture.
//!
//! The libraries are those of wheels that are in use. `cuobjdump` comes as a wheel too. It looks into the sections for
//! regions alone and does not tell of the suffix `f`, so that kiln's list is read in the same way here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use serde::Deserialize;

use super::report::{Checks, same};
use super::{Result, Suite, gpu_wheels, kernels, links, programs, pruned};

/// Libraries with GPU code that must at least have been compared.
pub(super) const LEAST: usize = 20;
/// Sections that `cuobjdump` looks into.
const SECTIONS: [&str; 2] = [".nv_fatbin", "__nv_relfatbin"];

#[derive(Deserialize)]
struct Document {
    files: Vec<File>,
}

#[derive(Deserialize)]
pub(super) struct File {
    pub(super) file: PathBuf,
    pub(super) listing: Option<Listing>,
}

#[derive(Deserialize)]
pub(super) struct Listing {
    code: Vec<Code>,
    malformed: Vec<String>,
}

#[derive(Deserialize)]
struct Code {
    place: String,
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    architecture: Option<String>,
    kind: String,
    entries: u64,
    /// Those that have nothing in them.
    #[serde(default)]
    hollow: u64,
}

impl File {
    /// Whether it is a shared object with code in sections of its own. Code that lies elsewhere, as CUPTI's in `.rodata`,
    /// is listed and not cut; nor are static libraries, which are linked before anything runs.
    pub(super) fn is_shared_object_with_sections(&self) -> bool {
        let code = self.listing.iter().flat_map(|listing| &listing.code);
        let in_sections = code.into_iter().any(|code| SECTIONS.contains(&code.place.as_str()));
        in_sections && self.file.extension().is_none_or(|extension| extension != "a")
    }
}

impl File {
    /// True if it is one piece of code, or regions alone.
    pub(super) fn is_loose(&self) -> bool {
        let is = |ending: &str| self.file.extension().is_some_and(|extension| extension == ending);
        is("cubin") || is("fatbin")
    }
}

/// Entries for each architecture, as `cuobjdump` writes it: `sm_90a.cubin`, `sm_90.ptx`.
pub(super) type Counts = BTreeMap<String, u64>;

/// Makes the checks.
pub(crate) fn check(suite: &Suite, checks: &mut Checks) {
    let at = suite.work.join("gpu-code");
    let fetched = checks.check("wheels with GPU code and cuobjdump come", || gpu_wheels::fetch(&at));
    let Some(wheels) = fetched else { return };
    let listed = checks.check("kiln lists the GPU code of the wheels", || list(suite, &wheels.unpacked));
    if let Some(listed) = listed {
        checks.check("no library has a place that kiln cannot read", || all_read(&listed));
        checks
            .check("kiln and cuobjdump count the same for every architecture", || compare(&wheels.cuobjdump, &listed));
        checks.check("kiln counts the kernels that cuobjdump lists as symbols", || {
            kernels::compare(&wheels.cuobjdump, &listed)
        });
        links::check_wheels(&wheels, checks);
        pruned::check(suite, &wheels, &listed, checks);
    }
    suite.remove("gpu-code");
}

fn list(suite: &Suite, unpacked: &Path) -> Result<Vec<File>> {
    let files = inspect(suite, unpacked)?;
    same("whether there are enough libraries", files.len() >= LEAST, true).map(|()| files)
}

/// What kiln lists in a directory.
pub(super) fn inspect(suite: &Suite, directory: &Path) -> Result<Vec<File>> {
    let document: Document = programs::json(suite.kiln(directory).args(["--json", "inspect"]).arg(directory))?;
    Ok(document.files)
}

fn all_read(files: &[File]) -> Result<()> {
    for file in files {
        let listing = file.listing.as_ref().ok_or_else(|| format!("{} cannot be listed", file.file.display()))?;
        if let Some(problem) = listing.malformed.first() {
            return Err(format!("{}: {problem}", file.file.display()).into());
        }
    }
    Ok(())
}

fn compare(cuobjdump: &Path, files: &[File]) -> Result<()> {
    let mut compared = 0;
    for file in files {
        let Some(listing) = &file.listing else { continue };
        if let Some(theirs) = dumped(cuobjdump, &file.file)? {
            same(
                &format!("what is in {}", file.file.display()),
                format!("{:?}", counts(listing)),
                format!("{theirs:?}"),
            )?;
            compared += 1;
        }
    }
    same("whether enough libraries were compared", compared >= LEAST, true)
}

/// The code that cuobjdump lists; `None` where it gives up, as it does with code for GPUs that its release has forgotten, after
/// a part of the list perhaps.
pub(super) fn dumped(cuobjdump: &Path, file: &Path) -> Result<Option<Counts>> {
    let mut counts = Counts::new();
    for option in ["-lelf", "-lptx"] {
        let output = Command::new(cuobjdump).args(["-all", option]).arg(file).output()?;
        if gives_up(&output) {
            return Ok(None);
        }
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            // Releases from 13.5 on tell of the suffix `f` in PTX.
            if let Some((_, architecture)) = line.rsplit_once(".sm_") {
                let (number, kind) = architecture.split_once('.').unwrap_or((architecture, ""));
                *counts.entry(format!("sm_{}.{kind}", plain(number))).or_default() += 1;
            }
        }
    }
    Ok(Some(counts))
}

/// Tells if cuobjdump gave up: `cuobjdump fatal   : Support for 'sm_35' has been removed.`
pub(super) fn gives_up(output: &Output) -> bool {
    let said = String::from_utf8_lossy(&output.stderr);
    said.contains("Invalid ELF") || said.contains("cuobjdump fatal")
}

/// An architecture's number without the suffix `f`, and without the `a` that cuobjdump reads out of flags of code before
/// sm_90, where it means nothing.
fn plain(number: &str) -> &str {
    let number = number.trim_end_matches('f');
    let digits = number.trim_end_matches('a');
    if digits.parse().is_ok_and(|digits: u32| digits < 90) { digits } else { number }
}

pub(super) fn counts(listing: &Listing) -> Counts {
    let code = listing.code.iter().filter(|code| SECTIONS.contains(&code.place.as_str()));
    counted(code.flat_map(|code| &code.groups), |group| group.entries)
}

/// Like [`counts`], of entries that have nothing in them.
pub(super) fn hollow(listing: &Listing) -> Counts {
    let code = listing.code.iter().filter(|code| SECTIONS.contains(&code.place.as_str()));
    counted(code.flat_map(|code| &code.groups), |group| group.hollow)
}

/// Like [`counts`], of all places.
pub(super) fn counts_of_all(listing: &Listing) -> Counts {
    counted(listing.code.iter().flat_map(|code| &code.groups), |group| group.entries)
}

fn counted<'l>(groups: impl Iterator<Item = &'l Group>, number: fn(&Group) -> u64) -> Counts {
    let mut counts = Counts::new();
    for group in groups {
        let ending = match group.kind.as_str() {
            "ptx" => "ptx",
            "cubin" => "cubin",
            _ => continue,
        };
        let name = group.architecture.as_deref().unwrap_or("?").replace("compute_", "sm_");
        *counts.entry(format!("{}.{ending}", name.trim_end_matches('f'))).or_default() += number(group);
    }
    counts
}
