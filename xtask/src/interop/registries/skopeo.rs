//! Images on a registry as skopeo sees them.

use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use super::machine::{Image, Pushed};
use crate::interop::report::same;
use crate::interop::transports::{digest, skopeo};
use crate::interop::{Result, programs};

/// What all media types of the OCI's begin with.
const OCI: &str = "application/vnd.oci.";

/// An index or a manifest.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Document {
    /// Of the document itself.
    #[serde(default)]
    pub(crate) media_type: Option<String>,
    /// Those of an index.
    #[serde(default)]
    pub(crate) manifests: Vec<Descriptor>,
    /// That of a manifest.
    #[serde(default)]
    pub(crate) config: Option<Descriptor>,
    /// Those of a manifest.
    #[serde(default)]
    pub(crate) layers: Vec<Descriptor>,
}

/// What a document names.
#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct Descriptor {
    pub(crate) media_type: String,
    pub(crate) digest: String,
}

impl Document {
    /// Everything that it names.
    fn named(&self) -> impl Iterator<Item = &Descriptor> {
        self.manifests.iter().chain(&self.config).chain(&self.layers)
    }

    /// Whether it and everything that it names have the OCI's media types.
    fn is_oci(&self) -> Result<()> {
        let types = self.media_type.iter().chain(self.named().map(|named| &named.media_type));
        types.into_iter().try_for_each(|found| match found.starts_with(OCI) {
            true => Ok(()),
            false => Err(format!("a media type is `{found}`, which is not one of the OCI's").into()),
        })
    }
}

/// The bytes of what a reference names. `arguments` say how to speak to the registry.
pub(crate) fn raw(reference: &str, arguments: &[&str]) -> Result<Vec<u8>> {
    let reference = format!("docker://{reference}");
    programs::output(skopeo().args(["inspect", "--raw"]).args(arguments).arg(reference))
}

/// Like [`raw`], over plain HTTP.
pub(crate) fn plain(reference: &str) -> Result<Vec<u8>> {
    raw(reference, &["--tls-verify=false"])
}

/// Looks at an image that was pushed: tags, index, manifests, configs and layers have the digests that kiln told.
pub(crate) fn inspect(built: &Image, pushed: &Pushed) -> Result<()> {
    let digits = pushed.digest.trim_start_matches("sha256:").get(..16).unwrap_or_default();
    same("the first tag", pushed.tags.first().map_or("", String::as_str), digits)?;
    same("the index", pushed.digest.as_str(), &built.digest)?;
    for tag in &pushed.tags {
        let index = plain(&format!("{}:{tag}", pushed.repository))?;
        same(&format!("the index at the tag `{tag}`"), digest(&index), built.digest.clone())?;
    }
    let index: Document = serde_json::from_slice(&plain(&pushed.reference())?)?;
    index.is_oci()?;
    let expected: Vec<&str> = built.platforms.iter().map(|platform| platform.manifest.as_str()).collect();
    same("the list of manifests", digests(&index.manifests), expected.join(" "))?;
    for platform in &built.platforms {
        let bytes = plain(&format!("{}@{}", pushed.repository, platform.manifest))?;
        same("a manifest", digest(&bytes), platform.manifest.clone())?;
        let manifest: Document = serde_json::from_slice(&bytes)?;
        manifest.is_oci()?;
        let config = manifest.config.as_ref().map_or("", |config| config.digest.as_str());
        same("a config", config, &platform.config)?;
        let layers: Vec<&str> = platform.layers.iter().map(|layer| layer.digest.as_str()).collect();
        same("a list of layers", digests(&manifest.layers), layers.join(" "))?;
    }
    Ok(())
}

fn digests(descriptors: &[Descriptor]) -> String {
    let digests: Vec<&str> = descriptors.iter().map(|descriptor| descriptor.digest.as_str()).collect();
    digests.join(" ")
}

/// Copies an image for all its platforms to a directory and looks at every byte; the directory is removed again.
pub(crate) fn copy(reference: &str, expected: &str, directory: &Path) -> Result<()> {
    let from = format!("docker://{reference}");
    let to = format!("dir:{}", directory.display());
    programs::output(skopeo().args(["copy", "--all", "--src-tls-verify=false", &from, &to]))?;
    let index = fs_err::read(directory.join("manifest.json"))?;
    same(&format!("the index of the copied {reference}"), digest(&index), expected.to_owned())?;
    let index: Document = serde_json::from_slice(&index)?;
    same(&format!("whether {reference} has manifests"), index.manifests.is_empty(), false)?;
    for named in &index.manifests {
        let hex = named.digest.trim_start_matches("sha256:");
        let bytes = fs_err::read(directory.join(format!("{hex}.manifest.json")))?;
        same("the digest of a copied manifest", digest(&bytes), named.digest.clone())?;
        let manifest: Document = serde_json::from_slice(&bytes)?;
        for blob in manifest.named() {
            let bytes = fs_err::read(directory.join(blob.digest.trim_start_matches("sha256:")))?;
            same("the digest of a copied blob", digest(&bytes), blob.digest.clone())?;
        }
    }
    Ok(fs_err::remove_dir_all(directory)?)
}

/// Copies an image from a layout to a registry.
pub(crate) fn push(layout: &Path, name: &str, reference: &str) -> Result<()> {
    let from = format!("oci:{}:{name}", layout.display());
    let to = format!("docker://{reference}");
    let mut command: Command = skopeo();
    programs::output(command.args(["copy", "--dest-tls-verify=false", &from, &to])).map(drop)
}
