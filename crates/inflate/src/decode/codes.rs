//! Prefix codes (RFC 1951, section 3.2) and the tables that decode them.
//!
//! A code is kept twice. `Code` has its symbols in canonical order, which decodes anything, bit by bit. `Tables` has an
//! entry for each value of the next bits, 12 for literals and lengths, 8 for distances: longer codes are for symbols so
//! rare that decoding them bit by bit costs nothing.
//!
//! An entry for a literal also tells *how long the next code is*, if the bits that are left of the index decide that
//! and the next code is a literal as well. In canonical order long codes follow short ones, so that a few bits mostly
//! do decide. The decoder then moves on by both codes after one look-up, and looks up what the second literal is beside
//! the chain of dependent instructions that limits it. A table of whole pairs would need 16 bits for such data.

use super::Broken;

/// Bits that index the entries of literals and lengths.
const LITLEN_BITS: usize = 12;
const LITLEN_SIZE: usize = 1 << LITLEN_BITS;
/// Bits that index the entries of distances.
const DISTANCE_BITS: usize = 8;
const DISTANCE_SIZE: usize = 1 << DISTANCE_BITS;
/// Most bits of two literals in one entry: three entries are used up between two refills, which give 56 bits at least.
const PAIR_BITS: usize = 18;
/// Most bits of a code.
const LONGEST: usize = 15;
/// Most symbols of a code: those of the fixed code for literals and lengths.
const SYMBOLS: usize = 288;

/// Least length that each symbol from 257 stands for.
const LENGTH_BASE: [u16; 29] =
    [3, 4, 5, 6, 7, 8, 9, 10, 11, 13, 15, 17, 19, 23, 27, 31, 35, 43, 51, 59, 67, 83, 99, 115, 131, 163, 195, 227, 258];
/// Bits that are added to it.
const LENGTH_EXTRA: [u8; 29] = [0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 2, 2, 2, 2, 3, 3, 3, 3, 4, 4, 4, 4, 5, 5, 5, 5, 0];
/// Least distance that each symbol stands for.
const DISTANCE_BASE: [u16; 30] = [
    1, 2, 3, 4, 5, 7, 9, 13, 17, 25, 33, 49, 65, 97, 129, 193, 257, 385, 513, 769, 1025, 1537, 2049, 3073, 4097, 6145,
    8193, 12289, 16385, 24577,
];
/// Bits that are added to it.
const DISTANCE_EXTRA: [u8; 30] =
    [0, 0, 0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5, 5, 6, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 13, 13];

/// The symbol for the end of a block.
pub(super) const END_OF_BLOCK: u16 = 256;

/// A value with this many of the lowest bits, of 63 at most.
#[inline(always)]
pub(super) fn mask(bits: u32) -> u64 {
    (1 << (bits & 63)) - 1
}

/// The least value of a symbol from 257 and the number of its extra bits.
pub(super) fn length_of(symbol: u16) -> Result<(usize, u32), Broken> {
    let index = usize::from(symbol).wrapping_sub(257);
    match (LENGTH_BASE.get(index), LENGTH_EXTRA.get(index)) {
        (Some(&base), Some(&extra)) => Ok((base.into(), extra.into())),
        _ => Err(Broken),
    }
}

/// The least value of a symbol and the number of its extra bits.
pub(super) fn distance_of(symbol: u16) -> Result<(usize, u32), Broken> {
    let index = usize::from(symbol);
    match (DISTANCE_BASE.get(index), DISTANCE_EXTRA.get(index)) {
        (Some(&base), Some(&extra)) => Ok((base.into(), extra.into())),
        _ => Err(Broken),
    }
}

/// A code as the stream has it: its first bit is the lowest.
fn reversed(code: u32, length: usize) -> usize {
    usize::from((code as u16).reverse_bits()) >> (16 - length)
}

/// What the next bits are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Found {
    /// A symbol, and how many bits its code has.
    Symbol(u16, u32),
    /// The beginning of a code.
    MoreBits,
    /// No code.
    Nothing,
}

/// A prefix code.
pub(super) struct Code {
    /// How many codes have each length.
    count: [u16; LONGEST + 1],
    /// Symbols in the order of their codes.
    sorted: [u16; SYMBOLS],
    /// How many of them there are.
    symbols: usize,
}

impl Code {
    pub(super) fn new() -> Self {
        Self { count: [0; LONGEST + 1], sorted: [0; SYMBOLS], symbols: 0 }
    }

