//! What a step has while it is performed: the products that it reads, and what commands work with.

use std::collections::HashMap;

use kiln_plan::event::{Cancel, Work};

use crate::commands::Commands;
use crate::node::{Node, NodeId};
use crate::product::{Product, ProductKind};
use crate::workshop::Workshop;

/// What a step has while it is performed.
pub(crate) struct Context<'a> {
    /// Store, programs, network, threads.
    pub(crate) workshop: &'a Workshop<'a>,
    pub(crate) commands: Commands<'a>,
    inputs: HashMap<NodeId, Product>,
}

impl<'a> Context<'a> {
    pub(crate) fn new(workshop: &'a Workshop<'a>, commands: Commands<'a>, inputs: HashMap<NodeId, Product>) -> Self {
        Self { workshop, commands, inputs }
    }

    /// Returns a product that the step reads.
    ///
    /// # Panics
    ///
    /// If the step's `reads` does not list the node: every test that performs the step finds that.
    pub(crate) fn get<P: ProductKind>(&self, node: Node<P>) -> &P {
        match self.inputs.get(&node.id()).and_then(P::of) {
            Some(product) => product,
            None => panic!("a step reads {:?} without saying so", node.id()),
        }
    }

    /// Begins an activity.
    pub(crate) fn work(&self, verb: &'static str, subject: impl Into<String>, bytes: Option<u64>) -> Work<'a> {
        self.workshop.work(verb, subject, bytes)
    }

    /// Tells if the user wants to stop.
    pub(crate) fn cancel(&self) -> &'a Cancel {
        &self.workshop.cancel
    }
}
