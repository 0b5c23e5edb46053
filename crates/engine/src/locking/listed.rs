//! A requirements file as one image and platform see it: what applies, where it sends the resolver, and which hashes bind.

use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};

use kiln_plan::diagnostic::{Diagnostic, Diagnostics, Place};
use kiln_plan::digest::Digest;
use kiln_plan::lock::LockedWheel;
use kiln_plan::stack::{Index, Prerelease};
use kiln_wheel::pylock::{self, LockedPackage, WheelFile};
use kiln_wheel::requirements::{FileRequirement, Placed, Requirements, Source};
use kiln_wheel::tags::Tags;
use kiln_wheel::uv;
use pep508_rs::MarkerEnvironment;
use url::Url;

use super::above::Above;
use crate::error::{BuildError, Result};

/// Digests that wheels of a package may have, with the lines that say so.
#[derive(Debug)]
struct Bound {
    digests: BTreeSet<Digest>,
    places: Vec<Place>,
}

/// The part of a requirements file that applies to a platform.
#[derive(Debug)]
pub(super) struct Listed<'a> {
    file: &'a Requirements,
    requirements: Vec<&'a Placed<FileRequirement>>,
    constraints: Vec<&'a Placed<FileRequirement>>,
    bound: BTreeMap<String, Bound>,
}

impl<'a> Listed<'a> {
    /// Selects the lines that apply in an environment. Wheels of this machine must lie in the project, since a lock names no place else.
    pub(super) fn new(file: &'a Requirements, environment: &MarkerEnvironment, project: &Path) -> Result<Self> {
        let applying = |lines: &'a [Placed<FileRequirement>]| -> Vec<&'a Placed<FileRequirement>> {
            lines.iter().filter(|line| line.value.applies(environment)).collect()
        };
        let (requirements, constraints) = (applying(&file.requirements), applying(&file.constraints));
        let mut wrong = Diagnostics::default();
        let python = &environment.python_full_version().version;
        if let Some(said) = file.python.as_ref().filter(|said| !said.value.contains(python)) {
            wrong.push(
                Diagnostic::at(
                    said.place.clone(),
                    format!("the project is for another Python than the image's {python}"),
                )
                .hint("change `target.python`, the base, or the project"),
            );
        }
        let mut bound: BTreeMap<String, Bound> = BTreeMap::new();
        for line in requirements.iter().chain(&constraints) {
            if let Source::File(path) = &line.value.source {
                match fs_err::metadata(path) {
                    Ok(found) if found.is_file() => inside(project, path, line, &mut wrong),
                    _ => wrong.push(
                        Diagnostic::at(line.place.clone(), format!("there is no file `{}`", file_name(path)))
                            .hint("a path is relative to the file that names it"),
                    ),
                }
            }
            if !line.value.hashes.is_empty() {
                let given: BTreeSet<Digest> = line.value.hashes.iter().copied().collect();
                let all = bound
                    .entry(line.value.name.to_string())
                    .or_insert_with(|| Bound { digests: given.clone(), places: Vec::new() });
                all.digests.retain(|digest| given.contains(digest));
                all.places.push(line.place.clone());
            }
        }
        if let Some(demanded) = &file.require_hashes {
            for line in requirements.iter().filter(|line| !line.value.is_pinned()) {
                wrong.push(
                    Diagnostic::at(line.place.clone(), "this requirement leaves its version open")
                        .also(demanded.clone(), "hashes are required here")
                        .hint(format!("pin it: `{}==VERSION`", line.value.name)),
                );
            }
        }
        Ok(wrong.or(Self { file, requirements, constraints, bound })?)
    }

    /// The lines that uv reads: requirements and constraints.
    pub(super) fn lines(&self) -> (Vec<String>, Vec<String>) {
        let line = |line: &&Placed<FileRequirement>| {
            let hashes: Vec<String> =
                line.value.hashes.iter().map(|digest| format!(" --hash=sha256:{}", digest.hex())).collect();
            format!("{}{}", line.value, hashes.concat())
        };
        (self.requirements.iter().map(line).collect(), self.constraints.iter().map(line).collect())
    }

    /// Returns true if it installs no package.
    pub(super) fn is_empty(&self) -> bool {
        self.requirements.is_empty()
    }

