//! Paths that several wheels of one image bring: the last by normalised name wins, and differing content is warned of.
//!
//! To know, every wheel's paths are needed, and reading them from the wheel takes long for one with thousands of files.
//! So the hashes of its paths are remembered, eight bytes a file, and wheels are opened again only where hashes meet.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use kiln_plan::lock::LockedWheel;
use kiln_plan::step::StepKey;
use kiln_wheel::install::{Content, InstalledFile, MAPPING_VERSION, Scheme, Wheel};
use serde::{Deserialize, Serialize};

use crate::error::{BuildError, Result};
use crate::project::Project;
use crate::steps::scheme_key;

/// Who brings a path.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Overlap {
    /// The place of the wheel that wins.
    pub(crate) winner: usize,
    /// The places of the others.
    pub(crate) losers: BTreeSet<usize>,
}

/// Hashes of what a wheel installs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PathHashes {
    files: Vec<u64>,
    directories: Vec<u64>,
}

impl Project<'_> {
    /// Paths that more than one of these wheels brings. Wheels that are not in the store yet are left out: the caller
    /// asks again when they are.
    pub(crate) fn overlaps(&self, wheels: &[LockedWheel], scheme: &Scheme) -> Result<BTreeMap<String, Overlap>> {
        let mut seen: HashMap<u64, usize> = HashMap::new();
        let mut directories: HashMap<u64, usize> = HashMap::new();
        let mut meeting: BTreeSet<usize> = BTreeSet::new();
        for (at, wheel) in wheels.iter().enumerate() {
            let Some(hashes) = self.path_hashes(wheel, scheme)? else { continue };
            for hash in hashes.files {
                if let Some(other) = seen.insert(hash, at) {
                    meeting.extend([other, at]);
                }
            }
            directories.extend(hashes.directories.into_iter().map(|hash| (hash, at)));
        }
        for (hash, at) in &seen {
            if let Some(other) = directories.get(hash) {
                return Err(file_and_directory(&wheels[*at], &wheels[*other]));
            }
        }
        let mut brought: BTreeMap<String, Vec<(usize, InstalledFile)>> = BTreeMap::new();
        for &at in &meeting {
            for file in self.installed(&wheels[at], scheme)? {
                brought.entry(file.path.clone()).or_default().push((at, file));
            }
        }
        let mut overlaps = BTreeMap::new();
        for (path, by) in brought {
            let Some(((winner, file), losers)) = by.split_last().filter(|(_, losers)| !losers.is_empty()) else {
                continue;
            };
            for (loser, other) in losers.iter().filter(|(_, other)| !same(&other.content, &file.content)) {
                let (loses, wins) = (&wheels[*loser].file, &wheels[*winner].file);
                self.warn(format!(
                    "`{loses}` and `{wins}` both bring `{}` with different content; the latter wins",
                    other.path
                ));
            }
            let losers = losers.iter().map(|(at, _)| *at).collect();
            overlaps.insert(path, Overlap { winner: *winner, losers });
        }
        Ok(overlaps)
    }

    /// The hashes of the paths that a wheel installs, sorted; nothing if the wheel is not in the store.
    fn path_hashes(&self, wheel: &LockedWheel, scheme: &Scheme) -> Result<Option<PathHashes>> {
        if let Some(hashes) = self.store.recall(&paths_key(wheel, scheme))? {
            return Ok(Some(hashes));
        }
        if !self.store.has_blob(&wheel.sha256) {
            return Ok(None);
        }
        let files = self.installed(wheel, scheme)?;
        self.remember_paths(wheel, scheme, &files).map(Some)
    }

    /// Remembers the hashes of the paths that a wheel installs.
    pub(crate) fn remember_paths(
        &self,
        wheel: &LockedWheel,
        scheme: &Scheme,
        files: &[InstalledFile],
    ) -> Result<PathHashes> {
        let hash = |path: &str| {
            let hash = blake3::hash(path.as_bytes());
            hash.as_bytes().iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
        };
        let above = |file: &'_ InstalledFile| {
            let path = file.path.clone();
            let ends: Vec<usize> = path.match_indices('/').map(|(at, _)| at).collect();
            ends.into_iter().map(move |end| path[..end].to_owned())
        };
        let directories: BTreeSet<String> = files.iter().flat_map(above).collect();
        let hashes = PathHashes {
            files: files.iter().map(|file| hash(&file.path)).collect(),
            directories: directories.iter().map(|path| hash(path)).collect(),
        };
        self.store.remember(&paths_key(wheel, scheme), &hashes)?;
        Ok(hashes)
    }

    /// What an installer would write for a wheel of the store.
    pub(crate) fn installed(&self, wheel: &LockedWheel, scheme: &Scheme) -> Result<Vec<InstalledFile>> {
        self.installed_from(wheel, self.store.open_blob(&wheel.sha256)?, scheme)
    }

    /// The same for a wheel in an open file.
    pub(crate) fn installed_from(
        &self,
        wheel: &LockedWheel,
        file: fs_err::File,
        scheme: &Scheme,
    ) -> Result<Vec<InstalledFile>> {
        let unusable = |error: Box<dyn std::error::Error + Send + Sync>| {
            BuildError::step(format!("the wheel `{}` cannot be used", wheel.file), error)
        };
        let name =
            wheel.file.parse().map_err(|error| unusable(Box::<kiln_wheel::name::InvalidWheelName>::new(error)))?;
        let size = file.metadata()?.len();
        let reader = kiln_wheel::archive::FileReader::from(file.into_file());
        let wheel = Wheel::open(name, reader, size).map_err(|error| unusable(error.into()))?;
        wheel.install(scheme).map_err(|error| unusable(error.into()))
    }
}

fn file_and_directory(one: &LockedWheel, other: &LockedWheel) -> BuildError {
    let what = format!("`{}` and `{}` cannot be installed together", one.file, other.file);
    BuildError::step(what, "the former has a file where the latter has a directory")
}

fn paths_key(wheel: &LockedWheel, scheme: &Scheme) -> StepKey {
    scheme_key(StepKey::of("path hashes", MAPPING_VERSION).digest("wheel", &wheel.sha256), scheme).finish()
}

/// Whether two files have the same content, as far as checksums tell.
fn same(one: &Content, other: &Content) -> bool {
    match (one, other) {
        (Content::Entry(one), Content::Entry(other)) => (one.crc, one.size) == (other.crc, other.size),
        (Content::Bytes(one), Content::Bytes(other)) => one == other,
        (Content::Entry(entry), Content::Bytes(bytes)) | (Content::Bytes(bytes), Content::Entry(entry)) => {
            entry.size == bytes.len() as u64
        }
    }
}
