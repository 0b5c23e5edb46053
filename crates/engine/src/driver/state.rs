//! The state of the nodes: keys, products, and what is under way.

use std::cell::Cell;
use std::collections::{BTreeMap, BTreeSet, HashMap, VecDeque};

use kiln_plan::digest::Digest;
use kiln_plan::step::StepKey;

use crate::error::{BuildError, Result};
use crate::graph::Graph;
use crate::node::NodeId;
use crate::product::Product;
use crate::step::{Level, key};

/// Where a product comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Origin {
    /// The step declares it.
    Declared,
    /// This store recorded it.
    Local,
    /// A cache recorded it.
    Remote,
    /// This driver performed the step.
    Performed,
}

#[derive(Debug, Clone, Default)]
struct NodeState {
    key: Option<StepKey>,
    product: Option<(Product, Origin)>,
    /// Reads whose products are unknown.
    unknown: usize,
    /// The level that was found once.
    reached: Cell<Option<Level>>,
    /// A command needs it, or a node that reads it.
    considered: bool,
    running: bool,
    failed: bool,
    /// The cache's record of it promised bytes that are gone.
    refused: bool,
}

/// The state of a graph's nodes.
pub(super) struct State {
    nodes: Vec<NodeState>,
    consumers: Vec<Vec<NodeId>>,
    by_key: HashMap<StepKey, Vec<NodeId>>,
    to_settle: VecDeque<NodeId>,
    /// Keys of steps that run.
    running: BTreeMap<NodeId, Option<StepKey>>,
    failures: Vec<(Option<NodeId>, BuildError)>,
}

impl State {
    pub(super) fn new(graph: &Graph) -> Self {
        let mut consumers: Vec<Vec<NodeId>> = vec![Vec::new(); graph.len()];
        let mut nodes = vec![NodeState::default(); graph.len()];
        for id in graph.ids() {
            let reads: BTreeSet<NodeId> = graph.entry(id).reads.iter().map(|read| read.node).collect();
            nodes[id.index()].unknown = reads.len();
            for read in reads {
                consumers[read.index()].push(id);
            }
        }
        Self {
            nodes,
            consumers,
            by_key: HashMap::new(),
            to_settle: VecDeque::new(),
            running: BTreeMap::new(),
            failures: Vec::new(),
        }
    }

    /// Takes nodes, and all that they read, into account.
    pub(super) fn consider(&mut self, graph: &Graph, nodes: impl IntoIterator<Item = NodeId>) {
        for id in graph.with_reads(nodes) {
            let node = &mut self.nodes[id.index()];
            if !std::mem::replace(&mut node.considered, true) {
                self.to_settle.push_back(id);
            }
        }
    }

    /// Returns the next node that may have become known.
    pub(super) fn next_to_settle(&mut self) -> Option<NodeId> {
        loop {
            let id = self.to_settle.pop_front()?;
            let node = &self.nodes[id.index()];
            if node.considered && node.product.is_none() && !node.running {
                return Some(id);
            }
        }
    }

    /// Finds the key of a node, if all that it reads is known.
    pub(super) fn find_key(&mut self, graph: &Graph, id: NodeId) -> Option<StepKey> {
        let node = &self.nodes[id.index()];
        if node.key.is_some() || node.unknown > 0 {
            return node.key;
        }
        let entry = graph.entry(id);
        let reads = entry.reads.iter().filter(|read| read.in_key);
        let digests: Option<Vec<Digest>> = reads.map(|read| self.product(read.node).map(Product::digest)).collect();
        let key = key(entry.step.kind(), &entry.fields, digests?);
        self.nodes[id.index()].key = Some(key);
        self.by_key.entry(key).or_default().push(id);
        Some(key)
    }

    /// Sets the product of a node. Where it had another one, nodes that read that lose theirs.
    pub(super) fn set(&mut self, graph: &Graph, id: NodeId, product: Product, origin: Origin) {
        let node = &mut self.nodes[id.index()];
        node.reached.set(None);
        let (was_known, same) = match &node.product {
            Some((old, _)) => (true, old.digest() == product.digest()),
            None => (false, false),
        };
        node.product = Some((product, origin));
        if was_known && !same {
            self.forget_consumers(graph, id);
        }
        if !was_known || !same {
            for at in 0..self.consumers[id.index()].len() {
                let consumer = self.consumers[id.index()][at];
                let state = &mut self.nodes[consumer.index()];
                state.unknown = state.unknown.saturating_sub(1);
                if state.unknown == 0 {
                    self.to_settle.push_back(consumer);
                }
            }
        }
        // Equal keys have equal products.
        let twins = self.nodes[id.index()].key.and_then(|key| self.by_key.get(&key)).cloned().unwrap_or_default();
        self.to_settle.extend(twins.into_iter().filter(|twin| self.nodes[twin.index()].product.is_none()));
    }

    /// Takes away the products of all that reads a node whose product is another one now.
    fn forget_consumers(&mut self, graph: &Graph, id: NodeId) {
        for consumer in self.consumers[id.index()].clone() {
            let state = &mut self.nodes[consumer.index()];
            state.unknown += 1;
            let declared = graph.entry(consumer).declared.is_some();
            if let Some(key) = state.key.take()
                && let Some(twins) = self.by_key.get_mut(&key)
            {
                twins.retain(|twin| *twin != consumer);
            }
            let state = &mut self.nodes[consumer.index()];
            if !declared && state.product.take().is_some() {
                state.reached.set(None);
                self.forget_consumers(graph, consumer);
            }
        }
    }

