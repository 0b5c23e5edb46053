//! Layers of one image that contradict one another: a path that is a file in one and a directory in another. Whatever
//! unpacks them removes the one for the other, with all that lies below.
//!
//! The wheels of one image are compared in [`crate::overlaps`]. Here are those of an image and of the images below it, and
//! everything that is copied or generated. What was found to agree is recorded under the keys of what was compared.

use std::collections::{BTreeSet, HashMap};

use kiln_oci::layer::{Body, LayerFile};
use kiln_plan::lock::LockedWheel;
use kiln_plan::step::StepKey;
use kiln_wheel::install::{MAPPING_VERSION, Scheme};

use crate::error::{BuildError, Result};
use crate::overlaps::{PathHashes, hash_path};
use crate::project::Project;
use crate::steps::{Step, Task, scheme_key};

/// Raised when other layers would be found to agree.
const AGREEMENT_VERSION: u32 = 1;

/// The wheels of one image, and where they are installed.
pub(crate) type WheelTier = (Vec<LockedWheel>, Scheme);

/// The form of a path in a layer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    File,
    Link,
    /// A directory that has a member of its own.
    Directory,
    /// A directory that exists because something lies below it.
    Above,
}

impl Form {
    fn of(file: &LayerFile) -> Self {
        match file.body {
            Body::Directory => Self::Directory,
            Body::Symlink(_) => Self::Link,
            Body::Bytes(_) | Body::File(_) | Body::Entry(..) => Self::File,
        }
    }

    fn is_directory(self) -> bool {
        matches!(self, Self::Directory | Self::Above)
    }

    /// Returns true if the upper layer takes away what the lower has, or the lower's link leads the upper's files
    /// elsewhere than its directory says. A link below a directory that has no member of its own is followed.
    fn contradicts(lower: Self, upper: Self) -> bool {
        match (lower, upper) {
            (Self::Link, Self::Above) => false,
            (lower, upper) => lower.is_directory() != upper.is_directory(),
        }
    }

    fn word(self) -> &'static str {
        match self {
            Self::File => "a file",
            Self::Link => "a link",
            Self::Directory | Self::Above => "a directory",
        }
    }
}

/// The key of the verdict about the wheels of an image and of those below it.
pub(crate) fn tiers_key(tiers: &[WheelTier]) -> StepKey {
    let key = StepKey::of("wheels of tiers", AGREEMENT_VERSION).number("mapping", u64::from(MAPPING_VERSION));
    let add = |key, (wheels, scheme): &WheelTier| {
        scheme_key(key, scheme).list("wheels", wheels.iter().map(|wheel| wheel.sha256.to_string()))
    };
    tiers.iter().fold(key, add).finish()
}

