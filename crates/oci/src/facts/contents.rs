//! Which files of a base are of interest, and what is read of each while it passes by.
//!
//! Nothing is kept whole but a few small configuration files: of a package database, a C library or a `RECORD` only the
//! facts are held, so that a base of any size costs little memory.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read};

use kiln_plan::base::Attributes;
use kiln_wheel::metadata::EntryPoint;

use crate::names;

/// The largest configuration file that is kept whole.
const MAX_TEXT: u64 = 4 * 1024 * 1024;

/// The largest file of a skeleton that is taken.
const MAX_SKELETON: u64 = 16 * 1024;

/// How much of a distribution's metadata is read: name and version stand at its start (PEP 566).
const MAX_METADATA: u64 = 64 * 1024;

/// Bytes of a list of installed files that are read: the largest seen has 8 MB.
const MAX_LISTING: u64 = 32 * 1024 * 1024;

/// How much of one line is looked at.
const MAX_LINE: usize = 64 * 1024;

/// Files of one distribution that are looked at for modules.
const MAX_MODULE_FILES: usize = 100_000;

/// Bytes of an `__init__.py` that are looked at: those of namespaces are one line.
const MAX_INIT: u64 = 4 * 1024;

/// Requirements of one distribution that are kept, and of its extras.
const MAX_EXTRAS: usize = 200;

/// Scripts or modules of one distribution that are kept.
const MAX_SCRIPTS: usize = 256;

/// How many packages of one database are kept.
const MAX_PACKAGES: usize = 1024;

/// A file that is of interest by its path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Interest {
    Text,
    Account,
    Skeleton,
    DpkgStatus,
    ApkDatabase,
    Glibc,
    Musl,
    PatchLevel,
    Metadata,
    Record,
    EntryPoints,
    TopLevel,
    Requires,
    Package,
    Listing,
    Presence,
}

/// What was read of a file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Content {
    Text(String),
    /// Attributes and content of a file of users or groups. Bytes that are not UTF-8 are held as names are.
    Account(Attributes, String),
    /// Mode and content of a file of `/etc/skel`; no content where that is no text or large.
    Skeleton(u32, Option<String>),
    /// Versions of the packages of a database that bring Python or musl.
    Packages(BTreeMap<String, String>),
    /// `MAJOR.MINOR` as the library tells it.
    Glibc(Option<String>),
    /// `MAJOR.MINOR` as the library tells it.
    Musl(Option<String>),
    /// `PY_VERSION` of `patchlevel.h`.
    PatchLevel(Option<String>),
    /// Headers of the metadata of a Python distribution.
    Metadata(Option<Headers>),
    Record(Recorded),
    /// The scripts of a distribution's entry points, as `NAME = MODULE:ATTRIBUTE`.
    EntryPoints(Vec<String>),
    /// The modules at the top of a distribution, as setuptools lists them.
    TopLevel(Vec<String>),
    /// The requirements of a distribution, as setuptools lists them: its own, and those of its extras.
    Requires(Vec<String>, Vec<String>),
    /// The `__init__.py` of a package at the top: whether it lets other directories of `sys.path` have parts of it.
    Package(bool),
    /// It exists, which is all there is to know.
    Presence,
}

/// The headers of a distribution's metadata that matter.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Headers {
    /// As written.
    pub(crate) name: String,
    pub(crate) version: String,
    /// Requirements, without those of extras.
    pub(crate) requires: Vec<String>,
    /// Requirements of extras.
    pub(crate) extras: Vec<String>,
}

/// The facts of a `RECORD`.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub(crate) struct Recorded {
    /// The sum of the sizes that it states, in bytes.
    pub(crate) size: u64,
    /// Modules of its files.
    pub(crate) modules: Vec<String>,
    /// Modules in those at the top, in case these are namespaces.
    pub(crate) inner: Vec<String>,
    /// Packages with an empty `__init__`.
    pub(crate) shared: Vec<String>,
}

/// A file of interest that cannot be read.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ContentError {
    #[error(transparent)]
    Read(#[from] io::Error),
    #[error("the file is larger than {MAX_TEXT} bytes")]
    TooLarge,
}

