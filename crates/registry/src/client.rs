//! The client: options, the runtime, and how a request is made with patience.

mod host;

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use kiln_plan::event::{Cancel, Reporter};
use kiln_plan::reference::Repository;
use reqwest::{Client, Method, Response, StatusCode};
use serde::Deserialize;
use tokio::runtime::Runtime;
use tracing::Instrument as _;

pub(crate) use host::Scope;
#[cfg(feature = "fuzzing")]
pub(crate) use host::read_token;

use host::Host;

use crate::error::EncryptionFault;
use crate::patience::{
    Attempts, CONNECT_TIMEOUT, Failed, Patience, USER_AGENT, innermost, is_passing, retry_after, unless_cancelled,
};
use crate::proxies::Proxies;
use crate::redirect::{self, Reach, Rule, SendError};
use crate::{Credential, Credentials, RegistryError};

/// Letters of a registry's message that are shown.
const MOST_SAID: usize = 500;
/// Bytes of an answer that says what is wrong.
const ERROR_LIMIT: u64 = 64 << 10;
/// Attempts where no registry has answered at all.
const UNHEARD: u32 = 3;
/// Threads for the network: one sends while another answers.
const THREADS: usize = 2;

/// What a client works with.
#[derive(Debug, Clone, Default)]
pub struct Options {
    /// Who one is.
    pub credentials: Credentials,
    /// Whether plain HTTP and certificates that nobody vouches for are accepted. On this machine's own addresses plain
    /// HTTP always is.
    pub insecure: bool,
    /// Directories with the certificates of registries, such as `/etc/docker/certs.d`. The first that knows a registry
    /// counts.
    pub certificates: Vec<PathBuf>,
    /// The proxies of this machine.
    pub proxies: Proxies,
    /// Whether the network is forbidden.
    pub offline: bool,
    /// How long to try.
    pub patience: Patience,
}

/// A client of any number of registries. Clones share connections, tokens and counters.
#[derive(Debug, Clone)]
pub struct Registries {
    pub(super) inner: Arc<Inner>,
    pub(super) runtime: Arc<Runtime>,
}

pub(super) struct Inner {
    pub(super) options: Options,
    pub(super) cancel: Cancel,
    reporter: Arc<dyn Reporter>,
    client: Client,
    /// By repository.
    hosts: Mutex<BTreeMap<Repository, Arc<Host>>>,
    pub(super) sent: AtomicU64,
    pub(super) received: AtomicU64,
    /// Whether any registry has answered yet.
    heard: AtomicBool,
}

impl std::fmt::Debug for Inner {
    /// Without credentials and tokens.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Inner")
    }
}

/// One attempt that failed.
pub(super) enum Failure {
    /// Trying again may help, after at least this long.
    Again(RegistryError, Option<Duration>),
    /// It got further before it failed: the count of failures begins anew.
    Further(RegistryError),
    Final(RegistryError),
}

impl Failure {
    /// Names the request that failed.
    pub(super) fn at(self, method: &Method, address: impl FnOnce() -> String) -> Self {
        match self {
            Self::Again(error, wait) => Self::Again(error.at(method, address), wait),
            Self::Further(error) => Self::Further(error.at(method, address)),
            Self::Final(error) => Self::Final(error.at(method, address)),
        }
    }
}

impl From<RegistryError> for Failure {
    fn from(error: RegistryError) -> Self {
        Self::Final(error)
    }
}

/// What a request is about: for messages, and for the token that it needs.
#[derive(Debug, Clone)]
pub(super) struct Purpose {
    pub(super) what: String,
    pub(super) host: Arc<Host>,
    pub(super) scope: Scope,
}

