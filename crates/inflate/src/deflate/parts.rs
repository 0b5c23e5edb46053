//! Which parts of some content lie compressed in another stream already.

use std::ops::Range;

use super::{Kept, PIECE};
use crate::decode::Blocks;
use crate::decode::WINDOW;
use crate::decode::blocks::Method;

/// Fewer stored bytes are as well compressed.
const LEAST_STORED: u64 = 64;

/// Part of some content, of [`PIECE`] bytes at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Part {
    pub(super) content: Range<u64>,
    pub(super) means: Means,
}

/// How part of some content is compressed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Means {
    /// By these bits of the other stream.
    Taken(Range<u64>),
    /// Not at all, as in the other stream.
    Stored,
    /// Anew.
    Compressed,
}

/// Finds the parts of content of so many bytes, in order. A block can be taken if it is kept as a whole with the window
/// before it, of which it may repeat anything.
pub(super) fn parts(size: u64, kept: &[Kept], blocks: &Blocks) -> Vec<Part> {
    let mut parts = Parts { parts: Vec::new(), end: 0 };
    for kept in kept {
        let end = kept.from + kept.bytes;
        for block in blocks.from(kept.from).take_while(|block| block.content.start < end) {
            let moved = |old: Range<u64>| old.start - kept.from + kept.to..old.end - kept.from + kept.to;
            match block.method {
                Method::Stored => {
                    let inside = block.content.start.max(kept.from)..block.content.end.min(end);
                    if inside.end - inside.start >= LEAST_STORED {
                        parts.put(moved(inside), Means::Stored);
                    }
                }
                Method::Coded
                    if kept.from <= block.content.start.saturating_sub(WINDOW as u64)
                        && block.content.end <= end
                        && block.content.end - block.content.start <= PIECE =>
                {
                    parts.put(moved(block.content), Means::Taken(block.bits));
                }
                Method::Coded | Method::Mixed => {}
            }
        }
    }
    parts.fill(size);
    parts.parts
}

/// Parts that follow one another.
struct Parts {
    parts: Vec<Part>,
    end: u64,
}

impl Parts {
    fn put(&mut self, content: Range<u64>, means: Means) {
        self.fill(content.start);
        self.add(content.end, &means);
    }

    /// Everything up to here is compressed anew.
    fn fill(&mut self, end: u64) {
        self.add(end, &Means::Compressed);
    }

    fn add(&mut self, end: u64, means: &Means) {
        while self.end < end {
            let next = end.min(self.end + PIECE);
            self.parts.push(Part { content: self.end..next, means: means.clone() });
            self.end = next;
        }
    }
}
