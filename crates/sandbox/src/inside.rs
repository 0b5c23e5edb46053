//! Work on files that belong to ids of a range: this program once more, as root of a user namespace that has them.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::process::{Child, ChildStdin, ChildStdout, Command, ExitCode, Stdio};
use std::sync::OnceLock;

use rustix::process::{Pid, geteuid};
use rustix::thread::UnshareFlags;

use crate::ids::{Ids, subordinate};
use crate::process::{READY, close_inherited, die_with_parent};

/// The name under which the program is started for this.
pub(crate) const INSIDE: &str = "kiln: inside";

impl Ids {
    /// Returns the ids that this process can give to commands. It is found out once, by trying.
    pub fn of_this_process() -> Self {
        static FOUND: OnceLock<Ids> = OnceLock::new();
        *FOUND.get_or_init(|| {
            if geteuid().is_root() {
                return Self::All;
            }
            // A program that does not begin with `help` would try this again and again.
            if std::env::args_os().next().is_some_and(|name| name == INSIDE) {
                return Self::One;
            }
            let range = || Some(Self::Range(subordinate("/etc/subuid")?, subordinate("/etc/subgid")?));
            range().filter(|range| Inside::start(*range, "", &[]).and_then(Inside::finish).is_ok()).unwrap_or(Self::One)
        })
    }
}

/// A process that works in such a namespace.
pub struct Inside(Child);

impl Inside {
    /// Starts some work, by its name, with arguments.
    ///
    /// # Errors
    ///
    /// If the namespace cannot be made.
    pub fn start(ids: Ids, work: &str, arguments: &[&OsStr]) -> io::Result<Self> {
        let mut program = Command::new("/proc/self/exe");
        program.arg0(INSIDE).arg(work).args(arguments).env_clear();
        program.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut started = Self(program.spawn()?);
        let mut ready = [0];
        if let Some(stdout) = &mut started.0.stdout {
            stdout.read_exact(&mut ready).or_else(|_| started.fail())?;
        }
        ids.map(Pid::from_child(&started.0))?;
        if let Some(stdin) = &mut started.0.stdin {
            stdin.write_all(&[READY])?;
        }
        Ok(started)
    }

    /// Returns the pipe to its standard input.
    pub fn stdin(&mut self) -> Option<ChildStdin> {
        self.0.stdin.take()
    }

    /// Returns the pipe from its standard output.
    pub fn stdout(&mut self) -> Option<ChildStdout> {
        self.0.stdout.take()
    }

    /// Waits for its end.
    ///
    /// # Errors
    ///
    /// If it failed: in its own words.
    pub fn finish(mut self) -> io::Result<()> {
        drop(self.0.stdin.take());
        let status = self.0.wait()?;
        if status.success() { Ok(()) } else { self.fail() }
    }

    fn fail<T>(&mut self) -> io::Result<T> {
        let mut words = String::new();
        if let Some(mut stderr) = self.0.stderr.take() {
            stderr.read_to_string(&mut words)?;
        }
        Err(io::Error::other(words.trim().to_owned()))
    }
}

impl Drop for Inside {
    fn drop(&mut self) {
        // It may have ended.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// Enters the namespace, and does the work.
pub(crate) fn work(work: impl FnOnce(&[OsString]) -> io::Result<()>) -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let done = enter().and_then(|()| match arguments.first() {
        Some(name) if !name.is_empty() => work(&arguments),
        _ => Ok(()),
    });
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let _ = writeln!(io::stderr(), "{error}");
            ExitCode::FAILURE
        }
    }
}

fn enter() -> io::Result<()> {
    die_with_parent()?;
    close_inherited()?;
    // SAFETY: the function is unsafe for `UnshareFlags::FILES`, which is not the flag.
    #[allow(unsafe_code, reason = "no safe function has this flag")]
    unsafe { rustix::thread::unshare_unsafe(UnshareFlags::NEWUSER) }?;
    rustix::io::write(rustix::stdio::stdout(), &[READY])?;
    // Unbuffered: what follows is the work's.
    let mut mapped = [0];
    match rustix::io::read(rustix::stdio::stdin(), &mut mapped)? {
        1 => Ok(()),
        _ => Err(io::ErrorKind::UnexpectedEof.into()),
    }
}
