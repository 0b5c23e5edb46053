//! The images among what an index names, in a layout and on a registry alike.
//!
//! Indexes were made by many tools over many years. They hold attestations (for the platform `unknown/unknown`),
//! artifacts without a platform, other indexes, images without a word about their platform, which their configs tell
//! then, and the same image twice.

use std::collections::BTreeSet;

use kiln_plan::digest::Digest;
use kiln_plan::platform::Platform;

use crate::document::{self, Kind};
use crate::error::OciError;
use crate::image::{
    CONFIG, Config, Descriptor, Index, LoadedImage, LoadedImageError, Manifest, PlatformObject, from_json,
};

/// Indexes within indexes.
pub(crate) const DEPTH: usize = 4;
/// Docker's media type of a config.
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// A place that has documents under their digests.
pub trait Shelf {
    /// Its errors.
    type Error: From<OciError>;

    /// Returns the bytes of a manifest or an index.
    fn document(&self, entry: &Descriptor) -> Result<Vec<u8>, Self::Error>;

    /// Returns the bytes of a config.
    fn config(&self, config: &Descriptor) -> Result<Vec<u8>, Self::Error>;

    /// Returns the bytes that a layer or another blob has; 0 where it is not there.
    fn size(&self, blob: &Digest) -> Result<u64, Self::Error>;

    /// Returns an error about what is there: a clause that follows its name.
    fn unusable(&self, problem: String) -> Self::Error;

    /// Returns true for an error about one document: another may be what is looked for.
    fn is_about_content(&self, error: &Self::Error) -> bool;
}

/// A document that was read, with what points at it.
#[derive(Debug, Clone)]
pub struct Pointed {
    /// Media type, digest, platform and so on; the media type is what the document is.
    pub entry: Descriptor,
    /// The document.
    pub bytes: Vec<u8>,
    kind: Kind,
}

impl Pointed {
    /// A document that was read. The error is a clause.
    pub fn new(mut entry: Descriptor, bytes: Vec<u8>) -> Result<Self, String> {
        let name = |entry: &Descriptor| format!("the document {}", entry.digest);
        let media_type = document::media_type(&bytes, Some(&entry.media_type));
        entry.media_type = media_type.ok_or_else(|| format!("{} is neither a manifest nor an index", name(&entry)))?;
        let kind = document::kind(&bytes, &entry.media_type)
            .map_err(|problem| format!("{} cannot be used: {problem}", name(&entry)))?;
        Ok(Self { entry, bytes, kind })
    }

    /// Reads what an entry points at.
    pub fn read<S: Shelf>(shelf: &S, entry: Descriptor) -> Result<Self, S::Error> {
        let bytes = shelf.document(&entry)?;
        Self::new(entry, bytes).map_err(|problem| shelf.unusable(problem))
    }

    /// Returns true for an index.
    pub fn is_index(&self) -> bool {
        self.kind == Kind::Index
    }

    /// Returns the entries of an index.
    pub fn entries(&self) -> Result<Vec<Descriptor>, OciError> {
        Ok(from_json::<Index>(&self.bytes, &format!("the index {}", self.entry.digest))?.manifests)
    }

    /// Returns true for a manifest that does not say that it is for another system than Linux.
    pub fn may_be_image(&self) -> bool {
        self.kind == Kind::Manifest && self.entry.may_be_linux()
    }

    /// Returns the platform that whoever points at it says.
    pub fn platform(&self) -> Option<Platform> {
        let platform = self.entry.platform.as_ref().filter(|platform| platform.is_complete())?;
        format!("{}/{}", platform.os, platform.architecture).parse().ok()
    }

    /// Returns the manifest of an image; attestations, charts and other artifacts are none.
    fn manifest<S: Shelf>(&self, shelf: &S) -> Result<Option<Manifest>, S::Error> {
        match self.kind {
            Kind::Manifest => {}
            Kind::Old => {
                let problem = "its manifest has the format that Docker wrote until 2016: push the image again";
                return Err(shelf.unusable(problem.into()));
            }
            Kind::Index | Kind::Other => return Ok(None),
        }
        let manifest: Manifest = from_json(&self.bytes, &format!("the manifest {}", self.entry.digest))?;
        let is_image = ["", CONFIG, DOCKER_CONFIG].contains(&manifest.config.media_type.as_str());
        Ok(Some(manifest).filter(|_| is_image))
    }

