//! `${name}` in strings: the only way for a value to enter a stack from outside.

use std::cell::Cell;
use std::collections::BTreeMap;

use super::image::{Part, Value};
use super::written::Text;
use crate::diagnostic::{Diagnostic, Span, closest};

/// Bytes that all variables of a stack file may expand to, however often they are used.
const MOST_EXPANDED: usize = 16_000_000;

/// The value of a variable, or the reason for which it has none.
pub(super) type BuiltIn = Result<String, &'static str>;

/// Variables by name.
#[derive(Debug, Clone, Default)]
pub(super) struct Vars {
    values: BTreeMap<String, String>,
    /// Those that kiln itself declares.
    built_in: BTreeMap<&'static str, BuiltIn>,
    /// Bytes that were put in the place of variables so far.
    expanded: Cell<usize>,
}

/// A piece of a text.
enum Piece<'t> {
    Text(&'t str),
    /// `$$`.
    Dollar,
    /// `${name}`, with the whole of it.
    Name(&'t str, &'t str),
    /// `${` without an end.
    Open(&'t str),
}

/// Cuts a text into pieces. A dollar sign before anything else is text.
fn pieces(text: &str) -> impl Iterator<Item = Piece<'_>> {
    let mut rest = text;
    std::iter::from_fn(move || {
        let (piece, length) = match rest.find('$') {
            _ if rest.is_empty() => return None,
            None => (Piece::Text(rest), rest.len()),
            Some(0) if rest.starts_with("$$") => (Piece::Dollar, 2),
            Some(0) if rest.starts_with("${") => match rest.find('}') {
                Some(end) => (Piece::Name(&rest[2..end], &rest[..=end]), end + 1),
                None => (Piece::Open(rest), rest.len()),
            },
            Some(0) => (Piece::Text(&rest[..1]), 1),
            Some(at) => (Piece::Text(&rest[..at]), at),
        };
        rest = &rest[length..];
        Some(piece)
    })
}

impl Vars {
    pub(super) fn new(values: BTreeMap<String, String>) -> Self {
        Self { values, ..Self::default() }
    }

