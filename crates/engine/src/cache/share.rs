//! What this store performed, told to others: written to the cache with a push, where that is allowed. Products that a
//! cache recorded are never told: whoever made them did.

use std::collections::{BTreeMap, BTreeSet};

use kiln_oci::image::{Descriptor, Image};
use kiln_oci::layer::Layer;
use kiln_plan::digest::Digest;
use kiln_plan::lock::Lock;
use kiln_plan::reference::Reference;
use kiln_plan::stack::{Cache, From, Trust};
use kiln_plan::step::StepKey;
use kiln_registry::{Document, Moved, RegistryError, Upload};
use serde::Serialize;
use serde_json::Value;

use crate::build::Build;
use crate::built::Built;
use crate::driver::Origin;
use crate::error::{BuildError, Result};
use crate::images::ImageNodes;
use crate::node::NodeId;
use crate::owners;
use crate::product::{Dated, Product, ProductKind as _};
use crate::project::Project;
use crate::remote::{EMPTY, Found, Record, tag, trusted};
use crate::signing::Signer;
use crate::step::Keep;
use crate::workshop::now;

/// A record that is older is written again, so that its age says when it was last of use, in seconds.
const FRESH: u64 = 7 * 24 * 3600;
/// Media types of what records keep.
const LIST: &str = "application/vnd.kiln.paths.v1+zstd";
const WHEEL: &str = "application/vnd.kiln.wheel.v1+zip";
/// A Debian package (registered by IANA).
const PACKAGE: &str = "application/vnd.debian.binary-package";
const DOCUMENT: &str = "application/json";

/// What was shared.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Shared {
    /// Records that were written.
    pub written: usize,
    /// Records that were there.
    pub there: usize,
    /// The registry does not allow it.
    pub denied: bool,
}

/// A record that may be written.
struct Candidate {
    key: StepKey,
    kind: &'static str,
    name: String,
    image: String,
    persist: bool,
    value: Value,
    /// The record under this key changes with its value; others follow from their key.
    changes: bool,
    keeps: Vec<(Descriptor, Content)>,
}

/// Where content that a record keeps is read from.
enum Content {
    Stored(u64),
    Bytes(Vec<u8>),
}

/// A manifest, and where it goes.
type Put = (Reference, String, Vec<u8>);

fn put(cache: &Cache, key: &StepKey, document: Document) -> Put {
    (cache.remote.tag(&tag(key)), document.media_type, document.bytes)
}

