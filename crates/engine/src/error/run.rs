//! A command of an image that did not end well.

use std::fmt;

use kiln_plan::size;
use kiln_sandbox::Ended;

/// A command that failed, or had to be ended.
#[derive(Debug, thiserror::Error)]
#[error("`{command}` {reason}{}", shown(lines))]
pub struct RunError {
    /// The command, for people.
    command: String,
    reason: Reason,
    /// Its last lines.
    lines: Vec<String>,
}

/// The reason why a command cannot go on.
#[derive(Debug)]
enum Reason {
    Ended(Ended),
    /// It runs as this user or group, or one of its processes wanted to, and this user has one id.
    AnotherUser(u32),
}

/// Signs that a command looked for a network.
const NETWORK: [&str; 5] = [
    "Temporary failure resolving",
    "Temporary failure in name resolution",
    "Could not resolve host",
    "Network is unreachable",
    "Name or service not known",
];
const NO_NETWORK: &str = "commands have no network: packages come with `packages` and with `include` of a Debian base, files with `copy` \
                          and `bind` (`{ url = ... }`, `{ git = ... }`)";

impl RunError {
    pub(crate) fn new(command: String, ended: Ended, another: Option<u32>, lines: Vec<String>) -> Self {
        Self { command, reason: another.map_or(Reason::Ended(ended), Reason::AnotherUser), lines }
    }

    /// The error of a command that is not started, since it runs as a user or group that nobody can become here.
    pub(crate) fn of_another_user(command: String, id: u32) -> Self {
        Self { command, reason: Reason::AnotherUser(id), lines: Vec::new() }
    }

    /// Says what to do.
    pub(crate) fn hint(&self) -> Option<String> {
        let Reason::Ended(ended) = self.reason else { return Some(kiln_sandbox::more_ids()) };
        if self.lines.iter().any(|line| NETWORK.iter().any(|sign| line.contains(sign))) {
            return Some(NO_NETWORK.into());
        }
        let hint = match ended {
            Ended::TimedOut => "give it more time: `timeout = \"1h\"`",
            Ended::DiskFull => "free some space: `kiln du` says what the store takes, `kiln gc` makes it smaller",
            Ended::OutOfMemory(_) => "give it less to do at once (`make -j2`), or build on a machine with more memory",
            Ended::Exited(127) => "a program is missing in the image, or `PATH` does not lead to it",
            Ended::Exited(_) | Ended::Stopped => return None,
        };
        Some(hint.to_owned())
    }

    pub(crate) fn is_about_room(&self) -> bool {
        matches!(self.reason, Reason::Ended(Ended::DiskFull))
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AnotherUser(id) => write!(f, "runs as user or group {id}, which a user with one id cannot become"),
            Self::Ended(Ended::Exited(status @ 129..=192)) => write!(f, "was ended by signal {}", status - 128),
            Self::Ended(Ended::Exited(status)) => write!(f, "failed with status {status}"),
            Self::Ended(Ended::TimedOut) => f.write_str("took longer than it may"),
            Self::Ended(Ended::DiskFull) => f.write_str("was stopped before it filled the disk"),
            Self::Ended(Ended::OutOfMemory(peak)) => write!(f, "ran out of memory: it had {}", size::format(*peak)),
            Self::Ended(Ended::Stopped) => f.write_str("was stopped"),
        }
    }
}

fn shown(lines: &[String]) -> String {
    match lines {
        [] => String::new(),
        lines => format!("; its last lines:\n{}", lines.join("\n")),
    }
}
