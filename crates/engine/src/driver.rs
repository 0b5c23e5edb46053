//! The driver: finds out which products are known, and performs the other steps. It alone performs steps, and it alone
//! writes records.
//!
//! Settling goes from what is declared upwards: a step whose reads are all known has a key, and a key may have a record,
//! here or in the cache, which is asked once for all keys of a round. What stays unknown is performed, or what is known and
//! whose bytes nobody has any more.

mod demand;
mod perform;
mod state;
mod tell;
#[cfg(test)]
mod tests;

use std::collections::BTreeSet;
use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use kiln_plan::step::StepKey;
pub(crate) use state::Origin;
use state::State;

use crate::commands::Commands;
use crate::error::{BuildError, Result};
use crate::graph::Graph;
use crate::lanes::{Lanes, Permit};
use crate::node::{Node, NodeId};
use crate::product::{Blob, Product, ProductKind};
use crate::records;
use crate::step::{Cost, Keep, Level};
use crate::workshop::Workshop;

/// Time between two looks at whether the user wants to stop.
const POLL: Duration = Duration::from_millis(50);

/// A cache, and other places that have bytes.
pub(crate) trait Remote: Sync {
    /// Names the cache and the trust in it: records of one policy are not seen by another. `None` where no cache is read.
    fn policy(&self) -> Option<String>;
    /// Returns the products that are recorded under these keys, in the same order.
    fn ask(&self, keys: &[StepKey]) -> Result<Vec<Option<Product>>>;
    /// Notes that the cache keeps what a product names.
    fn promise(&self, product: &Product);
    /// Returns true if the bytes can be had somewhere, as far as is known.
    fn has(&self, blob: &Blob) -> bool;
    /// Brings bytes into the store; false if they are gone.
    fn bring(&self, blob: &Blob) -> Result<bool>;
}

/// No cache, and no other place.
#[derive(Debug, Clone, Copy, Default)]
pub(crate) struct Alone;

impl Remote for Alone {
    fn policy(&self) -> Option<String> {
        None
    }

    fn ask(&self, keys: &[StepKey]) -> Result<Vec<Option<Product>>> {
        Ok(vec![None; keys.len()])
    }

    fn promise(&self, _: &Product) {}

    fn has(&self, _: &Blob) -> bool {
        false
    }

    fn bring(&self, _: &Blob) -> Result<bool> {
        Ok(false)
    }
}

/// Settles and performs the steps of a graph.
pub(crate) struct Driver<'a> {
    graph: &'a Graph,
    workshop: &'a Workshop<'a>,
    remote: &'a dyn Remote,
    policy: Option<String>,
    lanes: Lanes,
    /// Bytes on the longest way from each node to an end.
    ranks: Vec<u64>,
    state: Mutex<State>,
    changed: Condvar,
    /// After a failure, steps that do not depend on it are performed too.
    keep_going: bool,
    commands: Commands<'a>,
    /// Steps that are performed though their results are known.
    again: BTreeSet<NodeId>,
    /// The reporter wants to know of every step.
    is_followed: bool,
}

impl<'a> Driver<'a> {
    /// A driver of a graph.
    pub(crate) fn new(graph: &'a Graph, workshop: &'a Workshop<'a>, remote: &'a dyn Remote) -> Self {
        Self {
            graph,
            workshop,
            remote,
            policy: remote.policy(),
            lanes: Lanes::new(workshop.surroundings.jobs),
            ranks: demand::ranks(graph),
            state: Mutex::new(State::new(graph)),
            changed: Condvar::new(),
            keep_going: false,
            commands: Commands::default(),
            again: BTreeSet::new(),
            is_followed: workshop.reporter.follows_steps(),
        }
    }

    /// After a failure, performs all steps that do not depend on it, if `keep_going`.
    pub(crate) fn keep_going(self, keep_going: bool) -> Self {
        Self { keep_going, ..self }
    }

    /// Performs commands in this way, and those of `again` though their results are known.
    pub(crate) fn commands(self, commands: Commands<'a>, again: BTreeSet<NodeId>) -> Self {
        Self { commands, again, ..self }
    }

