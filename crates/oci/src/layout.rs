//! OCI image layouts on disk: read as bases, written as results (OCI image specification, "Image Layout").

use std::io::{Read, Write};
use std::path::{Path, PathBuf};

use kiln_plan::digest::Digest;
use kiln_plan::event::Work;
use kiln_plan::parallel;
use kiln_plan::platform::Platform;
use kiln_store::{AtomicFile, Store, WrongContent, collect_left_behind, sync_directory};

use crate::error::OciError;
use crate::image::{Descriptor, Image, Index, LoadedImage, LoadedImageError, Manifest, from_json, to_json};

/// The file that tells a layout, and the directory of its blobs.
const MARKER: &str = "oci-layout";
const BLOBS: &str = "blobs/sha256";
/// What an index's manifest is called in a layout.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Bytes that a manifest, config or index may have.
const JSON_LIMIT: u64 = 16 << 20;
/// Blobs that are written at once, at least: each waits for the disk, and for a registry that it comes from, more than it
/// works.
const AT_ONCE: usize = 4;

/// A layout that is read.
#[derive(Debug, Clone)]
pub struct Layout {
    path: PathBuf,
}

impl Layout {
    /// Opens a layout.
    pub fn open(path: &Path) -> Result<Self, OciError> {
        let layout = Self { path: path.to_owned() };
        if !path.is_dir() {
            return Err(layout.problem("there is no such directory"));
        }
        if !path.join(MARKER).is_file() {
            return Err(layout.problem("it has no file `oci-layout`"));
        }
        Ok(layout)
    }

    fn problem(&self, problem: impl Into<String>) -> OciError {
        OciError::Layout { path: self.path.display().to_string(), problem: problem.into() }
    }

    /// Where the layout has some content, if it has.
    pub fn blob_path(&self, digest: &Digest) -> PathBuf {
        self.path.join(BLOBS).join(digest.hex())
    }

    fn read_json(&self, descriptor: &Descriptor) -> Result<Vec<u8>, OciError> {
        let path = self.blob_path(&descriptor.digest);
        let shown = format!("`{BLOBS}/{}`", descriptor.digest.hex());
        let mut bytes = Vec::new();
        let opened = fs_err::File::open(path).map_err(|_| self.problem(format!("{shown} is missing")))?;
        opened.take(JSON_LIMIT).read_to_end(&mut bytes)?;
        if Digest::of(&bytes) != descriptor.digest {
            return Err(self.problem(format!("{shown} is damaged: its content has another digest")));
        }
        Ok(bytes)
    }

    /// What stands in `index.json`.
    pub fn index(&self) -> Result<Index, OciError> {
        let mut bytes = Vec::new();
        let path = self.path.join("index.json");
        fs_err::File::open(path)?.take(JSON_LIMIT).read_to_end(&mut bytes)?;
        from_json(&bytes, "an index").map_err(|_| self.problem("its `index.json` is damaged: it is no index"))
    }

    /// Every image, with the name that the layout gives it; attestations and the like are left out.
    pub fn images(&self) -> Result<Vec<(Option<String>, LoadedImage)>, OciError> {
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
    pub fn image_for(&self, platform: Platform) -> Result<LoadedImage, OciError> {
        let images = self.images()?;
        let platforms: Vec<String> = images.iter().map(|(_, image)| image.image.platform.to_string()).collect();
        let mut fitting = images.into_iter().filter(|(_, image)| image.image.platform == platform);
        match (fitting.next(), fitting.next()) {
            (Some((_, image)), None) => Ok(image),
            (None, _) => Err(self.problem(format!("it has no image for {platform}; it has {}", platforms.join(", ")))),
            (Some(_), Some(_)) => Err(self.problem(format!("it has more than one image for {platform}"))),
        }
    }

    fn image(&self, descriptor: &Descriptor) -> Result<Option<LoadedImage>, OciError> {
        let manifest_bytes = self.read_json(descriptor)?;
        let manifest: Manifest = from_json(&manifest_bytes, "a manifest")?;
        let config_bytes = self.read_json(&manifest.config)?;
        LoadedImage::new(&manifest, manifest_bytes, config_bytes).map_err(|error| match error {
            LoadedImageError::Json(error) => error,
            LoadedImageError::Inconsistent(problem) => self.problem(problem),
        })
    }
}

/// A source of the content of images.
pub trait BlobSource: Sync {
    /// The store, which holds configs and manifests, and the digests of files that were verified.
    fn store(&self) -> &Store;

    /// Opens some content of so many bytes. Its last read fails if it is not what its digest says.
    fn open(&self, digest: &Digest, size: u64) -> Result<Box<dyn Read + Send>, OciError>;

