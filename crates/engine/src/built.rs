//! Images that are ready.

use kiln_oci::image::{Descriptor, Image, Index, MANIFEST, PlatformObject, to_json};
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
}

impl Built {
    /// An image from those of its platforms; its index is put into the store.
    pub fn of(name: &str, images: Vec<Image>, store: &Store) -> Result<Self> {
        let index = to_json(&Index::new(images.iter().map(manifest_descriptor).collect()))?;
        let digest = store.add(&index)?;
        Ok(Self { name: name.to_owned(), index, digest, images, unchanged: true, references: Vec::new() })
    }
}

/// Returns how an index points at an image.
pub(crate) fn manifest_descriptor(image: &Image) -> Descriptor {
    Descriptor {
        media_type: MANIFEST.into(),
        digest: image.manifest,
        size: image.manifest_size,
        platform: Some(PlatformObject::new(image.platform)),
        urls: Vec::new(),
        annotations: std::collections::BTreeMap::new(),
    }
}
