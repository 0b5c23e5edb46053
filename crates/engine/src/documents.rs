//! Manifests and configs in the store.

use kiln_oci::image::{Image, LoadedImage, Manifest, from_json};
use kiln_plan::digest::Digest;
use kiln_plan::platform::Platform;
use kiln_store::Store;

use crate::error::{BuildError, Result};

/// Returns the image of a manifest if manifest and config are in the store. Where its config says no platform, it is for
/// the one that it was asked for.
pub(crate) fn here(store: &Store, manifest: &Digest, name: &str, asked: Platform) -> Result<Option<Image>> {
    if !store.has_blob(manifest) {
        return Ok(None);
    }
    let bytes = store.read(manifest)?;
    let parsed: Manifest = from_json(&bytes, &format!("the manifest of `{name}`"))?;
    if !store.has_blob(&parsed.config.digest) {
        return Ok(None);
    }
    let config = store.read(&parsed.config.digest)?;
    let loaded = LoadedImage::new(&parsed, bytes, config, Some(asked));
    let unreadable =
        |error| BuildError::Unreadable { what: format!("the layers of `{name}`"), source: Box::new(error) };
    let loaded = loaded.map_err(unreadable)?;
    Ok(loaded.map(|loaded| loaded.image))
}

/// Returns the digest of the config that a manifest in the store names.
pub(crate) fn config(store: &Store, manifest: &Digest, name: &str) -> Result<Option<Digest>> {
    if !store.has_blob(manifest) {
        return Ok(None);
    }
    let parsed: Manifest = from_json(&store.read(manifest)?, &format!("the manifest of `{name}`"))?;
    Ok(Some(parsed.config.digest))
}
