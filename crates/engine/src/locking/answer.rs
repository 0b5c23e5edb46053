//! The resolver's answer for an image, or for several that must agree: asked for, and translated where there is none.

use kiln_plan::stack::{Index, Prerelease, Requirement};
use kiln_wheel::pylock::LockedPackage;
use kiln_wheel::uv::{self, UvError};
use url::Url;

use super::conflict;
use super::listed::Listed;
use super::question::ImageQuestion;
use crate::error::{BuildError, Result};
use crate::project::Project;

/// An image as it takes part in a resolution.
pub(super) struct Part<'q> {
    pub(super) question: &'q ImageQuestion<'q>,
    pub(super) listed: Option<&'q Listed<'q>>,
    /// Packages that its locks of other tools name.
    pub(super) locked: Vec<LockedPackage>,
}

/// Places that packages come from.
pub(super) struct Searched {
    pub(super) index: Index,
    /// No index is, and directories alone are.
    pub(super) no_index: bool,
}

/// A question without an answer.
pub(super) enum Failed {
    /// Requirements and pins contradict one another: without the pins there may be an answer.
    Conflict(BuildError),
    /// Another reason.
    Other(BuildError),
}

/// Bounds of a choice of versions.
#[derive(Clone, Copy, Default)]
pub(super) struct Given<'g> {
    /// Versions of packages that are there.
    pub(super) pins: &'g [(String, String)],
    /// Requirements that hold for what is chosen.
    pub(super) bounds: &'g [String],
    /// Versions to stay with where they fit.
    pub(super) preferences: &'g [(String, String)],
    /// The builds of torch, by uv's name.
    pub(super) torch: Option<&'g str>,
}

impl From<BuildError> for Failed {
    fn from(error: BuildError) -> Self {
        Self::Other(error)
    }
}

impl From<Failed> for BuildError {
    fn from(failed: Failed) -> Self {
        match failed {
            Failed::Conflict(error) | Failed::Other(error) => error,
        }
    }
}

impl<'q> Part<'q> {
    /// Returns the part of an image.
    pub(super) fn of(
        project: &Project<'_>,
        question: &'q ImageQuestion<'q>,
        listed: Option<&'q Listed<'q>>,
    ) -> Result<Self> {
        let mut locked: Vec<LockedPackage> = Vec::new();
        for (source, kind) in &question.locks {
            for package in project.locked_requirements(question.image, source, *kind, &question.target())? {
                if question.image.resolution.exclude.iter().any(|one| one.name.as_ref() == package.name) {
                    continue;
                }
                match locked.iter().find(|other| other.name == package.name) {
                    Some(other) if other.version != package.version => {
                        return Err(conflict::differently(question, &package, other));
                    }
                    Some(_) => {}
                    None => locked.push(package),
                }
            }
        }
        Ok(Self { question, listed, locked })
    }

    pub(super) fn asks_nothing(&self) -> bool {
        self.question.image.requirements.is_empty() && self.listed.is_none_or(Listed::is_empty)
    }
}

/// Returns true for two spellings of one version (PEP 440).
pub(super) fn same_version(one: &str, other: &str) -> bool {
    let parsed = |text: &str| text.parse::<pep440_rs::Version>().ok();
    one == other || parsed(one).is_some() && parsed(one) == parsed(other)
}

