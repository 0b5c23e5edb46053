//! The interpreter that uv inspects: kiln itself under the name of a Python, which prints one JSON document.
//!
//! uv learns version, markers and tags from that document and runs the interpreter for nothing else, except to build a
//! source: then it looks for the paths of the document, and there are none.

use std::path::{Path, PathBuf};

use kiln_plan::base::{Libc, LibcFamily};
use pep508_rs::MarkerEnvironment;
use serde_json::{Value, json};

use super::Target;
use crate::pylock::{self, PylockError};
use crate::tags::Tags;

/// A directory that exists on no machine.
const NOWHERE: &str = "/nonexistent/kiln";

impl Target<'_> {
    /// The full version; a base that tells only `MAJOR.MINOR` counts as its first release.
    pub(super) fn full_version(&self) -> String {
        pylock::full_version(self.python)
    }

    /// `MAJOR.MINOR`.
    fn minor_version(&self) -> &str {
        let end = self.python.match_indices('.').nth(1).map_or(self.python.len(), |(at, _)| at);
        &self.python[..end]
    }

    /// The tags of its wheels.
    pub fn tags(&self) -> Tags {
        let minor = self.python.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or(0);
        Tags::new(minor, self.platform, self.libc)
    }

    /// The environment that markers are evaluated in.
    pub fn markers(&self) -> Result<MarkerEnvironment, PylockError> {
        pylock::environment(self.minor_version(), self.python, self.platform)
    }
}

/// The path of an interpreter's document, beside the program that answers for it.
pub fn description(program: &Path) -> PathBuf {
    program.with_added_extension("json")
}

/// Makes the interpreter in a directory; its path.
pub(super) fn pretend(directory: &Path, kiln: &Path, target: &Target<'_>) -> std::io::Result<PathBuf> {
    let program = directory.join(format!("python{}", target.minor_version()));
    fs_err::write(description(&program), document(target).to_string())?;
    match fs_err::os::unix::fs::symlink(kiln, &program) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(program),
    }
}

/// The document that uv 0.13 reads from an interpreter; older versions look for the system in `platform`.
fn document(target: &Target<'_>) -> Value {
    let (full, minor) = (target.full_version(), target.minor_version());
    let machine = target.platform.cpu.machine();
    let below = |path: &str| format!("{NOWHERE}/{path}");
    let packages = format!("lib/python{minor}/site-packages");
    let os = system(target.libc);
    json!({
        "result": "success",
        "markers": {
            "implementation_name": "cpython",
            "implementation_version": full,
            "os_name": "posix",
            "platform_machine": machine,
            "platform_python_implementation": "CPython",
            "platform_release": "",
            "platform_system": "Linux",
            "platform_version": "",
            "python_full_version": full,
            "python_version": minor,
            "sys_platform": "linux",
        },
        "sys_base_prefix": NOWHERE,
        "sys_base_exec_prefix": NOWHERE,
        "sys_prefix": NOWHERE,
        "sys_base_executable": below("bin/python"),
        "sys_executable": below("bin/python"),
        "sys_path": [],
        "site_packages": [],
        "stdlib": below(&format!("lib/python{minor}")),
        "extension_suffixes": [],
        "standalone": false,
        "scheme": {
            "platlib": below(&packages),
            "purelib": below(&packages),
            "include": below("include"),
            "scripts": below("bin"),
            "data": NOWHERE,
        },
        "virtualenv": {
            "platlib": packages,
            "purelib": packages,
            "include": "include",
            "scripts": "bin",
            "data": "",
        },
        "os": os,
        "arch": machine,
        "platform": { "os": os, "arch": machine },
        "cpu_info": { "unavailable": "it is the processor of another machine" },
        "manylinux_compatible": true,
        "gil_disabled": false,
        "debug_enabled": false,
        "pointer_size": "64",
    })
}

/// The C library in the words of wheels' tags; an unknown one counts as the oldest that current wheels are made for.
fn system(libc: Option<&Libc>) -> Value {
    let (name, version) = match libc {
        Some(Libc { family: LibcFamily::Musl, version }) => ("musllinux", version.as_str()),
        Some(Libc { version, .. }) => ("manylinux", version.as_str()),
        None => ("manylinux", "2.17"),
    };
    let mut numbers = version.split('.').map(|number| number.parse::<u32>().ok());
    let (major, minor) = match (numbers.next().flatten(), numbers.next().flatten()) {
        (Some(major), Some(minor)) => (major, minor),
        _ if name == "musllinux" => (1, 1),
        _ => (2, 17),
    };
    json!({ "name": name, "major": major, "minor": minor })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_interpreter_is_described_by_its_base_and_by_paths_that_do_not_exist() {
        let libc = Libc { family: LibcFamily::Glibc, version: "2.27".into() };
        let target = Target { python: "3.11.2", platform: "linux/arm64".parse().unwrap(), libc: Some(&libc) };
        let document = document(&target);
        assert_eq!(document["markers"]["python_full_version"], "3.11.2");
        assert_eq!(document["markers"]["platform_machine"], "aarch64");
        assert_eq!(document["os"], json!({ "name": "manylinux", "major": 2, "minor": 27 }));
        for path in ["sys_prefix", "sys_base_executable", "sys_executable", "stdlib"] {
            assert!(!Path::new(document[path].as_str().unwrap()).exists(), "{path}");
        }
    }

    #[test]
    fn a_base_that_tells_no_patch_release_counts_as_the_first() {
        let target = Target { python: "3.12", platform: "linux/amd64".parse().unwrap(), libc: None };
        assert_eq!((target.full_version().as_str(), target.minor_version()), ("3.12.0", "3.12"));
    }
}