    /// Adds to a question what the file says of the choice of versions; what the stack says comes first.
    pub(super) fn choose(&self, question: &mut uv::Question<'_>) {
        question.overrides.extend(self.file.overrides.iter().map(|line| line.value.to_string()));
        question.exclude.extend(self.file.exclude.iter().map(|name| name.value.to_string()));
        if self.file.prereleases.is_some() {
            question.prerelease = Prerelease::All;
        }
        if question.exclude_newer.is_none() {
            question.exclude_newer = self.file.exclude_newer.as_ref().map(|time| time.value.clone());
        }
    }

    /// Adds the file's indexes to those of the stack; returns true if find-links alone are searched.
    pub(super) fn add_indexes(
        &self,
        index: &mut Index,
        environment: &MarkerEnvironment,
        project: &Path,
    ) -> Result<bool> {
        let mut wrong = Diagnostics::default();
        for bound in &self.file.bound {
            if bound.marker.as_ref().is_none_or(|marker| marker.evaluate(environment, &[])) {
                // What the stack says of a package holds.
                index.packages.entry(bound.name.clone()).or_insert_with(|| bound.index.value.clone());
            }
        }
        if let Some(place) = &self.file.no_index {
            if index.default.is_some() || !index.extra.is_empty() || !index.packages.is_empty() {
                wrong.push(
                    Diagnostic::at(place.clone(), "no index is to be searched, and the stack names some")
                        .hint("remove this line, or `default`, `extra` and `packages` of `[index]` in the stack"),
                );
            }
            if let Some(named) = self.file.index.iter().chain(&self.file.extra_indexes).next() {
                wrong.push(
                    Diagnostic::at(place.clone(), "no index is to be searched, and one is named")
                        .also(named.place.clone(), "here")
                        .hint("remove one of the two"),
                );
            }
        }
        if let Some(named) = &self.file.index {
            match &index.default {
                Some(stack) if stack.trim_end_matches('/') != named.value.trim_end_matches('/') => wrong.push(
                    Diagnostic::at(named.place.clone(), "the stack names another default index")
                        .hint("keep one of them; `extra` of `[index]` and `--extra-index-url` name more"),
                ),
                _ => index.default = Some(named.value.clone()),
            }
        }
        for named in &self.file.extra_indexes {
            if !index.extra.contains(&named.value) {
                index.extra.push(named.value.clone());
            }
        }
        for named in self.file.find_links.iter() {
            if !named.value.contains("://") && !Path::new(&named.value).is_dir() {
                wrong.push(
                    Diagnostic::at(named.place.clone(), "this is not a directory")
                        .hint("a path is relative to the file that names it"),
                );
            }
            if !index.find_links.contains(&named.value) {
                index.find_links.push(named.value.clone());
            }
        }
        let named = self.file.index.iter().chain(&self.file.extra_indexes).chain(&self.file.find_links);
        for named in named {
            if let Some(path) = local(&named.value) {
                inside(project, &path, named, &mut wrong);
            }
        }
        Ok(wrong.or(self.file.no_index.is_some())?)
    }

    /// The lines that mention a package.
    pub(super) fn places<'s>(&'s self, package: &'s str) -> impl Iterator<Item = &'s Place> {
        let lines = self.requirements.iter().chain(&self.constraints);
        lines.filter(move |line| line.value.name.to_string() == package).map(|line| &line.place)
    }

    /// The names of all packages that are required, with their lines.
    pub(super) fn named(&self) -> impl Iterator<Item = (String, &Place)> {
        self.requirements.iter().map(|line| (line.value.name.to_string(), &line.place))
    }

    /// The version of a package that a line names, and no other.
    pub(super) fn exact_version(&self, package: &str) -> Option<String> {
        let line = self.requirements.iter().find(|line| line.value.name.as_ref() == package)?;
        line.value.exact_version().map(ToString::to_string)
    }

    /// Constraints, and overrides, which are marked with `true`.
    pub(super) fn bounds(&self) -> impl Iterator<Item = (&Placed<FileRequirement>, bool)> {
        let constraints = self.constraints.iter().map(|line| (*line, false));
        let of_project = self.file.overrides.iter().map(|line| (line, true));
        constraints.chain(of_project)
    }

