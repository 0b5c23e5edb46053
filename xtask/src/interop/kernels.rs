//! Kernels: as many as kiln counts for every architecture are the entry symbols that NVIDIA's `cuobjdump` lists.
//!
//! cuobjdump looks into `.nv_fatbin` alone when it is asked for symbols, and does not tell of the suffix `f`.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use kiln_fatbin::{Depth, list_with};

use super::Result;
use super::gpu_code::{File, LEAST, gives_up};
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

/// Compares a file with the first of several releases of cuobjdump that does not give up; false where all do.
pub(super) fn compare_one(programs: &[&Path], file: &Path) -> Result<bool> {
    for cuobjdump in programs {
        if let Some(theirs) = symbols(cuobjdump, file)? {
            let ours = counted(file)?;
            same(&format!("the kernels of {}", file.display()), format!("{ours:?}"), format!("{theirs:?}"))?;
            return Ok(true);
        }
    }
    Ok(false)
}

/// Entry symbols for each architecture; `None` where cuobjdump gives up.
fn symbols(cuobjdump: &Path, file: &Path) -> Result<Option<BTreeMap<String, u64>>> {
    let output = Command::new(cuobjdump).arg("-symbols").arg(file).output()?;
    if gives_up(&output) {
        return Ok(None);
    }
    let (mut counts, mut architecture) = (BTreeMap::new(), String::new());
    for line in String::from_utf8_lossy(&output.stdout).lines() {
        if let Some(name) = line.strip_prefix("arch = ") {
            name.trim().trim_end_matches('f').clone_into(&mut architecture);
        } else if is_kernel(line) {
            *counts.entry(architecture.clone()).or_default() += 1;
        }
    }
    Ok(Some(counts))
}

/// Tells if a line names a kernel, in the form of CUDA 13 (`FUNC GLOBAL DEFAULT ENTRY ...`) or 12 (`STT_FUNC STB_GLOBAL
/// STO_ENTRY ...`).
fn is_kernel(line: &str) -> bool {
    let words: Vec<&str> = line.split_whitespace().take(4).collect();
    matches!(words[..], ["FUNC", _, _, "ENTRY"] | ["STT_FUNC", _, "STO_ENTRY", _])
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
