//! A command in a sandbox, seen from outside.

use std::io::{self, BufRead, BufReader, Read, Write as _};
use std::net::{Shutdown, TcpListener};
use std::os::fd::{AsFd as _, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::{CommandExt as _, ExitStatusExt as _};
use std::path::{Path, PathBuf};
use std::process::{Child, Command as Program, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, Signal, pidfd_open, pidfd_send_signal};

use crate::cgroup::Limits;
use crate::error::{Refusal, SandboxError};
use crate::given::Network;
use crate::helper::{INSIDE, LISTENS, OUTER, REFUSED, STARTED, WAITS};
use crate::ids::Ids;
use crate::notify;
use crate::outside::Outside;
use crate::owners::Owners;
use crate::process::READY;
use crate::spec::{Command, Overlay, Root, Spec};

/// The time between two looks at the clock and the disk.
const TICK: Duration = Duration::from_millis(50);

/// A sandbox that commands run in.
#[derive(Debug, Clone)]
pub struct Sandbox {
    /// The program that is the helper: it calls [`crate::help`] first.
    pub helper: PathBuf,
    /// The time after which a command is ended.
    pub timeout: Option<Duration>,
    /// Bytes of memory that the command's processes may have at once, where the machine has control groups that it lets us use.
    pub memory: u64,
    /// Processes that may be there at once.
    pub processes: u32,
    /// Bytes and files that must stay free on the file system of the changes; a command that goes below is ended.
    pub spare: (u64, u64),
    /// The way in which layers are laid over one another.
    pub overlay: Overlay,
    /// The ids that commands have.
    pub ids: Ids,
}

impl Default for Sandbox {
    fn default() -> Self {
        Self {
            helper: "/proc/self/exe".into(),
            timeout: None,
            memory: all_memory() / 100 * 95,
            processes: 16_384,
            spare: (512 << 20, 4096),
            overlay: Overlay::Any,
            ids: Ids::of_this_process(),
        }
    }
}

/// Returns the machine's memory in bytes.
fn all_memory() -> u64 {
    let info = rustix::system::sysinfo();
    (info.totalram as u64).saturating_mul(u64::from(info.mem_unit))
}

/// Something that comes from a sandbox.
#[derive(Debug)]
pub enum Output {
    /// A line of standard output, without its end.
    Stdout(Vec<u8>),
    /// A line of standard error, without its end.
    Stderr(Vec<u8>),
    /// The socket that listens at the command's loopback interface ([`Network::Listener`]). It comes before the command starts.
    Listener(TcpListener),
}

/// The end of a command.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Ended {
    /// It ended by itself with this status; 128 and a signal's number where a signal ended it.
    Exited(u8),
    /// It took longer than it may.
    TimedOut,
    /// It left too little room on the disk.
    DiskFull,
    /// It took more memory than it may: the most that its processes had, in bytes.
    OutOfMemory(u64),
    /// `more` returned false.
    Stopped,
}

/// A command that ran.
#[derive(Debug, PartialEq, Eq)]
pub struct Ran {
    /// Its end.
    pub ended: Ended,
    /// The owners of what it changed.
    pub owners: Owners,
    /// True if the layers were copied, since overlays cannot be mounted.
    pub copied: bool,
}

impl Ran {
    /// Returns the id of another user or group that the command wanted to become, and could not.
    pub fn another(&self) -> Option<u32> {
        match self.owners {
            Owners::Noted { another, .. } => another,
            Owners::Given | Owners::Lost => None,
        }
    }
}

impl From<Ended> for Ran {
    fn from(ended: Ended) -> Self {
        Self { ended, owners: Owners::Lost, copied: false }
    }
}

impl Sandbox {
    /// Runs a command, and returns when it and all that it started have ended. `more` gets its output while it runs, and `None` some
    /// times a second; false ends the command.
    ///
    /// # Errors
    ///
    /// If the sandbox cannot be made: the command did not run.
    pub fn run(
        &self,
        root: &Root,
        command: &Command,
        mut more: impl FnMut(Option<Output>) -> bool,
    ) -> Result<Ran, SandboxError> {
        for directory in [root.upper(), root.work(), root.place()] {
            fs_err::create_dir_all(directory).map_err(SandboxError::Helper)?;
        }
        // It is the root of the image, whatever the umask is.
        let open_to_all = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs_err::set_permissions(root.upper(), open_to_all).map_err(SandboxError::Helper)?;
        if !self.has_room(&root.directory) {
            return Ok(Ended::DiskFull.into());
        }
        let limits = Limits::new(self.memory, self.processes);
        let (mut helper, stdout, stderr) = self.start(root, command, &limits, None, &mut more)?;
        let ended = self.watch(root, lines(stdout, stderr), &mut more);
        if ended != Ended::Exited(0) {
            return Ok(ended.into());
        }
        let code = helper.status()?;
        let ended = match limits.out_of_memory() {
            Some(peak) if code != 0 => Ended::OutOfMemory(peak),
            _ => Ended::Exited(code),
        };
        let owners = match self.ids {
            Ids::One => {
                let text = fs_err::read(root.owners()).map_err(SandboxError::Helper)?;
                serde_json::from_slice(&text).unwrap_or(Owners::Lost)
            }
            Ids::All | Ids::Range(..) => Owners::Given,
        };
        Ok(Ran { ended, owners, copied: root.copies().exists() })
    }