impl Project<'_> {
    /// Tells other machines what was performed for these images. What goes wrong is a warning: the images are pushed.
    pub(crate) fn share(&self, build: &Build<'_>, wanted: &[&Built], lock: &Lock) -> Result<Shared> {
        let Some(cache) = self.written_cache() else { return Ok(Shared::default()) };
        let signer = match (&cache.trust, &self.workshop.surroundings.signer) {
            (Trust::Registry, signer) => signer.as_ref(),
            (Trust::Keys(keys), Some(signer)) if keys.contains(&signer.public()) => Some(signer),
            (Trust::Keys(_), Some(signer)) => {
                let key = signer.public();
                self.workshop.warn(format!("nothing is shared: {key} is not among the keys of `cache.trust`"));
                return Ok(Shared::default());
            }
            (Trust::Keys(_), None) => {
                self.workshop.warn(
                    "nothing is shared: `cache.trust` names keys, and this machine has none (`KILN_CACHE_KEY_FILE`)",
                );
                return Ok(Shared::default());
            }
        };
        match self.write_records(cache, signer, build, wanted, lock) {
            Err(BuildError::Interrupted) => Err(BuildError::Interrupted),
            Err(error) if error.is_denied() => {
                // Whoever only reads need not be told each time; a registry that takes no records is worth knowing.
                if !error.is_about_permission() {
                    self.workshop.warn(format!("results could not be shared: {error}"));
                }
                Ok(Shared { denied: true, ..Shared::default() })
            }
            Err(error) => {
                self.workshop.warn(format!("results could not be shared: {error}"));
                Ok(Shared::default())
            }
            shared => shared,
        }
    }

    fn write_records(
        &self,
        cache: &Cache,
        signer: Option<&Signer>,
        build: &Build<'_>,
        wanted: &[&Built],
        lock: &Lock,
    ) -> Result<Shared> {
        let now = now();
        let candidates = self.candidates(build, wanted, lock)?;
        let count = candidates.len();
        let missing = self.not_there(cache, signer, candidates, now)?;
        let there = count - missing.len();
        let written: BTreeSet<StepKey> = missing.iter().map(|candidate| candidate.key).collect();
        let mut documents = build.renewals(cache, &written, now)?;
        if missing.is_empty() && documents.is_empty() {
            return Ok(Shared { written: 0, there, denied: false });
        }
        let empty = Upload::bytes(EMPTY);
        let mut uploads = BTreeMap::from([(empty.digest, empty)]);
        for (descriptor, content) in missing.iter().flat_map(|candidate| &candidate.keeps) {
            if let std::collections::btree_map::Entry::Vacant(place) = uploads.entry(descriptor.digest) {
                place.insert(match content {
                    Content::Bytes(bytes) => Upload::bytes(bytes.clone()),
                    Content::Stored(size) => self.upload(descriptor.digest, *size, None, &cache.remote)?,
                });
            }
        }
        let gone = self.send(cache, uploads.into_values().collect())?;
        for candidate in missing {
            let Candidate { key, kind, name, image, persist, value, keeps, .. } = candidate;
            if keeps.iter().any(|(descriptor, _)| gone.contains(&descriptor.digest)) {
                continue;
            }
            let record = Record::new(key, kind, &name, &image, persist, now, value);
            let keeps: Vec<Descriptor> = keeps.into_iter().map(|(descriptor, _)| descriptor).collect();
            documents.push(put(cache, &key, record.document(&keeps, signer)?));
        }
        self.put_records(&documents, there)
    }

    fn put_records(&self, documents: &[Put], there: usize) -> Result<Shared> {
        let results = self.workshop.registries()?.push_manifests(documents);
        let count = results.len();
        let failures: Vec<RegistryError> = results.into_iter().filter_map(std::result::Result::err).collect();
        let written = count - failures.len();
        match failures.into_iter().next() {
            Some(RegistryError::Interrupted) => Err(BuildError::Interrupted),
            Some(error) if written == 0 => Err(error.into()),
            Some(error) => {
                self.workshop.warn(format!("{} of {count} results could not be shared: {error}", count - written));
                Ok(Shared { written, there, denied: false })
            }
            None => Ok(Shared { written, there, denied: false }),
        }
    }

    /// Sends the content that records keep; returns what could not be had.
    fn send(&self, cache: &Cache, uploads: Vec<Upload>) -> Result<BTreeSet<Digest>> {
        let size = uploads.iter().map(|upload| upload.size).sum();
        let work = self.workshop.work("share", cache.remote.to_string(), Some(size));
        let moved = self.workshop.registries()?.push_blobs(&cache.remote, &uploads, &work)?;
        let gone = uploads.iter().zip(moved).filter(|(_, moved)| *moved == Moved::Missing);
        Ok(gone.map(|(upload, _)| upload.digest).collect())
    }

    /// Returns the candidates that the cache does not have, or that nobody would trust, or that are old. A record that
    /// nobody signed is replaced by whoever made the product and signs.
    fn not_there(
        &self,
        cache: &Cache,
        signer: Option<&Signer>,
        candidates: Vec<Candidate>,
        now: u64,
    ) -> Result<Vec<Candidate>> {
        let references: Vec<Reference> =
            candidates.iter().map(|candidate| cache.remote.tag(&tag(&candidate.key))).collect();
        let found = self.workshop.registries()?.manifests(&references)?;
        let fresh = |candidate: &Candidate, document: &Document| {
            trusted(cache, &candidate.key, document).is_some_and(|found| {
                let whole = !found.keeps.iter().any(|layer| self.workshop.places.is_lost(&layer.digest));
                let same = !candidate.changes || candidate.value == found.record.value;
                let persists = found.record.persist || !candidate.persist;
                let signed = signer.is_none() || found.signer.is_some();
                whole && same && persists && signed && now.saturating_sub(found.written) < FRESH
            })
        };
        let pairs = candidates.into_iter().zip(found);
        let absent =
            pairs.filter(|(candidate, document)| !document.as_ref().is_some_and(|found| fresh(candidate, found)));
        Ok(absent.map(|(candidate, _)| candidate).collect())
    }

    fn candidates(&self, build: &Build<'_>, wanted: &[&Built], lock: &Lock) -> Result<Vec<Candidate>> {
        let mut candidates: BTreeMap<StepKey, Candidate> = BTreeMap::new();
        let chain = |node: &&ImageNodes| {
            wanted.iter().any(|built| {
                let image = self.stack.image(&built.name);
                built.name == node.name
                    || image.is_some_and(|image| self.stack.ancestors(image).any(|above| above.name == node.name))
            })
        };
        for node in build.images.images.iter().filter(chain) {
            let Some(image) = self.stack.image(&node.name) else { continue };
            let (title, persist) = (format!("{}/{} {}", self.stack.name, node.name, node.platform), image.persist);
            build.driver.settle(node.facts)?;
            for id in build.images.graph.with_reads(node.facts.into_iter().chain([node.image.id()])) {
                if let Some(candidate) = self.of_step(build, id, &title, persist)? {
                    candidates.entry(candidate.key).or_insert(candidate);
                }
            }
            candidates.extend(self.of_base(build, node, &title, self.stack.root(image).persist)?.map(|c| (c.key, c)));
            candidates.extend(self.of_packages(node, &title, persist, lock)?.map(|c| (c.key, c)));
            let last = self.last_image(build, image, node, lock);
            let (key, value) = (self.pushed_key(image, node.platform), json(&last)?);
            let (kind, name, keeps) = ("image", node.name.clone(), Vec::new());
            candidates.insert(key, Candidate { key, kind, name, image: title, persist, value, changes: true, keeps });
        }
        Ok(candidates.into_values().collect())
    }

    /// Returns the record of a step that this store performed, and whose product is whole.
    fn of_step(&self, build: &Build<'_>, id: NodeId, image: &str, persist: bool) -> Result<Option<Candidate>> {
        let step = &build.images.graph.entry(id).step;
        let Some((product, origin)) = build.driver.product(id) else { return Ok(None) };
        let made_here = matches!(origin, Origin::Local | Origin::Performed);
        let (Some(key), Keep::Shared, true) = (build.driver.key(id), step.keep(), made_here) else { return Ok(None) };
        if !build.driver.is_here(id) {
            return Ok(None);
        }
        if let Some(layers) = Vec::<Layer>::of(&product) {
            for layer in layers {
                if owners::are_lost(self.workshop.store, layer)? {
                    return Ok(None);
                }
            }
        }
        let keeps = match &product {
            Product::Layers(layers) | Product::Dated(Dated { layers, .. }) => layers.iter().map(kept_layer).collect(),
            // A wheel that pruning left alone is its index's to keep.
            Product::Wheel(wheel) if wheel.kept.is_none() => Vec::new(),
            Product::Wheel(wheel) => kept(WHEEL, &wheel.digest, wheel.size).into_iter().collect(),
            Product::Paths(paths) => kept(LIST, &paths.list, Some(paths.size)).into_iter().collect(),
            Product::Conflicts(_)
            | Product::Facts(_)
            | Product::Image(_)
            | Product::Verdict(_)
            | Product::Driver(_)
            | Product::Text(_)
            | Product::Foundation(_) => Vec::new(),
        };
        let (kind, name, image) = (step.kind().name, step.subject().to_string(), image.to_owned());
        Ok(Some(Candidate { key, kind, name, image, persist, value: json(&product)?, changes: false, keeps }))
    }

    /// Returns the record that keeps a bootstrapped base in the cache. Nobody believes it: machines ask for the manifest
    /// that their lock names.
    fn of_base(&self, build: &Build<'_>, node: &ImageNodes, title: &str, persist: bool) -> Result<Option<Candidate>> {
        let Some((locked, base)) = &node.base else { return Ok(None) };
        let root = self.stack.image(&node.name).map(|image| &image.from);
        let (Some(From::Debian { .. }), Some(image)) = (root, build.driver.known(*base)) else { return Ok(None) };
        let store = self.workshop.store;
        if !image.layers.iter().all(|layer| store.has(&layer.digest)) {
            return Ok(None);
        }
        let Image { manifest, config, layers, .. } = &image;
        let mut keeps: Vec<(Descriptor, Content)> = layers.iter().map(kept_layer).collect();
        for digest in [manifest, config] {
            let bytes = store.read(digest)?;
            keeps.push((Descriptor::of(DOCUMENT, &bytes), Content::Bytes(bytes)));
        }
        let key = StepKey::of("kept base", 1).digest("manifest", manifest).finish();
        let (kind, name, image, value) = ("debian", locked.name.clone(), title.to_owned(), json(&image)?);
        Ok(Some(Candidate { key, kind, name, image, persist, value, changes: false, keeps }))
    }
}

