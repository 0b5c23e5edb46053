//! OCI image layouts on disk: read as bases, written as results (OCI image specification, "Image Layout").

use std::io::Read;
use std::path::{Path, PathBuf};

use kiln_plan::digest::Digest;
use kiln_plan::event::Work;
use kiln_plan::platform::Platform;
use kiln_store::{Content, Store, StoreError};

use crate::error::OciError;
use crate::image::{Config, Descriptor, Image, Index, Manifest, from_json, to_json};

/// What an index's manifest is called in a layout.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Bytes that a manifest, config or index may have.
const JSON_LIMIT: u64 = 16 << 20;

/// A layout that is read.
#[derive(Debug, Clone)]
pub struct Layout {
    path: PathBuf,
}

/// An image of a layout.
#[derive(Debug, Clone)]
pub struct LayoutImage {
    /// Manifest, layers and so on.
    pub image: Image,
    /// Its config.
    pub config: Config,
    /// The bytes of its manifest.
    pub manifest_bytes: Vec<u8>,
    /// The bytes of its config.
    pub config_bytes: Vec<u8>,
}

impl Layout {
    /// Opens a layout.
    pub fn open(path: &Path) -> Result<Self, OciError> {
        let layout = Self { path: path.to_owned() };
        if !path.is_dir() {
            return Err(layout.problem("there is no such directory"));
        }
        if !path.join("oci-layout").is_file() {
            return Err(layout.problem("it has no file `oci-layout`"));
        }
        Ok(layout)
    }

    fn problem(&self, problem: impl Into<String>) -> OciError {
        OciError::Layout { path: self.path.display().to_string(), problem: problem.into() }
    }

    /// Where the layout has some content, if it has.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path.join("blobs/sha256").join(digest.hex())
    }

    fn read_json(&self, descriptor: &Descriptor) -> Result<Vec<u8>, OciError> {
        let path = self.blob_path(&descriptor.digest);
        let mut bytes = Vec::new();
        let opened = fs_err::File::open(path).map_err(|_| self.problem(format!("{} is missing", descriptor.digest)))?;
        opened.take(JSON_LIMIT).read_to_end(&mut bytes)?;
        if Digest::of(&bytes) != descriptor.digest {
            return Err(self.problem(format!("{} has other content than its digest says", descriptor.digest)));
        }
        Ok(bytes)
    }

    /// What stands in `index.json`.
    pub fn index(&self) -> Result<Index, OciError> {
        let mut bytes = Vec::new();
        let path = self.path.join("index.json");
        fs_err::File::open(path)?.take(JSON_LIMIT).read_to_end(&mut bytes)?;
        from_json(&bytes, &format!("`index.json` of {}", self.path.display()))
    }

    /// Every image, with the name that the layout gives it; attestations and the like are left out.
    pub fn images(&self) -> Result<Vec<(Option<String>, LayoutImage)>, OciError> {
        let mut found = Vec::new();
        let mut waiting: Vec<(Option<String>, Descriptor, u32)> =
            self.index()?.manifests.into_iter().rev().map(|entry| (None, entry, 0)).collect();
        while let Some((name, descriptor, depth)) = waiting.pop() {
            let name = descriptor.annotations.get(REF_NAME).cloned().or(name);
            if descriptor.media_type.contains("index") || descriptor.media_type.contains("manifest.list") {
                if depth > 4 {
                    return Err(self.problem("its indexes are nested too deeply"));
                }
                let index: Index = from_json(&self.read_json(&descriptor)?, "an index")?;
                waiting.extend(index.manifests.into_iter().rev().map(|entry| (name.clone(), entry, depth + 1)));
            } else if descriptor.platform.as_ref().is_none_or(|platform| platform.os == "linux")
                && let Some(image) = self.image(&descriptor)?
            {
                found.push((name, image));
            }
        }
        Ok(found)
    }

    /// The image for a platform: the only one there is.
    pub fn image_for(&self, platform: Platform) -> Result<LayoutImage, OciError> {
        let images = self.images()?;
        let platforms: Vec<String> = images.iter().map(|(_, image)| image.image.platform.to_string()).collect();
        let mut fitting = images.into_iter().filter(|(_, image)| image.image.platform == platform);
        match (fitting.next(), fitting.next()) {
            (Some((_, image)), None) => Ok(image),
            (None, _) => Err(self.problem(format!("it has no image for {platform}; it has {}", platforms.join(", ")))),
            (Some(_), Some(_)) => Err(self.problem(format!("it has more than one image for {platform}"))),
        }
    }

    fn image(&self, descriptor: &Descriptor) -> Result<Option<LayoutImage>, OciError> {
        let manifest_bytes = self.read_json(descriptor)?;
        let manifest: Manifest = from_json(&manifest_bytes, "a manifest")?;
        let config_bytes = self.read_json(&manifest.config)?;
        let config: Config = from_json(&config_bytes, "a config")?;
        let Ok(platform) = format!("{}/{}", config.os, config.architecture).parse::<Platform>() else {
            return Ok(None);
        };
        let layers = manifest.layers(&config).map_err(|problem| self.problem(problem))?;
        let image = Image {
            platform,
            manifest: descriptor.digest,
            manifest_size: manifest_bytes.len() as u64,
            config: manifest.config.digest,
            layers,
        };
        Ok(Some(LayoutImage { image, config, manifest_bytes, config_bytes }))
    }
}

