//! Requirements files, local wheels and finished wheels of recipes: what the project itself brings to a lock.

use std::path::{Path, PathBuf};

use kiln_plan::diagnostic::{Diagnostic, Diagnostics};
use kiln_plan::digest::Digest;
use kiln_plan::lock::LockedWheel;
use kiln_plan::platform::Platform;
use kiln_plan::secret::redact_text;
use kiln_plan::stack::{Recipe, RequirementsFile};
use kiln_wheel::install::Wheel;
use kiln_wheel::name::WheelName;
use kiln_wheel::pylock::{self, LockedPackage, WheelFile};
use kiln_wheel::tags::{Fit, Tags};
use sha2::Digest as _;
use url::Url;

use crate::error::{BuildError, Result};
use crate::project::Project;

/// A requirements file of the project.
pub(super) struct RequirementsSource {
    /// Absolute path.
    pub(super) path: PathBuf,
    /// Digest of its content.
    pub(super) digest: Digest,
    /// The kind of lock that it is; nothing for a list of requirements.
    pub(super) lock: Option<LockKind>,
}

/// Locks of other tools, taken as they are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LockKind {
    /// `pylock.toml` (PEP 751).
    Pylock,
    /// `uv.lock`, which uv itself turns into the former.
    Uv,
}

impl Project<'_> {
    pub(super) fn requirements_source(&self, file: &RequirementsFile) -> Result<RequirementsSource> {
        let path = self.path(&file.path)?;
        let bytes = fs_err::read(&path)?;
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let lock = if name == "uv.lock" {
            Some(LockKind::Uv)
        } else if name.starts_with("pylock.") && name.ends_with(".toml") {
            Some(LockKind::Pylock)
        } else {
            None
        };
        let path = fs_err::canonicalize(path)?;
        Ok(RequirementsSource { path, digest: Digest::of(&bytes), lock })
    }

    pub(super) fn locked_requirements(
        &self,
        source: &RequirementsSource,
        python: &str,
        platform: Platform,
    ) -> Result<Vec<LockedPackage>> {
        let unusable = |error: Box<dyn std::error::Error + Send + Sync>| {
            BuildError::step(format!("`{}` cannot be used", source.path.display()), error)
        };
        let text = match source.lock {
            Some(LockKind::Uv) => self.export_uv_lock(&source.path)?,
            _ => fs_err::read_to_string(&source.path)?,
        };
        let environment = pylock::environment(python, python, platform).map_err(|error| unusable(error.into()))?;
        let mut packages = pylock::parse(&text, &environment).map_err(|error| unusable(error.into()))?;
        let directory = source.path.parent().unwrap_or(Path::new("/"));
        for wheel in packages.iter_mut().flat_map(|package| &mut package.wheels) {
            if !wheel.location.contains("://") {
                wheel.location = directory.join(&wheel.location).display().to_string();
            }
        }
        Ok(packages)
    }

    fn export_uv_lock(&self, path: &Path) -> Result<String> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        let output = std::process::Command::new(self.uv()?)
            .args(["export", "--quiet", "--frozen", "--no-emit-project", "--no-header", "--format", "pylock.toml"])
            .arg("--project")
            .arg(directory)
            .output()?;
        if output.status.success() {
            return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
        }
        let reason = redact_text(String::from_utf8_lossy(&output.stderr).trim()).into_owned();
        Err(BuildError::step(format!("`{}` cannot be exported by uv", path.display()), reason))
    }

    /// How the lock writes a wheel: never with a path of this machine, never with credentials.
    pub(super) fn locked_wheel(&self, wheel: &WheelFile) -> Result<LockedWheel> {
        let mut locked =
            LockedWheel { file: wheel.file.clone(), sha256: wheel.sha256, size: wheel.size, url: None, path: None };
        if pylock::is_local(&wheel.location) {
            let path = local_path(&wheel.location)?;
            locked.size = Some(fs_err::metadata(&path)?.len());
            locked.path = self.relative(&path);
        } else {
            let mut url: Url = wheel.location.parse().map_err(|error| {
                BuildError::step(format!("`{}` has an unusable address", wheel.file), Box::new(error) as Box<_>)
            })?;
            // Neither can fail for an address with a host, which this one has.
            let _ = (url.set_username(""), url.set_password(None));
            url.set_fragment(None);
            locked.url = Some(url.to_string());
        }
        Ok(locked)
    }

    /// The path from the stack file, with `..` where the wheel lies outside; nothing where they share no directory.
    fn relative(&self, path: &Path) -> Option<String> {
        let project = fs_err::canonicalize(&self.directory).ok()?;
        let path = fs_err::canonicalize(path).ok()?;
        Some(path.strip_prefix(project).ok()?.to_str()?.to_owned())
    }

    /// The finished wheel of a recipe: until wheels can be compiled, one that lies in a find-links directory.
    pub(super) fn built_wheel(
        &self,
        name: &pep508_rs::PackageName,
        recipe: &Recipe,
        tags: &Tags,
        platform: Platform,
    ) -> Result<LockedWheel> {
        let version = recipe.version.as_deref().unwrap_or_default();
        let wrong = |message: String, hint: String| -> BuildError {
            Diagnostics::from(Diagnostic::at(recipe.span.clone(), message).hint(hint)).into()
        };
        let mut best: Option<(Fit, PathBuf, WheelName)> = None;
        for directory in &self.stack.index.find_links {
            let directory = self.directory.join(directory.strip_prefix("file://").unwrap_or(directory));
            let Ok(entries) = fs_err::read_dir(&directory) else { continue };
            for entry in entries {
                let path = entry?.path();
                let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
                let Ok(wheel) = file.parse::<WheelName>() else { continue };
                let same = wheel.name == *name && version.parse().is_ok_and(|version| wheel.version == version);
                if let Some(fit) = tags.fit(&wheel).filter(|_| same)
                    && best.as_ref().is_none_or(|(best, ..)| fit < *best)
                {
                    best = Some((fit, path, wheel));
                }
            }
        }
        let Some((_, path, wheel)) = best else {
            return Err(wrong(
                format!("the wheel of {name} {version} for {platform} is not there"),
                "compile it elsewhere and put it into a directory of `[index] find-links`: this release of kiln cannot \
                 compile wheels yet"
                    .into(),
            ));
        };
        self.check_metadata(&path, wheel, recipe, &wrong)?;
        let sha256 = digest_of(&path)?;
        let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let size = Some(fs_err::metadata(&path)?.len());
        Ok(LockedWheel { file, sha256, size, url: None, path: self.relative(&path) })
    }

    /// A finished wheel must require what its recipe declared, since the others were chosen by that.
    fn check_metadata(
        &self,
        path: &Path,
        name: WheelName,
        recipe: &Recipe,
        wrong: &dyn Fn(String, String) -> BuildError,
    ) -> Result<()> {
        let file = fs_err::File::open(path)?;
        let size = file.metadata()?.len();
        let shown = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let reader = kiln_wheel::archive::FileReader::from(file.into_file());
        let metadata = Wheel::open(name, reader, size)
            .and_then(|wheel| wheel.metadata())
            .map_err(|error| BuildError::step(format!("the wheel `{shown}` cannot be used"), error))?;
        let sorted = |list: &[String]| {
            let mut list: Vec<String> = list.iter().map(|text| text.replace([' ', '(', ')'], "")).collect();
            list.retain(|text| !text.contains("extra=="));
            list.sort();
            list
        };
        let declared = recipe.dependencies.clone().unwrap_or_default();
        if sorted(&declared) == sorted(&metadata.requires) {
            return Ok(());
        }
        Err(wrong(
            format!("`{shown}` requires something else than its recipe declares"),
            format!("the wheel says {:?}; put that into `dependencies`", metadata.requires),
        ))
    }
}

pub(super) fn local_path(location: &str) -> Result<PathBuf> {
    if !location.starts_with("file:") {
        return Ok(PathBuf::from(location));
    }
    let path = location.parse::<Url>().ok().and_then(|url| url.to_file_path().ok());
    path.ok_or_else(|| BuildError::Project(format!("`{location}` is not the address of a file")))
}

fn digest_of(path: &Path) -> Result<Digest> {
    use std::io::Read;
    let mut file = fs_err::File::open(path)?;
    let mut hasher = sha2::Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(Digest::finish(hasher));
        }
        hasher.update(&buffer[..read]);
    }
}
