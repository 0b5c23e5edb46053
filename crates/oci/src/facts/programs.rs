//! The programs of a base: the files of `/`, of `/etc` and of the directories in which a shell looks for them.

use std::collections::BTreeMap;

use kiln_picture::{Node, ROOT};
use kiln_plan::base::{BaseFacts, FolderLine};

use super::Held;

/// Bytes of text that all programs of a base take at most: about three thousand. Where a base has more, none is told.
const PROGRAMS: usize = 32 << 10;

/// Returns true for a file whose existence is held.
pub(super) fn may_hold(search: Option<&str>, path: &[u8]) -> bool {
    let directory = path.iter().rposition(|byte| *byte == b'/').map_or(b"".as_slice(), |slash| &path[..slash]);
    std::str::from_utf8(directory).is_ok_and(|directory| BaseFacts::tells_files_of(search, directory))
}

/// A directory on the way to programs, and files.
#[derive(Default)]
struct Tree(BTreeMap<Vec<u8>, Tree>);

impl Tree {
    fn lines(self) -> Vec<FolderLine> {
        self.0.into_iter().map(|(name, inner)| FolderLine { name, below: inner.lines() }).collect()
    }
}

/// Returns the programs of a base by their real paths.
pub(super) fn programs(held: &Held, facts: &BaseFacts) -> Vec<FolderLine> {
    let found = facts.search_path().filter_map(|directory| held.resolve(directory.as_bytes()));
    let told = |directory: &Vec<u8>| {
        std::str::from_utf8(directory).is_ok_and(|text| BaseFacts::tells_files_of(facts.path.as_deref(), text))
    };
    let directories = found.filter(told).chain([Vec::new(), b"etc".to_vec()]);
    let mut tree = Tree::default();
    for directory in directories {
        let Some(node) = (if directory.is_empty() { Some(ROOT) } else { held.find(&directory) }) else { continue };
        let above = directory.split(|byte| *byte == b'/').filter(|name| !name.is_empty());
        let place = above.fold(&mut tree, |tree, name| tree.0.entry(name.to_owned()).or_default());
        for (name, inner) in held.children(node) {
            if !matches!(held.node(inner), Node::Directory(_)) {
                place.0.entry(name.to_owned()).or_default();
            }
        }
    }
    let lines = tree.lines();
    let size: usize = lines.iter().map(|line| line.to_string().len()).sum();
    if size > PROGRAMS { Vec::new() } else { lines }
}
