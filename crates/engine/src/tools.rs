//! Programs that kiln installs for itself.

use std::fmt::Write as _;
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_plan::event::Event;
use kiln_programs::{Call, LOCATIONS, NETWORK, Names, PATH, ProgramError, Stdout};
use kiln_store::Lock;
use kiln_wheel::uv::{PINNED_SHA256, PINNED_VERSION};

use crate::error::{BuildError, Result};
use crate::workshop::Workshop;

/// The variables that pip needs. Settings of pip and uv (`PIP_*`, `UV_*`) are not among them: the package, its version and
/// its digest are kiln's choice. A mirror of PyPI in pip's own configuration file is used.
const PIP: Names = &[PATH, LOCATIONS, NETWORK, &["XDG_CACHE_HOME", "XDG_CONFIG_HOME", "REQUESTS_CA_BUNDLE", "NETRC"]];

/// The lock of whoever installs a program.
const LOCK: &str = "tools";
/// The pause between two looks at a lock that another kiln has.
const PAUSE: Duration = Duration::from_millis(50);

impl Workshop<'_> {
    /// Returns the uv program: the one on `PATH`, else the store's own, which is installed from its wheel when first needed.
    pub fn uv(&self) -> Result<PathBuf> {
        if let Some(found) = self.find_program("uv") {
            return Ok(found);
        }
        let directory = self.store.tools().join(format!("uv-{PINNED_VERSION}-pinned"));
        let program = directory.join("bin/uv");
        let is_there = || self.surroundings.environment.find(&program).is_some();
        if is_there() {
            return Ok(program);
        }
        let _lock = self.alone(LOCK, &format!("install uv {PINNED_VERSION}"))?;
        if !is_there() {
            self.install_uv(&directory)?;
        }
        Ok(program)
    }

    /// Waits for the lock of whoever does the same, until the user wants to stop.
    pub(crate) fn alone(&self, name: &str, subject: &str) -> Result<Lock> {
        let mut is_said = false;
        loop {
            self.cancel.check()?;
            if let Some(lock) = self.store.try_lock(name)? {
                return Ok(lock);
            }
            if !std::mem::replace(&mut is_said, true) {
                let subject = subject.to_owned();
                self.reporter.event(Event::Waiting { subject, reason: "another kiln does it" });
            }
            std::thread::sleep(PAUSE);
        }
    }

    /// Installs uv with the host's pip, which compares the wheel with its digest.
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
        let work = self.work("install", format!("uv {PINNED_VERSION}"), None);
        let temporary = self.store.temporary_directory()?;
        let requirements = temporary.path().join("requirements.txt");
        fs_err::write(&requirements, requirement())?;
        let target = temporary.path().join("uv");
        // Python looks for pip in the current directory first: in this one there is nothing.
        let call = Call::new(python, PIP)
            .directory(temporary.path())
            .stdout(Stdout::Lines)
            .args(["-m", "pip", "install", "--quiet", "--no-deps", "--only-binary", ":all:", "--no-input"])
            .args(["--disable-pip-version-check", "--require-hashes", "--target"])
            .arg(&target)
            .arg("--requirement")
            .arg(&requirements);
        match call.run(&self.surroundings.environment, &work) {
            Ok(_) => {}
            Err(ProgramError::Interrupted) => return Err(BuildError::Interrupted),
            Err(ProgramError::Failed(failed)) => {
                let last = failed.last_lines(1).first().map_or_else(|| failed.ended.to_string(), ToString::to_string);
                return Err(problem(format!("`python3 -m pip` could not install it: {last}")));
            }
            Err(error) => return Err(problem(format!("`python3 -m pip` could not install it: {error}"))),
        }
        if !target.join("bin/uv").is_file() {
            return Err(problem("`python3 -m pip` installed no `bin/uv`".into()));
        }
        Ok(kiln_store::put_directory(&target, directory)?)
    }
}

/// Returns the requirements file that pins uv: one version, and the wheels that may be it.
fn requirement() -> String {
    let mut text = format!("uv=={PINNED_VERSION}");
    for digest in PINNED_SHA256 {
        let _ = write!(text, " --hash=sha256:{digest}");
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn uv_is_pinned_by_the_digests_of_its_wheels() {
        let text = requirement();
        assert!(text.starts_with(&format!("uv=={PINNED_VERSION} --hash=sha256:")) && text.lines().count() == 1);
        let digests: Vec<&str> =
            text.split_whitespace().filter_map(|word| word.strip_prefix("--hash=sha256:")).collect();
        assert_eq!(digests, PINNED_SHA256);
        for digest in digests {
            assert!(format!("sha256:{digest}").parse::<kiln_plan::digest::Digest>().is_ok(), "{digest}");
        }
    }
}
