//! Errors for people: `error:`, what caused it, and a hint; mistakes in the stack file with their lines.

use std::error::Error;
use std::process::ExitCode;

use annotate_snippets::renderer::DecorStyle;
use annotate_snippets::{AnnotationKind, Group, Level, Renderer, Snippet};
use kiln_engine::{BuildError, Fault};
use kiln_plan::diagnostic::{Diagnostic, Diagnostics, Label};
use kiln_plan::secret::{Secrets, redact_source, redact_text};

use crate::interrupt::INTERRUPTED;

/// Why a command failed, and what is needed to show it.
#[derive(Debug)]
pub(crate) struct Failure {
    kind: Kind,
    hint: Option<String>,
    /// Path and text of the stack file.
    stack: Option<(String, String)>,
}

#[derive(Debug)]
enum Kind {
    /// The command line.
    Usage(String),
    Build(Box<BuildError>),
}

impl Failure {
    /// A mistake on the command line.
    pub(crate) fn usage(message: impl Into<String>) -> Self {
        Self { kind: Kind::Usage(message.into()), hint: None, stack: None }
    }

    /// What to do about it.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = Some(hint.into());
        self
    }

    /// The stack file that places in the error refer to.
    pub(crate) fn in_stack(mut self, path: &str, text: &str) -> Self {
        self.stack = Some((path.to_owned(), text.to_owned()));
        self
    }

    fn status(&self) -> u8 {
        match &self.kind {
            Kind::Usage(_) => 2,
            Kind::Build(error) => match error.fault() {
                Fault::User => 2,
                Fault::Step => 1,
                Fault::Surroundings => 3,
                Fault::Interrupted => INTERRUPTED,
            },
        }
    }
}

impl<E: Into<BuildError>> From<E> for Failure {
    fn from(error: E) -> Self {
        Self { kind: Kind::Build(Box::new(error.into())), hint: None, stack: None }
    }
}

/// Shows a failure on stderr; its exit status.
#[expect(clippy::print_stderr, reason = "this is where errors reach the user")]
pub(crate) fn failure(failure: &Failure, color: bool) -> ExitCode {
    eprint!("{}", text(failure, color));
    ExitCode::from(failure.status())
}

/// Shows what is wrong with the command line, or the help that was asked for; the exit status.
#[expect(clippy::print_stderr, reason = "this is where errors reach the user")]
pub(crate) fn usage(error: &clap::Error) -> ExitCode {
    let text = error.render().to_string();
    if redact_text(&text) == text {
        error.exit();
    }
    eprint!("{}", plain(&text));
    ExitCode::from(2)
}

/// Text without passwords in addresses, and without characters that would command a terminal: names in wheels and
/// answers of servers are anybody's.
pub(crate) fn plain(text: &str) -> String {
    let text = redact_text(text);
    let harmless = |c: char| !c.is_control() || matches!(c, '\n' | '\t');
    if text.chars().all(harmless) {
        return text.into_owned();
    }
    let escape = |c: char| if harmless(c) { c.to_string() } else { c.escape_default().to_string() };
    text.chars().map(escape).collect()
}

/// A failure as text.
fn text(failure: &Failure, color: bool) -> String {
    let secrets = failure.stack.as_ref().map_or_else(Secrets::default, |(_, text)| Secrets::of_source(text));
    if let Kind::Build(error) = &failure.kind {
        match error.as_ref() {
            BuildError::Stack(diagnostics) => {
                return diagnostics_text(diagnostics, failure.stack.as_ref(), &secrets, color);
            }
            BuildError::Interrupted => {
                return "Interrupted. Nothing that was finished is lost; the next run goes on from there.\n".into();
            }
            _ => {}
        }
    }
    let (message, causes, hint) = match &failure.kind {
        Kind::Usage(message) => (message.clone(), Vec::new(), None),
        Kind::Build(error) => (error.to_string(), causes(error.as_ref()), error.hint()),
    };
    let plain = |text: &str| plain(&secrets.redact(text));
    let paint = |code: &str, word: &str| if color { format!("\x1b[1;{code}m{word}\x1b[0m") } else { word.to_owned() };
    let mut text = format!("{} {}\n", paint("31", "error:"), plain(&message));
    for cause in causes {
        text.push_str(&format!("  {} {}\n", paint("31", "caused by:"), plain(&cause).replace('\n', "\n    ")));
    }
    if let Some(hint) = failure.hint.clone().or(hint) {
        text.push_str(&format!("\n{} {}\n", paint("36", "hint:"), plain(&hint)));
    }
    text
}

