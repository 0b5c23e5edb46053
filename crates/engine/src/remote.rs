//! The registry as everyone's cache: records of what steps gave, kept beside the layers that they name.
//!
//! A record says that the step with this key gave that result. It is a small OCI artifact in the cache's repository, under
//! the key as its tag, and it lists the layers of its result, so that the registry's own garbage collection leaves them.
//! Whatever has a digest is checked against it; that a record is *true* cannot be seen from it. So either the registry's
//! write permission is trusted, or only records count that carry a signature of a key that the stack names.
//!
//! A cache that cannot be read costs a warning and time, never a build.

mod record;
mod share;
mod upkeep;

use kiln_oci::image::{Descriptor, Manifest, from_json};
use kiln_oci::layer::Layer;
use kiln_plan::public_key::PublicKey;
use kiln_plan::reference::Reference;
use kiln_plan::stack::{Cache, Trust};
use kiln_plan::step::StepKey;
use kiln_registry::Document;
use record::Record;
use serde::de::DeserializeOwned;
use serde_json::Value;
pub use share::Shared;
pub use upkeep::{CacheEntry, CacheVerdict, Pruned};

use crate::error::{BuildError, Result};
use crate::project::Project;
use crate::signing::signed_by;
use crate::steps::Step;

/// The annotation that holds a record: JSON in one string, so that a signature can be of these very bytes.
const RECORD: &str = "dev.kiln.record";
/// The annotation that holds its signature.
const SIGNATURE: &str = "dev.kiln.signature";

impl Project<'_> {
    /// The cache as far as it is read: unless there is none, it has failed, or the network is forbidden.
    pub(crate) fn cache(&self) -> Option<&Cache> {
        self.written_cache().filter(|_| !self.session.cache_failed())
    }

    /// The cache as far as it is written: one that could not be read may only not exist yet.
    fn written_cache(&self) -> Option<&Cache> {
        self.stack.cache.as_ref().filter(|_| !self.surroundings.registry.offline)
    }

    /// What other machines recorded under these keys, asked for at once, in the same order. Each key is asked for once.
    pub(crate) fn recall_remote<T: DeserializeOwned>(&self, keys: &[StepKey]) -> Result<Vec<Option<T>>> {
        let new: Vec<StepKey> = keys.iter().filter(|key| self.session.record(key).is_none()).copied().collect();
        if let (Some(cache), false) = (self.cache(), new.is_empty()) {
            let references: Vec<Reference> = new.iter().map(|key| cache.remote.tag(&record::tag(key))).collect();
            let found = self.registries().and_then(|registries| Ok(registries.manifests(&references)?));
            match found {
                Ok(documents) => {
                    for (key, document) in new.iter().zip(documents) {
                        let found = document.and_then(|document| believed(cache, key, &document));
                        self.session.remember_record(*key, found);
                    }
                }
                Err(BuildError::Interrupted) => return Err(BuildError::Interrupted),
                Err(error) => self.give_up_cache(&error),
            }
        }
        let value = |key: &StepKey| serde_json::from_value(self.session.record(key).flatten()?).ok();
        Ok(keys.iter().map(value).collect())
    }

    pub(crate) fn give_up_cache(&self, error: &BuildError) {
        if self.session.cache_fails() {
            let problem = match error {
                BuildError::Registry(error) => error.brief(),
                error => error.to_string(),
            };
            let advice = error.hint().filter(|_| error.is_denied()).map(|hint| format!("; {hint}")).unwrap_or_default();
            self.warn(format!("the cache is not used: {problem}{advice}"));
        }
    }

    /// Asks the cache about steps whose layers are not here.
    pub(crate) fn ask_cache<'s>(&self, steps: impl IntoIterator<Item = &'s Step>) -> Result<()> {
        if self.cache().is_none() {
            return Ok(());
        }
        let mut keys = Vec::new();
        for step in steps {
            if step.settled && self.known_layers(step)?.is_none() {
                keys.push(step.key);
            }
        }
        self.recall_remote::<Value>(&keys).map(drop)
    }

    /// The layers of a step that another machine did, if the cache was asked and knows them.
    pub fn remote_layers(&self, step: &Step) -> Option<Vec<Layer>> {
        let cache = self.stack.cache.as_ref()?;
        let layers: Vec<Layer> = serde_json::from_value(self.session.record(&step.key).flatten()?).ok()?;
        // A step gives layers, and none of them lies somewhere on the web.
        let usable = |layer: &Layer| layer.urls.is_empty() && !self.session.is_lost(&layer.digest);
        if !step.settled || layers.is_empty() || !layers.iter().all(usable) {
            return None;
        }
        self.session.found(layers.iter().map(|layer| layer.digest), &cache.remote);
        Some(layers)
    }

    /// The layers of a step, wherever they are.
    pub(crate) fn layers_of(&self, step: &Step) -> Result<Option<Vec<Layer>>> {
        Ok(self.known_layers(step)?.or_else(|| self.remote_layers(step)))
    }
}

/// A record as a registry has it.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) record: Record,
    /// The record's own bytes, and what vouches for them.
    text: String,
    signature: Option<String>,
    /// What it keeps.
    keeps: Vec<Descriptor>,
    /// When it was written, in seconds since 1970.
    pub(crate) written: u64,
    signer: Option<PublicKey>,
}

impl Found {
    /// What a document holds; nothing if that is no record.
    fn read(document: &Document) -> Option<Self> {
        let manifest: Manifest = from_json(&document.bytes, "a record").ok()?;
        let text = manifest.annotations.get(RECORD)?;
        let signature = manifest.annotations.get(SIGNATURE);
        Some(Self {
            record: Record::parse(text)?,
            text: text.clone(),
            signature: signature.cloned(),
            signer: signature.and_then(|signature| signed_by(text, signature)),
            written: record::created(&manifest).unwrap_or(0),
            keeps: manifest.layers,
        })
    }

    /// Whether whoever wrote it is believed.
    fn is_trusted(&self, cache: &Cache) -> bool {
        match &cache.trust {
            Trust::Registry => true,
            Trust::Keys(keys) => self.signer.is_some_and(|key| keys.contains(&key)),
        }
    }
}

/// Reads a record out of a manifest and writes it anew, with what it keeps; nothing where it is none.
#[cfg(feature = "fuzzing")]
pub fn rewritten(manifest: &[u8]) -> Option<Vec<u8>> {
    let digest = kiln_plan::digest::Digest::of(manifest);
    let document = Document { media_type: kiln_oci::image::MANIFEST.into(), digest, bytes: manifest.to_vec() };
    let found = Found::read(&document)?;
    Some(found.renewed(found.written).ok()?.bytes)
}

/// The record of a document, if it is one of this key and whoever wrote it is believed.
fn believed(cache: &Cache, key: &StepKey, document: &Document) -> Option<Found> {
    Found::read(document).filter(|found| found.record.key == *key && found.is_trusted(cache))
}
