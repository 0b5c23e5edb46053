//! Bases on registries: locked to digests, known by manifest, config and facts. Their layers are read once, to learn the
//! facts, and kept nowhere.

use std::io::Read;
use std::sync::{Arc, Mutex, PoisonError};

use kiln_oci::compression::LayerTar;
use kiln_oci::facts::FactsReader;
use kiln_oci::image::{CONFIG_LIMIT, LoadedImage, Manifest, from_json};
use kiln_oci::layer::Layer;
use kiln_plan::base::BaseFacts;
use kiln_plan::lock::LockedBase;
use kiln_plan::platform::Platform;
use kiln_plan::reference::Reference;
use kiln_plan::stack;
use kiln_registry::{BlobReader, RegistryError};

use super::{Base, facts_key, unreadable};
use crate::error::{BuildError, Result};
use crate::project::Project;

impl Project<'_> {
    /// Asks the registry what a reference names now.
    pub(super) fn lock_reference(
        &self,
        reference: &Reference,
        platform: Platform,
        image: &stack::Image,
    ) -> Result<LockedBase> {
        let found = {
            let _work = self.work("resolve", format!("{reference} ({platform})"), None);
            self.registries()?.image(reference, platform)?
        };
        let loaded = found.loaded;
        self.store.add(&loaded.manifest_bytes)?;
        self.store.add(&loaded.config_bytes)?;
        // Declared facts are put in by the caller.
        let facts = match image.base_facts {
            Some(_) => BaseFacts::default(),
            None => self.reference_facts(reference, &loaded)?,
        };
        Ok(LockedBase {
            name: reference.to_string(),
            platform,
            index: found.index,
            manifest: loaded.image.manifest,
            snapshot: None,
            packages: Vec::new(),
            facts,
        })
    }

    /// What is inside, unless somebody looked before: on this machine, or on one that shares its cache.
    fn reference_facts(&self, reference: &Reference, loaded: &LoadedImage) -> Result<BaseFacts> {
        let key = facts_key(&loaded.image.manifest);
        if let Some(facts) = self.store.recall(&key)? {
            return Ok(facts);
        }
        let told: Option<BaseFacts> = self.recall_remote(&[key])?.pop().flatten();
        if let Some(facts) = told.filter(BaseFacts::is_plausible) {
            return Ok(facts);
        }
        let facts = self.read_facts(reference, loaded)?;
        self.store.remember(&key, &facts)?;
        Ok(facts)
    }

    pub(crate) fn read_facts(&self, reference: &Reference, loaded: &LoadedImage) -> Result<BaseFacts> {
        let layers = &loaded.image.layers;
        if layers.iter().any(|layer| !layer.urls.is_empty()) {
            return Err(BuildError::Mistake {
                message: format!("`{reference}` has layers that its registry may not distribute"),
                hint: "declare what is inside: `base-facts = { interpreters = [...], libc = ... }`".into(),
            });
        }
        let work = self.work("inspect", reference.to_string(), Some(layers.iter().map(|layer| layer.size).sum()));
        let mut reader = FactsReader::new();
        for layer in layers {
            let blob = self.registries()?.blob_reader(&reference.repository, &layer.digest, layer.size, 0)?;
            let blob = Shared(Arc::new(Mutex::new((blob, None))));
            if let Err(error) = read_layer(&mut reader, layer, &blob) {
                // What the registry has to say comes before what the archive makes of it.
                return Err(match blob.failure() {
                    Some(failure) => RegistryError::from(failure).into(),
                    None => BuildError::step(format!("the layers of `{reference}` cannot be read"), error),
                });
            }
            work.advance(layer.size)?;
        }
        Ok(reader.finish())
    }

    /// Manifest and config of a locked base, from the store or from where they were.
    pub(super) fn load_reference(&self, reference: &Reference, locked: &LockedBase) -> Result<Base> {
        let repository = &reference.repository;
        if !self.store.has_blob(&locked.manifest) {
            self.store.add(&self.registries()?.manifest(&repository.digest(locked.manifest))?.bytes)?;
        }
        let manifest_bytes = self.store.read(&locked.manifest)?;
        let manifest: Manifest = from_json(&manifest_bytes, &format!("the manifest of `{reference}`"))?;
        let config = manifest.config.digest;
        if !self.store.has_blob(&config) {
            self.store.add(&self.registries()?.blob(repository, &config, CONFIG_LIMIT)?)?;
        }
        let loaded = LoadedImage::new(&manifest, manifest_bytes, self.store.read(&config)?)
            .map_err(|error| unreadable(&locked.name, error))?
            .filter(|loaded| loaded.image.platform == locked.platform);
        let LoadedImage { image, config, .. } = loaded.ok_or_else(|| {
            BuildError::LockOutdated(format!("`{reference}` is for another platform than {}", locked.platform))
        })?;
        self.session.found(image.layers.iter().map(|layer| layer.digest), repository);
        Ok(Base { name: locked.name.clone(), image: Some(image), config, layout: None })
    }
}

fn read_layer(
    reader: &mut FactsReader,
    layer: &Layer,
    blob: &Shared,
) -> std::result::Result<(), Box<dyn std::error::Error + Send + Sync>> {
    let mut tar = LayerTar::open(layer, blob.clone())?;
    reader.layer(&mut tar)?;
    tar.verify()?;
    // Its digest is known at its end, which the archive's may not be.
    std::io::copy(&mut blob.clone(), &mut std::io::sink())?;
    Ok(())
}

/// A blob that is read by one reader and then by another, and what went wrong with it.
#[derive(Clone)]
struct Shared(Arc<Mutex<(BlobReader, Option<std::io::Error>)>>);

impl Shared {
    fn failure(&self) -> Option<std::io::Error> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).1.take()
    }
}

impl Read for Shared {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let mut shared = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        shared.0.read(buffer).map_err(|error| {
            let told = std::io::Error::new(error.kind(), error.to_string());
            shared.1 = Some(error);
            told
        })
    }
}
