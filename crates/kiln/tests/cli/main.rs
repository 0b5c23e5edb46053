//! The command line from end to end: the real program with its own home, store and `PATH`, and snapshots of what it
//! says. Nothing here needs a network, Python or uv: `examples/fake-uv` resolves over wheels that the tests make.
//!
//! Logic is tested below the command line, where a test costs a hundredth. Here stands what only the whole can show:
//! messages, exit statuses, what lies in the images, and what survives damage, interruption and a killed process.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "these are tests")]

mod environment;
mod images;
mod team;
mod wheels;

use kiln_oci::testing as bases;
use kiln_wheel::testing::index as server;

mod bad_wheels;
mod base_changes;
mod base_python;
mod bootstrap;
mod build;
mod command_extras;
mod command_network;
mod command_options;
mod commands;
mod configuration;
mod conflicts;
mod copies;
mod copy;
mod copy_rules;
mod determinism;
mod doctor;
mod downloads;
mod elsewhere;
mod forged;
mod garbage;
mod gpu_code;
mod hashes;
mod help;
mod hostile_layers;
mod inspect;
mod interruption;
mod keep_going;
mod lock;
mod lock_refusals;
mod mistakes;
mod odd_indexes;
mod programs;
mod projects;
mod pruned;
mod publishers;
mod python;
mod references;
mod registry;
mod remote;
mod requirements;
mod resolution;
mod secrets;
mod sources;
mod trust;
mod ways_out;
