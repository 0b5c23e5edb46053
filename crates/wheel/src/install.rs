//! What an installer would write for a wheel, as a list of files (PEP 427, "Installing a wheel").
//!
//! Nothing is written here: each file says where it goes and which entry of the wheel, or which few bytes, it holds.
//! Layers are made from that list. It does not depend on who asked for the wheel or when.

mod refusals;

use std::collections::{BTreeSet, HashMap, HashSet};
use std::io::Read;

use pep508_rs::PackageName;
use rawzip::ReaderAt;
use serde::Serialize;

use crate::archive::{Archive, ArchiveError, Entry, Method};
use crate::metadata::{EntryPoint, Metadata, entry_points};
use crate::modules::declares_namespace;
use crate::name::WheelName;
use crate::record::{self, Row};

/// The version of the mapping; part of every key of a layer made from wheels.
pub const MAPPING_VERSION: u32 = 3;

/// Bytes that a metadata file may have: the largest `RECORD` seen has 8 MB, for 60,000 files.
const METADATA_LIMIT: u64 = 32 << 20;
/// Bytes that a script may have whose first line is rewritten, and all of a wheel together.
const SCRIPT_LIMIT: u64 = 1 << 20;
const SCRIPTS_LIMIT: usize = 16 << 20;

/// Bytes of an `__init__.py` that may be that of a namespace.
const INIT_LIMIT: u64 = 4 << 10;

/// Where an environment keeps things. Paths have no leading slash.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Scheme {
    /// Pure and platform-specific modules alike.
    pub site_packages: String,
    /// Scripts.
    pub scripts: String,
    /// Data files.
    pub data: String,
    /// Headers; each distribution gets a directory there, by its normalised name as pip and uv do it.
    pub headers: String,
    /// What scripts begin with: an absolute path.
    pub interpreter: String,
    /// Directories that are there already. They and those above them get no entry in a layer: in a base any of them
    /// may be a symbolic link, which an entry would replace.
    pub existing: Vec<String>,
    /// Links of the environment, each with the directory that it stands for: what goes below a link goes there.
    pub links: Vec<(String, String)>,
}

impl Scheme {
    /// The virtual environment at `/opt/venv` for a Python `MAJOR.MINOR`.
    pub fn venv(python: &str) -> Self {
        Self {
            site_packages: format!("opt/venv/lib/python{python}/site-packages"),
            scripts: "opt/venv/bin".into(),
            data: "opt/venv".into(),
            headers: format!("opt/venv/include/site/python{python}"),
            interpreter: "/opt/venv/bin/python".into(),
            existing: vec!["opt".into()],
            links: vec![("opt/venv/lib64".into(), "opt/venv/lib".into())],
        }
    }

    /// The environment of a base's interpreter (`/usr/local/bin/python3.11`) with the directory that it installs to.
    pub fn base(interpreter: &str, site_packages: &str) -> Self {
        let site = site_packages.trim_start_matches('/').to_owned();
        let prefix = site.split("/lib/").next().unwrap_or(&site).to_owned();
        let python = site.split('/').find_map(|part| part.strip_prefix("python")).unwrap_or("3").to_owned();
        let scripts = format!("{prefix}/bin");
        let headers = format!("{prefix}/include/python{python}");
        Self {
            existing: vec![site.clone(), scripts.clone(), format!("{prefix}/include"), format!("{prefix}/share")],
            site_packages: site,
            scripts,
            data: prefix,
            headers,
            interpreter: interpreter.to_owned(),
            links: Vec::new(),
        }
    }

    /// Returns where a path leads through the links of the environment.
    fn follow(&self, path: String) -> String {
        let through = |(link, to): &(String, String)| {
            path.strip_prefix(link.as_str()).filter(|rest| rest.starts_with('/')).map(|rest| format!("{to}{rest}"))
        };
        self.links.iter().find_map(through).unwrap_or(path)
    }

    /// Returns the directories that everything goes into.
    pub fn roots(&self) -> Vec<&str> {
        let mut roots = vec![self.data.as_str()];
        for root in [&self.site_packages, &self.scripts, &self.headers] {
            if !root.strip_prefix(self.data.as_str()).is_some_and(|rest| rest.starts_with('/')) {
                roots.push(root);
            }
        }
        roots
    }

    /// Whether a directory gets no entry.
    pub fn exists(&self, directory: &str) -> bool {
        let below = |existing: &String| {
            existing.strip_prefix(directory).is_some_and(|rest| rest.is_empty() || rest.starts_with('/'))
        };
        directory.is_empty() || self.existing.iter().any(below)
    }
}

/// A file that an installer would write.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct InstalledFile {
    /// Path in the image, without a leading slash.
    pub path: String,
    /// Whether it may be executed: mode 0755 rather than 0644.
    pub executable: bool,
    /// What it holds.
    pub content: Content,
}

