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
        if size == 0 || !path.split('/').all(is_of_package) {
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

/// Returns the packages whose `__init__` is empty and that are in no module: distributions share them in one directory of `sys.path`,
/// and of two directories the first hides the other's (PEP 420). `files` are as for [`modules`].
pub fn shared<'f>(files: impl IntoIterator<Item = (&'f str, u64)>) -> Vec<String> {
    let mut found = BTreeSet::new();
    let mut full = BTreeSet::new();
    for (path, size) in files {
        let Some((directory, name)) = path.rsplit_once('/') else { continue };
        if stem(name) == Some("__init__") && directory.split('/').all(is_of_package) {
            if size == 0 {
                found.insert(directory)
            } else {
                full.insert(directory)
            };
        }
    }
    let is_in = |set: &BTreeSet<&str>, path: &str| path.match_indices('/').any(|(end, _)| set.contains(&path[..end]));
    let is_uppermost = |path: &&&str| !full.contains(**path) && !is_in(&full, path) && !is_in(&found, path);
    found.iter().filter(is_uppermost).take(MOST).map(|path| (*path).to_owned()).collect()
}

/// Returns the directories that files of modules lie in, and those above them.
pub fn directories<'f>(files: impl IntoIterator<Item = &'f str>) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for path in files {
        let Some((directory, name)) = path.rsplit_once('/') else { continue };
        if stem(name).is_some() && directory.split('/').all(is_of_package) && !found.contains(directory) {
            found.extend(directory.match_indices('/').map(|(end, _)| directory[..end].to_owned()));
            found.insert(directory.to_owned());
        }
    }
    found
}

/// Returns true for the `__init__.py` of a package that lies in several directories of `sys.path`, as `pkgutil` and
/// `pkg_resources` make them (packaging guide, "Packaging namespace packages").
pub fn declares_namespace(text: &[u8]) -> bool {
    let text = String::from_utf8_lossy(text);
    text.contains("extend_path(") || text.contains("declare_namespace(")
}

fn is_of_package(part: &str) -> bool {
    !matches!(part, "" | "." | ".." | "__pycache__") && !is_metadata(part)
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
        assert_eq!(shared(files), ["nvidia"]);
        let of_tests = [("tests/__init__.py", 0), ("mine/__init__.py", 5), ("mine/tests/__init__.py", 0)];
        assert_eq!(shared(of_tests), ["tests"]);
    }

    #[test]
    fn directories_of_modules_are_those_above_source_files_and_machine_code() {
        let files = ["triton/backends/new.py", "triton/data/a.json", "share/doc/x.txt", "six.py", "a-1.dist-info/x.py"];
        assert_eq!(directories(files).into_iter().collect::<Vec<_>>(), ["triton", "triton/backends"]);
    }

    #[test]
    fn namespaces_of_setuptools_and_of_pkgutil_are_told() {
        assert!(declares_namespace(b"__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n"));
        assert!(declares_namespace(b"__import__('pkg_resources').declare_namespace(__name__)\n"));
        assert!(!declares_namespace(b"from .core import *\n"));
    }
}
