//! Requirements of an image: PEP 508 strings, with `"@group"` unfolded.

use std::collections::BTreeMap;
use std::str::FromStr;

use pep508_rs::{PackageName, VerbatimUrl};

use super::image::Requirement;
use super::vars::Vars;
use super::written::Text;
use crate::diagnostic::{Diagnostic, Diagnostics, Span, closest};
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
        match text.strip_prefix('@') {
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
    // The parser takes for granted that a name ends as names do.
    let end = text.trim_start().find(|c: char| !c.is_ascii_alphanumeric() && !matches!(c, '.' | '_' | '-'));
    let leading = end.map_or(text.trim_start(), |end| &text.trim_start()[..end]);
    name(leading, span.clone())?;
    match pep508_rs::Requirement::<VerbatimUrl>::from_str(text) {
        Ok(parsed) => Ok(Requirement { text: text.to_owned(), name: parsed.name, span }),
        Err(error) => {
            let reason = error.message.to_string();
            let reason = reason.lines().next().unwrap_or_default().trim_end_matches('.').to_owned();
            Err(Diagnostic::at(span, format!("`{text}` is not a Python requirement"))
                .label(reason)
                .hint("a requirement is a name and, optionally, versions: `torch==2.11.0`, `transformers>=4.30,<5`"))
        }
    }
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
