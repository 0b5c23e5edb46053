//! From what was held of the layers to the facts that the lock records.

use std::collections::BTreeMap;

use kiln_picture::{Node, ROOT};
use kiln_plan::base::{
    Attributes, BaseFacts, DirectoryLine, Distribution, Interpreter, Libc, LibcFamily, SkeletonFile,
};

use super::contents::{Content, Headers, Recorded, glibc_version_in_name, is_glibc, major_minor, release};
use super::{Held, directories, programs};

/// Everything that can be told about a base.
pub(super) fn report(held: &Held, path: Option<String>) -> BaseFacts {
    let os = OsRelease::read(held);
    let packages = Packages::read(held);
    let (folders, folder_depth) = directories::folders(held);
    let mut facts = BaseFacts { path, folders, folder_depth, ..BaseFacts::default() };
    facts.programs = programs::programs(held, &facts);
    let search: Vec<Vec<u8>> = facts.search_path().filter_map(|path| held.resolve(path.as_bytes())).collect();
    BaseFacts {
        distribution: os.name(),
        libc: libc(held, &os, &packages),
        interpreters: interpreters(held, &os, &packages, &search),
        distributions: distributions(held),
        passwd: account_lines(held, b"etc/passwd"),
        group: account_lines(held, b"etc/group"),
        shadow: shadow(held),
        account_files: account_files(held),
        skeleton: skeleton(held),
        links: directories::links(held),
        directories: directories::unusual(held),
        ..facts
    }
}

/// The packages of interest of all databases: distroless bases have one for each package.
struct Packages<'a>(BTreeMap<&'a str, &'a str>);

impl<'a> Packages<'a> {
    fn read(held: &'a Held) -> Self {
        let databases = files(held).into_iter().filter_map(|(_, content)| match content {
            Content::Packages(packages) => Some(packages),
            _ => None,
        });
        Self(databases.flatten().map(|(name, version)| (name.as_str(), version.as_str())).collect())
    }

    /// The version without the epoch.
    fn version(&self, name: &str) -> Option<&'a str> {
        let version = self.0.get(name)?;
        Some(version.split_once(':').map_or(version, |(_, rest)| rest))
    }
}

/// The fields of `os-release` (os-release(5)) that matter here.
#[derive(Default)]
struct OsRelease {
    id: String,
    version_id: String,
    id_like: String,
}

impl OsRelease {
    fn read(held: &Held) -> Self {
        let mut found = Self::default();
        let Some(text) = text(held, b"etc/os-release").or_else(|| text(held, b"usr/lib/os-release")) else {
            return found;
        };
        for line in text.lines() {
            let Some((key, value)) = line.split_once('=') else {
                continue;
            };
            let value = value.trim().trim_matches(['"', '\'']).to_owned();
            match key.trim() {
                "ID" => found.id = value,
                "VERSION_ID" => found.version_id = value,
                "ID_LIKE" => found.id_like = value,
                _ => {}
            }
        }
        found
    }

    fn name(&self) -> Option<String> {
        let name = format!("{} {}", self.id, self.version_id);
        (!self.id.is_empty()).then(|| name.trim().to_owned())
    }

    fn is_debian(&self) -> bool {
        let ids = || std::iter::once(self.id.as_str()).chain(self.id_like.split_whitespace());
        ids().any(|id| id == "debian" || id == "ubuntu")
    }
}

/// Returns the files of interest, by path.
fn files(held: &Held) -> Vec<(String, &Content)> {
    let mut files = Vec::new();
    held.visit(ROOT, |path, node| {
        let path = || std::str::from_utf8(path).ok().map(str::to_owned);
        files.extend(held.file_of(node).and_then(|content| Some((path()?, content))));
    });
    files
}

/// Returns the paths of links and of files of interest.
fn paths(held: &Held) -> Vec<String> {
    let mut paths = Vec::new();
    held.visit(ROOT, |path, node| {
        if !matches!(held.node(node), Node::Directory(_)) {
            paths.extend(std::str::from_utf8(path).map(str::to_owned));
        }
    });
    paths
}

fn text<'a>(held: &'a Held, path: &[u8]) -> Option<&'a str> {
    match held.file(path)? {
        Content::Text(text) => Some(text),
        _ => None,
    }
}

/// Returns the lines of a file of users or groups, comments too.
fn account_lines(held: &Held, path: &[u8]) -> Vec<String> {
    match held.file(path) {
        Some(Content::Account(_, text)) => text.lines().map(|line| line.replace(char::is_control, " ")).collect(),
        _ => Vec::new(),
    }
}

