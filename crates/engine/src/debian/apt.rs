//! apt and dpkg of a system, in the sandbox: they see archives of files that kiln shows them, and nothing else.

use std::path::{Path, PathBuf};

use kiln_plan::base::DEFAULT_PATH;
use kiln_plan::event::Work;
use kiln_plan::lock::LockedDeb;
use kiln_sandbox::{Command, Ended, Given, Root};
use kiln_store::TemporaryDirectory;

use super::packages;
use super::script::{self, PLACE, Wishes};
use crate::error::{BuildError, Commanded, DebianError, Result, RunError};
use crate::inside::Done;
use crate::sandboxed::{self, Conditions, Finished};
use crate::workshop::Workshop;

/// Paths that are no part of what apt leaves: kiln's own, and keys that every machine must have for itself.
const LEFT_OUT: [&str; 7] = [
    PLACE,
    "etc/ssh/ssh_host_ecdsa_key",
    "etc/ssh/ssh_host_ecdsa_key.pub",
    "etc/ssh/ssh_host_ed25519_key",
    "etc/ssh/ssh_host_ed25519_key.pub",
    "etc/ssh/ssh_host_rsa_key",
    "etc/ssh/ssh_host_rsa_key.pub",
];

/// A system whose programs run.
pub(super) struct Apt<'a> {
    pub(super) workshop: &'a Workshop<'a>,
    /// The base or the image, for errors.
    pub(super) name: &'a str,
    /// Trees of its layers, the lowest first.
    pub(super) layers: Vec<PathBuf>,
    /// Commands before, which are older.
    pub(super) below: u8,
}

/// A directory that programs see as [`PLACE`].
pub(super) struct Beside(TemporaryDirectory);

impl Beside {
    fn new(workshop: &Workshop<'_>) -> Result<Self> {
        let beside = Self(workshop.store.temporary_directory()?);
        for of_apt in ["lists/partial", "cache/archives/partial", "archive"] {
            fs_err::create_dir_all(beside.place().join(of_apt))?;
        }
        Ok(beside)
    }

    fn tree(&self) -> PathBuf {
        self.0.path().join("trees/beside")
    }

    fn place(&self) -> PathBuf {
        self.tree().join(PLACE)
    }
}

impl Apt<'_> {
    /// Returns the packages that apt would install: the number of a suite, and a path in its archive. A suite is what describes it,
    /// and the paragraphs of its packages.
    pub(super) fn choose(
        &self,
        suites: &[(&str, &str)],
        architecture: &str,
        wishes: &Wishes,
        work: &Work<'_>,
    ) -> Result<Vec<(usize, String)>> {
        let beside = Beside::new(self.workshop)?;
        let mut sources = String::new();
        for (at, (described, packages)) in suites.iter().enumerate() {
            let folder = beside.place().join(format!("{at}/dists/suite"));
            let list = folder.join(format!("main/binary-{architecture}"));
            fs_err::create_dir_all(&list)?;
            fs_err::write(folder.join("Release"), described)?;
            fs_err::write(list.join("Packages"), packages)?;
            sources.push_str(&format!("deb [trusted=yes] file:/{PLACE}/{at} suite main\n"));
        }
        fs_err::write(beside.place().join("sources.list"), sources)?;
        let said = self.run(&beside, script::choose(wishes), work, |done, lines| match done.ran.ended {
            Ended::Exited(0) => Ok(fs_err::read_to_string(done.root.upper().join(PLACE).join(script::CHOSEN))?),
            Ended::Stopped => Err(BuildError::Interrupted),
            _ => {
                let packages = wishes.install.iter().chain(&wishes.remove).cloned().collect();
                // The lists that kiln shows it are not signed, which it warns of each time.
                let lines = lines.into_iter().filter(|line| !line.starts_with("W: ")).collect();
                Err(DebianError::Apt { packages, lines }.of(self.name))
            }
        })?;
        script::chosen(&said).map_err(|line| DebianError::Chosen { line }.of(self.name))
    }

    /// Runs a script that installs packages, and hands on what it left.
    pub(super) fn install<T>(
        &self,
        script: String,
        debs: &[&LockedDeb],
        work: &Work<'_>,
        then: impl FnOnce(&Done<'_>) -> Result<T>,
    ) -> Result<T> {
        let beside = Beside::new(self.workshop)?;
        packages::archive(self.workshop, debs, &beside.place().join("archive"))?;
        let sources = format!("deb [trusted=yes] file:/{PLACE}/archive ./\n");
        fs_err::write(beside.place().join("sources.list"), sources)?;
        self.run(&beside, script, work, |done, lines| match done.ran.ended {
            Ended::Exited(0) if done.ran.another().is_none() => then(done),
            Ended::Stopped => Err(BuildError::Interrupted),
            ended => {
                let scripts = Commanded {
                    shown: "dpkg".to_owned(),
                    place: self.name.to_owned(),
                    another: None,
                    timeout: None,
                    has_shell: false,
                    has_network: false,
                };
                Err(DebianError::from(RunError::new(&scripts, ended, done.ran.another(), lines)).of(self.name))
            }
        })
    }

    /// Runs a script that copies files of the system into [`PLACE`], and hands on the directory there.
    pub(super) fn look<T>(&self, script: String, work: &Work<'_>, then: impl FnOnce(&Path) -> Result<T>) -> Result<T> {
        let beside = Beside::new(self.workshop)?;
        self.run(&beside, script, work, |done, lines| match done.ran.ended {
            Ended::Exited(0) => then(&done.root.upper().join(PLACE)),
            Ended::Stopped => Err(BuildError::Interrupted),
            _ => Err(DebianError::NoApt { lines }.of(self.name)),
        })
    }

    fn run<T>(
        &self,
        beside: &Beside,
        script: String,
        work: &Work<'_>,
        then: impl FnOnce(&Done<'_>, Vec<String>) -> Result<T>,
    ) -> Result<T> {
        let env = [
            ("PATH", DEFAULT_PATH.to_owned()),
            ("HOME", "/root".to_owned()),
            ("LC_ALL", "C.UTF-8".to_owned()),
            ("DEBIAN_FRONTEND", "noninteractive".to_owned()),
            ("DEBCONF_NONINTERACTIVE_SEEN", "true".to_owned()),
            ("APT_CONFIG", kiln_sandbox::APT_CONFIG.to_owned()),
            // Python before 3.11 writes sets into bytecode in the order of their hashes.
            ("PYTHONHASHSEED", "0".to_owned()),
            ("SOURCE_DATE_EPOCH", kiln_oci::time::CREATED.to_string()),
        ];
        let env = env.into_iter().map(|(name, value)| (name.to_owned(), value)).collect();
        let words = ["/bin/sh", "-e", "-c", &script].map(str::to_owned).to_vec();
        let command =
            Command { words, env, workdir: "/".to_owned(), user: (0, 0, Vec::new()), given: Given::default() };
        let mut layers = self.layers.clone();
        layers.push(beside.tree());
        sandboxed::over(self.workshop, &layers, |root: &Root| {
            let conditions = Conditions::default();
            let Finished { ran, lines, .. } =
                sandboxed::run(self.workshop, (root, &command), &conditions, self.name, work)?;
            let bound = LEFT_OUT.iter().map(PathBuf::from).collect();
            then(&Done { root, ran: &ran, below: self.below, bound }, lines)
        })
    }
}
