//! Files of requirements, the choice of versions, and the environment.

use std::ops::Range;
use std::path::{Component, Path};

use super::images::{absolute, choice, project_path_in, without_nul_in};
use super::{expand, expand_all, remote};
use crate::diagnostic::{Diagnostic, Diagnostics, Span};
use crate::stack::image::{Environment, Named, Prerelease, Python, Requirement, RequirementsFile, Resolution};
use crate::stack::requirement;
use crate::stack::spanned::Spanned;
use crate::stack::vars::Vars;
use crate::stack::written::{
    OverlapsTable, PythonWritten, RequirementsFileWritten, RequirementsTable, RequirementsWritten, ResolutionTable,
    Text, TextOrList,
};

/// Returns the files of requirements of an image.
pub(super) fn requirements_files(
    written: Option<&Spanned<RequirementsWritten>>,
    vars: &Vars,
    wrong: &mut Diagnostics,
) -> Vec<RequirementsFile> {
    let Some(written) = written else { return Vec::new() };
    match written.get() {
        RequirementsWritten::One(one) => vec![requirements_file(one, written.span(), vars, wrong)],
        RequirementsWritten::List(list) => {
            list.iter().map(|one| requirements_file(one.get(), one.span(), vars, wrong)).collect()
        }
    }
}

fn requirements_file(
    written: &RequirementsFileWritten,
    span: Span,
    vars: &Vars,
    wrong: &mut Diagnostics,
) -> RequirementsFile {
    let everything = |path| RequirementsFile {
        path,
        span: span.clone(),
        groups: None,
        extras: Vec::new(),
        dev: false,
        package: None,
        from: None,
    };
    match written {
        RequirementsFileWritten::Path(path) => everything(repository_path(path, span.clone(), vars, wrong)),
        RequirementsFileWritten::Table(table) => {
            let RequirementsTable { file, groups, extras, dev, package, from } = &**table;
            RequirementsFile {
                groups: groups.as_ref().map(|groups| names(groups, vars, wrong)),
                extras: names(extras, vars, wrong),
                dev: *dev,
                package: package.as_ref().map(|package| normalised(package, vars, wrong)),
                span: file.span(),
                from: from.as_ref().and_then(|from| remote::remote(from, vars, wrong)),
                ..everything(match from {
                    Some(_) => project_path_in(file, file.span(), vars, wrong),
                    None => repository_path(file, file.span(), vars, wrong),
                })
            }
        }
    }
}

/// Names of groups, extras and members, which are compared like those of packages (PEP 685, PEP 735).
fn names(texts: &[Text], vars: &Vars, wrong: &mut Diagnostics) -> Vec<String> {
    texts.iter().map(|text| normalised(text, vars, wrong)).collect()
}

fn normalised(text: &Text, vars: &Vars, wrong: &mut Diagnostics) -> String {
    let name = expand(text, vars, wrong);
    match requirement::name(&name, text.span()) {
        Ok(name) => name.to_string(),
        Err(_) => {
            let message = format!("`{name}` is not a name");
            wrong.push(Diagnostic::at(text.span(), message).hint("letters, digits, and `.`, `_`, `-` between them"));
            name
        }
    }
}

/// A relative path, which may begin with `..`: the repository may reach above the stack file's directory.
fn repository_path(text: &str, span: Span, vars: &Vars, wrong: &mut Diagnostics) -> String {
    let path = without_nul_in(text, span.clone(), vars, wrong);
    if path.is_empty() || Path::new(&path).components().any(|part| matches!(part, Component::RootDir)) {
        let message = format!("`{path}` is not a path relative to the stack file");
        wrong.push(Diagnostic::at(span, message).hint("such as `requirements.txt` or `../uv.lock`"));
    }
    path
}

