//! A build: what is locked and not in the store is made, then every image is composed.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use kiln_oci::image::{Config, Descriptor, Image, Index, MANIFEST, Manifest, PlatformObject, from_json, to_json};
use kiln_oci::layout::Layout;
use kiln_plan::digest::Digest;
use kiln_plan::event::Event;
use kiln_plan::lock::{Lock, LockedImage, LockedWheel};
use kiln_plan::platform::Platform;
use kiln_plan::stack;
use kiln_store::{Root, Store};

use crate::bases;
use crate::compose::made;
use crate::error::{BuildError, Result};
use crate::explain::Ingredients;
use crate::project::Project;
use crate::steps::{ImageSteps, Step, parent, wheels_of};

/// How often it is looked which steps there are to do: once for the wheels, once for those that follow from them, and again
/// where other processes change what is here.
const ROUNDS: usize = 6;

/// An image that is ready, for all platforms.
#[derive(Debug, Clone)]
pub struct Built {
    /// Its name in the stack.
    pub name: String,
    /// The index's bytes.
    pub index: Vec<u8>,
    /// The index's digest.
    pub digest: Digest,
    /// For each platform.
    pub images: Vec<Image>,
    /// The layouts that have bytes of its base.
    pub layouts: Vec<Layout>,
    /// Whether nothing had to be done for it.
    pub unchanged: bool,
    /// How programs are to call it: `ghcr.io/acme/arr/train:latest`.
    pub references: Vec<String>,
}

impl Built {
    /// An image from those of its platforms; its index is put into the store.
    pub fn of(name: &str, images: Vec<Image>, store: &Store) -> Result<Self> {
        let index = to_json(&index(&images))?;
        let digest = store.add(&index)?;
        Ok(Self {
            name: name.to_owned(),
            index,
            digest,
            images,
            layouts: Vec::new(),
            unchanged: true,
            references: Vec::new(),
        })
    }
}

/// What an image stands on while a chain is composed.
#[derive(Clone)]
struct Below {
    /// The steps of the images below and of the image itself, lowest first.
    steps: Vec<Arc<Vec<Step>>>,
    image: Option<Image>,
    config: Config,
    layout: Option<Layout>,
    ingredients: Ingredients,
}

