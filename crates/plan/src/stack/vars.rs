//! `${name}` in strings: the only way for a value to enter a stack from outside.

use std::collections::BTreeMap;

use super::written::Text;
use crate::diagnostic::{Diagnostic, Span, closest};

/// Variables by name.
#[derive(Debug, Clone, Default)]
pub(super) struct Vars(pub(super) BTreeMap<String, String>);

impl Vars {
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
                let Some(value) = self.0.get(name) else { return Err(self.undeclared(name, span)) };
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

    fn undeclared(&self, name: &str, span: Span) -> Diagnostic {
        let names = self.0.keys().map(String::as_str);
        let hint = match closest(name, names.clone()) {
            Some(close) => format!("did you mean `${{{close}}}`?"),
            None if self.0.is_empty() => format!("declare it: `[vars]` with `{name} = \"...\"`"),
            None => format!("declared are {}", names.map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
        };
        Diagnostic::at(span, format!("the variable `{name}` is not declared under `[vars]`")).hint(hint)
    }
}
