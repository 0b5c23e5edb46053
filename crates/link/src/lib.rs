//! The link closure: what shared objects the ELF files of an image need, and whether they are there.
//!
//! A library that is missing is found out when the dynamic loader looks for it, often minutes into a job on a machine
//! with a GPU. What the loader does is known beforehand: it reads names from files and looks for them in directories
//! that are written in files. Here the same is done without running anything, on a directory or on the layers of an
//! image.
//!
//! Two things cannot be known so: what a program loads by name while it runs, and what it has loaded before. Libraries
//! that are in the image but not where the loader would look are therefore told, and are no error: Python packages load
//! their libraries in an order of their own.

mod bytes;
mod closure;
mod configuration;
mod directory;
mod finding;
mod hint;
mod known;
mod object;
mod search;
#[cfg(test)]
mod tests;
mod tree;

pub use closure::{Load, Settings};
pub use configuration::is_configuration;
pub use finding::{Finding, Outcome, Role, Severity};
pub use hint::Hint;
pub use kiln_fatbin::{ElfError, Machine, Source};
pub use object::{Object, Requirement};
pub use tree::{Node, Tree, What};
