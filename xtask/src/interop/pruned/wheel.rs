//! A pruned wheel is a wheel: Python reads it, `RECORD` is true, pip and uv install it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::super::gpu_wheels::{self, Wheels};
use super::super::report::{Checks, same};
use super::super::{Result, Suite, programs};
use super::{digest, run};

/// Compares two wheels, the second of which is the first pruned.
const COMPARE: &str = "src/interop/pruned/compare_wheels.py";

/// Makes the checks.
pub(super) fn check(suite: &Suite, wheels: &Wheels, checks: &mut Checks) {
    let at = suite.work.join("gpu-code/wheel");
    let Some((wheel, libraries)) = checks.check("kiln prunes torch's wheel", || prune(suite, wheels, &at)) else {
        return;
    };
    checks.check("a wheel that was pruned on one thread has the same bytes", || {
        let other = prune_with(suite, wheels, &at.join("one"), "1")?;
        same("the name", other.0.file_name() == wheel.file_name(), true)?;
        same("whether the bytes are the same", digest(&other.0)? == digest(&wheel)?, true)
    });
    checks.check("Python's zipfile finds nothing wrong with the pruned wheel", || {
        programs::output(Command::new("python3").args(["-m", "zipfile", "-t"]).arg(&wheel)).map(|_| ())
    });
    checks.check("the pruned wheel's RECORD is true, and nothing but pruned libraries changed", || {
        let mut python = Command::new("python3");
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(COMPARE);
        python.arg(script).arg(&wheels.torch).arg(&wheel).args(&libraries);
        same("what changed", programs::text(&mut python)?.as_str(), "as it should be")
    });
    checks.check("pip installs the pruned wheel", || {
        let mut pip = Command::new("python3");
        pip.args(["-m", "pip", "install", "--quiet", "--no-deps", "--no-index", "--no-compile", "--target"]);
        installs(pip, &wheel, &at.join("pip"), &libraries)
    });
    checks.check("uv installs the pruned wheel", || {
        let mut uv = Command::new(&wheels.uv);
        uv.args(["--no-config", "--offline", "--cache-dir"]).arg(at.join("cache"));
        uv.args(["pip", "install", "--no-deps", "--no-index", "--python", "python3", "--target"]);
        installs(uv, &wheel, &at.join("uv"), &libraries)
    });
    suite.remove("gpu-code/wheel");
}

/// Prunes torch's wheel; the new one, and which libraries in it were pruned.
fn prune(suite: &Suite, wheels: &Wheels, at: &Path) -> Result<(PathBuf, Vec<PathBuf>)> {
    let (wheel, libraries) = prune_with(suite, wheels, &at.join("two"), "2")?;
    same("whether a library was pruned", libraries.is_empty(), false)?;
    // Five parts have become six: a build tag, which tells the two apart.
    let name = wheel.file_stem().unwrap_or_default().to_string_lossy().into_owned();
    same("whether the name has a build tag", name.split('-').count(), 6)?;
    Ok((wheel, libraries))
}

fn prune_with(suite: &Suite, wheels: &Wheels, to: &Path, jobs: &str) -> Result<(PathBuf, Vec<PathBuf>)> {
    let done = run(suite, &wheels.torch, &["--jobs", jobs, "--output", &format!("{}/", to.display())])?;
    let found = gpu_wheels::wheels(to)?;
    same("wheels in the output directory", found.len(), 1)?;
    same("whether the report names it", found.first() == Some(&done.output), true)?;
    let libraries = done.files.into_iter().filter(super::Library::is_pruned).map(|library| library.path).collect();
    Ok((done.output, libraries))
}

/// Installs a wheel, and removes what was installed.
fn installs(mut installer: Command, wheel: &Path, target: &Path, libraries: &[PathBuf]) -> Result<()> {
    programs::output(installer.arg(target).arg(wheel))?;
    for library in libraries {
        same("whether a library is there", target.join(library).is_file(), true)?;
    }
    programs::output(Command::new("rm").arg("-rf").arg(target)).map(|_| ())
}
