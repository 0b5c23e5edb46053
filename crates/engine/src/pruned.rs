//! Wheels of the stack that are pruned: a step of its own, whose result is a wheel. It is found again by what went in, on
//! this machine and on others, and layers are spliced from it as from any wheel.

use std::io::Write as _;
use std::sync::Arc;

use kiln_fatbin::{PRUNE_VERSION, Selection};
use kiln_inflate::DEFLATE_VERSION;
use kiln_oci::{AtHand, InflatePool};
use kiln_plan::digest::Digest;
use kiln_plan::gpu::Capability;
use kiln_plan::lock::{Lock, LockedWheel};
use kiln_plan::stack::{self, Trust};
use kiln_plan::step::{KeyBuilder, StepKey};
use serde::{Deserialize, Serialize};

use crate::error::{BuildError, Result};
use crate::project::Project;
use crate::prune::WheelPruner;
use crate::steps::{Step, Task};

/// What pruning a wheel gave; nothing where all of it is needed.
pub(crate) type PrunedWheel = Option<NewWheel>;

/// A wheel that was made.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NewWheel {
    pub(crate) file: String,
    pub(crate) digest: Digest,
    pub(crate) size: u64,
}

impl NewWheel {
    fn locked(self) -> LockedWheel {
        LockedWheel { file: self.file, sha256: self.digest, size: Some(self.size), url: None, path: None }
    }
}

/// The wheels of a step that pruning may change, and what stays of them.
pub(crate) fn prunable(step: &Step) -> impl Iterator<Item = (&LockedWheel, &Selection)> {
    let task = match &step.task {
        Task::Wheels(task) => task.prune.as_ref().map(|selection| (task, selection)),
        Task::Files(_) | Task::Copy(_) => None,
    };
    task.into_iter()
        .flat_map(|(task, selection)| task.wheels.iter().map(move |wheel| (wheel, selection)))
        .filter(|(wheel, _)| may_hold_code(wheel))
}

/// Whether a wheel is for some platform: others hold no libraries.
pub(crate) fn may_hold_code(wheel: &LockedWheel) -> bool {
    !wheel.file.ends_with("-any.whl")
}

pub(crate) fn prune_key(wheel: &LockedWheel, selection: &Selection) -> StepKey {
    let key = StepKey::of("prune", PRUNE_VERSION).digest("wheel", &wheel.sha256);
    selection_key(key, selection).finish()
}

/// Everything besides the wheel that determines a pruned one.
pub(crate) fn selection_key(key: KeyBuilder, selection: &Selection) -> KeyBuilder {
    key.number("prune", u64::from(PRUNE_VERSION))
        .number("deflate", u64::from(DEFLATE_VERSION))
        .list("gpus", selection.gpus.iter().map(ToString::to_string))
        .number("keep ptx", u64::from(selection.keep_ptx))
        .number("drop relocatable", u64::from(selection.drop_relocatable))
}

