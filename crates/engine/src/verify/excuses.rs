//! Files that may lack code for a GPU, because another of their package has it.
//!
//! Packages ship variants of one library and load one of them when they run: for a release of CUDA, for a generation of
//! GPUs. Variants have paths that differ in such a word alone. A folder of loose cubins is loaded from by name.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use kiln_fatbin::{Coverage, Found, Listing};
use kiln_plan::gpu::{Capability, Form, runs_on};
use serde::Deserialize;

use super::pattern::matches;
use super::{Judge, VerifiedCode, is_served};
use crate::contents::FileCode;

/// Loose cubins of one folder from which on they are summed up.
const FEW: usize = 2;
/// Facts of known packages, each with its source.
const KNOWN: &str = include_str!("../../data/packages.toml");

/// A file with GPU code, or a folder of loose cubins.
pub(super) struct Summed<'f> {
    pub(super) path: String,
    pub(super) listing: Cow<'f, Result<Listing, String>>,
    pub(super) cuda: Option<u8>,
    /// Cubins that it stands for, where it is a folder.
    pub(super) files: Option<usize>,
}

/// Sums up loose cubins by the folder of the package that they lie in.
pub(super) fn sum_loose(code: &[FileCode]) -> Vec<Summed<'_>> {
    let mut folders: BTreeMap<String, (usize, Listing)> = BTreeMap::new();
    let folder = |file: &FileCode| match &file.listing {
        Ok(listing) if listing.format == Found::Cubin => Some(folder_of(&file.path)),
        _ => None,
    };
    for file in code {
        if let (Some(folder), Ok(listing)) = (folder(file), &file.listing) {
            match folders.get_mut(&folder) {
                Some((files, sum)) => {
                    *files += 1;
                    sum.add(listing.clone());
                }
                None => _ = folders.insert(folder, (1, listing.clone())),
            }
        }
    }
    folders.retain(|_, (files, _)| *files >= FEW);
    let has_code = |file: &&FileCode| !file.listing.as_ref().is_ok_and(Listing::is_empty);
    let others =
        code.iter().filter(has_code).filter(|file| folder(file).is_none_or(|folder| !folders.contains_key(&folder)));
    let others: Vec<Summed<'_>> = others
        .map(|file| Summed {
            path: file.path.clone(),
            listing: Cow::Borrowed(&file.listing),
            cuda: file.cuda,
            files: None,
        })
        .collect();
    let summed = folders.into_iter().map(|(path, (files, listing))| Summed {
        path,
        listing: Cow::Owned(Ok(listing)),
        cuda: None,
        files: Some(files),
    });
    summed.chain(others).collect()
}

/// The folder of a package: what follows `site-packages`, or the first of a path.
fn folder_of(path: &str) -> String {
    let inside = path.find("site-packages/").map_or(0, |at| at + "site-packages/".len());
    let parts: Vec<&str> = path[inside..].split('/').collect();
    let kept = parts.len().saturating_sub(1).min(2);
    if kept == 0 { ".".into() } else { format!("{}{}/", &path[..inside], parts[..kept].join("/")) }
}

/// Says of files that lack code for a GPU why they may.
pub(super) fn excuse(code: &mut [VerifiedCode], judge: &Judge) {
    let families = families(code);
    let known = Known::all();
    for gpu in &judge.gpus {
        let served: BTreeMap<&String, String> = families
            .iter()
            .filter(|(_, members)| members.len() > 1)
            .filter_map(|(name, members)| {
                let serves = |at: &&usize| code[**at].verdicts.iter().any(|v| v.gpu == *gpu && is_served(v));
                Some((name, code[*members.iter().find(serves)?].path.clone()))
            })
            .collect();
        let excuses: Vec<Option<String>> = code
            .iter()
            .map(|file| {
                let lacks = file.verdicts.iter().any(|verdict| verdict.gpu == *gpu && !is_served(verdict));
                let excepted = || judge.except.iter().find(|pattern| matches(pattern, &file.path));
                let excepted = || excepted().map(|pattern| format!("excepted by `{pattern}`"));
                let variant =
                    || served.get(&family(&file.path)).map(|other| format!("`{other}` is the variant for it"));
                let folder = || (file.files.is_some() && reaches(file, *gpu)).then(|| "it has some".to_owned());
                let known = || known.iter().find_map(|known| known.excuse(&file.path, *gpu));
                if lacks { excepted().or_else(variant).or_else(folder).or_else(known) } else { None }
            })
            .collect();
        for (file, excuse) in code.iter_mut().zip(excuses) {
            file.excuses.extend(excuse.map(|excuse| (gpu.to_string(), excuse)));
        }
    }
}

/// Tells if a file may lack code for a GPU: by patterns, or because it is known to be for others.
pub(crate) fn may_lack(path: &str, gpu: Capability, except: &[String]) -> bool {
    let folder = folder_of(path);
    let either = |fits: &dyn Fn(&str) -> bool| fits(path) || fits(&folder);
    let known = Known::all();
    except.iter().any(|pattern| either(&|path| matches(pattern, path)))
        || known.iter().any(|known| either(&|path| known.excuse(path, gpu).is_some()))
}

