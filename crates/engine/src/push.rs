//! Images go to their registries: tiers in order, only what is missing moves, tags last.

use std::collections::BTreeSet;

use crate::bytes::Blobs;
use kiln_oci::image::{INDEX, Image, MANIFEST};
use kiln_oci::layer::Layer;
use kiln_plan::digest::Digest;
use kiln_plan::lock::Lock;
use kiln_plan::platform::Platform;
use kiln_plan::reference::Repository;
use kiln_plan::stack;
use kiln_plan::step::StepKey;
use kiln_registry::{Document, Moved, Publication, Upload};

use crate::build::Built;
use crate::error::{BuildError, Result};
use crate::output::Output;
use crate::project::Project;
use crate::remote::Shared;
use crate::workshop::Workshop;

/// Hexadecimal digits of an index's digest that are always a tag.
const TAG_DIGITS: usize = 16;
/// Repositories that are tried before a layer is sent.
const MOUNTS: usize = 2;

/// An image that is on its registry.
#[derive(Debug, Clone)]
pub struct Pushed {
    /// Its name in the stack.
    pub name: String,
    /// Where it is.
    pub repository: Repository,
    /// The digest of its index.
    pub index: Digest,
    /// What it is called there; nothing where `kiln index` is to join it with other platforms.
    pub tags: Vec<String>,
    /// The manifests of its platforms.
    pub manifests: Vec<(Platform, Digest)>,
    /// Bytes that were sent.
    pub sent: u64,
    /// Bytes that were mounted from other repositories.
    pub mounted: u64,
    /// Bytes that were there.
    pub there: u64,
}

/// What came of a build.
#[derive(Debug, Clone)]
pub struct Delivered {
    /// The images.
    pub built: Vec<Built>,
    /// Those that were pushed.
    pub pushed: Vec<Pushed>,
    /// What was shared with other machines.
    pub shared: Shared,
}