impl Project<'_> {
    /// The capabilities of the target's GPUs, ascending.
    pub fn gpus(&self, lock: &Lock) -> Vec<Capability> {
        let native = lock.native_gpus.iter().filter_map(|text| text.parse().ok());
        let named = self.stack.target.gpus.iter().map(|architecture| architecture.capability);
        let mut gpus: Vec<Capability> = named.chain(native).collect();
        gpus.sort_unstable();
        gpus.dedup();
        gpus
    }

    /// What stays of the GPU code of an image's wheels, where it is cut.
    pub(crate) fn selection(&self, image: &stack::Image, lock: &Lock) -> Option<Selection> {
        image.prune.map(|prune| Selection {
            gpus: self.gpus(lock),
            keep_ptx: prune.keep_ptx,
            drop_relocatable: prune.drop_relocatable,
        })
    }

    /// The wheel that takes the place of one, if that is known and here: found out by this machine, or told by the cache
    /// that was asked, which this machine does not remember.
    pub(crate) fn known_pruned(&self, wheel: &LockedWheel, selection: &Selection) -> Result<Option<LockedWheel>> {
        let key = prune_key(wheel, selection);
        let told = || serde_json::from_value(self.session.record(&key).flatten()?).ok();
        let known: Option<PrunedWheel> = self.store.recall(&key)?.or_else(told);
        Ok(match known {
            None => None,
            Some(None) => Some(wheel.clone()),
            Some(Some(new)) => self.store.has_blob(&new.digest).then(|| new.locked()),
        })
    }

    /// Whether a step is done with wheels that others pruned.
    pub(crate) fn rests_on_cache(&self, step: &Step) -> Result<bool> {
        for (wheel, selection) in prunable(step) {
            if self.store.recall::<PrunedWheel>(&prune_key(wheel, selection))?.is_none() {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// What layers of such a step are remembered under: they count as long as the same cache is trusted in the same way.
    pub(crate) fn believed_key(&self, step: &Step) -> StepKey {
        let key = StepKey::of("believed", 1).text("step", &step.key.hex());
        let Some(cache) = &self.stack.cache else { return key.finish() };
        let trusted: Vec<String> = match &cache.trust {
            Trust::Registry => Vec::new(),
            Trust::Keys(keys) => keys.iter().map(ToString::to_string).collect(),
        };
        key.text("cache", &cache.remote.to_string()).list("trust", trusted).finish()
    }

    /// Takes pruned wheels from the cache, so that the original ones need not be fetched. What fails is done here.
    pub(crate) fn fetch_pruned(&self, steps: &[&Step]) -> Result<()> {
        let Some(cache) = self.cache() else { return Ok(()) };
        let mut keys = Vec::new();
        for (wheel, selection) in steps.iter().flat_map(|step| prunable(step)) {
            if self.known_pruned(wheel, selection)?.is_none() {
                keys.push(prune_key(wheel, selection));
            }
        }
        for new in self.recall_remote::<PrunedWheel>(&keys)?.into_iter().flatten().flatten() {
            if let Err(error) = self.fetch_wheel(cache, &new) {
                if matches!(error, BuildError::Interrupted) {
                    return Err(error);
                }
                self.give_up_cache(&error);
                return Ok(());
            }
        }
        Ok(())
    }

    fn fetch_wheel(&self, cache: &stack::Cache, wheel: &NewWheel) -> Result<()> {
        if self.store.has_blob(&wheel.digest) {
            return Ok(());
        }
        let work = self.work("fetch", &wheel.file, Some(wheel.size));
        let mut content = self.registries()?.blob_reader(&cache.remote, &wheel.digest, wheel.size, 0)?;
        let mut writer = self.store.writer()?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            let read = std::io::Read::read(&mut content, &mut buffer)?;
            if read == 0 {
                return Ok(writer.finish_as(&wheel.digest)?);
            }
            writer.write_all(&buffer[..read])?;
            work.advance(read as u64)?;
        }
    }

    /// The wheel that takes the place of one: made, unless it is known. What was inflated for it is at hand then.
    pub(crate) fn pruned(
        &self,
        wheel: &LockedWheel,
        selection: &Selection,
        pool: &InflatePool,
    ) -> Result<(LockedWheel, AtHand)> {
        if !may_hold_code(wheel) {
            return Ok((wheel.clone(), AtHand::default()));
        }
        let key = prune_key(wheel, selection);
        let _lock = self.store.lock(&format!("step-{key}"))?;
        if let Some(known) = self.known_pruned(wheel, selection)? {
            return Ok((known, AtHand::default()));
        }
        self.ensure(wheel)?;
        let work = self.work("prune", &wheel.file, wheel.size);
        let temporary = self.store.temporary_directory()?;
        let threads = self.surroundings.jobs;
        let pruner = WheelPruner { selection, pool, threads, temporary: temporary.path(), work: &work };
        let cut = pruner.cut(&wheel.file, Arc::new(self.store.open_hashed(&wheel.sha256)?))?;
        if !cut.is_changed() {
            self.store.remember(&key, &PrunedWheel::None)?;
            return Ok((wheel.clone(), cut.at_hand()));
        }
        let mut writer = self.store.writer()?;
        cut.write(&pruner, &mut writer)?;
        let (digest, size) = writer.finish()?;
        let new = NewWheel { file: cut.file_name(&wheel.file, selection), digest, size };
        self.store.remember(&key, &Some(&new))?;
        Ok((new.locked(), cut.at_hand()))
    }
}
