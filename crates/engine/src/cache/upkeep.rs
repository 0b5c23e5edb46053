//! Looking after a cache: what is in it, what may go, and whether what it says is true.

use std::collections::BTreeMap;

use kiln_plan::digest::Digest;
use kiln_plan::lock::{Lock, line_of_facts};
use kiln_plan::platform::Platform;
use kiln_plan::reference::{Reference, Repository};
use kiln_plan::stack::{self, Cache};
use kiln_registry::{Document, RegistryError};
use serde::Serialize;
use serde_json::Value;

use super::share::json;
use crate::driver::{Alone, Driver, Origin};
use crate::error::{BuildError, Result};
use crate::graph::Graph;
use crate::images::{Images, base_step};
use crate::node::NodeId;
use crate::project::Project;
use crate::remote::{Found, tag};
use crate::step::{Keep, Level, Repeat, Subject};
use crate::steps::facts::Facts;

/// One record of a cache.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CacheEntry {
    /// The kind of step: `wheels`, `prune`, `copy`, `users`, `paths`, `conflicts`, `debian`, `facts`.
    pub kind: String,
    /// Its subject.
    pub name: String,
    /// The image that it was first made for.
    pub image: String,
    /// That image says `persist`.
    pub persist: bool,
    /// When it was written, in seconds since 1970.
    pub written: u64,
    /// Bytes that it keeps.
    pub size: u64,
    /// The content that it keeps, with bytes.
    #[serde(skip)]
    pub keeps: Vec<(Digest, u64)>,
    /// The public key that signed it.
    pub signer: Option<String>,
    /// The stack's `cache.trust` trusts it.
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

/// What deriving a product again says about its record.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Truth {
    /// There is no record.
    Unrecorded,
    /// The record says what came out here.
    Right,
    /// It says something else.
    Wrong,
    /// The step may give other bytes each time: nobody can tell.
    CannotBeDerived,
}

/// One record beside what came out here.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct CacheVerdict {
    /// The image.
    pub image: String,
    /// For this platform.
    pub platform: Platform,
    /// The kind of record.
    pub kind: &'static str,
    /// Its subject.
    pub name: String,
    /// Whether it is true.
    pub truth: Truth,
    /// What the record says.
    pub recorded: Option<Value>,
    /// What came out here.
    pub derived: Value,
    /// Who signed the record, and when, in seconds since 1970.
    pub signed: Option<(String, u64)>,
    /// The line of `kiln.lock` that says it, for facts.
    pub line: Option<usize>,
}

impl CacheVerdict {
    /// Returns true unless the record is wrong.
    pub fn holds(&self) -> bool {
        self.truth != Truth::Wrong
    }

