//! Base facts: what kiln must know about the inside of a base, so that nobody needs the base's bytes to build on it.
//!
//! They are extracted once per base by streaming its layers, or declared in the stack file as `base-facts`, and
//! written to the lock. Everything is optional there, because a base may hold nothing at all (`scratch`).

use std::fmt;

use schemars::JsonSchema;
use serde::{Deserialize, Serialize};

/// What is inside a base.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields, default)]
pub struct BaseFacts {
    /// `ID` and `VERSION_ID` of `/etc/os-release` with a space between: `debian 12`.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub distribution: Option<String>,
    /// The C library.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub libc: Option<Libc>,
    /// Python interpreters, by path.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub interpreters: Vec<Interpreter>,
    /// Python distributions that the base's own environments hold, by location and name.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub distributions: Vec<Distribution>,
    /// The lines of `/etc/passwd` (passwd(5)): an image that adds a user must write the whole file again.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub passwd: Vec<String>,
    /// The lines of `/etc/group` (group(5)).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub group: Vec<String>,
}

impl BaseFacts {
    /// Whether facts that somebody else tells can be of a real base: paths are absolute and lead nowhere else, and
    /// nothing holds a character that would end a line or begin another field.
    pub fn is_plausible(&self) -> bool {
        let line = |text: &str| !text.chars().any(char::is_control);
        let path =
            |text: &str| line(text) && text.starts_with('/') && text.split('/').all(|part| part != ".." && part != ".");
        let interpreter = |found: &Interpreter| {
            path(&found.path) && line(&found.version) && found.site_packages.as_deref().is_none_or(path)
        };
        let distribution = |found: &Distribution| line(&found.name) && line(&found.version) && path(&found.location);
        let texts = self.distribution.iter().chain(&self.passwd).chain(&self.group);
        texts.into_iter().all(|text| line(text))
            && self.libc.as_ref().is_none_or(|libc| line(&libc.version))
            && self.interpreters.iter().all(interpreter)
            && self.distributions.iter().all(distribution)
    }
}

/// A C library and its version.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Libc {
    /// Which C library.
    pub family: LibcFamily,
    /// `MAJOR.MINOR`, such as `2.36` for glibc or `1.2` for musl.
    pub version: String,
}

/// The C libraries that wheels are built for.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case")]
pub enum LibcFamily {
    /// GNU libc: `manylinux` wheels (PEP 600).
    Glibc,
    /// musl: `musllinux` wheels (PEP 656).
    Musl,
}

impl fmt::Display for Libc {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let family = match self.family {
            LibcFamily::Glibc => "glibc",
            LibcFamily::Musl => "musl",
        };
        write!(f, "{family} {}", self.version)
    }
}

/// A Python interpreter of a base.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Interpreter {
    /// Absolute path, such as `/usr/bin/python3.11`.
    pub path: String,
    /// `3.11`, or `3.11.2` where the base tells.
    pub version: String,
    /// Where the interpreter's own environment puts packages, such as `/usr/local/lib/python3.11/dist-packages`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub site_packages: Option<String>,
}

impl Interpreter {
    /// `3.11` of `3.11.2`.
    pub fn minor_version(&self) -> &str {
        let end = self.version.match_indices('.').nth(1).map_or(self.version.len(), |(at, _)| at);
        &self.version[..end]
    }
}

/// A Python distribution that a base holds.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Distribution {
    /// The directory that holds its `.dist-info` or `.egg-info`.
    pub location: String,
    /// Normalised name (PEP 503).
    pub name: String,
    /// Version as its metadata writes it.
    pub version: String,
    /// Unpacked size in bytes of the files under its top-level names, where known.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub size: Option<u64>,
}

impl BaseFacts {
    /// The user and primary group ids of a login name.
    pub fn user(&self, name: &str) -> Option<(u32, u32)> {
        let line = self.passwd.iter().find(|line| line.split(':').next() == Some(name))?;
        let mut fields = line.split(':').skip(2);
        Some((fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    }

    /// The id of a group name.
    pub fn group_id(&self, name: &str) -> Option<u32> {
        let line = self.group.iter().find(|line| line.split(':').next() == Some(name))?;
        line.split(':').nth(2)?.parse().ok()
    }
}
