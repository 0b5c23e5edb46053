//! Compilers that are bundled, and the GPUs that they cannot compile for.

use std::fmt;

use kiln_plan::gpu::{Capability, CudaRelease};
use serde::Serialize;

use super::Judge;
use super::pattern::matches;

/// A compiler that cannot compile for a GPU.
#[derive(Debug, Clone, Serialize)]
pub struct CompilerFinding {
    /// Path of the compiler.
    pub path: String,
    /// The release that it is of.
    pub release: CudaRelease,
    /// The GPU.
    pub gpu: Capability,
    /// The first release that compiles for the GPU and the last, where they are known.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub able: Option<(CudaRelease, CudaRelease)>,
    #[serde(skip)]
    label: String,
}

/// Finds the compilers that cannot compile for a GPU. One beside another that can is a variant (`ptxas-blackwell`).
pub(super) fn check(compilers: &[(String, CudaRelease)], judge: &Judge) -> Vec<CompilerFinding> {
    let mut findings = Vec::new();
    let folder = |path: &str| path.rsplit_once('/').map_or(String::new(), |(folder, _)| folder.to_owned());
    for gpu in &judge.gpus {
        let code = gpu.architecture();
        let able = |release: &CudaRelease| release.can_compile(&code);
        for (path, release) in compilers.iter().filter(|(_, release)| !able(release)) {
            let beside = compilers.iter().any(|(other, release)| folder(other) == folder(path) && able(release));
            if beside || judge.except.iter().any(|pattern| matches(pattern, path)) {
                continue;
            }
            let known: Vec<CudaRelease> = CudaRelease::known().filter(able).collect();
            let able = known.first().copied().zip(known.last().copied());
            let (path, release, label) = (path.clone(), *release, judge.names.label(*gpu));
            findings.push(CompilerFinding { path, release, gpu: *gpu, able, label });
        }
    }
    findings
}

impl fmt::Display for CompilerFinding {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { path, release, label, able, .. } = self;
        write!(f, "{path} compiles with CUDA {release}, which cannot compile for {label}")?;
        match able {
            Some((first, _)) if first > release => {
                write!(f, ": CUDA {first} and later can; take a newer release of the package that brings it")
            }
            Some((_, last)) => {
                write!(f, ": CUDA {last} was the last that could; take an older release of the package that brings it")
            }
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(compilers: &[(&str, &str)], gpu: &str) -> Vec<String> {
        let compilers: Vec<_> =
            compilers.iter().map(|(path, text)| ((*path).to_owned(), text.parse().unwrap())).collect();
        let judge = Judge { gpus: vec![gpu.parse().unwrap()], ..Judge::default() };
        check(&compilers, &judge).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_compiler_of_an_older_or_newer_release_is_found() {
        let old = ("triton/backends/nvidia/bin/ptxas", "12.4");
        assert_eq!(
            found(&[old], "12.0"),
            [
                "triton/backends/nvidia/bin/ptxas compiles with CUDA 12.4, which cannot compile for 12.0: CUDA 12.8 and later \
              can; take a newer release of the package that brings it"
            ]
        );
        assert!(found(&[old], "9.0").is_empty());
        assert!(found(&[("lib/libnvrtc.so.13", "13.0")], "7.0")[0].contains("CUDA 12.9 was the last that could"));
        assert!(found(&[old, ("triton/backends/nvidia/bin/ptxas-blackwell", "12.9")], "12.0").is_empty());
    }
}
