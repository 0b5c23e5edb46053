//! From files of wheels to a gzip layer, without recompressing what the wheels hold compressed already.
//!
//! A layer is a sequence of gzip members (RFC 1952, section 2.2), and a member is a header, a raw deflate stream, CRC-32
//! and size. So the member for a file's content can be the wheel's own bytes; only tar headers, padding and small files
//! are compressed here. What comes out is a recipe: nothing that a wheel holds is written again.
//!
//! Three digests are computed at once, each in a thread of its own: the caller plans members and writes the recipe, one
//! thread hashes the compressed layer, one hashes the tar, and the pool inflates ahead of the latter.

use std::collections::BTreeMap;
use std::fmt;
use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded};
use kiln_plan::digest::Digest;
use kiln_plan::event::Work;
use kiln_store::{RecipeWriter, Store};
use kiln_wheel::ReaderAt;
use kiln_wheel::archive::{Entry, Method};
use libdeflater::{CompressionLvl, Compressor};

use crate::error::OciError;
use crate::hash::{Sha256, update_both};
use crate::header;
use crate::inflate::{InflatePool, Inflated};
use crate::layer::{Body, Layer, LayerFile, MediaType};

/// Raised when the bytes of a spliced layer change for the same input: another threshold, batch, level or library.
pub const SPLICE_VERSION: u32 = 2;

/// Files below this many bytes share a member: below, a member and its inflate cost more than compressing again.
const SHARED_BELOW: u64 = 16 << 10;
/// Bytes of tar that one shared member holds at most, about.
const BATCH: usize = 1 << 20;
/// How hard to compress what is compressed here: less than 1% of a layer.
const LEVEL: i32 = 6;
/// Bytes that are read from a file at once.
const PART: usize = 128 << 10;
/// Pieces that wait for a hasher.
const WAITING: usize = 16;

const MEMBER_HEADER: [u8; 10] = [0x1f, 0x8b, 8, 0, 0, 0, 0, 0, 0, 0xff];

/// Content of files of a wheel that somebody has inflated already, by path: as many bytes as their entries say.
#[derive(Clone, Default)]
pub struct AtHand(pub BTreeMap<String, Arc<dyn ReaderAt + Send + Sync>>);

impl fmt::Debug for AtHand {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_set().entries(self.0.keys()).finish()
    }
}

/// A wheel that a layer takes content from.
#[derive(Debug, Clone)]
pub struct Source {
    /// Its file name, for messages.
    pub name: String,
    /// Its digest.
    pub digest: Digest,
    /// The file.
    pub file: Arc<fs_err::File>,
    /// Whether its digest is still to be checked: done on the way, at half the cost of doing it alone.
    pub unverified: bool,
    /// What need not be inflated again.
    pub at_hand: AtHand,
}

/// Makes a gzip layer of these files and stores its recipe.
pub fn splice(
    store: &Store,
    pool: &InflatePool,
    sources: &[Source],
    files: Vec<LayerFile>,
    work: &Work<'_>,
) -> Result<Layer, OciError> {
    let recipe = store.recipe_writer(sources.iter().map(|source| source.digest).collect())?;
    std::thread::scope(|scope| {
        let (blob, blob_pieces) = bounded(WAITING);
        let (tar, tar_pieces) = bounded(WAITING);
        let hash_blob = scope.spawn(move || hash_blob(&blob_pieces, sources));
        let hash_tar = scope.spawn(move || hash_tar(&tar_pieces, pool, sources, work));
        let compressor = Compressor::new(CompressionLvl::new(LEVEL).unwrap_or_default());
        let mut splicer = Splicer { pool, sources, recipe, compressor, blob, tar, pending: Vec::new() };
        let planned = files.iter().try_for_each(|file| splicer.file(file)).and_then(|()| splicer.end());
        // The hashers end when their channels close, with the splicer. What they found wrong comes first: the planner
        // only notices that they stopped listening.
        let recipe = splicer.recipe;
        drop((splicer.blob, splicer.tar));
        let (diff_id, digest) = (join(hash_tar)?, join(hash_blob)?);
        planned?;
        let size = recipe.finish(&digest)?;
        Ok(Layer { media_type: MediaType::Gzip, digest, diff_id, size, urls: Vec::new() })
    })
}

