//! What is asked of the resolver for one image, and when an old answer still holds.

use std::path::PathBuf;

use kiln_plan::base::{BaseFacts, Interpreter};
use kiln_plan::diagnostic::{Diagnostic, Diagnostics, Span};
use kiln_plan::lock::{Lock, LockedImage};
use kiln_plan::platform::Platform;
use kiln_plan::secret::redact_address;
use kiln_plan::stack::{Environment, Image, Index, Requirement};
use kiln_plan::step::StepKey;
use kiln_wheel::pylock::LockedPackage;
use kiln_wheel::uv::{self, UvError};

use super::files::RequirementsSource;
use crate::bases;
use crate::error::{BuildError, Result};
use crate::project::Project;

/// Raised when the same question would be answered in another way.
const QUESTION_VERSION: u32 = 1;

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
            .text("python", if self.image.has_packages() { self.python } else { "" })
            .text("platform", &self.platform.to_string())
            .text("libc", &self.facts.libc.as_ref().map(ToString::to_string).unwrap_or_default())
            .list("above", pins(&self.above))
            .list("in base", pins(&self.in_base))
            .option("file", self.file.as_ref().map(|file| file.digest.hex()).as_deref())
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
        super::interpreter(&self.facts, self.python, &self.base)
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
            return format!("indexes, recipes, Python, or what stands above `{name}` ({platform}) changed");
        }
        format!("in `{name}` ({platform}) {}", changes.join(", "))
    }

    /// Where a package is asked for, in this image or above.
    pub(super) fn span_of(&self, package: &str) -> Option<Span> {
        let images = std::iter::once(self.image).chain(self.ancestors.iter().copied());
        let mut requirements = images.flat_map(|image| &image.requirements);
        requirements.find(|requirement| requirement.name.to_string() == package).map(|found| found.span.clone())
    }

    /// Points at every requirement that an explanation mentions.
    fn conflict(&self, explanation: &str) -> Diagnostics {
        let mentions = |name: &str| {
            let boundary = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '-' | '_'));
            explanation.match_indices(name).any(|(at, _)| {
                boundary(explanation[..at].chars().next_back())
                    && boundary(explanation[at + name.len()..].chars().next())
            })
        };
        let own = self.image.requirements.iter().map(|requirement| (requirement, self.image));
        let above = self.ancestors.iter().flat_map(|image| image.requirements.iter().map(move |r| (r, *image)));
        let mentioned: Vec<_> = own.chain(above).filter(|(r, _)| mentions(r.name.as_ref())).collect();
        let problem = if mentioned.len() > 1 { "contradict one another" } else { "cannot be resolved" };
        let title = format!("the packages of `{}` {problem} on {}", self.image.name, self.platform);
        let mut labels = mentioned.iter().map(|(requirement, image)| {
            let text = if image.name == self.image.name { String::new() } else { format!("in `{}`", image.name) };
            (requirement.span.clone(), text)
        });
        let mut diagnostic = match labels.next() {
            Some((span, text)) => Diagnostic::at(span, title).label(text),
            None => Diagnostic::at(self.image.span.clone(), title),
        };
        for (span, text) in labels {
            diagnostic = diagnostic.also(span, text);
        }
        let no_wheels = explanation.contains("no usable wheels") || explanation.contains("no wheels");
        let mut hint = explanation.to_owned();
        if no_wheels {
            hint.push_str("\na package without wheels is compiled: add a recipe `[wheels.NAME]` with its source");
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
            self.warn(format!(
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
        preferences: Vec<(String, String)>,
    ) -> Result<Vec<LockedPackage>> {
        let mut files: Vec<PathBuf> = Vec::new();
        let mut locked = Vec::new();
        match &question.file {
            Some(RequirementsSource { lock: None, path, .. }) => files.push(path.clone()),
            Some(source) => locked = self.locked_requirements(source, question.python, platform)?,
            None => {}
        }
        if image.requirements.is_empty() && files.is_empty() {
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
        let index = self.absolute_index();
        let asked = uv::Question {
            python: question.python,
            platform,
            libc: question.facts.libc.as_ref(),
            requirements: image.requirements.iter().map(|requirement| requirement.text.clone()).collect(),
            files,
            constraints: pins.chain(locked_pins).collect(),
            index: &index,
            recipes: question.recipes.clone(),
            preferences,
            offline: self.surroundings.offline,
        };
        let program = self.uv()?;
        let directory = self.store.temporary_directory()?;
        let work = self.work("resolve", format!("{} ({platform})", image.name), None);
        let answer = uv::resolve(&program, &asked, directory.path(), &work);
        let answer = answer.map_err(|error| match error {
            UvError::Unsatisfiable(explanation) => question.conflict(&explanation).into(),
            UvError::Interrupted => BuildError::Interrupted,
            UvError::Index(text) => BuildError::Index(text.into()),
            UvError::Refused { index, status } => BuildError::IndexRefused { index, status },
            error => BuildError::step(format!("the packages of `{}` cannot be resolved", image.name), error),
        })?;
        let known = |package: &LockedPackage| locked.iter().any(|locked| locked.name == package.name);
        let more: Vec<LockedPackage> = answer.into_iter().filter(|package| !known(package)).collect();
        Ok(locked.into_iter().chain(more).collect())
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
