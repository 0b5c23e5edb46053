//! The paths of an image that go with a Python distribution, as pip uninstalls it: its listed files, their bytecode, the directory of its
//! metadata, and directories in which nothing is left. What nobody lists stays.

use std::collections::BTreeSet;

use kiln_oci::facts::Files;
use kiln_plan::base::Distribution;
use kiln_wheel::record;
use serde::Serialize;

/// Rows of a list that are read.
const MOST_ROWS: usize = 1_000_000;

/// Directories of a prefix that installers write into, apart from the modules.
const OF_PREFIX: [&str; 5] = ["bin", "share", "include", "etc", "man"];

/// A distribution that goes. Paths have no leading slash.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Removal {
    location: String,
    /// The name of its directory of metadata, or of the file that stands in its place.
    metadata: String,
    /// Parts of paths below the location that belong to others, too.
    shared: BTreeSet<String>,
}

/// The list of files of a distribution.
enum Listed<'f> {
    /// `RECORD` (PEP 376): paths from the location.
    Record(&'f str),
    /// `installed-files.txt` of setuptools: paths from the directory of metadata.
    Installed(&'f str),
    /// `top_level.txt` of setuptools: modules, all of whose files are the distribution's.
    Modules(&'f str),
}

impl Removal {
    /// `stay` are the distributions that others are of.
    pub(crate) fn new(held: &Distribution, stay: &[&Distribution]) -> Self {
        let others = stay.iter().filter(|other| other.location == held.location);
        let first = |module: &String| module.split('/').next().unwrap_or(module).to_owned();
        Self {
            location: held.location.trim_matches('/').to_owned(),
            metadata: held.metadata(),
            shared: others.flat_map(|other| other.modules.iter().chain(&other.shared).map(first)).collect(),
        }
    }

    /// Returns the prefix of the environment: `usr/local` of `usr/local/lib/python3.11/site-packages`.
    pub(crate) fn prefix(&self) -> &str {
        let end = ["/lib/python3", "/lib64/python3"].iter().find_map(|lib| self.location.find(lib));
        &self.location[..end.unwrap_or(0)]
    }

    /// Returns the directories whose files must be known.
    pub(crate) fn directories(&self) -> Vec<String> {
        let of_prefix = OF_PREFIX.iter().map(|name| format!("{}/{name}", self.prefix()).trim_matches('/').to_owned());
        of_prefix.chain([self.location.clone()]).collect()
    }

    /// Returns the files whose text must be known.
    pub(crate) fn texts(&self) -> Vec<String> {
        ["RECORD", "installed-files.txt", "top_level.txt", "namespace_packages.txt"]
            .map(|name| self.beside(name))
            .into()
    }

    fn beside(&self, name: &str) -> String {
        format!("{}/{}/{name}", self.location, self.metadata)
    }

    fn listed<'f>(&self, files: &'f Files) -> Option<Listed<'f>> {
        let text = |name: &str| files.text(&self.beside(name));
        let record = text("RECORD").map(Listed::Record);
        record
            .or_else(|| text("installed-files.txt").map(Listed::Installed))
            .or_else(|| text("top_level.txt").map(Listed::Modules))
    }

    /// Returns the files that go; `None` where the distribution has no list of them.
    pub(crate) fn files(&self, files: &Files) -> Option<BTreeSet<String>> {
        let metadata = format!("{}/{}", self.location, self.metadata);
        let mut gone = BTreeSet::new();
        match self.listed(files)? {
            Listed::Record(text) => {
                self.rows(files, &self.location, record::paths(text.as_bytes(), MOST_ROWS), &mut gone)
            }
            Listed::Installed(text) => {
                self.rows(files, &metadata, text.lines().map(str::to_owned).collect(), &mut gone)
            }
            Listed::Modules(text) => self.modules(files, text, &mut gone),
        }
        all_in(files, &metadata, &mut gone);
        Some(gone)
    }

    /// Adds the files that rows name, as seen from a directory.
    fn rows(&self, files: &Files, from: &str, rows: Vec<String>, gone: &mut BTreeSet<String>) {
        for row in rows {
            let Some(path) = below(from, &row).filter(|path| self.is_of_environment(path) && files.is_file(path))
            else {
                continue;
            };
            bytecode(files, &path, gone);
            gone.insert(path);
        }
    }

    /// Adds the files of modules that nobody else has.
    fn modules(&self, files: &Files, text: &str, gone: &mut BTreeSet<String>) {
        let namespaces = files.text(&self.beside("namespace_packages.txt")).unwrap_or_default();
        let is_own = |name: &&str| {
            !matches!(*name, "" | "." | "..")
                && !name.contains('/')
                && !namespaces.lines().any(|other| other.trim() == *name)
        };
        let names = files.names(&self.location);
        for name in text.lines().map(str::trim).filter(is_own) {
            if !self.shared.contains(name) {
                all_in(files, &format!("{}/{name}", self.location), gone);
            }
            let is_module = |file: &&String| {
                let suffix = file.strip_prefix(name).and_then(|rest| rest.strip_prefix('.'));
                suffix.is_some_and(|suffix| suffix == "py" || suffix.ends_with("so"))
            };
            for file in names.iter().filter(is_module) {
                let path = format!("{}/{file}", self.location);
                bytecode(files, &path, gone);
                gone.insert(path);
            }
        }
    }

    /// Returns true for a file that an installer writes for a package: below the site directory, or in one of the directories for
    /// scripts and data of the same prefix, where no interpreter is.
    fn is_of_environment(&self, path: &str) -> bool {
        let inner = |directory: &str| match directory {
            "" => Some(path),
            directory => path.strip_prefix(directory).and_then(|rest| rest.strip_prefix('/')),
        };
        if inner(&self.location).is_some() {
            return true;
        }
        let Some((directory, rest)) = inner(self.prefix()).and_then(|inner| inner.split_once('/')) else {
            return false;
        };
        OF_PREFIX.contains(&directory) && !(directory == "bin" && is_interpreter(rest))
    }
}

