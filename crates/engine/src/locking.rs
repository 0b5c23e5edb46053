//! From a stack to a lock: everything that a build depends on is decided here, once.

use std::collections::BTreeSet;

use kiln_plan::diagnostic::{Diagnostic, Diagnostics, closest};
use kiln_plan::digest::Digest;
use kiln_plan::lock::{self, Lock, LockedBase, LockedImage, LockedPackage, LockedSystem, LockedWheel};
use kiln_plan::platform::Platform;
use kiln_plan::stack::{Environment, Image, Requirement, Stack};
use kiln_store::Root;
use kiln_wheel::pylock;
use kiln_wheel::requirements::bring_wheel;
use kiln_wheel::tags::Tags;

use crate::bases as names;
use crate::below::{Below, Presence};
use crate::documents;
use crate::error::{BuildError, ProjectError, Result};
use crate::project::Project;
use crate::python::{BasePython, Beside};

mod above;
mod answer;
mod available;
mod bases;
mod conflict;
mod files;
mod links;
mod listed;
mod locks;
mod modules;
mod publishers;
mod question;
mod sizes;
mod sources;
mod system;
mod tiers;
mod torch;
mod unused;

use answer::{Failed, Given, Part};
use tiers::Together;
use unused::Exclusions;

/// What may change in a lock.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Upgrade {
    /// Only what no longer fits the stack.
    #[default]
    Nothing,
    /// These packages.
    Packages(BTreeSet<String>),
    /// Everything.
    Everything,
}

impl Upgrade {
    fn includes(&self, package: &str) -> bool {
        match self {
            Self::Nothing => false,
            Self::Packages(names) => names.contains(package),
            Self::Everything => true,
        }
    }
}

/// The manner of locking.
#[derive(Clone, Copy)]
struct How<'a> {
    upgrade: &'a Upgrade,
    /// A change is an error.
    frozen: bool,
    /// Versions that images were chosen for together.
    together: &'a Together,
    /// Notes which exclusions leave something out.
    exclusions: &'a Exclusions,
}

/// What was decided for one image.
struct Decision {
    image: LockedImage,
    wheels: Vec<LockedWheel>,
}

