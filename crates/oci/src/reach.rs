//! All that can be reached from a document: for copies that keep it byte for byte, with its attestations, annotations,
//! and indexes within indexes.

use std::collections::{BTreeMap, BTreeSet};

use kiln_plan::digest::Digest;
use serde::Deserialize;
use serde_json::{Value, json};

use crate::choose::{Pointed, Shelf};
use crate::document::Parts;
use crate::error::OciError;
use crate::image::{CONFIG, DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, INDEX, MANIFEST, from_json, to_json};
use crate::json::parse;

/// Indexes within indexes.
const DEPTH: usize = 16;
/// Documents that are followed, and bytes of them: a hostile index could name ever more.
const MOST: usize = 10_000;
const MOST_BYTES: usize = 256 << 20;

/// A document with all that can be reached from it.
#[derive(Debug, Clone, Default)]
pub struct Reached {
    /// Manifests and indexes, each once and after all that it names: the last is the document itself.
    pub documents: Vec<Pointed>,
    /// Configs, layers and other blobs, each once.
    pub blobs: Vec<Descriptor>,
    /// Layers that registries may not distribute: they stay where they are.
    pub elsewhere: Vec<Descriptor>,
}

/// Reads all documents that can be reached from one.
pub fn reach<S: Shelf>(shelf: &S, root: Pointed) -> Result<Reached, S::Error> {
    let mut walk = Walk { shelf, seen: BTreeSet::new(), bytes: 0, reached: Reached::default() };
    walk.visit(root, 0)?;
    Ok(walk.reached)
}

struct Walk<'a, S> {
    shelf: &'a S,
    seen: BTreeSet<Digest>,
    bytes: usize,
    reached: Reached,
}

impl<S: Shelf> Walk<'_, S> {
    fn visit(&mut self, document: Pointed, depth: usize) -> Result<(), S::Error> {
        self.bytes += document.bytes.len();
        if depth > DEPTH || self.reached.documents.len() > MOST || self.bytes > MOST_BYTES {
            return Err(self.shelf.unusable("it names more documents than can be followed".into()));
        }
        self.seen.insert(document.entry.digest);
        let parts: Parts = from_json(&document.bytes, &format!("the document {}", document.entry.digest))?;
        for entry in parts.manifests {
            if !self.seen.contains(&entry.digest) {
                let inner = Pointed::read(self.shelf, entry)?;
                self.visit(inner, depth + 1)?;
            }
        }
        for mut blob in parts.config.into_iter().chain(parts.layers).chain(parts.blobs) {
            if !self.seen.insert(blob.digest) {
                continue;
            }
            if blob.is_elsewhere() {
                self.reached.elsewhere.push(blob);
                continue;
            }
            if blob.size == 0 {
                blob.size = self.shelf.size(&blob.digest)?;
            }
            self.reached.blobs.push(blob);
        }
        self.reached.documents.push(document);
        Ok(())
    }
}

impl Reached {
    /// Returns the same in OCI's words throughout. Documents that have no others stay as they are.
    pub fn in_oci(mut self) -> Result<Self, OciError> {
        let mut renamed: BTreeMap<Digest, Descriptor> = BTreeMap::new();
        for document in &mut self.documents {
            let what = || format!("the document {}", document.entry.digest);
            let invalid = |source| OciError::Json { what: what(), source };
            let mut value = parse(&document.bytes).map_err(invalid)?;
            if !rename(&mut value, &renamed) {
                continue;
            }
            let old = document.entry.digest;
            document.bytes = to_json(&value)?;
            document.entry.digest = Digest::of(&document.bytes);
            document.entry.size = document.bytes.len() as u64;
            document.entry.media_type = oci_name(&document.entry.media_type).to_owned();
            renamed.insert(old, document.entry.clone());
        }
        Ok(self)
    }
}

/// Puts OCI's media types for Docker's, and the digests of documents that were renamed before; false where there is
/// nothing to do.
fn rename(document: &mut Value, renamed: &BTreeMap<Digest, Descriptor>) -> bool {
    let mut changed = rename_type(document);
    let Value::Object(members) = document else { return changed };
    for name in ["config", "layers", "manifests"] {
        let entries: Vec<&mut Value> = match members.get_mut(name) {
            Some(Value::Array(entries)) => entries.iter_mut().collect(),
            Some(entry @ Value::Object(_)) => vec![entry],
            _ => continue,
        };
        for entry in entries {
            changed |= rename_type(entry);
            let digest = Digest::deserialize(&entry["digest"]).ok();
            if let Some(new) = digest.and_then(|digest| renamed.get(&digest)) {
                entry["digest"] = json!(new.digest);
                entry["size"] = json!(new.size);
                changed = true;
            }
        }
    }
    changed
}

fn rename_type(value: &mut Value) -> bool {
    let Some(Value::String(media_type)) = value.get_mut("mediaType") else { return false };
    let oci = oci_name(media_type);
    let changed = oci != media_type;
    *media_type = oci.to_owned();
    changed
}

/// Returns OCI's name for what Docker names otherwise.
fn oci_name(media_type: &str) -> &str {
    match media_type {
        DOCKER_MANIFEST => MANIFEST,
        DOCKER_INDEX => INDEX,
        "application/vnd.docker.container.image.v1+json" => CONFIG,
        "application/vnd.docker.image.rootfs.diff.tar" => "application/vnd.oci.image.layer.v1.tar",
        "application/vnd.docker.image.rootfs.diff.tar.gzip" => "application/vnd.oci.image.layer.v1.tar+gzip",
        "application/vnd.docker.image.rootfs.diff.tar.zstd" => "application/vnd.oci.image.layer.v1.tar+zstd",
        "application/vnd.docker.image.rootfs.foreign.diff.tar" => {
            "application/vnd.oci.image.layer.nondistributable.v1.tar"
        }
        "application/vnd.docker.image.rootfs.foreign.diff.tar.gzip" => {
            "application/vnd.oci.image.layer.nondistributable.v1.tar+gzip"
        }
        other => other,
    }
}
