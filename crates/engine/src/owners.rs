//! Layers that may lack owners: a command gave files away, or did not, and the kernel told nobody.
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
            let hint = format!("this kernel does not tell of calls that change owners; {}", kiln_sandbox::more_ids());
            return Err(BuildError::Mistake { message, hint });
        }
    }
    Ok(())
}