impl Project<'_> {
    /// The images that a command is about: those named, or all, each after what it stands on.
    pub fn chosen(&self, names: &[String]) -> Result<Vec<&stack::Image>> {
        let mut wanted = BTreeSet::new();
        for name in names {
            let Some(image) = self.stack.image(name) else {
                let known: Vec<String> = self.stack.images.iter().map(|image| format!("`{}`", image.name)).collect();
                let message = format!("the stack has no image `{name}`; it has {}", known.join(", "));
                return Err(BuildError::Project(message));
            };
            wanted.insert(&image.name);
            wanted.extend(self.stack.ancestors(image).map(|above| &above.name));
        }
        let chosen = |image: &&stack::Image| names.is_empty() || wanted.contains(&image.name);
        Ok(self.stack.images.iter().filter(chosen).collect())
    }

    /// Builds images; those that the named ones stand on are built too, and all are returned.
    pub fn build(&self, names: &[String], lock: &Lock) -> Result<Vec<Built>> {
        let images = self.chosen(names)?;
        let changed = self.make_layers(&images, lock)?;
        let mut below: BTreeMap<(String, Platform), Below> = BTreeMap::new();
        let mut built = Vec::new();
        for image in images {
            let mut composed = Vec::new();
            let mut layouts = Vec::new();
            for &platform in &self.stack.target.platforms {
                let done = self.compose_one(image, platform, lock, &below)?;
                composed.extend(done.image.clone());
                layouts.extend(done.layout.clone());
                below.insert((image.name.clone(), platform), done);
            }
            let mut done = Built::of(&image.name, composed, self.store)?;
            done.references = self.references(image);
            (done.layouts, done.unchanged) = (layouts, !changed.contains(&image.name));
            self.remember(image, lock, &done.images, done.digest)?;
            self.require_gpu_code(image, &done, lock)?;
            for &platform in &self.stack.target.platforms {
                if let Some(done) = below.get(&(image.name.clone(), platform)) {
                    self.remember_build(image, platform, done.ingredients.clone())?;
                }
            }
            let (name, digest, unchanged) = (image.name.clone(), done.digest, done.unchanged);
            self.reporter.event(Event::Image { name, digest, unchanged });
            built.push(done);
        }
        self.store.sync()?;
        Ok(built)
    }

    /// Does every step that is not done; the names of images that had one.
    pub(crate) fn make_layers(&self, images: &[&stack::Image], lock: &Lock) -> Result<BTreeSet<String>> {
        let mut changed = BTreeSet::new();
        // Which wheels supersede one another is only known when all are here: the second round does what that changes.
        for _ in 0..ROUNDS {
            let all = self.all_steps(images, lock)?;
            self.ask_cache(all.iter().flat_map(|steps| &steps.steps))?;
            let mut missing: Vec<&Step> = Vec::new();
            let mut absent: Vec<LockedWheel> = Vec::new();
            let mut settled = true;
            for steps in &all {
                let here = |wheel: &&LockedWheel| self.store.has_blob(&wheel.sha256);
                for step in &steps.steps {
                    if self.layers_of(step)?.is_some() {
                        continue;
                    }
                    changed.insert(steps.image.name.clone());
                    if step.settled {
                        missing.push(step);
                    } else {
                        settled = false;
                        let own = wheels_of(std::slice::from_ref(step)).chain(&steps.unsettled);
                        absent.extend(own.filter(|wheel| !here(wheel)).cloned());
                    }
                }
            }
            // Wheels that were absent when the steps were made up may have been fetched by another process since.
            if missing.is_empty() && absent.is_empty() && settled {
                break;
            }
            self.execute(&missing, &absent)?;
        }
        Ok(changed)
    }

    /// The first step of an image, or of what it stands on, whose result is neither here nor in the cache.
    pub fn unknown_step(&self, image: &stack::Image, lock: &Lock) -> Result<Option<(String, Platform)>> {
        let all = self.all_steps(&self.chosen(std::slice::from_ref(&image.name))?, lock)?;
        self.ask_cache(all.iter().flat_map(|steps| &steps.steps))?;
        for steps in &all {
            for step in &steps.steps {
                if self.layers_of(step)?.is_none() {
                    return Ok(Some((step.name.clone(), steps.platform)));
                }
            }
        }
        Ok(None)
    }

    /// An image of which every step is known: composed without doing any.
    pub fn known_image(&self, image: &stack::Image, lock: &Lock) -> Result<Built> {
        let chain = self.chosen(std::slice::from_ref(&image.name))?;
        let mut below: BTreeMap<(String, Platform), Below> = BTreeMap::new();
        let (mut composed, mut layouts) = (Vec::new(), Vec::new());
        for link in chain {
            for &platform in &self.stack.target.platforms {
                let done = self.compose_one(link, platform, lock, &below)?;
                if link.name == image.name {
                    composed.extend(done.image.clone());
                    layouts.extend(done.layout.clone());
                }
                below.insert((link.name.clone(), platform), done);
            }
        }
        Ok(Built { layouts, ..Built::of(&image.name, composed, self.store)? })
    }

    /// The steps of images on all platforms.
    pub fn all_steps<'a>(&'a self, images: &[&'a stack::Image], lock: &Lock) -> Result<Vec<ImageSteps<'a>>> {
        let mut all: Vec<ImageSteps<'_>> = Vec::new();
        for &image in images {
            for &platform in &self.stack.target.platforms {
                let below = self.layers_below(image, platform, lock, &all)?;
                all.push(self.steps(image, platform, lock, below)?);
            }
        }
        Ok(all)
    }

    fn layers_below(
        &self,
        image: &stack::Image,
        platform: Platform,
        lock: &Lock,
        all: &[ImageSteps<'_>],
    ) -> Result<usize> {
        let root = self.stack.root(image);
        let locked = bases::name(&root.from).and_then(|name| lock.base(&name, platform));
        let base = match &root.from {
            // Counted without making it.
            stack::From::Debian { .. } => 1,
            _ => self.load_base(root, platform, locked)?.image.map_or(0, |base| base.layers.len()),
        };
        let above = self
            .stack
            .ancestors(image)
            .filter_map(|above| all.iter().find(|steps| steps.image.name == above.name && steps.platform == platform));
        Ok(base + above.map(|steps| steps.steps.len()).sum::<usize>())
    }

    fn compose_one(
        &self,
        image: &stack::Image,
        platform: Platform,
        lock: &Lock,
        done: &BTreeMap<(String, Platform), Below>,
    ) -> Result<Below> {
        let below = match parent(image).and_then(|parent| done.get(&(parent.to_owned(), platform))) {
            Some(below) => below.clone(),
            None => {
                let base = bases::name(&image.from).and_then(|name| lock.base(&name, platform));
                let base = self.load_base(image, platform, base)?;
                Below {
                    steps: Vec::new(),
                    image: base.image,
                    config: base.config,
                    layout: base.layout,
                    ingredients: Ingredients::default(),
                }
            }
        };
        let layers_below = below.image.as_ref().map_or(0, |below| below.layers.len());
        let steps = self.steps(image, platform, lock, layers_below)?;
        let ingredients = self.ingredients(&steps, lock);
        let steps = Arc::new(steps.steps);
        let mut all_steps = below.steps;
        all_steps.push(Arc::clone(&steps));
        self.require_agreement(&all_steps.iter().flat_map(|steps| steps.iter()).collect::<Vec<_>>())?;
        let mut layers = Vec::new();
        for step in steps.iter() {
            let known = self.layers_of(step)?;
            layers.push(known.ok_or_else(|| {
                BuildError::Project(format!("`{}` changed while it was built: build again", step.name))
            })?);
        }
        let has_packages = lock.image(&image.name, platform).is_some_and(|locked| !locked.packages.is_empty());
        let (composed, config) =
            self.compose(image, platform, below.image.as_ref(), below.config, made(&steps, layers), has_packages)?;
        Ok(Below { steps: all_steps, image: Some(composed), config, layout: below.layout, ingredients })
    }

    /// The digests of wheels that were made of an image's own.
    fn pruned_wheels(&self, image: &stack::Image, lock: &Lock, locked: &LockedImage) -> Result<Vec<Digest>> {
        let Some(selection) = self.selection(image, lock) else { return Ok(Vec::new()) };
        let by_digest = lock.wheels_by_digest();
        let wheels = locked.packages.iter().filter_map(|package| by_digest.get(&package.wheel));
        let pruned = wheels.map(|wheel| Ok(self.known_pruned(wheel, &selection)?.map(|known| known.sha256)));
        pruned.filter_map(Result::transpose).collect()
    }

    /// The digests of manifests and configs of the bases that an image stands on, as far as they are here.
    fn base_documents(&self, image: &stack::Image, lock: &Lock) -> Result<Vec<Digest>> {
        let mut digests = Vec::new();
        let Some(name) = bases::name(&self.stack.root(image).from) else { return Ok(digests) };
        for locked in self.stack.target.platforms.iter().filter_map(|platform| lock.base(&name, *platform)) {
            digests.push(locked.manifest);
            if self.store.has_blob(&locked.manifest) {
                let manifest: Manifest = from_json(&self.store.read(&locked.manifest)?, "the manifest of a base")?;
                digests.push(manifest.config.digest);
            }
        }
        Ok(digests)
    }

    /// Tells the store what the image needs, so that garbage collection knows.
    fn remember(&self, image: &stack::Image, lock: &Lock, composed: &[Image], index: Digest) -> Result<()> {
        let mut digests = BTreeSet::from([index]);
        digests.extend(self.base_documents(image, lock)?);
        for done in composed {
            digests.extend([done.manifest, done.config]);
            digests.extend(done.layers.iter().map(|layer| layer.digest));
            let chain = std::iter::once(image).chain(self.stack.ancestors(image));
            for (image, locked) in chain.filter_map(|image| Some((image, lock.image(&image.name, done.platform)?))) {
                digests.extend(locked.packages.iter().map(|package| package.wheel));
                digests.extend(self.pruned_wheels(image, lock, locked)?);
            }
        }
        let stack = self.lock_path().display().to_string();
        let root = Root { stack, image: image.name.clone(), persist: image.persist, digests };
        Ok(self.store.remember_root(&root)?)
    }
}

fn index(images: &[Image]) -> Index {
    Index::new(images.iter().map(manifest_descriptor).collect())
}

/// How an index points at an image.
pub(crate) fn manifest_descriptor(image: &Image) -> Descriptor {
    Descriptor {
        media_type: MANIFEST.into(),
        digest: image.manifest,
        size: image.manifest_size,
        platform: Some(PlatformObject::new(image.platform)),
        urls: Vec::new(),
        annotations: BTreeMap::new(),
    }
}
