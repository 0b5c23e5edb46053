//! `kiln.lock`: every base by digest, every wheel by file name, size and sha256, per image and platform.
//!
//! A build never decides; it reads this. The format is TOML that is written by hand, one package a line, so that a
//! change of a version is a change of a line in review. Its version is raised when an older kiln would misread it.

mod debian;

use std::collections::BTreeMap;
use std::fmt::Write as _;

use serde::{Deserialize, Serialize};

use crate::base::BaseFacts;
use crate::digest::Digest;
use crate::platform::Platform;
use crate::stack::Remote;

pub use debian::{LockedDeb, LockedSuite, LockedSystem};

/// The version of the format that this kiln writes.
pub const VERSION: u32 = 4;
/// The versions before: they are read, and renewed with the same choices.
const FORMER: [u32; 3] = [1, 2, 3];
/// The first version whose facts of bases are those of today.
const WITH_FACTS: u32 = 3;

/// A lock.
#[derive(Debug, Clone, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Lock {
    /// The version of the format.
    pub version: u32,
    /// The architectures that `native` meant when the stack was locked.
    #[serde(default)]
    pub native_gpus: Vec<String>,
    /// Places outside of the project that requirements come from.
    #[serde(default, rename = "source")]
    pub sources: Vec<LockedSource>,
    /// Bases, by name and platform.
    #[serde(default, rename = "base")]
    pub bases: Vec<LockedBase>,
    /// Packages of distributions, by image and platform.
    #[serde(default, rename = "system")]
    pub systems: Vec<LockedSystem>,
    /// Images, by name and platform.
    #[serde(default, rename = "image")]
    pub images: Vec<LockedImage>,
    /// Wheels, by file name.
    #[serde(default, rename = "wheel")]
    pub wheels: Vec<LockedWheel>,
}

/// A place outside of the project, and what was there when the stack was locked.
#[derive(Debug, Clone, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LockedSource {
    /// Address of a repository of git.
    #[serde(default)]
    pub git: Option<String>,
    /// The branch, tag or commit that the stack names.
    #[serde(default)]
    pub rev: Option<String>,
    /// The commit that this was.
    #[serde(default)]
    pub commit: Option<String>,
    /// Address of one file.
    #[serde(default)]
    pub url: Option<String>,
    /// Its files that requirements may stand in.
    #[serde(default)]
    pub files: Vec<SourceFile>,
}

/// A file of a source.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SourceFile {
    /// Path in the source.
    pub path: String,
    /// Digest of its content.
    pub sha256: Digest,
}

impl LockedSource {
    /// Returns true if it is what a stack names.
    pub fn is_of(&self, remote: &Remote) -> bool {
        match remote {
            Remote::Git { url, rev } => self.git.as_ref() == Some(url) && self.rev.as_ref() == Some(rev),
            Remote::Url(url) => self.url.as_deref() == Some(url.as_str()),
        }
    }

    fn write(&self, out: &mut String) {
        out.push_str("\n[[source]]\n");
        for (key, value) in [("git", &self.git), ("rev", &self.rev), ("commit", &self.commit), ("url", &self.url)] {
            if let Some(value) = value {
                let _ = writeln!(out, "{key} = {}", quote(value));
            }
        }
        tables(out, "files", &self.files, |file| format!("path = {}, sha256 = \"{}\"", quote(&file.path), file.sha256));
    }
}

/// What a base was when the stack was locked.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LockedBase {
    /// What the stack says, in one line: `debian bookworm python3`, `oci layouts/base`.
    pub name: String,
    /// For this platform.
    pub platform: Platform,
    /// The digest of the index that its reference named, where it named one.
    #[serde(default)]
    pub index: Option<Digest>,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// The number of its layers; `None` in a lock of a former version, whose facts are read again.
    #[serde(default)]
    pub layers: Option<usize>,
    /// When a Debian base was locked, in seconds since 1970.
    #[serde(default)]
    pub snapshot: Option<u64>,
    /// The suites that the packages of a Debian base come from.
    #[serde(default)]
    pub archives: Vec<LockedSuite>,
    /// The packages of a Debian base. Locks of former versions have none: their lines tell no addresses.
    #[serde(default)]
    pub packages: Vec<LockedDeb>,
    /// What is inside.
    #[serde(default)]
    pub facts: BaseFacts,
}

