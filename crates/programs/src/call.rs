//! A call: everything that decides how a program runs.

use std::ffi::{OsStr, OsString};
use std::io::{self, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

use kiln_plan::secret::Secrets;

use crate::environment::Names;

/// Bytes of standard output that are captured unless a caller says otherwise.
const CAPTURED: usize = 1 << 20;
/// The time that a program has to end by itself once the user wants to stop.
const PATIENCE: Duration = Duration::from_secs(3);

/// Writes the input of a program, on a thread of its own.
pub(crate) type Writer<'a> = Box<dyn FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'a>;

/// The destination of a program's standard output.
#[derive(Debug)]
pub enum Stdout {
    /// Captured up to so many bytes. A program that writes more is ended.
    Captured(usize),
    /// Passed on line by line as events, as standard error is.
    Lines,
    /// Not looked at.
    Discarded,
    /// Written into a file.
    File(fs_err::File),
}

/// A program with its arguments, and the variables that it needs.
pub struct Call<'a> {
    pub(crate) program: PathBuf,
    /// `None` for all.
    pub(crate) names: Option<Names>,
    pub(crate) arguments: Vec<OsString>,
    pub(crate) variables: Vec<(&'static str, OsString)>,
    pub(crate) directory: Option<PathBuf>,
    pub(crate) input: Option<Writer<'a>>,
    pub(crate) stdout: Stdout,
    pub(crate) secrets: Secrets,
    pub(crate) patience: Duration,
}

impl<'a> Call<'a> {
    /// Calls a program by its path, or by its name on `PATH`. Of the environment it gets the variables of these names.
    pub fn new(program: impl Into<PathBuf>, names: Names) -> Self {
        Self {
            program: program.into(),
            names: Some(names),
            arguments: Vec::new(),
            variables: Vec::new(),
            directory: None,
            input: None,
            stdout: Stdout::Captured(CAPTURED),
            secrets: Secrets::default(),
            patience: PATIENCE,
        }
    }

    /// Adds an argument.
    #[must_use]
    pub fn arg(mut self, argument: impl AsRef<OsStr>) -> Self {
        self.arguments.push(argument.as_ref().to_owned());
        self
    }

    /// Adds arguments.
    #[must_use]
    pub fn args(mut self, arguments: impl IntoIterator<Item = impl AsRef<OsStr>>) -> Self {
        self.arguments.extend(arguments.into_iter().map(|argument| argument.as_ref().to_owned()));
        self
    }

    /// Gives it all variables of the user: it is the user's own.
    #[must_use]
    pub fn all_variables(mut self) -> Self {
        self.names = None;
        self
    }

    /// Returns the arguments so far.
    pub fn arguments(&self) -> &[OsString] {
        &self.arguments
    }

    /// Sets a variable to a value of kiln's own.
    #[must_use]
    pub fn variable(mut self, name: &'static str, value: impl Into<OsString>) -> Self {
        self.variables.push((name, value.into()));
        self
    }

    /// Runs it in a directory, rather than in kiln's own.
    #[must_use]
    pub fn directory(mut self, directory: impl AsRef<Path>) -> Self {
        self.directory = Some(directory.as_ref().to_owned());
        self
    }

    /// Gives it bytes as its standard input. One that does not read them is not in error.
    #[must_use]
    pub fn input(self, bytes: Vec<u8>) -> Self {
        self.input_from(move |out| out.write_all(&bytes))
    }

    /// Gives it a standard input that is written while it runs. If writing fails, the program is ended; a program that
    /// ends before it has read everything is not in error.
    #[must_use]
    pub fn input_from(mut self, write: impl FnOnce(&mut dyn Write) -> io::Result<()> + Send + 'a) -> Self {
        self.input = Some(Box::new(write));
        self
    }

    /// Chooses the destination of its standard output.
    #[must_use]
    pub fn stdout(mut self, stdout: Stdout) -> Self {
        self.stdout = stdout;
        self
    }

    /// Names secrets that it gets to see: they are hidden in arguments and lines.
    #[must_use]
    pub fn secrets(mut self, secrets: Secrets) -> Self {
        self.secrets = secrets;
        self
    }

    /// Gives it this long to end by itself once the user wants to stop; then it is killed.
    #[must_use]
    pub fn patience(mut self, patience: Duration) -> Self {
        self.patience = patience;
        self
    }
}