impl Project<'_> {
    /// Builds images, writes them out, and pushes them. Layers that the cache promised and does not have are made.
    pub fn deliver(&self, names: &[String], lock: &Lock, outputs: &[Output], push: bool) -> Result<Delivered> {
        let error = match self.deliver_once(names, lock, outputs, push) {
            Ok(delivered) => return Ok(delivered),
            Err(error) => error,
        };
        let lost = match &error {
            BuildError::Lost(layers) => layers.clone(),
            error if error.is_not_found() => self.lost_layers()?,
            _ => Vec::new(),
        };
        if lost.is_empty() {
            return Err(error);
        }
        self.warn("layers are not there any more where the cache said: they are made again");
        self.session.lose(&lost);
        self.deliver_once(names, lock, outputs, push)
    }

    fn deliver_once(&self, names: &[String], lock: &Lock, outputs: &[Output], push: bool) -> Result<Delivered> {
        let built = self.build(names, lock)?;
        for output in outputs {
            self.output(output, &built, names)?;
        }
        let pushed = if push { self.push(&built, names)? } else { Vec::new() };
        let shared = if push { self.share(&built, names, lock)? } else { Shared::default() };
        Ok(Delivered { built, pushed, shared })
    }

    /// Layers that are neither here nor where they were said to be.
    fn lost_layers(&self) -> Result<Vec<Digest>> {
        let mut lost = Vec::new();
        let places = self.session.places();
        let repositories: BTreeSet<&Repository> = places.values().collect();
        for repository in repositories {
            let there = places.iter().filter(|(layer, place)| *place == repository && !self.store.has(layer));
            let layers: Vec<Digest> = there.map(|(layer, _)| *layer).collect();
            lost.extend(self.registries()?.missing_blobs(repository, &layers)?);
        }
        Ok(lost)
    }

    /// Pushes images. `named` are those that the command asked for; without names, all.
    pub fn push(&self, built: &[Built], named: &[String]) -> Result<Vec<Pushed>> {
        let wanted = built.iter().filter(|built| named.is_empty() || named.contains(&built.name));
        wanted.map(|built| self.push_one(built)).collect()
    }

    /// Where an image goes.
    pub fn repository(&self, image: &stack::Image) -> Result<Repository> {
        image.repository.clone().ok_or_else(|| BuildError::Mistake {
            message: format!("where the image `{}` is to be pushed is not said", image.name),
            hint: "say it in the stack file: `[stack]` with `registry = \"ghcr.io/acme\"`, or `registry` for the image"
                .into(),
        })
    }

    fn push_one(&self, built: &Built) -> Result<Pushed> {
        let unknown = || BuildError::Project(format!("the stack has no image `{}`", built.name));
        let image = self.stack.image(&built.name).ok_or_else(unknown)?;
        let to = self.repository(image)?;
        let partial = self.stack.target.partial;
        let publication = Publication {
            blobs: self
                .uploads(built, |blobs, layer| self.upload(blobs, layer.digest, layer.size, Some(image), &to))?,
            manifests: self.manifests(built)?,
            index: index_document(built),
            tags: if partial { Vec::new() } else { tags(built, image) },
        };
        let size = publication.blobs.iter().map(|blob| blob.size).sum();
        let work = self.work("push", to.to_string(), Some(size));
        let moved = self.registries()?.publish(&to, &publication, &work)?;
        drop(work);
        let missing = publication.blobs.iter().zip(&moved).filter(|(_, moved)| **moved == Moved::Missing);
        let missing: Vec<Digest> = missing.map(|(blob, _)| blob.digest).collect();
        if !missing.is_empty() {
            return Err(BuildError::Lost(missing));
        }
        for (blob, _) in publication.blobs.iter().zip(&moved).filter(|(_, moved)| **moved != Moved::There) {
            self.store.remember(&pushed_key(&to.registry, &blob.digest), &to)?;
        }
        self.session.found(publication.blobs.iter().map(|blob| blob.digest), &to);
        Ok(Pushed::new(built, to, &publication, &moved))
    }

    /// A layer that is to be in a repository.
    pub(crate) fn upload(
        &self,
        blobs: &Blobs<'_>,
        digest: Digest,
        size: u64,
        image: Option<&stack::Image>,
        to: &Repository,
    ) -> Result<Upload> {
        let mut mounts: Vec<Repository> = self.session.place(&digest).into_iter().collect();
        mounts.extend(self.store.recall::<Repository>(&pushed_key(&to.registry, &digest))?);
        mounts.extend(image.and_then(|image| self.stack.ancestors(image).next()?.repository.clone()));
        mounts.retain(|place| place.registry == to.registry && place != to);
        let mut seen = BTreeSet::new();
        mounts.retain(|place| seen.insert(place.clone()));
        mounts.truncate(MOUNTS);
        Ok(Upload { digest, size, mounts, open: blobs.opener(&digest, size)? })
    }

    /// Joins what several machines pushed: the index over all platforms, and its tags. Nothing is built: every platform's
    /// manifest follows from the lock and from what is known of its steps, or is named by its digest.
    pub fn join(&self, name: &str, lock: &Lock, manifests: &[Digest]) -> Result<Pushed> {
        let image = *self.chosen(&[name.to_owned()])?.last().ok_or_else(|| BuildError::Project("no image".into()))?;
        if self.stack.target.partial {
            return Err(BuildError::Mistake {
                message: "an index is over all platforms of the stack".into(),
                hint: "leave `--platform` out".into(),
            });
        }
        let to = self.repository(image)?;
        let built = match manifests {
            [] => {
                if let Some((step, platform)) = self.unknown_step(image, lock)? {
                    return Err(BuildError::Mistake {
                        message: format!("`{step}` for {platform} is neither here nor in the cache"),
                        hint: format!(
                            "`kiln build {name} --platform {platform} --push` with a `[cache]` in the stack, or name the \
                             manifests' digests"
                        ),
                    });
                }
                self.known_image(image, lock)?
            }
            manifests => self.assemble(image, &to, manifests)?,
        };
        for platform in &built.images {
            if self.registries()?.digest(&to.digest(platform.manifest))?.is_none() {
                return Err(BuildError::Mistake {
                    message: format!("{to} does not have `{name}` for {} yet", platform.platform),
                    hint: format!("`kiln build {name} --platform {} --push` puts it there", platform.platform),
                });
            }
        }
        let tags = tags(&built, image);
        let publication = Publication { blobs: Vec::new(), manifests: Vec::new(), index: index_document(&built), tags };
        let work = self.work("push", to.to_string(), None);
        let moved = self.registries()?.publish(&to, &publication, &work)?;
        Ok(Pushed::new(&built, to, &publication, &moved))
    }

    /// An image of manifests that a repository has, one for each platform of the stack.
    fn assemble(&self, image: &stack::Image, to: &Repository, manifests: &[Digest]) -> Result<Built> {
        let mut images = Vec::new();
        for digest in manifests {
            let found = self.registries()?.images(&to.digest(*digest))?;
            images.extend(found.into_iter().map(|loaded| loaded.image));
        }
        images.sort_by_key(|image| image.platform);
        let have: Vec<Platform> = images.iter().map(|image| image.platform).collect();
        if have != self.stack.target.platforms {
            let list =
                |platforms: &[Platform]| platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
            return Err(BuildError::Mistake {
                message: format!(
                    "the manifests are for {}, and `{}` is for {}",
                    list(&have),
                    image.name,
                    list(&self.stack.target.platforms)
                ),
                hint: "name one manifest for each platform, or none: they follow from the lock".into(),
            });
        }
        Built::of(&image.name, images, self.store)
    }
}

