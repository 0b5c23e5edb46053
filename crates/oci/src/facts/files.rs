//! The files of an image in some directories, and the text of a few of them.

use kiln_picture::Node;

use super::Held;
use super::contents::{Content, Interest};

/// Files that are looked for. Paths without links and without a leading slash.
#[derive(Debug)]
pub(super) struct Wanted {
    directories: Vec<String>,
    texts: Vec<String>,
}

impl Wanted {
    pub(super) fn new(directories: Vec<String>, texts: Vec<String>) -> Self {
        Self { directories, texts }
    }

    pub(super) fn interest(&self, path: &[u8]) -> Option<Interest> {
        let path = std::str::from_utf8(path).ok()?;
        if self.texts.iter().any(|text| text == path) {
            return Some(Interest::Listing);
        }
        let is_in =
            |directory: &String| path.strip_prefix(directory.as_str()).is_some_and(|rest| rest.starts_with('/'));
        self.directories.iter().any(is_in).then_some(Interest::Presence)
    }
}

/// The files of an image in some directories.
#[derive(Debug)]
pub struct Files(pub(super) Held);

impl Files {
    /// Returns the text of a file that was to be read.
    pub fn text(&self, path: &str) -> Option<&str> {
        match self.0.file(path.as_bytes())? {
            Content::Text(text) => Some(text),
            _ => None,
        }
    }

    /// Returns true for a file or a link.
    pub fn is_file(&self, path: &str) -> bool {
        self.0.entry(path.as_bytes()).is_some_and(|node| !matches!(self.0.node(node), Node::Directory(_)))
    }

    /// Returns true for a directory that is no link to one.
    pub fn is_directory(&self, path: &str) -> bool {
        self.0.entry(path.as_bytes()).is_some_and(|node| matches!(self.0.node(node), Node::Directory(_)))
    }

    /// Returns the names in a directory; those that are not UTF-8 with replacement characters.
    pub fn names(&self, directory: &str) -> Vec<String> {
        let node = self.0.entry(directory.as_bytes());
        let children = node.into_iter().flat_map(|node| self.0.children(node));
        children.map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect()
    }

    /// Returns the path without links that a path leads to.
    pub fn resolve(&self, path: &str) -> Option<String> {
        String::from_utf8(self.0.resolve(path.as_bytes())?).ok()
    }
}
