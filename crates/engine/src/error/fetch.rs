//! Errors of downloads from package indexes.

use kiln_plan::digest::Digest;
use kiln_plan::size;
use kiln_registry::redirect::Rule;

/// Why something could not be downloaded.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The server cannot be reached, or breaks off.
    #[error("`{file}` could not be downloaded from {url}: at the last of {attempts} attempts, the server {problem}")]
    Network {
        /// The wanted file.
        file: String,
        /// Its address, never with credentials.
        url: String,
        /// A clause about the server: the failure of the last attempt.
        problem: String,
        /// Attempts that were made.
        attempts: u32,
        /// Bytes that have arrived and are kept.
        kept: u64,
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
    #[error("`{file}` could not be downloaded: {host} redirects to {to}, {rule}")]
    Diverted {
        /// The wanted file.
        file: String,
        /// The server.
        host: String,
        /// Scheme, host and port of the address.
        to: String,
        /// The rule that forbids it.
        rule: Rule,
    },
    /// The server has other content.
    #[error("`{file}` from {host} is not the wanted file: {expected} was expected, and it has {found}")]
    Content {
        /// What was wanted.
        file: String,
        /// From where.
        host: String,
        /// The digest in the lock or in the stack file.
        expected: Digest,
        /// The digest of what came.
        found: Digest,
    },
    /// The server sends a complete answer of another size.
    #[error("`{file}` from {host} is not the wanted file: {answer} came, and {} was expected", size::format(*expected))]
    OtherSize {
        /// What was wanted.
        file: String,
        /// From where.
        host: String,
        /// The size and the media type of what came: `26 B of text/html`.
        answer: String,
        /// The size in the lock, in bytes.
        expected: u64,
    },
    /// The network may not be used.
    #[error("`{0}` is not in the store, and `--offline` forbids to download it")]
    Offline(String),
    /// A command that has a network.
    #[error("`{0}` needs the network, and `--offline` forbids it")]
    OfflineCommand(String),
    /// The lock does not say where it is.
    #[error("`{0}` is not in the store, and the lock knows no place to get it from")]
    Nowhere(String),
}

impl FetchError {
    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        Some(match self {
            Self::Network { kept: 0, .. } => "check the network, or run the command again later".into(),
            Self::Network { kept, .. } => {
                format!("{} are kept: run the command again and the download goes on from there", size::format(*kept))
            }
            Self::Refused { status: 401 | 403, host, .. } => {
                format!("give credentials for {host} in `~/.netrc`, or in the index URL")
            }
            Self::Diverted { rule: Rule::Encryption, .. } => {
                "the index must name the file at an `https:` address".into()
            }
            Self::Diverted { .. } => return None,
            Self::Refused { .. } => "the index may have withdrawn the file: `kiln lock --upgrade` chooses anew".into(),
            Self::Content { .. } => {
                "somebody replaced the file after its digest was written down: find out who before `kiln lock --upgrade` or \
                 another `sha256`"
                    .into()
            }
            Self::OtherSize { host, .. } => format!(
                "a proxy, a login page, or a replaced file: open the address in a browser, and give credentials for \
                 {host} in `~/.netrc` if it asks for them"
            ),
            Self::Offline(_) | Self::OfflineCommand(_) => "run once without `--offline`".into(),
            Self::Nowhere(_) => {
                "put the wheel into a directory of `[index] find-links`, or run `kiln lock --upgrade`".into()
            }
        })
    }
}
