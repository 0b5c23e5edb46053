//! Files and whole directories that are pruned, in place or to a copy. A file takes its new content all at once or not at
//! all, and names of one file stay names of one file.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use kiln_fatbin::{Outcome, Selection, check, prune};
use kiln_plan::parallel;
use kiln_store::{AtomicFile, replace_by_link};
use serde::Serialize;

/// Bytes that are written at once.
const BUFFER: usize = 1 << 20;

/// A file with GPU code.
#[derive(Debug, Serialize)]
pub struct PrunedFile {
    /// Where it is: below the directory that was pruned, or as it was given.
    pub path: PathBuf,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// What directories are pruned with.
pub struct FilePruner<'a> {
    /// What stays.
    pub selection: &'a Selection,
    /// Files that are pruned at once.
    pub threads: usize,
    /// Told of bytes as they are read; an error ends everything.
    pub advance: &'a (dyn Fn(u64) -> io::Result<()> + Sync),
}

impl FilePruner<'_> {
    /// Prunes a file to another place, which may be its own; `None` where there is no code that could be cut. Unless it
    /// was pruned, nothing is written.
    pub fn file(&self, from: &Path, to: &Path) -> io::Result<Option<Outcome>> {
        let source = fs_err::File::open(from)?;
        let mut written = None;
        let outcome = Outcome::of(prune(&source, self.selection)?, |rewrite| {
            let new = written.insert(AtomicFile::create(to)?);
            let mut out = io::BufWriter::with_capacity(BUFFER, &mut *new);
            rewrite.write(&source, &mut out, self.advance)?;
            out.flush()?;
            drop(out);
            check(&source, new.file(), self.selection)
        })?;
        if let (Some(Outcome::Pruned(_)), Some(mut new)) = (&outcome, written) {
            let old = source.metadata()?;
            take_over(new.file(), &old)?;
            new.set_mode(old.permissions().mode() & 0o7777);
            new.commit_in_group()?;
        }
        Ok(outcome)
    }

    /// Prunes every file below a directory where it is.
    pub fn tree_in_place(&self, directory: &Path) -> io::Result<Vec<PrunedFile>> {
        let files = Tree::read(directory)?.files;
        self.each(&files, |names| {
            let first = directory.join(&names[0].path);
            let outcome = self.file(&first, &first)?;
            if matches!(outcome, Some(Outcome::Pruned(_))) {
                for name in &names[1..] {
                    replace_by_link(&first, &directory.join(&name.path))?;
                }
            }
            Ok(outcome)
        })
    }

    /// Copies a directory to a new one and prunes every file on the way.
    pub fn tree_to(&self, directory: &Path, target: &Path) -> io::Result<Vec<PrunedFile>> {
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
                take_over(&fs_err::File::open(&to)?, &names[0].metadata)?;
            }
            for name in &names[1..] {
                fs_err::hard_link(&to, target.join(&name.path))?;
            }
            Ok(outcome)
        })?;
        // Last, since writing into a directory changes when it was changed.
        for path in tree.directories.iter().rev().map(PathBuf::as_path).chain([Path::new("")]) {
            take_over(&fs_err::File::open(target.join(path))?, &fs_err::metadata(directory.join(path))?)?;
        }
        Ok(pruned)
    }

    /// Does something with every file, the largest first, on all threads.
    fn each(
        &self,
        files: &[Vec<Named>],
        act: impl Fn(&[Named]) -> io::Result<Option<Outcome>> + Sync,
    ) -> io::Result<Vec<PrunedFile>> {
        let done = parallel::each(files, self.threads, |names| {
            let outcome = act(names)?;
            Ok::<_, io::Error>(outcome.map(|outcome| PrunedFile { path: names[0].path.clone(), outcome }))
        })?;
        let mut pruned: Vec<PrunedFile> = done.into_iter().flatten().collect();
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

/// Gives a new file or directory the owner, permissions and time of an old one.
fn take_over(new: &fs_err::File, old: &Metadata) -> io::Result<()> {
    let own = new.metadata()?;
    if (own.uid(), own.gid()) != (old.uid(), old.gid()) {
        fchown(new, Some(old.uid()), Some(old.gid()))?;
    }
    new.set_permissions(old.permissions())?;
    new.file().set_modified(old.modified()?)
}

#[cfg(test)]
mod tests;
