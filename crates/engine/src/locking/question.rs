//! What is asked of the resolver for one image, and when an old answer still holds.

use std::collections::{BTreeMap, BTreeSet};

use kiln_plan::base::{BaseFacts, Interpreter};
use kiln_plan::diagnostic::Label;
use kiln_plan::lock::{Lock, LockedImage};
use kiln_plan::platform::Platform;
use kiln_plan::secret::redact_address;
use kiln_plan::stack::{Environment, Image, Index, Prerelease, Requirement, Resolution};
use kiln_plan::step::StepKey;
use kiln_wheel::requirements::Requirements;
use kiln_wheel::uv::Target;
use pep508_rs::MarkerEnvironment;

use super::above::{self, Above};
use super::answer::Part;
use super::files::{Content, LockKind, RequirementsSource, digest_of};
use super::listed::Listed;
use crate::bases;
use crate::error::{ProjectError, Result};
use crate::images::Images;
use crate::project::Project;
use crate::python::{self, BasePython};

/// Raised when the same question would be answered in another way.
const QUESTION_VERSION: u32 = 2;

/// The question about one image on one platform.
pub(super) struct ImageQuestion<'a> {
    pub(super) image: &'a Image,
    ancestors: Vec<&'a Image>,
    python: &'a str,
    pub(super) platform: Platform,
    pub(super) base: String,
    /// The content of the base.
    pub(super) facts: BaseFacts,
    /// Packages of the images above, by name and version.
    pub(super) above: Vec<(String, String)>,
    /// Their wheels, by package.
    pub(super) wheels_above: BTreeMap<String, Above>,
    /// Packages for which its lines demand a certain wheel.
    certain: BTreeSet<String>,
    /// The environment that its packages go into.
    pub(super) environment: Environment,
    /// Packages of the base, where they count.
    pub(super) in_base: Vec<(String, String)>,
    /// Requirements of their extras, by package.
    pub(super) base_extras: BTreeMap<String, Vec<String>>,
    /// Packages that the base meets whatever its versions are, with the version of the one that it has.
    pub(super) accepted: BTreeMap<String, Option<String>>,
    /// Requirements of its files, all together.
    list: Option<Requirements>,
    /// Its files that are locks of other tools.
    pub(super) locks: Vec<(RequirementsSource<'a>, LockKind)>,
    /// Its files: the paths that their meaning depends on with digests, and what of them is installed.
    files: Vec<String>,
    index: &'a Index,
    pub(super) recipes: Vec<(String, String, Vec<String>)>,
}

impl<'a> ImageQuestion<'a> {
    /// The hash of everything that the answer depends on.
    pub(super) fn inputs(&self) -> String {
        let pins = |pins: &[(String, String)]| pins.iter().map(|(n, v)| format!("{n}=={v}")).collect::<Vec<_>>();
        let mut key = StepKey::of("resolution", QUESTION_VERSION)
            .list("requirements", self.image.requirements.iter().map(Requirement::redacted))
            .text("python", if self.image.has_packages() { self.full_version() } else { "" })
            .text("platform", &self.platform.to_string())
            .text("libc", &self.facts.libc.as_ref().map(ToString::to_string).unwrap_or_default())
            .list("above", pins(&self.above))
            .list("in base", pins(&self.in_base))
            .list("files", &self.files)
            .option("default index", self.index.default.as_deref().map(redact_address).as_deref())
            .list("extra indexes", self.index.extra.iter().map(|url| redact_address(url)))
            .list("find-links", self.index.find_links.iter().map(|url| redact_address(url)))
            .list(
                "index packages",
                self.index.packages.iter().map(|(name, url)| format!("{name} {}", redact_address(url))),
            );
        let target = &self.image.target;
        if let Some(release) = target.cuda.map(|release| release.to_string()).or(target.cpu_only.then(|| "none".into()))
        {
            key = key.text("cuda", &release);
        }
        let is_demanded = |(name, _): &(&String, &Above)| !self.locks.is_empty() || self.certain.contains(*name);
        for (name, above) in self.wheels_above.iter().filter(is_demanded) {
            key = key.text("wheel above", &format!("{name} {}", above.digest));
        }
        let removed = self.image.python.remove.iter().filter(|_| !self.image.has_packages());
        for named in removed {
            key = key.text("removed", named.name.as_ref());
        }
        for (name, requires) in &self.base_extras {
            key = key.text("extras in base", name).list("requires", requires);
        }
        for (name, version) in &self.accepted {
            key = key.text("accepted", &format!("{name} {}", version.as_deref().unwrap_or_default()));
        }
        for (name, of) in self.resolution() {
            key = key.list(name, of);
        }
        for (name, version, requires) in &self.recipes {
            key = key.text("recipe", &format!("{name}=={version}")).list("requires", requires);
        }
        key.finish().hex()[..32].to_owned()
    }

