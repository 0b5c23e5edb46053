//! Reading a stack file: text to [`StackFile`] to [`Stack`].

use std::collections::BTreeMap;

use serde::Deserialize;
use toml::de::{DeTable, DeValue};

use super::image::Stack;
use super::resolve;
use super::written::StackFile;
use crate::diagnostic::{Diagnostic, Diagnostics, Span, closest};

/// Keys that the stack file's design has and this release does not act on: refused rather than ignored.
const LATER: [&str; 3] = ["bytecode", "imports", "compiler"];

/// Words of Dockerfiles and of compose files, with kiln's.
const FOREIGN: [(&str, &str); 16] = [
    ("cmd", "command"),
    ("ports", "expose"),
    ("chown", "owner"),
    ("chmod", "mode"),
    ("src", "from"),
    ("source", "from"),
    ("dst", "to"),
    ("dest", "to"),
    ("target", "to"),
    ("environment", "env"),
    ("working_dir", "workdir"),
    ("cwd", "workdir"),
    ("branch", "rev"),
    ("tag", "rev"),
    ("commit", "rev"),
    ("stop_signal", "stop-signal"),
];

/// What the command line puts in the place of what the file says.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--variant`, where given.
    pub variant: Option<String>,
    /// `--var name=value`.
    pub vars: BTreeMap<String, String>,
    /// `--gpus`, where given.
    pub gpus: Option<Vec<String>>,
    /// `--platform`, where given.
    pub platforms: Option<Vec<String>>,
}

/// Unknown keys that are reported of one file.
const MOST_UNKNOWN: usize = 50;

/// Reads a stack file. Every mistake that can be found in one reading is returned.
pub fn read(text: &str, overrides: &Overrides) -> Result<Stack, Diagnostics> {
    resolve::resolve(&written(text)?, overrides)
}

/// Reads the tables of a stack file. An unknown key is noted and left out, so that all of them are found.
fn written(text: &str) -> Result<StackFile, Diagnostics> {
    let mut document = DeTable::parse(text).map_err(|error| syntax(&error, text))?;
    let mut wrong = Diagnostics::default();
    loop {
        match StackFile::deserialize(toml::de::Deserializer::from(document.clone())) {
            Ok(file) => return wrong.or(file),
            Err(error) => {
                let is_unknown = error.message().starts_with("unknown field");
                // What is missing may be what a key that is left out was meant to be.
                if is_unknown || wrong.0.is_empty() || !error.message().starts_with("missing field") {
                    wrong.0.extend(syntax(&error, text).0);
                }
                let span = error.span().filter(|_| is_unknown && wrong.0.len() < MOST_UNKNOWN);
                if !span.is_some_and(|span| remove_key(document.get_mut(), &span)) {
                    return Err(wrong);
                }
            }
        }
    }
}

/// Removes the key at a place from a table or from those in it; false where there is none.
fn remove_key(table: &mut DeTable<'_>, span: &Span) -> bool {
    let key = table.keys().find(|key| key.span() == *span).cloned();
    match key {
        Some(key) => table.remove(&key).is_some(),
        None => table.iter_mut().any(|(_, value)| remove_key_in(value.get_mut(), span)),
    }
}

fn remove_key_in(value: &mut DeValue<'_>, span: &Span) -> bool {
    match value {
        DeValue::Table(table) => remove_key(table, span),
        DeValue::Array(values) => values.iter_mut().any(|value| remove_key_in(value.get_mut(), span)),
        _ => false,
    }
}

/// The JSON schema of the stack file, for editors.
pub fn schema() -> serde_json::Value {
    let schema = schemars::schema_for!(StackFile);
    let mut value = schema.to_value();
    if let Some(object) = value.as_object_mut() {
        object.insert("title".into(), "kiln stack file".into());
    }
    value
}

fn syntax(error: &toml::de::Error, text: &str) -> Diagnostics {
    let span = error.span().unwrap_or(0..text.len().min(1));
    let message = error.message();
    if let Some(rest) = message.strip_prefix("unknown field `")
        && let Some((key, rest)) = rest.split_once('`')
    {
        return unknown_key(key, rest, span).into();
    }
    if let Some((found, expected)) =
        message.strip_prefix("invalid type: ").and_then(|rest| rest.split_once(", expected "))
    {
        return wrong_type(found, expected, span, text).into();
    }
    let message = message.trim().replace('\n', ", ");
    Diagnostic::at(span, message).into()
}

/// Says in TOML's words what serde says in its own (serde's `de::Unexpected` and `de::Visitor::expecting`).
fn wrong_type(found: &str, expected: &str, span: Span, text: &str) -> Diagnostic {
    let found = match found.split_once(' ').unwrap_or((found, "")) {
        ("map", _) => "a table".to_owned(),
        ("sequence", _) => "a list".to_owned(),
        ("string", value) => format!("the string {value}"),
        ("boolean", value) => value.to_owned(),
        ("integer", value) | ("floating", value) => format!("the number {}", value.trim_start_matches("point ")),
        _ => found.to_owned(),
    };
    let expected = match expected {
        "a sequence" => "a list",
        "a boolean" => "`true` or `false`",
        table if table == "a map" || table.starts_with("struct ") => "a table",
        other => other,
    };
    let is_one = expected == "a list" && !found.starts_with("the number");
    let value = text.get(span.clone()).filter(|value| is_one && !value.contains('\n'));
    let diagnostic = Diagnostic::at(span, format!("{expected} is expected here, not {found}"));
    match value {
        Some(value) => diagnostic.hint(format!("write `[{value}]`")),
        None => diagnostic,
    }
}

fn unknown_key(key: &str, rest: &str, span: Span) -> Diagnostic {
    let valid: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
    if LATER.contains(&key) {
        return Diagnostic::at(span, format!("this release of kiln cannot do `{key}` yet"))
            .hint("it is refused rather than ignored, so that an image is never less than its stack file says");
    }
    let key_of_docker = key.to_ascii_lowercase();
    let meant =
        FOREIGN.iter().find(|(word, ours)| *word == key_of_docker && valid.contains(ours)).map(|(_, ours)| *ours);
    let hint = match meant.or_else(|| closest(&key_of_docker, valid.iter().copied())) {
        _ if key == "path" && valid.contains(&"from") && valid.contains(&"to") => {
            "a path elsewhere stands in `from`: `from = { image = \"NAME\", path = \"/PATH\" }`".into()
        }
        Some(close) => format!("did you mean `{close}`?"),
        None => format!("valid here: {}", valid.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")),
    };
    Diagnostic::at(span, format!("unknown key `{key}`")).hint(hint)
}
