//! What commands work with, with a stack or without: the store, the network, programs, threads, and whoever looks on.

mod trees;

use std::collections::VecDeque;
use std::io::{Read, Write as _};
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use kiln_oci::image::{CONFIG_LIMIT, Image};
use kiln_oci::layer::{Layer, LayerFile};
use kiln_oci::layout::Layout;
use kiln_oci::{AtHand, InflatePool, OciError, splice};
use kiln_plan::digest::Digest;
use kiln_plan::event::{Cancel, Event, Reporter, Work};
use kiln_plan::lock::{LockedBase, LockedWheel};
use kiln_plan::reference::Repository;
use kiln_programs::ChildEnvironment;
use kiln_registry::{Registries, RegistryError};
use kiln_store::{Store, StoreError, digest_of};
use url::Url;

use crate::bytes::{Blobs, Places};
use crate::documents;
use crate::error::{BuildError, FetchError, Result};
use crate::fetch::{Netrc, Network, Wanted};
use crate::product::Wheel;
use crate::shelf::{Shelf, Shelved};
use crate::signing::Signer;

pub(crate) use trees::{others_of, owners_of};

/// Bytes of a blob that are read at once.
const CHUNK: usize = 256 << 10;
/// Wheels of this machine with more bytes are read only where they are used.
const READ_LATER: u64 = 8 << 20;
/// Wheels whose content is kept at hand: each takes as much of the disk as its libraries.
const AT_HAND: usize = 4;

/// What comes from outside the files: read by the command line, so that libraries never look.
#[derive(Debug, Clone)]
pub struct Surroundings {
    /// kiln itself, which answers for an interpreter where packages are resolved.
    pub program: PathBuf,
    /// The environment of the programs that kiln runs.
    pub environment: ChildEnvironment,
    /// Credentials for downloads.
    pub netrc: Netrc,
    /// How registries are spoken to.
    pub registry: kiln_registry::Options,
    /// The secret key that signs what this machine puts into the cache.
    pub signer: Option<Signer>,
    /// Threads that work at once.
    pub jobs: usize,
    /// The network is forbidden.
    pub offline: bool,
    /// When images are said to be made, in seconds since 1970 (`SOURCE_DATE_EPOCH`).
    pub created: u64,
    /// The directory of the configuration of the machine's apt.
    pub apt: PathBuf,
    /// The capabilities of this machine's GPUs, for `gpus = ["native"]`: asked only where a stack says so.
    pub native_gpus: Vec<String>,
}

#[cfg(test)]
impl Surroundings {
    /// Surroundings without programs, credentials and network, for tests of the engine itself.
    pub(crate) fn bare() -> Self {
        Self {
            program: PathBuf::new(),
            environment: ChildEnvironment::new(std::iter::empty()),
            netrc: Netrc::default(),
            registry: kiln_registry::Options::default(),
            signer: None,
            jobs: 2,
            offline: true,
            created: 0,
            apt: PathBuf::new(),
            native_gpus: Vec::new(),
        }
    }
}

/// What commands work with.
pub struct Workshop<'a> {
    /// The store.
    pub store: &'a Store,
    /// Who is told what happens.
    pub reporter: Arc<dyn Reporter>,
    /// Set when the user wants to stop.
    pub cancel: Cancel,
    /// What comes from outside the files.
    pub surroundings: Surroundings,
    /// Places that have bytes which are not in the store.
    pub(crate) places: Places,
    shelf: Shelf,
    at_hand: Mutex<VecDeque<(Digest, AtHand)>>,
    crew: OnceLock<InflatePool>,
    network: OnceLock<Network>,
    registries: OnceLock<Registries>,
}

impl<'a> Workshop<'a> {
    /// A workshop around a store.
    pub fn new(store: &'a Store, reporter: Arc<dyn Reporter>, cancel: Cancel, surroundings: Surroundings) -> Self {
        Self {
            store,
            reporter,
            cancel,
            surroundings,
            places: Places::default(),
            shelf: Shelf::default(),
            at_hand: Mutex::default(),
            crew: OnceLock::new(),
            network: OnceLock::new(),
            registries: OnceLock::new(),
        }
    }
}

