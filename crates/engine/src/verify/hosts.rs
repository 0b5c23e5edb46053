//! Libraries for another processor than the one that a GPU comes with: Jetson's and Grace's are aarch64.

use std::fmt;

use kiln_fatbin::{Found, Machine};
use kiln_plan::gpu::{Capability, GpuTable};
use serde::Serialize;

use super::{Judge, excuses};

/// Files for a processor that a GPU's machine does not have.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct HostFinding {
    /// The GPU.
    pub gpu: Capability,
    /// The number of files.
    pub files: usize,
    /// One of them.
    pub path: String,
    #[serde(skip)]
    label: String,
}

impl fmt::Display for HostFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { files, path, label, .. } = self;
        match files {
            1 => write!(f, "{path} is")?,
            files => write!(f, "{files} files are ({path} ...)")?,
        }
        write!(f, " for x86-64, and {label} comes with a processor of aarch64: take the build for aarch64")
    }
}

/// Finds libraries with GPU code for x86-64 where a GPU was asked for by a name, or a capability, that aarch64 alone has.
pub(super) fn check(code: &[excuses::Summed<'_>], judge: &Judge) -> Vec<HostFinding> {
    let is_foreign = |file: &&excuses::Summed<'_>| {
        let listing = file.listing.as_ref().as_ref();
        listing.is_ok_and(|listing| listing.format == Found::Elf(Machine::X86_64) && listing.has_code())
            && !judge.excepts(&file.path)
    };
    let foreign: Vec<_> = code.iter().filter(is_foreign).collect();
    let Some(first) = foreign.first() else { return Vec::new() };
    let gpus = judge.gpus.iter().filter(|gpu| has_aarch64(**gpu, judge));
    let finding = |gpu: &Capability| HostFinding {
        gpu: *gpu,
        files: foreign.len(),
        path: first.path.clone(),
        label: judge.names.label(*gpu),
    };
    gpus.map(finding).collect()
}

fn has_aarch64(gpu: Capability, judge: &Judge) -> bool {
    let table = GpuTable::get();
    let named: Vec<_> = judge.names.of(gpu).iter().filter_map(|name| table.find(name)).collect();
    if !named.is_empty() {
        return named.iter().any(|gpu| gpu.has_aarch64());
    }
    let mut all = table.gpus().iter().filter(|known| known.capability == gpu).peekable();
    all.peek().is_some() && all.all(|gpu| gpu.has_aarch64())
}

#[cfg(test)]
mod tests {
    use kiln_fatbin::testing::{Library, entry};
    use kiln_plan::gpu::{GpuNames, GpuRequest};

    use super::*;
    use crate::contents::FileCode;
    use crate::verify::Verification;

    #[test]
    fn a_library_for_x86_64_does_not_run_beside_a_gpu_of_aarch64() {
        let library = Library::new().region(&[entry(2, 87, 0, 9_000), entry(2, 90, 0, 9_000)]);
        let found = |library: &Library, asked: &str| -> Vec<String> {
            let listing = kiln_fatbin::list(library.finish().as_slice()).unwrap().unwrap();
            let code = [FileCode { path: "a.so".into(), listing: Ok(listing), cuda: None }];
            let (mut names, mut gpus) = (GpuNames::default(), Vec::new());
            for (text, request) in GpuRequest::parse_list(asked).unwrap() {
                names.add(&text, &request);
                gpus.extend(request.capabilities());
            }
            let judge = Judge { gpus, names, ..Judge::default() };
            let verification = Verification::new("a", &code, &judge);
            assert_eq!(verification.is_sound(), verification.hosts.is_empty());
            verification.hosts.iter().map(ToString::to_string).collect()
        };
        let expected = "a.so is for x86-64, and Jetson AGX Orin (8.7) comes with a processor of aarch64: take the build for \
                        aarch64";
        assert_eq!(found(&library, "Jetson AGX Orin"), [expected]);
        assert_eq!(found(&library, "8.7").len(), 1);
        assert_eq!(found(&library, "GH200").len(), 1);
        for gpu in ["H100", "9.0"] {
            assert!(found(&library, gpu).is_empty(), "{gpu}");
        }
        for gpu in ["GH200", "Jetson AGX Orin"] {
            assert!(found(&library.clone().aarch64(), gpu).is_empty(), "{gpu}");
        }
    }
}
