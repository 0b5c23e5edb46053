//! Where the blocks of a stream begin, noted while it is decoded.
//!
//! Blocks that are compressed by themselves, but for what they repeat of the window before them, can be taken over into
//! another stream as they are. What is noted is coarse, so that it stays small whatever the stream is made of: blocks that
//! begin close to one another count as one.

/// Bytes of content from one noted block to the next, at least: 24 bytes are noted for each.
const LEAST: u64 = 4 << 10;

/// How the content of a block is there.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Method {
    /// As it is.
    Stored,
    /// In codes.
    Coded,
    /// Several short blocks, of both methods.
    Mixed,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Begin {
    /// Its header, in bits from the beginning of the stream.
    bit: u64,
    /// Where its content begins in that of the stream.
    content: u64,
    method: Method,
}

/// The blocks of a stream.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Blocks(Vec<Begin>);

/// A block, or several that follow one another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Block {
    pub(crate) bits: std::ops::Range<u64>,
    pub(crate) content: std::ops::Range<u64>,
    pub(crate) method: Method,
}

impl Blocks {
    /// Notes a block; each begins behind the one before.
    pub(super) fn begin(&mut self, bit: u64, content: u64, method: Method) {
        match self.0.last_mut() {
            Some(last) if content - last.content < LEAST => {
                if last.method != method {
                    last.method = Method::Mixed;
                }
            }
            _ => self.0.push(Begin { bit, content, method }),
        }
    }

    /// Adds the blocks of what follows in the stream.
    pub fn append(&mut self, mut next: Self) {
        self.0.append(&mut next.0);
    }

    /// All blocks that end behind a position of the content, but for the stream's last: it says that it is the last.
    pub(crate) fn from(&self, content: u64) -> impl Iterator<Item = Block> {
        let first = self.0.partition_point(|block| block.content <= content).saturating_sub(1);
        let pairs = self.0.get(first..).unwrap_or_default().windows(2);
        pairs.filter_map(|pair| {
            let [block, next] = pair else { return None };
            Some(Block { bits: block.bit..next.bit, content: block.content..next.content, method: block.method })
        })
    }
}
