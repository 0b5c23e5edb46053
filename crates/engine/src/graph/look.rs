//! Products that the graph itself depends on: what other images hold, and what their commands left. They are found while it is built.

use kiln_plan::digest::Digest;

use super::Graph;
use crate::driver::Driver;
use crate::error::{BuildError, Result};
use crate::node::Node;
use crate::product::{Paths, ProductKind};
use crate::project::Project;
use crate::remote::CacheReader;
use crate::step::Level;

/// A look at products of a graph that is not whole yet.
pub(super) struct Look<'p> {
    project: &'p Project<'p>,
    remote: CacheReader<'p>,
    /// Steps are performed where their products are not known.
    performs: bool,
}

impl<'p> Look<'p> {
    pub(super) fn new(project: &'p Project<'p>, performs: bool) -> Self {
        Self { project, remote: CacheReader::new(project), performs }
    }

    /// Returns the products of nodes.
    ///
    /// # Errors
    ///
    /// [`BuildError::NotYet`] where one is not known, and nothing is to be performed.
    pub(super) fn at<P: ProductKind>(&self, graph: &Graph, nodes: &[Node<P>]) -> Result<Vec<P>> {
        let driver = Driver::new(graph, &self.project.workshop, &self.remote);
        let ids = nodes.iter().map(|node| node.id());
        match self.performs {
            true => driver.want(&ids.map(|id| (id, Level::Here)).collect::<Vec<_>>())?,
            false => driver.settle(ids)?,
        }
        let product = |node: &Node<P>| {
            let subject = || graph.entry(node.id()).step.subject().to_string();
            driver.known(*node).ok_or_else(|| BuildError::NotYet(subject()))
        };
        nodes.iter().map(product).collect()
    }

    /// Returns the content of lists of files.
    pub(super) fn lists(&self, graph: &Graph, nodes: &[Node<Paths>]) -> Result<Vec<Vec<u8>>> {
        let lists = self.at(graph, nodes)?;
        let bring = |list: &Paths| {
            let digest: Digest = list.list;
            let blob = crate::product::Blob { digest, size: Some(list.size) };
            if !self.project.workshop.holds(&digest) {
                crate::driver::Remote::bring(&self.remote, &blob)?;
            }
            Ok(self.project.workshop.store.read(&digest)?)
        };
        lists.iter().map(bring).collect()
    }
}