    pub(super) fn product(&self, id: NodeId) -> Option<&Product> {
        self.nodes[id.index()].product.as_ref().map(|(product, _)| product)
    }

    pub(super) fn origin(&self, id: NodeId) -> Option<Origin> {
        self.nodes[id.index()].product.as_ref().map(|(_, origin)| *origin)
    }

    pub(super) fn key(&self, id: NodeId) -> Option<StepKey> {
        self.nodes[id.index()].key
    }

    /// Returns the product of another node with this key, and where it comes from.
    pub(super) fn with_key(&self, key: &StepKey) -> Option<(Product, Origin)> {
        self.by_key.get(key)?.iter().find_map(|id| self.nodes[id.index()].product.clone())
    }

    pub(super) fn is_considered(&self, id: NodeId) -> bool {
        self.nodes[id.index()].considered
    }

    pub(super) fn is_known(&self, id: NodeId) -> bool {
        self.nodes[id.index()].product.is_some()
    }

    /// Returns true if all that a node reads is known.
    pub(super) fn has_key(&self, id: NodeId) -> bool {
        self.nodes[id.index()].unknown == 0
    }

    pub(super) fn reached(&self, id: NodeId) -> Option<Level> {
        self.nodes[id.index()].reached.get()
    }

    /// Notes that a node's bytes are as near as a level demands: they are not looked for again.
    pub(super) fn reach(&self, id: NodeId, level: Level) {
        let reached = &self.nodes[id.index()].reached;
        reached.set(reached.get().max(Some(level)));
    }

    pub(super) fn is_refused(&self, id: NodeId) -> bool {
        self.nodes[id.index()].refused
    }

    /// Notes that what the cache said of a node cannot be used: its bytes are gone, or are not what they should be. A
    /// product that only the cache told of is unknown again.
    pub(super) fn refuse(&mut self, graph: &Graph, id: NodeId) {
        let node = &mut self.nodes[id.index()];
        node.refused = true;
        node.reached.set(None);
        if node.product.take_if(|(_, origin)| *origin == Origin::Remote).is_some() {
            self.forget_consumers(graph, id);
            self.to_settle.push_back(id);
        }
    }

    /// Notes that blobs are not where they were promised; the nodes that promised them.
    pub(super) fn lose(&mut self, graph: &Graph, blobs: &[Digest]) -> Vec<NodeId> {
        let promises = |id: &NodeId| {
            self.product(*id).is_some_and(|product| product.blobs().iter().any(|blob| blobs.contains(&blob.digest)))
        };
        let lost: Vec<NodeId> = graph.ids().filter(promises).collect();
        for id in &lost {
            self.refuse(graph, *id);
        }
        lost
    }

    pub(super) fn start(&mut self, id: NodeId) {
        self.nodes[id.index()].running = true;
        self.running.insert(id, self.nodes[id.index()].key);
    }

    pub(super) fn end(&mut self, id: NodeId) {
        self.nodes[id.index()].running = false;
        self.running.remove(&id);
    }

    pub(super) fn running(&self) -> usize {
        self.running.len()
    }

    pub(super) fn is_running(&self, id: NodeId) -> bool {
        self.nodes[id.index()].running
    }

    /// Returns true if a step with the key of this one runs: its product will be this one's.
    pub(super) fn runs_with_key_of(&self, id: NodeId) -> bool {
        let key = self.nodes[id.index()].key;
        key.is_some() && self.running.values().any(|running| *running == key)
    }

    pub(super) fn fail(&mut self, id: Option<NodeId>, error: BuildError) {
        if let Some(id) = id {
            self.nodes[id.index()].failed = true;
        }
        if !(matches!(error, BuildError::Interrupted) && self.is_interrupted()) {
            self.failures.push((id, error));
        }
    }

    pub(super) fn is_failed(&self, id: NodeId) -> bool {
        self.nodes[id.index()].failed
    }

    pub(super) fn has_failed(&self) -> bool {
        !self.failures.is_empty()
    }

    pub(super) fn is_interrupted(&self) -> bool {
        self.failures.iter().any(|(_, error)| matches!(error, BuildError::Interrupted))
    }

    /// Returns all failures as one error, if there are any. What the user stopped is that, whatever failed because of it.
    pub(super) fn failures(&mut self, graph: &Graph) -> Result<()> {
        if self.is_interrupted() {
            return Err(BuildError::Interrupted);
        }
        let mut failures = std::mem::take(&mut self.failures);
        // Two steps that fail for the same reason, such as a wheel that both read, say it once.
        let mut reasons = BTreeSet::new();
        failures.retain(|(_, error)| reasons.insert(error.reasons()));
        match failures.len() {
            0 => Ok(()),
            1 => failures.pop().map_or(Ok(()), |(_, error)| Err(error)),
            _ => {
                let subject = |id: Option<NodeId>| id.map(|id| graph.entry(id).step.subject().to_string());
                Err(BuildError::Several(failures.into_iter().map(|(id, error)| (subject(id), error)).collect()))
            }
        }
    }
}
