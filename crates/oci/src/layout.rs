//! OCI image layouts on disk: read as bases, written as results (OCI image specification, "Image Layout").

use std::collections::BTreeSet;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};

use kiln_plan::digest::Digest;
use kiln_plan::event::Work;
use kiln_plan::parallel;
use kiln_plan::platform::Platform;
use kiln_store::{AtomicFile, Store, WrongContent, collect_left_behind, open_regular, sync_directory};
use serde_json::Value;

use crate::choose::{self, Pointed, Shelf};
use crate::error::OciError;
use crate::image::{Descriptor, Image, Index, LoadedImage, from_json, to_json};
use crate::json::{Shape, parse, tidy};

/// The file that tells a layout, its content, and the file that lists images.
const MARKER: &str = "oci-layout";
pub(crate) const VERSION: &[u8] = br#"{"imageLayoutVersion":"1.0.0"}"#;
const LIST: &str = "index.json";
/// The directory of its blobs.
const BLOBS: &str = "blobs/sha256";
/// What an index's manifest is called in a layout.
pub const REF_NAME: &str = "org.opencontainers.image.ref.name";
/// Annotation with the name by which containerd, BuildKit and Docker know an image in a layout (`images.AnnotationImageName` of containerd).
pub const CONTAINERD_NAME: &str = "io.containerd.image.name";
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
        let opened = open_regular(&path).map_err(|error| match error.kind() {
            io::ErrorKind::InvalidInput => self.problem(format!("{shown} is no regular file")),
            _ => self.problem(format!("{shown} is missing")),
        })?;
        opened.take(JSON_LIMIT).read_to_end(&mut bytes)?;
        if Digest::of(&bytes) != descriptor.digest {
            return Err(self.problem(format!("{shown} is damaged: its content has another digest")));
        }
        Ok(bytes)
    }

    /// What stands in `index.json`.
    pub fn index(&self) -> Result<Index, OciError> {
        from_json(&self.index_bytes()?, "an index").map_err(|_| self.damaged_index())
    }

    fn index_bytes(&self) -> Result<Vec<u8>, OciError> {
        let mut bytes = Vec::new();
        open_regular(&self.path.join(LIST))?.take(JSON_LIMIT).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    fn damaged_index(&self) -> OciError {
        self.problem("its `index.json` is damaged: it is no index")
    }

    /// Returns the entries of `index.json` that have a name, or all of them without one.
    pub fn entries(&self, name: Option<&str>) -> Result<Vec<Descriptor>, OciError> {
        let mut entries = self.index()?.manifests;
        let Some(name) = name else { return Ok(entries) };
        let names = entry_names(&entries);
        entries.retain(|entry| is_called(entry, name));
        if entries.is_empty() {
            let has = if names.is_empty() { "its images have no names".into() } else { format!("it has {names}") };
            return Err(OciError::NoImage { path: self.path.display().to_string(), name: name.to_owned(), has });
        }
        Ok(entries)
    }

    /// Returns every image, with the name that the layout gives it; attestations and the like are left out.
    pub fn images(&self) -> Result<Vec<(Option<String>, LoadedImage)>, OciError> {
        let roots = self.index()?.manifests.into_iter().filter(Descriptor::may_be_linux);
        let read = |entry: Descriptor| Ok((entry.annotations.get(REF_NAME).cloned(), Pointed::read(self, entry)?));
        choose::images(self, roots.map(read).collect::<Result<_, OciError>>()?)
    }

    /// Returns the image for a platform: the only one of a name, or the only one there is.
    pub fn image_for(&self, name: Option<&str>, platform: Platform) -> Result<LoadedImage, OciError> {
        let entries = self.entries(name)?;
        let mut found = choose::among(self, &entries, platform, 2)?;
        match (found.pop(), found.is_empty()) {
            (Some(image), true) => Ok(image),
            (None, _) => Err(self.problem(choose::none_for(self, platform, &entries))),
            (Some(_), false) => {
                let names = entry_names(&entries);
                let which = if names.is_empty() { names } else { format!(": name one of {names}") };
                Err(self.problem(format!("it has more than one image for {platform}{which}")))
            }
        }
    }
}

/// Returns true if an entry of `index.json` has a name: the layout's own, or containerd's.
fn is_called(entry: &Descriptor, name: &str) -> bool {
    [REF_NAME, CONTAINERD_NAME].iter().any(|key| entry.annotations.get(*key).is_some_and(|found| found == name))
}

