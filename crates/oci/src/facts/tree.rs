//! What is kept of a base's file system while its layers pass by.
//!
//! Only symbolic links and files of interest are held, by the path at which they stand once the links on the way are
//! followed; folders are implied. A layer replaces what layers below it put at the same path, and its whiteouts take
//! away what layers below it put there and nothing of its own (OCI image specification, "Whiteouts"). The map is flat,
//! so that neither a deep path nor a deep whiteout recurses.

use std::collections::{BTreeMap, HashSet};

/// As Linux's `MAXSYMLINKS`.
const MAX_LINKS: usize = 40;

/// As Linux's `PATH_MAX`.
const MAX_PATH: usize = 4096;

/// What one held node costs beyond its path, roughly.
const NODE_COST: usize = 128;

/// Something held.
#[derive(Debug)]
pub(crate) enum Held<C> {
    /// A symbolic link with its target as written.
    Symlink(Vec<u8>),
    /// A file of interest with what was read of it.
    File(C),
}

#[derive(Debug)]
struct Node<C> {
    layer: usize,
    held: Held<C>,
}

/// Symbolic links and files of interest, by path without a leading slash.
#[derive(Debug)]
pub(crate) struct Tree<C> {
    nodes: BTreeMap<Vec<u8>, Node<C>>,
    layer: usize,
    cost: usize,
    /// Folders below which the present layer has taken away what lower layers put: once is enough, and looking through a
    /// folder for every one of many whiteouts would take for ever.
    emptied: HashSet<Vec<u8>>,
}

impl<C> Tree<C> {
    pub(crate) fn new() -> Self {
        Self { nodes: BTreeMap::new(), layer: 0, cost: 0, emptied: HashSet::new() }
    }

    /// Starts the layer above the present one.
    pub(crate) fn next_layer(&mut self) {
        self.layer += 1;
        self.emptied.clear();
    }

    /// Bytes that were ever put here; what is replaced still counts, which keeps the bound simple.
    pub(crate) fn cost(&self) -> usize {
        self.cost
    }

    /// Where an entry of an archive lands: the links of its folders are followed, its last name is not.
    /// Nothing for the root itself, for a loop of links and for a path that no system could hold.
    pub(crate) fn landing(&self, path: &[u8]) -> Option<Vec<u8>> {
        self.walk(path, false)
    }

    /// Where a path leads when every link is followed.
    pub(crate) fn resolve(&self, path: &[u8]) -> Option<Vec<u8>> {
        self.walk(path, true)
    }

    /// The file at a path, following links.
    pub(crate) fn file(&self, path: &[u8]) -> Option<&C> {
        self.file_at(&self.resolve(path)?)
    }

    /// The file at a path that is resolved already.
    pub(crate) fn file_at(&self, path: &[u8]) -> Option<&C> {
        match &self.nodes.get(path)?.held {
            Held::File(content) => Some(content),
            Held::Symlink(_) => None,
        }
    }

    /// Everything held, by path.
    pub(crate) fn iter(&self) -> impl Iterator<Item = (&[u8], &Held<C>)> {
        self.nodes.iter().map(|(path, node)| (path.as_slice(), &node.held))
    }

    /// Everything held below a folder, by path; `folder` is resolved already.
    pub(crate) fn below(&self, folder: &[u8]) -> impl Iterator<Item = (&[u8], &Held<C>)> {
        let prefix = [folder, b"/"].concat();
        self.nodes
            .range(prefix.clone()..)
            .take_while(move |(path, _)| path.starts_with(&prefix))
            .map(|(path, node)| (path.as_slice(), &node.held))
    }

    /// Puts something at a landing.
    pub(crate) fn put(&mut self, path: Vec<u8>, held: Held<C>, size: usize) {
        self.cost = self.cost.saturating_add(NODE_COST + path.len()).saturating_add(size);
        let layer = self.layer;
        self.nodes.insert(path, Node { layer, held });
    }

    /// A folder stands at this landing now: what else stood there is gone, what was below a folder there stays.
    pub(crate) fn folder(&mut self, path: &[u8]) {
        self.nodes.remove(path);
    }

    /// Something that is no folder stands at this landing now: whatever was there or below is gone.
    pub(crate) fn clear(&mut self, path: &[u8]) {
        self.nodes.remove(path);
        self.remove_below(path, self.layer + 1);
    }

    /// A whiteout: what lower layers put at this landing or below is gone.
    pub(crate) fn whiteout(&mut self, path: &[u8]) {
        if self.nodes.get(path).is_some_and(|node| node.layer < self.layer) {
            self.nodes.remove(path);
        }
        self.opaque(path);
    }

