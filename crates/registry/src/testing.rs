//! A registry inside the test process that can be told to misbehave.
//!
//! Clients of registries spend most of their code on what goes wrong: connections that end in the middle of a layer,
//! tokens that expire, registries without some optional part. A real registry cannot be made to do that on demand,
//! and tests must not need the network. This one keeps to the OCI distribution specification 1.1 and, where that
//! leaves a choice, to CNCF distribution, until [`FakeRegistry::fail`] says otherwise. It is stricter than most about
//! what clients tend to get wrong: every request to an upload must use the latest `Location`.
//!
//! Only std networking, so that it shares nothing with the client that it tests.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "test support: a panic is a failed test")]

mod connection;
mod content;
mod errors;
mod route;
mod spy;
mod state;
#[cfg(test)]
mod tests;
mod token;
mod upload;

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use kiln_oci::image::{Descriptor, INDEX, Index, MANIFEST, PlatformObject, to_json};
use kiln_oci::layout::Layout;
use kiln_plan::digest::Digest;
use kiln_testing::{Listener, Server};

use connection::Shared;
pub use spy::Spy;
use state::Queued;

/// The parts of the distribution API, as faults and logs tell them apart.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Request {
    /// `GET /v2/`.
    Ping,
    /// `GET` or `POST /token`.
    Token,
    /// `HEAD` of a blob.
    HeadBlob,
    /// `GET` of a blob, whole or a range.
    GetBlob,
    /// `DELETE` of a blob.
    DeleteBlob,
    /// `POST` to uploads with `mount=`, whether it is granted or becomes an upload.
    Mount,
    /// `POST` to uploads without `mount=`, also with `digest=` and the whole content.
    StartUpload,
    /// `PATCH` of an upload.
    PatchUpload,
    /// `PUT` of an upload.
    PutUpload,
    /// `GET` of an upload.
    UploadStatus,
    /// `DELETE` of an upload.
    DeleteUpload,
    /// `HEAD` of a manifest or index.
    HeadManifest,
    /// `GET` of a manifest or index.
    GetManifest,
    /// `PUT` of a manifest or index.
    PutManifest,
    /// `DELETE` of a manifest or index.
    DeleteManifest,
    /// `GET` of `tags/list`.
    ListTags,
    /// Anything else; answered 400, 404 or 405. Not in [`Request::ALL`].
    Other,
}

impl Request {
    /// Every part of the API that this registry knows.
    pub const ALL: [Self; 16] = [
        Self::Ping,
        Self::Token,
        Self::HeadBlob,
        Self::GetBlob,
        Self::DeleteBlob,
        Self::Mount,
        Self::StartUpload,
        Self::PatchUpload,
        Self::PutUpload,
        Self::UploadStatus,
        Self::DeleteUpload,
        Self::HeadManifest,
        Self::GetManifest,
        Self::PutManifest,
        Self::DeleteManifest,
        Self::ListTags,
    ];

    /// Whether it changes what the registry holds.
    fn writes(self) -> bool {
        matches!(self, Self::DeleteBlob | Self::PutManifest | Self::DeleteManifest | Self::DeleteUpload)
            || self.uploads()
    }

    /// Whether its body is content of a blob.
    fn uploads(self) -> bool {
        self.continues_upload() || matches!(self, Self::Mount | Self::StartUpload)
    }

    /// Whether its body is added to an upload, so that a part of it is worth keeping.
    fn continues_upload(self) -> bool {
        matches!(self, Self::PatchUpload | Self::PutUpload)
    }
}

/// One way to misbehave. Where it makes no sense (other content in an answer without a body) the answer is proper.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fault {
    /// Reads the head of the request, not the body, and closes the connection.
    Drop,
    /// Sends so many bytes of the body under the `Content-Length` of the whole and closes the connection. `PATCH` and
    /// `PUT` of an upload: takes so many bytes of the request's body, keeps them in the upload, and closes without an
    /// answer.
    DropAfter(usize),
    /// Does all that was asked and closes the connection without an answer.
    DropAnswer,
    /// Reads the request, ignores it and answers this status, with `Retry-After` in seconds.
    Status(u16, Option<u64>),
    /// Waits, then does what was asked and answers properly.
    Slow(Duration),
    /// A body cut to so many bytes under a `Content-Length` that agrees with the cut.
    Truncated(usize),
    /// A body of the same length in which bits are flipped, the first in its middle.
    OtherContent,
    /// The `Docker-Content-Digest` of the answer is another one.
    OtherDigest,
    /// The body and then zeros in chunked transfer encoding, until the peer closes or 64 MiB are sent.
    Endless,
    /// Does what was asked, answers bytes that are not HTTP and closes the connection.
    Garbage,
    /// Reads the request, ignores it and answers this status with the `Location` of the same path at another address:
    /// scheme, host and port.
    Redirect(u16, String),
    /// Does what was asked, and an upload's `Location` in the answer has this address.
    Location(String),
    /// 401 with the proper challenge although the credentials are right, as for a token that expired on the way.
    Unauthorized,
}

