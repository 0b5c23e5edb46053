//! Files and whole directories, in place or to a copy. A file takes its new content all at once or not at all, and names
//! of one file stay names of one file.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::{self, Write as _};
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

use kiln_plan::parallel;
use serde::Serialize;
use tempfile::NamedTempFile;

use super::{Decision, Rewrite, check, prune};
use crate::selection::Selection;

/// Bytes that are written at once.
const BUFFER: usize = 1 << 20;

/// What became of a file with GPU code.
#[derive(Debug, Serialize)]
#[serde(rename_all = "kebab-case", tag = "outcome")]
pub enum Outcome {
    /// Some was cut.
    Pruned(Box<Rewrite>),
    /// All of it is needed, or so much that no page becomes free.
    Needed,
    /// The file is as it was.
    Refused {
        /// A clause.
        reason: String,
    },
}

impl Outcome {
    /// What becomes of a file, if what it would be pruned to passes the check; `None` where there is no code that could be
    /// cut.
    pub fn of(
        decision: Decision,
        check: impl FnOnce(&Rewrite) -> io::Result<Result<(), String>>,
    ) -> io::Result<Option<Self>> {
        Ok(Some(match decision {
            Decision::NoCode => return Ok(None),
            Decision::Needed => Self::Needed,
            Decision::Refused(reason) => Self::Refused { reason },
            Decision::Rewrite(rewrite) => match check(&rewrite)? {
                Ok(()) => Self::Pruned(rewrite),
                Err(problem) => Self::Refused { reason: format!("the pruned file was not sound: {problem}") },
            },
        }))
    }
}

/// A file with GPU code.
#[derive(Debug, Serialize)]
pub struct Pruned {
    /// Where it is: below the directory that was pruned, or as it was given.
    pub path: PathBuf,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What directories are pruned with.
pub struct Tools<'a> {
    /// What stays.
    pub selection: &'a Selection,
    /// Files that are pruned at once.
    pub threads: usize,
    /// Told of bytes as they are read; an error ends everything.
    pub advance: &'a (dyn Fn(u64) -> io::Result<()> + Sync),
}

impl Tools<'_> {
    /// Prunes a file to another place, which may be its own; `None` where there is no code that could be cut. Unless it
    /// was pruned, nothing is written.
    pub fn file(&self, from: &Path, to: &Path) -> io::Result<Option<Outcome>> {
        let source = fs_err::File::open(from)?;
        let mut written = None;
        let outcome = Outcome::of(prune(&source, self.selection)?, |rewrite| {
            let file = written.insert(beside(to)?);
            let new = fs_err::File::from_parts(file.reopen()?, file.path());
            let mut out = io::BufWriter::with_capacity(BUFFER, &new);
            rewrite.write(&source, &mut out, self.advance)?;
            out.flush()?;
            check(&source, &new, self.selection)
        })?;
        if let (Some(Outcome::Pruned(_)), Some(new)) = (&outcome, written) {
            take_over(new.path(), &source.metadata()?)?;
            new.persist(to).map_err(|error| error.error)?;
        }
        Ok(outcome)
    }

    /// Prunes every file below a directory where it is.
    pub fn tree_in_place(&self, directory: &Path) -> io::Result<Vec<Pruned>> {
        let files = Tree::read(directory)?.files;
        self.each(&files, |names| {
            let first = directory.join(&names[0].path);
            let outcome = self.file(&first, &first)?;
            if matches!(outcome, Some(Outcome::Pruned(_))) {
                for name in &names[1..] {
                    link(&first, &directory.join(&name.path))?;
                }
            }
            Ok(outcome)
        })
    }

    /// Copies a directory to a new one and prunes every file on the way.
    pub fn tree_to(&self, directory: &Path, target: &Path) -> io::Result<Vec<Pruned>> {
        let tree = Tree::read(directory)?;
        fs_err::create_dir(target)?;
        for path in &tree.directories {
            fs_err::create_dir(target.join(path))?;
        }
        for path in &tree.links {
            fs_err::os::unix::fs::symlink(fs_err::read_link(directory.join(path))?, target.join(path))?;
        }
        let pruned = self.each(&tree.files, |names| {
            let (from, to) = (directory.join(&names[0].path), target.join(&names[0].path));
            let outcome = self.file(&from, &to)?;
            if !matches!(outcome, Some(Outcome::Pruned(_))) {
                fs_err::copy(&from, &to)?;
                take_over(&to, &names[0].metadata)?;
            }
            for name in &names[1..] {
                fs_err::hard_link(&to, target.join(&name.path))?;
            }
            Ok(outcome)
        })?;
        // Last, since writing into a directory changes when it was changed.
        for path in tree.directories.iter().rev().map(PathBuf::as_path).chain([Path::new("")]) {
            take_over(&target.join(path), &fs_err::metadata(directory.join(path))?)?;
        }
        Ok(pruned)
    }

    /// Does something with every file, the largest first, on all threads.
    fn each(
        &self,
        files: &[Vec<Named>],
        act: impl Fn(&[Named]) -> io::Result<Option<Outcome>> + Sync,
    ) -> io::Result<Vec<Pruned>> {
        let done = parallel::each(files, self.threads, |names| {
            let outcome = act(names)?;
            Ok::<_, io::Error>(outcome.map(|outcome| Pruned { path: names[0].path.clone(), outcome }))
        })?;
        let mut pruned: Vec<Pruned> = done.into_iter().flatten().collect();
        pruned.sort_by(|one, other| one.path.cmp(&other.path));
        Ok(pruned)
    }
}

