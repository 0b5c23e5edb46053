//! Archives that `docker load` takes: an OCI layout in a tar, with the `manifest.json` of `docker save` beside it.
//!
//! Docker inflates layers as it loads them, so the compressed layers go in as they are, streamed from their recipes.

use std::io::Write;

use kiln_plan::event::Work;
use serde_json::json;

use crate::error::OciError;
use crate::header::{self, Member};
use crate::image::{Descriptor, Image, Index, MANIFEST, PlatformObject, to_json};
use crate::layout::{BlobSource, contents, copy};

/// Writes an archive with one image under these references (`name:tag`).
pub fn write(
    mut out: impl Write,
    blobs: &dyn BlobSource,
    image: &Image,
    references: &[String],
    work: &Work<'_>,
) -> Result<(), OciError> {
    let blob = |digest: &kiln_plan::digest::Digest| format!("blobs/sha256/{}", digest.hex());
    let layers: Vec<String> = image.layers.iter().map(|layer| blob(&layer.digest)).collect();
    let list = json!([{ "Config": blob(&image.config), "RepoTags": references, "Layers": layers }]);
    let entry = Descriptor {
        media_type: MANIFEST.into(),
        digest: image.manifest,
        size: image.manifest_size,
        platform: Some(PlatformObject::new(image.platform)),
        urls: Vec::new(),
        annotations: references
            .first()
            .map(|name| ("io.containerd.image.name".to_owned(), name.clone()))
            .into_iter()
            .collect(),
    };
    for digest in [&image.config, &image.manifest] {
        file(&mut out, &blob(digest), &blobs.store().read(digest)?)?;
    }
    for (digest, size) in contents(image) {
        begin(&mut out, &blob(&digest), size)?;
        copy(blobs, &digest, size, &mut out, work)?;
        pad(&mut out, size)?;
    }
    file(&mut out, "index.json", &to_json(&Index::new(vec![entry]))?)?;
    file(&mut out, "manifest.json", &to_json(&list)?)?;
    file(&mut out, "oci-layout", br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    out.write_all(&header::END)?;
    Ok(out.flush()?)
}

fn begin(out: &mut impl Write, path: &str, size: u64) -> Result<(), OciError> {
    let mut bytes = Vec::new();
    Member::file(path, size).write(&mut bytes);
    Ok(out.write_all(&bytes)?)
}

fn pad(out: &mut impl Write, size: u64) -> Result<(), OciError> {
    Ok(out.write_all(&header::END[..header::padding(size)])?)
}

fn file(out: &mut impl Write, path: &str, bytes: &[u8]) -> Result<(), OciError> {
    begin(out, path, bytes.len() as u64)?;
    out.write_all(bytes)?;
    pad(out, bytes.len() as u64)
}