impl Interest {
    /// What is of interest about the file at this path, if anything.
    pub(crate) fn in_path(path: &[u8]) -> Option<Self> {
        let path = std::str::from_utf8(path).ok()?;
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
        match path {
            "etc/ld.so.conf" => return Some(Self::Text),
            _ if path.starts_with("etc/skel/") => return Some(Self::Skeleton),
            "var/lib/dpkg/status" => return Some(Self::DpkgStatus),
            "lib/apk/db/installed" | "usr/lib/apk/db/installed" => return Some(Self::ApkDatabase),
            _ => {}
        }
        let is_environment = || {
            let location = if name.ends_with(".egg-info") { Some(folder) } else { parent(folder) };
            location.is_some_and(is_environment)
        };
        match name {
            // They may be links, or lie behind one: to `/usr/etc`, or to `/usr/lib` (nss-altfiles).
            "passwd" | "group" | "shadow" if matches!(folder, "etc" | "usr/etc" | "lib" | "usr/lib") => {
                Some(Self::Account)
            }
            "os-release" => Some(Self::Text),
            _ if name.ends_with(".conf") && last(folder) == "ld.so.conf.d" => Some(Self::Text),
            _ if folder == "var/lib/dpkg/status.d" && !name.ends_with(".md5sums") => Some(Self::DpkgStatus),
            _ if is_glibc(name) => Some(Self::Glibc),
            _ if name.starts_with("ld-musl-") && name.ends_with(".so.1") => Some(Self::Musl),
            "patchlevel.h" if last(folder).starts_with("python3.") => Some(Self::PatchLevel),
            "METADATA" if folder.ends_with(".dist-info") && is_environment() => Some(Self::Metadata),
            "PKG-INFO" if folder.ends_with(".egg-info") && is_environment() => Some(Self::Metadata),
            "RECORD" if folder.ends_with(".dist-info") && is_environment() => Some(Self::Record),
            "entry_points.txt" if is_metadata(folder) && is_environment() => Some(Self::EntryPoints),
            "top_level.txt" if folder.ends_with(".egg-info") && is_environment() => Some(Self::TopLevel),
            "requires.txt" if folder.ends_with(".egg-info") && is_environment() => Some(Self::Requires),
            "__init__.py" if is_environment() => Some(Self::Package),
            _ if name.ends_with(".egg-info") && is_environment() => Some(Self::Metadata),
            "pyvenv.cfg" => Some(Self::Presence),
            "apt-get" | "apk" | "dnf" | "microdnf" | "zypper" | "pacman" => Some(Self::Presence),
            // Interpreters, and what links named after an interpreter lead to.
            _ if ["python", "platform-python", "pypy"].iter().any(|start| name.starts_with(start)) => {
                Some(Self::Presence)
            }
            _ => None,
        }
    }

    /// Reads what is of interest.
    pub(crate) fn read(self, reader: impl Read) -> Result<Content, ContentError> {
        Ok(match self {
            Self::Text => Content::Text(String::from_utf8_lossy(&whole(reader)?).into_owned()),
            Self::Account => {
                let bytes = whole(reader)?;
                let text = names::text(&bytes).unwrap_or_else(|| String::from_utf8_lossy(&bytes).into_owned());
                Content::Account(Attributes::default(), text)
            }
            Self::Skeleton => {
                let mut bytes = Vec::new();
                reader.take(MAX_SKELETON + 1).read_to_end(&mut bytes)?;
                let small = bytes.len() as u64 <= MAX_SKELETON && !bytes.contains(&0);
                Content::Skeleton(0, String::from_utf8(bytes).ok().filter(|_| small))
            }
            Self::DpkgStatus => Content::Packages(stanzas(reader, "Package: ", "Version: ")?),
            Self::ApkDatabase => Content::Packages(stanzas(reader, "P:", "V:")?),
            Self::Glibc => Content::Glibc(glibc_version(reader)?),
            Self::Musl => Content::Musl(musl_version(reader)?),
            Self::PatchLevel => Content::PatchLevel(patch_level(reader)?),
            Self::Metadata => Content::Metadata(metadata(reader)?),
            Self::Record => record(reader)?,
            Self::EntryPoints => Content::EntryPoints(scripts(reader)?),
            Self::TopLevel => Content::TopLevel(top_level(reader)?),
            Self::Requires => requires(reader)?,
            Self::Package => {
                let mut text = Vec::new();
                reader.take(MAX_INIT).read_to_end(&mut text)?;
                Content::Package(kiln_wheel::modules::declares_namespace(&text))
            }
            Self::Listing => {
                let mut bytes = Vec::new();
                reader.take(MAX_LISTING).read_to_end(&mut bytes)?;
                Content::Text(String::from_utf8_lossy(&bytes).into_owned())
            }
            Self::Presence => Content::Presence,
        })
    }
}

