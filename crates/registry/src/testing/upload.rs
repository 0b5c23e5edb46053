//! Uploads of blobs: begun, continued, finished, cancelled, or spared by a mount.

use std::sync::Arc;

use kiln_plan::digest::Digest;
use kiln_testing::http::{Answer, Head};

use super::errors::error;
use super::route::{self, Route};
use super::state::{Received, State};

/// A blob of which a part may have arrived.
#[derive(Debug)]
pub(super) struct Upload {
    repository: String,
    bytes: Vec<u8>,
    /// How often it was continued. Locations name it, so that one that is out of date can be told.
    turn: u64,
}

impl Upload {
    /// `_state` of the latest location, decoded. It ends in a character that has to be escaped in a query, because
    /// those of CNCF distribution do, and clients are wont to decode or escape it once too often.
    fn state(&self, id: &str) -> String {
        format!("{}-{}=", &id[..8], self.turn)
    }
}

/// Where a chunk says that it belongs: `Content-Range: <first>-<last>`, both inclusive.
fn content_range(head: &Head) -> Result<Option<(usize, usize)>, Answer> {
    let Some(text) = head.field("content-range") else { return Ok(None) };
    let range = text.strip_prefix("bytes ").unwrap_or(text).split('/').next().and_then(|it| it.split_once('-'));
    let range = range.and_then(|(first, last)| first.parse().ok().zip(last.parse().ok()));
    let range = range.filter(|(first, last)| first <= last);
    range.map(Some).ok_or_else(|| error(416, "RANGE_INVALID", "no Content-Range as registries know it"))
}

impl State {
    /// A URL or a path on this registry, by the options.
    pub(super) fn location(&self, head: &Head, path: &str) -> String {
        if !self.options.absolute_location {
            return path.to_owned();
        }
        format!("http://{}{path}", head.field("host").unwrap_or(&self.address))
    }

    pub(super) fn mount(&mut self, head: &Head, route: &Route) -> Result<Answer, Answer> {
        let digest = route::digest(&head.parameter("mount").unwrap_or_default())?;
        let from = route.from.as_ref().filter(|from| self.options.mounts && self.permits(head, from, "pull"));
        let blob = from.and_then(|from| self.repositories.get(from)).and_then(|from| from.blobs.get(&digest));
        let Some(blob) = blob.map(Arc::clone) else {
            return Ok(self.begin(head, &route.repository));
        };
        self.repository(&route.repository).blobs.insert(digest, blob);
        Ok(self.created(head, &route.repository, digest))
    }

    /// Begins an upload, or takes a whole blob with `digest=`.
    pub(super) fn start_upload(&mut self, head: &Head, route: &Route, bytes: Vec<u8>) -> Result<Answer, Answer> {
        let Some(digest) = head.parameter("digest") else {
            return Ok(self.begin(head, &route.repository));
        };
        self.keep(head, &route.repository, route::digest(&digest)?, bytes)
    }

    pub(super) fn patch_upload(&mut self, head: &Head, route: &Route, body: &Received) -> Result<Answer, Answer> {
        self.append(head, route, body)?;
        Ok(self.progress(head, route, 202))
    }

    /// Takes the rest of an upload and makes it a blob; cut short, it is a `PATCH`.
    pub(super) fn put_upload(&mut self, head: &Head, route: &Route, body: &Received) -> Result<Answer, Answer> {
        self.latest(head, route)?;
        let digest = route::digest(&head.parameter("digest").unwrap_or_default())?;
        self.append(head, route, body)?;
        if !body.complete {
            return Ok(self.progress(head, route, 202));
        }
        let upload = self.uploads.remove(&route.reference).ok_or_else(unknown_upload)?;
        self.keep(head, &route.repository, digest, upload.bytes)
    }

    /// How much arrived, and the latest location, whichever the client knows.
    pub(super) fn upload_status(&mut self, head: &Head, route: &Route) -> Result<Answer, Answer> {
        self.known(route)?;
        Ok(self.progress(head, route, 204))
    }

