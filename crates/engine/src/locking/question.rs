//! What is asked of the resolver for one image, and when an old answer still holds.

use kiln_plan::base::{BaseFacts, Interpreter};
use kiln_plan::diagnostic::{Diagnostic, Diagnostics, Label};
use kiln_plan::lock::{Lock, LockedImage};
use kiln_plan::platform::Platform;
use kiln_plan::secret::redact_address;
use kiln_plan::stack::{Environment, Image, Index, Requirement};
use kiln_plan::step::StepKey;
use kiln_wheel::pylock::LockedPackage;
use kiln_wheel::uv::{self, Target, UvError};

use super::files::{Content, RequirementsSource};
use super::listed::Listed;
use crate::bases;
use crate::error::{BuildError, ProjectError, Result};
use crate::project::Project;

/// Raised when the same question would be answered in another way.
const QUESTION_VERSION: u32 = 2;

/// What is asked for one image on one platform.
pub(super) struct ImageQuestion<'a> {
    image: &'a Image,
    ancestors: Vec<&'a Image>,
    python: &'a str,
    platform: Platform,
    base: String,
    /// What is inside the base.
    pub(super) facts: BaseFacts,
    /// Packages of the images above, by name and version.
    pub(super) above: Vec<(String, String)>,
    /// Packages of the base, where they count.
    pub(super) in_base: Vec<(String, String)>,
    file: Option<RequirementsSource>,
    index: &'a Index,
    recipes: Vec<(String, String, Vec<String>)>,
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
            .list(
                "files",
                self.file.iter().flat_map(|file| &file.files).map(|(path, digest)| format!("{digest} {path}")),
            )
            .option("default index", self.index.default.as_deref().map(redact_address).as_deref())
            .list("extra indexes", self.index.extra.iter().map(|url| redact_address(url)))
            .list("find-links", self.index.find_links.iter().map(|url| redact_address(url)))
            .list(
                "index packages",
                self.index.packages.iter().map(|(name, url)| format!("{name} {}", redact_address(url))),
            );
        for (name, version, requires) in &self.recipes {
            key = key.text("recipe", &format!("{name}=={version}")).list("requires", requires);
        }
        key.finish().hex()[..32].to_owned()
    }

    /// The base's interpreter.
    pub(super) fn interpreter(&self) -> Result<&Interpreter> {
        bases::interpreter(&self.facts, self.python, &self.base, self.image.environment)
    }

    /// The version of the base's interpreter, as exactly as the base tells it.
    fn full_version(&self) -> &str {
        self.interpreter().map_or(self.python, |interpreter| interpreter.version.as_str())
    }

    /// The interpreter and the system that packages are for.
    pub(super) fn target(&self) -> Target<'_> {
        Target { python: self.full_version(), platform: self.platform, libc: self.facts.libc.as_ref() }
    }

    /// The part of the image's requirements file that applies; none where it has no such file.
    pub(super) fn listed(&self, project: &Project<'_>) -> Result<Option<Listed<'_>>> {
        let Some(RequirementsSource { content: Content::List(list), .. }) = &self.file else { return Ok(None) };
        let environment = self.target().markers().map_err(|error| ProjectError::Python(error.to_string()))?;
        Listed::new(list, &environment, &project.directory).map(Some)
    }

    /// Why an old answer does not hold.
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
            let file = if self.file.is_some() { "its requirements file, " } else { "" };
            return format!("{file}indexes, recipes, Python, or what stands above `{name}` ({platform}) changed");
        }
        format!("in `{name}` ({platform}) {}", changes.join(", "))
    }

    /// Where a package is asked for, in this image or above.
    pub(super) fn place_of(&self, package: &str, listed: Option<&Listed<'_>>) -> Option<Label> {
        let images = std::iter::once(self.image).chain(self.ancestors.iter().copied());
        let mut requirements = images.flat_map(|image| &image.requirements);
        let found = requirements.find(|requirement| requirement.name.to_string() == package);
        found.map(|found| found.span.clone().into()).or_else(|| {
            let place = listed.and_then(|listed| listed.places(package).next().cloned());
            place.map(Label::from)
        })
    }

    /// Points at every requirement that an explanation mentions.
    fn conflict(&self, explanation: &str, listed: Option<&Listed<'_>>) -> Diagnostics {
        let mentions = |name: &str| uv::mentions(explanation, name);
        let own = self.image.requirements.iter().map(|requirement| (requirement, self.image));
        let above = self.ancestors.iter().flat_map(|image| image.requirements.iter().map(move |r| (r, *image)));
        let mut labels: Vec<Label> = Vec::new();
        for (requirement, image) in own.chain(above).filter(|(r, _)| mentions(r.name.as_ref())) {
            let text = if image.name == self.image.name { String::new() } else { format!("in `{}`", image.name) };
            labels.push(Label { text, ..requirement.span.clone().into() });
        }
        let listed = listed.iter().flat_map(|listed| listed.named());
        labels.extend(listed.filter(|(name, _)| mentions(name)).map(|(_, place)| place.clone().into()));
        let problem = if labels.len() > 1 { "contradict one another" } else { "cannot be resolved" };
        let message = format!("the packages of `{}` {problem} on {}", self.image.name, self.platform);
        if labels.is_empty() {
            labels.push(self.image.span.clone().into());
        }
        let diagnostic = Diagnostic { message, labels, hint: None };
        let no_wheels = explanation.contains("no usable wheels") || explanation.contains("no wheels");
        let mut hint = explanation.to_owned();
        if no_wheels {
            hint.push_str("\na package without wheels must be built elsewhere: put its wheel into a directory of `[index] find-links`");
        }
        diagnostic.hint(hint).into()
    }
}

