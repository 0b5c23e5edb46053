//! Paths that several wheels of one image bring: the last by normalised name wins, and differing content is warned of.
//!
//! To know, every wheel's paths are needed, and reading them from the wheel takes long for one with thousands of files.
//! So the hashes of its paths are remembered, eight bytes a file, and lists are looked at again only where hashes meet.
//! What came out is remembered for the wheels of an image together. Machines that share a cache share both, so that one
//! without a single wheel knows what they would do to one another.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use kiln_plan::digest::Digest;
use kiln_plan::lock::LockedWheel;
use kiln_plan::step::StepKey;
use kiln_registry::RegistryError;
use kiln_wheel::install::{Content, InstalledFile, MAPPING_VERSION, Scheme, Wheel};
use serde::{Deserialize, Serialize};

use crate::error::{BuildError, Result};
use crate::project::Project;
use crate::steps::scheme_key;

/// Raised when the same wheels would give other overlaps, or a list of paths is written in another way.
const OVERLAPS_VERSION: u32 = 1;
/// Bytes that a list of paths may have, compressed and not.
const LIST_LIMIT: u64 = 64 << 20;
const LIST_LEVEL: i32 = 9;

/// Who brings a path.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Overlap {
    /// The place of the wheel that wins.
    pub(crate) winner: usize,
    /// The places of the others.
    pub(crate) losers: BTreeSet<usize>,
}

/// What wheels do to one another.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Overlaps {
    /// Paths that more than one of them brings.
    pub(crate) by_path: BTreeMap<String, Overlap>,
    /// What is worth knowing.
    warnings: Vec<String>,
    /// Wheels of which nothing is known yet: the caller asks again when they are here.
    #[serde(skip)]
    pub(crate) unknown: Vec<LockedWheel>,
}

/// Hashes of what a wheel installs.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PathHashes {
    pub(crate) files: Vec<u64>,
    pub(crate) directories: Vec<u64>,
}

/// A file that a wheel brings: path, bytes, CRC-32.
pub(crate) type Brought = (String, u64, u32);

/// Where the cache keeps a list of [`Brought`], as JSON in zstd.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(crate) struct PathList {
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

