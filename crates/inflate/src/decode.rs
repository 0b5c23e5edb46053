//! Inflating: raw deflate streams (RFC 1951), in pieces and in bounded memory.
//!
//! A cold build inflates every large file of every wheel, and that is most of its processor time. The fastest decoders
//! want a whole entry in memory, which for CUDA libraries is half a gigabyte each; zlib-rs streams, but is slower. This
//! streams and, all in all, beats both on what wheels hold. Output in MB per second of processor time, medians of 5 on
//! an EPYC (Zen 5) that was busy with other work as well; in pieces of 128 KiB, but for libdeflate:
//!
//! | entry | zlib-rs 0.6.8 | libdeflate 1.26 | ISA-L 2.30 | this |
//! |---|---|---|---|---|
//! | libcublasLt.so.13 | 1026 | 1260 | 1077 | 1352 |
//! | libtorch_cpu.so | 796 | 1160 | 1041 | 1106 |
//! | libtorch_cuda.so | 1471 | 1765 | 1473 | 2075 |
//! | libcufft.so.12 | 462 | 556 | 493 | 619 |
//! | libnccl.so.2 | 1430 | 1676 | 1384 | 1967 |
//! | all | 897 | 1134 | 985 | 1219 |
//!
//! What makes it fast, for such data: most of its literals have codes of about 8 bits, and there the time from one
//! look-up to the next is what counts. So a look-up moves on by two literals (see `codes.rs`). In the rest, matches with
//! up to two literals between them prevail, and mispredicted branches are what counts. So literals are written before
//! it is known whether there are any. The fast loop runs while there are 8 bytes of input and room for the longest
//! match, and leaves anything rare (ends of blocks, long codes) to a careful one, which can stop and resume anywhere.
//!
//! What bounds it: a decoder has less than 40 KiB of tables and allocates nothing later; input and output are the
//! caller's. No unsafe code; any input is decoded or refused, as zlib would, and `tests` compares the two.

pub(crate) mod blocks;
mod codes;
#[cfg(test)]
mod tests;

use std::fmt;

pub use blocks::Blocks;
use blocks::Method;
use codes::{Code, END_OF_BLOCK, Found, Tables, distance_of, length_of, mask};

/// How far back a match can begin: bytes of output to keep.
pub const WINDOW: usize = 32 << 10;

/// Room that the fast loop wants: literals, the longest match, and what is copied beyond its end.
const ROOM: usize = 4 + 258 + 32;
/// In which order the lengths of the codes of code lengths come (RFC 1951, section 3.2.7).
const ORDER: [u8; 19] = [16, 17, 18, 0, 8, 7, 9, 6, 10, 5, 11, 4, 12, 3, 13, 2, 14, 1, 15];
/// Most code lengths of a block, in a size that is good for `fill`.
const LENGTHS: usize = 320;

/// Not a deflate stream.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Broken;

/// What one call did. If it did nothing, it wants more input or, if no room was left, more room.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Progress {
    /// Bytes of input that are not needed again.
    pub read: usize,
    /// Bytes of output.
    pub written: usize,
    /// The stream has ended; what was not read does not belong to it.
    pub done: bool,
}

/// A decoder.
pub struct Inflate {
    /// Bits that were read: the next is the lowest, and those above `left` are 0.
    bits: u64,
    left: u32,
    state: State,
    last: bool,
    /// Where the header of the last block that was begun is, in bits from the beginning of the stream.
    last_block: u64,
    blocks: Blocks,
    /// Bytes of the stream and of its content in calls that have ended.
    read: u64,
    written: u64,
    /// Bytes that were written, up to a window.
    behind: usize,
    /// Literals and lengths, distances, and code lengths that the block has.
    counts: [usize; 3],
    /// How many code lengths are there yet.
    have: usize,
    lengths: [u8; LENGTHS],
    code_lengths: [u8; 128],
    litlen: Code,
    distance: Code,
    tables: Tables,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum State {
    Block,
    StoredLength,
    Stored(usize),
    Counts,
    CodeLengths,
    Lengths,
    Symbols,
    Match { length: usize, distance: usize },
    Done,
    Broken,
}

/// Why to stop, if at all.
enum Step {
    On,
    MoreInput,
    MoreRoom,
}

/// Where in a whole stream its last block is, in bits: its header, and what follows it. Nothing unless the stream is of
/// exactly this content.
pub(crate) fn last_block(
    stream: &[u8],
    content: &[u8],
    inflate: &mut Inflate,
    buffer: &mut Vec<u8>,
) -> Option<(usize, usize)> {
    inflate.reset();
    // Room for one byte more, so that the end of the stream is come to.
    buffer.resize(content.len() + 1, 0);
    let done = inflate.decode(stream, buffer, 0).ok()?;
    let whole = done.done && done.read == stream.len() && buffer.get(..done.written) == Some(content);
    whole.then(|| (inflate.last_block as usize, stream.len() * 8 - inflate.left as usize))
}

/// Input and output of one call.
struct Pieces<'a> {
    input: &'a [u8],
    read: usize,
    output: &'a mut [u8],
    start: usize,
    at: usize,
    /// Where the earliest match can begin.
    floor: usize,
}

