//! Layers that may lack owners: a command gave files away, or did not, and the kernel told nobody; or a user with one id moved files
//! among others.
//!
//! They are as good as any on this machine, and neither a cache nor a registry gets them.

use kiln_oci::layer::Layer;
use kiln_plan::step::StepKey;
use kiln_store::Store;

use crate::built::Built;
use crate::error::{BuildError, Result};

fn key(layer: &Layer) -> StepKey {
    StepKey::of("owners", 1).digest("layer", &layer.digest).finish()
}

/// Notes if the owners of a layer are known. A layer of the same bytes whose owners are known is as good.
pub(crate) fn note(store: &Store, layer: &Layer, are_known: bool) -> Result<()> {
    if !are_known || are_lost(store, layer)? {
        store.remember(&key(layer), &!are_known)?;
    }
    Ok(())
}

/// Returns true if the owners of a layer are not known.
pub(crate) fn are_lost(store: &Store, layer: &Layer) -> Result<bool> {
    Ok(store.recall(&key(layer))?.unwrap_or(false))
}

/// Refuses an image with such a layer.
pub(crate) fn require(store: &Store, built: &Built) -> Result<()> {
    for layer in built.images.iter().flat_map(|image| &image.layers) {
        if are_lost(store, layer)? {
            let message =
                format!("the owners of files in a layer of `{}` are not known, so it is not pushed", built.name);
            let hint = kiln_sandbox::more_ids();
            return Err(BuildError::Mistake { message, hint });
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use kiln_oci::image::Image;
    use kiln_oci::layer::MediaType;
    use kiln_plan::digest::Digest;

    use super::*;

    #[test]
    fn a_layer_without_owners_is_not_pushed_until_another_machine_made_the_same() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let digest = Digest::of(b"layer");
        let layer = Layer { media_type: MediaType::Gzip, digest, diff_id: digest, size: 5, urls: Vec::new() };
        let (platform, manifest, config) = ("linux/amd64".parse().unwrap(), digest, digest);
        let image = Image { platform, manifest, manifest_size: 1, config, layers: vec![layer.clone()] };
        let built = Built::of("app", vec![image], &store).unwrap();
        require(&store, &built).unwrap();
        note(&store, &layer, false).unwrap();
        let error = require(&store, &built).unwrap_err();
        assert!(error.to_string().contains("`app`") && error.hint().unwrap().contains("newuidmap"), "{error}");
        note(&store, &layer, true).unwrap();
        require(&store, &built).unwrap();
    }
}
