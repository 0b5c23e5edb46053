//! Downloads: parallel, resumed where they stopped, checked while they stream, tried again with patience.

mod netrc;

use std::io::{Read, Write};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use kiln_oci::patience::{CONNECT_TIMEOUT, Patience, USER_AGENT, innermost, is_passing, retry_after, unless_cancelled};
use kiln_oci::redirect::{self, Reach, SendError};
use kiln_plan::digest::Digest;
use kiln_plan::event::{Cancel, Cancelled, Reporter, Work};
use kiln_plan::size;
use kiln_store::Store;
pub use netrc::Netrc;
use reqwest::header::{CONTENT_RANGE, RANGE};
use reqwest::{Client, Response, StatusCode};
use sha2::{Digest as _, Sha256};
use url::Url;

/// Bytes that something of unknown size may have.
const LARGEST: u64 = 64 << 30;

/// Why something could not be downloaded.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The server cannot be reached, or breaks off.
    #[error("`{file}` could not be downloaded from {host}: {problem}")]
    Network {
        /// What was wanted.
        file: String,
        /// From where; never with credentials.
        host: String,
        /// What happened last.
        problem: String,
    },
    /// The server says no.
    #[error("`{file}` could not be downloaded: {host} answered {status}")]
    Refused {
        /// What was wanted.
        file: String,
        /// By whom.
        host: String,
        /// With which status.
        status: u16,
    },
    /// The server redirects to where the request may not go.
    #[error("`{file}` could not be downloaded: {host} redirects to {to}, {problem}")]
    Diverted {
        /// The wanted file.
        file: String,
        /// The server.
        host: String,
        /// Scheme, host and port of the address.
        to: String,
        /// A clause: the rule that forbids it.
        problem: &'static str,
    },
    /// The server has other content.
    #[error("`{file}` from {host} is not what the lock says: {expected} was expected, and it has {found}")]
    Content {
        /// What was wanted.
        file: String,
        /// From where.
        host: String,
        /// The digest in the lock.
        expected: Digest,
        /// The digest of what came.
        found: Digest,
    },
    /// The server sends more than there is.
    #[error("`{file}` from {host} is not what the lock says: it is longer than {}", size::format(*bound))]
    TooLong {
        /// What was wanted.
        file: String,
        /// From where.
        host: String,
        /// Bytes that it may have.
        bound: u64,
    },
    /// The network may not be used.
    #[error("`{0}` is not in the store, and `--offline` forbids to download it")]
    Offline(String),
    /// The lock does not say where it is.
    #[error("`{0}` is not in the store, and the lock knows no place to get it from")]
    Nowhere(String),
}

