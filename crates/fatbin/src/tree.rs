//! The GPU code of whole directories: every file on all cores, the largest first.

use std::io;
use std::path::{Path, PathBuf};

use kiln_plan::parallel;

use crate::listing::{Depth, FatbinError, Listing};
use crate::thin::list_file;

/// Files below this many bytes have no room for code.
const LEAST: u64 = 64;

/// Endings of files that are text, or Python's own: three quarters of what installed packages consist of, and opening them
/// would take longer than reading all libraries.
const TEXT: [&str; 10] = ["py", "pyi", "pyc", "h", "hpp", "cuh", "cu", "txt", "json", "md"];

/// A file with GPU code, or one that could not be listed.
pub type Listed = (PathBuf, Result<Listing, FatbinError>);

/// Lists every file below a directory that has GPU code, sorted by path; `threads` work at once. Symbolic links are not
/// followed: what they point at is listed where it lies, if it does.
pub fn list_tree(directory: &Path, threads: usize) -> io::Result<Vec<Listed>> {
    list_tree_with(directory, threads, &|_| Depth::Headers)
}

/// Like [`list_tree`]; a file whose listing by headers asks for more is looked at again.
pub fn list_tree_with(
    directory: &Path,
    threads: usize,
    depth: &(dyn Fn(&Listing) -> Depth + Sync),
) -> io::Result<Vec<Listed>> {
    let mut files = files(directory)?;
    files.sort_by(|a, b| (b.1, &a.0).cmp(&(a.1, &b.0)));
    let listed = parallel::each(&files, threads, |(path, _)| {
        let listed = list_file(path, Depth::Headers).and_then(|listed| match listed {
            Some(listing) if depth(&listing) == Depth::Kernels => list_file(path, Depth::Kernels),
            listing => Ok(listing),
        });
        let listed = listed.transpose();
        Ok::<_, io::Error>(listed.map(|listed| (path.clone(), listed)))
    })?;
    let mut found: Vec<Listed> = listed.into_iter().flatten().collect();
    found.sort_by(|a, b| a.0.cmp(&b.0));
    Ok(found)
}

fn files(directory: &Path) -> io::Result<Vec<(PathBuf, u64)>> {
    let mut files = Vec::new();
    let mut waiting = vec![directory.to_owned()];
    while let Some(next) = waiting.pop() {
        for entry in fs_err::read_dir(next)? {
            let entry = entry?;
            let kind = entry.file_type()?;
            if kind.is_dir() {
                waiting.push(entry.path());
            } else if kind.is_file() && !is_text(&entry.file_name()) {
                let size = entry.metadata()?.len();
                if size >= LEAST {
                    files.push((entry.path(), size));
                }
            }
        }
    }
    Ok(files)
}

fn is_text(name: &std::ffi::OsStr) -> bool {
    let extension = Path::new(name).extension().and_then(std::ffi::OsStr::to_str);
    extension.is_some_and(|extension| TEXT.contains(&extension))
}
