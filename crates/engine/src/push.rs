//! Images go to their registries: tiers in order, only what is missing moves, tags last.

use std::collections::BTreeSet;

use crate::bytes::Blobs;
use kiln_oci::image::{INDEX, Image, MANIFEST};
use kiln_oci::layer::Layer;
use kiln_plan::digest::Digest;
use kiln_plan::event::Work;
use kiln_plan::lock::Lock;
use kiln_plan::platform::Platform;
use kiln_plan::reference::Repository;
use kiln_plan::stack;
use kiln_plan::step::StepKey;
use kiln_registry::{Document, Moved, Publication, Published, Upload};

use crate::built::Built;
use crate::error::{BuildError, Result};
use crate::owners;
use crate::project::Project;
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
    /// Tags that the registry does not let move: they name another image.
    pub kept: Vec<String>,
    /// The manifests of its platforms.
    pub manifests: Vec<(Platform, Digest)>,
    /// Bytes that were sent.
    pub sent: u64,
    /// Bytes that were mounted from other repositories.
    pub mounted: u64,
    /// Bytes that were there.
    pub there: u64,
}

impl Project<'_> {
    /// Where an image goes.
    pub fn repository(&self, image: &stack::Image) -> Result<Repository> {
        if !image.publish {
            return Err(not_published(image));
        }
        image.repository.clone().ok_or_else(|| BuildError::Mistake {
            message: format!("where the image `{}` is to be pushed is not said", image.name),
            hint: "say it in the stack file: `[stack]` with `registry = \"ghcr.io/acme\"`, or `registry` for the image"
                .into(),
        })
    }

    /// Pushes an image to its registry.
    pub(crate) fn push_one(&self, built: &Built) -> Result<Pushed> {
        let image = self.stack.image(&built.name).ok_or_else(|| self.no_image(&built.name))?;
        let to = self.repository(image)?;
        let partial = self.stack.partial;
        let publication = Publication {
            blobs: self.workshop.uploads(built, |_, layer| self.upload(layer.digest, layer.size, Some(image), &to))?,
            manifests: self.workshop.manifests(built)?,
            index: index_document(built),
            tags: if partial { Vec::new() } else { tags(built, image) },
        };
        let size = publication.blobs.iter().map(|blob| blob.size).sum();
        let work = self.workshop.work("push", to.to_string(), Some(size));
        let published = self.workshop.publish(&to, &publication, &work)?;
        drop(work);
        let moved = &published.moved;
        let missing = publication.blobs.iter().zip(moved).filter(|(_, moved)| **moved == Moved::Missing);
        let missing: Vec<Digest> = missing.map(|(blob, _)| blob.digest).collect();
        if !missing.is_empty() {
            return Err(BuildError::Lost(missing));
        }
        for (blob, _) in publication.blobs.iter().zip(moved).filter(|(_, moved)| **moved != Moved::There) {
            self.workshop.store.remember(&pushed_key(&to.registry, &blob.digest), &to)?;
        }
        self.workshop.places.found(publication.blobs.iter().map(|blob| blob.digest), &to);
        Ok(Pushed::new(built, to, &publication, &published))
    }

    /// A layer that is to be in a repository.
    pub(crate) fn upload(
        &self,
        digest: Digest,
        size: u64,
        image: Option<&stack::Image>,
        to: &Repository,
    ) -> Result<Upload> {
        let mut mounts: Vec<Repository> = self.workshop.places.repository(&digest).into_iter().collect();
        mounts.extend(self.workshop.store.recall::<Repository>(&pushed_key(&to.registry, &digest))?);
        mounts.extend(
            image.and_then(|image| self.stack.ancestors(image).find(|above| above.publish)?.repository.clone()),
        );
        mounts.retain(|place| place.registry == to.registry && place != to);
        let mut seen = BTreeSet::new();
        mounts.retain(|place| seen.insert(place.clone()));
        mounts.truncate(MOUNTS);
        Ok(Upload { digest, size, mounts, open: self.workshop.blobs().opener(&digest, size)? })
    }

    /// Joins what several machines pushed: the index over all platforms, and its tags. Nothing is built: every platform's
    /// manifest follows from the lock and from what is known of its steps, or is named by its digest.
    pub fn join(&self, name: &str, lock: &Lock, manifests: &[Digest]) -> Result<Pushed> {
        let image = *self.chosen(&[name.to_owned()])?.last().ok_or_else(|| self.no_image(name))?;
        if self.stack.partial {
            return Err(BuildError::Mistake {
                message: "an index is over all platforms of the stack".into(),
                hint: "leave `--platform` out".into(),
            });
        }
        let to = self.repository(image)?;
        let built = match manifests {
            [] => match self.known_image(image, lock)? {
                Ok(built) => built,
                Err((step, platform)) => {
                    return Err(BuildError::Mistake {
                        message: format!("`{step}` for {platform} is neither here nor in the cache"),
                        hint: format!(
                            "`kiln build {name} --platform {platform} --push` with a `[cache]` in the stack, or name \
                                 the manifests' digests"
                        ),
                    });
                }
            },
            manifests => self.assemble(image, &to, manifests)?,
        };
        for platform in &built.images {
            if self.workshop.registries()?.digest(&to.digest(platform.manifest))?.is_none() {
                return Err(BuildError::Mistake {
                    message: format!("{to} does not have `{name}` for {} yet", platform.platform),
                    hint: format!("`kiln build {name} --platform {} --push` puts it there", platform.platform),
                });
            }
        }
        let tags = tags(&built, image);
        let publication = Publication { blobs: Vec::new(), manifests: Vec::new(), index: index_document(&built), tags };
        let work = self.workshop.work("push", to.to_string(), None);
        let published = self.workshop.publish(&to, &publication, &work)?;
        Ok(Pushed::new(&built, to, &publication, &published))
    }

    /// An image of manifests that a repository has, one for each platform of the stack.
    fn assemble(&self, image: &stack::Image, to: &Repository, manifests: &[Digest]) -> Result<Built> {
        let mut images = Vec::new();
        for digest in manifests {
            let found = self.workshop.registries()?.images(&to.digest(*digest))?;
            images.extend(found.into_iter().map(|loaded| loaded.image));
        }
        images.sort_by_key(|image| image.platform);
        let have: Vec<Platform> = images.iter().map(|image| image.platform).collect();
        if have != self.stack.platforms {
            let list =
                |platforms: &[Platform]| platforms.iter().map(ToString::to_string).collect::<Vec<_>>().join(" and ");
            return Err(BuildError::Mistake {
                message: format!(
                    "the manifests are for {}, and `{}` is for {}",
                    list(&have),
                    image.name,
                    list(&self.stack.platforms)
                ),
                hint: "name one manifest for each platform, or none: they follow from the lock".into(),
            });
        }
        Built::of(&image.name, images, self.workshop.store)
    }
}

