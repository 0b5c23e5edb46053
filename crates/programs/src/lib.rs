//! The one way in which kiln starts other programs: uv, pip, docker, credential helpers, nvidia-smi.
//!
//! A [`Call`] names a program, its arguments and the variables that it needs. No other variable reaches the program:
//! `KILN_CACHE_KEY` signs what a machine shares, and settings of pip or uv would change which packages are chosen. The
//! program has a process group of its own, so that it ends with its children when the user wants to stop. Its lines are
//! events while it runs, and its errors quote the last of them, without secrets.

mod call;
mod environment;
mod error;
mod lines;
mod pipe;
mod running;

pub use call::{Call, Stdout};
pub use environment::{ChildEnvironment, LOCATIONS, NETWORK, Names, PATH};
pub use error::{Ended, Failed, ProgramError};
