//! A system of packages that are unpacked and not configured yet, as the tar of a layer: their files, with owners as the packages say,
//! and the database of dpkg (dpkg(1), deb-control(5), the files below `/var/lib/dpkg`).
//!
//! No program runs, so any machine can make it for any architecture. What is left is for the system's own `dpkg --configure`.
//!
//! Directories of programs and libraries lie below `/usr`, with links in their former places, as every Debian since 12 has them; files
//! that packages still have in those places go where the links lead.

use std::collections::BTreeMap;
use std::io::{self, Read, Write};

use md5::{Digest as _, Md5};
use tar::{Builder, EntryType, Header};

use crate::control::{ControlError, stanzas};
use crate::deb::{ControlFile, Deb};
use crate::relation::{RelationError, relations};

/// Directories that are links to those below `/usr`.
const MERGED: [&str; 7] = ["bin", "lib", "lib32", "lib64", "libo32", "libx32", "sbin"];
/// The links that every system has.
const ALWAYS: [&str; 3] = ["bin", "lib", "sbin"];
/// Directories of the database.
const DATABASE: [&str; 8] = [
    "var",
    "var/lib",
    "var/lib/dpkg",
    "var/lib/dpkg/alternatives",
    "var/lib/dpkg/info",
    "var/lib/dpkg/parts",
    "var/lib/dpkg/triggers",
    "var/lib/dpkg/updates",
];

/// Packages that are no system.
#[derive(Debug, thiserror::Error)]
pub enum SystemError {
    /// A package without a description.
    #[error("the package `{0}` has no description")]
    NoControl(String),
    /// A description that cannot be read.
    #[error("the description of the package `{package}` cannot be read")]
    Control {
        /// The package.
        package: String,
        /// The reason.
        source: ControlError,
    },
    /// A relation that cannot be read.
    #[error("the description of the package `{package}` cannot be read")]
    Relation {
        /// The package.
        package: String,
        /// The reason.
        source: RelationError,
    },
    /// Two packages with the same file.
    #[error("`/{path}` is in the packages `{one}` and `{other}`, and neither replaces the other")]
    Twice {
        /// The file.
        path: String,
        /// The first package.
        one: String,
        /// The second one.
        other: String,
    },
    /// A path that leaves the system.
    #[error("the package `{package}` has the file `{path}`")]
    Path {
        /// The package.
        package: String,
        /// The path.
        path: String,
    },
    /// The files of a package.
    #[error("the files of the package `{package}` cannot be read")]
    Files {
        /// The package.
        package: String,
        /// The reason.
        source: io::Error,
    },
    /// The tar.
    #[error("the layer cannot be written")]
    Write(#[source] io::Error),
}

/// A path of the system.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum At {
    Directory,
    /// A link that every system has, whichever package brings it as well.
    Merged,
    /// A file of a package, by its number.
    File(usize),
}

/// A package that is in the system.
struct Unpacked {
    name: String,
    /// Names of packages whose files it may replace.
    replaces: Vec<String>,
    /// The name of its files in the database: with the architecture where several may be there at once.
    key: String,
    /// Its paragraph in the list of packages.
    status: String,
    /// Its files, as it names them.
    list: Vec<u8>,
    control: BTreeMap<String, ControlFile>,
    /// MD5 of its files of configuration, by path: dpkg compares them with what is there before it replaces one.
    configuration: BTreeMap<Vec<u8>, Option<String>>,
}

/// Writes a system.
pub struct System<W: Write> {
    tar: Builder<W>,
    paths: BTreeMap<Vec<u8>, At>,
    packages: Vec<Unpacked>,
}

