//! The file system that a layer is put on, as far as the layer must fit it: directories with owner and mode, links that lead
//! to directories, and the files of the stack's own layers below.
//!
//! Docker and podman apply a layer without those below it: they decide what the layer does not say about a directory, and
//! they replace a link by a directory of its name. So every layer that kiln makes has paths without links, states each
//! directory above its files as it is below, and never puts a file where a directory is.

use std::collections::{BTreeMap, BTreeSet, HashSet};
use std::sync::Arc;

use kiln_oci::layer::{Body, LayerFile};
use kiln_picture::{Node, NodeId, Picture, ROOT};
use kiln_plan::base::{Attributes, BaseFacts, DirectoryLine, FolderLine, LinkLine};

use crate::error::BuildError;
use crate::forms::{Form, contradiction};

/// The link of every virtual environment, which installers know: no layer needs to go through it.
const LIB64: &str = "opt/venv/lib64";

/// Directories, links and files below a layer.
#[derive(Debug, Clone)]
pub(crate) struct Below {
    picture: Picture<Directory, Arc<str>>,
    /// False where directories may be there that nobody told of.
    complete: bool,
    /// Directories within directories that the base tells of.
    depth: usize,
    /// Directories of the base whose files are all known; none where they are not.
    searched: HashSet<String>,
    /// The base's name, which its files and directories have for their origin.
    base: Arc<str>,
}

/// The kind of thing at a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Presence {
    Nothing,
    File,
    Directory,
    /// It may be there: not all files of a base are known.
    Unknown,
}

/// A directory, and the layer that told of it.
#[derive(Debug, Clone)]
struct Directory {
    attributes: Attributes,
    origin: Arc<str>,
}

/// The treatment of directories.
#[derive(Debug, Clone)]
pub(crate) struct Manner {
    /// Owner and mode of directories that must be made above a file.
    pub(crate) parents: Attributes,
    /// A directory that is there gets the owner of the layer's, except the target.
    pub(crate) gives_owner: bool,
    /// The same for its mode.
    pub(crate) gives_mode: bool,
    /// The path of the directory that everything goes into.
    pub(crate) target: String,
}

impl Default for Manner {
    /// Returns the manner of files that kiln itself writes: what is there stays, and what is made is root's.
    fn default() -> Self {
        let parents = Attributes::default();
        Self { parents, gives_owner: false, gives_mode: false, target: String::new() }
    }
}

/// Directories and links around a layer whose files are known when it is made.
#[derive(Debug, Clone, Default, serde::Serialize)]
pub(crate) struct Around {
    directories: Vec<DirectoryLine>,
    links: Vec<LinkLine>,
}

impl Around {
    /// Returns true if everything is as it would be made.
    pub(crate) fn is_empty(&self) -> bool {
        self.directories.is_empty() && self.links.is_empty()
    }

    /// Fits the files of a layer to what is below it.
    pub(crate) fn fit(&self, origin: &str, files: Vec<LayerFile>) -> Result<Vec<LayerFile>, BuildError> {
        let mut below = Below::of_lines(&self.directories, &self.links);
        let files = files.into_iter().map(|file| (file, ())).collect();
        Ok(below.lay(origin, &Manner::default(), files)?.files.into_iter().map(|(file, _)| file).collect())
    }
}

/// A layer that fits what is below it.
#[derive(Debug)]
pub(crate) struct Laid<T> {
    /// Members without links in their paths, each directory before what is in it, with what came with them.
    pub(crate) files: Vec<(LayerFile, Option<T>)>,
    /// Lines on what is otherwise than on nothing at all: with them and the files as they were, the layer is determined.
    pub(crate) notes: Vec<String>,
}

impl Below {
    /// Returns nothing at all: what is below the first layer of `scratch`.
    pub(crate) fn nothing() -> Self {
        let (picture, searched, base) = (Picture::new(), HashSet::new(), "".into());
        Self { picture, complete: true, depth: usize::MAX, searched, base }
    }

    /// Returns what the facts of a base tell.
    pub(crate) fn of(facts: &BaseFacts, base: &str) -> Self {
        let depth = facts.folder_depth.unwrap_or(usize::MAX);
        let mut below = Self { base: base.into(), depth, ..Self::nothing() };
        below.tell(&facts.folders, &facts.directories, &facts.links, base);
        below.put_programs(facts);
        below
    }

