//! Publishing an image: what it consists of goes first, its index last, and tags are moved when all of it is there.

use kiln_plan::digest::Digest;
use kiln_plan::event::Work;
use kiln_plan::reference::Repository;

use super::{Document, Moved, Registries, RegistryError, Upload};

/// An image that is to be on a registry.
#[derive(Debug, Clone)]
pub struct Publication {
    /// Layers and configs.
    pub blobs: Vec<Upload>,
    /// Manifests of its platforms.
    pub manifests: Vec<Document>,
    /// The index over them.
    pub index: Document,
    /// What the index is to be called; nothing where others will make one over more platforms.
    pub tags: Vec<String>,
}

impl Registries {
    /// Publishes an image; how each blob came to be there. Where one is missing, no manifest is written.
    pub fn publish(&self, to: &Repository, image: &Publication, work: &Work<'_>) -> Result<Vec<Moved>, RegistryError> {
        let moved = self.push_blobs(to, &image.blobs, work)?;
        if moved.contains(&Moved::Missing) {
            return Ok(moved);
        }
        for manifest in &image.manifests {
            self.put_unless_there(to, manifest, &manifest.digest.to_string())?;
        }
        for tag in &image.tags {
            self.put_unless_there(to, &image.index, tag)?;
        }
        Ok(moved)
    }

    fn put_unless_there(&self, to: &Repository, document: &Document, selector: &str) -> Result<(), RegistryError> {
        let reference = match selector.parse::<Digest>() {
            Ok(digest) => to.digest(digest),
            Err(_) => to.tag(selector),
        };
        if self.digest(&reference)? == Some(document.digest) {
            return Ok(());
        }
        self.push_manifest(&reference, &document.media_type, &document.bytes)
    }
}
