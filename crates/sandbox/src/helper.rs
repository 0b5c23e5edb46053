//! The helper: this program, started again with one thread.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read as _, Write as _};
use std::net::{Ipv4Addr, TcpListener};
use std::os::fd::{AsFd as _, BorrowedFd, OwnedFd};
use std::os::unix::net::UnixStream;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Child, Command, ExitCode, Stdio};

use rustix::process::{DumpableBehavior, Gid, Pid, Uid, WaitOptions, set_dumpable_behavior, setsid, umask, wait};
use rustix::thread::UnshareFlags;

use crate::error::{Refusal, Stage};
use crate::given::Network;
use crate::ids::Ids;
use crate::owners::Owners;
use crate::privileges::{Filters, give_up};
use crate::process::{READY, close_inherited, die_with_parent};
use crate::spec::Spec;
use crate::supervisor::{self, Supervisor};
use crate::{file_system, inside, limits, network, notify, outside};

/// Names under which the program is started as a helper.
pub(crate) const OUTER: &str = "kiln: sandbox";
pub(crate) const INNER: &str = "kiln: sandbox, inside";

/// Bytes on standard output before the command's own, after [`READY`]: a listener follows on standard input; the namespace waits for
/// its network; the process id of the inner helper follows, in four
/// bytes, the lowest first; the command starts; or a refusal follows as JSON.
pub(crate) const LISTENS: u8 = 4;
pub(crate) const WAITS: u8 = 5;
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
///
/// `work` is what the program does as [`Inside`](crate::Inside): it gets the work's name and its arguments.
pub fn help(work: impl FnOnce(&[OsString]) -> io::Result<()>) -> Option<ExitCode> {
    let name = std::env::args_os().next()?;
    if name == OsStr::new(inside::INSIDE) {
        return Some(inside::work(work));
    }
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
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text).map_err(namespaces("a socket"))?;
    if text.is_empty() {
        return Ok(NOT_FOUND);
    }
    let spec: Spec = serde_json::from_slice(&text).map_err(|error| namespaces("the description")(error.into()))?;
    network::up().map_err(Refusal::of(Stage::Network, "the loopback interface"))?;
    match &spec.command.given.network {
        Network::None => {}
        Network::Listener(port) => {
            lend_listener(*port).map_err(Refusal::of(Stage::Network, "a port of the loopback interface"))?;
        }
        Network::Outside(_) => {
            tell(&[WAITS])?;
            outside::join().map_err(Refusal::of(Stage::Network, "the interface of slirp4netns"))?;
        }
    }
    let owners = Keeper::new(&spec).map_err(Refusal::of(Stage::User, "the supervisor of calls"))?;
    let (mut socket, theirs) = UnixStream::pair().map_err(namespaces("a socket"))?;
    let mut inner = Command::new("/proc/self/exe");
    inner.arg0(INNER).env_clear().stdin(OwnedFd::from(theirs));
    let mut child = inner.spawn().map_err(namespaces("the first process"))?;
    // Its end of the socket.
    drop(inner);
    let [a, b, c, d] = child.id().to_le_bytes();
    tell(&[INSIDE, a, b, c, d])?;
    socket.write_all(&text).map_err(namespaces("a socket"))?;
    socket.shutdown(std::net::Shutdown::Write).map_err(namespaces("a socket"))?;
    if let Some(owners) = owners
        && let Err(error) = owners.keep(&socket, Pid::from_child(&child))
    {
        // The command's calls fail from now on, and so does the command.
        let _ = writeln!(io::stderr(), "kiln: calls are no longer answered: {error}");
    }
    let status = child.wait().map_err(namespaces("the first process"))?;
    let code = status.code().and_then(|code| u8::try_from(code).ok());
    Ok(code.unwrap_or(KILLED))
}

/// Listens in this network namespace, and lends the socket to the program, which is in another one.
fn lend_listener(port: u16) -> io::Result<()> {
    let listener = TcpListener::bind((Ipv4Addr::LOCALHOST, port))?;
    tell(&[LISTENS]).map_err(|refusal| io::Error::other(refusal.problem))?;
    Ok(notify::send(rustix::stdio::stdin(), Some(listener.as_fd()))?)
}