    /// Puts the files of the directories of `PATH`, and those of the root directory.
    fn put_programs(&mut self, facts: &BaseFacts) {
        let mut waiting: Vec<(Vec<u8>, &FolderLine)> =
            facts.programs.iter().map(|line| (line.name.clone(), line)).collect();
        while let Some((path, line)) = waiting.pop() {
            if line.below.is_empty() && self.picture.entry(&path).is_none() {
                self.picture.put_file(&path, Arc::clone(&self.base));
            }
            waiting
                .extend(line.below.iter().map(|inner| ([path.as_slice(), inner.name.as_slice()].join(&b'/'), inner)));
        }
        let searched =
            facts.search_path().filter_map(|path| String::from_utf8(self.picture.resolve(path.as_bytes())?).ok());
        let told = |directory: &String| BaseFacts::tells_files_of(facts.path.as_deref(), directory);
        let searched: HashSet<String> = searched.filter(told).chain([String::new(), "etc".into()]).collect();
        if !facts.programs.is_empty() {
            self.searched = searched;
        }
    }

    /// Returns what some lines tell.
    pub(crate) fn of_lines(directories: &[DirectoryLine], links: &[LinkLine]) -> Self {
        let mut below = Self { complete: false, ..Self::nothing() };
        below.tell(&[], directories, links, "below");
        below
    }

    fn tell(&mut self, folders: &[FolderLine], directories: &[DirectoryLine], links: &[LinkLine], origin: &str) {
        let origin: Arc<str> = origin.into();
        let lines: BTreeMap<&[u8], &DirectoryLine> =
            directories.iter().map(|line| (line.path.as_slice(), line)).collect();
        let root = lines.get(b"".as_slice()).map_or_else(Attributes::default, |line| line.attributes.clone());
        let inherited = lines.get(b"".as_slice()).filter(|line| line.below).map_or_else(Attributes::default, |_| root);
        let mut waiting: Vec<(Vec<u8>, &FolderLine, Attributes)> =
            folders.iter().map(|folder| (folder.name.clone(), folder, inherited.clone())).collect();
        while let Some((path, folder, inherited)) = waiting.pop() {
            let line = lines.get(path.as_slice());
            let attributes = line.map_or_else(|| inherited.clone(), |line| line.attributes.clone());
            let inherited = match line {
                Some(line) if line.below => attributes.clone(),
                _ => inherited,
            };
            self.picture.put_directory(&path, Directory { attributes, origin: Arc::clone(&origin) });
            let inner = folder.below.iter();
            waiting.extend(
                inner.map(|inner| ([path.as_slice(), inner.name.as_slice()].join(&b'/'), inner, inherited.clone())),
            );
        }
        for line in directories {
            let (attributes, origin) = (line.attributes.clone(), Arc::clone(&origin));
            self.picture.put_directory(&line.path, Directory { attributes, origin });
        }
        for link in links {
            self.picture.put_symlink(&link.path, &link.target);
        }
    }

    /// Returns true if a path is known to lead to a directory.
    pub(crate) fn is_directory(&self, path: &str) -> bool {
        self.picture.find(path.as_bytes()).is_some_and(|node| self.is_directory_node(node))
    }

    /// Returns a path without links, the last name as it is, whether it is there or would be made.
    pub(crate) fn landing(&self, path: &str) -> Option<String> {
        String::from_utf8(self.picture.landing(path.as_bytes())?).ok()
    }

    /// Returns the path without links that a directory would have, whether it is there or would be made.
    pub(crate) fn directory_path(&self, path: &str) -> Option<String> {
        String::from_utf8(self.real(path)?).ok()
    }

    /// Returns what is at a path, through links.
    pub(crate) fn holds(&self, path: &str) -> Presence {
        if let Some(node) = self.picture.find(path.as_bytes()) {
            return if self.is_directory_node(node) { Presence::Directory } else { Presence::File };
        }
        if self.picture.entry(path.as_bytes()).is_some() {
            // A link to a file of the base, or to nothing.
            return Presence::Unknown;
        }
        let Some(landing) = self.landing(path) else { return Presence::Nothing };
        let directory = landing.rsplit_once('/').map_or("", |(directory, _)| directory);
        let above = ends(directory).filter_map(|end| self.picture.entry(&directory.as_bytes()[..end])).last();
        let is_made = match above.map(|node| self.picture.node(node)) {
            Some(Node::Directory(Some(told))) => told.origin != self.base,
            Some(Node::File(_) | Node::Symlink(_)) => true,
            Some(Node::Directory(None)) | None => false,
        };
        let is_there = directory.is_empty() || self.is_directory(directory);
        match is_made || self.base.is_empty() {
            true => Presence::Nothing,
            false if self.searched.is_empty() || self.may_be_there(directory) => Presence::Unknown,
            false if is_there && !self.searched.contains(directory) => Presence::Unknown,
            false => Presence::Nothing,
        }
    }

