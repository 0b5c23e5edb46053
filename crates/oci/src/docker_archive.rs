//! Archives that `docker load` takes: an OCI layout in a tar, with the `manifest.json` of `docker save` beside it.
//!
//! Docker inflates layers as it loads them, so the compressed layers go in as they are. Docker and podman read
//! `manifest.json`, containerd reads `index.json`.

use std::io::Write;

use kiln_plan::event::Work;
use serde_json::json;

use crate::archive::{self, blob_path};
use crate::error::OciError;
use crate::image::{Image, to_json};
use crate::layout::{BlobSource, Contents};

/// Writes an archive with one image, which has these references (`name:tag`) in Docker.
pub fn write(
    out: impl Write,
    blobs: &dyn BlobSource,
    contents: Contents,
    (image, references): (&Image, &[String]),
    work: &Work<'_>,
) -> Result<(), OciError> {
    let layers: Vec<String> = image.layers.iter().map(|layer| blob_path(&layer.digest)).collect();
    let list = to_json(&json!([{ "Config": blob_path(&image.config), "RepoTags": references, "Layers": layers }]))?;
    archive::write(out, blobs, contents, &[("manifest.json", &list)], work)
}