/// Returns the files of users and groups whose owner or mode is not the usual one.
fn account_files(held: &Held) -> Vec<DirectoryLine> {
    let line = |path: &&str| match held.file(path.as_bytes()) {
        Some(Content::Account(attributes, _)) => {
            Some(DirectoryLine { path: path.as_bytes().to_vec(), below: false, attributes: attributes.clone() })
        }
        _ => None,
    };
    let usual = Attributes { mode: 0o644, ..Attributes::default() };
    ["etc/group", "etc/passwd", "etc/shadow"].iter().filter_map(line).filter(|line| line.attributes != usual).collect()
}

/// Returns the lines of `/etc/shadow`, unless one holds a password: locks are read by many.
fn shadow(held: &Held) -> Vec<String> {
    let found = account_lines(held, b"etc/shadow");
    let password = |line: &String| line.split(':').nth(1).is_some_and(|field| field.len() > 2);
    if found.iter().any(password) { Vec::new() } else { found }
}

/// Returns what is in `/etc/skel`, each directory before what is in it.
fn skeleton(held: &Held) -> Vec<SkeletonFile> {
    let mut found = Vec::new();
    let Some(node) = held.find(b"etc/skel") else { return found };
    held.visit(node, |path, node| {
        let Ok(path) = std::str::from_utf8(path).map(str::to_owned) else { return };
        let file = |mode, text, link| SkeletonFile { path, mode, text, link };
        found.extend(match held.node(node) {
            Node::Directory(told) => Some(file(told.map_or(0o755, |attributes| attributes.mode), None, None)),
            Node::Symlink(to) => Some(file(0o777, None, Some(String::from_utf8_lossy(to).into_owned()))),
            Node::File(Content::Skeleton(mode, Some(text))) => Some(file(*mode, Some(text.clone()), None)),
            Node::File(_) => None,
        });
    });
    found.sort_by(|a, b| a.path.cmp(&b.path));
    found
}

/// The C library of the system's own folders: another one elsewhere serves some program, not the base.
fn libc(held: &Held, os: &OsRelease, packages: &Packages<'_>) -> Option<Libc> {
    let musl = musl(held, packages);
    if os.id == "alpine" && musl.is_some() {
        return musl;
    }
    glibc(held).or(musl)
}

fn glibc(held: &Held) -> Option<Libc> {
    let family = LibcFamily::Glibc;
    for folder in ["lib", "lib64", "usr/lib", "usr/lib64"] {
        let Some(real) = held.resolve(folder.as_bytes()) else { continue };
        for path in library_paths(held, &real) {
            let Some(Content::Glibc(told)) = held.file(&path) else { continue };
            let real = held.resolve(&path).unwrap_or_default();
            let real = String::from_utf8_lossy(&real);
            if let Some(version) = told.clone().or_else(|| glibc_version_in_name(real.rsplit('/').next()?)) {
                return Some(Libc { family, version });
            }
        }
    }
    None
}

/// Returns the paths of C libraries in `/lib`, or in `/lib/x86_64-linux-gnu` as Debian has it.
fn library_paths(held: &Held, folder: &[u8]) -> Vec<Vec<u8>> {
    let mut paths = Vec::new();
    for (name, node) in held.find(folder).into_iter().flat_map(|folder| held.children(folder)) {
        let Ok(text) = std::str::from_utf8(name) else { continue };
        if is_glibc(text) {
            paths.push([folder, name].join(&b'/'));
        } else if text.contains("-linux-gnu") {
            let inner = held.children(node).filter(|(name, _)| std::str::from_utf8(name).is_ok_and(is_glibc));
            paths.extend(inner.map(|(inner, _)| [folder, name, inner].join(&b'/')));
        }
    }
    paths
}

fn musl(held: &Held, packages: &Packages<'_>) -> Option<Libc> {
    let told = ["lib", "usr/lib"].iter().find_map(|folder| {
        let folder = held.find(folder.as_bytes())?;
        held.children(folder).find_map(|(_, node)| match held.file_of(node) {
            Some(Content::Musl(version)) => Some(version),
            _ => None,
        })
    })?;
    let recorded = packages.version("musl").and_then(major_minor);
    let version = recorded.or_else(|| told.clone())?;
    Some(Libc { family: LibcFamily::Musl, version })
}

/// `3.11` of `python3.11`; nothing for `python3`, `python3.11-config` or `python3.11-dbg`.
fn interpreter_version(name: &str) -> Option<&str> {
    let version = name.strip_prefix("python")?;
    let minor = version.strip_prefix("3.")?;
    (!minor.is_empty() && minor.bytes().all(|byte| byte.is_ascii_digit())).then_some(version)
}