/// Who may do what.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Auth {
    /// Everybody everything.
    None,
    /// HTTP basic authentication for everything.
    Basic {
        /// The only user.
        user: String,
        /// Their password.
        password: String,
    },
    /// Tokens from `/token` of the same address (distribution's "token authentication specification").
    Bearer {
        /// The only user, who gets every scope that is asked for.
        user: String,
        /// Their password.
        password: String,
        /// Whether those without credentials get tokens that can pull.
        anonymous_pull: bool,
        /// The refresh token for which `POST /token` grants every scope that is asked for.
        identity_token: Option<String>,
    },
}

/// What this registry supports. The default is everything, for everybody.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Options {
    /// Who may do what.
    pub auth: Auth,
    /// `false`: a request to mount a blob becomes an upload (202).
    pub mounts: bool,
    /// `false`: 405 to every `HEAD`.
    pub heads: bool,
    /// `false`: 405 to `DELETE` of blobs and manifests. Uploads can still be cancelled, as in CNCF distribution.
    pub deletes: bool,
    /// Writes are answered 405 with code `UNSUPPORTED`, as CNCF distribution does in read-only mode.
    pub read_only: bool,
    /// 413 for bodies of blob uploads of more bytes than that.
    pub largest_body: Option<u64>,
    /// The most tags in one answer of `tags/list`.
    pub page: usize,
    /// `OCI-Chunk-Min-Length` of answers that start an upload. Smaller chunks are accepted all the same.
    pub min_chunk: Option<u64>,
    /// `false`: `GET` of a blob ignores `Range` and answers 200.
    pub ranges: bool,
    /// Whether `Location` is a URL, or else a path.
    pub absolute_location: bool,
    /// How long a token lives: `expires_in`, in seconds. 0: every token has expired when it is issued.
    pub token_seconds: u64,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            auth: Auth::None,
            mounts: true,
            heads: true,
            deletes: true,
            read_only: false,
            largest_body: None,
            page: 100,
            min_chunk: None,
            ranges: true,
            absolute_location: true,
            token_seconds: 300,
        }
    }
}

/// A request that was answered, or dropped.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Logged {
    /// What it was.
    pub request: Request,
    /// The HTTP method.
    pub method: String,
    /// The path with the query, as sent.
    pub path: String,
    /// The status of the answer; 0 where the connection was closed before one.
    pub status: u16,
}

/// A registry that listens on a port of the loopback interface until it is dropped.
#[derive(Debug)]
pub struct FakeRegistry {
    shared: Arc<Shared>,
    /// Ends with the registry.
    _server: Server,
}

impl FakeRegistry {
    /// Starts a registry that is open to everybody and supports everything.
    pub fn start() -> Self {
        Self::with(Options::default())
    }

    /// Starts a registry with these options.
    pub fn with(options: Options) -> Self {
        let listener = Listener::bind();
        let shared = Arc::new(Shared::new(listener.address().to_owned(), options));
        let answering = Arc::clone(&shared);
        let server = listener.serve(move |stream, head, input| connection::answer(&answering, stream, head, input));
        Self { shared, _server: server }
    }

    /// Host and port: `127.0.0.1:PORT`.
    pub fn address(&self) -> String {
        self.shared.address.clone()
    }

    /// The next `times` requests of this kind misbehave so. Faults of one kind of request happen in the order in
    /// which they were queued.
    ///
    /// A request that is refused for want of credentials uses up no fault, or else the challenge with which most
    /// clients begin would; [`Request::Ping`] and [`Request::Token`] do, except [`Fault::Unauthorized`].
    pub fn fail(&self, request: Request, fault: Fault, times: usize) {
        self.fail_after(request, 0, fault, times);
    }

    /// Lets `skip` requests of this kind pass, counted from when the faults queued before have happened; the next
    /// `times` misbehave so.
    pub fn fail_after(&self, request: Request, skip: usize, fault: Fault, times: usize) {
        if times > 0 {
            self.shared.state().faults.push(Queued { request, skip, fault, times });
        }
    }

