//! Requirements files, read as pip reads them, so that nothing of them reaches another program unread.
//!
//! The format is the one of pip's documentation ("Requirements File Format"): requirements, options, files that are
//! included. What kiln does not do, such as building sources, is a mistake at its line. Relative paths are relative to
//! the file that names them. The environment is never read: `${NAME}`, which pip replaces, is a mistake too.

mod decode;
mod entry;
mod lines;
mod options;
pub mod poetry;
pub mod pyproject;
mod requirement;
#[cfg(test)]
mod tests;

use std::io;
use std::path::{Component, Path, PathBuf};
use std::sync::Arc;

use kiln_plan::diagnostic::{Diagnostic, Diagnostics, Place, SourceFile};
use kiln_plan::digest::Digest;
use pep440_rs::VersionSpecifiers;
use pep508_rs::{MarkerTree, PackageName};

use decode::Undecodable;
pub use entry::entry;
use lines::Line;
use options::{Given, Name};
use requirement::{BUILD_IT, Refused, Surroundings, digest, normal, web_url};
pub use requirement::{FileRequirement, Provided, Source, bring_wheel};

/// Bytes that one file may have, and all of them together.
pub const LARGEST: u64 = 16 << 20;
const LARGEST_TOGETHER: usize = 64 << 20;
/// Files that may be included, one in another and in all.
const DEEPEST: usize = 32;
const MOST: usize = 256;
/// Mistakes that are shown.
const MISTAKES: usize = 20;

/// A value with the place where it is written.
#[derive(Debug, Clone)]
pub struct Placed<T> {
    /// The value.
    pub value: T,
    /// Place in its file.
    pub place: Place,
}

/// Content of a requirements file and of the files that it includes.
#[derive(Debug, Clone, Default)]
pub struct Requirements {
    /// The files that were read, by their paths relative to the project, with the digests of their content.
    pub files: Vec<(String, Digest)>,
    /// Requirements to be installed.
    pub requirements: Vec<Placed<FileRequirement>>,
    /// Constraints: they hold for packages that are installed anyhow.
    pub constraints: Vec<Placed<FileRequirement>>,
    /// `--index-url`.
    pub index: Option<Placed<String>>,
    /// `--extra-index-url`.
    pub extra_indexes: Vec<Placed<String>>,
    /// `--find-links`: URLs, and absolute paths.
    pub find_links: Vec<Placed<String>>,
    /// `--no-index`.
    pub no_index: Option<Place>,
    /// `--pre`.
    pub prereleases: Option<Place>,
    /// `--require-hashes`.
    pub require_hashes: Option<Place>,
    /// Requirements that replace every other one of their packages.
    pub overrides: Vec<Placed<FileRequirement>>,
    /// Packages that are not installed, whoever requires them.
    pub exclude: Vec<Placed<PackageName>>,
    /// Packages that come from one index only.
    pub bound: Vec<Bound>,
    /// Versions of Python that the file is for.
    pub python: Option<Placed<VersionSpecifiers>>,
    /// An RFC 3339 time: nothing that the indexes got later.
    pub exclude_newer: Option<Placed<String>>,
}

/// A package that comes from one index only.
#[derive(Debug, Clone)]
pub struct Bound {
    /// Its name.
    pub name: PackageName,
    /// The index, and the place where it is said.
    pub index: Placed<String>,
    /// The environments for which that holds; all where there is none.
    pub marker: Option<MarkerTree>,
}

impl Requirements {
    /// Adds what another file says. There is one default index, and one time that bounds both.
    pub fn append(&mut self, mut other: Self) -> Result<(), Diagnostics> {
        let mut wrong = Diagnostics::default();
        let differs = |a: &Option<Placed<String>>, b: &Option<Placed<String>>| match (a, b) {
            (Some(a), Some(b)) if a.value != b.value => Some((a.place.clone(), b.place.clone())),
            _ => None,
        };
        for (one, another, message) in [
            (&self.index, &other.index, "there are two default indexes"),
            (&self.exclude_newer, &other.exclude_newer, "there are two times after which packages are left out"),
        ] {
            if let Some((one, another)) = differs(one, another) {
                wrong.push(Diagnostic::at(another, message).also(one, "the other one").hint("keep one of the two"));
            }
        }
        self.files.append(&mut other.files);
        self.requirements.append(&mut other.requirements);
        self.constraints.append(&mut other.constraints);
        self.extra_indexes.append(&mut other.extra_indexes);
        self.find_links.append(&mut other.find_links);
        self.overrides.append(&mut other.overrides);
        self.exclude.append(&mut other.exclude);
        self.bound.append(&mut other.bound);
        self.index = self.index.take().or(other.index);
        self.no_index = self.no_index.take().or(other.no_index);
        self.prereleases = self.prereleases.take().or(other.prereleases);
        self.require_hashes = self.require_hashes.take().or(other.require_hashes);
        self.exclude_newer = self.exclude_newer.take().or(other.exclude_newer);
        self.python = self.python.take().or(other.python);
        wrong.or(())
    }
}