    pub(super) fn delete_upload(&mut self, head: &Head, route: &Route) -> Result<Answer, Answer> {
        self.latest(head, route)?;
        self.uploads.remove(&route.reference);
        Ok(Answer::new(204))
    }

    fn begin(&mut self, head: &Head, repository: &str) -> Answer {
        let number = self.issue();
        let hex = Digest::of(format!("{} {number}", self.address).as_bytes()).hex();
        let id = format!("{}-{}-{}-{}-{}", &hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..32]);
        let upload = Upload { repository: repository.to_owned(), bytes: Vec::new(), turn: 0 };
        let answer = self.described(head, &id, &upload, 202);
        self.uploads.insert(id, upload);
        match self.options.min_chunk {
            Some(least) => answer.with("OCI-Chunk-Min-Length", least),
            None => answer,
        }
    }

    /// Adds a body to an upload, if it belongs at its end.
    fn append(&mut self, head: &Head, route: &Route, body: &Received) -> Result<(), Answer> {
        let range = content_range(head)?;
        let upload = self.latest(head, route)?;
        if let Some((first, last)) = range {
            if first != upload.bytes.len() {
                return Err(error(416, "RANGE_INVALID", "the chunk does not begin where the upload ends"));
            }
            if body.complete && last - first + 1 != body.bytes.len() {
                return Err(error(400, "SIZE_INVALID", "the chunk is not as long as its range"));
            }
        }
        upload.bytes.extend_from_slice(&body.bytes);
        upload.turn += 1;
        Ok(())
    }

    fn known(&mut self, route: &Route) -> Result<&mut Upload, Answer> {
        let upload = self.uploads.get_mut(&route.reference);
        upload.filter(|upload| upload.repository == route.repository).ok_or_else(unknown_upload)
    }

    /// The upload of a request that came by its latest location.
    fn latest(&mut self, head: &Head, route: &Route) -> Result<&mut Upload, Answer> {
        let upload = self.known(route)?;
        if head.parameter("_state") != Some(upload.state(&route.reference)) {
            return Err(error(400, "BLOB_UPLOAD_INVALID", "not the latest location of the upload"));
        }
        Ok(upload)
    }

    fn progress(&self, head: &Head, route: &Route, status: u16) -> Answer {
        match self.uploads.get(&route.reference) {
            Some(upload) => self.described(head, &route.reference, upload, status),
            None => unknown_upload(),
        }
    }

    /// The range of an empty upload is `0-0`, as that of one byte: so it is in CNCF distribution.
    fn described(&self, head: &Head, id: &str, upload: &Upload, status: u16) -> Answer {
        let state = upload.state(id).replace('=', "%3D");
        let location = self.location(head, &format!("/v2/{}/blobs/uploads/{id}?_state={state}", upload.repository));
        let range = format!("0-{}", upload.bytes.len().saturating_sub(1));
        Answer::new(status).with("Location", location).with("Range", range).with("Docker-Upload-UUID", id)
    }

    /// Makes bytes a blob if they are what the client says.
    fn keep(&mut self, head: &Head, repository: &str, digest: Digest, bytes: Vec<u8>) -> Result<Answer, Answer> {
        if Digest::of(&bytes) != digest {
            return Err(error(400, "DIGEST_INVALID", "the content has another digest"));
        }
        self.repository(repository).blobs.insert(digest, Arc::new(bytes));
        Ok(self.created(head, repository, digest))
    }

    fn created(&self, head: &Head, repository: &str, digest: Digest) -> Answer {
        let location = self.location(head, &format!("/v2/{repository}/blobs/{digest}"));
        Answer::new(201).with("Location", location).with("Docker-Content-Digest", digest)
    }
}

fn unknown_upload() -> Answer {
    error(404, "BLOB_UPLOAD_UNKNOWN", "no such upload in this repository")
}
