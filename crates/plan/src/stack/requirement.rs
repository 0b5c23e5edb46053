//! Requirements of an image: PEP 508 strings, with `"@group"` unfolded.

use std::collections::BTreeMap;
use std::path::{Component, Path};
use std::str::FromStr;

use pep508_rs::{PackageName, VerbatimUrl};

use super::image::Requirement;
use super::vars::Vars;
use super::written::Text;
use crate::diagnostic::{Diagnostic, Diagnostics, Span, closest};
use crate::marker::{self, MarkerError};
use crate::secret;
use crate::stack::Spanned;

/// Unfolds groups and checks every requirement.
pub(super) fn requirements(
    written: &[Text],
    groups: &BTreeMap<Spanned<String>, Vec<Text>>,
    vars: &Vars,
    wrong: &mut Diagnostics,
) -> Vec<Requirement> {
    let mut found = Vec::new();
    for text in written {
        let expanded = match text.starts_with('@') {
            true => vars.expand(text).map_err(|diagnostic| wrong.push(diagnostic)).ok(),
            false => None,
        };
        match expanded.as_deref().and_then(|text| text.strip_prefix('@')) {
            Some(name) => match groups.iter().find(|(group, _)| group.get() == name) {
                Some((_, members)) => {
                    for member in members {
                        if member.starts_with('@') {
                            let message = "a group cannot hold another group";
                            wrong.push(Diagnostic::at(member.span(), message).hint("list both in the image"));
                        } else {
                            one(member, vars, wrong, &mut found);
                        }
                    }
                }
                None => wrong.push(unknown_group(name, text.span(), groups)),
            },
            None if text.starts_with('@') => {}
            None => one(text, vars, wrong, &mut found),
        }
    }
    found
}

fn one(text: &Text, vars: &Vars, wrong: &mut Diagnostics, found: &mut Vec<Requirement>) {
    match vars.expand(text).and_then(|expanded| parse(&expanded, text.span())) {
        Ok(requirement) => found.push(requirement),
        Err(diagnostic) => wrong.push(diagnostic),
    }
}

/// Checks one requirement.
pub(super) fn parse(text: &str, span: Span) -> Result<Requirement, Diagnostic> {
    if let Some(wheel) = local_wheel(text) {
        return of_wheel(text, wheel, span);
    }
    // The parser takes for granted that names and extras end as they may, and panics where they do not.
    let of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let rest = text.trim_start().trim_start_matches(of_name);
    name(&text.trim_start()[..text.trim_start().len() - rest.len()], span.clone())?;
    let extras = rest.trim_start().strip_prefix('[').map_or("", |rest| rest.split(']').next().unwrap_or(rest));
    for extra in extras.split(|c| !of_name(c)).filter(|extra| !extra.is_empty()) {
        name(extra, span.clone())?;
    }
    // A URL goes on to the next blank, and may hold a semicolon.
    let divided = text.split_once(if text.contains("://") { " ;" } else { ";" });
    let (head, marker) = divided.map_or((text, None), |(head, marker)| (head, Some(marker.trim())));
    if let Some(Err(error)) = marker.map(marker::read) {
        return Err(unclear(text, error, span));
    }
    match pep508_rs::Requirement::<VerbatimUrl>::from_str(head) {
        Ok(parsed) => Ok(Requirement { text: text.to_owned(), name: parsed.name, wheel: None, span }),
        Err(error) => {
            let reason = error.message.to_string();
            let reason = reason.lines().next().unwrap_or_default().trim_end_matches('.').to_owned();
            let shown = secret::redact_address(text);
            Err(Diagnostic::at(span, format!("`{shown}` is not a Python requirement"))
                .label(secret::redact_address(&reason))
                .hint("a requirement is a name and, optionally, versions: `torch==2.11.0`, `transformers>=4.30,<5`"))
        }
    }
}

