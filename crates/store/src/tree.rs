//! Trees: layers as directories, by diff id. They follow from the layers, so that anything may remove them.
//!
//! `trees/sha256/<hex>` holds `tree`, perhaps `owners` (of files that can have no attribute, for those who use the tree), and `state`, which
//! is the digest of the names, kinds, modes, owners, sizes and times of all files, of `owners`, and of the ids by which owners are kept. A tree that differs is made again. One of the times is the kernel's own, of the last change
//! of an inode (inode(7), `ctime`), which no program sets: so content and attributes that changed are noticed whatever their size and
//! time, and a copy of a tree is made again. Bits that the disk itself changed are not.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};

use kiln_plan::digest::Digest;
use sha2::{Digest as _, Sha256};

use crate::atomic::put_new_directory;
use crate::removal::remove_tree;
use crate::{Result, Store, StoreError};

pub(crate) const TREES: &str = "trees/sha256";
/// The file beside a tree for owners of files that can have no attribute.
pub const OWNERS: &str = "owners";
/// The kind of a tree in the database.
pub(crate) const KIND: &str = "tree";

impl Store {
    /// Returns the tree of a layer, if it is here, as it was made, and with owners by these ids.
    pub fn tree(&self, diff_id: &Digest, ids: &str) -> Result<Option<PathBuf>> {
        let place = self.tree_path(diff_id);
        let (tree, Ok(state)) = (place.join("tree"), fs_err::read_to_string(place.join("state"))) else {
            return Ok(None);
        };
        let found = state_of(&tree, ids).ok();
        if found.is_some_and(|(found, size)| found == state && self.remember_item(diff_id, KIND, size).is_ok()) {
            return Ok(Some(tree));
        }
        remove_tree(&place)?;
        Ok(None)
    }

    /// Makes the tree of a layer: `fill` gets an empty directory, beside which it may put a file [`OWNERS`]. Another process may be faster; then its tree is returned.
    pub fn add_tree<E: From<StoreError>>(
        &self,
        diff_id: &Digest,
        ids: &str,
        fill: impl FnOnce(&Path) -> std::result::Result<(), E>,
    ) -> std::result::Result<PathBuf, E> {
        let directory = self.temporary_directory()?;
        let (whole, tree) = (directory.path().join("whole"), directory.path().join("whole/tree"));
        let io = |error: io::Error| E::from(StoreError::Io(error));
        fs_err::create_dir_all(&tree).map_err(io)?;
        // Root of the image; the layer may say another mode.
        fs_err::set_permissions(&tree, PermissionsExt::from_mode(0o755)).map_err(io)?;
        let done = fill(&tree).and_then(|()| {
            let (state, size) = state_of(&tree, ids).map_err(io)?;
            fs_err::write(whole.join("state"), state).map_err(io)?;
            match put_new_directory(&whole, &self.tree_path(diff_id)) {
                Err(error) if is_there(&error) => {}
                done => done.map_err(io)?,
            }
            Ok(self.remember_item(diff_id, KIND, size)?)
        });
        // Directories that may not be written cannot be removed by the value's end.
        let removed = remove_tree(directory.path()).map_err(io);
        done.and(removed).map(|()| self.tree_path(diff_id).join("tree"))
    }

    /// Returns true if a tree is as it was made.
    pub(crate) fn is_whole_tree(&self, diff_id: &Digest) -> Result<bool> {
        let place = self.tree_path(diff_id);
        let Ok(state) = fs_err::read_to_string(place.join("state")) else { return Ok(false) };
        let ids = state.split_once(' ').map_or("", |(_, ids)| ids);
        Ok(state_of(&place.join("tree"), ids).is_ok_and(|(found, _)| found == state))
    }

    pub(crate) fn tree_path(&self, diff_id: &Digest) -> PathBuf {
        self.root().join(TREES).join(diff_id.hex())
    }
}

fn is_there(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::AlreadyExists | io::ErrorKind::DirectoryNotEmpty)
}

/// Returns the digest of the names, kinds, modes, owners, sizes and times of everything in a tree, followed by the ids by which owners
/// are kept; and its bytes.
fn state_of(tree: &Path, ids: &str) -> io::Result<(String, u64)> {
    let (mut hash, mut size) = (Sha256::new(), 0);
    hash.update(ids);
    match fs_err::read(tree.with_file_name(OWNERS)) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        owners => hash.update(owners?),
    }
    add(tree, &mut hash, &mut size)?;
    Ok((format!("{} {ids}", Digest::finish(hash).hex()), size))
}

