//! The cache as it is written and looked after: what is shared, what may go, and whether what it says is true.

mod share;
mod upkeep;

pub use share::Shared;
pub use upkeep::{CacheEntry, CacheVerdict, Pruned, Truth};
