//! Bases: locked to the digest of a manifest, with the facts of what is inside.

use kiln_oci::OciError;
use kiln_oci::image::{Config, Image, from_json};
use kiln_oci::layout::Layout;
use kiln_plan::base::BaseFacts;
use kiln_plan::diagnostic::{Diagnostic, Diagnostics, Span};
use kiln_plan::lock::{Lock, LockedBase, LockedSuite};
use kiln_plan::platform::Platform;
use kiln_plan::reference::Reference;
use kiln_plan::stack;
use kiln_plan::step::StepKey;
use kiln_registry::RegistryError;

use crate::bases::name;
use crate::debian::{self, Debian};
use crate::driver::Driver;
use crate::error::{BuildError, LAYOUT, Result};
use crate::graph::Graph;
use crate::images::base_step;
use crate::project::Project;
use crate::remote::CacheReader;
use crate::step::{Level, Subject};
use crate::steps::facts::Facts;
use crate::workshop::now;

/// Seconds for which a bootstrapped Debian is new enough for another lock.
const RECENT: u64 = 24 * 3600;

impl Project<'_> {
    /// Locks a base. What the lock says already stays, unless it no longer holds or an upgrade is asked for.
    pub(super) fn lock_base(
        &self,
        image: &stack::Image,
        platform: Platform,
        locked: Option<&LockedBase>,
        upgrade: bool,
    ) -> Result<Option<LockedBase>> {
        let Some(name) = name(&image.from) else { return Ok(None) };
        let kept = locked.filter(|_| !upgrade).cloned();
        let found = match &image.from {
            stack::From::OciLayout(path) => {
                let layout = self.layout_image(path, platform).map_err(|error| at_from(image, error))?;
                let locked = locked.filter(|locked| locked.manifest == layout.manifest).cloned();
                locked.unwrap_or_else(|| unlooked(name, &layout))
            }
            stack::From::Debian { suite, include, mirror } => match kept {
                Some(locked) => locked,
                None => {
                    let wanted = self.debian(name, (suite, include, mirror.as_ref()), platform);
                    let before = locked.map_or(&[][..], |locked| &locked.archives);
                    self.bootstrapped(&wanted, before, upgrade)?
                }
            },
            stack::From::Reference(reference) => match kept {
                Some(locked) => locked,
                None => self.lock_reference(reference, platform).map_err(|error| at_from(image, error))?,
            },
            stack::From::Scratch | stack::From::Image(_) => return Ok(None),
        };
        self.looked_into(image, found).map(Some)
    }

    /// Locks the images on registries that an image copies from. Nothing of them is fetched but documents.
    pub(super) fn lock_copied(
        &self,
        image: &stack::Image,
        platform: Platform,
        old: &Lock,
        new: &mut Lock,
        (upgrade, frozen): (bool, bool),
    ) -> Result<()> {
        for copy in image.copies() {
            let Some(stack::Elsewhere::Reference(reference)) = &copy.elsewhere else { continue };
            let name = reference.to_string();
            if new.base(&name, platform).is_some() {
                continue;
            }
            let locked = old.base(&name, platform);
            new.bases.push(match locked {
                Some(locked) if frozen || !upgrade => locked.clone(),
                None if frozen => {
                    return Err(BuildError::LockOutdated(format!("it has no image `{name}` for {platform}")));
                }
                _ => self.lock_reference(reference, platform).map_err(|error| at(copy.span(), error))?,
            });
        }
        Ok(())
    }

    /// Completes a base with the number of its layers and its facts, where the lock does not have them.
    fn looked_into(&self, image: &stack::Image, mut locked: LockedBase) -> Result<LockedBase> {
        if let Some(declared) = &image.base_facts {
            let before = std::mem::replace(&mut locked.facts, declared.clone());
            let told = &mut locked.facts;
            told.path = told.path.take().or(before.path);
            told.user = told.user.take().or(before.user);
            told.workdir = told.workdir.take().or(before.workdir);
        }
        if !locked.is_complete() {
            let mut graph = Graph::default();
            let subject = Subject::Base(locked.name.clone(), locked.platform);
            let base = graph.add(base_step(self, image, &locked)?)?;
            let facts = graph.add(Facts::new(subject, base))?;
            let remote = CacheReader::new(self);
            let driver = Driver::new(&graph, &self.workshop, &remote);
            if image.base_facts.is_none() {
                locked.facts = *driver.get(facts, Level::Known)?;
            }
            let base = driver.get(base, Level::Known)?;
            locked.layers = Some(base.layers.len());
            let config: Config = from_json(&self.workshop.store.read(&base.config)?, "a config")?;
            let told = &mut locked.facts;
            told.path = told.path.take().or_else(|| config.env("PATH").map(str::to_owned));
            let said = |text: String| Some(text).filter(|text| !text.is_empty());
            told.user = told.user.take().or_else(|| said(config.config.user));
            told.workdir = told.workdir.take().or_else(|| said(config.config.working_dir));
        }
        if image.base_facts.is_some() {
            locked.facts.sort_interpreters();
        }
        Ok(locked)
    }

    fn layout_image(&self, path: &str, platform: Platform) -> Result<Image> {
        let (directory, name) = self.layout(path)?;
        Ok(Layout::open(&directory)?.image_for(name.as_deref(), platform)?.image)
    }

    /// Asks the registry what a reference names now.
    fn lock_reference(&self, reference: &Reference, platform: Platform) -> Result<LockedBase> {
        let _work = self.workshop.work("resolve", format!("{reference} ({platform})"), None);
        let found = self.workshop.registries()?.image(reference, platform)?;
        self.workshop.store.add(&found.loaded.manifest_bytes)?;
        self.workshop.store.add(&found.loaded.config_bytes)?;
        Ok(LockedBase { index: found.index, ..unlooked(reference.to_string(), &found.loaded.image) })
    }

    /// Returns a Debian that the stack names.
    pub(crate) fn debian(
        &self,
        name: String,
        (suite, include, mirror): (&str, &[String], Option<&stack::Mirror>),
        platform: Platform,
    ) -> Debian {
        let (suite, include, mirror) = (suite.to_owned(), include.to_vec(), mirror.cloned());
        Debian { name, suite, include, mirror, directory: self.directory.clone(), platform }
    }

    /// Makes a Debian, unless that was done within the last day. Two processes that want the same do it once.
    fn bootstrapped(&self, wanted: &Debian, before: &[LockedSuite], upgrade: bool) -> Result<LockedBase> {
        let (workshop, name) = (&self.workshop, &wanted.name);
        let key = recent_key(name, wanted.platform);
        if let Some(recent) = self.recent_bootstrap(name, wanted.platform, upgrade)? {
            return Ok(recent);
        }
        let lock = workshop.alone(&format!("bootstrap-{key}"), &format!("bootstrap {name} ({})", wanted.platform))?;
        let done = match self.recent_bootstrap(name, wanted.platform, upgrade)? {
            Some(recent) => Ok(recent),
            None => debian::lock(workshop, wanted, before).and_then(|(found, _)| {
                workshop.store.remember(&key, &found)?;
                Ok(found)
            }),
        };
        lock.remove()?;
        done
    }

    /// Returns what was bootstrapped under this name within the last day and is still in the store: a second stack, or a
    /// lock that failed afterwards, need not do it again.
    fn recent_bootstrap(&self, name: &str, platform: Platform, upgrade: bool) -> Result<Option<LockedBase>> {
        let known: Option<LockedBase> = self.workshop.store.recall(&recent_key(name, platform))?;
        let recent = |locked: &LockedBase| locked.snapshot.is_some_and(|then| now().saturating_sub(then) < RECENT);
        let here = |locked: &LockedBase| self.workshop.store.has_blob(&locked.manifest);
        Ok(known.filter(|locked| !upgrade && recent(locked) && here(locked)))
    }
}