/// Returns files with the directories in which nothing else is: of those within one another the uppermost alone.
pub(crate) fn with_directories(removals: &[Removal], files: &Files, mut gone: BTreeSet<String>) -> BTreeSet<String> {
    let stay: BTreeSet<String> = removals.iter().flat_map(Removal::directories).collect();
    let mut directories = BTreeSet::new();
    for path in &gone {
        for (end, _) in path.rmatch_indices('/') {
            let directory = &path[..end];
            let is_within =
                stay.iter().any(|stay| directory.strip_prefix(stay.as_str()).is_some_and(|rest| rest.starts_with('/')));
            if !is_within || !directories.insert(directory.to_owned()) {
                break;
            }
        }
    }
    let mut deepest: Vec<String> = directories.into_iter().collect();
    deepest.sort_by_key(|path| std::cmp::Reverse(path.matches('/').count()));
    for directory in deepest {
        if files.names(&directory).iter().all(|name| gone.contains(&format!("{directory}/{name}"))) {
            gone.insert(directory);
        }
    }
    let is_below = |path: &String| path.rsplit_once('/').is_some_and(|(above, _)| gone.contains(above));
    gone.iter().filter(|path| !is_below(path)).cloned().collect()
}

/// Adds the file at a path, or all files in the directory that is there.
fn all_in(files: &Files, path: &str, gone: &mut BTreeSet<String>) {
    if files.is_file(path) {
        gone.insert(path.to_owned());
    } else {
        files.names(path).iter().for_each(|name| all_in(files, &format!("{path}/{name}"), gone));
    }
}

