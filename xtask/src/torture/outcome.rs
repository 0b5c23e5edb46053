//! Running kiln, and judging how it ended.

use std::io::{Read, Write};
use std::os::unix::process::ExitStatusExt;
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::Result;

/// A run of kiln that takes longer hangs: none here has more to do than a second's work.
const LONGEST: Duration = Duration::from_secs(90);
/// The statuses that kiln's documentation knows, without those of signals.
const DOCUMENTED: [i32; 4] = [0, 1, 2, 3];

/// A finding: its kind, the same for all findings of one cause, and the particulars.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Problem {
    pub(crate) kind: String,
    pub(crate) details: String,
}

/// A finding.
pub(crate) fn problem(kind: impl Into<String>, details: impl Into<String>) -> Problem {
    Problem { kind: kind.into(), details: details.into() }
}

/// The end of a run.
#[derive(Debug, Clone, Default)]
pub(crate) struct Outcome {
    /// Absent where a signal ended it.
    pub(crate) status: Option<i32>,
    pub(crate) killed: bool,
    pub(crate) hung: bool,
    pub(crate) stdout: String,
    pub(crate) stderr: String,
}

impl Outcome {
    /// Whether it ended with status 0.
    pub(crate) fn succeeded(&self) -> bool {
        self.status == Some(0)
    }

    /// Status and messages on one line.
    pub(crate) fn brief(&self) -> String {
        let end = match self.status {
            _ if self.hung => "it hung".to_owned(),
            Some(status) => format!("status {status}"),
            None => "a signal ended it".to_owned(),
        };
        let text: Vec<&str> = self.stderr.lines().map(str::trim).filter(|line| !line.is_empty()).collect();
        let mut text = text.join(" | ");
        if let Some((end, _)) = text.char_indices().nth(600) {
            text.truncate(end);
        }
        format!("{end}: {text}")
    }

    /// Judges a run that was not killed by this harness: it ends by itself, with a documented status, and a failure
    /// has a reason.
    pub(crate) fn problems(&self, command: &str) -> Vec<Problem> {
        let mut problems = Vec::new();
        let details = || format!("`{command}`: {}", self.brief());
        if self.hung {
            problems.push(problem("it hangs", details()));
        } else if self.status.is_none() {
            problems.push(problem("a signal ends it", details()));
        } else if self.stderr.contains("panicked at") {
            problems.push(problem("a panic", details()));
        } else if !self.status.is_some_and(|status| DOCUMENTED.contains(&status)) {
            problems.push(problem("an undocumented status", details()));
        } else if !self.succeeded() && !self.stderr.contains("error:") {
            problems.push(problem("a failure without a reason", details()));
        }
        problems
    }

    /// The digests of images that `build --json` printed, by name.
    pub(crate) fn digests(&self) -> Option<Vec<(String, String)>> {
        let document: serde_json::Value = serde_json::from_str(&self.stdout).ok()?;
        let images = document["images"].as_array()?.iter();
        images.map(|image| Some((image["name"].as_str()?.to_owned(), image["digest"].as_str()?.to_owned()))).collect()
    }
}

/// Starts a command with its output in pipes.
pub(crate) fn start(command: &mut Command, input: Option<&str>) -> Result<Child> {
    let stdin = if input.is_some() { Stdio::piped() } else { Stdio::null() };
    let mut child = command.stdin(stdin).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    if let (Some(text), Some(mut stdin)) = (input, child.stdin.take()) {
        // A process that is killed does not read it.
        let _ = stdin.write_all(text.as_bytes());
    }
    Ok(child)
}

/// Waits for the end of a process.
pub(crate) fn finish(mut child: Child) -> Result<Outcome> {
    let since = Instant::now();
    let readers = (reader(child.stdout.take()), reader(child.stderr.take()));
    let mut hung = false;
    let status = loop {
        if let Some(status) = child.try_wait()? {
            break status;
        }
        if since.elapsed() > LONGEST && !hung {
            hung = true;
            child.kill()?;
        }
        std::thread::sleep(Duration::from_millis(1));
    };
    let text = |thread: std::thread::JoinHandle<String>| thread.join().unwrap_or_default();
    let (stdout, stderr) = (text(readers.0), text(readers.1));
    Ok(Outcome { status: status.code(), killed: status.signal() == Some(9), hung, stdout, stderr })
}

fn reader(pipe: Option<impl Read + Send + 'static>) -> std::thread::JoinHandle<String> {
    std::thread::spawn(move || {
        let mut bytes = Vec::new();
        if let Some(mut pipe) = pipe {
            let _ = pipe.read_to_end(&mut bytes);
        }
        String::from_utf8_lossy(&bytes).into_owned()
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(status: Option<i32>, stderr: &str) -> Vec<String> {
        let outcome = Outcome { status, stderr: stderr.into(), ..Outcome::default() };
        outcome.problems("kiln build").into_iter().map(|problem| problem.kind).collect()
    }

    #[test]
    fn failures_without_a_reason_panics_and_other_statuses_are_found() {
        assert_eq!(kinds(Some(0), ""), [""; 0]);
        assert_eq!(kinds(Some(3), "error: no space\n"), [""; 0]);
        assert_eq!(kinds(Some(3), ""), ["a failure without a reason"]);
        assert_eq!(kinds(Some(101), "thread 'main' panicked at x"), ["a panic"]);
        assert_eq!(kinds(Some(7), "error: odd"), ["an undocumented status"]);
        assert_eq!(kinds(None, ""), ["a signal ends it"]);
    }
}
