//! What is printed: a line for each check, and how many there were.

use std::fmt::Display;
use std::io::Write;
use std::time::Instant;

use super::Result;

/// Checks that were made.
#[derive(Debug, Default)]
pub(crate) struct Checks {
    passed: usize,
    failed: usize,
}

impl Checks {
    /// Makes a check and says how it went; what it found, if it passed.
    pub(crate) fn check<T>(&mut self, name: &str, check: impl FnOnce() -> Result<T>) -> Option<T> {
        let start = Instant::now();
        let outcome = check();
        eprint(&format!("{:7.1} s  {name}", start.elapsed().as_secs_f64()));
        match outcome {
            Ok(found) => {
                self.passed += 1;
                say(&format!("ok {name}"));
                Some(found)
            }
            Err(why) => {
                self.failed += 1;
                say(&format!("FAIL {name}: {why}"));
                None
            }
        }
    }

    /// Says how many passed and failed; whether none failed.
    pub(crate) fn summary(&self) -> bool {
        say(&format!("{} passed, {} failed", self.passed, self.failed));
        self.failed == 0
    }
}

/// Prints a result. A reader that has gone away is no reason to stop before everything is cleaned up.
pub(crate) fn say(line: &str) {
    let _ = writeln!(std::io::stdout().lock(), "{line}");
}

/// Prints a message.
pub(crate) fn eprint(line: &str) {
    let _ = writeln!(std::io::stderr().lock(), "{line}");
}

/// An error where two things are not the same.
pub(crate) fn same<T: PartialEq + Display>(what: &str, found: T, expected: T) -> Result<()> {
    if found == expected {
        return Ok(());
    }
    Err(format!("{what} is `{found}` and should be `{expected}`").into())
}

/// An error that lists what is wrong, the first few of it.
pub(crate) fn none(what: &str, wrong: &[String]) -> Result<()> {
    const SHOWN: usize = 20;
    if wrong.is_empty() {
        return Ok(());
    }
    let mut text = format!("{} {what}", wrong.len());
    for line in wrong.iter().take(SHOWN) {
        text.push_str("\n    ");
        text.push_str(line);
    }
    if wrong.len() > SHOWN {
        text.push_str("\n    ...");
    }
    Err(text.into())
}
