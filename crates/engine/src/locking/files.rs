//! Requirements files, local wheels and finished wheels of recipes: what the project itself brings to a lock.

use std::path::{Path, PathBuf};

use kiln_plan::diagnostic::{Diagnostic, Diagnostics};
use kiln_plan::digest::Digest;
use kiln_plan::lock::LockedWheel;
use kiln_plan::platform::Platform;
use kiln_plan::stack::{Recipe, RequirementsFile};
use kiln_wheel::install::Wheel;
use kiln_wheel::name::WheelName;
use kiln_wheel::pylock::{self, LockedPackage, WheelFile};
use kiln_wheel::requirements::{self, Requirements};
use kiln_wheel::tags::{Fit, Tags};
use kiln_wheel::uv::{self, Programs, Target, UvError};
use url::Url;

use crate::error::{BuildError, ProjectError, Result};
use crate::project::Project;

/// A requirements file of the project.
pub(super) struct RequirementsSource {
    /// Absolute path.
    path: PathBuf,
    /// The files that its meaning depends on, by their paths relative to the project, with digests of their content.
    pub(super) files: Vec<(String, Digest)>,
    /// Its content.
    pub(super) content: Content,
}

/// Content of a requirements file.
pub(super) enum Content {
    /// A list of requirements, which is resolved.
    List(Box<Requirements>),
    /// A lock of another tool, taken as it is.
    Locked(LockKind),
}

/// Locks of other tools.
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
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let kind = if name == "uv.lock" {
            LockKind::Uv
        } else if name.starts_with("pylock.") && name.ends_with(".toml") {
            LockKind::Pylock
        } else {
            let list = requirements::read(&self.directory, &path, &mut read_bounded)?;
            let files = list.files.clone();
            return Ok(RequirementsSource { path, files, content: Content::List(Box::new(list)) });
        };
        let path = fs_err::canonicalize(path)?;
        let mut files = vec![(file.path.clone(), digest_of(&path)?)];
        let project = path.with_file_name("pyproject.toml");
        if kind == LockKind::Uv && project.is_file() {
            files.push(("pyproject.toml".to_owned(), digest_of(&project)?));
        }
        Ok(RequirementsSource { path, files, content: Content::Locked(kind) })
    }

    /// The packages of a lock of another tool. Its wheels must have the digests that it says.
    pub(super) fn locked_requirements(
        &self,
        source: &RequirementsSource,
        kind: LockKind,
        target: &Target<'_>,
    ) -> Result<Vec<LockedPackage>> {
        let unusable = |error: Box<dyn std::error::Error + Send + Sync>| BuildError::Requirements {
            path: source.path.display().to_string(),
            source: error,
        };
        let text = match kind {
            LockKind::Uv => self.export_uv_lock(&source.path, target)?,
            LockKind::Pylock => fs_err::read_to_string(&source.path)?,
        };
        let environment = target.markers().map_err(|error| unusable(error.into()))?;
        let mut packages = pylock::parse(&text, &environment).map_err(|error| unusable(error.into()))?;
        let directory = source.path.parent().unwrap_or(Path::new("/"));
        for wheel in packages.iter_mut().flat_map(|package| &mut package.wheels) {
            if !wheel.location.contains("://") {
                wheel.location = directory.join(&wheel.location).display().to_string();
            }
        }
        Ok(packages)
    }

    fn export_uv_lock(&self, path: &Path, target: &Target<'_>) -> Result<String> {
        let directory = path.parent().unwrap_or(Path::new("/"));
        let temporary = self.workshop.store.temporary_directory()?;
        let work = self.workshop.work("resolve", path.display().to_string(), None);
        let program = self.workshop.uv()?;
        uv::export(self.uv_programs(&program), target, directory, temporary.path(), &work).map_err(
            |error| match error {
                UvError::Interrupted => BuildError::Interrupted,
                UvError::Io(error) if error.kind() == std::io::ErrorKind::StorageFull => error.into(),
                source => BuildError::Export { path: path.display().to_string(), source },
            },
        )
    }

    /// The programs that take part in resolving.
    pub(super) fn uv_programs<'p>(&'p self, uv: &'p Path) -> Programs<'p> {
        Programs { uv, kiln: &self.workshop.surroundings.program, environment: &self.workshop.surroundings.environment }
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
            let address = |source| BuildError::Address { file: wheel.file.clone(), source };
            let mut url: Url = wheel.location.parse().map_err(address)?;
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
            .map_err(|error| BuildError::Wheel { file: shown.clone(), source: error.into() })?;
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
    path.ok_or_else(|| ProjectError::NotAFile(location.to_owned()).into())
}

/// A file of requirements: a regular one, and no larger than such a file is.
fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    // One that is no file might never end, or never begin.
    if !fs_err::metadata(path)?.is_file() {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    fs_err::File::open(path)?.take(requirements::LARGEST + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

fn digest_of(path: &Path) -> Result<Digest> {
    Ok(kiln_store::digest_of(fs_err::File::open(path)?, &|_| Ok(()))?)
}
