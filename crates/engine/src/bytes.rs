//! Bytes of layers, wherever they are: in the store, in the layout of a base, on a registry.

use std::collections::BTreeMap;
use std::io::{Read, Seek, SeekFrom};
use std::sync::Arc;

use kiln_oci::OciError;
use kiln_oci::image::Image;
use kiln_oci::layout::{BlobSource, Layout};
use kiln_plan::digest::Digest;
use kiln_plan::reference::Repository;
use kiln_registry::{Open, Registries};
use kiln_store::{Store, Verifying};

/// The places that bytes of layers come from: the store, the layouts that bases are in, and registries.
#[derive(Debug)]
pub struct Blobs<'a> {
    /// The store.
    pub store: &'a Store,
    /// Layouts of bases.
    pub layouts: Vec<Layout>,
    /// Repositories that have what is not on this machine.
    pub remote: BTreeMap<Digest, Repository>,
    /// The client for those.
    pub registries: Option<Registries>,
}

impl Blobs<'_> {
    /// Returns a function that opens some content from any byte on, or `None` where it cannot be had.
    pub fn opener(&self, digest: &Digest, size: u64) -> Result<Option<Open>, OciError> {
        if self.store.has(digest) {
            let opener = self.store.opener(digest)?;
            return Ok(Some(Arc::new(move |from| Ok(Box::new(opener.open(from)?)))));
        }
        if let Some(path) = self.layouts.iter().map(|layout| layout.blob_path(digest)).find(|path| path.is_file()) {
            return Ok(Some(Arc::new(move |from| {
                let mut file = fs_err::File::open(&path)?;
                file.seek(SeekFrom::Start(from))?;
                Ok(Box::new(file))
            })));
        }
        let (Some(repository), Some(registries)) = (self.remote.get(digest), &self.registries) else { return Ok(None) };
        let (repository, registries, digest) = (repository.clone(), registries.clone(), *digest);
        Ok(Some(Arc::new(move |from| Ok(Box::new(registries.blob_reader(&repository, &digest, size, from)?)))))
    }

    /// Opens some content of so many bytes. Its last read fails if it is not what its digest says.
    pub fn open(&self, digest: &Digest, size: u64) -> Result<impl Read + Send + use<>, OciError> {
        let opener = self.opener(digest, size)?;
        let opener = opener.ok_or_else(|| OciError::NoBytes { digest: *digest, base: "the base".into() })?;
        Ok(Verifying::new(opener(0)?, *digest, size))
    }

    /// An error unless the bytes of every layer can be had.
    pub fn check(&self, image: &Image, base: &str) -> Result<(), OciError> {
        for layer in &image.layers {
            if self.opener(&layer.digest, layer.size)?.is_none() {
                return Err(OciError::NoBytes { digest: layer.digest, base: base.to_owned() });
            }
        }
        Ok(())
    }
}

impl BlobSource for Blobs<'_> {
    fn store(&self) -> &Store {
        self.store
    }

    fn open(&self, digest: &Digest, size: u64) -> Result<Box<dyn Read + Send>, OciError> {
        Ok(Box::new(Blobs::open(self, digest, size)?))
    }

    fn place(&self, digest: &Digest) -> String {
        let layouts = self.layouts.iter().map(|layout| layout.blob_path(digest)).find(|path| path.is_file());
        match self.store.path_of(digest).or(layouts) {
            Some(path) => path.display().to_string(),
            None => self.remote.get(digest).map_or_else(|| digest.to_string(), ToString::to_string),
        }
    }
}
