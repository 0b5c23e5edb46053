//! `poetry.lock`: exact versions with their digests, and no addresses: the indexes tell those.
//!
//! Poetry documents no format; what is read here is what Poetry 2 writes (`lock-version` 2.1), where every package names its
//! groups and its marker, and what Poetry 1.5 to 1.8 write (2.0), where the project tells which packages are needed.

mod fresh;
mod walk;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;
use std::sync::Arc;

use kiln_plan::diagnostic::{Diagnostic, Diagnostics, Place, SourceFile};
use kiln_plan::digest::Digest;
use pep440_rs::{Version, VersionSpecifier, VersionSpecifiers};
use pep508_rs::{ExtraName, MarkerEnvironment};
use serde::Deserialize;
use toml::Spanned;

use super::requirement::{Refused, Surroundings, bring_wheel, read_marker};
use super::{Bound, FileRequirement, Placed, Provided, Requirements, Source, index_url, without_secrets};
use crate::pylock::{self, Choice};

#[derive(Deserialize)]
struct File {
    #[serde(default)]
    package: Vec<Package>,
    #[serde(default)]
    extras: BTreeMap<String, Vec<String>>,
    metadata: Metadata,
}

#[derive(Deserialize)]
#[serde(rename_all = "kebab-case")]
struct Metadata {
    lock_version: Spanned<String>,
    python_versions: Option<Spanned<String>>,
    content_hash: Option<Spanned<String>>,
}

#[derive(Deserialize)]
struct Package {
    name: Spanned<String>,
    version: String,
    #[serde(default)]
    groups: Vec<String>,
    markers: Option<Markers>,
    #[serde(default)]
    files: Vec<Listed>,
    source: Option<Origin>,
    #[serde(default)]
    dependencies: BTreeMap<String, toml::Value>,
}

/// One marker, or one for each group.
#[derive(Deserialize)]
#[serde(untagged)]
enum Markers {
    One(String),
    ByGroup(BTreeMap<String, String>),
}

#[derive(Deserialize)]
struct Listed {
    #[serde(default)]
    file: String,
    hash: String,
}

#[derive(Deserialize)]
struct Origin {
    #[serde(rename = "type")]
    kind: String,
    url: String,
}

/// The group of what a project itself needs.
const MAIN: &str = "main";

/// A lock with its surroundings.
#[derive(Debug, Clone, Copy)]
pub struct Written<'a> {
    /// Its text.
    pub text: &'a str,
    /// Its path in messages.
    pub path: &'a str,
    /// The text of the `pyproject.toml` beside it, to which a lock of version 2.0 belongs.
    pub project: Option<&'a str>,
    /// Its directory: paths of wheels are relative to it.
    pub directory: &'a Path,
    /// Packages that somebody else brings.
    pub provided: &'a Provided,
}

/// Reads the packages that an environment needs.
pub fn read(
    written: Written<'_>,
    environment: &MarkerEnvironment,
    choice: Choice<'_>,
    dev: bool,
) -> Result<Requirements, Diagnostics> {
    let Written { text, path, project, directory, provided } = written;
    let surroundings = Surroundings { directory, provided };
    let source = Arc::new(SourceFile { path: path.to_owned(), text: without_secrets(text) });
    let place = |span| Place { file: Arc::clone(&source), span };
    let file: File = toml::from_str(text)
        .map_err(|error| Diagnostic::at(place(error.span().unwrap_or(0..0)), error.message().trim().to_owned()))?;
    let minor = check(&file, environment, &place)?;
    if let (Some(hash), Some(project)) = (&file.metadata.content_hash, project)
        && !fresh::is_fresh(Some(hash.get_ref()), project)
    {
        let message = format!("`{path}` does not fit its `pyproject.toml`");
        let hint = "the project asks for something else than is locked: run `poetry lock` there";
        return Err(Diagnostic::at(place(hash.span()), message).hint(hint).into());
    }
    let wrong_choice = |problem: String| Diagnostic::nowhere(problem);
    let needed = match minor {
        0 => Some(walk::needed(&file.package, project, environment, choice, dev).map_err(wrong_choice)?),
        _ => None,
    };
    let groups = match needed {
        Some(_) => Vec::new(),
        None => groups(&file, choice, dev).map_err(wrong_choice)?,
    };
    let extras: Vec<ExtraName> = choice.extras.iter().filter_map(|extra| extra.parse().ok()).collect();
    let mut found = Requirements::default();
    let mut wrong = Diagnostics::default();
    for (number, package) in file.package.iter().enumerate() {
        let at = place(package.name.span());
        let applies = match &needed {
            Some(needed) => Ok(needed.contains(&number)),
            None => package.applies(&groups, environment, &extras),
        };
        let taken = applies.and_then(|applies| match applies {
            true => package.pinned(surroundings).map(Some),
            false => Ok(None),
        });
        match taken {
            Ok(Some((value, index))) => {
                if let Some(index) = index {
                    let index = Placed { value: index, place: at.clone() };
                    found.bound.push(Bound { name: value.name.clone(), index, marker: None });
                }
                found.requirements.push(Placed { value, place: at });
            }
            Ok(None) => {}
            Err(Refused { message, hint, .. }) => wrong.push(Diagnostic::at(at, message).hint(hint)),
        }
    }
    wrong.or(found)
}

