//! Images that no stack is about: from a registry to where the user wants them, and from a layout to a registry, byte for
//! byte. Nothing but manifests and configs stays in the store.

use std::collections::BTreeSet;
use std::path::Path;

use kiln_oci::choose::Pointed;
use kiln_oci::image::{DOCKER_MANIFEST, Descriptor, INDEX, Image, Index, MANIFEST, to_json};
use kiln_oci::layout::{CONTAINERD_NAME, Layout, REF_NAME, entry_names};
use kiln_oci::reach::{Reached, reach};
use kiln_plan::digest::Digest;
use kiln_plan::platform::Platform;
use kiln_plan::reference::Reference;
use kiln_registry::{Document, Moved, Publication, RemoteShelf, Upload};

use crate::built::Built;
use crate::error::{BuildError, ProjectError, Result};
use crate::output::Output;
use crate::push::Pushed;
use crate::workshop::Workshop;

/// Says of an image that is not there that it was named.
fn named(reference: &Reference, error: BuildError) -> BuildError {
    if !error.is_not_found() {
        return error;
    }
    let registry = &reference.repository.registry;
    BuildError::Mistake {
        message: format!("{registry} has no `{reference}`, or shows it only to those who may see it"),
        hint: format!("if it is private: `kiln login {registry}`"),
    }
}

