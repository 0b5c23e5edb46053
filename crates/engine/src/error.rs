//! What can go wrong in a build, whose fault it is, and what to do.

mod debian;
mod fetch;
mod project;
mod run;
mod secret;

pub use debian::DebianError;
pub use fetch::FetchError;
use std::path::PathBuf;

use kiln_oci::OciError;
use kiln_plan::diagnostic::Diagnostics;
use kiln_plan::digest::Digest;
use kiln_plan::event::Cancelled;
use kiln_plan::lock::LockError;
use kiln_plan::platform::Platform;
use kiln_registry::RegistryError;
use kiln_store::StoreError;
use kiln_wheel::name::WheelName;
use kiln_wheel::uv::UvError;
pub use project::ProjectError;
pub(crate) use run::{Commanded, RunError, shown as shown_lines};
pub(crate) use secret::SecretError;

use crate::signing::InvalidSecret;

/// A result of this crate.
pub type Result<T> = std::result::Result<T, BuildError>;

/// The reason of an error, of one of several types.
pub(crate) type Cause = Box<dyn std::error::Error + Send + Sync>;

/// What to do about a wheel that is not as it should be.
const DAMAGED: &str = "the file is damaged or not what it says it is: get it again, or report it to its author";

/// Advice on a layout that cannot be used.
pub(crate) const LAYOUT: &str = "name another directory, or write this one again with the program that made it";

/// Advice on layers of a base that nobody has.
const BASE_BYTES: &str = "get the base again: its layout must hold every layer, or its registry be in reach";

/// Whose fault an error is: it decides the exit status.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// The stack file, the lock, or the command line.
    User,
    /// A step of the build, or what it was given.
    Step,
    /// Network, disk, a missing program.
    Surroundings,
    /// The user stopped it.
    Interrupted,
}

