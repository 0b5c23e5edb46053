//! Files and whole directories that are pruned, in place or to a copy. A file takes its new content all at once or not at
//! all, and names of one file stay names of one file.

use std::collections::BTreeMap;
use std::fs::Metadata;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _, fchown};
use std::path::{Path, PathBuf};

use kiln_fatbin::{Decision, Outcome, Selection, check, prune};
use kiln_plan::gpu::GpuNames;
use kiln_plan::parallel;
use kiln_store::{AtomicFile, TemporaryDirectory, is_temporary, parent, put_new_directory, replace_by_link};
use serde::Serialize;

/// Bytes that are written at once.
const BUFFER: usize = 1 << 20;

/// A file with GPU code.
#[derive(Debug, Serialize)]
pub struct PrunedFile {
    /// Where it is: below the directory that was pruned, or as it was given.
    #[serde(serialize_with = "shown")]
    pub path: PathBuf,
    /// What became of it.
    #[serde(flatten)]
    pub outcome: Outcome,
}

/// Writes a path, whatever bytes it has.
fn shown<S: serde::Serializer>(path: &Path, serializer: S) -> Result<S::Ok, S::Error> {
    serializer.collect_str(&path.display())
}

/// What directories are pruned with.
pub struct FilePruner<'a> {
    /// What stays.
    pub selection: &'a Selection,
    /// The names that its GPUs were asked for under.
    pub names: &'a GpuNames,
    /// Files that are pruned at once.
    pub threads: usize,
    /// Told of bytes as they are read; an error ends everything.
    pub advance: &'a (dyn Fn(u64) -> io::Result<()> + Sync),
}

