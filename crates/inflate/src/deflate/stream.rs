//! A deflate stream that is put together from blocks (RFC 1951, section 3.2.3), which begin and end at any bit.

/// Most bytes of a stored block.
const STORED: usize = 65_535;

/// Blocks, none of which says that it is the last.
#[derive(Debug, Default)]
pub(super) struct Stream {
    pub(super) bytes: Vec<u8>,
    /// Bits of the last byte that are used; 0 where all are.
    used: u32,
}

impl Stream {
    /// Appends whole blocks out of a stream: its bits from one to another. Unless both streams are at the same bit of a
    /// byte, none of them may be stored, since its content begins at a byte.
    pub(super) fn bits(&mut self, stream: &[u8], from: usize, to: usize) {
        let (mut pending, mut bits) =
            if self.used > 0 { (self.bytes.pop().unwrap_or(0).into(), self.used) } else { (0, 0) };
        let mut at = from;
        // 7 bytes at a time: with those that are pending, they fit into a word, as they do behind the bit where they begin.
        while at + 56 <= to {
            pending |= (word(stream, at / 8) >> (at % 8) & (u64::MAX >> 8)) << bits;
            self.bytes.extend_from_slice(&pending.to_le_bytes()[..7]);
            pending >>= 56;
            at += 56;
        }
        let rest = to.saturating_sub(at) as u32;
        pending |= (word(stream, at / 8) >> (at % 8) & ((1 << rest) - 1)) << bits;
        bits += rest;
        self.bytes.extend_from_slice(&pending.to_le_bytes()[..bits.div_ceil(8) as usize]);
        self.used = bits % 8;
    }

    /// Appends content as it is.
    pub(super) fn stored(&mut self, content: &[u8]) {
        for part in content.chunks(STORED) {
            self.stored_header(part.len() as u16);
            self.bytes.extend_from_slice(part);
        }
    }

    /// Goes to the beginning of a byte, with an empty stored block where there is need of one.
    pub(super) fn align(&mut self) {
        if self.used > 0 {
            self.stored_header(0);
        }
    }

    /// `BFINAL` and `BTYPE` are zeros, as is the padding; then length and complement.
    fn stored_header(&mut self, length: u16) {
        if self.used == 0 || self.used > 5 {
            self.bytes.push(0);
        }
        self.bytes.extend(length.to_le_bytes());
        self.bytes.extend((!length).to_le_bytes());
        self.used = 0;
    }
}

/// Eight bytes, with zeros behind the end.
fn word(bytes: &[u8], at: usize) -> u64 {
    let rest = bytes.get(at..).unwrap_or_default();
    match rest.first_chunk() {
        Some(word) => u64::from_le_bytes(*word),
        None => rest.iter().rev().fold(0, |word, byte| word << 8 | u64::from(*byte)),
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn bits_follow_one_another_wherever_they_were(
            source in proptest::collection::vec(any::<u8>(), 1..60),
            ranges in proptest::collection::vec((any::<prop::sample::Index>(), any::<prop::sample::Index>()), 1..6),
        ) {
            let bit = |bytes: &[u8], at: usize| bytes[at / 8] >> (at % 8) & 1;
            let (mut stream, mut expected) = (Stream::default(), Vec::new());
            for (one, other) in ranges {
                let (one, other) = (one.index(source.len() * 8), other.index(source.len() * 8));
                let (from, to) = (one.min(other), one.max(other));
                stream.bits(&source, from, to);
                expected.extend((from..to).map(|at| bit(&source, at)));
            }
            prop_assert_eq!(stream.bytes.len(), expected.len().div_ceil(8));
            let found: Vec<u8> = (0..expected.len()).map(|at| bit(&stream.bytes, at)).collect();
            prop_assert_eq!(found, expected);
        }
    }
}