/// Returns the choice of versions of an image: what holds for every image, and then its own.
pub(super) fn resolution(
    all: &ResolutionTable,
    own: &ResolutionTable,
    vars: &Vars,
    wrong: &mut Diagnostics,
) -> Resolution {
    let mut found = Resolution::default();
    for table in [all, own] {
        found.overrides.extend(requirements(&table.overrides, "overrides", vars, wrong));
        found.constraints.extend(requirements(&table.constraints, "constraints", vars, wrong));
        for text in &table.exclude {
            let name = expand(text, vars, wrong);
            match requirement::name(&name, text.span()) {
                Ok(name) => found.exclude.push(Named { name, span: text.span() }),
                Err(diagnostic) => wrong.push(diagnostic.hint("`exclude` takes names of packages, without versions")),
            }
        }
        if let Some(written) = &table.prerelease {
            found.prerelease = match (found.prerelease, prerelease(written, vars, wrong)) {
                (Prerelease::All, _) => Prerelease::All,
                (Prerelease::Of(mut names), Prerelease::Of(more)) => {
                    names.extend(more);
                    Prerelease::Of(names)
                }
                (_, own) => own,
            };
        }
        if let Some(text) = &table.exclude_newer {
            found.exclude_newer = exclude_newer(text, vars, wrong);
        }
    }
    found
}

fn requirements(texts: &[Text], key: &str, vars: &Vars, wrong: &mut Diagnostics) -> Vec<Requirement> {
    let mut found = Vec::new();
    for (text, span) in expand_all(texts, vars, wrong).into_iter().zip(texts.iter().map(Spanned::span)) {
        match requirement::parse(&text, span.clone()) {
            Ok(requirement) if requirement.wheel.is_some() => wrong.push(
                Diagnostic::at(span, format!("`{key}` takes requirements, and this is a file"))
                    .hint("name the file in `packages`"),
            ),
            Ok(requirement) => found.push(requirement),
            Err(diagnostic) => wrong.push(diagnostic),
        }
    }
    found
}

/// Returns the packages whose files win, the strongest last.
pub(super) fn winners(table: Option<&OverlapsTable>, vars: &Vars, wrong: &mut Diagnostics) -> Vec<Named> {
    let Some(OverlapsTable { winner }) = table else { return Vec::new() };
    let mut names = match winner.get() {
        TextOrList::Text(text) => match vars.expand_str(text, winner.span()) {
            Ok(text) => vec![(text, winner.span())],
            Err(diagnostic) => {
                wrong.push(diagnostic);
                Vec::new()
            }
        },
        TextOrList::List(texts) => texts.iter().map(|text| (expand(text, vars, wrong), text.span())).collect(),
    };
    names.reverse();
    let mut found = Vec::new();
    for (name, span) in names {
        match requirement::name(&name, span.clone()) {
            Ok(name) => found.push(Named { name, span }),
            Err(diagnostic) => wrong.push(diagnostic),
        }
    }
    found
}

/// Returns the environment of an image's packages.
pub(super) fn environment(written: Option<&PythonWritten>, vars: &Vars, wrong: &mut Diagnostics) -> Python {
    let Some(PythonWritten::Table(table)) = written else { return Python::default() };
    let valid =
        [("venv", Some(Environment::Venv)), ("overlay", Some(Environment::Overlay)), ("base", Some(Environment::Base))];
    let text = table.environment.as_ref();
    let environment = text.and_then(|text| choice(Some(text), &valid, "`python.environment`", vars, wrong));
    let named = |texts: &[Text], wrong: &mut Diagnostics| {
        let mut found = Vec::new();
        for text in texts {
            match requirement::name(&expand(text, vars, wrong), text.span()) {
                Ok(name) => found.push(Named { name, span: text.span() }),
                Err(diagnostic) => wrong.push(diagnostic),
            }
        }
        found
    };
    let python = Python {
        environment,
        environment_span: text.map(Spanned::span),
        interpreter: table.interpreter.as_ref().map(|text| absolute(text, vars, wrong)),
        accept: named(&table.accept, wrong),
        replace: named(&table.replace, wrong),
        remove: named(&table.remove, wrong),
    };
    require_one_fate(&python, wrong);
    python
}