    /// Takes the lengths of all symbols' codes.
    ///
    /// Like zlib, this refuses codes that contradict one another, and bits that no code stands for: those are right
    /// only if there is no code, or one code of one bit, and if the code `may_have_gaps`.
    pub(super) fn build(&mut self, lengths: &[u8], may_have_gaps: bool) -> Result<(), Broken> {
        self.count = [0; LONGEST + 1];
        for &length in lengths {
            self.count[usize::from(length) & LONGEST] += 1;
        }
        self.count[0] = 0;
        let mut free = 1;
        let mut longest = 0;
        let mut next = [0u16; LONGEST + 2];
        for (length, &count) in self.count.iter().enumerate().skip(1) {
            free = free * 2 - i32::from(count);
            if free < 0 {
                return Err(Broken);
            }
            if count > 0 {
                longest = length;
            }
            next[length + 1] = next[length] + count;
        }
        if free > 0 && longest > 0 && !(may_have_gaps && longest == 1) {
            return Err(Broken);
        }
        self.symbols = next[LONGEST + 1].into();
        for (symbol, &length) in lengths.iter().enumerate().filter(|(_, length)| **length > 0) {
            let at = &mut next[usize::from(length) & LONGEST];
            if let Some(to) = self.sorted.get_mut(usize::from(*at)) {
                *to = symbol as u16;
            }
            *at += 1;
        }
        Ok(())
    }

    /// Decodes the lowest of `left` bits, one by one.
    #[cold]
    #[inline(never)]
    pub(super) fn find(&self, bits: u64, left: u32) -> Found {
        let (mut code, mut first, mut index) = (0, 0, 0);
        for (length, &count) in (0..).zip(&self.count).skip(1) {
            if length > left {
                return Found::MoreBits;
            }
            code |= (bits >> (length - 1) & 1) as usize;
            let count = usize::from(count);
            if code < first + count {
                let symbol = self.sorted.get(index + code - first);
                return symbol.map_or(Found::Nothing, |&symbol| Found::Symbol(symbol, length));
            }
            index += count;
            if index == self.symbols {
                break;
            }
            first = (first + count) * 2;
            code *= 2;
        }
        Found::Nothing
    }

    /// Calls with each symbol, the length of its code, and its code as the stream has it.
    #[inline(always)]
    fn each(&self, up_to: usize, mut call: impl FnMut(u16, usize, usize)) {
        let mut symbols = self.sorted.iter();
        let mut code = 0;
        for (length, &count) in self.count.iter().enumerate().take(up_to + 1).skip(1) {
            for &symbol in symbols.by_ref().take(count.into()) {
                call(symbol, length, reversed(code, length));
                code += 1;
            }
            code *= 2;
        }
    }

    /// Fills a table of symbols (upper 5 bits) and lengths (lower 3 bits) for the code of code lengths.
    pub(super) fn fill_code_lengths(&self, table: &mut [u8; 128]) {
        // zlib reads zeros of one bit each where there is no code at all.
        *table = [1; 128];
        self.each(7, |symbol, length, first| {
            for to in table.iter_mut().skip(first).step_by(1 << length) {
                *to = (symbol as u8) << 3 | length as u8;
            }
        });
    }
}

/// What the next bits are, in the order in which the decoder needs it.
///
/// Bits 0 to 5 are what `bits >>= entry` and `left -= entry` use, without a mask: 6 and 7 are 0.
///
/// | | 0 to 5 | 8 to 13 | 14 to 17 | 16 to 23 | 18 to 26 | 28, 29 | 30 | 31 |
/// |---|---|---|---|---|---|---|---|---|
/// | literals | bits of all | bits of the first | | the first | | how many | 0 | 0 |
/// | length | 0 | bits with extra | bits of the code | | base | 0 | 0 | 1 |
/// | anything else | 0 | | | | | 0 | 1 | 1 |
///
/// An entry of a distance has its bits with extra in 0 to 5, bits of the code in 8 to 11, its base in 12 to 26.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Entry(u32);

impl Entry {
    const SLOW: u32 = 1 << 30;
    const NO_LITERAL: u32 = 1 << 31;
    const ONE: u32 = 1 << 28;

    fn literal(literal: u16, length: usize) -> Self {
        Self(Self::ONE | u32::from(literal) << 16 | (length as u32) << 8 | length as u32)
    }

    fn length(symbol: u16, length: usize) -> Self {
        match length_of(symbol) {
            Ok((base, extra)) => {
                Self(Self::NO_LITERAL | (length as u32 + extra) << 8 | (length as u32) << 14 | (base as u32) << 18)
            }
            // An end of block, or what no stream should have.
            Err(Broken) => Self(Self::NO_LITERAL | Self::SLOW),
        }
    }

    fn distance(symbol: u16, length: usize) -> Self {
        match distance_of(symbol) {
            Ok((base, extra)) => Self((length as u32 + extra) | (length as u32) << 8 | (base as u32) << 12),
            Err(Broken) => Self(Self::SLOW),
        }
    }

    /// Whether this is one literal or two.
    #[inline(always)]
    pub(super) fn is_literal(self) -> bool {
        self.0 & Self::NO_LITERAL == 0
    }

    /// Whether only `Code::find` knows.
    #[inline(always)]
    pub(super) fn is_slow(self) -> bool {
        self.0 & Self::SLOW != 0
    }

    /// How many literals this is: 0 for all that is no literal.
    #[inline(always)]
    pub(super) fn literals(self) -> usize {
        (self.0 >> 28 & 3) as usize
    }

    /// The first literal.
    #[inline(always)]
    pub(super) fn first(self) -> u8 {
        (self.0 >> 16) as u8
    }

