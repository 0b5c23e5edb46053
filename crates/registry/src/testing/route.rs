//! Which part of the distribution API a request is for.

use kiln_plan::digest::Digest;
use kiln_testing::http::{Answer, Head};

use super::Request;
use super::errors::error;

/// What a request is for.
#[derive(Debug)]
pub(super) struct Route {
    pub(super) request: Request,
    /// The `<name>` of the path; empty where the path has none.
    pub(super) repository: String,
    /// Digest, tag or upload, by the kind of request; checked by nobody yet.
    pub(super) reference: String,
    /// The repository from which a blob is to be mounted.
    pub(super) from: Option<String>,
    /// The answer where no part of the API takes this method or this path.
    pub(super) refusal: Option<Answer>,
}

impl Route {
    /// Looks at method, path and query.
    pub(super) fn of(head: &Head) -> Self {
        let path = head.path();
        let method = head.method.as_str();
        let segments: Vec<&str> = path.split('/').skip(1).collect();
        let (name, reference, request): (&[&str], &str, Option<Request>) = match segments.as_slice() {
            ["token"] => (&[], "", either(method, &[("GET", Request::Token), ("POST", Request::Token)])),
            ["v2"] | ["v2", ""] => (&[], "", either(method, &[("GET", Request::Ping), ("HEAD", Request::Ping)])),
            ["v2", name @ .., "blobs", "uploads", ""] => (name, "", start(method, head)),
            ["v2", name @ .., "blobs", "uploads", upload] => (name, upload, on_upload(method)),
            ["v2", name @ .., "blobs", digest] => (name, digest, on_blob(method)),
            ["v2", name @ .., "manifests", reference] => (name, reference, on_manifest(method)),
            ["v2", name @ .., "tags", "list"] => (name, "", either(method, &[("GET", Request::ListTags)])),
            _ => return Self::refused("", error(404, "UNSUPPORTED", "no such path")),
        };
        let repository = name.join("/");
        let Some(request) = request else {
            return Self::refused(&repository, error(405, "UNSUPPORTED", "no such method on this path"));
        };
        let from = head.parameter("from").filter(|_| request == Request::Mount);
        let invalid = !matches!(request, Request::Ping | Request::Token) && !is_name(&repository);
        let refusal = invalid.then(|| error(400, "NAME_INVALID", "no name of a repository"));
        Self { request, repository, reference: reference.to_owned(), from, refusal }
    }

    /// The digest that the path ends with.
    pub(super) fn digest(&self) -> Result<Digest, Answer> {
        digest(&self.reference)
    }

    fn refused(repository: &str, answer: Answer) -> Self {
        let (repository, reference) = (repository.to_owned(), String::new());
        Self { request: Request::Other, repository, reference, from: None, refusal: Some(answer) }
    }
}

/// Parses a digest that a client sent.
pub(super) fn digest(text: &str) -> Result<Digest, Answer> {
    text.parse().map_err(|_| error(400, "DIGEST_INVALID", "not a SHA-256 digest"))
}

/// Whether a manifest can have this tag (OCI distribution specification, "Pulling manifests").
pub(super) fn is_tag(text: &str) -> bool {
    let word = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'_';
    let bytes = text.as_bytes();
    bytes.len() <= 128
        && bytes.first().is_some_and(|&byte| word(byte))
        && bytes.iter().all(|&byte| word(byte) || byte == b'.' || byte == b'-')
}

/// Whether a repository can have this name, about as strict as the specification.
fn is_name(text: &str) -> bool {
    let alphanumeric = |byte: &u8| byte.is_ascii_lowercase() || byte.is_ascii_digit();
    text.split('/').map(str::as_bytes).all(|part| {
        part.first().is_some_and(alphanumeric)
            && part.last().is_some_and(alphanumeric)
            && part.iter().all(|byte| alphanumeric(byte) || b"._-".contains(byte))
    })
}

fn either(method: &str, known: &[(&str, Request)]) -> Option<Request> {
    known.iter().find(|(name, _)| *name == method).map(|&(_, request)| request)
}

fn start(method: &str, head: &Head) -> Option<Request> {
    let request = if head.parameter("mount").is_some() { Request::Mount } else { Request::StartUpload };
    either(method, &[("POST", request)])
}

fn on_upload(method: &str) -> Option<Request> {
    either(
        method,
        &[
            ("PATCH", Request::PatchUpload),
            ("PUT", Request::PutUpload),
            ("GET", Request::UploadStatus),
            ("DELETE", Request::DeleteUpload),
        ],
    )
}

fn on_blob(method: &str) -> Option<Request> {
    either(method, &[("HEAD", Request::HeadBlob), ("GET", Request::GetBlob), ("DELETE", Request::DeleteBlob)])
}

fn on_manifest(method: &str) -> Option<Request> {
    either(
        method,
        &[
            ("HEAD", Request::HeadManifest),
            ("GET", Request::GetManifest),
            ("PUT", Request::PutManifest),
            ("DELETE", Request::DeleteManifest),
        ],
    )
}
