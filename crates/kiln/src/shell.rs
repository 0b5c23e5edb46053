//! `--shell-on-failure`: the user's terminal, for a shell in a sandbox.
//!
//! The shell gets a terminal of its own, and its bytes go to and fro: a program that had the user's terminal could type into it.

use std::io::{self, IsTerminal as _};
use std::os::fd::{AsFd, OwnedFd};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use kiln_engine::UserTerminal;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{Mode, OFlags};
use rustix::io::Errno;
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};
use rustix::termios::{OptionalActions, Termios, tcgetattr, tcgetwinsize, tcsetattr, tcsetwinsize};

use crate::render::{Failure, plain};
use crate::steps::StepList;

/// The time between two looks at the size of the user's terminal.
const TICK: Timespec = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };

/// Opens shells on the user's terminal.
pub(crate) struct FailureShell(Arc<StepList>);

impl FailureShell {
    pub(crate) fn new(steps: Arc<StepList>) -> Self {
        Self(steps)
    }
}

impl std::fmt::Debug for FailureShell {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("FailureShell")
    }
}

/// Fails where nobody could type into a shell.
pub(crate) fn require_terminal() -> Result<(), Failure> {
    match io::stdin().is_terminal() && io::stderr().is_terminal() {
        true => Ok(()),
        false => Err(Failure::usage("`--shell-on-failure` needs a terminal")
            .hint("leave it out where nobody can type: the error shows the last lines of the command")),
    }
}

impl UserTerminal for FailureShell {
    #[expect(clippy::print_stderr, reason = "this is where the user is told of the shell")]
    fn lend(&self, command: &str, run: &mut dyn FnMut(OwnedFd, &str)) -> io::Result<()> {
        let (ours, theirs) = pair()?;
        self.0.hidden(|| {
            eprintln!("`{}` failed: a shell in its file system, until `exit`", plain(command));
            let _raw = Raw::new()?;
            let ended = AtomicBool::new(false);
            std::thread::scope(|scope| {
                let shown = scope.spawn(|| show(&ours, &ended));
                run(theirs, &std::env::var("TERM").unwrap_or_else(|_| "dumb".into()));
                ended.store(true, Ordering::Relaxed);
                shown.join().unwrap_or_else(|_| Err(io::Error::other("the terminal's thread panicked")))
            })
        })
    }
}

/// Returns a new terminal: the end that shows it, and the end that programs have.
fn pair() -> io::Result<(OwnedFd, OwnedFd)> {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC)?;
    grantpt(&ours)?;
    unlockpt(&ours)?;
    let name = ptsname(&ours, Vec::new())?;
    let theirs = rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty())?;
    Ok((ours, theirs))
}

/// The user's terminal without a line discipline of its own: every key goes to the shell. It is as before when the value goes.
struct Raw(Termios);

impl Raw {
    fn new() -> io::Result<Self> {
        let before = tcgetattr(io::stdin())?;
        let mut raw = before.clone();
        raw.make_raw();
        tcsetattr(io::stdin(), OptionalActions::Drain, &raw)?;
        Ok(Self(before))
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        // A terminal that has gone away needs no settings.
        let _ = tcsetattr(io::stdin(), OptionalActions::Drain, &self.0);
    }
}

/// Passes bytes between the user's terminal and the shell's, until that has ended and all that it wrote is shown.
fn show(ours: &OwnedFd, ended: &AtomicBool) -> io::Result<()> {
    let (stdin, stderr) = (io::stdin(), io::stderr());
    let mut size = None;
    let mut is_typed = true;
    loop {
        let now = tcgetwinsize(&stdin).ok();
        if now.is_some() && now.map(|size| (size.ws_row, size.ws_col)) != size {
            size = now.map(|size| (size.ws_row, size.ws_col));
            now.map_or(Ok(()), |size| tcsetwinsize(ours, size))?;
        }
        let was_over = ended.load(Ordering::Relaxed);
        let mut waits = [PollFd::new(ours, PollFlags::IN), PollFd::new(&stdin, PollFlags::IN)];
        let waits = if is_typed { &mut waits[..] } else { &mut waits[..1] };
        match poll(waits, Some(&TICK)) {
            Err(Errno::INTR) => continue,
            done => done?,
        };
        let ready = |at: usize| waits.get(at).is_some_and(|wait| !wait.revents().is_empty());
        let (shown, typed) = (ready(0), ready(1));
        if shown && !pass(ours, &stderr)? || was_over && !shown {
            return Ok(());
        }
        if typed {
            is_typed = pass(&stdin, ours)?;
        }
    }
}

/// Passes on what can be read now; false at the end.
fn pass(from: impl AsFd, to: impl AsFd) -> io::Result<bool> {
    let mut buffer = [0; 4096];
    let read = match rustix::io::read(from, &mut buffer) {
        // No program has the other end any more.
        Err(Errno::IO) => 0,
        read => read?,
    };
    let mut rest = &buffer[..read];
    while !rest.is_empty() {
        rest = &rest[rustix::io::write(&to, rest)?..];
    }
    Ok(read > 0)
}