/// Adds the bytecode of a source file (PEP 3147).
fn bytecode(files: &Files, source: &str, gone: &mut BTreeSet<String>) {
    let Some((directory, stem)) = source.strip_suffix(".py").and_then(|stem| stem.rsplit_once('/')) else { return };
    let cache = format!("{directory}/__pycache__");
    let is_of_source =
        |name: &&String| name.strip_prefix(stem).is_some_and(|rest| rest.starts_with('.') && rest.ends_with(".pyc"));
    gone.extend(files.names(&cache).iter().filter(is_of_source).map(|name| format!("{cache}/{name}")));
    gone.extend([format!("{directory}/{stem}.pyc")].into_iter().filter(|path| files.is_file(path)));
}

/// Returns true for the name of an interpreter, or of the program that tells how it was built.
fn is_interpreter(name: &str) -> bool {
    let name = name.strip_suffix("-config").unwrap_or(name);
    name.strip_prefix("python").is_some_and(|rest| rest.bytes().all(|byte| byte.is_ascii_digit() || byte == b'.'))
}

/// Returns the path that a row names; `None` where that leads out of the file system, or nowhere.
fn below(from: &str, row: &str) -> Option<String> {
    let mut parts: Vec<&str> = if row.starts_with('/') { Vec::new() } else { from.split('/').collect() };
    for part in row.split('/') {
        match part {
            ".." => drop(parts.pop()?),
            "" | "." => {}
            part => parts.push(part),
        }
    }
    (!parts.is_empty()).then(|| parts.join("/"))
}

#[cfg(test)]
mod tests {
    use kiln_oci::facts::FactsReader;
    use tar::{Builder, EntryType, Header};

    use super::*;

    const SITE: &str = "usr/local/lib/python3.11/site-packages";

    /// Returns what goes with `mine`, below its site directory where it lies there.
    fn gone(layer: &[(&str, &str)], stay: &[&str]) -> Option<String> {
        let mut tar = Builder::new(Vec::new());
        let metadata = layer.iter().find_map(|(path, _)| path.split('/').find(|part| part.starts_with("mine-1")));
        for (path, text) in layer {
            let mut header = Header::new_gnu();
            header.set_entry_type(EntryType::Regular);
            header.set_size(text.len() as u64);
            let path = path.strip_prefix('/').map_or_else(|| format!("{SITE}/{path}"), str::to_owned);
            tar.append_data(&mut header, path, text.as_bytes()).unwrap();
        }
        let held = |name: &str, modules: &[&str]| Distribution {
            location: format!("/{SITE}"),
            name: name.into(),
            metadata: metadata.map(str::to_owned),
            modules: modules.iter().map(|module| (*module).to_owned()).collect(),
            ..Distribution::default()
        };
        let other = held("other", stay);
        let removal = Removal::new(&held("mine", &[]), &[&other]);
        let mut reader = FactsReader::of_files(removal.directories(), removal.texts());
        reader.layer(tar.into_inner().unwrap().as_slice()).unwrap();
        let files = reader.finish_files();
        let all = with_directories(std::slice::from_ref(&removal), &files, removal.files(&files)?);
        let inner =
            |path: &String| path.strip_prefix(&format!("{SITE}/")).map_or_else(|| format!("/{path}"), str::to_owned);
        Some(all.iter().map(inner).collect::<Vec<_>>().join(" "))
    }

    const RECORD: &str = "mine-1.dist-info/RECORD";

    #[test]
    fn directories_go_where_nothing_is_left_in_them() {
        let rows = "names/mine/__init__.py,sha256=x,1\nnames/mine/a/b.py,sha256=x,1\n../../../bin/tool,sha256=x,1\n\
                    ../../../share/doc/mine/x,,\nmine-1.dist-info/RECORD,,\n";
        let all = [
            (RECORD, rows),
            ("mine-1.dist-info/METADATA", "x"),
            ("names/mine/__init__.py", "x"),
            ("names/mine/a/b.py", "x"),
            ("names/mine/a/__pycache__/b.cpython-311.pyc", "x"),
            ("names/mine/a/__pycache__/b.cpython-311.opt-1.pyc", "x"),
            ("/usr/local/bin/tool", "x"),
            ("/usr/local/bin/other", "x"),
            ("/usr/local/share/doc/mine/x", "x"),
        ];
        let found = gone(&all, &[]).unwrap();
        assert_eq!(found, "/usr/local/bin/tool mine-1.dist-info names /usr/local/share/doc");
        let others = [&all[..], &[("names/mine/made-later.py", "x"), ("names/other/x.py", "x")]].concat();
        let found = gone(&others, &[]).unwrap();
        assert!(found.contains("names/mine/__init__.py names/mine/a "), "{found}");
    }

