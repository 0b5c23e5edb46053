//! Base facts: what kiln must know about the inside of a base, so that nobody needs the base's bytes to build on it.
//!
//! They are extracted once per base by streaming its layers, or declared in the stack file as `base-facts`, and
//! written to the lock. Everything is optional there, because a base may hold nothing at all (`scratch`).

mod lines;

use std::fmt;

pub use lines::{Attributes, DirectoryLine, FolderLine, LinkLine};
use pep508_rs::PackageName;
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
    /// `PATH` of its configuration, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub path: Option<String>,
    /// `WorkingDir` of its configuration, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub workdir: Option<String>,
    /// `User` of its configuration, where it has one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub user: Option<String>,
    /// Python interpreters, in the order in which `PATH` finds them; those that it does not find come last, by path.
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
    /// The lines of `/etc/shadow` (shadow(5)). None where one holds a password.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub shadow: Vec<String>,
    /// Owner and mode of `/etc/passwd`, `/etc/group` and `/etc/shadow`, as `/etc/passwd 0664 0:0`, where they are not the usual
    /// ones.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub account_files: Vec<DirectoryLine>,
    /// The files, directories and links of `/etc/skel`, which every new home gets (useradd(8)).
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub skeleton: Vec<SkeletonFile>,
    /// Symbolic links that lead to directories, as `/bin -> usr/bin`: a layer goes through them, or it would replace them.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub links: Vec<LinkLine>,
    /// Directories whose owner, mode or extended attributes are not root's, 0755 and none, as `/tmp 1777 0:0`: a layer with
    /// something in them states them as they are.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub directories: Vec<DirectoryLine>,
    /// All directories, as deep as there is room, as `etc(apt cron.daily)`: nothing takes the place of one.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub folders: Vec<FolderLine>,
    /// Directories within directories that `folders` tells of, where the base has deeper ones for which there is no room.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub folder_depth: Option<usize>,
    /// The files of `/`, of `/etc` and of the directories of `PATH`, as `usr(bin(awk sh))`: what an image runs must be there.
    /// None where there are too many for a lock.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub programs: Vec<FolderLine>,
}

/// The `PATH` of an image whose configuration has none, as containerd and Docker set it.
pub const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

impl BaseFacts {
    /// Whether facts that somebody else tells can be of a real base: paths are absolute and lead nowhere else, and
    /// nothing holds a character that would end a line or begin another field.
    pub fn is_plausible(&self) -> bool {
        let line = |text: &str| !text.chars().any(char::is_control);
        let path =
            |text: &str| line(text) && text.starts_with('/') && text.split('/').all(|part| part != ".." && part != ".");
        let interpreter = |found: &Interpreter| {
            path(&found.path)
                && line(&found.version)
                && found.names.iter().all(|name| path(name))
                && found.site_packages.as_deref().is_none_or(path)
        };
        let below = |path: &str| line(path) && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        let distribution = |found: &Distribution| {
            let is_sound = line(&found.name) && line(&found.version) && path(&found.location);
            is_sound
                && found.metadata.as_deref().is_none_or(below)
                && found.modules.iter().chain(&found.shared).all(|module| below(module))
                && found.scripts.iter().chain(&found.extras).chain(&found.requires).all(|text| line(text))
        };
        let texts = self
            .distribution
            .iter()
            .chain(&self.path)
            .chain(&self.user)
            .chain(&self.workdir)
            .chain(&self.passwd)
            .chain(&self.group)
            .chain(&self.shadow);
        texts.into_iter().all(|text| line(text))
            && self.libc.as_ref().is_none_or(|libc| line(&libc.version))
            && self.interpreters.iter().all(interpreter)
            && self.distributions.iter().all(distribution)
            && self.skeleton.iter().all(|file| below(&file.path))
    }
}

/// A file that a new home begins with.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SkeletonFile {
    /// Path below the home.
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Content of a file.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub text: Option<String>,
    /// Target of a link. What has neither is a directory.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub link: Option<String>,
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
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Interpreter {
    /// Absolute path, such as `/usr/bin/python3.11`.
    pub path: String,
    /// `3.11`, or `3.11.2` where the base tells.
    pub version: String,
    /// Where the interpreter's own environment puts packages, such as `/usr/local/lib/python3.11/dist-packages`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub site_packages: Option<String>,
    /// Links that lead to it: `/usr/bin/python3`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub names: Vec<String>,
    /// It belongs to a virtual environment of the base.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub environment: bool,
}

impl Interpreter {
    /// `3.11` of `3.11.2`.
    pub fn minor_version(&self) -> &str {
        let end = self.version.match_indices('.').nth(1).map_or(self.version.len(), |(at, _)| at);
        &self.version[..end]
    }
}

/// A Python distribution that a base holds.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize, JsonSchema)]
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
    /// The name of its directory of metadata, where that is not `NAME-VERSION.dist-info`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub metadata: Option<String>,
    /// Modules that it brings, as paths below its location without suffixes, where known: `torch`, `google/protobuf`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub modules: Vec<String>,
    /// Packages of it whose `__init__` is empty, which other distributions have, too: `nvidia`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub shared: Vec<String>,
    /// Its requirements, without those of extras, as its metadata writes them. They choose nothing, and are compared with what an
    /// image makes of the base.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub requires: Vec<String>,
    /// The requirements of its extras, as its metadata writes them: `aiohttp; extra == 'http'`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub extras: Vec<String>,
    /// Its console and GUI scripts, as its entry points write them: `torchrun = torch.distributed.run:main`.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub scripts: Vec<String>,
}

impl Distribution {
    /// Returns the name of the directory of its metadata, or of the file that stands in its place.
    pub fn metadata(&self) -> String {
        self.metadata.clone().unwrap_or_else(|| Self::usual_metadata(&self.name, &self.version))
    }

    /// Returns the name that the directory of metadata of a normalised name has (binary distribution format, "File name").
    pub fn usual_metadata(name: &str, version: &str) -> String {
        format!("{}-{version}.dist-info", name.replace('-', "_"))
    }
}

impl BaseFacts {
    /// Returns facts whose distributions have normalised names, however somebody writes them.
    #[must_use]
    pub fn with_normalised_names(mut self) -> Self {
        for held in &mut self.distributions {
            if let Ok(name) = PackageName::new(held.name.clone()) {
                held.name = name.to_string();
            }
        }
        self.distributions.sort();
        self
    }

    /// Returns the directories in which programs are looked for, as `PATH` has them.
    pub fn search_path(&self) -> impl Iterator<Item = &str> {
        self.path.as_deref().unwrap_or(DEFAULT_PATH).split(':').filter(|directory| directory.starts_with('/'))
    }

    /// Returns true for a directory all of whose files are told of, where any are: `/`, `/etc`, and what is in `PATH` or named as
    /// such directories are. Path without links and without a leading slash.
    pub fn tells_files_of(path: Option<&str>, directory: &str) -> bool {
        let last = directory.rsplit('/').next();
        let in_path = || path.unwrap_or(DEFAULT_PATH).split(':').any(|other| other.trim_matches('/') == directory);
        matches!(directory, "" | "etc") || matches!(last, Some("bin" | "sbin")) || in_path()
    }

    /// Puts interpreters whose directories are in `PATH` first, in its order.
    pub fn sort_interpreters(&mut self) {
        let path: Vec<String> =
            self.search_path().map(|directory| directory.trim_end_matches('/').to_owned()).collect();
        self.interpreters.sort_by_key(|found| {
            let directory = found.path.rsplit_once('/').map_or("", |(directory, _)| directory);
            path.iter().position(|other| other == directory).unwrap_or(usize::MAX)
        });
    }
}