/// Reads a requirements file and those that it includes. Paths in messages are relative to `project`.
pub fn read(
    project: &Path,
    file: &Path,
    provided: &Provided,
    content: &mut dyn FnMut(&Path) -> io::Result<Vec<u8>>,
) -> Result<Requirements, Diagnostics> {
    let mut reader = Reader {
        project,
        provided,
        content,
        bytes: 0,
        stack: Vec::new(),
        found: Requirements::default(),
        wrong: Vec::new(),
    };
    let file = normal(file);
    if let Err(refused) = reader.file(&file, false) {
        let shown = shown(project, &file);
        reader.wrong.push(Diagnostic::nowhere(format!("`{shown}` {}", refused.message)).hint(refused.hint));
    }
    Diagnostics(reader.wrong).or(reader.found)
}

struct Reader<'a> {
    project: &'a Path,
    provided: &'a Provided,
    content: &'a mut dyn FnMut(&Path) -> io::Result<Vec<u8>>,
    bytes: usize,
    /// The files that are being read, each included by the one before.
    stack: Vec<PathBuf>,
    found: Requirements,
    wrong: Vec<Diagnostic>,
}

/// A file that is being read.
struct Open {
    source: Arc<SourceFile>,
    directory: PathBuf,
    constraint: bool,
}

impl Open {
    fn place(&self, line: &Line, part: std::ops::Range<usize>) -> Place {
        let span = line.span(part);
        // A requirement may go on over many lines: the first says where it is.
        let end = self.source.text[span.clone()].find(['\n', '\r']).map_or(span.end, |end| span.start + end);
        let end = span.start + self.source.text[span.start..end].trim_end_matches([' ', '\\']).len();
        Place { file: Arc::clone(&self.source), span: span.start..end }
    }
}

