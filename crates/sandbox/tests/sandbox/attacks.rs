//! Attempts of a hostile step. Each attack runs inside, as the command, and returns true if it got what it wanted.

use std::ffi::CString;
use std::io::{Read as _, Write as _};
use std::os::fd::AsRawFd as _;
use std::path::Path;

use libc::{c_int, c_long};

/// Things of the host that an attack aims at.
pub(crate) struct Aim {
    /// Process id of the test.
    pub(crate) process: i32,
    /// Port of a server on the host's loopback interface.
    pub(crate) port: u16,
    /// A file of the host.
    pub(crate) file: String,
    /// Name of an abstract socket, and a word that arguments of processes hold.
    pub(crate) word: String,
    /// Key of a segment of shared memory.
    pub(crate) key: i32,
}

impl Aim {
    pub(crate) fn words(&self) -> Vec<String> {
        let Self { process, port, file, word, key } = self;
        vec![process.to_string(), port.to_string(), file.clone(), word.clone(), key.to_string()]
    }

    pub(crate) fn parse(words: &[String]) -> Self {
        let [process, port, file, word, key] = words else { panic!("{words:?}") };
        Self {
            process: process.parse().unwrap(),
            port: port.parse().unwrap(),
            file: file.clone(),
            word: word.clone(),
            key: key.parse().unwrap(),
        }
    }
}

pub(crate) type Attack = fn(&Aim) -> bool;

