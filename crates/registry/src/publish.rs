//! Publishing an image: what it consists of goes first, its index last, and tags are moved when all of it is there.

use kiln_plan::event::Work;
use kiln_plan::reference::{Reference, Repository};

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

/// The outcome of publishing an image.
#[derive(Debug)]
pub struct Published {
    /// The way in which each blob came to be there, in the order of the blobs. Where one is missing, no manifest was written.
    pub moved: Vec<Moved>,
    /// The tags that name the image now.
    pub tags: Vec<String>,
    /// Tags that the registry does not let move, with its answer. The image is there under its digest.
    pub kept: Vec<(String, RegistryError)>,
}

impl Registries {
    /// Publishes an image.
    pub fn publish(&self, to: &Repository, image: &Publication, work: &Work<'_>) -> Result<Published, RegistryError> {
        let moved = self.push_blobs(to, &image.blobs, work)?;
        let mut published = Published { moved, tags: Vec::new(), kept: Vec::new() };
        if published.moved.contains(&Moved::Missing) {
            return Ok(published);
        }
        for manifest in &image.manifests {
            self.put_unless_there(&to.digest(manifest.digest), manifest)?;
        }
        for tag in &image.tags {
            match self.put_unless_there(&to.tag(tag), &image.index) {
                Ok(()) => published.tags.push(tag.clone()),
                Err(error) if error.is_refusal() && self.is_kept(&to.tag(tag), to, &image.index) => {
                    published.kept.push((tag.clone(), error));
                }
                Err(error) => return Err(error),
            }
        }
        Ok(published)
    }

    /// Returns true where a tag names something else, and the document is there under its digest or can be put there.
    fn is_kept(&self, tag: &Reference, to: &Repository, document: &Document) -> bool {
        matches!(self.digest(tag), Ok(Some(_))) && self.put_unless_there(&to.digest(document.digest), document).is_ok()
    }

    fn put_unless_there(&self, to: &Reference, document: &Document) -> Result<(), RegistryError> {
        match self.digest(to) {
            Ok(Some(digest)) if digest == document.digest => return Ok(()),
            // One may write where one may not look.
            Err(error) if !error.is_refusal() => return Err(error),
            _ => {}
        }
        self.push_manifest(to, &document.media_type, &document.bytes)
    }
}
