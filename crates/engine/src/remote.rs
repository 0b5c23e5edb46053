//! The registry as everyone's cache: records of what steps gave, kept beside the content that they name.
//!
//! A record says that the step with this key gave that product. It is a small OCI artifact in the cache's repository, under
//! the key as its tag, and it lists the content of its product, so that the registry's own garbage collection leaves it.
//! Whatever has a digest is checked against it; that a record is *true* cannot be seen from it. So either the registry's
//! write permission is trusted, or only records count that carry a signature of a key that the stack names.
//!
//! A cache that cannot be read costs a warning and time, never a build.

mod record;

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use kiln_plan::lock::Lock;
use kiln_plan::reference::{Reference, Repository};
use kiln_plan::stack::{Cache, Trust};
use kiln_plan::step::StepKey;
use kiln_registry::Document;
#[cfg(feature = "fuzzing")]
pub use record::rewritten;
pub(crate) use record::{EMPTY, Found, Record, tag};
use serde::de::DeserializeOwned;

use crate::driver::Remote;
use crate::error::{BuildError, Result};
use crate::product::{Blob, Product};
use crate::project::Project;

/// The cache of a stack as it is read, and other places that have bytes.
pub(crate) struct CacheReader<'p> {
    project: &'p Project<'p>,
    /// Records that were read in this command.
    found: Mutex<BTreeMap<StepKey, Found>>,
}

impl<'p> CacheReader<'p> {
    pub(crate) fn new(project: &'p Project<'p>) -> Self {
        Self { project, found: Mutex::default() }
    }

    /// Returns the records that were read in this command.
    pub(crate) fn found(&self) -> Vec<Found> {
        self.found.lock().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// Returns the value of a record that belongs to no step.
    pub(crate) fn value<T: DeserializeOwned>(&self, key: StepKey) -> Result<Option<T>> {
        let Some(cache) = self.project.cache() else { return Ok(None) };
        let found = match self.project.read_records(cache, &[key]) {
            Ok(mut found) => found.pop().flatten(),
            Err(BuildError::Interrupted) => return Err(BuildError::Interrupted),
            Err(error) => {
                self.project.give_up_cache(&error);
                None
            }
        };
        Ok(found.and_then(|found| serde_json::from_value(found.record.value).ok()))
    }
}

impl Project<'_> {
    /// The cache as far as it is read: unless there is none, it has failed, or the network is forbidden.
    fn cache(&self) -> Option<&Cache> {
        self.written_cache().filter(|_| !self.workshop.places.cache_failed())
    }

    /// The repository of the cache as far as it is read.
    pub(crate) fn read_cache(&self) -> Option<&Repository> {
        self.cache().map(|cache| &cache.remote)
    }

    /// The cache as far as it is written: one that could not be read may only not exist yet.
    pub(crate) fn written_cache(&self) -> Option<&Cache> {
        self.stack.cache.as_ref().filter(|_| !self.workshop.surroundings.registry.offline)
    }

    fn give_up_cache(&self, error: &BuildError) {
        if self.workshop.places.cache_fails() {
            let problem = match error {
                BuildError::Registry(error) => error.brief(),
                error => error.to_string(),
            };
            let advice = error.hint().filter(|_| error.is_denied()).map(|hint| format!("; {hint}")).unwrap_or_default();
            self.workshop.warn(format!("the cache is not used: {problem}{advice}"));
        }
    }

    /// Notes that the cache may have the packages of Debian that are locked, for when their archives have them no more.
    pub(crate) fn find_packages_in_cache(&self, lock: &Lock) {
        if let Some(cache) = self.cache() {
            let locked = lock.bases.iter().flat_map(|base| &base.packages);
            let locked = locked.chain(lock.systems.iter().flat_map(|system| &system.packages));
            self.workshop.places.found(locked.map(|package| package.sha256), &cache.remote);
        }
    }

    /// Reads records; one that does not fit its key, or that is not trusted, is none.
    fn read_records(&self, cache: &Cache, keys: &[StepKey]) -> Result<Vec<Option<Found>>> {
        let references: Vec<Reference> = keys.iter().map(|key| cache.remote.tag(&tag(key))).collect();
        let documents = self.workshop.registries()?.manifests(&references)?;
        let pairs = keys.iter().zip(documents);
        Ok(pairs.map(|(key, document)| document.and_then(|document| trusted(cache, key, &document))).collect())
    }
}

/// Names a cache and the trust in it.
fn policy(cache: &Cache) -> String {
    let mut keys: Vec<String> = match &cache.trust {
        Trust::Registry => vec!["registry".into()],
        Trust::Keys(keys) => keys.iter().map(ToString::to_string).collect(),
    };
    keys.sort();
    format!("{} {}", cache.remote, keys.join(" "))
}

/// Returns the record of a document, if it is one of this key and its author is trusted.
pub(crate) fn trusted(cache: &Cache, key: &StepKey, document: &Document) -> Option<Found> {
    Found::read(document).filter(|found| found.record.key == *key && found.is_trusted(cache))
}

impl Remote for CacheReader<'_> {
    fn policy(&self) -> Option<String> {
        // Records that were read before count without the network too.
        self.project.stack.cache.as_ref().map(policy)
    }

    fn ask(&self, keys: &[StepKey]) -> Result<Vec<Option<Product>>> {
        let Some(cache) = self.project.cache() else { return Ok(vec![None; keys.len()]) };
        let found = match self.project.read_records(cache, keys) {
            Ok(found) => found,
            Err(BuildError::Interrupted) => return Err(BuildError::Interrupted),
            Err(error) => {
                self.project.give_up_cache(&error);
                return Ok(vec![None; keys.len()]);
            }
        };
        let mut kept = self.found.lock().unwrap_or_else(PoisonError::into_inner);
        let products = keys.iter().zip(found).map(|(key, found)| {
            let found = found?;
            let product = found.record.product()?;
            kept.insert(*key, found);
            Some(product)
        });
        Ok(products.collect())
    }

    fn promise(&self, product: &Product) {
        if let Some(cache) = &self.project.stack.cache {
            let places = &self.project.workshop.places;
            let blobs = product.blobs().into_iter().map(|blob| blob.digest);
            let content: Vec<_> = blobs.filter(|digest| !places.is_lost(digest)).collect();
            places.found(content, &cache.remote);
        }
    }

    fn has(&self, blob: &Blob) -> bool {
        let places = &self.project.workshop.places;
        places.has(&blob.digest) && !places.is_lost(&blob.digest)
    }

    fn bring(&self, blob: &Blob) -> Result<bool> {
        let workshop = &self.project.workshop;
        let (Some(repository), Some(size)) = (workshop.places.repository(&blob.digest), blob.size) else {
            return Ok(false);
        };
        let gone = |error: BuildError| match error {
            BuildError::Interrupted => Err(BuildError::Interrupted),
            error if error.is_not_found() => Ok(false),
            error => {
                self.project.give_up_cache(&error);
                Ok(false)
            }
        };
        let work = workshop.work("fetch", blob.digest.short(), Some(size));
        match workshop.bring(&repository, &blob.digest, size, &work)? {
            Ok(()) => Ok(true),
            Err(error) => gone(error),
        }
    }
}
