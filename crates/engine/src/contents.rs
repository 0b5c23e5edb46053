//! The provable facts of layers and wheels: GPU code, and what the loader reads. Each layer is read once, and what was
//! found is remembered under its digest.
//!
//! Files are streamed through; only those that are looked into are kept meanwhile, in memory or, where they are large, in
//! a file of the store.

use std::collections::BTreeMap;
use std::io::{self, Read, Seek as _, SeekFrom, Write as _};
use std::path::Path;
use std::sync::Arc;

use crate::bytes::Blobs;
use kiln_fatbin::{Depth, Listing, Source, list_named, may_be_listed};
use kiln_link::{Node, Object, Tree, What, is_configuration};
use kiln_oci::InflatePool;
use kiln_oci::compression::LayerTar;
use kiln_oci::facts::{Entries, Member};
use kiln_oci::image::Image;
use kiln_oci::layer::Layer;
use kiln_plan::parallel;
use kiln_plan::step::StepKey;
use kiln_wheel::archive::FileReader;
use kiln_wheel::install::Wheel;
use serde::{Deserialize, Serialize};

use crate::error::{BuildError, Result};
use crate::workshop::Workshop;

/// Raised when the same layer would be told otherwise.
const CONTENTS_VERSION: u32 = 7;
/// Bytes of a file that are kept in memory.
const IN_MEMORY: u64 = 8 << 20;
/// Bytes that a configuration file of the loader may have.
const CONFIGURATION: u64 = 64 << 10;

/// The provable facts of a layer or a wheel.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Contents {
    /// The files that the loader sees, in the order of the archive.
    pub nodes: Vec<Node>,
    /// Files with GPU code.
    pub code: Vec<FileCode>,
}

/// A file with GPU code.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct FileCode {
    /// Its path, without a leading slash.
    pub path: String,
    /// Its code, or the reason for which that could not be found out.
    pub listing: std::result::Result<Listing, String>,
    /// The major version of CUDA that it is linked with, where that is known.
    #[serde(default)]
    pub cuda: Option<u8>,
}

impl Workshop<'_> {
    /// The provable facts of each layer of an image, bottom first.
    pub fn image_contents(&self, image: &Image, blobs: &Blobs<'_>) -> Result<Vec<Contents>> {
        parallel::each(&image.layers, self.surroundings.jobs, |layer| self.layer_contents(layer, blobs))
    }

    /// The GPU code of an image as far as its layers are on this machine, and how many of them are not.
    pub fn gpu_code(&self, image: &Image) -> Result<(Vec<FileCode>, usize)> {
        let blobs = Blobs { registries: None, ..self.blobs() };
        let mut here = image.clone();
        let mut elsewhere = 0;
        for layer in std::mem::take(&mut here.layers) {
            match blobs.opener(&layer.digest, layer.size)? {
                Some(_) => here.layers.push(layer),
                None => elsewhere += 1,
            }
        }
        Ok((stacked(self.image_contents(&here, &blobs)?).1, elsewhere))
    }

    /// The provable facts of a layer.
    pub(crate) fn layer_contents(&self, layer: &Layer, blobs: &Blobs<'_>) -> Result<Contents> {
        let key = StepKey::of("contents", CONTENTS_VERSION).digest("layer", &layer.diff_id).finish();
        if let Some(contents) = self.store.recall(&key)? {
            return Ok(contents);
        }
        let unreadable = |error: Box<dyn std::error::Error + Send + Sync>| BuildError::Unreadable {
            what: format!("the layer {}", layer.digest.short()),
            source: error,
        };
        let work = self.work("inspect", layer.digest.short(), Some(layer.size));
        let temporary = self.store.temporary_directory()?;
        let blob = blobs.open(&layer.digest, layer.size)?;
        let mut tar = LayerTar::open(layer, blob).map_err(|error| unreadable(error.into()))?;
        let mut entries = Entries::new(&mut tar);
        let mut contents = Contents::default();
        while let Some(member) = entries.next_member().map_err(|error| unreadable(error.into()))? {
            contents.member(&member, &mut entries, temporary.path()).map_err(|error| unreadable(error.into()))?;
            work.advance(0)?;
        }
        tar.verify().map_err(|error| unreadable(error.into()))?;
        self.store.remember(&key, &contents)?;
        Ok(contents)
    }

    /// The provable facts of a wheel.
    pub fn wheel_contents(&self, file_name: &str, file: fs_err::File) -> Result<Contents> {
        let unreadable = |error: Box<dyn std::error::Error + Send + Sync>| BuildError::Wheel {
            file: file_name.to_owned(),
            source: error,
        };
        let name = file_name.parse().map_err(|error: kiln_wheel::name::InvalidWheelName| unreadable(error.into()))?;
        let size = file.metadata()?.len();
        let reader = FileReader::from(file.try_clone()?.into_file());
        let wheel = Wheel::open(name, reader, size).map_err(|error| unreadable(error.into()))?;
        let pool = InflatePool::new(self.surroundings.jobs, &self.cancel)?;
        let (file, work) = (Arc::new(file), self.work("inspect", file_name, None));
        let temporary = self.store.temporary_directory()?;
        let mut contents = Contents::default();
        for entry in wheel.archive.entries() {
            let start = wheel.archive.beginning::<8>(entry).map_err(|error| unreadable(error.into()))?;
            if may_be_listed(&start) {
                let advance = |bytes: u64| work.advance(bytes).map_err(io::Error::from);
                let mut spool = Spool::new(entry.size, temporary.path())?;
                pool.write(file_name, &file, entry, &mut spool, &advance)?;
                contents.file(entry.path.clone(), &*spool.finish()?);
            }
        }
        Ok(contents)
    }
}

