//! One requirement of a file: a name with versions, or a wheel by its URL or path.

use std::collections::BTreeSet;
use std::fmt;
use std::path::{Component, Path, PathBuf};
use std::str::FromStr;

use kiln_plan::digest::Digest;
use kiln_plan::marker::{self, MarkerError};
use pep440_rs::{Operator, Version, VersionSpecifiers};
use pep508_rs::{ExtraName, MarkerEnvironment, MarkerTree, PackageName};
use url::Url;

use crate::name::WheelName;
use crate::pylock::{self, file_name};

/// File names by which pip knows an archive.
const ARCHIVES: [&str; 13] = [
    ".whl",
    ".zip",
    ".tar.gz",
    ".tgz",
    ".tar",
    ".tar.bz2",
    ".tbz",
    ".tar.xz",
    ".txz",
    ".tlz",
    ".tar.lz",
    ".tar.lzma",
    ".gz",
];
/// White space inside of a requirement (PEP 508).
const BLANK: [char; 2] = [' ', '\t'];
/// Version control systems whose URLs pip takes.
const VERSION_CONTROL: [&str; 4] = ["git", "hg", "svn", "bzr"];

/// A requirement that says where its wheel is, or which versions fit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FileRequirement {
    /// Normalised name.
    pub name: PackageName,
    /// Normalised names of extras.
    pub extras: Vec<ExtraName>,
    /// Versions, or the one wheel.
    pub source: Source,
    /// The marker as it is written, and as it is evaluated.
    pub marker: Option<(String, MarkerTree)>,
    /// Digests of the wheels that may be chosen; any where there is none.
    pub hashes: Vec<Digest>,
}

/// Origin of a package.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Source {
    /// From the indexes, in these versions.
    Index(VersionSpecifiers),
    /// From a wheel at a URL.
    Url(Url),
    /// From a wheel of this machine, by its absolute path.
    File(PathBuf),
}

/// A requirement that is not taken: a message, a few words at the place, and what to do.
#[derive(Debug)]
pub(super) struct Refused {
    pub(super) message: String,
    pub(super) label: String,
    pub(super) hint: String,
}

impl Refused {
    pub(super) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), label: String::new(), hint: hint.into() }
    }

    /// Gives other advice, where it has that of any source.
    fn advise(self, hint: &str) -> Self {
        Self { hint: self.hint.replace(BUILD_IT, hint), ..self }
    }

    fn invalid(label: impl Into<String>) -> Self {
        Self {
            message: "this is not a Python requirement".into(),
            label: label.into(),
            hint: "a requirement is a name and, optionally, versions: `torch==2.11.0`, `transformers>=4.30,<5`".into(),
        }
    }
}

/// Advice about sources, which kiln cannot build.
pub(super) const BUILD_IT: &str = "kiln runs no code while it locks: build a wheel elsewhere (`pip wheel --no-deps`) and \
                                   name it, `./dist/NAME-VERSION-py3-none-any.whl`";

/// Returns the advice about a package that is asked for as a source.
pub(super) fn bring_it(name: &PackageName) -> String {
    format!(
        "{}; or take a release of it: `[resolution] overrides = [\"{name}==VERSION\"]`",
        bring_wheel(name.as_ref(), "VERSION")
    )
}

/// Returns the advice about a package of which there is no wheel: the way to bring one.
pub fn bring_wheel(name: &str, version: &str) -> String {
    format!(
        "put its wheel, built elsewhere (`pip wheel --no-deps`), into a directory of `[index] find-links`, and declare \
         `[wheels.{name}]` with `version = \"{version}\"` and the wheel's `dependencies`: kiln builds no sources yet"
    )
}

/// The surroundings of a requirement.
#[derive(Debug, Clone, Copy)]
pub(super) struct Surroundings<'a> {
    /// Relative paths are relative to it.
    pub(super) directory: &'a Path,
    /// Packages that somebody else brings, so that their sources do not count.
    pub(super) provided: &'a Provided,
}

/// Packages whose wheels somebody else brings: requirements of them may name sources, which nobody looks at.
pub type Provided = BTreeSet<PackageName>;