    /// Runs a command with a terminal of its own: `terminal` is the end that programs have. Returns when it and all that it started
    /// have ended; `more` gets `None` some times a second, and false ends the command.
    ///
    /// # Errors
    ///
    /// If the sandbox cannot be made: the command did not run.
    pub fn run_on(
        &self,
        terminal: OwnedFd,
        root: &Root,
        command: &Command,
        mut more: impl FnMut(Option<Output>) -> bool,
    ) -> Result<Ended, SandboxError> {
        let limits = Limits::new(self.memory, self.processes);
        let (mut helper, stdout, _) = self.start(root, command, &limits, Some(terminal), &mut more)?;
        match self.watch(root, lines(stdout, None), &mut more) {
            Ended::Exited(_) => helper.status().map(Ended::Exited),
            ended => Ok(ended),
        }
    }

    /// Returns the version of control groups that limit the memory of commands here; `None` where none do.
    pub fn memory_control(&self) -> Option<u8> {
        Limits::new(self.memory, self.processes).version()
    }

    fn start(
        &self,
        root: &Root,
        command: &Command,
        limits: &Limits,
        terminal: Option<OwnedFd>,
        more: &mut impl FnMut(Option<Output>) -> bool,
    ) -> Result<(Helper, Out, Option<Err>), SandboxError> {
        let has_terminal = terminal.is_some();
        let mut helper = Program::new(&self.helper);
        let (mut socket, theirs) = UnixStream::pair().map_err(SandboxError::Helper)?;
        helper.arg0(OUTER).env_clear().stdin(OwnedFd::from(theirs)).stdout(Stdio::piped());
        helper.stderr(terminal.map_or_else(Stdio::piped, Stdio::from));
        let child = helper.process_group(0).spawn().map_err(SandboxError::Helper)?;
        // Its end of the socket.
        drop(helper);
        let mut helper = Helper { outer: child, inner: None, _outside: None };
        let mut stdout = BufReader::new(helper.outer.stdout.take().ok_or_else(lost)?);
        let stderr = helper.outer.stderr.take().map(BufReader::new);
        let process = Pid::from_child(&helper.outer);
        // Before it leaves the namespace of control groups.
        limits.add(process).map_err(|error| refused(Refusal::of(crate::Stage::Limits, "cgroup.procs")(error)))?;
        expect(&mut stdout, READY)?;
        self.ids.map(process).map_err(|error| refused(Refusal::of(crate::Stage::Ids, "uid_map")(error)))?;
        let (overlay, ids, processes) = (self.overlay, self.ids, self.processes);
        let (root, own) = (root.clone(), command.clone());
        let spec = Spec { root, command: own, overlay, ids, terminal: has_terminal, processes };
        let text = serde_json::to_vec(&spec).map_err(|error| SandboxError::Helper(error.into()))?;
        socket.write_all(&text).and_then(|()| socket.shutdown(Shutdown::Write)).map_err(SandboxError::Helper)?;
        match &command.given.network {
            Network::None => {}
            Network::Listener(_) => {
                expect(&mut stdout, LISTENS)?;
                let listener = notify::receive(socket.as_fd()).map_err(|error| SandboxError::Helper(error.into()))?;
                more(Some(Output::Listener(OwnedFd::from(listener.ok_or_else(lost)?).into())));
            }
            Network::Outside(program) => {
                expect(&mut stdout, WAITS)?;
                let started = Outside::start(program, process);
                helper._outside =
                    Some(started.map_err(|error| refused(Refusal::of(crate::Stage::Network, "outside")(error)))?);
            }
        }
        expect(&mut stdout, INSIDE)?;
        let mut id = [0; 4];
        stdout.read_exact(&mut id).map_err(SandboxError::Helper)?;
        let inner = i32::try_from(u32::from_le_bytes(id)).ok().and_then(Pid::from_raw);
        helper.inner = match inner.map(|inner| pidfd_open(inner, PidfdFlags::empty())) {
            Some(Ok(inner)) => Some(inner),
            // It has ended, and everything inside with it.
            None | Some(Err(Errno::SRCH)) => None,
            Some(Err(error)) => return Err(SandboxError::Helper(error.into())),
        };
        expect(&mut stdout, STARTED)?;
        Ok((helper, stdout, stderr))
    }