/// Links to one interpreter that are told.
const MOST_LINKS: usize = 16;

/// An interpreter while its names are looked for.
struct Named {
    path: String,
    version: String,
    /// Links to it.
    links: Vec<String>,
    /// Its place in `PATH`.
    place: usize,
    is_environment: bool,
}

/// Returns the interpreters, in the order in which the directories of `search` have them.
fn interpreters(held: &Held, os: &OsRelease, packages: &Packages<'_>, search: &[Vec<u8>]) -> Vec<Interpreter> {
    // Keyed by what the links lead to, so that an interpreter with three names is listed once.
    let mut found: BTreeMap<String, Named> = BTreeMap::new();
    for path in paths(held) {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let in_bin = folder == "bin" || folder.ends_with("/bin");
        let Some(version) = interpreter_version(name).filter(|_| in_bin) else {
            continue;
        };
        let Some(real) = held.resolve(path.as_bytes()).filter(|real| held.file(real).is_some()) else {
            continue;
        };
        let Ok(mut real) = String::from_utf8(real) else {
            continue;
        };
        // The interpreter of a virtual environment (PEP 405) is one of its own, with its own packages.
        let is_environment = folder.strip_suffix("/bin").is_some_and(|prefix| has_file(held, prefix, "pyvenv.cfg"));
        if is_environment {
            real.clone_from(&path);
        }
        let place = search.iter().position(|directory| directory == folder.as_bytes()).unwrap_or(usize::MAX);
        let real_version = real.rsplit('/').next().and_then(interpreter_version).map(str::to_owned);
        let (path, version) = match real_version {
            Some(version) => (real.clone(), version),
            None => (path.clone(), version.to_owned()),
        };
        let named = found.entry(real).or_insert(Named { path, version, links: Vec::new(), place, is_environment });
        named.place = named.place.min(place);
    }
    add_links(held, &mut found);
    let mut found: Vec<Named> = found.into_values().collect();
    found.sort_by(|a, b| (a.place, &a.path).cmp(&(b.place, &b.path)));
    let interpreter = |Named { path, version, links, is_environment, .. }: Named| Interpreter {
        names: links,
        environment: is_environment,
        version: patch_version(held, packages, &path, &version).unwrap_or_else(|| version.clone()),
        site_packages: site_packages(&path, &version, os),
        path: format!("/{path}"),
    };
    found.into_iter().map(interpreter).collect()
}

/// Adds the links that lead to each interpreter: `python3`, `python`.
fn add_links(held: &Held, found: &mut BTreeMap<String, Named>) {
    for path in paths(held) {
        let (folder, name) = path.rsplit_once('/').unwrap_or(("", &path));
        let is_name =
            name.strip_prefix("python").is_some_and(|rest| rest.bytes().all(|b| b.is_ascii_digit() || b == b'.'));
        if !is_name || !(folder == "bin" || folder.ends_with("/bin")) {
            continue;
        }
        // The interpreters of a virtual environment are links to one outside of it, and names of its own one.
        let is_environment = folder.strip_suffix("/bin").is_some_and(|prefix| has_file(held, prefix, "pyvenv.cfg"));
        let own = || found.keys().find(|real| real.rsplit_once('/').is_some_and(|(other, _)| other == folder)).cloned();
        let real = || String::from_utf8(held.resolve(path.as_bytes())?).ok();
        let Some(real) = (if is_environment { own() } else { real() }) else { continue };
        if let Some(named) = found.get_mut(&real).filter(|named| named.path != path && named.links.len() < MOST_LINKS) {
            named.links.push(format!("/{path}"));
        }
    }
}

fn has_file(held: &Held, directory: &str, name: &str) -> bool {
    held.find(format!("{directory}/{name}").as_bytes()).is_some()
}

/// `/usr` of `/usr/bin/python3.11`, without the leading slash.
fn prefix(path: &str) -> Option<&str> {
    let (folder, _) = path.rsplit_once('/')?;
    if folder == "bin" { Some("") } else { folder.strip_suffix("/bin") }
}

fn patch_version(held: &Held, packages: &Packages<'_>, path: &str, version: &str) -> Option<String> {
    let prefix = prefix(path)?;
    let header = format!("{prefix}/include/python{version}/patchlevel.h");
    let told = match held.file(header.as_bytes()) {
        Some(Content::PatchLevel(told)) => told.clone(),
        _ => None,
    };
    let packaged = || {
        [
            format!("python{version}-minimal"),
            format!("libpython{version}-minimal"),
            format!("python{version}"),
            "python3".to_owned(),
        ]
        .iter()
        .filter(|_| prefix == "usr")
        .filter_map(|name| packages.version(name))
        .map(|found| release(found).to_owned())
        .find(|found| found.starts_with(&format!("{version}.")))
    };
    told.filter(|told| told.starts_with(&format!("{version}."))).or_else(packaged)
}

