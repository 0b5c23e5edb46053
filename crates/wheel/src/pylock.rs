//! `pylock.toml` (PEP 751): what uv writes when it resolves, and what users may already have.

mod written;

use kiln_plan::digest::Digest;
use pep440_rs::VersionSpecifiers;
use pep508_rs::{ExtraName, MarkerEnvironment, MarkerEnvironmentBuilder};

use kiln_plan::marker::{self, MarkerError};
use kiln_plan::platform::Platform;

use crate::name::WheelName;
use crate::tags::Tags;
use written::{File, Package, Wheel};

/// A package that a lock names, with the wheels there are of it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LockedPackage {
    /// Normalised name.
    pub name: String,
    /// Version; a lock may leave it out where a wheel's file name tells.
    pub version: Option<String>,
    /// Its wheels.
    pub wheels: Vec<WheelFile>,
    /// The source that it is built from, where a lock names no wheel: `a repository`.
    pub source: Option<&'static str>,
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

/// The reason for which a lock cannot be used.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{problem}")]
pub struct PylockError {
    /// A clause about the lock, `it ...`, or about a package.
    pub problem: String,
    /// The package.
    pub package: Option<String>,
    /// The lock does not offer what is chosen of it.
    pub is_choice: bool,
}

impl PylockError {
    fn whole(problem: impl Into<String>) -> Self {
        Self { problem: problem.into(), package: None, is_choice: false }
    }

    fn of(package: &str, problem: impl Into<String>) -> Self {
        Self { package: Some(package.to_owned()), ..Self::whole(problem) }
    }
}

/// Returns names for a message; `none` where there are none.
pub(crate) fn listed<'a>(names: impl IntoIterator<Item = &'a str>) -> String {
    let names: Vec<String> = names.into_iter().map(|name| format!("`{name}`")).collect();
    if names.is_empty() { "none".to_owned() } else { names.join(", ") }
}

/// The part of a lock that is installed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Choice<'a> {
    /// Dependency groups; nothing for those that the lock takes by default.
    pub groups: Option<&'a [String]>,
    /// Extras.
    pub extras: &'a [String],
}

/// Reads the packages whose markers hold in an environment, by the specification's rules for installers.
pub fn parse(
    text: &str,
    environment: &MarkerEnvironment,
    choice: Choice<'_>,
) -> Result<Vec<LockedPackage>, PylockError> {
    let file = File::read(text)?;
    let chosen = chosen(&file, environment, choice)?;
    let mut packages: Vec<LockedPackage> = Vec::new();
    for package in file.packages() {
        if let Some(marker) = &package.marker
            && !chosen.holds(marker, environment).map_err(|reason| {
                let problem = format!("`{}` has the marker `{marker}`, which is not taken: {reason}", package.name);
                PylockError::of(&package.name, problem)
            })?
        {
            continue;
        }
        let locked = locked(package, environment)?;
        if let Some(other) = packages.iter().find(|other| other.name == locked.name) {
            let [one, two] = [other, &locked].map(|package| package.version.as_deref().unwrap_or("?"));
            let problem = format!("it has {} twice for this environment: {one} and {two}", locked.name);
            return Err(PylockError::of(&locked.name, problem));
        }
        packages.push(locked);
    }
    Ok(packages)
}