    /// Adds the variables that kiln declares; those of the stack file win.
    pub(super) fn with_built_in(&self, built_in: impl IntoIterator<Item = (&'static str, BuiltIn)>) -> Self {
        Self { built_in: built_in.into_iter().collect(), ..self.clone() }
    }

    /// Returns the value of a declared variable; `None` where there is none of this name.
    fn value(&self, name: &str, span: &Span) -> Result<Option<&str>, Diagnostic> {
        let value = match (self.values.get(name), self.built_in.get(name)) {
            (Some(value), _) | (None, Some(Ok(value))) => value,
            (None, Some(Err(problem))) => {
                let message = format!("`${{{name}}}` has no value here: {problem}");
                let hint = match name {
                    "cuda.tag" => {
                        "say it below `[target]`, `cuda = \"12.8\"` or `cuda = \"none\"`: that of a variant takes its place"
                    }
                    _ => {
                        "name them below `[target]`, `gpus = [\"H100\"]`, or declare a variable of your own under `[vars]`"
                    }
                };
                return Err(Diagnostic::at(span.clone(), message).hint(hint));
            }
            (None, None) => return Ok(None),
        };
        Ok(self.take(value.len(), name, span)?.then_some(value.as_str()))
    }

    /// The text with every `${name}` replaced; `$$` stands for one dollar sign.
    pub(super) fn expand(&self, text: &Text) -> Result<String, Diagnostic> {
        self.expand_str(text.get(), text.span())
    }

    pub(super) fn expand_str(&self, text: &str, span: Span) -> Result<String, Diagnostic> {
        let mut out = String::with_capacity(text.len());
        for piece in pieces(text) {
            match piece {
                Piece::Text(text) => out.push_str(text),
                Piece::Dollar => out.push('$'),
                Piece::Name(name, _) => match self.value(name, &span)? {
                    Some(value) => out.push_str(value),
                    None if self.is_declared(name) => return Ok(text.to_owned()),
                    None => return Err(self.undeclared(name, span)),
                },
                Piece::Open(_) => return Err(unclosed(span)),
            }
        }
        Ok(out)
    }

    /// Returns a text for a shell or a file: declared names are replaced, and everything else is left as it is.
    pub(super) fn expand_declared(&self, text: &str, span: Span) -> Result<String, Diagnostic> {
        let mut out = String::with_capacity(text.len());
        for piece in pieces(text) {
            match piece {
                Piece::Text(text) | Piece::Open(text) => out.push_str(text),
                Piece::Dollar => out.push_str("$$"),
                Piece::Name(name, whole) => out.push_str(self.value(name, &span)?.unwrap_or(whole)),
            }
        }
        Ok(out)
    }

    /// Returns the value of an environment variable: names that are not declared are those of the image below.
    pub(super) fn expand_value(&self, text: &Text) -> Result<Value, Diagnostic> {
        let (mut parts, span) = (Vec::new(), text.span());
        for piece in pieces(text.get()) {
            let part = match piece {
                Piece::Text(text) => Part::Text(text.to_owned()),
                Piece::Dollar => Part::Text("$".to_owned()),
                Piece::Open(_) => return Err(unclosed(span)),
                Piece::Name(name, _) => match self.value(name, &span)? {
                    Some(value) => Part::Text(value.to_owned()),
                    None if is_variable(name) => Part::Inherited(name.to_owned()),
                    None if name.contains(':') => {
                        let message = format!("`${{{name}}}` is for a shell, and `env` has none");
                        return Err(
                            Diagnostic::at(span, message).hint("`${NAME}` alone is the value of the image below")
                        );
                    }
                    None => return Err(self.undeclared(name, span)),
                },
            };
            match (parts.last_mut(), part) {
                (Some(Part::Text(last)), Part::Text(text)) => last.push_str(&text),
                (_, part) => parts.push(part),
            }
        }
        Ok(Value(parts))
    }

    /// Returns the hints on names in a text for a shell that are nearly those of declared variables.
    pub(super) fn nearly_declared(&self, text: &str) -> Vec<(String, String)> {
        let names = pieces(text).filter_map(|piece| match piece {
            Piece::Name(name, _) if !self.is_declared(name) => Some(name),
            _ => None,
        });
        let near = |name: &str| {
            let near =
                |other: &&String| other.to_lowercase().replace('-', "_") == name.to_lowercase().replace('-', "_");
            let close = || closest(name, self.values.keys().map(String::as_str)).map(str::to_owned);
            self.values.keys().find(near).cloned().or_else(close)
        };
        names.filter_map(|name| Some((name.to_owned(), near(name)?))).collect()
    }

    fn is_declared(&self, name: &str) -> bool {
        self.values.contains_key(name) || self.built_in.contains_key(name)
    }

    /// Counts what a variable expands to. The first time that it is too much is an error; afterwards nothing is expanded.
    fn take(&self, bytes: usize, name: &str, span: &Span) -> Result<bool, Diagnostic> {
        let before = self.expanded.get();
        let after = before.saturating_add(bytes);
        self.expanded.set(after);
        if before > MOST_EXPANDED {
            return Ok(false);
        }
        if after <= MOST_EXPANDED {
            return Ok(true);
        }
        let message =
            format!("the variables of this file expand to more than {}", crate::size::format(MOST_EXPANDED as u64));
        let label = format!("`{name}` has {} here", crate::size::format(bytes as u64));
        Err(Diagnostic::at(span.clone(), message)
            .label(label)
            .hint("variables hold versions, names and addresses: shorten them, or use them less often"))
    }

    fn undeclared(&self, name: &str, span: Span) -> Diagnostic {
        let names = self.values.keys().map(String::as_str).chain(self.built_in.keys().copied());
        let hint = match closest(name, names.clone()) {
            Some(close) => format!("did you mean `${{{close}}}`?"),
            None if self.values.is_empty() => format!("declare it: `[vars]` with `{name} = \"...\"`"),
            None => format!("declared are {}", names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
        };
        Diagnostic::at(span, format!("the variable `{name}` is not declared under `[vars]`")).hint(hint)
    }
}

fn unclosed(span: Span) -> Diagnostic {
    Diagnostic::at(span, "`${` without a closing `}`").hint("write `$$` for a dollar sign")
}

/// Returns true for what a shell takes for the name of a variable (POSIX, "Name").
fn is_variable(name: &str) -> bool {
    let of_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
    name.chars().all(of_name) && name.starts_with(|c: char| !c.is_ascii_digit())
}