/// Where the interpreter's environment installs. Debian's own Python leaves `/usr` to dpkg (Debian Python Policy,
/// "Module Path").
fn site_packages(path: &str, version: &str, os: &OsRelease) -> Option<String> {
    let prefix = prefix(path)?;
    if prefix == "usr" && os.is_debian() {
        return Some(format!("/usr/local/lib/python{version}/dist-packages"));
    }
    let root = if prefix.is_empty() { "" } else { "/" };
    Some(format!("{root}{prefix}/lib/python{version}/site-packages"))
}

fn distributions(held: &Held) -> Vec<Distribution> {
    let files = files(held);
    let metadata = files.iter().filter_map(|(path, content)| match content {
        Content::Metadata(Some(headers)) => Some((path.as_str(), headers)),
        _ => None,
    });
    let mut found: Vec<Distribution> =
        metadata.filter_map(|(path, headers)| distribution(held, path, headers)).collect();
    found.sort();
    found.dedup();
    found
}

/// Returns the distribution whose metadata lies at a path.
fn distribution(held: &Held, path: &str, headers: &Headers) -> Option<Distribution> {
    let (folder, file) = path.rsplit_once('/')?;
    let is_file = file.ends_with(".egg-info");
    let location = if is_file { folder } else { folder.rsplit_once('/')?.0 };
    let beside = |name: &str| held.file(format!("{folder}/{name}").as_bytes()).filter(|_| !is_file);
    let recorded = match beside("RECORD").or_else(|| beside("top_level.txt")) {
        Some(Content::Record(recorded)) => recorded.clone(),
        Some(Content::TopLevel(modules)) => Recorded { modules: modules.clone(), ..Recorded::default() },
        _ => Recorded::default(),
    };
    let scripts = match beside("entry_points.txt") {
        Some(Content::EntryPoints(scripts)) => scripts.clone(),
        _ => Vec::new(),
    };
    let Headers { version, requires, extras, .. } = headers;
    let (requires, extras) = match beside("requires.txt") {
        Some(Content::Requires(requires, extras)) if headers.requires.is_empty() && headers.extras.is_empty() => {
            (requires, extras)
        }
        _ => (requires, extras),
    };
    let metadata = path.strip_prefix(location).unwrap_or(path).trim_start_matches('/');
    let metadata = metadata.split('/').next().unwrap_or_default();
    let name = normalise_name(&headers.name);
    Some(Distribution {
        metadata: Some(metadata.to_owned()).filter(|own| *own != Distribution::usual_metadata(&name, version)),
        location: format!("/{location}"),
        name,
        version: version.clone(),
        size: beside("RECORD").map(|_| recorded.size),
        modules: modules(held, location, &recorded),
        shared: recorded.shared,
        requires: requires.clone(),
        extras: extras.clone(),
        scripts,
    })
}

/// Returns the modules of a distribution: of a package that is a namespace, those in it.
fn modules(held: &Held, location: &str, recorded: &Recorded) -> Vec<String> {
    let init = |module: &str| held.file(format!("{location}/{module}/__init__.py").as_bytes());
    let mut found = Vec::new();
    for module in &recorded.modules {
        match init(module) {
            Some(Content::Package(true)) => {
                let is_inner =
                    |inner: &&String| inner.strip_prefix(module.as_str()).is_some_and(|rest| rest.starts_with('/'));
                found.extend(recorded.inner.iter().filter(is_inner).cloned());
            }
            _ => found.push(module.clone()),
        }
    }
    found
}

/// PEP 503: lower case, runs of `-`, `_` and `.` as one `-`.
fn normalise_name(name: &str) -> String {
    let mut normal = String::with_capacity(name.len());
    for character in name.chars() {
        match character {
            '-' | '_' | '.' if normal.ends_with('-') => {}
            '-' | '_' | '.' => normal.push('-'),
            _ => normal.push(character.to_ascii_lowercase()),
        }
    }
    normal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_interpreters_are_named_as_interpreters() {
        assert_eq!(interpreter_version("python3.11"), Some("3.11"));
        for name in ["python3", "python3.11-config", "python3.11-dbg", "python3.", "python3.x", "pypy3.10"] {
            assert_eq!(interpreter_version(name), None, "{name}");
        }
    }

    #[test]
    fn names_are_normalised() {
        assert_eq!(normalise_name("Ruamel.._YAML"), "ruamel-yaml");
    }
}
