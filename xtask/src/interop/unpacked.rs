//! umoci unpacks images, and what lies there has the owners, modes and times that kiln promises.

use std::io::Read;
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
    let rootfs =
        checks.check("umoci unpacks the image", || unpack(&built.layout, "torch", &suite.work.join("torch")))?;
    checks.check("unpacked files have the owners, modes and times of kiln", || {
        none("paths are not as they should be", &wrong(&Tree::read(&rootfs.join("opt/venv"))?))
    });
    Some(rootfs)
}

/// Unpacks an image of a layout; its root.
pub(crate) fn unpack(layout: &Path, image: &str, bundle: &Path) -> Result<PathBuf> {
    let reference = format!("{}:{image}", layout.display());
    programs::output(Command::new("umoci").args(["unpack", "--image", &reference]).arg(bundle))?;
    let rootfs = bundle.join("rootfs");
    devices(&rootfs)?;
    Ok(rootfs)
}

/// Files in place of the devices that a runtime would mount: programs that run here read little of them and write
/// nothing that matters, and a suite that makes no devices runs in more places.
fn devices(rootfs: &Path) -> Result<()> {
    let mut random = vec![0; 64 << 10];
    fs_err::File::open("/dev/urandom")?.read_exact(&mut random)?;
    fs_err::create_dir_all(rootfs.join("dev"))?;
    for (name, content) in [("null", &[][..]), ("urandom", &random)] {
        let path = rootfs.join("dev").join(name);
        if !path.exists() {
            fs_err::write(path, content)?;
        }
    }
    Ok(())
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