impl Registries {
    /// A client with these options, which stops when the user wants to, and tells the reporter of requests that it repeats.
    pub fn new(options: Options, cancel: &Cancel, reporter: Arc<dyn Reporter>) -> Result<Self, RegistryError> {
        // Another part of the program may have chosen the provider already; either serves.
        let _ = rustls::crypto::ring::default_provider().install_default();
        // A machine without any authority can still speak to registries that need none.
        let made = || options.proxies.apply(builder(&options));
        let built = made().build().or_else(|_| made().tls_certs_only([]).build());
        let client = built.map_err(|error| RegistryError::Io(std::io::Error::other(error)))?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(THREADS)
            .thread_name("registry")
            .enable_all()
            .build()
            .map_err(RegistryError::Io)?;
        let inner = Inner {
            options,
            cancel: cancel.clone(),
            reporter,
            client,
            hosts: Mutex::default(),
            sent: AtomicU64::new(0),
            received: AtomicU64::new(0),
            heard: AtomicBool::new(false),
        };
        Ok(Self { inner: Arc::new(inner), runtime: Arc::new(runtime) })
    }

    /// Bytes of content that were sent and received so far.
    pub fn moved(&self) -> (u64, u64) {
        (self.inner.sent.load(Ordering::Relaxed), self.inner.received.load(Ordering::Relaxed))
    }

    /// Runs something to its end.
    pub(super) fn run<T>(&self, future: impl Future<Output = T>) -> T {
        self.runtime.block_on(future)
    }

    /// Asks a registry whether it knows who one is; whether it wanted to know.
    pub fn check_credential(&self, registry: &str, user: &str, password: &str) -> Result<bool, RegistryError> {
        let credential = Credential::password(user, password);
        self.run(async {
            let purpose = Purpose {
                what: format!("logging in to {registry}"),
                host: Arc::new(Host::new(registry, &self.inner.options, &self.inner.client)?.with(Some(credential))),
                scope: Scope::default(),
            };
            let url = |base: &url::Url| Ok(base.clone());
            let ask = async || self.inner.ask(&purpose, Method::GET, url, |r| r).await;
            self.inner.patiently(&purpose, ask).await?;
            Ok(purpose.host.is_guarded().await)
        })
    }
}

pub(super) fn builder(options: &Options) -> reqwest::ClientBuilder {
    Client::builder()
        .user_agent(USER_AGENT)
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true)
        .redirect(reqwest::redirect::Policy::none())
        .tls_danger_accept_invalid_certs(options.insecure)
}

impl Inner {
    /// What a request to a repository is about.
    pub(super) fn purpose(
        &self,
        what: String,
        repository: &Repository,
        scope: Scope,
    ) -> Result<Purpose, RegistryError> {
        if self.options.offline {
            return Err(RegistryError::Offline(what));
        }
        let hosts = || self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        let known = hosts().get(repository).cloned();
        let host = match known {
            Some(host) => host,
            // Credentials may belong to a part of a registry, and so do the tokens that they give. Looking for them may
            // run a helper, which takes its time: once for each repository.
            None => {
                let credential = tokio::task::block_in_place(|| self.options.credentials.find(repository))?;
                let alike = hosts().iter().find_map(|(other, host)| {
                    (other.registry == repository.registry && host.is_for(credential.as_ref())).then(|| host.clone())
                });
                let host = match alike {
                    Some(host) => host,
                    None => Arc::new(Host::new(&repository.registry, &self.options, &self.client)?.with(credential)),
                };
                hosts().entry(repository.clone()).or_insert(host).clone()
            }
        };
        Ok(Purpose { what, host, scope })
    }

    /// Does something until it succeeds, fails for good, or fails too often.
    pub(super) async fn patiently<T>(
        &self,
        purpose: &Purpose,
        mut attempt: impl AsyncFnMut() -> Result<T, Failure>,
    ) -> Result<T, RegistryError> {
        let mut attempts = Attempts::new(self.options.patience, &*self.reporter, &self.cancel);
        loop {
            self.cancel.check()?;
            let (error, asked) = match attempt().await {
                Ok(done) => return Ok(done),
                Err(Failure::Final(error)) => return Err(error),
                Err(Failure::Again(error, asked)) => (error, asked),
                Err(Failure::Further(error)) => {
                    attempts.progress();
                    (error, None)
                }
            };
            // A registry that never said a word is rather a wrong name than one that is being restarted.
            attempts.at_most((!self.heard.load(Ordering::Relaxed)).then_some(UNHEARD));
            let cause = error.clause();
            let failed = Failed { subject: &purpose.what, host: &purpose.host.name, cause: &cause, asked };
            if !attempts.again(failed).await? {
                return Err(error.after(attempts.made()));
            }
        }
    }

