//! Files that no wheel may install: what would replace a file of the environment itself, and what a layer cannot hold.
//!
//! uv refuses scripts that are called like an interpreter; pip lets them replace it. Both let a wheel replace
//! `pyvenv.cfg`, the link `lib64` and the activation scripts. An environment without those is none, so that kiln refuses
//! all of it.

use std::collections::HashSet;

use kiln_plan::whiteout;

use super::{InstallError, InstalledFile, Scheme};

/// Scripts that `python -m venv` and uv write, in lower case.
const ACTIVATION: [&str; 8] = [
    "activate",
    "activate.bat",
    "activate.csh",
    "activate.fish",
    "activate.nu",
    "activate.ps1",
    "activate_this.py",
    "deactivate.bat",
];

/// Checks every file of a wheel against the environment, the rules of layers, and the other files.
pub(super) fn check(files: &[InstalledFile], scheme: &Scheme) -> Result<(), InstallError> {
    for file in files {
        let problem = match whiteout::component(&file.path) {
            Some(component) => Some(whiteout::problem(component)),
            None => replaces(&file.path, scheme),
        };
        if let Some(problem) = problem {
            return Err(InstallError::Refused { path: file.path.clone(), problem });
        }
    }
    check_collisions(files)
}

/// Returns a clause about the part of the environment that a file would replace.
fn replaces(path: &str, scheme: &Scheme) -> Option<String> {
    let below = |directory: &str| path.strip_prefix(directory)?.strip_prefix('/');
    // What lies below such a name needs a directory in its place.
    let first = |rest: &str| rest.split('/').next().unwrap_or_default().to_owned();
    if let Some(script) = below(&scheme.scripts).map(first) {
        let lower = script.to_ascii_lowercase();
        if is_interpreter(&lower) {
            return Some(format!("`{script}` is the name of an interpreter, which it would replace"));
        }
        if ACTIVATION.contains(&lower.as_str()) {
            return Some(format!("`{script}` belongs to the environment"));
        }
    }
    let is_directory = |directory: &String| *directory == path || directory.starts_with(&format!("{path}/"));
    if [&scheme.site_packages, &scheme.scripts, &scheme.headers].into_iter().any(is_directory) {
        return Some("the environment has a directory there".into());
    }
    let name = below(&scheme.data).map(first)?;
    let link = scheme.links.iter().any(|(link, _)| link == path);
    (link || name.eq_ignore_ascii_case("pyvenv.cfg")).then(|| format!("`{name}` belongs to the environment"))
}

/// Returns true for the names that uv reserves: `python`, `pythonw`, `python3`, `python3.11`, `python3.13t`, and bare ones
/// of other interpreters. In lower case.
fn is_interpreter(name: &str) -> bool {
    if matches!(name, "python" | "pythonw" | "python3" | "pypy" | "pypy3" | "graalpy") {
        return true;
    }
    let minor = name.strip_prefix("python3.").map(|minor| minor.strip_suffix('t').unwrap_or(minor));
    minor.is_some_and(|minor| !minor.is_empty() && minor.bytes().all(|byte| byte.is_ascii_digit()))
}

fn check_collisions(files: &[InstalledFile]) -> Result<(), InstallError> {
    let mut seen = HashSet::new();
    let mut directories = HashSet::new();
    for file in files {
        if !seen.insert(file.path.as_str()) {
            return Err(InstallError::Collision(file.path.clone()));
        }
        directories.extend(file.path.match_indices('/').map(|(slash, _)| &file.path[..slash]));
    }
    match files.iter().find(|file| directories.contains(file.path.as_str())) {
        Some(file) => Err(InstallError::Collision(file.path.clone())),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn interpreters_are_known_by_name() {
        for name in ["python", "pythonw", "python3", "python3.11", "python3.9", "python3.13t", "pypy", "graalpy"] {
            assert!(is_interpreter(name), "{name}");
        }
        for name in
            ["python2", "pythonx", "python-config", "python3.11-config", "python4", "python31", "python3.", "pip", ""]
        {
            assert!(!is_interpreter(name), "{name}");
        }
    }
}