fn join<T>(thread: std::thread::ScopedJoinHandle<'_, Result<T, OciError>>) -> Result<T, OciError> {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// Part of the compressed layer.
enum BlobPiece {
    Bytes(Vec<u8>),
    Range(usize, u64, u64),
}

/// Part of the tar.
enum TarPiece {
    Bytes(Vec<u8>),
    Entry(usize, String, Receiver<Inflated>),
    AtHand(Arc<dyn ReaderAt + Send + Sync>, u64),
}

struct Splicer<'a> {
    pool: &'a InflatePool,
    sources: &'a [Source],
    recipe: RecipeWriter<'a>,
    compressor: Compressor,
    blob: Sender<BlobPiece>,
    tar: Sender<TarPiece>,
    /// Tar bytes that are not compressed yet.
    pending: Vec<u8>,
}

/// A hasher stopped listening; it says why itself.
fn gone<T>(_: crossbeam_channel::SendError<T>) -> OciError {
    OciError::Interrupted
}

impl Splicer<'_> {
    fn file(&mut self, file: &LayerFile) -> Result<(), OciError> {
        file.write_header(&mut self.pending)?;
        let size = file.body.size();
        match &file.body {
            Body::Directory | Body::Symlink(_) | Body::Whiteout => {}
            Body::File(_) => return Err(io::Error::other("a spliced layer holds no file of the project").into()),
            Body::Bytes(bytes) => self.small(bytes)?,
            Body::Entry(source, entry) if entry.method == Method::Stored => self.stored(*source, entry)?,
            Body::Entry(source, entry) if entry.size < SHARED_BELOW => {
                let content = self.small_entry(*source, entry)?;
                self.small(&content)?;
            }
            Body::Entry(source, entry) => self.large_entry(*source, entry)?,
        }
        self.pending.resize(self.pending.len() + header::padding(size), 0);
        Ok(())
    }

    fn end(&mut self) -> Result<(), OciError> {
        self.pending.extend_from_slice(&header::END);
        self.flush()
    }

    fn small(&mut self, bytes: &[u8]) -> Result<(), OciError> {
        self.pending.extend_from_slice(bytes);
        if self.pending.len() >= BATCH { self.flush() } else { Ok(()) }
    }

    /// Compresses what is pending into one member.
    fn flush(&mut self) -> Result<(), OciError> {
        let pending = std::mem::replace(&mut self.pending, Vec::with_capacity(BATCH / 4));
        let member = gzip_member(&mut self.compressor, &pending)?;
        self.recipe.inline(&member)?;
        self.blob.send(BlobPiece::Bytes(member)).map_err(gone)?;
        self.tar.send(TarPiece::Bytes(pending)).map_err(gone)
    }

    fn small_entry(&self, source: usize, entry: &Entry) -> Result<Vec<u8>, OciError> {
        let source = &self.sources[source];
        let wrong = |problem: &str| OciError::entry(&source.name, &entry.path, problem);
        // A deflate stream of less than 16 KiB of content is not longer than this, whatever compressed it.
        if entry.compressed > 4 * SHARED_BELOW {
            return Err(wrong("is stored in far more bytes than its content has"));
        }
        let mut stream = vec![0; entry.compressed as usize];
        source.file.file().read_exact_at(&mut stream, entry.offset)?;
        let mut content = vec![0; entry.size as usize];
        kiln_wheel::archive::inflate_exact(&stream, &mut content).map_err(wrong)?;
        if crc32fast::hash(&content) != entry.crc {
            return Err(wrong("does not have the content that its CRC-32 says"));
        }
        Ok(content)
    }

    /// A stored entry is compressed here, a batch at a time.
    fn stored(&mut self, source: usize, entry: &Entry) -> Result<(), OciError> {
        let source = &self.sources[source];
        let (mut crc, mut at) = (crc32fast::Hasher::new(), 0);
        while at < entry.size {
            let start = self.pending.len();
            let length = (entry.size - at).min(BATCH as u64) as usize;
            self.pending.resize(start + length, 0);
            source.file.file().read_exact_at(&mut self.pending[start..], entry.offset + at)?;
            crc.update(&self.pending[start..]);
            at += length as u64;
            if self.pending.len() >= BATCH {
                self.flush()?;
            }
        }
        if crc.finalize() != entry.crc {
            return Err(OciError::entry(&source.name, &entry.path, "does not have the content that its CRC-32 says"));
        }
        Ok(())
    }

    /// A large entry becomes a member of its own out of the wheel's bytes.
    fn large_entry(&mut self, source: usize, entry: &Entry) -> Result<(), OciError> {
        self.flush()?;
        let piece = match self.sources[source].at_hand.0.get(&entry.path) {
            Some(content) => TarPiece::AtHand(Arc::clone(content), entry.size),
            None => {
                let content = self.pool.content(Arc::clone(&self.sources[source].file), entry.clone());
                TarPiece::Entry(source, entry.path.clone(), content)
            }
        };
        self.tar.send(piece).map_err(gone)?;
        self.recipe.inline(&MEMBER_HEADER)?;
        self.recipe.range(source, entry.offset, entry.compressed);
        // ISIZE is the size modulo 2^32 (RFC 1952, section 2.3.1).
        let trailer = [entry.crc.to_le_bytes(), (entry.size as u32).to_le_bytes()].concat();
        self.recipe.inline(&trailer)?;
        self.blob.send(BlobPiece::Bytes(MEMBER_HEADER.to_vec())).map_err(gone)?;
        self.blob.send(BlobPiece::Range(source, entry.offset, entry.compressed)).map_err(gone)?;
        self.blob.send(BlobPiece::Bytes(trailer)).map_err(gone)
    }
}

