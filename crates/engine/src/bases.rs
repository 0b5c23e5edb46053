//! Bases: locked to a digest, known by their facts, and turned into something that images can be composed on.

mod debian;
mod reference;

pub(crate) use debian::debian_key;
use kiln_oci::OciError;
use kiln_oci::compression::LayerTar;
use kiln_oci::facts::FactsReader;
use kiln_oci::image::{Config, Image, LoadedImage};
use kiln_oci::layout::Layout;
use kiln_plan::base::BaseFacts;
use kiln_plan::diagnostic::{Diagnostic, Diagnostics};
use kiln_plan::digest::Digest;
use kiln_plan::lock::LockedBase;
use kiln_plan::platform::Platform;
use kiln_plan::stack;
use kiln_plan::step::StepKey;
use kiln_registry::RegistryError;

use crate::error::{BuildError, LAYOUT, Result};
use crate::project::Project;

/// Raised when the same layers would give other facts.
const FACTS_VERSION: u32 = 2;
/// What an image is composed on.
#[derive(Debug, Clone)]
pub struct Base {
    /// What it is called in messages.
    pub name: String,
    /// Its layers and so on; nothing for `scratch`.
    pub image: Option<Image>,
    /// Its config.
    pub config: Config,
    /// The layout that has its bytes, where it is one.
    pub layout: Option<Layout>,
}

/// How the lock calls what an image stands on; nothing for `scratch` and for other images.
pub fn name(from: &stack::From) -> Option<String> {
    match from {
        stack::From::Scratch | stack::From::Image(_) => None,
        stack::From::OciLayout(path) => Some(format!("oci {path}")),
        stack::From::Debian { suite, include, mirror } => {
            let mirror = mirror.as_ref().map(|mirror| format!(" from {mirror}")).unwrap_or_default();
            Some(format!("debian {suite} {}{mirror}", include.join(" ")).trim_end().to_owned())
        }
        stack::From::Reference(reference) => Some(reference.to_string()),
    }
}

