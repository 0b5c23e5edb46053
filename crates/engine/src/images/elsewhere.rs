//! Copies from outside of the project: from other images, repositories of git, and addresses.

use std::collections::{HashMap, HashSet};
use std::path::Path;
use std::sync::Arc;

use kiln_ignore::Rules;
use kiln_oci::layer::Layer;
use kiln_oci::names;
use kiln_oci::tree::{Listed, ListedKind};
use kiln_picture::{Node as At, NodeId as AtId, Picture, ROOT};
use kiln_plan::diagnostic::{Diagnostic, Diagnostics, closest};
use kiln_plan::digest::Digest;
use kiln_plan::platform::Platform;
use kiln_plan::stack::{self, Copy, Elsewhere};

use super::Builder;
use crate::error::{BuildError, Result};
use crate::installed::read_list_of;
use crate::node::Node;
use crate::product::Paths;
use crate::snapshot::{Copied, FileAt, Own, Source, SourceKind, content, require_no_whiteout};
use crate::sources::{Checkout, Download, Patch, Tree, native};
use crate::step::{Read, Subject};
use crate::steps::base::{Base, Source as BaseSource};
use crate::steps::image_layers::ImageLayers;
use crate::steps::list::List;

/// A tree, and a place in its list.
type Place = (usize, usize);
/// The name of a download, which is alone in its place.
const ONLY: &[u8] = b"file";

/// The file system that a container would have of some trees.
struct Merged {
    picture: Picture<Place, Place>,
    /// Links by path: the picture holds their targets alone.
    links: HashMap<Vec<u8>, Place>,
}

