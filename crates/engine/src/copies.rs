//! Images that no stack is about: from a registry to where the user wants them, and from a layout to a registry. Nothing
//! but manifests and configs stays in the store.

use std::collections::BTreeSet;
use std::path::Path;

use crate::bytes::Blobs;
use kiln_oci::layer::Layer;
use kiln_oci::layout::Layout;
use kiln_plan::platform::Platform;
use kiln_plan::reference::Reference;
use kiln_registry::{Moved, Publication, Upload};

use crate::built::Built;
use crate::error::{BuildError, ProjectError, Result};
use crate::output::Output;
use crate::push::{Pushed, index_document};
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
                let found = registries.image(reference, platform).map_err(|error| named(reference, error.into()))?;
                let found = found.loaded.in_oci()?;
                self.store.add(&found.manifest_bytes)?;
                self.store.add(&found.config_bytes)?;
                let foreign = found.image.layers.iter().any(|layer| !layer.urls.is_empty());
                if foreign && !outputs.is_empty() {
                    return Err(ProjectError::NotDistributable(reference.to_string()).into());
                }
                self.places.found(found.image.layers.iter().map(|layer| layer.digest), &reference.repository);
                images.push(found.image);
            }
        }
        let name = reference.repository.path.rsplit('/').next().unwrap_or("image");
        let mut pulled = Built::of(name, images, self.store)?;
        // What was named by its digest alone is called nothing: a tag of that name may be something else.
        let tag = reference.tag.as_deref().or(reference.digest.is_none().then_some("latest"));
        pulled.references = tag.map(|tag| reference.repository.tag(tag).to_string()).into_iter().collect();
        for output in outputs {
            self.output(output, &[&pulled])?;
        }
        Ok(pulled)
    }
    /// Pushes an image of a layout, for all its platforms, under a tag.
    pub fn push_layout(&self, path: &Path, name: Option<&str>, to: &Reference) -> Result<Pushed> {
        if to.digest.is_some() {
            return Err(BuildError::Mistake {
                message: format!("`{to}` names a digest, which follows from what is pushed"),
                hint: format!("name a tag: `{}:TAG`", to.repository),
            });
        }
        let layout = Layout::open(path)?;
        let all = layout.images()?;
        let names: BTreeSet<&str> = all.iter().filter_map(|(name, _)| name.as_deref()).collect();
        let named = match (name, names.len()) {
            (None, 2..) => {
                let names = names.into_iter().collect::<Vec<_>>().join(", ");
                return Err(BuildError::Mistake {
                    message: format!("{} has several images", path.display()),
                    hint: format!("name one of {names}: `oci:{}:NAME`", path.display()),
                });
            }
            (name, _) => name,
        };
        let chosen = all.iter().filter(|(found, _)| named.is_none() || found.as_deref() == named);
        let mut images = Vec::new();
        for (_, found) in chosen {
            let found = found.clone().in_oci()?;
            self.store.add(&found.config_bytes)?;
            self.store.add(&found.manifest_bytes)?;
            images.push(found.image);
        }
        if images.is_empty() {
            let (layout, image) = (path.display().to_string(), named.unwrap_or_default().to_owned());
            return Err(ProjectError::NotInLayout { layout, image }.into());
        }
        let built = Built::of(named.unwrap_or("image"), images, self.store)?;
        self.places.add_layout(layout);
        let plain = |blobs: &Blobs<'_>, layer: &Layer| {
            let open = blobs.opener(&layer.digest, layer.size)?;
            Ok(Upload { digest: layer.digest, size: layer.size, mounts: Vec::new(), open })
        };
        let tag = to.tag.clone().unwrap_or_else(|| "latest".into());
        let publication = Publication {
            blobs: self.uploads(&built, plain)?,
            manifests: self.manifests(&built)?,
            index: index_document(&built),
            tags: vec![tag],
        };
        let size = publication.blobs.iter().map(|blob| blob.size).sum();
        let moved = {
            let work = self.work("push", to.repository.to_string(), Some(size));
            self.registries()?.publish(&to.repository, &publication, &work)?
        };
        if let Some((blob, _)) = publication.blobs.iter().zip(&moved).find(|(_, moved)| **moved == Moved::Missing) {
            let (layout, digest) = (path.display().to_string(), blob.digest);
            return Err(ProjectError::Incomplete { layout, digest }.into());
        }
        Ok(Pushed::new(&built, to.repository.clone(), &publication, &moved))
    }
}
