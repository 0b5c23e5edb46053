//! Looking after a cache: what is in it, what may go, and whether what it says is true.

use std::collections::BTreeMap;

use kiln_plan::digest::Digest;
use kiln_plan::lock::Lock;
use kiln_plan::platform::Platform;
use kiln_plan::reference::{Reference, Repository};
use kiln_plan::stack::{Cache, From};
use kiln_plan::step::StepKey;
use kiln_registry::{Document, RegistryError};
use serde::Serialize;
use serde_json::Value;

use super::share::json;
use super::{Found, record};
use crate::agreement::tiers_key;
use crate::bases::{self, facts_key};
use crate::error::{BuildError, Result};
use crate::overlaps::{Overlaps, PathList, list_key, overlaps_key};
use crate::project::Project;
use crate::pruned::{PrunedWheel, prunable, prune_key};
use crate::steps::ImageSteps;

/// One record of a cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CacheEntry {
    /// What kind of step: `wheels`, `prune`, `copy`, `files`, `paths`, `overlaps`, `debian`, `base facts`.
    pub kind: String,
    /// What it is.
    pub name: String,
    /// The image that it was first made for.
    pub image: String,
    /// Whether that image says `persist`.
    pub persist: bool,
    /// When it was written, in seconds since 1970.
    pub written: u64,
    /// Bytes that it keeps.
    pub size: u64,
    /// What it keeps.
    #[serde(skip)]
    pub keeps: Vec<(Digest, u64)>,
    /// The public key that signed it.
    pub signer: Option<String>,
    /// Whether the stack's `cache.trust` believes it.
    pub trusted: bool,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// Its tag.
    #[serde(skip)]
    pub tag: String,
}

/// What pruning did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Records that are gone.
    pub removed: Vec<CacheEntry>,
    /// How many stay.
    pub kept: usize,
}

/// What deriving a result again says about its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CacheVerdict {
    /// The image.
    pub image: String,
    /// For this platform.
    pub platform: Platform,
    /// What kind of record.
    pub kind: &'static str,
    /// What it is about.
    pub name: String,
    /// What the record says; nothing where there is none.
    pub recorded: Option<Value>,
    /// What came out here.
    pub derived: Value,
}

impl CacheVerdict {
    /// Whether the record is true, where there is one.
    pub fn holds(&self) -> bool {
        self.recorded.as_ref().is_none_or(|recorded| *recorded == self.derived)
    }
}