impl<W: Write> System<W> {
    /// Begins a system.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn new(out: W) -> Result<Self, SystemError> {
        let mut system = Self { tar: Builder::new(out), paths: BTreeMap::new(), packages: Vec::new() };
        system.directory("usr").map_err(SystemError::Write)?;
        for name in ALWAYS {
            system.merge(name).map_err(SystemError::Write)?;
        }
        for path in DATABASE {
            system.directory(path).map_err(SystemError::Write)?;
        }
        Ok(system)
    }

    /// Adds a package.
    ///
    /// # Errors
    ///
    /// If it is none, or has a file that another one has.
    pub fn add(&mut self, name: &str, deb: Deb<'_>) -> Result<(), SystemError> {
        let Deb { control, data } = deb;
        let mut package = unpacked(name, control)?;
        let number = self.packages.len();
        let files = |source| SystemError::Files { package: name.to_owned(), source };
        let mut archive = tar::Archive::new(data);
        for entry in archive.entries().map_err(files)? {
            let mut entry = entry.map_err(files)?;
            let path = entry.path_bytes().into_owned();
            let (shown, path) = self.placed(name, &path)?;
            package.list.extend_from_slice(&shown);
            package.list.push(b'\n');
            if self.is_new(number, &package, &path, entry.header().entry_type(), entry.link_name_bytes().as_deref())? {
                let sum = package.configuration.get_mut(&shown);
                self.copy(name, &path, &mut entry, sum).map_err(files)?;
            }
        }
        package.tell_configuration();
        self.packages.push(package);
        Ok(())
    }

    /// Returns a path as the database shows it, and the place in the layer, without a slash at either end.
    fn placed(&mut self, package: &str, path: &[u8]) -> Result<(Vec<u8>, Vec<u8>), SystemError> {
        let names: Vec<&[u8]> = path.split(|byte| *byte == b'/').filter(|name| !matches!(*name, b"" | b".")).collect();
        if names.iter().any(|name| *name == b"..") {
            let (package, path) = (package.to_owned(), String::from_utf8_lossy(path).into_owned());
            return Err(SystemError::Path { package, path });
        }
        let plain = names.join(&b'/');
        let shown = if plain.is_empty() { b"/.".to_vec() } else { [b"/", plain.as_slice()].concat() };
        let merged = names.first().and_then(|first| MERGED.iter().find(|known| known.as_bytes() == *first));
        match merged {
            Some(first) if names.len() > 1 => {
                self.merge(first).map_err(SystemError::Write)?;
                Ok((shown, [b"usr/", plain.as_slice()].concat()))
            }
            _ => Ok((shown, plain)),
        }
    }

    /// Returns true if a package's path is to be written: it is new, or takes the place of another package's.
    fn is_new(
        &mut self,
        number: usize,
        package: &Unpacked,
        path: &[u8],
        kind: EntryType,
        link: Option<&[u8]>,
    ) -> Result<bool, SystemError> {
        let known = self.paths.get(path).copied();
        let name = std::str::from_utf8(path).unwrap_or_default();
        if MERGED.contains(&name) {
            // A directory in the former place, or the link itself.
            let is_link = link.is_some_and(|link| link == format!("usr/{name}").as_bytes());
            if kind.is_dir() || is_link {
                self.merge(name).map_err(SystemError::Write)?;
                return Ok(false);
            }
        }
        match known {
            None => {}
            Some(At::Directory) if path.is_empty() || kind.is_dir() => return Ok(false),
            Some(At::File(of)) => {
                let other = &self.packages.get(of).unwrap_or(package);
                if other.replaces.contains(&package.name) {
                    return Ok(false);
                }
                if of != number && !package.replaces.contains(&other.name) {
                    let (one, other) = (other.name.clone(), package.name.clone());
                    return Err(SystemError::Twice { path: String::from_utf8_lossy(path).into_owned(), one, other });
                }
            }
            Some(At::Merged | At::Directory) => {
                let (one, other) = ("the system".to_owned(), package.name.clone());
                return Err(SystemError::Twice { path: String::from_utf8_lossy(path).into_owned(), one, other });
            }
        }
        let at = if kind.is_dir() { At::Directory } else { At::File(number) };
        self.paths.insert(path.to_vec(), at);
        Ok(true)
    }

    fn copy(
        &mut self,
        package: &str,
        path: &[u8],
        entry: &mut tar::Entry<'_, impl Read>,
        sum: Option<&mut Option<String>>,
    ) -> io::Result<()> {
        if path.is_empty() {
            return Ok(());
        }
        let mut header = Header::new_gnu();
        let from = entry.header();
        header.set_mode(from.mode()? & 0o7777);
        header.set_uid(from.uid()?);
        header.set_gid(from.gid()?);
        header.set_mtime(from.mtime()?);
        header.set_entry_type(from.entry_type());
        let place = native(path);
        match from.entry_type() {
            EntryType::Directory => {
                header.set_size(0);
                self.tar.append_data(&mut header, place, io::empty())
            }
            EntryType::Symlink => {
                header.set_size(0);
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                self.tar.append_link(&mut header, place, native(&target))
            }
            EntryType::Link => {
                header.set_size(0);
                let target = entry.link_name_bytes().unwrap_or_default().into_owned();
                let (_, target) = self.placed(package, &target).map_err(io::Error::other)?;
                self.tar.append_link(&mut header, place, native(&target))
            }
            EntryType::Regular | EntryType::Continuous => {
                header.set_size(entry.size());
                let mut summed = Summed { from: entry, sum: Md5::new() };
                self.tar.append_data(&mut header, place, &mut summed)?;
                if let Some(sum) = sum {
                    *sum = Some(hex(&summed.sum.finalize()));
                }
                Ok(())
            }
            // Devices are the runtime's.
            _ => Ok(()),
        }
    }

    /// Writes a directory of the system itself, once.
    fn directory(&mut self, path: &str) -> io::Result<()> {
        if self.paths.insert(path.into(), At::Directory).is_some() {
            return Ok(());
        }
        let mut header = plain(EntryType::Directory, 0o755, 0);
        self.tar.append_data(&mut header, path, io::empty())
    }

    /// Writes a link to a directory below `/usr`, and that directory, once.
    fn merge(&mut self, name: &str) -> io::Result<()> {
        self.directory(&format!("usr/{name}"))?;
        if self.paths.insert(name.into(), At::Merged).is_some() {
            return Ok(());
        }
        let mut header = plain(EntryType::Symlink, 0o777, 0);
        self.tar.append_link(&mut header, name, format!("usr/{name}"))
    }

    fn file(&mut self, path: &str, mode: u32, content: &[u8]) -> io::Result<()> {
        let mut header = plain(EntryType::Regular, mode, content.len() as u64);
        self.tar.append_data(&mut header, path, content)
    }

    /// Returns the packages with a script that dpkg would have run before their files, by the names of their files in the database.
    pub fn with_preinst(&self) -> Vec<String> {
        let with = self.packages.iter().filter(|package| package.control.contains_key("preinst"));
        with.map(|package| package.key.clone()).collect()
    }

    /// Writes the database, and returns the writer.
    ///
    /// # Errors
    ///
    /// If it cannot be written.
    pub fn finish(mut self) -> Result<W, SystemError> {
        self.database().map_err(SystemError::Write)?;
        self.tar.into_inner().map_err(SystemError::Write)
    }

    fn database(&mut self) -> io::Result<()> {
        let packages = std::mem::take(&mut self.packages);
        let status: Vec<&str> = packages.iter().map(|package| package.status.as_str()).collect();
        self.file("var/lib/dpkg/status", 0o644, status.join("\n").as_bytes())?;
        self.file("var/lib/dpkg/available", 0o644, b"")?;
        self.file("var/lib/dpkg/info/format", 0o644, b"1\n")?;
        for package in &packages {
            let place = |name: &str| format!("var/lib/dpkg/info/{}.{name}", package.key);
            self.file(&place("list"), 0o644, &package.list)?;
            for (name, file) in package.control.iter().filter(|(name, _)| *name != "control") {
                self.file(&place(name), file.mode, &file.content)?;
            }
        }
        for (path, lines) in triggers(&packages) {
            self.file(&format!("var/lib/dpkg/triggers/{path}"), 0o644, lines.concat().as_bytes())?;
        }
        Ok(())
    }
}