/// Checks that a lock can be read and is for this Python; the number after the dot of its version 2.
fn check(
    file: &File,
    environment: &MarkerEnvironment,
    place: &dyn Fn(std::ops::Range<usize>) -> Place,
) -> Result<u32, Diagnostic> {
    let version = &file.metadata.lock_version;
    let mut numbers = version.get_ref().split('.').map(|number| number.parse::<u32>().ok());
    let (Some(2), Some(minor)) = (numbers.next().flatten(), numbers.next().flatten()) else {
        let message = format!("this lock has version {}, and kiln reads 2.0 and 2.1", version.get_ref());
        return Err(
            Diagnostic::at(place(version.span()), message).hint("write it anew with a newer Poetry: `poetry lock`")
        );
    };
    let python = &environment.python_full_version().version;
    if let Some(said) = &file.metadata.python_versions
        && !allows(said.get_ref(), python)
    {
        let message = format!("this lock is for Python {}, and the image has {python}", said.get_ref());
        return Err(Diagnostic::at(place(said.span()), message)
            .hint("lock the project for this Python, or change `target.python`"));
    }
    Ok(minor)
}

/// Groups that are installed: those that are asked for, else the project's own.
fn groups(file: &File, choice: Choice<'_>, dev: bool) -> Result<Vec<String>, String> {
    let known = |name: &String| file.package.iter().any(|package| package.groups.contains(name));
    let mut groups = choice.groups.map_or_else(|| vec![MAIN.to_owned()], <[String]>::to_vec);
    if let Some(unknown) = groups.iter().find(|name| *name != MAIN && !known(name)) {
        let all: BTreeSet<&str> = file.package.iter().flat_map(|package| &package.groups).map(String::as_str).collect();
        return Err(format!("`poetry.lock` has no group `{unknown}`; there is {}", pylock::listed(all)));
    }
    if let Some(unknown) = choice.extras.iter().find(|extra| !file.extras.contains_key(*extra)) {
        let all = pylock::listed(file.extras.keys().map(String::as_str));
        return Err(format!("`poetry.lock` has no extra `{unknown}`; there is {all}"));
    }
    if dev {
        groups.extend(["dev".to_owned(), MAIN.to_owned()]);
    }
    Ok(groups)
}

impl Package {
    fn applies(
        &self,
        groups: &[String],
        environment: &MarkerEnvironment,
        extras: &[ExtraName],
    ) -> Result<bool, Refused> {
        let holds = |text: &str| Ok(read_marker(text)?.evaluate(environment, extras));
        let mut own = self.groups.iter().filter(|group| groups.contains(group));
        match &self.markers {
            None => Ok(own.next().is_some()),
            Some(Markers::One(text)) => Ok(own.next().is_some() && holds(text)?),
            Some(Markers::ByGroup(by_group)) => {
                for group in own {
                    if by_group.get(group).map_or(Ok(true), |text| holds(text))? {
                        return Ok(true);
                    }
                }
                Ok(false)
            }
        }
    }