impl Project<'_> {
    /// The lock that fits the stack. It is written if it changed, unless `frozen`, when a change is an error.
    pub fn lock(&self, upgrade: &Upgrade, frozen: bool) -> Result<Lock> {
        // Another kiln may add another choice of the stack to the same lock.
        let name = format!("lock-{}", &Digest::of(self.lock_path().display().to_string().as_bytes()).hex()[..16]);
        let _alone = if frozen { None } else { Some(self.workshop.alone(&name, "change `kiln.lock`")?) };
        let old = self.read_lock()?;
        if frozen && old.is_none() {
            let message = format!("there is no `{}` yet", self.lock_name());
            return Err(BuildError::Mistake { message, hint: "run `kiln lock`".into() });
        }
        let old = old.unwrap_or_default();
        if frozen && old.version != 0 && old.version < lock::VERSION {
            let message = format!("it has format version {}, and this kiln writes {}", old.version, lock::VERSION);
            return Err(BuildError::LockOutdated(message));
        }
        check_upgrade(upgrade, &old)?;
        let mut new = Lock { version: lock::VERSION, native_gpus: self.native(&old, upgrade)?, ..Lock::default() };
        new.sources = self.lock_sources(&old, upgrade, frozen)?;
        let exclusions = Exclusions::default();
        for &platform in &self.stack.platforms {
            self.lock_platform(platform, &old, &mut new, (upgrade, frozen), &exclusions)?;
        }
        // Platforms that were left out on the command line keep what is locked for them.
        keep_other_platforms(&self.stack.platforms, &self.stack.images, &old, &mut new);
        if !frozen {
            self.fill_in_sizes(&mut new)?;
            self.fill_in_publishers(&old, &mut new)?;
            let mut written = new.clone();
            keep_other_choices(&self.stack, &old, &mut written);
            self.write_lock(&written)?;
            self.warn_of_unused(&written, &exclusions)?;
            self.remember_bases(&written)?;
        }
        Ok(new)
    }

    /// Tells garbage collection what the lock needs before anything is built: a bootstrapped base above all.
    fn remember_bases(&self, lock: &Lock) -> Result<()> {
        let store = self.workshop.store;
        let mut digests = BTreeSet::new();
        for base in &lock.bases {
            if let Some(image) = documents::here(store, &base.manifest, &base.name, base.platform)? {
                digests.extend([image.manifest, image.config]);
                digests.extend(image.layers.iter().map(|layer| layer.digest));
            }
        }
        digests.extend(sources::digests(&self.stack, lock));
        if digests.is_empty() {
            return Ok(());
        }
        let root =
            Root { stack: self.lock_path().display().to_string(), image: "bases".into(), persist: false, digests };
        Ok(store.remember_root(&root)?)
    }

    fn native(&self, old: &Lock, upgrade: &Upgrade) -> Result<Vec<String>> {
        if !self.stack.has_native_gpus() {
            return Ok(Vec::new());
        }
        if !old.native_gpus.is_empty() && *upgrade == Upgrade::Nothing {
            return Ok(old.native_gpus.clone());
        }
        if self.workshop.surroundings.native_gpus.is_empty() {
            return Err(ProjectError::NoGpu.into());
        }
        Ok(self.workshop.surroundings.native_gpus.clone())
    }

    /// Locks one image, those below it being in `new`.
    fn lock_one(
        &self,
        image: &Image,
        platform: Platform,
        old: &Lock,
        new: &mut Lock,
        how: How<'_>,
    ) -> std::result::Result<(), Failed> {
        let How { upgrade, frozen, together, exclusions } = how;
        self.lock_copied(image, platform, old, new, (*upgrade == Upgrade::Everything, frozen))?;
        if let Some(name) = names::name(&image.from)
            && !new.base(&name, platform).is_some_and(LockedBase::is_complete)
        {
            // Images that are only copied from are not looked into.
            new.bases.retain(|base| base.name != name || base.platform != platform);
            let locked = old.base(&name, platform);
            let nothing = Upgrade::Nothing;
            let upgrade_base = *if frozen { &nothing } else { upgrade } == Upgrade::Everything;
            if frozen && locked.is_none() {
                return Err(BuildError::LockOutdated(format!("it has no base `{name}` for {platform}")).into());
            }
            let base = self.lock_base(image, platform, locked, upgrade_base)?;
            if frozen && base.as_ref() != locked {
                return Err(BuildError::LockOutdated(format!("the base `{name}` is another than is locked")).into());
            }
            new.bases.extend(base);
        }
        self.lock_system(image, platform, old, new, (upgrade, frozen))?;
        let mut known: Vec<&LockedImage> = old.images_of(&image.name, platform).collect();
        known.retain(|known| known.variant.is_empty() || known.variant == self.stack.variant);
        // What is locked for this very choice comes first.
        known.sort_by_key(|known| known.variant != self.stack.variant);
        let question = match (self.question(image, platform, new, !frozen), known.first()) {
            // Only commands that have not run here tell if it fits: it is looked at again when they have.
            (Err(BuildError::NotYet(_)), Some(known)) if frozen => {
                add_images(vec![(*known).clone()], old, new);
                return Ok(());
            }
            (question, _) => question?,
        };
        let inputs = question.inputs();
        let holds = |known: &&LockedImage| {
            known.inputs == inputs
                && !touches(upgrade, known)
                && self.gives_way_to_images(known)
                && together.agrees(known)
        };
        let nearest = known.first().copied();
        let decision = match known.into_iter().find(holds) {
            Some(known) => {
                exclusions.note(image, |_| true);
                let wheels = old.wheels_by_digest();
                let wheels = known.packages.iter().filter_map(|package| wheels.get(&package.wheel).copied().cloned());
                Decision { wheels: wheels.collect(), image: known.clone() }
            }
            None if frozen => return Err(BuildError::LockOutdated(question.difference(nearest)).into()),
            None => self.decide(&question, nearest, how, inputs)?,
        };
        self.check_family(&question, &decision.image, new)?;
        for wheel in decision.wheels {
            if !new.wheels.iter().any(|other| other.sha256 == wheel.sha256) {
                new.wheels.push(wheel);
            }
        }
        new.images.push(decision.image);
        Ok(())
    }

    fn decide(
        &self,
        question: &question::ImageQuestion<'_>,
        known: Option<&LockedImage>,
        how: How<'_>,
        inputs: String,
    ) -> std::result::Result<Decision, Failed> {
        let (image, platform) = (question.image, question.platform);
        let mut decision = Decision {
            image: LockedImage {
                name: image.name.clone(),
                platform,
                variant: self.stack.variant.clone(),
                inputs,
                requirements: image.requirements.iter().map(Requirement::redacted).collect(),
                gives_way: how.together.given_way(&image.name),
                packages: Vec::new(),
            },
            wheels: Vec::new(),
        };
        if !image.has_packages() {
            if let Some(base) = self.seen_base(question)? {
                self.warn_of_base(question, &base, &decision.image, BTreeSet::new())?;
            }
            return Ok(decision);
        }
        question.interpreter()?;
        let own = known.filter(|known| known.variant == self.stack.variant);
        let stay = own.map_or_else(Vec::new, |known| {
            let stays = |package: &&LockedPackage| !how.upgrade.includes(&package.name);
            known.packages.iter().filter(stays).map(|package| (package.name.clone(), package.version.clone())).collect()
        });
        let listed = question.listed(self)?;
        let part = Part::of(self, question, listed.as_ref())?;
        let given = question.above.iter().chain(&question.in_base).cloned();
        let pins: Vec<(String, String)> = given.chain(how.together.choices(image)).collect();
        let given = Given { pins: &pins, preferences: &stay, ..Given::default() };
        let found = self.resolve_with_torch(&part, &given)?;
        self.check_above(question, &part, listed.as_ref(), &found)?;
        let required = self.required_exclusions(&part, &given)?;
        how.exclusions.note(image, |name| required.contains(name));
        let tags = question.target().tags();
        let mut wrong = Diagnostics::default();
        let searched = self.searched(&part)?;
        let is_in_base = |name: &str| question.in_base.iter().any(|(held, _)| held == name);
        let needed = found.iter().map(|package| package.name.clone()).filter(|name| is_in_base(name)).collect();
        for package in found {
            let present = |(name, _): &(String, String)| *name == package.name;
            if question.above.iter().chain(&question.in_base).any(present) {
                continue;
            }
            match self.choose(&package, &tags, question, listed.as_ref()) {
                Ok(mut wheel) => {
                    wheel.indexes = publishers::candidates(&searched, &package.name);
                    let recipe = kiln_wheel::name_of(&package.name).and_then(|name| self.stack.recipes.get(&name));
                    // A lock need not say which version a repository has.
                    let version = package.version.or_else(|| recipe?.version.clone()).unwrap_or_default();
                    decision.image.packages.push(LockedPackage { name: package.name, version, wheel: wheel.sha256 });
                    decision.wheels.push(wheel);
                }
                // All packages without a fitting wheel are told at once.
                Err(BuildError::Stack(more)) => wrong.0.extend(more.0),
                Err(error) => return Err(error.into()),
            }
        }
        decision.image.packages.sort();
        self.warn_of_pip(question, &decision.image);
        if let Some(base) = self.seen_base(question)?.filter(|_| wrong.0.is_empty()) {
            self.warn_of_base(question, &base, &decision.image, needed)?;
            self.check_modules(question, &base, &decision)?;
        }
        wrong.or(decision).map_err(|wrong| Failed::Other(wrong.into()))
    }

    /// Returns the Python of the base, where the image sees distributions of it and changes something.
    fn seen_base<'q>(&self, question: &'q question::ImageQuestion<'_>) -> Result<Option<BasePython<'q>>> {
        let image = question.image;
        let sees = question.environment != Environment::Venv && !question.facts.distributions.is_empty();
        let changes = image.has_packages() || !image.python.remove.is_empty();
        let base = || BasePython::of(&self.stack, image, &question.facts, &question.base);
        (sees && changes).then(base).transpose()
    }

    /// Warns of requirements of the base's distributions that are not met; `needed` are those that the image's packages require.
    fn warn_of_base(
        &self,
        question: &question::ImageQuestion<'_>,
        base: &BasePython<'_>,
        locked: &LockedImage,
        needed: BTreeSet<String>,
    ) -> Result<()> {
        let image = question.image;
        let beside = Beside {
            own: locked.packages.iter().map(|package| (package.name.as_str(), package.version.as_str())).collect(),
            below: question.above.iter().map(|(name, version)| (name.as_str(), version.as_str())).collect(),
            removed: image.python.remove.iter().map(|named| named.name.as_ref()).collect(),
            needed: needed.iter().map(String::as_str).collect(),
        };
        let warnings = base.unmet(&image.name, &beside, &question.markers()?);
        warnings.into_iter().for_each(|warning| self.workshop.warn(warning));
        Ok(())
    }

    /// Warns of a `pip` on `PATH` that is the base's, and would install beside the environment.
    fn warn_of_pip(&self, question: &question::ImageQuestion<'_>, image: &LockedImage) {
        let is_pip = |name: &str| name == "pip";
        let has_pip = image.packages.iter().any(|package| is_pip(&package.name))
            || question.above.iter().any(|(name, _)| is_pip(name));
        if has_pip || question.environment != Environment::Venv {
            return;
        }
        let below = Below::of(&question.facts, "base");
        let mut places = question.facts.search_path().map(|directory| format!("{}/pip", directory.trim_matches('/')));
        if let Some(path) = places.find(|path| below.holds(path) == Presence::File) {
            self.workshop.warn(format!(
                "`pip` in `{}` is the base's (/{path}), which does not see /opt/venv: add `pip` to its packages if \
                 somebody installs with it",
                image.name
            ));
        }
    }

    /// The best wheel of a package for an image.
    fn choose(
        &self,
        package: &pylock::LockedPackage,
        tags: &Tags,
        question: &question::ImageQuestion<'_>,
        listed: Option<&listed::Listed<'_>>,
    ) -> Result<LockedWheel> {
        let version = package.version.as_deref().unwrap_or("?");
        let platform = question.target().platform;
        let name = kiln_wheel::name_of(&package.name);
        if let Some((name, recipe)) = name.and_then(|name| self.stack.recipes.get_key_value(&name)) {
            let place = question.place_of(&package.name, package.version.as_deref(), listed);
            self.check_recipe(name, recipe, place, package.version.as_deref())?;
            let wheel = self.built_wheel(name, recipe, tags, platform)?;
            listed.map_or(Ok(()), |listed| listed.check(&package.name, version, &wheel))?;
            return Ok(wheel);
        }
        let wheels = match listed {
            Some(listed) => listed.allowed(package, tags)?,
            None => package.wheels.clone(),
        };
        let Some(best) = pylock::best(&wheels, tags) else {
            let place = question.place_of(&package.name, package.version.as_deref(), listed);
            let place = place.unwrap_or_else(|| question.image.span.clone().into());
            let have: Vec<&str> = package.wheels.iter().map(|wheel| wheel.file.as_str()).take(3).collect();
            let bring = bring_wheel(&package.name, package.version.as_deref().unwrap_or("VERSION"));
            let (message, hint) = match package.source {
                Some(source) => {
                    let named = format!("{} {}", package.name, package.version.as_deref().unwrap_or_default());
                    (format!("the lock has no wheel of {}, only {source}", named.trim_end()), bring)
                }
                None => (
                    format!("no wheel of {} {version} fits {}", package.name, question.system()),
                    format!("there are {}; {bring}", have.join(", ")),
                ),
            };
            return Err(Diagnostics::from(Diagnostic::at(place, message).hint(hint)).into());
        };
        let wheel = self.locked_wheel(best)?;
        let real = wheel.size.filter(|_| pylock::is_local(&best.location));
        let real = real.or_else(|| self.workshop.store.size(&best.sha256).ok());
        match best.size.zip(real).filter(|(said, real)| said != real) {
            Some((said, real)) => {
                let place = question.place_of(&package.name, package.version.as_deref(), listed);
                let place = place.unwrap_or_else(|| question.image.span.clone().into());
                let message = format!("`{}` has {real} bytes, and {said} are said of it", best.file);
                let hint = "the file and what names it do not belong together: write the lock anew, or get the file that it is for";
                Err(Diagnostics::from(Diagnostic::at(place, message).hint(hint)).into())
            }
            None => Ok(wheel),
        }
    }
}