impl FileRequirement {
    /// Reads the requirement part of a line.
    pub(super) fn read(text: &str, surroundings: Surroundings<'_>) -> Result<Self, Refused> {
        if text.contains(|c: char| c.is_whitespace() && !BLANK.contains(&c)) {
            return Err(Refused::invalid("it has white space that is neither a blank nor a tab"));
        }
        let by_url = has_pip_scheme(text);
        let (head, marker) = text.split_once(if by_url { "; " } else { ";" }).unwrap_or((text, ""));
        let (head, marker) = (head.trim_matches(BLANK), marker.trim_matches(BLANK));
        let marker = if marker.is_empty() { None } else { Some((marker.to_owned(), read_marker(marker)?)) };
        let mut requirement = if by_url {
            Self::of_wheel(head, None, Vec::new(), surroundings)?
        } else if is_path(head) {
            let (path, extras) = split_extras(head);
            Self::of_wheel(path, None, read_extras(extras)?, surroundings)?
        } else {
            Self::named(head, surroundings)?
        };
        requirement.marker = marker;
        Ok(requirement)
    }

    /// Returns true if its marker holds in an environment.
    pub fn applies(&self, environment: &MarkerEnvironment) -> bool {
        self.marker.as_ref().is_none_or(|(_, marker)| marker.evaluate(environment, &[]))
    }

    /// Returns true if only one version or one wheel fits.
    pub fn is_pinned(&self) -> bool {
        let exact = |operator: &Operator| matches!(operator, Operator::Equal | Operator::ExactEqual);
        match &self.source {
            Source::Index(specifiers) => specifiers.iter().any(|specifier| exact(specifier.operator())),
            Source::Url(_) | Source::File(_) => true,
        }
    }

    /// Returns the version of `==VERSION` alone.
    pub fn exact_version(&self) -> Option<&Version> {
        match &self.source {
            Source::Index(specifiers) => match &specifiers[..] {
                [one] if *one.operator() == Operator::Equal => Some(one.version()),
                _ => None,
            },
            Source::Url(_) | Source::File(_) => None,
        }
    }

    /// `name[extras]`, versions or ` @ URL`, and extras (PEP 508).
    fn named(text: &str, surroundings: Surroundings<'_>) -> Result<Self, Refused> {
        let of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
        let rest = text.trim_start_matches(of_name);
        let written = &text[..text.len() - rest.len()];
        let name = crate::name_of(written).ok_or_else(|| match written {
            "" => Refused::invalid("it begins with no package name"),
            _ => {
                Refused::invalid(format!("`{written}` is no package name: one begins and ends with a letter or digit"))
            }
        })?;
        let rest = rest.trim_start_matches(BLANK);
        let (extras, rest) = match rest.strip_prefix('[') {
            Some(inner) => {
                let (extras, rest) =
                    inner.split_once(']').ok_or_else(|| Refused::invalid("a bracket is not closed"))?;
                (read_extras(extras)?, rest.trim_matches(BLANK))
            }
            None => (Vec::new(), rest.trim_matches(BLANK)),
        };
        if let Some(location) = rest.strip_prefix('@') {
            let location = location.trim_matches(BLANK);
            if location.is_empty() || location.contains(char::is_whitespace) {
                return Err(Refused::invalid("`@` is followed by one URL, with `%20` for a space"));
            }
            if location.parse::<pep440_rs::Version>().is_ok() {
                let message = format!("behind `@` stands `{location}`, which is a version and no URL");
                return Err(Refused::new(message, format!("write `{name}=={location}`")));
            }
            return Self::of_wheel(location, Some(name), extras, surroundings);
        }
        let versions = rest.strip_prefix('(').and_then(|rest| rest.strip_suffix(')')).unwrap_or(rest);
        // pip passes over a comma at the end.
        let versions = versions.trim_end_matches(BLANK);
        let versions = versions.strip_suffix(',').filter(|versions| !versions.is_empty()).unwrap_or(versions);
        check_arbitrary(versions)?;
        let specifiers = VersionSpecifiers::from_str(versions).map_err(|error| {
            Refused::invalid(error.to_string().lines().next().unwrap_or_default().trim_end_matches([':', '.']))
        })?;
        Ok(Self { name, extras, source: Source::Index(specifiers), marker: None, hashes: Vec::new() })
    }

