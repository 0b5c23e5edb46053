//! Images: layers made from wheels and files, manifests, layouts, archives, and the facts of a base.

pub mod archive;
pub mod bytecode;
pub mod choose;
pub mod compression;
pub mod debian;
pub mod docker_archive;
pub mod document;
mod error;
pub mod facts;
mod hash;
mod header;
pub mod image;
mod inflate;
pub mod json;
pub mod layer;
pub mod layout;
pub mod names;
pub mod reach;
mod splice;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod time;
pub mod tree;
pub mod whole;

pub use error::OciError;
pub use inflate::InflatePool;
pub use splice::{AtHand, SPLICE_VERSION, Source, splice};