impl Pieces<'_> {
    fn put(&mut self, byte: u8) {
        if let Some(to) = self.output.get_mut(self.at) {
            *to = byte;
            self.at += 1;
        }
    }

    fn room(&self) -> usize {
        self.output.len().saturating_sub(self.at)
    }
}

impl fmt::Debug for Inflate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Inflate").field("state", &self.state).finish_non_exhaustive()
    }
}

impl Default for Inflate {
    fn default() -> Self {
        Self::new()
    }
}

impl Inflate {
    /// A decoder at the beginning of a stream.
    pub fn new() -> Self {
        Self {
            bits: 0,
            left: 0,
            state: State::Block,
            last: false,
            last_block: 0,
            blocks: Blocks::default(),
            read: 0,
            written: 0,
            behind: 0,
            counts: [0; 3],
            have: 0,
            lengths: [0; LENGTHS],
            code_lengths: [0; 128],
            litlen: Code::new(),
            distance: Code::new(),
            tables: Tables::new(),
        }
    }

    /// Goes to the beginning of another stream.
    pub fn reset(&mut self) {
        (self.bits, self.left, self.state, self.last, self.behind) = (0, 0, State::Block, false, 0);
        (self.blocks, self.read, self.written) = (Blocks::default(), 0, 0);
    }

    /// Goes to the beginning of what follows in some stream: so many bytes of content are before it.
    pub(crate) fn reset_behind(&mut self, content: usize) {
        self.reset();
        self.behind = content.min(WINDOW);
    }

    /// Whether a block has ended, none has begun, and no bits are left: something else may follow.
    pub(crate) fn is_between_blocks(&self) -> bool {
        self.state == State::Block && !self.last && self.left == 0
    }

    /// The blocks that were begun since this was last asked.
    pub fn take_blocks(&mut self) -> Blocks {
        std::mem::take(&mut self.blocks)
    }

    /// Decodes into `output[start..]` until the input, the room or the stream ends.
    ///
    /// `output[..start]` is what matches refer to: it must end with the last [`WINDOW`] bytes that were written, or
    /// with all if there are fewer. Bytes of `output` after what is written may change. What precedes an error is
    /// written first: the call that writes nothing returns it.
    pub fn decode(&mut self, input: &[u8], output: &mut [u8], start: usize) -> Result<Progress, Broken> {
        let start = start.min(output.len());
        let mut pieces = Pieces { input, read: 0, output, start, at: start, floor: start - self.behind.min(start) };
        loop {
            match self.step(&mut pieces) {
                Ok(Step::On) if self.state != State::Done => {}
                Ok(Step::MoreInput) => break,
                Ok(Step::On | Step::MoreRoom) => {
                    self.give_back(&mut pieces);
                    break;
                }
                Err(Broken) => {
                    self.state = State::Broken;
                    if pieces.at == start {
                        return Err(Broken);
                    }
                    break;
                }
            }
        }
        let written = pieces.at - start;
        self.behind = (self.behind + written).min(WINDOW);
        self.read += pieces.read as u64;
        self.written += written as u64;
        Ok(Progress { read: pieces.read, written, done: self.state == State::Done })
    }

    /// Reads until that many bits are there, 56 at most, or the input ends.
    fn fill(&mut self, pieces: &mut Pieces<'_>, wanted: u32) -> bool {
        if self.left >= wanted {
            return true;
        }
        let rest = pieces.input.get(pieces.read..).unwrap_or_default();
        if let Some(word) = rest.first_chunk() {
            let bytes = (63 - self.left) / 8;
            self.bits |= u64::from_le_bytes(*word) << self.left;
            self.left += bytes * 8;
            self.bits &= mask(self.left);
            pieces.read += bytes as usize;
            return true;
        }
        for &byte in rest {
            self.bits |= u64::from(byte) << self.left;
            self.left += 8;
            pieces.read += 1;
            if self.left >= wanted {
                return true;
            }
        }
        false
    }