impl Project<'_> {
    /// What these wheels do to one another.
    pub(crate) fn overlaps(&self, wheels: &[LockedWheel], scheme: &Scheme) -> Result<Overlaps> {
        if wheels.len() < 2 {
            return Ok(Overlaps::default());
        }
        let key = overlaps_key(wheels, scheme);
        let mut known: Option<Overlaps> = self.store.recall(&key)?;
        if known.is_none() {
            known = self.recall_remote(&[key])?.pop().flatten();
        }
        let found = match known {
            Some(known) => known,
            None => {
                let found = self.find_overlaps(wheels, scheme)?;
                // What rests on lists of others is theirs to tell.
                if found.unknown.is_empty() && wheels.iter().all(|wheel| self.store.has_blob(&wheel.sha256)) {
                    self.store.remember(&key, &found)?;
                }
                found
            }
        };
        found.warnings.iter().for_each(|warning| self.warn(warning));
        Ok(found)
    }

    fn find_overlaps(&self, wheels: &[LockedWheel], scheme: &Scheme) -> Result<Overlaps> {
        let mut seen: HashMap<u64, usize> = HashMap::new();
        let mut directories: HashMap<u64, usize> = HashMap::new();
        let mut meeting: BTreeSet<usize> = BTreeSet::new();
        let mut overlaps = Overlaps::default();
        for (at, hashes) in self.path_hashes(wheels, scheme)?.into_iter().enumerate() {
            let Some(hashes) = hashes else {
                overlaps.unknown.push(wheels[at].clone());
                continue;
            };
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
        let mut brought: BTreeMap<String, Vec<(usize, Brought)>> = BTreeMap::new();
        for &at in &meeting {
            match self.brought(&wheels[at], scheme)? {
                Some(files) => {
                    for file in files {
                        brought.entry(file.0.clone()).or_default().push((at, file));
                    }
                }
                None => overlaps.unknown.push(wheels[at].clone()),
            }
        }
        for (path, by) in brought {
            let Some(((winner, file), losers)) = by.split_last().filter(|(_, losers)| !losers.is_empty()) else {
                continue;
            };
            for (loser, other) in losers.iter().filter(|(_, other)| other != file) {
                let (loses, wins) = (&wheels[*loser].file, &wheels[*winner].file);
                overlaps.warnings.push(format!(
                    "`{loses}` and `{wins}` both bring `{}` with different content; the latter wins",
                    other.0
                ));
            }
            let losers = losers.iter().map(|(at, _)| *at).collect();
            overlaps.by_path.insert(path, Overlap { winner: *winner, losers });
        }
        Ok(overlaps)
    }

    /// The hashes of the paths that each wheel installs; nothing for wheels that neither this machine nor the cache
    /// knows.
    pub(crate) fn path_hashes(&self, wheels: &[LockedWheel], scheme: &Scheme) -> Result<Vec<Option<PathHashes>>> {
        let mut all: Vec<Option<PathHashes>> = Vec::new();
        for wheel in wheels {
            all.push(self.store.recall(&paths_key(wheel, scheme))?);
        }
        let elsewhere = |at: &usize| all[*at].is_none() && !self.store.has_blob(&wheels[*at].sha256);
        let ask: Vec<StepKey> = (0..wheels.len()).filter(elsewhere).map(|at| list_key(&wheels[at], scheme)).collect();
        self.recall_remote::<PathList>(&ask)?;
        for (wheel, hashes) in wheels.iter().zip(&mut all).filter(|(_, hashes)| hashes.is_none()) {
            if let Some(files) = self.brought(wheel, scheme)? {
                let found = hash_paths(&files.iter().map(|file| file.0.as_str()).collect::<Vec<_>>());
                if self.store.has_blob(&wheel.sha256) {
                    self.store.remember(&paths_key(wheel, scheme), &found)?;
                }
                *hashes = Some(found);
            }
        }
        Ok(all)
    }

    /// Records the hashes of the paths that a wheel installs.
    pub(crate) fn remember_paths(&self, wheel: &LockedWheel, scheme: &Scheme, hashes: &PathHashes) -> Result<()> {
        Ok(self.store.remember(&paths_key(wheel, scheme), hashes)?)
    }

    /// The files that a wheel brings, from the wheel or from the list that another machine made of it.
    pub(crate) fn brought(&self, wheel: &LockedWheel, scheme: &Scheme) -> Result<Option<Vec<Brought>>> {
        if self.store.has_blob(&wheel.sha256) {
            let files = self.installed(wheel, scheme)?;
            return Ok(Some(files.into_iter().map(brought).collect()));
        }
        let list: Option<PathList> = self.recall_remote(&[list_key(wheel, scheme)])?.pop().flatten();
        let (Some(list), Some(cache)) = (list, self.cache()) else { return Ok(None) };
        if !self.store.has_blob(&list.digest) {
            match self.registries()?.blob(&cache.remote, &list.digest, LIST_LIMIT) {
                Ok(bytes) => self.store.add(&bytes)?,
                Err(RegistryError::Interrupted) => return Err(BuildError::Interrupted),
                // A list that cannot be had is as good as one that was never made.
                Err(error) if error.is_not_found() => return Ok(None),
                Err(error) => {
                    self.give_up_cache(&error.into());
                    return Ok(None);
                }
            };
        }
        Ok(read_list(&self.store.read(&list.digest)?))
    }

    /// The list of the files that a wheel of the store brings, as the cache keeps it.
    pub(crate) fn path_list(&self, wheel: &LockedWheel, scheme: &Scheme) -> Result<Vec<u8>> {
        let files: Vec<Brought> = self.installed(wheel, scheme)?.into_iter().map(brought).collect();
        Ok(write_list(&files)?)
    }

    /// What an installer would write for a wheel of the store.
    pub(crate) fn installed(&self, wheel: &LockedWheel, scheme: &Scheme) -> Result<Vec<InstalledFile>> {
        self.installed_from(wheel, self.store.open_hashed(&wheel.sha256)?, scheme)
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

/// Returns the hashes of the paths of files, and of the directories that they lie in.
pub(crate) fn path_hashes(files: &[InstalledFile]) -> PathHashes {
    hash_paths(&files.iter().map(|file| file.path.as_str()).collect::<Vec<_>>())
}

/// Returns eight bytes of the hash of a path.
pub(crate) fn hash_path(path: &str) -> u64 {
    blake3::hash(path.as_bytes()).as_bytes().iter().take(8).fold(0, |sum, byte| sum << 8 | u64::from(*byte))
}

fn hash_paths(paths: &[&str]) -> PathHashes {
    let directories: BTreeSet<&str> =
        paths.iter().flat_map(|path| path.match_indices('/').map(|(end, _)| &path[..end])).collect();
    let hash = |path: &&str| hash_path(path);
    PathHashes { files: paths.iter().map(hash).collect(), directories: directories.iter().map(hash).collect() }
}

/// The key of the hashes of a wheel's paths.
fn paths_key(wheel: &LockedWheel, scheme: &Scheme) -> StepKey {
    scheme_key(StepKey::of("path hashes", MAPPING_VERSION).digest("wheel", &wheel.sha256), scheme).finish()
}

/// The key of the list of a wheel's paths.
pub(crate) fn list_key(wheel: &LockedWheel, scheme: &Scheme) -> StepKey {
    let key = StepKey::of("path list", OVERLAPS_VERSION).number("mapping", u64::from(MAPPING_VERSION));
    scheme_key(key.digest("wheel", &wheel.sha256), scheme).finish()
}

/// The key of what wheels do to one another.
pub(crate) fn overlaps_key(wheels: &[LockedWheel], scheme: &Scheme) -> StepKey {
    let key = StepKey::of("overlaps", OVERLAPS_VERSION).number("mapping", u64::from(MAPPING_VERSION));
    scheme_key(key.list("wheels", wheels.iter().map(|wheel| wheel.sha256.to_string())), scheme).finish()
}

fn brought(file: InstalledFile) -> Brought {
    match file.content {
        Content::Entry(entry) => (file.path, entry.size, entry.crc),
        Content::Bytes(bytes) => (file.path, bytes.len() as u64, crc32fast::hash(&bytes)),
    }
}

/// Writes a list of paths as the cache keeps it.
pub(crate) fn write_list(files: &[(String, u64, u32)]) -> std::io::Result<Vec<u8>> {
    zstd::bulk::compress(&serde_json::to_vec(files)?, LIST_LEVEL)
}

/// Reads a list of paths; nothing where it is none, or too long.
pub(crate) fn read_list(bytes: &[u8]) -> Option<Vec<(String, u64, u32)>> {
    use std::io::Read as _;
    let mut json = Vec::new();
    zstd::stream::Decoder::new(bytes).ok()?.take(LIST_LIMIT).read_to_end(&mut json).ok()?;
    serde_json::from_slice(&json).ok()
}
