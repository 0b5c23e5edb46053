//! The dynamic loader takes pruned libraries, and what they register with the CUDA runtime is there.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use super::super::gpu_wheels::{Wheels, X86_64};
use super::super::report::{Checks, none, same};
use super::super::{Result, programs};
use super::Trees;

/// Libraries that must at least load: others need a CUDA that is not there, or a driver.
const LEAST: usize = 15;

/// Compares code in data with what the loader maps.
const COMPARE: &str = "src/interop/pruned/compare_memory.py";

/// Loads a library with all that it needs. What libraries do at the end is not looked at.
const LOAD: &str = "
import ctypes, os, sys
try:
    ctypes.CDLL(sys.argv[1], mode=os.RTLD_NOW)
    print('loaded', flush=True)
except OSError as error:
    print(error, flush=True)
os._exit(0)
";

/// Loads every library before and after, in a process of its own.
pub(super) fn check(wheels: &Wheels, trees: &Trees<'_>, checks: &mut Checks) {
    checks.check("pruned libraries load where the others do", || {
        let (mut wrong, mut loaded) = (Vec::new(), 0);
        for (library, before, after) in trees.pruned().filter(|(library, ..)| library.path.starts_with(X86_64)) {
            let expected = load(&before, &wheels.unpacked)?;
            let found = load(&after, trees.after)?;
            loaded += usize::from(found.starts_with("loaded"));
            if found != expected {
                wrong.push(format!("{}: `{found}` and should be `{expected}`", library.path.display()));
            }
        }
        super::super::complain(&format!("{loaded} libraries load"));
        none("libraries load otherwise", &wrong)?;
        same("whether enough libraries load at all", loaded >= LEAST, true)
    });
}

/// Looks into the memory of a library whose code in data keeps its place.
pub(super) fn check_memory(trees: &Trees<'_>, checks: &mut Checks) {
    checks.check("cuFFT's code in data lies in memory where it lay, or zeros do", || {
        let is_cufft =
            |path: &Path| path.file_name().is_some_and(|name| name.to_string_lossy().starts_with("libcufft.so"));
        let mut libraries = trees.pruned().filter(|(library, ..)| is_cufft(&library.path));
        let (_, before, after) = libraries.next().ok_or("cuFFT was not pruned")?;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join(COMPARE);
        let found = programs::text(Command::new("python3").arg(script).arg(before).arg(after).arg(".ldata"))?;
        super::super::complain(&format!("regions: {}", found.trim_end()));
        Ok(())
    });
}

/// What loading a library says, without where its tree is. Where other libraries of the tree are, some libraries do not
/// know and leave to the Python around them.
fn load(library: &Path, tree: &Path) -> Result<String> {
    let mut python = Command::new("python3");
    python.args(["-c", LOAD]).arg(library).env("LD_LIBRARY_PATH", directories(tree)?).stdin(Stdio::null());
    let output = python.output()?;
    let said = String::from_utf8_lossy(&output.stdout).replace(&tree.display().to_string(), "");
    Ok(format!("{} ({})", said.trim_end(), output.status))
}

/// The directories of NVIDIA's libraries.
fn directories(tree: &Path) -> Result<std::ffi::OsString> {
    let packages = fs_err::read_dir(tree.join(X86_64).join("nvidia"))?;
    let libraries = packages.filter_map(|package| Some(package.ok()?.path().join("lib")));
    let mut directories: Vec<PathBuf> = libraries.filter(|directory| directory.is_dir()).collect();
    directories.sort();
    Ok(std::env::join_paths(directories)?)
}

/// Imports the pruned torch, and follows every wrapper of the process.
pub(super) fn check_wrappers(wheels: &Wheels, trees: &Trees<'_>, checks: &mut Checks) {
    let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../verification/wrappers.py");
    let walk = |tree: &Path| -> Result<String> {
        let mut python = Command::new("python3");
        python.arg(&script).env("PYTHONPATH", tree.join(X86_64)).env("PYTHONDONTWRITEBYTECODE", "1");
        programs::text(python.env_remove("LD_LIBRARY_PATH"))
    };
    checks.check("Python imports the pruned torch, and every wrapper in memory leads to a region", || {
        let (before, after) = (walk(&wheels.unpacked)?, walk(trees.after)?);
        same("whether it is the pruned torch", after.starts_with(&*trees.after.to_string_lossy()), true)?;
        same("libraries and wrappers", counts(&after)?, counts(&before)?)
    });
}

/// Libraries and wrappers, of what the script says in its last line.
fn counts(said: &str) -> Result<String> {
    let counts = said.lines().last().and_then(|line| line.split_once(": "));
    let entries = counts.and_then(|(_, counts)| counts.rsplit_once(" wrappers"));
    Ok(entries.ok_or_else(|| format!("it said `{said}`"))?.0.to_owned())
}
