//! Looking after a cache: what is in it, what may go, and whether what it says is true.

use kiln_oci::layer::Layer;
use kiln_oci::registry::Document;
use kiln_plan::digest::Digest;
use kiln_plan::lock::Lock;
use kiln_plan::platform::Platform;
use kiln_plan::reference::{Reference, Repository};
use kiln_plan::stack::Cache;
use serde::Serialize;

use super::{Found, record};
use crate::error::{BuildError, Result};
use crate::project::Project;
use crate::steps::Step;

/// One record of a cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CacheEntry {
    /// What kind of step: `wheels`, `copy`, `files`, `paths`, `overlaps`, `debian`, `base facts`.
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
}

/// What pruning did.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Pruned {
    /// Records that are gone.
    pub removed: Vec<CacheEntry>,
    /// How many stay.
    pub kept: usize,
}

/// What deriving a step again says about its record.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CacheVerdict {
    /// The image.
    pub image: String,
    /// For this platform.
    pub platform: Platform,
    /// The step.
    pub step: String,
    /// What the record says; nothing where there is none.
    pub recorded: Option<Vec<Layer>>,
    /// What came out here.
    pub derived: Vec<Layer>,
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
        let mut holders: std::collections::BTreeMap<Digest, usize> = std::collections::BTreeMap::new();
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
        self.registries()?.delete_manifest(remote, &entry.manifest).map_err(|error| match &error {
            kiln_oci::registry::RegistryError::Refused { status: 405, registry, .. } => BuildError::Mistake {
                message: format!("{registry} does not allow to remove anything"),
                hint: "its administrator decides that (for CNCF distribution: `storage.delete.enabled: true`)".into(),
            },
            _ => error.into(),
        })
    }

    /// Does the steps of images on this machine and compares what comes out with what the cache says, whoever said it.
    pub fn verify_cache(&self, names: &[String], lock: &Lock) -> Result<Vec<CacheVerdict>> {
        let cache = self.named_cache()?.clone();
        let images = self.chosen(names)?;
        // Without the cache, so that everything is derived here.
        self.session.cache_fails();
        self.make_layers(&images, lock)?;
        let all = self.all_steps(&images, lock)?;
        let steps: Vec<(String, Platform, &Step)> = all
            .iter()
            .flat_map(|steps| steps.steps.iter().map(|step| (steps.image.name.clone(), steps.platform, step)))
            .collect();
        let references: Vec<Reference> =
            steps.iter().map(|(_, _, step)| cache.remote.tag(&record::tag(&step.key))).collect();
        let documents = self.registries()?.manifests(&references)?;
        let mut verdicts = Vec::new();
        for ((image, platform, step), document) in steps.into_iter().zip(documents) {
            let found = document.as_ref().and_then(Found::read);
            let recorded = found.map(|found| serde_json::from_value(found.record.value).unwrap_or_default());
            let derived = self.known_layers(step)?.unwrap_or_default();
            verdicts.push(CacheVerdict { image, platform, step: step.name.clone(), recorded, derived });
        }
        Ok(verdicts)
    }
}

fn entry(cache: &Cache, document: &Document) -> Option<CacheEntry> {
    let found = Found::read(document)?;
    let keeps: Vec<(Digest, u64)> = found.keeps.iter().map(|layer| (layer.digest, layer.size)).collect();
    Some(CacheEntry {
        trusted: found.is_trusted(cache),
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
    let all: std::collections::BTreeMap<Digest, u64> = entries.iter().flat_map(|entry| entry.keeps.clone()).collect();
    all.values().sum()
}
