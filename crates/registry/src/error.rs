//! What can go wrong between this machine and a registry.

use kiln_oci::OciError;
use kiln_plan::digest::Digest;
use kiln_plan::event::Cancelled;
use kiln_plan::size;
use reqwest::Method;

use crate::redirect::Rule;

/// A registry error. No message holds a credential or a token.
#[derive(Debug, thiserror::Error)]
pub enum RegistryError {
    /// The registry cannot be reached, breaks off, or keeps answering that it cannot serve now.
    #[error("{what}: {registry} {problem}{}", tried(request.as_deref(), *attempts))]
    Unavailable {
        /// What was being done: `pushing ghcr.io/acme/train`.
        what: String,
        /// Which registry.
        registry: String,
        /// A clause that follows the registry's name.
        problem: String,
        /// Where the connection failed because of its encryption.
        encryption: Option<EncryptionFault>,
        /// Something was to be written.
        pushing: bool,
        /// The request that failed last: its method, and its address without credentials and query.
        request: Option<Box<str>>,
        /// Attempts that were made; 0 where that is not known.
        attempts: u32,
    },
    /// The registry wants other credentials, or any.
    #[error("{what}: {registry} {problem}")]
    Denied {
        /// What was being done.
        what: String,
        /// Which registry.
        registry: String,
        /// A clause that follows the registry's name.
        problem: String,
        /// Whether credentials were sent.
        authenticated: bool,
        /// True where the registry knows who one is, and does not allow it (403).
        forbidden: bool,
    },
    /// The registry does not have it.
    #[error("{what}: {registry} does not have it{message}")]
    NotFound {
        /// What was being done.
        what: String,
        /// Which registry.
        registry: String,
        /// Nothing, or a colon and what the registry says.
        message: String,
        /// Something was to be written.
        pushing: bool,
    },
    /// The registry does not do that.
    #[error("{what}: {registry} answered {status}{message}")]
    Refused {
        /// What was being done.
        what: String,
        /// Which registry.
        registry: String,
        /// The HTTP status.
        status: u16,
        /// Nothing, or a colon and what the registry says.
        message: String,
    },
    /// The registry has other content than its digest says.
    #[error("{what}: {registry} gave other content than {expected}{found}")]
    Content {
        /// What was being done.
        what: String,
        /// Which registry.
        registry: String,
        /// What was asked for.
        expected: Digest,
        /// Nothing, or a colon and what came.
        found: String,
    },
    /// An answer that is longer than it may be.
    #[error("{what}: the answer of {registry} is longer than {}", size::format(*limit))]
    TooLong {
        /// What was being done.
        what: String,
        /// Which registry.
        registry: String,
        /// Bytes that it may have.
        limit: u64,
    },
    /// An answer that makes no sense.
    #[error("{what}: the answer of {registry} {problem}")]
    Nonsense {
        /// What was being done.
        what: String,
        /// Which registry.
        registry: String,
        /// A clause.
        problem: String,
    },
    /// An address to which a request may not go.
    #[error("{what}: {registry} sends on to {to}, {rule}")]
    Diverted {
        /// The activity that failed.
        what: String,
        /// The registry.
        registry: String,
        /// Scheme, host and port of the address; the rest may hold a token.
        to: String,
        /// The rule that forbids it.
        rule: Rule,
    },
    /// Content that was to be sent is not what its digest says.
    #[error("{what}: the bytes of {digest} on this machine are not what the digest says")]
    Damaged {
        /// What was being done.
        what: String,
        /// Its digest.
        digest: Digest,
    },
    /// The content that a reference names cannot be used.
    #[error("`{reference}` cannot be used: {problem}")]
    Unusable {
        /// The reference.
        reference: String,
        /// A clause.
        problem: String,
    },
    /// A manifest or a config.
    #[error(transparent)]
    Image(#[from] OciError),
    /// Credentials cannot be read.
    #[error("{0}")]
    Credentials(String),
    /// A certificate of a registry cannot be read.
    #[error("`{path}` cannot be used: {problem}")]
    Certificate {
        /// The file.
        path: String,
        /// A clause.
        problem: String,
    },
    /// The network may not be used.
    #[error("{0}: `--offline` forbids to ask a registry")]
    Offline(String),
    /// The user wants to stop.
    #[error("interrupted")]
    Interrupted,
    /// Reading what is to be sent, or setting up the client.
    #[error(transparent)]
    Io(std::io::Error),
}

/// A fault of an encrypted connection. What is wrong with certificates is wrong the next time too.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EncryptionFault {
    /// The server does not speak TLS.
    Absent,
    /// No authority that this machine trusts vouches for the server's certificate.
    Certificate,
    /// The server does not accept the client's certificate, or wants one.
    Client,
}

impl EncryptionFault {
    /// Looks for a fault among the causes of a failed request.
    pub(crate) fn of(error: &reqwest::Error) -> Option<Self> {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(error);
        while let Some(error) = source {
            if let Some(tls) = tls_error(error) {
                return Self::of_tls(tls);
            }
            source = error.source();
        }
        None
    }

    fn of_tls(error: &rustls::Error) -> Option<Self> {
        use rustls::AlertDescription::{BadCertificate, CertificateRequired, CertificateUnknown, UnknownCA};
        match error {
            rustls::Error::InvalidMessage(_) => Some(Self::Absent),
            rustls::Error::InvalidCertificate(_) | rustls::Error::NoCertificatesPresented => Some(Self::Certificate),
            rustls::Error::AlertReceived(BadCertificate | CertificateRequired | CertificateUnknown | UnknownCA) => {
                Some(Self::Client)
            }
            _ => None,
        }
    }
}

