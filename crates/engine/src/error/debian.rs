//! The ways in which a Debian cannot be made.

use std::time::SystemTime;

use humantime::format_rfc3339_seconds;
use kiln_debian::closure::ClosureError;
use kiln_debian::index::IndexError;
use kiln_debian::system::SystemError;
use kiln_oci::debian::NormaliseError;

use super::{BuildError, Fault, RunError, shown_lines};

/// A Debian that cannot be made.
#[derive(Debug, thiserror::Error)]
pub enum DebianError {
    /// Neither the stack nor the machine names an archive.
    #[error("no mirror is known: the stack file names none, and this machine's apt knows none")]
    NoMirror,
    /// None of the machine's archives has the suite.
    #[error("none of the archives that this machine's apt knows has `{0}` of Debian")]
    NoSuite(String),
    /// apt answers with a package that no archive has.
    #[error("apt chose a package that none of its archives has: {line}")]
    Chosen {
        /// Its words.
        line: String,
    },
    /// A package that is no archive's.
    #[error("the package `{path}` cannot be used: {problem}")]
    File {
        /// Its path or its address.
        path: String,
        /// The reason.
        problem: String,
    },
    /// A file of keys.
    #[error("`{path}` holds no keys: {problem}")]
    Keys {
        /// Its path.
        path: String,
        /// The reason.
        problem: String,
    },
    /// A signed list that nobody trusted signed.
    #[error("`{list}` cannot be trusted: {problem}")]
    Signature {
        /// Its address.
        list: String,
        /// The reason.
        problem: String,
    },
    /// A signed list that is not valid any more.
    #[error("`{list}` was valid until {}", format_rfc3339_seconds(*until))]
    Expired {
        /// Its address.
        list: String,
        /// The last moment.
        until: SystemTime,
    },
    /// A signed list of an older state than is locked.
    #[error("`{list}` is of {}, and the lock of {}", format_rfc3339_seconds(*found), format_rfc3339_seconds(*locked))]
    Older {
        /// Its address.
        list: String,
        /// Its time.
        found: SystemTime,
        /// The time that is locked.
        locked: SystemTime,
    },
    /// A suite without packages for a platform.
    #[error("`{list}` has no packages for {architecture}")]
    NoPackages {
        /// The suite's address.
        list: String,
        /// The architecture, as Debian calls it.
        architecture: String,
    },
    /// A list of packages.
    #[error("its list of packages cannot be used")]
    Index(#[from] IndexError),
    /// Packages that are absent, or exclude one another.
    #[error("its packages cannot be chosen")]
    Choice(#[from] ClosureError),
    /// apt finds no way to install what is asked for.
    #[error("its apt cannot install {}{}", packages.join(", "), shown_lines(lines))]
    Apt {
        /// What is asked for.
        packages: Vec<String>,
        /// The last lines that apt said.
        lines: Vec<String>,
    },
    /// Packages that no archive has.
    #[error("no archive has {}", described(packages))]
    Unknown {
        /// Each with what may be meant: a clause, or nothing.
        packages: Vec<(String, String)>,
    },
    /// A suite that an archive does not have.
    #[error("`{uri}` has no suite `{suite}` (status {status})")]
    NoList {
        /// The archive's address.
        uri: String,
        /// The suite.
        suite: String,
        /// HTTP status of the answer.
        status: u16,
    },
    /// An image without apt.
    #[error("its base has no apt{}", shown_lines(lines))]
    NoApt {
        /// The last lines that its shell said.
        lines: Vec<String>,
    },
    /// A package that no archive has any more.
    #[error("no archive has {package} {version} any more (status {status})")]
    Gone {
        /// Its name.
        package: String,
        /// Its version.
        version: String,
        /// The last answer.
        status: u16,
    },
    /// Packages that make no system.
    #[error("its packages cannot be unpacked")]
    System(#[from] SystemError),
    /// Its files that make no layer.
    #[error("its files cannot become a layer")]
    Normalise(#[from] NormaliseError),
    /// A script of a package that failed.
    #[error(transparent)]
    Configure(#[from] RunError),
    /// The same packages gave another layer than is locked.
    #[error("the same packages gave another layer than is locked")]
    OtherLayer,
    /// The lock tells no packages.
    #[error("the lock was written by a former version of kiln, which kept no addresses of packages")]
    FormerLock,
}

impl DebianError {
    pub(crate) fn of(self, name: &str) -> BuildError {
        BuildError::Debian { name: name.to_owned(), source: Box::new(self) }
    }

    /// Returns whose fault it is.
    pub(crate) fn fault(&self) -> Fault {
        match self {
            Self::NoMirror
            | Self::NoSuite(_)
            | Self::Keys { .. }
            | Self::Choice(_)
            | Self::Apt { .. }
            | Self::Unknown { .. }
            | Self::NoList { .. }
            | Self::FormerLock => Fault::User,
            _ => Fault::Step,
        }
    }

    /// Returns what the user can do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        let hint = match self {
            Self::Configure(run) => return run.hint(),
            Self::NoMirror | Self::NoSuite(_) => {
                "name one: `{ debian = \"bookworm\", mirror = \"https://HOST/debian\" }`"
            }
            Self::Signature { .. } => {
                "an archive with keys of its own: `key = \"FILE\"` in `mirror = { uri, key }` or in `repositories = [{ uri, key }]`, \
                 with a file of its public keys"
            }
            Self::Expired { .. } | Self::Older { .. } => {
                "use another mirror, or wait until this one is renewed; for an archive that keeps a state of the past: `mirror = { \
                 uri = \"...\", snapshot = true }`"
            }
            Self::Choice(ClosureError::Absent { .. }) | Self::Apt { .. } => {
                "see the names of packages in the suite; recommended packages are not installed"
            }
            Self::Unknown { .. } => "another archive may have it: `repositories = [{ uri, suites, components, key }]`",
            Self::NoList { .. } => {
                "are the address and the name of the suite right? The lists of a suite are at `URI/dists/SUITE/InRelease`"
            }
            Self::Gone { .. } => {
                "take the packages that there are now with `kiln lock --upgrade`, or name an archive that keeps old ones: `mirror = \
                 { uri = \"...\", snapshot = true }`"
            }
            Self::OtherLayer => "take the new layer with `kiln lock --upgrade`",
            Self::FormerLock => "take the packages that there are now with `kiln lock --upgrade`",
            _ => return None,
        };
        Some(hint.to_owned())
    }
}

fn described(packages: &[(String, String)]) -> String {
    let one = |(name, meant): &(String, String)| match meant.as_str() {
        "" => format!("`{name}`"),
        meant => format!("`{name}` ({meant})"),
    };
    packages.iter().map(one).collect::<Vec<_>>().join(", ")
}
