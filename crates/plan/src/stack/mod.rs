//! The stack file, in two stages: [`written`] is what stands in the file, with places; [`Stack`] is what it means.
//!
//! Two stages, because a mistake must point at its line and name what is valid, while everything after reading wants
//! values that cannot be wrong any more.

mod image;
mod lines;
mod read;
mod requirement;
mod resolve;
mod run;
mod spanned;
mod vars;
pub mod written;

pub use image::{
    Cache, CommandLine, Compression, Copy, Environment, File, FileContent, From, GpuCode, Healthcheck, Image, Index,
    Named, NewUser, Owner, Part, Pattern, Prerelease, Prune, Python, Recipe, Remote, Requirement, RequirementsFile,
    Resolution, Source, Stack, Target, Trust, Value,
};
pub use lines::line_of;
pub use read::{Overrides, read, schema};
pub use resolve::last_moment;
pub use run::{Run, Shell};
pub use spanned::Spanned;