/// Reads a file of text.
fn whole(reader: impl Read) -> Result<Vec<u8>, ContentError> {
    let mut bytes = Vec::new();
    reader.take(MAX_TEXT + 1).read_to_end(&mut bytes)?;
    if bytes.len() as u64 > MAX_TEXT { Err(ContentError::TooLarge) } else { Ok(bytes) }
}

impl Content {
    /// Bytes that it takes in memory, roughly.
    pub(crate) fn cost(&self) -> usize {
        match self {
            Self::Text(text) | Self::Account(_, text) | Self::Skeleton(_, Some(text)) => text.len(),
            Self::Packages(packages) => packages.iter().map(|(name, version)| name.len() + version.len() + 64).sum(),
            Self::Metadata(Some(Headers { name, version, requires, extras })) => {
                name.len() + version.len() + texts([requires, extras])
            }
            Self::Record(Recorded { modules, inner, shared, .. }) => texts([modules, inner, shared]),
            Self::EntryPoints(found) | Self::TopLevel(found) => texts([found]),
            Self::Requires(own, extras) => texts([own, extras]),
            _ => 0,
        }
    }
}

/// Returns the bytes that lists of text take, roughly.
fn texts<const N: usize>(lists: [&Vec<String>; N]) -> usize {
    lists.into_iter().flatten().map(|text| text.len() + 24).sum()
}

/// `libc.so.6`, or `libc-2.31.so` as glibc named its file until 2.34.
pub(crate) fn is_glibc(name: &str) -> bool {
    name == "libc.so.6" || glibc_version_in_name(name).is_some()
}

/// `2.31` of `libc-2.31.so`.
pub(crate) fn glibc_version_in_name(name: &str) -> Option<String> {
    major_minor(name.strip_prefix("libc-")?.strip_suffix(".so")?)
}

/// `MAJOR.MINOR` at the start of a version, if it starts with one.
pub(crate) fn major_minor(version: &str) -> Option<String> {
    let release = release(version);
    let mut numbers = release.split('.');
    match (numbers.next(), numbers.next()) {
        (Some(major), Some(minor)) if !major.is_empty() && !minor.is_empty() => Some(format!("{major}.{minor}")),
        _ => None,
    }
}

/// The digits and dots at the start of a version: `3.11.2` of `3.11.2-6+deb12u6`.
pub(crate) fn release(version: &str) -> &str {
    let end =
        version.find(|character: char| !(character.is_ascii_digit() || character == '.')).unwrap_or(version.len());
    version.get(..end).unwrap_or_default().trim_end_matches('.')
}

/// Whether a folder is where a Python environment installs: `…/lib/python3*/{site,dist}-packages`.
fn is_environment(folder: &str) -> bool {
    let mut names = folder.rsplit('/');
    matches!(names.next(), Some("site-packages" | "dist-packages"))
        && names.next().is_some_and(|name| name.starts_with("python3"))
        && matches!(names.next(), Some("lib" | "lib64"))
}

fn parent(path: &str) -> Option<&str> {
    path.rsplit_once('/').map(|(parent, _)| parent)
}

fn is_metadata(folder: &str) -> bool {
    folder.ends_with(".dist-info") || folder.ends_with(".egg-info")
}

fn last(path: &str) -> &str {
    path.rsplit_once('/').map_or(path, |(_, name)| name)
}

/// Calls `each` for every line, without its end and cut at [`MAX_LINE`], until it returns false.
fn lines(reader: impl Read, mut each: impl FnMut(&str) -> bool) -> io::Result<()> {
    let mut reader = BufReader::with_capacity(MAX_LINE, reader);
    let mut line = Vec::new();
    loop {
        line.clear();
        if reader.by_ref().take(MAX_LINE as u64).read_until(b'\n', &mut line)? == 0 {
            return Ok(());
        }
        if line.last() != Some(&b'\n') {
            reader.skip_until(b'\n')?;
        }
        if !each(String::from_utf8_lossy(&line).trim_end_matches(['\n', '\r'])) {
            return Ok(());
        }
    }
}