    /// Gives whole bytes back that are not needed, as far as they were read from these pieces.
    fn give_back(&mut self, pieces: &mut Pieces<'_>) {
        let bytes = pieces.read.min((self.left / 8) as usize);
        pieces.read -= bytes;
        self.left -= bytes as u32 * 8;
        self.bits &= mask(self.left);
    }

    fn take(&mut self, count: u32) -> usize {
        let value = self.bits & mask(count);
        self.bits >>= count;
        self.left -= count;
        value as usize
    }

    fn step(&mut self, pieces: &mut Pieces<'_>) -> Result<Step, Broken> {
        match self.state {
            State::Block if self.last => self.state = State::Done,
            State::Block => {
                if !self.fill(pieces, 3) {
                    return Ok(Step::MoreInput);
                }
                self.last_block = (self.read + pieces.read as u64) * 8 - u64::from(self.left);
                self.last = self.take(1) == 1;
                let method = self.take(2);
                let how = if method == 0 { Method::Stored } else { Method::Coded };
                self.blocks.begin(self.last_block, self.written + (pieces.at - pieces.start) as u64, how);
                self.state = match method {
                    0 => {
                        self.take(self.left % 8);
                        State::StoredLength
                    }
                    1 => {
                        let mut lengths = [8; 288];
                        lengths[144..256].fill(9);
                        lengths[256..280].fill(7);
                        self.begin_symbols(&lengths, &[5; 32])?
                    }
                    2 => State::Counts,
                    _ => return Err(Broken),
                };
            }
            State::StoredLength => {
                if !self.fill(pieces, 32) {
                    return Ok(Step::MoreInput);
                }
                let length = self.take(16);
                if self.take(16) ^ 0xffff != length {
                    return Err(Broken);
                }
                self.state = State::Stored(length);
            }
            State::Stored(0) => self.state = State::Block,
            State::Stored(length) => return Ok(self.stored(pieces, length)),
            State::Counts => {
                if !self.fill(pieces, 14) {
                    return Ok(Step::MoreInput);
                }
                self.counts = [self.take(5) + 257, self.take(5) + 1, self.take(4) + 4];
                if self.counts[0] > 286 || self.counts[1] > 30 {
                    return Err(Broken);
                }
                (self.have, self.lengths, self.state) = (0, [0; LENGTHS], State::CodeLengths);
            }
            State::CodeLengths => {
                while let Some(&at) = ORDER.get(..self.counts[2]).and_then(|order| order.get(self.have)) {
                    if !self.fill(pieces, 3) {
                        return Ok(Step::MoreInput);
                    }
                    self.lengths[usize::from(at)] = self.take(3) as u8;
                    self.have += 1;
                }
                self.distance.build(&self.lengths[..ORDER.len()], false)?;
                self.distance.fill_code_lengths(&mut self.code_lengths);
                (self.have, self.lengths, self.state) = (0, [0; LENGTHS], State::Lengths);
            }
            State::Lengths => return self.lengths(pieces),
            State::Symbols => {
                self.fast(pieces)?;
                return self.careful(pieces);
            }
            State::Match { length, distance } => {
                let size = length.min(pieces.room());
                for _ in 0..size {
                    let from = pieces.at.checked_sub(distance).and_then(|from| pieces.output.get(from));
                    pieces.put(*from.ok_or(Broken)?);
                }
                if size < length {
                    self.state = State::Match { length: length - size, distance };
                    return Ok(Step::MoreRoom);
                }
                self.state = State::Symbols;
            }
            State::Done => {}
            State::Broken => return Err(Broken),
        }
        Ok(Step::On)
    }