impl Reader<'_> {
    /// Reads one file. An error is a clause about the file as a whole.
    fn file(&mut self, path: &Path, constraint: bool) -> Result<(), Refused> {
        if self.stack.iter().any(|open| open == path) {
            return Err(Refused::new("includes itself", "remove this line or the one that includes this file"));
        }
        if self.stack.len() >= DEEPEST || self.found.files.len() >= MOST {
            return Err(Refused::new("is included too deep or too often", "include fewer files"));
        }
        let bytes = (self.content)(path).map_err(|error| {
            let reason = match error.kind() {
                io::ErrorKind::NotFound => "does not exist".to_owned(),
                _ => format!("cannot be read: {error}"),
            };
            Refused::new(reason, "a path in a requirements file is relative to that file")
        })?;
        self.bytes += bytes.len();
        if bytes.len() as u64 > LARGEST || self.bytes > LARGEST_TOGETHER {
            return Err(Refused::new(
                "is too large for a requirements file",
                "a file of requirements has at most 16 MiB",
            ));
        }
        let shown = shown(self.project, path);
        self.found.files.push((shown.clone(), Digest::of(&bytes)));
        let text = match decode::decode(&bytes) {
            Ok(text) => text,
            Err(undecodable) => {
                self.undecodable(shown, &bytes, &undecodable);
                return Ok(());
            }
        };
        let source = Arc::new(SourceFile { path: shown, text: without_secrets(&text) });
        let directory = path.parent().unwrap_or(Path::new("/")).to_owned();
        let open = Open { source, directory, constraint };
        self.stack.push(path.to_owned());
        for line in lines::lines(&text) {
            if self.wrong.len() >= MISTAKES {
                break;
            }
            match line {
                Ok(line) => self.line(&open, &line),
                Err(span) => {
                    let place = Place { file: Arc::clone(&open.source), span: span.start..span.start };
                    self.refuse(place, Refused::new("this line is too long", "a line has at most 1 MiB"));
                }
            }
        }
        self.stack.pop();
        Ok(())
    }

    fn undecodable(&mut self, path: String, bytes: &[u8], undecodable: &Undecodable) {
        let good = std::str::from_utf8(bytes).map_or_else(|error| error.valid_up_to(), str::len);
        let text = without_secrets(&String::from_utf8_lossy(bytes));
        let source = Arc::new(SourceFile { path, text });
        let (span, refused) = match undecodable {
            Undecodable::Unknown(name) => (
                source.text.find(name.as_str()).map_or(0..0, |at| at..at + name.len()),
                Refused::new(format!("the encoding `{name}` is not read"), "save the file as UTF-8"),
            ),
            Undecodable::Invalid => (
                good..good,
                Refused::new(
                    "this is not in the encoding of the file",
                    "save the file as UTF-8, or name its encoding in the first line: `# -*- coding: latin-1 -*-`",
                ),
            ),
        };
        self.refuse(Place { file: source, span }, refused);
    }

    fn refuse(&mut self, place: Place, refused: Refused) {
        let diagnostic = Diagnostic::at(place, refused.message).label(refused.label);
        self.wrong.push(diagnostic.hint(refused.hint));
    }

    fn line(&mut self, open: &Open, line: &Line) {
        let everything = 0..line.text.len();
        if let Some(at) = variable(&line.text) {
            let refused = Refused::new(
                format!("`{}` would come from the environment, which kiln does not read", &line.text[at.clone()]),
                "write the value; credentials of an index belong in `~/.netrc`",
            );
            return self.refuse(open.place(line, at), refused);
        }
        let (text, options) = match options::divide(&line.text) {
            Ok(divided) => divided,
            Err(wrong) => {
                let place = open.place(line, wrong.at);
                let word = &place.file.text[place.span.clone()];
                let refused = Refused::new(format!("`{word}` {}", wrong.problem), OPTIONS);
                return self.refuse(place, refused);
            }
        };
        if text.is_empty() {
            return self.options(open, line, &options);
        }
        let place = open.place(line, everything);
        match self.requirement(open, line, text, &options) {
            Ok(value) if open.constraint => self.found.constraints.push(Placed { value, place }),
            Ok(value) => self.found.requirements.push(Placed { value, place }),
            Err((place, refused)) => self.refuse(place, refused),
        }
    }

    /// A requirement with its hashes.
    fn requirement(
        &mut self,
        open: &Open,
        line: &Line,
        text: &str,
        options: &[Given],
    ) -> Result<FileRequirement, (Place, Refused)> {
        let at_text = |refused| (open.place(line, 0..text.len()), refused);
        let surroundings = Surroundings { directory: &open.directory, provided: self.provided };
        let mut requirement = FileRequirement::read(text, surroundings).map_err(at_text)?;
        if open.constraint && !requirement.extras.is_empty() {
            let refused = Refused::new("a constraint cannot have extras", "ask for the extras in a requirements file");
            return Err(at_text(refused));
        }
        let mut given = Vec::new();
        let mut other = false;
        for option in options {
            let wrong = |refused| (open.place(line, option.at.clone()), refused);
            match option.name {
                Name::Hash => match hash(&option.value).map_err(wrong)? {
                    Some(digest) => given.push(digest),
                    None => other = true,
                },
                Name::ConfigSetting => {
                    return Err(wrong(Refused::new(
                        "`--config-settings` concerns building, which is not done",
                        BUILD_IT,
                    )));
                }
                name => {
                    let message = format!("`{}` stands beside a requirement, where pip ignores it", name.spelling());
                    return Err(wrong(Refused::new(message, "give it a line of its own")));
                }
            }
        }
        if other && given.is_empty() {
            let refused = Refused::new(
                "this requirement has no sha256, which alone kiln checks",
                "add `--hash=sha256:` and the digest: `pip hash FILE` prints it",
            );
            return Err((open.place(line, options.first().map_or(0..text.len(), |option| option.at.clone())), refused));
        }
        match requirement.hashes.first() {
            Some(fragment) if !given.is_empty() && !given.contains(fragment) => {
                let message = "the hash in the URL is none of those that are given with `--hash`";
                return Err(at_text(Refused::new(message, "remove the one that is wrong")));
            }
            Some(_) => {}
            None => requirement.hashes = given,
        }
        Ok(requirement)
    }

    /// A line of options alone.
    fn options(&mut self, open: &Open, line: &Line, options: &[Given]) {
        for (at, option) in options.iter().enumerate() {
            let place = open.place(line, option.at.clone());
            let includes = |option: &Given| matches!(option.name, Name::Requirement | Name::Constraint);
            let again =
                options[..at].iter().any(|other| other.name == option.name && other.name != Name::ExtraIndexUrl);
            if (options.len() > 1 && includes(option)) || again {
                let message = format!("`{}` shares its line, where pip reads only one", option.name.spelling());
                self.refuse(place, Refused::new(message, "give it a line of its own"));
            } else if let Err(refused) = self.option(open, option, &place) {
                self.refuse(place, refused);
            }
        }
    }

    fn option(&mut self, open: &Open, option: &Given, place: &Place) -> Result<(), Refused> {
        let value = option.value.as_str();
        match option.name {
            Name::Requirement | Name::Constraint => {
                return self.include(open, value, place, option.name == Name::Constraint);
            }
            Name::IndexUrl => {
                let value = index_url(value, &open.directory)?;
                if let Some(other) = self.found.index.as_ref().filter(|other| other.value != value) {
                    let diagnostic = Diagnostic::at(place.clone(), "there are two default indexes")
                        .also(other.place.clone(), "the other one")
                        .hint("one index is the default: `--extra-index-url` names more");
                    self.wrong.push(diagnostic);
                    return Ok(());
                }
                self.found.index = Some(Placed { value, place: place.clone() });
            }
            Name::ExtraIndexUrl => {
                let value = index_url(value, &open.directory)?;
                self.found.extra_indexes.push(Placed { value, place: place.clone() });
            }
            Name::FindLinks => {
                let value = index_url(value, &open.directory)?;
                let value = value.strip_prefix("file://").map_or(value.clone(), str::to_owned);
                self.found.find_links.push(Placed { value, place: place.clone() });
            }
            Name::NoIndex => self.found.no_index = Some(place.clone()),
            Name::Pre => self.found.prereleases = Some(place.clone()),
            Name::AllReleases if value == ":all:" => self.found.prereleases = Some(place.clone()),
            Name::RequireHashes => self.found.require_hashes = Some(place.clone()),
            Name::Editable => {
                let surroundings = Surroundings { directory: &open.directory, provided: self.provided };
                match FileRequirement::read(value, surroundings) {
                    Ok(value) if self.provided.contains(&value.name) => {
                        self.found.requirements.push(Placed { value, place: place.clone() });
                    }
                    read => {
                        let hint = read.err().filter(|_| !is_project(value)).map(|refused| refused.hint);
                        let refused = refuse_option(option.name, value);
                        return Err(Refused { hint: hint.unwrap_or_else(|| refused.hint.clone()), ..refused });
                    }
                }
            }
            // Wheels alone are taken anyhow.
            Name::OnlyBinary | Name::PreferBinary => {}
            refused => return Err(refuse_option(refused, value)),
        }
        Ok(())
    }

    fn include(&mut self, open: &Open, value: &str, place: &Place, constraint: bool) -> Result<(), Refused> {
        let lower = value.to_ascii_lowercase();
        if ["http:", "https:", "file:"].iter().any(|scheme| lower.starts_with(scheme)) {
            return Err(Refused::new(
                "a file at a URL is not included: what it says tomorrow is not known",
                "download it, and include the file",
            ));
        }
        let path = normal(&open.directory.join(value));
        self.file(&path, constraint).or_else(|refused| {
            let shown = shown(self.project, &path);
            self.refuse(place.clone(), Refused::new(format!("`{shown}` {}", refused.message), refused.hint));
            Ok(())
        })
    }
}

