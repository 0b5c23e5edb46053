//! A program while it runs.
//!
//! The calling thread reads both outputs and looks whether the user wants to stop; a thread of its own writes the input.
//! The program is reaped last: until then its number names its process group and nobody else's.

use std::io::{self, Write};
use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Child, ChildStderr, ChildStdin, ChildStdout, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::ScopedJoinHandle;
use std::time::{Duration, Instant};

use kiln_plan::event::Work;
use kiln_plan::secret::Secrets;
use rustix::process::{Pid, Signal, WaitId, WaitIdOptions, kill_process_group, waitid};

use crate::call::{Call, Stdout, Writer};
use crate::environment::ChildEnvironment;
use crate::error::{Ended, Failed, ProgramError};
use crate::lines::{Cutter, Tail, redacted};
use crate::pipe::{Sink, Source, wait_readable};

/// The pause between two looks at a program that writes nothing.
const PAUSE: Duration = Duration::from_millis(5);
/// The time in which output is still read after the program has ended: a process that it left may hold its pipes.
const AFTERWARDS: Duration = Duration::from_millis(500);

impl Call<'_> {
    /// Runs it to its end, and returns what was captured of its standard output. The start and every line of standard
    /// error are events of the work. A program that a request to stop has ended counts as interrupted: such signals
    /// reach a whole session, and the program may get them first.
    pub fn run(self, environment: &ChildEnvironment, work: &Work<'_>) -> Result<Vec<u8>, ProgramError> {
        run(self, environment, work).map(|(captured, _)| captured)
    }

    /// As [`Call::run`], and returns the last lines of its standard error, without secrets. Their number and length are
    /// bounded.
    pub fn run_for_lines(self, environment: &ChildEnvironment, work: &Work<'_>) -> Result<Vec<String>, ProgramError> {
        run(self, environment, work).map(|(_, lines)| lines)
    }
}

/// Standard output as captured, and the last lines of standard error.
type Said = (Vec<u8>, Vec<String>);

fn run(mut call: Call<'_>, environment: &ChildEnvironment, work: &Work<'_>) -> Result<Said, ProgramError> {
    work.cancel().check().map_err(|_| ProgramError::Interrupted)?;
    let shown = call.program.display().to_string();
    let program = environment.find(&call.program).ok_or(ProgramError::NotFound { program: shown })?;
    work.run(call.program.display().to_string(), redacted(&call.arguments, &call.secrets));
    let io = |source| ProgramError::Io { program: program.display().to_string(), source };
    let input = call.input.take();
    let mut output = Output::new(&call, work);
    let mut child = command(call, &program, environment, input.is_some()).spawn().map_err(io)?;
    let stdin = child.stdin.take();
    let ended = &AtomicBool::new(false);
    let watched = std::thread::scope(|scope| {
        let writer = stdin.zip(input).map(|(stdin, input)| scope.spawn(move || write(input, stdin, ended)));
        watch(&mut child, &mut output, writer, ended)
    });
    output.judge(watched.map_err(io)?, &program)
}

fn command(call: Call<'_>, program: &Path, environment: &ChildEnvironment, has_input: bool) -> Command {
    let mut command = Command::new(program);
    command.env_clear().envs(environment.only(call.names)).envs(call.variables).args(call.arguments);
    if let Some(directory) = call.directory {
        command.current_dir(directory);
    }
    let stdout = match call.stdout {
        Stdout::Captured(_) | Stdout::Lines => Stdio::piped(),
        Stdout::Discarded => Stdio::null(),
        Stdout::File(file) => file.into_file().into(),
    };
    let stdin = if has_input { Stdio::piped() } else { Stdio::null() };
    command.stdin(stdin).stdout(stdout).stderr(Stdio::piped()).process_group(0);
    command
}