    /// Returns its image, where it is one for a platform that kiln builds for.
    pub fn image<S: Shelf>(&self, shelf: &S, asked: Option<Platform>) -> Result<Option<LoadedImage>, S::Error> {
        let Some(manifest) = self.manifest(shelf)? else { return Ok(None) };
        let config = shelf.config(&manifest.config)?;
        let told = asked.filter(|platform| self.entry.platform.as_ref().is_none_or(|said| said.may_be(*platform)));
        match LoadedImage::new(&manifest, self.bytes.clone(), config, told) {
            Ok(None) => Ok(None),
            Ok(Some(mut loaded)) => {
                for layer in loaded.image.layers.iter_mut().filter(|layer| layer.is_of_unknown_size()) {
                    layer.size = shelf.size(&layer.digest)?;
                }
                Ok(Some(loaded))
            }
            Err(LoadedImageError::Json(error)) => Err(error.into()),
            Err(LoadedImageError::Inconsistent(problem)) => Err(shelf.unusable(problem)),
        }
    }

    /// Returns the platform that its config says, as it is written there; nothing for what is no image.
    fn written_platform<S: Shelf>(&self, shelf: &S) -> Result<Option<String>, S::Error> {
        let Some(manifest) = self.manifest(shelf)? else { return Ok(None) };
        let config = shelf.config(&manifest.config)?;
        let config: Config = from_json(&config, &format!("the config {}", manifest.config.digest))?;
        Ok(Some(format!("{}/{}", config.os, config.architecture)))
    }

    /// Says of a document that is no image for a platform of kiln's what it is: a clause.
    fn what<S: Shelf>(&self, shelf: &S) -> Result<String, S::Error> {
        if let Some(platform) = self.written_platform(shelf)? {
            return Ok(format!("it is for {platform}, which kiln does not build for"));
        }
        let config = from_json::<Manifest>(&self.bytes, "a manifest").map(|manifest| manifest.config.media_type);
        Ok(match (self.kind, config) {
            (Kind::Manifest, Ok(config)) => format!("it is no image: its config is `{config}`"),
            _ => format!("it is no image but `{}`", self.entry.media_type),
        })
    }
}

/// Returns the image for a platform within a document, and nothing where an index has none.
pub fn image_for<S: Shelf>(shelf: &S, root: &Pointed, platform: Platform) -> Result<Option<LoadedImage>, S::Error> {
    if root.is_index() {
        return Ok(among(shelf, &root.entries()?, platform, 1)?.pop());
    }
    match root.image(shelf, Some(platform))? {
        Some(found) if found.image.platform == platform => Ok(Some(found)),
        Some(found) => Err(shelf.unusable(format!("it is for {}, not for {platform}", found.image.platform))),
        None => Err(shelf.unusable(root.what(shelf)?)),
    }
}

/// Returns images for a platform among entries, each once and at most so many.
pub fn among<S: Shelf>(
    shelf: &S,
    entries: &[Descriptor],
    platform: Platform,
    most: usize,
) -> Result<Vec<LoadedImage>, S::Error> {
    Search { shelf, platform, seen: BTreeSet::new() }.among(entries, most, 0)
}

/// A search for images for a platform, which reads each document once.
struct Search<'a, S> {
    shelf: &'a S,
    platform: Platform,
    seen: BTreeSet<Digest>,
}

impl<S: Shelf> Search<'_, S> {
    fn among(&mut self, entries: &[Descriptor], most: usize, depth: usize) -> Result<Vec<LoadedImage>, S::Error> {
        let is_certain = |entry: &&Descriptor| entry.platform.as_ref().is_some_and(PlatformObject::is_complete);
        let may_be = |entry: &&Descriptor| entry.platform.as_ref().is_none_or(|said| said.may_be(self.platform));
        // Those that say that they are for the platform are read first, and their errors count.
        let (certain, others): (Vec<&Descriptor>, Vec<&Descriptor>) =
            entries.iter().filter(may_be).partition(is_certain);
        let (mut found, mut problem): (Vec<LoadedImage>, _) = (Vec::new(), None);
        for entry in certain.iter().chain(&others) {
            if !self.seen.insert(entry.digest) {
                continue;
            }
            match self.within(entry, depth) {
                Ok(image) => found.extend(image),
                Err(error) if !is_certain(entry) && self.shelf.is_about_content(&error) => {
                    problem = problem.or(Some(error));
                }
                Err(error) => return Err(error),
            }
            if found.len() == most {
                break;
            }
        }
        match problem {
            Some(problem) if found.is_empty() => Err(problem),
            _ => Ok(found),
        }
    }

    fn within(&mut self, entry: &Descriptor, depth: usize) -> Result<Option<LoadedImage>, S::Error> {
        let (shelf, platform) = (self.shelf, self.platform);
        let found = Pointed::read(shelf, entry.clone())?;
        if found.is_index() {
            let entries = if depth < DEPTH { found.entries()? } else { Vec::new() };
            return Ok(self.among(&entries, 1, depth + 1)?.pop());
        }
        match found.image(shelf, Some(platform))? {
            Some(image) if image.image.platform == platform => Ok(Some(image)),
            Some(image) if found.platform() == Some(platform) => {
                let (digest, other) = (found.entry.digest, image.image.platform);
                Err(shelf
                    .unusable(format!("its index says that {digest} is for {platform}, and its config is for {other}")))
            }
            _ => Ok(None),
        }
    }
}

