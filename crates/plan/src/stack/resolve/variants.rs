//! Variants: other choices of the same stack, which the lock holds beside one another.

use crate::diagnostic::{Diagnostic, Diagnostics, closest};
use crate::stack::read::Overrides;
use crate::stack::written::StackFile;

/// Returns the stack as the chosen variant has it; nothing where none is chosen.
pub(super) fn chosen(written: &StackFile, overrides: &Overrides, wrong: &mut Diagnostics) -> Option<StackFile> {
    for (name, variant) in &written.variants {
        if name.is_empty() || name.contains([' ', '=', ',']) || name.get() == "default" {
            let message = format!("`{}` cannot be the name of a variant", name.get());
            wrong.push(
                Diagnostic::at(name.span(), message)
                    .hint("such as `cu126`, without spaces, `=` and commas; `default` is the stack as it stands"),
            );
        }
        for variable in variant.vars.keys().filter(|name| !written.vars.keys().any(|known| known.get() == name.get())) {
            let message = format!("the stack declares no variable `{}`", variable.get());
            let close = closest(variable.get(), written.vars.keys().map(|name| name.as_str()));
            let hint =
                close.map_or_else(|| "declare it in `[vars]`".to_owned(), |close| format!("did you mean `{close}`?"));
            wrong.push(Diagnostic::at(variable.span(), message).hint(hint));
        }
    }
    let name = overrides.variant.as_deref()?;
    let Some((_, variant)) = written.variants.iter().find(|(known, _)| known.get() == name) else {
        let names = || written.variants.keys().map(|name| name.as_str());
        let hint = match closest(name, names()) {
            Some(close) => format!("did you mean `{close}`?"),
            None if written.variants.is_empty() => {
                format!("declare it: `[variants.{name}]` with `cuda`, `vars` and others")
            }
            None => format!("there are {}", names().map(|name| format!("`{name}`")).collect::<Vec<_>>().join(", ")),
        };
        wrong.push(Diagnostic::nowhere(format!("the stack has no variant `{name}`")).hint(hint));
        return None;
    };
    let mut stack = written.clone();
    let target = &mut stack.target;
    target.cuda = variant.cuda.clone().or_else(|| target.cuda.take());
    target.python = variant.python.clone().or_else(|| target.python.take());
    if let Some(gpus) = &variant.gpus {
        target.gpus.clone_from(gpus);
    }
    for (name, value) in &variant.vars {
        stack.vars.retain(|known, _| known.get() != name.get());
        stack.vars.insert(name.clone(), value.clone());
    }
    Some(stack)
}

/// Returns the names of all variants.
pub(super) fn declared(written: &StackFile) -> Vec<String> {
    written.variants.keys().map(|name| name.get().clone()).collect()
}

/// Returns the name of a choice in the lock: the variant, and the variables of the command line.
pub(super) fn key(overrides: &Overrides) -> String {
    let vars = overrides.vars.iter().map(|(name, value)| format!("{name}={value}"));
    overrides.variant.iter().cloned().chain(vars).collect::<Vec<_>>().join(" ")
}