/// Keeps owners for a user with one id, and leaves what it knows of them in a file.
struct Keeper {
    supervisor: Option<Supervisor>,
    file: fs_err::File,
}

impl Keeper {
    fn new(spec: &Spec) -> io::Result<Option<Self>> {
        if spec.ids != Ids::One {
            return Ok(None);
        }
        let file = fs_err::File::create(spec.root.owners())?;
        let supervisor = notify::is_supported()
            .then(|| Supervisor::new(&spec.root.upper(), spec.root.owners_below.clone()))
            .transpose()?;
        Ok(Some(Self { supervisor, file }))
    }

    fn keep(self, socket: &UnixStream, first: Pid) -> io::Result<()> {
        let owners = self.supervisor.map(|supervisor| supervisor.run(socket, first)).transpose()?;
        Ok(serde_json::to_writer(self.file, &owners.unwrap_or(Owners::Lost))?)
    }
}

fn inner() -> Result<u8, Refusal> {
    die_with_parent().map_err(namespaces("PR_SET_PDEATHSIG"))?;
    let mut text = Vec::new();
    io::stdin().read_to_end(&mut text).map_err(namespaces("a socket"))?;
    let spec: Spec = serde_json::from_slice(&text).map_err(|error| namespaces("the description")(error.into()))?;
    // Modes of what is made from here on are the image's business.
    umask(rustix::fs::Mode::from_raw_mode(0o022));
    rustix::system::sethostname(b"kiln").map_err(|error| namespaces("sethostname")(error.into()))?;
    let copies = file_system::enter(&spec)?;
    limits::set().map_err(namespaces("limits of resources"))?;
    // Nobody may look into this process.
    set_dumpable_behavior(DumpableBehavior::NotDumpable)
        .map_err(|error| namespaces("PR_SET_DUMPABLE")(error.into()))?;
    // Standard input of the command is another; this is the socket to the outer helper.
    let supervisor = rustix::stdio::stdin().try_clone_to_owned().map_err(namespaces("a socket"))?;
    let child = start(&spec, supervisor)?;
    let status = child.map_or_else(|status| status, |child| reap(&child));
    if let (Some(copies), 0) = (copies, status)
        && let Err(error) = end_others().and_then(|()| copies.separate())
    {
        let _ = writeln!(io::stderr(), "kiln: the changes cannot be told: {error}");
        return Ok(NOT_EXECUTABLE);
    }
    Ok(status)
}

/// Ends everything that the command left.
fn end_others() -> io::Result<()> {
    // SAFETY: the call takes integers alone. As the first process of its namespace, this one reaches no other namespace's.
    #[allow(unsafe_code, reason = "no safe function signals all processes")]
    let _ = unsafe { libc::kill(-1, libc::SIGKILL) };
    loop {
        match wait(WaitOptions::empty()) {
            Err(rustix::io::Errno::CHILD) => return Ok(()),
            Err(rustix::io::Errno::INTR) | Ok(_) => {}
            Err(error) => return Err(error.into()),
        }
    }
}

/// Starts the command; its status is the error where its program cannot be started.
fn start(spec: &Spec, supervisor: OwnedFd) -> Result<Result<Child, u8>, Refusal> {
    let user = |problem: String| Refusal { stage: Stage::User, problem };
    let answered = (spec.ids == Ids::One).then_some((supervisor::CALLS, supervisor::CALLS_WITH));
    let filters = Filters::new(answered).map_err(|error| user(format!("a filter of calls: {error}")))?;
    let [program, arguments @ ..] = spec.command.words.as_slice() else {
        return trial(&filters, supervisor.as_fd()).map(Err);
    };
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
            give_up(&filters, supervisor.as_fd(), ids, &groups)
                .map_err(|_| io::Error::from_raw_os_error(PRIVILEGES))?;
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
fn trial(filters: &Filters, supervisor: BorrowedFd<'_>) -> Result<u8, Refusal> {
    let refused = |stage, what: &'static str| Refusal::of(stage, what);
    give_up(filters, supervisor, (Uid::ROOT, Gid::ROOT), &[]).map_err(refused(Stage::User, "privileges"))?;
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