    fn is_again(&self, id: NodeId) -> bool {
        self.again.contains(&id)
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // A thread that panicked takes the command down when it is joined; until then the state is still sound.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Finds out which products are known, without performing any step that takes time.
    pub(crate) fn settle(&self, nodes: impl IntoIterator<Item = NodeId>) -> Result<()> {
        let mut state = self.lock();
        state.consider(self.graph, nodes);
        self.settle_all(&mut state)?;
        loop {
            let ready = self.inline(&state);
            if ready.is_empty() {
                return Ok(());
            }
            drop(state);
            ready.into_iter().try_for_each(|id| self.perform_inline(id))?;
            state = self.lock();
            self.settle_all(&mut state)?;
        }
    }

    /// Brings nodes to their levels.
    pub(crate) fn want(&self, wants: &[(NodeId, Level)]) -> Result<()> {
        let mut state = self.lock();
        state.consider(self.graph, wants.iter().map(|(id, _)| *id));
        drop(state);
        std::thread::scope(|scope| {
            let mut state = self.lock();
            loop {
                if let Err(error) = self.settle_all(&mut state) {
                    state.fail(None, error);
                }
                let stopped = self.is_stopped(&mut state);
                let demand = if stopped { Vec::new() } else { self.demand(&state, wants) };
                let inline: Vec<NodeId> = demand.iter().copied().filter(|id| self.is_inline(*id)).collect();
                if !inline.is_empty() {
                    drop(state);
                    let failed = inline.into_iter().filter_map(|id| Some((id, self.perform_inline(id).err()?)));
                    let failed: Vec<(NodeId, BuildError)> = failed.collect();
                    state = self.lock();
                    failed.into_iter().for_each(|(id, error)| state.fail(Some(id), error));
                    continue;
                }
                let mut idle = true;
                for id in demand {
                    if state.runs_with_key_of(id) {
                        continue;
                    }
                    let Some(permit) = self.lanes.try_enter(self.graph.entry(id).step.cost()) else { continue };
                    state.start(id);
                    idle = false;
                    scope.spawn(move || self.work(id, permit));
                }
                if idle && state.running() == 0 {
                    break;
                }
                let waited = self.changed.wait_timeout(state, POLL);
                state = waited.unwrap_or_else(PoisonError::into_inner).0;
            }
        });
        // What was finished stays, also where something failed.
        self.workshop.store.sync()?;
        let mut state = self.lock();
        state.failures(self.graph)?;
        match wants.iter().find(|(id, level)| !self.satisfies(&state, *id, *level)) {
            Some((id, _)) => Err(BuildError::Unreachable(self.graph.entry(*id).step.subject().to_string())),
            None => Ok(()),
        }
    }

    /// Returns the product of a node, if it is known.
    pub(crate) fn known<P: ProductKind>(&self, node: Node<P>) -> Option<P> {
        self.lock().product(node.id()).and_then(P::of).cloned()
    }

    /// Performs a node where it must be, and returns its product.
    pub(crate) fn get<P: ProductKind>(&self, node: Node<P>, level: Level) -> Result<P> {
        self.want(&[(node.id(), level)])?;
        self.known(node).ok_or_else(|| BuildError::Unreachable(self.graph.entry(node.id()).step.subject().to_string()))
    }

    /// Returns the key of a node, if all that it reads is known.
    pub(crate) fn key(&self, id: NodeId) -> Option<StepKey> {
        self.lock().key(id)
    }

    /// Returns the product of a node, and where it comes from.
    pub(crate) fn product(&self, id: NodeId) -> Option<(Product, Origin)> {
        let state = self.lock();
        Some((state.product(id)?.clone(), state.origin(id)?))
    }

    /// Returns what people may want to know of the product of a node, if it is known.
    pub(crate) fn notes(&self, id: NodeId) -> Option<Vec<String>> {
        self.product(id).map(|(product, _)| self.graph.entry(id).step.notes(&product))
    }

    /// Returns true if this store has a record of the step that does not count any more.
    pub(crate) fn is_outdated(&self, id: NodeId) -> Result<bool> {
        let Some(key) = self.key(id).filter(|_| self.product(id).is_none()) else { return Ok(false) };
        Ok(records::local(self.workshop.store, &key)?.is_some())
    }

    /// Returns true if the bytes of a node's product are in the store.
    pub(crate) fn is_here(&self, id: NodeId) -> bool {
        self.satisfies(&self.lock(), id, Level::Here)
    }

    /// Returns the steps whose products are needed and not known.
    pub(crate) fn unknown(&self) -> Vec<NodeId> {
        let state = self.lock();
        self.graph.ids().filter(|id| state.is_considered(*id) && !state.is_known(*id)).collect()
    }

    /// Returns true if the node is known and its bytes can be had without performing it.
    pub(crate) fn is_reachable(&self, id: NodeId) -> bool {
        self.satisfies(&self.lock(), id, Level::Reachable)
    }

    /// Returns true if this driver performed the node, and that is work which records save.
    pub(crate) fn has_worked(&self, id: NodeId) -> bool {
        self.graph.entry(id).step.keep() != Keep::Never && self.lock().origin(id) == Some(Origin::Performed)
    }

    /// Returns the bytes that processors went through for the steps that were performed.
    pub(crate) fn performed_bytes(&self) -> u64 {
        let cost = |id: NodeId| match self.graph.entry(id).step.cost() {
            Cost::Cpu(bytes) if self.has_worked(id) => bytes,
            _ => 0,
        };
        self.graph.ids().map(cost).sum()
    }

    /// Notes that blobs are not where a record promised them: the nodes that promised them, which are performed when they
    /// are wanted next.
    pub(crate) fn lose(&self, blobs: &[kiln_plan::digest::Digest]) -> Vec<NodeId> {
        self.lock().lose(self.graph, blobs)
    }

    /// Returns what users are warned of, by the nodes that were considered.
    pub(crate) fn warnings(&self, nodes: &[NodeId]) -> Vec<String> {
        let state = self.lock();
        let mut warnings = Vec::new();
        for id in self.graph.with_reads(nodes.iter().copied()) {
            if let Some(product) = state.product(id) {
                for warning in self.graph.entry(id).step.warnings(product) {
                    if !warnings.contains(&warning) {
                        warnings.push(warning);
                    }
                }
            }
        }
        warnings
    }

    fn is_inline(&self, id: NodeId) -> bool {
        self.graph.entry(id).step.cost() == Cost::Inline
    }

    fn is_stopped(&self, state: &mut State) -> bool {
        if self.workshop.cancel.check().is_err() {
            state.fail(None, BuildError::Interrupted);
        }
        state.is_interrupted() || (state.has_failed() && !self.keep_going)
    }

    /// Finds all products that are declared or recorded.
    fn settle_all(&self, state: &mut MutexGuard<'_, State>) -> Result<()> {
        loop {
            let mut ask = Vec::new();
            while let Some(id) = state.next_to_settle() {
                let entry = self.graph.entry(id);
                if let Some(declared) = &entry.declared {
                    let key = if self.is_followed { state.find_key(self.graph, id) } else { None };
                    self.tell_settled(id, key, Origin::Declared);
                    state.set(self.graph, id, declared.clone(), Origin::Declared);
                    continue;
                }
                let Some(key) = state.find_key(self.graph, id) else { continue };
                match self.recorded(state, id, &key)? {
                    Some((product, origin)) => {
                        if origin == Origin::Remote {
                            self.remote.promise(&product);
                        }
                        self.tell_settled(id, Some(key), origin);
                        state.set(self.graph, id, product, origin);
                    }
                    None if self.is_again(id) => {}
                    None if entry.step.keep() == Keep::Shared && self.policy.is_some() => ask.push((id, key)),
                    None => {}
                }
            }
            if ask.is_empty() {
                return Ok(());
            }
            self.ask(state, &ask)?;
        }
    }

    /// Returns what is recorded under a key in this store.
    fn recorded(&self, state: &State, id: NodeId, key: &StepKey) -> Result<Option<(Product, Origin)>> {
        if let Some((product, origin)) = state.with_key(key).filter(|_| !state.is_refused(id)) {
            return Ok(Some((product, origin)));
        }
        if self.is_again(id) {
            return Ok(None);
        }
        let step = &self.graph.entry(id).step;
        let store = self.workshop.store;
        if step.keep() >= Keep::Here
            && let Some(product) = records::local(store, key)?.filter(|product| step.is_product(product))
        {
            return Ok(Some((product, Origin::Local)));
        }
        let (Some(policy), Keep::Shared) = (&self.policy, step.keep()) else { return Ok(None) };
        let remote = records::remote(store, policy, key)?.filter(|product| step.is_remote_product(product));
        Ok(remote.filter(|_| !state.is_refused(id)).map(|product| (product, Origin::Remote)))
    }

    fn ask(&self, state: &mut MutexGuard<'_, State>, ask: &[(NodeId, StepKey)]) -> Result<()> {
        let keys: Vec<StepKey> = ask.iter().map(|(_, key)| *key).collect();
        let answers = self.remote.ask(&keys)?;
        let Some(policy) = &self.policy else { return Ok(()) };
        for ((id, key), answer) in ask.iter().zip(answers) {
            let step = &self.graph.entry(*id).step;
            if let Some(product) = answer.filter(|product| step.is_remote_product(product) && !state.is_refused(*id)) {
                records::write_remote(self.workshop.store, policy, key, &product)?;
                self.remote.promise(&product);
                self.tell_settled(*id, Some(*key), Origin::Remote);
                state.set(self.graph, *id, product, Origin::Remote);
            }
        }
        Ok(())
    }
}