fn add(path: &Path, hash: &mut Sha256, size: &mut u64) -> io::Result<()> {
    let found = match fs_err::symlink_metadata(path) {
        // A layer may have directories into which their owner may not look.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
        found => found?,
    };
    let length = if found.is_dir() { 0 } else { found.len() };
    let (owner, changed) = ((found.uid(), found.gid()), (found.ctime(), found.ctime_nsec()));
    hash.update(format!("{:o} {owner:?} {length} {} {changed:?}\n", found.mode(), found.mtime()));
    *size += length;
    if !found.is_dir() {
        return Ok(());
    }
    let entries = match fs_err::read_dir(path) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(()),
        entries => entries?,
    };
    let mut names: Vec<_> = entries.map(|entry| Ok(entry?.file_name())).collect::<io::Result<_>>()?;
    names.sort();
    for name in names {
        hash.update(name.as_bytes());
        hash.update([0]);
        add(&path.join(name), hash, size)?;
    }
    hash.update([0]);
    Ok(())
}

/// Returns the bytes of the files in a directory.
pub(crate) fn tree_size(directory: &Path) -> Result<u64> {
    let mut size = 0;
    // A link in the place of a directory leads out of the store.
    if !fs_err::symlink_metadata(directory).is_ok_and(|found| found.is_dir()) {
        return Ok(0);
    }
    let entries = match fs_err::read_dir(directory) {
        // A layer may have directories into which their owner may not look.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => return Ok(0),
        entries => entries?,
    };
    for entry in entries {
        let entry = entry?;
        let found = entry.file_type()?;
        if found.is_dir() {
            size += tree_size(&entry.path())?;
        } else {
            size += entry.metadata()?.len();
        }
    }
    Ok(size)
}

#[cfg(test)]
mod tests {
    use super::*;

    const IDS: &str = "all";

    fn fill(tree: &Path) -> Result<()> {
        fs_err::create_dir(tree.join("usr"))?;
        fs_err::write(tree.join("usr/file"), "content")?;
        Ok(fs_err::set_permissions(tree.join("usr"), PermissionsExt::from_mode(0o555))?)
    }

    #[test]
    fn a_tree_is_found_again_until_something_in_it_changes() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let id = Digest::of(b"layer");
        assert_eq!(store.tree(&id, IDS).unwrap(), None);
        let tree = store.add_tree(&id, IDS, fill).unwrap();
        assert_eq!(store.tree(&id, IDS).unwrap().as_ref(), Some(&tree));
        assert_eq!(store.add_tree(&id, IDS, fill).unwrap(), tree);
        assert_eq!(store.tree(&id, "one").unwrap(), None);
        assert_eq!(store.add_tree(&id, IDS, fill).unwrap(), tree);
        assert!(store.verify(&|_| Ok(())).unwrap().removed.is_empty());
        fs_err::write(tree.join("usr/file"), "changed!").unwrap();
        assert_eq!(store.verify(&|_| Ok(())).unwrap().removed, [tree.parent().unwrap()]);
        assert_eq!(store.tree(&id, IDS).unwrap(), None);
        assert_eq!(store.add_tree(&id, IDS, fill).unwrap(), tree);
        fs_err::write(tree.join("usr/file"), "changed!").unwrap();
        assert_eq!(store.tree(&id, IDS).unwrap(), None);
        assert!(!tree.exists());
        assert_eq!(fs_err::read_dir(directory.path().join("temporary")).unwrap().count(), 0);
    }

    #[test]
    fn content_that_changed_is_noticed_though_its_size_and_time_are_as_before() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let id = Digest::of(b"layer");
        let file = store.add_tree(&id, IDS, fill).unwrap().join("usr/file");
        let time = fs_err::metadata(&file).unwrap().modified().unwrap();
        std::thread::sleep(std::time::Duration::from_millis(20));
        fs_err::write(&file, "CONTENT").unwrap();
        fs_err::OpenOptions::new().write(true).open(&file).unwrap().set_modified(time).unwrap();
        assert_eq!(fs_err::metadata(&file).unwrap().modified().unwrap(), time);
        assert_eq!(store.tree(&id, IDS).unwrap(), None);
    }

    #[test]
    fn a_tree_that_failed_leaves_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        let id = Digest::of(b"layer");
        let failed: Result<_> = store.add_tree(&id, IDS, |tree| {
            fill(tree)?;
            Err(StoreError::Missing(id))
        });
        assert!(matches!(failed, Err(StoreError::Missing(_))));
        assert_eq!(store.tree(&id, IDS).unwrap(), None);
        assert_eq!(fs_err::read_dir(directory.path().join("temporary")).unwrap().count(), 0);
    }

    #[test]
    fn garbage_collection_counts_and_removes_trees() {
        let directory = tempfile::tempdir().unwrap();
        let id = Digest::of(b"layer");
        let tree = {
            let store = Store::open(directory.path()).unwrap();
            let tree = store.add_tree(&id, IDS, fill).unwrap();
            let usage = store.usage().unwrap();
            assert_eq!((usage.trees, usage.tree_count), (7, 1));
            tree
        };
        let report = Store::collect_garbage(directory.path(), 1000, false, &mut || Ok(())).unwrap();
        assert!(report.removed.is_empty() && tree.exists());
        let report = Store::collect_garbage(directory.path(), 0, false, &mut || Ok(())).unwrap();
        assert_eq!((report.removed.len(), report.after), (1, 0));
        assert!(!tree.exists());
    }
}