/// What an image holds besides what it stands on.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LockedImage {
    /// Its name in the stack.
    pub name: String,
    /// For this platform.
    pub platform: Platform,
    /// The choice of the stack that it belongs to; empty for the stack as it stands in its file.
    #[serde(default)]
    pub variant: String,
    /// The hash of everything that resolution depended on: a lock fits a stack if this is the same.
    pub inputs: String,
    /// The requirements that were resolved, to say what changed.
    #[serde(default)]
    pub requirements: Vec<String>,
    /// Packages whose version gave way to what an image upon this one requires, as `PACKAGE for IMAGE`.
    #[serde(default)]
    pub gives_way: Vec<String>,
    /// The packages, by name.
    #[serde(default)]
    pub packages: Vec<LockedPackage>,
}

/// A package of an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LockedPackage {
    /// Normalised name (PEP 503).
    pub name: String,
    /// Version (PEP 440).
    pub version: String,
    /// The SHA-256 of its wheel.
    pub wheel: Digest,
}

/// A wheel.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct LockedWheel {
    /// File name (PEP 427).
    pub file: String,
    /// Digest of the file.
    pub sha256: Digest,
    /// Size in bytes, where the index tells.
    #[serde(default)]
    pub size: Option<u64>,
    /// Where an index has it; nothing for a local file.
    #[serde(default)]
    pub url: Option<String>,
    /// Where it lies, relative to the stack file.
    #[serde(default)]
    pub path: Option<String>,
    /// Its publisher, in the words of the index (PEP 740): `GitHub acme/engine release.yml`.
    #[serde(default)]
    pub publisher: Option<String>,
    /// Indexes that it may be from, in their order, without a name for the resolver's own. Known while it is chosen, and not
    /// written.
    #[serde(skip)]
    pub indexes: Vec<Option<String>>,
}

/// Why a lock cannot be read.
#[derive(Debug, thiserror::Error)]
pub enum LockError {
    /// Another version of the format.
    #[error("the lock has format version {0}, and this kiln reads version {VERSION}")]
    Version(u32),
    /// A table that this kiln does not know.
    #[error("the lock has a table `{0}`: a newer kiln wrote it")]
    Newer(String),
    /// Not a lock at all.
    #[error("the lock is damaged at line {line}: {message}")]
    Damaged {
        /// Line, from 1.
        line: usize,
        /// What is wrong there.
        message: String,
    },
}

impl Lock {
    /// Reads a lock.
    pub fn parse(text: &str) -> Result<Self, LockError> {
        #[derive(Deserialize)]
        struct Head {
            version: u32,
        }
        let damaged = |error: toml::de::Error| {
            let at = error.span().map_or(0, |span| span.start).min(text.len());
            let line = 1 + text.as_bytes()[..at].iter().filter(|byte| **byte == b'\n').count();
            LockError::Damaged { line, message: error.message().replace('\n', ", ") }
        };
        let head: Head = toml::from_str(text).map_err(damaged)?;
        let lock: Self = match head.version {
            VERSION => {
                require_known_tables(text)?;
                toml::from_str(text).map_err(damaged)?
            }
            version if FORMER.contains(&version) => former(toml::from_str(text).map_err(damaged)?, version)?,
            version => return Err(LockError::Version(version)),
        };
        lock.check()?;
        Ok(lock)
    }

    /// Every package's wheel must be there.
    fn check(&self) -> Result<(), LockError> {
        let known: std::collections::BTreeSet<_> = self.wheels.iter().map(|wheel| wheel.sha256).collect();
        for image in &self.images {
            for package in &image.packages {
                if !known.contains(&package.wheel) {
                    let message = format!("no wheel has the digest of {} {}", package.name, package.version);
                    return Err(LockError::Damaged { line: 1, message });
                }
            }
        }
        Ok(())
    }

    /// The text of the lock, in a stable order: the same lock is the same text.
    pub fn text(&self) -> String {
        let mut sorted = self.clone();
        sorted.sort();
        let mut out = String::from("# Written by `kiln lock`; not meant to be edited.\n");
        let _ = writeln!(out, "version = {VERSION}");
        if !sorted.native_gpus.is_empty() {
            let _ = writeln!(out, "native-gpus = {}", list(&sorted.native_gpus));
        }
        sorted.sources.iter().for_each(|source| source.write(&mut out));
        for base in &sorted.bases {
            base.write(&mut out);
        }
        for system in &sorted.systems {
            system.write(&mut out);
        }
        for image in &sorted.images {
            image.write(&mut out);
        }
        for wheel in &sorted.wheels {
            wheel.write(&mut out);
        }
        out
    }

