//! What goes to a registry: blobs first, then manifests, then tags.
//!
//! A blob moves only where it must: it may be there, or in another repository of the same registry, from where it is
//! mounted. Else it is sent in one request, as containerd does; where a connection breaks, the registry is asked how much
//! arrived and the rest follows in patches (one that cannot say, as CNCF distribution before version 3, gets the blob
//! anew); where a request may not be as long, it is cut. The registry checks the digest of what arrived before it takes
//! it.

use std::io::{ErrorKind, Read};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, PoisonError};
use std::time::{Duration, Instant};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _};
use kiln_plan::digest::Digest;
use kiln_plan::event::Work;
use kiln_plan::reference::{Reference, Repository};
use reqwest::header::{CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderMap, LOCATION, RANGE};
use reqwest::{Body, Method, Response, StatusCode};
use sha2::{Digest as _, Sha256};
use tokio::sync::mpsc;
use tracing::Instrument as _;
use url::Url;

use super::client::{Failure, Inner, Purpose, Scope};
use super::pull::{QUESTIONS, content_digest, join};
use super::{Registries, RegistryError};

/// Blobs that are sent at once.
const TRANSFERS: usize = 4;
/// Bytes that are read at once, and pieces that wait to be sent.
const PIECE: usize = 256 << 10;
const PIECES: usize = 4;
/// Lengths of requests to try, in bytes, where one for the whole blob is too long for a registry or what is before it.
const CUTS: [u64; 5] = [64 << 20, 16 << 20, 4 << 20, 1 << 20, 512 << 10];
/// Bytes a second at which a slow registry checks and keeps a blob that has arrived.
const KEEPING: u64 = 10 << 20;
/// How often one blob may be refused before that is believed.
const REFUSALS: u32 = 2;

/// Opens content to be read from some byte on.
pub type Open = Arc<dyn Fn(u64) -> std::io::Result<Box<dyn Read + Send>> + Send + Sync>;

/// A blob that is to be on a registry.
#[derive(Clone)]
pub struct Upload {
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// Repositories of the same registry that may have it, the likeliest first.
    pub mounts: Vec<Repository>,
    /// Where its bytes are; nothing if they are only to be mounted.
    pub open: Option<Open>,
}

impl Upload {
    /// A few bytes of this program's own.
    pub fn bytes(bytes: impl Into<Arc<[u8]>>) -> Self {
        let content: Arc<[u8]> = bytes.into();
        let (digest, size) = (Digest::of(&content), content.len() as u64);
        let open: Open = Arc::new(move |from| {
            let mut content = std::io::Cursor::new(content.clone());
            content.set_position(from);
            Ok(Box::new(content))
        });
        Self { digest, size, mounts: Vec::new(), open: Some(open) }
    }
}

impl std::fmt::Debug for Upload {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Upload({}, {} bytes)", self.digest, self.size)
    }
}

/// How a blob came to be on a registry.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Moved {
    /// It was there.
    There,
    /// It was in another repository.
    Mounted,
    /// It was sent.
    Sent,
    /// It is not there, and its bytes could not be had.
    Missing,
}

/// Where an upload has got to.
struct Session {
    location: Url,
    /// Bytes that the registry has.
    offset: u64,
    /// The shortest request that it wants, except for the last.
    least: u64,
}

impl Registries {
    /// Makes sure that blobs are in a repository; how each came to be there, in the same order.
    pub fn push_blobs(
        &self,
        to: &Repository,
        uploads: &[Upload],
        work: &Work<'_>,
    ) -> Result<Vec<Moved>, RegistryError> {
        self.run(self.push_all(to, uploads, work))
    }