/// Checks that a lock is for an environment, and finds what of it is installed.
fn chosen(file: &File, environment: &MarkerEnvironment, choice: Choice<'_>) -> Result<Chosen, PylockError> {
    let python = &environment.python_full_version().version;
    requires_python(file.requires_python.as_deref(), python)
        .map_err(|problem| PylockError::whole(format!("it {problem}")))?;
    let none = Chosen { groups: Vec::new(), extras: Vec::new() };
    let mut fits = file.environments.is_none();
    for marker in file.environments.iter().flatten() {
        fits |= none
            .holds(marker, environment)
            .map_err(|reason| PylockError::whole(format!("it is for `{marker}`, which is not taken: {reason}")))?;
    }
    if !fits {
        let all: Vec<String> = file.environments.iter().flatten().map(|marker| format!("`{marker}`")).collect();
        let all = if all.is_empty() { "there are none in its list".to_owned() } else { all.join(", ") };
        return Err(PylockError::whole(format!("it is for other environments: {all}")));
    }
    let groups = choice.groups.unwrap_or(&file.default_groups);
    let mut all_groups = file.dependency_groups.clone();
    all_groups.extend(file.default_groups.iter().filter(|name| !file.dependency_groups.contains(name)).cloned());
    for (names, declared, kind) in
        [(choice.extras, &file.extras, "extra"), (choice.groups.unwrap_or_default(), &all_groups, "group")]
    {
        for name in names {
            if !declared.iter().any(|other| same(other, name)) {
                let has = listed(declared.iter().map(String::as_str));
                let problem = format!("it has no {kind} `{name}`; there is {has}");
                return Err(PylockError { is_choice: true, ..PylockError::whole(problem) });
            }
        }
    }
    Ok(Chosen { groups: groups.to_vec(), extras: choice.extras.to_vec() })
}

fn same(one: &str, other: &str) -> bool {
    one == other || crate::name_of(one).is_some_and(|one| crate::name_of(other) == Some(one))
}

fn requires_python(specifiers: Option<&str>, python: &pep440_rs::Version) -> Result<(), String> {
    let Some(text) = specifiers else { return Ok(()) };
    match text.parse::<VersionSpecifiers>() {
        Ok(specifiers) if specifiers.contains(python) => Ok(()),
        Ok(_) => Err(format!("needs Python {text}, and the image has {python}")),
        Err(_) => Err(format!("has the unreadable `requires-python` `{text}`")),
    }
}

fn locked(package: &Package, environment: &MarkerEnvironment) -> Result<LockedPackage, PylockError> {
    let name = normalise(&package.name)?;
    requires_python(package.requires_python.as_deref(), &environment.python_full_version().version)
        .map_err(|problem| PylockError::of(&name, format!("`{name}` {problem}")))?;
    let archive = package.archive.as_ref().filter(|archive| archive.file().ends_with(".whl"));
    let wheel = |wheel| wheel_file(wheel).map_err(|problem| PylockError::of(&name, problem));
    let wheels: Vec<WheelFile> = package.wheels.iter().chain(archive).map(wheel).collect::<Result<_, _>>()?;
    let source = match (&package.vcs, &package.directory) {
        (Some(_), _) => Some("a repository"),
        (None, Some(_)) => Some("a directory"),
        (None, None) => wheels.is_empty().then_some("an archive of its source"),
    };
    // A lock may leave it out for what is not on an index.
    let told = || Some(wheels.first()?.file.parse::<WheelName>().ok()?.version.to_string());
    let version = package.version.clone().or_else(told);
    Ok(LockedPackage { name, version, wheels, source })
}

/// Groups and extras that are installed.
struct Chosen {
    groups: Vec<String>,
    extras: Vec<String>,
}

impl Chosen {
    /// Returns true if a marker holds. The library does not know the sets `extras` and `dependency_groups` (PEP 751): a
    /// comparison with one of them becomes one that has its value.
    fn holds(&self, marker: &str, environment: &MarkerEnvironment) -> Result<bool, MarkerError> {
        let words = words(marker);
        let is_extra = |word: &&str| word.trim_matches(['=', '!', '<', '>', '~']) == "extra";
        if words.iter().any(is_extra) {
            let part = "`extra` has no value in a lock".to_owned();
            return Err(MarkerError::Unclear { part, hint: "write `'NAME' in extras`".into() });
        }
        let mut text = String::new();
        let mut rest = words.as_slice();
        while let Some((word, tail)) = rest.split_first() {
            let (negated, set, after) = match tail {
                ["in", set, after @ ..] => (false, *set, after),
                ["not", "in", set, after @ ..] => (true, *set, after),
                _ => (false, "", tail),
            };
            let names = match set {
                "extras" => &self.extras,
                "dependency_groups" => &self.groups,
                _ => {
                    text.push_str(word);
                    text.push(' ');
                    rest = tail;
                    continue;
                }
            };
            let name = word.trim_matches(['\'', '"']);
            let is_in = names.iter().any(|other| same(other, name));
            text.push_str(if is_in != negated { "python_version >= '0' " } else { "python_version < '0' " });
            rest = after;
        }
        let tree = marker::read(&text)?;
        let extras: Vec<ExtraName> = self.extras.iter().filter_map(|extra| extra.parse().ok()).collect();
        Ok(tree.evaluate(environment, &extras))
    }
}