    /// Returns true for a directory that the base may have without telling: one that is too deep, in a directory of the base.
    fn may_be_there(&self, directory: &str) -> bool {
        let depth = 1 + directory.matches('/').count();
        let above = ends(directory)
            .filter(|end| *end < directory.len())
            .filter_map(|end| self.picture.entry(&directory.as_bytes()[..end]));
        let nearest = above.last().map(|node| self.picture.node(node));
        depth > self.depth
            && matches!(nearest, Some(Node::Directory(told)) if told.is_none_or(|told| told.origin == self.base))
    }

    /// Returns the names of the files in a directory.
    pub(crate) fn files_in(&self, directory: &str) -> Vec<String> {
        let Some(node) = self.picture.find(directory.as_bytes()) else { return Vec::new() };
        let files = self.picture.children(node).filter(|(_, node)| !self.is_directory_node(*node));
        files.map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect()
    }

    fn is_directory_node(&self, node: NodeId) -> bool {
        matches!(self.picture.node(node), Node::Directory(_))
    }

    /// Fits the files of a layer to what is below, and puts them there.
    pub(crate) fn lay<T>(
        &mut self,
        origin: &str,
        manner: &Manner,
        files: Vec<(LayerFile, T)>,
    ) -> Result<Laid<T>, BuildError> {
        self.picture.next_layer();
        let laid = Laid { files: Vec::with_capacity(files.len() + 4), notes: Vec::new() };
        let mut layer = Layer {
            origin: origin.into(),
            manner,
            stated: HashSet::new(),
            files: HashSet::new(),
            notes: BTreeSet::new(),
            laid,
            below: self,
        };
        for (file, with) in files {
            layer.put(file, with)?;
        }
        let Layer { mut laid, notes, .. } = layer;
        laid.notes = notes.into_iter().collect();
        Ok(laid)
    }

    /// Returns the lines about everything above and below some paths: what layers must know that put files there, in any
    /// order of layers.
    pub(crate) fn around(&self, paths: &[&str]) -> Around {
        let (mut directories, mut links) = (BTreeSet::new(), BTreeSet::new());
        for path in paths {
            let Some(real) = self.real(path) else { continue };
            for end in ends(path) {
                self.tell_of(&path.as_bytes()[..end], &mut directories, &mut links);
            }
            let text = String::from_utf8_lossy(&real).into_owned();
            for end in ends(&text) {
                self.tell_of(&text.as_bytes()[..end], &mut directories, &mut links);
            }
            let Some(node) = self.picture.find(path.as_bytes()) else { continue };
            self.picture.visit(node, |inner, _| {
                self.tell_of(&[real.as_slice(), inner].join(&b'/'), &mut directories, &mut links);
            });
        }
        Around { directories: directories.into_iter().collect(), links: links.into_iter().collect() }
    }

    fn tell_of(&self, path: &[u8], directories: &mut BTreeSet<DirectoryLine>, links: &mut BTreeSet<LinkLine>) {
        match self.picture.entry(path).map(|node| self.picture.node(node)) {
            Some(Node::Symlink(target))
                if path != LIB64.as_bytes()
                    && self.picture.find(path).is_some_and(|end| self.is_directory_node(end)) =>
            {
                links.insert(LinkLine { path: path.to_owned(), target: target.to_owned() });
            }
            Some(Node::Directory(Some(told))) if told.attributes != Attributes::default() => {
                let attributes = told.attributes.clone();
                directories.insert(DirectoryLine { path: path.to_owned(), below: false, attributes });
            }
            _ => {}
        }
    }

    /// Returns a path without links, whether it is there or would be made.
    fn real(&self, path: &str) -> Option<Vec<u8>> {
        self.picture.resolve(path.as_bytes()).or_else(|| self.picture.landing(path.as_bytes()))
    }
}

/// Returns the ends of the paths above a path and of the path itself.
fn ends(path: &str) -> impl Iterator<Item = usize> {
    path.match_indices('/').map(|(slash, _)| slash).chain([path.len()])
}

