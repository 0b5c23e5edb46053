//! Payloads of entries as they were before compression, or the beginnings of them.
//!
//! LZ4 is the block format (lz4, `doc/lz4_Block_format.md`); Zstandard is RFC 8878. What is damaged inflates to nothing:
//! listing goes on without it.

use std::cell::RefCell;
use std::io::{self, Read};

use zstd::zstd_safe::{DCtx, ResetDirective, find_frame_compressed_size};

use crate::entry::{Compression, Entry};
use crate::source::{Fields, Source, Window};

/// Bytes that a payload is inflated to at most, whatever its header says.
const MOST: u64 = 256 << 20;
/// The largest window of a Zstandard frame, as a power of two, that is made room for.
const LARGEST_WINDOW: u32 = 26;
/// The bytes that a Zstandard frame begins with.
pub(crate) const ZSTD_MAGIC: [u8; 4] = [0x28, 0xb5, 0x2f, 0xfd];
/// The frame that takes the place of one that is cut: it holds nothing (RFC 8878, "Zstandard Frames": one segment of no bytes, and a
/// last block without any).
pub(crate) const EMPTY_FRAME: [u8; 9] = [0x28, 0xb5, 0x2f, 0xfd, 0x20, 0, 1, 0, 0];
/// Bytes that are inflated at first where few may be enough.
const FIRST_STEP: u64 = 1 << 10;
/// Compressed bytes that are read together.
const BUFFER: usize = 16 << 10;
/// Bytes of a frame's dictionary id, by the lowest bits of its descriptor.
const DICTIONARY: [usize; 4] = [0, 1, 2, 4];
/// Blocks that a frame may have: of 128 KiB each, far above the largest payload.
const MOST_BLOCKS: usize = 1 << 14;

/// Reads a payload, or its beginning of at most `most` bytes. Nothing where it is compressed in a way that is not known.
pub(crate) fn payload<S: Source + ?Sized>(
    source: &mut Window<'_, S>,
    entry: &Entry,
    most: u64,
) -> io::Result<Option<Vec<u8>>> {
    if entry.compression() == Compression::Zstd
        && let Some(size) = zstd_content(source, entry.offset + entry.header)?.filter(|size| *size <= most.min(MOST))
    {
        return at_once(source, entry, size);
    }
    beginning(source, entry, most, |_| false)
}

/// Inflates a Zstandard frame of a known size in one step, which takes no window beside what it gives.
fn at_once<S: Source + ?Sized>(source: &mut Window<'_, S>, entry: &Entry, size: u64) -> io::Result<Option<Vec<u8>>> {
    let (mut stored, left) = (Vec::new(), stored(entry));
    Part { source, at: entry.offset + entry.header, left }.read_to_end(&mut stored)?;
    let mut bytes = Vec::with_capacity(usize::try_from(size).unwrap_or_default());
    let done = CONTEXT.with_borrow_mut(|context| {
        // What follows the frame is padding.
        let frame = stored.get(..find_frame_compressed_size(&stored)?).unwrap_or_default();
        context.reset(ResetDirective::SessionAndParameters)?;
        context.decompress(&mut bytes, frame)
    });
    Ok(done.is_ok().then_some(bytes))
}

/// Bytes of a payload as it lies in the file.
fn stored(entry: &Entry) -> u64 {
    if entry.compressed > 0 { u64::from(entry.compressed).min(entry.payload) } else { entry.payload }
}

/// Reads the beginning of a payload until `enough` tells that it is, which it is asked ever more seldom, or so many bytes are
/// read. Nothing where it is compressed in a way that is not known.
pub(crate) fn beginning<S: Source + ?Sized>(
    source: &mut Window<'_, S>,
    entry: &Entry,
    most: u64,
    enough: impl FnMut(&[u8]) -> bool,
) -> io::Result<Option<Vec<u8>>> {
    let mut reader = Part { source, at: entry.offset + entry.header, left: stored(entry) };
    let most = most.min(MOST);
    match entry.compression() {
        Compression::None => Ok(Some(grow(&mut reader, most, enough).0)),
        Compression::Lz4 if !entry.is_lz4_frame() => Lz4::new(&mut reader, most).inflate(enough),
        Compression::Zstd => CONTEXT.with_borrow_mut(|context| {
            let reader = io::BufReader::with_capacity(BUFFER, reader);
            if context.reset(ResetDirective::SessionAndParameters).is_err() {
                return Ok(None);
            }
            let mut decoder = zstd::stream::read::Decoder::with_context(reader, context);
            decoder.window_log_max(LARGEST_WINDOW)?;
            let (bytes, sound) = grow(&mut decoder, most, enough);
            Ok(sound.then_some(bytes))
        }),
        Compression::Zlib | Compression::Lz4 => Ok(None),
    }
}

/// Reads ever more until it is enough, or all of it is read; false if it is damaged.
fn grow(reader: &mut impl Read, most: u64, mut enough: impl FnMut(&[u8]) -> bool) -> (Vec<u8>, bool) {
    let (mut bytes, mut wanted) = (Vec::new(), FIRST_STEP.min(most));
    loop {
        let missing = wanted - bytes.len() as u64;
        let sound = reader.take(missing).read_to_end(&mut bytes).is_ok();
        let ended = (bytes.len() as u64) < wanted || wanted == most;
        if !sound || ended || enough(&bytes) {
            return (bytes, sound);
        }
        wanted = (wanted * 4).min(most);
    }
}

