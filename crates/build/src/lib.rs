//! Executes a stack: locks it, fetches and splices what is missing, composes images and writes them out.

mod bases;
mod build;
mod compose;
mod copy;
mod error;
mod execute;
mod fetch;
mod locking;
mod output;
mod overlaps;
mod project;
mod steps;
mod users;

pub use bases::{Base, name as base_name};
pub use build::Built;
pub use error::{BuildError, Fault, Result};
pub use fetch::{FetchError, Netrc};
pub use locking::Upgrade;
pub use output::Output;
pub use project::{Project, Surroundings};
pub use steps::{ImageSteps, Step, Task};