    /// The wheel at a URL or path.
    fn of_wheel(
        location: &str,
        name: Option<PackageName>,
        extras: Vec<ExtraName>,
        surroundings: Surroundings<'_>,
    ) -> Result<Self, Refused> {
        if location.contains(char::is_control) {
            return Err(Refused::invalid("it holds a control character"));
        }
        let (location, fragment) = location.split_once('#').unwrap_or((location, ""));
        let (source, wheel) = match locate(location, surroundings.directory) {
            Ok((source, file)) => match file.parse::<WheelName>() {
                Ok(wheel) => (source, wheel),
                Err(_) => {
                    let refused = no_wheel(location, &file, name.as_ref());
                    return Self::of_source((location, fragment), name, extras, surroundings, refused);
                }
            },
            Err(refused) => return Self::of_source((location, fragment), name, extras, surroundings, refused),
        };
        let name = match name {
            Some(name) if name != wheel.name => {
                return Err(Refused::new(
                    format!("the wheel is one of `{}`, and the line asks for `{name}`", wheel.name),
                    "name the wheel's package before the `@`",
                ));
            }
            _ => wheel.name,
        };
        let hashes = fragment_hash(fragment)?.into_iter().collect();
        Ok(Self { name, extras, source, marker: None, hashes })
    }

    /// The package of a source, where somebody else brings its wheel.
    fn of_source(
        (location, fragment): (&str, &str),
        name: Option<PackageName>,
        extras: Vec<ExtraName>,
        surroundings: Surroundings<'_>,
        refused: Refused,
    ) -> Result<Self, Refused> {
        let Some(name) = name.or_else(|| name_of_source(location, fragment)) else { return Err(refused) };
        if refused.hint.contains(BUILD_IT) && surroundings.provided.contains(&name) {
            let source = Source::Index(VersionSpecifiers::empty());
            return Ok(Self { name, extras, source, marker: None, hashes: Vec::new() });
        }
        Err(refused.advise(&bring_it(&name)))
    }
}

/// The line for uv: name, extras, versions or URL, and marker.
impl fmt::Display for FileRequirement {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.name)?;
        if !self.extras.is_empty() {
            let extras: Vec<String> = self.extras.iter().map(ToString::to_string).collect();
            write!(f, "[{}]", extras.join(","))?;
        }
        match &self.source {
            Source::Index(specifiers) => {
                let specifiers: Vec<String> = specifiers.iter().map(ToString::to_string).collect();
                write!(f, "{}", specifiers.join(","))?;
            }
            Source::Url(url) => write!(f, " @ {url}")?,
            // Only a relative path is no URL, and this one is absolute.
            Source::File(path) => {
                let url = Url::from_file_path(path).map_or_else(|()| path.display().to_string(), String::from);
                // It would begin a marker.
                let url = url.replace(';', "%3B");
                write!(f, " @ {url}")?;
            }
        }
        self.marker.iter().try_for_each(|(marker, _)| write!(f, " ; {marker}"))
    }
}

/// `===` compares versions as text, so that one that is written in another way than packages write it fits none.
fn check_arbitrary(versions: &str) -> Result<(), Refused> {
    for version in versions.split("===").skip(1) {
        // pip reads on to the next space.
        if version.split_whitespace().next().is_some_and(|version| version.contains(',')) {
            return Err(Refused::invalid("`===` compares text, to which the comma belongs"));
        }
    }
    for version in versions.split(',').filter_map(|one| one.trim_matches(BLANK).strip_prefix("===")) {
        let version = version.trim_matches(BLANK);
        match version.parse::<pep440_rs::Version>().map(|version| version.to_string()) {
            Ok(normal) if normal == version => {}
            Ok(normal) => {
                return Err(Refused::invalid(format!("`===` compares text, and packages write `{normal}`")));
            }
            Err(_) => return Err(Refused::invalid(format!("`===` compares text, and `{version}` is no version"))),
        }
    }
    Ok(())
}

