//! A command of an image that did not end well.

use std::fmt;
use std::time::Duration;

use kiln_plan::size;
use kiln_sandbox::Ended;

/// A command that a step runs in a sandbox.
pub(crate) struct Commanded {
    /// The command, for people.
    pub(crate) shown: String,
    /// The image that it was first met in, and the line of the stack file.
    pub(crate) place: String,
    /// A user or group that it runs as, other than root.
    pub(crate) another: Option<u32>,
    pub(crate) timeout: Option<Duration>,
    /// A shell can be opened where it failed.
    pub(crate) has_shell: bool,
    /// It has a network.
    pub(crate) has_network: bool,
}

/// A command that failed, or had to be ended.
#[derive(Debug, thiserror::Error)]
#[error("`{command}` of {place} {reason}{}", shown(lines))]
pub struct RunError {
    /// The command, for people.
    command: String,
    /// The image, or the first of several that have this command over the same files, and the line of the stack file.
    place: String,
    reason: Reason,
    has_shell: bool,
    has_network: bool,
    /// Its last lines.
    lines: Vec<String>,
}

/// The reason why a command cannot go on.
#[derive(Debug)]
enum Reason {
    Ended(Ended),
    /// It took longer than this.
    TimedOut(Duration),
    /// It runs as this user or group, or one of its processes wanted to, and this user has one id.
    AnotherUser(u32),
}

/// Signs that a command looked for a network.
const NETWORK: [&str; 8] = [
    "Temporary failure resolving",
    "Temporary failure in name resolution",
    "Could not resolve host",
    "Network is unreachable",
    "Name or service not known",
    "Unable to locate package",
    "has no installation candidate",
    "No matching distribution found",
];
const NO_NETWORK: &str = "the command has no network: `network = true` gives it one; locked packages come with `packages` and `system`, \
                          files with `copy` and `bind` (`{ url = ... }`, `{ git = ... }`)";
const NO_PROXY: &str = "with `network = true`, programs reach others through the proxy of `http_proxy` and `https_proxy` alone: \
                        `network = \"full\"` is for those that know none";

/// The end of the helper's line where a program is for another processor (`ENOEXEC`).
const FOREIGN: &str = "Exec format error (os error 8)";
const OTHER_PROCESSOR: &str = "is the image for another processor? Register an emulator for it (package `qemu-user-static`), or build each platform on a \
                               machine of its kind: `kiln build --platform PLATFORM --push`, then `kiln index`; or choose a base that has the packages";

impl RunError {
    pub(crate) fn new(run: &Commanded, ended: Ended, another: Option<u32>, lines: Vec<String>) -> Self {
        let reason = match (another, ended, run.timeout) {
            (Some(id), ..) => Reason::AnotherUser(id),
            (None, Ended::TimedOut, Some(timeout)) => Reason::TimedOut(timeout),
            (None, ended, _) => Reason::Ended(ended),
        };
        Self {
            command: run.shown.clone(),
            place: run.place.clone(),
            reason,
            has_shell: run.has_shell,
            has_network: run.has_network,
            lines,
        }
    }

    /// The error of a command that is not started, since it runs as a user or group that nobody can become here.
    pub(crate) fn of_another_user(run: &Commanded, id: u32) -> Self {
        Self::new(run, Ended::Stopped, Some(id), Vec::new())
    }

    /// Says what to do.
    pub(crate) fn hint(&self) -> Option<String> {
        let ended = match self.reason {
            Reason::AnotherUser(_) => return Some(kiln_sandbox::more_ids()),
            Reason::TimedOut(_) => Ended::TimedOut,
            Reason::Ended(ended) => ended,
        };
        if self.lines.iter().any(|line| line.ends_with(FOREIGN)) {
            return Some(OTHER_PROCESSOR.into());
        }
        if self.has_shell && self.lines.iter().any(|line| NETWORK.iter().any(|sign| line.contains(sign))) {
            return Some(if self.has_network { NO_PROXY } else { NO_NETWORK }.into());
        }
        let hint = match ended {
            Ended::TimedOut => "give it more time: `timeout = \"1h\"`",
            Ended::DiskFull => {
                "free some space on the disk of the store: `kiln du` says what it takes, `kiln gc` makes it smaller"
            }
            Ended::OutOfMemory(_) => "give it less to do at once (`make -j2`), or build on a machine with more memory",
            Ended::Exited(_) if !self.has_shell => return None,
            Ended::Exited(127) => "a program is missing in the image, or `PATH` does not lead to it",
            Ended::Exited(126) => {
                "the command or its working directory cannot be used: `kiln build --shell-on-failure` opens a shell to look"
            }
            Ended::Exited(_) => "`kiln build --shell-on-failure` opens a shell in the files that it left",
            Ended::Stopped => return None,
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
            Self::TimedOut(timeout) => write!(f, "took longer than its timeout of {}", time(*timeout)),
            Self::Ended(Ended::TimedOut) => f.write_str("took longer than it may"),
            Self::Ended(Ended::DiskFull) => {
                f.write_str("was stopped before it filled the disk: less than 512 MB, or than 4096 files, were free")
            }
            Self::Ended(Ended::OutOfMemory(peak)) => write!(f, "ran out of memory: it had {}", size::format(*peak)),
            Self::Ended(Ended::Stopped) => f.write_str("was stopped"),
        }
    }
}

/// Returns a time in the largest unit that gives a whole number.
fn time(time: Duration) -> String {
    match time.as_secs() {
        seconds if time.subsec_nanos() != 0 => {
            format!("{:.1} s", seconds as f64 + f64::from(time.subsec_nanos()) / 1e9)
        }
        seconds if seconds % 3600 == 0 => format!("{} h", seconds / 3600),
        seconds if seconds % 60 == 0 => format!("{} min", seconds / 60),
        seconds => format!("{seconds} s"),
    }
}

pub(crate) fn shown(lines: &[String]) -> String {
    match lines {
        [] => String::new(),
        lines => format!("; its last lines:\n{}", lines.join("\n")),
    }
}