    /// Returns the requirement of exactly this version or wheel, and the index that it comes from.
    fn pinned(&self, surroundings: Surroundings<'_>) -> Result<(FileRequirement, Option<String>), Refused> {
        let name = self.name.get_ref();
        let refused = |problem: &str, hint: &str| Refused::new(format!("`{name}` {problem}"), hint);
        let package = crate::name_of(name).ok_or_else(|| refused("is not a package name", "mend the lock"))?;
        let mut index = None;
        let exactly = || -> Result<Source, Refused> {
            let version: Version =
                self.version.parse().map_err(|_| refused("has an unreadable version", "mend the lock"))?;
            Ok(Source::Index(VersionSpecifiers::from_iter([VersionSpecifier::equals_version(version)])))
        };
        if surroundings.provided.contains(&package) {
            let (source, hashes) = (exactly()?, Vec::new());
            return Ok((FileRequirement { name: package, extras: Vec::new(), source, marker: None, hashes }, None));
        }
        let bring = bring_wheel(package.as_ref(), &self.version);
        let is_wheel = |file: &Listed| file.file.is_empty() || file.file.ends_with(".whl");
        if !self.files.is_empty() && !self.files.iter().any(is_wheel) {
            return Err(refused("has no wheel in this lock, only its source", &bring));
        }
        let source = match &self.source {
            None => None,
            Some(origin) if origin.kind == "legacy" => {
                index = Some(index_url(&origin.url, surroundings.directory)?);
                None
            }
            Some(origin) if matches!(origin.kind.as_str(), "url" | "file") && origin.url.ends_with(".whl") => {
                Some(FileRequirement::read(&format!("{name} @ {}", origin.url), surroundings)?.source)
            }
            Some(_) => return Err(refused("is built from source, and kiln does not build sources yet", &bring)),
        };
        let source = match source {
            Some(source) => source,
            None => exactly()?,
        };
        let hashes: Vec<Digest> =
            self.files.iter().filter_map(|file| Digest::from_hex(file.hash.strip_prefix("sha256:")?).ok()).collect();
        if hashes.is_empty() {
            return Err(refused(
                "has no sha256, so that nothing could be checked against it",
                "lock it with a newer Poetry",
            ));
        }
        Ok((FileRequirement { name: package, extras: Vec::new(), source, marker: None, hashes }, index))
    }
}

/// Returns true if a version fits Poetry's constraint, or if that cannot be read: PEP 440 with `^`, and `||` between
/// alternatives.
fn allows(constraint: &str, python: &Version) -> bool {
    constraint.split("||").any(|one| {
        let clauses: Option<Vec<String>> = one.split(',').map(|clause| clause_of(clause.trim())).collect();
        let specifiers = clauses.and_then(|clauses| clauses.join(",").parse::<VersionSpecifiers>().ok());
        specifiers.is_none_or(|specifiers| specifiers.contains(python))
    })
}