fn scheme(text: &str) -> Option<&str> {
    let (scheme, _) = text.split_once(':')?;
    let of_scheme = |c: char| c.is_ascii_alphanumeric() || matches!(c, '+' | '.' | '-');
    (scheme.starts_with(|c: char| c.is_ascii_alphabetic()) && scheme.chars().all(of_scheme)).then_some(scheme)
}

fn is_version_control(scheme: &str) -> bool {
    let scheme = scheme.to_ascii_lowercase();
    VERSION_CONTROL.contains(&scheme.split('+').next().unwrap_or_default())
}

/// Returns true for a URL without a name, by pip's rule.
fn has_pip_scheme(text: &str) -> bool {
    scheme(text).is_some_and(|scheme| {
        let lower = scheme.to_ascii_lowercase();
        matches!(lower.as_str(), "http" | "https" | "file" | "ftp") || is_version_control(scheme)
    })
}

/// Returns true for a path, by pip's rule: a separator, a leading dot, or the name of an archive, unless a name and `@`
/// stand before it.
fn is_path(text: &str) -> bool {
    let looks_like_path = |text: &str| text.contains('/') || text.starts_with('.');
    if let Some((name, _)) = text.split_once('@')
        && !looks_like_path(name)
    {
        return false;
    }
    looks_like_path(text) || is_archive(split_extras(text).0)
}

fn is_archive(file: &str) -> bool {
    let file = file.to_ascii_lowercase();
    ARCHIVES.iter().any(|end| file.ends_with(end) && file.len() > end.len())
}

/// A path, and what stands in brackets after it.
fn split_extras(text: &str) -> (&str, &str) {
    let found = text.strip_suffix(']').and_then(|text| text.rsplit_once('['));
    found
        .filter(|(path, extras)| !path.is_empty() && !extras.is_empty())
        .map_or((text, ""), |(path, extras)| (path.trim_end(), extras))
}

fn read_extras(text: &str) -> Result<Vec<ExtraName>, Refused> {
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    let extra = |extra: &str| {
        let found = ExtraName::from_str(extra.trim()).ok().filter(|_| !extra.trim().is_empty());
        found.ok_or_else(|| Refused::invalid(format!("`{}` is no extra", extra.trim())))
    };
    text.split(',').map(extra).collect()
}

pub(super) fn read_marker(text: &str) -> Result<MarkerTree, Refused> {
    marker::read(text).map_err(|error| match error {
        MarkerError::Invalid(reason) => Refused::invalid(reason),
        MarkerError::Unclear { part, hint } => {
            Refused { message: "this marker cannot be evaluated".into(), label: part, hint }
        }
    })
}

/// The digest in the fragment of a URL; other parts of it concern sources.
fn fragment_hash(fragment: &str) -> Result<Option<Digest>, Refused> {
    let mut found = None;
    for part in fragment.split('&').filter(|part| !part.is_empty()) {
        found = match part.split_once('=') {
            Some(("sha256", hex)) => Some(digest(hex)?),
            Some(("egg", _)) => found,
            _ => {
                return Err(Refused::new(
                    "the part of the URL after `#` is not taken",
                    "`#sha256=` and 64 hexadecimal digits may stand there",
                ));
            }
        };
    }
    Ok(found)
}

/// A sha256 from its hexadecimal digits.
pub(super) fn digest(hex: &str) -> Result<Digest, Refused> {
    Digest::from_hex(&hex.to_ascii_lowercase())
        .map_err(|_| Refused::new("this is no sha256", "it has 64 hexadecimal digits: `sha256sum FILE` prints it"))
}