/// The words of a marker: names and operators, quoted strings with their quotes, and parentheses.
fn words(marker: &str) -> Vec<&str> {
    let mut words = Vec::new();
    let mut rest = marker.trim_start();
    while let Some(first) = rest.chars().next() {
        let length = match first {
            '\'' | '"' => rest[1..].find(first).map_or(rest.len(), |end| end + 2),
            '(' | ')' => 1,
            _ => rest.find(|c: char| c.is_whitespace() || matches!(c, '(' | ')' | '\'' | '"')).unwrap_or(rest.len()),
        };
        let (word, tail) = rest.split_at(length);
        words.push(word);
        rest = tail.trim_start();
    }
    words
}

fn normalise(name: &str) -> Result<String, PylockError> {
    crate::name_of(name)
        .map(|name| name.to_string())
        .ok_or_else(|| PylockError::of(name, format!("`{name}` is not a package name")))
}

fn wheel_file(wheel: &Wheel) -> Result<WheelFile, String> {
    let (file, location) = (wheel.file(), wheel.location().to_owned());
    let hex = wheel.hashes.get("sha256").map(|hex| hex.to_ascii_lowercase());
    let sha256 = hex
        .and_then(|hex| Digest::from_hex(&hex).ok())
        .ok_or_else(|| format!("`{file}` has no sha256, so that nothing could be checked against it"))?;
    Ok(WheelFile { file, location, size: wheel.size, sha256 })
}

/// The last component of a URL or path, percent-decoded.
pub fn file_name(location: &str) -> String {
    let end = location.find(['?', '#']).filter(|_| location.contains("://")).unwrap_or(location.len());
    let name = location[..end].rsplit('/').next().unwrap_or_default();
    String::from_utf8_lossy(&percent_decoded(name)).into_owned()
}