const OPTIONS: &str = "options are those of pip's requirements files: `-r`, `-c`, `--hash`, `--index-url`, \
                       `--extra-index-url`, `--find-links`, `--no-index`, `--pre`, `--require-hashes`";

/// Returns true for the project itself.
fn is_project(value: &str) -> bool {
    matches!(value, "." | "file:.") || value.starts_with(".[")
}

/// Options that are read and refused.
fn refuse_option(name: Name, value: &str) -> Refused {
    let spelling = name.spelling();
    match name {
        Name::Editable if is_project(value) => Refused::new(
            "the project itself is not installed: kiln installs wheels",
            format!("list what it needs; {BUILD_IT}; or bring its files with `copy`"),
        ),
        Name::Editable => {
            Refused::new("`-e` is not taken: an image holds no checkout, and kiln installs wheels", BUILD_IT)
        }
        Name::NoBinary => Refused::new("`--no-binary` is not taken: it asks to build sources", BUILD_IT),
        Name::AllReleases | Name::OnlyFinal => Refused::new(
            format!("`{spelling} {value}` is not taken"),
            "`[resolution] prerelease` in the stack file names the packages whose pre-releases are chosen",
        ),
        Name::NoRequireHashes => Refused::new(
            "`--no-require-hashes` is not taken: a hash that is given is always checked",
            "remove the option",
        ),
        Name::TrustedHost => Refused::new(
            "`--trusted-host` is not taken: certificates are always checked",
            "trust the certificate of its authority: `SSL_CERT_FILE=FILE kiln lock`",
        ),
        Name::Hash => Refused::new(
            "`--hash` belongs to no requirement, so that pip ignores it",
            "put it on the requirement's line",
        ),
        Name::ConfigSetting => Refused::new("`--config-settings` concerns building, which is not done", BUILD_IT),
        _ => Refused::new(format!("`{spelling}` is not taken"), "it changes how pip works: remove it"),
    }
}