impl FilePruner<'_> {
    /// Prunes a file to another place, which may be its own; `None` where there is no code that could be cut. Unless it
    /// was pruned, nothing is written. A file of which no code would be left is refused.
    pub fn file(&self, from: &Path, to: &Path) -> io::Result<Option<Outcome>> {
        let decision = prune(&fs_err::File::open(from)?, self.selection)?;
        let mut decisions = [decision];
        self.refuse_emptied(&mut decisions);
        let [decision] = decisions;
        let checked = self.perform(&decision, from, to)?;
        Outcome::of(decision, |_| Ok(checked))
    }

    /// Refuses to cut files where all of them have code, and no code would be left in any.
    fn refuse_emptied(&self, decisions: &mut [Decision]) {
        let mut with_code = decisions.iter().filter(|decision| !matches!(decision, Decision::NoCode));
        if !with_code.all(Decision::is_emptied) {
            return;
        }
        let gpus: Vec<String> = self.selection.gpus.iter().map(|gpu| self.names.label(*gpu)).collect();
        for decision in decisions.iter_mut().filter(|decision| decision.is_emptied()) {
            *decision = Decision::Refused(match decision {
                Decision::Loose(architecture, _) => {
                    format!("it is code for {architecture} alone, which none of the GPUs runs")
                }
                _ => format!("it has no code for {}: nothing of it would be left", gpus.join(", ")),
            });
        }
    }

    /// Writes the file that is decided for, if any, and checks it: the inner error is a clause that says what is wrong.
    fn perform(&self, decision: &Decision, from: &Path, to: &Path) -> io::Result<Result<(), String>> {
        let Decision::Rewrite(rewrite) = decision else { return Ok(Ok(())) };
        let source = fs_err::File::open(from)?;
        let mut new = AtomicFile::create(to)?;
        let mut out = io::BufWriter::with_capacity(BUFFER, &mut new);
        rewrite.write(&source, &mut out, self.advance)?;
        out.flush()?;
        drop(out);
        // What goes into a pipe or a device cannot be read again.
        let checked = match new.file().metadata()?.is_file() {
            true => check(&source, new.file(), self.selection)?,
            false => check(&source, &rewrite.of(&source), self.selection)?,
        };
        if checked.is_ok() {
            let old = source.metadata()?;
            if new.file().metadata()?.is_file() {
                take_over(new.file(), &old)?;
            }
            new.set_mode(old.permissions().mode() & 0o7777);
            new.commit()?;
        }
        Ok(checked)
    }

    /// Prunes every file below a directory where it is.
    pub fn tree_in_place(&self, directory: &Path) -> io::Result<Vec<PrunedFile>> {
        let files = Tree::read(directory)?.files;
        self.each(directory, &files, |names, decision| {
            let first = directory.join(&names[0].path);
            let checked = self.perform(decision, &first, &first)?;
            if matches!((decision, &checked), (Decision::Rewrite(_), Ok(()))) {
                for name in &names[1..] {
                    replace_by_link(&first, &directory.join(&name.path))?;
                }
            }
            Ok(checked)
        })
    }

    /// Copies a directory to a new one and prunes every file on the way. The new one has its name when it is whole and on the disk.
    pub fn tree_to(&self, directory: &Path, target: &Path) -> io::Result<Vec<PrunedFile>> {
        let tree = Tree::read(directory)?;
        let staging = TemporaryDirectory::create(parent(target))?;
        let staged = staging.path().join("tree");
        let mut pruned = self.copy(directory, &tree, &staged)?;
        put_new_directory(&staged, target)?;
        let reason = || "it is a pipe, a socket or a device, which is not copied".to_owned();
        let refused = |path| PrunedFile { path, outcome: Outcome::Refused { reason: reason() } };
        pruned.extend(tree.others.into_iter().map(refused));
        Ok(pruned)
    }

    fn copy(&self, directory: &Path, tree: &Tree, target: &Path) -> io::Result<Vec<PrunedFile>> {
        fs_err::create_dir(target)?;
        for path in &tree.directories {
            fs_err::create_dir(target.join(path))?;
        }
        for path in &tree.links {
            fs_err::os::unix::fs::symlink(fs_err::read_link(directory.join(path))?, target.join(path))?;
        }
        let pruned = self.each(directory, &tree.files, |names, decision| {
            let (from, to) = (directory.join(&names[0].path), target.join(&names[0].path));
            let checked = self.perform(decision, &from, &to)?;
            if !matches!((decision, &checked), (Decision::Rewrite(_), Ok(()))) {
                fs_err::copy(&from, &to)?;
                take_over(&fs_err::File::open(&to)?, &names[0].metadata)?;
            }
            for name in &names[1..] {
                fs_err::hard_link(&to, target.join(&name.path))?;
            }
            Ok(checked)
        })?;
        // Last, since writing into a directory changes when it was changed.
        for path in tree.directories.iter().rev().map(PathBuf::as_path).chain([Path::new("")]) {
            take_over(&fs_err::File::open(target.join(path))?, &fs_err::metadata(directory.join(path))?)?;
        }
        Ok(pruned)
    }

    /// Does with every file what is decided for it once all have been looked at, the largest first, on all threads.
    fn each(
        &self,
        directory: &Path,
        files: &[Vec<Named>],
        act: impl Fn(&[Named], &Decision) -> io::Result<Result<(), String>> + Sync,
    ) -> io::Result<Vec<PrunedFile>> {
        let mut decisions = parallel::each(files, self.threads, |names| {
            prune(&fs_err::File::open(directory.join(&names[0].path))?, self.selection)
        })?;
        self.refuse_emptied(&mut decisions);
        let decided: Vec<_> = files.iter().zip(&decisions).collect();
        let checks = parallel::each(&decided, self.threads, |(names, decision)| act(names, decision))?;
        let mut pruned = Vec::new();
        for ((names, decision), checked) in files.iter().zip(decisions).zip(checks) {
            let outcome = Outcome::of(decision, |_| Ok(checked))?;
            pruned.extend(outcome.map(|outcome| PrunedFile { path: names[0].path.clone(), outcome }));
        }
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
    /// Pipes, sockets and devices.
    others: Vec<PathBuf>,
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
                // What a dead process left goes as soon as something is written beside it.
                if is_temporary(&entry.file_name()) {
                    continue;
                }
                let path = directory.join(entry.file_name());
                let metadata = entry.metadata()?;
                if metadata.is_dir() {
                    tree.directories.push(path.clone());
                    left.push(path);
                } else if metadata.is_symlink() {
                    tree.links.push(path);
                } else if metadata.is_file() {
                    files.entry((metadata.dev(), metadata.ino())).or_default().push(Named { path, metadata });
                } else {
                    tree.others.push(path);
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
