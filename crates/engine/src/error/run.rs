//! A command of an image that did not end well.

use kiln_plan::size;
use kiln_sandbox::Ended;

/// A command that failed, or had to be ended.
#[derive(Debug, thiserror::Error)]
#[error("`{command}` {}{}", reason(*ended, *another), shown(lines))]
pub struct RunError {
    /// The command, for people.
    command: String,
    ended: Ended,
    /// The id that one of its processes wanted to have, and could not.
    another: Option<u32>,
    /// Its last lines.
    lines: Vec<String>,
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
        Self { command, ended, another, lines }
    }

    /// Says what to do.
    pub(crate) fn hint(&self) -> Option<String> {
        if self.another.is_some() {
            return Some(kiln_sandbox::more_ids());
        }
        if self.lines.iter().any(|line| NETWORK.iter().any(|sign| line.contains(sign))) {
            return Some(NO_NETWORK.into());
        }
        let hint = match self.ended {
            Ended::TimedOut => "give it more time: `timeout = \"1h\"`",
            Ended::DiskFull => "free some space: `kiln du` says what the store takes, `kiln gc` makes it smaller",
            Ended::OutOfMemory(_) => "give it less to do at once (`make -j2`), or build on a machine with more memory",
            Ended::Exited(127) => "a program is missing in the image, or `PATH` does not lead to it",
            Ended::Exited(_) | Ended::Stopped => return None,
        };
        Some(hint.to_owned())
    }

    pub(crate) fn is_about_room(&self) -> bool {
        matches!(self.ended, Ended::DiskFull)
    }
}

fn reason(ended: Ended, another: Option<u32>) -> String {
    if let Some(id) = another {
        return format!("wanted to become the user or group {id}, which a user with one id cannot");
    }
    match ended {
        Ended::Exited(status @ 129..=192) => format!("was ended by signal {}", status - 128),
        Ended::Exited(status) => format!("failed with status {status}"),
        Ended::TimedOut => "took longer than it may".into(),
        Ended::DiskFull => "was stopped before it filled the disk".into(),
        Ended::OutOfMemory(peak) => format!("ran out of memory: it had {}", size::format(peak)),
        Ended::Stopped => "was stopped".into(),
    }
}

fn shown(lines: &[String]) -> String {
    match lines {
        [] => String::new(),
        lines => format!("; its last lines:\n{}", lines.join("\n")),
    }
}