/// Lists the names of entries.
pub fn entry_names(entries: &[Descriptor]) -> String {
    let names: BTreeSet<&str> =
        entries.iter().filter_map(|entry| Some(entry.annotations.get(REF_NAME)?.as_str())).collect();
    names.into_iter().collect::<Vec<_>>().join(", ")
}

/// Splits `DIR:NAME` into the directory of a layout and the name of an image in it. A colon may be part of either: the
/// longest directory that there is counts, else all before the first colon.
pub fn split_name(text: &str, is_directory: impl Fn(&str) -> bool) -> (&str, Option<&str>) {
    let mut splits = text.match_indices(':').map(|(at, _)| (&text[..at], Some(&text[at + 1..])));
    if is_directory(text) {
        return (text, None);
    }
    let longest = splits.clone().rev().find(|(directory, _)| is_directory(directory));
    longest.or_else(|| splits.next()).unwrap_or((text, None))
}

impl Shelf for Layout {
    type Error = OciError;

    fn document(&self, entry: &Descriptor) -> Result<Vec<u8>, OciError> {
        self.read_json(entry)
    }

    fn config(&self, config: &Descriptor) -> Result<Vec<u8>, OciError> {
        self.read_json(config)
    }

    fn size(&self, blob: &Digest) -> Result<u64, OciError> {
        Ok(fs_err::metadata(self.blob_path(blob)).map_or(0, |found| found.len()))
    }

    fn unusable(&self, problem: String) -> OciError {
        self.problem(problem)
    }

