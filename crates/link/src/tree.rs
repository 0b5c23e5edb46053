//! A picture of a file system with what the dynamic loader reads of files, so that what is checked is what a container sees.

use std::collections::BTreeSet;

use kiln_picture::{Node as Stands, NodeId, Picture, ROOT};
use serde::{Deserialize, Serialize};

use crate::object::Object;

/// An entry of a layer.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Node {
    /// Where it is; for a whiteout, what it hides, without `.wh.`.
    pub path: String,
    /// What it is.
    pub what: What,
}

/// What an entry of a layer is.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum What {
    /// A directory, whose content stays if there is one already.
    Directory,
    /// A symbolic link, and what is written in it.
    Symlink(String),
    /// Another name of a file, by the path of the first.
    HardLink(String),
    /// A file.
    File {
        /// What the loader reads of it, where it is dynamically linked.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        object: Option<Box<Object>>,
        /// Its content, where [`is_configuration`](crate::is_configuration) says that it matters.
        #[serde(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
    },
    /// Something of the layers below is gone.
    Whiteout,
    /// A directory's content in the layers below is gone.
    Opaque,
}

/// A picture of a file system. Paths are relative to the root, without a slash before them.
#[derive(Debug, Clone, Default)]
pub struct Tree {
    picture: Picture<(), File>,
    layers: usize,
}

/// What is kept of a file.
#[derive(Debug, Clone)]
struct File {
    object: Option<Box<Object>>,
    text: Option<String>,
    /// The layer that it is from, counted from 1.
    layer: usize,
}

impl Tree {
    /// A tree without anything.
    pub fn new() -> Self {
        Self::default()
    }

    /// Puts a layer over what is there. Entries whose path leads out of the root, through something that is no
    /// directory, or round in circles are left out.
    pub fn add_layer(&mut self, nodes: Vec<Node>) {
        let picture = &mut self.picture;
        picture.next_layer();
        self.layers += 1;
        let layer = self.layers;
        for Node { path, what } in nodes {
            let path = path.as_bytes();
            match what {
                What::Directory => picture.put_directory(path, ()),
                What::Symlink(target) => picture.put_symlink(path, target.as_bytes()),
                What::File { object, text } => picture.put_file(path, File { object, text, layer }),
                What::HardLink(first) => picture.put_hard_link(path, first.as_bytes()),
                What::Whiteout => picture.whiteout(path),
                What::Opaque => picture.opaque(path),
            }
        }
    }

    /// Returns the number of layers.
    pub fn layer(&self) -> usize {
        self.layers
    }

    /// Returns the layer that a file is from, counted from 1.
    pub fn layer_of(&self, path: &str) -> Option<usize> {
        Some(self.picture.file_of(self.picture.entry(path.as_bytes())?)?.layer)
    }

    /// Returns the path at which an entry of a layer lands: the links of its parents are followed.
    pub fn landing(&self, path: &str) -> Option<String> {
        self.picture.landing(path.as_bytes()).map(text)
    }

    /// Where a path leads, links followed: a path without links. Nothing where it leads nowhere, or round in circles.
    pub fn resolve(&self, path: &str) -> Option<String> {
        self.picture.resolve(path.as_bytes()).map(text)
    }

    /// What the loader reads of the file at a path, links followed.
    pub fn object(&self, path: &str) -> Option<&Object> {
        self.object_at(self.find(path)?)
    }

    /// Every dynamically linked file, by its first path; in the order of paths.
    pub fn objects(&self) -> Vec<(String, &Object)> {
        self.objects_by_place().into_iter().map(|(path, _, object)| (path, object)).collect()
    }

    pub(crate) fn objects_by_place(&self) -> Vec<(String, NodeId, &Object)> {
        let (mut seen, mut objects) = (BTreeSet::new(), Vec::new());
        self.picture.visit(ROOT, |path, place| {
            if let Some(object) = self.object_at(place)
                && seen.insert(place)
            {
                objects.push((text(path.to_owned()), place, object));
            }
        });
        objects
    }

    /// Every symbolic link that leads to a file: its path and that file.
    pub(crate) fn links(&self) -> Vec<(String, NodeId)> {
        let mut links = Vec::new();
        self.picture.visit(ROOT, |path, place| {
            if matches!(self.picture.node(place), Stands::Symlink(_))
                && let Some(file) = self.picture.find(path)
            {
                links.push((text(path.to_owned()), file));
            }
        });
        links
    }

    pub(crate) fn object_at(&self, place: NodeId) -> Option<&Object> {
        match self.picture.node(place) {
            Stands::File(file) => file.object.as_deref(),
            _ => None,
        }
    }

    /// The content of a file, where it was kept.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        self.picture.file(path.as_bytes())?.text.as_deref()
    }

    /// Names in a directory.
    pub(crate) fn names(&self, path: &str) -> impl Iterator<Item = &str> {
        let children = self.find(path).into_iter().flat_map(|place| self.picture.children(place));
        children.filter_map(|(name, _)| std::str::from_utf8(name).ok())
    }

    /// Whether a directory has something of a name.
    pub(crate) fn has(&self, directory: NodeId, name: &str) -> bool {
        self.picture.child(directory, name.as_bytes()).is_some()
    }

    /// The place that a path leads to.
    pub(crate) fn find(&self, path: &str) -> Option<NodeId> {
        self.picture.find(path.as_bytes())
    }
}

/// Returns a path of a picture whose paths are all text.
fn text(path: Vec<u8>) -> String {
    String::from_utf8_lossy(&path).into_owned()
}

/// The directory of a path, and the name in it; nothing for the root and for paths that lead upwards.
pub(crate) fn split(path: &str) -> Option<(&str, &str)> {
    let (parent, _) = kiln_picture::split(path.as_bytes())?;
    let name = path.trim_end_matches('/');
    Some((&path[..parent.len()], file_name(name)))
}

/// Returns the last name of a path.
pub(crate) fn file_name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}
