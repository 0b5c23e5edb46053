//! The modules that the files of a distribution make importable. Two distributions with one module hide or overwrite one
//! another, whatever their names are: `triton` and `pytorch-triton`, `opencv-python` and `opencv-python-headless`.

use std::collections::BTreeSet;

/// Modules of one distribution that are told.
const MOST: usize = 64;

/// Returns the modules of the files of a distribution, as paths without suffixes: `torch`, `google/protobuf`, `six`. `files` are
/// paths below the directory where it is installed, with sizes in bytes.
///
/// A module is a file at the top, or the uppermost directory with an `__init__.py` that holds something. An empty one is what
/// several distributions share (`nvidia`, `tests`), like a directory without any (PEP 420).
pub fn modules<'f>(files: impl IntoIterator<Item = (&'f str, u64)>) -> Vec<String> {
    let mut found = BTreeSet::new();
    for (path, size) in files {
        let is_of_module = |part: &str| !matches!(part, "" | "." | ".." | "__pycache__") && !is_metadata(part);
        if size == 0 || !path.split('/').all(is_of_module) {
            continue;
        }
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let Some(stem) = stem(name) else { continue };
        match (directory, stem) {
            ("", stem) => found.insert(stem.to_owned()),
            (directory, "__init__") => found.insert(directory.to_owned()),
            _ => false,
        };
    }
    let above = |module: &str| module.match_indices('/').map(|(end, _)| module[..end].to_owned()).collect::<Vec<_>>();
    let is_uppermost = |module: &&String| !above(module).iter().any(|directory| found.contains(directory));
    found.iter().filter(is_uppermost).take(MOST).cloned().collect()
}

fn is_metadata(part: &str) -> bool {
    [".dist-info", ".egg-info", ".data"].iter().any(|end| part.ends_with(end))
}

/// Returns the name of the module in a source file or an extension module.
fn stem(name: &str) -> Option<&str> {
    let (stem, suffix) = name.split_once('.')?;
    (suffix == "py" || suffix.ends_with("so") || suffix.ends_with("pyd"))
        .then_some(stem)
        .filter(|stem| !stem.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn modules_are_the_uppermost_packages_that_hold_something() {
        let files = [
            ("torch/__init__.py", 100),
            ("torch/cuda/__init__.py", 10),
            ("torchgen/__init__.py", 1),
            ("torchgen/model.py", 1),
            ("functorch/_C.cpython-311-x86_64-linux-gnu.so", 9),
            ("torch-2.11.0.dist-info/METADATA", 9),
            ("torch-2.11.0.dist-info/licenses/x.py", 9),
            ("six.py", 3),
            ("_cffi_backend.cpython-311-x86_64-linux-gnu.so", 3),
            ("__pycache__/six.cpython-311.pyc", 3),
            ("distutils-precedence.pth", 3),
            ("../../../bin/torchrun", 3),
            ("/etc/x.py", 3),
        ];
        assert_eq!(modules(files), ["_cffi_backend", "six", "torch", "torchgen"]);
    }

    #[test]
    fn what_several_distributions_share_is_nobodys_module() {
        let files = [
            ("nvidia/__init__.py", 0),
            ("nvidia/cublas/__init__.py", 0),
            ("nvidia/cublas/lib/libcublas.so.13", 5),
            ("google/protobuf/__init__.py", 5),
            ("google/protobuf/internal/__init__.py", 5),
        ];
        assert_eq!(modules(files), ["google/protobuf"]);
    }
}
