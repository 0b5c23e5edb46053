//! Executes a stack: locks it, builds the graph of its steps, performs those that no record knows, and delivers images.
//!
//! A step is a value, and one file in `steps/`. Its key names the products that it reads. The driver finds out which
//! products are known, performs the rest, and writes the records.

mod accounts;
mod agent;
mod bases;
mod below;
mod build;
mod built;
mod bytes;
mod cache;
mod commands;
mod contents;
mod context;
mod copies;
mod debian;
mod deliver;
mod documents;
mod driver;
mod error;
mod explain;
mod fetch;
mod forms;
#[cfg(feature = "fuzzing")]
pub mod fuzzing;
mod git;
#[cfg(test)]
mod golden;
mod graph;
mod history;
mod images;
mod inside;
mod installed;
mod lanes;
mod locking;
mod members;
mod mend;
mod node;
mod opened;
mod output;
mod owners;
mod plan;
mod product;
mod project;
mod prune;
mod push;
mod python;
mod records;
mod remote;
mod sandboxed;
mod secrets;
mod settings;
mod shelf;
mod signing;
mod snapshot;
mod sources;
mod step;
mod steps;
mod time;
mod tools;
mod uninstall;
mod verify;
mod workshop;

pub use bases::name as base_name;
pub use built::Built;
pub use bytes::Blobs;
pub use cache::{CacheEntry, CacheVerdict, Pruned, Shared, Truth};
pub use commands::{Commands, UserTerminal};
pub use contents::{Contents, FileCode};
pub use deliver::{Delivered, Delivery};
pub use error::{BuildError, DebianError, Fault, FetchError, ProjectError, Result};
pub use explain::{Change, Explanation, Taken};
pub use fetch::Netrc;
pub use inside::{inside, remove_others};
pub use locking::Upgrade;
pub use output::Output;
pub use plan::{CopiedFile, CopyPlan, ImagePlan, Needs, State, StepPlan};
pub use project::Project;
pub use prune::{FilePruner, KeptCode, PrunedFile, WheelPruner};
pub use push::Pushed;
pub use signing::{InvalidSecret, Signer};
pub use snapshot::Decided;
pub use step::Subject;
pub use verify::{
    CompilerFinding, DriverFinding, HostFinding, Judge, JudgedGpu, LinkFinding, Verification, VerifiedCode,
};
pub use workshop::{Surroundings, Workshop};
