//! Markers of foreign files, read within bounds: the library decides some in exponential time, and panics on others.

use pep508_rs::{MarkerTree, MarkerWarningKind};

/// Bounds of a marker: deciding one takes time exponential in the number of its unordered comparisons.
const LONGEST: usize = 4096;
const DEEPEST: usize = 64;
const COMPARISONS: usize = 16;

/// A marker that is not taken.
#[derive(Debug)]
pub(crate) enum MarkerError {
    /// It cannot be read, for this reason.
    Invalid(String),
    /// A part of it has no meaning, so that it would be left out.
    Dropped(String),
}

/// Collects what the parser would drop.
struct Dropped(Option<String>);

impl pep508_rs::Reporter for Dropped {
    fn report(&mut self, kind: MarkerWarningKind, warning: String) {
        if !matches!(kind, MarkerWarningKind::DeprecatedMarkerName) {
            self.0.get_or_insert(warning);
        }
    }
}

/// Reads a marker (PEP 508).
pub(crate) fn read(text: &str) -> Result<MarkerTree, MarkerError> {
    let invalid = |reason: &str| Err(MarkerError::Invalid(reason.to_owned()));
    let parentheses = text.matches('(').count();
    let unordered = text.matches(" in ").count() + text.matches("extra").count();
    if text.len() > LONGEST || parentheses > DEEPEST || unordered > COMPARISONS {
        return invalid("its marker is too long");
    }
    // The library panics where it reports another character.
    if !text.is_ascii() || text.contains(|c: char| c.is_control() && c != '\t') {
        return invalid("a marker consists of ASCII characters");
    }
    let mut dropped = Dropped(None);
    let tree = MarkerTree::parse_reporter(text, &mut dropped).map_err(|error| {
        MarkerError::Invalid(format!("its marker cannot be read: {}", first_line(&error.message.to_string())))
    })?;
    match dropped.0 {
        Some(warning) => Err(MarkerError::Dropped(first_line(&warning))),
        None => Ok(tree),
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim_end_matches('.').to_owned()
}
