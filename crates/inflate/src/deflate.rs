//! One deflate stream (RFC 1951) for the new content of a file, on all cores, in which whatever the file's old stream has
//! compressed already is taken over as it is.
//!
//! Cutting a library leaves most of what remains as it was, in runs of many kilobytes, and compressing that anew took
//! nearly as long as everything else that building an image does. A block of the old stream depends on nothing but the
//! window before it: if both are kept, its bits can be copied, to any other bit. Of what torch 2.11 and NVIDIA's libraries
//! keep for one GPU these are 93%. Content that the old stream stores stays stored. The rest is compressed by libdeflate, piece by piece; its streams end
//! with a block that says so, of which decoding tells where it begins, so that the mark can be taken away. zlib-rs would
//! do without, but what it writes depends on the processor.
//!
//! The content is cut into pieces of about equal size, each of which ends at a byte, with an empty stored block if need be
//! (RFC 1951, section 3.2.4). So they follow one another as one stream, and how many threads there are does not change
//! the bytes. Every piece is decoded once it is made, which proves it right, whatever the old stream was.

mod parts;
mod stream;
#[cfg(test)]
mod tests;

use std::io::{self, Write};
use std::sync::mpsc::{SyncSender, sync_channel};

use libdeflater::{CompressionLvl, Compressor};
use rawzip::ReaderAt;
use sha2::{Digest as _, Sha256};

use crate::decode::{Blocks, Inflate, WINDOW, last_block};
use parts::{Means, Part, parts};
use stream::Stream;

/// Raised when the same content would be compressed to other bytes.
pub const DEFLATE_VERSION: u32 = 2;

/// Bytes of content that are compressed at once, about.
const PIECE: u64 = 1 << 20;
/// zlib's own default: three levels below a quarter of the time is saved, and GPU code is 2% larger.
const LEVEL: i32 = 6;
/// A last block that is empty, in the fixed code: 3 bits of header, 7 for its end, padding.
const END: [u8; 2] = [3, 0];
/// Pieces that wait, for each thread.
const WAITING: usize = 2;

/// Bytes that a file's new content shares with its old one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Kept {
    /// Where they begin in the old content.
    pub from: u64,
    /// Where they begin in the new content.
    pub to: u64,
    /// How many there are.
    pub bytes: u64,
}

/// The new content of a file.
#[derive(Debug, Clone)]
pub struct Replacement<'a, C> {
    /// The content.
    pub content: C,
    /// Its bytes.
    pub size: u64,
    /// What it shares with the old content, in its own order.
    pub kept: Vec<Kept>,
    /// The blocks of the old stream; none where they are not known.
    pub blocks: &'a Blocks,
}

/// The place of a file's old stream.
#[derive(Debug, Clone, Copy)]
pub struct Old<'a, R> {
    /// The archive that holds it.
    pub reader: &'a R,
    /// The position in the archive at which it begins.
    pub offset: u64,
}

/// The sums of some content that was compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summed {
    /// Its CRC-32.
    pub crc: u32,
    /// Its bytes.
    pub size: u64,
    /// Its SHA-256, as 32 bytes.
    pub sha256: Vec<u8>,
}

/// Compresses a file's new content. `advance` is told of content as it is compressed and may end it.
pub fn deflate<C: ReaderAt + Sync, R: ReaderAt + Sync>(
    new: &Replacement<'_, C>,
    old: &Old<'_, R>,
    out: &mut impl Write,
    threads: usize,
    advance: &dyn Fn(u64) -> io::Result<()>,
) -> io::Result<Summed> {
    let parts = parts(new.size, &new.kept, new.blocks);
    let pieces = pieces(&parts);
    let threads = threads.clamp(1, pieces.len().max(1));
    std::thread::scope(|scope| {
        let hash = scope.spawn(|| sha256(new));
        // A thread's pieces come in a channel of its own, so that taking from all of them in turn keeps the order.
        let mut channels = Vec::new();
        for thread in 0..threads {
            let (sender, receiver) = sync_channel(WAITING);
            channels.push(receiver);
            let own = pieces.iter().skip(thread).step_by(threads);
            scope.spawn(move || Maker::new(&new.content, old).send(own, &sender));
        }
        let mut crc = crc32fast::Hasher::new();
        for (_, channel) in pieces.iter().zip(channels.iter().cycle()) {
            let (bytes, sum, content) =
                channel.recv().map_err(|_| io::Error::other("a compressing thread has ended"))??;
            out.write_all(&bytes)?;
            advance(content)?;
            crc.combine(&sum);
        }
        out.write_all(&END)?;
        let sha256 = hash.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(Summed { crc: crc.finalize(), size: new.size, sha256 })
    })
}

