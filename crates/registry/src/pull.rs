//! What comes from a registry: manifests, blobs, tags. Everything with a digest is checked against it.

use std::io::{self, Read};
use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use kiln_plan::digest::Digest;
use kiln_plan::reference::{Reference, Repository, is_tag};
use reqwest::header::{ACCEPT, CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, LINK, RANGE};
use reqwest::{Method, Response, StatusCode};
use serde::Deserialize;
use sha2::{Digest as _, Sha256};
use url::Url;

use super::client::{Failure, Inner, Purpose, Scope};
use super::{Registries, RegistryError};
use kiln_oci::document;
use kiln_oci::image::{DOCKER_INDEX, DOCKER_MANIFEST, INDEX, MANIFEST};

/// Questions that are asked at once.
pub(super) const QUESTIONS: usize = 16;
/// Bytes that a manifest or an index may have: registries take 4 MiB (OCI distribution specification, "Pushing manifests").
const MANIFEST_LIMIT: u64 = 4 << 20;
/// Bytes of a page of tags.
const TAGS_LIMIT: u64 = 4 << 20;
/// Tags that are read of one repository.
const MOST_TAGS: usize = 1_000_000;
const CONTENT_DIGEST: &str = "docker-content-digest";

/// A manifest or an index, as a registry holds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document {
    /// What it is.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its bytes.
    pub bytes: Vec<u8>,
}

impl Registries {
    /// A manifest or an index.
    pub fn manifest(&self, reference: &Reference) -> Result<Document, RegistryError> {
        self.run(self.inner.manifest(reference))
    }

    /// Manifests, many at a time, in the same order; nothing for those that are not there.
    pub fn manifests(&self, references: &[Reference]) -> Result<Vec<Option<Document>>, RegistryError> {
        use futures_util::{StreamExt as _, TryStreamExt as _};
        let ask = |reference: &Reference| {
            let reference = reference.clone();
            async move {
                match self.inner.manifest(&reference).await {
                    Ok(document) => Ok(Some(document)),
                    Err(error) if error.is_not_found() => Ok(None),
                    Err(error) => Err(error),
                }
            }
        };
        let asked = futures_util::stream::iter(references.iter().map(ask));
        self.run(asked.buffered(QUESTIONS).try_collect())
    }

    /// The digest of what a reference names, if it names anything.
    pub fn digest(&self, reference: &Reference) -> Result<Option<Digest>, RegistryError> {
        self.run(self.inner.head_manifest(reference))
    }

    /// A small blob, whole.
    pub fn blob(&self, repository: &Repository, digest: &Digest, limit: u64) -> Result<Vec<u8>, RegistryError> {
        self.run(self.inner.blob(repository, digest, limit))
    }

    /// Asks for the size of a blob, in bytes.
    pub fn blob_size(&self, repository: &Repository, digest: &Digest) -> Result<u64, RegistryError> {
        let inner = &self.inner;
        let path = format!("{}/blobs/{digest}", repository.path);
        self.run(async {
            let what = format!("asking for the size of {digest} of {repository}");
            let purpose = inner.purpose(what, repository, Scope::pull(repository))?;
            let ask = async || inner.ask(&purpose, Method::HEAD, |base| join(&purpose, base, &path), |r| r).await;
            let response = inner.patiently(&purpose, ask).await?;
            let length = response.headers().get(CONTENT_LENGTH).and_then(|length| length.to_str().ok()?.parse().ok());
            length.ok_or_else(|| purpose.nonsense("does not say how long it is"))
        })
    }

    /// Reads a blob of so many bytes from some place on. It is checked while it is read, if it is read from the start.
    pub fn blob_reader(
        &self,
        repository: &Repository,
        digest: &Digest,
        size: u64,
        from: u64,
    ) -> Result<BlobReader, RegistryError> {
        let what = format!("reading {digest} of {repository}");
        let purpose = self.inner.purpose(what, repository, Scope::pull(repository))?;
        let hasher = (from == 0).then(Sha256::new);
        Ok(BlobReader {
            registries: self.clone(),
            purpose: Arc::new(purpose),
            path: format!("{}/blobs/{digest}", repository.path),
            digest: *digest,
            size,
            position: from,
            hasher,
            response: None,
            to_skip: 0,
            chunk: Bytes::new(),
        })
    }

