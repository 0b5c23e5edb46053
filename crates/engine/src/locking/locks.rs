//! Locks of other tools, which are taken as they are: `uv.lock`, `pylock.toml`, `poetry.lock`.

use std::path::Path;

use kiln_plan::diagnostic::{Diagnostic, Diagnostics, Label, closest};
use kiln_plan::stack::Image;
use kiln_wheel::pylock::{self, LockedPackage, PylockError};
use kiln_wheel::requirements::{self, poetry, pyproject};
use kiln_wheel::uv::{self, Blocker, Fit, Target, UvError};
use pep508_rs::MarkerEnvironment;

use super::answer::Searched;
use super::files::{LockKind, RequirementsSource, placed, read_text};
use super::listed::Listed;
use crate::error::{BuildError, Result};
use crate::project::Project;

impl RequirementsSource<'_> {
    fn groups_and_extras(&self) -> pylock::Choice<'_> {
        pylock::Choice { groups: self.written.groups.as_deref(), extras: &self.written.extras }
    }

    /// Returns the place of a package in a lock.
    pub(super) fn place_of(&self, package: &str, version: Option<&str>) -> Option<Label> {
        let text = read_text(&self.path).ok()?;
        requirements::entry(&text, &self.written.path, package, version).map(Label::from)
    }

    /// Returns an error at the line of the stack file that names the lock.
    fn refused(&self, message: String, hint: &str) -> BuildError {
        Diagnostics::from(Diagnostic::at(self.span(), message).hint(hint)).into()
    }

    /// Returns the error about a lock that cannot be used, at the package that is to blame.
    fn unusable(&self, error: &PylockError) -> BuildError {
        let hint = match error.is_choice {
            true => "choose from what there is: `groups`, `extras`",
            false => "write the file anew with the tool that made it, for this Python and with wheels",
        };
        match error.package.as_ref().and_then(|package| self.place_of(package, None)) {
            Some(place) => Diagnostics::from(Diagnostic::at(place, &error.problem).hint(hint)).into(),
            None => self.refused(format!("`{}` cannot be used: {}", self.shown(), error.problem), hint),
        }
    }

    /// Returns the error about packages of a lock that have wheels, and none that fits.
    fn no_wheels(&self, blockers: &[Blocker], target: &Target<'_>) -> BuildError {
        let mut wrong = Diagnostics::default();
        for blocker in blockers {
            let version = blocker.versions.trim_start_matches('=');
            let message =
                format!("no wheel of {} {version} fits Python {} on {}", blocker.name, target.python, target.platform);
            let place = self.place_of(&blocker.name, None).unwrap_or_else(|| self.span().into());
            let bring = requirements::bring_wheel(&blocker.name, version);
            wrong.push(Diagnostic::at(place, message).hint(format!("{}; {bring}", blocker.told())));
        }
        wrong.into()
    }
}