impl Builder<'_> {
    /// Returns the files of a copy, and the steps that found them.
    pub(super) fn copied(&mut self, copy: &Copy, platform: Platform) -> Result<(Arc<Copied>, Vec<Read>)> {
        let Some(elsewhere) = &copy.elsewhere else { return Ok((self.snapshot.copied(copy)?, Vec::new())) };
        let (trees, mut after) = self.trees(elsewhere, platform)?;
        let nodes = trees.iter().map(|tree| self.graph.add(List::new(tree.clone())));
        let nodes: Vec<Node<Paths>> = nodes.collect::<Result<_>>()?;
        after.extend(nodes.iter().map(|node| node.before()));
        let lists = self.lists(&nodes)?;
        let copied = Selection { copy, trees, lists }.copied()?;
        copied.1.into_iter().for_each(|warning| self.project.workshop.warn(warning));
        require_no_whiteout(copy, &copied.0)?;
        Ok((Arc::new(copied.0), after))
    }

    /// Returns the lists of trees, each read once.
    fn lists(&mut self, nodes: &[Node<Paths>]) -> Result<Vec<Arc<Vec<Listed>>>> {
        let unread: Vec<Node<Paths>> =
            nodes.iter().copied().filter(|node| !self.lists.contains_key(&node.id())).collect();
        if !unread.is_empty() {
            for (node, bytes) in unread.iter().zip(self.look.lists(&self.graph, &unread)?) {
                let list = read_list_of(&bytes).ok_or_else(|| BuildError::Lost(vec![Digest::of(&bytes)]))?;
                self.lists.insert(node.id(), Arc::new(list));
            }
        }
        Ok(nodes.iter().filter_map(|node| self.lists.get(&node.id()).cloned()).collect())
    }

    /// Returns the trees of a place, the lowest first, and the steps that they come from.
    fn trees(&mut self, elsewhere: &Elsewhere, platform: Platform) -> Result<(Vec<Tree>, Vec<Read>)> {
        match elsewhere {
            Elsewhere::Image(name) => {
                let done = self.done.get(&(name.clone(), platform));
                let image = done.ok_or_else(|| BuildError::NotYet(format!("image {name}")))?.image;
                self.image_trees(image, name, platform)
            }
            Elsewhere::Reference(reference) => {
                let name = reference.to_string();
                let locked = self.lock.base(&name, platform).ok_or_else(|| {
                    BuildError::LockOutdated(format!("it has no image `{name}` for {platform}, which is copied from"))
                })?;
                let base = Base::new(locked.clone(), BaseSource::Registry(reference.clone()));
                let image = self.graph.add(base)?;
                self.image_trees(image, &name, platform)
            }
            Elsewhere::Git(wanted) => Ok((vec![Tree::Checkout(self.checkout(wanted)?)], Vec::new())),
            Elsewhere::Url(wanted) => {
                let sha256 = wanted.sha256.map_or_else(|| self.locked_digest(elsewhere), Ok)?;
                let download = Download { sha256, file: wanted.file_name(), url: wanted.url.clone() };
                Ok((vec![if wanted.unpack { Tree::Archive(download) } else { Tree::File(download) }], Vec::new()))
            }
        }
    }

    fn image_trees(
        &mut self,
        image: Node<kiln_oci::image::Image>,
        name: &str,
        platform: Platform,
    ) -> Result<(Vec<Tree>, Vec<Read>)> {
        let subject = Subject::Image(name.to_owned(), platform);
        let node = self.graph.add(ImageLayers::new(image, subject))?;
        let layers: Vec<Layer> = self.look.at(&self.graph, &[node])?.into_iter().flatten().collect();
        let trees = layers.into_iter().map(|layer| Tree::Layer(layer.diff_id, layer)).collect();
        Ok((trees, vec![node.before()]))
    }

    fn checkout(&self, wanted: &stack::Checkout) -> Result<Checkout> {
        let (url, rev) = (wanted.url.clone(), wanted.rev.clone());
        let remote = stack::Remote::Git { url: url.clone(), rev: rev.clone() };
        let commit = self.lock.source(&remote).and_then(|source| source.commit.clone());
        let commit = commit
            .ok_or_else(|| BuildError::LockOutdated(format!("it has no commit of {remote}, which is copied from")))?;
        let patch = |patch: &stack::Source| {
            let content = fs_err::read(self.project.path(&patch.path).map_err(|error| {
                BuildError::from(Diagnostics::from(Diagnostic::at(patch.span.clone(), error.to_string())))
            })?)?;
            Ok(Patch { sha256: Digest::of(&content), name: patch.path.clone(), content })
        };
        Ok(Checkout {
            commit,
            submodules: wanted.submodules,
            lfs: wanted.lfs,
            keep_git: wanted.keep_git.then_some(rev),
            patches: wanted.patches.iter().map(patch).collect::<Result<_>>()?,
            url,
        })
    }

    fn locked_digest(&self, elsewhere: &Elsewhere) -> Result<Digest> {
        let locked = elsewhere.remote().and_then(|remote| self.lock.source(&remote)?.files.first());
        locked
            .map(|file| file.sha256)
            .ok_or_else(|| BuildError::LockOutdated(format!("it has no SHA-256 of {elsewhere}, which is copied")))
    }
}

/// The files of a place, and the part of them that is copied.
struct Selection<'c> {
    copy: &'c Copy,
    trees: Vec<Tree>,
    lists: Vec<Arc<Vec<Listed>>>,
}