    /// Forgets the faults that have not happened.
    pub fn forgive(&self) {
        self.shared.state().faults.clear();
    }

    /// How many faults are queued that have not happened.
    pub fn pending_faults(&self) -> usize {
        self.shared.state().faults.iter().fold(0, |sum, queued| sum.saturating_add(queued.times))
    }

    /// Takes the requests since the last call, in the order of their answers. A client that has an answer finds it
    /// here.
    pub fn log(&self) -> Vec<Logged> {
        std::mem::take(&mut self.shared.state().log)
    }

    /// Bytes of blob uploads received in all, whatever became of them: bodies of `POST`, `PATCH` and `PUT` to uploads.
    pub fn received(&self) -> u64 {
        self.shared.received.load(Ordering::SeqCst)
    }

    /// Bytes of bodies sent in all.
    pub fn sent(&self) -> u64 {
        self.shared.sent.load(Ordering::SeqCst)
    }

    /// Puts a blob into a repository.
    pub fn add_blob(&self, repository: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.shared.state().repository(repository).blobs.insert(digest, Arc::new(bytes.to_vec()));
        digest
    }

    /// Puts a manifest into a repository under a tag or a digest, without looking at it. Under a digest that is not
    /// its own it is served all the same, as by a registry that lies. The result is its own digest.
    pub fn add_manifest(&self, repository: &str, reference: &str, media_type: &str, bytes: &[u8]) -> Digest {
        let digest = Digest::of(bytes);
        self.shared.state().repository(repository).put(reference, digest, media_type, bytes.to_vec());
        digest
    }

    /// Adds the images of a layout, as its index lists them. Returns the reference.
    pub fn add_layout(&self, layout: &Path, repository: &str, tag: &str) -> String {
        let opened = Layout::open(layout).unwrap();
        let mut manifests = Vec::new();
        for (_, found) in opened.images().unwrap() {
            for layer in &found.image.layers {
                self.add_blob(repository, &fs_err::read(opened.blob_path(&layer.digest)).unwrap());
            }
            self.add_blob(repository, &found.config_bytes);
            let digest = found.image.manifest.to_string();
            self.add_manifest(repository, &digest, MANIFEST, &found.manifest_bytes);
            let mut entry = Descriptor::of(MANIFEST, &found.manifest_bytes);
            entry.platform = Some(PlatformObject::new(found.image.platform));
            manifests.push(entry);
        }
        self.add_manifest(repository, tag, INDEX, &to_json(&Index::new(manifests)).unwrap());
        format!("{}/{repository}:{tag}", self.address())
    }

    /// Whether a repository has a blob.
    pub fn has_blob(&self, repository: &str, digest: &Digest) -> bool {
        self.blob(repository, digest).is_some()
    }

    /// The bytes of a blob of a repository.
    pub fn blob(&self, repository: &str, digest: &Digest) -> Option<Vec<u8>> {
        let state = self.shared.state();
        state.repositories.get(repository)?.blobs.get(digest).map(|bytes| bytes.to_vec())
    }

    /// Removes a blob from a repository, whoever refers to it.
    pub fn remove_blob(&self, repository: &str, digest: &Digest) {
        if let Some(repository) = self.shared.state().repositories.get_mut(repository) {
            repository.blobs.remove(digest);
        }
    }

    /// The media type and the bytes of the manifest with a tag or digest.
    pub fn manifest(&self, repository: &str, reference: &str) -> Option<(String, Vec<u8>)> {
        let state = self.shared.state();
        let (_, manifest) = state.repositories.get(repository)?.manifest(reference)?;
        Some((manifest.media_type.clone(), manifest.bytes.clone()))
    }

    /// The tags of a repository, sorted.
    pub fn tags(&self, repository: &str) -> Vec<String> {
        let state = self.shared.state();
        state.repositories.get(repository).map(|it| it.tags.keys().cloned().collect()).unwrap_or_default()
    }

    /// Changes the options for the requests that follow.
    pub fn set_options(&self, change: impl FnOnce(&mut Options)) {
        change(&mut self.shared.state().options);
    }

    /// Whether all that can be reached from every tag of every repository is in that repository with the digest and
    /// the size by which it is referred to: index, manifests, config and layers. The error says what is wrong.
    pub fn check(&self) -> Result<(), String> {
        let state = self.shared.state();
        state.repositories.iter().try_for_each(|(name, it)| it.check().map_err(|why| format!("{name}{why}")))
    }
}
