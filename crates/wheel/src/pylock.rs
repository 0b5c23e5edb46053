//! `pylock.toml` (PEP 751): what uv writes when it resolves, and what users may already have.

use kiln_plan::digest::Digest;
use pep508_rs::{MarkerEnvironment, MarkerEnvironmentBuilder, MarkerTree};
use serde::Deserialize;

use kiln_plan::platform::Platform;

use crate::name::WheelName;
use crate::tags::Tags;

/// A package that a lock names, with the wheels there are of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedPackage {
    /// Normalised name.
    pub name: String,
    /// Version; a lock may leave it out where a wheel's file name tells.
    pub version: Option<String>,
    /// Its wheels.
    pub wheels: Vec<WheelFile>,
}

/// A wheel that a lock names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WheelFile {
    /// File name.
    pub file: String,
    /// Where it is: a URL (also `file:`), or a path relative to the lock.
    pub location: String,
    /// Size in bytes, where told.
    pub size: Option<u64>,
    /// Its digest.
    pub sha256: Digest,
}

/// Why a lock cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct PylockError(pub String);

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct File {
    #[serde(default)]
    packages: Vec<Package>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Package {
    name: String,
    version: Option<String>,
    marker: Option<String>,
    #[serde(default)]
    wheels: Vec<Wheel>,
    archive: Option<Wheel>,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Wheel {
    name: Option<String>,
    url: Option<String>,
    path: Option<String>,
    size: Option<u64>,
    #[serde(default)]
    hashes: std::collections::BTreeMap<String, String>,
}

/// Reads the packages whose markers hold in an environment.
pub fn parse(text: &str, environment: &MarkerEnvironment) -> Result<Vec<LockedPackage>, PylockError> {
    let file: File = toml::from_str(text).map_err(|error| PylockError(error.message().to_owned()))?;
    let mut packages = Vec::new();
    for package in file.packages {
        if let Some(marker) = &package.marker {
            let tree: MarkerTree = marker
                .parse()
                .map_err(|_| PylockError(format!("`{}` has the unreadable marker `{marker}`", package.name)))?;
            if !tree.evaluate(environment, &[]) {
                continue;
            }
        }
        let files = package.wheels.iter().chain(package.archive.as_ref());
        let wheels = files.filter_map(|wheel| wheel_file(wheel).transpose()).collect::<Result<_, _>>()?;
        packages.push(LockedPackage { name: normalise(&package.name)?, version: package.version, wheels });
    }
    Ok(packages)
}

fn normalise(name: &str) -> Result<String, PylockError> {
    crate::name_of(name)
        .map(|name| name.to_string())
        .ok_or_else(|| PylockError(format!("`{name}` is not a package name")))
}

fn wheel_file(wheel: &Wheel) -> Result<Option<WheelFile>, PylockError> {
    let Some(location) = wheel.url.clone().or_else(|| wheel.path.clone()) else { return Ok(None) };
    let file = wheel.name.clone().unwrap_or_else(|| file_name(&location));
    if !file.ends_with(".whl") {
        return Ok(None);
    }
    let sha256 =
        wheel.hashes.get("sha256").and_then(|hex| Digest::from_hex(hex).ok()).ok_or_else(|| {
            PylockError(format!("`{file}` has no sha256, so that nothing could be checked against it"))
        })?;
    Ok(Some(WheelFile { file, location, size: wheel.size, sha256 }))
}

/// The last component of a URL or path, percent-decoded.
pub fn file_name(location: &str) -> String {
    let end = location.find(['?', '#']).filter(|_| location.contains("://")).unwrap_or(location.len());
    let name = location[..end].rsplit('/').next().unwrap_or_default();
    String::from_utf8_lossy(&percent_decoded(name)).into_owned()
}

/// The bytes of percent-encoded text.
pub(crate) fn percent_decoded(text: &str) -> Vec<u8> {
    let mut bytes = Vec::new();
    let mut rest = text.as_bytes();
    while let Some((&first, tail)) = rest.split_first() {
        let code = tail.get(..2).and_then(|hex| std::str::from_utf8(hex).ok());
        let code = code.filter(|hex| first == b'%' && hex.bytes().all(|digit| digit.is_ascii_hexdigit()));
        match code.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &tail[2..];
            }
            None => {
                bytes.push(first);
                rest = tail;
            }
        }
    }
    bytes
}

