//! Reading a stack file: text to [`StackFile`] to [`Stack`].

use std::collections::BTreeMap;

use super::image::Stack;
use super::resolve;
use super::written::StackFile;
use crate::diagnostic::{Diagnostic, Diagnostics, Span, closest};

/// Keys that the stack file's design has and this release does not act on: refused rather than ignored.
const LATER: [&str; 5] = ["run", "system", "bytecode", "imports", "compiler"];

/// What the command line puts in the place of what the file says.
#[derive(Debug, Clone, Default)]
pub struct Overrides {
    /// `--var name=value`.
    pub vars: BTreeMap<String, String>,
    /// `--gpus`, where given.
    pub gpus: Option<Vec<String>>,
    /// `--platform`, where given.
    pub platforms: Option<Vec<String>>,
}

/// Reads a stack file. Every mistake that can be found in one reading is returned.
pub fn read(text: &str, overrides: &Overrides) -> Result<Stack, Diagnostics> {
    let written: StackFile = toml::from_str(text).map_err(|error| syntax(&error, text))?;
    resolve::resolve(&written, overrides)
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
    let message = message.trim().replace('\n', ", ");
    Diagnostic::at(span, message).into()
}

fn unknown_key(key: &str, rest: &str, span: Span) -> Diagnostic {
    let valid: Vec<&str> = rest.split('`').skip(1).step_by(2).collect();
    if LATER.contains(&key) {
        return Diagnostic::at(span, format!("this release of kiln cannot do `{key}` yet"))
            .hint("it is refused rather than ignored, so that an image is never less than its stack file says");
    }
    let hint = match closest(key, valid.iter().copied()) {
        Some(close) => format!("did you mean `{close}`?"),
        None => format!("valid here: {}", valid.iter().map(|key| format!("`{key}`")).collect::<Vec<_>>().join(", ")),
    };
    Diagnostic::at(span, format!("unknown key `{key}`")).hint(hint)
}