impl Workshop<'_> {
    /// Takes a wheel of this machine that nobody has read yet.
    pub(crate) fn take_unverified(&self, wheel: &Wheel) -> Result<Option<Shelved<'_>>> {
        self.shelf.take(&wheel.digest, &self.cancel)
    }

    /// The client of registries, made when first needed: that takes longer than a build that has nothing to do.
    pub fn registries(&self) -> Result<&Registries> {
        if let Some(registries) = self.registries.get() {
            return Ok(registries);
        }
        let made = Registries::new(self.surroundings.registry.clone(), &self.cancel, Arc::clone(&self.reporter))?;
        Ok(self.registries.get_or_init(|| made))
    }

    /// Bytes of content that were sent to registries and received from them.
    pub fn moved(&self) -> (u64, u64) {
        self.registries.get().map_or((0, 0), Registries::moved)
    }

    /// Begins an activity.
    pub fn work(&self, verb: &'static str, subject: impl Into<String>, bytes: Option<u64>) -> Work<'_> {
        Work::start(&*self.reporter, &self.cancel, verb, subject, bytes)
    }

    /// Says something that is worth knowing.
    pub fn warn(&self, message: impl Into<String>) {
        self.reporter.event(Event::Warning { message: message.into() });
    }

    /// The threads that inflate, made when first needed.
    pub(crate) fn crew(&self) -> Result<&InflatePool> {
        if let Some(crew) = self.crew.get() {
            return Ok(crew);
        }
        let made = InflatePool::new(self.surroundings.jobs, &self.cancel)?;
        Ok(self.crew.get_or_init(|| made))
    }

    /// Returns true if some content is in the store, or is a wheel that was linked into it.
    pub(crate) fn holds(&self, digest: &Digest) -> bool {
        self.shelf.holds(digest) || self.store.has(digest)
    }

    /// Brings a wheel of this machine into the store: a large one is read where it is used.
    pub(crate) fn link_wheel(&self, path: &Path, wheel: &LockedWheel) -> Result<()> {
        let work = self.work("verify", &wheel.file, wheel.size);
        let advance = |bytes: u64| work.advance(bytes).map_err(std::io::Error::from);
        let wrong = |error| match error {
            StoreError::WrongDigest { expected, found } => other_wheel(&path.display().to_string(), expected, found),
            error => error.into(),
        };
        if fs_err::metadata(path)?.len() <= READ_LATER {
            return self.store.link(path, &wheel.sha256, &advance).map_err(wrong);
        }
        if let Some(linked) = self.store.link_unverified(path, &wheel.sha256, &advance).map_err(wrong)? {
            self.shelf.put(wheel.sha256, linked);
        }
        Ok(())
    }

    /// Downloads a file into the store.
    pub(crate) fn download(&self, wanted: &Wanted) -> Result<()> {
        self.network()?.fetch(self.store, wanted, &*self.reporter, &self.cancel)
    }

    /// Downloads a document of at most so many bytes, of which nothing is known.
    pub(crate) fn document(&self, url: &Url, most: u64) -> Result<Vec<u8>> {
        let file = url.path().rsplit('/').next().unwrap_or_default().to_owned();
        if self.surroundings.offline {
            return Err(FetchError::Offline(file).into());
        }
        let work = self.work("fetch", file, None);
        self.network()?.document(url, most, &work, &*self.reporter)
    }

    /// Downloads a file of an unknown digest into the store, and returns its digest.
    pub(crate) fn download_unknown(&self, file: &str, url: &Url) -> Result<Digest> {
        if self.surroundings.offline {
            return Err(FetchError::Offline(file.to_owned()).into());
        }
        let work = self.work("fetch", file, None);
        self.network()?.fetch_unknown(self.store, file, url, &work, &*self.reporter)
    }

    /// The client of indexes and addresses, made when first needed.
    fn network(&self) -> Result<&Network> {
        if let Some(network) = self.network.get() {
            return Ok(network);
        }
        let made = Network::new(self.surroundings.netrc.clone(), &self.surroundings.registry.proxies)?;
        Ok(self.network.get_or_init(|| made))
    }

    /// Returns the bytes that were downloaded from indexes, and the seconds in which anything was.
    pub(crate) fn downloaded(&self) -> (u64, f64) {
        self.network.get().map_or((0, 0.0), Network::downloaded)
    }

    /// Opens a wheel that this process has read through.
    pub(crate) fn open_wheel(&self, wheel: &Wheel) -> Result<fs_err::File> {
        self.verify_shelved(wheel)?;
        Ok(self.store.open_hashed(&wheel.digest)?)
    }

    /// Opens a wheel for splicing, which reads it through.
    pub(crate) fn open_spliced(&self, wheel: &Wheel) -> Result<fs_err::File> {
        self.verify_shelved(wheel)?;
        Ok(self.store.open_blob(&wheel.digest)?)
    }

    fn verify_shelved(&self, wheel: &Wheel) -> Result<()> {
        let Some(shelved) = self.shelf.take(&wheel.digest, &self.cancel)? else { return Ok(()) };
        let work = self.work("verify", &wheel.file, wheel.size);
        let advance = |bytes: u64| work.advance(bytes).map_err(std::io::Error::from);
        let found = digest_of(shelved.open()?, &advance)?;
        if found != wheel.digest {
            return Err(other_wheel(&wheel.file, wheel.digest, found));
        }
        shelved.accept(self.store)
    }

    fn at_hand(&self) -> MutexGuard<'_, VecDeque<(Digest, AtHand)>> {
        self.at_hand.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Keeps content of a wheel that was inflated, for whoever makes a layer of it next.
    pub(crate) fn keep_at_hand(&self, wheel: Digest, content: AtHand) {
        let mut kept = self.at_hand();
        kept.push_back((wheel, content));
        if kept.len() > AT_HAND {
            kept.pop_front();
        }
    }

    /// Takes content of a wheel that was inflated.
    pub(crate) fn take_at_hand(&self, wheel: &Digest) -> AtHand {
        let mut kept = self.at_hand();
        let found = kept.iter().position(|(digest, _)| digest == wheel).and_then(|at| kept.remove(at));
        found.map(|(_, content)| content).unwrap_or_default()
    }

    /// Makes a layer of a few files that kiln writes itself.
    pub(crate) fn small_layer(&self, subject: &str, files: Vec<LayerFile>) -> Result<Vec<Layer>> {
        let work = self.work("splice", subject, None);
        Ok(vec![splice(self.store, self.crew()?, &[], files, &work)?])
    }

    /// Returns the image of a base; its manifest and config come from a repository where the store lacks them.
    pub(crate) fn documents(&self, repository: &Repository, locked: &LockedBase) -> Result<Image> {
        let (manifest, name) = (&locked.manifest, &locked.name);
        if let Some(image) = documents::here(self.store, manifest, name, locked.platform)? {
            return self.with_sizes(image, repository);
        }
        if !self.store.has_blob(manifest) {
            let bytes = match self.registries()?.manifest(&repository.digest(*manifest)) {
                // Caches keep manifests as blobs.
                Err(error) if error.is_not_found() => self.registries()?.blob(repository, manifest, CONFIG_LIMIT)?,
                found => found?.bytes,
            };
            self.store.add(&bytes)?;
        }
        if let Some(config) =
            documents::config(self.store, manifest, name)?.filter(|config| !self.store.has_blob(config))
        {
            self.store.add(&self.registries()?.blob(repository, &config, CONFIG_LIMIT)?)?;
        }
        let image = documents::here(self.store, manifest, name, locked.platform)?;
        let image = image
            .ok_or_else(|| BuildError::LockOutdated(format!("`{name}` is for another platform than is locked")))?;
        self.with_sizes(image, repository)
    }

    /// Asks for the sizes of layers that the manifest does not say.
    fn with_sizes(&self, mut image: Image, repository: &Repository) -> Result<Image> {
        for layer in image.layers.iter_mut().filter(|layer| layer.is_of_unknown_size()) {
            layer.size = self.registries()?.blob_size(repository, &layer.digest)?;
        }
        Ok(image)
    }

    /// Notes that a repository has the layers of an image.
    pub(crate) fn found_at(&self, image: Image, repository: &Repository) -> Image {
        self.places.found(image.layers.iter().map(|layer| layer.digest), repository);
        image
    }

    /// Notes that a layout has the bytes of its images.
    pub fn add_layout(&self, layout: Layout) {
        self.places.add_layout(layout);
    }

    /// Returns the places that have bytes.
    pub(crate) fn blobs(&self) -> Blobs<'_> {
        let remote = self.places.repositories();
        let registries = if remote.is_empty() { None } else { self.registries().ok().cloned() };
        Blobs { store: self.store, layouts: self.places.layouts(), remote, registries }
    }

    /// Opens some content of so many bytes, wherever it is.
    pub(crate) fn open_anywhere(&self, digest: &Digest, size: u64) -> Result<Box<dyn Read + Send>> {
        Ok(Box::new(self.blobs().open(digest, size)?))
    }

    /// Returns an error of reading as the registry's, where it comes from one.
    pub(crate) fn read_error(&self, error: std::io::Error) -> BuildError {
        RegistryError::from(error).into()
    }

    /// Brings a blob of a repository into the store. The inner error is the repository's, which may lack it.
    pub(crate) fn bring(
        &self,
        repository: &Repository,
        digest: &Digest,
        size: u64,
        work: &Work<'_>,
    ) -> Result<Result<()>> {
        let mut content = match self.registries()?.blob_reader(repository, digest, size, 0) {
            Ok(content) => content,
            Err(error) => return Ok(Err(error.into())),
        };
        let mut writer = self.store.writer()?;
        let mut buffer = vec![0; CHUNK];
        loop {
            match content.read(&mut buffer) {
                Ok(0) => break,
                Ok(read) => {
                    writer.write_all(&buffer[..read])?;
                    work.advance(read as u64)?;
                }
                Err(error) => return Ok(Err(self.read_error(error))),
            }
        }
        writer.finish_as(digest)?;
        Ok(Ok(()))
    }

    /// Finds a program on `PATH`.
    pub fn find_program(&self, name: &str) -> Option<PathBuf> {
        self.surroundings.environment.find(name)
    }
}

fn other_wheel(file: &str, expected: Digest, found: Digest) -> BuildError {
    OciError::WrongWheel { wheel: file.to_owned(), expected, found }.into()
}

/// Seconds since 1970. It decides what is old, and enters no result.
pub(crate) fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}