    /// The wheels of a package that its hashes allow. It is an error where they allow none that there is, or where
    /// hashes are required and there are none.
    pub(super) fn allowed(&self, package: &LockedPackage, tags: &Tags) -> Result<Vec<WheelFile>> {
        let version = package.version.as_deref().unwrap_or_default();
        let Some(bound) = self.bound.get(&package.name) else {
            if let Some(demanded) = &self.file.require_hashes {
                return Err(self.lacks_hash(package, version, demanded, tags));
            }
            return Ok(package.wheels.clone());
        };
        let allowed: Vec<WheelFile> =
            package.wheels.iter().filter(|wheel| bound.digests.contains(&wheel.sha256)).cloned().collect();
        if pylock::best(&allowed, tags).is_none()
            && let Some(best) = pylock::best(&package.wheels, tags)
        {
            return Err(wrong_hash(bound, &package.name, version, &best.file, &best.sha256));
        }
        Ok(allowed)
    }

    /// Checks a wheel that was chosen in another way against the hashes of its package.
    pub(super) fn check(&self, package: &str, version: &str, wheel: &LockedWheel) -> Result<()> {
        match self.bound.get(package) {
            Some(bound) if !bound.digests.contains(&wheel.sha256) => {
                Err(wrong_hash(bound, package, version, &wheel.file, &wheel.sha256))
            }
            _ => Ok(()),
        }
    }

    /// Checks the wheel of an image below against the hashes of its package.
    pub(super) fn check_above(&self, package: &str, version: &str, above: &Above) -> Result<()> {
        match self.bound.get(package) {
            Some(bound) if !bound.digests.contains(&above.digest) => {
                let file = format!("{}` of `{}", above.file, above.image);
                Err(wrong_hash(bound, package, version, &file, &above.digest))
            }
            _ => Ok(()),
        }
    }

    /// Returns true if a package has a hash.
    pub(super) fn has_hash(&self, package: &str) -> bool {
        self.bound.contains_key(package)
    }

    fn lacks_hash(&self, package: &LockedPackage, version: &str, demanded: &Place, tags: &Tags) -> BuildError {
        let name = &package.name;
        let message = format!("hashes are required, and {name} {version} has none");
        let diagnostic = match self.places(name).next() {
            Some(place) => Diagnostic::at(place.clone(), message).also(demanded.clone(), "required here"),
            None => Diagnostic::at(demanded.clone(), message),
        };
        let hash = pylock::best(&package.wheels, tags).map(|wheel| wheel.sha256.hex()).unwrap_or_default();
        let hint = format!("once its origin is checked, add the line `{name}=={version} --hash=sha256:{hash}`");
        Diagnostics::from(diagnostic.hint(hint)).into()
    }
}

fn wrong_hash(bound: &Bound, package: &str, version: &str, file: &str, found: &Digest) -> BuildError {
    let message = format!("no wheel of {package} {version} has a hash that is given");
    let mut places = bound.places.iter();
    let mut diagnostic = match places.next() {
        Some(place) => Diagnostic::at(place.clone(), message),
        None => Diagnostic::nowhere(message),
    };
    for place in places {
        diagnostic = diagnostic.also(place.clone(), "and here");
    }
    let hint = format!(
        "`{file}` has {found}: find out which of the two is wrong; where the hashes belong to another version, pin it \
         with `==`"
    );
    Diagnostics::from(diagnostic.hint(hint)).into()
}

/// A wheel that is to be found again must lie in the project.
fn inside<T>(project: &Path, path: &Path, line: &Placed<T>, wrong: &mut Diagnostics) {
    let real = fs_err::canonicalize(path);
    let project = fs_err::canonicalize(project);
    if let (Ok(real), Ok(project)) = (real, project)
        && !real.starts_with(project)
    {
        wrong.push(
            Diagnostic::at(line.place.clone(), "this lies outside the project, where a lock cannot name it")
                .hint("bring the wheels into the stack's directory, or name theirs in `[index] find-links`"),
        );
    }
}

fn local(address: &str) -> Option<PathBuf> {
    match address.strip_prefix("file:") {
        Some(_) => address.parse::<Url>().ok()?.to_file_path().ok(),
        None if address.contains("://") => None,
        None => Some(address.into()),
    }
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}
