//! Requirements files, local wheels and finished wheels of recipes: what the project itself brings to a lock.

use std::path::{Path, PathBuf};

use kiln_plan::diagnostic::{Diagnostic, Diagnostics, Label, Span};
use kiln_plan::digest::Digest;
use kiln_plan::lock::{Lock, LockedWheel};
use kiln_plan::platform::Platform;
use kiln_plan::stack::{Image, Recipe, Remote, RequirementsFile};
use kiln_store::open_regular;
use kiln_wheel::install::Wheel;
use kiln_wheel::name::WheelName;
use kiln_wheel::pylock::{self, WheelFile};
use kiln_wheel::requirements::{self, Provided, Requirements, pyproject};
use kiln_wheel::tags::{self, Tags};
use kiln_wheel::uv::Programs;
use url::Url;

use super::answer::same_version;
use crate::error::{BuildError, ProjectError, Result};
use crate::project::Project;

/// Bytes that a file of requirements may have.
pub(super) const LARGEST_FILE: u64 = requirements::LARGEST;

/// A file of requirements, and the part of it that is installed.
pub(super) struct RequirementsSource<'a> {
    /// Absolute path.
    pub(super) path: PathBuf,
    pub(super) written: &'a RequirementsFile,
    /// The files that its meaning depends on, by their paths relative to the project, with digests of their content.
    pub(super) files: Vec<(String, Digest)>,
    /// Its content.
    pub(super) content: Content,
    /// The directory that it was written into, where it is not the project's.
    _directory: Option<kiln_store::TemporaryDirectory>,
}

/// Content of a file of requirements.
pub(super) enum Content {
    /// A list of requirements, which is resolved.
    List(Box<Requirements>),
    /// A lock of another tool, taken as it is.
    Locked(LockKind),
    /// Somebody else's.
    Taken,
}

/// Locks of other tools.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum LockKind {
    /// `pylock.toml` (PEP 751).
    Pylock,
    /// `uv.lock`, which uv itself turns into the former.
    Uv,
    /// `poetry.lock`, which names versions and digests, and no addresses.
    Poetry,
}

impl RequirementsSource<'_> {
    /// Returns the part that is installed, as a pin of the lock's inputs; nothing where all of it is.
    pub(super) fn choice(&self) -> Option<String> {
        let RequirementsFile { groups, extras, dev, package, .. } = self.written;
        self.written.chooses().then(|| format!("{groups:?} {extras:?} {dev} {package:?}"))
    }

    /// Returns its place in the stack file.
    pub(super) fn span(&self) -> Span {
        self.written.span.clone()
    }

    /// Returns its path, for messages.
    pub(super) fn shown(&self) -> String {
        match &self.written.from {
            Some(remote) => format!("{} of {remote}", self.written.path),
            None => self.written.path.clone(),
        }
    }
}

