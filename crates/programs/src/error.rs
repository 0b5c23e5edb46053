//! Errors of programs: the program, its end in words, and the last lines that it wrote.

use std::fmt;
use std::io;
use std::os::unix::process::ExitStatusExt;
use std::process::ExitStatus;

/// Signals by number, as signal(7) names them on the processors that kiln runs on.
const SIGNALS: [(i32, &str); 12] = [
    (1, "SIGHUP"),
    (2, "SIGINT"),
    (3, "SIGQUIT"),
    (4, "SIGILL"),
    (6, "SIGABRT"),
    (7, "SIGBUS"),
    (8, "SIGFPE"),
    (9, "SIGKILL"),
    (11, "SIGSEGV"),
    (13, "SIGPIPE"),
    (15, "SIGTERM"),
    (31, "SIGSYS"),
];

/// The end of a program that failed. Displayed as `exit status 2` or `signal 9 (SIGKILL)`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It ended itself with this status.
    Status(i32),
    /// A signal ended it.
    Signal(i32),
}

impl Ended {
    pub(crate) fn of(status: ExitStatus) -> Self {
        match (status.code(), status.signal()) {
            (Some(code), _) => Self::Status(code),
            (None, signal) => Self::Signal(signal.unwrap_or_default()),
        }
    }

    /// Returns true for the signals by which a user or a supervisor asks a program to stop.
    pub(crate) fn is_request(self) -> bool {
        matches!(self, Self::Signal(2 | 15))
    }
}

impl fmt::Display for Ended {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Status(status) => write!(f, "exit status {status}"),
            Self::Signal(signal) => match SIGNALS.iter().find(|(number, _)| number == signal) {
                Some((_, name)) => write!(f, "signal {signal} ({name})"),
                None => write!(f, "signal {signal}"),
            },
        }
    }
}

/// A program that ended with an error.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failed {
    /// The name of the program.
    pub program: String,
    /// Its end.
    pub ended: Ended,
    /// The last lines of its standard error, without secrets. Their number and length are bounded.
    pub lines: Vec<String>,
    /// Its standard output, where that was captured. It may hold secrets.
    pub stdout: Vec<u8>,
}

/// Lines that the text of an error quotes.
const QUOTED: usize = 12;

impl Failed {
    /// Returns the last lines that hold more than spaces, at most `most` of them.
    pub fn last_lines(&self, most: usize) -> Vec<&str> {
        let mut lines: Vec<&str> =
            self.lines.iter().rev().map(|line| line.trim_end()).filter(|line| !line.is_empty()).take(most).collect();
        lines.reverse();
        lines
    }

    /// Returns all lines that were kept, each with its end.
    pub fn text(&self) -> String {
        self.lines.iter().map(|line| format!("{line}\n")).collect()
    }
}

impl fmt::Display for Failed {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "`{}` failed ({})", self.program, self.ended)?;
        self.last_lines(QUOTED).iter().try_for_each(|line| write!(f, "\n  {line}"))
    }
}

/// An error of a program.
#[derive(Debug, thiserror::Error)]
pub enum ProgramError {
    /// The program is not there.
    #[error("`{program}` is not on PATH")]
    NotFound {
        /// Its name, or the path where it was expected.
        program: String,
    },
    /// It ended with an error.
    #[error("{0}")]
    Failed(Box<Failed>),
    /// It writes more than any sound answer has, and was ended.
    #[error("`{program}` wrote more than {limit} bytes and was ended")]
    TooMuch {
        /// Its name.
        program: String,
        /// Bytes that its caller takes.
        limit: usize,
    },
    /// Its input could not be made; it was ended.
    #[error("the input of `{program}` cannot be written")]
    Input {
        /// Its name.
        program: String,
        /// The error of the caller's writer.
        source: io::Error,
    },
    /// The user wants to stop.
    #[error("interrupted")]
    Interrupted,
    /// It cannot be started or waited for.
    #[error("`{program}` cannot be run")]
    Io {
        /// Its path.
        program: String,
        /// The error of the system.
        source: io::Error,
    },
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_end_of_a_program_is_said_in_words() {
        let failed = Failed {
            program: "uv".into(),
            ended: Ended::Signal(9),
            lines: vec!["first".into(), " ".into(), "last ".into()],
            stdout: Vec::new(),
        };
        assert_eq!(failed.to_string(), "`uv` failed (signal 9 (SIGKILL))\n  first\n  last");
        assert_eq!(failed.last_lines(1), ["last"]);
        assert_eq!(Ended::Status(2).to_string(), "exit status 2");
        assert_eq!(Ended::Signal(40).to_string(), "signal 40");
    }
}
