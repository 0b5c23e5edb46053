//! Programs that kiln installs for itself.

use std::path::{Path, PathBuf};

use kiln_plan::secret::redact_text;

use crate::error::{BuildError, Result};
use crate::workshop::{Workshop, is_executable};

impl Workshop<'_> {
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
