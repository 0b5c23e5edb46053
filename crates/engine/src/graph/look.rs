//! Products that the graph itself depends on: what other images hold, and what their commands left. They are found while it is built.

use super::Graph;
use crate::driver::{Driver, Remote as _};
use crate::error::{BuildError, Result};
use crate::node::Node;
use crate::product::{Blob, Paths, ProductKind};
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
            true => driver.want(&ids.map(|id| (id, Level::Known)).collect::<Vec<_>>())?,
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
        if self.performs {
            let driver = Driver::new(graph, &self.project.workshop, &self.remote);
            driver.want(&nodes.iter().map(|node| (node.id(), Level::Here)).collect::<Vec<_>>())?;
        }
        let read = |list: &Paths| {
            let blob = Blob { digest: list.list, size: Some(list.size) };
            if !self.project.workshop.holds(&blob.digest) && !self.remote.bring(&blob)? {
                return Err(BuildError::NotYet("a list of files".into()));
            }
            Ok(self.project.workshop.store.read(&blob.digest)?)
        };
        lists.iter().map(read).collect()
    }
}
