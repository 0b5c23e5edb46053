//! Requirements of a project: `pyproject.toml` by its specifications ("Declaring project metadata", PEP 735 for groups), with
//! what uv documents for `[tool.uv]`.
//!
//! The project itself is not installed: kiln takes wheels. What it needs is, from where the project says.

mod beside_lock;
mod sources;

use std::collections::BTreeSet;
use std::io;
use std::ops::Range;
use std::path::Path;
use std::sync::Arc;

use kiln_plan::diagnostic::{Diagnostic, Diagnostics, Place, SourceFile, closest};
use kiln_plan::digest::Digest;
use pep508_rs::PackageName;
use toml::Spanned;
use toml::de::{DeTable, DeValue};

pub use beside_lock::BesideLock;

use super::requirement::{Refused, Surroundings};
use super::{FileRequirement, LARGEST, Placed, Provided, Requirements, index_url, normal, shown, without_secrets};

/// The part of a project that is installed.
#[derive(Debug, Clone, Copy, Default)]
pub struct Choice<'a> {
    /// Dependency groups.
    pub groups: &'a [String],
    /// Extras.
    pub extras: &'a [String],
    /// The groups for developers, too: `default-groups` of `[tool.uv]`, `dev` where it says none.
    pub dev: bool,
}

/// Groups and extras that include one another.
const DEEPEST: usize = 32;
/// Reads the requirements of a project. Paths in messages are relative to `stack`.
pub fn read(
    stack: &Path,
    file: &Path,
    choice: Choice<'_>,
    provided: &Provided,
    content: &mut dyn FnMut(&Path) -> io::Result<Vec<u8>>,
) -> Result<Requirements, Diagnostics> {
    let path = shown(stack, &normal(file));
    let nowhere = |problem: String| Diagnostics::from(Diagnostic::nowhere(format!("`{path}` {problem}")));
    let bytes = content(file).map_err(|error| nowhere(format!("cannot be read: {error}")))?;
    if bytes.len() as u64 > LARGEST {
        return Err(nowhere("is too large for a project file".into()));
    }
    let digest = Digest::of(&bytes);
    let text = String::from_utf8(bytes).map_err(|_| nowhere("is not UTF-8".into()))?;
    let source = Arc::new(SourceFile { path: path.clone(), text: without_secrets(&text) });
    let document = DeTable::parse(&text).map_err(|error| {
        let place = Place { file: Arc::clone(&source), span: error.span().unwrap_or(0..0) };
        Diagnostic::at(place, error.message().trim().replace('\n', ", "))
    })?;
    let directory = file.parent().unwrap_or(Path::new("/"));
    let surroundings = Surroundings { directory, provided };
    let found = Requirements { files: vec![(path, digest)], ..Requirements::default() };
    let table = document.get_ref();
    let mut reader = Reader { table, source, surroundings, choice, found, wrong: Diagnostics::default() };
    reader.project();
    reader.settings();
    reader.wrong.or(reader.found)
}

type Value<'t> = Spanned<DeValue<'t>>;

struct Reader<'t> {
    table: &'t DeTable<'t>,
    source: Arc<SourceFile>,
    surroundings: Surroundings<'t>,
    choice: Choice<'t>,
    found: Requirements,
    wrong: Diagnostics,
}

impl<'t> Reader<'t> {
    fn place(&self, span: Range<usize>) -> Place {
        Place { file: Arc::clone(&self.source), span }
    }

    fn refuse(&mut self, span: Range<usize>, message: impl Into<String>, hint: impl Into<String>) {
        self.wrong.push(Diagnostic::at(self.place(span), message).hint(hint));
    }

    /// The value at a path of keys.
    fn at(&self, path: &[&str]) -> Option<&'t Value<'t>> {
        let (first, rest) = path.split_first()?;
        rest.iter().try_fold(get(self.table, first)?, |value, key| get(value.get_ref().as_table()?, key))
    }

    /// The strings of a list.
    fn texts(&mut self, value: Option<&'t Value<'t>>) -> Vec<(&'t str, Range<usize>)> {
        let Some(value) = value else { return Vec::new() };
        let Some(list) = value.get_ref().as_array() else {
            self.refuse(value.span(), "this is not a list", "it is a list of strings");
            return Vec::new();
        };
        let mut texts = Vec::new();
        for item in list.iter() {
            match item.get_ref().as_str() {
                Some(text) => texts.push((text, item.span())),
                None => self.refuse(item.span(), "this is not a string", "a requirement is a string (PEP 508)"),
            }
        }
        texts
    }

