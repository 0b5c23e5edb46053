//! Content by digest: whole files, or recipes that stand for them.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use kiln_plan::digest::Digest;
use sha2::{Digest as _, Sha256};

use crate::recipe::{Recipe, RecipeReader};
use crate::{Result, Store, StoreError};

/// Content of the store, opened for reading.
#[derive(Debug)]
pub enum Content {
    /// A file.
    File(fs_err::File),
    /// A recipe.
    Recipe(RecipeReader),
}

impl Read for Content {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        match self {
            Self::File(file) => file.read(buffer),
            Self::Recipe(reader) => reader.read(buffer),
        }
    }
}

/// Opens some content of the store, from any byte on, as often as one likes and from any thread.
#[derive(Debug, Clone)]
pub struct Opener {
    content: PathBuf,
    /// Where the sources of a recipe are; nothing for a file.
    sources: Option<Vec<PathBuf>>,
}

impl Opener {
    /// Opens the content from some byte on.
    pub fn open(&self, from: u64) -> io::Result<Content> {
        let own = fs_err::File::open(&self.content)?;
        let Some(sources) = &self.sources else {
            let mut file = own;
            file.seek(SeekFrom::Start(from))?;
            return Ok(Content::File(file));
        };
        let damaged = || io::Error::new(io::ErrorKind::InvalidData, format!("{} is damaged", self.content.display()));
        let recipe = Recipe::read_from(&own)?.ok_or_else(damaged)?;
        let sources = sources.iter().map(fs_err::File::open).collect::<io::Result<Vec<_>>>()?;
        let mut reader = RecipeReader::new(recipe, own, sources);
        reader.skip(from)?;
        Ok(Content::Recipe(reader))
    }
}

impl Store {
    /// What opens some content that is here.
    pub fn opener(&self, digest: &Digest) -> Result<Opener> {
        if self.has_blob(digest) {
            return Ok(Opener { content: self.blob_path(digest), sources: None });
        }
        let recipe = self.recipe(digest)?;
        if let Some(missing) = recipe.sources.iter().find(|source| !self.has_blob(source)) {
            return Err(StoreError::Missing(*missing));
        }
        let sources = recipe.sources.iter().map(|source| self.blob_path(source)).collect();
        Ok(Opener { content: self.recipe_path(digest), sources: Some(sources) })
    }

    /// Whether this content is here, as a file or as a recipe whose sources are all here.
    pub fn has(&self, digest: &Digest) -> bool {
        self.has_blob(digest) || self.recipe(digest).is_ok_and(|recipe| recipe.sources.iter().all(|s| self.has_blob(s)))
    }

    /// Whether this content is here as a file that has not been touched since it was checked.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        let Ok(found) = fs_err::metadata(self.blob_path(digest)) else { return false };
        match self.linked(digest) {
            Ok(Some((size, modified))) => found.size() == size && modified_ns(&found) == modified,
            Ok(None) => true,
            Err(_) => false,
        }
    }

    /// Opens content.
    pub fn open_content(&self, digest: &Digest) -> Result<Content> {
        if self.has_blob(digest) {
            return Ok(Content::File(fs_err::File::open(self.blob_path(digest))?));
        }
        Ok(Content::Recipe(RecipeReader::open(self, digest)?))
    }

    /// The file of some content that is not a recipe.
    pub fn open_blob(&self, digest: &Digest) -> Result<fs_err::File> {
        if !self.has_blob(digest) {
            return Err(StoreError::Missing(*digest));
        }
        Ok(fs_err::File::open(self.blob_path(digest))?)
    }

    /// Reads small content whole, checking its digest. At most 64 MiB: manifests and configs are kilobytes.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_content(digest)?.take(64 << 20).read_to_end(&mut bytes)?;
        let found = Digest::of(&bytes);
        if found == *digest { Ok(bytes) } else { Err(StoreError::WrongDigest { expected: *digest, found }) }
    }

    /// The size of some content in bytes.
    pub fn size(&self, digest: &Digest) -> Result<u64> {
        if self.has_blob(digest) {
            return Ok(fs_err::metadata(self.blob_path(digest))?.len());
        }
        Ok(self.recipe(digest)?.size)
    }

    /// Stores some bytes.
    pub fn add(&self, bytes: &[u8]) -> Result<Digest> {
        let digest = Digest::of(bytes);
        if !self.has_blob(&digest) {
            let mut writer = self.writer()?;
            writer.write_all(bytes)?;
            writer.finish()?;
        }
        Ok(digest)
    }

    /// Begins to write content whose digest is not known yet.
    pub fn writer(&self) -> Result<BlobWriter<'_>> {
        let file = tempfile::NamedTempFile::new_in(self.root().join("temporary"))?;
        Ok(BlobWriter { store: self, file, hasher: Sha256::new(), size: 0 })
    }

    /// Takes a complete file of the store's own `partial` directory that is known to have this digest.
    pub fn adopt_partial(&self, digest: &Digest) -> Result<()> {
        let partial = self.partial(digest);
        let file = fs_err::File::open(&partial)?;
        file.sync_all()?;
        let permissions = std::os::unix::fs::PermissionsExt::from_mode(0o644);
        fs_err::set_permissions(&partial, permissions)?;
        fs_err::rename(&partial, self.blob_path(digest))?;
        self.remember_blob(digest, file.metadata()?.len())
    }

    /// Takes a file from elsewhere by a hard link, or a copy where that is not possible, after checking its digest.
    /// `advance` is told of bytes as they are read.
    pub fn link(&self, from: &Path, digest: &Digest, advance: &dyn Fn(u64) -> io::Result<()>) -> Result<()> {
        let Some(linked) = self.link_unverified(from, digest, advance)? else { return Ok(()) };
        let found = hash_file(linked.open()?, advance)?;
        if found != *digest {
            return Err(StoreError::WrongDigest { expected: *digest, found });
        }
        linked.accept()
    }

    /// Links a file from elsewhere without trusting it yet: the caller hashes it, then accepts it. Nothing where a link
    /// is not possible; the file has then been copied and checked, and is in the store.
    pub fn link_unverified(
        &self,
        from: &Path,
        digest: &Digest,
        advance: &dyn Fn(u64) -> io::Result<()>,
    ) -> Result<Option<Linked<'_>>> {
        let directory = self.temporary_directory()?;
        let path = directory.path().join("linked");
        // A link to a symbolic link would leave the content outside.
        let from = fs_err::canonicalize(from)?;
        if fs_err::hard_link(&from, &path).is_err() {
            self.copy_in(fs_err::File::open(from)?, digest, advance)?;
            return Ok(None);
        }
        let found = fs_err::metadata(&path)?;
        let (size, modified) = (found.size(), modified_ns(&found));
        Ok(Some(Linked { store: self, digest: *digest, path, size, modified, _directory: directory }))
    }

    fn copy_in(
        &self,
        mut source: fs_err::File,
        digest: &Digest,
        advance: &dyn Fn(u64) -> io::Result<()>,
    ) -> Result<()> {
        let mut writer = self.writer()?;
        let mut buffer = vec![0; 256 << 10];
        loop {
            let read = source.read(&mut buffer)?;
            if read == 0 {
                break;
            }
            writer.write_all(&buffer[..read])?;
            advance(read as u64)?;
        }
        writer.finish_as(digest)
    }
}

