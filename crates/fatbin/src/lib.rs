//! GPU code in files: what it is for, and how much of it there is.
//!
//! nvcc puts the code for every architecture that it compiled for into *regions* of a shared object, and the CUDA driver
//! takes from each region what fits the GPU. Nothing outside says what is inside, so that a library without code for a
//! GPU is found out when it runs there. Here regions are read without any of NVIDIA's tools.
//!
//! Everything is read from positions of a file, a few kilobytes at a time: a library of a gigabyte costs no memory, and
//! no number in a file decides how much is allocated.

mod ar;
mod compiler;
mod concatenated;
mod coverage;
mod cubin;
mod elf;
mod entry;
mod hollow;
mod inflate;
mod kernels;
mod listing;
mod loose;
mod prune;
mod read;
mod region;
mod relocation;
mod search;
mod selection;
mod source;
mod summary;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
#[cfg(test)]
mod tests;
mod thin;
mod tree;
mod verdict;
mod wrapper;

pub use compiler::list_named;
pub use concatenated::Part;
pub use coverage::{Coverage, Extent, Tally};
pub use elf::{Elf, ElfError, Machine, Section, Segment};
pub use entry::{Compression, Entry, Kind};
pub use kernels::Kernels;
pub use listing::{Alike, Code, Depth, FatbinError, Found, Group, Listing};
pub use prune::{
    BEGINNING, Cut, Decision, Outcome, PRUNE_VERSION, Rewrite, Rewritten, Uncut, check, may_be_pruned, prune, uncut,
};
pub use read::{list, list_with, may_be_listed};
pub use region::{Malformed, Region, Regions};
pub use selection::Selection;
pub use source::{Source, Window};
pub use thin::list_file;
pub use tree::{Listed, list_tree, list_tree_with};
pub use verdict::Verdict;
