//! Images from registries, written where the user wants them. Nothing but manifests and configs stays in the store.

use kiln_plan::platform::Platform;
use kiln_plan::reference::Reference;

use crate::build::Built;
use crate::error::{BuildError, Result};
use crate::output::Output;
use crate::workshop::Workshop;

/// Says of an image that is not there that it was named.
fn named(reference: &Reference, error: BuildError) -> BuildError {
    if !error.is_not_found() {
        return error;
    }
    let registry = &reference.repository.registry;
    BuildError::Mistake {
        message: format!("{registry} has no `{reference}`, or shows it only to those who may see it"),
        hint: format!("if it is private: `kiln login {registry}`"),
    }
}

impl Workshop<'_> {
    /// Pulls an image for some platforms and writes it out.
    pub fn pull(&self, reference: &Reference, platforms: &[Platform], outputs: &[Output]) -> Result<Built> {
        let registries = self.registries()?;
        let mut images = Vec::new();
        {
            let _work = self.work("resolve", reference.to_string(), None);
            for &platform in platforms {
                let found =
                    registries.image(reference, platform).map_err(|error| named(reference, error.into()))?.loaded;
                self.store.add(&found.manifest_bytes)?;
                self.store.add(&found.config_bytes)?;
                let foreign = found.image.layers.iter().any(|layer| !layer.urls.is_empty());
                if foreign && !outputs.is_empty() {
                    let message = format!("`{reference}` has layers that its registry may not distribute");
                    return Err(BuildError::Project(message));
                }
                self.session.found(found.image.layers.iter().map(|layer| layer.digest), &reference.repository);
                images.push(found.image);
            }
        }
        let name = reference.repository.path.rsplit('/').next().unwrap_or("image");
        let mut pulled = Built::of(name, images, self.store)?;
        let tag = reference.tag.as_deref().unwrap_or("latest");
        pulled.references = vec![reference.repository.tag(tag).to_string()];
        for output in outputs {
            self.output(output, std::slice::from_ref(&pulled), &[])?;
        }
        Ok(pulled)
    }
}