impl Contents {
    fn member(&mut self, member: &Member, data: &mut impl Read, temporary: &Path) -> io::Result<()> {
        let path = String::from_utf8_lossy(&member.path).into_owned();
        let path = path.trim_start_matches("./").trim_matches('/').to_owned();
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let within = |name: &str| if folder.is_empty() { name.to_owned() } else { format!("{folder}/{name}") };
        let link = || String::from_utf8_lossy(&member.link).into_owned();
        let (path, what) = match name.strip_prefix(".wh.") {
            Some(".wh..opq") => (folder.to_owned(), What::Opaque),
            Some(hidden) => (within(hidden), What::Whiteout),
            None if path.is_empty() || path == "." => return Ok(()),
            None if member.kind.is_dir() => (path, What::Directory),
            None if member.kind.is_symlink() => (path, What::Symlink(link())),
            None if member.kind.is_hard_link() => {
                (path, What::HardLink(link().trim_start_matches("./").trim_matches('/').to_owned()))
            }
            None => return self.regular(path, member, data, temporary),
        };
        self.nodes.push(Node { path, what });
        Ok(())
    }

    fn regular(&mut self, path: String, member: &Member, data: &mut impl Read, temporary: &Path) -> io::Result<()> {
        if is_configuration(&path) && member.size <= CONFIGURATION {
            let mut text = Vec::new();
            data.read_to_end(&mut text)?;
            let text = Some(String::from_utf8_lossy(&text).into_owned());
            self.nodes.push(Node { path, what: What::File { object: None, text } });
            return Ok(());
        }
        let mut start = Vec::with_capacity(8);
        data.by_ref().take(8).read_to_end(&mut start)?;
        if may_be_listed(&start) {
            let mut spool = Spool::new(member.size, temporary)?;
            spool.write_all(&start)?;
            io::copy(data, &mut spool)?;
            self.file(path, &*spool.finish()?);
        } else if path.contains(".so") {
            // It may lie over a library.
            self.nodes.push(Node { path, what: What::File { object: None, text: None } });
        }
        Ok(())
    }

    fn file(&mut self, path: String, source: &dyn Source) {
        let object = Object::read(source).ok().flatten().map(Box::new);
        let cuda = object.as_deref().and_then(Object::cuda);
        self.nodes.push(Node { path: path.clone(), what: What::File { object, text: None } });
        // Kernels too: reading the layer took longer, and nobody reads it again.
        let listing = match list_named(&path, source, Depth::Kernels) {
            Ok(None) => return,
            Ok(Some(listing)) => Ok(listing),
            Err(error) => Err(error.to_string()),
        };
        self.code.push(FileCode { path, listing, cuda });
    }
}

/// The content of a file while it is looked into.
enum Spool {
    Memory(Vec<u8>),
    File(Box<io::BufWriter<fs_err::File>>),
}

impl Spool {
    fn new(size: u64, temporary: &Path) -> io::Result<Self> {
        if size <= IN_MEMORY {
            return Ok(Self::Memory(Vec::new()));
        }
        let file = fs_err::File::from_parts(tempfile::tempfile_in(temporary)?, temporary);
        Ok(Self::File(Box::new(io::BufWriter::with_capacity(1 << 20, file))))
    }

    fn finish(self) -> io::Result<Box<dyn Source>> {
        Ok(match self {
            Self::Memory(bytes) => Box::new(bytes),
            Self::File(file) => {
                let mut file = file.into_inner().map_err(io::IntoInnerError::into_error)?;
                file.seek(SeekFrom::Start(0))?;
                Box::new(file)
            }
        })
    }
}

impl io::Write for Spool {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        match self {
            Self::Memory(memory) => memory.write(bytes),
            Self::File(file) => file.write(bytes),
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// Returns the picture of stacked layers, the lowest first, and the files with GPU code that no layer above hides or
/// replaces, by path.
pub(crate) fn stacked(layers: Vec<Contents>) -> (Tree, Vec<FileCode>) {
    let (mut tree, mut code) = (Tree::new(), Vec::new());
    for layer in layers {
        tree.add_layer(layer.nodes);
        code.extend(layer.code.into_iter().map(|file| (tree.layer(), file)));
    }
    // A layer may reach a directory through a link, and each of two layers the same file by another path.
    let mut files = BTreeMap::new();
    for (layer, file) in code {
        if let Some(path) = tree.landing(&file.path).filter(|path| tree.layer_of(path) == Some(layer)) {
            files.insert(path.clone(), FileCode { path, ..file });
        }
    }
    (tree, files.into_values().collect())
}