impl Project<'_> {
    /// Returns the record that keeps the packages of the base's distribution which are here: archives drop old versions.
    fn of_packages(&self, node: &ImageNodes, title: &str, persist: bool, lock: &Lock) -> Result<Option<Candidate>> {
        let base = node.base.as_ref().map(|(locked, _)| locked.packages.as_slice()).unwrap_or_default();
        let packages = base.iter().chain(lock.system_packages(&node.name, node.platform));
        let here: BTreeMap<Digest, u64> = packages
            .filter(|package| self.workshop.store.has(&package.sha256))
            .map(|package| (package.sha256, package.size))
            .collect();
        if here.is_empty() {
            return Ok(None);
        }
        let keeps = here.iter().filter_map(|(digest, size)| kept(PACKAGE, digest, Some(*size))).collect();
        let mut key = StepKey::of("kept packages", 1);
        for digest in here.keys() {
            key = key.digest("package", digest);
        }
        let (key, kind, name) = (key.finish(), "debian", format!("{} packages", here.len()));
        let (image, value) = (title.to_owned(), json(&here.keys().collect::<Vec<_>>())?);
        Ok(Some(Candidate { key, kind, name, image, persist, value, changes: false, keeps }))
    }
}

impl Build<'_> {
    /// Records that were of use here are of use: their age begins anew, but for those that are written anyway.
    fn renewals(&self, cache: &Cache, written: &BTreeSet<StepKey>, now: u64) -> Result<Vec<Put>> {
        let old = |found: &Found| found.written < now.saturating_sub(FRESH);
        let found = self.remote.found().into_iter();
        let found = found.filter(|found| old(found) && !written.contains(&found.record.key));
        found.map(|found| Ok(put(cache, &found.record.key, found.renewed(now)?))).collect()
    }
}

fn kept(media_type: &str, digest: &Digest, size: Option<u64>) -> Option<(Descriptor, Content)> {
    let size = size?;
    Some((Descriptor { digest: *digest, size, ..Descriptor::of(media_type, b"") }, Content::Stored(size)))
}

fn kept_layer(layer: &Layer) -> (Descriptor, Content) {
    let descriptor =
        Descriptor { digest: layer.digest, size: layer.size, ..Descriptor::of(layer.media_type.as_str(), b"") };
    (descriptor, Content::Stored(layer.size))
}

pub(super) fn json<T: Serialize>(value: &T) -> Result<Value> {
    serde_json::to_value(value).map_err(|error| BuildError::Json { what: "a record", source: error })
}