impl Project<'_> {
    /// Asks uv for what images need together, beside what is given. The first part is the image that it is asked for.
    pub(super) fn resolve(
        &self,
        parts: &[Part<'_>],
        given: &Given<'_>,
    ) -> std::result::Result<Vec<LockedPackage>, Failed> {
        let Some(first) = parts.first() else { return Ok(Vec::new()) };
        let locked: Vec<LockedPackage> = parts.iter().flat_map(|part| part.locked.iter().cloned()).collect();
        for package in &locked {
            let given = given.pins.iter().find(|(name, _)| *name == package.name);
            if let (Some((_, below)), Some(version)) = (given, &package.version)
                && !same_version(below, version)
            {
                return Err(Failed::Conflict(conflict::locked_otherwise(first.question, package, below)));
            }
        }
        if parts.iter().all(Part::asks_nothing) {
            return Ok(locked);
        }
        let searched = self.searched_by(parts)?;
        let Searched { index, no_index } = &searched;
        if !no_index && index.default.is_none() && index.extra.is_empty() && index.packages.is_empty() {
            self.hint_index();
        }
        let asked = self.asked(first, parts, given, &searched)?;
        let name = format!("{} ({})", first.question.image.name, first.question.platform);
        let answer = self.ask(&asked, &name)?.map_err(|error| match error {
            UvError::Unsatisfiable(explanation) => match self.odd_index(&explanation, &searched) {
                Ok(None) => Failed::Conflict(self.conflict(parts, given, &explanation).into()),
                Ok(Some(error)) | Err(error) => Failed::Other(error),
            },
            UvError::NoWheels(mut blockers) => {
                if let Some(wrong) = self.held_back(parts, given, &blockers) {
                    return Failed::Conflict(wrong.into());
                }
                match self.complete_reasons(&mut blockers, &searched, &first.question.target()) {
                    Ok(()) => Failed::Conflict(self.no_wheels(parts, given, &blockers).into()),
                    Err(error) => Failed::Other(error),
                }
            }
            UvError::Odd { address, answer } => match self.looked_at(address, answer) {
                Ok(error) | Err(error) => Failed::Other(error),
            },
            error => Failed::Other(self.unresolved(&first.question.image.name, error)),
        })?;
        let known = |package: &LockedPackage| locked.iter().any(|locked| locked.name == package.name);
        let more: Vec<LockedPackage> = answer.into_iter().filter(|package| !known(package)).collect();
        Ok(locked.into_iter().chain(more).collect())
    }

    /// The question to uv for what images need together, beside what is given.
    pub(super) fn asked<'q>(
        &self,
        first: &'q Part<'_>,
        parts: &'q [Part<'_>],
        given: &Given<'_>,
        searched: &'q Searched,
    ) -> Result<uv::Question<'q>> {
        let mut asked = uv::Question {
            no_index: searched.no_index,
            preferences: given.preferences.to_vec(),
            torch_backend: given.torch.map(str::to_owned),
            recipes: first.question.recipes.clone(),
            ..uv::Question::about(first.question.target(), &searched.index)
        };
        let pin = |name: &str, version: &str| format!("{name}=={version}");
        // No index knows the builds that bases have.
        let held = first.question.in_base.iter();
        asked.recipes.extend(held.map(|(name, version)| {
            let extras = first.question.base_extras.get(name).cloned().unwrap_or_default();
            (name.clone(), version.clone(), extras)
        }));
        for (name, version) in &first.question.accepted {
            match version {
                Some(version) => asked.overrides.push(pin(name, version)),
                None => asked.exclude.push(name.clone()),
            }
        }
        asked.constraints.extend(given.bounds.iter().cloned());
        asked.constraints.extend(given.pins.iter().map(|(name, version)| pin(name, version)));
        let locked = parts.iter().flat_map(|part| &part.locked);
        asked.constraints.extend(locked.filter_map(|package| Some(pin(&package.name, package.version.as_ref()?))));
        for part in parts {
            self.add_part(part, &mut asked)?;
        }
        Ok(asked)
    }

    /// The indexes that are searched for an image.
    pub(super) fn searched(&self, part: &Part<'_>) -> Result<Searched> {
        self.searched_by(std::slice::from_ref(part))
    }

    /// The indexes of the stack, and those that requirements files name.
    fn searched_by(&self, parts: &[Part<'_>]) -> Result<Searched> {
        let mut searched = Searched { index: self.absolute_index(), no_index: false };
        let Some(first) = parts.first() else { return Ok(searched) };
        let environment = first.question.markers()?;
        for listed in parts.iter().filter_map(|part| part.listed) {
            searched.no_index |= listed.add_indexes(&mut searched.index, &environment, &self.directory)?;
        }
        Ok(searched)
    }

    /// Adds what an image says to a question.
    fn add_part(&self, part: &Part<'_>, asked: &mut uv::Question<'_>) -> Result<()> {
        let image = part.question.image;
        for requirement in &image.requirements {
            if let Some((name, recipe)) = self.stack.recipes.get_key_value(&requirement.name) {
                self.check_recipe(name, recipe, Some(requirement.span.clone().into()), None)?;
            }
            asked.requirements.push(self.absolute_requirement(requirement)?);
        }
        let texts = |list: &[Requirement]| list.iter().map(|one| one.text.clone()).collect::<Vec<_>>();
        asked.overrides.extend(texts(&image.resolution.overrides));
        asked.constraints.extend(texts(&image.resolution.constraints));
        asked.exclude.extend(image.resolution.exclude.iter().map(|one| one.name.to_string()));
        if image.resolution.prerelease != Prerelease::Necessary {
            asked.prerelease = image.resolution.prerelease.clone();
        }
        asked.exclude_newer = asked.exclude_newer.take().or_else(|| image.resolution.exclude_newer.clone());
        if let Some(listed) = part.listed {
            let (lines, constraints) = listed.lines();
            asked.listed.extend(lines);
            asked.listed_constraints.extend(constraints);
            listed.choose(asked);
        }
        Ok(())
    }

    /// A requirement with the absolute address of its wheel, where that lies in the project.
    fn absolute_requirement(&self, requirement: &Requirement) -> Result<String> {
        let Some(wheel) = &requirement.wheel else { return Ok(requirement.text.clone()) };
        let path = fs_err::canonicalize(self.path(wheel)?)?;
        let url = Url::from_file_path(&path).map_or_else(|()| path.display().to_string(), String::from);
        let extras = requirement.text.split_once('@').and_then(|(head, _)| head.trim().split_once('['));
        let extras = extras.map_or_else(String::new, |(_, extras)| format!("[{extras}"));
        Ok(format!("{}{extras} @ {url}", requirement.name))
    }

    /// Asks uv; its warnings are told.
    pub(super) fn ask(
        &self,
        question: &uv::Question<'_>,
        name: &str,
    ) -> Result<std::result::Result<Vec<LockedPackage>, UvError>> {
        Ok(self.ask_quietly(question, name)?.map(|answer| {
            answer.warnings.into_iter().for_each(|warning| self.workshop.warn(warning));
            answer.packages
        }))
    }

    /// Asks uv.
    pub(super) fn ask_quietly(
        &self,
        question: &uv::Question<'_>,
        name: &str,
    ) -> Result<std::result::Result<uv::Answer, UvError>> {
        let program = self.workshop.uv()?;
        let (directory, pages) =
            (self.workshop.store.temporary_directory()?, self.workshop.store.temporary_directory()?);
        let index = self.with_pages(question.index, pages.path())?;
        let asked = uv::Question { index: &index, offline: self.workshop.surroundings.offline, ..question.clone() };
        let work = self.workshop.work("resolve", name.to_owned(), None);
        Ok(uv::resolve(self.uv_programs(&program), &asked, directory.path(), &work))
    }

    /// The error about packages that uv does not resolve for another reason than their versions.
    pub(super) fn unresolved(&self, image: &str, error: UvError) -> BuildError {
        self.of_uv(error, |source| BuildError::Resolve { image: image.to_owned(), source })
    }

    /// The error of uv about its surroundings, or another one.
    pub(super) fn of_uv(&self, error: UvError, other: impl FnOnce(UvError) -> BuildError) -> BuildError {
        match error {
            UvError::Interrupted => BuildError::Interrupted,
            UvError::Io(error) if error.kind() == std::io::ErrorKind::StorageFull => error.into(),
            UvError::Index(text) => BuildError::Index(text.into()),
            UvError::Refused { index, status } => BuildError::IndexRefused { index, status },
            UvError::Odd { address, answer } => BuildError::OddIndex { address, answer },
            error => other(error),
        }
    }

    /// Warns of an index that a variable of another tool names, which kiln does not read.
    fn hint_index(&self) {
        if let Some(variable) = uv::index_variable(&self.workshop.surroundings.environment) {
            let credentials = if variable.has_credentials { "; its credentials belong in `~/.netrc`" } else { "" };
            self.workshop.warn(format!(
                "`{}` is not read, and the stack names no index: if packages come from there, write \
                 `default = \"{}\"` below `[index]`{credentials}",
                variable.name, variable.url
            ));
        }
    }

    /// The stack's indexes with relative paths made absolute.
    pub(super) fn absolute_index(&self) -> Index {
        let absolute = |text: &String| {
            if text.contains("://") { text.clone() } else { self.directory.join(text).display().to_string() }
        };
        let file = |text: &String| match text.strip_prefix("file:") {
            Some(path) if !path.starts_with('/') => format!("file://{}", self.directory.join(path).display()),
            _ => text.clone(),
        };
        let place = |text: &String| if text.starts_with("file:") { file(text) } else { absolute(text) };
        let index = &self.stack.index;
        Index {
            default: index.default.as_ref().map(file),
            extra: index.extra.iter().map(file).collect(),
            packages: index.packages.iter().map(|(name, url)| (name.clone(), place(url))).collect(),
            find_links: index.find_links.iter().map(absolute).collect(),
        }
    }
}
