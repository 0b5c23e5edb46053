//! What this machine did, told to the others: written to the cache with a push, where that is allowed.

use std::collections::{BTreeMap, BTreeSet};

use crate::bytes::Blobs;
use kiln_oci::image::{Descriptor, Image};
use kiln_oci::layer::Layer;
use kiln_plan::base::BaseFacts;
use kiln_plan::lock::Lock;
use kiln_plan::reference::Reference;
use kiln_plan::stack::{Cache, From, Trust};
use kiln_plan::step::StepKey;
use kiln_registry::{Document, Moved, RegistryError, Upload};
use serde::Serialize;
use serde_json::Value;

use super::believed;
use super::record::{self, EMPTY, Record};
use crate::agreement::tiers_key;
use crate::bases::{self, debian_key, facts_key};
use crate::build::Built;
use crate::error::{BuildError, Result};
use crate::overlaps::{Overlaps, PathList, list_key, overlaps_key};
use crate::project::Project;
use crate::pruned::{NewWheel, PrunedWheel, prunable, prune_key};
use crate::signing::Signer;
use crate::steps::ImageSteps;
use crate::workshop::now;

/// A record that is older is written again, so that its age says when it was last of use.
const FRESH: u64 = 7 * 24 * 3600;
/// What a list of paths is.
const LIST: &str = "application/vnd.kiln.paths.v1+zstd";

/// What a pruned wheel is.
const WHEEL: &str = "application/vnd.kiln.wheel.v1+zip";

/// What was shared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Shared {
    /// Records that were written.
    pub written: usize,
    /// Records that were there.
    pub there: usize,
    /// Whether the registry does not allow it.
    pub denied: bool,
}

/// A record that may be written, and how to make it if it must be.
struct Candidate<'s> {
    key: StepKey,
    kind: &'static str,
    name: String,
    image: String,
    persist: bool,
    /// What the record must say, where that changes under the same key.
    value: Option<Value>,
    make: Box<dyn Fn() -> Result<Option<Made>> + 's>,
}

/// A manifest, and where it goes.
type Put = (Reference, String, Vec<u8>);

fn put(cache: &Cache, key: &StepKey, document: Document) -> Put {
    (cache.remote.tag(&record::tag(key)), document.media_type, document.bytes)
}

/// A record's value and what it names.
struct Made {
    value: Value,
    keeps: Vec<(Descriptor, Upload)>,
}

