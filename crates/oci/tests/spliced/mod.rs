//! Wheels made in memory and brought as far as splicing, as a build does it.

use std::sync::Arc;

use kiln_oci::layer::{Body, Directories, Layer, LayerFile};
use kiln_oci::{AtHand, InflatePool, OciError, Source};
use kiln_plan::digest::Digest;
use kiln_plan::event::{Cancel, Silent, Work};
use kiln_store::Store;
use kiln_wheel::archive::FileReader;
use kiln_wheel::install::{Content, InstalledFile, Scheme, Wheel};

/// A store of its own.
pub(crate) struct Workshop {
    pub(crate) store: Store,
    pub(crate) pool: InflatePool,
    cancel: Cancel,
    _directory: tempfile::TempDir,
}

impl Workshop {
    pub(crate) fn new(threads: usize) -> Self {
        let directory = tempfile::tempdir().unwrap();
        let cancel = Cancel::default();
        let pool = InflatePool::new(threads, &cancel).unwrap();
        Self { store: Store::open(directory.path()).unwrap(), pool, cancel, _directory: directory }
    }

    pub(crate) fn work(&self) -> Work<'_> {
        Work::start(&Silent, &self.cancel, "splice", "test", None)
    }

    /// Puts a wheel into the store.
    pub(crate) fn source(&self, name: String, bytes: &[u8]) -> Source {
        let digest = self.store.add(bytes).unwrap();
        let file = Arc::new(self.store.open_blob(&digest).unwrap());
        Source { name, digest, file, unverified: false, at_hand: AtHand::default() }
    }

    pub(crate) fn splice(&self, sources: &[Source], files: Vec<LayerFile>) -> Result<Layer, OciError> {
        kiln_oci::splice(&self.store, &self.pool, sources, files, &self.work())
    }
}

pub(crate) fn scheme() -> Scheme {
    Scheme::venv("3.11")
}

/// What an installer would write for a wheel.
pub(crate) fn installed(source: &Source) -> Result<Vec<InstalledFile>, String> {
    let file = source.file.try_clone().unwrap().into_file();
    let size = file.metadata().unwrap().len();
    let wheel = Wheel::open(source.name.parse().unwrap(), FileReader::from(file), size);
    wheel.and_then(|wheel| wheel.install(&scheme())).map_err(|error| error.to_string())
}

/// The members of one layer of these wheels.
pub(crate) fn members(wheels: &[Vec<InstalledFile>]) -> Vec<LayerFile> {
    let (mut directories, mut members) = (Directories::default(), Vec::new());
    for (place, files) in wheels.iter().enumerate() {
        for file in files {
            directories.above(&file.path, |directory| scheme().exists(directory), &mut members);
            let body = match &file.content {
                Content::Entry(entry) => Body::Entry(place, entry.clone()),
                Content::Bytes(bytes) => Body::Bytes(bytes.clone()),
            };
            let mode = if file.executable { 0o755 } else { 0o644 };
            members.push(LayerFile::new(file.path.clone(), mode, body));
        }
    }
    members
}

/// Bytes that do not compress, different for each seed.
pub(crate) fn noise(seed: u64, length: usize) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1;
    let mut word = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        state.to_le_bytes()
    };
    let mut bytes: Vec<u8> = std::iter::repeat_with(&mut word).take(length.div_ceil(8)).flatten().collect();
    bytes.truncate(length);
    bytes
}

/// The whole of a layer as the store gives it, checked to be what its digest says.
pub(crate) fn read(store: &Store, layer: &Layer) -> Vec<u8> {
    let mut bytes = Vec::new();
    std::io::Read::read_to_end(&mut store.open_content(&layer.digest).unwrap(), &mut bytes).unwrap();
    assert_eq!((Digest::of(&bytes), bytes.len() as u64), (layer.digest, layer.size));
    bytes
}