/// Writes the input. A program that reads no more has had enough.
fn write(input: Writer<'_>, stdin: ChildStdin, ended: &AtomicBool) -> io::Result<()> {
    let mut out = io::BufWriter::with_capacity(64 << 10, Sink::new(stdin, ended, PAUSE)?);
    let written = input(&mut out).and_then(|()| out.flush());
    // What is left in the buffer is of no use to anybody: dropping must not write it.
    let _ = out.into_parts();
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        written => written,
    }
}

type InputThread<'scope> = Option<ScopedJoinHandle<'scope, io::Result<()>>>;

/// A reason to end a program.
enum Stop {
    Cancelled,
    TooMuch,
    Input(io::Error),
}

/// Follows a program to its end, and reaps it.
fn watch(
    child: &mut Child,
    output: &mut Output<'_>,
    mut input: InputThread<'_>,
    ended: &AtomicBool,
) -> io::Result<(ExitStatus, Option<Stop>)> {
    let group = Pid::from_child(child);
    let followed = Pipes::new(child).and_then(|mut pipes| follow(group, &mut pipes, output, &mut input));
    if followed.is_err() {
        // The first error is the one to report.
        let _ = kill_process_group(group, Signal::KILL);
    }
    ended.store(true, Ordering::Release);
    let status = child.wait()?;
    let stop = followed?.or_else(|| input_error(&mut input, true));
    Ok((status, stop))
}

fn follow(
    group: Pid,
    pipes: &mut Pipes,
    output: &mut Output<'_>,
    input: &mut InputThread<'_>,
) -> io::Result<Option<Stop>> {
    let mut stopping: Option<(Stop, Instant)> = None;
    loop {
        pipes.read(output)?;
        if has_ended(group)? {
            break;
        }
        match &stopping {
            None => {
                let Some(reason) = output.reason().or_else(|| input_error(input, false)) else { continue };
                signal(group, Signal::TERM)?;
                // One that is stopped would not see the request.
                signal(group, Signal::CONT)?;
                stopping = Some((reason, Instant::now() + output.patience));
            }
            Some((_, until)) if Instant::now() >= *until => signal(group, Signal::KILL)?,
            Some(_) => {}
        }
    }
    match stopping {
        // Its children do not outlive it.
        Some((reason, _)) => signal(group, Signal::KILL).map(|()| Some(reason)),
        None => pipes.drain(output).map(|()| None),
    }
}