/// Where the bytes of layers come from: the store, and the layouts that bases are in.
#[derive(Debug)]
pub struct Blobs<'a> {
    /// The store.
    pub store: &'a Store,
    /// Layouts of bases.
    pub layouts: Vec<Layout>,
}

impl Blobs<'_> {
    /// Opens some content.
    pub fn open(&self, digest: &Digest) -> Result<Content, OciError> {
        match self.store.open_content(digest) {
            Err(StoreError::Missing(_)) => {}
            found => return Ok(found?),
        }
        for layout in &self.layouts {
            let path = layout.blob_path(digest);
            if path.is_file() {
                return Ok(Content::File(fs_err::File::open(path)?));
            }
        }
        Err(OciError::NoBytes { digest: *digest, base: "the base".into() })
    }

    /// An error unless the bytes of every layer can be had.
    pub fn check(&self, image: &Image, base: &str) -> Result<(), OciError> {
        for layer in &image.layers {
            let here =
                self.store.has(&layer.digest) || self.layouts.iter().any(|l| l.blob_path(&layer.digest).is_file());
            if !here {
                return Err(OciError::NoBytes { digest: layer.digest, base: base.to_owned() });
            }
        }
        Ok(())
    }
}

/// Everything that one written image consists of, each piece once, small pieces first.
pub fn contents(image: &Image) -> Vec<(Digest, u64)> {
    let mut all: Vec<(Digest, u64)> = image.layers.iter().map(|layer| (layer.digest, layer.size)).collect();
    all.sort_by_key(|(digest, size)| (std::cmp::Reverse(*size), *digest));
    all.dedup();
    all
}

/// Writes layers, configs and manifests of images to a layout, and makes `index.json` list `entries`; entries of other
/// names that the layout has already stay. Blobs that are there are not written again.
pub fn write_layout(
    path: &Path,
    blobs: &Blobs<'_>,
    images: &[Image],
    documents: &[Vec<u8>],
    entries: Vec<Descriptor>,
    work: &Work<'_>,
) -> Result<(), OciError> {
    let layout = Layout { path: path.to_owned() };
    let occupied = path.is_dir() && fs_err::read_dir(path)?.next().is_some();
    if occupied && !path.join("oci-layout").is_file() {
        return Err(layout.problem("the directory has other files in it"));
    }
    fs_err::create_dir_all(path.join("blobs/sha256"))?;
    // First, so that a layout that could not be finished is known for one and can be written again.
    atomic_write(&path.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
    let mut needed: Vec<(Digest, u64)> = images.iter().flat_map(contents).collect();
    needed.extend(images.iter().map(|image| (image.config, 0)));
    needed.sort_by_key(|(digest, size)| (std::cmp::Reverse(*size), *digest));
    needed.dedup_by_key(|(digest, _)| *digest);
    let next = std::sync::atomic::AtomicUsize::new(0);
    let threads = std::thread::available_parallelism().map_or(2, usize::from).min(8);
    std::thread::scope(|scope| {
        let write_some = || -> Result<(), OciError> {
            while let Some((digest, size)) = needed.get(next.fetch_add(1, std::sync::atomic::Ordering::Relaxed)) {
                write_blob(&layout, blobs, digest)?;
                work.advance(*size)?;
            }
            Ok(())
        };
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(write_some)).collect();
        threads
            .into_iter()
            .try_for_each(|thread| thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
    })?;
    for document in documents {
        atomic_write(&layout.blob_path(&Digest::of(document)), document)?;
    }
    let listed = path.join("index.json").is_file();
    let mut index = if listed { layout.index()? } else { Index::new(Vec::new()) };
    let name = |entry: &Descriptor| entry.annotations.get(REF_NAME).cloned();
    index.manifests.retain(|old| !entries.iter().any(|new| name(new) == name(old)));
    index.manifests.extend(entries);
    atomic_write(&path.join("index.json"), &to_json(&index)?)
}

fn write_blob(layout: &Layout, blobs: &Blobs<'_>, digest: &Digest) -> Result<(), OciError> {
    let path = layout.blob_path(digest);
    if path.is_file() {
        return Ok(());
    }
    let mut content = blobs.open(digest)?;
    let temporary = path.with_extension(format!("{}.part", std::process::id()));
    let written = fs_err::File::create(&temporary)
        .and_then(|mut file| content.copy_to(&mut file))
        .and_then(|_| fs_err::rename(&temporary, &path));
    if written.is_err() {
        let _ = fs_err::remove_file(&temporary);
    }
    Ok(written?)
}

fn atomic_write(path: &Path, bytes: &[u8]) -> Result<(), OciError> {
    let temporary = path.with_extension(format!("{}.part", std::process::id()));
    fs_err::write(&temporary, bytes)?;
    Ok(fs_err::rename(&temporary, path)?)
}
