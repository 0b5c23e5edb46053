//! Executes a stack: locks it, fetches and splices what is missing, composes images and writes them out.

mod bases;
mod build;
mod compose;
mod copies;
mod copy;
mod error;
mod execute;
mod explain;
mod fetch;
mod history;
mod locking;
mod output;
mod overlaps;
mod planning;
mod project;
mod push;
mod remote;
mod session;
mod signing;
mod steps;
mod users;
mod workshop;

pub use bases::{Base, name as base_name};
pub use build::Built;
pub use error::{BuildError, Fault, Result};
pub use explain::{Change, Explanation};
pub use fetch::{FetchError, Netrc};
pub use locking::Upgrade;
pub use output::Output;
pub use planning::{ImagePlan, Needs, State, StepPlan};
pub use project::Project;
pub use push::{Delivered, Pushed};
pub use remote::{CacheEntry, CacheVerdict, Pruned, Shared};
pub use signing::{InvalidSecret, Signer};
pub use steps::{ImageSteps, Step, Task};
pub use workshop::{Surroundings, Workshop};
