//! uv installs the same wheels for the same interpreter at the same place, and the two environments are compared.
//!
//! uv runs inside a copy of the base image, so that the prefix is `/opt/venv` there as well and nothing has to be
//! translated before comparing. It has no network there: it gets the wheels from kiln's store.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::differences::{Scripts, unintended};
use super::report::{Checks, none};
use super::running::chroot;
use super::stack::Built;
use super::tree::Tree;
use super::{Result, Suite, programs, stack, unpacked};

/// Makes the checks.
pub(crate) fn check(suite: &Suite, built: &Built, rootfs: &Path, checks: &mut Checks) {
    let Some(theirs) = checks.check("uv installs the same wheels", || install(suite, built)) else {
        return;
    };
    checks.check("the environment is what uv installs", || {
        let ours = Tree::read(&rootfs.join("opt/venv"))?;
        let theirs = Tree::read(&theirs.join("opt/venv"))?;
        none("unintended differences", &unintended(&ours, &theirs)?)
    });
    checks.check("every entry point has its script", || {
        let ours = Tree::read(&rootfs.join("opt/venv"))?;
        let scripts = Scripts::read(&ours)?;
        if scripts.len() == 0 {
            return Err("no wheel has entry points".into());
        }
        none("scripts are wrong", &scripts.missing(&ours))
    });
    suite.remove("uv");
}

/// The root of a system in which uv has installed everything.
fn install(suite: &Suite, built: &Built) -> Result<PathBuf> {
    let rootfs = unpacked::unpack(&built.layout, "base", &suite.work.join("uv"))?;
    let files = stack::export_wheels(&built.project, &suite.store, &rootfs.join("uv/wheels"))?;
    let requirements: Vec<String> = files.iter().filter_map(|file| requirement(file)).collect();
    fs_err::write(rootfs.join("uv/requirements.txt"), requirements.join("\n"))?;
    fs_err::copy(program(suite)?, rootfs.join("uv/uv"))?;
    let uv = |arguments: &[&str]| -> Result<()> {
        let mut command = chroot(&rootfs, "/uv/uv");
        programs::output(command.args(["--no-config", "--offline", "--cache-dir", "/uv/cache"]).args(arguments))?;
        Ok(())
    };
    uv(&["venv", "--python", "/usr/bin/python3.11", "/opt/venv"])?;
    uv(&[
        "pip",
        "install",
        "--no-deps",
        "--no-index",
        "--find-links=/uv/wheels",
        "--python=/opt/venv/bin/python",
        "--requirement=/uv/requirements.txt",
    ])?;
    // It shares its files with the environment.
    fs_err::remove_dir_all(rootfs.join("uv"))?;
    Ok(rootfs)
}

/// `name==version`, from the file name of a wheel.
fn requirement(file: &str) -> Option<String> {
    let (name, rest) = file.split_once('-')?;
    Some(format!("{name}=={}", rest.split('-').next()?))
}

/// The uv that kiln used: the one on `PATH`, else its own.
pub(super) fn program(suite: &Suite) -> Result<PathBuf> {
    if let Some(found) = programs::find("uv") {
        return Ok(found);
    }
    for tool in fs_err::read_dir(suite.store.join("tools"))? {
        let program = tool?.path().join("bin/uv");
        if program.is_file() {
            // Whether it starts at all is better known before it is looked for in a chroot.
            programs::output(Command::new(&program).arg("--version"))?;
            return Ok(program);
        }
    }
    Err("kiln has installed no uv".into())
}
