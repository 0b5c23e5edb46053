//! Debian's archives and packages: what a suite offers, what its signatures vouch for, which packages belong together, and what is in
//! each of them.
//!
//! A base is made of these alone, on machines that have neither apt nor dpkg. Once a base stands, its own apt and dpkg do the rest.
//!
//! | module | reads |
//! | --- | --- |
//! | [`control`] | paragraphs of fields, of which indexes and packages are made |
//! | [`version`] | versions, and their order |
//! | [`relation`] | what a package needs, provides and cannot be beside |
//! | [`index`] | lists of the packages of a suite |
//! | [`release`] | signed lists of those lists |
//! | [`sources`] | the archives that a machine's apt knows |
//! | [`closure`] | the packages that belong to some |
//! | [`deb`] | packages themselves |
//! | [`system`] | (writes) a system of packages |

#![cfg_attr(test, allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests"))]

pub mod closure;
pub mod control;
pub mod deb;
pub mod index;
pub mod relation;
pub mod release;
pub mod sources;
pub mod system;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
pub mod version;
