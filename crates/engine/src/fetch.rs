//! Downloads: parallel, resumed where they stopped, checked while they stream, tried again with patience.

mod netrc;
mod small;
mod unknown;

use std::io::Write;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use kiln_plan::digest::Digest;
use kiln_plan::event::{Cancel, Cancelled, Reporter, Work};
use kiln_plan::size;
use kiln_registry::Proxies;
use kiln_registry::patience::{
    Attempts, CONNECT_TIMEOUT, Failed, Patience, USER_AGENT, innermost, is_passing, retry_after, unless_cancelled,
};
use kiln_registry::redirect::{self, Reach, SendError};
use kiln_store::{Partial, Store};
pub use netrc::Netrc;
use reqwest::header::{CONTENT_RANGE, CONTENT_TYPE, RANGE, TRANSFER_ENCODING};
use reqwest::{Client, RequestBuilder, Response, StatusCode, Version};
use tracing::Instrument as _;
use url::Url;

use crate::error::FetchError;

/// Bytes that something of unknown size may have.
const LARGEST: u64 = 64 << 30;
/// A clause about a server whose answer does not fit the bytes that are kept.
const PART_OF_ANOTHER: &str = "gave a part that does not fit to what was kept of an earlier download";
/// Time between two looks at a download of another process.
const POLL: Duration = Duration::from_millis(50);

/// Something to be downloaded.
#[derive(Debug, Clone)]
pub(crate) struct Wanted {
    /// File name, for messages.
    pub(crate) file: String,
    /// Where it is.
    pub(crate) url: Url,
    /// Its digest.
    pub(crate) digest: Digest,
    /// Its size in bytes, where known.
    pub(crate) size: Option<u64>,
}

/// Downloads into a store.
#[derive(Debug, Clone)]
pub(crate) struct Fetcher {
    client: Client,
    patience: Patience,
    netrc: Arc<Netrc>,
}

/// One failed attempt.
enum Failure {
    /// Trying again may help, after at least this long.
    Again(String, Option<Duration>),
    Final(crate::error::BuildError),
}

impl From<reqwest::Error> for Failure {
    fn from(error: reqwest::Error) -> Self {
        Self::Again(format!("cannot be reached or broke off ({})", innermost(error)), None)
    }
}

impl From<Cancelled> for Failure {
    fn from(cancelled: Cancelled) -> Self {
        Self::Final(cancelled.into())
    }
}

impl From<std::io::Error> for Failure {
    fn from(error: std::io::Error) -> Self {
        Self::Final(error.into())
    }
}

