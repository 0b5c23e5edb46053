//! Blob recipes: how a spliced layer is put together from byte ranges of wheels and a few bytes of its own.
//!
//! A recipe file is the layer's own bytes one after the other, then a JSON trailer (sources, segments, size), then the
//! trailer's length (u64, little-endian) and a magic number. The trailer stands last so that a recipe can be written
//! while the layer is being made, without holding any of it in memory.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use kiln_plan::digest::Digest;
use serde::{Deserialize, Serialize};

use crate::{Result, Store, StoreError, blob};

const MAGIC: &[u8; 8] = b"KILNRCP1";
/// Bytes a trailer may have: about two million segments.
const TRAILER_LIMIT: u64 = 64 << 20;

/// What a recipe consists of.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipe {
    /// Bytes of the content that it stands for.
    pub size: u64,
    /// The files that ranges are taken from.
    pub sources: Vec<Digest>,
    /// In order.
    pub segments: Vec<Segment>,
}

/// A part of the content.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Segment {
    /// So many bytes of the recipe's own, following those of the inline segment before.
    #[serde(rename = "i")]
    Inline(u64),
    /// Bytes of a source: its place in the list, offset and length.
    #[serde(rename = "r")]
    Range(usize, u64, u64),
}

impl Recipe {
    pub(crate) fn read(store: &Store, digest: &Digest) -> Result<Self> {
        let path = store.recipe_path(digest);
        let file = match fs_err::File::open(&path) {
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Err(StoreError::Missing(*digest)),
            file => file?,
        };
        Self::read_from(&file)?.ok_or(StoreError::DamagedRecipe(*digest))
    }

    /// The recipe that a file holds, if it holds one.
    pub(crate) fn read_from(file: &fs_err::File) -> io::Result<Option<Self>> {
        let length = file.metadata()?.len();
        let mut end = [0; 16];
        let Some(end_at) = length.checked_sub(16) else { return Ok(None) };
        file.file().read_exact_at(&mut end, end_at)?;
        let trailer = u64::from_le_bytes([end[0], end[1], end[2], end[3], end[4], end[5], end[6], end[7]]);
        let Some(inline) = end_at.checked_sub(trailer).filter(|_| trailer <= TRAILER_LIMIT) else { return Ok(None) };
        if end[8..] != *MAGIC {
            return Ok(None);
        }
        let mut json = vec![0; trailer as usize];
        file.file().read_exact_at(&mut json, inline)?;
        Ok(serde_json::from_slice::<Self>(&json).ok().filter(|recipe| recipe.is_consistent(inline)))
    }

    fn is_consistent(&self, inline: u64) -> bool {
        let (mut own, mut all) = (0u64, 0u64);
        for segment in &self.segments {
            let length = match *segment {
                Segment::Inline(length) => {
                    own = own.saturating_add(length);
                    length
                }
                Segment::Range(source, _, length) if source < self.sources.len() => length,
                Segment::Range(..) => return false,
            };
            all = all.saturating_add(length);
        }
        own == inline && all == self.size
    }
}

/// Writes a recipe while its content is being made.
#[derive(Debug)]
pub struct RecipeWriter<'a> {
    store: &'a Store,
    file: io::BufWriter<tempfile::NamedTempFile>,
    recipe: Recipe,
}

impl Store {
    /// Begins a recipe that takes ranges from these sources.
    pub fn recipe_writer(&self, sources: Vec<Digest>) -> Result<RecipeWriter<'_>> {
        let file = tempfile::NamedTempFile::new_in(self.root().join("temporary"))?;
        let recipe = Recipe { size: 0, sources, segments: Vec::new() };
        Ok(RecipeWriter { store: self, file: io::BufWriter::new(file), recipe })
    }
}

impl RecipeWriter<'_> {
    /// Adds bytes of the recipe's own.
    pub fn inline(&mut self, bytes: &[u8]) -> io::Result<()> {
        self.file.write_all(bytes)?;
        let length = bytes.len() as u64;
        self.recipe.size += length;
        if let Some(Segment::Inline(last)) = self.recipe.segments.last_mut() {
            *last += length;
        } else {
            self.recipe.segments.push(Segment::Inline(length));
        }
        Ok(())
    }

    /// Adds a range of a source.
    pub fn range(&mut self, source: usize, offset: u64, length: u64) {
        self.recipe.size += length;
        self.recipe.segments.push(Segment::Range(source, offset, length));
    }

    /// Bytes of content so far.
    pub fn size(&self) -> u64 {
        self.recipe.size
    }

    /// Puts the recipe in its place, for content of this digest.
    pub fn finish(mut self, digest: &Digest) -> Result<u64> {
        let trailer = serde_json::to_vec(&self.recipe)?;
        self.file.write_all(&trailer)?;
        self.file.write_all(&(trailer.len() as u64).to_le_bytes())?;
        self.file.write_all(MAGIC)?;
        let file = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        let path = self.store.recipe_path(digest);
        blob::persist(file, &path)?;
        self.store.remember_recipe(digest, fs_err::metadata(&path)?.len(), &self.recipe.sources)?;
        Ok(self.recipe.size)
    }
}

/// Reads the content that a recipe stands for.
#[derive(Debug)]
pub struct RecipeReader {
    recipe: Recipe,
    own: fs_err::File,
    sources: Vec<fs_err::File>,
    next: usize,
    left: u64,
    range: bool,
    source: usize,
}

impl RecipeReader {
    pub(crate) fn open(store: &Store, digest: &Digest) -> Result<Self> {
        let recipe = Recipe::read(store, digest)?;
        let sources = recipe.sources.iter().map(|source| store.open_blob(source)).collect::<Result<Vec<_>>>()?;
        let own = fs_err::File::open(store.recipe_path(digest))?;
        Ok(Self::new(recipe, own, sources))
    }

    pub(crate) fn new(recipe: Recipe, own: fs_err::File, sources: Vec<fs_err::File>) -> Self {
        Self { recipe, own, sources, next: 0, left: 0, range: false, source: 0 }
    }

    /// Passes over so many bytes without reading them.
    pub(crate) fn skip(&mut self, mut bytes: u64) -> io::Result<()> {
        while bytes > 0 && self.advance()? {
            let skipped = bytes.min(self.left);
            let by = i64::try_from(skipped).map_err(io::Error::other)?;
            self.current().seek(SeekFrom::Current(by))?;
            self.left -= skipped;
            bytes -= skipped;
        }
        Ok(())
    }

    /// Goes to the next segment that is not empty; false at the end.
    fn advance(&mut self) -> io::Result<bool> {
        while self.left == 0 {
            let Some(segment) = self.recipe.segments.get(self.next).copied() else { return Ok(false) };
            self.next += 1;
            match segment {
                Segment::Inline(length) => (self.range, self.left) = (false, length),
                Segment::Range(source, offset, length) => {
                    (self.range, self.left, self.source) = (true, length, source);
                    self.sources[source].seek(SeekFrom::Start(offset))?;
                }
            }
        }
        Ok(true)
    }

    fn current(&mut self) -> &mut fs_err::File {
        if self.range { &mut self.sources[self.source] } else { &mut self.own }
    }
}

impl Read for RecipeReader {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        if buffer.is_empty() || !self.advance()? {
            return Ok(0);
        }
        let limit = usize::try_from(self.left).unwrap_or(usize::MAX).min(buffer.len());
        let read = self.current().read(&mut buffer[..limit])?;
        if read == 0 {
            return Err(io::ErrorKind::UnexpectedEof.into());
        }
        self.left -= read as u64;
        Ok(read)
    }
}
