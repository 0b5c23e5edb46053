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
            let words = ["debian", suite].into_iter().chain(include.iter().map(String::as_str));
            let mirror = mirror.as_ref().map(|mirror| ["from", mirror.uri.as_str()]);
            Some(words.chain(mirror.into_iter().flatten()).collect::<Vec<_>>().join(" "))
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
    let is_named = |found: &&Interpreter| {
        named.is_none_or(|named| found.path == named || found.names.iter().any(|name| name == named))
    };
    let is_usable = |found: &&Interpreter| environment == stack::Environment::Base || !found.environment;
    let of_version = |found: &&Interpreter| found.minor_version() == python;
    let candidates = || facts.interpreters.iter().filter(is_named);
    if let Some(found) = candidates().filter(of_version).find(is_usable) {
        return Ok(found);
    }
    let of_environment = candidates().find(|found| of_version(found) && !is_usable(found));
    let other_version = candidates().find(|found| named.is_some() && !of_version(found));
    let (message, hint) = match (of_environment, other_version) {
        (Some(found), _) => (
            format!("`{}` of the base `{base}` belongs to a virtual environment, on which `/opt/venv` cannot stand", found.path),
            "`python.environment = \"base\"` installs into that environment; or choose the interpreter that it was made with".into(),
        ),
        (_, Some(found)) => (
            format!("`{}` of the base `{base}` is Python {}, and the image is for {python}", found.path, found.version),
            format!("`python = {{ version = \"{}\" }}`, or another `interpreter`", found.minor_version()),
        ),
        _ => (
            format!(
                "the base `{base}` has no interpreter for Python {python}{}: it has {}",
                named.map_or_else(String::new, |named| format!(" at {named}")),
                listed(facts)
            ),
            "choose a base that has it (a Debian with `include = [\"python3\"]` has its release's: 3.9 in bullseye, 3.11 in \
             bookworm, 3.13 in trixie), or set `target.python`"
                .into(),
        ),
    };
    let place = image.target.python_span.clone().unwrap_or_else(|| image.span.clone());
    Err(Diagnostics::from(Diagnostic::at(place, message).also(image.span.clone(), "for this image").hint(hint)).into())
}

/// Returns the interpreters of a base for people.
fn listed(facts: &BaseFacts) -> String {
    let each = facts.interpreters.iter().map(|found| format!("{} ({})", found.path, found.version));
    let all = each.collect::<Vec<_>>().join(", ");
    if all.is_empty() { "no Python at all".to_owned() } else { all }
}
