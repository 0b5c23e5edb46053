//! Repositories: blobs, manifests and tags, and the requests for them.

use std::collections::BTreeMap;
use std::sync::Arc;

use kiln_plan::digest::Digest;
use kiln_testing::http::{Answer, Head};
use serde_json::{Value, json};

use super::errors::error;
use super::route::{self, Route};
use super::state::State;

/// What one repository holds. Nothing is shared between repositories but by mounting.
#[derive(Debug, Default)]
pub(super) struct Repository {
    pub(super) blobs: BTreeMap<Digest, Arc<Vec<u8>>>,
    pub(super) manifests: BTreeMap<Digest, Manifest>,
    pub(super) tags: BTreeMap<String, Digest>,
}

/// An image manifest or an index, as it was sent.
#[derive(Debug)]
pub(super) struct Manifest {
    pub(super) media_type: String,
    pub(super) bytes: Vec<u8>,
}

/// A descriptor in a manifest or index.
#[derive(Debug)]
struct Reference {
    kind: Kind,
    digest: Digest,
    size: Option<u64>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Manifest,
    Config,
    Layer,
}

impl Repository {
    /// The manifest with a tag or digest, and the digest under which it is kept.
    pub(super) fn manifest(&self, reference: &str) -> Option<(Digest, &Manifest)> {
        let digest = self.tags.get(reference).copied().or_else(|| reference.parse().ok())?;
        self.manifests.get(&digest).map(|manifest| (digest, manifest))
    }

    /// Keeps a manifest under the digest that `reference` is, or else under its own with `reference` as a tag.
    pub(super) fn put(&mut self, reference: &str, digest: Digest, media_type: &str, bytes: Vec<u8>) {
        let manifest = Manifest { media_type: media_type.to_owned(), bytes };
        if let Ok(claimed) = reference.parse() {
            self.manifests.insert(claimed, manifest);
        } else {
            self.manifests.insert(digest, manifest);
            self.tags.insert(reference.to_owned(), digest);
        }
    }

    /// Whether all that the tags reach is there; see [`super::FakeRegistry::check`].
    pub(super) fn check(&self) -> Result<(), String> {
        self.tags.iter().try_for_each(|(tag, digest)| {
            let reference = Reference { kind: Kind::Manifest, digest: *digest, size: None };
            self.check_reference(&reference).map_err(|why| format!(":{tag}: {why}"))
        })
    }

    fn check_reference(&self, reference: &Reference) -> Result<(), String> {
        let (what, digest) = (reference.kind.noun(), reference.digest);
        let bytes = self.bytes(reference).ok_or_else(|| format!("{what} {digest} is missing"))?;
        let actual = Digest::of(bytes);
        if actual != digest {
            return Err(format!("{what} {digest} has the digest {actual}"));
        }
        if reference.size.is_some_and(|size| size != bytes.len() as u64) {
            return Err(format!("{what} {digest} has {} bytes, not {:?}", bytes.len(), reference.size));
        }
        if reference.kind != Kind::Manifest {
            return Ok(());
        }
        let children = references(bytes).map_err(|why| format!("{what} {digest}: {why}"))?;
        children.iter().try_for_each(|child| self.check_reference(child))
    }

    fn bytes(&self, reference: &Reference) -> Option<&[u8]> {
        match reference.kind {
            Kind::Manifest => self.manifests.get(&reference.digest).map(|manifest| manifest.bytes.as_slice()),
            Kind::Config | Kind::Layer => self.blobs.get(&reference.digest).map(|bytes| bytes.as_slice()),
        }
    }
}

impl Kind {
    fn noun(self) -> &'static str {
        match self {
            Self::Manifest => "manifest",
            Self::Config => "config",
            Self::Layer => "layer",
        }
    }
}

/// What a manifest or index refers to in its own repository. Layers with `urls` are elsewhere.
fn references(bytes: &[u8]) -> Result<Vec<Reference>, String> {
    let document: Value = serde_json::from_slice(bytes).map_err(|error| format!("no JSON: {error}"))?;
    if document["schemaVersion"] != 2 {
        return Err("schemaVersion is not 2".to_owned());
    }
    if !document["manifests"].is_array() && !document["config"].is_object() {
        return Err("neither config nor manifests".to_owned());
    }
    let list = |name: &str| document[name].as_array().map_or(&[][..], Vec::as_slice);
    let manifests = list("manifests").iter().map(|it| (Kind::Manifest, it));
    let config = document.get("config").into_iter().map(|it| (Kind::Config, it));
    let here = |layer: &&Value| layer["urls"].as_array().is_none_or(Vec::is_empty);
    let layers = list("layers").iter().filter(here).map(|it| (Kind::Layer, it));
    manifests.chain(config).chain(layers).map(|(kind, it)| reference(kind, it)).collect()
}

fn reference(kind: Kind, descriptor: &Value) -> Result<Reference, String> {
    let digest = descriptor["digest"].as_str().and_then(|text| text.parse().ok());
    let digest = digest.ok_or_else(|| format!("a {} without a SHA-256 digest", kind.noun()))?;
    Ok(Reference { kind, digest, size: descriptor["size"].as_u64() })
}

/// The first and the last byte, if given, that a `Range` asks for. Of the forms of RFC 9110 only `bytes=N-` and
/// `bytes=N-M`; others are ignored, as it allows.
fn range(head: &Head) -> Option<(usize, Option<usize>)> {
    let (first, last) = head.field("range")?.strip_prefix("bytes=")?.split_once('-')?;
    let first = first.parse().ok()?;
    let last = if last.is_empty() { None } else { Some(last.parse().ok().filter(|last| *last >= first)?) };
    Some((first, last))
}

