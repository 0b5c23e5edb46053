//! `list`: everything in a tree that images copy from. Machines that share a cache share the lists.

use serde::Serialize;

use crate::context::Context;
use crate::error::Result;
use crate::installed::write_list;
use crate::product::Paths;
use crate::sources::Tree;
use crate::step::{Cost, Kind, Step, Subject};

/// The files of a tree, as a list of [`kiln_oci::tree::Listed`].
#[derive(Serialize)]
pub(crate) struct List {
    tree: Tree,
}

impl List {
    pub(crate) fn new(tree: Tree) -> Self {
        Self { tree }
    }
}

impl Step for List {
    type Product = Paths;
    const KIND: Kind = Kind { name: "list", version: 1 };

    fn subject(&self) -> Subject {
        Subject::Tree(self.tree.to_string())
    }

    fn cost(&self) -> Cost {
        Cost::Network(0)
    }

    fn perform(&self, context: &Context<'_>) -> Result<Paths> {
        let list = write_list(&context.workshop.listing(&self.tree)?)?;
        Ok(Paths { list: context.workshop.store.add(&list)?, size: list.len() as u64, namespaces: Vec::new() })
    }
}
