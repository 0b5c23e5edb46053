//! The graph of a command: steps, and the nodes whose products they read.

use std::collections::HashMap;
use std::sync::Arc;

use crate::error::{BuildError, Result};
use crate::node::{Node, NodeId};
use crate::product::{Product, ProductKind};
use crate::step::{AnyStep, Read, Step};

/// A step in the graph.
pub(crate) struct Entry {
    pub(crate) step: Arc<dyn AnyStep>,
    /// Its fields as JSON.
    pub(crate) fields: Vec<u8>,
    pub(crate) reads: Vec<Read>,
    pub(crate) declared: Option<Product>,
}

/// Steps, each after those whose products it reads.
#[derive(Default)]
pub(crate) struct Graph {
    entries: Vec<Entry>,
    known: HashMap<(&'static str, Vec<u8>, Vec<NodeId>), NodeId>,
}

impl Graph {
    /// Adds a step; one that is equal to an earlier one is that one.
    pub(crate) fn add<S: Step>(&mut self, step: S) -> Result<Node<S::Product>> {
        let fields =
            AnyStep::fields(&step).map_err(|error| BuildError::Json { what: "the key of a step", source: error })?;
        let reads = Step::reads(&step);
        let identity = (S::KIND.name, fields, reads.iter().map(|read| read.node).collect());
        if let Some(id) = self.known.get(&identity) {
            return Ok(Node::new(*id));
        }
        let id = NodeId::new(self.entries.len());
        let declared = Step::declared(&step).map(ProductKind::wrap);
        self.entries.push(Entry { step: Arc::new(step), fields: identity.1.clone(), reads, declared });
        self.known.insert(identity, id);
        Ok(Node::new(id))
    }

    pub(crate) fn entry(&self, id: NodeId) -> &Entry {
        &self.entries[id.index()]
    }

    pub(crate) fn len(&self) -> usize {
        self.entries.len()
    }

    /// Returns all nodes, each after those that it reads.
    pub(crate) fn ids(&self) -> impl DoubleEndedIterator<Item = NodeId> + use<> {
        (0..self.entries.len()).map(NodeId::new)
    }

    /// Returns these nodes and all that they read, directly or not, in the order of the graph.
    pub(crate) fn with_reads(&self, roots: impl IntoIterator<Item = NodeId>) -> Vec<NodeId> {
        let mut wanted = vec![false; self.entries.len()];
        let mut left: Vec<NodeId> = roots.into_iter().collect();
        while let Some(id) = left.pop() {
            if !std::mem::replace(&mut wanted[id.index()], true) {
                left.extend(self.entries[id.index()].reads.iter().map(|read| read.node));
            }
        }
        self.ids().filter(|id| wanted[id.index()]).collect()
    }
}
