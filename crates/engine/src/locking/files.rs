//! Requirements files, local wheels and finished wheels of recipes: what the project itself brings to a lock.

use std::path::{Path, PathBuf};

use kiln_plan::diagnostic::{Diagnostic, Diagnostics, Span};
use kiln_plan::digest::Digest;
use kiln_plan::lock::{Lock, LockedWheel};
use kiln_plan::platform::Platform;
use kiln_plan::stack::{Recipe, Remote, RequirementsFile};
use kiln_store::open_regular;
use kiln_wheel::install::Wheel;
use kiln_wheel::name::WheelName;
use kiln_wheel::pylock::{self, LockedPackage, PylockError, WheelFile};
use kiln_wheel::requirements::{self, Requirements, poetry, pyproject};
use kiln_wheel::tags::{self, Tags};
use kiln_wheel::uv::{self, Fit, Programs, Target, UvError};
use pep508_rs::MarkerEnvironment;
use url::Url;

use super::listed::Listed;
use crate::error::{BuildError, ProjectError, Result};
use crate::project::Project;

/// Bytes that a file of requirements may have.
pub(super) const LARGEST_FILE: u64 = requirements::LARGEST;

/// A file of requirements, and the part of it that is installed.
pub(super) struct RequirementsSource<'a> {
    /// Absolute path.
    path: PathBuf,
    written: &'a RequirementsFile,
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

    fn unusable(&self, error: PylockError) -> BuildError {
        BuildError::Requirements { path: self.shown(), source: error.into() }
    }

    /// Returns its place in the stack file.
    pub(super) fn span(&self) -> Span {
        self.written.span.clone()
    }

    /// Returns its path, for messages.
    fn shown(&self) -> String {
        match &self.written.from {
            Some(remote) => format!("{} of {remote}", self.written.path),
            None => self.path.display().to_string(),
        }
    }

    fn groups_and_extras(&self) -> pylock::Choice<'_> {
        pylock::Choice { groups: self.written.groups.as_deref(), extras: &self.written.extras }
    }
}