/// Bytes that the Zstandard frame at a position says that it inflates to ("Frame_Content_Size"); `None` where it does not.
pub(crate) fn zstd_content<S: Source + ?Sized>(source: &mut Window<'_, S>, at: u64) -> io::Result<Option<u64>> {
    let Some(header) = source.array::<18>(at)? else { return Ok(None) };
    let single = header[4] >> 5 & 1;
    let place = 5 + usize::from(1 - single) + DICTIONARY[usize::from(header[4] & 3)];
    let fields = Fields(&header);
    Ok(match (header[4] >> 6, single) {
        (0, 0) => None,
        (0, _) => Some(u64::from(header[place])),
        (1, _) => Some(u64::from(fields.u16(place)) + 256),
        (2, _) => Some(u64::from(fields.u32(place))),
        _ => Some(fields.u64(place)),
    })
}

/// Bytes of the Zstandard frame at a position, which must end before `end`: found out from the headers of its blocks.
pub(crate) fn zstd_frame<S: Source + ?Sized>(source: &mut Window<'_, S>, at: u64, end: u64) -> io::Result<Option<u64>> {
    let Some(header) = source.array::<5>(at)? else { return Ok(None) };
    let descriptor = header[4];
    let single = descriptor >> 5 & 1;
    let content = match (descriptor >> 6, single) {
        (0, single) => u64::from(single),
        (size, _) => 1 << size,
    };
    let dictionary = DICTIONARY[usize::from(descriptor & 3)];
    let mut position = at + 5 + u64::from(1 - single) + dictionary as u64 + content;
    for _ in 0..MOST_BLOCKS {
        let Some(block) = source.array::<3>(position)? else { return Ok(None) };
        let block = u32::from_le_bytes([block[0], block[1], block[2], 0]);
        let size = match block >> 1 & 3 {
            1 => 1,
            3 => return Ok(None),
            _ => u64::from(block >> 3),
        };
        position += 3 + size;
        if position > end {
            return Ok(None);
        }
        if block & 1 == 1 {
            let checksum = u64::from(descriptor >> 2 & 1) * 4;
            return Ok(Some(position + checksum - at).filter(|size| at + size <= end));
        }
    }
    Ok(None)
}

thread_local! {
    /// The state for inflating Zstandard: making it anew for thousands of payloads takes as long as they do.
    static CONTEXT: RefCell<DCtx<'static>> = RefCell::new(DCtx::default());
}

/// Some bytes of a file, one after the other.
struct Part<'w, 'a, S: Source + ?Sized> {
    source: &'w mut Window<'a, S>,
    at: u64,
    left: u64,
}

impl<S: Source + ?Sized> Read for Part<'_, '_, S> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let most = buffer.len().min(usize::try_from(self.left).unwrap_or(usize::MAX));
        let bytes = self.source.bytes(self.at, most)?;
        buffer[..bytes.len()].copy_from_slice(bytes);
        self.at += bytes.len() as u64;
        self.left -= bytes.len() as u64;
        Ok(bytes.len())
    }
}

/// Inflates a block of LZ4.
struct Lz4<R> {
    reader: io::BufReader<R>,
    out: Vec<u8>,
    most: usize,
}

impl<R: Read> Lz4<R> {
    fn new(reader: R, most: u64) -> Self {
        let reader = io::BufReader::with_capacity(16 << 10, reader);
        Self { reader, out: Vec::new(), most: usize::try_from(most).unwrap_or(usize::MAX) }
    }

    fn inflate(mut self, mut enough: impl FnMut(&[u8]) -> bool) -> io::Result<Option<Vec<u8>>> {
        let mut asked = FIRST_STEP as usize;
        // The last sequence has no match: the block ends behind its literals.
        while self.out.len() < self.most {
            if self.out.len() >= asked {
                if enough(&self.out) {
                    break;
                }
                asked = self.out.len() * 4;
            }
            let Some(token) = self.byte()? else { break };
            let Some(literals) = self.length(token >> 4)? else { return Ok(None) };
            let wanted = self.out.len().saturating_add(literals);
            if wanted > self.most.saturating_add(1 << 20) && literals > self.most {
                return Ok(None);
            }
            (&mut self.reader).take(literals as u64).read_to_end(&mut self.out)?;
            if self.out.len() < wanted {
                return Ok(None);
            }
            let Some(low) = self.byte()? else { break };
            let Some(high) = self.byte()? else { return Ok(None) };
            let Some(length) = self.length(token & 15)? else { return Ok(None) };
            let distance = usize::from(u16::from_le_bytes([low, high]));
            let Some(from) = self.out.len().checked_sub(distance).filter(|_| distance > 0) else { return Ok(None) };
            let length = (length + 4).min(self.most.saturating_sub(self.out.len()) + 4);
            if distance >= length {
                self.out.extend_from_within(from..from + length);
            } else {
                for at in from..from + length {
                    self.out.push(self.out[at]);
                }
            }
        }
        self.out.truncate(self.most);
        Ok(Some(self.out))
    }

    fn byte(&mut self) -> io::Result<Option<u8>> {
        let mut byte = [0];
        Ok((self.reader.read(&mut byte)? == 1).then_some(byte[0]))
    }

    /// A length of four bits, and bytes of 255 that continue it.
    fn length(&mut self, bits: u8) -> io::Result<Option<usize>> {
        let mut length = usize::from(bits);
        let mut more = bits == 15;
        while more {
            let Some(byte) = self.byte()? else { return Ok(None) };
            length += usize::from(byte);
            if length as u64 > MOST {
                return Ok(None);
            }
            more = byte == 255;
        }
        Ok(Some(length))
    }
}