/// A layer while its files are put.
struct Layer<'b, T> {
    below: &'b mut Below,
    origin: Arc<str>,
    manner: &'b Manner,
    /// Directories that have a member.
    stated: HashSet<String>,
    /// Files and links.
    files: HashSet<String>,
    notes: BTreeSet<String>,
    laid: Laid<T>,
}

impl<T> Layer<'_, T> {
    fn put(&mut self, mut file: LayerFile, with: T) -> Result<(), BuildError> {
        let is_directory = matches!(file.body, Body::Directory);
        let real = match is_directory && self.below.is_directory(&file.path) {
            true => self.below.picture.resolve(file.path.as_bytes()),
            false => self.below.picture.landing(file.path.as_bytes()),
        };
        let real: Option<String> = real.and_then(|real| String::from_utf8(real).ok());
        let Some(real) = real.filter(|real| !real.is_empty() || is_directory) else {
            return Err(self.no_way(&file));
        };
        if real != file.path {
            self.note_links(&file.path, is_directory);
        }
        self.parents(&real);
        let wanted: String = std::mem::replace(&mut file.path, real);
        match &file.body {
            Body::Directory => self.directory(&wanted, file, with),
            _ => self.leaf(&wanted, file, with),
        }
    }

    /// Notes the links that a path goes through.
    fn note_links(&mut self, path: &str, is_directory: bool) {
        for end in ends(path).filter(|end| is_directory || *end < path.len()) {
            let picture = &self.below.picture;
            let link = &path[..end];
            if let Some(Node::Symlink(target)) = picture.entry(link.as_bytes()).map(|node| picture.node(node)) {
                self.notes.insert(format!("/{link} -> {}", String::from_utf8_lossy(target)));
            }
        }
    }

    fn leaf(&mut self, wanted: &str, file: LayerFile, with: T) -> Result<(), BuildError> {
        let path = file.path.as_bytes();
        if self.stated.contains(&file.path) || !self.files.insert(file.path.clone()) {
            return Err(twice(&self.origin, wanted, &file.path));
        }
        if matches!(file.body, Body::Whiteout) {
            self.below.picture.remove(path);
            self.laid.files.push((file, Some(with)));
            return Ok(());
        }
        let picture = &self.below.picture;
        match picture.entry(path).map(|node| picture.node(node)) {
            Some(Node::Directory(told)) => {
                let other = told.map_or("the layers below", |told| &told.origin);
                return Err(contradiction(&file.path, (Form::Directory, other), (Form::of(&file), &self.origin)));
            }
            Some(Node::Symlink(target)) if !is_link_to(&file.body, target) && self.below.is_directory(&file.path) => {
                let (path, target) = (&file.path, String::from_utf8_lossy(target).into_owned());
                return Err(link_to_directory(&self.origin, path, &target));
            }
            _ => {}
        }
        match &file.body {
            Body::Symlink(target) => self.below.picture.put_symlink(path, target.as_bytes()),
            _ => self.below.picture.put_file(path, Arc::clone(&self.origin)),
        }
        self.laid.files.push((file, Some(with)));
        Ok(())
    }

    fn directory(&mut self, wanted: &str, mut file: LayerFile, with: T) -> Result<(), BuildError> {
        if self.files.contains(&file.path) {
            return Err(twice(&self.origin, wanted, &file.path));
        }
        let picture = &self.below.picture;
        let node = if file.path.is_empty() { Some(ROOT) } else { picture.entry(file.path.as_bytes()) };
        let own = Attributes { mode: file.mode, owner: file.owner, xattrs: file.xattrs.clone() };
        match node.map(|node| picture.node(node)) {
            Some(Node::Directory(told)) => {
                let told = told.map(|told| told.attributes.clone());
                let Manner { gives_owner, gives_mode, target, .. } = self.manner;
                if wanted == target || !(*gives_owner || *gives_mode) {
                    self.state(&file.path, told, &own);
                    return Ok(());
                }
                let told = told.unwrap_or_default();
                file.mode = if *gives_mode { own.mode } else { told.mode };
                file.owner = if *gives_owner { own.owner } else { told.owner };
                file.xattrs = told.xattrs;
            }
            Some(Node::File(other)) => {
                return Err(contradiction(&file.path, (Form::File, other), (Form::Directory, &self.origin)));
            }
            Some(Node::Symlink(_)) => return Err(self.no_way(&file)),
            None => {}
        }
        if file.path.is_empty() || !self.stated.insert(file.path.clone()) {
            return Ok(());
        }
        let attributes = Attributes { mode: file.mode, owner: file.owner, xattrs: file.xattrs.clone() };
        if attributes != own {
            self.notes.insert(format!("/{} {attributes}", file.path));
        }
        let directory = Directory { attributes, origin: Arc::clone(&self.origin) };
        self.below.picture.put_directory(file.path.as_bytes(), directory);
        self.laid.files.push((file, Some(with)));
        Ok(())
    }

    /// States the directories above a path that has no links: as they are, or as those that must be made.
    fn parents(&mut self, path: &str) {
        for (slash, _) in path.match_indices('/') {
            let directory = &path[..slash];
            let picture = &self.below.picture;
            match picture.entry(directory.as_bytes()).map(|node| picture.node(node)) {
                Some(Node::Directory(told)) => {
                    let told = told.map(|told| told.attributes.clone());
                    self.state(directory, told, &self.manner.parents.clone());
                }
                _ => self.make(directory),
            }
        }
    }

    /// States a directory that is there as it is. `otherwise` are the attributes that it would get if it was not there.
    fn state(&mut self, path: &str, told: Option<Attributes>, otherwise: &Attributes) {
        if path.is_empty() || !self.stated.insert(path.to_owned()) {
            return;
        }
        if told.is_none() && !self.below.complete {
            self.notes.insert(format!("/{path} unknown"));
            return;
        }
        let attributes = told.unwrap_or_default();
        if attributes != *otherwise {
            self.notes.insert(format!("/{path} {attributes}"));
        }
        let Attributes { mode, owner, xattrs } = attributes;
        self.laid.files.push((LayerFile { mode, owner, xattrs, ..LayerFile::directory(path) }, None));
    }

    /// States a directory that is not told of. One that the base may have all the same is root's, 0755: the base tells of all
    /// others.
    fn make(&mut self, path: &str) {
        self.stated.insert(path.to_owned());
        let (attributes, origin) = match self.below.may_be_there(path) {
            true => (Attributes::default(), Arc::clone(&self.below.base)),
            false => (self.manner.parents.clone(), Arc::clone(&self.origin)),
        };
        if attributes != self.manner.parents {
            self.notes.insert(format!("/{path} {attributes}"));
        }
        if self.below.complete {
            let Attributes { mode, owner, xattrs } = attributes.clone();
            self.laid.files.push((LayerFile { mode, owner, xattrs, ..LayerFile::directory(path) }, None));
        } else {
            self.notes.insert(format!("/{path} unknown"));
        }
        let attributes = if self.below.complete { attributes } else { Attributes::default() };
        self.below.picture.put_directory(path.as_bytes(), Directory { attributes, origin });
    }

    /// Returns the error about a path that cannot be made: something above it is a file, or a link that leads nowhere.
    fn no_way(&self, file: &LayerFile) -> BuildError {
        let picture = &self.below.picture;
        for end in ends(&file.path) {
            let path = &file.path[..end];
            let Some(node) = picture.entry(path.as_bytes()) else { continue };
            match picture.node(node) {
                Node::File(other) => return contradiction(path, (Form::File, other), (Form::Above, &self.origin)),
                Node::Symlink(target) if !self.below.is_directory(path) => {
                    return BuildError::Mistake {
                        message: format!(
                            "`{}` puts something below `/{path}`, which is a link to `{}` and leads to no directory",
                            self.origin,
                            String::from_utf8_lossy(target)
                        ),
                        hint: "give it another place, or name the place that the link should lead to".into(),
                    };
                }
                _ => {}
            }
        }
        BuildError::Mistake {
            message: format!("`{}` cannot put anything at `/{}`", self.origin, file.path),
            hint: "give it another place".into(),
        }
    }
}

fn is_link_to(body: &Body, target: &[u8]) -> bool {
    matches!(body, Body::Symlink(to) if to.as_bytes() == target)
}

fn twice(origin: &str, path: &str, real: &str) -> BuildError {
    let (as_what, hint) = match path == real {
        true => (String::new(), "a file and a directory have one name there; leave one of the two out"),
        false => (format!(": one of them as `/{path}`"), "links below lead both there; leave one of the two out"),
    };
    BuildError::Mistake { message: format!("`{origin}` puts two things at `/{real}`{as_what}"), hint: hint.into() }
}

fn link_to_directory(origin: &str, path: &str, target: &str) -> BuildError {
    BuildError::Mistake {
        message: format!("`{origin}` would replace `/{path}`, which is a link to the directory `{target}`"),
        hint: "give it another place, or name what the link leads to".into(),
    }
}

#[cfg(test)]
mod tests;