fn has_ended(group: Pid) -> io::Result<bool> {
    let look = WaitIdOptions::EXITED | WaitIdOptions::NOHANG | WaitIdOptions::NOWAIT;
    match waitid(WaitId::Pid(group), look) {
        Ok(status) => Ok(status.is_some()),
        Err(rustix::io::Errno::INTR) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Sends a signal to the program and its children. Those of another user cannot be signalled.
fn signal(group: Pid, signal: Signal) -> io::Result<()> {
    match kill_process_group(group, signal) {
        Ok(()) | Err(rustix::io::Errno::SRCH | rustix::io::Errno::PERM) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// Returns the error of the thread that writes the input, once it is done.
fn input_error(input: &mut InputThread<'_>, wait: bool) -> Option<Stop> {
    let thread = input.take_if(|thread| wait || thread.is_finished())?;
    let written = thread.join().unwrap_or_else(|_| Err(io::Error::other("the thread that writes it has panicked")));
    written.err().map(Stop::Input)
}

/// Both outputs of a program.
struct Pipes {
    stdout: Source<ChildStdout>,
    stderr: Source<ChildStderr>,
}

impl Pipes {
    fn new(child: &mut Child) -> io::Result<Self> {
        Ok(Self { stdout: Source::new(child.stdout.take())?, stderr: Source::new(child.stderr.take())? })
    }

    fn are_open(&self) -> bool {
        self.stdout.open().or(self.stderr.open()).is_some()
    }

    /// Reads what is there, or waits a moment. Returns true if there was anything.
    fn read(&mut self, output: &mut Output<'_>) -> io::Result<bool> {
        wait_readable(self.stdout.open().into_iter().chain(self.stderr.open()), PAUSE)?;
        let from_stdout = self.stdout.take(&mut |bytes| output.take_stdout(bytes))?;
        let from_stderr = self.stderr.take(&mut |bytes| output.take_stderr(bytes))?;
        Ok(from_stdout || from_stderr)
    }

    /// Reads what the program left, for a bounded time.
    fn drain(&mut self, output: &mut Output<'_>) -> io::Result<()> {
        let since = Instant::now();
        while self.are_open() {
            let most = if self.read(output)? { 10 * AFTERWARDS } else { AFTERWARDS };
            if since.elapsed() > most {
                break;
            }
        }
        Ok(())
    }
}

/// The lines and the captured bytes of a program.
struct Output<'w> {
    work: &'w Work<'w>,
    secrets: Secrets,
    patience: Duration,
    /// Bytes of standard output to capture; it is passed on as lines without this.
    limit: Option<usize>,
    captured: Vec<u8>,
    is_too_much: bool,
    cut_stdout: Cutter,
    cut_stderr: Cutter,
    tail: Tail,
}

impl<'w> Output<'w> {
    fn new(call: &Call<'_>, work: &'w Work<'w>) -> Self {
        Self {
            work,
            secrets: call.secrets.clone(),
            patience: call.patience,
            limit: if let Stdout::Captured(limit) = call.stdout { Some(limit) } else { None },
            captured: Vec::new(),
            is_too_much: false,
            cut_stdout: Cutter::default(),
            cut_stderr: Cutter::default(),
            tail: Tail::default(),
        }
    }

    fn take_stdout(&mut self, bytes: &[u8]) {
        match self.limit {
            None => self.cut_stdout.take(bytes, &mut |line| self.work.output(&self.secrets.redact(line))),
            Some(limit) if self.captured.len() + bytes.len() > limit => self.is_too_much = true,
            Some(_) => self.captured.extend_from_slice(bytes),
        }
    }

    fn take_stderr(&mut self, bytes: &[u8]) {
        self.cut_stderr.take(bytes, &mut |line| keep(line, &self.secrets, self.work, &mut self.tail));
    }

    fn reason(&self) -> Option<Stop> {
        match self.work.cancel().check() {
            Err(_) => Some(Stop::Cancelled),
            Ok(()) => self.is_too_much.then_some(Stop::TooMuch),
        }
    }

    /// Turns the end of a program into a result.
    fn judge(mut self, end: (ExitStatus, Option<Stop>), program: &Path) -> Result<Said, ProgramError> {
        self.cut_stdout.finish(&mut |line| self.work.output(&self.secrets.redact(line)));
        self.cut_stderr.finish(&mut |line| keep(line, &self.secrets, self.work, &mut self.tail));
        let program = program.file_name().unwrap_or(program.as_os_str()).to_string_lossy().into_owned();
        let (status, stop) = end;
        match stop.or_else(|| self.is_too_much.then_some(Stop::TooMuch)) {
            Some(Stop::Cancelled) => Err(ProgramError::Interrupted),
            Some(Stop::Input(_)) if self.work.cancel().check().is_err() => Err(ProgramError::Interrupted),
            Some(Stop::Input(source)) => Err(ProgramError::Input { program, source }),
            Some(Stop::TooMuch) => Err(ProgramError::TooMuch { program, limit: self.limit.unwrap_or_default() }),
            None if status.success() => Ok((self.captured, self.tail.into_lines())),
            None => match Ended::of(status) {
                ended if ended.is_request() => Err(ProgramError::Interrupted),
                ended => Err(ProgramError::Failed(Box::new(Failed {
                    program,
                    ended,
                    lines: self.tail.into_lines(),
                    stdout: self.captured,
                }))),
            },
        }
    }
}

fn keep(line: &str, secrets: &Secrets, work: &Work<'_>, tail: &mut Tail) {
    let line = secrets.redact(line);
    work.output(&line);
    tail.push(line);
}

#[cfg(test)]
mod tests;