impl Project<'_> {
    /// Locks a base. What the lock says already stays, unless it no longer holds or an upgrade is asked for.
    pub fn lock_base(
        &self,
        image: &stack::Image,
        platform: Platform,
        locked: Option<&LockedBase>,
        upgrade: bool,
    ) -> Result<Option<LockedBase>> {
        let Some(name) = name(&image.from) else { return Ok(None) };
        let mut found = match &image.from {
            stack::From::OciLayout(path) => {
                let layout = self.layout_image(path, platform).map_err(|error| at_from(image, error))?;
                match locked.filter(|locked| locked.manifest == layout.image.manifest) {
                    Some(locked) => locked.clone(),
                    None => self.lock_layout(name, path, platform, &layout, image.base_facts.is_some())?,
                }
            }
            stack::From::Debian { .. } => match locked.filter(|_| !upgrade) {
                Some(locked) => locked.clone(),
                None => match self.recent_bootstrap(&name, platform, upgrade)? {
                    Some(recent) => recent,
                    None => self.bootstrap(name, image, platform)?.0,
                },
            },
            stack::From::Reference(reference) => match locked.filter(|_| !upgrade) {
                Some(locked) => locked.clone(),
                None => self.lock_reference(reference, platform, image).map_err(|error| at_from(image, error))?,
            },
            stack::From::Scratch | stack::From::Image(_) => return Ok(None),
        };
        if let Some(facts) = &image.base_facts {
            found.facts = facts.clone();
        }
        Ok(Some(found))
    }

    /// What an image is composed on, from what is locked.
    pub fn load_base(&self, image: &stack::Image, platform: Platform, locked: Option<&LockedBase>) -> Result<Base> {
        let scratch = || Base { name: "scratch".into(), image: None, config: Config::scratch(platform), layout: None };
        let Some(locked) = locked else { return Ok(scratch()) };
        match &image.from {
            stack::From::OciLayout(path) => {
                let layout = Layout::open(&self.path(path)?)?;
                let found = layout.image_for(platform)?;
                if found.image.manifest != locked.manifest {
                    let message = format!("`{path}` has another image for {platform} than is locked");
                    return Err(BuildError::LockOutdated(message));
                }
                self.store.add(&found.config_bytes)?;
                self.store.add(&found.manifest_bytes)?;
                let LoadedImage { image, config, .. } = found;
                Ok(Base { name: locked.name.clone(), image: Some(image), config, layout: Some(layout) })
            }
            stack::From::Debian { .. } => self.load_debian(image, platform, locked),
            stack::From::Reference(reference) => self.load_reference(reference, locked),
            stack::From::Scratch | stack::From::Image(_) => Ok(scratch()),
        }
    }

    fn layout_image(&self, path: &str, platform: Platform) -> Result<LoadedImage> {
        Ok(Layout::open(&self.path(path)?)?.image_for(platform)?)
    }

    fn lock_layout(
        &self,
        name: String,
        path: &str,
        platform: Platform,
        found: &LoadedImage,
        declared: bool,
    ) -> Result<LockedBase> {
        let facts = if declared { BaseFacts::default() } else { self.layout_facts(path, found)? };
        let manifest = found.image.manifest;
        Ok(LockedBase { name, platform, index: None, manifest, snapshot: None, packages: Vec::new(), facts })
    }

    /// Streams the layers of a layout, unless somebody did before.
    fn layout_facts(&self, path: &str, found: &LoadedImage) -> Result<BaseFacts> {
        let key = facts_key(&found.image.manifest);
        if let Some(facts) = self.store.recall(&key)? {
            return Ok(facts);
        }
        let layout = Layout::open(&self.path(path)?)?;
        let bytes = found.image.layers.iter().map(|layer| layer.size).sum();
        let work = self.work("inspect", format!("base {path}"), Some(bytes));
        let mut reader = FactsReader::new();
        for layer in &found.image.layers {
            let file = fs_err::File::open(layout.blob_path(&layer.digest)).map_err(|error| {
                let what = format!("the layers of `{path}` cannot be read, and `base-facts` are not declared");
                BuildError::step(what, error)
            })?;
            let mut tar = LayerTar::open(layer, file).map_err(|error| unreadable(path, error))?;
            reader.layer(&mut tar).map_err(|error| unreadable(path, error))?;
            tar.verify().map_err(|error| unreadable(path, error))?;
            work.advance(layer.size)?;
        }
        let facts = reader.finish();
        self.store.remember(&key, &facts)?;
        Ok(facts)
    }
}

fn unreadable(name: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync + 'static>>) -> BuildError {
    BuildError::step(format!("the layers of `{name}` cannot be read"), error)
}

/// The key of what is inside a base.
pub(crate) fn facts_key(manifest: &Digest) -> StepKey {
    StepKey::of("base facts", FACTS_VERSION).digest("manifest", manifest).finish()
}

/// Points at the `from` that names something unusable.
fn at_from(image: &stack::Image, error: BuildError) -> BuildError {
    match error {
        BuildError::Oci(error @ OciError::Layout { .. }) => {
            Diagnostics::from(Diagnostic::at(image.from_span.clone(), error.to_string()).hint(LAYOUT)).into()
        }
        BuildError::Registry(error @ RegistryError::Unusable { .. }) => {
            Diagnostics::from(Diagnostic::at(image.from_span.clone(), error.to_string())).into()
        }
        BuildError::Registry(RegistryError::NotFound { registry, .. }) => {
            let message = format!("{registry} has no such image, or shows it only to those who may see it");
            let diagnostic = Diagnostic::at(image.from_span.clone(), message);
            Diagnostics::from(diagnostic.hint(format!("if it is private: `kiln login {registry}`"))).into()
        }
        BuildError::Project(message) => Diagnostics::from(Diagnostic::at(image.from_span.clone(), message)).into(),
        error => error,
    }
}