impl Workshop<'_> {
    /// Pulls what a reference names and writes it out. Without platforms, an output that takes several gets all of it,
    /// byte for byte, and any other the image for the platform `here`.
    pub fn pull(
        &self,
        reference: &Reference,
        platforms: &[Platform],
        here: Platform,
        outputs: &[Output],
    ) -> Result<Built> {
        let registries = self.registries()?;
        let shelf = registries.shelf(reference);
        let root = {
            let _work = self.work("resolve", reference.to_string(), None);
            shelf.root().map_err(|error| named(reference, error.into()))?
        };
        let (whole, some): (Vec<&Output>, Vec<&Output>) =
            outputs.iter().partition(|output| platforms.is_empty() && output.takes_platforms());
        let mut pulled = Vec::new();
        if !whole.is_empty() {
            let built = self.pull_whole(reference, &shelf, root.clone())?;
            pulled.push(self.deliver_copy(built, reference, &whole)?);
        }
        if !some.is_empty() {
            let platforms = if platforms.is_empty() { &[here] } else { platforms };
            let built = self.pull_some(reference, &shelf, &root, platforms)?;
            pulled.push(self.deliver_copy(built, reference, &some)?);
        }
        pulled.into_iter().next().ok_or_else(|| BuildError::Unreachable(format!("an output of {reference}")))
    }

    fn deliver_copy(&self, mut built: Built, reference: &Reference, outputs: &[&Output]) -> Result<Built> {
        // What was named by its digest alone is called nothing: a tag of that name may be something else.
        let tag = reference.tag.as_deref().or(reference.digest.is_none().then_some("latest"));
        built.references = tag.map(|tag| reference.repository.tag(tag).to_string()).into_iter().collect();
        outputs.iter().try_for_each(|output| self.output(output, &[&built]))?;
        Ok(built)
    }

    /// Returns all that a reference names, as it is.
    fn pull_whole(&self, reference: &Reference, shelf: &RemoteShelf<'_>, root: Pointed) -> Result<Built> {
        let _work = self.work("resolve", reference.to_string(), None);
        let (name, digest) = (last_name(reference), root.entry.digest);
        let reached = reach(shelf, root)?.in_oci()?;
        self.places.found(reached.blobs.iter().map(|blob| blob.digest), &reference.repository);
        if !reached.elsewhere.is_empty() {
            let count = reached.elsewhere.len();
            self.warn(format!(
                "{count} layers that registries may not distribute are left out, and stay where they are"
            ));
        }
        let mut images = Vec::new();
        for document in reached.documents.iter().filter(|document| document.may_be_image()) {
            images.extend(document.image(shelf, None)?.map(|found| found.image));
        }
        let built = copy_of(name, reached, images)?;
        self.say_renamed(reference, digest, built.digest);
        Ok(built)
    }

    /// Returns the images for some platforms. Where nothing else is there, the index stays as it is.
    fn pull_some(
        &self,
        reference: &Reference,
        shelf: &RemoteShelf<'_>,
        root: &Pointed,
        platforms: &[Platform],
    ) -> Result<Built> {
        let _work = self.work("resolve", reference.to_string(), None);
        let (mut images, mut manifests): (Vec<Image>, Vec<_>) = (Vec::new(), Vec::new());
        let mut last = None;
        for &platform in platforms {
            let found = shelf.image_for(root, platform)?;
            manifests.push(found.image.manifest);
            let found = found.in_oci()?;
            if found.image.layers.iter().any(|layer| !layer.urls.is_empty()) {
                return Err(ProjectError::NotDistributable(reference.to_string()).into());
            }
            self.store.add(&found.manifest_bytes)?;
            self.store.add(&found.config_bytes)?;
            self.places.found(found.image.layers.iter().map(|layer| layer.digest), &reference.repository);
            last = Some(found.manifest_bytes);
            images.push(found.image);
        }
        let entries = if root.is_index() { root.entries()? } else { Vec::new() };
        let left: Vec<&Descriptor> = entries.iter().filter(|entry| !manifests.contains(&entry.digest)).collect();
        if left.is_empty() {
            let reached = reach(shelf, root.clone())?.in_oci()?;
            let built = copy_of(last_name(reference), reached, images)?;
            self.say_renamed(reference, root.entry.digest, built.digest);
            return Ok(built);
        }
        self.say_left_out(reference, &left);
        match (images.as_slice(), last) {
            // One image needs no index: its digest is that of its manifest.
            ([image], Some(bytes)) => {
                let entry = Descriptor::of(MANIFEST, &bytes);
                let pointed = Pointed::new(entry, bytes).map_err(BuildError::Unreachable)?;
                self.say_renamed(reference, manifests[0], image.manifest);
                Ok(copy_of(last_name(reference), reach(shelf, pointed)?.in_oci()?, images)?)
            }
            _ => Built::of(last_name(reference), images, self.store),
        }
    }

    /// Says that a copy has another digest.
    fn say_renamed(&self, reference: &Reference, there: Digest, here: Digest) {
        if there != here {
            self.warn(format!(
                "`{reference}` is in Docker's words, and is written in OCI's: its digest is {here} here and {there} there"
            ));
        }
    }

    /// Says which part of an index is not copied.
    fn say_left_out(&self, reference: &Reference, left: &[&Descriptor]) {
        let is_attestation = |entry: &&&Descriptor| {
            let unknown = entry.platform.as_ref().is_some_and(|platform| platform.os == "unknown");
            unknown || entry.annotations.contains_key("vnd.docker.reference.type")
        };
        let attestations = left.iter().filter(is_attestation).count();
        let counted = |count: usize, one: &str, several: &str| match count {
            0 => None,
            1 => Some(format!("1 {one}")),
            count => Some(format!("{count} {several}")),
        };
        let others = counted(left.len() - attestations, "other entry", "other entries");
        let parts = [others, counted(attestations, "attestation", "attestations")];
        let parts = parts.into_iter().flatten().collect::<Vec<_>>().join(" and ");
        self.warn(format!(
            "{parts} of the index of `{reference}` are left out; without `--platform` a layout gets all"
        ));
    }

    /// Pushes an image of a layout under a tag: all that the layout has of it, byte for byte.
    pub fn push_layout(&self, path: &Path, name: Option<&str>, to: &Reference) -> Result<Pushed> {
        if to.digest.is_some() {
            return Err(BuildError::Mistake {
                message: format!("`{to}` names a digest, which follows from what is pushed"),
                hint: format!("name a tag: `{}:TAG`", to.repository),
            });
        }
        let layout = Layout::open(path)?;
        let root = layout_root(&layout, path, name)?;
        let reached = reach(&layout, root)?;
        self.places.add_layout(layout);
        let publication = self.publication(&reached, to.tag.as_deref().unwrap_or("latest"))?;
        let size = publication.blobs.iter().map(|blob| blob.size).sum();
        let published = {
            let work = self.work("push", to.repository.to_string(), Some(size));
            self.publish(&to.repository, &publication, &work)?
        };
        let missing = publication.blobs.iter().zip(&published.moved).find(|(_, moved)| **moved == Moved::Missing);
        if let Some((blob, _)) = missing {
            let (layout, digest) = (path.display().to_string(), blob.digest);
            return Err(ProjectError::Incomplete { layout, digest }.into());
        }
        let platform = |document: &Pointed| Some((document.platform()?, document.entry.digest));
        let manifests = reached.documents.iter().filter_map(platform).collect();
        let built = copy_of(name.unwrap_or("image"), reached, Vec::new())?;
        Ok(Pushed { manifests, ..Pushed::new(&built, to.repository.clone(), &publication, &published) })
    }

    /// Returns the documents of a layout as a registry gets them.
    fn publication(&self, reached: &Reached, tag: &str) -> Result<Publication> {
        let blobs = self.blobs();
        let upload = |blob: &Descriptor| {
            let open = blobs.opener(&blob.digest, blob.size)?;
            Ok(Upload { digest: blob.digest, size: blob.size, mounts: Vec::new(), open })
        };
        let document = |document: &Pointed| Document {
            media_type: document.entry.media_type.clone(),
            digest: document.entry.digest,
            bytes: document.bytes.clone(),
        };
        let (index, manifests) =
            reached.documents.split_last().ok_or_else(|| BuildError::Unreachable(tag.to_owned()))?;
        Ok(Publication {
            blobs: reached.blobs.iter().map(upload).collect::<Result<_>>()?,
            manifests: manifests.iter().map(document).collect(),
            index: document(index),
            tags: vec![tag.to_owned()],
        })
    }
}

