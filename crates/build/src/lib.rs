//! Executes a stack: locks it, fetches and splices what is missing, composes images and writes them out.

mod agreement;
mod bases;
mod build;
mod compose;
mod contents;
mod copies;
mod copy;
mod error;
mod execute;
mod explain;
mod fetch;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod history;
mod locking;
mod output;
mod overlaps;
mod planning;
mod project;
mod prune;
mod pruned;
mod push;
mod remote;
mod session;
mod signing;
mod steps;
mod users;
mod verify;
mod workshop;

pub use bases::{Base, name as base_name};
pub use build::Built;
pub use contents::{Contents, FileCode};
pub use error::{BuildError, Fault, Result};
pub use explain::{Change, Explanation};
pub use fetch::{FetchError, Netrc};
pub use locking::Upgrade;
pub use output::Output;
pub use planning::{ImagePlan, Needs, State, StepPlan};
pub use project::Project;
pub use prune::WheelPruner;
pub use push::{Delivered, Pushed};
pub use remote::{CacheEntry, CacheVerdict, Pruned, Shared};
pub use signing::{InvalidSecret, Signer};
pub use steps::{ImageSteps, Step, Task};
pub use verify::{LinkFinding, Verification, VerifiedCode};
pub use workshop::{Surroundings, Workshop};
