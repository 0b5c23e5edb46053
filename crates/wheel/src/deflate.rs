//! Compressing a large file on all cores into one deflate stream (RFC 1951).
//!
//! The file is cut into pieces of equal size, each of which libdeflate compresses by itself. A stream of its own ends with
//! a block that says so: its mark is taken away and an empty stored block put behind it, which ends at a byte (RFC 1951,
//! section 3.2.4), so that the pieces follow one another as one stream. Where that block is, decoding tells, which also
//! proves the piece right. zlib-rs would do without, but what it writes depends on the processor, and it is slower by more
//! than the decoding takes. How many threads there are does not change the bytes.

use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc::{SyncSender, sync_channel};

use libdeflater::{CompressionLvl, Compressor};
use sha2::{Digest as _, Sha256};

use crate::inflate::{Inflate, last_block};

/// Raised when the same content would be compressed to other bytes.
pub const DEFLATE_VERSION: u32 = 1;

const PIECE: u64 = 1 << 20;
/// zlib's own default: three levels below a quarter of the time is saved, and GPU code is 2% larger.
const LEVEL: i32 = 6;
/// `BFINAL` and `BTYPE` of a stored block that is not the last are zeros, as is the padding; then length and complement.
const EMPTY: [u8; 4] = [0, 0, 0xff, 0xff];
/// Pieces that wait, for each thread.
const WAITING: usize = 2;

/// What is known of some content once it is compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Summed {
    pub(crate) crc: u32,
    pub(crate) size: u64,
    pub(crate) sha256: Vec<u8>,
}

/// Compresses a file. `advance` is told of content as it is compressed and may end it.
pub(crate) fn deflate(
    file: &fs_err::File,
    out: &mut impl Write,
    threads: usize,
    advance: &dyn Fn(u64) -> io::Result<()>,
) -> io::Result<Summed> {
    let size = file.metadata()?.len();
    let pieces = size.div_ceil(PIECE).max(1);
    let threads = (threads.max(1) as u64).min(pieces);
    std::thread::scope(|scope| {
        let hash = scope.spawn(|| sha256(file, size));
        // A thread's pieces come in a channel of its own, so that taking from all of them in turn keeps the order.
        let mut channels = Vec::new();
        for thread in 0..threads {
            let (sender, receiver) = sync_channel(WAITING);
            channels.push(receiver);
            scope.spawn(move || Pieces::new(file, size).send((thread..pieces).step_by(threads as usize), &sender));
        }
        let mut crc = crc32fast::Hasher::new();
        for (_, channel) in (0..pieces).zip(channels.iter().cycle()) {
            let (bytes, sum, content) =
                channel.recv().map_err(|_| io::Error::other("a compressing thread has ended"))??;
            out.write_all(&bytes)?;
            advance(content)?;
            crc.combine(&sum);
        }
        let sha256 = hash.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))?;
        Ok(Summed { crc: crc.finalize(), size, sha256 })
    })
}

/// Compressed bytes of a piece, its CRC-32 and its size.
type Piece = (Vec<u8>, crc32fast::Hasher, u64);

/// What a thread works with.
struct Pieces<'f> {
    file: &'f fs_err::File,
    size: u64,
    compressor: Compressor,
    inflate: Inflate,
    content: Vec<u8>,
    inflated: Vec<u8>,
}

impl<'f> Pieces<'f> {
    fn new(file: &'f fs_err::File, size: u64) -> Self {
        let compressor = Compressor::new(CompressionLvl::new(LEVEL).unwrap_or_default());
        Self { file, size, compressor, inflate: Inflate::new(), content: Vec::new(), inflated: Vec::new() }
    }

    fn send(mut self, pieces: impl Iterator<Item = u64>, out: &SyncSender<io::Result<Piece>>) {
        for piece in pieces {
            let done = self.compress(piece);
            // Whoever takes the pieces may have given up.
            if out.send(done).is_err() {
                return;
            }
        }
    }

    fn compress(&mut self, piece: u64) -> io::Result<Piece> {
        let from = piece * PIECE;
        let end = (from + PIECE).min(self.size);
        self.content.resize((end - from) as usize, 0);
        self.file.file().read_exact_at(&mut self.content, from)?;
        let mut bytes = vec![0; self.compressor.deflate_compress_bound(self.content.len())];
        let written = self.compressor.deflate_compress(&self.content, &mut bytes).map_err(io::Error::other)?;
        bytes.truncate(written);
        let wrong = || io::Error::other("libdeflate did not write what it was given");
        let last = last_block(&bytes, &self.content, &mut self.inflate, &mut self.inflated).ok_or_else(wrong)?;
        if end < self.size {
            open_end(&mut bytes, last);
        }
        let mut crc = crc32fast::Hasher::new();
        crc.update(&self.content);
        Ok((bytes, crc, self.content.len() as u64))
    }
}

/// Makes a whole stream one that goes on, ending at a byte.
fn open_end(bytes: &mut Vec<u8>, (header, end): (usize, usize)) {
    bytes[header / 8] &= !(1 << (header % 8));
    // The three bits of the stored block's header.
    if bytes.len() * 8 < end + 3 {
        bytes.push(0);
    }
    bytes.extend(EMPTY);
}

fn sha256(file: &fs_err::File, size: u64) -> io::Result<Vec<u8>> {
    let mut hash = Sha256::new();
    let mut buffer = vec![0; 256 << 10];
    let mut at = 0;
    while at < size {
        let most = (size - at).min(buffer.len() as u64) as usize;
        file.file().read_exact_at(&mut buffer[..most], at)?;
        hash.update(&buffer[..most]);
        at += most as u64;
    }
    Ok(hash.finalize().to_vec())
}

#[cfg(test)]
mod tests {
    use std::io::Read as _;

    use proptest::prelude::*;

    use super::*;

    fn file(content: &[u8]) -> fs_err::File {
        let mut file = tempfile::NamedTempFile::new().unwrap();
        file.write_all(content).unwrap();
        fs_err::File::from_parts(file.reopen().unwrap(), "content")
    }

    fn deflated(content: &[u8], threads: usize) -> (Vec<u8>, Summed) {
        let mut out = Vec::new();
        let summed = deflate(&file(content), &mut out, threads, &|_| Ok(())).unwrap();
        (out, summed)
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(12))]
        #[test]
        fn pieces_are_one_stream_whatever_the_number_of_threads(size in 0usize..3_500_000, step in 1usize..9) {
            let content: Vec<u8> = (0..size).map(|at| ((at / step * at) >> 7) as u8).collect();
            let (stream, summed) = deflated(&content, 1);
            prop_assert_eq!(&deflated(&content, 3).0, &stream);
            let mut back = Vec::new();
            let mut decoder = flate2::read::DeflateDecoder::new(stream.as_slice());
            decoder.read_to_end(&mut back).unwrap();
            prop_assert_eq!(decoder.total_in(), stream.len() as u64);
            prop_assert!(back == content);
            let sha256 = Sha256::digest(&content).to_vec();
            prop_assert_eq!(summed, Summed { crc: crc32fast::hash(&content), size: size as u64, sha256 });
        }
    }
}
