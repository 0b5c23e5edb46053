//! Mistakes in a stack file, and in the files that it names, as data: a message, the places it concerns, and what would
//! be right.
//!
//! Rendering belongs to the command line; tests and other front ends read the same values.

use std::ops::Range;
use std::sync::Arc;

/// A byte range of a file's text; of the stack file's where no other is named.
pub type Span = Range<usize>;

/// Another file than the stack file, with the text that spans refer to.
#[derive(Debug, PartialEq, Eq)]
pub struct SourceFile {
    /// Path, as messages show it.
    pub path: String,
    /// Text, without secrets.
    pub text: String,
}

/// A place in another file than the stack file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The file.
    pub file: Arc<SourceFile>,
    /// The range in its text.
    pub span: Span,
}

/// One mistake.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Diagnostic {
    /// What is wrong, in one line, without a final period.
    pub message: String,
    /// The places, the most important first. Empty where the mistake is not in the text (a command line override).
    pub labels: Vec<Label>,
    /// What is valid, or what was probably meant.
    pub hint: Option<String>,
}

/// A place in a file and what is to be said about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Label {
    /// The file; none for the stack file.
    pub file: Option<Arc<SourceFile>>,
    /// Where.
    pub span: Span,
    /// A few words, or nothing.
    pub text: String,
}

impl From<Span> for Label {
    fn from(span: Span) -> Self {
        Self { file: None, span, text: String::new() }
    }
}

impl From<Place> for Label {
    fn from(place: Place) -> Self {
        Self { file: Some(place.file), span: place.span, text: String::new() }
    }
}

impl Diagnostic {
    /// A mistake at one place.
    pub fn at(place: impl Into<Label>, message: impl Into<String>) -> Self {
        Self { message: message.into(), labels: vec![place.into()], hint: None }
    }

    /// A mistake without a place.
    pub fn nowhere(message: impl Into<String>) -> Self {
        Self { message: message.into(), labels: Vec::new(), hint: None }
    }

    /// Says something about the first place.
    #[must_use]
    pub fn label(mut self, text: impl Into<String>) -> Self {
        if let Some(first) = self.labels.first_mut() {
            first.text = text.into();
        }
        self
    }

    /// Adds another place.
    #[must_use]
    pub fn also(mut self, place: impl Into<Label>, text: impl Into<String>) -> Self {
        self.labels.push(Label { text: text.into(), ..place.into() });
        self
    }

    /// Adds what is valid, or what was probably meant.
    #[must_use]
    pub fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }
}

/// Every mistake that was found in one reading of a stack file; never empty when returned as an error.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diagnostics(pub Vec<Diagnostic>);

impl Diagnostics {
    /// Notes a mistake and goes on.
    pub fn push(&mut self, diagnostic: Diagnostic) {
        self.0.push(diagnostic);
    }

    /// The value, unless a mistake was noted.
    pub fn or<T>(self, value: T) -> Result<T, Self> {
        if self.0.is_empty() { Ok(value) } else { Err(self) }
    }
}

impl From<Diagnostic> for Diagnostics {
    fn from(diagnostic: Diagnostic) -> Self {
        Self(vec![diagnostic])
    }
}

impl std::fmt::Display for Diagnostics {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (at, diagnostic) in self.0.iter().enumerate() {
            let separator = if at == 0 { "" } else { "; " };
            write!(f, "{separator}{}", diagnostic.message)?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostics {}

/// The candidate that was probably meant, if one is close.
pub fn closest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // Comparing takes as long as both lengths multiplied, and nobody mistypes a whole page.
    candidates
        .into_iter()
        .filter(|candidate| word.len().max(candidate.len()) <= 100)
        .map(|candidate| (strsim::damerau_levenshtein(word, candidate), candidate))
        .filter(|(distance, candidate)| *distance <= 1 + candidate.len() / 4)
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, candidate)| candidate)
}
