//! The HTTP/1.1 that the servers of kiln's tests speak: a package index and a registry, in the same process, that
//! misbehave on demand. Only std networking, so that they share nothing with the client that they test.

#![allow(clippy::expect_used, reason = "test support: a panic is a failed test")]

pub mod http;
mod server;

pub use server::{Input, Listener, Server};