pub(crate) const ATTACKS: &[(&str, Attack)] = &[
    ("writes the pattern of core files", |_| writes("/proc/sys/kernel/core_pattern")),
    ("writes a setting of the network", |_| writes("/proc/sys/net/ipv4/ip_forward")),
    ("writes the time of the machine", |_| {
        let time = libc::timespec { tv_sec: 0, tv_nsec: 0 };
        // SAFETY: the kernel reads one `timespec`.
        unsafe { libc::clock_settime(libc::CLOCK_REALTIME, &raw const time) == 0 }
    }),
    ("presses a magic key", |_| writes("/proc/sysrq-trigger")),
    ("reads the kernel's memory", |_| reads("/proc/kcore")),
    ("reads the kernel's log", |_| reads("/dev/kmsg") || reads("/proc/kmsg")),
    ("reads the memory of the machine", |_| reads("/dev/mem") || reads("/dev/port")),
    ("lists keys", |_| reads("/proc/keys")),
    ("reads timers", |_| reads("/proc/timer_list")),
    ("enters the root of the first process", |_| fs_err::read_dir("/proc/1/root").is_ok()),
    ("enters the directory of the first process", |_| fs_err::read_dir("/proc/1/cwd").is_ok()),
    ("opens the program of the first process", |_| reads("/proc/1/exe")),
    ("opens the memory of the first process", |_| reads("/proc/1/mem") || writes("/proc/1/mem")),
    ("opens the files of the first process", |_| {
        let files = (0..16).map(|number| format!("/proc/1/fd/{number}"));
        files
            .into_iter()
            .any(|path| fs_err::read_link(&path).is_ok() || writes(&path) || fs_err::File::open(path).is_ok())
    }),
    ("reads the environment of the first process", |_| reads("/proc/1/environ")),
    ("opens the namespaces of the first process", |_| reads("/proc/1/ns/mnt") || reads("/proc/1/ns/user")),
    ("traces the first process", |_| call(libc::SYS_ptrace, &[c_long::from(libc::PTRACE_ATTACH), 1, 0, 0])),
    ("seizes the first process", |_| call(libc::SYS_ptrace, &[c_long::from(libc::PTRACE_SEIZE), 1, 0, 0])),
    ("kills the first process", |_| {
        signal(1, libc::SIGKILL);
        signal(1, libc::SIGTERM);
        std::thread::sleep(std::time::Duration::from_millis(20));
        // Had it worked, this process would be gone.
        false
    }),
    ("kills the test", |aim| signal(aim.process, libc::SIGKILL)),
    ("sees the test", |aim| Path::new(&format!("/proc/{}/status", aim.process)).exists()),
    ("sees more processes than its own", |_| {
        let processes = fs_err::read_dir("/proc").unwrap();
        processes.filter(|entry| entry.as_ref().unwrap().file_name().to_string_lossy().parse::<u32>().is_ok()).count()
            > 2
    }),
    ("reads a file of the host", |aim| reads(&aim.file)),
    ("reads a file of the host through its parents", |aim| {
        reads(&format!("/{}{}", "../".repeat(40), aim.file.trim_start_matches('/')))
    }),
    ("reads a file of the host through a link", |aim| {
        std::os::unix::fs::symlink(&aim.file, "/tmp/link").unwrap();
        reads("/tmp/link")
    }),
    ("writes a file of the host through a link", |aim| {
        std::os::unix::fs::symlink(&aim.file, "/tmp/link").unwrap();
        fs_err::OpenOptions::new().write(true).open("/tmp/link").is_ok()
    }),
    ("leaves a root that it changed", |aim| {
        let _ = fs_err::create_dir("/tmp/inner");
        let outer = fs_err::File::open("/").unwrap();
        let inner = CString::new("/tmp/inner").unwrap();
        let (up, here) = (CString::new("..").unwrap(), CString::new(".").unwrap());
        // SAFETY: the strings end in zero bytes and outlive the calls.
        unsafe {
            libc::chroot(inner.as_ptr());
            libc::fchdir(outer.as_raw_fd());
            for _ in 0..64 {
                libc::chdir(up.as_ptr());
            }
            libc::chroot(here.as_ptr());
        }
        reads(&aim.file)
    }),
    ("mounts a file system", |_| mounts("tmpfs", "/tmp", 0)),
    ("mounts a process file system", |_| mounts("proc", "/tmp", 0)),
    ("mounts the disk", |_| mounts("ext4", "/tmp", 0)),
    ("mounts by a bind", |_| mounts("/proc", "/tmp", libc::MS_BIND)),
    ("makes a read-only mount writable", |_| mounts("none", "/proc/sys", libc::MS_REMOUNT | libc::MS_BIND)),
    ("makes its mounts shared", |_| mounts("none", "/", libc::MS_SHARED | libc::MS_REC)),
    ("takes a mount away", |_| {
        ["/proc/sys", "/proc/acpi", "/dev", "/sys", "/"].iter().any(|path| {
            let path = CString::new(*path).unwrap();
            // SAFETY: the string ends in a zero byte.
            unsafe { libc::umount2(path.as_ptr(), libc::MNT_DETACH) == 0 }
        })
    }),
    ("opens a file system", |_| call(libc::SYS_fsopen, &[c"tmpfs".as_ptr() as c_long, 0])),
    ("opens a tree of mounts", |_| {
        call(libc::SYS_open_tree, &[c_long::from(libc::AT_FDCWD), c"/".as_ptr() as c_long, 1])
    }),
    ("moves a mount", |_| {
        let here = c_long::from(libc::AT_FDCWD);
        call(libc::SYS_move_mount, &[here, c"/proc".as_ptr() as c_long, here, c"/tmp".as_ptr() as c_long, 0])
    }),
    ("changes its root", |_| call(libc::SYS_pivot_root, &[c"/tmp".as_ptr() as c_long, c"/tmp".as_ptr() as c_long])),
    ("makes a user namespace", |_| call(libc::SYS_unshare, &[c_long::from(libc::CLONE_NEWUSER)])),
    ("makes a mount namespace", |_| call(libc::SYS_unshare, &[c_long::from(libc::CLONE_NEWNS)])),
    ("starts a process in a user namespace", |_| clone(libc::SYS_clone, libc::CLONE_NEWUSER)),
    ("starts a process in a process namespace", |_| clone(libc::SYS_clone, libc::CLONE_NEWPID)),
    ("starts a process in a namespace by the newer call", |_| {
        let mut arguments = [0_u64; 11];
        arguments[0] = libc::CLONE_NEWUSER as u64;
        arguments[4] = libc::SIGCHLD as u64;
        let done = call(libc::SYS_clone3, &[arguments.as_ptr() as c_long, size_of_val(&arguments) as c_long]);
        done || error() != libc::ENOSYS
    }),
    ("enters a namespace", |_| {
        let file = fs_err::File::open("/proc/self/ns/user").unwrap();
        call(libc::SYS_setns, &[c_long::from(file.as_raw_fd()), 0]) || error() != libc::EPERM
    }),
    #[cfg(target_arch = "x86_64")]
    ("mounts by a call of the x32 kind", |_| {
        let (none, place) = (c"tmpfs".as_ptr() as c_long, c"/tmp".as_ptr() as c_long);
        call(libc::SYS_mount | 0x4000_0000, &[none, place, none, 0, 0])
    }),
    ("makes a disk", |_| device(libc::S_IFBLK, 8, 0) && reads("/tmp/device")),
    ("makes the machine's memory", |_| device(libc::S_IFCHR, 1, 1) && reads("/tmp/device")),
    ("uses a device of an image", |_| device(libc::S_IFCHR, 1, 3) && reads("/tmp/device")),
    ("adds a key", |_| {
        let (kind, name) = (c"user".as_ptr() as c_long, c"kiln".as_ptr() as c_long);
        call(libc::SYS_add_key, &[kind, name, name, 4, -3])
    }),
    ("opens a ring of keys", |_| call(libc::SYS_keyctl, &[0, -3, 0])),
    ("loads a program into the kernel", |_| call(libc::SYS_bpf, &[0, 0, 0]) || error() != libc::EPERM),
    ("counts events of the machine", |_| {
        let attributes = [0_u8; 128];
        call(libc::SYS_perf_event_open, &[attributes.as_ptr() as c_long, -1, 0, -1, 0]) || error() != libc::EPERM
    }),
    ("handles faults of memory", |_| call(libc::SYS_userfaultfd, &[0]) || error() != libc::EPERM),
    ("makes a ring of requests", |_| {
        let parameters = [0_u8; 120];
        call(libc::SYS_io_uring_setup, &[1, parameters.as_ptr() as c_long]) || error() != libc::ENOSYS
    }),
    ("loads a module", |_| call(libc::SYS_init_module, &[0, 0, c"".as_ptr() as c_long]) || error() != libc::EPERM),
    ("opens a file by its handle", |_| {
        let handle = [0_u8; 136];
        let done = call(libc::SYS_open_by_handle_at, &[c_long::from(libc::AT_FDCWD), handle.as_ptr() as c_long, 0]);
        done || error() != libc::EPERM
    }),
    ("restarts the machine", |_| {
        call(libc::SYS_reboot, &[0xfee1_dead, 672_274_793, 0x89ab_cdef, 0]) || error() != libc::EPERM
    }),
    ("renames the machine", |_| call(libc::SYS_sethostname, &[c"x".as_ptr() as c_long, 1])),
    ("raises a limit", |_| {
        let limit = libc::rlimit { rlim_cur: 1, rlim_max: 1 };
        // SAFETY: the kernel reads one `rlimit`.
        unsafe { libc::setrlimit(libc::RLIMIT_CORE, &raw const limit) == 0 }
    }),
    ("gains a capability", |_| capabilities().is_none_or(|bits| bits & (1 << 21 | 1 << 19 | 1 << 12 | 1 << 16) != 0)),
    ("reaches the host's loopback interface", |aim| std::net::TcpStream::connect(("127.0.0.1", aim.port)).is_ok()),
    ("reaches the network", |_| {
        let address = std::net::SocketAddr::from(([198, 51, 100, 1], 80));
        let begun = std::time::Instant::now();
        let reached = std::net::TcpStream::connect_timeout(&address, std::time::Duration::from_secs(5)).is_ok();
        reached || begun.elapsed().as_secs() >= 2
    }),
    ("opens a socket to the hypervisor", |_| {
        call(libc::SYS_socket, &[c_long::from(libc::AF_VSOCK), c_long::from(libc::SOCK_STREAM), 0])
            || error() != libc::EAFNOSUPPORT
    }),
    ("opens a socket to the kernel's ciphers", |_| {
        call(libc::SYS_socket, &[c_long::from(libc::AF_ALG), c_long::from(libc::SOCK_SEQPACKET), 0])
    }),
    ("changes the mode of a device of the machine", |_| {
        ["null", "zero", "tty"].iter().any(|name| {
            fs_err::set_permissions(format!("/dev/{name}"), std::os::unix::fs::PermissionsExt::from_mode(0o600)).is_ok()
        })
    }),
    ("gives a file of the machine's /proc away", |_| {
        ["meminfo", "sys", "pressure/cpu", "kallsyms"]
            .iter()
            .any(|name| std::os::unix::fs::chown(format!("/proc/{name}"), Some(5), None).is_ok())
    }),
    ("reaches an abstract socket of the host", |aim| {
        use std::os::linux::net::SocketAddrExt as _;
        let address = std::os::unix::net::SocketAddr::from_abstract_name(aim.word.as_bytes()).unwrap();
        std::os::unix::net::UnixStream::connect_addr(&address).is_ok()
    }),
    ("opens shared memory of the host", |aim| {
        // SAFETY: the call takes integers alone.
        unsafe { libc::shmget(aim.key, 0, 0) >= 0 }
    }),
    ("reads the host's environment", |_| std::env::vars_os().any(|(name, _)| name != "PATH" && name != "HOME")),
    ("has open files of the host", |_| {
        let open = fs_err::read_dir("/proc/self/fd").unwrap();
        let numbers = open.map(|entry| entry.unwrap().file_name().to_string_lossy().parse::<u32>().unwrap());
        // The fourth is the directory itself.
        numbers.filter(|number| *number > 2).count() > 1
    }),
    ("reads standard input", |_| std::io::stdin().read(&mut [0; 1]).is_ok_and(|read| read > 0)),
    ("types into the terminal", |_| {
        (0..3).any(|descriptor: c_int| {
            let letter = b'x';
            // SAFETY: the request reads one byte.
            unsafe { libc::ioctl(descriptor, libc::TIOCSTI, &raw const letter) == 0 }
        }) || reads("/dev/tty")
    }),
    ("sees hardware", |_| fs_err::read_dir("/sys").is_ok_and(|mut entries| entries.next().is_some())),
    ("writes into a tree of a layer", |_| {
        // It is copied up; the test looks at the tree.
        fs_err::hard_link("/data/file", "/data/hard").unwrap();
        fs_err::write("/data/hard", "changed").unwrap();
        fs_err::write("/data/file", "changed").unwrap();
        false
    }),
    ("goes on after its end", |aim| {
        if fork() == 0 {
            // SAFETY: the call takes no arguments.
            unsafe { libc::setsid() };
            if fork() == 0 {
                let own = CString::new("/attack").unwrap();
                let word = CString::new(aim.word.as_str()).unwrap();
                let wait = CString::new("wait").unwrap();
                let words = [own.as_ptr(), wait.as_ptr(), word.as_ptr(), std::ptr::null()];
                // SAFETY: the array ends in a null pointer, and its strings in zero bytes.
                unsafe { libc::execv(own.as_ptr(), words.as_ptr()) };
            }
            std::process::exit(0);
        }
        std::thread::sleep(std::time::Duration::from_millis(50));
        false
    }),
];