    async fn push_all(
        &self,
        to: &Repository,
        uploads: &[Upload],
        work: &Work<'_>,
    ) -> Result<Vec<Moved>, RegistryError> {
        let inner = &self.inner;
        let purpose = inner.purpose(format!("pushing to {to}"), to, Scope::push(to))?;
        let questions = uploads.iter().map(|upload| inner.seems_to_have(&purpose, to, &upload.digest));
        let there: Vec<bool> = futures_util::stream::iter(questions).buffered(QUESTIONS).try_collect().await?;
        let mut order: Vec<usize> = (0..uploads.len()).collect();
        // The largest first, so that none is left alone at the end.
        order.sort_by_key(|at| (std::cmp::Reverse(uploads[*at].size), *at));
        let mut moved = vec![Moved::There; uploads.len()];
        let (mut absent, mut present) = (Vec::new(), 0);
        for at in order {
            if there[at] { present += uploads[at].size } else { absent.push(at) }
        }
        work.advance(present)?;
        let moves = absent.into_iter().map(|at| {
            let (purpose, upload) = (&purpose, &uploads[at]);
            async move { inner.push_blob(purpose, to, upload, work).await.map(|moved| (at, moved)) }
        });
        let done: Vec<(usize, Moved)> =
            futures_util::stream::iter(moves).buffer_unordered(TRANSFERS).try_collect().await?;
        for (at, how) in done {
            moved[at] = how;
        }
        Ok(moved)
    }

    /// Which of these blobs a repository does not have.
    pub fn missing_blobs(&self, repository: &Repository, digests: &[Digest]) -> Result<Vec<Digest>, RegistryError> {
        let what = format!("looking for layers in {repository}");
        let purpose = self.inner.purpose(what, repository, Scope::pull(repository))?;
        let asked = digests.iter().map(|digest| self.inner.has_blob(&purpose, repository, digest));
        let there: Vec<bool> = self.run(futures_util::stream::iter(asked).buffered(QUESTIONS).try_collect())?;
        Ok(digests.iter().zip(there).filter(|(_, there)| !there).map(|(digest, _)| *digest).collect())
    }

    /// Puts a manifest or an index under its digest, or under a tag.
    pub fn push_manifest(&self, to: &Reference, media_type: &str, bytes: &[u8]) -> Result<(), RegistryError> {
        self.run(self.inner.push_manifest(to, media_type, bytes))
    }

    /// Puts several, many at a time; what came of each, in the same order.
    pub fn push_manifests(&self, all: &[(Reference, String, Vec<u8>)]) -> Vec<Result<(), RegistryError>> {
        let put = all.iter().map(|(to, media_type, bytes)| self.inner.push_manifest(to, media_type, bytes));
        self.run(futures_util::stream::iter(put).buffered(QUESTIONS).collect())
    }
}

impl Inner {
    async fn push_manifest(&self, to: &Reference, media_type: &str, bytes: &[u8]) -> Result<(), RegistryError> {
        let repository = &to.repository;
        let purpose = self.purpose(format!("pushing {to}"), repository, Scope::push(repository))?;
        let path = format!("{}/manifests/{}", repository.path, to.selector());
        let body = Bytes::copy_from_slice(bytes);
        let digest = Digest::of(bytes);
        let put = async || {
            let shape = |request: reqwest::RequestBuilder| request.header(CONTENT_TYPE, media_type).body(body.clone());
            let response = self.ask(&purpose, Method::PUT, |base| join(&purpose, base, &path), shape).await?;
            same_digest(&purpose, response.headers(), digest)
        };
        self.patiently(&purpose, put).await
    }

    /// Whether a repository has a blob. A registry that does not answer such questions is taken not to.
    async fn has_blob(&self, purpose: &Purpose, to: &Repository, digest: &Digest) -> Result<bool, RegistryError> {
        let path = format!("{}/blobs/{digest}", to.path);
        let ask = async || self.ask(purpose, Method::HEAD, |base| join(purpose, base, &path), |r| r).await;
        match self.patiently(purpose, ask).await {
            Ok(response) => Ok(content_digest(response.headers()).is_none_or(|found| found == *digest)),
            Err(RegistryError::NotFound { .. } | RegistryError::Refused { .. }) => Ok(false),
            Err(error) => Err(error),
        }
    }