impl Project<'_> {
    /// Reads a file of requirements of an image; `lock` has the sources outside of the project.
    pub(super) fn requirements_source<'a>(
        &self,
        image: &Image,
        file: &'a RequirementsFile,
        lock: &Lock,
    ) -> Result<RequirementsSource<'a>> {
        let remote = file.from.as_ref();
        let directory = remote.map(|remote| self.source_directory(remote, lock)).transpose()?;
        let root = directory.as_ref().map_or(self.directory.as_path(), kiln_store::TemporaryDirectory::path);
        let path = match remote {
            None => self.repository_path(&file.path)?,
            Some(_) if root.join(&file.path).is_file() => root.join(&file.path),
            Some(remote) => return Err(not_there(file, remote)),
        };
        let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let kind = if name == "uv.lock" {
            LockKind::Uv
        } else if name == "poetry.lock" {
            LockKind::Poetry
        } else if name.starts_with("pylock.") && name.ends_with(".toml") {
            LockKind::Pylock
        } else {
            let within = match remote {
                Some(_) => fs_err::canonicalize(root)?,
                None => self.working_tree()?,
            };
            let mut provided = self.brought(image);
            provided.extend(image.resolution.overrides.iter().map(|one| one.name.clone()));
            let list = list((root, &within), file, &path, &provided)?;
            let files = list.files.clone();
            let content = Content::List(Box::new(list));
            return Ok(RequirementsSource { path, written: file, files, content, _directory: directory });
        };
        if let (Some(_), false) = (&file.package, kind == LockKind::Uv) {
            return Err(wrong_choice(file, "`package` chooses a member of a workspace, which `uv.lock` alone has"));
        }
        let path = fs_err::canonicalize(path)?;
        let mut files = vec![(file.path.clone(), digest_of(&path)?)];
        let project = path.with_file_name("pyproject.toml");
        if kind != LockKind::Pylock && project.is_file() {
            let beside = Path::new(&file.path).with_file_name("pyproject.toml");
            files.push((beside.display().to_string(), digest_of(&project)?));
        }
        Ok(RequirementsSource { path, written: file, files, content: Content::Locked(kind), _directory: directory })
    }

    /// The programs that take part in resolving.
    pub(super) fn uv_programs<'p>(&'p self, uv: &'p Path) -> Programs<'p> {
        Programs { uv, kiln: &self.workshop.surroundings.program, environment: &self.workshop.surroundings.environment }
    }

    /// How the lock writes a wheel: never with a path of this machine, never with credentials.
    pub(super) fn locked_wheel(&self, wheel: &WheelFile) -> Result<LockedWheel> {
        let mut locked = LockedWheel {
            file: wheel.file.clone(),
            sha256: wheel.sha256,
            size: wheel.size,
            url: None,
            path: None,
            publisher: None,
            indexes: Vec::new(),
        };
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

    /// Packages of an image whose wheels the stack brings, or that it leaves out.
    pub(super) fn brought(&self, image: &Image) -> Provided {
        let recipes = self.stack.recipes.iter().filter(|(_, recipe)| recipe.version.is_some());
        let excluded = image.resolution.exclude.iter().map(|one| &one.name);
        recipes.map(|(name, _)| name).chain(excluded).cloned().collect()
    }

    /// Checks that a recipe says what it has to, for a package that is asked for at a place, or locked there in a version.
    pub(super) fn check_recipe(
        &self,
        name: &pep508_rs::PackageName,
        recipe: &Recipe,
        place: Option<Label>,
        locked: Option<&str>,
    ) -> Result<()> {
        let wrong = |message: String, hint: String| -> BuildError {
            let diagnostic = match place {
                Some(place) => Diagnostic::at(place, message).also(recipe.span.clone(), "its recipe"),
                None => Diagnostic::at(recipe.span.clone(), message),
            };
            Diagnostics::from(diagnostic.hint(hint)).into()
        };
        match (&recipe.version, &recipe.dependencies) {
            (Some(version), Some(_)) => match locked.filter(|locked| !same_version(locked, version)) {
                Some(locked) => Err(wrong(
                    format!("{name} is locked in version {locked}, and its recipe brings {version}"),
                    format!("bring its wheel in that version, `version = \"{locked}\"`, or lock {version}"),
                )),
                None => Ok(()),
            },
            _ => Err(wrong(
                format!("`{name}` is compiled from source, and its metadata is not known"),
                "declare `version` and `dependencies` in its recipe: wheels cannot be compiled yet".into(),
            )),
        }
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
        let mut best: Option<(tags::Fit, PathBuf, WheelName)> = None;
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
        let path = self.relative(&path);
        Ok(LockedWheel { file, sha256, size, url: None, path, publisher: None, indexes: Vec::new() })
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

/// The error about a choice that a file of requirements does not offer.
fn wrong_choice(file: &RequirementsFile, message: &str) -> BuildError {
    Diagnostics::from(
        Diagnostic::at(file.span.clone(), message)
            .hint("groups and extras are chosen from `pyproject.toml`, `uv.lock`, `pylock.toml` and `poetry.lock`"),
    )
    .into()
}

pub(super) fn local_path(location: &str) -> Result<PathBuf> {
    if !location.starts_with("file:") {
        return Ok(PathBuf::from(location));
    }
    let path = location.parse::<Url>().ok().and_then(|url| url.to_file_path().ok());
    path.ok_or_else(|| ProjectError::NotAFile(location.to_owned()).into())
}

/// Reads a requirements.txt or a `pyproject.toml`.
fn list(
    (root, within): (&Path, &Path),
    file: &RequirementsFile,
    path: &Path,
    provided: &Provided,
) -> Result<Requirements> {
    // A choice that the file does not offer is one of the stack file.
    let placed = |wrong| placed(wrong, &file.span);
    if path.file_name().is_some_and(|name| name == "pyproject.toml") {
        if file.package.is_some() {
            return Err(wrong_choice(file, "a `pyproject.toml` is one member of its workspace: name the member's own"));
        }
        let groups = file.groups.as_deref().unwrap_or_default();
        let choice = pyproject::Choice { groups, extras: &file.extras, dev: file.dev };
        let mut content = |path: &Path| read_within(within, path);
        return pyproject::read(root, path, choice, provided, &mut content).map_err(placed);
    }
    if file.chooses() {
        return Err(wrong_choice(file, "a list of requirements has no groups and no extras"));
    }
    requirements::read(root, path, provided, &mut |path| read_within(within, path)).map_err(placed)
}

/// Returns an error about a file; what has no place in it is said at its line of the stack file.
pub(super) fn placed(mut wrong: Diagnostics, span: &Span) -> BuildError {
    for diagnostic in wrong.0.iter_mut().filter(|diagnostic| diagnostic.labels.is_empty()) {
        diagnostic.labels.push(span.clone().into());
    }
    wrong.into()
}

/// Returns the error about a file that a source outside of the project does not have.
fn not_there(file: &RequirementsFile, remote: &Remote) -> BuildError {
    let message = format!("{remote} has no file `{}`", file.path);
    let hint = "the path is the one in the repository; files of requirements end in `.txt`, `.in`, `.lock` or `.toml`";
    Diagnostics::from(Diagnostic::at(file.span.clone(), message).hint(hint)).into()
}

/// Reads a file of requirements in the repository, whatever leads to it: what it says is asked of indexes, and shown.
fn read_within(within: &Path, path: &Path) -> std::io::Result<Vec<u8>> {
    if fs_err::canonicalize(path)?.starts_with(within) {
        return read_bounded(path);
    }
    Err(std::io::Error::new(std::io::ErrorKind::PermissionDenied, "it is outside of the repository"))
}

/// A file of requirements: a regular one, and no larger than such a file is.
fn read_bounded(path: &Path) -> std::io::Result<Vec<u8>> {
    use std::io::Read;
    // One that is no file might never end, or never begin.
    if !fs_err::metadata(path)?.is_file() {
        return Err(std::io::Error::new(std::io::ErrorKind::InvalidInput, "it is not a regular file"));
    }
    let mut bytes = Vec::new();
    fs_err::File::open(path)?.take(LARGEST_FILE + 1).read_to_end(&mut bytes)?;
    Ok(bytes)
}

/// The text of a regular file.
pub(super) fn read_text(path: &Path) -> std::io::Result<String> {
    open_regular(path).and_then(std::io::read_to_string)
}

pub(super) fn digest_of(path: &Path) -> Result<Digest> {
    Ok(kiln_store::digest_of(open_regular(path)?, &|_| Ok(()))?)
}