impl Workshop<'_> {
    /// Publishes an image, and warns of tags that the registry does not let move.
    pub(crate) fn publish(&self, to: &Repository, image: &Publication, work: &Work<'_>) -> Result<Published> {
        let published = self.registries()?.publish(to, image, work)?;
        for (tag, error) in &published.kept {
            let there = to.digest(image.index.digest);
            self.warn(format!("the tag `{tag}` stays as it was ({}); the image is there as {there}", error.brief()));
        }
        Ok(published)
    }

    /// Layers, each once and as `upload` would have it, and configs.
    pub(crate) fn uploads(
        &self,
        built: &Built,
        upload: impl Fn(&Blobs<'_>, &Layer) -> Result<Upload>,
    ) -> Result<Vec<Upload>> {
        owners::require(self.store, built)?;
        let blobs = self.blobs();
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
    pub(crate) fn new(built: &Built, repository: Repository, publication: &Publication, published: &Published) -> Self {
        let pairs = || publication.blobs.iter().zip(&published.moved);
        let bytes = |how: Moved| pairs().filter(|(_, moved)| **moved == how).map(|(blob, _)| blob.size).sum();
        Self {
            name: built.name.clone(),
            repository,
            index: built.digest,
            tags: published.tags.clone(),
            kept: published.kept.iter().map(|(tag, _)| tag.clone()).collect(),
            manifests: built.images.iter().map(|image| (image.platform, image.manifest)).collect(),
            sent: bytes(Moved::Sent),
            mounted: bytes(Moved::Mounted),
            there: bytes(Moved::There),
        }
    }
}

/// Returns the error about an image that is not pushed.
pub(crate) fn not_published(image: &stack::Image) -> BuildError {
    BuildError::Mistake {
        message: format!(
            "the image `{}` is neither pushed nor loaded: the stack file says `publish = false`",
            image.name
        ),
        hint: "name an image that stands on it, or leave `publish` out".into(),
    }
}