    fn project(&mut self) {
        let project = self.at(&["project"]);
        if project.is_none() && self.at(&["dependency-groups"]).is_none() {
            let span = self.at(&["tool", "poetry"]).map_or(0..0, Spanned::span);
            let hint =
                "name the project's lock instead (`poetry.lock`, `uv.lock`, `pylock.toml`), or a requirements.txt";
            return self.refuse(span, "there is no `[project]` with requirements", hint);
        }
        if let Some(python) = self.at(&["project", "requires-python"]) {
            let parsed = python.get_ref().as_str().and_then(|text| text.parse().ok());
            match parsed {
                Some(value) => self.found.python = Some(Placed { value, place: self.place(python.span()) }),
                None => self.refuse(python.span(), "these are not versions of Python", "such as `>=3.11`"),
            }
        }
        let (mut extras, mut groups) = (Vec::new(), Vec::new());
        self.twice("dependency group", self.at(&["dependency-groups"]));
        self.twice("extra", self.at(&["project", "optional-dependencies"]));
        self.conflicts();
        self.dependencies(&mut extras);
        for extra in self.choice.extras {
            self.extra(extra, None, &mut extras);
        }
        for group in self.groups() {
            self.group(&group, None, &mut groups);
        }
    }

    /// Refuses names of a table that are the same when they are compared.
    fn twice(&mut self, kind: &str, table: Option<&'t Value<'t>>) {
        let mut seen: BTreeSet<PackageName> = BTreeSet::new();
        for key in table.and_then(|table| table.get_ref().as_table()).into_iter().flat_map(|table| table.keys()) {
            if crate::name_of(key.get_ref()).is_some_and(|name| !seen.insert(name)) {
                let message = format!("the {kind} `{}` is there twice, in another spelling", key.get_ref());
                self.refuse(
                    key.span(),
                    message,
                    "names that differ in case and in `-`, `_` and `.` alone are the same",
                );
            }
        }
    }

    /// Groups that are installed.
    fn groups(&mut self) -> Vec<String> {
        let mut groups = self.choice.groups.to_vec();
        if !self.choice.dev {
            return groups;
        }
        let said = self.at(&["tool", "uv", "default-groups"]);
        let declared = || self.at(&["dependency-groups"]).and_then(|groups| groups.get_ref().as_table());
        let more = match said.map(Spanned::get_ref) {
            Some(DeValue::String(word)) if word == "all" => {
                declared().into_iter().flat_map(|groups| groups.keys().map(|key| key.get_ref().to_string())).collect()
            }
            Some(_) => self.texts(said).into_iter().map(|(text, _)| text.to_owned()).collect(),
            None => vec!["dev".to_owned()],
        };
        for group in more {
            if !groups.contains(&group) && (group != "dev" || said.is_some() || self.has_group("dev")) {
                groups.push(group);
            }
        }
        let legacy = self.texts(self.at(&["tool", "uv", "dev-dependencies"]));
        for (text, span) in legacy {
            self.requirement(text, span, &[], &["dev".to_owned()]);
        }
        groups
    }

    fn has_group(&self, name: &str) -> bool {
        self.at(&["dependency-groups"]).and_then(|groups| named(groups, name)).is_some()
    }

    fn dependencies(&mut self, extras: &mut Vec<String>) {
        if let Some(dynamic) = self.at(&["project", "dynamic"]) {
            for (name, span) in self.texts(Some(dynamic)) {
                let asked = name == "optional-dependencies" && !self.choice.extras.is_empty();
                if name == "dependencies" || asked {
                    let message = format!("the project's `{name}` are only known once it is built");
                    self.refuse(span, message, "name its lock instead, or a requirements.txt");
                }
            }
        }
        for (text, span) in self.texts(self.at(&["project", "dependencies"])) {
            self.own_or_other(text, span, extras, &[]);
        }
    }

    /// Adds the requirements of an extra.
    fn extra(&mut self, name: &str, by: Option<Range<usize>>, seen: &mut Vec<String>) {
        if seen.iter().any(|known| known == name) {
            return;
        }
        seen.push(name.to_owned());
        let table = self.at(&["project", "optional-dependencies"]);
        match table.and_then(|table| named(table, name)) {
            Some(list) => {
                for (text, span) in self.texts(Some(list)) {
                    self.own_or_other(text, span, seen, &[name.to_owned()]);
                }
            }
            None => self.unknown(name, "extra", table, by),
        }
    }