/// Returns every image within documents, once for each document that it was found in, with that document's name.
/// Attestations and the like are left out, and images for other systems.
pub fn images<S: Shelf, N>(shelf: &S, roots: Vec<(N, Pointed)>) -> Result<Vec<(N, LoadedImage)>, S::Error>
where
    N: Clone + Ord,
{
    let mut all = All { shelf, seen: BTreeSet::new(), found: Vec::new() };
    roots.into_iter().try_for_each(|(name, root)| all.visit(&name, &root, 0))?;
    Ok(all.found)
}

struct All<'a, S, N> {
    shelf: &'a S,
    seen: BTreeSet<(N, Digest)>,
    found: Vec<(N, LoadedImage)>,
}

impl<S: Shelf, N: Clone + Ord> All<'_, S, N> {
    fn visit(&mut self, name: &N, document: &Pointed, depth: usize) -> Result<(), S::Error> {
        self.seen.insert((name.clone(), document.entry.digest));
        if document.is_index() {
            let entries = if depth < DEPTH { document.entries()? } else { Vec::new() };
            for entry in entries.into_iter().filter(Descriptor::may_be_linux) {
                if !self.seen.contains(&(name.clone(), entry.digest)) {
                    let inner = Pointed::read(self.shelf, entry)?;
                    self.visit(name, &inner, depth + 1)?;
                }
            }
            return Ok(());
        }
        let platform = document.platform();
        let image = match document.image(self.shelf, platform) {
            // Whoever names no platform may point at anything.
            Err(error) if platform.is_none() && self.shelf.is_about_content(&error) => None,
            image => image?,
        };
        self.found.extend(image.map(|image| (name.clone(), image)));
        Ok(())
    }
}

/// Says that entries have no image for a platform, and for which they have some: a clause.
pub fn none_for<S: Shelf>(shelf: &S, platform: Platform, entries: &[Descriptor]) -> String {
    let mut seen = BTreeSet::new();
    let have = platforms(shelf, entries, &mut seen, 0).into_iter().collect::<Vec<_>>().join(", ");
    let have = if have.is_empty() { "no image at all" } else { &have };
    format!("it has no image for {platform}; it has {have}")
}

/// Returns the platforms that entries have images for, also those that kiln does not build for. What cannot be read is
/// left out.
fn platforms<S: Shelf>(
    shelf: &S,
    entries: &[Descriptor],
    seen: &mut BTreeSet<Digest>,
    depth: usize,
) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for entry in entries {
        match entry.platform.as_ref().filter(|platform| platform.is_complete()) {
            Some(platform) if platform.os == "unknown" => {}
            Some(platform) => found.extend([platform.to_string()]),
            None if seen.insert(entry.digest) => {
                found.extend(platforms_of(shelf, entry, seen, depth).unwrap_or_default());
            }
            None => {}
        }
    }
    found
}

fn platforms_of<S: Shelf>(
    shelf: &S,
    entry: &Descriptor,
    seen: &mut BTreeSet<Digest>,
    depth: usize,
) -> Result<BTreeSet<String>, S::Error> {
    let document = Pointed::read(shelf, entry.clone())?;
    if document.is_index() {
        let entries = if depth < DEPTH { document.entries()? } else { Vec::new() };
        return Ok(platforms(shelf, &entries, seen, depth + 1));
    }
    Ok(document.written_platform(shelf)?.into_iter().collect())
}
