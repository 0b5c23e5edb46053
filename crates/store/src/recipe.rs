//! Blob recipes: how a spliced layer is put together from byte ranges of wheels and a few bytes of its own.
//!
//! A recipe file is the layer's own bytes one after the other, then a JSON trailer (sources, segments, size), then the
//! SHA-256 of both, the trailer's length (u64, little-endian) and a magic number. The trailer stands last so that a recipe
//! can be written while the layer is being made, without holding any of it in memory.

use std::io::{self, Read, Seek, SeekFrom, Write};
use std::os::unix::fs::FileExt;

use kiln_plan::digest::Digest;
use serde::{Deserialize, Serialize};
use sha2::{Digest as _, Sha256};

use crate::temporary::{TemporaryFile, persist};
use crate::verified::Identity;
use crate::{Result, Store, StoreError};

const MAGIC: &[u8; 8] = b"KILNRCP2";
/// Bytes behind the trailer: checksum, length, magic number.
const END: usize = 48;
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
        let Some(end) = End::read(file)? else { return Ok(None) };
        let mut json = vec![0; end.trailer as usize];
        file.file().read_exact_at(&mut json, end.inline)?;
        Ok(serde_json::from_slice::<Self>(&json).ok().filter(|recipe| recipe.is_consistent(end.inline)))
    }

    /// Returns true if a recipe file is as it was written. Its sources are not read.
    pub(crate) fn is_intact(file: &fs_err::File) -> io::Result<bool> {
        let Some(end) = End::read(file)? else { return Ok(false) };
        let (mut hasher, mut at, mut buffer) = (Sha256::new(), 0, vec![0; 256 << 10]);
        let length = end.inline + end.trailer;
        while at < length {
            let part = &mut buffer[..(length - at).min(256 << 10) as usize];
            file.file().read_exact_at(part, at)?;
            hasher.update(&*part);
            at += part.len() as u64;
        }
        Ok(hasher.finalize()[..] == end.sum)
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

/// The last bytes of a recipe file.
struct End {
    /// SHA-256 of everything before.
    sum: [u8; 32],
    /// Bytes of the trailer.
    trailer: u64,
    /// Bytes before the trailer.
    inline: u64,
}

impl End {
    /// Reads the end of a file; `None` if the file is no recipe.
    fn read(file: &fs_err::File) -> io::Result<Option<Self>> {
        let Some(end_at) = file.metadata()?.len().checked_sub(END as u64) else { return Ok(None) };
        let mut end = [0; END];
        file.file().read_exact_at(&mut end, end_at)?;
        let (mut sum, mut trailer) = ([0; 32], [0; 8]);
        sum.copy_from_slice(&end[..32]);
        trailer.copy_from_slice(&end[32..40]);
        let trailer = u64::from_le_bytes(trailer);
        let inline = end_at.checked_sub(trailer).filter(|_| trailer <= TRAILER_LIMIT && end[40..] == *MAGIC);
        Ok(inline.map(|inline| Self { sum, trailer, inline }))
    }
}

/// Writes a recipe while its content is being made.
#[derive(Debug)]
pub struct RecipeWriter<'a> {
    store: &'a Store,
    file: io::BufWriter<Summed>,
    recipe: Recipe,
}

impl Store {
    /// Returns true if a recipe file is what was written for this digest.
    pub(crate) fn verify_recipe(&self, digest: &Digest) -> Result<bool> {
        self.verify_with(&self.recipe_path(digest), digest, Recipe::is_intact)
    }

    /// Begins a recipe that takes ranges from these sources.
    pub fn recipe_writer(&self, sources: Vec<Digest>) -> Result<RecipeWriter<'_>> {
        let file = Summed { file: TemporaryFile::create(&self.temporary())?, hasher: Sha256::new() };
        let recipe = Recipe { size: 0, sources, segments: Vec::new() };
        Ok(RecipeWriter { store: self, file: io::BufWriter::new(file), recipe })
    }
}

/// A file that is hashed as it is written.
#[derive(Debug)]
struct Summed {
    file: TemporaryFile,
    hasher: Sha256,
}

impl Write for Summed {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let mut file = self.file.file();
        let written = file.write(bytes)?;
        self.hasher.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
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
        let Summed { file, hasher } = self.file.into_inner().map_err(io::IntoInnerError::into_error)?;
        let end = [&hasher.finalize()[..], &(trailer.len() as u64).to_le_bytes(), MAGIC].concat();
        let mut out = file.file();
        out.write_all(&end)?;
        let store = self.store;
        persist(file, &store.recipe_path(digest), |_| store.added_recipe(digest))?;
        Ok(self.recipe.size)
    }
}

impl Store {
    fn added_recipe(&self, digest: &Digest) -> Result<()> {
        self.renamed();
        let found = fs_err::metadata(self.recipe_path(digest))?;
        self.remember_verified(&Identity::of(&found), digest)?;
        self.remember_item(digest, "recipe", found.len())
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