fn plain(kind: EntryType, mode: u32, size: u64) -> Header {
    let mut header = Header::new_gnu();
    header.set_entry_type(kind);
    header.set_mode(mode);
    header.set_uid(0);
    header.set_gid(0);
    header.set_mtime(0);
    header.set_size(size);
    header
}

fn native(path: &[u8]) -> std::path::PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    std::ffi::OsString::from_vec(path.to_vec()).into()
}

fn unpacked(name: &str, control: BTreeMap<String, ControlFile>) -> Result<Unpacked, SystemError> {
    let no_control = || SystemError::NoControl(name.to_owned());
    let text = |file: &str| control.get(file).and_then(|file| std::str::from_utf8(&file.content).ok());
    let described = text("control").ok_or_else(no_control)?;
    let stanza = stanzas(described)
        .next()
        .ok_or_else(no_control)?
        .map_err(|source| SystemError::Control { package: name.to_owned(), source })?;
    let replaces = relations(stanza.get("Replaces").unwrap_or_default())
        .map_err(|source| SystemError::Relation { package: name.to_owned(), source })?;
    let architecture = stanza.get("Architecture").unwrap_or("all");
    let key = match stanza.get("Multi-Arch") {
        Some("same") => format!("{name}:{architecture}"),
        _ => name.to_owned(),
    };
    let mut status = format!("Package: {name}\nStatus: install ok unpacked\n");
    for (field, value) in stanza.fields().filter(|(field, _)| !field.eq_ignore_ascii_case("Package")) {
        status.push_str(&format!("{field}: {value}\n"));
    }
    // Lines may begin with a flag; files that an upgrade removes are none of a new system.
    let configuration = text("conffiles").unwrap_or_default().lines().map(str::trim);
    let configuration = configuration.filter(|line| line.starts_with('/')).map(|line| (line.into(), None)).collect();
    let replaces = replaces.into_iter().flatten().map(|relation| relation.name).collect();
    Ok(Unpacked { name: name.to_owned(), replaces, key, status, list: Vec::new(), control, configuration })
}