    /// Passes lines on until the command ends by itself, which is `Exited(0)` here, or must be ended.
    fn watch(
        &self,
        root: &Root,
        lines: mpsc::Receiver<Output>,
        more: &mut impl FnMut(Option<Output>) -> bool,
    ) -> Ended {
        let deadline = self.timeout.map(|timeout| Instant::now() + timeout);
        let mut looked = Instant::now();
        loop {
            let goes_on = match lines.recv_timeout(TICK) {
                Ok(line) => more(Some(line)),
                Err(mpsc::RecvTimeoutError::Timeout) => more(None),
                Err(mpsc::RecvTimeoutError::Disconnected) => return Ended::Exited(0),
            };
            if !goes_on {
                return Ended::Stopped;
            }
            if deadline.is_some_and(|deadline| Instant::now() > deadline) {
                return Ended::TimedOut;
            }
            if looked.elapsed() >= TICK {
                looked = Instant::now();
                if !self.has_room(&root.directory) {
                    return Ended::DiskFull;
                }
            }
        }
    }

    fn has_room(&self, directory: &Path) -> bool {
        let Ok(state) = rustix::fs::statvfs(directory) else { return true };
        // File systems without a table of files report none at all.
        let files = state.f_files == 0 || state.f_favail >= self.spare.1;
        state.f_bavail.saturating_mul(state.f_frsize) >= self.spare.0 && files
    }
}

type Out = BufReader<std::process::ChildStdout>;
type Err = BufReader<std::process::ChildStderr>;

/// The helpers. When the value goes, everything inside has ended: the inner helper's death ends its namespace, and it is over only
/// when all processes of that are (pid_namespaces(7)); the outer one waits for it.
struct Helper {
    outer: Child,
    inner: Option<OwnedFd>,
    /// Its network, which ends with it.
    _outside: Option<Outside>,
}

impl Helper {
    /// Waits for the end of the command, and returns its status.
    fn status(&mut self) -> Result<u8, SandboxError> {
        let status = self.outer.wait().map_err(SandboxError::Helper)?;
        let code = status.code().or_else(|| status.signal().map(|signal| 128 + signal));
        Ok(code.and_then(|code| u8::try_from(code).ok()).unwrap_or(u8::MAX))
    }
}

impl Drop for Helper {
    fn drop(&mut self) {
        // Either may have ended by itself.
        let _ = match &self.inner {
            Some(inner) => pidfd_send_signal(inner, Signal::KILL).map_err(io::Error::from),
            None => self.outer.kill(),
        };
        let _ = self.outer.wait();
    }
}

fn lost() -> SandboxError {
    SandboxError::Helper(io::Error::other("it has no pipes"))
}

fn refused(refusal: Refusal) -> SandboxError {
    SandboxError::Refused { stage: refusal.stage, problem: refusal.problem }
}

/// Reads one byte of the helper; a refusal is an error.
fn expect(stdout: &mut impl Read, wanted: u8) -> Result<(), SandboxError> {
    let mut byte = [0];
    stdout.read_exact(&mut byte).map_err(SandboxError::Helper)?;
    if byte[0] == wanted {
        return Ok(());
    }
    let mut text = Vec::new();
    stdout.read_to_end(&mut text).map_err(SandboxError::Helper)?;
    match serde_json::from_slice::<Refusal>(&text) {
        Ok(refusal) if byte[0] == REFUSED => Err(refused(refusal)),
        _ => Err(SandboxError::Helper(io::Error::other("it sent something else than a refusal"))),
    }
}

/// Reads the outputs, each in a thread.
fn lines(stdout: Out, stderr: Option<Err>) -> mpsc::Receiver<Output> {
    let (send, lines) = mpsc::sync_channel(64);
    let also = send.clone();
    std::thread::spawn(move || forward(stdout, |line| send.send(Output::Stdout(line)).is_ok()));
    if let Some(stderr) = stderr {
        std::thread::spawn(move || forward(stderr, |line| also.send(Output::Stderr(line)).is_ok()));
    }
    lines
}

/// Bytes of one line at most: of longer ones the rest is not passed on.
pub const LONGEST_LINE: usize = 64 << 10;

fn forward(mut from: impl BufRead, mut send: impl FnMut(Vec<u8>) -> bool) {
    loop {
        let mut line = Vec::new();
        match from.by_ref().take(LONGEST_LINE as u64).read_until(b'\n', &mut line) {
            Ok(0) | Err(_) => return,
            Ok(_) => {
                if line.last() == Some(&b'\n') {
                    line.pop();
                } else if line.len() == LONGEST_LINE && from.skip_until(b'\n').is_err() {
                    return;
                }
                if !send(line) {
                    return;
                }
            }
        }
    }
}
