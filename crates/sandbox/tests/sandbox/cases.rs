//! Cases: each runs commands and looks at what they did, inside and on the host.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::net::TcpListener;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt};
use std::os::unix::process::CommandExt as _;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::{Duration, Instant};

use rustix::mount::MountPropagationFlags;

use kiln_sandbox::{Command, Ended, Given, Ids, Output, Overlay, Ran, Root, Sandbox, SandboxError, Stage, State};

use crate::attacks::{ATTACKS, Aim};
use crate::tree;

/// The user of the second half (`nobody`).
const NOBODY: u32 = 65_534;

/// A tree, and things of the host that attacks aim at.
pub(crate) struct Ground {
    pub(crate) directory: tempfile::TempDir,
    pub(crate) aim: Aim,
    pub(crate) ids: Ids,
    _server: TcpListener,
    _socket: std::os::unix::net::UnixListener,
}

impl Ground {
    fn new() -> Self {
        use std::os::linux::net::SocketAddrExt as _;
        let directory = tempfile::tempdir().unwrap();
        fs_err::create_dir(directory.path().join("tree")).unwrap();
        tree::make(&directory.path().join("tree"));
        let file = directory.path().join("secret");
        fs_err::write(&file, "of the host").unwrap();
        let server = TcpListener::bind("127.0.0.1:0").unwrap();
        let word = format!("kiln-sandbox-test-{}", std::process::id());
        let name = std::os::unix::net::SocketAddr::from_abstract_name(word.as_bytes()).unwrap();
        let socket = std::os::unix::net::UnixListener::bind_addr(&name).unwrap();
        let process = std::process::id().cast_signed();
        let aim = Aim {
            process,
            port: server.local_addr().unwrap().port(),
            file: file.display().to_string(),
            word,
            key: 0x6b69_0000 + process,
        };
        // SAFETY: the calls take integers alone.
        let shared = unsafe { libc::shmget(aim.key, 4096, libc::IPC_CREAT | 0o666) };
        assert!(shared >= 0);
        Self { directory, aim, ids: Ids::of_this_process(), _server: server, _socket: socket }
    }

    pub(crate) fn tree(&self) -> PathBuf {
        self.directory.path().join("tree")
    }

    pub(crate) fn layers(&self, layers: Vec<PathBuf>) -> (tempfile::TempDir, Root) {
        let own = tempfile::tempdir_in(self.directory.path()).unwrap();
        let root = Root { layers, owners_below: BTreeMap::new(), directory: own.path().to_owned() };
        (own, root)
    }

    /// Runs words over the tree; what the command changed is there as long as the directory is.
    fn run(&self, sandbox: &Sandbox, words: &[&str]) -> (tempfile::TempDir, Root, Ended, String) {
        let (own, root) = self.layers(vec![self.tree()]);
        let (ended, said) = run(sandbox, &root, &command(words)).unwrap();
        (own, root, ended, said)
    }
}

impl Drop for Ground {
    fn drop(&mut self) {
        // SAFETY: the calls take integers and a null pointer, which IPC_RMID ignores.
        unsafe { libc::shmctl(libc::shmget(self.aim.key, 0, 0), libc::IPC_RMID, std::ptr::null_mut()) };
    }
}

pub(crate) fn command(words: &[&str]) -> Command {
    Command {
        words: words.iter().map(|word| (*word).to_owned()).collect(),
        env: vec![("PATH".into(), "/".into())],
        workdir: "/".into(),
        user: (0, 0, Vec::new()),
        given: Given::default(),
    }
}

fn run(sandbox: &Sandbox, root: &Root, command: &Command) -> Result<(Ended, String), SandboxError> {
    let mut said = String::new();
    let ran = run_whole(sandbox, root, command, &mut said)?;
    Ok((ran.ended, said))
}

pub(crate) fn run_whole(
    sandbox: &Sandbox,
    root: &Root,
    command: &Command,
    said: &mut String,
) -> Result<Ran, SandboxError> {
    sandbox.run(root, command, |line| {
        if let Some(Output::Stdout(line) | Output::Stderr(line)) = line {
            *said += &String::from_utf8_lossy(&line);
            said.push('\n');
        }
        true
    })
}