/// Whether an upgrade concerns an image.
fn touches(upgrade: &Upgrade, image: &LockedImage) -> bool {
    image.packages.iter().any(|package| upgrade.includes(&package.name))
}

/// Packages that are to be chosen anew must be there.
fn check_upgrade(upgrade: &Upgrade, old: &Lock) -> Result<()> {
    let Upgrade::Packages(names) = upgrade else { return Ok(()) };
    let known: BTreeSet<&str> =
        old.images.iter().flat_map(|image| &image.packages).map(|package| package.name.as_str()).collect();
    let Some(unknown) = names.iter().find(|name| !known.contains(name.as_str())) else { return Ok(()) };
    let hint = match closest(unknown, known.iter().copied()) {
        Some(close) => format!("did you mean `{close}`?"),
        None => "the lock lists what is locked".to_owned(),
    };
    Err(BuildError::Mistake { message: format!("no image has the package `{unknown}`"), hint })
}

/// Keeps what is locked for other choices of the stack: its variants, and variables of the command line.
fn keep_other_choices(stack: &Stack, old: &Lock, new: &mut Lock) {
    let is_choice = |variant: &str| match variant.split(' ').next() {
        _ if variant == stack.variant => false,
        Some("") => true,
        Some(first) => first.contains('=') || stack.variants.iter().any(|name| name == first),
        None => false,
    };
    let is_new = |one: &LockedImage| {
        new.images_of(&one.name, one.platform).any(|other| other.variant == one.variant)
            || !stack.images.iter().any(|image| image.name == one.name)
    };
    let kept: Vec<LockedImage> =
        old.images.iter().filter(|one| is_choice(&one.variant) && !is_new(one)).cloned().collect();
    if kept.is_empty() {
        return;
    }
    // Which bases they stand on is not told, nor which packages of distributions they have.
    let is_kept = |one: &&LockedSystem| new.system(&one.image, one.platform, &one.inputs).is_none();
    let systems: Vec<_> = old.systems.iter().filter(is_kept).cloned().collect();
    new.systems.extend(systems);
    let bases = old.bases.iter().filter(|base| new.base(&base.name, base.platform).is_none()).cloned();
    let bases: Vec<_> = bases.collect();
    new.bases.extend(bases);
    let sources = old.sources.iter().filter(|source| !new.sources.contains(source)).cloned().collect::<Vec<_>>();
    new.sources.extend(sources);
    add_images(kept, old, new);
}

fn keep_other_platforms(platforms: &[Platform], images: &[Image], old: &Lock, new: &mut Lock) {
    let other = |platform: &Platform| !platforms.contains(platform);
    new.bases.extend(old.bases.iter().filter(|base| other(&base.platform)).cloned());
    new.systems.extend(old.systems.iter().filter(|system| other(&system.platform)).cloned());
    let kept: Vec<LockedImage> = old
        .images
        .iter()
        .filter(|image| other(&image.platform) && images.iter().any(|known| known.name == image.name))
        .cloned()
        .collect();
    add_images(kept, old, new);
}

/// Adds images of an old lock, with their wheels.
fn add_images(kept: Vec<LockedImage>, old: &Lock, new: &mut Lock) {
    let wheels = old.wheels_by_digest();
    let needed: BTreeSet<Digest> = kept.iter().flat_map(|image| image.packages.iter().map(|p| p.wheel)).collect();
    for digest in needed {
        if let Some(wheel) = wheels.get(&digest)
            && !new.wheels.iter().any(|other| other.sha256 == digest)
        {
            new.wheels.push((*wheel).clone());
        }
    }
    new.images.extend(kept);
}
