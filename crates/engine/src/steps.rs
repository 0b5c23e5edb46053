//! The kinds of steps, one in each file. A step knows its context and no other kind.

pub(crate) mod agreement;
pub(crate) mod base;
pub(crate) mod compose;
pub(crate) mod conflicts;
pub(crate) mod copy;
pub(crate) mod driver;
pub(crate) mod facts;
pub(crate) mod fetch;
pub(crate) mod file_below;
pub(crate) mod files;
pub(crate) mod foundation;
pub(crate) mod gpu_code;
pub(crate) mod image_layers;
pub(crate) mod list;
pub(crate) mod modules;
pub(crate) mod network_run;
pub(crate) mod paths;
pub(crate) mod program;
pub(crate) mod prune;
pub(crate) mod remove;
pub(crate) mod run;
pub(crate) mod system;
pub(crate) mod users;
pub(crate) mod venv;
pub(crate) mod wheels;