    /// Every tag of a repository, in the registry's order; none where there is no such repository.
    pub fn tags(&self, repository: &Repository) -> Result<Vec<String>, RegistryError> {
        self.run(self.inner.tags(repository))
    }

    /// Removes a manifest, or a tag where the registry knows that.
    pub fn delete(&self, reference: &Reference) -> Result<(), RegistryError> {
        self.run(async {
            let repository = &reference.repository;
            let purpose = self.inner.purpose(format!("removing {reference}"), repository, Scope::push(repository))?;
            let path = format!("{}/manifests/{}", repository.path, reference.selector());
            let ask =
                async || self.inner.ask(&purpose, Method::DELETE, |base| join(&purpose, base, &path), |r| r).await;
            match self.inner.patiently(&purpose, ask).await {
                Err(error) if error.is_not_found() => Ok(()),
                other => other.map(drop),
            }
        })
    }
}

/// An address below that of the registry's API.
pub(super) fn join(purpose: &Purpose, base: &Url, path: &str) -> Result<Url, RegistryError> {
    base.join(path).map_err(|_| purpose.nonsense(format!("cannot be asked for `{path}`")))
}

impl Inner {
    pub(super) async fn manifest(&self, reference: &Reference) -> Result<Document, RegistryError> {
        let repository = &reference.repository;
        let purpose = self.purpose(format!("reading {reference}"), repository, Scope::pull(repository))?;
        self.patiently(&purpose, async || self.read_manifest(&purpose, reference).await).await
    }

    async fn read_manifest(&self, purpose: &Purpose, reference: &Reference) -> Result<Document, Failure> {
        let response = self.ask_manifest(purpose, Method::GET, reference).await?;
        let headers = response.headers().clone();
        let bytes = self.body(purpose, response, MANIFEST_LIMIT).await?;
        let digest = Digest::of(&bytes);
        let said = content_digest(&headers);
        if let Some(expected) = reference.digest.or(said).filter(|expected| *expected != digest) {
            return Err(Failure::Again(purpose.other_content(expected, digest), None));
        }
        let Some(media_type) = media_type(&headers, &bytes) else {
            // It came whole: the next one will be the same.
            let kind = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or("of no type");
            return Err(Failure::Final(purpose.nonsense(format!("is not a manifest ({kind})"))));
        };
        Ok(Document { media_type, digest, bytes })
    }

    async fn ask_manifest(
        &self,
        purpose: &Purpose,
        method: Method,
        reference: &Reference,
    ) -> Result<Response, Failure> {
        let path = format!("{}/manifests/{}", reference.repository.path, reference.selector());
        let accept = [INDEX, MANIFEST, DOCKER_INDEX, DOCKER_MANIFEST].join(", ");
        self.ask(purpose, method, |base| join(purpose, base, &path), |request| request.header(ACCEPT, &accept)).await
    }

    /// The digest of what a reference names, if it names anything.
    pub(super) async fn head_manifest(&self, reference: &Reference) -> Result<Option<Digest>, RegistryError> {
        let repository = &reference.repository;
        let purpose = self.purpose(format!("looking for {reference}"), repository, Scope::pull(repository))?;
        let asked = self.patiently(&purpose, async || self.ask_manifest(&purpose, Method::HEAD, reference).await).await;
        match asked {
            Ok(response) => match content_digest(response.headers()) {
                Some(digest) => Ok(Some(digest)),
                None => self.manifest(reference).await.map(|document| Some(document.digest)),
            },
            Err(error) if error.is_not_found() => Ok(None),
            // A registry that does not answer such requests, or not sensibly, may still answer whole ones.
            Err(error) if error.is_refusal() => match self.manifest(reference).await {
                Ok(document) => Ok(Some(document.digest)),
                Err(error) if error.is_not_found() => Ok(None),
                Err(error) => Err(error),
            },
            Err(error) => Err(error),
        }
    }