impl Project<'_> {
    /// Tells other machines what was found out for these images. What goes wrong is a warning: the images are pushed.
    pub(crate) fn share(&self, built: &[Built], named: &[String], lock: &Lock) -> Result<Shared> {
        let Some(cache) = self.written_cache() else { return Ok(Shared::default()) };
        let signer = match (&cache.trust, &self.surroundings.signer) {
            (Trust::Registry, signer) => signer.as_ref(),
            (Trust::Keys(keys), Some(signer)) if keys.contains(&signer.public()) => Some(signer),
            (Trust::Keys(_), Some(signer)) => {
                self.warn(format!("nothing is shared: {} is not among the keys of `cache.trust`", signer.public()));
                return Ok(Shared::default());
            }
            (Trust::Keys(_), None) => return Ok(Shared::default()),
        };
        let wanted: Vec<&Built> =
            built.iter().filter(|built| named.is_empty() || named.contains(&built.name)).collect();
        match self.write_records(cache, signer, &wanted, lock) {
            Err(BuildError::Interrupted) => Err(BuildError::Interrupted),
            Err(error) if error.is_denied() => {
                // Whoever only reads need not be told each time; a registry that takes no records is worth knowing.
                if !error.is_about_permission() {
                    self.warn(format!("results could not be shared: {error}"));
                }
                Ok(Shared { denied: true, ..Shared::default() })
            }
            Err(error) => {
                self.warn(format!("results could not be shared: {error}"));
                Ok(Shared::default())
            }
            shared => shared,
        }
    }

    fn write_records(&self, cache: &Cache, signer: Option<&Signer>, wanted: &[&Built], lock: &Lock) -> Result<Shared> {
        let blobs = self.blobs(wanted);
        let names: Vec<String> = wanted.iter().map(|built| built.name.clone()).collect();
        let all = self.all_steps(&self.chosen(&names)?, lock)?;
        let mut candidates = Vec::new();
        for steps in &all {
            candidates.extend(self.step_candidates(cache, steps, &blobs)?);
            candidates.extend(self.pruned_candidates(cache, steps, &blobs)?);
            candidates.extend(self.path_candidates(steps));
            candidates.push(self.image_candidate(steps, lock)?);
            candidates.extend(self.base_candidates(cache, steps, lock, &blobs)?);
        }
        let mut seen = BTreeSet::new();
        candidates.retain(|candidate| seen.insert(candidate.key));
        let now = now();
        let count = candidates.len();
        let missing = self.not_there(cache, candidates, now)?;
        let there = count - missing.len();
        let mut uploads = BTreeMap::new();
        let mut made = Vec::new();
        for candidate in &missing {
            if let Some(found) = (candidate.make)()? {
                for (_, upload) in &found.keeps {
                    uploads.entry(upload.digest).or_insert_with(|| upload.clone());
                }
                made.push((candidate, found));
            }
        }
        let written = made.iter().map(|(candidate, _)| candidate.key).collect();
        let mut documents = self.renewals(cache, &written, now)?;
        if made.is_empty() && documents.is_empty() {
            return Ok(Shared { written: 0, there, denied: false });
        }
        let empty = Upload::bytes(EMPTY);
        uploads.insert(empty.digest, empty);
        let gone = self.send(cache, uploads.into_values().collect())?;
        for (candidate, found) in made {
            if found.keeps.iter().any(|(descriptor, _)| gone.contains(&descriptor.digest)) {
                continue;
            }
            let Candidate { key, kind, name, image, persist, .. } = candidate;
            let record = Record::new(*key, kind, name, image, *persist, found.value);
            let keeps: Vec<Descriptor> = found.keeps.into_iter().map(|(descriptor, _)| descriptor).collect();
            documents.push(put(cache, key, record.document(&keeps, signer, now)?));
        }
        self.put_records(&documents, there)
    }

    /// Records that were of use here are of use: their age begins anew, but for those that are written anyway.
    fn renewals(&self, cache: &Cache, written: &BTreeSet<StepKey>, now: u64) -> Result<Vec<Put>> {
        let old = self.session.records_before(now.saturating_sub(FRESH)).into_iter();
        let old = old.filter(|found| !written.contains(&found.record.key));
        old.map(|found| Ok(put(cache, &found.record.key, found.renewed(now)?))).collect()
    }

    fn put_records(&self, documents: &[Put], there: usize) -> Result<Shared> {
        let results = self.registries()?.push_manifests(documents);
        let count = results.len();
        let failures: Vec<RegistryError> = results.into_iter().filter_map(std::result::Result::err).collect();
        let written = count - failures.len();
        match failures.into_iter().next() {
            Some(RegistryError::Interrupted) => Err(BuildError::Interrupted),
            Some(error) if written == 0 => Err(error.into()),
            Some(error) => {
                self.warn(format!("{} of {count} results could not be shared: {error}", count - written));
                Ok(Shared { written, there, denied: false })
            }
            None => Ok(Shared { written, there, denied: false }),
        }
    }

    /// Sends what records name; what could not be had.
    fn send(&self, cache: &Cache, uploads: Vec<Upload>) -> Result<BTreeSet<kiln_plan::digest::Digest>> {
        let size = uploads.iter().map(|upload| upload.size).sum();
        let work = self.work("share", cache.remote.to_string(), Some(size));
        let moved = self.registries()?.push_blobs(&cache.remote, &uploads, &work)?;
        let gone = uploads.iter().zip(moved).filter(|(_, moved)| *moved == Moved::Missing);
        Ok(gone.map(|(upload, _)| upload.digest).collect())
    }

    /// Candidates that the cache does not have, or that nobody would believe, or that are old.
    fn not_there<'s>(&self, cache: &Cache, candidates: Vec<Candidate<'s>>, now: u64) -> Result<Vec<Candidate<'s>>> {
        let references: Vec<Reference> =
            candidates.iter().map(|candidate| cache.remote.tag(&record::tag(&candidate.key))).collect();
        let found = self.registries()?.manifests(&references)?;
        let fresh = |candidate: &Candidate<'_>, document: &Document| {
            believed(cache, &candidate.key, document).is_some_and(|found| {
                let whole = !found.keeps.iter().any(|layer| self.session.is_lost(&layer.digest));
                let same = candidate.value.as_ref().is_none_or(|value| *value == found.record.value);
                let persists = found.record.persist || !candidate.persist;
                whole && same && persists && now.saturating_sub(found.written) < FRESH
            })
        };
        let pairs = candidates.into_iter().zip(found);
        let absent =
            pairs.filter(|(candidate, document)| !document.as_ref().is_some_and(|found| fresh(candidate, found)));
        Ok(absent.map(|(candidate, _)| candidate).collect())
    }

    /// Results of steps that this machine did.
    fn step_candidates<'s>(
        &'s self,
        cache: &'s Cache,
        steps: &'s ImageSteps<'_>,
        blobs: &'s Blobs<'_>,
    ) -> Result<Vec<Candidate<'s>>> {
        let mut candidates = Vec::new();
        for step in &steps.steps {
            let Some(layers) = self.known_layers(step)? else { continue };
            let make = move || {
                let keeps = layers.iter().map(|layer| self.keep(cache, blobs, layer)).collect::<Result<_>>()?;
                Ok(Some(Made { value: json(&layers)?, keeps }))
            };
            candidates.push(self.candidate(steps, step.key, step.kind(), step.name.clone(), Box::new(make)));
        }
        Ok(candidates)
    }

    /// Wheels whose GPU code this machine cut.
    fn pruned_candidates<'s>(
        &'s self,
        cache: &'s Cache,
        steps: &'s ImageSteps<'_>,
        blobs: &'s Blobs<'_>,
    ) -> Result<Vec<Candidate<'s>>> {
        let mut candidates = Vec::new();
        for (wheel, selection) in steps.steps.iter().flat_map(prunable) {
            let key = prune_key(wheel, selection);
            let Some(pruned) = self.store.recall::<PrunedWheel>(&key)? else { continue };
            if pruned.as_ref().is_some_and(|new| !self.store.has_blob(&new.digest)) {
                continue;
            }
            let make = move || {
                let mut keeps = Vec::new();
                if let Some(NewWheel { digest, size, .. }) = pruned {
                    let descriptor = Descriptor { digest, size, ..Descriptor::of(WHEEL, b"") };
                    keeps.push((descriptor, self.upload(blobs, digest, size, None, &cache.remote)?));
                }
                Ok(Some(Made { value: json(&pruned)?, keeps }))
            };
            candidates.push(self.candidate(steps, key, "prune", wheel.file.clone(), Box::new(make)));
        }
        Ok(candidates)
    }

    /// What the wheels of an image do to one another, and the files that each brings.
    fn path_candidates<'s>(&'s self, steps: &'s ImageSteps<'_>) -> Vec<Candidate<'s>> {
        let Some((wheels, scheme)) = &steps.wheels else { return Vec::new() };
        let candidate = |key, kind, name, make| self.candidate(steps, key, kind, name, make);
        let key = overlaps_key(wheels, scheme);
        let name = format!("{} wheels", wheels.len());
        let mut candidates = vec![candidate(
            key,
            "overlaps",
            name,
            Box::new(move || {
                let known: Option<Overlaps> = self.store.recall(&key)?;
                known.map(|known| Ok(Made { value: json(&known)?, keeps: Vec::new() })).transpose()
            }),
        )];
        let key = tiers_key(&steps.tiers);
        let name = format!("{} images", steps.tiers.len());
        candidates.push(candidate(
            key,
            "tiers",
            name,
            Box::new(move || {
                let known: Option<bool> = self.store.recall(&key)?;
                known.map(|known| Ok(Made { value: json(&known)?, keeps: Vec::new() })).transpose()
            }),
        ));
        for wheel in wheels.iter().filter(|wheel| self.store.has_blob(&wheel.sha256)) {
            let make = move || {
                let bytes = self.path_list(wheel, scheme)?;
                let (descriptor, upload) = (Descriptor::of(LIST, &bytes), Upload::bytes(bytes));
                let value = json(&PathList { digest: upload.digest, size: upload.size })?;
                Ok(Some(Made { value, keeps: vec![(descriptor, upload)] }))
            };
            candidates.push(candidate(list_key(wheel, scheme), "paths", wheel.file.clone(), Box::new(make)));
        }
        candidates
    }

    /// What is known of the base: facts that took reading all of it, or the layer that was bootstrapped.
    fn base_candidates<'s>(
        &'s self,
        cache: &'s Cache,
        steps: &'s ImageSteps<'_>,
        lock: &Lock,
        blobs: &'s Blobs<'_>,
    ) -> Result<Vec<Candidate<'s>>> {
        let root = self.stack.root(steps.image);
        let Some(locked) = bases::name(&root.from).and_then(|name| lock.base(&name, steps.platform)) else {
            return Ok(Vec::new());
        };
        let (key, kind): (StepKey, _) = match &root.from {
            From::Debian { .. } => (debian_key(locked), "debian"),
            From::Reference(_) => (facts_key(&locked.manifest), "base facts"),
            From::Scratch | From::Image(_) | From::OciLayout(_) => return Ok(Vec::new()),
        };
        let make = move || {
            if kind == "base facts" {
                let known: Option<BaseFacts> = self.store.recall(&key)?;
                return known.map(|facts| Ok(Made { value: json(&facts)?, keeps: Vec::new() })).transpose();
            }
            let Some(image) = self.store.recall::<Image>(&key)? else { return Ok(None) };
            let mut keeps = Vec::new();
            for digest in [image.config, image.manifest] {
                if !self.store.has_blob(&digest) {
                    return Ok(None);
                }
                let bytes = self.store.read(&digest)?;
                keeps.push((Descriptor::of("application/json", &bytes), Upload::bytes(bytes)));
            }
            for layer in &image.layers {
                keeps.push(self.keep(cache, blobs, layer)?);
            }
            Ok(Some(Made { value: json(&image)?, keeps }))
        };
        let (name, image, persist) = (locked.name.clone(), self.title(steps), root.persist);
        Ok(vec![Candidate { key, kind, name, image, persist, value: None, make: Box::new(make) }])
    }

    /// What an image is made of, for machines that ask what changed since it was pushed.
    fn image_candidate<'s>(&'s self, steps: &'s ImageSteps<'_>, lock: &Lock) -> Result<Candidate<'s>> {
        let value = json(&self.ingredients(steps, lock))?;
        let made = value.clone();
        Ok(Candidate {
            key: self.ingredients_key(steps.image, steps.platform),
            kind: "image",
            name: steps.image.name.clone(),
            image: self.title(steps),
            persist: steps.image.persist,
            value: Some(value),
            make: Box::new(move || Ok(Some(Made { value: made.clone(), keeps: Vec::new() }))),
        })
    }

    /// A record whose key says all that its value depends on.
    fn candidate<'s>(
        &self,
        steps: &ImageSteps<'_>,
        key: StepKey,
        kind: &'static str,
        name: String,
        make: Box<dyn Fn() -> Result<Option<Made>> + 's>,
    ) -> Candidate<'s> {
        let (image, persist) = (self.title(steps), steps.image.persist);
        Candidate { key, kind, name, image, persist, value: None, make }
    }

    fn keep(&self, cache: &Cache, blobs: &Blobs<'_>, layer: &Layer) -> Result<(Descriptor, Upload)> {
        let descriptor = Descriptor {
            media_type: layer.media_type.as_str().into(),
            digest: layer.digest,
            size: layer.size,
            platform: None,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
        };
        Ok((descriptor, self.upload(blobs, layer.digest, layer.size, None, &cache.remote)?))
    }

    fn title(&self, steps: &ImageSteps<'_>) -> String {
        format!("{}/{} {}", self.stack.name, steps.image.name, steps.platform)
    }
}

pub(super) fn json<T: Serialize>(value: &T) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| BuildError::step("a record cannot be written", error))
}
