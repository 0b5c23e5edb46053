//! Paths through a picture.

use crate::{NodeId, Picture, ROOT, Stored};

/// Links that are followed in one path (path_resolution(7)).
const MOST_LINKS: usize = 40;
/// Bytes of a path or of a link's target (`PATH_MAX`).
pub const LONGEST: usize = 4096;

/// The end of a way along a path.
pub(crate) struct Walk<'p> {
    /// Names and nodes on the way, without links, from below the root on.
    pub(crate) trail: Vec<(&'p [u8], NodeId)>,
    /// Names that are not there.
    pub(crate) left: Vec<&'p [u8]>,
}

impl<'p> Walk<'p> {
    /// Returns the last node that is there.
    pub(crate) fn node(&self) -> NodeId {
        self.trail.last().map_or(ROOT, |(_, node)| *node)
    }

    /// Returns the path to the last node that is there.
    pub(crate) fn path(&self) -> Vec<u8> {
        join(self.trail.iter().map(|(name, _)| *name))
    }

    /// Returns the path with what is not there.
    pub(crate) fn whole(&self) -> Vec<u8> {
        join(self.trail.iter().map(|(name, _)| *name).chain(self.left.iter().copied()))
    }

    /// Returns true if the rest of the path can be made as directories.
    pub(crate) fn can_be_made<D, F>(&self, picture: &Picture<D, F>) -> bool {
        let Some(names) = picture.names(self.node()) else { return false };
        let is_name = |name: &&[u8]| *name != b".." && !name.contains(&b'/');
        // A link that leads round in circles is itself there, and is not replaced.
        self.left.iter().all(is_name) && self.left.first().is_none_or(|first| !names.contains_key(*first))
    }
}

fn join<'n>(names: impl Iterator<Item = &'n [u8]>) -> Vec<u8> {
    names.collect::<Vec<_>>().join(&b'/')
}

impl<D, F> Picture<D, F> {
    /// Goes along a path as the kernel does: through links, whose absolute targets begin at the root, and where `..` is the
    /// directory above the one that the path has led to, the root's being the root.
    pub(crate) fn walk<'p>(&'p self, path: &'p [u8]) -> Walk<'p> {
        let mut trail: Vec<(&[u8], NodeId)> = Vec::new();
        if path.len() > LONGEST {
            return Walk { trail, left: vec![path] };
        }
        let mut left: Vec<&[u8]> = names(path).rev().collect();
        let mut links = 0;
        while let Some(name) = left.pop() {
            let here = trail.last().map_or(ROOT, |(_, node)| *node);
            let Some(children) = self.names(here) else {
                left.push(name);
                break;
            };
            if name == b".." {
                trail.pop();
                continue;
            }
            let Some(next) = children.get(name) else {
                left.push(name);
                break;
            };
            match &self.nodes[next.node.0] {
                Stored::Symlink(target) if links == MOST_LINKS || target.len() > LONGEST => {
                    left.push(name);
                    break;
                }
                Stored::Symlink(target) => {
                    links += 1;
                    if target.starts_with(b"/") {
                        trail.clear();
                    }
                    left.extend(names(target).rev());
                }
                _ => trail.push((name, next.node)),
            }
        }
        left.reverse();
        Walk { trail, left }
    }
}

/// Returns the names of a path, without those that lead nowhere else.
fn names(path: &[u8]) -> impl DoubleEndedIterator<Item = &[u8]> {
    path.split(|byte| *byte == b'/').filter(|name| !name.is_empty() && *name != b".")
}

/// Returns the directory of a path, and the name in it. `None` for the root and for paths that lead upwards.
pub fn split(path: &[u8]) -> Option<(&[u8], &[u8])> {
    let end = path.iter().rposition(|byte| *byte != b'/')? + 1;
    let path = &path[..end];
    let (parent, name) = match path.iter().rposition(|byte| *byte == b'/') {
        Some(slash) => (&path[..slash], &path[slash + 1..]),
        None => (&path[..0], path),
    };
    let upwards = path.split(|byte| *byte == b'/').any(|name| name == b"..");
    (name != b"." && !upwards).then_some((parent, name))
}