/// The bytes of percent-encoded text.
pub fn percent_decoded(text: &str) -> Vec<u8> {
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

/// Returns true for a location on this machine.
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
    .map_err(|error| PylockError::whole(error.to_string()))
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
version = "1.0+cu130"
marker = "sys_platform == 'linux'"
wheels = [
    { url = "https://example.org/a%2Bb/awk_ward-1.0%2Bcu130-py3-none-any.whl", size = 5, hashes = { sha256 = "00" } },
]

[[packages]]
name = "winonly"
version = "1.0"
marker = "sys_platform == 'win32'"
sdist = { url = "https://example.org/winonly-1.0.tar.gz", hashes = { sha256 = "00" } }
"#;

    fn linux() -> MarkerEnvironment {
        environment("3.11", "3.11.2", "linux/amd64".parse().unwrap()).unwrap()
    }

    #[test]
    fn only_packages_whose_markers_hold_are_read() {
        let text = TEXT.replace("\"00\"", &format!("\"{}\"", "0".repeat(64)));
        let packages = parse(&text, &linux(), Choice::default()).unwrap();
        assert_eq!(packages.len(), 1);
        assert_eq!((packages[0].name.as_str(), packages[0].wheels[0].size), ("awk-ward", Some(5)));
        assert_eq!(packages[0].wheels[0].file, "awk_ward-1.0+cu130-py3-none-any.whl");
    }

    #[test]
    fn a_wheel_without_a_sha256_is_refused() {
        assert!(parse(TEXT, &linux(), Choice::default()).unwrap_err().problem.contains("has no sha256"));
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

    /// A lock with these lines before its packages, and one package for each marker.
    fn lock(head: &str, packages: &[(&str, &str)]) -> String {
        let hash = "0".repeat(64);
        let none = if packages.is_empty() { "packages = []" } else { "" };
        let mut text = format!("lock-version = \"1.0\"\ncreated-by = \"t\"\n{head}\n{none}\n");
        for (name, marker) in packages {
            text += &format!(
                "[[packages]]\nname = \"{name}\"\nmarker = {marker:?}\n[[packages.wheels]]\n\
                 path = \"{name}-1.5-py3-none-any.whl\"\nhashes = {{ sha256 = \"{hash}\" }}\n"
            );
        }
        text
    }

    fn names(text: &str, choice: Choice<'_>) -> Vec<String> {
        parse(text, &linux(), choice).unwrap().into_iter().map(|package| package.name).collect()
    }

    const GROUPS: &str =
        "extras = [\"gpu\"]\ndependency-groups = [\"default\", \"dev\"]\ndefault-groups = [\"default\"]";

    #[test]
    fn groups_and_extras_choose_packages() {
        let text = lock(
            GROUPS,
            &[
                ("a", "'default' in dependency_groups"),
                ("d", "\"dev\" in dependency_groups and python_version >= '3'"),
                ("g", "('gpu' in extras)"),
                ("n", "'gpu' not in extras"),
                ("always", "sys_platform == 'linux'"),
            ],
        );
        assert_eq!(names(&text, Choice::default()), ["a", "n", "always"]);
        let (dev, gpu) = (["dev".to_owned()], ["GPU".to_owned()]);
        assert_eq!(names(&text, Choice { groups: Some(&dev), extras: &gpu }), ["d", "g", "always"]);
        let unknown = ["deev".to_owned()];
        let error = parse(&text, &linux(), Choice { groups: Some(&unknown), extras: &[] }).unwrap_err().problem;
        assert_eq!(error, "it has no group `deev`; there is `default`, `dev`");
    }

    #[test]
    fn a_lock_for_something_else_is_refused() {
        for (head, expected) in [
            ("requires-python = \">=3.12\"", "it needs Python >=3.12, and the image has 3.11.2"),
            ("environments = [\"sys_platform == 'win32'\"]", "it is for other environments: `sys_platform == 'win32'`"),
        ] {
            assert_eq!(parse(&lock(head, &[]), &linux(), Choice::default()).unwrap_err().problem, expected);
        }
        let text = lock("requires-python = \">=3.11.1\"", &[]);
        assert!(parse(&text, &linux(), Choice::default()).is_ok());
        let other = text.replace("\"1.0\"", "\"2.0\"");
        assert_eq!(
            parse(&other, &linux(), Choice::default()).unwrap_err().problem,
            "its `lock-version` is 2.0, and this kiln reads 1.x"
        );
        let twice = lock("", &[("a", "os_name == 'posix'"), ("A", "os_name != 'nt'")]);
        assert_eq!(
            parse(&twice, &linux(), Choice::default()).unwrap_err().problem,
            "it has a twice for this environment: 1.5 and 1.5"
        );
    }

    #[test]
    fn a_version_that_is_left_out_is_the_one_of_the_wheel() {
        let packages = parse(&lock("", &[("a", "os_name == 'posix'")]), &linux(), Choice::default()).unwrap();
        assert_eq!(packages[0].version.as_deref(), Some("1.5"));
    }

    #[test]
    fn sources_are_refused_by_name() {
        let text =
            lock("", &[]).replace("packages = []", "") + "[[packages]]\nname = \"a\"\ndirectory = { path = \".\" }\n";
        assert_eq!(parse(&text, &linux(), Choice::default()).unwrap()[0].source, Some("a directory"));
    }

    /// The error of a lock with one package that has these keys.
    fn wrong(package: &str) -> String {
        let text = format!("lock-version = \"1.0\"\n[[packages]]\n{package}").replace("HEX", &"0".repeat(64));
        parse(&text, &linux(), Choice::default()).unwrap_err().problem
    }

    #[test]
    fn a_package_is_what_its_files_are() {
        const FILE: &str =
            "wheels = [{ url = 'https://example.org/a-1.5-py3-none-any.whl', hashes = { sha256 = 'HEX' } }]";
        let cases = [
            format!("name = 'a'\nversion = '1.4'\n{FILE}"),
            format!("name = 'b'\n{FILE}"),
            "name = 'a'\nwheels = [{ url = 'https://example.org/a-1.5.zip', hashes = { sha256 = 'HEX' } }]".into(),
            "name = 'a'\nwheels = [{ hashes = { sha256 = 'HEX' } }]".into(),
            "name = 'a'\nversion = '1'".into(),
            format!("name = 'a'\n{FILE}\nvcs = {{ type = 'git', url = 'https://example.org/a' }}"),
            format!("name = 'a'\nversion = 'x'\n{FILE}"),
            format!("name = 'a'\nmarker = 'x'\n{FILE}"),
            format!("name = 'a'\nmarker = \"extra == 'x'\"\n{FILE}"),
            format!("name = 'a'\nmarker = \"os_name ~= 'x'\"\n{FILE}"),
            // Also where it is for another platform.
            format!("name = 'a'\nmarker = \"os_name == 'nt'\"\nrequires-python = 'x'\n{FILE}"),
            format!("name = 'a'\n{}", FILE.replace("hashes", "size = -1, hashes")),
        ];
        let told: Vec<String> = cases.iter().map(|case| wrong(case)).collect();
        insta::assert_snapshot!(told.join("\n"), @r"
        `a` has `a-1.5-py3-none-any.whl`, a wheel of a 1.5, and its version is 1.4
        `b` has `a-1.5-py3-none-any.whl`, a wheel of a 1.5
        `a` has `a-1.5.zip` among its wheels, which is none
        `a` has a file without `url` and `path`
        `a` has no place that it comes from: it is `wheels` and `sdist`, or one of `archive`, `directory` and `vcs`
        `a` has more than one place that it comes from: it is `wheels` and `sdist`, or one of `archive`, `directory` and `vcs`
        `a` has the unreadable version `x`
        `a` has the marker `x`, which is not taken: `x` is no variable of markers
        `a` has the marker `extra == 'x'`, which is not taken: `extra` has no value in a lock: write `'NAME' in extras`
        `a` has the marker `os_name ~= 'x'`, which is not taken: `os_name ~= 'x'` orders texts, which tools do in different ways: compare texts with `==`, `!=` or `in`
        `a` has the unreadable `requires-python` `x`
        at its line 4: invalid value: integer `-1`, expected u64
        ");
    }

    #[test]
    fn a_lock_that_says_too_little_is_refused() {
        let refused = |text: &str| parse(text, &linux(), Choice::default()).unwrap_err().problem;
        let told = [
            refused("lock-version = '1.0'\ncreated-by = 't'"),
            refused("lock-version = '1.x'\npackages = []"),
            refused("lock-version = '1.0'\nenvironments = []\npackages = []"),
            refused("lock-version = '1.0'\nenvironments = [\"sys_platform == 'linux'\", 'x']\npackages = []"),
        ];
        insta::assert_snapshot!(told.join("\n"), @r"
        it has no `packages`, which every `pylock.toml` has
        its `lock-version` is 1.x, and this kiln reads 1.x
        it is for other environments: there are none in its list
        it is for `x`, which is not taken: `x` is no variable of markers
        ");
    }

    #[test]
    fn the_name_of_a_file_is_said_or_the_end_of_its_path() {
        let file = |wheel: &str| {
            let text = format!(
                "lock-version = '1.1'\n[[packages]]\nname = 'a'\nwheels = [{{ {wheel}, hashes = {{ sha256 = '{}' }} }}]",
                "AB".repeat(32)
            );
            let wheel = parse(&text, &linux(), Choice::default()).unwrap().remove(0).wheels.remove(0);
            (wheel.file, wheel.location)
        };
        let name = "a-1-py3-none-any.whl".to_owned();
        for (wheel, location) in [
            ("path = 'w/a-1-py3-none-any.whl'", "w/a-1-py3-none-any.whl"),
            ("path = 'w\\a-1-py3-none-any.whl'", "w\\a-1-py3-none-any.whl"),
            (
                "name = '', url = 'https://example.org/a-1-py3-none-any.whl?x#y'",
                "https://example.org/a-1-py3-none-any.whl?x#y",
            ),
            ("name = 'a-1-py3-none-any.whl', url = 'https://example.org/1234'", "https://example.org/1234"),
        ] {
            assert_eq!(file(wheel), (name.clone(), location.to_owned()));
        }
    }
}
