//! Wheels of this machine that are linked into the store and not read yet. Splicing hashes nearly the bytes of the wheel, so
//! a large wheel that is spliced needs no reading of its own; whoever else needs it first reads it through.

use std::collections::HashMap;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};

use kiln_plan::digest::Digest;
use kiln_plan::event::Cancel;
use kiln_store::{Linked, Store};

use crate::error::Result;

/// A wheel on the shelf.
enum Slot {
    Linked(Box<Linked>),
    /// Somebody reads it.
    Taken,
}

/// The wheels that were not read yet.
#[derive(Default)]
pub(crate) struct Shelf {
    slots: Mutex<HashMap<Digest, Slot>>,
    changed: Condvar,
}

impl Shelf {
    fn slots(&self) -> MutexGuard<'_, HashMap<Digest, Slot>> {
        self.slots.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(crate) fn put(&self, digest: Digest, linked: Linked) {
        self.slots().insert(digest, Slot::Linked(Box::new(linked)));
    }

    pub(crate) fn holds(&self, digest: &Digest) -> bool {
        self.slots().contains_key(digest)
    }

    /// Takes a wheel that nobody has read. `None` if it is not on the shelf; waits while somebody reads it.
    pub(crate) fn take(&self, digest: &Digest, cancel: &Cancel) -> Result<Option<Shelved<'_>>> {
        let mut slots = self.slots();
        loop {
            cancel.check()?;
            match slots.get_mut(digest) {
                None => return Ok(None),
                Some(slot @ Slot::Linked(..)) => {
                    let Slot::Linked(linked) = std::mem::replace(slot, Slot::Taken) else { return Ok(None) };
                    return Ok(Some(Shelved { shelf: self, digest: *digest, linked: Some(linked) }));
                }
                Some(Slot::Taken) => {
                    let waited = self.changed.wait_timeout(slots, std::time::Duration::from_millis(50));
                    slots = waited.unwrap_or_else(PoisonError::into_inner).0;
                }
            }
        }
    }
}

/// A wheel that was taken from the shelf to be read. Dropped without being accepted, it is gone.
pub(crate) struct Shelved<'s> {
    shelf: &'s Shelf,
    digest: Digest,
    linked: Option<Box<Linked>>,
}

impl Shelved<'_> {
    pub(crate) fn open(&self) -> Result<fs_err::File> {
        match &self.linked {
            Some(linked) => Ok(linked.open()?),
            None => Err(kiln_store::StoreError::Missing(self.digest).into()),
        }
    }

    /// Puts the wheel into the store: the caller has found that it has its digest.
    pub(crate) fn accept(mut self, store: &Store) -> Result<()> {
        self.linked.take().map_or(Ok(()), |linked| Ok(linked.accept(store)?))
    }
}

impl Drop for Shelved<'_> {
    fn drop(&mut self) {
        self.shelf.slots().remove(&self.digest);
        self.shelf.changed.notify_all();
    }
}