/// An image of documents that stay as they are.
fn copy_of(name: &str, reached: Reached, images: Vec<Image>) -> Result<Built> {
    let root = reached.documents.last().ok_or_else(|| BuildError::Unreachable(name.to_owned()))?;
    let (index, digest) = (root.bytes.clone(), root.entry.digest);
    let (name, references, unchanged) = (name.to_owned(), Vec::new(), true);
    Ok(Built { name, index, digest, images, unchanged, references, copied: Some(reached) })
}

fn last_name(reference: &Reference) -> &str {
    reference.repository.path.rsplit('/').next().unwrap_or("image")
}

/// Returns the document that a name of a layout stands for: the only one there is, or an index over those that share it.
fn layout_root(layout: &Layout, path: &Path, name: Option<&str>) -> Result<Pointed> {
    let mut entries = layout.entries(name)?;
    let names = entry_names(&entries);
    let digests: BTreeSet<_> = entries.iter().map(|entry| entry.digest).collect();
    match entries.first() {
        None => Err(BuildError::Mistake {
            message: format!("{} has no image", path.display()),
            hint: "its `index.json` lists none that kiln can read: one for linux, with digests of SHA-256".into(),
        }),
        Some(only) if digests.len() == 1 => Ok(Pointed::read(layout, only.clone())?),
        Some(_) if name.is_none() && names.contains(", ") => Err(BuildError::Mistake {
            message: format!("{} has several images", path.display()),
            hint: format!("name one of {names}: `oci:{}:NAME`", path.display()),
        }),
        Some(_) => {
            let mut seen = BTreeSet::new();
            entries.retain(|entry| seen.insert(entry.digest));
            if let Some(twice) = platform_of_two(&entries) {
                let name = name.map(|name| format!(" under the name `{name}`")).unwrap_or_default();
                return Err(BuildError::Mistake {
                    message: format!("{} has several images {twice}{name}", path.display()),
                    hint: "leave one of them in the layout, or give them names of their own".into(),
                });
            }
            for entry in &mut entries {
                entry.annotations.retain(|key, _| key != REF_NAME && key != CONTAINERD_NAME);
            }
            let bytes = to_json(&Index { other: layout.index()?.other, ..Index::new(entries) })?;
            let entry = Descriptor::of(INDEX, &bytes);
            Pointed::new(entry, bytes).map_err(BuildError::Unreachable)
        }
    }
}

/// Returns a clause about the platform for which there are two images. Attestations are for the platform `unknown/unknown`, each.
fn platform_of_two(entries: &[Descriptor]) -> Option<String> {
    let mut seen = BTreeSet::new();
    let images = entries.iter().filter(|entry| [MANIFEST, DOCKER_MANIFEST].contains(&entry.media_type.as_str()));
    let mut told = images.map(|entry| {
        entry.platform.as_ref().map_or_else(|| "without a platform".into(), |platform| format!("for {platform}"))
    });
    told.find(|platform| !platform.starts_with("for unknown/") && !seen.insert(platform.clone()))
}

#[cfg(test)]
mod tests {
    use kiln_oci::image::PlatformObject;

    use super::*;

    #[test]
    fn two_images_for_one_platform_are_found_and_attestations_are_none() {
        let entry = |os: &str, architecture: &str| {
            let platform = serde_json::json!({ "os": os, "architecture": architecture });
            let platform: PlatformObject = serde_json::from_value(platform).unwrap();
            Descriptor { platform: Some(platform), ..Descriptor::of(MANIFEST, b"") }
        };
        let (amd64, arm64, attestation) =
            (entry("linux", "amd64"), entry("linux", "arm64"), entry("unknown", "unknown"));
        let one_each = [amd64.clone(), attestation.clone(), arm64, attestation, Descriptor::of("", b"")];
        assert_eq!(platform_of_two(&one_each), None);
        assert_eq!(platform_of_two(&[amd64.clone(), amd64]).as_deref(), Some("for linux/amd64"));
        let bare = Descriptor::of(MANIFEST, b"");
        assert_eq!(platform_of_two(&[bare.clone(), bare]).as_deref(), Some("without a platform"));
    }
}
