//! umoci unpacks images, and what lies there has the owners, modes and times that kiln promises.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::report::{Checks, none};
use super::stack::Built;
use super::tree::{Kind, Tree};
use super::{Result, Suite, programs};

/// The time of every file that comes from a wheel: 1 January 1980, the earliest that a zip archive can say.
const FILE_TIME: i64 = 315_532_800;

/// Makes the checks; the root of the unpacked image.
pub(crate) fn check(suite: &Suite, built: &Built, checks: &mut Checks) -> Option<PathBuf> {
    let rootfs = checks.check("umoci unpacks the image", || {
        unpack(&built.layout, "torch", &suite.work.join("torch"))
    })?;
    checks.check(
        "unpacked files have the owners, modes and times of kiln",
        || {
            none(
                "paths are not as they should be",
                &wrong(&Tree::read(&rootfs.join("opt/venv"))?),
            )
        },
    );
    Some(rootfs)
}

/// Unpacks an image of a layout; its root.
pub(crate) fn unpack(layout: &Path, image: &str, bundle: &Path) -> Result<PathBuf> {
    let reference = format!("{}:{image}", layout.display());
    programs::output(
        Command::new("umoci")
            .args(["unpack", "--image", &reference])
            .arg(bundle),
    )?;
    let rootfs = bundle.join("rootfs");
    // Programs open it; a file that is always empty and takes everything will do where no device can be made.
    let null = rootfs.join("dev/null");
    if !null.exists() {
        fs_err::create_dir_all(rootfs.join("dev"))?;
        fs_err::write(null, "")?;
    }
    Ok(rootfs)
}

fn wrong(environment: &Tree) -> Vec<String> {
    let mut wrong = Vec::new();
    for (path, node) in &environment.nodes {
        let mode = match node.kind {
            Kind::Directory => node.mode == 0o755,
            Kind::File(_) => matches!(node.mode, 0o644 | 0o755),
            Kind::Link(_) | Kind::Other => true,
        };
        if node.kind == Kind::Other || !mode || node.owner != (0, 0) || node.time != FILE_TIME {
            wrong.push(format!("{path}: {node:?}"));
        }
    }
    wrong
}
