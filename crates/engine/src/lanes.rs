//! Lanes: how many steps of a kind are performed at once. A step takes its lane once, and takes nothing else while it
//! holds it.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kiln_plan::event::{Cancel, Cancelled};

use crate::step::Cost;

/// Downloads at once.
const NETWORK: usize = 8;
/// Time between two looks at whether the user wants to stop.
const POLL: Duration = Duration::from_millis(50);

/// The places of one lane.
#[derive(Debug)]
struct Lane {
    free: Mutex<usize>,
    changed: Condvar,
}

impl Lane {
    fn new(places: usize) -> Self {
        Self { free: Mutex::new(places), changed: Condvar::new() }
    }

    fn free(&self) -> MutexGuard<'_, usize> {
        self.free.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn try_enter(&self) -> Option<Permit<'_>> {
        let mut free = self.free();
        *free = free.checked_sub(1)?;
        Some(Permit(Some(self)))
    }

    fn enter(&self, cancel: &Cancel) -> Result<Permit<'_>, Cancelled> {
        loop {
            if let Some(permit) = self.try_enter() {
                return Ok(permit);
            }
            cancel.check()?;
            let free = self.free();
            if *free == 0 {
                let waited = self.changed.wait_timeout(free, POLL);
                drop(waited.unwrap_or_else(PoisonError::into_inner));
            }
        }
    }
}

/// A place in a lane, given back when dropped.
#[derive(Debug)]
pub(crate) struct Permit<'l>(Option<&'l Lane>);

impl Drop for Permit<'_> {
    fn drop(&mut self) {
        if let Some(lane) = self.0 {
            *lane.free() += 1;
            lane.changed.notify_one();
        }
    }
}

/// All lanes.
#[derive(Debug)]
pub(crate) struct Lanes {
    network: Lane,
    cpu: Lane,
    sandbox: Lane,
}

impl Lanes {
    /// Lanes for so many threads.
    pub(crate) fn new(jobs: usize) -> Self {
        Self { network: Lane::new(NETWORK), cpu: Lane::new(jobs.max(1)), sandbox: Lane::new(1) }
    }

    fn of(&self, cost: Cost) -> Option<&Lane> {
        match cost {
            Cost::Inline => None,
            Cost::Network(_) => Some(&self.network),
            Cost::Cpu(_) => Some(&self.cpu),
            Cost::Sandbox(_) => Some(&self.sandbox),
        }
    }

    /// Takes a place, if there is one now.
    pub(crate) fn try_enter(&self, cost: Cost) -> Option<Permit<'_>> {
        self.of(cost).map_or(Some(Permit(None)), Lane::try_enter)
    }

    /// Waits for a place.
    pub(crate) fn enter(&self, cost: Cost, cancel: &Cancel) -> Result<Permit<'_>, Cancelled> {
        self.of(cost).map_or(Ok(Permit(None)), |lane| lane.enter(cancel))
    }
}
