//! A picture of a file system: stacked image layers as a container sees them.
//!
//! Three things ask for it: the facts of a base, the check that the loader finds its libraries, and the layers that kiln
//! itself makes, which must fit what lies below them. All of them see what a container sees, because one set of rules puts
//! layers over one another: an entry replaces what layers below have at its path, a directory keeps what is in it, and a
//! whiteout takes away what layers below put there and nothing of its own layer (OCI image specification, "Image Layer
//! Filesystem Changeset"). Links in the parents of an entry are followed, the last name of its path is not, as containerd
//! does it.
//!
//! Names are kept apart from files, so that a hard link is a second name of the same file. Everything may come from a
//! registry: nothing recurses, and a path that no system could hold is left out.

#[cfg(test)]
mod tests;
mod walk;

use std::collections::{BTreeMap, HashSet};

pub use walk::{LONGEST, split};

/// A node of a picture. Nodes are never renumbered, and two names of one file have the same.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct NodeId(usize);

/// The root directory.
pub const ROOT: NodeId = NodeId(0);

/// A picture whose directories hold a `D` and whose files hold an `F`. Paths are relative to the root.
#[derive(Debug, Clone)]
pub struct Picture<D, F> {
    nodes: Vec<Stored<D, F>>,
    layer: u32,
    /// Directories that the present layer emptied: once is enough, and going through a directory for each of many
    /// whiteouts would take for ever.
    emptied: HashSet<NodeId>,
}

#[derive(Debug, Clone)]
enum Stored<D, F> {
    Directory { stated: Option<D>, names: BTreeMap<Vec<u8>, Name> },
    Symlink(Vec<u8>),
    File(F),
}

/// A name in a directory, and the layer that put it there or anything below it.
#[derive(Debug, Clone, Copy)]
struct Name {
    node: NodeId,
    layer: u32,
}

