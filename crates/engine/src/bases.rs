//! Bases: their names in locks and messages, and their interpreters.

use kiln_plan::base::{BaseFacts, Interpreter};
use kiln_plan::diagnostic::{Diagnostic, Diagnostics};
use kiln_plan::stack;

use crate::error::Result;

/// Returns the name of a base in the lock; `None` for `scratch` and for other images.
pub fn name(from: &stack::From) -> Option<String> {
    match from {
        stack::From::Scratch | stack::From::Image(_) => None,
        stack::From::OciLayout(path) => Some(format!("oci {path}")),
        stack::From::Debian { suite, include, mirror } => {
            let mirror = mirror.as_ref().map(|mirror| format!(" from {mirror}")).unwrap_or_default();
            Some(format!("debian {suite} {}{mirror}", include.join(" ")).trim_end().to_owned())
        }
        stack::From::Reference(reference) => Some(reference.to_string()),
    }
}

/// Returns the interpreter of a base for an image, or an error that says which there are.
/// A virtual environment of kiln's own stands on none of the base's virtual environments.
pub(crate) fn interpreter<'f>(
    facts: &'f BaseFacts,
    image: &stack::Image,
    base: &str,
    environment: stack::Environment,
) -> Result<&'f Interpreter> {
    let (python, named) = (image.target.python(), image.python.interpreter.as_deref());
    let fits = |found: &&Interpreter| {
        found.minor_version() == python
            && named.is_none_or(|named| found.path == named)
            && (environment == stack::Environment::Base || !found.environment)
    };
    if let Some(found) = facts.interpreters.iter().find(fits) {
        return Ok(found);
    }
    let have: Vec<String> =
        facts.interpreters.iter().map(|found| format!("{} ({})", found.path, found.version)).collect();
    let have = if have.is_empty() { "no Python at all".to_owned() } else { have.join(", ") };
    let of_environment = facts.interpreters.iter().any(|found| found.environment && found.minor_version() == python);
    let wanted = named.map_or_else(String::new, |named| format!(" at {named}"));
    let message = format!("the base `{base}` has no interpreter for Python {python}{wanted}: it has {have}");
    let hint = match of_environment {
        true => "the interpreter of a virtual environment takes packages with `python.environment = \"base\"`",
        false => {
            "choose a base that has it (a Debian with `include = [\"python3\"]` has its release's), or set \
             `target.python`"
        }
    };
    let place = image.target.python_span.clone().unwrap_or_else(|| image.span.clone());
    Err(Diagnostics::from(Diagnostic::at(place, message).also(image.span.clone(), "for this image").hint(hint)).into())
}