impl Selection<'_> {
    /// Returns the files that are copied, and warnings.
    fn copied(self) -> Result<(Copied, Vec<String>)> {
        let merged = self.merged()?;
        let picture = &merged.picture;
        let path = self.copy.from.first().map_or("", |source| source.path.as_str());
        let at = match self.trees.as_slice() {
            [Tree::File(_)] => picture.find(ONLY),
            _ if path.is_empty() => Some(ROOT),
            _ => picture.find(&names::bytes(path)),
        };
        let at = at.ok_or_else(|| self.not_there(path, picture))?;
        let mut excluded = Excluded::new(self.copy);
        let (mut files, mut special) = (Vec::new(), Vec::new());
        if matches!(picture.node(at), At::Directory(_)) {
            let root =
                if path.is_empty() { Vec::new() } else { picture.resolve(&names::bytes(path)).unwrap_or_default() };
            picture.visit(at, |below, node| {
                let is_directory = matches!(picture.node(node), At::Directory(_));
                let whole = if root.is_empty() { below.to_vec() } else { [root.as_slice(), below].join(&b'/') };
                if let Some(text) = names::text(below).filter(|text| !excluded.leaves_out(text, is_directory)) {
                    self.take(&merged, (text, &whole), node, &mut files, &mut special);
                }
            });
        } else {
            self.take(&merged, (String::new(), &[]), at, &mut files, &mut special);
            if !special.is_empty() {
                let message = format!("`{}` is a pipe, a socket or a device, which is not copied", self.copy.shown());
                return Err(Diagnostics::from(Diagnostic::at(self.copy.span(), message)).into());
            }
        }
        let shown = self.copy.shown();
        let special = special
            .iter()
            .map(|path| format!("`{path}` of `{shown}` is a pipe, a socket or a device, and is not copied"));
        let unmatched = excluded.unmatched();
        let unmatched =
            unmatched.map(|pattern| format!("`exclude` of `{shown}`: the pattern `{pattern}` matches nothing"));
        let warnings = special.chain(unmatched).collect();
        let bytes = files.iter().map(|file| file.size).sum();
        let copied = Copied { content: content(&files), files, bytes, decided: Vec::new(), trees: self.trees };
        Ok((copied, warnings))
    }

    /// Takes what is at a node: its path below the copied directory, and its whole path.
    fn take(
        &self,
        merged: &Merged,
        (path, whole): (String, &[u8]),
        node: AtId,
        files: &mut Vec<Source>,
        special: &mut Vec<String>,
    ) {
        let place = match merged.picture.node(node) {
            At::Directory(place) => place.copied(),
            At::File(place) => Some(*place),
            At::Symlink(_) => merged.links.get(whole).copied(),
        };
        let listed = place.map(|(tree, at)| (tree, &self.lists[tree][at]));
        let own = listed.map(|(_, listed)| Own { owner: listed.owner, xattrs: listed.xattrs.clone() });
        let (kind, size, from) = match (merged.picture.node(node), listed) {
            (At::Symlink(to), _) => {
                let Some(to) = names::text(to) else { return };
                (SourceKind::Symlink(to), 0, native(&path))
            }
            (At::File(_), Some((tree, listed))) => {
                let ListedKind::File(size, digest) = &listed.kind else {
                    return special.push(format!("/{}", listed.path));
                };
                let (mode, at) = (listed.mode, FileAt::Tree(tree, listed.time));
                (SourceKind::File { mode, at, digest: Some(digest.clone()) }, *size, native(&listed.path))
            }
            (_, listed) => {
                let mode = listed.map_or(0o755, |(_, listed)| listed.mode);
                (SourceKind::Directory { mode }, 0, native(&path))
            }
        };
        files.push(Source { path, from, kind, size, own });
    }

    /// Returns the leading components of paths that the copy leaves out.
    fn strip(&self) -> u32 {
        match &self.copy.elsewhere {
            Some(Elsewhere::Git(wanted)) => wanted.strip,
            Some(Elsewhere::Url(wanted)) => wanted.strip,
            _ => 0,
        }
    }

    /// Returns what a container would see of the trees, without the leading components of paths that the copy leaves out.
    fn merged(&self) -> Result<Merged> {
        let strip = self.strip();
        let is_whole = |listed: &Listed| stripped(&listed.path, strip).is_some();
        if strip > 0 && !self.lists.iter().flat_map(|list| list.iter()).any(is_whole) {
            let message = format!("nothing of `{}` is left with `strip = {strip}`", self.copy.shown());
            let hint = "its paths have fewer components: `strip = 1` leaves out the directory that everything is in";
            return Err(Diagnostics::from(Diagnostic::at(self.copy.span(), message).hint(hint)).into());
        }
        let mut merged = Merged { picture: Picture::new(), links: HashMap::new() };
        let picture = &mut merged.picture;
        for (tree, list) in self.lists.iter().enumerate() {
            picture.next_layer();
            let is_layer = matches!(self.trees.get(tree), Some(Tree::Layer(..)));
            for (at, listed) in list.iter().enumerate() {
                let Some(path) = stripped(&listed.path, strip) else { continue };
                let path = names::bytes(path);
                match &listed.kind {
                    ListedKind::Directory(hides) => {
                        if *hides {
                            picture.opaque(&path);
                        }
                        picture.put_directory(&path, (tree, at));
                    }
                    ListedKind::Symlink(to) => {
                        picture.put_symlink(&path, &names::bytes(to));
                        merged.links.insert(path, (tree, at));
                    }
                    ListedKind::Whiteout if is_layer => picture.whiteout(&path),
                    ListedKind::Whiteout => {
                        let message = format!(
                            "a file `.wh.{}` of `{}` cannot be in a layer",
                            name_of(&listed.path),
                            self.copy.shown()
                        );
                        let hint = "its name means there that a file is removed: leave it out of the archive";
                        return Err(Diagnostics::from(Diagnostic::at(self.copy.span(), message).hint(hint)).into());
                    }
                    ListedKind::File(..) if path.is_empty() => picture.put_file(ONLY, (tree, at)),
                    ListedKind::File(..) | ListedKind::Special => picture.put_file(&path, (tree, at)),
                }
            }
        }
        Ok(merged)
    }

    fn not_there(&self, path: &str, picture: &Picture<Place, Place>) -> BuildError {
        let (directory, name) = path.rsplit_once('/').unwrap_or(("", path));
        let directory = if directory.is_empty() { Some(ROOT) } else { picture.find(&names::bytes(directory)) };
        let names: Vec<String> = directory.map_or_else(Vec::new, |directory| {
            picture.children(directory).map(|(name, _)| String::from_utf8_lossy(name).into_owned()).collect()
        });
        let hint = match closest(name, names.iter().map(String::as_str)) {
            Some(close) => format!("did you mean `{close}`?"),
            None if names.is_empty() && self.strip() > 0 => {
                format!("its directory is not there: `path` counts after `strip = {}`", self.strip())
            }
            None if names.is_empty() => "its directory is not there, or is empty".into(),
            None => {
                let names: Vec<String> = names.iter().take(8).map(|name| format!("`{name}`")).collect();
                let up_to = path.len() - path.rsplit('/').next().unwrap_or_default().len();
                format!("`/{}` has {}", &path[..up_to], names.join(", "))
            }
        };
        let place = self.copy.elsewhere.as_ref().map(ToString::to_string).unwrap_or_default();
        let message = format!("`{place}` has no `/{path}`");
        Diagnostics::from(Diagnostic::at(self.copy.span(), message).hint(hint)).into()
    }
}