/// What an installed file holds.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Content {
    /// An entry of the wheel, unchanged.
    Entry(Entry),
    /// Bytes that the installer makes.
    Bytes(Vec<u8>),
}

/// What is wrong with a wheel.
#[derive(Debug, thiserror::Error)]
pub enum InstallError {
    /// Its archive.
    #[error(transparent)]
    Archive(#[from] ArchiveError),
    /// One of its metadata files.
    #[error("its `{file}` {problem}")]
    Metadata {
        /// Path in the wheel.
        file: String,
        /// A clause that follows the name.
        problem: String,
    },
    /// Its `.dist-info`.
    #[error("it has no directory `{0}` as its file name demands")]
    NoDistInfo(String),
    /// It has more than one `.dist-info`.
    #[error("it has several `.dist-info` directories: {}", .0.join(", "))]
    SeveralDistInfo(Vec<String>),
    /// A file that must not be installed: where it would go, and a clause.
    #[error("its file for `{path}` cannot be installed: {problem}")]
    Refused {
        /// Path in the image, without a leading slash.
        path: String,
        /// A clause.
        problem: String,
    },
    /// Two of its files go to one path, or one goes to where another needs a directory.
    #[error("two of its files go to `{0}`")]
    Collision(String),
}

/// A wheel whose archive and metadata have been read.
#[derive(Debug)]
pub struct Wheel<R> {
    /// What the file name says.
    pub name: WheelName,
    /// The archive.
    pub archive: Archive<R>,
    dist_info: String,
}

impl<R: ReaderAt> Wheel<R> {
    /// Reads a wheel of `size` bytes.
    pub fn open(name: WheelName, reader: R, size: u64) -> Result<Self, InstallError> {
        let archive = Archive::open(reader, size)?;
        let dist_info = find_dist_info(&archive, &name)?;
        let wheel = Self { name, archive, dist_info };
        wheel.check_version()?;
        wheel.check_metadata()?;
        Ok(wheel)
    }

    /// What the wheel says of itself.
    pub fn metadata(&self) -> Result<Metadata, InstallError> {
        Ok(Metadata::parse(&self.metadata_file("METADATA")?))
    }

    /// The path of one of its metadata files.
    pub(crate) fn dist_info_file(&self, file: &str) -> String {
        format!("{}/{file}", self.dist_info)
    }

    /// What its `RECORD` lists, in order.
    pub(crate) fn record(&self) -> Result<Vec<Row>, InstallError> {
        let most = 2 * self.archive.entries().len() + 1000;
        record::parse(&self.metadata_file("RECORD")?, most)
            .map_err(|problem| InstallError::Metadata { file: self.dist_info_file("RECORD"), problem })
    }

    pub(crate) fn metadata_file(&self, file: &str) -> Result<Vec<u8>, InstallError> {
        let path = self.dist_info_file(file);
        match self.archive.entry(&path) {
            Some(entry) => Ok(self.archive.read(entry, METADATA_LIMIT)?),
            None => Err(InstallError::Metadata { file: path, problem: "is missing".into() }),
        }
    }

    /// Wheel-Version 1.x is the only one there is; an installer must refuse another major version.
    fn check_version(&self) -> Result<(), InstallError> {
        let bytes = self.metadata_file("WHEEL")?;
        let text = String::from_utf8_lossy(&bytes);
        let version = text.lines().find_map(|line| line.strip_prefix("Wheel-Version:")).unwrap_or("").trim();
        if version.split('.').next() == Some("1") {
            return Ok(());
        }
        let problem = format!("says Wheel-Version `{version}`; kiln knows version 1");
        Err(InstallError::Metadata { file: format!("{}/WHEEL", self.dist_info), problem })
    }

    /// `METADATA` must be that of the file name's package and version; the version may lack the local part, as uv has it.
    fn check_metadata(&self) -> Result<(), InstallError> {
        let found = self.metadata()?;
        let wrong = |field: &str, value: &str, expected: &dyn std::fmt::Display| InstallError::Metadata {
            file: self.dist_info_file("METADATA"),
            problem: format!("says {field} `{}`, and the file name says `{expected}`", value.escape_debug()),
        };
        if PackageName::new(found.name.clone()).ok().as_ref() != Some(&self.name.name) {
            return Err(wrong("Name", &found.name, &self.name.name));
        }
        let version = found.version.parse::<pep440_rs::Version>().ok();
        if version
            .is_none_or(|version| version != self.name.version && version != self.name.version.clone().without_local())
        {
            return Err(wrong("Version", &found.version, &self.name.version));
        }
        Ok(())
    }

