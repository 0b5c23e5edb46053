//! The helper: this program, started again with one thread.

use std::ffi::OsStr;
use std::io::{self, Read as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use rustix::process::{
    DumpableBehavior, Gid, Pid, Resource, Rlimit, Signal, Uid, WaitOptions, getppid, set_dumpable_behavior,
    set_parent_process_death_signal, setrlimit, setsid, umask, wait,
};
use rustix::thread::UnshareFlags;

use crate::error::{Refusal, Stage};
use crate::privileges::{Filters, give_up};
use crate::spec::Spec;
use crate::{file_system, network};

/// Names under which the program is started as a helper.
pub(crate) const OUTER: &str = "kiln: sandbox";
pub(crate) const INNER: &str = "kiln: sandbox, inside";

/// Bytes on standard output before the command's own: the namespaces are there; the process id of the inner helper follows, in four
/// bytes, the lowest first; the command starts; or a refusal follows as JSON.
pub(crate) const READY: u8 = 1;
pub(crate) const INSIDE: u8 = 2;
pub(crate) const STARTED: u8 = 3;
pub(crate) const REFUSED: u8 = 0;

/// Statuses of a command that cannot be started, as shells have them.
const NOT_FOUND: u8 = 127;
const NOT_EXECUTABLE: u8 = 126;
/// Status of the outer helper where the inner one was killed.
const KILLED: u8 = 128 + libc::SIGKILL as u8;

/// Does the helper's work if the program was started as one, else returns `None`. A program that uses a sandbox calls this first,
/// since the helper must have one thread.
pub fn help() -> Option<ExitCode> {
    let name = std::env::args_os().next()?;
    if name == OsStr::new(OUTER) {
        return Some(finish(outer()));
    }
    (name == OsStr::new(INNER)).then(|| finish(inner()))
}

/// Sends a refusal.
fn finish(done: Result<u8, Refusal>) -> ExitCode {
    match done {
        Ok(status) => ExitCode::from(status),
        Err(refusal) => {
            let mut bytes = vec![REFUSED];
            bytes.extend(serde_json::to_vec(&refusal).unwrap_or_default());
            // Nobody is left to hear of it otherwise.
            let _ = io::stdout().write_all(&bytes);
            ExitCode::FAILURE
        }
    }
}

fn namespaces(what: &'static str) -> impl FnOnce(io::Error) -> Refusal {
    Refusal::of(Stage::Namespaces, what)
}

fn outer() -> Result<u8, Refusal> {
    die_with_parent().map_err(namespaces("PR_SET_PDEATHSIG"))?;
    close_inherited().map_err(namespaces("close_range"))?;
    let flags = UnshareFlags::NEWUSER
        | UnshareFlags::NEWNS
        | UnshareFlags::NEWPID
        | UnshareFlags::NEWIPC
        | UnshareFlags::NEWUTS
        | UnshareFlags::NEWNET
        | UnshareFlags::NEWCGROUP;
    // SAFETY: the function is unsafe for `UnshareFlags::FILES`, which is not among the flags.
    #[allow(unsafe_code, reason = "no safe function has all of these flags")]
    unsafe { rustix::thread::unshare_unsafe(flags) }.map_err(|error| namespaces("unshare")(error.into()))?;
    tell(&[READY])?;
    // The program maps the ids, and then writes what is asked for.
    let mut spec = Vec::new();
    io::stdin().read_to_end(&mut spec).map_err(namespaces("a pipe"))?;
    if spec.is_empty() {
        return Ok(NOT_FOUND);
    }
    let mut inner = Command::new("/proc/self/exe");
    inner.arg0(INNER).env_clear().stdin(Stdio::piped());
    let mut inner = inner.spawn().map_err(namespaces("the first process"))?;
    let [a, b, c, d] = inner.id().to_le_bytes();
    tell(&[INSIDE, a, b, c, d])?;
    let written = inner.stdin.take().map(|mut stdin| stdin.write_all(&spec));
    written.transpose().map_err(namespaces("a pipe"))?;
    let status = inner.wait().map_err(namespaces("the first process"))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.unwrap_or(KILLED))
}

fn inner() -> Result<u8, Refusal> {
    die_with_parent().map_err(namespaces("PR_SET_PDEATHSIG"))?;
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text).map_err(namespaces("a pipe"))?;
    let spec: Spec = serde_json::from_slice(&text).map_err(|error| namespaces("the description")(error.into()))?;
    rustix::system::sethostname(b"kiln").map_err(|error| namespaces("sethostname")(error.into()))?;
    network::up().map_err(Refusal::of(Stage::Network, "the loopback interface"))?;
    file_system::enter(&spec.root, spec.overlay, spec.processes)?;
    // A core file of a step would be a part of the image; and nobody may look into this process.
    let none = Rlimit { current: Some(0), maximum: Some(0) };
    setrlimit(Resource::Core, none).map_err(|error| namespaces("RLIMIT_CORE")(error.into()))?;
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| namespaces("PR_SET_DUMPABLE")(error.into()))?;
    umask(rustix::fs::Mode::from_raw_mode(0o022));
    let child = start(&spec)?;
    Ok(child.map_or_else(|status| status, |child| reap(&child)))
}

