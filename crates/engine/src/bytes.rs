//! Bytes of layers, wherever they are: in the store, in the layout of a base, on a registry.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{Read, Seek, SeekFrom};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

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

/// What is known of places that have bytes.
#[derive(Debug, Default)]
pub(crate) struct Places {
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    repositories: BTreeMap<Digest, Repository>,
    layouts: Vec<Layout>,
    /// Content that a record promised and nobody has.
    lost: BTreeSet<Digest>,
    /// The cache failed, and is left alone.
    cache_failed: bool,
}

impl Places {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Notes that a repository has content.
    pub(crate) fn found(&self, content: impl IntoIterator<Item = Digest>, place: &Repository) {
        let mut state = self.state();
        for digest in content {
            state.repositories.entry(digest).or_insert_with(|| place.clone());
        }
    }

    pub(crate) fn add_layout(&self, layout: Layout) {
        self.state().layouts.push(layout);
    }

    pub(crate) fn layouts(&self) -> Vec<Layout> {
        self.state().layouts.clone()
    }

    /// Returns the repositories that have content, as far as is known.
    pub(crate) fn repositories(&self) -> BTreeMap<Digest, Repository> {
        self.state().repositories.clone()
    }

    /// Returns a repository that has some content.
    pub(crate) fn repository(&self, digest: &Digest) -> Option<Repository> {
        self.state().repositories.get(digest).cloned()
    }

    /// Returns true if the content is in a layout, or in a repository as far as is known.
    pub(crate) fn has(&self, digest: &Digest) -> bool {
        let state = self.state();
        state.repositories.contains_key(digest) || state.layouts.iter().any(|layout| layout.blob_path(digest).is_file())
    }

    /// Notes that content is not where it should be.
    pub(crate) fn lose(&self, content: &[Digest]) {
        let mut state = self.state();
        for digest in content {
            state.repositories.remove(digest);
            state.lost.insert(*digest);
        }
    }

    pub(crate) fn is_lost(&self, digest: &Digest) -> bool {
        self.state().lost.contains(digest)
    }

    /// Notes that the cache failed; returns true if that is news.
    pub(crate) fn cache_fails(&self) -> bool {
        !std::mem::replace(&mut self.state().cache_failed, true)
    }

    pub(crate) fn cache_failed(&self) -> bool {
        self.state().cache_failed
    }
}