/// Refuses a distribution of the base of which two things are said.
fn require_one_fate(python: &Python, wrong: &mut Diagnostics) {
    let said = [("accept", &python.accept), ("replace", &python.replace), ("remove", &python.remove)];
    let said: Vec<(&str, &Named)> =
        said.iter().flat_map(|(key, list)| list.iter().map(move |named| (*key, named))).collect();
    for (at, (key, named)) in said.iter().enumerate() {
        let is_other = |(other, first): &&(&str, &Named)| first.name == named.name && other != key;
        if let Some((other, first)) = said.get(..at).and_then(|before| before.iter().find(is_other)) {
            let message = format!("`{}` is in `python.{key}` and in `python.{other}`", named.name);
            let hint = "`accept` keeps the base's, `replace` lets another take its place, and `remove` takes it away: choose one";
            wrong.push(Diagnostic::at(named.span.clone(), message).also(first.span.clone(), "here").hint(hint));
        }
    }
}

fn prerelease(written: &Spanned<TextOrList>, vars: &Vars, wrong: &mut Diagnostics) -> Prerelease {
    match written.get() {
        TextOrList::Text(word) if word == "allow" => Prerelease::All,
        TextOrList::Text(word) => {
            let message = format!("`{word}` is not a value of `prerelease`");
            wrong.push(Diagnostic::at(written.span(), message).hint("`\"allow\"`, or a list of packages"));
            Prerelease::Necessary
        }
        TextOrList::List(texts) => {
            let mut names = Vec::new();
            for text in texts {
                match requirement::name(&expand(text, vars, wrong), text.span()) {
                    Ok(name) => names.push(name),
                    Err(diagnostic) => wrong.push(diagnostic),
                }
            }
            Prerelease::Of(names)
        }
    }
}

/// Returns the RFC 3339 time of a date or of a time with its zone: a date counts to its end in UTC. The resolver would take it
/// in the time zone of its machine.
pub fn last_moment(text: &str) -> Option<String> {
    let (date, time) = text.split_once(['T', ' ']).unwrap_or((text, "23:59:59Z"));
    (is_date(date) && is_time(time)).then(|| format!("{date}T{time}"))
}

fn exclude_newer(text: &Text, vars: &Vars, wrong: &mut Diagnostics) -> Option<String> {
    let written = expand(text, vars, wrong);
    let moment = last_moment(&written);
    if moment.is_some() {
        return moment;
    }
    wrong.push(
        Diagnostic::at(text.span(), format!("`{written}` is not a date"))
            .hint("such as `2026-01-31`, which counts to its end in UTC, or `2026-01-31T12:00:00Z`"),
    );
    None
}

/// Returns true for `YYYY-MM-DD`.
fn is_date(text: &str) -> bool {
    is_of(text, "0000-00-00") && number(text, 5..7, 1..=12) && number(text, 8..10, 1..=31)
}

/// Returns true for `HH:MM:SS` and a zone, `Z` or `+HH:MM` (RFC 3339).
fn is_time(text: &str) -> bool {
    let Some((time, zone)) = text.split_at_checked(8) else { return false };
    let of_day = |text: &str| number(text, 0..2, 0..=23) && number(text, 3..5, 0..=59);
    let zone_is_right = match zone.strip_prefix(['+', '-']) {
        Some(zone) => is_of(zone, "00:00") && of_day(zone),
        None => zone == "Z",
    };
    is_of(time, "00:00:00") && of_day(time) && number(time, 6..8, 0..=59) && zone_is_right
}

/// Returns true if a text has digits where a model has zeros, and the model's characters elsewhere.
fn is_of(text: &str, model: &str) -> bool {
    let same = |(c, model): (char, char)| if model == '0' { c.is_ascii_digit() } else { c == model };
    text.len() == model.len() && text.chars().zip(model.chars()).all(same)
}

fn number(text: &str, digits: Range<usize>, valid: std::ops::RangeInclusive<u32>) -> bool {
    text.get(digits).and_then(|digits| digits.parse().ok()).is_some_and(|number| valid.contains(&number))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_and_times_with_a_zone_are_told_from_others() {
        for (date, is) in [("2026-01-31", true), ("2026-13-01", false), ("2026-1-1", false), ("2026-01-00", false)] {
            assert_eq!(is_date(date), is, "{date}");
        }
        for time in ["12:00:00Z", "23:59:59+09:00", "00:00:00-00:30"] {
            assert!(is_time(time), "{time}");
        }
        for time in ["12:00:00", "24:00:00Z", "12:60:00Z", "12:00Z", "12:00:00+9", "é:00:00Z", ""] {
            assert!(!is_time(time), "{time}");
        }
    }
}
