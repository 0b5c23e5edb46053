//! Products that the graph itself depends on: what other images hold, and what their commands left. They are found while it is built.

use std::cell::RefCell;
use std::collections::BTreeSet;

use kiln_sandbox::{Ids, Sandbox};

use crate::commands::Commands;
use crate::driver::{Driver, Remote as _};
use crate::error::{BuildError, Result, RunError};
use crate::graph::Graph;
use crate::node::{Node, NodeId};
use crate::product::{Blob, Paths, ProductKind};
use crate::project::Project;
use crate::remote::CacheReader;
use crate::step::{Commanded, Level};
use crate::workshop::Workshop;

/// The way in which a graph is made.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Making<'a> {
    /// Steps on whose products it depends are performed where these are not known.
    pub(crate) performs: bool,
    /// An image that cannot be planned is left out, and the others are not.
    pub(crate) keep_going: bool,
    pub(crate) commands: Commands<'a>,
}

impl Default for Making<'_> {
    fn default() -> Self {
        Self { performs: true, keep_going: false, commands: Commands::default() }
    }
}

/// A look at products of a graph that is not whole yet.
pub(super) struct Look<'p> {
    project: &'p Project<'p>,
    remote: CacheReader<'p>,
    making: Making<'p>,
    /// Commands that are performed though their results are known, and were not yet.
    again: RefCell<BTreeSet<NodeId>>,
}

impl<'p> Look<'p> {
    pub(super) fn new(project: &'p Project<'p>, making: Making<'p>) -> Self {
        Self { project, remote: CacheReader::new(project), making, again: RefCell::default() }
    }

    /// Notes a command of an image, the Nth from 1.
    pub(super) fn command(&self, image: &str, number: usize, node: NodeId) {
        let Commands { again, twice, .. } = self.making.commands;
        if twice || again.iter().any(|name| name == image || *name == format!("{image}:{number}")) {
            self.again.borrow_mut().insert(node);
        }
    }

    pub(super) fn into_again(self) -> BTreeSet<NodeId> {
        self.again.into_inner()
    }

    /// Returns the products of nodes.
    ///
    /// # Errors
    ///
    /// [`BuildError::NotYet`] where one is not known, and nothing is to be performed.
    pub(super) fn at<P: ProductKind>(&self, graph: &Graph, nodes: &[Node<P>]) -> Result<Vec<P>> {
        let again = self.again.borrow().clone();
        let driver = Driver::new(graph, &self.project.workshop, &self.remote).commands(self.making.commands, again);
        let ids: Vec<NodeId> = nodes.iter().map(|node| node.id()).collect();
        if self.making.performs {
            if !self.making.keep_going {
                require_sandbox(&self.project.workshop, graph, &driver, &ids)?;
            }
            driver.want(&ids.iter().map(|id| (*id, Level::Known)).collect::<Vec<_>>())?;
            self.again.borrow_mut().retain(|id| !driver.has_worked(*id));
        } else {
            driver.settle(ids)?;
        }
        let product = |node: &Node<P>| {
            let subject = || graph.entry(node.id()).step.subject().to_string();
            driver.known(*node).ok_or_else(|| BuildError::NotYet(subject()))
        };
        nodes.iter().map(product).collect()
    }

    /// Returns the content of lists of files.
    pub(super) fn lists(&self, graph: &Graph, nodes: &[Node<Paths>]) -> Result<Vec<Vec<u8>>> {
        let mut lists = self.at(graph, nodes)?;
        if self.making.performs {
            // A list that is gone is made again.
            let driver = Driver::new(graph, &self.project.workshop, &self.remote);
            driver.want(&nodes.iter().map(|node| (node.id(), Level::Here)).collect::<Vec<_>>())?;
            lists = nodes.iter().filter_map(|node| driver.known(*node)).collect();
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

/// Fails before anything starts where a command must be performed and no sandbox can be made here, or none for its user.
pub(crate) fn require_sandbox(
    workshop: &Workshop<'_>,
    graph: &Graph,
    driver: &Driver<'_>,
    wanted: &[NodeId],
) -> Result<()> {
    let is_command = |id: &NodeId| graph.entry(*id).step.command().is_some();
    if !graph.with_reads(wanted.iter().copied()).iter().any(is_command) {
        return Ok(());
    }
    driver.settle(wanted.iter().copied())?;
    let unknown = driver.unknown();
    let commands: Vec<Commanded> = unknown.iter().filter_map(|id| graph.entry(*id).step.command()).collect();
    let Some(first) = commands.first() else { return Ok(()) };
    let directory = workshop.store.temporary_directory()?;
    Sandbox::default().try_out(directory.path()).map_err(|source| BuildError::Sandbox {
        command: first.shown.clone(),
        remedy: source.remedy(directory.path()),
        source,
    })?;
    let other = commands.iter().find_map(|command| Some((command, command.another?)));
    match other.filter(|_| Ids::of_this_process() == Ids::One) {
        Some((command, id)) => Err(RunError::of_another_user(command, id).into()),
        None => Ok(()),
    }
}
