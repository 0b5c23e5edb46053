//! A picture of a file system: names, links, and what the dynamic loader reads of files.
//!
//! Layers are put over one another as container runtimes do it (OCI image specification, "Image Layer Filesystem
//! Changeset"), so that what is checked is what a container sees. Paths are relative to the root, without a slash
//! before them. Names are kept apart from files, so that a hard link is a second name of the same file.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::object::Object;

/// Links that are followed in one path (path_resolution(7)).
const MOST_LINKS: usize = 40;
/// Bytes of a path or of a link's target (`PATH_MAX`).
pub(crate) const LONGEST: usize = 4096;
const ROOT: usize = 0;

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

/// A picture of a file system.
#[derive(Debug, Clone)]
pub struct Tree {
    places: Vec<Place>,
}

#[derive(Debug, Clone)]
pub(crate) enum Place {
    Directory(BTreeMap<String, usize>),
    Symlink(String),
    File { object: Option<Box<Object>>, text: Option<String> },
}

/// How far a path leads.
struct Walk<'p> {
    /// Names and places on the way, without links, from below the root on.
    trail: Vec<(&'p str, usize)>,
    /// What is not there.
    left: Vec<&'p str>,
}

impl Default for Tree {
    fn default() -> Self {
        Self::new()
    }
}

impl Tree {
    /// A tree without anything.
    pub fn new() -> Self {
        Self { places: vec![Place::Directory(BTreeMap::new())] }
    }

    /// Puts a layer over what is there. Entries whose path leads out of the root, through something that is no
    /// directory, or round in circles are left out.
    pub fn add_layer(&mut self, nodes: Vec<Node>) {
        // What a layer hides is below it, wherever in the layer that is said.
        for node in &nodes {
            match node.what {
                What::Whiteout => self.remove(&node.path),
                What::Opaque => self.empty(&node.path),
                _ => {}
            }
        }
        for Node { path, what } in nodes {
            match what {
                What::Directory => self.put_directory(&path),
                What::Symlink(target) => self.put(&path, Place::Symlink(target)),
                What::File { object, text } => self.put(&path, Place::File { object, text }),
                What::HardLink(first) => {
                    if let Some(place) = self.entry(&first)
                        && !matches!(self.places[place], Place::Directory(_))
                    {
                        self.name(&path, |_| place);
                    }
                }
                What::Whiteout | What::Opaque => {}
            }
        }
    }

    /// Where a path leads, links followed: a path without links. Nothing where it leads nowhere, or round in circles.
    pub fn resolve(&self, path: &str) -> Option<String> {
        let trail = self.walk(path).found()?;
        Some(trail.iter().map(|(name, _)| *name).collect::<Vec<_>>().join("/"))
    }

    /// What the loader reads of the file at a path, links followed.
    pub fn object(&self, path: &str) -> Option<&Object> {
        self.object_at(self.find(path)?)
    }

    /// Every dynamically linked file, by its first path; in the order of paths.
    pub fn objects(&self) -> Vec<(String, &Object)> {
        self.objects_by_place().into_iter().map(|(path, _, object)| (path, object)).collect()
    }

    pub(crate) fn objects_by_place(&self) -> Vec<(String, usize, &Object)> {
        let mut seen = std::collections::BTreeSet::new();
        let mut objects = Vec::new();
        self.visit(|path, place| {
            if let Some(object) = self.object_at(place)
                && seen.insert(place)
            {
                objects.push((path, place, object));
            }
        });
        objects
    }

    /// Every symbolic link that leads to a file: its path and that file.
    pub(crate) fn links(&self) -> Vec<(String, usize)> {
        let mut links = Vec::new();
        self.visit(|path, place| {
            if matches!(self.places[place], Place::Symlink(_))
                && let Some(file) = self.find(&path)
            {
                links.push((path, file));
            }
        });
        links
    }

    pub(crate) fn object_at(&self, place: usize) -> Option<&Object> {
        match &self.places[place] {
            Place::File { object, .. } => object.as_deref(),
            _ => None,
        }
    }

    /// The content of a file, where it was kept.
    pub(crate) fn text(&self, path: &str) -> Option<&str> {
        match &self.places[self.find(path)?] {
            Place::File { text, .. } => text.as_deref(),
            _ => None,
        }
    }

    /// Names in a directory.
    pub(crate) fn names(&self, path: &str) -> impl Iterator<Item = &str> {
        let children = self.find(path).and_then(|place| self.children(place));
        children.into_iter().flat_map(|children| children.keys().map(String::as_str))
    }

    /// Whether a directory has something of a name.
    pub(crate) fn has(&self, directory: usize, name: &str) -> bool {
        self.children(directory).is_some_and(|children| children.contains_key(name))
    }

    /// The place that a path leads to.
    pub(crate) fn find(&self, path: &str) -> Option<usize> {
        Some(self.walk(path).found()?.last().map_or(ROOT, |(_, place)| *place))
    }

    /// The place that a path names; where that is a link, the link.
    fn entry(&self, path: &str) -> Option<usize> {
        let (parent, name) = split(path)?;
        self.children(self.find(parent)?)?.get(name).copied()
    }

