//! A stack in its directory.

use std::collections::BTreeSet;
use std::path::PathBuf;

use kiln_oci::layout::split_name;
use kiln_plan::gpu::Capability;
use kiln_plan::lock::{Lock, LockError, LockedImage};
use kiln_plan::stack::{Image, Stack};
use kiln_store::{AtomicFile, open_regular};
use kiln_wheel::name::WheelName;

use crate::error::{BuildError, ProjectError, Result};
use crate::workshop::Workshop;

/// A stack in its directory, and the workshop that it is built in.
pub struct Project<'a> {
    /// The directory of the stack file.
    pub directory: PathBuf,
    /// The stack file.
    pub file: PathBuf,
    /// The stack.
    pub stack: Stack,
    /// What it is built with.
    pub workshop: Workshop<'a>,
}

impl Project<'_> {
    /// Returns the path of the lock, which has the stack file's name: `kiln.lock` beside `kiln.toml`, `cpu.lock` beside `cpu.toml`.
    pub fn lock_path(&self) -> PathBuf {
        self.directory.join(self.lock_name())
    }

    /// Returns the file name of the lock.
    pub fn lock_name(&self) -> String {
        let stem = self.file.file_stem().unwrap_or_default().to_string_lossy();
        format!("{stem}.lock")
    }

    /// Reads the lock, if there is one.
    pub fn read_lock(&self) -> Result<Option<Lock>> {
        let path = self.lock_path();
        let text = match open_regular(&path).and_then(std::io::read_to_string) {
            Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(None),
            text => text?,
        };
        let path = path.display().to_string();
        let lock = Lock::parse(&text).and_then(|lock| require_own_wheels(&lock).map(|()| lock));
        lock.map(Some).map_err(|source| BuildError::Lock { path, source })
    }

    /// Writes the lock, unless it says the same already.
    pub fn write_lock(&self, lock: &Lock) -> Result<()> {
        let (path, text) = (self.lock_path(), lock.text());
        if open_regular(&path).and_then(std::io::read_to_string).is_ok_and(|old| old == text) {
            return Ok(());
        }
        // What the lock names is on the disk before it.
        self.workshop.store.sync()?;
        Ok(AtomicFile::write(&path, text.as_bytes())?)
    }

    /// A path of the stack file. It must not leave the project by way of symbolic links either.
    pub fn path(&self, relative: &str) -> Result<PathBuf> {
        let path = self.directory.join(relative);
        let directory = || self.directory.display().to_string();
        let real = fs_err::canonicalize(&path)
            .map_err(|_| ProjectError::Absent { path: relative.to_owned(), directory: directory() })?;
        if real.starts_with(fs_err::canonicalize(&self.directory)?) {
            return Ok(path);
        }
        Err(ProjectError::Outside(relative.to_owned()).into())
    }

    /// A path of the stack file that may lead above its directory, within the repository: up to the nearest directory with a
    /// `.git`.
    pub(crate) fn repository_path(&self, relative: &str) -> Result<PathBuf> {
        let absent =
            || ProjectError::Absent { path: relative.to_owned(), directory: self.directory.display().to_string() };
        let real = fs_err::canonicalize(self.directory.join(relative)).map_err(|_| absent())?;
        if real.starts_with(self.working_tree()?) {
            return Ok(self.directory.join(relative));
        }
        Err(ProjectError::OutsideRepository(relative.to_owned()).into())
    }

    /// Returns the repository, without links in its path: the nearest directory with a `.git`, else the stack file's.
    pub(crate) fn working_tree(&self) -> Result<PathBuf> {
        let directory = fs_err::canonicalize(&self.directory)?;
        let repository = directory.ancestors().find(|above| above.join(".git").exists());
        Ok(repository.unwrap_or(&directory).to_owned())
    }

    /// Returns the directory of a layout that the stack file names, `DIR` or `DIR:NAME`, and the name of an image in it.
    pub(crate) fn layout(&self, text: &str) -> Result<(PathBuf, Option<String>)> {
        let (directory, name) = split_name(text, |directory| self.directory.join(directory).is_dir());
        Ok((self.path(directory)?, name.map(str::to_owned)))
    }

    /// Returns the capabilities of the GPUs that an image is for, ascending.
    pub fn gpus(&self, image: &Image, lock: &Lock) -> Vec<Capability> {
        let target = &image.target;
        let native = lock.native_gpus.iter().filter(|_| target.native_gpus).filter_map(|text| text.parse().ok());
        let named = target.gpus.iter().map(|architecture| architecture.capability);
        let mut gpus: Vec<Capability> = named.chain(native).collect();
        gpus.sort_unstable();
        gpus.dedup();
        gpus
    }
}

/// Refuses a lock in which a package has a wheel of another name or version, or is there twice in an image: somebody merged two
/// locks, or changed one.
fn require_own_wheels(lock: &Lock) -> std::result::Result<(), LockError> {
    let damaged = |message: String| LockError::Damaged { line: 1, message };
    let wheels = lock.wheels_by_digest();
    for image in &lock.images {
        let mut names = BTreeSet::new();
        for package in &image.packages {
            if !names.insert(&package.name) {
                return Err(damaged(format!("`{}` has {} twice", image.name, package.name)));
            }
            let Some(wheel) = wheels.get(&package.wheel) else { continue };
            let Ok(name) = wheel.file.parse::<WheelName>() else { continue };
            let version = package.version.parse::<pep440_rs::Version>();
            if name.name.as_ref() != package.name || version.is_ok_and(|version| version != name.version) {
                let (package, version) = (&package.name, &package.version);
                return Err(damaged(format!("{package} {version} of `{}` has the wheel {}", image.name, wheel.file)));
            }
        }
    }
    for (at, image) in lock.images.iter().enumerate() {
        let same = |other: &LockedImage| {
            (&other.name, other.platform, &other.variant) == (&image.name, image.platform, &image.variant)
        };
        if lock.images[..at].iter().any(same) {
            return Err(damaged(format!("`{}` is there twice for {}", image.name, image.platform)));
        }
    }
    Ok(())
}