/// The chain of causes without those that only repeat the one before.
fn causes(error: &dyn Error) -> Vec<String> {
    let mut causes: Vec<String> = Vec::new();
    let mut last = error.to_string();
    let mut source = error.source();
    while let Some(error) = source {
        let text = error.to_string();
        if text != last {
            causes.push(text.clone());
            last = text;
        }
        source = error.source();
    }
    causes
}

fn diagnostics_text(
    diagnostics: &Diagnostics,
    stack: Option<&(String, String)>,
    secrets: &Secrets,
    color: bool,
) -> String {
    let shown = stack.map(|(path, source)| (path.as_str(), redact_source(source)));
    let shown = shown.as_ref().map(|(path, source)| (*path, source.as_ref()));
    let renderer = if color { Renderer::styled() } else { Renderer::plain() };
    let renderer = renderer.decor_style(DecorStyle::Ascii);
    let mut text = String::new();
    for diagnostic in &diagnostics.0 {
        text.push_str(&one(&redacted(diagnostic, secrets), shown, &renderer));
        text.push_str("\n\n");
    }
    text.truncate(text.trim_end().len());
    text + "\n"
}

/// The mistake without secrets in what is said about it. Texts of other files than the stack file have none.
fn redacted(diagnostic: &Diagnostic, secrets: &Secrets) -> Diagnostic {
    let label = |label: &Label| Label { text: secrets.redact(&label.text), ..label.clone() };
    Diagnostic {
        message: secrets.redact(&diagnostic.message),
        labels: diagnostic.labels.iter().map(label).collect(),
        hint: diagnostic.hint.as_deref().map(|hint| secrets.redact(hint)),
    }
}

/// A file that a diagnostic points into: its path, its text, and the labels with their positions in the diagnostic.
type InFile<'a> = (&'a str, &'a str, Vec<(usize, &'a Label)>);

/// The labels of a diagnostic, file by file, in the order in which the files are first named.
fn by_file<'a>(diagnostic: &'a Diagnostic, stack: Option<(&'a str, &'a str)>) -> Vec<InFile<'a>> {
    let mut files: Vec<InFile<'a>> = Vec::new();
    for (at, label) in diagnostic.labels.iter().enumerate() {
        let named = label.file.as_ref().map(|file| (file.path.as_str(), file.text.as_str()));
        let Some((path, text)) = named.or(stack) else { continue };
        match files.iter_mut().find(|(known, ..)| *known == path) {
            Some((.., labels)) => labels.push((at, label)),
            None => files.push((path, text, vec![(at, label)])),
        }
    }
    files
}

fn one(diagnostic: &Diagnostic, stack: Option<(&str, &str)>, renderer: &Renderer) -> String {
    let title = Level::ERROR.primary_title(diagnostic.message.as_str());
    let mut group = Group::with_title(title);
    for (path, source, labels) in by_file(diagnostic, stack) {
        let mut snippet = Snippet::source(source).path(path);
        for (at, label) in labels {
            let kind = if at == 0 { AnnotationKind::Primary } else { AnnotationKind::Context };
            let end = label.span.end.min(source.len());
            let mut annotation = kind.span(label.span.start.min(end)..end);
            if !label.text.is_empty() {
                annotation = annotation.label(label.text.as_str());
            }
            snippet = snippet.annotation(annotation);
        }
        group = group.element(snippet);
    }
    let mut report = vec![group];
    if let Some(hint) = &diagnostic.hint {
        report.push(Group::with_title(Level::HELP.secondary_title(hint.as_str())));
    }
    renderer.render(&report).to_string()
}