    fn is_about_content(&self, error: &OciError) -> bool {
        matches!(error, OciError::Layout { .. } | OciError::Json { .. })
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

/// Images that are to be written: into a layout, or into an archive of one.
#[derive(Debug, Default)]
pub struct Contents {
    /// Layers and other blobs, with their sizes in bytes; some may be there several times.
    pub blobs: Vec<(Digest, u64)>,
    /// Configs, manifests and indexes.
    pub documents: Vec<Vec<u8>>,
    /// The entries of `index.json`.
    pub entries: Vec<Descriptor>,
}

impl Contents {
    /// Returns each blob once, large ones first.
    pub fn distinct_blobs(&self) -> Vec<(Digest, u64)> {
        let mut all = self.blobs.clone();
        all.sort_by_key(|(digest, size)| (*digest, std::cmp::Reverse(*size)));
        all.dedup_by_key(|(digest, _)| *digest);
        all.sort_by_key(|(digest, size)| (std::cmp::Reverse(*size), *digest));
        all
    }
}

/// Returns the layers of an image as [`Contents`] have them.
pub fn layer_blobs(image: &Image) -> impl Iterator<Item = (Digest, u64)> {
    image.layers.iter().map(|layer| (layer.digest, layer.size))
}

/// Writes images to a layout. `index.json` lists their entries then; entries of other names that the layout has already
/// stay. Blobs that are there and intact are not written again. Several processes may write to one layout.
pub fn write_layout(path: &Path, blobs: &dyn BlobSource, contents: Contents, work: &Work<'_>) -> Result<(), OciError> {
    let layout = Layout { path: path.to_owned() };
    if path.is_dir() && !path.join(MARKER).is_file() && layout.index().is_err() && layout.is_occupied()? {
        return Err(layout.problem("the directory has other files in it"));
    }
    fs_err::create_dir_all(path.join(BLOBS))?;
    collect_left_behind(path)?;
    // First, so that a layout that could not be finished is known for one and can be written again.
    if !fs_err::read(path.join(MARKER)).is_ok_and(|found| found == VERSION) {
        AtomicFile::write(&path.join(MARKER), VERSION)?;
    }
    let needed = contents.distinct_blobs();
    let threads = std::thread::available_parallelism().map_or(2, usize::from).clamp(AT_ONCE, 8);
    parallel::each(&needed, threads, |(digest, size)| write_blob(&layout, blobs, digest, *size, work))?;
    for document in &contents.documents {
        let digest = Digest::of(document);
        let blob = layout.blob_path(&digest);
        if !is_intact(blobs.store(), &blob, &digest)? {
            let mut file = AtomicFile::create_by_way_of(path, &blob)?;
            file.write_all(document)?;
            file.commit_in_group()?;
        }
    }
    sync_directory(&path.join(BLOBS))?;
    layout.list(&contents.entries)
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

    /// Makes `index.json` list these entries, besides those of other names and whatever else it says. One process at a
    /// time.
    fn list(&self, entries: &[Descriptor]) -> Result<(), OciError> {
        const ENTRIES: Shape = Shape::Object(&[("manifests", Shape::List(&Shape::Any))]);
        let marker = fs_err::OpenOptions::new().read(true).write(true).open(self.path.join(MARKER))?;
        marker.file().lock()?;
        let listed = self.path.join(LIST);
        let old = if listed.is_file() { self.index_bytes()? } else { to_json(&Index::new(Vec::new()))? };
        let mut index = parse(&old).map_err(|_| self.damaged_index())?;
        tidy(&mut index, &ENTRIES);
        let members = index.as_object_mut().ok_or_else(|| self.damaged_index())?;
        let manifests = members.entry("manifests").or_insert_with(|| Value::Array(Vec::new()));
        let manifests = manifests.as_array_mut().ok_or_else(|| self.damaged_index())?;
        let name = |entry: &Value| entry["annotations"][REF_NAME].as_str().map(str::to_owned);
        manifests.retain(|old| !entries.iter().any(|new| new.annotations.get(REF_NAME).cloned() == name(old)));
        for entry in entries {
            manifests.push(
                serde_json::to_value(entry).map_err(|source| OciError::Json { what: "an entry".into(), source })?,
            );
        }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_colon_may_be_part_of_a_directory_or_of_a_name() {
        for (text, directories, expected) in [
            ("base", vec![], ("base", None)),
            ("base:app", vec![], ("base", Some("app"))),
            ("base:app:1", vec!["base"], ("base", Some("app:1"))),
            ("base:app:1", vec!["base", "base:app"], ("base:app", Some("1"))),
            ("base:app:1", vec!["base", "base:app:1"], ("base:app:1", None)),
            ("base:docker.io/acme/app:1", vec!["base"], ("base", Some("docker.io/acme/app:1"))),
            ("a:b", vec![], ("a", Some("b"))),
            ("", vec![], ("", None)),
        ] {
            let found = split_name(text, |directory| directories.contains(&directory));
            assert_eq!(found, expected, "{text} where there are {directories:?}");
        }
    }

    #[test]
    fn an_image_is_found_by_its_own_name_and_by_containerds() {
        let directory = tempfile::tempdir().unwrap();
        let entry = |content: &[u8], names: &[(&str, &str)]| {
            let annotations = names.iter().map(|(key, name)| ((*key).to_owned(), (*name).to_owned())).collect();
            Descriptor { annotations, ..Descriptor::of("", content) }
        };
        let index = Index::new(vec![
            entry(b"a", &[(REF_NAME, "a:1"), (CONTAINERD_NAME, "docker.io/t/a:1")]),
            entry(b"b", &[(REF_NAME, "latest"), (CONTAINERD_NAME, "docker.io/t/b:latest")]),
            entry(b"c", &[]),
        ]);
        fs_err::write(directory.path().join(MARKER), VERSION).unwrap();
        fs_err::write(directory.path().join(LIST), to_json(&index).unwrap()).unwrap();
        let layout = Layout::open(directory.path()).unwrap();
        for (name, content) in [("a:1", b"a"), ("docker.io/t/a:1", b"a"), ("docker.io/t/b:latest", b"b")] {
            let found = layout.entries(Some(name)).unwrap();
            assert_eq!((found.len(), found[0].digest), (1, Digest::of(content)), "{name}");
        }
        assert_eq!(layout.entries(None).unwrap().len(), 3);
        let none = layout.entries(Some("a")).unwrap_err().to_string();
        assert!(none.ends_with("has no image `a`: it has a:1, latest"), "{none}");
    }

    #[test]
    fn what_is_no_file_in_place_of_a_blob_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        fs_err::write(directory.path().join(MARKER), VERSION).unwrap();
        let layout = Layout::open(directory.path()).unwrap();
        let entry = Descriptor::of("", b"a");
        let path = layout.blob_path(&entry.digest);
        fs_err::create_dir_all(&path).unwrap();
        let error = layout.read_json(&entry).unwrap_err().to_string();
        assert!(error.ends_with("is no regular file"), "{error}");
    }
}