/// Requests for blobs.
impl State {
    pub(super) fn get_blob(&mut self, head: &Head, route: &Route) -> Result<Answer, Answer> {
        let ranges = self.options.ranges;
        let digest = route.digest()?;
        let blob = Arc::clone(self.existing(&route.repository)?.blobs.get(&digest).ok_or_else(unknown_blob)?);
        let mut answer = Answer::new(200).with("Docker-Content-Digest", digest);
        if ranges {
            answer = answer.with("Accept-Ranges", "bytes");
        }
        let media_type = "application/octet-stream";
        let Some((first, last)) = range(head).filter(|_| ranges && head.method == "GET") else {
            return Ok(answer.body(media_type, blob.to_vec()));
        };
        if first >= blob.len() {
            let answer = error(416, "RANGE_INVALID", "the range begins beyond the end");
            return Ok(answer.with("Content-Range", format!("bytes */{}", blob.len())));
        }
        let last = last.unwrap_or(usize::MAX).min(blob.len() - 1);
        answer.status = 206;
        let answer = answer.with("Content-Range", format!("bytes {first}-{last}/{}", blob.len()));
        Ok(answer.body(media_type, blob[first..=last].to_vec()))
    }

    pub(super) fn delete_blob(&mut self, route: &Route) -> Result<Answer, Answer> {
        let digest = route.digest()?;
        self.existing(&route.repository)?.blobs.remove(&digest).ok_or_else(unknown_blob)?;
        Ok(Answer::new(202))
    }
}

/// Requests for manifests and tags.
impl State {
    pub(super) fn get_manifest(&mut self, route: &Route) -> Result<Answer, Answer> {
        let found = self.existing(&route.repository)?.manifest(&route.reference);
        let (digest, manifest) = found.ok_or_else(unknown_manifest)?;
        let answer = Answer::new(200).with("Docker-Content-Digest", digest);
        Ok(answer.body(&manifest.media_type, manifest.bytes.clone()))
    }

    pub(super) fn put_manifest(&mut self, head: &Head, route: &Route, bytes: Vec<u8>) -> Result<Answer, Answer> {
        let invalid = |why: &str| error(400, "MANIFEST_INVALID", why);
        let digest = Digest::of(&bytes);
        if route.reference.contains(':') {
            if route.digest()? != digest {
                return Err(error(400, "DIGEST_INVALID", "the manifest has another digest"));
            }
        } else if !route::is_tag(&route.reference) {
            return Err(invalid("no tag"));
        }
        let references = references(&bytes).map_err(|why| invalid(&why))?;
        let media_type = head.field("content-type").ok_or_else(|| invalid("no Content-Type"))?;
        let claimed =
            serde_json::from_slice::<Value>(&bytes).ok().and_then(|it| it["mediaType"].as_str().map(str::to_owned));
        if claimed.is_some_and(|claimed| claimed != media_type) {
            return Err(invalid("mediaType is not the Content-Type"));
        }
        // A repository whose first manifest is refused was not written to.
        let empty = Repository::default();
        let repository = self.repositories.get(&route.repository).unwrap_or(&empty);
        if let Some(missing) = references.iter().find(|it| repository.bytes(it).is_none()) {
            let message = format!("{} {} is not in this repository", missing.kind.noun(), missing.digest);
            return Err(error(400, "MANIFEST_BLOB_UNKNOWN", &message));
        }
        self.repository(&route.repository).put(&route.reference, digest, media_type, bytes);
        let location = self.location(head, &format!("/v2/{}/manifests/{digest}", route.repository));
        Ok(Answer::new(201).with("Docker-Content-Digest", digest).with("Location", location))
    }

    pub(super) fn delete_manifest(&mut self, route: &Route) -> Result<Answer, Answer> {
        if route::is_tag(&route.reference) {
            return Err(error(405, "UNSUPPORTED", "manifests are deleted by digest"));
        }
        let digest = route.digest()?;
        let repository = self.existing(&route.repository)?;
        repository.manifests.remove(&digest).ok_or_else(unknown_manifest)?;
        repository.tags.retain(|_, tagged| *tagged != digest);
        Ok(Answer::new(202))
    }

    pub(super) fn list_tags(&mut self, head: &Head, route: &Route) -> Result<Answer, Answer> {
        let page = self.options.page.max(1);
        let invalid = || error(400, "PAGINATION_NUMBER_INVALID", "n is no number");
        let asked = head.parameter("n").map(|n| n.parse::<usize>().map_err(|_| invalid())).transpose()?;
        let count = asked.map_or(page, |asked| asked.min(page));
        let after = head.parameter("last").unwrap_or_default();
        let tags = &self.existing(&route.repository)?.tags;
        let rest: Vec<&String> = tags.keys().filter(|tag| **tag > after).collect();
        let listed = &rest[..count.min(rest.len())];
        let answer = Answer::new(200).json(&json!({ "name": route.repository, "tags": listed }));
        Ok(match listed.last() {
            Some(last) if listed.len() < rest.len() => {
                let next = format!("</v2/{}/tags/list?last={last}&n={count}>; rel=\"next\"", route.repository);
                answer.with("Link", next)
            }
            _ => answer,
        })
    }
}

fn unknown_blob() -> Answer {
    error(404, "BLOB_UNKNOWN", "this repository has no such blob")
}

fn unknown_manifest() -> Answer {
    error(404, "MANIFEST_UNKNOWN", "this repository has no such manifest")
}