    fn stored(&mut self, pieces: &mut Pieces<'_>, length: usize) -> Step {
        if pieces.room() == 0 {
            return Step::MoreRoom;
        }
        if self.left > 0 {
            // What is among the bits already.
            let byte = self.take(8);
            pieces.put(byte as u8);
            self.state = State::Stored(length - 1);
            return Step::On;
        }
        let from = pieces.input.get(pieces.read..).unwrap_or_default();
        let to = pieces.output.get_mut(pieces.at..).unwrap_or_default();
        let size = length.min(from.len()).min(to.len());
        if size == 0 {
            return Step::MoreInput;
        }
        to[..size].copy_from_slice(&from[..size]);
        pieces.read += size;
        pieces.at += size;
        self.state = State::Stored(length - size);
        Step::On
    }

    /// The lengths of a block's codes (RFC 1951, section 3.2.7).
    fn lengths(&mut self, pieces: &mut Pieces<'_>) -> Result<Step, Broken> {
        let wanted = self.counts[0] + self.counts[1];
        while self.have < wanted {
            self.fill(pieces, 14);
            let entry = self.code_lengths[self.bits as usize % 128];
            let (symbol, length) = (entry >> 3, u32::from(entry & 7));
            let extra = match symbol {
                16 => 2,
                17 => 3,
                18 => 7,
                _ => 0,
            };
            if length + extra > self.left {
                return Ok(Step::MoreInput);
            }
            self.take(length);
            let extra = self.take(extra);
            let (value, times) = match symbol {
                16 => {
                    let before = self.have.checked_sub(1).and_then(|before| self.lengths.get(before));
                    (*before.ok_or(Broken)?, extra + 3)
                }
                17 => (0, extra + 3),
                18 => (0, extra + 11),
                _ => (symbol, 1),
            };
            if self.have + times > wanted {
                return Err(Broken);
            }
            self.lengths.get_mut(self.have..self.have + times).ok_or(Broken)?.fill(value);
            self.have += times;
        }
        let lengths = self.lengths;
        let (litlen, distance) = lengths.get(..wanted).ok_or(Broken)?.split_at(self.counts[0]);
        if litlen.get(usize::from(END_OF_BLOCK)).is_none_or(|&length| length == 0) {
            return Err(Broken);
        }
        self.state = self.begin_symbols(litlen, distance)?;
        Ok(Step::On)
    }

    fn begin_symbols(&mut self, litlen: &[u8], distance: &[u8]) -> Result<State, Broken> {
        self.litlen.build(litlen, true)?;
        self.distance.build(distance, true)?;
        self.tables.fill_litlen(&self.litlen);
        self.tables.fill_distances(&self.distance);
        Ok(State::Symbols)
    }

    /// One literal, match or end of block, which nothing is taken from the bits for unless all of it is there.
    fn careful(&mut self, pieces: &mut Pieces<'_>) -> Result<Step, Broken> {
        self.fill(pieces, 48);
        let entry = self.tables.litlen(self.bits);
        let first_bits = entry.first_bits() & 63;
        let (symbol, bits) = if entry.is_literal() && first_bits <= self.left {
            (u16::from(entry.first()), first_bits)
        } else {
            match self.litlen.find(self.bits, self.left) {
                Found::Symbol(symbol, bits) => (symbol, bits),
                Found::MoreBits => return Ok(Step::MoreInput),
                Found::Nothing => return Err(Broken),
            }
        };
        if symbol == END_OF_BLOCK {
            self.take(bits);
            self.state = State::Block;
            return Ok(Step::On);
        }
        if pieces.room() == 0 {
            return Ok(Step::MoreRoom);
        }
        if let Ok(literal) = u8::try_from(symbol) {
            self.take(bits);
            pieces.put(literal);
            return Ok(Step::On);
        }
        let (base, extra) = length_of(symbol)?;
        let used = bits + extra;
        if used > self.left {
            return Ok(Step::MoreInput);
        }
        let length = base + (self.bits >> bits & mask(extra)) as usize;
        let (symbol, bits) = match self.distance.find(self.bits >> used, self.left - used) {
            Found::Symbol(symbol, bits) => (symbol, used + bits),
            Found::MoreBits => return Ok(Step::MoreInput),
            Found::Nothing => return Err(Broken),
        };
        let (base, extra) = distance_of(symbol)?;
        if bits + extra > self.left {
            return Ok(Step::MoreInput);
        }
        let distance = base + (self.bits >> bits & mask(extra)) as usize;
        if distance > pieces.at - pieces.floor {
            return Err(Broken);
        }
        self.take(bits + extra);
        self.state = State::Match { length, distance };
        Ok(Step::On)
    }