    /// The image's choice of versions: what it says, by name.
    fn resolution(&self) -> impl Iterator<Item = (&'static str, Vec<String>)> {
        let Resolution { overrides, constraints, exclude, prerelease, exclude_newer } = &self.image.resolution;
        let texts = |list: &[Requirement]| list.iter().map(Requirement::redacted).collect::<Vec<_>>();
        let prerelease = match prerelease {
            Prerelease::Necessary => Vec::new(),
            Prerelease::Of(names) => names.iter().map(ToString::to_string).collect(),
            Prerelease::All => vec!["*".to_owned()],
        };
        let said = [
            ("overrides", texts(overrides)),
            ("constraints", texts(constraints)),
            ("exclude", exclude.iter().map(|one| one.name.to_string()).collect()),
            ("prerelease", prerelease),
            ("exclude newer", exclude_newer.iter().cloned().collect()),
        ];
        said.into_iter().filter(|(_, list)| !list.is_empty())
    }

    /// The base's interpreter.
    pub(super) fn interpreter(&self) -> Result<&Interpreter> {
        bases::interpreter(&self.facts, self.image, &self.base, self.environment)
    }

    /// The version of the base's interpreter, as exactly as the base tells it.
    fn full_version(&self) -> &str {
        self.interpreter().map_or(self.python, |interpreter| interpreter.version.as_str())
    }

    /// The interpreter and the system that packages are for.
    pub(super) fn target(&self) -> Target<'_> {
        Target { python: self.full_version(), platform: self.platform, libc: self.facts.libc.as_ref() }
    }

    /// The environment that markers are evaluated in.
    pub(super) fn markers(&self) -> Result<MarkerEnvironment> {
        Ok(self.target().markers().map_err(|error| ProjectError::Python(error.to_string()))?)
    }

    /// The part of the image's requirement files that applies; none where it has no such file.
    pub(super) fn listed(&self, project: &Project<'_>) -> Result<Option<Listed<'_>>> {
        let Some(list) = &self.list else { return Ok(None) };
        Listed::new(list, &self.markers()?, &project.directory).map(Some)
    }

    /// The requirements of the image, of those above it, and of other parts, with the names of their images.
    pub(super) fn requirements<'q>(
        &'q self,
        parts: &'q [Part<'q>],
    ) -> impl Iterator<Item = (&'q Requirement, &'q String)> {
        let own = std::iter::once(self.image).chain(self.ancestors.iter().copied());
        let others = parts.iter().map(|part| part.question.image).filter(|other| {
            other.name != self.image.name && !self.ancestors.iter().any(|above| above.name == other.name)
        });
        own.chain(others).flat_map(|image| image.requirements.iter().map(move |one| (one, &image.name)))
    }

    /// Python, platform and C library, in words.
    pub(super) fn system(&self) -> String {
        let libc = self.facts.libc.as_ref().map_or_else(|| "an unknown C library".into(), ToString::to_string);
        format!("Python {} on {} with {libc}", self.python, self.platform)
    }

    /// Returns the reason for which an old answer does not hold, a clause.
    pub(super) fn difference(&self, known: Option<&LockedImage>) -> String {
        let (name, platform) = (&self.image.name, self.platform);
        let Some(known) = known else { return format!("it has no image `{name}` for {platform}") };
        let now: Vec<String> = self.image.requirements.iter().map(Requirement::redacted).collect();
        let added: Vec<String> = now
            .iter()
            .filter(|text| !known.requirements.contains(text))
            .map(|text| format!("`{text}` is new"))
            .collect();
        let gone =
            known.requirements.iter().filter(|text| !now.contains(*text)).map(|text| format!("`{text}` is gone"));
        let changes: Vec<String> = added.into_iter().chain(gone).collect();
        if changes.is_empty() {
            let file = if self.files.is_empty() { "" } else { "its requirements file, " };
            return format!("{file}indexes, recipes, Python, or what stands above `{name}` ({platform}) changed");
        }
        format!("in `{name}` ({platform}) {}", changes.join(", "))
    }

    /// Returns the place of a package in a lock of another tool, and the lock in words.
    pub(super) fn locked_at(&self, package: &str, version: Option<&str>) -> Option<(Label, String)> {
        let find = |version| {
            let mut places = self.locks.iter().map(|(lock, _)| (lock.place_of(package, version), lock));
            places.find_map(|(place, lock)| Some((place?, format!("`{}`", lock.shown()))))
        };
        // A version may be spelled in another way.
        find(version).or_else(|| find(None))
    }

    /// Returns true if its lines demand a certain wheel of a package.
    pub(super) fn demands(&self, package: &str) -> bool {
        self.certain.contains(package)
    }

    /// Returns the place that asks for a package, in this image or above, or the one in a lock of another tool.
    pub(super) fn place_of(&self, package: &str, version: Option<&str>, listed: Option<&Listed<'_>>) -> Option<Label> {
        let images = std::iter::once(self.image).chain(self.ancestors.iter().copied());
        let mut requirements = images.flat_map(|image| &image.requirements);
        let found = requirements.find(|requirement| requirement.name.to_string() == package);
        let found = found.map(|found| found.span.clone().into());
        let listed = || listed.and_then(|listed| listed.places(package).next().cloned()).map(Label::from);
        found.or_else(listed).or_else(|| self.locked_at(package, version).map(|(place, _)| place))
    }
}