impl Project<'_> {
    /// The cache, or an error that says how to have one.
    fn named_cache(&self) -> Result<&Cache> {
        self.stack.cache.as_ref().ok_or_else(|| BuildError::Mistake {
            message: "the stack names no cache".into(),
            hint: "say where it is: `[cache]` with `remote = \"ghcr.io/acme/kiln-cache\"`".into(),
        })
    }

    /// Every record of the cache, the oldest first.
    pub fn cache_entries(&self) -> Result<Vec<CacheEntry>> {
        let cache = self.named_cache()?;
        let work = self.work("list", cache.remote.to_string(), None);
        let tags = self.registries()?.tags(&cache.remote)?;
        let references: Vec<Reference> =
            tags.iter().filter(|tag| tag.starts_with("kiln-")).map(|tag| cache.remote.tag(tag)).collect();
        let documents = self.registries()?.manifests(&references)?;
        drop(work);
        let mut entries: Vec<CacheEntry> =
            documents.iter().flatten().filter_map(|document| entry(cache, document)).collect();
        entries.sort_by(|a, b| {
            (a.written, &a.image, &a.name, a.manifest).cmp(&(b.written, &b.image, &b.name, b.manifest))
        });
        Ok(entries)
    }

    /// Removes records that are older than so many seconds, and the oldest until what stays keeps at most so many bytes.
    /// Those of images that say `persist` stay. With `dry`, nothing is removed.
    pub fn prune_cache(&self, older: Option<u64>, keep: Option<u64>, now: u64, dry: bool) -> Result<Pruned> {
        let cache = self.named_cache()?;
        let entries = self.cache_entries()?;
        let mut pruned = Pruned::default();
        let mut left = kept_bytes(&entries);
        let mut holders: BTreeMap<Digest, usize> = BTreeMap::new();
        for (digest, _) in entries.iter().flat_map(|entry| &entry.keeps) {
            *holders.entry(*digest).or_default() += 1;
        }
        for entry in entries {
            let old = older.is_some_and(|older| now.saturating_sub(entry.written) > older);
            let too_much = keep.is_some_and(|keep| left > keep);
            if entry.persist || !(old || too_much) {
                pruned.kept += 1;
                continue;
            }
            for (digest, size) in &entry.keeps {
                if let Some(holders) = holders.get_mut(digest) {
                    *holders -= 1;
                    left -= if *holders == 0 { *size } else { 0 };
                }
            }
            if !dry {
                self.remove_record(&cache.remote, &entry)?;
            }
            pruned.removed.push(entry);
        }
        Ok(pruned)
    }

    fn remove_record(&self, remote: &Repository, entry: &CacheEntry) -> Result<()> {
        let registries = self.registries()?;
        let by_digest = remote.digest(entry.manifest);
        let removed = match registries.delete(&by_digest) {
            // Some registries want a manifest's tags removed before it.
            Err(RegistryError::Refused { status: 400 | 409, .. }) => {
                registries.delete(&remote.tag(&entry.tag)).and_then(|()| registries.delete(&by_digest))
            }
            other => other,
        };
        removed.map_err(|error| match &error {
            RegistryError::Refused { status: 405, registry, .. } => BuildError::Mistake {
                message: format!("{registry} does not allow to remove anything"),
                hint: "its administrator decides that (for CNCF distribution: `storage.delete.enabled: true`)".into(),
            },
            _ => error.into(),
        })
    }

    /// Finds out on this machine what the cache says about images, whoever said it, and compares: layers of steps, paths
    /// of wheels and what they do to one another, facts of bases. A bootstrapped base is pinned by the lock.
    pub fn verify_cache(&self, names: &[String], lock: &Lock) -> Result<Vec<CacheVerdict>> {
        let cache = self.named_cache()?.clone();
        let images = self.chosen(names)?;
        // Without the cache, so that everything is derived here.
        self.session.cache_fails();
        self.make_layers(&images, lock)?;
        let mut derived: BTreeMap<StepKey, CacheVerdict> = BTreeMap::new();
        for steps in &self.all_steps(&images, lock)? {
            for (key, verdict) in self.derive(steps, lock)? {
                derived.entry(key).or_insert(verdict);
            }
        }
        let references: Vec<Reference> = derived.keys().map(|key| cache.remote.tag(&record::tag(key))).collect();
        let documents = self.registries()?.manifests(&references)?;
        for ((key, verdict), document) in derived.iter_mut().zip(documents) {
            // What stands under another key than its own is never believed.
            let found = document.as_ref().and_then(Found::read).filter(|found| found.record.key == *key);
            verdict.recorded = found.map(|found| found.record.value);
        }
        let mut verdicts: Vec<CacheVerdict> = derived.into_values().collect();
        verdicts.sort_by(|a, b| (&a.image, a.platform, a.kind, &a.name).cmp(&(&b.image, b.platform, b.kind, &b.name)));
        Ok(verdicts)
    }

    /// Everything that records could say about an image, as it is.
    fn derive(&self, steps: &ImageSteps<'_>, lock: &Lock) -> Result<Vec<(StepKey, CacheVerdict)>> {
        let verdict = |kind, name: &str, derived| CacheVerdict {
            image: steps.image.name.clone(),
            platform: steps.platform,
            kind,
            name: name.to_owned(),
            recorded: None,
            derived,
        };
        let mut all = Vec::new();
        for step in &steps.steps {
            if let Some(layers) = self.known_layers(step)? {
                all.push((step.key, verdict(step.kind(), &step.name, json(&layers)?)));
            }
        }
        for (wheel, selection) in steps.steps.iter().flat_map(prunable) {
            let key = prune_key(wheel, selection);
            if let Some(pruned) = self.store.recall::<PrunedWheel>(&key)? {
                all.push((key, verdict("prune", &wheel.file, json(&pruned)?)));
            }
        }
        if let Some((wheels, scheme)) = &steps.wheels {
            let key = overlaps_key(wheels, scheme);
            if let Some(known) = self.store.recall::<Overlaps>(&key)? {
                all.push((key, verdict("overlaps", &format!("{} wheels", wheels.len()), json(&known)?)));
            }
            let key = tiers_key(&steps.tiers);
            if let Some(known) = self.store.recall::<bool>(&key)? {
                all.push((key, verdict("tiers", &format!("{} images", steps.tiers.len()), json(&known)?)));
            }
            for wheel in wheels.iter().filter(|wheel| self.store.has_blob(&wheel.sha256)) {
                let bytes = self.path_list(wheel, scheme)?;
                let list = PathList { digest: Digest::of(&bytes), size: bytes.len() as u64 };
                all.push((list_key(wheel, scheme), verdict("paths", &wheel.file, json(&list)?)));
            }
        }
        let root = self.stack.root(steps.image);
        let base = bases::name(&root.from).and_then(|name| lock.base(&name, steps.platform));
        if let (From::Reference(reference), Some(base)) = (&root.from, base) {
            let named = reference.repository.digest(base.manifest);
            let loaded = self.registries()?.image(&named, steps.platform)?.loaded;
            let facts = self.read_facts(reference, &loaded)?;
            all.push((facts_key(&base.manifest), verdict("base facts", &base.name, json(&facts)?)));
        }
        Ok(all)
    }
}

fn entry(cache: &Cache, document: &Document) -> Option<CacheEntry> {
    let found = Found::read(document)?;
    let keeps: Vec<(Digest, u64)> = found.keeps.iter().map(|layer| (layer.digest, layer.size)).collect();
    Some(CacheEntry {
        trusted: found.is_trusted(cache),
        tag: record::tag(&found.record.key),
        kind: found.record.kind,
        name: found.record.name,
        image: found.record.image,
        persist: found.record.persist,
        written: found.written,
        size: keeps.iter().map(|(_, size)| size).sum(),
        keeps,
        signer: found.signer.map(|key| key.to_string()),
        manifest: document.digest,
    })
}

/// Bytes that records keep, each content once.
fn kept_bytes(entries: &[CacheEntry]) -> u64 {
    let all: BTreeMap<Digest, u64> = entries.iter().flat_map(|entry| entry.keeps.clone()).collect();
    all.values().sum()
}