impl Project<'_> {
    /// Refuses wheels of an image and of the images below it, lowest first, of which one has a file where another has a
    /// directory. Wheels that neither this machine nor the cache knows yet are left out: the caller asks again.
    pub(crate) fn require_agreement_of_tiers(&self, tiers: &[WheelTier]) -> Result<()> {
        if tiers.len() < 2 {
            return Ok(());
        }
        let key = tiers_key(tiers);
        if self.store.recall::<bool>(&key)?.is_some() || self.recall_remote::<bool>(&[key])?.contains(&Some(true)) {
            return Ok(());
        }
        let mut all = Vec::new();
        for (wheels, scheme) in tiers {
            for (wheel, hashes) in wheels.iter().zip(self.path_hashes(wheels, scheme)?) {
                all.push((wheel, scheme, hashes));
            }
        }
        let mut files: HashMap<u64, usize> = HashMap::new();
        for (at, (.., hashes)) in all.iter().enumerate() {
            files.extend(hashes.iter().flat_map(|hashes| &hashes.files).map(|hash| (*hash, at)));
        }
        for (at, (.., hashes)) in all.iter().enumerate() {
            for hash in hashes.iter().flat_map(|hashes| &hashes.directories) {
                if let Some(other) = files.get(hash).filter(|other| **other != at) {
                    let ((file, scheme, _), (directory, ..)) = (&all[*other], &all[at]);
                    if let Some(path) = self.path_of(file, scheme, *hash)? {
                        return Err(contradiction(&path, (Form::File, &file.file), (Form::Directory, &directory.file)));
                    }
                }
            }
        }
        if all.iter().all(|(wheel, _, hashes)| hashes.is_some() && self.store.has_blob(&wheel.sha256)) {
            self.store.remember(&key, &true)?;
        }
        Ok(())
    }

    /// Returns the file of a wheel whose path has this hash.
    fn path_of(&self, wheel: &LockedWheel, scheme: &Scheme, hash: u64) -> Result<Option<String>> {
        let files = self.brought(wheel, scheme)?.unwrap_or_default();
        Ok(files.into_iter().map(|(path, ..)| path).find(|path| hash_path(path) == hash))
    }

    /// Refuses steps of an image and of the images below it, lowest first, that contradict one another in what is copied
    /// or generated.
    pub(crate) fn require_agreement(&self, steps: &[&Step]) -> Result<()> {
        let key = StepKey::of("agreement of layers", AGREEMENT_VERSION);
        let key = key.list("steps", steps.iter().map(|step| step.key.hex())).finish();
        if self.store.recall::<bool>(&key)?.is_some() {
            return Ok(());
        }
        let members: Vec<(usize, Vec<LayerFile>)> = steps
            .iter()
            .enumerate()
            .filter_map(|(at, step)| match &step.task {
                Task::Wheels(_) => None,
                Task::Files(files) => Some((at, files.clone())),
                Task::Copy(source) => Some((at, source.layer_files())),
            })
            .collect();
        let mut paths: HashMap<&str, BTreeSet<(usize, Form)>> = HashMap::new();
        for (at, files) in &members {
            for file in files {
                for (slash, _) in file.path.match_indices('/') {
                    paths.entry(&file.path[..slash]).or_default().insert((*at, Form::Above));
                }
                paths.entry(&file.path).or_default().insert((*at, Form::of(file)));
            }
        }
        let mut found: Vec<&str> = paths.keys().copied().collect();
        found.sort_unstable();
        for path in &found {
            require_one_form(path, &paths[path], steps)?;
        }
        let mut complete = true;
        for (at, step) in steps.iter().enumerate() {
            if let Task::Wheels(task) = &step.task {
                let touching: Vec<&str> =
                    found.iter().copied().filter(|path| touches(path, &paths[path], &task.scheme)).collect();
                if !touching.is_empty() {
                    complete &=
                        self.require_agreement_with(at, &task.wheels, &task.scheme, &touching, &paths, steps)?;
                }
            }
        }
        if complete {
            self.store.remember(&key, &true)?;
        }
        Ok(())
    }

    /// Compares the wheels of a step with paths of others; false where not all wheels are known.
    fn require_agreement_with(
        &self,
        at: usize,
        wheels: &[LockedWheel],
        scheme: &Scheme,
        touching: &[&str],
        paths: &HashMap<&str, BTreeSet<(usize, Form)>>,
        steps: &[&Step],
    ) -> Result<bool> {
        let mut complete = true;
        for (wheel, hashes) in wheels.iter().zip(self.path_hashes(wheels, scheme)?) {
            let Some(PathHashes { files, directories }) = hashes else {
                complete = false;
                continue;
            };
            let (files, directories) = (BTreeSet::from_iter(files), BTreeSet::from_iter(directories));
            for path in touching {
                let hash = hash_path(path);
                let of_wheel = match (files.contains(&hash), directories.contains(&hash)) {
                    (true, _) => Form::File,
                    (_, true) => Form::Directory,
                    _ => continue,
                };
                for (other, form) in &paths[path] {
                    let pair = if *other < at { (*form, of_wheel) } else { (of_wheel, *form) };
                    if Form::contradicts(pair.0, pair.1) {
                        return Err(contradiction(path, (of_wheel, &wheel.file), (*form, &steps[*other].name)));
                    }
                }
            }
        }
        Ok(complete)
    }
}

/// Returns true for a path that a wheel could have in another form.
fn touches(path: &str, forms: &BTreeSet<(usize, Form)>, scheme: &Scheme) -> bool {
    let below = |directory: &str, path: &str| {
        path.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
    };
    below(&scheme.data, path) || (below(path, &scheme.data) && forms.iter().any(|(_, form)| !form.is_directory()))
}

fn require_one_form(path: &str, forms: &BTreeSet<(usize, Form)>, steps: &[&Step]) -> Result<()> {
    let forms: Vec<&(usize, Form)> = forms.iter().collect();
    for (upper, pair) in forms.iter().enumerate() {
        for lower in &forms[..upper] {
            if lower.0 != pair.0 && Form::contradicts(lower.1, pair.1) {
                let name = |at: usize| steps[at].name.as_str();
                return Err(contradiction(path, (lower.1, name(lower.0)), (pair.1, name(pair.0))));
            }
        }
    }
    Ok(())
}

fn contradiction(path: &str, (form, name): (Form, &str), (other_form, other): (Form, &str)) -> BuildError {
    BuildError::Mistake {
        message: format!(
            "`/{path}` is {} in `{name}` and {} in `{other}`: in an image the one removes the other",
            form.word(),
            other_form.word()
        ),
        hint: "copy it to another path, or leave one of the two out".into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_contradicts_a_directory_and_a_link_only_one_that_would_replace_it() {
        use Form::{Above, Directory, File, Link};
        for (lower, upper) in [(File, Above), (File, Directory), (Directory, File), (Above, Link), (Link, Directory)] {
            assert!(Form::contradicts(lower, upper), "{lower:?} {upper:?}");
        }
        for (lower, upper) in [(File, File), (File, Link), (Link, File), (Link, Above), (Above, Directory)] {
            assert!(!Form::contradicts(lower, upper), "{lower:?} {upper:?}");
        }
    }
}