    /// Returns the place that some content comes from: a path, or a repository.
    fn place(&self, digest: &Digest) -> String;
}

/// Copies some content of so many bytes; an error if it is not what its digest says. Through a buffer: at offsets that
/// are no multiples of a page, which ranges of wheels have, the kernel's own copying between files
/// (`copy_file_range`) takes four times as long.
pub(crate) fn copy(
    blobs: &dyn BlobSource,
    digest: &Digest,
    size: u64,
    to: &mut impl Write,
    work: &Work<'_>,
) -> Result<(), OciError> {
    let mut content = blobs.open(digest, size)?;
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = content.read(&mut buffer).map_err(|error| match WrongContent::of(&error) {
            Some(wrong) => OciError::Damaged { place: blobs.place(digest), source: *wrong },
            None => error.into(),
        })?;
        if read == 0 {
            return Ok(());
        }
        to.write_all(&buffer[..read])?;
        work.advance(read as u64)?;
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
/// names that the layout has already stay. Blobs that are there and intact are not written again. Several processes may
/// write to one layout.
pub fn write_layout(
    path: &Path,
    blobs: &dyn BlobSource,
    images: &[Image],
    documents: &[Vec<u8>],
    entries: Vec<Descriptor>,
    work: &Work<'_>,
) -> Result<(), OciError> {
    let layout = Layout { path: path.to_owned() };
    if path.is_dir() && !path.join(MARKER).is_file() && layout.index().is_err() && layout.is_occupied()? {
        return Err(layout.problem("the directory has other files in it"));
    }
    fs_err::create_dir_all(path.join(BLOBS))?;
    collect_left_behind(path)?;
    // First, so that a layout that could not be finished is known for one and can be written again.
    let version = br#"{"imageLayoutVersion":"1.0.0"}"#;
    if !fs_err::read(path.join(MARKER)).is_ok_and(|found| found == version) {
        AtomicFile::write(&path.join(MARKER), version)?;
    }
    let mut needed: Vec<(Digest, u64)> = images.iter().flat_map(contents).collect();
    needed.sort_by_key(|(digest, size)| (std::cmp::Reverse(*size), *digest));
    needed.dedup();
    let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(AT_ONCE, 8);
    parallel::each(&needed, threads, |(digest, size)| write_blob(&layout, blobs, digest, *size, work))?;
    for document in documents {
        let digest = Digest::of(document);
        let blob = layout.blob_path(&digest);
        if !is_intact(blobs.store(), &blob, &digest)? {
            let mut file = AtomicFile::create_by_way_of(path, &blob)?;
            file.write_all(document)?;
            file.commit_in_group()?;
        }
    }
    sync_directory(&path.join(BLOBS))?;
    layout.list(entries)
}

impl Layout {
    /// Whether the directory holds more than what another process has when it begins a layout.
    fn is_occupied(&self) -> Result<bool, OciError> {
        for entry in fs_err::read_dir(&self.path)? {
            let name = entry?.file_name();
            if name != "blobs" && name != MARKER && !kiln_store::is_temporary(&name) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Makes `index.json` list these entries, besides those of other names. One process at a time.
    fn list(&self, entries: Vec<Descriptor>) -> Result<(), OciError> {
        let marker = fs_err::OpenOptions::new().read(true).write(true).open(self.path.join(MARKER))?;
        marker.file().lock()?;
        let listed = self.path.join("index.json");
        let mut index = if listed.is_file() { self.index()? } else { Index::new(Vec::new()) };
        let name = |entry: &Descriptor| entry.annotations.get(REF_NAME).cloned();
        index.manifests.retain(|old| !entries.iter().any(|new| name(new) == name(old)));
        index.manifests.extend(entries);
        let bytes = to_json(&index)?;
        if !fs_err::read(&listed).is_ok_and(|found| found == bytes) {
            AtomicFile::write(&listed, &bytes)?;
        }
        Ok(())
    }
}

fn write_blob(
    layout: &Layout,
    blobs: &dyn BlobSource,
    digest: &Digest,
    size: u64,
    work: &Work<'_>,
) -> Result<(), OciError> {
    let path = layout.blob_path(digest);
    if is_intact(blobs.store(), &path, digest)? {
        return Ok(work.advance(size)?);
    }
    let mut file = AtomicFile::create_by_way_of(&layout.path, &path)?;
    copy(blobs, digest, size, &mut file, work)?;
    file.commit_in_group()?;
    Ok(blobs.store().note_verified(&path, digest)?)
}

/// Whether a file of a layout is what its name says. One that was read before and has not changed is not read again.
fn is_intact(store: &Store, path: &Path, digest: &Digest) -> Result<bool, OciError> {
    if !path.is_file() {
        return Ok(false);
    }
    Ok(store.verify_file(path, digest)?)
}
