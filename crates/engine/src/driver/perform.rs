//! Performing one step: its lock, its lane, another look, the work, the record.

use std::collections::HashMap;
use std::time::Instant;

use kiln_plan::digest::Digest;
use kiln_plan::step::StepKey;
use kiln_store::Lock;

use super::state::{Origin, State};
use super::{Driver, Permit};
use crate::context::Context;
use crate::error::{BuildError, Result};
use crate::node::NodeId;
use crate::product::Product;
use crate::records;
use crate::step::{Keep, Level};

/// How a step ended.
enum Done {
    Product(StepKey, Product, Origin),
    /// Its bytes were brought.
    Brought,
    /// Its bytes are gone.
    Gone,
}

impl Driver<'_> {
    /// Performs a node in a thread of its own.
    pub(super) fn work<'l>(&'l self, id: NodeId, permit: Permit<'l>) {
        let done = self.do_one(id, permit);
        let mut state = self.lock();
        state.end(id);
        match done {
            Ok(Done::Product(key, product, origin)) => {
                // Where what it read turned out otherwise meanwhile, its record is true and it is not this node's.
                if state.key(id) == Some(key) {
                    state.set(self.graph, id, product, origin);
                    state.reach(id, Level::Reachable);
                }
            }
            Ok(Done::Brought) => state.reach(id, Level::Here),
            Ok(Done::Gone) => state.refuse(self.graph, id),
            // Content that the cache told of is gone, or is not what it should be: it is made here.
            Err(BuildError::Lost(blobs)) if self.only_remote(&state, &blobs) => {
                state.lose(self.graph, &blobs);
            }
            Err(error) => state.fail(Some(id), error),
        }
        drop(state);
        self.changed.notify_all();
    }

    /// Returns true if no other than the cache told of this content.
    fn only_remote(&self, state: &State, blobs: &[Digest]) -> bool {
        let told = |digest: &Digest| {
            let of = |id: &NodeId| {
                state.product(*id).is_some_and(|product| product.blobs().iter().any(|blob| blob.digest == *digest))
            };
            let mut origins = self.graph.ids().filter(of).map(|id| state.origin(id)).peekable();
            origins.peek().is_some() && origins.all(|origin| origin == Some(Origin::Remote))
        };
        blobs.iter().all(told)
    }

    /// Performs a step that takes no time.
    pub(super) fn perform_inline(&self, id: NodeId) -> Result<()> {
        let Some((key, inputs)) = self.inputs(id) else { return Ok(()) };
        let product = self.perform(id, key, inputs)?;
        self.lock().set(self.graph, id, product, Origin::Performed);
        Ok(())
    }

    fn inputs(&self, id: NodeId) -> Option<(StepKey, HashMap<NodeId, Product>)> {
        let mut state = self.lock();
        let key = state.find_key(self.graph, id)?;
        let reads = self.graph.entry(id).reads.iter();
        let inputs = reads.map(|read| Some((read.node, state.product(read.node)?.clone()))).collect::<Option<_>>()?;
        Some((key, inputs))
    }

    fn do_one<'l>(&'l self, id: NodeId, permit: Permit<'l>) -> Result<Done> {
        if self.is_to_be_brought(id) {
            let blobs = self.lock().product(id).map(Product::blobs).unwrap_or_default();
            for blob in blobs.iter().filter(|blob| !self.workshop.holds(&blob.digest)) {
                if !self.remote.bring(blob)? {
                    return Ok(Done::Gone);
                }
            }
            return Ok(Done::Brought);
        }
        let Some((key, inputs)) = self.inputs(id) else { return Ok(Done::Gone) };
        let step = &self.graph.entry(id).step;
        if step.keep() == Keep::Never {
            let product = self.perform(id, key, inputs)?;
            return Ok(Done::Product(key, product, Origin::Performed));
        }
        let (lock, _permit) = self.key_lock(id, &key, permit)?;
        let done = self.find_or_perform(id, key, inputs);
        let removed = lock.remove();
        let done = done?;
        removed?;
        Ok(done)
    }

    /// Looks once more for a record, since another process may have had the lock, and does the work where there is none.
    fn find_or_perform(&self, id: NodeId, key: StepKey, inputs: HashMap<NodeId, Product>) -> Result<Done> {
        let step = &self.graph.entry(id).step;
        let found = match records::local(self.workshop.store, &key)? {
            Some(product) if !self.is_again(id) && step.is_product(&product) && self.is_whole(&product) => {
                Some(product)
            }
            _ => None,
        };
        if let Some(product) = found {
            self.tell_settled(id, Some(key), Origin::Local);
            return Ok(Done::Product(key, product, Origin::Local));
        }
        let product = self.perform(id, key, inputs)?;
        records::write_local(self.workshop.store, &key, &product)?;
        Ok(Done::Product(key, product, Origin::Performed))
    }

    /// Does the work of a step, and tells of it.
    fn perform(&self, id: NodeId, key: StepKey, inputs: HashMap<NodeId, Product>) -> Result<Product> {
        let step = &self.graph.entry(id).step;
        let span = tracing::debug_span!("step", kind = step.kind().name, subject = %step.subject(), %key);
        let since = Instant::now();
        let product = span.in_scope(|| step.perform(&Context::new(self.workshop, self.commands, inputs)))?;
        self.tell_performed(id, key, &product, since.elapsed());
        Ok(product)
    }

    fn is_to_be_brought(&self, id: NodeId) -> bool {
        let state = self.lock();
        state.is_known(id) && self.can_be_brought(&state, id)
    }

    fn is_whole(&self, product: &Product) -> bool {
        product.blobs().iter().all(|blob| self.workshop.holds(&blob.digest))
    }

    /// Takes the lock of a key. Where another process has it, its lane is given to others meanwhile.
    fn key_lock<'l>(&'l self, id: NodeId, key: &StepKey, permit: Permit<'l>) -> Result<(Lock, Permit<'l>)> {
        let name = format!("step-{key}");
        if let Some(lock) = self.workshop.store.try_lock(&name)? {
            return Ok((lock, permit));
        }
        drop(permit);
        let step = &self.graph.entry(id).step;
        let lock = self.workshop.alone(&name, &step.subject().to_string())?;
        Ok((lock, self.lanes.enter(step.cost(), &self.workshop.cancel)?))
    }
}