/// The node at a path.
#[derive(Debug, PartialEq, Eq)]
pub enum Node<'p, D, F> {
    /// A directory, and what the uppermost layer with an entry for it says; `None` where no layer has one.
    Directory(Option<&'p D>),
    /// A symbolic link, and its target as it is written.
    Symlink(&'p [u8]),
    /// A file.
    File(&'p F),
}

impl<D, F> Default for Picture<D, F> {
    fn default() -> Self {
        Self::new()
    }
}

impl<D, F> Picture<D, F> {
    /// Returns a picture of no layer: an empty root.
    pub fn new() -> Self {
        let root = Stored::Directory { stated: None, names: BTreeMap::new() };
        Self { nodes: vec![root], layer: 0, emptied: HashSet::new() }
    }

    /// Begins the layer above the present one.
    pub fn next_layer(&mut self) {
        self.layer += 1;
        self.emptied.clear();
    }

    /// Returns the number of nodes that were ever made: a bound for the memory that hostile layers take.
    pub fn size(&self) -> usize {
        self.nodes.len()
    }

    /// Puts a directory, whose content stays if there is one already.
    pub fn put_directory(&mut self, path: &[u8], stated: D) {
        if path_is_root(path) {
            self.state(ROOT, stated);
            return;
        }
        match self.entry(path).filter(|node| self.names(*node).is_some()) {
            Some(node) => {
                self.state(node, stated);
                self.put(path, |_| node);
            }
            None => {
                self.put(path, |nodes| push(nodes, Stored::Directory { stated: Some(stated), names: BTreeMap::new() }))
            }
        }
    }

    /// Puts a symbolic link.
    pub fn put_symlink(&mut self, path: &[u8], target: &[u8]) {
        self.put(path, |nodes| push(nodes, Stored::Symlink(target.to_owned())));
    }

    /// Puts a file.
    pub fn put_file(&mut self, path: &[u8], file: F) {
        self.put(path, |nodes| push(nodes, Stored::File(file)));
    }

    /// Puts another name of a file or link that is there. Of one that is not there, nothing is put.
    pub fn put_hard_link(&mut self, path: &[u8], first: &[u8]) {
        if let Some(node) = self.entry(first).filter(|node| self.names(*node).is_none()) {
            self.put(path, |_| node);
        }
    }

    /// Takes away what is at a path: something that the picture does not hold took its place.
    pub fn remove(&mut self, path: &[u8]) {
        if let Some((parent, name)) = split(path)
            && let Some(parent) = self.reach(parent)
            && let Stored::Directory { names, .. } = &mut self.nodes[parent.0]
        {
            names.remove(name);
        }
    }

    /// Takes away what layers below put at a path, or below it.
    pub fn whiteout(&mut self, path: &[u8]) {
        let Some((parent, name)) = split(path) else { return };
        let (layer, Some(parent)) = (self.layer, self.find(parent)) else { return };
        let Stored::Directory { names, .. } = &mut self.nodes[parent.0] else { return };
        match names.get(name) {
            Some(found) if found.layer < layer => drop(names.remove(name)),
            Some(found) => {
                let node = found.node;
                self.empty(node);
            }
            None => {}
        }
    }

    /// Takes away what layers below put into a directory.
    pub fn opaque(&mut self, path: &[u8]) {
        if let Some(directory) = self.find(path) {
            self.empty(directory);
        }
    }

    /// Returns what a node is.
    pub fn node(&self, node: NodeId) -> Node<'_, D, F> {
        match &self.nodes[node.0] {
            Stored::Directory { stated, .. } => Node::Directory(stated.as_ref()),
            Stored::Symlink(target) => Node::Symlink(target),
            Stored::File(file) => Node::File(file),
        }
    }

    /// Returns the node that a path leads to, links followed.
    pub fn find(&self, path: &[u8]) -> Option<NodeId> {
        let walk = self.walk(path);
        walk.left.is_empty().then(|| walk.node())
    }

    /// Returns the node that a path names: where that is a link, the link.
    pub fn entry(&self, path: &[u8]) -> Option<NodeId> {
        let (parent, name) = split(path)?;
        Some(self.names(self.find(parent)?)?.get(name)?.node)
    }

    /// Returns the file that a node is.
    pub fn file_of(&self, node: NodeId) -> Option<&F> {
        match self.node(node) {
            Node::File(file) => Some(file),
            _ => None,
        }
    }

    /// Returns the file that a path leads to, links followed.
    pub fn file(&self, path: &[u8]) -> Option<&F> {
        self.file_of(self.find(path)?)
    }

    /// Returns the path without links that a path leads to. `None` where nothing is there.
    pub fn resolve(&self, path: &[u8]) -> Option<Vec<u8>> {
        let walk = self.walk(path);
        walk.left.is_empty().then(|| walk.path())
    }

    /// Returns the path at which an entry lands: the links of its parents are followed, parents that are not there would be
    /// made. `None` for the root, a loop of links, a parent that is no directory, and a path that no system could hold.
    pub fn landing(&self, path: &[u8]) -> Option<Vec<u8>> {
        let (parent, name) = split(path)?;
        let mut walk = self.walk(parent);
        if !walk.can_be_made(self) {
            return None;
        }
        walk.left.push(name);
        Some(walk.whole())
    }

    /// Returns the node of a name in a directory.
    pub fn child(&self, directory: NodeId, name: &[u8]) -> Option<NodeId> {
        Some(self.names(directory)?.get(name)?.node)
    }

    /// Returns the names in a directory with their nodes, in the order of bytes. Nothing for what is no directory.
    pub fn children(&self, directory: NodeId) -> impl DoubleEndedIterator<Item = (&[u8], NodeId)> {
        let names = self.names(directory).into_iter().flatten();
        names.map(|(name, found)| (name.as_slice(), found.node))
    }

    /// Calls with the path and the node of everything below a directory, in the order of paths by component. Links are not
    /// followed, and a file with two names comes twice.
    pub fn visit(&self, directory: NodeId, mut call: impl FnMut(&[u8], NodeId)) {
        let mut waiting = vec![(Vec::new(), directory)];
        while let Some((path, node)) = waiting.pop() {
            for (name, child) in self.children(node).rev() {
                let below = if path.is_empty() { name.to_owned() } else { [&path, name].join(&b'/') };
                waiting.push((below, child));
            }
            if node != directory {
                call(&path, node);
            }
        }
    }

    fn names(&self, directory: NodeId) -> Option<&BTreeMap<Vec<u8>, Name>> {
        match &self.nodes[directory.0] {
            Stored::Directory { names, .. } => Some(names),
            _ => None,
        }
    }

    fn state(&mut self, directory: NodeId, new: D) {
        if let Stored::Directory { stated, .. } = &mut self.nodes[directory.0] {
            *stated = Some(new);
        }
    }

    /// Takes away what layers below put into a directory, and leaves what the present layer has.
    fn empty(&mut self, directory: NodeId) {
        let mut waiting = vec![directory];
        while let Some(directory) = waiting.pop() {
            if let Stored::Directory { names, .. } = &mut self.nodes[directory.0]
                && self.emptied.insert(directory)
            {
                names.retain(|_, found| found.layer == self.layer);
                waiting.extend(names.values().map(|found| found.node));
            }
        }
    }

    /// Gives a name to a node, which replaces what had it.
    fn put(&mut self, path: &[u8], node: impl FnOnce(&mut Vec<Stored<D, F>>) -> NodeId) {
        let Some((parent, name)) = split(path) else { return };
        let Some(parent) = self.reach(parent) else { return };
        let (node, layer) = (node(&mut self.nodes), self.layer);
        if let Stored::Directory { names, .. } = &mut self.nodes[parent.0] {
            names.insert(name.to_owned(), Name { node, layer });
        }
    }

    /// Returns the directory at a path. Directories that are not there are made: layers need not have entries for them.
    fn reach(&mut self, path: &[u8]) -> Option<NodeId> {
        let walk = self.walk(path);
        if !walk.can_be_made(self) {
            return None;
        }
        let there: Vec<(Vec<u8>, NodeId)> = walk.trail.iter().map(|(name, node)| ((*name).to_owned(), *node)).collect();
        let missing: Vec<Vec<u8>> = walk.left.iter().map(|name| (*name).to_owned()).collect();
        let (mut here, layer) = (ROOT, self.layer);
        for (name, node) in there {
            if let Stored::Directory { names, .. } = &mut self.nodes[here.0] {
                names.insert(name, Name { node, layer });
            }
            here = node;
        }
        for name in missing {
            let node = push(&mut self.nodes, Stored::Directory { stated: None, names: BTreeMap::new() });
            if let Stored::Directory { names, .. } = &mut self.nodes[here.0] {
                names.insert(name, Name { node, layer });
            }
            here = node;
        }
        Some(here)
    }
}

fn push<D, F>(nodes: &mut Vec<Stored<D, F>>, node: Stored<D, F>) -> NodeId {
    nodes.push(node);
    NodeId(nodes.len() - 1)
}

fn path_is_root(path: &[u8]) -> bool {
    path.split(|byte| *byte == b'/').all(|name| name.is_empty() || name == b".")
}
