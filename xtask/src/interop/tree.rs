//! Directories as they lie on disk, and what two of them differ in.

use std::collections::BTreeMap;
use std::io::Read;
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::sync::Mutex;
use std::sync::atomic::{AtomicUsize, Ordering};

use super::Result;

/// What lies below a directory, by path relative to it.
pub(crate) struct Tree {
    /// The directory.
    pub(crate) root: PathBuf,
    /// Everything below.
    pub(crate) nodes: BTreeMap<String, Node>,
}

/// One thing in a directory.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Node {
    /// What it is.
    pub(crate) kind: Kind,
    /// Permission bits.
    pub(crate) mode: u32,
    /// User and group.
    pub(crate) owner: (u32, u32),
    /// Seconds since 1970.
    pub(crate) time: i64,
}

/// What something in a directory is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Kind {
    Directory,
    /// With its size.
    File(u64),
    /// With what it points to.
    Link(String),
    Other,
}

impl Node {
    /// Whether it is a file that may be executed.
    pub(crate) fn is_executable(&self) -> bool {
        matches!(self.kind, Kind::File(_)) && self.mode & 0o111 != 0
    }

    /// What it is, in a word, with the target of a link.
    pub(crate) fn describe(&self) -> String {
        match &self.kind {
            Kind::Directory => "a directory".into(),
            Kind::File(_) => "a file".into(),
            Kind::Link(to) => format!("a link to `{to}`"),
            Kind::Other => "a special file".into(),
        }
    }
}

impl Tree {
    /// Reads a directory; symbolic links are not followed.
    pub(crate) fn read(root: &Path) -> Result<Self> {
        let mut tree = Self { root: root.to_owned(), nodes: BTreeMap::new() };
        let mut waiting = vec![String::new()];
        while let Some(directory) = waiting.pop() {
            for entry in fs_err::read_dir(root.join(&directory))? {
                let entry = entry?;
                let name = entry.file_name().into_string().map_err(|name| format!("{name:?} is not UTF-8"))?;
                let path = if directory.is_empty() { name } else { format!("{directory}/{name}") };
                let node = node(&entry.path())?;
                if node.kind == Kind::Directory {
                    waiting.push(path.clone());
                }
                tree.nodes.insert(path, node);
            }
        }
        Ok(tree)
    }

    /// The content of a file that is text.
    pub(crate) fn text(&self, path: &str) -> Result<String> {
        Ok(fs_err::read_to_string(self.root.join(path))?)
    }
}

/// Looks at what lies at a path; a symbolic link is not followed.
pub(crate) fn node(path: &Path) -> Result<Node> {
    let found = fs_err::symlink_metadata(path)?;
    let kind = match found.file_type() {
        kind if kind.is_dir() => Kind::Directory,
        kind if kind.is_file() => Kind::File(found.len()),
        kind if kind.is_symlink() => Kind::Link(fs_err::read_link(path)?.display().to_string()),
        _ => Kind::Other,
    };
    Ok(Node { kind, mode: found.mode() & 0o7777, owner: (found.uid(), found.gid()), time: found.mtime() })
}

/// Those of some files, present in both trees, that have different content, sorted.
pub(crate) fn different_files(one: &Tree, other: &Tree, paths: &[String]) -> Result<Vec<String>> {
    let next = AtomicUsize::new(0);
    let different = Mutex::new(Vec::new());
    let compare = || -> Result<()> {
        while let Some(path) = paths.get(next.fetch_add(1, Ordering::Relaxed)) {
            if !same_content(&one.root.join(path), &other.root.join(path))? {
                different.lock().unwrap_or_else(std::sync::PoisonError::into_inner).push(path.clone());
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        let threads: Vec<_> = (0..threads).map(|_| scope.spawn(compare)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("a comparison panicked".into())))
    })?;
    let mut different = different.into_inner().unwrap_or_else(std::sync::PoisonError::into_inner);
    different.sort();
    Ok(different)
}

fn same_content(one: &Path, other: &Path) -> Result<bool> {
    const CHUNK: u64 = 1 << 20;
    let (mut one, mut other) = (fs_err::File::open(one)?, fs_err::File::open(other)?);
    let (mut left, mut right) = (Vec::new(), Vec::new());
    loop {
        left.clear();
        right.clear();
        (&mut one).take(CHUNK).read_to_end(&mut left)?;
        (&mut other).take(CHUNK).read_to_end(&mut right)?;
        if left != right {
            return Ok(false);
        }
        if left.is_empty() {
            return Ok(true);
        }
    }
}

/// Everything in which two trees differ: paths, kinds, modes, owners, content. Times are left out: no program sets
/// those of directories in the same way.
pub(crate) fn differences(one: &Tree, other: &Tree) -> Result<Vec<String>> {
    let mut wrong = Vec::new();
    let mut files = Vec::new();
    for (path, node) in &one.nodes {
        match other.nodes.get(path) {
            None => wrong.push(format!("{path}: only in {}", one.root.display())),
            Some(found) if (&node.kind, node.mode, node.owner) != (&found.kind, found.mode, found.owner) => {
                wrong.push(format!("{path}: {node:?} and {found:?}"));
            }
            Some(Node { kind: Kind::File(_), .. }) => files.push(path.clone()),
            Some(_) => {}
        }
    }
    let missing = other.nodes.keys().filter(|path| !one.nodes.contains_key(*path));
    wrong.extend(missing.map(|path| format!("{path}: only in {}", other.root.display())));
    wrong.extend(different_files(one, other, &files)?.into_iter().map(|path| format!("{path}: other content")));
    Ok(wrong)
}
