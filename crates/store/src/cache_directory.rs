//! Cache directories: content that commands leave for the next time, such as downloads. It is no part of any result.
//!
//! `caches/sha256/<hex>` holds `content` by the digest of whom it belongs to. Only this user may look into it: commands may leave programs
//! there that run as their owner.

use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

use kiln_plan::digest::Digest;

use crate::lock::{Lock, Wait};
use crate::removal::remove_tree;
use crate::tree::tree_size;
use crate::{Result, Store};

pub(crate) const CACHES: &str = "caches/sha256";
/// The kind of a cache directory in the database.
pub(crate) const KIND: &str = "cache";

/// A cache directory, which no other process has until the value is dropped.
#[derive(Debug)]
pub struct CacheDirectory {
    content: PathBuf,
    _lock: Lock,
}

impl Store {
    /// Returns the cache directory of an owner. Where another process has it, this one waits, and calls `wait` meanwhile; or, with
    /// `is_private`, it takes another one, which is the first that is free.
    pub fn cache_directory(&self, owner: &Digest, is_private: bool, wait: Wait<'_>) -> Result<CacheDirectory> {
        if !is_private {
            return self.open_cache(owner, self.wait_for(owner, wait)?);
        }
        let mut number = 0_u32;
        loop {
            let own = if number == 0 { *owner } else { Digest::of(format!("{} {number}", owner.hex()).as_bytes()) };
            match self.try_lock(&lock_name(&own))? {
                Some(lock) => return self.open_cache(&own, lock),
                None => number += 1,
            }
        }
    }

    fn wait_for(&self, owner: &Digest, wait: Wait<'_>) -> Result<Lock> {
        Lock::exclusive(&self.root().join("locks").join(lock_name(owner)), wait)
    }

    fn open_cache(&self, owner: &Digest, lock: Lock) -> Result<CacheDirectory> {
        let place = self.cache_path(owner);
        let content = place.join("content");
        fs_err::create_dir_all(&content)?;
        fs_err::set_permissions(&place, std::fs::Permissions::from_mode(0o700))?;
        self.remember_item(owner, KIND, 0)?;
        Ok(CacheDirectory { content, _lock: lock })
    }

    pub(crate) fn cache_path(&self, owner: &Digest) -> PathBuf {
        self.root().join(CACHES).join(owner.hex())
    }
}

impl CacheDirectory {
    /// Returns its absolute path.
    pub fn content(&self) -> &Path {
        &self.content
    }

    /// Empties it if it has more than so many bytes, and returns their number then.
    pub fn bound(&self, most: u64) -> Result<Option<u64>> {
        let size = tree_size(&self.content)?;
        if size <= most {
            return Ok(None);
        }
        remove_tree(&self.content)?;
        fs_err::create_dir(&self.content)?;
        Ok(Some(size))
    }
}

fn lock_name(owner: &Digest) -> String {
    format!("cache-{}", owner.hex())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn store() -> (tempfile::TempDir, Store) {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(directory.path()).unwrap();
        (directory, store)
    }

    #[test]
    fn content_stays_until_it_is_too_large() {
        let (_directory, store) = store();
        let owner = Digest::of(b"an image");
        let open = || store.cache_directory(&owner, false, &mut || Ok(())).unwrap();
        fs_err::write(open().content().join("a"), "12345").unwrap();
        assert_eq!(open().bound(5).unwrap(), None);
        assert_eq!(fs_err::read(open().content().join("a")).unwrap(), b"12345");
        assert_eq!(open().bound(4).unwrap(), Some(5));
        assert!(!open().content().join("a").exists());
    }

    #[test]
    fn owners_have_directories_of_their_own_and_a_private_one_is_for_one_command_at_a_time() {
        let (_directory, store) = store();
        let (a, b) = (Digest::of(b"a"), Digest::of(b"b"));
        let private = |owner| store.cache_directory(owner, true, &mut || Ok(())).unwrap();
        let (first, second, other) = (private(&a), private(&a), private(&b));
        let first_path = first.content().to_owned();
        assert_ne!(first_path, second.content());
        assert_ne!(first_path, other.content());
        drop(first);
        assert_eq!(private(&a).content(), first_path);
    }

    #[test]
    fn gc_removes_cache_directories_and_usage_counts_them() {
        let (directory, store) = store();
        let owner = Digest::of(b"an image");
        let cache = store.cache_directory(&owner, false, &mut || Ok(())).unwrap();
        fs_err::write(cache.content().join("a"), "12345").unwrap();
        let usage = store.usage().unwrap();
        assert_eq!((usage.caches, usage.cache_count), (5, 1));
        drop((cache, store));
        let report = Store::collect_garbage(directory.path(), 0, false, &mut || Ok(())).unwrap();
        assert_eq!(report.removed.len(), 1);
        assert!(report.removed[0].reason.starts_with("a cache of commands"), "{}", report.removed[0].reason);
        assert_eq!(Store::open(directory.path()).unwrap().usage().unwrap().cache_count, 0);
    }
}
