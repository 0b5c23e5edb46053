//! The directories of a base, and the links that lead to some: what a layer above must fit (see `docs/layers.md`).

use kiln_picture::{Node, NodeId, ROOT};
use kiln_plan::base::{Attributes, DirectoryLine, FolderLine, LinkLine};

use super::Held;
use super::entries::Member;

/// Bytes of text that all folders of a base take, about: some fifteen thousand directories. Where a base has more, the deepest are left
/// out.
const FOLDERS: usize = 192 << 10;
/// Directories within directories that are told of at most, and at least.
const DEEPEST: usize = 24;
const LEAST: usize = 3;

impl Member {
    /// Returns owner, mode and extended attributes.
    pub fn attributes(&self) -> Attributes {
        let id = |id: u64| u32::try_from(id).unwrap_or(u32::MAX);
        let attribute = |(key, value): &(Vec<u8>, Vec<u8>)| {
            key.strip_prefix(b"SCHILY.xattr.").map(|name| (name.to_owned(), value.clone()))
        };
        let mut xattrs: Vec<_> = self.records.iter().filter_map(attribute).collect();
        xattrs.sort();
        Attributes { mode: self.mode, owner: (id(self.uid), id(self.gid)), xattrs }
    }
}

/// Returns the links that lead to directories, by path.
pub(super) fn links(held: &Held) -> Vec<LinkLine> {
    let mut found = Vec::new();
    held.visit(ROOT, |path, node| {
        // No system makes a link to nothing; an archive can hold one.
        if let Node::Symlink(target) = held.node(node)
            && !target.is_empty()
            && held.find(path).is_some_and(|end| matches!(held.node(end), Node::Directory(_)))
        {
            found.push(LinkLine { path: path.to_owned(), target: target.to_owned() });
        }
    });
    found.sort();
    found
}

/// Returns the directories whose attributes are not the default ones, by path. A directory most of whose directories are like
/// it stands for everything below it.
pub(super) fn unusual(held: &Held) -> Vec<DirectoryLine> {
    let mut found = Vec::new();
    let mut waiting = vec![(Vec::new(), ROOT, Attributes::default())];
    while let Some((path, node, inherited)) = waiting.pop() {
        let attributes = attributes(held, node);
        let mut below = inherited.clone();
        if attributes != inherited {
            let inner: Vec<NodeId> = directories(held, node).map(|(_, inner)| inner).collect();
            let alike = inner.iter().filter(|inner| self::attributes(held, **inner) == attributes).count();
            if 2 * alike > inner.len() {
                below = attributes.clone();
            }
            found.push(DirectoryLine { path: path.clone(), below: below == attributes, attributes });
        }
        for (name, inner) in directories(held, node) {
            let path = if path.is_empty() { name.to_owned() } else { [&path, name].join(&b'/') };
            waiting.push((path, inner, below.clone()));
        }
    }
    found.sort();
    found
}

/// Returns all directories, as deep as there is room, and that depth where there are deeper ones.
pub(super) fn folders(held: &Held) -> (Vec<FolderLine>, Option<usize>) {
    let mut all = inside(held, ROOT, DEEPEST + 1);
    let size = |folders: &[FolderLine]| folders.iter().map(|folder| folder.to_string().len()).sum::<usize>();
    let mut depth = DEEPEST;
    let mut is_cut = cut(&mut all, depth);
    while size(&all) > FOLDERS && depth > LEAST {
        depth -= 1;
        is_cut |= cut(&mut all, depth);
    }
    (all, is_cut.then_some(depth))
}

/// Removes the directories below a depth; returns true if there were some.
fn cut(folders: &mut [FolderLine], depth: usize) -> bool {
    let mut is_cut = false;
    for folder in folders {
        is_cut |= match depth {
            1 => !std::mem::take(&mut folder.below).is_empty(),
            _ => cut(&mut folder.below, depth - 1),
        };
    }
    is_cut
}

fn inside(held: &Held, directory: NodeId, depth: usize) -> Vec<FolderLine> {
    if depth == 0 {
        return Vec::new();
    }
    let folder =
        |(name, inner): (&[u8], NodeId)| FolderLine { name: name.to_owned(), below: inside(held, inner, depth - 1) };
    directories(held, directory).map(folder).collect()
}

fn directories(held: &Held, directory: NodeId) -> impl Iterator<Item = (&[u8], NodeId)> {
    held.children(directory).filter(|(_, node)| matches!(held.node(*node), Node::Directory(_)))
}

/// Returns the attributes of a directory; the default ones where no layer has an entry for it.
fn attributes(held: &Held, directory: NodeId) -> Attributes {
    match held.node(directory) {
        Node::Directory(Some(attributes)) => attributes.clone(),
        _ => Attributes::default(),
    }
}