impl Project<'_> {
    /// What is to be asked for an image; `new` holds what was decided for those above.
    pub(super) fn question<'a>(
        &'a self,
        image: &'a Image,
        platform: Platform,
        new: &Lock,
    ) -> Result<ImageQuestion<'a>> {
        let ancestors: Vec<&Image> = self.stack.ancestors(image).collect();
        let root = self.stack.root(image);
        let base = bases::name(&root.from).unwrap_or_else(|| "scratch".into());
        let facts = match new.base(&base, platform) {
            Some(base) => base.facts.clone(),
            None => root.base_facts.clone().unwrap_or_default(),
        };
        let mut above: Vec<(String, String)> = Vec::new();
        for ancestor in &ancestors {
            if let Some(locked) = new.image(&ancestor.name, platform) {
                above.extend(locked.packages.iter().map(|p| (p.name.clone(), p.version.clone())));
            }
        }
        above.sort();
        let in_base = self.base_packages(image, &facts);
        let file = image.requirements_file.as_ref().map(|file| self.requirements_source(file)).transpose()?;
        let recipes = self
            .stack
            .recipes
            .iter()
            .filter_map(|(name, recipe)| {
                let version = recipe.version.clone()?;
                Some((name.to_string(), version, recipe.dependencies.clone().unwrap_or_default()))
            })
            .collect();
        Ok(ImageQuestion {
            image,
            ancestors,
            python: self.stack.target.python.as_deref().unwrap_or_default(),
            platform,
            base,
            facts,
            above,
            in_base,
            file,
            index: &self.stack.index,
            recipes,
        })
    }

    /// What the base's own environment holds, where images are installed into it. Where they are not, a base that holds
    /// torch already gets a warning: it would stand there twice.
    fn base_packages(&self, image: &Image, facts: &BaseFacts) -> Vec<(String, String)> {
        let python = self.stack.target.python.as_deref().unwrap_or_default();
        let interpreter = facts.interpreters.iter().find(|found| found.minor_version() == python);
        let visible = |location: &str| {
            interpreter.is_some_and(|found| found.site_packages.as_deref() == Some(location))
                || location.contains(&format!("/python{python}/"))
                || location.ends_with("/python3/dist-packages")
        };
        let held = facts.distributions.iter().filter(|held| visible(&held.location));
        if image.environment == Environment::Base {
            return held.map(|held| (held.name.clone(), held.version.clone())).collect();
        }
        for held in held.filter(|held| held.name == "torch" && image.has_packages()) {
            let size = held.size.map(|size| format!(", {} in all", kiln_plan::size::format(size))).unwrap_or_default();
            self.workshop.warn(format!(
                "the base of `{}` already holds torch {}{size}: it would stand there twice. \
                 `python.environment = \"base\"` installs beside it",
                image.name, held.version
            ));
        }
        Vec::new()
    }

    /// Asks uv, or takes what a locked requirements file says.
    pub(super) fn resolve(
        &self,
        image: &Image,
        platform: Platform,
        question: &ImageQuestion<'_>,
        listed: Option<&Listed<'_>>,
        preferences: Vec<(String, String)>,
    ) -> Result<Vec<LockedPackage>> {
        let locked = match &question.file {
            Some(source) => match source.content {
                Content::Locked(kind) => self.locked_requirements(source, kind, &question.target())?,
                Content::List(_) => Vec::new(),
            },
            None => Vec::new(),
        };
        if image.requirements.is_empty() && listed.is_none_or(Listed::is_empty) {
            return Ok(locked);
        }
        for requirement in &image.requirements {
            if let Some(recipe) = self.stack.recipes.get(&requirement.name)
                && (recipe.version.is_none() || recipe.dependencies.is_none())
            {
                let message = format!("`{}` is compiled from source, and its metadata is not known", requirement.name);
                let hint = "declare `version` and `dependencies` in its recipe: wheels cannot be compiled yet";
                let diagnostic =
                    Diagnostic::at(requirement.span.clone(), message).also(recipe.span.clone(), "its recipe");
                return Err(Diagnostics::from(diagnostic.hint(hint)).into());
            }
        }
        let pins = question.above.iter().chain(&question.in_base).map(|(name, version)| format!("{name}=={version}"));
        let locked_pins = locked.iter().filter_map(|p| Some(format!("{}=={}", p.name, p.version.as_ref()?)));
        let mut index = self.absolute_index();
        let no_index = match listed {
            Some(listed) => listed.add_indexes(&mut index, &self.directory)?,
            None => false,
        };
        if !no_index && index.default.is_none() && index.extra.is_empty() && index.packages.is_empty() {
            self.hint_index();
        }
        let (lines, constraints) = listed.map(Listed::lines).unwrap_or_default();
        let asked = uv::Question {
            target: question.target(),
            requirements: image.requirements.iter().map(|requirement| requirement.text.clone()).collect(),
            listed: lines,
            listed_constraints: constraints,
            constraints: pins.chain(locked_pins).collect(),
            index: &index,
            no_index,
            prereleases: listed.is_some_and(Listed::prereleases),
            recipes: question.recipes.clone(),
            preferences,
            offline: self.workshop.surroundings.offline,
        };
        let program = self.workshop.uv()?;
        let directory = self.workshop.store.temporary_directory()?;
        let work = self.workshop.work("resolve", format!("{} ({platform})", image.name), None);
        let answer = uv::resolve(self.uv_programs(&program), &asked, directory.path(), &work);
        let answer = answer.map_err(|error| match error {
            UvError::Unsatisfiable(explanation) => question.conflict(&explanation, listed).into(),
            UvError::Interrupted => BuildError::Interrupted,
            UvError::Io(error) if error.kind() == std::io::ErrorKind::StorageFull => error.into(),
            UvError::Index(text) => BuildError::Index(text.into()),
            UvError::Refused { index, status } => BuildError::IndexRefused { index, status },
            source => BuildError::Resolve { image: image.name.clone(), source },
        })?;
        let known = |package: &LockedPackage| locked.iter().any(|locked| locked.name == package.name);
        let more: Vec<LockedPackage> = answer.into_iter().filter(|package| !known(package)).collect();
        Ok(locked.into_iter().chain(more).collect())
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
    fn absolute_index(&self) -> Index {
        let absolute = |text: &String| {
            if text.contains("://") { text.clone() } else { self.directory.join(text).display().to_string() }
        };
        let file = |text: &String| match text.strip_prefix("file:") {
            Some(path) if !path.starts_with('/') => format!("file://{}", self.directory.join(path).display()),
            _ => text.clone(),
        };
        let index = &self.stack.index;
        Index {
            default: index.default.as_ref().map(file),
            extra: index.extra.iter().map(file).collect(),
            packages: index.packages.iter().map(|(name, url)| (name.clone(), file(url))).collect(),
            find_links: index.find_links.iter().map(absolute).collect(),
        }
    }
}