/// Reads the database of a package manager: stanzas with a blank line between, a name and a version in each.
fn stanzas(reader: impl Read, name_field: &str, version_field: &str) -> io::Result<BTreeMap<String, String>> {
    let of_interest = |name: &str| name == "musl" || name.starts_with("python3") || name.starts_with("libpython3.");
    let mut packages = BTreeMap::new();
    let (mut name, mut installed) = (String::new(), true);
    lines(reader, |line| {
        if line.is_empty() {
            name.clear();
            installed = true;
        } else if let Some(value) = line.strip_prefix(name_field) {
            name = value.trim().to_owned();
        } else if let Some(state) = line.strip_prefix("Status: ") {
            installed = state.trim().ends_with(" installed");
        } else if let Some(version) = line.strip_prefix(version_field)
            && installed
            && of_interest(&name)
            && packages.len() < MAX_PACKAGES
        {
            packages.insert(name.clone(), version.trim().to_owned());
        }
        true
    })?;
    Ok(packages)
}

/// Reads `GNU C Library (Debian GLIBC 2.36-9+deb12u10) stable release version 2.36.` out of the library.
fn glibc_version(reader: impl Read) -> io::Result<Option<String>> {
    let mut version = None;
    scan(reader, |window| {
        let text = after(window, b"GNU C Library").and_then(|rest| {
            let banner = rest.get(..256).unwrap_or(rest);
            after(banner, b"release version ").map(|rest| rest.get(..16).unwrap_or(rest))
        });
        version = text.and_then(|text| major_minor(&String::from_utf8_lossy(text)));
        version.is_none()
    })?;
    Ok(version)
}

/// Finds the version that musl's loader holds, a string of its own such as `1.2.5`.
fn musl_version(reader: impl Read) -> io::Result<Option<String>> {
    let (mut is_musl, mut version) = (false, None);
    scan(reader, |window| {
        is_musl |= after(window, b"musl libc").is_some();
        if version.is_none() {
            version = window
                .split(|byte| *byte == 0)
                .filter(|text| (5..=12).contains(&text.len()) && text.starts_with(b"1."))
                .filter_map(|text| std::str::from_utf8(text).ok())
                .find(|text| text.split('.').count() == 3 && release(text) == *text)
                .and_then(major_minor);
        }
        !(is_musl && version.is_some())
    })?;
    Ok(version.filter(|_| is_musl))
}

/// Shows all bytes in overlapping windows, until `more` returns false.
fn scan(mut reader: impl Read, mut more: impl FnMut(&[u8]) -> bool) -> io::Result<()> {
    const WINDOW: u64 = 64 * 1024;
    const OVERLAP: usize = 512;
    let mut window = Vec::new();
    while reader.by_ref().take(WINDOW).read_to_end(&mut window)? > 0 {
        if !more(&window) {
            break;
        }
        window.drain(..window.len().saturating_sub(OVERLAP));
    }
    Ok(())
}

fn after<'a>(bytes: &'a [u8], needle: &[u8]) -> Option<&'a [u8]> {
    let at = bytes.windows(needle.len()).position(|window| window == needle)?;
    bytes.get(at + needle.len()..)
}

/// `#define PY_VERSION "3.11.2"`.
fn patch_level(reader: impl Read) -> io::Result<Option<String>> {
    let mut version = None;
    lines(reader, |line| {
        let mut words = line.split_whitespace();
        if words.next() == Some("#define") && words.next() == Some("PY_VERSION") {
            version = words.next().map(|word| release(word.trim_matches('"')).to_owned());
        }
        version.is_none()
    })?;
    Ok(version.filter(|version| !version.is_empty()))
}

fn metadata(reader: impl Read) -> io::Result<Option<Headers>> {
    let (mut name, mut version, mut requires, mut extras) = (None, None, Vec::new(), Vec::new());
    lines(reader.take(MAX_METADATA), |line| {
        if let Some((key, value)) = line.split_once(':') {
            let text = || Some(value.trim().to_owned());
            if name.is_none() && key.eq_ignore_ascii_case("name") {
                name = text();
            } else if version.is_none() && key.eq_ignore_ascii_case("version") {
                version = text();
            } else if key.eq_ignore_ascii_case("requires-dist") {
                let list = if is_of_extra(value) { &mut extras } else { &mut requires };
                list.extend(text().filter(|_| list.len() < MAX_EXTRAS));
            }
        }
        !line.is_empty()
    })?;
    let (Some(name), Some(version)) = (name, version) else { return Ok(None) };
    Ok(Some(Headers { name, version, requires, extras })
        .filter(|found| is_name(&found.name) && !found.version.is_empty()))
}

