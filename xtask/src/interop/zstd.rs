//! The same image with zstd layers: other programs take it, and its content is the same.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::report::{Checks, eprint, none, same};
use super::stack::Built;
use super::tree::{Tree, differences};
use super::{Result, Suite, programs, unpacked};

const ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";

/// Makes the checks; `gzip` is the root of the image with gzip layers.
pub(crate) fn check(suite: &Suite, built: &Built, gzip: &Path, checks: &mut Checks) {
    checks.check("layers are zstd where the stack says so", || {
        let own = built.image("zstd")?.layers.len() - built.image("base")?.layers.len();
        let layers = built.image("zstd")?.layers.iter();
        let zstd = layers.filter(|layer| layer.media_type == ZSTD).count();
        // The virtual environment is a layer of a few links, which stays as it is for every image.
        same("whether wheels became zstd layers", zstd >= own - 1 && zstd > 0, true)
    });
    let Some(rootfs) = checks.check("the zstd image is unpacked", || unpack(suite, built)) else {
        return;
    };
    checks.check("the zstd image holds the same as the gzip image", || {
        let (zstd, gzip) = (Tree::read(&rootfs.join("opt"))?, Tree::read(&gzip.join("opt"))?);
        none("differences", &differences(&zstd, &gzip)?)
    });
    suite.remove("zstd");
}

/// The image's root: unpacked by umoci, or by zstd and tar where umoci is too old to know zstd, as Debian 12's is.
fn unpack(suite: &Suite, built: &Built) -> Result<PathBuf> {
    let directory = suite.work.join("zstd");
    let Err(why) = unpacked::unpack(&built.layout, "zstd", &directory) else {
        return Ok(directory.join("rootfs"));
    };
    if !why.to_string().contains("mediatype") {
        return Err(why);
    }
    eprint("   umoci does not know zstd here: zstd and tar unpack the image instead");
    if directory.exists() {
        fs_err::remove_dir_all(&directory)?;
    }
    let rootfs = directory.join("rootfs");
    fs_err::create_dir_all(&rootfs)?;
    for layer in &built.image("zstd")?.layers {
        let blob = built.layout.join("blobs").join(layer.digest.replace(':', "/"));
        let program = if layer.media_type == ZSTD { "--zstd" } else { "--gzip" };
        let mut tar = Command::new("tar");
        tar.args(["--extract", "--numeric-owner", "--same-owner", "--preserve-permissions", program]);
        programs::output(tar.arg("--directory").arg(&rootfs).arg("--file").arg(blob))?;
    }
    Ok(rootfs)
}
