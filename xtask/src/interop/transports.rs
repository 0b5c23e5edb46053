//! skopeo reads what kiln writes: the layout and the archive, with the digests that kiln told.

use std::path::Path;
use std::process::Command;

use serde::Deserialize;
use sha2::{Digest, Sha256};

use super::report::{Checks, same};
use super::stack::{Built, Image};
use super::{Result, Suite, programs};

/// What `skopeo inspect` says of an image.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    digest: String,
    architecture: String,
    os: String,
    layers: Vec<String>,
    env: Vec<String>,
}

/// Makes the checks.
pub(crate) fn check(suite: &Suite, built: &Built, checks: &mut Checks) {
    checks.check("skopeo inspects every image of the layout", || {
        built.images.iter().try_for_each(|image| inspect(&built.layout, image))
    });
    checks.check("skopeo copies from the layout to another", || copy_to_layout(suite, built));
    checks.check("skopeo copies from the layout to a directory", || copy_to_directory(suite, built));
    checks.check("skopeo inspects the archive", || inspect_archive(built));
    checks.check("skopeo copies from the archive to a directory", || copy_archive(suite, built));
}

/// skopeo, trusting images that nobody signed.
pub(crate) fn skopeo() -> Command {
    let mut command = Command::new("skopeo");
    command.arg("--insecure-policy");
    command
}

/// How skopeo writes an image of a layout.
pub(crate) fn in_layout(layout: &Path, image: &str) -> String {
    format!("oci:{}:{image}", layout.display())
}

/// `sha256:` and the digest in hexadecimal digits.
pub(crate) fn digest(bytes: &[u8]) -> String {
    let digits = Sha256::digest(bytes);
    format!("sha256:{}", digits.iter().map(|byte| format!("{byte:02x}")).collect::<String>())
}

/// The digest of a manifest or a config, as the bytes have it.
fn raw_digest(reference: &str, config: bool) -> Result<String> {
    let mut command = skopeo();
    command.args(["inspect", "--raw"]).args(config.then_some("--config")).arg(reference);
    Ok(digest(&programs::output(&mut command)?))
}

fn inspect(layout: &Path, image: &Image) -> Result<()> {
    let reference = in_layout(layout, &image.name);
    let what = |part: &str| format!("the {part} of `{}`", image.name);
    let found: Inspected = programs::json(skopeo().arg("inspect").arg(&reference))?;
    same(&what("digest"), found.digest.as_str(), &image.manifest)?;
    same(&what("platform"), format!("{}/{}", found.os, found.architecture), "linux/amd64".to_owned())?;
    same(&what("manifest"), raw_digest(&reference, false)?, image.manifest.clone())?;
    same(&what("config"), raw_digest(&reference, true)?, image.config.clone())?;
    let layers: Vec<&str> = image.layers.iter().map(|layer| layer.digest.as_str()).collect();
    same(&what("list of layers"), found.layers.join(" "), layers.join(" "))?;
    let first = found.env.iter().find_map(|variable| variable.strip_prefix("PATH=")).unwrap_or_default();
    let expected = if image.name == "base" { "/usr/local/sbin" } else { "/opt/venv/bin" };
    same(&what("first directory on PATH"), first.split(':').next().unwrap_or_default(), expected)
}

fn copy_to_layout(suite: &Suite, built: &Built) -> Result<()> {
    let other = suite.work.join("layout-copied");
    let image = built.image("torch")?;
    let to = in_layout(&other, "copied");
    programs::output(skopeo().args(["copy", &in_layout(&built.layout, &image.name), &to]))?;
    same("the manifest of the copy", raw_digest(&to, false)?, image.manifest.clone())?;
    Ok(fs_err::remove_dir_all(other)?)
}

fn copy_to_directory(suite: &Suite, built: &Built) -> Result<()> {
    let other = suite.work.join("directory-copied");
    for name in ["awkward", "zstd"] {
        let image = built.image(name)?;
        let to = format!("dir:{}", other.display());
        programs::output(skopeo().args(["copy", &in_layout(&built.layout, name), &to]))?;
        let manifest = fs_err::read(other.join("manifest.json"))?;
        same(&format!("the manifest of the copied `{name}`"), digest(&manifest), image.manifest.clone())?;
        check_layers(&other, image.layers.iter().map(|layer| layer.digest.as_str()))?;
        fs_err::remove_dir_all(&other)?;
    }
    Ok(())
}

/// Layers lie in a directory under their digests, and are what those say.
fn check_layers<'a>(directory: &Path, mut digests: impl Iterator<Item = &'a str>) -> Result<()> {
    digests.try_for_each(|expected| {
        let path = directory.join(expected.trim_start_matches("sha256:"));
        same(&format!("the digest of {}", path.display()), digest(&fs_err::read(&path)?), expected.to_owned())
    })
}

fn archive(built: &Built) -> String {
    format!("docker-archive:{}", built.archive.display())
}

/// Docker's own format tells of layers by the digests of their tars.
fn inspect_archive(built: &Built) -> Result<()> {
    let image = built.image("awkward")?;
    let found: Inspected = programs::json(skopeo().arg("inspect").arg(archive(built)))?;
    let layers: Vec<&str> = image.layers.iter().map(|layer| layer.diff_id.as_str()).collect();
    same("the list of layers", found.layers.join(" "), layers.join(" "))?;
    same("the config", raw_digest(&archive(built), true)?, image.config.clone())?;
    let tags = programs::text(skopeo().args(["list-tags", &archive(built)]))?;
    same("the presence of the tag", tags.contains("interop/awkward:latest"), true)
}

fn copy_archive(suite: &Suite, built: &Built) -> Result<()> {
    let other = suite.work.join("archive-copied");
    let reference = format!("{}:interop/awkward:latest", archive(built));
    programs::output(skopeo().args(["copy", &reference, &format!("dir:{}", other.display())]))?;
    check_layers(&other, built.image("awkward")?.layers.iter().map(|layer| layer.diff_id.as_str()))?;
    Ok(fs_err::remove_dir_all(other)?)
}
