//! Kernels: as many as kiln counts for every architecture are the entry symbols that NVIDIA's `cuobjdump` lists.
//!
//! cuobjdump looks into `.nv_fatbin` alone when it is asked for symbols, and does not tell of the suffix `f`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use kiln_fatbin::{Depth, list_with};

use super::Result;
use super::gpu_code::{File, LEAST};
use super::report::same;

const SECTION: &str = ".nv_fatbin";

/// Compares all libraries that are listed.
pub(super) fn compare(cuobjdump: &Path, files: &[File]) -> Result<()> {
    let mut compared = 0;
    for file in files.iter().filter(|file| file.is_shared_object_with_sections()) {
        compared += usize::from(compare_one(&[cuobjdump], &file.file)?);
    }
    same("whether enough libraries were compared", compared >= LEAST, true)
}

/// Compares a file with the first of several releases of cuobjdump that names kernels; false where all give up.
pub(super) fn compare_one(programs: &[&Path], file: &Path) -> Result<bool> {
    let (mut found, mut gave_up): (Option<BTreeMap<String, u64>>, bool) = (None, false);
    for cuobjdump in programs {
        if found.as_ref().is_none_or(BTreeMap::is_empty) {
            let own = symbols(cuobjdump, file)?;
            gave_up |= own.is_none();
            found = own.or(found);
        }
    }
    // An older release names none without a word where a newer one gives up.
    let Some(theirs) = found.filter(|theirs| !(gave_up && theirs.is_empty())) else { return Ok(false) };
    same(&format!("the kernels of {}", file.display()), format!("{:?}", counted(file)?), format!("{theirs:?}"))?;
    Ok(true)
}

/// Entry symbols for each architecture; `None` where cuobjdump gives up.
fn symbols(cuobjdump: &Path, file: &Path) -> Result<Option<BTreeMap<String, u64>>> {
    let output = Command::new(cuobjdump).arg("-symbols").arg(file).output()?;
    // `cuobjdump fatal   : Support for 'sm_35' has been removed.`
    let said = String::from_utf8_lossy(&output.stderr).into_owned();
    if said.contains("Invalid ELF") || said.contains("cuobjdump fatal") {
        return Ok(None);
    }
    let (mut counts, mut architecture) = (BTreeMap::new(), String::new());
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some(name) = line.strip_prefix("arch = ") {
            name.trim().trim_end_matches('f').clone_into(&mut architecture);
        } else if line.starts_with("FUNC") && line.split_whitespace().nth(3) == Some("ENTRY") {
            *counts.entry(architecture.clone()).or_default() += 1;
        }
    }
    Ok(Some(counts))
}

fn counted(file: &Path) -> Result<BTreeMap<String, u64>> {
    let mut counts = BTreeMap::new();
    let listing = list_with(&fs_err::File::open(file)?, Depth::Kernels)?;
    let code = listing.iter().flat_map(|listing| &listing.code).filter(|code| code.place == SECTION);
    for alike in code.flat_map(|code| &code.alike) {
        let kernels = alike.kernels.iter().flat_map(|kernels| &kernels.by);
        for (architecture, number) in alike.architectures.iter().zip(kernels).filter(|(_, number)| **number > 0) {
            let name = architecture.to_string();
            if name.starts_with("sm_") {
                *counts.entry(name.trim_end_matches('f').to_owned()).or_default() += number;
            }
        }
    }
    Ok(counts)
}