impl Project<'_> {
    /// The packages of a lock of another tool. Its wheels must have the digests that it says.
    pub(super) fn locked_requirements(
        &self,
        image: &Image,
        source: &RequirementsSource<'_>,
        kind: LockKind,
        target: &Target<'_>,
    ) -> Result<Vec<LockedPackage>> {
        let environment = target.markers().map_err(|error| source.unusable(&error))?;
        let mut packages = match kind {
            LockKind::Uv => self.uv_lock(source, target, &environment)?,
            LockKind::Pylock => {
                let text = read_text(&source.path)?;
                pylock::parse(&text, &environment, source.groups_and_extras())
                    .map_err(|error| source.unusable(&error))?
            }
            LockKind::Poetry => return self.ask_for_poetry(image, source, target, &environment),
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
        let refused = |message: String, hint: &str| source.refused(message, hint);
        if !directory.join("pyproject.toml").is_file() {
            let message = format!("`{}` has no `pyproject.toml` beside it", source.written.path);
            return Err(refused(message, "uv tells by it which packages of the lock are the project's"));
        }
        let temporary = self.workshop.store.temporary_directory()?;
        let work = self.workshop.work("resolve", source.shown(), None);
        let uv = self.workshop.uv()?;
        let project = pyproject::BesideLock::read(&read_text(&directory.join("pyproject.toml"))?);
        if let Some(needs) = project.as_ref().and_then(pyproject::BesideLock::requires_python)
            && !needs.contains(&environment.python_full_version().version)
        {
            let message = format!(
                "the project of `{}` needs Python {needs}, and the image has {}",
                source.written.path,
                environment.python_full_version()
            );
            return Err(refused(message, "change the Python of the image, the base, or the project"));
        }
        let settings = project.as_ref().map(|project| project.settings(directory));
        let has_root = project.is_some_and(|project| project.has_project());
        let export = uv::Export {
            project: directory,
            settings: settings.as_deref(),
            has_root,
            groups: source.written.groups.as_deref().unwrap_or_default(),
            extras: &source.written.extras,
            dev: source.written.dev,
            package: source.written.package.as_deref(),
        };
        let failed = |error| self.not_exported(source, error);
        let programs = self.uv_programs(&uv);
        let text = uv::export(programs, target, &export, temporary.path(), &work).map_err(failed)?;
        let packages = pylock::parse(&text, environment, pylock::Choice::default());
        let packages = packages.map_err(|error| source.unusable(&error))?;
        let path = &source.written.path;
        match uv::compare(programs, target, &export, temporary.path(), &work).map_err(failed)? {
            Fit::Fits => Ok(packages),
            Fit::Stale => {
                let message = format!("`{path}` does not fit its `pyproject.toml`");
                Err(refused(message, "the project asks for something else than is locked: run `uv lock` there"))
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
        image: &Image,
        source: &RequirementsSource<'_>,
        target: &Target<'_>,
        environment: &MarkerEnvironment,
    ) -> Result<Vec<LockedPackage>> {
        let text = read_text(&source.path)?;
        let directory = source.path.parent().unwrap_or(Path::new("/"));
        let (path, provided) = (&source.written.path, self.brought(image));
        let project = read_text(&directory.join("pyproject.toml")).ok();
        let written =
            poetry::Written { text: &text, path, project: project.as_deref(), directory, provided: &provided };
        let mut found = poetry::read(written, environment, source.groups_and_extras(), source.written.dev)
            .map_err(|wrong| placed(wrong, &source.written.span))?;
        let excluded = &image.resolution.exclude;
        found.requirements.retain(|line| !excluded.iter().any(|one| one.name == line.value.name));
        let (brought, asked): (Vec<_>, Vec<_>) =
            found.requirements.into_iter().partition(|line| provided.contains(&line.value.name));
        found.requirements = asked;
        let listed = Listed::new(&found, environment, &self.directory)?;
        let mut index = self.absolute_index();
        listed.add_indexes(&mut index, environment, &self.directory)?;
        let (lines, _) = listed.lines();
        let question = uv::Question { listed: lines, alone: true, ..uv::Question::about(*target, &index) };
        let answer = if listed.is_empty() { Ok(Vec::new()) } else { self.ask(&question, path)? };
        let mut packages = match answer {
            Ok(packages) => packages,
            Err(UvError::NoWheels(mut blockers)) => {
                self.complete_reasons(&mut blockers, &Searched { index, no_index: false }, target)?;
                return Err(source.no_wheels(&blockers, target));
            }
            Err(error) => return Err(self.unresolved(path, error)),
        };
        let tags = target.tags();
        for package in &mut packages {
            package.wheels = listed.allowed(package, &tags)?;
        }
        packages.extend(brought.into_iter().map(|line| LockedPackage {
            name: line.value.name.to_string(),
            version: line.value.exact_version().map(ToString::to_string),
            wheels: Vec::new(),
            source: Some("an archive of its source"),
        }));
        Ok(packages)
    }

    /// The error about a `uv.lock` that uv does not export.
    fn not_exported(&self, source: &RequirementsSource<'_>, error: UvError) -> BuildError {
        let file = source.written;
        let offers = read_text(&source.path).ok().and_then(|text| uv::offers(&text, file.package.as_deref()));
        let (UvError::Failed(_), Some(offers)) = (&error, offers) else {
            return self.of_uv(error, |source_error| BuildError::Export { path: source.shown(), source: source_error });
        };
        let is = |one: &str, other: &str| kiln_wheel::name_of(one) == kiln_wheel::name_of(other);
        let groups = file.groups.as_deref().unwrap_or_default();
        let chosen = [
            ("member", file.package.as_slice(), &offers.members),
            ("group", groups, &offers.groups),
            ("extra", file.extras.as_slice(), &offers.extras),
        ];
        for (kind, names, known) in chosen {
            if let Some(name) = names.iter().find(|name| !known.iter().any(|known| is(known, name))) {
                let has: Vec<String> = known.iter().map(|name| format!("`{name}`")).collect();
                let hint = match closest(name, known.iter().map(String::as_str)) {
                    Some(close) => format!("did you mean `{close}`?"),
                    None if has.is_empty() => format!("it has no {kind}"),
                    None => format!("it has {}", has.join(", ")),
                };
                return source.refused(format!("`{}` has no {kind} `{name}`", file.path), &hint);
            }
        }
        BuildError::Export { path: source.shown(), source: error }
    }
}
