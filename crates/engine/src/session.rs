//! What is found out while a project is open: about registries mostly, where asking twice would cost.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use kiln_plan::digest::Digest;
use kiln_plan::event::Cancel;
use kiln_plan::reference::Repository;
use kiln_plan::step::StepKey;
use kiln_registry::{Options, Registries};
use serde_json::Value;

use crate::error::Result;
use crate::remote::Found;

/// What was found out.
#[derive(Debug, Default)]
pub(crate) struct Session {
    registries: OnceLock<Registries>,
    state: Mutex<State>,
}

#[derive(Debug, Default)]
struct State {
    /// What the cache has under a key; nothing where it was asked and has nothing.
    records: BTreeMap<StepKey, Option<Found>>,
    /// Repositories that have a layer.
    places: BTreeMap<Digest, Repository>,
    /// Layers that a record promised and nobody has.
    lost: BTreeSet<Digest>,
    /// Whether the cache failed, and is left alone.
    cache_failed: bool,
}

impl Session {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn registries(&self, options: &Options, cancel: &Cancel) -> Result<&Registries> {
        if let Some(registries) = self.registries.get() {
            return Ok(registries);
        }
        let made = Registries::new(options.clone(), cancel)?;
        Ok(self.registries.get_or_init(|| made))
    }

    /// Bytes of content that were sent to registries and received from them.
    pub(crate) fn moved(&self) -> (u64, u64) {
        self.registries.get().map_or((0, 0), Registries::moved)
    }

    /// Notes that a repository has layers.
    pub(crate) fn found(&self, layers: impl IntoIterator<Item = Digest>, place: &Repository) {
        let mut state = self.state();
        for layer in layers {
            state.places.entry(layer).or_insert_with(|| place.clone());
        }
    }

    /// Repositories that have layers, as far as is known.
    pub(crate) fn places(&self) -> BTreeMap<Digest, Repository> {
        self.state().places.clone()
    }

    /// A repository that has a layer.
    pub(crate) fn place(&self, layer: &Digest) -> Option<Repository> {
        self.state().places.get(layer).cloned()
    }

    /// What was asked before about a key.
    pub(crate) fn record(&self, key: &StepKey) -> Option<Option<Value>> {
        self.state().records.get(key).map(|found| found.as_ref().map(|found| found.record.value.clone()))
    }

    pub(crate) fn remember_record(&self, key: StepKey, found: Option<Found>) {
        self.state().records.insert(key, found);
    }

    /// Records that were used and were written before this time.
    pub(crate) fn records_before(&self, time: u64) -> Vec<Found> {
        self.state().records.values().flatten().filter(|found| found.written < time).cloned().collect()
    }

    /// Notes that layers are not where they should be: records that promise them do not count any more.
    pub(crate) fn lose(&self, layers: &[Digest]) {
        let mut state = self.state();
        for layer in layers {
            state.places.remove(layer);
            state.lost.insert(*layer);
        }
    }

    pub(crate) fn is_lost(&self, layer: &Digest) -> bool {
        self.state().lost.contains(layer)
    }

    /// Notes that the cache failed; whether that is news.
    pub(crate) fn cache_fails(&self) -> bool {
        !std::mem::replace(&mut self.state().cache_failed, true)
    }

    pub(crate) fn cache_failed(&self) -> bool {
        self.state().cache_failed
    }
}
