//! Images that are ready.

use kiln_oci::image::{Descriptor, INDEX, Image, Index, MANIFEST, PlatformObject, to_json};
use kiln_oci::reach::Reached;
use kiln_plan::digest::Digest;
use kiln_store::Store;

use crate::error::Result;

/// An image that is ready, for all platforms.
#[derive(Debug, Clone)]
pub struct Built {
    /// Its name in the stack.
    pub name: String,
    /// The index's bytes.
    pub index: Vec<u8>,
    /// The index's digest.
    pub digest: Digest,
    /// For each platform.
    pub images: Vec<Image>,
    /// It is as it was built last, and nothing had to be done for it.
    pub unchanged: bool,
    /// How programs are to call it: `ghcr.io/acme/arr/train:latest`.
    pub references: Vec<String>,
    /// All of it, where it is a copy that stays as it was: `index` is its first document then.
    pub copied: Option<Reached>,
}

impl Built {
    /// An image from those of its platforms; its index is put into the store.
    pub fn of(name: &str, images: Vec<Image>, store: &Store) -> Result<Self> {
        let index = to_json(&Index::new(images.iter().map(manifest_descriptor).collect()))?;
        let digest = store.add(&index)?;
        Ok(Self { name: name.to_owned(), index, digest, images, unchanged: true, references: Vec::new(), copied: None })
    }

    /// Returns the number of its layers on one platform, their bytes on all of them, and the number of its platforms.
    pub fn extent(&self) -> (usize, u64, usize) {
        let layers = self.images.first().map_or(0, |image| image.layers.len());
        let bytes = self.images.iter().flat_map(|image| &image.layers).map(|layer| layer.size).sum();
        (layers, bytes, self.images.len())
    }

    /// Returns what stands in the index of a layout for it.
    pub(crate) fn entry(&self) -> Descriptor {
        match (&self.copied, self.images.as_slice()) {
            (None, [only]) => manifest_descriptor(only),
            (None, _) => Descriptor::of(INDEX, &self.index),
            (Some(copied), images) => {
                let root = copied.documents.last().map(|document| document.entry.clone());
                let root = root.unwrap_or_else(|| Descriptor::of(INDEX, &self.index));
                let only = images.iter().find(|image| image.manifest == root.digest);
                Descriptor { platform: only.map(|image| PlatformObject::new(image.platform)), ..root }
            }
        }
    }
}

/// Returns how an index points at an image.
pub(crate) fn manifest_descriptor(image: &Image) -> Descriptor {
    Descriptor {
        digest: image.manifest,
        size: image.manifest_size,
        platform: Some(PlatformObject::new(image.platform)),
        ..Descriptor::of(MANIFEST, b"")
    }
}