impl Fetcher {
    /// A client with these credentials and proxies.
    pub(crate) fn new(netrc: Netrc, proxies: &Proxies) -> Result<Self, crate::error::BuildError> {
        // Another part of the program may have chosen the provider already; either serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let patience = Patience::default();
        let client = proxies
            .apply(Client::builder())
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(patience.silence)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| crate::error::BuildError::Io(std::io::Error::other(error)))?;
        Ok(Self { client, patience, netrc: Arc::new(netrc) })
    }

    /// Downloads one thing into the store, trying again as long as there is progress. One process downloads it; others
    /// wait for that one.
    pub(crate) async fn fetch(
        &self,
        store: &Store,
        wanted: &Wanted,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<(), crate::error::BuildError> {
        let work = Work::start(reporter, cancel, "fetch", &wanted.file, wanted.size);
        let Some(partial) = self.claim(store, wanted, &work).await? else { return Ok(()) };
        let mut download = Download { wanted, partial, work: &work, counted: 0, resumed: true, restarts: 0 };
        let mut attempts = Attempts::new(self.patience, reporter, cancel);
        let (subject, host) = (format!("downloading {}", wanted.file), host(&wanted.url));
        let mut farthest = download.partial.size();
        loop {
            cancel.check()?;
            let (cause, asked) = match self.attempt(&mut download).await {
                Ok(()) => return download.finish(),
                Err(Failure::Final(error)) => {
                    if download.partial.size() == 0 {
                        download.partial.discard()?;
                    }
                    return Err(error);
                }
                Err(Failure::Again(cause, asked)) => (cause, asked),
            };
            // Progress is what was never there before: a server may send the same half again and again.
            if download.partial.size() > farthest {
                attempts.progress();
                farthest = download.partial.size();
            }
            let failed = Failed { subject: &subject, host: &host, cause: &cause, asked };
            if !attempts.again(failed).await? {
                return Err(download.give_up(cause, attempts.made())?.into());
            }
        }
    }

    /// Asks for a file of an unknown digest, `most` times or as long as the server may recover.
    async fn ask<T>(
        &self,
        url: &Url,
        file: String,
        most: Option<u32>,
        work: &Work<'_>,
        reporter: &dyn Reporter,
        once: impl AsyncFn(&Wanted) -> Result<T, Failure>,
    ) -> Result<T, crate::error::BuildError> {
        let wanted = Wanted { file, url: url.clone(), digest: Digest::of(b""), size: None };
        let mut attempts = Attempts::new(self.patience, reporter, work.cancel());
        attempts.at_most(most);
        let (subject, host) = (format!("downloading {}", wanted.file), host(url));
        loop {
            let (cause, asked) = match once(&wanted).await {
                Ok(answer) => return Ok(answer),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again(cause, asked)) => (cause, asked),
            };
            if !attempts.again(Failed { subject: &subject, host: &host, cause: &cause, asked }).await? {
                let (url, attempts) = (shown(url), attempts.made());
                return Err(FetchError::Network { file: wanted.file, url, problem: cause, attempts, kept: 0 }.into());
            }
        }
    }

    /// Waits until no other process downloads the same. `None` if that one finished it.
    async fn claim<'s>(
        &self,
        store: &'s Store,
        wanted: &Wanted,
        work: &Work<'_>,
    ) -> Result<Option<Partial<'s>>, crate::error::BuildError> {
        let mut waited = false;
        loop {
            if waited && store.has_blob(&wanted.digest) {
                return Ok(None);
            }
            if let Some(partial) = store.partial(&wanted.digest)? {
                return Ok(Some(partial).filter(|_| !store.has_blob(&wanted.digest)));
            }
            if !waited {
                work.output("another kiln downloads it; waiting");
            }
            waited = true;
            unless_cancelled(work.cancel(), tokio::time::sleep(POLL)).await?;
        }
    }

    /// Receives what is missing.
    async fn attempt(&self, download: &mut Download<'_>) -> Result<(), Failure> {
        let (wanted, work) = (download.wanted, download.work);
        if wanted.size.is_some_and(|size| download.partial.size() > size) {
            download.restart()?;
        }
        download.count()?;
        let have = download.partial.size();
        if have > 0 && wanted.size == Some(have) {
            return download.check();
        }
        let response = unless_cancelled(work.cancel(), self.request(wanted, have)).await??;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            download.restart()?;
            return Err(Failure::Again("has no such part of it".into(), None));
        }
        if have > 0 && !continues_at(&response, have) {
            // The server sends everything again.
            download.restart()?;
        }
        download.receive(response).await?;
        download.check()
    }

    async fn request(&self, wanted: &Wanted, from: u64) -> Result<Response, Failure> {
        let mut request = self.client.get(wanted.url.clone());
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        let request = self.authorized(request, &wanted.url);
        let span = tracing::debug_span!("request", method = "GET", url = shown(&wanted.url), from);
        let sending = redirect::send(&self.client, request.build()?, Reach::Anywhere, false);
        let response = match sending.instrument(span).await {
            Ok(response) => response,
            Err(SendError::Request(error)) => return Err(error.into()),
            Err(SendError::Redirect { to, rule }) => {
                let (file, host) = (wanted.file.clone(), host(&wanted.url));
                return Err(Failure::Final(FetchError::Diverted { file, host, to, rule }.into()));
            }
        };
        let status = response.status();
        if status.is_success() || (from > 0 && status == StatusCode::RANGE_NOT_SATISFIABLE) {
            return Ok(response);
        }
        if is_passing(status) {
            return Err(Failure::Again(format!("answered {status}"), retry_after(response.headers())));
        }
        let (file, host) = (wanted.file.clone(), host(&wanted.url));
        Err(Failure::Final(FetchError::Refused { file, host, status: status.as_u16() }.into()))
    }

    /// Credentials in a URL are sent by the client itself.
    fn credentials(&self, url: &Url) -> Option<(String, String)> {
        let given = !url.username().is_empty() || url.password().is_some();
        if given { None } else { self.netrc.find(url.host_str()?) }
    }

    /// Adds the credentials of a host to a request.
    fn authorized(&self, request: RequestBuilder, url: &Url) -> RequestBuilder {
        match self.credentials(url) {
            Some((user, password)) => request.basic_auth(user, Some(password)),
            None => request,
        }
    }

    /// What a server says the size of something is.
    pub(crate) async fn size(&self, url: &Url) -> Option<u64> {
        let request = self.authorized(self.client.head(url.clone()), url);
        let response = redirect::send(&self.client, request.build().ok()?, Reach::Anywhere, false).await.ok()?;
        let response = response.error_for_status().ok()?;
        response.headers().get(reqwest::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }
}