    async fn blob(&self, repository: &Repository, digest: &Digest, limit: u64) -> Result<Vec<u8>, RegistryError> {
        let purpose = self.purpose(format!("reading {digest} of {repository}"), repository, Scope::pull(repository))?;
        let path = format!("{}/blobs/{digest}", repository.path);
        let read = async || {
            let response = self.ask(&purpose, Method::GET, |base| join(&purpose, base, &path), |r| r).await?;
            let bytes = self.body(&purpose, response, limit).await?;
            match Digest::of(&bytes) {
                found if found == *digest => Ok(bytes),
                found => Err(Failure::Again(purpose.other_content(*digest, found), None)),
            }
        };
        self.patiently(&purpose, read).await
    }

    async fn tags(&self, repository: &Repository) -> Result<Vec<String>, RegistryError> {
        #[derive(Deserialize)]
        struct Page {
            #[serde(default)]
            tags: Option<Vec<String>>,
        }
        let purpose = self.purpose(format!("listing {repository}"), repository, Scope::pull(repository))?;
        let first = format!("{}/tags/list?n=1000", repository.path);
        let mut next: Option<Url> = None;
        let mut tags = Vec::new();
        loop {
            let read = async || {
                let url = |base: &Url| next.clone().map_or_else(|| join(&purpose, base, &first), Ok);
                let response = self.ask(&purpose, Method::GET, url, |r| r).await?;
                let link = next_page(response.headers()).and_then(|link| response.url().join(&link).ok());
                let bytes = self.body(&purpose, response, TAGS_LIMIT).await?;
                let page: Page = serde_json::from_slice(&bytes)
                    .map_err(|_| Failure::Again(purpose.nonsense("is not a list of tags"), None))?;
                Ok((page.tags.unwrap_or_default(), link))
            };
            let (page, link) = match self.patiently(&purpose, read).await {
                Ok(read) => read,
                Err(error) if error.is_not_found() => break,
                Err(error) => return Err(error),
            };
            let more = !page.is_empty() && tags.len() + page.len() <= MOST_TAGS;
            // What cannot be a tag cannot be asked for either.
            tags.extend(page.into_iter().filter(|tag| is_tag(tag)));
            match link.filter(|link| more && next.as_ref() != Some(link)) {
                Some(link) => next = Some(link),
                None => break,
            }
        }
        Ok(tags)
    }
}

impl Purpose {
    pub(super) fn other_content(&self, expected: Digest, found: Digest) -> RegistryError {
        RegistryError::Content {
            what: self.what.clone(),
            registry: self.host.name.clone(),
            expected,
            found: format!(": {found}"),
        }
    }
}

pub(super) fn content_digest(headers: &HeaderMap) -> Option<Digest> {
    headers.get(CONTENT_DIGEST)?.to_str().ok()?.parse().ok()
}

/// What a document says that it is; the header decides where it is silent.
fn media_type(headers: &HeaderMap, bytes: &[u8]) -> Option<String> {
    let said = headers.get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
    document::media_type(bytes, said.map(|value| value.split(';').next().unwrap_or(value).trim()))
}

/// The next page of a list (RFC 8288).
fn next_page(headers: &HeaderMap) -> Option<String> {
    let values = headers.get_all(LINK).into_iter().filter_map(|value| value.to_str().ok());
    values.flat_map(|value| value.split(',')).find_map(|link| {
        let (address, parameters) = link.trim().strip_prefix('<')?.split_once('>')?;
        let next = |parameter: &str| matches!(parameter.trim(), "rel=next" | "rel=\"next\"");
        parameters.split(';').any(next).then(|| address.to_owned())
    })
}

