//! Files from elsewhere that become content of the store by a hard link: local wheels take no space twice.

use std::io::{self, Write};
use std::path::{Path, PathBuf};

use kiln_plan::digest::Digest;

use crate::temporary::{self, TemporaryDirectory};
use crate::verified::{Identity, digest_of, each_part, is_fresh};
use crate::{Result, Store, StoreError};

/// Is told of bytes as they are read; an error ends everything.
pub(crate) type Advance<'a> = &'a dyn Fn(u64) -> io::Result<()>;

impl Store {
    /// Takes a file from elsewhere by a hard link, or a copy where that is not possible, after checking its digest.
    pub fn link(&self, from: &Path, digest: &Digest, advance: Advance<'_>) -> Result<()> {
        let Some(linked) = self.link_unverified(from, digest, advance)? else { return Ok(()) };
        let found = digest_of(linked.open()?, advance)?;
        if found != *digest {
            return Err(StoreError::WrongDigest { expected: *digest, found });
        }
        linked.accept(self)
    }

    /// Links a file from elsewhere without trusting it yet: the caller hashes it, then accepts it. `None` where a link is
    /// not possible; the file has then been copied and checked, and is in the store.
    pub fn link_unverified(&self, from: &Path, digest: &Digest, advance: Advance<'_>) -> Result<Option<Linked>> {
        let directory = self.temporary_directory()?;
        let path = directory.path().join("linked");
        // A link to a symbolic link would leave the content outside.
        let from = fs_err::canonicalize(from)?;
        if fs_err::hard_link(&from, &path).is_err() {
            let mut writer = self.writer()?;
            each_part(fs_err::File::open(from)?, |part| {
                writer.write_all(part)?;
                advance(part.len() as u64)
            })?;
            writer.finish_as(digest)?;
            return Ok(None);
        }
        let before = Identity::of(&fs_err::metadata(&path)?);
        Ok(Some(Linked { digest: *digest, path, before, _directory: directory }))
    }
}

/// A file that was linked into the store and is not trusted yet. Dropped, it is gone.
#[derive(Debug)]
pub struct Linked {
    digest: Digest,
    path: PathBuf,
    before: Identity,
    _directory: TemporaryDirectory,
}

impl Linked {
    /// Opens the file.
    pub fn open(&self) -> Result<fs_err::File> {
        Ok(fs_err::File::open(&self.path)?)
    }

    /// Puts the file in its place: the caller has found that it has its digest. A file that was changed since it was linked
    /// is not accepted.
    pub fn accept(self, store: &Store) -> Result<()> {
        // Its owner wrote it, and may not have waited for the disk.
        let place = store.blob_path(&self.digest);
        temporary::rename(&self.open()?, &self.path, &place)?;
        let after = fs_err::metadata(&place)?;
        if !Identity::of(&after).has_content_of(&self.before) {
            fs_err::remove_file(&place)?;
            return Err(StoreError::Missing(self.digest));
        }
        if is_fresh(&after) {
            // Its times would not show the next change: it is read again when it is next used.
            store.renamed();
            return store.remember_item(&self.digest, "blob", after.len());
        }
        store.added_blob(&self.digest, &after)
    }
}
