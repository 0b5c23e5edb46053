//! Packages of Debian in the lock.

use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use super::{quote, tables};
use crate::digest::Digest;
use crate::platform::Platform;

/// A suite of a Debian archive, in the state that was locked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LockedSuite {
    /// The archive's address.
    pub uri: String,
    /// Such as `bookworm-security`.
    pub suite: String,
    /// When its lists were signed, in seconds since 1970.
    pub date: u64,
}

/// The packages of a distribution that an image installs.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LockedSystem {
    /// The image's name in the stack.
    pub image: String,
    /// For this platform.
    pub platform: Platform,
    /// The hash of everything that the choice depended on.
    pub inputs: String,
    /// The suites that the packages come from.
    #[serde(default)]
    pub archives: Vec<LockedSuite>,
    /// The packages that apt installs or replaces.
    #[serde(default)]
    pub packages: Vec<LockedDeb>,
}

/// A Debian package.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LockedDeb {
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// Its architecture, or `all`.
    pub architecture: String,
    /// SHA-256 of its file.
    pub sha256: Digest,
    /// Bytes of its file.
    pub size: u64,
    /// The address of its file.
    pub url: String,
    /// True for packages of which the smallest system consists, which are there before apt installs others.
    #[serde(default)]
    pub base: bool,
}

impl LockedSystem {
    pub(super) fn write(&self, out: &mut String) {
        let _ = write!(out, "\n[[system]]\nimage = {}\nplatform = \"{}\"\n", quote(&self.image), self.platform);
        let _ = writeln!(out, "inputs = {}", quote(&self.inputs));
        tables(out, "archives", &self.archives, LockedSuite::fields);
        tables(out, "packages", &self.packages, LockedDeb::fields);
    }
}

impl LockedSuite {
    pub(super) fn fields(&self) -> String {
        format!("uri = {}, suite = {}, date = {}", quote(&self.uri), quote(&self.suite), self.date)
    }
}

impl LockedDeb {
    pub(super) fn fields(&self) -> String {
        let Self { name, version, architecture, sha256, size, url, base } = self;
        let base = if *base { ", base = true" } else { "" };
        let (name, version, url) = (quote(name), quote(version), quote(url));
        let architecture = quote(architecture);
        format!(
            "name = {name}, version = {version}, architecture = {architecture}, sha256 = \"{sha256}\", size = {size}, url = {url}{base}"
        )
    }
}
