//! Compressing a large file on all cores into one deflate stream (RFC 1951).
//!
//! The file is cut into pieces of equal size; each is compressed with the 32 KiB before it as its dictionary and ends at
//! a byte, so that the pieces follow one another as one stream. How many threads there are does not change the bytes.

use std::io::{self, Write};
use std::os::unix::fs::FileExt as _;
use std::sync::mpsc::{SyncSender, sync_channel};

use flate2::{Compress, Compression, FlushCompress, Status};
use sha2::{Digest as _, Sha256};

/// Raised when the same content would be compressed to other bytes.
pub const DEFLATE_VERSION: u32 = 1;

const PIECE: u64 = 1 << 20;
/// How far back deflate can refer.
const DICTIONARY: u64 = 32 << 10;
/// zlib's own default: the level below saves a fifth of the time and makes GPU code 2% larger.
const LEVEL: u32 = 6;
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
            scope.spawn(move || compress(file, size, (thread..pieces).step_by(threads as usize), &sender));
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

fn compress(file: &fs_err::File, size: u64, pieces: impl Iterator<Item = u64>, out: &SyncSender<io::Result<Piece>>) {
    let mut compress = Compress::new(Compression::new(LEVEL), false);
    let mut content = Vec::new();
    for piece in pieces {
        let done = one(file, size, piece, &mut compress, &mut content);
        // Whoever takes the pieces may have given up.
        if out.send(done).is_err() {
            return;
        }
    }
}

fn one(
    file: &fs_err::File,
    size: u64,
    piece: u64,
    compress: &mut Compress,
    content: &mut Vec<u8>,
) -> io::Result<Piece> {
    let from = piece * PIECE;
    let end = (from + PIECE).min(size);
    let dictionary = from.min(DICTIONARY);
    content.resize((end - from + dictionary) as usize, 0);
    file.file().read_exact_at(content, from - dictionary)?;
    let (before, content) = content.split_at(dictionary as usize);
    compress.reset();
    if !before.is_empty() {
        compress.set_dictionary(before).map_err(io::Error::other)?;
    }
    let last = end == size;
    let flush = if last { FlushCompress::Finish } else { FlushCompress::Sync };
    let mut bytes = Vec::with_capacity(content.len() / 2 + 1024);
    loop {
        let taken = compress.total_in() as usize;
        let status = compress.compress_vec(&content[taken..], &mut bytes, flush).map_err(io::Error::other)?;
        // Room that is left means that nothing waits for room.
        let done = if last { status == Status::StreamEnd } else { bytes.len() < bytes.capacity() };
        if done && compress.total_in() == content.len() as u64 {
            break;
        }
        bytes.reserve(PIECE as usize / 4);
    }
    let mut crc = crc32fast::Hasher::new();
    crc.update(content);
    Ok((bytes, crc, content.len() as u64))
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