impl FetchError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Network { .. } => {
                "what has arrived is kept: run the command again and the download goes on from there".into()
            }
            Self::Refused { status: 401 | 403, host, .. } => {
                format!("give credentials for {host} in `~/.netrc`, or in the index URL")
            }
            Self::Diverted { to, .. } if !to.starts_with("http:") => return None,
            Self::Diverted { .. } => "the index must name the file at an `https:` address".into(),
            Self::Refused { .. } => "the index may have withdrawn the file: `kiln lock --upgrade` chooses anew".into(),
            Self::Content { .. } | Self::TooLong { .. } => {
                "somebody replaced the file after it was locked: find out who before `kiln lock --upgrade`".into()
            }
            Self::Offline(_) => "run once without `--offline`".into(),
            Self::Nowhere(_) => {
                "put the wheel into a directory of `[index] find-links`, or run `kiln lock --upgrade`".into()
            }
        })
    }
}

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
        Self::Again(innermost(error), None)
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
    /// A client with these credentials.
    pub(crate) fn new(netrc: Netrc) -> Result<Self, crate::error::BuildError> {
        // Another part of the program may have chosen the provider already; either serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        let patience = Patience::default();
        let client = Client::builder()
            .user_agent(USER_AGENT)
            .connect_timeout(CONNECT_TIMEOUT)
            .read_timeout(patience.silence)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| crate::error::BuildError::Io(std::io::Error::other(error)))?;
        Ok(Self { client, patience, netrc: Arc::new(netrc) })
    }

    /// Downloads one thing into the store, trying again as long as there is progress.
    pub(crate) async fn fetch(
        &self,
        store: &Store,
        wanted: &Wanted,
        reporter: &dyn Reporter,
        cancel: &Cancel,
    ) -> Result<(), crate::error::BuildError> {
        let work = Work::start(reporter, cancel, "fetch", &wanted.file, wanted.size);
        let mut failures = 0;
        let mut counted = 0;
        loop {
            cancel.check()?;
            let before = fs_err::metadata(store.partial(&wanted.digest)).map_or(0, |found| found.len());
            match self.attempt(store, wanted, &work, &mut counted).await {
                Ok(()) => return Ok(()),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again(problem, wait)) => {
                    let after = fs_err::metadata(store.partial(&wanted.digest)).map_or(0, |found| found.len());
                    failures = if after > before { 1 } else { failures + 1 };
                    if failures >= self.patience.attempts {
                        let (file, host) = (wanted.file.clone(), host(&wanted.url));
                        return Err(FetchError::Network { file, host, problem }.into());
                    }
                    work.output(&format!("{problem}; trying again"));
                    self.patience.pause(failures, wait, cancel).await?;
                }
            }
        }
    }

    async fn attempt(&self, store: &Store, wanted: &Wanted, work: &Work<'_>, counted: &mut u64) -> Result<(), Failure> {
        let path = store.partial(&wanted.digest);
        let (mut hasher, mut have) = hash_partial(&path)?;
        let cancel = work.cancel();
        if wanted.size.is_some_and(|size| have > size) {
            fs_err::remove_file(&path)?;
            (hasher, have) = (Sha256::new(), 0);
        }
        if have > *counted {
            work.advance(have - *counted)?;
            *counted = have;
        }
        let mut resumed = have > 0;
        if have == 0 || wanted.size != Some(have) {
            let response = unless_cancelled(cancel, self.request(wanted, have)).await??;
            if have > 0 && !continues_at(&response, have) {
                // The server sends everything again.
                fs_err::remove_file(&path)?;
                (hasher, have, resumed) = (Sha256::new(), 0, false);
            }
            let file = fs_err::OpenOptions::new().create(true).append(true).open(&path)?;
            let bound = wanted.size.unwrap_or(LARGEST);
            receive(response, file, &mut hasher, &mut have, work, counted, bound).await?;
            if have > bound {
                let _ = fs_err::remove_file(&path);
                let (file, host) = (wanted.file.clone(), host(&wanted.url));
                return Err(Failure::Final(FetchError::TooLong { file, host, bound }.into()));
            }
        }
        if wanted.size.is_some_and(|size| have < size) {
            return Err(Failure::Again(format!("the connection ended after {}", size::format(have)), None));
        }
        let found = Digest::finish(hasher);
        if found != wanted.digest {
            let _ = fs_err::remove_file(&path);
            // What was there from before may have been the answer of somebody else: only a whole download accuses.
            if resumed {
                return Err(Failure::Again("what was kept of an earlier download does not belong to it".into(), None));
            }
            let (file, host) = (wanted.file.clone(), host(&wanted.url));
            let error = FetchError::Content { file, host, expected: wanted.digest, found };
            return Err(Failure::Final(error.into()));
        }
        store.adopt_partial(&wanted.digest).map_err(|error| Failure::Final(error.into()))
    }

    async fn request(&self, wanted: &Wanted, from: u64) -> Result<Response, Failure> {
        let mut request = self.client.get(wanted.url.clone());
        if from > 0 {
            request = request.header(RANGE, format!("bytes={from}-"));
        }
        if let Some((user, password)) = self.credentials(&wanted.url) {
            request = request.basic_auth(user, Some(password));
        }
        let response = match redirect::send(&self.client, request.build()?, Reach::Anywhere, false).await {
            Ok(response) => response,
            Err(SendError::Request(error)) => return Err(error.into()),
            Err(SendError::Redirect { to, problem }) => {
                let (file, host) = (wanted.file.clone(), host(&wanted.url));
                return Err(Failure::Final(FetchError::Diverted { file, host, to, problem }.into()));
            }
        };
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        if is_passing(status) {
            return Err(Failure::Again(format!("the server answered {status}"), retry_after(response.headers())));
        }
        let (file, host) = (wanted.file.clone(), host(&wanted.url));
        Err(Failure::Final(FetchError::Refused { file, host, status: status.as_u16() }.into()))
    }

    /// Credentials in a URL are sent by the client itself.
    fn credentials(&self, url: &Url) -> Option<(String, String)> {
        let given = !url.username().is_empty() || url.password().is_some();
        if given { None } else { self.netrc.find(url.host_str()?) }
    }

    /// What a server says the size of something is.
    pub(crate) async fn size(&self, url: &Url) -> Option<u64> {
        let mut request = self.client.head(url.clone());
        if let Some((user, password)) = self.credentials(url) {
            request = request.basic_auth(user, Some(password));
        }
        let response = redirect::send(&self.client, request.build().ok()?, Reach::Anywhere, false).await.ok()?;
        let response = response.error_for_status().ok()?;
        response.headers().get(reqwest::header::CONTENT_LENGTH)?.to_str().ok()?.parse().ok()
    }
}

async fn receive(
    mut response: Response,
    mut file: fs_err::File,
    hasher: &mut Sha256,
    have: &mut u64,
    work: &Work<'_>,
    counted: &mut u64,
    bound: u64,
) -> Result<(), Failure> {
    while *have <= bound
        && let Some(bytes) = unless_cancelled(work.cancel(), response.chunk()).await??
    {
        file.write_all(&bytes)?;
        hasher.update(&bytes);
        *have += bytes.len() as u64;
        let more = have.saturating_sub(*counted);
        *counted += more;
        work.advance(more)?;
    }
    Ok(())
}

/// The running hash of what an earlier attempt left, and its size.
fn hash_partial(path: &PathBuf) -> std::io::Result<(Sha256, u64)> {
    let mut hasher = Sha256::new();
    let mut size = 0;
    let mut file = match fs_err::File::open(path) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok((hasher, 0)),
        file => file?,
    };
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok((hasher, size));
        }
        hasher.update(&buffer[..read]);
        size += read as u64;
    }
}

/// Whether a partial answer begins where it was asked to.
fn continues_at(response: &Response, from: u64) -> bool {
    let range = response.headers().get(CONTENT_RANGE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    response.status() == StatusCode::PARTIAL_CONTENT && range.starts_with(&format!("bytes {from}-"))
}

fn host(url: &Url) -> String {
    url.host_str().unwrap_or("?").to_owned()
}