/// Ordinary things that a command of a test does.
pub(crate) fn act(words: &[&str]) -> ExitCode {
    match words {
        ["print", text] => println!("{text}"),
        ["ids"] => {
            // SAFETY: the calls take no pointers but one of length 0.
            let (user, group, groups) =
                unsafe { (libc::getuid(), libc::getgid(), libc::getgroups(0, std::ptr::null_mut())) };
            println!("{user} {group} {groups}");
        }
        ["where"] => println!("{}", std::env::current_dir().unwrap().display()),
        ["resolve", name] => {
            let found = std::net::ToSocketAddrs::to_socket_addrs(&(*name, 80)).map(|found| found.count());
            println!("{}", found.unwrap_or(0));
        }
        ["fail", status] => return ExitCode::from(status.parse::<u8>().unwrap()),
        ["abort"] => std::process::abort(),
        ["change"] => {
            fs_err::create_dir_all("/made/deep").unwrap();
            fs_err::write("/made/deep/file", "made").unwrap();
            fs_err::remove_file("/data/file").unwrap();
            std::os::unix::fs::symlink("deep", "/made/link").unwrap();
        }
        ["replace-directory"] => {
            fs_err::remove_dir_all("/data").unwrap();
            fs_err::create_dir("/data").unwrap();
            fs_err::write("/data/other", "other").unwrap();
        }
        ["given", rest @ ..] => crate::given::act(rest),
        ["owners", rest @ ..] => return crate::owners::act(rest),
        ["setuid"] => {
            fs_err::copy("/attack", "/tmp/setuid").unwrap();
            fs_err::set_permissions("/tmp/setuid", PermissionsExt::from_mode(0o4755)).unwrap();
            let child =
                std::process::Command::new("/tmp/setuid").args(["act", "effective"]).uid(1000).gid(1000).status();
            return ExitCode::from(u8::try_from(child.unwrap().code().unwrap()).unwrap());
        }
        ["limits"] => {
            let soft = |resource| rustix::process::getrlimit(resource).current.unwrap();
            use rustix::process::Resource;
            println!("{} {} {}", soft(Resource::Nofile), soft(Resource::Stack), soft(Resource::Core));
        }
        ["effective"] => {
            // SAFETY: the call takes no arguments.
            println!("{}", unsafe { libc::geteuid() });
        }
        other => panic!("{other:?}"),
    }
    ExitCode::SUCCESS
}