impl Project<'_> {
    /// What is to be asked for an image; `new` holds what was decided for those above.
    pub(super) fn question<'a>(
        &'a self,
        image: &'a Image,
        platform: Platform,
        new: &Lock,
        performs: bool,
    ) -> Result<ImageQuestion<'a>> {
        let ancestors: Vec<&Image> = self.stack.ancestors(image).collect();
        let root = self.stack.root(image);
        let base = bases::name(&root.from).unwrap_or_else(|| "scratch".into());
        let facts = match image.has_packages() || !image.python.remove.is_empty() {
            true => Images::facts_below(self, image, platform, new, performs)?,
            false => BaseFacts::default(),
        };
        let mut above: Vec<(String, String)> = Vec::new();
        for ancestor in &ancestors {
            if let Some(locked) = new.image(&ancestor.name, platform) {
                above.extend(locked.packages.iter().map(|p| (p.name.clone(), p.version.clone())));
            }
        }
        above.sort();
        let Held { environment, in_base, base_extras, accepted } = self.base_packages(image, &facts, &base)?;
        let mut list: Option<Requirements> = None;
        let (mut locks, mut files) = (Vec::new(), Vec::new());
        for file in &image.requirements_files {
            let mut source = self.requirements_source(image, file, new)?;
            files.extend(source.files.iter().map(|(path, digest)| format!("{digest} {path}")));
            files.extend(source.choice());
            match std::mem::replace(&mut source.content, Content::Taken) {
                Content::Locked(kind) => locks.push((source, kind)),
                Content::List(more) => match &mut list {
                    Some(list) => list.append(*more)?,
                    None => list = Some(*more),
                },
                Content::Taken => {}
            }
        }
        for wheel in image.requirements.iter().filter_map(|requirement| requirement.wheel.as_deref()) {
            files.push(format!("{} {wheel}", digest_of(&self.path(wheel)?)?));
        }
        let recipes = self
            .stack
            .recipes
            .iter()
            .filter_map(|(name, recipe)| {
                let version = recipe.version.clone()?;
                Some((name.to_string(), version, recipe.dependencies.clone().unwrap_or_default()))
            })
            .collect();
        self.warn_of_locks(image, &locks);
        let wheels_above = above::wheels(&ancestors, platform, new);
        let certain = above::certain(&image.requirements, list.as_ref());
        Ok(ImageQuestion {
            wheels_above,
            certain,
            image,
            ancestors,
            python: image.target.python(),
            platform,
            base,
            facts,
            above,
            environment,
            in_base,
            base_extras,
            accepted,
            list,
            locks,
            files,
            index: &self.stack.index,
            recipes,
        })
    }

    /// Warns of choices of versions that change nothing in locks of other tools, which are taken as they are.
    fn warn_of_locks(&self, image: &Image, locks: &[(RequirementsSource<'_>, LockKind)]) {
        let Resolution { overrides, constraints, exclude_newer, .. } = &image.resolution;
        let said = [("overrides", !overrides.is_empty()), ("constraints", !constraints.is_empty())];
        let said = said.into_iter().chain([("exclude-newer", exclude_newer.is_some())]);
        let keys: Vec<String> = said.filter(|(_, is_said)| *is_said).map(|(key, _)| format!("`{key}`")).collect();
        if !locks.is_empty() && !keys.is_empty() {
            self.workshop.warn(format!(
                "{} of `resolution` choose nothing in the locks that `{}` names, which are taken as they are: `exclude` leaves \
                 a package out, and the tool that wrote the lock changes a version",
                keys.join(", "),
                image.name
            ));
        }
    }

    /// Returns the environment of an image's packages, and what the base meets. An environment of its own beside a base that
    /// holds torch already gets a warning: it would stand there twice.
    fn base_packages(&self, image: &Image, facts: &BaseFacts, base: &str) -> Result<Held> {
        let environment = python::environment(image, facts);
        if !image.has_packages() || facts.interpreters.is_empty() {
            return Ok(Held {
                environment,
                in_base: Vec::new(),
                base_extras: BTreeMap::new(),
                accepted: BTreeMap::new(),
            });
        }
        let held = BasePython::of(&self.stack, image, facts, base)?;
        if let Some(torch) = python::torch(image, facts).filter(|_| environment == Environment::Venv) {
            let size = torch.size.map(|size| format!(", {} in all", kiln_plan::size::format(size))).unwrap_or_default();
            self.workshop.warn(format!(
                "the base of `{}` already holds torch {}{size}: it would stand there twice. \
                 `python.environment = \"overlay\"` installs beside it",
                image.name, torch.version
            ));
        }
        let extras = held.seen.iter().filter(|held| !held.extras.is_empty());
        let base_extras = extras.map(|held| (held.name.clone(), held.extras.clone())).collect();
        Ok(Held { environment, in_base: held.packages(), base_extras, accepted: held.accepted })
    }
}

/// The environment of an image's packages, and the packages of the base, as an [`ImageQuestion`] has them.
struct Held {
    environment: Environment,
    in_base: Vec<(String, String)>,
    base_extras: BTreeMap<String, Vec<String>>,
    accepted: BTreeMap<String, Option<String>>,
}