/// A build error.
#[derive(Debug, thiserror::Error)]
pub enum BuildError {
    /// The stack file.
    #[error(transparent)]
    Stack(#[from] Diagnostics),
    /// The lock cannot be read.
    #[error("`{path}` cannot be used")]
    Lock {
        /// Its path.
        path: String,
        /// The reason.
        source: LockError,
    },
    /// The lock does not say what the stack needs, and may not be changed.
    #[error("the lock does not fit the stack: {0}")]
    LockOutdated(String),
    /// The project.
    #[error(transparent)]
    Project(#[from] ProjectError),
    /// A mistake for which there is advice.
    #[error("{message}")]
    Mistake {
        /// What is wrong.
        message: String,
        /// What to do.
        hint: String,
    },
    /// A result that must be known first is not.
    #[error("{0} is not known yet")]
    NotYet(String),
    /// A file was changed while it was copied.
    #[error("`{}` changed while it was copied", .0.display())]
    Changed(PathBuf),
    /// A wheel cannot be used.
    #[error("the wheel `{file}` cannot be used")]
    Wheel {
        /// Its file name.
        file: String,
        /// The reason.
        source: Cause,
    },
    /// The GPU code of a wheel cannot be cut.
    #[error("the wheel `{file}` cannot be pruned")]
    Prune {
        /// Its file name.
        file: String,
        /// The reason.
        source: Cause,
    },
    /// No library of a wheel would have any GPU code left.
    #[error("the wheel `{file}` has no GPU code for {}: nothing of it would be left", gpus.join(", "))]
    NothingLeft {
        /// Its file name.
        file: String,
        /// Capabilities that it was to be cut to.
        gpus: Vec<String>,
    },
    /// Layers, or files that are looked into.
    #[error("{what} cannot be read")]
    Unreadable {
        /// A noun phrase: `the layers of ghcr.io/acme/base`.
        what: String,
        /// The reason.
        source: Cause,
    },
    /// A base whose layers are elsewhere, and of which the stack declares nothing.
    #[error("the layers of `{base}` cannot be read, and `base-facts` are not declared")]
    NoFacts {
        /// The base.
        base: String,
        /// The reason.
        source: OciError,
    },
    /// A Debian that cannot be made.
    #[error("`{name}` cannot be made")]
    Debian {
        /// The base, or the packages of an image.
        name: String,
        /// The reason.
        source: Box<DebianError>,
    },
    /// A `uv.lock` that uv does not export.
    #[error("`{path}` cannot be exported by uv")]
    Export {
        /// Its path.
        path: String,
        /// The reason.
        source: UvError,
    },
    /// Packages that uv does not resolve, for another reason than their versions.
    #[error("the packages of `{image}` cannot be resolved")]
    Resolve {
        /// The image.
        image: String,
        /// The reason.
        source: UvError,
    },
    /// The address of a wheel.
    #[error("`{file}` has an unusable address")]
    Address {
        /// The wheel's file name.
        file: String,
        /// The reason.
        source: url::ParseError,
    },
    /// An image lacks GPU code.
    #[error("`{image}` ({platform}) lacks GPU code that its stack file requires")]
    GpuCode {
        /// The image.
        image: String,
        /// Its platform.
        platform: Platform,
        /// What is missing: a line for each file.
        source: Cause,
    },
    /// JSON that kiln itself writes.
    #[error("{what} cannot be written")]
    Json {
        /// A noun phrase: `a record`.
        what: &'static str,
        /// The reason.
        source: serde_json::Error,
    },
    /// A record cannot be signed.
    #[error("a record cannot be signed")]
    Signing(#[source] InvalidSecret),
    /// Images and layers.
    #[error(transparent)]
    Oci(OciError),
    /// A registry.
    #[error(transparent)]
    Registry(RegistryError),
    /// The store.
    #[error(transparent)]
    Store(StoreError),
    /// A download.
    #[error(transparent)]
    Fetch(#[from] FetchError),
    /// A package index.
    #[error("the package index cannot be reached")]
    Index(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// A package index that wants other credentials.
    #[error("the package index `{index}` answered {status}: it {}", if *status == 401 { "wants credentials" } else { "does not allow access" })]
    IndexRefused {
        /// Its address, without credentials.
        index: String,
        /// The HTTP status, 401 or 403.
        status: u16,
    },
    /// A package index that answers with something else than what it is asked for.
    #[error("the package index cannot be used: `{address}` {answer}")]
    OddIndex {
        /// The address of a page or a file, without credentials.
        address: String,
        /// A clause: `answered 500 Internal Server Error`.
        answer: String,
    },
    /// Layers that a record promised are on no registry and in no store.
    #[error("layers are neither here nor where they were: {}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join(", "))]
    Lost(Vec<Digest>),
    /// A step whose product is needed was not performed, and nothing failed.
    #[error("`{0}` could not be made, and nothing says why")]
    Unreachable(String),
    /// Several steps failed.
    #[error("{}", several(.0))]
    Several(Vec<(Option<String>, BuildError)>),
    /// A program that is needed.
    #[error("the program `{program}` is needed {purpose}, and {problem}")]
    Program {
        /// Its name.
        program: String,
        /// What for.
        purpose: String,
        /// A clause: what is wrong.
        problem: String,
        /// How to get it.
        hint: String,
    },
    /// A command of an image failed.
    #[error(transparent)]
    Run(#[from] RunError),
    /// A secret.
    #[error(transparent)]
    Secret(#[from] SecretError),
    /// A command of an image that changed other files the second time.
    #[error("`{command}` of {place} does not change the same each time:{}", listed(differences))]
    Differs {
        /// The command.
        command: String,
        /// The image and the line of the stack file.
        place: String,
        /// Paths, and how they differ.
        differences: Vec<String>,
    },
    /// A command of an image cannot run on this machine.
    #[error("`{command}` needs a sandbox, which cannot be made here")]
    Sandbox {
        /// The command.
        command: String,
        /// Advice for this machine.
        remedy: String,
        /// The reason.
        source: kiln_sandbox::SandboxError,
    },
    /// Files outside the store.
    #[error(transparent)]
    Io(std::io::Error),
    /// The user stopped it.
    #[error("interrupted")]
    Interrupted,
}

impl BuildError {
    /// Returns the error and what caused it, in one line.
    pub(crate) fn reasons(&self) -> String {
        let mut line = self.to_string();
        let mut source = std::error::Error::source(self);
        while let Some(cause) = source {
            line.push_str(&format!(": {cause}"));
            source = cause.source();
        }
        line
    }

    /// Whose fault it is.
    pub fn fault(&self) -> Fault {
        if self.is_disk_full() {
            return Fault::Surroundings;
        }
        match self {
            Self::Stack(_) | Self::Lock { .. } | Self::LockOutdated(_) | Self::Project(_) | Self::Mistake { .. } => {
                Fault::User
            }
            Self::Oci(OciError::Layout { .. } | OciError::NoImage { .. })
            | Self::Registry(RegistryError::Unusable { .. }) => Fault::User,
            Self::Registry(_) => Fault::Surroundings,
            Self::Changed(_)
            | Self::Wheel { .. }
            | Self::Prune { .. }
            | Self::NothingLeft { .. }
            | Self::Unreadable { .. }
            | Self::NoFacts { .. }
            | Self::Export { .. }
            | Self::Resolve { .. }
            | Self::Address { .. }
            | Self::GpuCode { .. }
            | Self::Json { .. }
            | Self::Run(_)
            | Self::Differs { .. }
            | Self::Signing(_) => Fault::Step,
            Self::Lost(_) => Fault::Surroundings,
            Self::Debian { source, .. } => source.fault(),
            Self::Secret(error) => error.fault(),
            Self::Unreachable(_) | Self::NotYet(_) => Fault::Step,
            Self::Several(failures) => failures.first().map_or(Fault::Step, |(_, error)| error.fault()),
            Self::Oci(OciError::Io(_) | OciError::Store(_)) => Fault::Surroundings,
            Self::Oci(_) => Fault::Step,
            Self::Store(_)
            | Self::Fetch(_)
            | Self::Index(_)
            | Self::IndexRefused { .. }
            | Self::OddIndex { .. }
            | Self::Program { .. }
            | Self::Sandbox { .. }
            | Self::Io(_) => Fault::Surroundings,
            Self::Interrupted => Fault::Interrupted,
        }
    }

    /// What to do about it.
    pub fn hint(&self) -> Option<String> {
        if self.is_disk_full() {
            return Some("free some space: `kiln du` says what the store takes, `kiln gc` makes it smaller".into());
        }
        match self {
            Self::Lock { source: LockError::Version(_) | LockError::Newer(_), .. } => {
                Some("use the kiln that wrote it, or delete it and run `kiln lock`".into())
            }
            Self::Lock { .. } => Some("restore it from version control, or delete it and run `kiln lock`".into()),
            Self::LockOutdated(_) => Some("run `kiln lock`".into()),
            Self::Mistake { hint, .. } => Some(hint.clone()),
            Self::Debian { source, .. } => source.hint(),
            Self::Secret(error) => Some(error.hint()),
            Self::NotYet(_) => Some("`kiln build` finds it out".into()),
            Self::Changed(_) => Some("build again once nothing writes to it".into()),
            Self::Wheel { source, .. } if source.is::<kiln_wheel::install::InstallError>() => Some(DAMAGED.into()),
            Self::NothingLeft { .. } => Some(
                "take another wheel of it or another release: `kiln inspect` says what GPU code the wheel has; a stack \
                 names files that may lack code in `verify.except`"
                    .into(),
            ),
            Self::Store(StoreError::Database(_)) => Some(
                "is the store's file system full, read-only, or without locks? `KILN_STORE` names another store".into(),
            ),
            Self::Oci(OciError::Entry { .. }) => Some(DAMAGED.into()),
            Self::Oci(OciError::WrongWheel { wheel, .. }) => {
                let file = wheel.rsplit('/').next().unwrap_or_default();
                let name = file.parse::<WheelName>().map_or_else(|_| "NAME".to_owned(), |wheel| wheel.name.to_string());
                Some(format!(
                    "somebody replaced the file after it was locked: put the locked one back, or take the one that lies \
                     there, `kiln lock --upgrade {name}`; where a lock of another tool names it, write that anew first"
                ))
            }
            Self::Oci(OciError::NoBytes { .. }) | Self::Lost(_) => Some(BASE_BYTES.into()),
            Self::Oci(OciError::Layout { .. }) => Some(LAYOUT.into()),
            Self::Oci(OciError::Damaged { .. }) => {
                Some("remove the file and build again; if this happens more than once, check the disk".into())
            }
            Self::Registry(error) => error.hint(),
            Self::Index(_) => Some("check the network, `[index]` in the stack file, and proxies".into()),
            Self::OddIndex { answer, .. } => Some(odd_index(answer).into()),
            Self::IndexRefused { .. } => Some(
                "give a name and a password or a token for its host in `~/.netrc`, or in its address under `[index]`; \
                 is the address right?"
                    .into(),
            ),
            Self::Fetch(error) => error.hint(),
            Self::Program { hint, .. } => Some(hint.clone()),
            Self::Sandbox { remedy, .. } => Some(remedy.clone()),
            Self::Run(error) => error.hint(),
            Self::Differs { .. } => Some(
                "times, random numbers and the order of parallel work are the usual reasons; `SOURCE_DATE_EPOCH` in `env` stops \
                 most tools from writing the time"
                    .into(),
            ),
            Self::Several(failures) => failures.iter().find_map(|(_, error)| error.hint()),
            _ => None,
        }
    }

    /// Returns true if damaged content of the store may be the cause.
    pub(crate) fn may_come_from_damage(&self) -> bool {
        if let Self::Several(failures) = self {
            return failures.iter().any(|(_, error)| error.may_come_from_damage());
        }
        let elsewhere = match self {
            Self::Stack(_) | Self::Lock { .. } | Self::LockOutdated(_) | Self::Mistake { .. } | Self::Interrupted => {
                true
            }
            Self::Fetch(_) | Self::Index(_) | Self::IndexRefused { .. } | Self::OddIndex { .. } => true,
            Self::Lost(_) | Self::Program { .. } => true,
            Self::Changed(_) | Self::Run(_) | Self::Secret(_) | Self::Differs { .. } | Self::Sandbox { .. } => true,
            Self::Registry(error) => !matches!(error, RegistryError::Damaged { .. } | RegistryError::Unusable { .. }),
            _ => false,
        };
        !elsewhere && !self.is_disk_full()
    }

    /// Returns true if the store's database is damaged.
    pub(crate) fn is_damaged_database(&self) -> bool {
        matches!(self, Self::Store(error) | Self::Oci(OciError::Store(error)) if error.is_damaged_database())
    }

    /// Whether a registry says that something is not there.
    pub(crate) fn is_not_found(&self) -> bool {
        matches!(self, Self::Registry(error) if error.is_not_found())
    }

    /// Whether a registry says that one may not.
    pub(crate) fn is_denied(&self) -> bool {
        matches!(self, Self::Registry(error) if error.is_denied())
    }

    /// Whether that is for want of permission.
    pub(crate) fn is_about_permission(&self) -> bool {
        matches!(self, Self::Registry(RegistryError::Denied { .. }))
    }

    fn is_disk_full(&self) -> bool {
        let mut source: Option<&(dyn std::error::Error + 'static)> = Some(self);
        while let Some(error) = source {
            let full = match error.downcast_ref::<StoreError>() {
                Some(store) => store.is_disk_full(),
                None => error
                    .downcast_ref::<std::io::Error>()
                    .is_some_and(|error| error.kind() == std::io::ErrorKind::StorageFull),
            };
            if full {
                return true;
            }
            source = error.source();
        }
        match self {
            Self::Run(error) => error.is_about_room(),
            Self::Store(error) | Self::Oci(OciError::Store(error)) => error.is_disk_full(),
            Self::Io(error) | Self::Oci(OciError::Io(error)) => error.kind() == std::io::ErrorKind::StorageFull,
            _ => false,
        }
    }
}

/// Advice on an index that answers with something else than what it is asked for.
fn odd_index(answer: &str) -> &'static str {
    let status = answer.strip_prefix("answered ").and_then(|rest| rest.get(..3)).unwrap_or_default();
    match status {
        "429" => "the server wants fewer requests: try again later, or name another index below `[index]`",
        "404" | "410" => {
            "the index names what it does not have: choose another version, or another index below `[index]`"
        }
        _ if status.starts_with('5') => "the server fails: try again later, or name another index below `[index]`",
        _ => {
            "open the address in a browser: an index gives the page of a package there (PEP 503, PEP 691). Is it the right one \
             below `[index]`, and does a proxy or a login stand before it?"
        }
    }
}

impl From<RegistryError> for BuildError {
    fn from(error: RegistryError) -> Self {
        match error {
            RegistryError::Interrupted => Self::Interrupted,
            RegistryError::Io(error) => error.into(),
            RegistryError::Image(error) => error.into(),
            other => Self::Registry(other),
        }
    }
}

impl From<OciError> for BuildError {
    fn from(error: OciError) -> Self {
        match error {
            OciError::Interrupted => Self::Interrupted,
            OciError::Store(error) => error.into(),
            OciError::Io(error) => error.into(),
            other => Self::Oci(other),
        }
    }
}

impl From<StoreError> for BuildError {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Io(error) if is_cancelled(&error) => Self::Interrupted,
            other => Self::Store(other),
        }
    }
}

impl From<std::io::Error> for BuildError {
    /// Readers of a registry's content wrap what went wrong there.
    fn from(error: std::io::Error) -> Self {
        if is_cancelled(&error) {
            return Self::Interrupted;
        }
        match error.downcast::<RegistryError>() {
            Ok(error) => error.into(),
            Err(error) => Self::Io(error),
        }
    }
}

impl From<Cancelled> for BuildError {
    fn from(_: Cancelled) -> Self {
        Self::Interrupted
    }
}

/// Lists the first of some lines below a message.
fn listed(lines: &[String]) -> String {
    const SHOWN: usize = 20;
    let mut text: String = lines.iter().take(SHOWN).map(|line| format!("\n{line}")).collect();
    if let Some(more @ 1..) = lines.len().checked_sub(SHOWN) {
        text.push_str(&format!("\nand {more} more"));
    }
    text
}

/// Lists failures, each with its reasons.
fn several(failures: &[(Option<String>, BuildError)]) -> String {
    let mut text = format!("{} steps failed", failures.len());
    for (subject, error) in failures {
        let subject = subject.as_deref().map(|subject| format!("{subject}: ")).unwrap_or_default();
        text.push_str(&format!("\n{subject}{}", error.reasons()));
    }
    text
}

fn is_cancelled(error: &std::io::Error) -> bool {
    error.get_ref().is_some_and(|inner| inner.is::<Cancelled>())
}