/// Reads `requires.txt`: sections are `[EXTRA]`, `[:MARKER]` or `[EXTRA:MARKER]` (setuptools, "The Internal Structure of Python Eggs").
fn requires(reader: impl Read) -> io::Result<Content> {
    let (mut own, mut extras, mut section) = (Vec::new(), Vec::new(), (String::new(), String::new()));
    lines(reader.take(MAX_METADATA), |line| {
        let line = line.trim();
        if let Some(inner) = line.strip_prefix('[').and_then(|line| line.strip_suffix(']')) {
            let (extra, marker) = inner.split_once(':').unwrap_or((inner, ""));
            section = (extra.trim().to_owned(), marker.trim().to_owned());
        } else if !line.is_empty() && !line.starts_with('#') {
            let (extra, marker) = &section;
            let (requirement, inline) = line.split_once(';').unwrap_or((line, ""));
            let inline = [inline.trim(), marker.as_str()].into_iter().filter(|text| !text.is_empty());
            let mut conditions: Vec<String> = inline.map(|text| format!("({text})")).collect();
            conditions.extend((!extra.is_empty()).then(|| format!("extra == '{extra}'")));
            let end = if conditions.is_empty() { String::new() } else { format!(" ; {}", conditions.join(" and ")) };
            let list = if extra.is_empty() { &mut own } else { &mut extras };
            list.extend(Some(format!("{}{end}", requirement.trim())).filter(|_| list.len() < MAX_EXTRAS));
        }
        true
    })?;
    Ok(Content::Requires(own, extras))
}

/// Returns true for a requirement that is one of an extra alone.
fn is_of_extra(requirement: &str) -> bool {
    requirement.split_once(';').is_some_and(|(_, marker)| marker.contains("extra"))
}

/// A name that PEP 508 allows.
fn is_name(name: &str) -> bool {
    let outer = |byte: Option<&u8>| byte.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = name.as_bytes();
    outer(bytes.first())
        && outer(bytes.last())
        && bytes.iter().all(|byte| byte.is_ascii_alphanumeric() || b"._-".contains(byte))
}

/// Reads the lines of a `RECORD` (PEP 376): path, hash, size.
fn record(reader: impl Read) -> io::Result<Content> {
    let (mut sum, mut files) = (0_u64, Vec::new());
    lines(reader, |line| {
        let mut fields = line.rsplitn(3, ',');
        let size = fields.next().and_then(|size| size.trim().parse::<u64>().ok());
        sum = sum.saturating_add(size.unwrap_or(0));
        if let Some(path) = fields.nth(1).filter(|path| is_module_file(path)) {
            files.push((path.trim_matches('"').to_owned(), size.unwrap_or(1)));
        }
        files.len() < MAX_MODULE_FILES
    })?;
    let each = || files.iter().map(|(path, size)| (path.as_str(), *size));
    let is_inner = |(path, _): &(&str, u64)| path.match_indices('/').count() > 1;
    Ok(Content::Record(Recorded {
        size: sum,
        modules: kiln_wheel::modules::modules(each()),
        inner: kiln_wheel::modules::modules(each().filter(is_inner)),
        shared: kiln_wheel::modules::shared(each()),
    }))
}

/// Returns true for a file that may make a module: at the top, or the `__init__` of a package.
fn is_module_file(path: &str) -> bool {
    !path.contains('/') || last(path).starts_with("__init__.")
}

/// Reads the scripts of entry points; none of a file that is none.
fn scripts(reader: impl Read) -> io::Result<Vec<String>> {
    let mut text = Vec::new();
    reader.take(MAX_METADATA).read_to_end(&mut text)?;
    let points = kiln_wheel::metadata::entry_points(&text).unwrap_or_default();
    let script = |point: EntryPoint| format!("{} = {}:{}", point.name, point.module, point.attribute);
    Ok(points.into_iter().take(MAX_SCRIPTS).map(script).collect())
}