    /// Adds a requirement, or, of the project itself, the extras that it names.
    fn own_or_other(&mut self, text: &'t str, span: Range<usize>, seen: &mut Vec<String>, extras: &[String]) {
        let own = self.at(&["project", "name"]).and_then(|name| name.get_ref().as_str()).and_then(crate::name_of);
        let read = FileRequirement::read(text, self.surroundings);
        match read {
            Ok(requirement) if own.is_some_and(|own| own == requirement.name) => {
                for extra in &requirement.extras {
                    self.extra(extra.as_ref(), Some(span.clone()), seen);
                }
            }
            _ => self.requirement(text, span, extras, &[]),
        }
    }

    /// Adds the requirements of a group (PEP 735).
    fn group(&mut self, name: &str, by: Option<Range<usize>>, open: &mut Vec<String>) {
        let table = self.at(&["dependency-groups"]);
        let Some(list) = table.and_then(|table| named(table, name)) else {
            return self.unknown(name, "group", table, by);
        };
        if open.iter().any(|other| crate::name_of(other) == crate::name_of(name)) || open.len() >= DEEPEST {
            let hint = "remove one of the `include-group`";
            return self.refuse(by.unwrap_or(list.span()), format!("the group `{name}` includes itself"), hint);
        }
        open.push(name.to_owned());
        for item in list.get_ref().as_array().into_iter().flat_map(|list| list.iter()) {
            match item.get_ref() {
                DeValue::String(text) => self.requirement(text, item.span(), &[], open),
                DeValue::Table(table) => match get(table, "include-group").and_then(|name| name.get_ref().as_str()) {
                    Some(inner) if table.len() == 1 => self.group(inner, Some(item.span()), open),
                    _ => self.refuse(item.span(), "this is not read", "a requirement, or `{ include-group = NAME }`"),
                },
                _ => self.refuse(item.span(), "this is not a requirement", "a string, or `{ include-group = NAME }`"),
            }
        }
        open.pop();
    }