/// Returns the error of the encryption that an error is or wraps: errors of input and output wrap one another, and do not name
/// what they wrap as their source.
fn tls_error<'e>(error: &'e (dyn std::error::Error + 'static)) -> Option<&'e rustls::Error> {
    match error.downcast_ref() {
        Some(tls) => Some(tls),
        None => tls_error(error.downcast_ref::<std::io::Error>()?.get_ref()?),
    }
}

/// Returns what was tried, in brackets.
fn tried(request: Option<&str>, attempts: u32) -> String {
    match (request, attempts) {
        (None, 0 | 1) => String::new(),
        (None, attempts) => format!(" ({attempts} attempts)"),
        (Some(request), 0) => format!(" ({request})"),
        (Some(request), 1) => format!(" (1 attempt: {request})"),
        (Some(request), attempts) => format!(" ({attempts} attempts: {request})"),
    }
}

impl RegistryError {
    /// Names the request that failed, unless one is named already.
    pub(crate) fn at(mut self, method: &Method, address: impl FnOnce() -> String) -> Self {
        if let Self::Unavailable { request: request @ None, .. } = &mut self {
            *request = Some(format!("{method} {}", address()).into());
        }
        self
    }

    /// Says how many attempts were made.
    pub(crate) fn after(mut self, made: u32) -> Self {
        if let Self::Unavailable { attempts, .. } = &mut self {
            *attempts = made;
        }
        self
    }

    /// Returns a clause about the problem that follows the registry's name.
    pub(crate) fn clause(&self) -> String {
        match self {
            Self::Unavailable { problem, .. } | Self::Denied { problem, .. } => problem.clone(),
            Self::Refused { status, message, .. } => format!("answered {status}{message}"),
            Self::Content { expected, found, .. } => format!("gave other content than {expected}{found}"),
            Self::Nonsense { problem, .. } => format!("gave an answer that {problem}"),
            other => other.to_string(),
        }
    }

    /// Whether the registry says that something is not there.
    pub fn is_not_found(&self) -> bool {
        matches!(self, Self::NotFound { .. })
    }

    /// Whether the registry says that one may not.
    pub fn is_denied(&self) -> bool {
        matches!(self, Self::Denied { .. } | Self::Refused { status: 405, .. })
    }

    /// Returns true where the registry refused a request, and may still grant another.
    pub(crate) fn is_refusal(&self) -> bool {
        matches!(self, Self::Denied { forbidden: true, .. } | Self::Refused { .. })
    }

    /// Whether the registry cannot be spoken to in confidence.
    pub(crate) fn is_about_tls(&self) -> bool {
        matches!(self, Self::Unavailable { encryption: Some(_), .. })
    }

    /// What is wrong without what was being done, where that is of no interest.
    pub fn brief(&self) -> String {
        match self {
            Self::Unavailable { registry, problem, .. } | Self::Denied { registry, problem, .. } => {
                format!("{registry} {problem}")
            }
            Self::Nonsense { registry, problem, .. } => format!("the answer of {registry} {problem}"),
            Self::Refused { registry, status, message, .. } => format!("{registry} answered {status}{message}"),
            Self::Diverted { registry, to, rule, .. } => format!("{registry} sends on to {to}, {rule}"),
            other => other.to_string(),
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Unavailable { encryption: Some(EncryptionFault::Absent), .. } => {
                "does it speak plain HTTP? `--insecure` allows that".into()
            }
            Self::Unavailable { encryption: Some(EncryptionFault::Certificate), .. } => {
                "name the authority that vouches for it in `SSL_CERT_FILE`, or put it into `certs.d/HOST:PORT/ca.crt` where \
                 Docker or podman look; `--insecure` accepts any certificate"
                    .into()
            }
            Self::Unavailable { pushing: true, .. } => {
                "layers that have arrived there stay: run the command again and only what is missing moves".into()
            }
            Self::NotFound { pushing: true, .. } => {
                "some registries want a repository to be created before anything is pushed to it".into()
            }
            Self::Denied { registry, authenticated: false, .. } => format!("run `kiln login {registry}`"),
            Self::Denied { registry, authenticated: true, .. } => {
                format!("do these credentials allow it? Others are given with `kiln login {registry}`")
            }
            Self::Refused { status: 405, .. } => {
                "the registry does not do that: it may be read-only, or only pass on what another registry has".into()
            }
            Self::Diverted { rule: Rule::Credentials, .. } => {
                "no credential was sent there: the registry must name the address of its token service itself".into()
            }
            Self::Diverted { rule: Rule::Encryption, .. } => {
                "a registry behind a proxy that speaks HTTPS must know that (`X-Forwarded-Proto: https`)".into()
            }
            Self::Damaged { .. } => "the file of this digest was changed, in the store or in the layout that is pushed: remove it and make it again".into(),
            Self::Offline(_) => "run once without `--offline`".into(),
            _ => return None,
        })
    }
}

impl From<Cancelled> for RegistryError {
    fn from(_: Cancelled) -> Self {
        Self::Interrupted
    }
}

impl From<std::io::Error> for RegistryError {
    /// A reader of a registry's content wraps what went wrong there.
    fn from(error: std::io::Error) -> Self {
        if error.get_ref().is_some_and(|inner| inner.is::<Cancelled>()) {
            return Self::Interrupted;
        }
        error.downcast::<Self>().unwrap_or_else(Self::Io)
    }
}

impl From<RegistryError> for std::io::Error {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Interrupted => Self::other(Cancelled),
            RegistryError::Io(error) => error,
            error => Self::other(error),
        }
    }
}