/// Starts the command; its status is the error where its program cannot be started.
fn start(spec: &Spec) -> Result<Result<Child, u8>, Refusal> {
    let user = |problem: String| Refusal { stage: Stage::User, problem };
    let filters = Filters::new().map_err(|error| user(format!("a filter of calls: {error}")))?;
    let [program, arguments @ ..] = spec.command.words.as_slice() else { return trial(&filters).map(Err) };
    let (uid, gid, groups) = &spec.command.user;
    let ids = (Uid::from_raw(*uid), Gid::from_raw(*gid));
    let groups: Vec<Gid> = groups.iter().map(|id| Gid::from_raw(*id)).collect();
    let mut command = Command::new(program);
    command.args(arguments).env_clear().envs(spec.command.env.iter().map(|(name, value)| (name, value)));
    command.stdin(Stdio::null()).stdout(Stdio::inherit()).stderr(Stdio::inherit());
    let terminal = spec.terminal;
    let workdir = spec.command.workdir.clone();
    let enter = std::ffi::CString::new(workdir.as_str()).map_err(|error| user(error.to_string()))?;
    // SAFETY: between fork and exec this process has one thread, and the calls allocate nothing.
    #[allow(unsafe_code, reason = "what the command gives up, the first process must keep")]
    unsafe {
        command.pre_exec(move || {
            setsid()?;
            give_up(&filters, ids, &groups).map_err(|_| io::Error::from_raw_os_error(PRIVILEGES))?;
            rustix::process::chdir(enter.as_c_str()).map_err(|_| io::Error::from_raw_os_error(WORKDIR))?;
            // From here on the output is the command's.
            rustix::io::write(rustix::stdio::stdout(), &[STARTED])?;
            if terminal { take_terminal() } else { Ok(()) }
        });
    }
    let child = match command.spawn() {
        Err(error) if error.raw_os_error() == Some(PRIVILEGES) => {
            return Err(user(format!("{uid}:{gid}: the ids cannot be taken, or privileges not given up")));
        }
        Err(error) if error.raw_os_error() == Some(WORKDIR) => {
            tell(&[STARTED])?;
            let _ = writeln!(io::stderr(), "kiln: the working directory `{workdir}` cannot be entered");
            Err(NOT_EXECUTABLE)
        }
        Err(error) => {
            let _ = writeln!(io::stderr(), "kiln: {program}: {error}");
            Err(if error.kind() == io::ErrorKind::NotFound { NOT_FOUND } else { NOT_EXECUTABLE })
        }
        Ok(child) => Ok(child),
    };
    Ok(child)
}

/// Makes the terminal on standard error the one of this session, and its input and output.
fn take_terminal() -> io::Result<()> {
    let terminal = rustix::stdio::stderr();
    rustix::stdio::dup2_stdin(terminal)?;
    rustix::stdio::dup2_stdout(terminal)?;
    Ok(rustix::process::ioctl_tiocsctty(terminal)?)
}

/// Does in this process what one of a command does before it starts, and what it does to files.
fn trial(filters: &Filters) -> Result<u8, Refusal> {
    let refused = |stage, what: &'static str| Refusal::of(stage, what);
    give_up(filters, (Uid::ROOT, Gid::ROOT), &[]).map_err(refused(Stage::User, "privileges"))?;
    let directory = Path::new("/trial");
    let done = fs_err::create_dir(directory).and_then(|()| fs_err::write(directory.join("file"), "a line\n"));
    done.and_then(|()| fs_err::remove_dir_all(directory)).map_err(refused(Stage::Overlay, "a file"))?;
    tell(&[STARTED])?;
    Ok(0)
}

/// Codes by which the command's process tells what failed: no call of its gives them.
const PRIVILEGES: i32 = libc::ENOTNAM;
const WORKDIR: i32 = libc::ENAVAIL;

/// Waits until the command ends, for it and for every process that lost its parent. What is left then ends with this process.
fn reap(child: &Child) -> u8 {
    let child = Pid::from_child(child);
    loop {
        match wait(WaitOptions::empty()) {
            Ok(Some((process, status))) if process == child => {
                let code = status.exit_status().or_else(|| status.terminating_signal().map(|signal| 128 + signal));
                return code.and_then(|code| u8::try_from(code).ok()).unwrap_or(NOT_FOUND);
            }
            Err(rustix::io::Errno::INTR) | Ok(_) => {}
            Err(_) => return NOT_FOUND,
        }
    }
}

fn tell(bytes: &[u8]) -> Result<(), Refusal> {
    let mut out = io::stdout();
    out.write_all(bytes).and_then(|()| out.flush()).map_err(namespaces("a pipe"))
}

/// Asks for the end of this process with its parent's; one whose parent is gone already ends now.
fn die_with_parent() -> io::Result<()> {
    let parent = getppid();
    set_parent_process_death_signal(Some(Signal::KILL))?;
    match getppid() == parent {
        true => Ok(()),
        false => Err(io::Error::other("the parent is gone")),
    }
}

/// Lets no descriptor but the standard ones reach another program.
fn close_inherited() -> io::Result<()> {
    // SAFETY: the call closes nothing: it marks descriptors to be closed by exec.
    #[allow(unsafe_code, reason = "no safe function makes this call")]
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    match io::Error::last_os_error() {
        _ if done == 0 => Ok(()),
        // New in Linux 5.11; Rust opens everything with O_CLOEXEC.
        error if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => Ok(()),
        error => Err(error),
    }
}
