//! Nodes of a graph, and how much of their products is needed.

use std::fmt;
use std::marker::PhantomData;

use kiln_oci::layer::Layer;
use serde::{Serialize, Serializer};

use crate::product::Dated;

/// The place of a node in its graph.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct NodeId(usize);

impl NodeId {
    pub(crate) fn new(index: usize) -> Self {
        Self(index)
    }

    pub(crate) fn index(self) -> usize {
        self.0
    }
}

/// A node that gives a product of one kind.
pub(crate) struct Node<P>(NodeId, PhantomData<fn() -> P>);

impl<P> Node<P> {
    pub(crate) fn new(id: NodeId) -> Self {
        Self(id, PhantomData)
    }

    /// Returns its place.
    pub(crate) fn id(self) -> NodeId {
        self.0
    }

    /// Returns the wish to read its product.
    pub(crate) fn at(self, level: Level) -> Read {
        Read { node: self.0, level, in_key: true }
    }

    /// Returns the wish to come after this node, whose product is not in the key: the step has what it takes from it in its fields.
    pub(crate) fn before(self) -> Read {
        Read { node: self.0, level: Level::Known, in_key: false }
    }
}

impl Node<Dated> {
    /// Returns this node as one of layers, which a dated result also is.
    pub(crate) fn layers(self) -> Node<Vec<Layer>> {
        Node::new(self.0)
    }
}

impl<P> Clone for Node<P> {
    fn clone(&self) -> Self {
        *self
    }
}

impl<P> Copy for Node<P> {}

impl<P> fmt::Debug for Node<P> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:?}", self.0)
    }
}

/// A node writes one word, which tells it from an absent one: the key holds the digest of its product besides.
impl<P> Serialize for Node<P> {
    fn serialize<S: Serializer>(&self, serializer: S) -> std::result::Result<S::Ok, S::Error> {
        serializer.serialize_str("read")
    }
}

/// How much of a product is needed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Level {
    /// The value.
    Known,
    /// The value, and every blob is in the store, in the cache, or on a base's registry.
    Reachable,
    /// The blobs are in the store.
    Here,
}

/// A product that a step reads.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Read {
    /// The node that gives it.
    pub(crate) node: NodeId,
    /// The level at which the step needs it.
    pub(crate) level: Level,
    /// The digest of its product is in the key.
    pub(crate) in_key: bool,
}