/// Parts in groups of at most [`PIECE`] bytes.
fn pieces(parts: &[Part]) -> Vec<&[Part]> {
    let (mut pieces, mut first) = (Vec::new(), 0);
    for (at, part) in parts.iter().enumerate() {
        if part.content.end - parts[first].content.start > PIECE {
            pieces.push(&parts[first..at]);
            first = at;
        }
    }
    pieces.extend(parts.get(first..).filter(|rest| !rest.is_empty()));
    pieces
}

/// Compressed bytes of a piece, its CRC-32 and its size.
type Piece = (Vec<u8>, crc32fast::Hasher, u64);

/// What a thread makes pieces with.
struct Maker<'a, C, R> {
    content: &'a C,
    old: &'a Old<'a, R>,
    compressor: Compressor,
    inflate: Inflate,
    /// The content of the piece behind the window before it.
    window: Vec<u8>,
    inflated: Vec<u8>,
    taken: Vec<u8>,
}

impl<'a, C: ReaderAt, R: ReaderAt> Maker<'a, C, R> {
    fn new(content: &'a C, old: &'a Old<'a, R>) -> Self {
        let compressor = Compressor::new(CompressionLvl::new(LEVEL).unwrap_or_default());
        let (window, inflated, taken) = (Vec::new(), Vec::new(), Vec::new());
        Self { content, old, compressor, inflate: Inflate::new(), window, inflated, taken }
    }

    fn send<'p>(mut self, pieces: impl Iterator<Item = &'p &'p [Part]>, out: &SyncSender<io::Result<Piece>>) {
        for piece in pieces {
            let done = self.make(piece);
            // Whoever takes the pieces may have given up.
            if out.send(done).is_err() {
                return;
            }
        }
    }

    fn make(&mut self, parts: &[Part]) -> io::Result<Piece> {
        let (Some(first), Some(last)) = (parts.first(), parts.last()) else { return Ok(Piece::default()) };
        let begin = first.content.start.saturating_sub(WINDOW as u64);
        let behind = (first.content.start - begin) as usize;
        self.window.resize((last.content.end - begin) as usize, 0);
        self.content.read_exact_at(&mut self.window, begin)?;
        let mut stream = Stream::default();
        for part in parts {
            let within = (part.content.start - begin) as usize..(part.content.end - begin) as usize;
            match &part.means {
                Means::Taken(bits) => {
                    let from = bits.start / 8;
                    self.taken.resize((bits.end.div_ceil(8) - from) as usize, 0);
                    self.old.reader.read_exact_at(&mut self.taken, self.old.offset + from)?;
                    stream.bits(&self.taken, (bits.start - from * 8) as usize, (bits.end - from * 8) as usize);
                }
                Means::Stored => stream.stored(&self.window[within]),
                Means::Compressed => self.compress(within, &mut stream)?,
            }
        }
        stream.align();
        self.prove(&stream.bytes, behind)?;
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.window[behind..]);
        Ok((stream.bytes, crc, (self.window.len() - behind) as u64))
    }

    fn compress(&mut self, within: std::ops::Range<usize>, stream: &mut Stream) -> io::Result<()> {
        let content = &self.window[within];
        let mut bytes = vec![0; self.compressor.deflate_compress_bound(content.len())];
        let written = self.compressor.deflate_compress(content, &mut bytes).map_err(io::Error::other)?;
        bytes.truncate(written);
        let wrong = || io::Error::other("libdeflate did not write what it was given");
        let (header, end) = last_block(&bytes, content, &mut self.inflate, &mut self.inflated).ok_or_else(wrong)?;
        bytes[header / 8] &= !(1 << (header % 8));
        // Where it stores something, that lies at a byte.
        stream.align();
        stream.bits(&bytes, 0, end);
        Ok(())
    }

    /// Decodes a piece behind the window before it.
    fn prove(&mut self, piece: &[u8], behind: usize) -> io::Result<()> {
        // Room for one byte more, so that the end of the piece is come to.
        self.inflated.resize(self.window.len() + 1, 0);
        self.inflated[..behind].copy_from_slice(&self.window[..behind]);
        self.inflate.reset_behind(behind);
        let done = self.inflate.decode(piece, &mut self.inflated, behind);
        let same = |written: usize| self.inflated.get(behind..behind + written) == self.window.get(behind..);
        match done {
            Ok(done) if done.read == piece.len() && self.inflate.is_between_blocks() && same(done.written) => Ok(()),
            _ => Err(io::Error::other("compressed content is not what it was made of")),
        }
    }
}

fn sha256<C: ReaderAt>(new: &Replacement<'_, C>) -> io::Result<Vec<u8>> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0;
    while at < new.size {
        let most = (new.size - at).min(buffer.len() as u64) as usize;
        new.content.read_exact_at(&mut buffer[..most], at)?;
        hash.update(&buffer[..most]);
        at += most as u64;
    }
    Ok(hash.finalize().to_vec())
}