/// The best wheel for an interpreter and platform; of equal ones the first that is local.
pub fn best<'a>(wheels: &'a [WheelFile], tags: &Tags) -> Option<&'a WheelFile> {
    wheels
        .iter()
        .filter_map(|wheel| {
            let name: WheelName = wheel.file.parse().ok()?;
            Some(((tags.fit(&name)?, !is_local(&wheel.location)), wheel))
        })
        .min_by(|a, b| a.0.cmp(&b.0))
        .map(|(_, wheel)| wheel)
}

/// Whether a location is on this machine.
pub fn is_local(location: &str) -> bool {
    location.starts_with("file:") || !location.contains("://")
}

/// A version with its patch release; the first where none is told.
pub fn full_version(python: &str) -> String {
    if python.split('.').count() > 2 { python.to_owned() } else { format!("{python}.0") }
}

/// The environment that markers are evaluated in (PEP 508): CPython `3.{minor}` on Linux.
pub fn environment(python: &str, full_version: &str, platform: Platform) -> Result<MarkerEnvironment, PylockError> {
    let full = self::full_version(full_version);
    MarkerEnvironment::try_from(MarkerEnvironmentBuilder {
        implementation_name: "cpython",
        implementation_version: &full,
        os_name: "posix",
        platform_machine: platform.cpu.machine(),
        platform_python_implementation: "CPython",
        platform_release: "",
        platform_system: "Linux",
        platform_version: "",
        python_full_version: &full,
        python_version: python,
        sys_platform: "linux",
    })
    .map_err(|error| PylockError(error.to_string()))
}

#[cfg(test)]
mod tests {
    use kiln_plan::base::{Libc, LibcFamily};

    use super::*;

    const TEXT: &str = r#"
lock-version = "1.0"
created-by = "uv"

[[packages]]
name = "Awk_ward"
version = "1.0"
marker = "sys_platform == 'linux'"
wheels = [
    { url = "https://example.org/a%2Bb/awk_ward-1.0%2Bcu130-py3-none-any.whl", size = 5, hashes = { sha256 = "00" } },
]

[[packages]]
name = "winonly"
version = "1.0"
marker = "sys_platform == 'win32'"
wheels = []
"#;

    fn linux() -> MarkerEnvironment {
        environment("3.11", "3.11.2", "linux/amd64".parse().unwrap()).unwrap()
    }

    #[test]
    fn only_packages_whose_markers_hold_are_read() {
        let text = TEXT.replace("\"00\"", &format!("\"{}\"", "0".repeat(64)));
        let packages = parse(&text, &linux()).unwrap();
        assert_eq!(packages.len(), 1);
        assert_eq!((packages[0].name.as_str(), packages[0].wheels[0].size), ("awk-ward", Some(5)));
        assert_eq!(packages[0].wheels[0].file, "awk_ward-1.0+cu130-py3-none-any.whl");
    }

    #[test]
    fn a_wheel_without_a_sha256_is_refused() {
        assert!(parse(TEXT, &linux()).unwrap_err().0.contains("has no sha256"));
    }

    #[test]
    fn a_local_wheel_is_preferred_to_the_same_on_an_index() {
        let file = |location: &str| WheelFile {
            file: "a-1-py3-none-any.whl".into(),
            location: location.into(),
            size: None,
            sha256: Digest::of(b""),
        };
        let libc = Libc { family: LibcFamily::Glibc, version: "2.36".into() };
        let tags = Tags::new(11, "linux/amd64".parse().unwrap(), Some(&libc));
        let wheels = [file("https://example.org/a"), file("file:///a")];
        assert_eq!(best(&wheels, &tags), Some(&wheels[1]));
    }
}