    /// Waits for something that must not take longer than a registry may be silent.
    pub(super) async fn answer<T>(
        &self,
        purpose: &Purpose,
        waited: impl Future<Output = Result<T, reqwest::Error>>,
    ) -> Result<T, Failure> {
        let silence = self.options.patience.silence;
        match unless_cancelled(&self.cancel, tokio::time::timeout(silence, waited))
            .await
            .map_err(RegistryError::from)?
        {
            Ok(Ok(done)) => {
                self.heard.store(true, Ordering::Relaxed);
                Ok(done)
            }
            Ok(Err(error)) => {
                let error = purpose.broken(error);
                // What is wrong with certificates is wrong the next time too.
                Err(if error.is_about_tls() { Failure::Final(error) } else { Failure::Again(error, None) })
            }
            Err(_) => Err(Failure::Again(purpose.unavailable("has fallen silent"), None)),
        }
    }

    /// Sends a request and follows the redirects that are allowed.
    pub(super) async fn send_request(
        &self,
        purpose: &Purpose,
        request: reqwest::RequestBuilder,
        reach: Reach,
    ) -> Result<Response, Failure> {
        let request = request.build().map_err(|error| purpose.broken(error))?;
        let (method, url) = (request.method().clone(), request.url().clone());
        let span = tracing::debug_span!("request", %method, url = purpose.host.shown(&url));
        let sending = redirect::send(&purpose.host.client, request, reach, self.options.insecure);
        let sent = async {
            match sending.await {
                Ok(response) => Ok(Ok(response)),
                Err(SendError::Request(error)) => Err(error),
                Err(SendError::Redirect { to, rule }) => Ok(Err(purpose.diverted(to, rule))),
            }
        };
        let answered = self.answer(purpose, sent).instrument(span).await;
        answered.map_err(|failure| failure.at(&method, || purpose.host.shown(&url)))?.map_err(Failure::Final)
    }

    /// Sends one request, with a new token where the old one is not good any more. `url` makes the address from that of
    /// the registry's API. The answer's status is a success.
    pub(super) async fn ask(
        &self,
        purpose: &Purpose,
        method: Method,
        url: impl Fn(&url::Url) -> Result<url::Url, RegistryError>,
        shape: impl Fn(reqwest::RequestBuilder) -> reqwest::RequestBuilder,
    ) -> Result<Response, Failure> {
        let base = purpose.host.base(self, purpose).await?;
        let url = url(&base)?;
        for renewed in [false, true] {
            let mut request = shape(purpose.host.client.request(method.clone(), url.clone()));
            let sent = purpose.host.authorization_for(&url, self, purpose).await?;
            if let Some(value) = &sent {
                request = request.header(reqwest::header::AUTHORIZATION, value.clone());
            }
            let response = self.send_request(purpose, request, Reach::Anywhere).await?;
            let wanting = response.status() == StatusCode::UNAUTHORIZED;
            if wanting && !renewed && purpose.host.challenged(&response, sent.as_ref()).await {
                continue;
            }
            let accepted = self.accept(purpose, response).await;
            return accepted.map_err(|failure| failure.at(&method, || purpose.host.shown(&url)));
        }
        Err(Failure::Final(purpose.denied("wants other credentials".into(), true)))
    }

    /// The answer, if its status is a success; else what its status means.
    pub(super) async fn accept(&self, purpose: &Purpose, response: Response) -> Result<Response, Failure> {
        let status = response.status();
        if status.is_success() {
            return Ok(response);
        }
        let wait = retry_after(response.headers());
        let said = self.message(purpose, response).await;
        Err(match status {
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => {
                let authenticated = purpose.host.is_authenticated();
                let problem = match (status, authenticated) {
                    (StatusCode::UNAUTHORIZED, true) => "does not accept the credentials",
                    (StatusCode::UNAUTHORIZED, false) => "wants credentials",
                    _ => "does not allow it",
                };
                Failure::Final(RegistryError::Denied {
                    what: purpose.what.clone(),
                    registry: purpose.host.name.clone(),
                    problem: format!("{problem}{said}"),
                    authenticated,
                    forbidden: status == StatusCode::FORBIDDEN,
                })
            }
            StatusCode::NOT_FOUND => Failure::Final(RegistryError::NotFound {
                what: purpose.what.clone(),
                registry: purpose.host.name.clone(),
                message: said,
                pushing: purpose.scope.is_push(),
            }),
            status if is_passing(status) => {
                Failure::Again(purpose.unavailable(format!("answered {status}{said}")), wait)
            }
            status => Failure::Final(RegistryError::Refused {
                what: purpose.what.clone(),
                registry: purpose.host.name.clone(),
                status: status.as_u16(),
                message: said,
            }),
        })
    }

