//! Differences that are meant: `docs/layers.md`, "What is below", says the same in words.

use super::generated::{Case, Copy};
use crate::interop::base::Body;
use crate::interop::seen::Seen;
use crate::interop::tree::{Kind, Node};

/// A reason for a difference.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Excuse {
    /// kiln replaces no link to a directory by a file or a link; BuildKit does.
    LinkIsKept,
    /// kiln follows a link of the base where the source has a directory; BuildKit refuses.
    LinkIsFollowed,
    /// kiln knows the directories of a base and the links to them, and no files: it replaces a file, or a link to one, by a
    /// directory; BuildKit refuses.
    FileIsReplaced,
    /// For the same reason it replaces a link to a file, or to nothing, or refuses it where it takes it for a file; BuildKit
    /// writes to where it leads.
    LinkIsReplaced,
    /// A directory that is there keeps owner and mode, each unless the copy says it; BuildKit gives it the source's.
    DirectoryIsKept,
    /// kiln lets enter a directory whoever may read files; BuildKit gives it the files' mode, or leaves it as it is.
    DirectoryMode,
    /// A directory that must be made within one that passes its group on inherits the bit, and the group, from the system
    /// that builds.
    SetGroup,
}

/// Finds the reason why kiln alone refuses a copy.
pub(super) fn refusal(case: &Case, copy: &Copy, why: &str) -> Option<Excuse> {
    if why.contains("is a file in `oci base`") && case.meets_link(&copy.to) {
        return Some(Excuse::LinkIsReplaced);
    }
    why.contains("which is a link to the directory").then_some(Excuse::LinkIsKept)
}

/// Finds the reason why BuildKit alone refuses a copy.
pub(super) fn acceptance(case: &Case, why: &str, ours: &Seen) -> Option<Excuse> {
    if replaces_file(case, ours) {
        return Some(Excuse::FileIsReplaced);
    }
    let is_link = |path: &&String| matches!(case.base[*path].body, Body::Link(_)) && !case.is_file_below(path);
    let is_kept = |path: &str| ours.get(path.as_bytes()).is_some_and(|(node, _)| matches!(node.kind, Kind::Link(_)));
    let is_refused = |path: &String| why.ends_with(&format!("/merged/{path}")) && is_kept(path);
    (why.contains("cannot copy to non-directory") && case.base.keys().filter(is_link).any(is_refused))
        .then_some(Excuse::LinkIsFollowed)
}

/// Returns true if an image has a directory where the base has a file.
pub(super) fn replaces_file(case: &Case, ours: &Seen) -> bool {
    let is_directory = |path: &String| ours.get(path.as_bytes()).is_some_and(|(node, _)| node.kind == Kind::Directory);
    case.base.keys().any(|path| case.is_file_below(path) && is_directory(path))
}

type Found<'s> = Option<&'s (Node, String)>;

/// Finds the reason why a path is otherwise.
pub(super) fn path(case: &Case, copy: &Copy, path: &[u8], (ours, theirs): (Found<'_>, Found<'_>)) -> Option<Excuse> {
    if case.meets_link(&copy.to) {
        return Some(Excuse::LinkIsReplaced);
    }
    let ((ours, _), (theirs, _)) = (ours?, theirs?);
    if ours.kind != Kind::Directory || theirs.kind != Kind::Directory {
        return None;
    }
    let below = std::str::from_utf8(path).ok().and_then(|path| case.base.get(path));
    if let Some(below) = below {
        let mode = copy.mode.map_or(below.mode, |mode| mode | (mode & 0o444) >> 2);
        let owner = if copy.owner.is_some() { theirs.owner } else { below.owner };
        let reason = if copy.mode.is_some() { Excuse::DirectoryMode } else { Excuse::DirectoryIsKept };
        return ((ours.mode, ours.owner) == (mode, owner)).then_some(reason);
    }
    match copy.mode {
        Some(mode) if ours.owner == theirs.owner && ours.mode == mode | (mode & 0o444) >> 2 => {
            Some(Excuse::DirectoryMode)
        }
        Some(_) => (theirs.mode & 0o2000 != 0).then_some(Excuse::SetGroup),
        None => (theirs.mode == ours.mode | 0o2000).then_some(Excuse::SetGroup),
    }
}
