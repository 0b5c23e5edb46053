//! Deflate streams (RFC 1951): a decoder that works in pieces and in bounded memory, and a compressor that takes over the
//! blocks of an old stream. Pure: input and output are the caller's, and any input is decoded or refused.

mod decode;
mod deflate;

pub use decode::{Blocks, Broken, Inflate, Progress, WINDOW};
pub use deflate::{DEFLATE_VERSION, Kept, Old, Replacement, Summed, deflate};