    fn sort(&mut self) {
        self.sources.sort();
        self.bases.sort_by(|a, b| (&a.name, a.platform).cmp(&(&b.name, b.platform)));
        self.systems.sort_by(|a, b| (&a.image, a.platform, &a.inputs).cmp(&(&b.image, b.platform, &b.inputs)));
        self.images.sort_by(|a, b| (&a.name, a.platform, &a.variant).cmp(&(&b.name, b.platform, &b.variant)));
        for image in &mut self.images {
            image.packages.sort();
        }
        self.wheels.sort_by(|a, b| (&a.file, a.sha256).cmp(&(&b.file, b.sha256)));
        self.wheels.dedup_by(|a, b| a.sha256 == b.sha256);
    }

    /// Returns the packages of the base's distribution that an image installs.
    pub fn system_packages(&self, image: &str, platform: Platform) -> impl Iterator<Item = &LockedDeb> {
        let own = self.systems.iter().filter(move |system| system.image == image && system.platform == platform);
        own.flat_map(|system| &system.packages)
    }

    /// The packages of a distribution that an image installs, as they were chosen for some inputs.
    pub fn system(&self, image: &str, platform: Platform, inputs: &str) -> Option<&LockedSystem> {
        let is_meant = |one: &&LockedSystem| one.image == image && one.platform == platform && one.inputs == inputs;
        self.systems.iter().find(is_meant)
    }

    /// A base on a platform.
    pub fn base(&self, name: &str, platform: Platform) -> Option<&LockedBase> {
        self.bases.iter().find(|base| base.name == name && base.platform == platform)
    }

    /// A place outside of the project.
    pub fn source(&self, remote: &Remote) -> Option<&LockedSource> {
        self.sources.iter().find(|source| source.is_of(remote))
    }

    /// The images of a name on a platform, one for each choice of the stack.
    pub fn images_of(&self, name: &str, platform: Platform) -> impl Iterator<Item = &LockedImage> {
        self.images.iter().filter(move |image| image.name == name && image.platform == platform)
    }

    /// An image on a platform.
    pub fn image(&self, name: &str, platform: Platform) -> Option<&LockedImage> {
        self.images.iter().find(|image| image.name == name && image.platform == platform)
    }

    /// Wheels by digest.
    pub fn wheels_by_digest(&self) -> BTreeMap<Digest, &LockedWheel> {
        self.wheels.iter().map(|wheel| (wheel.sha256, wheel)).collect()
    }
}

/// Names of tables. Others are those of a newer kiln.
const TABLES: [&str; 7] = ["version", "native-gpus", "source", "base", "system", "image", "wheel"];

fn require_known_tables(text: &str) -> Result<(), LockError> {
    let table: toml::Table = toml::from_str(text).unwrap_or_default();
    match table.keys().find(|key| !TABLES.contains(&key.as_str())) {
        Some(unknown) => Err(LockError::Newer(unknown.clone())),
        None => Ok(()),
    }
}

/// Reads a lock of a former version without the facts of its bases, which had other fields.
fn former(mut table: toml::Table, version: u32) -> Result<Lock, LockError> {
    if let Some(toml::Value::Array(bases)) = table.get_mut("base") {
        for base in bases.iter_mut().filter_map(toml::Value::as_table_mut) {
            // Lines without addresses.
            base.remove("packages");
            if version < WITH_FACTS {
                base.remove("facts");
                base.remove("layers");
            }
        }
    }
    let damaged = |error: toml::de::Error| LockError::Damaged { line: 1, message: error.message().replace('\n', ", ") };
    table.try_into().map_err(damaged)
}

/// Returns the line, from 1, on which the text of a lock begins the facts of a base.
pub fn line_of_facts(text: &str, base: &str, platform: Platform) -> Option<usize> {
    lines_of(text, base, platform).find(|(_, line)| *line == "[base.facts]").map(|(at, _)| at)
}

/// Returns the line, from 1, on which the text of a lock tells of a package of an image.
pub fn line_of_package(text: &str, image: &str, platform: Platform, package: &str) -> Option<usize> {
    let entry = format!("    {{ name = {},", quote(package));
    lines_of(text, image, platform).find(|(_, line)| line.starts_with(&entry)).map(|(at, _)| at)
}