impl Workshop<'_> {
    /// Layers, each once and as `upload` would have it, and configs.
    pub(crate) fn uploads(
        &self,
        built: &Built,
        upload: impl Fn(&Blobs<'_>, &Layer) -> Result<Upload>,
    ) -> Result<Vec<Upload>> {
        let blobs = self.blobs(&[built]);
        let mut seen = BTreeSet::new();
        let mut uploads = Vec::new();
        for platform in &built.images {
            for layer in &platform.layers {
                // What registries may not distribute is where its manifest says.
                if layer.urls.is_empty() && seen.insert(layer.digest) {
                    uploads.push(upload(&blobs, layer)?);
                }
            }
            if seen.insert(platform.config) {
                uploads.push(Upload::bytes(self.store.read(&platform.config)?));
            }
        }
        Ok(uploads)
    }

    /// The manifests of all platforms as registries take them.
    pub(crate) fn manifests(&self, built: &Built) -> Result<Vec<Document>> {
        let manifest = |image: &Image| {
            let bytes = self.store.read(&image.manifest)?;
            Ok(Document { media_type: MANIFEST.into(), digest: image.manifest, bytes })
        };
        built.images.iter().map(manifest).collect()
    }
}

/// An index as registries take it.
pub(crate) fn index_document(built: &Built) -> Document {
    Document { media_type: INDEX.into(), digest: built.digest, bytes: built.index.clone() }
}

/// The first digits of the digest, then what the stack says.
fn tags(built: &Built, image: &stack::Image) -> Vec<String> {
    let first = built.digest.hex()[..TAG_DIGITS].to_owned();
    let others = image.tags.iter().filter(|tag| **tag != first).cloned();
    std::iter::once(first.clone()).chain(others).collect()
}

/// The key of where a layer was pushed to on a registry.
fn pushed_key(registry: &str, layer: &Digest) -> StepKey {
    StepKey::of("pushed", 1).text("registry", registry).digest("layer", layer).finish()
}

impl Pushed {
    pub(crate) fn new(built: &Built, repository: Repository, publication: &Publication, moved: &[Moved]) -> Self {
        let pairs = || publication.blobs.iter().zip(moved);
        let bytes = |how: Moved| pairs().filter(|(_, moved)| **moved == how).map(|(blob, _)| blob.size).sum();
        Self {
            name: built.name.clone(),
            repository,
            index: built.digest,
            tags: publication.tags.clone(),
            manifests: built.images.iter().map(|image| (image.platform, image.manifest)).collect(),
            sent: bytes(Moved::Sent),
            mounted: bytes(Moved::Mounted),
            there: bytes(Moved::There),
        }
    }
}