    fn unknown(&mut self, name: &str, kind: &str, table: Option<&'t Value<'t>>, by: Option<Range<usize>>) {
        let declared: Vec<String> = table
            .and_then(|table| table.get_ref().as_table())
            .map(|table| table.keys().map(|key| key.get_ref().to_string()).collect())
            .unwrap_or_default();
        let hint = match closest(name, declared.iter().map(String::as_str)) {
            Some(close) => format!("did you mean `{close}`?"),
            None if declared.is_empty() => format!("it declares no {kind}"),
            None => {
                format!("it has {}", declared.iter().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", "))
            }
        };
        let message = format!("the project has no {kind} `{name}`");
        match by {
            Some(span) => self.refuse(span, message, hint),
            // The choice is made elsewhere.
            None => self.wrong.push(Diagnostic::nowhere(message).hint(hint)),
        }
    }

    /// Refuses extras and groups that the project declares as contradicting one another.
    fn conflicts(&mut self) {
        let Some(list) = self.at(&["tool", "uv", "conflicts"]).and_then(|list| list.get_ref().as_array()) else {
            return;
        };
        for set in list.iter() {
            let items = set.get_ref().as_array().into_iter().flat_map(|set| set.iter());
            let chosen: BTreeSet<String> = items
                .filter_map(|item| {
                    let table = item.get_ref().as_table()?;
                    let named = |key: &str| get(table, key)?.get_ref().as_str();
                    let (kind, name, all) = match (named("extra"), named("group")) {
                        (Some(extra), _) => ("extra", extra, self.choice.extras),
                        (None, group) => ("group", group?, self.choice.groups),
                    };
                    let is = all.iter().any(|other| crate::name_of(other) == crate::name_of(name));
                    is.then(|| format!("the {kind} `{name}`"))
                })
                .collect();
            if chosen.len() > 1 {
                let chosen = chosen.into_iter().collect::<Vec<_>>().join(" and ");
                self.refuse(set.span(), format!("{chosen} contradict one another"), "choose one of them");
            }
        }
    }

    /// `[tool.uv]`: indexes, and what holds for the choice of versions.
    fn settings(&mut self) {
        self.found.constraints = self.requirements("constraint-dependencies");
        self.found.overrides = self.requirements("override-dependencies");
        for (text, span) in self.texts(self.at(&["tool", "uv", "exclude-dependencies"])) {
            let place = self.place(span.clone());
            match crate::name_of(text) {
                Some(value) => self.found.exclude.push(Placed { value, place }),
                None => self.refuse(span, "this is not a package name", "letters, digits, and `.`, `_`, `-` between"),
            }
        }
        self.scalars();
        self.indexes();
    }

    /// The requirements of a list of `[tool.uv]`.
    fn requirements(&mut self, key: &str) -> Vec<Placed<FileRequirement>> {
        let mut found = Vec::new();
        for (text, span) in self.texts(self.at(&["tool", "uv", key])) {
            match FileRequirement::read(text, self.surroundings) {
                Ok(value) => found.push(Placed { value, place: self.place(span) }),
                Err(Refused { message, hint, .. }) => self.refuse(span, message, hint),
            }
        }
        found
    }

    fn scalars(&mut self) {
        if let Some(value) =
            self.at(&["tool", "uv", "prerelease"]).filter(|value| value.get_ref().as_str() == Some("allow"))
        {
            self.found.prereleases = Some(self.place(value.span()));
        }
        if let Some(value) =
            self.at(&["tool", "uv", "no-index"]).filter(|value| value.get_ref().as_bool() == Some(true))
        {
            self.found.no_index = Some(self.place(value.span()));
        }
        let Some(value) = self.at(&["tool", "uv", "exclude-newer"]) else { return };
        let time = match value.get_ref() {
            DeValue::Datetime(time) => Some(time.to_string()),
            other => other.as_str().map(str::to_owned),
        };
        match time.as_deref().and_then(kiln_plan::stack::last_moment) {
            Some(time) => self.found.exclude_newer = Some(Placed { value: time, place: self.place(value.span()) }),
            None => self.refuse(
                value.span(),
                "`exclude-newer` is not a date, so that it would mean something else tomorrow",
                "such as `2026-01-31` or `2026-01-31T12:00:00Z`",
            ),
        }
    }

    fn indexes(&mut self) {
        let text = |table: &'t DeTable<'t>, key: &str| get(table, key).and_then(|value| value.get_ref().as_str());
        let is = |table: &'t DeTable<'t>, key: &str| get(table, key).and_then(|value| value.get_ref().as_bool());
        let mut named: Vec<(&'t str, Range<usize>, bool)> = Vec::new();
        let list = self.at(&["tool", "uv", "index"]).and_then(|list| list.get_ref().as_array());
        for index in list.into_iter().flat_map(|list| list.iter()) {
            let Some(table) = index.get_ref().as_table() else { continue };
            if let Some(url) = text(table, "url").filter(|_| is(table, "explicit") != Some(true)) {
                named.push((url, index.span(), is(table, "default") == Some(true)));
            }
        }
        if let Some(value) = self.at(&["tool", "uv", "index-url"]) {
            named.extend(value.get_ref().as_str().map(|url| (url, value.span(), true)));
        }
        let extra = self.texts(self.at(&["tool", "uv", "extra-index-url"]));
        named.extend(extra.into_iter().map(|(url, span)| (url, span, false)));
        for (url, span, is_default) in named {
            let place = self.place(span.clone());
            match index_url(url, self.surroundings.directory) {
                Ok(value) if is_default => self.found.index = Some(Placed { value, place }),
                Ok(value) => self.found.extra_indexes.push(Placed { value, place }),
                Err(Refused { message, hint, .. }) => self.refuse(span, message, hint),
            }
        }
        for (url, span) in self.texts(self.at(&["tool", "uv", "find-links"])) {
            let place = self.place(span.clone());
            match index_url(url, self.surroundings.directory) {
                Ok(url) => {
                    let value = url.strip_prefix("file://").map_or(url.clone(), str::to_owned);
                    self.found.find_links.push(Placed { value, place });
                }
                Err(Refused { message, hint, .. }) => self.refuse(span, message, hint),
            }
        }
    }
}

fn get<'t>(table: &'t DeTable<'t>, key: &str) -> Option<&'t Value<'t>> {
    table.iter().find(|(name, _)| name.get_ref() == key).map(|(_, value)| value)
}

/// The value of a name that is compared as those of packages are.
fn named<'t>(table: &'t Value<'t>, name: &str) -> Option<&'t Value<'t>> {
    let name = crate::name_of(name)?;
    let mut entries = table.get_ref().as_table()?.iter();
    entries.find(|(key, _)| crate::name_of(key.get_ref()).is_some_and(|key| key == name)).map(|(_, value)| value)
}