/// A client with threads of its own, for callers that wait.
pub(crate) struct Network {
    fetcher: Fetcher,
    runtime: tokio::runtime::Runtime,
    usage: Mutex<Use>,
}

/// Downloads of a command: those under way, and what they took together.
#[derive(Debug, Default)]
struct Use {
    under_way: usize,
    since: Option<Instant>,
    busy: Duration,
    bytes: u64,
}

impl Network {
    pub(crate) fn new(netrc: Netrc, proxies: &Proxies) -> Result<Self, crate::error::BuildError> {
        let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(1).enable_all().build()?;
        Ok(Self { fetcher: Fetcher::new(netrc, proxies)?, runtime, usage: Mutex::default() })
    }

    fn lock_usage(&self) -> MutexGuard<'_, Use> {
        self.usage.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Returns the bytes that were downloaded, and the seconds in which anything was.
    pub(crate) fn downloaded(&self) -> (u64, f64) {
        let usage = self.lock_usage();
        (usage.bytes, usage.busy.as_secs_f64())
    }

    /// Downloads one thing into the store.
    pub(crate) fn fetch(
        &self,
        store: &Store,
        wanted: &Wanted,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<(), crate::error::BuildError> {
        let mut usage = self.lock_usage();
        usage.under_way += 1;
        usage.since.get_or_insert_with(Instant::now);
        drop(usage);
        let done = self.runtime.block_on(self.fetcher.fetch(store, wanted, reporter, cancel));
        let mut usage = self.lock_usage();
        usage.under_way -= 1;
        usage.bytes += wanted.size.filter(|_| done.is_ok()).unwrap_or(0);
        if usage.under_way == 0
            && let Some(since) = usage.since.take()
        {
            usage.busy += since.elapsed();
        }
        done
    }
}

/// A download under way.
struct Download<'a> {
    wanted: &'a Wanted,
    partial: Partial<'a>,
    work: &'a Work<'a>,
    /// Bytes that progress was told of.
    counted: u64,
    /// True if an earlier answer brought some of the bytes.
    resumed: bool,
    /// Times that the download began again.
    restarts: u32,
}

