//! Which steps can be performed now, for what is wanted: those on the longest remaining way first.

use super::Driver;
use super::state::{Origin, State};
use crate::graph::Graph;
use crate::node::NodeId;
use crate::step::{Cost, Level};

/// The nodes that one look at the graph has gone through, each with its level.
struct Look<'s> {
    state: &'s State,
    visited: Vec<Option<Level>>,
    ready: Vec<NodeId>,
}

impl Driver<'_> {
    /// Returns the nodes that can be performed now, or whose bytes can be brought, the most urgent first.
    pub(super) fn demand(&self, state: &State, wants: &[(NodeId, Level)]) -> Vec<NodeId> {
        let mut look = Look { state, visited: vec![None; self.graph.len()], ready: Vec::new() };
        for (id, level) in wants {
            self.visit(&mut look, *id, *level);
        }
        let ranks = &self.ranks;
        let mut ready = look.ready;
        // What was just made is still at hand: its consumers come first.
        let follows = |id: &NodeId| {
            self.graph.entry(*id).reads.iter().any(|read| state.origin(read.node) == Some(Origin::Performed))
        };
        ready.sort_by_cached_key(|id| (!follows(id), std::cmp::Reverse(ranks[id.index()]), *id));
        ready
    }

    fn visit(&self, look: &mut Look<'_>, id: NodeId, level: Level) {
        if look.visited[id.index()].is_some_and(|visited| visited >= level) {
            return;
        }
        look.visited[id.index()] = Some(level);
        let state = look.state;
        if state.is_running(id) || state.is_failed(id) || self.satisfies(state, id, level) {
            return;
        }
        let reads = &self.graph.entry(id).reads;
        if !state.has_key(id) {
            for read in reads {
                self.visit(look, read.node, Level::Known);
            }
            return;
        }
        let mut ready = true;
        // Bytes that the cache has are brought, without what the step reads.
        if !(state.is_known(id) && self.can_be_brought(state, id)) {
            for read in reads {
                if !self.satisfies(state, read.node, read.level) {
                    ready = false;
                    self.visit(look, read.node, read.level);
                }
            }
        }
        if ready && !look.ready.contains(&id) {
            look.ready.push(id);
        }
    }

    /// Returns true if a node is known, and its bytes are as near as they must be.
    pub(super) fn satisfies(&self, state: &State, id: NodeId, level: Level) -> bool {
        let Some(product) = state.product(id) else { return false };
        if level == Level::Known || state.reached(id) >= Some(level) {
            return true;
        }
        let refused = state.is_refused(id);
        let reached = product.blobs().iter().all(|blob| {
            self.workshop.holds(&blob.digest) || (level == Level::Reachable && !refused && self.remote.has(blob))
        });
        if reached {
            state.reach(id, level);
        }
        reached
    }

    /// Returns true if the bytes that are not here can be had elsewhere.
    pub(super) fn can_be_brought(&self, state: &State, id: NodeId) -> bool {
        let Some(product) = state.product(id).filter(|_| !state.is_refused(id)) else { return false };
        product.blobs().iter().all(|blob| self.workshop.holds(&blob.digest) || self.remote.has(blob))
    }

    /// Returns the steps that take no time, are unknown, and have all that they read.
    pub(super) fn inline(&self, state: &State) -> Vec<NodeId> {
        let ready = |id: &NodeId| {
            let reads = &self.graph.entry(*id).reads;
            self.is_inline(*id)
                && state.is_considered(*id)
                && !state.is_known(*id)
                && !state.is_failed(*id)
                && state.has_key(*id)
                && reads.iter().all(|read| self.satisfies(state, read.node, read.level))
        };
        self.graph.ids().filter(ready).collect()
    }
}

/// Returns for every node the bytes on the longest way from it to an end.
pub(super) fn ranks(graph: &Graph) -> Vec<u64> {
    let mut ranks = vec![0_u64; graph.len()];
    for id in graph.ids().rev() {
        let entry = graph.entry(id);
        let own = match entry.step.cost() {
            Cost::Inline => 0,
            Cost::Network(bytes) | Cost::Cpu(bytes) | Cost::Sandbox(bytes) => bytes,
        };
        ranks[id.index()] += own;
        for read in &entry.reads {
            ranks[read.node.index()] = ranks[read.node.index()].max(ranks[id.index()]);
        }
    }
    ranks
}