/// The place of a wheel, and its file name.
fn locate(location: &str, directory: &Path) -> Result<(Source, String), Refused> {
    let Some(scheme) = scheme(location) else {
        return match location.contains("://") {
            true => Err(Refused::new("this URL cannot be read", "it begins with `https://`, or is a path")),
            false => Ok(local(directory, location)),
        };
    };
    match scheme.to_ascii_lowercase().as_str() {
        "file" => {
            let path = &location[scheme.len() + 1..];
            let path = match path.strip_prefix("//") {
                Some(rest) => rest.strip_prefix("localhost").unwrap_or(rest),
                None => path,
            };
            let path = percent_decoded(path)
                .filter(|path| !location.contains("://") || path.starts_with('/'))
                .ok_or_else(|| Refused::new("this is not the URL of a file here", "write `file:///PATH`"))?;
            Ok(local(directory, &path))
        }
        "http" | "https" => {
            let url = web_url(location)?;
            let file = file_name(url.path());
            Ok((Source::Url(url), file))
        }
        _ if is_version_control(scheme) => Err(Refused::new("a repository is not taken: it is source", BUILD_IT)),
        other => Err(Refused::new(
            format!("`{other}:` is not taken"),
            "the URL of a wheel begins with `https:`, `http:` or `file:`",
        )),
    }
}

/// An address on the web. Credentials would be known while packages are chosen, and not when they are downloaded.
pub(super) fn web_url(text: &str) -> Result<Url, Refused> {
    let url: Url = text
        .parse()
        .map_err(|error| Refused::new(format!("this URL cannot be read: {error}"), "check how it is spelled"))?;
    // Browsers find a host in these, too.
    if text.contains('\\') || text.split_once("://").is_none_or(|(_, host)| host.starts_with('/')) {
        return Err(Refused::new("this URL has no host, or a backslash", "write `https://HOST/PATH`"));
    }
    if text.contains(';') {
        return Err(Refused::new("a URL with `;` is not taken, since markers begin with it", "write `%3B`"));
    }
    if url.username().is_empty() && url.password().is_none() {
        return Ok(url);
    }
    Err(Refused::new(
        "credentials in a requirements file are not taken: a lock holds none",
        "they belong in `~/.netrc`; an index may have them in `[index]` of the stack file",
    ))
}

fn local(directory: &Path, path: &str) -> (Source, String) {
    let path = normal(&directory.join(path));
    let file = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
    (Source::File(path), file)
}

fn percent_decoded(text: &str) -> Option<String> {
    String::from_utf8(pylock::percent_decoded(text)).ok().filter(|text| !text.contains('\0'))
}

/// A path without `.` and `..`.
pub(super) fn normal(path: &Path) -> PathBuf {
    let mut normal = PathBuf::new();
    for part in path.components() {
        match part {
            Component::CurDir => {}
            // Above the root is the root.
            Component::ParentDir => drop(normal.pop()),
            part => normal.push(part),
        }
    }
    normal
}

/// Returns the package of a source without a name before it: by `egg=`, or by the name of its archive.
fn name_of_source(location: &str, fragment: &str) -> Option<PackageName> {
    let egg = fragment.split('&').find_map(|part| part.strip_prefix("egg=")).map(|egg| split_extras(egg).0);
    let file = location.rsplit('/').next().unwrap_or_default();
    let archive = ARCHIVES.iter().find_map(|end| file.strip_suffix(end)).and_then(|stem| stem.rsplit_once('-'));
    egg.or(archive.map(|(name, _)| name)).and_then(crate::name_of)
}

/// The mistake of a file that is not a wheel.
fn no_wheel(location: &str, file: &str, name: Option<&PackageName>) -> Refused {
    let of = name.map(|name| format!("`{name}` is asked for as ")).unwrap_or_default();
    if file.ends_with(".whl") {
        let message = format!("`{file}` is not the file name of a wheel");
        return Refused::new(message, "it is NAME-VERSION-PYTHON-ABI-PLATFORM.whl");
    }
    let what = match is_archive(file) {
        true => "a source archive",
        false if scheme(location).is_some_and(|scheme| scheme.starts_with("http")) => "something that is no wheel",
        false => "a directory",
    };
    let frozen = if location.contains("/croot/") || location.contains("/work") && location.starts_with("file:") {
        "this line was written by `pip freeze` inside conda: write `NAME==VERSION` instead; "
    } else {
        ""
    };
    let message = match of.is_empty() {
        true => format!("{what} is not taken: kiln installs wheels"),
        false => format!("{of}{what}, and kiln installs wheels"),
    };
    Refused::new(message, format!("{frozen}{BUILD_IT}"))
}