pub(crate) type Case = (&'static str, fn(&Ground));

const CASES: &[Case] = &[
    ("a command prints, fails, and is killed as anywhere", |ground| {
        let sandbox = Sandbox::default();
        let ended = |words: &[&str]| {
            let (_own, _root, ended, said) = ground.run(&sandbox, words);
            (ended, said)
        };
        assert_eq!(ended(&["/attack", "act", "print", "hello"]), (Ended::Exited(0), "hello\n".into()));
        assert_eq!(ended(&["attack", "act", "fail", "9"]).0, Ended::Exited(9));
        assert_eq!(ended(&["/attack", "act", "abort"]).0, Ended::Exited(134));
        let (status, said) = ended(&["/nothing", "here"]);
        assert_eq!(status, Ended::Exited(127));
        assert!(said.contains("/nothing"), "{said}");
        assert_eq!(ended(&["/data/file"]).0, Ended::Exited(126));
    }),
    ("a command starts in its directory with its user and nothing of the host", |ground| {
        let (_own, root) = ground.layers(vec![ground.tree()]);
        let sandbox = Sandbox::default();
        let there = Command { workdir: "/data".into(), ..command(&["/attack", "act", "where"]) };
        assert_eq!(run(&sandbox, &root, &there).unwrap(), (Ended::Exited(0), "/data\n".into()));
        let (_own, root) = ground.layers(vec![ground.tree()]);
        let nowhere = Command { workdir: "/nowhere".into(), ..command(&["/attack", "act", "where"]) };
        let (ended, said) = run(&sandbox, &root, &nowhere).unwrap();
        assert_eq!(ended, Ended::Exited(126));
        assert!(said.contains("the working directory `/nowhere`"), "{said}");
        let (_own, root) = ground.layers(vec![ground.tree()]);
        let user = Command { user: (1000, 1001, vec![5, 6]), ..command(&["/attack", "act", "ids"]) };
        match run(&sandbox, &root, &user) {
            Ok(done) => assert_eq!(done, (Ended::Exited(0), "1000 1001 2\n".into())),
            // One id is mapped.
            Err(SandboxError::Refused { stage: Stage::User, .. }) => assert_eq!(ground.ids, Ids::One),
            Err(error) => panic!("{error:?}"),
        }
    }),
    ("what a command changes lies in its upper directory", |ground| {
        for overlay in [Overlay::Any, Overlay::Mount] {
            let sandbox = Sandbox { overlay, ..Sandbox::default() };
            let (_own, root, ended, said) = ground.run(&sandbox, &["/attack", "act", "change"]);
            assert_eq!(ended, Ended::Exited(0), "{said}");
            let upper = root.upper();
            assert_eq!(fs_err::read_to_string(upper.join("made/deep/file")).unwrap(), "made");
            assert_eq!(fs_err::read_link(upper.join("made/link")).unwrap(), Path::new("deep"));
            let hidden = fs_err::symlink_metadata(upper.join("data/file")).unwrap();
            assert!(hidden.file_type().is_char_device() && hidden.rdev() == 0);
            // The places of mounts are not among the changes.
            let names = fs_err::read_dir(&upper).unwrap().map(|entry| entry.unwrap().file_name());
            assert_eq!(names.filter(|name| name != "made" && name != "data").count(), 0);
            assert_eq!(fs_err::read_to_string(ground.tree().join("data/file")).unwrap(), "original");
        }
    }),
    ("a directory that was made anew hides the former one", |ground| {
        let (_own, root, ended, said) = ground.run(&Sandbox::default(), &["/attack", "act", "replace-directory"]);
        assert_eq!(ended, Ended::Exited(0), "{said}");
        let mut value = [0; 4];
        let size = rustix::fs::getxattr(root.upper().join("data"), "user.overlay.opaque", &mut value).unwrap();
        assert_eq!(&value[..size], b"y");
    }),
    ("many layers are laid over one another", |ground| {
        for (count, overlay) in [(490, Overlay::Any), (480, Overlay::Mount)] {
            let mut layers = vec![ground.tree()];
            for at in 0..count - 1 {
                let layer = ground.directory.path().join(format!("layer-{at}-with-a-name-that-is-rather-long"));
                fs_err::create_dir_all(&layer).unwrap();
                fs_err::write(layer.join(format!("of-layer-{at}")), "").unwrap();
                layers.push(layer);
            }
            let (_own, root) = ground.layers(layers);
            let sandbox = Sandbox { overlay, ..Sandbox::default() };
            let done = run(&sandbox, &root, &command(&["/attack", "act", "print", "x"])).unwrap();
            assert_eq!(done, (Ended::Exited(0), "x\n".into()), "{count} {overlay:?}");
        }
    }),
    ("names resolve without a network", |ground| {
        let (_own, _root, ended, said) = ground.run(&Sandbox::default(), &["/attack", "act", "resolve", "localhost"]);
        assert_eq!(ended, Ended::Exited(0), "{said}");
        assert_ne!(said.trim(), "0");
    }),
    ("programs with a setuid bit work inside", |ground| {
        if ground.ids != Ids::One {
            let (_own, _root, ended, said) = ground.run(&Sandbox::default(), &["/attack", "act", "setuid"]);
            assert_eq!((ended, said.as_str()), (Ended::Exited(0), "0\n"));
        }
    }),
    ("the links of an image lead nowhere on the host", |ground| {
        let host = ground.directory.path().join("host");
        fs_err::create_dir_all(&host).unwrap();
        for name in ["dev", "sys", "tmp"] {
            let layer = ground.directory.path().join(format!("link-{name}"));
            fs_err::create_dir_all(&layer).unwrap();
            std::os::unix::fs::symlink(&host, layer.join(name)).unwrap();
            let (_own, root) = ground.layers(vec![ground.tree(), layer]);
            // It may be refused; it may not touch the host.
            let _ = run(&Sandbox::default(), &root, &command(&["/attack", "act", "print", "x"]));
            assert_eq!(fs_err::read_dir(&host).unwrap().count(), 0, "{name}");
        }
        let layer = ground.directory.path().join("file-proc");
        fs_err::create_dir_all(&layer).unwrap();
        fs_err::write(layer.join("proc"), "no directory").unwrap();
        let (_own, root) = ground.layers(vec![ground.tree(), layer]);
        let error = run(&Sandbox::default(), &root, &command(&["/attack", "act", "print", "x"])).unwrap_err();
        assert!(matches!(error, SandboxError::Refused { stage: Stage::Mounts, .. }), "{error:?}");
    }),
    ("time runs out", |ground| {
        let sandbox = Sandbox { timeout: Some(Duration::from_millis(300)), ..Sandbox::default() };
        let begun = Instant::now();
        let (_own, _root, ended, _) = ground.run(&sandbox, &["/attack", "wait", &ground.aim.word]);
        assert_eq!(ended, Ended::TimedOut);
        assert!(begun.elapsed() < Duration::from_secs(5));
        assert!(gone(&ground.aim.word));
    }),
    ("whoever looks on may stop it", |ground| {
        let (_own, root) = ground.layers(vec![ground.tree()]);
        let mut looks = 0;
        let ended = Sandbox::default().run(&root, &command(&["/attack", "wait", &ground.aim.word]), |_| {
            looks += 1;
            looks < 3
        });
        assert_eq!(ended.unwrap().ended, Ended::Stopped);
        assert!(gone(&ground.aim.word));
    }),
    ("everything ends when the program is killed", |ground| {
        // The second one waits for an answer most of the time.
        ["wait", "give-away"].iter().for_each(|what| kill_the_program(ground, what));
    }),
    ("limits are not those of whoever runs the program", |ground| {
        let (_own, _root, ended, said) = ground.run(&Sandbox::default(), &["/attack", "act", "limits"]);
        assert_eq!((ended, said.as_str()), (Ended::Exited(0), "1024 8388608 0\n"));
    }),
    #[cfg(target_arch = "x86_64")]
    ("a call of another architecture ends its process", |ground| {
        // The lists are of this one's numbers. 31 is SIGSYS.
        let (_own, _root, ended, _) = ground.run(&Sandbox::default(), &["/attack", "special", "calls by 32 bits"]);
        assert_eq!(ended, Ended::Exited(128 + 31));
    }),
    ("forks end at the limit", |ground| {
        let sandbox = Sandbox { processes: 400, timeout: Some(Duration::from_secs(60)), ..Sandbox::default() };
        let (_own, _root, ended, _) = ground.run(&sandbox, &["/attack", "special", "forks"]);
        assert_eq!(ended, Ended::Exited(0));
    }),
    ("a command that fills the disk is ended", |ground| {
        let state = rustix::fs::statvfs(ground.directory.path()).unwrap();
        let (bytes, files) = (state.f_bavail * state.f_frsize, state.f_favail);
        let sandbox = Sandbox { spare: (bytes.saturating_sub(256 << 20), 0), ..Sandbox::default() };
        let (own, _root, ended, _) = ground.run(&sandbox, &["/attack", "special", "fills the disk"]);
        assert_eq!(ended, Ended::DiskFull);
        drop(own);
        let sandbox = Sandbox { spare: (0, files.saturating_sub(3000)), ..Sandbox::default() };
        let (_own, _root, ended, _) = ground.run(&sandbox, &["/attack", "special", "fills the table of files"]);
        assert_eq!(ended, Ended::DiskFull);
    }),
    ("a command that takes too much memory is ended, and told of", |ground| {
        let sandbox = Sandbox { memory: 200 << 20, ..Sandbox::default() };
        let Some(version) = sandbox.memory_control() else {
            println!("      SKIPPED: no control group of this machine can be used here");
            return;
        };
        let (_own, _root, ended, _) = ground.run(&sandbox, &["/attack", "special", "takes memory"]);
        let Ended::OutOfMemory(peak) = ended else { panic!("{ended:?} with version {version}") };
        assert!((100 << 20..=210 << 20).contains(&peak), "{peak}");
    }),
    ("a trial leaves nothing, and each part of a sandbox is there", |ground| {
        let directory = ground.directory.path().join("trial");
        fs_err::create_dir(&directory).unwrap();
        Sandbox::default().try_out(&directory).unwrap();
        let findings = Sandbox::default().diagnose(&directory);
        assert!(findings.iter().all(|finding| matches!(finding.state, State::Works | State::Limited)), "{findings:?}");
        assert_eq!(fs_err::read_dir(&directory).unwrap().count(), 0);
        fs_err::remove_dir(&directory).unwrap();
    }),
    ("much output passes, and of a very long line the beginning", |ground| {
        let (_own, _root, ended, said) = ground.run(&Sandbox::default(), &["/attack", "special", "prints"]);
        assert_eq!(ended, Ended::Exited(0));
        assert!(
            said.len() > 200_000 * 7 && said.len() < 200_000 * 8 + 2 * kiln_sandbox::LONGEST_LINE,
            "{}",
            said.len()
        );
    }),
];

/// Returns true if no process of the host has a word among its arguments, this one excepted.
fn gone(word: &str) -> bool {
    let own = std::process::id().to_string();
    fs_err::read_dir("/proc").unwrap().all(|entry| {
        let name = entry.unwrap().file_name().to_string_lossy().into_owned();
        let is_process = name.bytes().all(|byte| byte.is_ascii_digit()) && name != own;
        let line = || fs_err::read(format!("/proc/{name}/cmdline")).unwrap_or_default();
        !is_process || !String::from_utf8_lossy(&line()).contains(word)
    })
}

fn kill_the_program(ground: &Ground, what: &str) {
    let own = std::env::current_exe().unwrap();
    let directory = ground.directory.path().join(what);
    fs_err::create_dir_all(&directory).unwrap();
    fs_err::write(directory.join("tree"), ground.tree().display().to_string()).unwrap();
    fs_err::write(directory.join("word"), &ground.aim.word).unwrap();
    let mut program = std::process::Command::new(own);
    let mut program = program.arg("runs-until-killed").arg(&directory).arg(what).spawn().unwrap();
    let begun = Instant::now();
    while gone(&ground.aim.word) {
        assert!(begun.elapsed() < Duration::from_secs(10), "it never began");
        std::thread::sleep(Duration::from_millis(10));
    }
    program.kill().unwrap();
    program.wait().unwrap();
    let begun = Instant::now();
    while !gone(&ground.aim.word) {
        assert!(begun.elapsed() < Duration::from_secs(5), "it goes on");
        std::thread::sleep(Duration::from_millis(10));
    }
}

/// Runs a command that goes on for ever.
pub(crate) fn run_until_killed(directory: &str, what: &str) -> ExitCode {
    let directory = Path::new(directory);
    let tree = fs_err::read_to_string(directory.join("tree")).unwrap();
    let word = fs_err::read_to_string(directory.join("word")).unwrap();
    let root = Root { layers: vec![tree.into()], owners_below: BTreeMap::new(), directory: directory.to_owned() };
    let _ = run(&Sandbox::default(), &root, &command(&["/attack", what, &word]));
    ExitCode::SUCCESS
}

fn attack(ground: &Ground, name: &str) {
    let mut words = vec!["/attack", "attack", name];
    let aim = ground.aim.words();
    words.extend(aim.iter().map(String::as_str));
    let sandbox = Sandbox { timeout: Some(Duration::from_secs(30)), ..Sandbox::default() };
    let (own, root) = ground.layers(vec![ground.tree()]);
    let command = Command { given: crate::given::given(own.path()), ..command(&words) };
    let (ended, said) = run(&sandbox, &root, &command).unwrap();
    assert_eq!(ended, Ended::Exited(0), "{said}");
    assert_eq!(fs_err::read_to_string(own.path().join("bound")).unwrap(), "of the host");
    assert!(gone(&ground.aim.word), "something goes on");
    assert_eq!(fs_err::read_to_string(&ground.aim.file).unwrap(), "of the host");
    assert_eq!(fs_err::read_to_string(ground.tree().join("data/file")).unwrap(), "original");
}

/// Runs all cases and attacks whose name holds a text.
pub(crate) fn all(filter: Option<&str>) -> ExitCode {
    let ground = Ground::new();
    let user = match ground.ids {
        Ids::All => "root",
        Ids::Range(..) => "user with a range",
        Ids::One => "user",
    };
    let wanted = |name: &str| filter.is_none_or(|filter| name.contains(filter));
    let (mut passed, mut failed) = (0, 0);
    let mut check = |name: String, case: &dyn Fn()| {
        let _ = std::io::stdout().flush();
        match catch_unwind(AssertUnwindSafe(case)) {
            Ok(()) => passed += 1,
            Err(_) => {
                println!("FAILED {name}");
                failed += 1;
            }
        }
    };
    for (name, case) in
        CASES.iter().chain(crate::owners::CASES).chain(crate::given::CASES).filter(|(name, _)| wanted(name))
    {
        check(format!("{user}: {name}"), &|| case(&ground));
    }
    for (name, _) in ATTACKS.iter().chain(crate::given::ATTACKS).filter(|(name, _)| wanted(name)) {
        check(format!("{user}: a command that {name}"), &|| attack(&ground, name));
    }
    println!("as {user}: {passed} passed, {failed} failed");
    ExitCode::from(u8::from(failed > 0))
}

/// Runs everything again in another way, if this is root.
pub(crate) fn again(way: &str, filter: Option<&str>) -> ExitCode {
    if !rustix::process::geteuid().is_root() {
        return ExitCode::SUCCESS;
    }
    let directory = tempfile::tempdir().unwrap();
    std::os::unix::fs::chown(directory.path(), Some(NOBODY), Some(NOBODY)).unwrap();
    fs_err::set_permissions(directory.path(), PermissionsExt::from_mode(0o755)).unwrap();
    let program = directory.path().join("test");
    fs_err::copy(std::env::current_exe().unwrap(), &program).unwrap();
    let mut again = std::process::Command::new(program);
    again.arg(way).args(filter).env("TMPDIR", directory.path()).current_dir("/");
    if way == "as-user" {
        again.uid(NOBODY).gid(NOBODY);
    }
    ExitCode::from(u8::from(!again.status().unwrap().success()))
}

/// Gives the ordinary user a range of ids, in a mount namespace of its own, and runs everything.
pub(crate) fn with_range(filter: Option<&str>) -> ExitCode {
    let files = ["/etc/subuid", "/etc/subgid"].map(Path::new);
    let programs = ["/usr/bin/newuidmap", "/usr/bin/newgidmap"].map(Path::new);
    if !files.iter().chain(&programs).all(|path| path.exists()) {
        println!("SKIPPED: everything as a user with a range of ids, which needs newuidmap(1)");
        return ExitCode::SUCCESS;
    }
    let ranges = Path::new(&std::env::var("TMPDIR").unwrap()).join("ranges");
    fs_err::write(&ranges, format!("{NOBODY}:300000:65536\n")).unwrap();
    // SAFETY: the function is unsafe for `UnshareFlags::FILES`, which is not the flag.
    unsafe { rustix::thread::unshare_unsafe(rustix::thread::UnshareFlags::NEWNS) }.unwrap();
    rustix::mount::mount_change("/", MountPropagationFlags::PRIVATE | MountPropagationFlags::REC).unwrap();
    files.iter().for_each(|file| rustix::mount::mount_bind(&ranges, *file).unwrap());
    let mut user = std::process::Command::new(std::env::current_exe().unwrap());
    let status = user.arg("as-user").args(filter).uid(NOBODY).gid(NOBODY).status().unwrap();
    ExitCode::from(u8::from(!status.success()))
}