impl Project<'_> {
    /// Reads a file of requirements; `lock` has the sources outside of the project.
    pub(super) fn requirements_source<'a>(
        &self,
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
            let list = list((root, &within), file, &path, name == "pyproject.toml")?;
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

    /// The packages of a lock of another tool. Its wheels must have the digests that it says.
    pub(super) fn locked_requirements(
        &self,
        source: &RequirementsSource<'_>,
        kind: LockKind,
        target: &Target<'_>,
    ) -> Result<Vec<LockedPackage>> {
        let environment = target.markers().map_err(|error| source.unusable(error))?;
        let mut packages = match kind {
            LockKind::Uv => self.uv_lock(source, target, &environment)?,
            LockKind::Pylock => {
                let text = read_text(&source.path)?;
                pylock::parse(&text, &environment, source.groups_and_extras())
                    .map_err(|error| source.unusable(error))?
            }
            LockKind::Poetry => return self.ask_for_poetry(source, target, &environment),
        };
        let directory = source.path.parent().unwrap_or(Path::new("/"));
        for wheel in packages.iter_mut().flat_map(|package| &mut package.wheels) {
            if !wheel.location.contains("://") {
                wheel.location = directory.join(&wheel.location).display().to_string();
            }
        }
        Ok(packages)
    }

    /// The packages of a `uv.lock`, which must be what its project asks for.
    fn uv_lock(
        &self,
        source: &RequirementsSource<'_>,
        target: &Target<'_>,
        environment: &MarkerEnvironment,
    ) -> Result<Vec<LockedPackage>> {
        let directory = source.path.parent().unwrap_or(Path::new("/"));
        let refused = |message: String, hint: &str| -> BuildError {
            Diagnostics::from(Diagnostic::at(source.span(), message).hint(hint)).into()
        };
        if !directory.join("pyproject.toml").is_file() {
            let message = format!("`{}` has no `pyproject.toml` beside it", source.written.path);
            return Err(refused(message, "uv tells by it which packages of the lock are the project's"));
        }
        let temporary = self.workshop.store.temporary_directory()?;
        let work = self.workshop.work("resolve", source.shown(), None);
        let uv = self.workshop.uv()?;
        let project = read_text(&directory.join("pyproject.toml"));
        let settings = project.as_ref().ok().and_then(|text| pyproject::settings(text, directory));
        if let Some(needs) = project.as_ref().ok().and_then(|text| pyproject::requires_python(text))
            && !needs.contains(&environment.python_full_version().version)
        {
            let message = format!(
                "the project of `{}` needs Python {needs}, and the image has {}",
                source.written.path,
                environment.python_full_version()
            );
            return Err(refused(message, "change the Python of the image, the base, or the project"));
        }
        let has_root = project.is_ok_and(|text| pyproject::has_project(&text));
        let export = uv::Export {
            project: directory,
            settings: settings.as_deref(),
            has_root,
            groups: source.written.groups.as_deref().unwrap_or_default(),
            extras: &source.written.extras,
            dev: source.written.dev,
            package: source.written.package.as_deref(),
        };
        let failed = |error| match error {
            UvError::Interrupted => BuildError::Interrupted,
            UvError::Io(error) if error.kind() == std::io::ErrorKind::StorageFull => error.into(),
            error => BuildError::Export { path: source.shown(), source: error },
        };
        let programs = self.uv_programs(&uv);
        let text = uv::export(programs, target, &export, temporary.path(), &work).map_err(failed)?;
        let packages = pylock::parse(&text, environment, pylock::Choice::default());
        let packages = packages.map_err(|error| source.unusable(error))?;
        let path = &source.written.path;
        match uv::compare(programs, target, &export, temporary.path(), &work).map_err(failed)? {
            Fit::Fits => Ok(packages),
            Fit::Stale => {
                let message = format!("`{path}` does not fit its `pyproject.toml`");
                let hint = "the project asks for something else than is locked: run `uv lock` there";
                Err(Diagnostics::from(Diagnostic::at(source.written.span.clone(), message).hint(hint)).into())
            }
            Fit::Unknown(reason) => {
                let reason = reason.lines().next().unwrap_or_default().to_owned();
                self.workshop.warn(format!("kiln cannot tell if `{path}` fits its `pyproject.toml`: {reason}"));
                Ok(packages)
            }
        }
    }

    /// The packages of a `poetry.lock`, from the indexes, without what they require.
    fn ask_for_poetry(
        &self,
        source: &RequirementsSource<'_>,
        target: &Target<'_>,
        environment: &MarkerEnvironment,
    ) -> Result<Vec<LockedPackage>> {
        let text = read_text(&source.path)?;
        let directory = source.path.parent().unwrap_or(Path::new("/"));
        let (path, choice, dev) = (&source.written.path, source.groups_and_extras(), source.written.dev);
        let project = read_text(&directory.join("pyproject.toml")).ok();
        let found = poetry::read(&text, (path, project.as_deref()), directory, environment, choice, dev)?;
        let listed = Listed::new(&found, environment, &self.directory)?;
        let mut index = self.absolute_index();
        listed.add_indexes(&mut index, environment, &self.directory)?;
        let (lines, _) = listed.lines();
        let question = uv::Question { listed: lines, alone: true, ..uv::Question::about(*target, &index) };
        let mut packages = self.ask(&question, path)?.map_err(|error| self.unresolved(path, error))?;
        let minor = target.python.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or(0);
        let tags = Tags::new(minor, target.platform, target.libc);
        for package in &mut packages {
            package.wheels = listed.allowed(package, &tags)?;
        }
        Ok(packages)
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
    is_project: bool,
) -> Result<Requirements> {
    if is_project {
        if file.package.is_some() {
            return Err(wrong_choice(file, "a `pyproject.toml` is one member of its workspace: name the member's own"));
        }
        let groups = file.groups.as_deref().unwrap_or_default();
        let choice = pyproject::Choice { groups, extras: &file.extras, dev: file.dev };
        return Ok(pyproject::read(root, path, choice, &mut |path| read_within(within, path))?);
    }
    if file.chooses() {
        return Err(wrong_choice(file, "a list of requirements has no groups and no extras"));
    }
    Ok(requirements::read(root, path, &mut |path| read_within(within, path))?)
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
fn read_text(path: &Path) -> std::io::Result<String> {
    open_regular(path).and_then(std::io::read_to_string)
}

pub(super) fn digest_of(path: &Path) -> Result<Digest> {
    Ok(kiln_store::digest_of(open_regular(path)?, &|_| Ok(()))?)
}