impl Unpacked {
    /// Adds the field about files of configuration that the package brought.
    fn tell_configuration(&mut self) {
        let line = |(path, sum): (&Vec<u8>, &Option<String>)| {
            let sum = sum.as_deref()?;
            Some(format!(" {} {sum}\n", String::from_utf8_lossy(path)))
        };
        let lines: String = self.configuration.iter().filter_map(line).collect();
        if !lines.is_empty() {
            self.status.push_str("Conffiles:\n");
            self.status.push_str(&lines);
        }
    }
}

/// A file whose MD5 is taken while it is read.
struct Summed<'f, R> {
    from: &'f mut R,
    sum: Md5,
}

impl<R: Read> Read for Summed<'_, R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.from.read(buffer)?;
        self.sum.update(&buffer[..read]);
        Ok(read)
    }
}

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Returns the lines of the files of triggers (deb-triggers(5)): who is interested in a name, and in paths.
fn triggers(packages: &[Unpacked]) -> BTreeMap<String, Vec<String>> {
    let mut files: BTreeMap<String, Vec<String>> = BTreeMap::new();
    for package in packages {
        let text = package.control.get("triggers").and_then(|file| std::str::from_utf8(&file.content).ok());
        for line in text.unwrap_or_default().lines() {
            let mut words = line.split_whitespace();
            let (Some(directive), Some(trigger)) = (words.next(), words.next()) else { continue };
            let waits = match directive {
                "interest" | "interest-await" => "",
                "interest-noawait" => "/noawait",
                _ => continue,
            };
            let key = &package.key;
            match trigger.starts_with('/') {
                true => files.entry("File".into()).or_default().push(format!("{trigger} {key}{waits}\n")),
                false => files.entry(trigger.to_owned()).or_default().push(format!("{key}{waits}\n")),
            }
        }
    }
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Returns a package with files: a path that ends in a slash is a directory, one with ` -> ` a link.
    fn package<'d>(about: &[(&str, &str)], files: &[(&str, &str)]) -> Deb<'d> {
        let control = about.iter().map(|(name, text)| {
            let mode = if *name == "postinst" { 0o755 } else { 0o644 };
            ((*name).to_owned(), ControlFile { mode, content: text.as_bytes().to_vec() })
        });
        let files: Vec<(&str, u32, &[u8])> =
            files.iter().map(|(path, content)| (*path, 0o644, content.as_bytes())).collect();
        let data = crate::testing::tar(&files);
        Deb { control: control.collect(), data: Box::new(io::Cursor::new(data)) }
    }

    fn control(name: &str, more: &str) -> String {
        format!("Package: {name}\nVersion: 1\nArchitecture: amd64\n{more}Description: short\n long\n")
    }

    fn system(packages: Vec<(&str, Deb<'_>)>) -> Result<BTreeMap<String, String>, SystemError> {
        let mut system = System::new(Vec::new())?;
        for (name, deb) in packages {
            system.add(name, deb)?;
        }
        let bytes = system.finish()?;
        let mut found = BTreeMap::new();
        for entry in tar::Archive::new(bytes.as_slice()).entries().unwrap() {
            let mut entry = entry.unwrap();
            let path = entry.path().unwrap().display().to_string();
            let mut text = entry.link_name().unwrap().map_or_else(String::new, |to| format!("-> {}", to.display()));
            entry.read_to_string(&mut text).unwrap();
            assert!(found.insert(path.clone(), text).is_none(), "{path}");
        }
        Ok(found)
    }

    #[test]
    fn files_go_below_usr_and_the_database_says_what_packages_call_them() {
        let about = control("ab", "Multi-Arch: same\n");
        let files = [
            ("./bin/", ""),
            ("./bin/ab", "program"),
            ("./lib64/ld.so -> ../lib/ld.so", ""),
            ("./etc/", ""),
            ("./etc/ab.conf", "a=1\n"),
        ];
        let about = [
            ("control", about.as_str()),
            ("conffiles", "/etc/ab.conf\nremove-on-upgrade /etc/old\n"),
            ("postinst", "#!/bin/sh\n"),
            ("triggers", "interest-noawait ldconfig\ninterest /usr/share/man\nactivate other\n"),
        ];
        let other = control("cd", "");
        let found =
            system(vec![("ab", package(&about, &files)), ("cd", package(&[("control", &other)], &[("./bin/cd", "")]))])
                .unwrap();
        assert_eq!((found["bin"].as_str(), found["lib64"].as_str()), ("-> usr/bin", "-> usr/lib64"));
        assert_eq!((found["usr/bin/ab"].as_str(), found["usr/lib64/ld.so"].as_str()), ("program", "-> ../lib/ld.so"));
        let info = |name: &str| found[&format!("var/lib/dpkg/info/{name}")].as_str();
        assert_eq!(info("ab:amd64.list"), "/bin\n/bin/ab\n/lib64/ld.so\n/etc\n/etc/ab.conf\n");
        assert_eq!((info("ab:amd64.postinst"), info("cd.list")), ("#!/bin/sh\n", "/bin/cd\n"));
        assert_eq!(found["var/lib/dpkg/triggers/ldconfig"], "ab:amd64/noawait\n");
        assert_eq!(found["var/lib/dpkg/triggers/File"], "/usr/share/man ab:amd64\n");
        assert_eq!(
            found["var/lib/dpkg/status"],
            "Package: ab\nStatus: install ok unpacked\nVersion: 1\nArchitecture: amd64\nMulti-Arch: same\n\
             Description: short\n long\nConffiles:\n /etc/ab.conf d5e29449b9e66d5b4bb0d6ce48fbbcb1\n\n\
             Package: cd\nStatus: install ok unpacked\nVersion: 1\nArchitecture: amd64\nDescription: short\n long\n"
        );
    }

    #[test]
    fn a_file_of_two_packages_is_the_one_s_that_replaces_the_other() {
        let pair = |first: &str, second: &str| {
            let deb = |text: &str, content: &'static str| package(&[("control", text)], &[("./usr/share/x", content)]);
            system(vec![("ab", deb(first, "of ab")), ("cd", deb(second, "of cd"))])
        };
        let found = pair(&control("ab", "Replaces: cd (<< 2)\n"), &control("cd", "")).unwrap();
        assert_eq!(found["usr/share/x"], "of ab");
        let error = pair(&control("ab", ""), &control("cd", "")).unwrap_err().to_string();
        assert_eq!(error, "`/usr/share/x` is in the packages `ab` and `cd`, and neither replaces the other");
    }
}