impl Download<'_> {
    fn restart(&mut self) -> Result<(), Failure> {
        self.resumed = false;
        self.restarts += 1;
        self.partial.restart().map_err(|error| Failure::Final(error.into()))
    }

    /// Tells progress of bytes that are there.
    fn count(&mut self) -> Result<(), Failure> {
        let more = self.partial.size().saturating_sub(self.counted);
        self.counted += more;
        Ok(self.work.advance(more)?)
    }

    /// Takes an answer to its end. A complete answer that is too short or too long for what is wanted is final: asking again
    /// would bring the same.
    async fn receive(&mut self, mut response: Response) -> Result<(), Failure> {
        let bound = self.wanted.size.unwrap_or(LARGEST);
        let began_at = self.partial.size();
        self.resumed = began_at > 0;
        let announced = response.content_length().map(|length| began_at.saturating_add(length));
        if announced.is_some_and(|all| all > bound) {
            return Err(self.other_size(&response, announced.unwrap_or(u64::MAX)));
        }
        while let Some(bytes) = unless_cancelled(self.work.cancel(), response.chunk()).await?? {
            self.partial.write_all(&bytes)?;
            self.count()?;
            if self.partial.size() > bound {
                return Err(self.other_size(&response, self.partial.size()));
            }
        }
        let have = self.partial.size();
        match self.wanted.size {
            Some(size) if have < size && is_complete(&response, announced, have) => {
                Err(self.other_size(&response, have))
            }
            Some(size) if have < size => {
                Err(Failure::Again(format!("ended the connection after {}", size::format(have)), None))
            }
            _ => Ok(()),
        }
    }

    fn other_size(&mut self, response: &Response, size: u64) -> Failure {
        // After an answer to a part, an older part may be to blame: the next attempt takes all of it.
        if self.resumed && self.restarts == 0 {
            return match self.restart() {
                Ok(()) => Failure::Again(PART_OF_ANOTHER.into(), None),
                Err(failure) => failure,
            };
        }
        let media_type = response.headers().get(CONTENT_TYPE).and_then(|value| value.to_str().ok());
        let media_type = media_type.map(|kind| format!(" of {}", kind.split(';').next().unwrap_or(kind)));
        let error = FetchError::OtherSize {
            file: self.wanted.file.clone(),
            host: host(&self.wanted.url),
            answer: format!("{}{}", size::format(size), media_type.unwrap_or_default()),
            expected: self.wanted.size.unwrap_or(LARGEST),
        };
        // It belongs to nothing that is wanted.
        match self.partial.restart() {
            Ok(()) => Failure::Final(error.into()),
            Err(error) => Failure::Final(error.into()),
        }
    }

    /// Checks the digest of all that is there.
    fn check(&mut self) -> Result<(), Failure> {
        let found = self.partial.digest();
        if found == self.wanted.digest {
            return Ok(());
        }
        let once = self.resumed && self.restarts == 0;
        self.restart()?;
        // The part from before may have been the answer of another server, once.
        if once {
            return Err(Failure::Again(PART_OF_ANOTHER.into(), None));
        }
        let (file, host) = (self.wanted.file.clone(), host(&self.wanted.url));
        let error = FetchError::Content { file, host, expected: self.wanted.digest, found };
        Err(Failure::Final(error.into()))
    }

    fn finish(self) -> Result<(), crate::error::BuildError> {
        Ok(self.partial.finish()?)
    }

    /// Returns the error after the last attempt. Bytes that have arrived are kept.
    fn give_up(self, problem: String, attempts: u32) -> Result<FetchError, crate::error::BuildError> {
        let (file, url, kept) = (self.wanted.file.clone(), shown(&self.wanted.url), self.partial.size());
        if kept == 0 {
            self.partial.discard()?;
        }
        Ok(FetchError::Network { file, url, problem, attempts, kept })
    }
}

/// Returns true if an answer came whole: as long as it announced, or framed so that its end is known.
fn is_complete(response: &Response, announced: Option<u64>, have: u64) -> bool {
    let framed = response.version() >= Version::HTTP_2
        || response.headers().get(TRANSFER_ENCODING).is_some_and(|coding| coding.as_bytes().ends_with(b"chunked"));
    announced.map_or(framed, |all| have >= all)
}

/// Whether a partial answer begins where it was asked to.
fn continues_at(response: &Response, from: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    response.status() == StatusCode::PARTIAL_CONTENT && range.starts_with(&format!("bytes {from}-"))
}

/// Returns an address for messages: without credentials and query, which may hold a token.
pub(crate) fn shown(url: &Url) -> String {
    format!("{}{}", redirect::origin(url), url.path())
}

fn host(url: &Url) -> String {
    url.host_str().unwrap_or("?").to_owned()
}