/// Files by what they are variants of.
pub(super) fn families(code: &[VerifiedCode]) -> BTreeMap<String, Vec<usize>> {
    let mut families: BTreeMap<String, Vec<usize>> = BTreeMap::new();
    for (at, file) in code.iter().enumerate() {
        families.entry(family(&file.path)).or_default().push(at);
    }
    families
}

/// Tells if a file has any code for a GPU.
fn reaches(file: &VerifiedCode, gpu: Capability) -> bool {
    file.verdicts.iter().any(|verdict| verdict.gpu == gpu && verdict.coverage != Coverage::Missing)
}

/// A path without words for releases of CUDA and generations of GPUs: what variants of one library have in common.
fn family(path: &str) -> String {
    let mut family = String::with_capacity(path.len());
    let mut word = String::new();
    // Words end where letters and digits do; the release or architecture is part of one: `libfoo_cuda128`, `sm_90a`.
    for letter in path.chars().chain(['\0']) {
        if letter.is_ascii_alphanumeric() {
            word.push(letter);
            continue;
        }
        family.push_str(if is_variant(&word) { "*" } else { &word });
        // `sm_90`: the number is the word behind.
        if letter != '_' || !matches!(&*word, "sm" | "cuda" | "compute") {
            family.push(letter);
            word.clear();
        } else {
            family.truncate(family.len() - word.len());
        }
    }
    family
}

fn is_variant(word: &str) -> bool {
    let lower = word.to_lowercase();
    let number = ["cuda", "cu", "sm", "compute"].iter().find_map(|prefix| lower.strip_prefix(prefix));
    let number = number.map(|number| number.strip_suffix(['a', 'f']).unwrap_or(number));
    number.is_some_and(|number| (2..=4).contains(&number.len()) && number.bytes().all(|byte| byte.is_ascii_digit()))
}

/// A fact about a package's file: the GPUs that it is for, none where no GPU needs it. On others, the package does without
/// it.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Known {
    path: String,
    #[serde(default)]
    gpus: BTreeSet<Capability>,
    from: Option<Capability>,
    why: String,
    source: String,
}

#[derive(Deserialize)]
struct Table {
    file: Vec<Known>,
}

impl Known {
    fn all() -> Vec<Self> {
        toml::from_str(KNOWN).map(|table: Table| table.file).unwrap_or_default()
    }

    fn excuse(&self, path: &str, gpu: Capability) -> Option<String> {
        let runs = |capability: &Capability| {
            runs_on(capability.architecture(), gpu) || runs_on(capability.architecture().with_form(Form::Virtual), gpu)
        };
        let meant = self.gpus.contains(&gpu) || self.gpus.iter().any(|known| known.major == gpu.major && runs(known));
        let too_old = self.from.is_some_and(|from| gpu < from);
        (matches(&self.path, path) && !meant && !too_old).then(|| format!("{} ({})", self.why, self.source))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variants_differ_in_a_release_or_an_architecture_alone() {
        let same = [
            ["bitsandbytes/libbitsandbytes_cuda118.so", "bitsandbytes/libbitsandbytes_cuda132.so"],
            ["sgl_kernel/sm90/common_ops.abi3.so", "sgl_kernel/sm100/common_ops.abi3.so"],
            ["a/_C_sm90a.so", "a/_C_sm_100.so"],
            ["a/lib.cu12.so", "a/lib.cu130.so"],
        ];
        for [one, other] in same {
            assert_eq!(family(one), family(other));
        }
        for [one, other] in [["a/lib1.so", "a/lib2.so"], ["a/libcufft.so.11", "a/libcufft.so.12"], ["a/x.so", "b/x.so"]]
        {
            assert_ne!(family(one), family(other));
        }
    }

    #[test]
    fn static_libraries_of_profilers_and_folders_of_cubins_may_lack_code() {
        let gpu = "12.0".parse().unwrap();
        for path in [
            "nvidia/cuda_cupti/lib/libcupti_static.a",
            "nvidia/cuda_cupti/lib/libnvperf_host_static.a",
            "opt/venv/lib/python3.12/site-packages/flashinfer_cubin/cubins/0/gemm.cubin",
        ] {
            assert!(may_lack(path, gpu, &[]), "{path}");
        }
        let infllm = "sgl_kernel/infllm_ops.cpython-310-x86_64-linux-gnu.so";
        assert!(may_lack(infllm, "10.0".parse().unwrap(), &[]) && !may_lack(infllm, gpu, &[]));
        let experts = "transformer_engine/wheel_lib/libnccl_ep.so";
        assert!(may_lack(experts, "8.9".parse().unwrap(), &[]) && !may_lack(experts, "9.0".parse().unwrap(), &[]));
        assert!(!may_lack("nvidia/cublas/lib/libcublas_static.a", gpu, &[]));
        assert!(may_lack("ops/kernels/add.cubin", gpu, &["ops/kernels*".to_owned()]));
    }

    #[test]
    fn every_known_file_has_a_reason_and_a_source() {
        let table: Table = toml::from_str(KNOWN).unwrap();
        for known in table.file {
            assert!(!known.why.is_empty() && !known.source.is_empty(), "{}", known.path);
        }
    }
}
