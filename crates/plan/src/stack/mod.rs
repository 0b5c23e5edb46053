//! The stack file, in two stages: [`written`] is what stands in the file, with places; [`Stack`] is what it means.
//!
//! Two stages, because a mistake must point at its line and name what is valid, while everything after reading wants
//! values that cannot be wrong any more.

mod copy;
mod image;
mod lines;
mod read;
mod requirement;
mod resolve;
mod run;
mod spanned;
mod vars;
pub mod written;

pub use copy::{Checkout, Copy, Download, Elsewhere, Pattern, Source};
pub use image::{
    Archive, ArchiveKey, Cache, CommandLine, Compression, DebSource, Environment, File, FileContent, From, GpuCode,
    Healthcheck, Image, Index, Mirror, Named, NewUser, Owner, Part, Prerelease, Prune, Python, Recipe, Remote,
    Requirement, RequirementsFile, Resolution, Stack, System, Target, Trust, Value,
};
pub use lines::{line_at, line_of};
pub use read::{Overrides, read, schema};
pub use resolve::last_moment;
pub use run::{CacheMount, Network, Run, SecretMount, SecretSource, Shell};
pub use spanned::Spanned;