/// One gzip member. libdeflate writes the same bytes on every machine, which zlib's descendants do not promise.
pub(crate) fn gzip_member(compressor: &mut Compressor, bytes: &[u8]) -> io::Result<Vec<u8>> {
    let mut member = vec![0; compressor.gzip_compress_bound(bytes.len())];
    let length = compressor.gzip_compress(bytes, &mut member).map_err(io::Error::other)?;
    member.truncate(length);
    Ok(member)
}

/// Hashes the compressed layer, and the wheel that it is made from where that is unverified.
fn hash_blob(pieces: &Receiver<BlobPiece>, sources: &[Source]) -> Result<Digest, OciError> {
    let mut blob = Sha256::new();
    let mut buffer = vec![0; PART];
    let mut wheels: Vec<Option<Sha256>> = sources.iter().map(|source| source.unverified.then(Sha256::new)).collect();
    for piece in pieces {
        match piece {
            BlobPiece::Bytes(bytes) => blob.update(&bytes),
            BlobPiece::Range(source, offset, length) => {
                let file = sources[source].file.file();
                match &mut wheels[source] {
                    // Entries stand in a file in the order of its directory, or were hashed with what lies between.
                    Some(wheel) if wheel.length() <= offset => {
                        let gap = offset - wheel.length();
                        each_part(file, wheel.length(), gap, &mut buffer, |bytes| wheel.update(bytes))?;
                        each_part(file, offset, length, &mut buffer, |bytes| update_both(&mut blob, wheel, bytes))?;
                    }
                    _ => each_part(file, offset, length, &mut buffer, |bytes| blob.update(bytes))?,
                }
            }
        }
    }
    for (source, wheel) in sources.iter().zip(wheels) {
        let Some(mut wheel) = wheel else { continue };
        let file = source.file.file();
        let rest = file.metadata()?.len().saturating_sub(wheel.length());
        each_part(file, wheel.length(), rest, &mut buffer, |bytes| wheel.update(bytes))?;
        let found = wheel.finish();
        if found != source.digest {
            let (wheel, expected) = (source.name.clone(), source.digest);
            return Err(OciError::WrongWheel { wheel, expected, found });
        }
    }
    Ok(blob.finish())
}

/// Reads a range of a file and gives it away part by part.
fn each_part(
    file: &impl FileExt,
    mut offset: u64,
    mut left: u64,
    buffer: &mut [u8],
    mut take: impl FnMut(&[u8]),
) -> io::Result<()> {
    while left > 0 {
        let length = left.min(buffer.len() as u64) as usize;
        file.read_exact_at(&mut buffer[..length], offset)?;
        take(&buffer[..length]);
        offset += length as u64;
        left -= length as u64;
    }
    Ok(())
}

fn hash_tar(
    pieces: &Receiver<TarPiece>,
    pool: &InflatePool,
    sources: &[Source],
    work: &Work<'_>,
) -> Result<Digest, OciError> {
    let mut hasher = Sha256::new();
    let mut buffer = vec![0; PART];
    for piece in pieces {
        match piece {
            TarPiece::Bytes(bytes) => {
                hasher.update(&bytes);
                work.advance(bytes.len() as u64)?;
            }
            TarPiece::Entry(source, path, content) => {
                for chunk in content {
                    let chunk = chunk.map_err(|problem| problem.of(&sources[source].name, &path))?;
                    hasher.update(chunk.bytes());
                    work.advance(chunk.bytes().len() as u64)?;
                    pool.recycle(chunk);
                }
            }
            TarPiece::AtHand(content, size) => {
                let mut at = 0;
                while at < size {
                    let part = &mut buffer[..(size - at).min(PART as u64) as usize];
                    content.read_exact_at(part, at)?;
                    hasher.update(part);
                    work.advance(part.len() as u64)?;
                    at += part.len() as u64;
                }
            }
        }
    }
    Ok(hasher.finish())
}