    /// Returns true if a repository has a blob, as far as the registry tells: one may write where one may not look.
    async fn seems_to_have(&self, purpose: &Purpose, to: &Repository, digest: &Digest) -> Result<bool, RegistryError> {
        match self.has_blob(purpose, to, digest).await {
            Err(error) if error.is_refusal() => Ok(false),
            found => found,
        }
    }

    async fn push_blob(
        &self,
        purpose: &Purpose,
        to: &Repository,
        upload: &Upload,
        work: &Work<'_>,
    ) -> Result<Moved, RegistryError> {
        let what = format!("pushing {} to {to}", upload.digest);
        let purpose = &Purpose { what, ..purpose.clone() };
        let mut session = None;
        for from in upload.mounts.iter().filter(|from| from.registry == to.registry && *from != to) {
            // With a token of its own: who may not read there may still write here.
            let scope = Scope::push(to).and(from, &["pull"]);
            let mounting = Purpose { scope, ..purpose.clone() };
            match self.mount(&mounting, to, upload, from).await? {
                Ok(()) => {
                    work.advance(upload.size)?;
                    return Ok(Moved::Mounted);
                }
                Err(begun) => session = begun.or(session),
            }
        }
        let Some(open) = &upload.open else { return Ok(Moved::Missing) };
        self.send(purpose, to, upload, open, session, work).await
    }

    /// Mounts a blob; where the registry would rather have it uploaded, the upload that it began, if it did.
    async fn mount(
        &self,
        purpose: &Purpose,
        to: &Repository,
        upload: &Upload,
        from: &Repository,
    ) -> Result<Result<(), Option<Session>>, RegistryError> {
        let path = format!("{}/blobs/uploads/?mount={}&from={}", to.path, upload.digest, from.path);
        let ask = async || {
            let response = self
                .ask(purpose, Method::POST, |base| join(purpose, base, &path), |r| r.header(CONTENT_LENGTH, 0))
                .await?;
            match response.status() {
                StatusCode::CREATED => same_digest(purpose, response.headers(), upload.digest).map(Ok),
                _ => Ok(Err(Some(purpose.session(&response)?))),
            }
        };
        match self.patiently(purpose, ask).await {
            Err(RegistryError::Interrupted) => Err(RegistryError::Interrupted),
            // A registry that knows no mounts, or does not let one read there, may say so in many ways.
            Err(_) => Ok(Err(None)),
            other => other,
        }
    }

    /// Sends a blob, going on where an attempt stopped.
    async fn send(
        &self,
        purpose: &Purpose,
        to: &Repository,
        upload: &Upload,
        open: &Open,
        mut session: Option<Session>,
        work: &Work<'_>,
    ) -> Result<Moved, RegistryError> {
        let mut cut = None;
        let (mut furthest, mut refused) = (0, 0);
        let step = async || {
            let mut at = match session.take() {
                Some(session) => session,
                None => self.begin(purpose, to).await?,
            };
            let before = furthest;
            let sent = self.send_rest(purpose, upload, open, &mut at, cut, &mut furthest, work).await;
            let failure = match sent {
                Ok(()) => return Ok(Moved::Sent),
                Err(failure) => failure,
            };
            match failure {
                Failure::Final(RegistryError::Refused { status: 413, .. }) => {
                    let shorter = |length: &u64| *length < cut.unwrap_or(upload.size).min(upload.size);
                    match CUTS.into_iter().find(|length| shorter(length) && *length >= at.least) {
                        Some(length) => {
                            cut = Some(length);
                            Err(Failure::Further(purpose.unavailable("does not take requests of this length")))
                        }
                        None => Err(failure),
                    }
                }
                // What arrived is not what was sent, or what was sent is not what it should be: once may be the line.
                Failure::Final(error @ RegistryError::Refused { status: 400 | 416, .. }) => {
                    refused += 1;
                    if refused <= REFUSALS {
                        return Err(Failure::Again(error, None));
                    }
                    let damaged = self.is_damaged(open, upload).await?;
                    Err(Failure::Final(if damaged { purpose.damaged(upload) } else { error }))
                }
                // The content is shorter than it should be.
                Failure::Final(RegistryError::Io(error)) if error.kind() == ErrorKind::UnexpectedEof => {
                    Err(Failure::Final(purpose.damaged(upload)))
                }
                Failure::Final(error) if !matches!(error, RegistryError::NotFound { .. }) => Err(Failure::Final(error)),
                failure => {
                    let (error, wait) = match failure {
                        Failure::Again(error, wait) => (error, wait),
                        Failure::Final(error) | Failure::Further(error) => (error, None),
                    };
                    if self.has_blob(purpose, to, &upload.digest).await? {
                        return Ok(Moved::Sent);
                    }
                    session = self.resume(purpose, &at).await?;
                    Err(if furthest > before { Failure::Further(error) } else { Failure::Again(error, wait) })
                }
            }
        };
        self.patiently(purpose, step).await
    }