/// Attacks that need limits of their own.
pub(crate) fn special(name: &str) -> bool {
    match name {
        "forks" => {
            let mut made = 0;
            while made < 5000 {
                match fork() {
                    0 => loop {
                        std::thread::park();
                    },
                    -1 => break,
                    _ => made += 1,
                }
            }
            made >= 5000
        }
        "fills the disk" => {
            let mut file = fs_err::File::create("/tmp/big").unwrap();
            let block = vec![1; 1 << 20];
            while file.write_all(&block).is_ok() {}
            std::thread::sleep(std::time::Duration::from_secs(5));
            true
        }
        "fills the table of files" => {
            let _ = fs_err::create_dir("/tmp/many");
            for at in 0_u64.. {
                if fs_err::write(format!("/tmp/many/{at}"), "").is_err() {
                    break;
                }
            }
            std::thread::sleep(std::time::Duration::from_secs(5));
            true
        }
        #[cfg(target_arch = "x86_64")]
        "calls by 32 bits" => {
            let mut answer = 20; // getpid
            // SAFETY: the call takes no arguments, and changes one register.
            unsafe { std::arch::asm!("int 0x80", inout("eax") answer) };
            answer > 0
        }
        "takes memory" => {
            let mut held = Vec::new();
            for _ in 0..4096 {
                held.push(vec![1_u8; 1 << 20]);
            }
            held.len() == 4096
        }
        "waits" => {
            std::thread::sleep(std::time::Duration::from_secs(600));
            true
        }
        "prints" => {
            let mut out = std::io::stdout().lock();
            for _ in 0..200_000 {
                out.write_all(b"a line\n").unwrap();
            }
            out.write_all(&vec![b'x'; 10 << 20]).unwrap();
            false
        }
        other => panic!("{other}"),
    }
}