fn unlooked(name: String, image: &Image) -> LockedBase {
    LockedBase {
        name,
        platform: image.platform,
        index: None,
        manifest: image.manifest,
        layers: None,
        snapshot: None,
        archives: Vec::new(),
        packages: Vec::new(),
        facts: BaseFacts::default(),
    }
}

fn recent_key(name: &str, platform: Platform) -> StepKey {
    StepKey::of("recent bootstrap", 3).text("name", name).text("platform", &platform.to_string()).finish()
}

/// Points at the `from` that names something unusable.
fn at_from(image: &stack::Image, error: BuildError) -> BuildError {
    at(image.from_span.clone(), error)
}

/// Points at the place of the stack file that names something unusable.
fn at(span: Span, error: BuildError) -> BuildError {
    let at = |message: String| Diagnostic::at(span.clone(), message);
    match error {
        BuildError::Oci(error @ OciError::Layout { .. }) => {
            Diagnostics::from(at(error.to_string()).hint(LAYOUT)).into()
        }
        BuildError::Oci(error @ OciError::NoImage { .. }) => Diagnostics::from(at(error.to_string())).into(),
        BuildError::Oci(OciError::Json { what, source }) => {
            Diagnostics::from(at(format!("{what} is not valid: {source}"))).into()
        }
        BuildError::Registry(error @ RegistryError::Unusable { .. }) => Diagnostics::from(at(error.to_string())).into(),
        BuildError::Registry(RegistryError::NotFound { registry, .. }) => {
            let message = format!("{registry} has no such image, or shows it only to those who may see it");
            Diagnostics::from(at(message).hint(format!("if it is private: `kiln login {registry}`"))).into()
        }
        BuildError::Project(error) => Diagnostics::from(at(error.to_string())).into(),
        error => error,
    }
}