    #[test]
    fn files_of_an_environment_alone_go() {
        let there = [
            ("/usr/bin/env", "x"),
            ("/usr/local/bin/python3.11", "x"),
            ("/usr/local/bin/python3-config", "x"),
            ("/usr/local/bin/python-tool", "x"),
            ("/etc/passwd", "x"),
            ("/usr/lib/x86_64-linux-gnu/libc.so.6", "x"),
            ("other/a.py", "x"),
        ];
        for (row, expected) in [
            ("/usr/bin,,", ""),
            ("../../../../bin/env,,", ""),
            ("../../../bin,,", ""),
            (".,,", ""),
            ("other,,", ""),
            ("/etc/passwd,sha256=x,1", ""),
            ("../../../../../etc/passwd,sha256=x,1", ""),
            ("../../../../../../../../etc/passwd,sha256=x,1", ""),
            ("../../../../lib/x86_64-linux-gnu/libc.so.6,sha256=x,1", ""),
            ("../../../bin/python3.11,sha256=x,1", ""),
            ("../../../bin/python3-config,sha256=x,1", ""),
            ("../../../bin/python-tool,sha256=x,1", "/usr/local/bin/python-tool "),
            ("/usr/local/bin/python-tool", "/usr/local/bin/python-tool "),
            ("missing.py,sha256=x,1", ""),
            ("\"other/a.py\",sha256=x,1", "other "),
        ] {
            let text = format!("{row}\n,,\n\nmine-1.dist-info/RECORD,,\n");
            let found = gone(&[&there[..], &[(RECORD, text.as_str())]].concat(), &[]).unwrap();
            let (metadata, others) = ("mine-1.dist-info", expected.trim_end());
            let mut expected: Vec<&str> = [others, metadata].into_iter().filter(|text| !text.is_empty()).collect();
            expected.sort_unstable();
            let mut found: Vec<&str> = found.split(' ').collect();
            found.sort_unstable();
            assert_eq!(found, expected, "{row}");
        }
    }

    #[test]
    fn eggs_have_lists_of_their_own() {
        let listed = [
            ("mine-1.egg-info/PKG-INFO", "x"),
            ("mine-1.egg-info/installed-files.txt", "../mine/__init__.py\n../../../../bin/tool\nPKG-INFO\n"),
            ("mine-1.egg-info/top_level.txt", "mine\nother\n"),
            ("mine/__init__.py", "x"),
            ("mine/__pycache__/__init__.cpython-311.pyc", "x"),
            ("other/__init__.py", "x"),
            ("/usr/local/bin/tool", "x"),
        ];
        assert_eq!(gone(&listed, &[]).unwrap(), "/usr/local/bin/tool mine mine-1.egg-info");
        let modules = [
            ("mine-1.egg-info/top_level.txt", "mine\nsingle\nother\nnames\n..\n"),
            ("mine-1.egg-info/namespace_packages.txt", "names\n"),
            ("mine/deep/a.txt", "x"),
            ("single.py", "x"),
            ("__pycache__/single.cpython-311.pyc", "x"),
            ("names/x.py", "x"),
            ("other/__init__.py", "x"),
            ("single.pyc.txt", "x"),
        ];
        assert_eq!(gone(&modules, &["other"]).unwrap(), "__pycache__ mine mine-1.egg-info single.py");
        assert_eq!(gone(&[("mine-1.egg-info", "x"), ("mine.py", "x")], &[]), None);
        assert_eq!(gone(&[("mine-1.dist-info/METADATA", "x"), ("mine.py", "x")], &[]), None);
    }
}