    /// What a registry says about what is wrong (OCI distribution specification, "Error Codes").
    async fn message(&self, purpose: &Purpose, response: Response) -> String {
        #[derive(Deserialize)]
        struct Answer {
            errors: Vec<Error>,
        }
        #[derive(Deserialize)]
        struct Error {
            code: Option<String>,
            message: Option<String>,
        }
        let Ok(bytes) = self.body(purpose, response, ERROR_LIMIT).await else { return String::new() };
        let Ok(answer) = serde_json::from_slice::<Answer>(&bytes) else { return String::new() };
        let first = answer.errors.first();
        let said = first
            .and_then(|error| error.message.as_ref().filter(|message| !message.is_empty()).or(error.code.as_ref()));
        said.map_or_else(String::new, |said| format!(": {}", plain(said)))
    }

    /// A whole answer of at most so many bytes.
    pub(super) async fn body(&self, purpose: &Purpose, mut response: Response, limit: u64) -> Result<Vec<u8>, Failure> {
        let mut bytes = Vec::new();
        loop {
            let chunk = match self.answer(purpose, response.chunk()).await {
                Ok(Some(chunk)) => chunk,
                Ok(None) => return Ok(bytes),
                Err(failure) => return Err(failure.at(&Method::GET, || purpose.host.shown(response.url()))),
            };
            self.received.fetch_add(chunk.len() as u64, Ordering::Relaxed);
            if bytes.len() as u64 + chunk.len() as u64 > limit {
                return Err(Failure::Final(RegistryError::TooLong {
                    what: purpose.what.clone(),
                    registry: purpose.host.name.clone(),
                    limit,
                }));
            }
            bytes.extend_from_slice(&chunk);
        }
    }
}

/// Returns the beginning of what a registry says as one line: it must not command the terminal.
fn plain(said: &str) -> String {
    let plain = |letter: char| if letter.is_control() { ' ' } else { letter };
    said.chars().take(MOST_SAID).map(plain).collect()
}

impl Purpose {
    pub(super) fn unavailable(&self, problem: impl Into<String>) -> RegistryError {
        RegistryError::Unavailable {
            what: self.what.clone(),
            registry: self.host.name.clone(),
            problem: problem.into(),
            encryption: None,
            pushing: self.scope.is_push(),
            request: None,
            attempts: 0,
        }
    }

    /// A connection that could not be made, or broke.
    pub(super) fn broken(&self, error: reqwest::Error) -> RegistryError {
        let found = EncryptionFault::of(&error);
        let mut error = self.unavailable(format!("cannot be reached or broke off ({})", innermost(error)));
        if let RegistryError::Unavailable { encryption, .. } = &mut error {
            *encryption = found;
        }
        error
    }

    /// An address to which a request may not go.
    pub(super) fn diverted(&self, to: impl Into<String>, rule: Rule) -> RegistryError {
        let (what, registry) = (self.what.clone(), self.host.name.clone());
        RegistryError::Diverted { what, registry, to: to.into(), rule }
    }

    pub(super) fn denied(&self, problem: String, authenticated: bool) -> RegistryError {
        let (what, registry) = (self.what.clone(), self.host.name.clone());
        RegistryError::Denied { what, registry, problem, authenticated, forbidden: false }
    }

    pub(super) fn nonsense(&self, problem: impl Into<String>) -> RegistryError {
        RegistryError::Nonsense { what: self.what.clone(), registry: self.host.name.clone(), problem: problem.into() }
    }
}