/// A name of a file.
struct Named {
    path: PathBuf,
    metadata: Metadata,
}

/// What lies below a directory; paths are relative to it.
#[derive(Default)]
struct Tree {
    /// Each before what is in it.
    directories: Vec<PathBuf>,
    links: Vec<PathBuf>,
    /// Each with all its names, the largest first.
    files: Vec<Vec<Named>>,
}

impl Tree {
    fn read(root: &Path) -> io::Result<Self> {
        let mut tree = Self::default();
        let mut files: BTreeMap<(u64, u64), Vec<Named>> = BTreeMap::new();
        let mut left = vec![PathBuf::new()];
        while let Some(directory) = left.pop() {
            for entry in fs_err::read_dir(root.join(&directory))? {
                let entry = entry?;
                let path = directory.join(entry.file_name());
                let metadata = entry.metadata()?;
                if metadata.is_dir() {
                    tree.directories.push(path.clone());
                    left.push(path);
                } else if metadata.is_symlink() {
                    tree.links.push(path);
                } else if metadata.is_file() {
                    files.entry((metadata.dev(), metadata.ino())).or_default().push(Named { path, metadata });
                }
            }
        }
        tree.files = files.into_values().collect();
        for names in &mut tree.files {
            names.sort_by(|one, other| one.path.cmp(&other.path));
        }
        tree.files.sort_by(|one, other| {
            (other[0].metadata.len(), &one[0].path).cmp(&(one[0].metadata.len(), &other[0].path))
        });
        Ok(tree)
    }
}

/// A new file that can take the place of another at once.
fn beside(path: &Path) -> io::Result<NamedTempFile> {
    let directory = path.parent().filter(|parent| !parent.as_os_str().is_empty()).unwrap_or(Path::new("."));
    tempfile::Builder::new().prefix(".kiln-").tempfile_in(directory)
}

/// Another name for a file, in the place of what has it now.
fn link(file: &Path, name: &Path) -> io::Result<()> {
    let directory = name.parent().unwrap_or(Path::new("."));
    let free = tempfile::Builder::new().prefix(".kiln-").tempdir_in(directory)?;
    let linked = free.path().join("link");
    fs_err::hard_link(file, &linked)?;
    fs_err::rename(&linked, name)
}

/// Gives a new file or directory the owner, permissions and time of an old one.
fn take_over(path: &Path, old: &Metadata) -> io::Result<()> {
    let new = fs_err::File::open(path)?;
    let own = new.metadata()?;
    if (own.uid(), own.gid()) != (old.uid(), old.gid()) {
        fs_err::os::unix::fs::chown(path, Some(old.uid()), Some(old.gid()))?;
    }
    new.set_permissions(old.permissions())?;
    new.file().set_modified(old.modified()?)
}