    /// The files that an installer would write, in the order of the archive, with generated files last.
    pub fn install(&self, scheme: &Scheme) -> Result<Vec<InstalledFile>, InstallError> {
        let mut files = Vec::with_capacity(self.archive.entries().len() + 8);
        let mut told: HashMap<String, Row> = self.record()?.into_iter().map(|row| (row.path.clone(), row)).collect();
        let mut rows = HashMap::with_capacity(told.len());
        let generated = ["RECORD", "INSTALLER", "REQUESTED"].map(|file| format!("{}/{file}", self.dist_info));
        let mut rewritten = 0;
        for entry in self.archive.entries() {
            if generated.contains(&entry.path) {
                continue;
            }
            let file = self.place(entry, scheme)?;
            let path = relative(&file.path, &scheme.site_packages);
            let row = match &file.content {
                Content::Bytes(bytes) => {
                    rewritten += bytes.len();
                    record::row(&path, bytes)
                }
                // As pip has it: a file that the wheel's own list lacks has a row without a hash.
                Content::Entry(_) => told.remove(&entry.path).unwrap_or_else(|| record::bare(&path)),
            };
            if rewritten > SCRIPTS_LIMIT {
                let problem = "is one of far too many scripts".into();
                return Err(InstallError::Metadata { file: entry.path.clone(), problem });
            }
            rows.insert(path.clone(), Row { path, ..row });
            files.push(file);
        }
        let site = |file: &str| format!("{}/{}/{file}", scheme.site_packages, self.dist_info);
        let mut extra: Vec<InstalledFile> = self
            .scripts(scheme)?
            .iter()
            .map(|point| InstalledFile {
                path: format!("{}/{}", scheme.scripts, point.name),
                executable: true,
                content: Content::Bytes(point.script(&scheme.interpreter).into_bytes()),
            })
            .collect();
        let installer = Content::Bytes(b"kiln\n".to_vec());
        extra.push(InstalledFile { path: site("INSTALLER"), executable: false, content: installer });
        let replaced: HashSet<&str> = extra.iter().map(|file| file.path.as_str()).collect();
        files.retain(|file| !replaced.contains(file.path.as_str()));
        for file in &extra {
            if let Content::Bytes(bytes) = &file.content {
                let path = relative(&file.path, &scheme.site_packages);
                rows.insert(path.clone(), record::row(&path, bytes));
            }
        }
        let own = record::bare(&format!("{}/RECORD", self.dist_info));
        rows.insert(own.path.clone(), own);
        let record = Content::Bytes(record::write(rows.into_values().collect()).into_bytes());
        files.extend(extra);
        files.push(InstalledFile { path: site("RECORD"), executable: false, content: record });
        refusals::check(&files, scheme)?;
        Ok(files)
    }

    /// Returns the packages at the top whose `__init__.py` lets other directories of `sys.path` have parts of them, as paths. What is
    /// damaged is no such package: whoever installs it is told.
    pub fn namespaces(&self) -> Vec<String> {
        let declares = |entry: &&Entry| {
            let text = (1..=INIT_LIMIT).contains(&entry.size).then(|| self.archive.read(entry, INIT_LIMIT));
            text.and_then(Result::ok).is_some_and(|text| declares_namespace(&text))
        };
        let package = |entry: &Entry| entry.path.strip_suffix("/__init__.py").map(str::to_owned);
        let at_top = |entry: &&Entry| package(entry).is_some_and(|package| !package.contains('/'));
        self.archive.entries().iter().filter(at_top).filter(declares).filter_map(package).collect()
    }

    fn scripts(&self, scheme: &Scheme) -> Result<Vec<EntryPoint>, InstallError> {
        let path = format!("{}/entry_points.txt", self.dist_info);
        let Some(entry) = self.archive.entry(&path) else { return Ok(Vec::new()) };
        let mut points = entry_points(&self.archive.read(entry, METADATA_LIMIT)?)
            .map_err(|problem| InstallError::Metadata { file: path, problem })?;
        if self.name.name.as_ref() == "pip" {
            of_this_python(&mut points, scheme);
        }
        Ok(points)
    }

    /// Where one entry goes.
    fn place(&self, entry: &Entry, scheme: &Scheme) -> Result<InstalledFile, InstallError> {
        let data = format!("{}.data/", self.dist_info.trim_end_matches(".dist-info"));
        let plain =
            |path: String| InstalledFile { path, executable: entry.executable, content: Content::Entry(entry.clone()) };
        let Some(rest) = entry.path.strip_prefix(&data) else {
            return Ok(plain(format!("{}/{}", scheme.site_packages, entry.path)));
        };
        let (key, path) = rest.split_once('/').unwrap_or((rest, ""));
        if path.is_empty() {
            return Err(InstallError::Metadata { file: entry.path.clone(), problem: "belongs to no scheme".into() });
        }
        match key {
            "purelib" | "platlib" => Ok(plain(format!("{}/{path}", scheme.site_packages))),
            "data" => Ok(plain(scheme.follow(format!("{}/{path}", scheme.data)))),
            "headers" => Ok(plain(format!("{}/{}/{path}", scheme.headers, self.name.name))),
            "scripts" if path.contains('/') => Err(InstallError::Metadata {
                file: entry.path.clone(),
                problem: "lies in a directory, which scripts do not".into(),
            }),
            "scripts" => {
                let content = match self.rewritten_script(entry, scheme)? {
                    Some(bytes) => Content::Bytes(bytes),
                    None => Content::Entry(entry.clone()),
                };
                Ok(InstalledFile { path: format!("{}/{path}", scheme.scripts), executable: true, content })
            }
            _ => Err(InstallError::Metadata {
                file: entry.path.clone(),
                problem: "is for a scheme that does not exist: purelib, platlib, scripts, data and headers do".into(),
            }),
        }
    }