/// Reads a blob as it comes. A connection that breaks is taken up where it broke.
#[derive(Debug)]
pub struct BlobReader {
    registries: Registries,
    purpose: Arc<Purpose>,
    path: String,
    digest: Digest,
    size: u64,
    position: u64,
    /// Nothing where the reader began in the middle.
    hasher: Option<Sha256>,
    response: Option<Response>,
    /// Bytes at the beginning of the answer that were read before.
    to_skip: u64,
    chunk: Bytes,
}

impl BlobReader {
    /// The next bytes; none at the end. The last come only when the digest of all has been checked.
    async fn next(&mut self) -> Result<Bytes, RegistryError> {
        let registries = self.registries.clone();
        let inner = &registries.inner;
        if self.position < self.size {
            let purpose = self.purpose.clone();
            let chunk = inner.patiently(&purpose, async || self.receive(inner).await).await?;
            if let Some(hasher) = &mut self.hasher {
                hasher.update(&chunk);
            }
            self.position += chunk.len() as u64;
            if self.position < self.size {
                return Ok(chunk);
            }
            return self.check().map(|()| chunk);
        }
        self.check().map(|()| Bytes::new())
    }

    async fn receive(&mut self, inner: &Inner) -> Result<Bytes, Failure> {
        let mut response = match self.response.take() {
            Some(response) => response,
            None => self.request(inner).await?,
        };
        let mut left = self.to_skip;
        let chunk = loop {
            let mut chunk = match inner.answer(&self.purpose, response.chunk()).await {
                Ok(Some(chunk)) => chunk,
                ended => {
                    let early = || Failure::Again(self.purpose.unavailable("ended its answer too early"), None);
                    let failure = ended.err().unwrap_or_else(early);
                    return Err(failure.at(&Method::GET, || self.purpose.host.shown(response.url())));
                }
            };
            inner.received.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            let skipped = usize::try_from(left).map_or(chunk.len(), |left| left.min(chunk.len()));
            left -= skipped as u64;
            let rest = chunk.split_off(skipped);
            if !rest.is_empty() {
                break rest;
            }
        };
        if self.position + chunk.len() as u64 > self.size {
            let (purpose, expected) = (&self.purpose, self.digest);
            let found = format!(": more than the {} bytes that its size says", self.size);
            let (what, registry) = (purpose.what.clone(), purpose.host.name.clone());
            return Err(Failure::Final(RegistryError::Content { what, registry, expected, found }));
        }
        self.to_skip = 0;
        self.response = Some(response);
        Ok(chunk)
    }

    async fn request(&mut self, inner: &Inner) -> Result<Response, Failure> {
        let from = self.position;
        let shape = |request: reqwest::RequestBuilder| match from {
            0 => request,
            from => request.header(RANGE, format!("bytes={from}-")),
        };
        let response =
            inner.ask(&self.purpose, Method::GET, |base| join(&self.purpose, base, &self.path), shape).await?;
        let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
        let continues =
            response.status() == StatusCode::PARTIAL_CONTENT && range.starts_with(&format!("bytes {from}-"));
        // A registry that knows no ranges sends everything again.
        self.to_skip = if continues { 0 } else { from };
        Ok(response)
    }

    fn check(&mut self) -> Result<(), RegistryError> {
        let Some(hasher) = self.hasher.take() else { return Ok(()) };
        match Digest::finish(hasher) {
            found if found == self.digest => Ok(()),
            found => Err(self.purpose.other_content(self.digest, found)),
        }
    }
}

impl Read for BlobReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() {
            return Ok(0);
        }
        if self.chunk.is_empty() {
            let handle = self.registries.runtime.handle().clone();
            self.chunk = handle.block_on(self.next())?;
        }
        let taken = self.chunk.len().min(buffer.len());
        buffer[..taken].copy_from_slice(&self.chunk.split_to(taken));
        Ok(taken)
    }
}
