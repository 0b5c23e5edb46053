//! `${name}` in strings: the only way for a value to enter a stack from outside.

use std::cell::Cell;
use std::collections::BTreeMap;

use super::written::Text;
use crate::diagnostic::{Diagnostic, Span, closest};

/// Bytes that all variables of a stack file may expand to, however often they are used.
const MOST_EXPANDED: usize = 16_000_000;

/// Variables by name.
#[derive(Debug, Clone, Default)]
pub(super) struct Vars {
    values: BTreeMap<String, String>,
    /// Bytes that were put in the place of variables so far.
    expanded: Cell<usize>,
}

impl Vars {
    pub(super) fn new(values: BTreeMap<String, String>) -> Self {
        Self { values, expanded: Cell::new(0) }
    }

    /// The text with every `${name}` replaced; `$$` stands for one dollar sign.
    pub(super) fn expand(&self, text: &Text) -> Result<String, Diagnostic> {
        self.expand_str(text.get(), text.span())
    }

    pub(super) fn expand_str(&self, text: &str, span: Span) -> Result<String, Diagnostic> {
        let mut out = String::with_capacity(text.len());
        let mut rest = text;
        while let Some(at) = rest.find('$') {
            out.push_str(&rest[..at]);
            let after = &rest[at + 1..];
            if let Some(after) = after.strip_prefix('$') {
                out.push('$');
                rest = after;
            } else if let Some(after) = after.strip_prefix('{') {
                let Some(end) = after.find('}') else {
                    return Err(Diagnostic::at(span, "`${` without a closing `}`").hint("write `$$` for a dollar sign"));
                };
                let name = &after[..end];
                let Some(value) = self.values.get(name) else { return Err(self.undeclared(name, span)) };
                if !self.take(value.len(), name, &span)? {
                    return Ok(text.to_owned());
                }
                out.push_str(value);
                rest = &after[end + 1..];
            } else {
                out.push('$');
                rest = after;
            }
        }
        out.push_str(rest);
        Ok(out)
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
        let names = self.values.keys().map(String::as_str);
        let hint = match closest(name, names.clone()) {
            Some(close) => format!("did you mean `${{{close}}}`?"),
            None if self.values.is_empty() => format!("declare it: `[vars]` with `{name} = \"...\"`"),
            None => format!("declared are {}", names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
        };
        Diagnostic::at(span, format!("the variable `{name}` is not declared under `[vars]`")).hint(hint)
    }
}
