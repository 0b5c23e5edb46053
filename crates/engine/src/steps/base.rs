//! `base`: manifest and config of a locked base come into the store, from its layout, its registry, or the cache; a Debian
//! that nobody has any more is bootstrapped again. Everything follows from the digest of the manifest that is locked, so that
//! nobody needs to be believed. Layers stay where they are until somebody needs their bytes.

use std::path::{Path, PathBuf};

use kiln_oci::image::Image;
use kiln_oci::layout::Layout;
use kiln_plan::digest::Digest;
use kiln_plan::lock::LockedBase;
use kiln_plan::platform::Platform;
use kiln_plan::reference::{Reference, Repository};
use kiln_store::Store;
use serde::Serialize;

use crate::context::Context;
use crate::debian::{self, Debian};
use crate::documents;
use crate::error::{BuildError, Result};
use crate::step::{Cost, Keep, Kind, Step, Subject};
use crate::workshop::Workshop;

/// Where a base is.
#[derive(Debug, Clone)]
pub(crate) enum Source {
    /// An OCI image layout, the name of an image in it, and what the stack calls them.
    Layout(PathBuf, Option<String>, String),
    /// A registry.
    Registry(Reference),
    /// A Debian, and the cache that may have it.
    Debian(Debian, Option<Repository>),
}

/// A locked base.
#[derive(Serialize)]
pub(crate) struct Base {
    platform: Platform,
    manifest: Digest,
    #[serde(skip)]
    locked: LockedBase,
    #[serde(skip)]
    source: Source,
    /// Its documents and layers are in the store.
    #[serde(skip)]
    is_here: bool,
}

impl Base {
    pub(crate) fn new(locked: LockedBase, source: Source) -> Self {
        Self { platform: locked.platform, manifest: locked.manifest, locked, source, is_here: false }
    }

    /// Looks if the store has all of it.
    pub(crate) fn looked_for(self, store: &Store) -> Result<Self> {
        let here = documents::here(store, &self.manifest, &self.locked.name, self.platform)?;
        let whole = |image: Image| image.layers.iter().all(|layer| store.has_blob(&layer.digest));
        Ok(Self { is_here: here.is_some_and(whole), ..self })
    }
}

impl Step for Base {
    type Product = Image;
    const KIND: Kind = Kind { name: "base", version: 1 };

    fn subject(&self) -> Subject {
        Subject::Base(self.locked.name.clone(), self.platform)
    }

    fn cost(&self) -> Cost {
        match self.source {
            // Making one runs programs of its packages; documents take one request.
            Source::Debian(..) if !self.is_here => Cost::Sandbox(0),
            Source::Debian(..) | Source::Layout(..) | Source::Registry(_) => Cost::Inline,
        }
    }

    fn keep(&self) -> Keep {
        Keep::Never
    }

    fn perform(&self, context: &Context<'_>) -> Result<Image> {
        let workshop = context.workshop;
        match &self.source {
            Source::Layout(path, image, name) => self.of_layout(workshop, path, image.as_deref(), name),
            Source::Registry(reference) => {
                let image = workshop.documents(&reference.repository, &self.locked)?;
                self.of_platform(image).map(|image| workshop.found_at(image, &reference.repository))
            }
            Source::Debian(wanted, cache) => self.of_debian(workshop, wanted, cache.as_ref()),
        }
    }
}

impl Base {
    fn of_layout(&self, workshop: &Workshop<'_>, path: &Path, image: Option<&str>, name: &str) -> Result<Image> {
        let layout = Layout::open(path)?;
        let found = layout.image_for(image, self.platform)?;
        if found.image.manifest != self.manifest {
            let message = format!("`{name}` has another image for {} than is locked", self.platform);
            return Err(BuildError::LockOutdated(message));
        }
        workshop.store.add(&found.config_bytes)?;
        workshop.store.add(&found.manifest_bytes)?;
        workshop.places.add_layout(layout);
        Ok(found.image)
    }

    fn of_debian(&self, workshop: &Workshop<'_>, wanted: &Debian, cache: Option<&Repository>) -> Result<Image> {
        let whole = |image: &Image| image.layers.iter().all(|layer| workshop.store.has_blob(&layer.digest));
        let here = documents::here(workshop.store, &self.manifest, &self.locked.name, self.platform)?;
        // Offline, layers that are elsewhere are missed only where their bytes are needed.
        if let Some(image) = here.filter(|image| whole(image) || workshop.surroundings.offline) {
            return self.of_platform(image);
        }
        if let Some(cache) = cache.filter(|_| !workshop.places.cache_failed()) {
            match workshop.documents(cache, &self.locked) {
                Ok(image) => return Ok(workshop.found_at(self.of_platform(image)?, cache)),
                Err(BuildError::Interrupted) => return Err(BuildError::Interrupted),
                Err(error) if error.is_not_found() => {}
                Err(error) => workshop.warn(format!("the base of the cache is not used: {error}")),
            }
        }
        debian::make(workshop, wanted, &self.locked)
    }

    fn of_platform(&self, image: Image) -> Result<Image> {
        if image.platform == self.platform {
            return Ok(image);
        }
        let message = format!("`{}` is for another platform than {}", self.locked.name, self.platform);
        Err(BuildError::LockOutdated(message))
    }
}