/// The digest of a `--hash` option; none for an algorithm that is not checked.
fn hash(value: &str) -> Result<Option<Digest>, Refused> {
    match value.split_once(':') {
        Some(("sha256", hex)) => digest(hex).map(Some),
        Some(("sha384" | "sha512", _)) => Ok(None),
        Some((other, _)) => Err(Refused::new(
            format!("`{other}` is not a hash that packages are checked by"),
            "pip takes sha256, sha384 and sha512; kiln needs the sha256",
        )),
        None => Err(Refused::new("`--hash` lacks its algorithm", "it is `--hash=sha256:` and 64 hexadecimal digits")),
    }
}

/// The URL of an index or of a page of links; a directory of this machine as `file://` and its absolute path.
fn index_url(value: &str, directory: &Path) -> Result<String, Refused> {
    let lower = value.to_ascii_lowercase();
    if lower.starts_with("http://") || lower.starts_with("https://") {
        return web_url(value).map(|_| value.to_owned());
    }
    let path = match lower.strip_prefix("file:") {
        Some(_) => {
            let path = &value["file:".len()..];
            path.strip_prefix("//").map_or(path, |rest| rest.strip_prefix("localhost").unwrap_or(rest))
        }
        None if value.contains("://") || value.is_empty() => {
            return Err(Refused::new(
                "this is not the address of an index",
                "it begins with `https://`, or is a directory, relative to this file",
            ));
        }
        None => value,
    };
    Ok(format!("file://{}", normal(&directory.join(path)).display()))
}

/// A reference to the environment in the one form that pip replaces: `${UPPER_CASE_1}`.
fn variable(text: &str) -> Option<std::ops::Range<usize>> {
    text.match_indices("${").find_map(|(at, _)| {
        let name = &text[at + 2..];
        let length = name.find(|c: char| !(c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_'))?;
        (length > 0 && name[length..].starts_with('}')).then_some(at..at + 2 + length + 1)
    })
}

/// A path relative to the project; with `..` where it lies outside.
fn shown(project: &Path, path: &Path) -> String {
    let (project, path) = (normal(project), normal(path));
    let shared = project.components().zip(path.components()).take_while(|(a, b)| a == b).count();
    let up = project.components().skip(shared).map(|_| Component::ParentDir);
    let relative: PathBuf = up.chain(path.components().skip(shared)).collect();
    relative.display().to_string()
}

/// The text with the credentials of URLs covered, byte for byte. A password may hold any character, so that they end at
/// the last `@`; only in the URL of a repository without any may it stand before a revision.
fn without_secrets(text: &str) -> String {
    let mut covered = text.to_owned();
    let mut from = 0;
    while let Some(at) = text[from..].find("://").map(|at| from + at + "://".len()) {
        let end =
            text[at..].find(|c: char| c.is_whitespace() || matches!(c, '"' | '\'')).map_or(text.len(), |n| at + n);
        let scheme = text[from..at].rsplit(|c: char| c.is_whitespace() || c == '=').next().unwrap_or_default();
        let host = text[at..end].split('/').next().unwrap_or_default();
        let is_revision = scheme.contains('+') && !host.contains(['@', ':']);
        if let Some(length) = text[at..end].rfind('@').filter(|_| !is_revision) {
            covered.replace_range(at..at + length, &"*".repeat(length));
        }
        from = end;
    }
    cover_names_and_passwords(text, &mut covered);
    covered
}

/// Covers `name:password@` in words that are no URL with `//`: `https:name:password@host` is read as one by some parsers.
fn cover_names_and_passwords(text: &str, covered: &mut String) {
    let mut from = 0;
    for word in text.split_inclusive(|c: char| c.is_whitespace() || matches!(c, '"' | '\'' | '=')) {
        if let Some(end) = word.rfind('@').filter(|end| !word.contains("://") && word[..*end].contains(':')) {
            covered.replace_range(from..from + end, &"*".repeat(end));
        }
        from += word.len();
    }
}