    fn children(&self, place: usize) -> Option<&BTreeMap<String, usize>> {
        match &self.places[place] {
            Place::Directory(children) => Some(children),
            _ => None,
        }
    }

    /// Calls with every entry below the root: its path and place, in the order of paths by component.
    fn visit(&self, mut call: impl FnMut(String, usize)) {
        let mut waiting = vec![(String::new(), ROOT)];
        while let Some((path, place)) = waiting.pop() {
            for (name, child) in self.children(place).into_iter().flatten().rev() {
                waiting.push((if path.is_empty() { name.clone() } else { format!("{path}/{name}") }, *child));
            }
            if place != ROOT {
                call(path, place);
            }
        }
    }

    /// Goes along a path as the kernel does: through links, whose absolute targets begin at the root, and where `..` is
    /// the directory above where the path has led to, the root's being the root.
    fn walk<'p>(&'p self, path: &'p str) -> Walk<'p> {
        let mut trail: Vec<(&str, usize)> = Vec::new();
        if path.len() > LONGEST {
            return Walk { trail, left: vec![path] };
        }
        let mut left: Vec<&str> = path.split('/').rev().collect();
        let mut links = 0;
        while let Some(name) = left.pop() {
            if name.is_empty() || name == "." {
                continue;
            }
            let here = trail.last().map_or(ROOT, |(_, place)| *place);
            let Some(children) = self.children(here) else {
                left.push(name);
                break;
            };
            if name == ".." {
                trail.pop();
                continue;
            }
            let Some(next) = children.get(name) else {
                left.push(name);
                break;
            };
            match &self.places[*next] {
                Place::Symlink(target) if links == MOST_LINKS || target.len() > LONGEST => {
                    left.push(name);
                    break;
                }
                Place::Symlink(target) => {
                    links += 1;
                    if target.starts_with('/') {
                        trail.clear();
                    }
                    left.extend(target.split('/').rev());
                }
                _ => trail.push((name, *next)),
            }
        }
        left.reverse();
        Walk { trail, left }
    }

    fn remove(&mut self, path: &str) {
        if let Some((parent, name)) = split(path)
            && let Some(parent) = self.find(parent)
            && let Place::Directory(children) = &mut self.places[parent]
        {
            children.remove(name);
        }
    }

    fn empty(&mut self, path: &str) {
        if let Some(place) = self.find(path)
            && let Place::Directory(children) = &mut self.places[place]
        {
            children.clear();
        }
    }

    fn put(&mut self, path: &str, place: Place) {
        self.name(path, |places| {
            places.push(place);
            places.len() - 1
        });
    }

    fn put_directory(&mut self, path: &str) {
        let there = self.entry(path).is_some_and(|place| self.children(place).is_some());
        if !there {
            self.put(path, Place::Directory(BTreeMap::new()));
        }
    }

    /// Gives a name to a place, which replaces what had it.
    fn name(&mut self, path: &str, place: impl FnOnce(&mut Vec<Place>) -> usize) {
        let Some((parent, name)) = split(path) else { return };
        let Some(parent) = self.reach(parent) else { return };
        let place = place(&mut self.places);
        if let Place::Directory(children) = &mut self.places[parent] {
            children.insert(name.to_owned(), place);
        }
    }

    /// The directory at a path, which is made where it is not there: layers need not have entries for directories.
    fn reach(&mut self, path: &str) -> Option<usize> {
        let Walk { trail, left } = self.walk(path);
        let mut here = trail.last().map_or(ROOT, |(_, place)| *place);
        if left.iter().any(|name| *name == ".." || name.contains('/')) {
            return None;
        }
        // A link that leads round in circles is itself there: it is not replaced.
        let first = left.iter().find(|name| !name.is_empty() && **name != ".").copied();
        let children = self.children(here)?;
        if first.is_some_and(|first| children.contains_key(first)) {
            return None;
        }
        let names: Vec<String> = left.iter().map(|name| (*name).to_owned()).collect();
        for name in names.into_iter().filter(|name| !name.is_empty() && name != ".") {
            self.places.push(Place::Directory(BTreeMap::new()));
            let next = self.places.len() - 1;
            if let Place::Directory(children) = &mut self.places[here] {
                children.insert(name, next);
            }
            here = next;
        }
        Some(here)
    }
}

impl<'p> Walk<'p> {
    fn found(self) -> Option<Vec<(&'p str, usize)>> {
        self.left.is_empty().then_some(self.trail)
    }
}

/// The directory of a path, and the name in it; nothing for the root and for paths that lead upwards.
pub(crate) fn split(path: &str) -> Option<(&str, &str)> {
    let path = path.trim_end_matches('/');
    let (parent, name) = path.rsplit_once('/').unwrap_or(("", path));
    let upwards = path.split('/').any(|name| name == "..");
    (!name.is_empty() && name != "." && !upwards).then_some((parent, name))
}

/// Returns the last name of a path.
pub(crate) fn file_name(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}
