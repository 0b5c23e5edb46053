//! Content by digest: whole files, or recipes that stand for them.

use std::fs::Metadata;
use std::io::{self, Read, Seek, SeekFrom, Write};
use std::path::PathBuf;

use kiln_plan::digest::Digest;
use sha2::{Digest as _, Sha256};

use crate::recipe::{Recipe, RecipeReader};
use crate::temporary::{TemporaryFile, persist};
use crate::verified::{Identity, digest_of};
use crate::{Result, Store, StoreError};

/// Bytes that content may have which is read whole: manifests and configs are kilobytes.
const WHOLE_LIMIT: u64 = 64 << 20;

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
    /// Returns an opener of content that is here.
    pub fn opener(&self, digest: &Digest) -> Result<Opener> {
        self.opened().insert(*digest);
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

    /// Whether this content is here and intact, as a file or as a recipe whose sources are all here.
    pub fn has(&self, digest: &Digest) -> bool {
        self.has_blob(digest)
            || (self.has_recipe(digest)
                && self.recipe(digest).is_ok_and(|recipe| recipe.sources.iter().all(|source| self.has_blob(source))))
    }

    /// Whether this content is here as a file that has not changed since it was read and found right. A file that is not
    /// what its digest says is removed.
    pub fn has_blob(&self, digest: &Digest) -> bool {
        let path = self.blob_path(digest);
        self.holds(&path, || self.verify_file(&path, digest))
    }

    fn has_recipe(&self, digest: &Digest) -> bool {
        self.holds(&self.recipe_path(digest), || self.verify_recipe(digest))
    }

    /// Opens content.
    pub fn open_content(&self, digest: &Digest) -> Result<Content> {
        Ok(self.opener(digest)?.open(0)?)
    }

    /// Opens content that is no recipe.
    pub fn open_blob(&self, digest: &Digest) -> Result<fs_err::File> {
        if !self.has_blob(digest) {
            return Err(StoreError::Missing(*digest));
        }
        self.opened().insert(*digest);
        Ok(fs_err::File::open(self.blob_path(digest))?)
    }

    /// Opens content that is no recipe, read through once by this process: for work whose result would not show that a bit
    /// of it was wrong.
    pub fn open_hashed(&self, digest: &Digest) -> Result<fs_err::File> {
        let file = self.open_blob(digest)?;
        if !self.has_hashed(digest) {
            if digest_of(&file, &|_| Ok(()))? != *digest {
                self.discard(&self.blob_path(digest))?;
                return Err(StoreError::Missing(*digest));
            }
            self.hashed().insert(*digest);
        }
        self.open_blob(digest)
    }

    /// Whether this process has hashed a blob, so that it need not be hashed while it is used.
    pub fn has_hashed(&self, digest: &Digest) -> bool {
        self.hashed().contains(digest)
    }

    /// Reads small content whole, at most 64 MiB, and checks its digest. Content of another digest is removed and missing.
    pub fn read(&self, digest: &Digest) -> Result<Vec<u8>> {
        let mut bytes = Vec::new();
        self.open_content(digest)?.take(WHOLE_LIMIT).read_to_end(&mut bytes)?;
        if Digest::of(&bytes) == *digest {
            return Ok(bytes);
        }
        self.discard_damaged()?;
        Err(StoreError::Missing(*digest))
    }

    /// Returns the size of content in bytes.
    pub fn size(&self, digest: &Digest) -> Result<u64> {
        if self.has_blob(digest) {
            return Ok(fs_err::metadata(self.blob_path(digest))?.len());
        }
        Ok(self.recipe(digest)?.size)
    }

    /// Stores some bytes. A file of that name with other content is replaced.
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
        let file = TemporaryFile::create(&self.temporary())?;
        Ok(BlobWriter { store: self, file, hasher: Sha256::new(), size: 0 })
    }

    /// Returns the file that some content, or its recipe, lies in.
    pub fn path_of(&self, digest: &Digest) -> Option<PathBuf> {
        [self.blob_path(digest), self.recipe_path(digest)].into_iter().find(|path| path.is_file())
    }

    /// Records a file that took its place among the blobs: its content has just been hashed.
    pub(crate) fn added_blob(&self, digest: &Digest, written: &Metadata) -> Result<()> {
        self.renamed();
        self.hashed().insert(*digest);
        // By its own name: the rename changed the time of its state.
        let found = fs_err::metadata(self.blob_path(digest))?;
        if Identity::of(&found).has_content_of(&Identity::of(written)) {
            self.remember_verified(&Identity::of(&found), digest)?;
        }
        self.remember_item(digest, "blob", found.len())
    }

    /// Returns the recipe of a spliced layer.
    pub fn recipe(&self, digest: &Digest) -> Result<Recipe> {
        Recipe::read(self, digest)
    }
}

/// Writes content to a temporary file and hashes it on the way.
#[derive(Debug)]
pub struct BlobWriter<'a> {
    store: &'a Store,
    file: TemporaryFile,
    hasher: Sha256,
    size: u64,
}

impl Write for BlobWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut file = self.file.file();
        let written = file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        self.size += written as u64;
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        let mut file = self.file.file();
        file.flush()
    }
}

impl BlobWriter<'_> {
    /// Puts the content in its place; its digest and size in bytes.
    pub fn finish(self) -> Result<(Digest, u64)> {
        let digest = Digest::finish(self.hasher);
        persist(self.file, &self.store.blob_path(&digest), |written| self.store.added_blob(&digest, written))?;
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