    /// Whether what is to be sent is not what its digest says.
    async fn is_damaged(&self, open: &Open, upload: &Upload) -> Result<bool, RegistryError> {
        let (open, size) = (open.clone(), upload.size);
        let hash = move || {
            let (mut content, mut hasher, mut buffer) = (open(0)?.take(size), Sha256::new(), vec![0; PIECE]);
            loop {
                match content.read(&mut buffer)? {
                    0 => return std::io::Result::Ok(Digest::finish(hasher)),
                    read => hasher.update(&buffer[..read]),
                }
            }
        };
        let hashed = tokio::task::spawn_blocking(hash).await.map_err(std::io::Error::other)?;
        Ok(hashed? != upload.digest)
    }

    async fn begin(&self, purpose: &Purpose, to: &Repository) -> Result<Session, Failure> {
        let path = format!("{}/blobs/uploads/", to.path);
        let shape = |request: reqwest::RequestBuilder| request.header(CONTENT_LENGTH, 0);
        let response = self.ask(purpose, Method::POST, |base| join(purpose, base, &path), shape).await?;
        purpose.session(&response).map_err(Failure::from)
    }

    /// What a registry still knows of an upload that broke off.
    async fn resume(&self, purpose: &Purpose, session: &Session) -> Result<Option<Session>, RegistryError> {
        let ask = async || self.ask(purpose, Method::GET, |_| Ok(session.location.clone()), |r| r).await;
        match self.patiently(purpose, ask).await {
            Ok(response) => {
                let mut known = purpose.session(&response).unwrap_or(Session {
                    location: session.location.clone(),
                    offset: 0,
                    least: 0,
                });
                known.least = session.least;
                known.offset = received(response.headers());
                Ok(Some(known))
            }
            Err(RegistryError::NotFound { .. } | RegistryError::Refused { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Sends what a registry does not have yet and asks it to keep the blob.
    #[expect(clippy::too_many_arguments, reason = "the state of one upload, used in one place")]
    async fn send_rest(
        &self,
        purpose: &Purpose,
        upload: &Upload,
        open: &Open,
        session: &mut Session,
        cut: Option<u64>,
        furthest: &mut u64,
        work: &Work<'_>,
    ) -> Result<(), Failure> {
        if session.offset == 0 && cut.is_none() {
            let url = with_digest(&session.location, &upload.digest);
            let response = self.send_range(purpose, Method::PUT, url, open, 0..upload.size, furthest, work).await?;
            return same_digest(purpose, response.headers(), upload.digest);
        }
        while session.offset < upload.size {
            let length = cut.map_or(u64::MAX, |cut| cut.max(session.least));
            let range = session.offset..upload.size.min(session.offset.saturating_add(length));
            let end = range.end;
            let url = session.location.clone();
            let response = self.send_range(purpose, Method::PATCH, url, open, range, furthest, work).await?;
            // Not every registry repeats where it wants the rest, nor says what it has.
            if let Ok(next) = purpose.session(&response) {
                session.location = next.location;
            }
            session.offset = match response.headers().contains_key(RANGE) {
                true => received(response.headers()).min(end),
                false => end,
            };
        }
        let url = with_digest(&session.location, &upload.digest);
        let rest = upload.size..upload.size;
        let response = self.send_range(purpose, Method::PUT, url, open, rest, furthest, work).await?;
        same_digest(purpose, response.headers(), upload.digest)
    }

    /// Sends a range of a blob in one request.
    #[expect(clippy::too_many_arguments, reason = "the state of one upload, used in one place")]
    async fn send_range(
        &self,
        purpose: &Purpose,
        method: Method,
        url: Url,
        open: &Open,
        range: std::ops::Range<u64>,
        furthest: &mut u64,
        work: &Work<'_>,
    ) -> Result<Response, Failure> {
        let mut request = purpose.host.client.request(method.clone(), url.clone());
        let said = purpose.host.authorization_for(&url, self, purpose).await?;
        if let Some(value) = &said {
            request = request.header(reqwest::header::AUTHORIZATION, value.clone());
        }
        if method == Method::PATCH {
            request = request.header(CONTENT_RANGE, format!("{}-{}", range.start, range.end.saturating_sub(1)));
        }
        let read = Arc::new(AtomicU64::new(0));
        let (body, problem) = stream(open.clone(), range.clone(), read.clone());
        let request = request
            .header(CONTENT_TYPE, "application/octet-stream")
            .header(CONTENT_LENGTH, range.end - range.start)
            .body(body);
        let span = tracing::debug_span!("request", %method, url = purpose.host.shown(&url));
        let sent = self.watched(purpose, request.send(), &range, &read, furthest, work).instrument(span).await;
        let failed = |failure: Failure| failure.at(&method, || purpose.host.shown(&url));
        if let Some(problem) = problem.lock().unwrap_or_else(PoisonError::into_inner).take() {
            return Err(Failure::Final(problem.into()));
        }
        let response = sent.map_err(failed)?;
        if response.status() == StatusCode::UNAUTHORIZED && purpose.host.challenged(&response, said.as_ref()).await {
            // The token ended on the way; the next attempt has a new one.
            return Err(Failure::Again(purpose.denied("wants other credentials".into(), true), None));
        }
        self.accept(purpose, response).await.map_err(failed)
    }

    /// Waits for the answer to an upload, as long as it takes bytes, and says how far it is.
    async fn watched(
        &self,
        purpose: &Purpose,
        sending: impl Future<Output = Result<Response, reqwest::Error>>,
        range: &std::ops::Range<u64>,
        read: &AtomicU64,
        furthest: &mut u64,
        work: &Work<'_>,
    ) -> Result<Response, Failure> {
        let mut sending = std::pin::pin!(sending);
        let (mut seen, mut since) = (0, Instant::now());
        let length = range.end - range.start;
        loop {
            let waited = tokio::time::timeout(Duration::from_millis(50), &mut sending).await;
            let now = read.load(Ordering::Relaxed);
            self.sent.fetch_add(now - seen, Ordering::Relaxed);
            let further = (range.start + now).saturating_sub(*furthest);
            *furthest += further;
            work.advance(further).map_err(RegistryError::from)?;
            if let Ok(answer) = waited {
                return answer.map_err(|error| Failure::Again(purpose.broken(error), None));
            }
            if now > seen {
                (seen, since) = (now, Instant::now());
            }
            // When all has been sent, the registry reads it once more before it answers.
            let keeping = Duration::from_secs(if now == length { range.end / KEEPING } else { 0 });
            let patience = self.options.patience.silence + keeping;
            if since.elapsed() > patience {
                return Err(Failure::Again(purpose.unavailable("has fallen silent"), None));
            }
        }
    }
}

/// Where an error of reading is left for the sender.
type Problem = Arc<std::sync::Mutex<Option<std::io::Error>>>;

/// The body of a request: a range of some content, read in a thread of its own.
fn stream(open: Open, range: std::ops::Range<u64>, read: Arc<AtomicU64>) -> (Body, Problem) {
    let (pieces, mut waiting) = mpsc::channel::<Result<Bytes, std::io::Error>>(PIECES);
    let problem = Problem::default();
    let told = problem.clone();
    tokio::task::spawn_blocking(move || {
        if let Err(error) = read_pieces(&open, &range, &pieces) {
            // Left for the sender, and told to the connection so that it breaks.
            let copy = std::io::Error::new(error.kind(), error.to_string());
            if let Ok(mut problem) = told.lock() {
                *problem = Some(error);
            }
            let _ = pieces.blocking_send(Err(copy));
        }
    });
    let stream = futures_util::stream::poll_fn(move |context| {
        let piece = waiting.poll_recv(context);
        if let std::task::Poll::Ready(Some(Ok(bytes))) = &piece {
            read.fetch_add(bytes.len() as u64, Ordering::Relaxed);
        }
        piece
    });
    (Body::wrap_stream(stream), problem)
}

fn read_pieces(
    open: &Open,
    range: &std::ops::Range<u64>,
    pieces: &mpsc::Sender<Result<Bytes, std::io::Error>>,
) -> std::io::Result<()> {
    let mut content = open(range.start)?;
    let mut left = range.end - range.start;
    while left > 0 {
        let mut piece = vec![0; usize::try_from(left).unwrap_or(PIECE).min(PIECE)];
        let mut filled = 0;
        while filled < piece.len() {
            match content.read(&mut piece[filled..])? {
                0 => return Err(ErrorKind::UnexpectedEof.into()),
                read => filled += read,
            }
        }
        left -= filled as u64;
        if pieces.blocking_send(Ok(piece.into())).is_err() {
            // The request has ended.
            return Ok(());
        }
    }
    Ok(())
}

impl Purpose {
    fn damaged(&self, upload: &Upload) -> RegistryError {
        RegistryError::Damaged { what: self.what.clone(), digest: upload.digest }
    }

    /// The upload that an answer is about.
    fn session(&self, response: &Response) -> Result<Session, RegistryError> {
        let headers = response.headers();
        let text = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
        let location = text(LOCATION.as_str()).and_then(|location| response.url().join(location).ok());
        let location = location.ok_or_else(|| self.nonsense("says not where to upload to"))?;
        self.host.check_address(&location, self)?;
        let least = text("oci-chunk-min-length").and_then(|text| text.parse().ok()).unwrap_or(0);
        Ok(Session { location, offset: 0, least })
    }
}

/// Bytes that arrived, as the answer about an upload says: `0-N`, both counted.
fn received(headers: &HeaderMap) -> u64 {
    let range = headers.get(RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let last = range.trim_start_matches("bytes=").split_once('-').and_then(|(_, last)| last.parse::<u64>().ok());
    // `0-0` means nothing to some and one byte to others; a byte too few makes them refuse, and then it begins anew.
    last.map_or(0, |last| if last == 0 { 0 } else { last + 1 })
}

fn with_digest(location: &Url, digest: &Digest) -> Url {
    let mut url = location.clone();
    url.query_pairs_mut().append_pair("digest", &digest.to_string());
    url
}

/// A registry that says which content it took must have taken the right one.
fn same_digest(purpose: &Purpose, headers: &HeaderMap, expected: Digest) -> Result<(), Failure> {
    match content_digest(headers).filter(|found| *found != expected) {
        Some(found) => Err(Failure::Again(purpose.other_content(expected, found), None)),
        None => Ok(()),
    }
}