/// A clause in the words of PEP 440: `^3.8` is `>=3.8,<4`, and `~3.8` is `>=3.8,<3.9`.
fn clause_of(clause: &str) -> Option<String> {
    let numbers = |text: &str| text.split('.').map(|number| number.parse::<u64>().ok()).collect::<Option<Vec<u64>>>();
    if let Some(version) = clause.strip_prefix('^') {
        return Some(format!(">={version},<{}", numbers(version)?.first()? + 1));
    }
    if let Some(version) = clause.strip_prefix('~').filter(|rest| !rest.starts_with('=')) {
        let numbers = numbers(version)?;
        return Some(match numbers.as_slice() {
            [major] => format!(">={version},<{}", major + 1),
            [major, minor, ..] => format!(">={version},<{major}.{}", minor + 1),
            [] => return None,
        });
    }
    match clause.chars().next()? {
        '*' => Some(String::new()),
        first if first.is_ascii_digit() => Some(format!("=={clause}")),
        _ => Some(clause.to_owned()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::pylock::environment;

    const LOCK: &str = r#"
[[package]]
name = "six"
version = "1.16.0"
groups = ["main", "dev"]
files = [{file = "six-1.16.0-py2.py3-none-any.whl", hash = "sha256:HASH"}]

[[package]]
name = "colorama"
version = "0.4.6"
groups = ["main", "dev"]
markers = {main = "sys_platform == \"win32\"", dev = "python_version >= \"3.8\""}
files = [{file = "colorama-0.4.6-py2.py3-none-any.whl", hash = "sha256:HASH"}]

[[package]]
name = "torch"
version = "2.7.1+cpu"
groups = ["main"]
markers = "extra == \"nn\""
files = [{file = "torch.whl", hash = "sha256:HASH"}]

[package.source]
type = "legacy"
url = "https://example.org/whl/cpu"
reference = "cpu"

[extras]
nn = ["torch"]

[metadata]
lock-version = "2.1"
python-versions = "^3.9"
content-hash = "0"
"#;

    static NONE: Provided = Provided::new();

    fn written<'a>(text: &'a str, project: Option<&'a str>) -> Written<'a> {
        Written { text, path: "poetry.lock", project, directory: Path::new("/p"), provided: &NONE }
    }

    fn names(choice: Choice<'_>, dev: bool) -> Vec<String> {
        let text = LOCK.replace("HASH", &"0".repeat(64));
        let environment = environment("3.11", "3.11.2", "linux/amd64".parse().unwrap()).unwrap();
        let found = read(written(&text, None), &environment, choice, dev).unwrap();
        let bound: Vec<&str> = found.bound.iter().map(|bound| bound.index.value.as_str()).collect();
        assert!(bound.is_empty() || bound == ["https://example.org/whl/cpu"]);
        found.requirements.iter().map(|requirement| requirement.value.to_string()).collect()
    }

    #[test]
    fn groups_extras_and_markers_choose_packages() {
        assert_eq!(names(Choice::default(), false), ["six==1.16.0"]);
        assert_eq!(names(Choice::default(), true), ["six==1.16.0", "colorama==0.4.6"]);
        let nn = ["nn".to_owned()];
        assert_eq!(names(Choice { groups: None, extras: &nn }, false), ["six==1.16.0", "torch==2.7.1+cpu"]);
    }

    #[test]
    fn poetrys_constraints_are_those_of_its_documentation() {
        let python: Version = "3.11.2".parse().unwrap();
        for (constraint, fits) in [
            ("^3.9", true),
            ("^2.7 || ^3.6", true),
            ("~3.11", true),
            ("~3.10", false),
            (">=3.12", false),
            (">=3.8,<3.12", true),
            ("*", true),
            ("3.11.*", true),
            ("3.10", false),
        ] {
            assert_eq!(allows(constraint, &python), fits, "{constraint}");
        }
    }

    const OLDER: &str = r#"
[[package]]
name = "rich"
version = "13.0"
files = [{file = "rich.whl", hash = "sha256:HASH"}]

[package.dependencies]
pygments = ">=2.13,<3"
colorama = {version = "*", markers = "sys_platform == \"win32\""}
ipywidgets = {version = "*", optional = true, markers = "extra == \"jupyter\""}

[[package]]
name = "pygments"
version = "2.18"
files = [{file = "pygments.whl", hash = "sha256:HASH"}]

[[package]]
name = "colorama"
version = "0.4"
files = [{file = "colorama.whl", hash = "sha256:HASH"}]

[[package]]
name = "ipywidgets"
version = "8.0"
files = [{file = "ipywidgets.whl", hash = "sha256:HASH"}]

[[package]]
name = "numpy"
version = "1.26"
files = [{file = "numpy.whl", hash = "sha256:HASH"}]

[[package]]
name = "numpy"
version = "2.1"
files = [{file = "numpy.whl", hash = "sha256:HASH"}]

[metadata]
lock-version = "2.0"
python-versions = "^3.9"
"#;

    #[test]
    fn the_project_of_an_older_lock_tells_what_is_needed() {
        let text = OLDER.replace("HASH", &"0".repeat(64));
        let environment = environment("3.11", "3.11.2", "linux/amd64".parse().unwrap()).unwrap();
        let project = "[tool.poetry.dependencies]\npython = \"^3.9\"\nnumpy = [{ version = \"^2\", python = \">=3.10\" }, \
                       { version = \"^1\", python = \"<3.10\" }]\nrich = { version = \"^13\", optional = true }\n\
                       [tool.poetry.extras]\nshow = [\"rich\"]\n\
                       [tool.poetry.group.dev.dependencies]\nrich = { version = \"^13\", extras = [\"jupyter\"] }\n";
        let names = |choice: Choice<'_>, dev: bool| -> Vec<String> {
            let found = read(written(&text, Some(project)), &environment, choice, dev).unwrap();
            found.requirements.iter().map(|one| one.value.to_string()).collect()
        };
        assert_eq!(names(Choice::default(), false), ["numpy==2.1"]);
        let show = ["show".to_owned()];
        let extra = Choice { groups: None, extras: &show };
        assert_eq!(names(extra, false), ["rich==13.0", "pygments==2.18", "numpy==2.1"]);
        assert_eq!(names(Choice::default(), true), ["rich==13.0", "pygments==2.18", "ipywidgets==8.0", "numpy==2.1"]);
        let alone = read(written(&text, None), &environment, Choice::default(), false);
        assert!(alone.unwrap_err().to_string().contains("there is no `pyproject.toml`"));
    }

    #[test]
    fn locks_of_other_versions_are_refused() {
        let text = LOCK.replace("\"2.1\"", "\"1.1\"");
        let environment = environment("3.11", "3.11.2", "linux/amd64".parse().unwrap()).unwrap();
        let error = read(written(&text, None), &environment, Choice::default(), false).unwrap_err();
        assert!(error.to_string().contains("kiln reads 2.0 and 2.1"), "{error}");
    }
}