    fn compare(&mut self, found: Option<Found>, repeat: Repeat) {
        let Some(found) = found else { return };
        self.truth = match repeat {
            Repeat::Recorded => Truth::CannotBeDerived,
            Repeat::SameBytes if found.record.value == self.derived => Truth::Right,
            Repeat::SameBytes => Truth::Wrong,
        };
        self.signed = found.signer.map(|key| (key.to_string(), found.record.made));
        self.recorded = Some(found.record.value);
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

    /// Returns every record of the cache, the oldest first.
    pub fn cache_entries(&self) -> Result<Vec<CacheEntry>> {
        let cache = self.named_cache()?;
        let work = self.workshop.work("list", cache.remote.to_string(), None);
        let registries = self.workshop.registries()?;
        let tags = registries.tags(&cache.remote)?;
        let references: Vec<Reference> =
            tags.iter().filter(|tag| tag.starts_with("kiln-")).map(|tag| cache.remote.tag(tag)).collect();
        let documents = registries.manifests(&references)?;
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
        let registries = self.workshop.registries()?;
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

    /// Derives on this machine what the cache says about images, whoever said it, and compares: products of all steps, and
    /// the facts of bases that stand in the lock. A bootstrapped base is pinned by the lock.
    pub fn verify_cache(&self, names: &[String], lock: &Lock) -> Result<Vec<CacheVerdict>> {
        let cache = self.named_cache()?.clone();
        let chosen = self.chosen(names)?;
        let images = Images::new(self, &chosen, lock)?;
        // Without what any cache said, so that everything is derived here.
        let driver = Driver::new(&images.graph, &self.workshop, &Alone);
        let nodes = || images.images.iter();
        driver.want(&nodes().map(|node| (node.image.id(), Level::Known)).collect::<Vec<_>>())?;
        let mut derived = BTreeMap::new();
        for node in nodes() {
            for id in images.graph.with_reads([node.image.id()]) {
                if let Some((key, verdict)) = of_step(&images.graph, &driver, id, &node.name, node.platform)? {
                    derived.entry(key).or_insert((verdict, images.graph.entry(id).step.repeatable()));
                }
            }
        }
        let references: Vec<Reference> = derived.keys().map(|key| cache.remote.tag(&tag(key))).collect();
        let documents = self.workshop.registries()?.manifests(&references)?;
        for ((key, (verdict, repeat)), document) in derived.iter_mut().zip(documents) {
            // A record under another key than its own is never read.
            let found = document.as_ref().and_then(Found::read).filter(|found| found.record.key == *key);
            verdict.compare(found, *repeat);
        }
        let mut verdicts: Vec<CacheVerdict> = derived.into_values().map(|(verdict, _)| verdict).collect();
        verdicts.extend(self.verify_facts(&chosen, lock)?);
        verdicts.sort_by(|a, b| (&a.image, a.platform, a.kind, &a.name).cmp(&(&b.image, b.platform, b.kind, &b.name)));
        Ok(verdicts)
    }

    /// Reads the bases again whose facts a cache may have told, and compares with the lock.
    fn verify_facts(&self, images: &[&stack::Image], lock: &Lock) -> Result<Vec<CacheVerdict>> {
        let text = fs_err::read_to_string(self.lock_path()).unwrap_or_default();
        let mut verdicts = Vec::new();
        for image in images.iter().filter(|image| image.base_facts.is_none()) {
            for &platform in &self.stack.platforms {
                let Some(name) = crate::bases::name(&image.from) else { continue };
                let Some(locked) = lock.base(&name, platform) else { continue };
                let mut graph = Graph::default();
                let base = graph.add(base_step(self, image, locked)?)?;
                let facts = graph.add(Facts::new(Subject::Base(name.clone(), platform), base))?;
                let driver = Driver::new(&graph, &self.workshop, &Alone);
                let found = driver.get(facts, Level::Known)?;
                let (derived, recorded) = (json(&found)?, json(&locked.facts)?);
                verdicts.push(CacheVerdict {
                    image: image.name.clone(),
                    platform,
                    kind: "facts",
                    name: name.clone(),
                    truth: if derived == recorded { Truth::Right } else { Truth::Wrong },
                    recorded: Some(recorded),
                    derived,
                    signed: None,
                    line: line_of_facts(&text, &name, platform),
                });
            }
        }
        Ok(verdicts)
    }
}

fn of_step(
    graph: &Graph,
    driver: &Driver<'_>,
    id: NodeId,
    image: &str,
    platform: Platform,
) -> Result<Option<(kiln_plan::step::StepKey, CacheVerdict)>> {
    let step = &graph.entry(id).step;
    let (Some(key), Some((product, origin))) = (driver.key(id), driver.product(id)) else { return Ok(None) };
    if step.keep() != Keep::Shared || !matches!(origin, Origin::Local | Origin::Performed) {
        return Ok(None);
    }
    let verdict = CacheVerdict {
        image: image.to_owned(),
        platform,
        kind: step.kind().name,
        name: step.subject().to_string(),
        truth: Truth::Unrecorded,
        recorded: None,
        derived: json(&product)?,
        signed: None,
        line: None,
    };
    Ok(Some((key, verdict)))
}

fn entry(cache: &Cache, document: &Document) -> Option<CacheEntry> {
    let found = Found::read(document)?;
    let keeps: Vec<(Digest, u64)> = found.keeps.iter().map(|layer| (layer.digest, layer.size)).collect();
    Some(CacheEntry {
        trusted: found.is_trusted(cache),
        tag: tag(&found.record.key),
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

/// Returns the bytes that records keep, each content once.
fn kept_bytes(entries: &[CacheEntry]) -> u64 {
    let all: BTreeMap<Digest, u64> = entries.iter().flat_map(|entry| entry.keeps.clone()).collect();
    all.values().sum()
}