fn name_of(path: &str) -> &str {
    path.rsplit('/').next().unwrap_or(path)
}

/// Returns a path without so many leading components; `None` where nothing is left.
fn stripped(path: &str, strip: u32) -> Option<&str> {
    (0..strip).try_fold(path, |path, _| path.split_once('/').map(|(_, rest)| rest))
}

/// The patterns of a copy, and the directories that they leave out.
struct Excluded<'c> {
    rules: Option<Rules>,
    patterns: &'c [stack::Pattern],
    matched: Vec<bool>,
    directories: HashSet<String>,
}

impl<'c> Excluded<'c> {
    fn new(copy: &'c Copy) -> Self {
        let patterns: Vec<&str> = copy.exclude.iter().map(|pattern| pattern.text.as_str()).collect();
        let rules = (!patterns.is_empty()).then(|| Rules::git(patterns.join("\n").as_bytes()));
        Self { rules, patterns: &copy.exclude, matched: vec![false; copy.exclude.len()], directories: HashSet::new() }
    }

    /// Tells if a path stays out. Directories come before their content.
    fn leaves_out(&mut self, path: &str, is_directory: bool) -> bool {
        let Some(rules) = &self.rules else { return false };
        if Path::new(path).ancestors().skip(1).any(|above| self.directories.contains(&*above.to_string_lossy())) {
            return true;
        }
        let Some(decided) = rules.decide(&names::bytes(path), is_directory) else { return false };
        if let Some(matched) = self.matched.get_mut(decided.line.saturating_sub(1)) {
            *matched = true;
        }
        if decided.excluded && is_directory {
            self.directories.insert(path.to_owned());
        }
        decided.excluded
    }

    /// Returns the patterns that matched nothing.
    fn unmatched(&self) -> impl Iterator<Item = String> {
        let patterns = self.patterns.iter().zip(&self.matched).filter(|(_, matched)| !**matched);
        patterns.map(|(pattern, _)| pattern.text.clone())
    }
}