/// Returns the lines of the entry with this name and platform that follow its platform, numbered from 1.
fn lines_of<'t>(text: &'t str, name: &str, platform: Platform) -> impl Iterator<Item = (usize, &'t str)> + use<'t> {
    let (name, on) = (format!("name = {}", quote(name)), format!("platform = \"{platform}\""));
    let (mut named, mut here) = (false, false);
    text.lines().enumerate().filter_map(move |(at, line)| {
        if line.starts_with("[[") {
            (named, here) = (false, false);
        }
        named |= line == name;
        here |= named && line == on;
        here.then_some((at + 1, line))
    })
}

fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

/// Returns text with line breaks as a string of one line. JSON's escapes are TOML's, but for DEL, which JSON leaves.
fn one_line(text: &str) -> String {
    serde_json::Value::String(text.to_owned()).to_string().replace('\u{7f}', "\\u007f")
}

fn list<T: AsRef<str>>(items: &[T]) -> String {
    let items: Vec<String> = items.iter().map(|item| quote(item.as_ref())).collect();
    format!("[{}]", items.join(", "))
}

fn lines<T: AsRef<str>>(out: &mut String, key: &str, items: &[T]) {
    if items.is_empty() {
        return;
    }
    let _ = writeln!(out, "{key} = [");
    for item in items {
        let _ = writeln!(out, "    {},", quote(item.as_ref()));
    }
    out.push_str("]\n");
}

impl LockedBase {
    /// Returns true if layers and facts are known.
    pub fn is_complete(&self) -> bool {
        self.layers.is_some()
    }

    fn write(&self, out: &mut String) {
        let _ = write!(out, "\n[[base]]\nname = {}\nplatform = \"{}\"\n", quote(&self.name), self.platform);
        if let Some(index) = &self.index {
            let _ = writeln!(out, "index = \"{index}\"");
        }
        let _ = writeln!(out, "manifest = \"{}\"", self.manifest);
        if let Some(layers) = self.layers {
            let _ = writeln!(out, "layers = {layers}");
        }
        if let Some(snapshot) = self.snapshot {
            let _ = writeln!(out, "snapshot = {snapshot}");
        }
        tables(out, "archives", &self.archives, LockedSuite::fields);
        tables(out, "packages", &self.packages, LockedDeb::fields);
        out.push_str("\n[base.facts]\n");
        self.facts.write(out);
    }
}

impl BaseFacts {
    fn write(&self, out: &mut String) {
        if let Some(distribution) = &self.distribution {
            let _ = writeln!(out, "distribution = {}", quote(distribution));
        }
        if let Some(libc) = &self.libc {
            let family = match libc.family {
                crate::base::LibcFamily::Glibc => "glibc",
                crate::base::LibcFamily::Musl => "musl",
            };
            let _ = writeln!(out, "libc = {{ family = \"{family}\", version = {} }}", quote(&libc.version));
        }
        lines(out, "passwd", &self.passwd);
        lines(out, "group", &self.group);
        lines(out, "shadow", &self.shadow);
        lines(out, "account-files", &self.account_files.iter().map(ToString::to_string).collect::<Vec<_>>());
        tables(out, "skeleton", &self.skeleton, |file| {
            let field = |key: &str, text: &Option<String>| {
                text.as_ref().map_or_else(String::new, |text| format!(", {key} = {}", one_line(text)))
            };
            let more = field("text", &file.text) + &field("link", &file.link);
            format!("path = {}, mode = 0o{:o}{more}", quote(&file.path), file.mode)
        });
        lines(out, "links", &self.links.iter().map(ToString::to_string).collect::<Vec<_>>());
        lines(out, "directories", &self.directories.iter().map(ToString::to_string).collect::<Vec<_>>());
        lines(out, "folders", &self.folders.iter().map(ToString::to_string).collect::<Vec<_>>());
        let site = |path: &Option<String>| {
            path.as_ref().map_or_else(String::new, |path| format!(", site-packages = {}", quote(path)))
        };
        if let Some(depth) = self.folder_depth {
            let _ = writeln!(out, "folder-depth = {depth}");
        }
        lines(out, "programs", &self.programs.iter().map(ToString::to_string).collect::<Vec<_>>());
        for (key, value) in [("path", &self.path), ("user", &self.user), ("workdir", &self.workdir)] {
            if let Some(value) = value {
                let _ = writeln!(out, "{key} = {}", quote(value));
            }
        }
        let more = |key: &str, texts: &[String]| {
            if texts.is_empty() { String::new() } else { format!(", {key} = {}", list(texts)) }
        };
        tables(out, "interpreters", &self.interpreters, |found| {
            let environment = if found.environment { ", environment = true" } else { "" };
            let (path, version) = (quote(&found.path), quote(&found.version));
            let names = more("names", &found.names);
            format!("path = {path}, version = {version}{}{names}{environment}", site(&found.site_packages))
        });
        tables(out, "distributions", &self.distributions, |found| {
            let size = found.size.map_or_else(String::new, |size| format!(", size = {size}"));
            let (location, name, version) = (quote(&found.location), quote(&found.name), quote(&found.version));
            let metadata =
                found.metadata.as_ref().map_or_else(String::new, |name| format!(", metadata = {}", quote(name)));
            let lists = [
                more("modules", &found.modules),
                more("shared", &found.shared),
                more("requires", &found.requires),
                more("extras", &found.extras),
                more("scripts", &found.scripts),
            ];
            format!("location = {location}, name = {name}, version = {version}{size}{metadata}{}", lists.concat())
        });
    }
}

fn tables<T>(out: &mut String, key: &str, items: &[T], fields: impl Fn(&T) -> String) {
    if items.is_empty() {
        return;
    }
    let _ = writeln!(out, "{key} = [");
    for item in items {
        let _ = writeln!(out, "    {{ {} }},", fields(item));
    }
    out.push_str("]\n");
}

impl LockedImage {
    fn write(&self, out: &mut String) {
        let _ = write!(out, "\n[[image]]\nname = {}\nplatform = \"{}\"\n", quote(&self.name), self.platform,);
        if !self.variant.is_empty() {
            let _ = writeln!(out, "variant = {}", quote(&self.variant));
        }
        let _ = writeln!(out, "inputs = {}", quote(&self.inputs));
        if !self.requirements.is_empty() {
            let _ = writeln!(out, "requirements = {}", list(&self.requirements));
        }
        if !self.gives_way.is_empty() {
            let _ = writeln!(out, "gives-way = {}", list(&self.gives_way));
        }
        tables(out, "packages", &self.packages, |package| {
            let (name, version) = (quote(&package.name), quote(&package.version));
            format!("name = {name}, version = {version}, wheel = \"{}\"", package.wheel)
        });
    }
}

impl LockedWheel {
    fn write(&self, out: &mut String) {
        let _ = write!(out, "\n[[wheel]]\nfile = {}\nsha256 = \"{}\"\n", quote(&self.file), self.sha256);
        if let Some(size) = self.size {
            let _ = writeln!(out, "size = {size}");
        }
        for (key, value) in [("url", &self.url), ("path", &self.path), ("publisher", &self.publisher)] {
            if let Some(value) = value {
                let _ = writeln!(out, "{key} = {}", quote(value));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::{Distribution, Interpreter, Libc, LibcFamily, SkeletonFile};

    fn example() -> Lock {
        let platform: Platform = "linux/amd64".parse().unwrap();
        let wheel = Digest::of(b"wheel");
        let facts = BaseFacts {
            distribution: Some("debian 12".into()),
            libc: Some(Libc { family: LibcFamily::Glibc, version: "2.36".into() }),
            interpreters: vec![Interpreter {
                path: "/usr/bin/python3.11".into(),
                version: "3.11.2".into(),
                names: vec!["/usr/bin/python3".into()],
                ..Interpreter::default()
            }],
            distributions: vec![Distribution {
                location: "/usr/lib/python3/dist-packages".into(),
                name: "six".into(),
                version: "1.16.0".into(),
                size: Some(7),
                metadata: Some("Six-1.16.0.egg-info".into()),
                modules: vec!["six".into()],
                shared: vec!["nvidia".into()],
                requires: vec!["a>=1; os_name == 'posix'".into()],
                extras: vec!["b; extra == \"x\"".into()],
                scripts: vec!["six = six:main".into()],
            }],
            passwd: vec!["root:x:0:0:root:/root:/bin/bash".into()],
            shadow: vec!["root:*:3652:0:99999:7:::".into()],
            skeleton: vec![SkeletonFile {
                path: ".profile".into(),
                mode: 0o644,
                text: Some("a\t'b'\n\"\u{7f}\n".into()),
                link: None,
            }],
            links: vec!["/bin -> usr/bin".parse().unwrap()],
            directories: vec!["/tmp 1777 0:0".parse().unwrap()],
            folders: vec!["tmp".parse().unwrap(), "usr(bin lib(python3))".parse().unwrap()],
            ..BaseFacts::default()
        };
        Lock {
            version: VERSION,
            native_gpus: vec!["sm_90".into()],
            sources: vec![LockedSource {
                git: Some("https://example.org/\"x\"".into()),
                rev: Some("v1".into()),
                commit: Some("0".repeat(40)),
                url: None,
                files: vec![SourceFile { path: "a/requirements.txt".into(), sha256: wheel }],
            }],
            bases: vec![LockedBase {
                name: "debian bookworm python3".into(),
                platform,
                index: Some(Digest::of(b"index")),
                manifest: Digest::of(b"base"),
                layers: Some(1),
                snapshot: Some(1_700_000_000),
                archives: vec![LockedSuite {
                    uri: "https://example.org/debian".into(),
                    suite: "bookworm".into(),
                    date: 1_600_000_000,
                }],
                packages: vec![LockedDeb {
                    name: "python3".into(),
                    version: "3.11.2-1+b1".into(),
                    architecture: "amd64".into(),
                    sha256: Digest::of(b"deb"),
                    size: 26_300,
                    url: "https://example.org/debian/pool/python3_3.11.2-1+b1_amd64.deb".into(),
                    base: true,
                }],
                facts,
            }],
            systems: vec![LockedSystem {
                image: "torch".into(),
                platform,
                inputs: "01".into(),
                archives: Vec::new(),
                packages: vec![LockedDeb {
                    name: "libgl1".into(),
                    version: "1.6.0-1".into(),
                    architecture: "amd64".into(),
                    sha256: Digest::of(b"other"),
                    size: 88,
                    url: "https://example.org/debian/pool/libgl1_1.6.0-1_amd64.deb".into(),
                    base: false,
                }],
            }],
            images: vec![LockedImage {
                name: "torch".into(),
                platform,
                variant: "cu126".into(),
                inputs: "00".into(),
                requirements: vec!["six".into(), "a ; sys_platform == \"linux\"".into()],
                gives_way: vec!["numpy for train".into()],
                packages: vec![LockedPackage { name: "six".into(), version: "1.17.0".into(), wheel }],
            }],
            wheels: vec![LockedWheel {
                file: "six-1.17.0-py2.py3-none-any.whl".into(),
                sha256: wheel,
                size: Some(11_050),
                url: None,
                path: Some("wheels/six-1.17.0-py2.py3-none-any.whl".into()),
                publisher: Some("GitHub acme/engine release.yml".into()),
                indexes: Vec::new(),
            }],
        }
    }

    #[test]
    fn a_lock_reads_what_it_writes() {
        let lock = example();
        assert_eq!(Lock::parse(&lock.text()).unwrap(), lock);
    }

    #[test]
    fn the_format_is_pinned() {
        insta::assert_snapshot!(example().text());
    }

    #[test]
    fn lines_about_packages_of_former_versions_are_read_over() {
        let text = example().text();
        let (before, rest) = text.split_once("packages = [").unwrap();
        let (_, after) = rest.split_once("]\n").unwrap();
        let former = format!("{before}packages = [\n    \"python3 3.11.2-1+b1 amd64 00\",\n]\n{after}");
        let former = former.replace("version = 4", "version = 3");
        assert_eq!(Lock::parse(&former).unwrap().bases[0].packages, []);
    }

    #[test]
    fn another_version_is_refused_before_anything_else_is_read() {
        let error = Lock::parse("version = 9\nsomething-new = true\n").unwrap_err();
        assert_eq!(error.to_string(), "the lock has format version 9, and this kiln reads version 4");
    }

    #[test]
    fn damage_is_named_with_its_line() {
        let text = example().text().replace("size = 11050", "size = \"eleven\"");
        let error = Lock::parse(&text).unwrap_err().to_string();
        assert!(error.starts_with("the lock is damaged at line "), "{error}");
    }

    #[test]
    fn a_package_without_its_wheel_is_damage() {
        let mut lock = example();
        lock.wheels.clear();
        assert!(matches!(Lock::parse(&lock.text()), Err(LockError::Damaged { .. })));
    }
}