fn modified_ns(metadata: &std::fs::Metadata) -> i64 {
    metadata.mtime().saturating_mul(1_000_000_000).saturating_add(metadata.mtime_nsec())
}

fn hash_file(mut file: fs_err::File, advance: &dyn Fn(u64) -> io::Result<()>) -> Result<Digest> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    loop {
        let read = file.read(&mut buffer)?;
        if read == 0 {
            return Ok(Digest::finish(hasher));
        }
        hasher.update(&buffer[..read]);
        advance(read as u64)?;
    }
}

/// A file that was linked into the store and that nobody trusts yet. Dropped, it is gone.
#[derive(Debug)]
pub struct Linked<'a> {
    store: &'a Store,
    digest: Digest,
    path: PathBuf,
    size: u64,
    modified: i64,
    _directory: tempfile::TempDir,
}

impl Linked<'_> {
    /// Opens the file.
    pub fn open(&self) -> Result<fs_err::File> {
        Ok(fs_err::File::open(&self.path)?)
    }

    /// Puts the file in its place: the caller has found that it has its digest. What was changed since it was linked is
    /// not accepted.
    pub fn accept(self) -> Result<()> {
        let now = fs_err::metadata(&self.path)?;
        if (now.size(), modified_ns(&now)) != (self.size, self.modified) {
            return Err(StoreError::Missing(self.digest));
        }
        self.store.remember_link(&self.digest, self.size, self.modified)?;
        fs_err::rename(&self.path, self.store.blob_path(&self.digest))?;
        self.store.remember_blob(&self.digest, self.size)
    }
}

/// Writes content to a temporary file and hashes it on the way.
#[derive(Debug)]
pub struct BlobWriter<'a> {
    store: &'a Store,
    file: tempfile::NamedTempFile,
    hasher: Sha256,
    size: u64,
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = self.file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

impl BlobWriter<'_> {
    /// Puts the content in its place; its digest and size in bytes.
    pub fn finish(self) -> Result<(Digest, u64)> {
        let digest = Digest::finish(self.hasher);
        persist(self.file, &self.store.blob_path(&digest))?;
        self.store.remember_blob(&digest, self.size)?;
        Ok((digest, self.size))
    }

    /// Puts the content in its place if it has this digest.
    pub fn finish_as(self, expected: &Digest) -> Result<()> {
        let found = Digest::finish(self.hasher.clone());
        if found != *expected {
            return Err(StoreError::WrongDigest { expected: *expected, found });
        }
        self.finish().map(|_| ())
    }
}

/// Syncs a temporary file and gives it its name. Its mode does not depend on the umask.
pub(crate) fn persist(file: tempfile::NamedTempFile, path: &Path) -> Result<()> {
    use std::os::unix::fs::PermissionsExt;
    file.as_file().set_permissions(PermissionsExt::from_mode(0o644))?;
    file.as_file().sync_all()?;
    file.persist(path).map_err(|error| error.error)?;
    Ok(())
}

impl Store {
    /// The recipe of a spliced layer.
    pub fn recipe(&self, digest: &Digest) -> Result<Recipe> {
        Recipe::read(self, digest)
    }
}