fn fork() -> i32 {
    // SAFETY: this process has one thread.
    unsafe { libc::fork() }
}

pub(crate) fn reads(path: &str) -> bool {
    fs_err::File::open(path).is_ok_and(|mut file| file.read(&mut [0; 16]).is_ok_and(|read| read > 0))
}

pub(crate) fn writes(path: &str) -> bool {
    fs_err::OpenOptions::new().write(true).open(path).is_ok()
}

fn error() -> c_int {
    std::io::Error::last_os_error().raw_os_error().unwrap_or(0)
}

pub(crate) fn call(number: c_long, arguments: &[c_long]) -> bool {
    let at = |index: usize| arguments.get(index).copied().unwrap_or(0);
    // SAFETY: pointers among the arguments are to values of the caller that outlive the call.
    unsafe { libc::syscall(number, at(0), at(1), at(2), at(3), at(4)) >= 0 }
}

fn clone(number: c_long, flag: c_int) -> bool {
    // SAFETY: without CLONE_VM the child is a copy, as after fork; it ends at once.
    match unsafe { libc::syscall(number, c_long::from(flag | libc::SIGCHLD), 0, 0, 0, 0) } {
        0 => std::process::exit(0),
        made => made > 0,
    }
}

fn signal(process: i32, number: c_int) -> bool {
    // SAFETY: the call takes integers alone.
    unsafe { libc::kill(process, number) == 0 }
}

pub(crate) fn mounts(what: &str, place: &str, flags: libc::c_ulong) -> bool {
    let [what, place] = [what, place].map(|text| CString::new(text).unwrap());
    // SAFETY: the strings end in zero bytes; no options follow.
    unsafe { libc::mount(what.as_ptr(), place.as_ptr(), what.as_ptr(), flags, std::ptr::null()) == 0 }
}

fn device(kind: libc::mode_t, major: u32, minor: u32) -> bool {
    let path = CString::new("/tmp/device").unwrap();
    // SAFETY: the string ends in a zero byte.
    unsafe { libc::mknod(path.as_ptr(), kind | 0o666, libc::makedev(major, minor)) == 0 }
}

fn capabilities() -> Option<u64> {
    let status = fs_err::read_to_string("/proc/self/status").ok()?;
    let line = |name: &str| status.lines().find_map(|line| line.strip_prefix(name)).map(str::trim).map(str::to_owned);
    let bits = ["CapPrm:", "CapEff:", "CapBnd:"].map(|name| u64::from_str_radix(&line(name)?, 16).ok());
    Some(bits[0]? | bits[1]? | bits[2]?)
}