    /// An opaque whiteout: what lower layers put below this folder is gone.
    pub(crate) fn opaque(&mut self, folder: &[u8]) {
        if self.emptied.insert(folder.to_owned()) {
            self.remove_below(folder, self.layer);
        }
    }

    fn remove_below(&mut self, folder: &[u8], before_layer: usize) {
        let prefix = if folder.is_empty() { Vec::new() } else { [folder, b"/"].concat() };
        let gone: Vec<Vec<u8>> = self
            .nodes
            .range(prefix.clone()..)
            .take_while(|(path, _)| path.starts_with(&prefix))
            .filter(|(_, node)| node.layer < before_layer)
            .map(|(path, _)| path.clone())
            .collect();
        for path in gone {
            self.nodes.remove(&path);
        }
    }

    fn walk(&self, path: &[u8], follow_last: bool) -> Option<Vec<u8>> {
        let mut pending: Vec<&[u8]> = names(path).rev().collect();
        let mut at: Vec<u8> = Vec::new();
        let mut links = 0;
        while let Some(name) = pending.pop() {
            let parent = at.len();
            if name == b".." {
                at.truncate(at.iter().rposition(|byte| *byte == b'/').unwrap_or(0));
                continue;
            }
            if !at.is_empty() {
                at.push(b'/');
            }
            at.extend_from_slice(name);
            if at.len() > MAX_PATH {
                return None;
            }
            if !follow_last && pending.is_empty() {
                break;
            }
            if let Some(Held::Symlink(target)) = self.nodes.get(&at).map(|node| &node.held) {
                links += 1;
                if links > MAX_LINKS {
                    return None;
                }
                at.truncate(if target.first() == Some(&b'/') { 0 } else { parent });
                pending.extend(names(target).rev());
            }
        }
        (!at.is_empty()).then_some(at)
    }
}

/// The names of a path, without those that say nothing.
fn names(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}

#[cfg(test)]
impl<C> Tree<C> {
    /// Returns true if a file of interest or a link stands at a path, whose folders' links are followed.
    fn holds(&self, path: &[u8]) -> bool {
        self.landing(path).is_some_and(|path| self.nodes.contains_key(&path))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn tree(links: &[(&str, &str)]) -> Tree<()> {
        let mut tree = Tree::new();
        for (path, target) in links {
            tree.put(path.as_bytes().to_vec(), Held::Symlink(target.as_bytes().to_vec()), 0);
        }
        tree
    }

    fn resolve(tree: &Tree<()>, path: &str) -> Option<String> {
        tree.resolve(path.as_bytes()).map(|path| String::from_utf8(path).unwrap())
    }

    #[test]
    fn links_are_followed_wherever_they_stand() {
        let tree =
            tree(&[("bin", "usr/bin"), ("usr/bin/python3", "python3.11"), ("opt/here", "/bin"), ("a/up", "../../bin")]);
        for (path, real) in [
            ("/bin/python3", "usr/bin/python3.11"),
            ("./opt/here//python3", "usr/bin/python3.11"),
            ("a/up/x", "usr/bin/x"),
            ("../../bin/..", "usr"),
        ] {
            assert_eq!(resolve(&tree, path).as_deref(), Some(real), "{path}");
        }
        assert_eq!(tree.landing(b"bin"), Some(b"bin".to_vec()));
        assert_eq!(tree.landing(b"bin/python3"), Some(b"usr/bin/python3".to_vec()));
    }

    #[test]
    fn a_loop_of_links_leads_nowhere() {
        let tree = tree(&[("a", "b"), ("b", "a"), ("c", "c/c")]);
        assert_eq!(resolve(&tree, "a/x"), None);
        assert_eq!(resolve(&tree, "c"), None);
    }

    #[test]
    fn a_whiteout_spares_its_own_layer() {
        let mut tree = Tree::new();
        tree.put(b"etc/old".to_vec(), Held::File(()), 0);
        tree.next_layer();
        tree.put(b"etc/new".to_vec(), Held::File(()), 0);
        tree.opaque(b"etc");
        assert!(!tree.holds(b"etc/old") && tree.holds(b"etc/new"));
        tree.next_layer();
        tree.whiteout(b"etc");
        assert!(!tree.holds(b"etc/new"));
    }

    #[test]
    fn a_file_in_the_place_of_a_folder_takes_what_was_below() {
        let mut tree = Tree::new();
        tree.put(b"etc/os-release".to_vec(), Held::File(()), 0);
        tree.put(b"etc2".to_vec(), Held::File(()), 0);
        tree.clear(b"etc");
        assert!(!tree.holds(b"etc/os-release") && tree.holds(b"etc2"));
    }
}