/// The mistake in the marker of a requirement.
fn unclear(text: &str, error: MarkerError, span: Span) -> Diagnostic {
    let (problem, label, hint) = match error {
        MarkerError::Invalid(reason) => ("has a marker that cannot be read", reason, marker::COMPARE.to_owned()),
        MarkerError::Unclear { part, hint } => ("has a marker that cannot be evaluated", part, hint),
    };
    Diagnostic::at(span, format!("`{}` {problem}", secret::redact_address(text))).label(label).hint(hint)
}

/// Finds the path in `./dist/x-1.0-py3-none-any.whl` and in `x @ ./dist/x-1.0-py3-none-any.whl`.
fn local_wheel(text: &str) -> Option<&str> {
    let (head, location) = text.split_once('@').map_or(("", text), |(head, location)| (head.trim(), location));
    let location = location.trim();
    let is_path = !location.contains("://") && !location.starts_with("file:");
    (is_path && (location.ends_with(".whl") || location.starts_with("./") || head.is_empty() && location == "."))
        .then_some(location)
}

/// The requirement of a wheel of the project: named by its file, whose name begins with the package's.
fn of_wheel(text: &str, path: &str, span: Span) -> Result<Requirement, Diagnostic> {
    let hint = "such as `./dist/NAME-1.0-py3-none-any.whl`, relative to the stack file and below its directory";
    let Some(file) = path.rsplit('/').next().filter(|file| file.ends_with(".whl")) else {
        let message = format!("`{text}` is not a wheel, and kiln does not build sources yet");
        return Err(Diagnostic::at(span, message).hint(format!("build a wheel elsewhere and name it, {hint}")));
    };
    let plain = Path::new(path).components().all(|part| matches!(part, Component::Normal(_) | Component::CurDir));
    if !plain {
        return Err(Diagnostic::at(span, format!("`{path}` is outside the project")).hint(hint));
    }
    let name = name(file.split('-').next().unwrap_or_default(), span.clone())?;
    let asked = text.split_once('@').map(|(asked, _)| asked.trim().split('[').next().unwrap_or_default());
    if let Some(asked) = asked.filter(|asked| PackageName::new((*asked).to_owned()).is_ok_and(|asked| asked != name)) {
        let message = format!("the wheel is one of `{name}`, and `{asked}` is asked for");
        return Err(Diagnostic::at(span, message).hint("name the wheel's package before the `@`"));
    }
    Ok(Requirement { text: text.to_owned(), name, wheel: Some(path.to_owned()), span })
}

/// Checks a package name.
pub(super) fn name(text: &str, span: Span) -> Result<PackageName, Diagnostic> {
    PackageName::new(text.to_owned()).map_err(|_| Diagnostic::at(span, format!("`{text}` is not a package name")))
}

fn unknown_group(name: &str, span: Span, groups: &BTreeMap<Spanned<String>, Vec<Text>>) -> Diagnostic {
    let names = || groups.keys().map(|group| group.as_str());
    let hint = match closest(name, names()) {
        Some(close) => format!("did you mean `@{close}`?"),
        None if groups.is_empty() => format!("declare it: `[groups]` with `{name} = [\"...\"]`"),
        None => format!("declared are {}", names().map(|name| format!("`@{name}`")).collect::<Vec<_>>().join(", ")),
    };
    Diagnostic::at(span, format!("there is no group `{name}`")).hint(hint)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_extras_that_end_as_none_does_are_refused() {
        for text in [
            "a ; os_name ~= 'x'",
            "a @ https://example.org/a-1.whl ; python_version >= '3.x'",
            "torch-==1",
            "a.",
            "-a",
            "",
            "a[b.]",
            "a[wheels. x == 'y'",
            "a[b,c-]>=1",
            "a [ b_ ]",
        ] {
            assert!(parse(text, 0..1).is_err(), "{text}");
        }
        for text in
            ["torch==2.11.0", "a[b,c]>=1 ; sys_platform == 'linux'", " a [b] ", "a @ https://example.org/a-1.whl"]
        {
            assert!(parse(text, 0..1).is_ok(), "{text}");
        }
    }
}