/// Reads the names of `top_level.txt`.
fn top_level(reader: impl Read) -> io::Result<Vec<String>> {
    let mut names = Vec::new();
    lines(reader.take(MAX_METADATA), |line| {
        let is_name = line.split('/').all(|part| !matches!(part, "" | "." | ".."));
        names.extend(Some(line.trim().to_owned()).filter(|_| is_name));
        names.len() < MAX_SCRIPTS
    })?;
    Ok(names)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_of_interest_are_told_by_their_path() {
        for (path, interest) in [
            ("usr/lib/os-release", Some(Interest::Text)),
            ("etc/ld.so.conf.d/cuda.conf", Some(Interest::Text)),
            ("home/etc/passwd", None),
            ("usr/etc/passwd", Some(Interest::Account)),
            ("lib/x86_64-linux-gnu/libc-2.31.so", Some(Interest::Glibc)),
            ("lib/x86_64-linux-gnu/libc-client.so", None),
            ("usr/lib/python3/dist-packages/six-1.16.0.egg-info", Some(Interest::Metadata)),
            ("usr/lib/python3/dist-packages/six.egg-info/PKG-INFO", Some(Interest::Metadata)),
            ("opt/v/lib64/python3.11/site-packages/six.dist-info/RECORD", Some(Interest::Record)),
            ("srv/six.dist-info/METADATA", None),
            ("usr/lib/python3/dist-packages/six.egg-info/requires.txt", Some(Interest::Requires)),
            ("usr/lib/python3/dist-packages/google/__init__.py", Some(Interest::Package)),
            ("usr/lib/python3/dist-packages/google/a/__init__.py", None),
            ("usr/local/include/python3.11/patchlevel.h", Some(Interest::PatchLevel)),
        ] {
            assert_eq!(Interest::in_path(path.as_bytes()), interest, "{path}");
        }
    }

    #[test]
    fn the_banner_of_glibc_is_found_across_windows() {
        for at in [0, 65_530, 131_000] {
            let mut bytes = vec![b'x'; at];
            bytes.extend_from_slice(b"GNU C Library (Debian GLIBC 2.36-9) stable release version 2.36.\n");
            assert_eq!(glibc_version(bytes.as_slice()).unwrap().as_deref(), Some("2.36"), "{at}");
        }
        assert_eq!(glibc_version([0; 100].as_slice()).unwrap(), None);
    }

    #[test]
    fn the_version_of_musl_is_found_in_its_loader() {
        let bytes = [b"\x7fELF\x001.2.5\0".as_slice(), &[0; 70_000], b"musl libc (x86_64)\nVersion %s\n"].concat();
        assert_eq!(musl_version(bytes.as_slice()).unwrap().as_deref(), Some("1.2"));
        assert_eq!(musl_version(b"\x001.2.5\0".as_slice()).unwrap(), None);
    }

    #[test]
    fn a_package_that_is_only_configured_is_not_there() {
        let status = "Package: python3.11-minimal\nStatus: deinstall ok config-files\nVersion: 3.11.2-6\n\n\
                      Package: python3.12-minimal\nStatus: install ok installed\nVersion: 3.12.3-1\n";
        let packages = stanzas(status.as_bytes(), "Package: ", "Version: ").unwrap();
        assert_eq!(packages.into_iter().collect::<Vec<_>>(), [("python3.12-minimal".into(), "3.12.3-1".into())]);
    }

    #[test]
    fn requirements_of_an_egg_have_the_markers_of_their_sections() {
        let text =
            "six>=1\n\n[:python_version < '3.8']\ntyping\n\n[Http]\nidna\n[x:sys_platform == 'win32']\nwin ; a\n";
        let Content::Requires(own, extras) = requires(text.as_bytes()).unwrap() else { panic!("no requirements") };
        assert_eq!(own, ["six>=1", "typing ; (python_version < '3.8')"]);
        assert_eq!(extras, ["idna ; extra == 'Http'", "win ; (a) and (sys_platform == 'win32') and extra == 'x'"]);
    }

    #[test]
    fn endless_lines_are_cut() {
        let text = format!("Name: {}\nVersion: 1\n", "x".repeat(1 << 20));
        let mut count = 0;
        lines(text.as_bytes(), |line| {
            count += 1;
            assert!(line.len() <= MAX_LINE);
            true
        })
        .unwrap();
        assert_eq!(count, 2);
    }

    #[test]
    fn a_configuration_file_without_end_is_refused() {
        assert!(matches!(Interest::Text.read(io::repeat(b'x')), Err(ContentError::TooLarge)));
    }
}
