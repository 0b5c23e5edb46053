//! What commands work with, whether or not there is a stack: the store, the network, programs, and whoever looks on.

use std::path::{Path, PathBuf};

use kiln_plan::child::ChildEnvironment;
use kiln_plan::event::{Cancel, Event, Reporter, Work};
use kiln_plan::secret::redact_text;
use kiln_registry::Registries;
use kiln_store::Store;

use crate::error::{BuildError, Result};
use crate::fetch::Netrc;
use crate::session::Session;
use crate::signing::Signer;

/// What comes from outside the files: read by the command line, so that libraries never look.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// kiln itself, which answers for an interpreter where packages are resolved.
    pub program: PathBuf,
    /// The environment of the programs that kiln runs.
    pub environment: ChildEnvironment,
    /// Credentials for downloads.
    pub netrc: Netrc,
    /// How registries are spoken to.
    pub registry: kiln_registry::Options,
    /// The secret key that signs what this machine puts into the cache.
    pub signer: Option<Signer>,
    /// Threads that work at once.
    pub jobs: usize,
    /// Whether the network is forbidden.
    pub offline: bool,
    /// When images are said to be made, in seconds since 1970 (`SOURCE_DATE_EPOCH`).
    pub created: u64,
    /// The capabilities of this machine's GPUs, for `gpus = ["native"]`: asked only where a stack says so.
    pub native_gpus: Vec<String>,
}

/// What commands work with.
pub struct Workshop<'a> {
    /// The store.
    pub store: &'a Store,
    /// Who is told what happens.
    pub reporter: &'a dyn Reporter,
    /// Whether the user wants to stop.
    pub cancel: Cancel,
    /// What comes from outside the files.
    pub surroundings: Surroundings,
    /// What was found out while it was open.
    pub(crate) session: Session,
}

impl<'a> Workshop<'a> {
    /// A workshop around a store.
    pub fn new(store: &'a Store, reporter: &'a dyn Reporter, cancel: Cancel, surroundings: Surroundings) -> Self {
        Self { store, reporter, cancel, surroundings, session: Session::default() }
    }
}

impl Workshop<'_> {
    /// The client of registries, made when first needed: that takes longer than a build that has nothing to do.
    pub fn registries(&self) -> Result<&Registries> {
        self.session.registries(&self.surroundings.registry, &self.cancel)
    }

    /// Bytes of content that were sent to registries and received from them.
    pub fn moved(&self) -> (u64, u64) {
        self.session.moved()
    }

    /// Begins an activity.
    pub fn work(&self, verb: &'static str, subject: impl Into<String>, bytes: Option<u64>) -> Work<'_> {
        Work::start(self.reporter, &self.cancel, verb, subject, bytes)
    }

    /// Says something that is worth knowing.
    pub fn warn(&self, message: impl Into<String>) {
        self.reporter.event(Event::Warning { message: message.into() });
    }

    /// A program on `PATH`.
    pub fn find_program(&self, name: &str) -> Option<PathBuf> {
        let path = self.surroundings.environment.get("PATH")?;
        std::env::split_paths(path).map(|directory| directory.join(name)).find(|path| is_executable(path))
    }

    /// The uv program: the one on `PATH`, else the store's own, which is installed from its wheel when first needed.
    pub fn uv(&self) -> Result<PathBuf> {
        if let Some(found) = self.find_program("uv") {
            return Ok(found);
        }
        let pinned = kiln_wheel::uv::PINNED_VERSION;
        let directory = self.store.tools().join(format!("uv-{pinned}"));
        let program = directory.join("bin/uv");
        if is_executable(&program) {
            return Ok(program);
        }
        let _lock = self.store.lock("tools")?;
        if is_executable(&program) {
            return Ok(program);
        }
        self.install_uv(&directory)?;
        Ok(program)
    }

    fn install_uv(&self, directory: &Path) -> Result<()> {
        let problem = |problem: String| BuildError::Program {
            program: "uv".into(),
            purpose: "to resolve Python packages".into(),
            problem,
            hint: "install it: `pip install uv`, or see its documentation; kiln finds it on PATH".into(),
        };
        let Some(python) = self.find_program("python3").filter(|_| !self.surroundings.offline) else {
            return Err(problem("is not on PATH, and cannot be installed without `python3` and the network".into()));
        };
        let _work = self.work("install", format!("uv {}", kiln_wheel::uv::PINNED_VERSION), None);
        let temporary = self.store.temporary_directory()?;
        let target = temporary.path().join("uv");
        let output = self
            .surroundings
            .environment
            .command(python)
            .args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--no-input"])
            .arg("--disable-pip-version-check")
            .arg("--target")
            .arg(&target)
            .arg(format!("uv=={}", kiln_wheel::uv::PINNED_VERSION))
            .output()?;
        if !output.status.success() {
            let text = String::from_utf8_lossy(&output.stderr);
            let last = text.lines().rev().find(|line| !line.trim().is_empty()).unwrap_or("no reason given");
            let last = redact_text(last);
            return Err(problem(format!("`python3 -m pip` could not install it: {last}")));
        }
        if directory.exists() {
            fs_err::remove_dir_all(directory)?;
        }
        fs_err::rename(&target, directory)?;
        Ok(())
    }
}

/// Seconds since 1970. It decides what is old, and enters no result.
pub(crate) fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn is_executable(path: &Path) -> bool {
    use std::os::unix::fs::PermissionsExt;
    fs_err::metadata(path).is_ok_and(|found| found.is_file() && found.permissions().mode() & 0o111 != 0)
}