    /// A script that begins with `#!python` gets the environment's interpreter in place of its first line, whatever else
    /// that says, as with pip and uv; others stay as they are.
    fn rewritten_script(&self, entry: &Entry, scheme: &Scheme) -> Result<Option<Vec<u8>>, InstallError> {
        if !self.starts_with(entry, b"#!python")? {
            return Ok(None);
        }
        let content = self.archive.read(entry, SCRIPT_LIMIT)?;
        let end = content.iter().position(|byte| *byte == b'\n').map_or(content.len(), |end| end + 1);
        Ok(Some([b"#!", scheme.interpreter.as_bytes(), b"\n", &content[end..]].concat()))
    }

    fn starts_with(&self, entry: &Entry, prefix: &[u8]) -> Result<bool, InstallError> {
        if entry.size < prefix.len() as u64 {
            return Ok(false);
        }
        let mut head = vec![0; entry.compressed.min(4096) as usize];
        self.archive.reader().read_exact_at(&mut head, entry.offset).map_err(ArchiveError::from)?;
        let mut start = vec![0; prefix.len()];
        let read = match entry.method {
            Method::Stored => (&head[..]).read_exact(&mut start),
            Method::Deflated => flate2::read::DeflateDecoder::new(&head[..]).read_exact(&mut start),
        };
        Ok(read.is_ok() && start == prefix)
    }
}

/// Gives pip the names of the environment's Python: its wheel has `pip3.N` of the one that built it. As pip itself does.
fn of_this_python(points: &mut Vec<EntryPoint>, scheme: &Scheme) {
    let of_pip =
        |name: &str| name.strip_prefix("pip").is_some_and(|rest| rest.chars().all(|c| c.is_ascii_digit() || c == '.'));
    let python = scheme.site_packages.split('/').find_map(|part| part.strip_prefix("python3."));
    let Some(pip) = points.iter().find(|point| of_pip(&point.name)).cloned() else { return };
    points.retain(|point| !of_pip(&point.name));
    let versioned = python.map(|minor| format!("pip3.{minor}"));
    let names = ["pip".to_owned(), "pip3".to_owned()].into_iter().chain(versioned);
    points.extend(names.map(|name| EntryPoint { name, ..pip.clone() }));
    points.sort_by(|a, b| a.name.cmp(&b.name));
}

/// Returns the only `.dist-info` directory, which must be named like the package. Its version is not compared: pip and uv
/// take that of `METADATA`.
fn find_dist_info<R: ReaderAt>(archive: &Archive<R>, name: &WheelName) -> Result<String, InstallError> {
    let first = archive.entries().iter().map(|entry| entry.path.split('/').next().unwrap_or_default());
    let directories: BTreeSet<&str> = first.filter(|directory| directory.ends_with(".dist-info")).collect();
    let mut directories = directories.into_iter();
    let missing = || InstallError::NoDistInfo(format!("{}-{}.dist-info", name.name.as_dist_info_name(), name.version));
    let found = directories.next().ok_or_else(missing)?;
    if let Some(other) = directories.next() {
        let all = [found, other].into_iter().chain(directories).take(5).map(str::to_owned);
        return Err(InstallError::SeveralDistInfo(all.collect()));
    }
    let package = found.split('-').next().and_then(|package| PackageName::new(package.to_owned()).ok());
    if package.as_ref() == Some(&name.name) { Ok(found.to_owned()) } else { Err(missing()) }
}

/// The path of a file as seen from a directory; both absolute without the leading slash.
fn relative(path: &str, directory: &str) -> String {
    let (path, directory): (Vec<&str>, Vec<&str>) = (path.split('/').collect(), directory.split('/').collect());
    let common = path.iter().zip(&directory).take_while(|(a, b)| a == b).count();
    let up = std::iter::repeat_n("..", directory.len() - common);
    up.chain(path[common..].iter().copied()).collect::<Vec<_>>().join("/")
}

#[cfg(test)]
mod tests;