    /// Literals and matches, while there is plenty of input and room and nothing rare comes.
    ///
    /// Bits of `bits` above `left` can be something: what will be read there, so that a refill changes nothing. Of
    /// `left`, only the lowest 6 bits count.
    fn fast(&mut self, pieces: &mut Pieces<'_>) -> Result<(), Broken> {
        let Some(last) = pieces.output.len().checked_sub(ROOM) else { return Ok(()) };
        if pieces.at > last || !self.fill(pieces, 56) {
            return Ok(());
        }
        let Pieces { input, read, output, at, floor, .. } = pieces;
        let mut rest = input.get(*read..).unwrap_or_default();
        let before = rest.len();
        let (mut bits, mut left, mut to) = (self.bits, self.left, *at);
        let tables = &self.tables;
        // Afterwards, 56 bits at least are there.
        macro_rules! refill {
            () => {
                let Some(word) = rest.first_chunk() else { break };
                bits |= u64::from_le_bytes(*word).wrapping_shl(left);
                rest = &rest[7 - (left as usize >> 3 & 7)..];
                left |= 56;
            };
        }
        // Writes two literals, of which none, one or both are some.
        macro_rules! literals {
            ($entry:ident) => {
                let second = tables.litlen(bits.wrapping_shr($entry.first_bits()));
                let Some(pair) = output.get_mut(to..to + 2) else { break };
                pair[0] = $entry.first();
                pair[1] = second.first();
                to += $entry.literals();
                bits = bits.wrapping_shr($entry.bits());
                left = left.wrapping_sub($entry.bits());
            };
        }
        let mut entry = tables.litlen(bits);
        while to <= last {
            literals!(entry);
            entry = tables.litlen(bits);
            if entry.is_literal() {
                literals!(entry);
                entry = tables.litlen(bits);
                if entry.is_literal() {
                    literals!(entry);
                    refill!();
                    entry = tables.litlen(bits);
                    continue;
                }
            }
            refill!();
            let after = bits.wrapping_shr(entry.first_bits());
            let back = tables.distance(after);
            if entry.is_slow() || back.is_slow() {
                break;
            }
            let (length, distance) = (entry.run(bits), back.distance_back(after));
            if distance > to - *floor {
                *at = to;
                return Err(Broken);
            }
            bits = after.wrapping_shr(back.bits());
            left = left.wrapping_sub(entry.first_bits() & 63).wrapping_sub(back.bits());
            // 38 bits at most are gone: enough are left to look ahead, before anything is waited for.
            entry = tables.litlen(bits);
            copy(output, to, distance, length).ok_or(Broken)?;
            to += length;
            refill!();
        }
        *at = to;
        *read += before - rest.len();
        self.left = left & 63;
        self.bits = bits;
        self.give_back(pieces);
        Ok(())
    }
}

/// Repeats what is `distance` before `to`, up to 31 bytes beyond `length`. None if there is no room for that.
#[inline(always)]
fn copy(output: &mut [u8], to: usize, distance: usize, length: usize) -> Option<()> {
    let from = to.checked_sub(distance)?;
    if distance >= 16 {
        let mut done = 0;
        loop {
            copy_chunk::<16>(output, from + done, to + done)?;
            copy_chunk::<16>(output, from + done + 16, to + done + 16)?;
            done += 32;
            if done >= length {
                return Some(());
            }
        }
    }
    if distance >= 8 {
        for done in (0..length).step_by(8) {
            copy_chunk::<8>(output, from + done, to + done)?;
        }
        return Some(());
    }
    // As often as it fits into 8 bytes; what is behind it there does not matter.
    let bits = distance as u32 * 8;
    let mut word = u64::from_le_bytes(*output.get(from..)?.first_chunk()?) & mask(bits);
    for times in [1, 2, 4] {
        word |= word.checked_shl(bits * times).unwrap_or(0);
    }
    let step = [8, 8, 8, 6, 8, 5, 6, 7][distance % 8];
    for done in (0..length).step_by(step) {
        *output.get_mut(to + done..)?.first_chunk_mut()? = word.to_le_bytes();
    }
    Some(())
}

#[inline(always)]
fn copy_chunk<const SIZE: usize>(output: &mut [u8], from: usize, to: usize) -> Option<()> {
    let chunk: [u8; SIZE] = *output.get(from..)?.first_chunk()?;
    *output.get_mut(to..)?.first_chunk_mut()? = chunk;
    Some(())
}