    /// Bits of the literals or the distance; only the lowest 6 bits count.
    #[inline(always)]
    pub(super) fn bits(self) -> u32 {
        self.0
    }

    /// Bits of the first literal, or of the length with its extra bits; only the lowest 6 bits count.
    #[inline(always)]
    pub(super) fn first_bits(self) -> u32 {
        self.0 >> 8
    }

    /// The length that begins with these bits.
    #[inline(always)]
    pub(super) fn run(self, bits: u64) -> usize {
        (self.0 >> 18 & 511) as usize + ((bits & mask(self.0 >> 8)) >> (self.0 >> 14 & 15)) as usize
    }

    /// The distance that begins with these bits.
    #[inline(always)]
    pub(super) fn distance_back(self, bits: u64) -> usize {
        (self.0 >> 12 & 0x7fff) as usize + ((bits & mask(self.0)) >> (self.0 >> 8 & 15)) as usize
    }
}

/// Entries for the next bits of a block.
pub(super) struct Tables {
    /// Those of literals and lengths, then those of distances: one place, so that the decoder needs one register.
    entries: Box<[Entry; LITLEN_SIZE + DISTANCE_SIZE]>,
    /// For each number of bits that may follow a literal, from that power of two: what they add to its entry.
    seconds: Box<[u32; LITLEN_SIZE]>,
}

impl Tables {
    pub(super) fn new() -> Self {
        Self {
            entries: Box::new([Entry(Entry::NO_LITERAL | Entry::SLOW); LITLEN_SIZE + DISTANCE_SIZE]),
            seconds: Box::new([0; LITLEN_SIZE]),
        }
    }

    /// What literals or length begin with these bits.
    #[inline(always)]
    pub(super) fn litlen(&self, bits: u64) -> Entry {
        self.entries[bits as usize % LITLEN_SIZE]
    }

    /// What distance begins with these bits.
    #[inline(always)]
    pub(super) fn distance(&self, bits: u64) -> Entry {
        self.entries[LITLEN_SIZE + bits as usize % DISTANCE_SIZE]
    }

    /// Takes a code for literals and lengths.
    pub(super) fn fill_litlen(&mut self, code: &Code) {
        self.find_seconds(code);
        let Self { entries, seconds } = self;
        // For codes that are longer than the index, or missing.
        if let Some(entries) = entries.get_mut(..LITLEN_SIZE) {
            entries.fill(Entry(Entry::NO_LITERAL | Entry::SLOW));
        }
        code.each(LITLEN_BITS, |symbol, length, first| {
            let size = 1 << (LITLEN_BITS - length);
            if symbol < END_OF_BLOCK {
                let Entry(entry) = Entry::literal(symbol, length);
                let seconds = seconds.get(size..size * 2).unwrap_or_default();
                for (next, second) in seconds.iter().enumerate() {
                    entries[(first | next << length) % LITLEN_SIZE] = Entry(entry + second);
                }
            } else {
                let entry = Entry::length(symbol, length);
                for next in 0..size {
                    entries[(first | next << length) % LITLEN_SIZE] = entry;
                }
            }
        });
    }

    /// Finds out after which bits a literal follows whose length is known.
    fn find_seconds(&mut self, code: &Code) {
        // Literals of one length have codes that follow one another, before the lengths' codes: spans of 15 bits.
        let mut spans = [(0, 0); LITLEN_BITS + 1];
        let (mut begin, mut symbols) = (0, &code.sorted[..]);
        for (length, (span, &count)) in spans.iter_mut().zip(&code.count).enumerate().skip(1) {
            let (these, others) = symbols.split_at_checked(count.into()).unwrap_or_default();
            let literals = these.partition_point(|&symbol| symbol < END_OF_BLOCK) as u32;
            *span = (begin << (LONGEST - length), (begin + literals) << (LONGEST - length));
            begin = (begin + u32::from(count)) * 2;
            symbols = others;
        }
        for known in 1..LITLEN_BITS {
            let first = LITLEN_BITS - known;
            if spans[first].0 == spans[first].1 {
                continue;
            }
            let Some(seconds) = self.seconds.get_mut(1 << known..2 << known) else { continue };
            seconds.fill(0);
            for (length, (begin, end)) in spans.iter().enumerate().take(PAIR_BITS - first + 1).skip(1) {
                let shift = LONGEST - known;
                for next in begin.div_ceil(1 << shift)..end >> shift {
                    if let Some(second) = seconds.get_mut(reversed(next, known)) {
                        *second = Entry::ONE | length as u32;
                    }
                }
            }
        }
    }

    /// Takes a code for distances.
    pub(super) fn fill_distances(&mut self, code: &Code) {
        let Some(entries) = self.entries.get_mut(LITLEN_SIZE..) else { return };
        entries.fill(Entry(Entry::SLOW));
        code.each(DISTANCE_BITS, |symbol, length, first| {
            let entry = Entry::distance(symbol, length);
            for to in entries.iter_mut().skip(first).step_by(1 << length) {
                *to = entry;
            }
        });
    }
}
