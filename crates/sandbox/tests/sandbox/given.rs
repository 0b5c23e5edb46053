//! Things that a command has besides its image: that they are there, that they leave nothing, and attempts to get more through them.

use std::io::{Read as _, Write as _};
use std::net::{TcpListener, TcpStream};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::Path;

use kiln_sandbox::{Command, Ended, Given, Ids, MemoryFile, Mount, Network, Output, Sandbox};

use crate::attacks::{Attack, call, mounts, reads, writes};
use crate::cases::{Case, command};

/// Places of what an attack is given: a cache, a secret of root and one of another user, and a file of the host.
const CACHE: &str = "/var/cache/own";
const SECRET: &str = "/run/secrets/token";
const BOUND: &str = "/etc/bound";
const PORT: u16 = 3128;
/// The content of the secret.
pub(crate) const TOKEN: &[u8] = b"a token of root";

/// Returns what attacks are given. The directory is the host's.
pub(crate) fn given(directory: &Path) -> Given {
    let (cache, bound) = (directory.join("cache"), directory.join("bound"));
    fs_err::create_dir_all(&cache).unwrap();
    fs_err::write(&bound, "of the host").unwrap();
    Given {
        network: Network::Listener(PORT),
        mounts: vec![
            Mount { from: cache, to: CACHE.into(), writable: true },
            Mount { from: bound, to: BOUND.into(), writable: false },
        ],
        files: vec![MemoryFile { path: SECRET.into(), content: TOKEN.to_vec(), mode: 0o400, owner: (0, 0) }],
    }
}

/// Does what the cases below ask of a command.
pub(crate) fn act(words: &[&str]) {
    match words {
        ["use"] => {
            assert_eq!(fs_err::read(SECRET).unwrap(), TOKEN);
            assert_eq!(fs_err::metadata(SECRET).unwrap().mode() & 0o7777, 0o400);
            assert_eq!(fs_err::read_to_string(BOUND).unwrap(), "of the host");
            fs_err::write(format!("{CACHE}/left"), "for the next time").unwrap();
            fs_err::write("/data/made", "1").unwrap();
        }
        ["keep"] => fs_err::write(format!("{CACHE}/{}", fs_err::read_dir(CACHE).unwrap().count()), "x").unwrap(),
        ["read"] => print!("{}", fs_err::read_to_string(SECRET).unwrap_or_else(|error| error.to_string())),
        ["ask", text] => {
            let mut stream = TcpStream::connect(("127.0.0.1", PORT)).unwrap();
            stream.write_all(text.as_bytes()).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            println!("{answer}");
        }
        other => panic!("{other:?}"),
    }
}

fn names(directory: &Path) -> Vec<String> {
    let entries = fs_err::read_dir(directory).into_iter().flatten();
    entries.map(|entry| entry.unwrap().file_name().into_string().unwrap()).collect()
}

pub(crate) const CASES: &[Case] = &[
    ("a cache keeps what a command wrote, and the layer has neither its place nor that of a secret", |ground| {
        let own = tempfile::tempdir_in(ground.directory.path()).unwrap();
        let (_layers, root) = ground.layers(vec![ground.tree()]);
        let command = Command { given: given(own.path()), ..command(&["/attack", "act", "given", "use"]) };
        let ran = Sandbox::default().run(&root, &command, |_| true).unwrap();
        assert_eq!(ran.ended, Ended::Exited(0));
        assert_eq!(fs_err::read_to_string(own.path().join("cache/left")).unwrap(), "for the next time");
        assert_eq!(names(&root.upper()), ["data"]);
        assert_eq!(names(&root.upper().join("data")), ["made"]);
    }),
    ("a place below a file of the image is an error", |ground| {
        let (_layers, root) = ground.layers(vec![ground.tree()]);
        let mut given = given(root.directory.as_path());
        given.mounts[0].to = "/data/file/cache".into();
        let command = Command { given, ..command(&["/attack", "act", "print", "x"]) };
        let error = Sandbox::default().run(&root, &command, |_| true).unwrap_err().to_string();
        assert!(error.contains("/data/file/cache"), "{error}");
    }),
    ("places that links of the image lead to are places of the image", |ground| {
        let layer = tempfile::tempdir_in(ground.directory.path()).unwrap();
        let (host, own) =
            (ground.directory.path().join("outside"), tempfile::tempdir_in(ground.directory.path()).unwrap());
        fs_err::create_dir_all(&host).unwrap();
        fs_err::create_dir_all(layer.path().join("var")).unwrap();
        std::os::unix::fs::symlink(&host, layer.path().join("var/cache")).unwrap();
        std::os::unix::fs::symlink("../../../../../../..", layer.path().join("run")).unwrap();
        let (_layers, root) = ground.layers(vec![ground.tree(), layer.path().to_owned()]);
        let command = Command { given: given(own.path()), ..command(&["/attack", "act", "given", "use"]) };
        // The image lacks what its link leads to.
        let _ = Sandbox::default().run(&root, &command, |_| true);
        assert_eq!(names(&host), Vec::<String>::new());
        assert!(!Path::new("/secrets").exists());
    }),
    ("a cache is its command's, whoever that is", |ground| {
        let own = tempfile::tempdir_in(ground.directory.path()).unwrap();
        let user = if ground.ids == Ids::One { 0 } else { 1000 };
        for user in [user, 0, user] {
            let (_layers, root) = ground.layers(vec![ground.tree()]);
            let user = (user, user, Vec::new());
            let command = Command { given: given(own.path()), user, ..command(&["/attack", "act", "given", "keep"]) };
            assert_eq!(Sandbox::default().run(&root, &command, |_| true).unwrap().ended, Ended::Exited(0));
        }
        assert_eq!(names(&own.path().join("cache")).len(), 3);
    }),
    ("another user does not read a secret of root", |ground| {
        let own = tempfile::tempdir_in(ground.directory.path()).unwrap();
        let (_layers, root) = ground.layers(vec![ground.tree()]);
        let user = (1000, 1000, Vec::new());
        let command = Command { given: given(own.path()), user, ..command(&["/attack", "act", "given", "read"]) };
        let mut said = Vec::new();
        let _ = Sandbox::default().run(&root, &command, |output| {
            if let Some(Output::Stdout(line)) = output {
                said.extend(line);
            }
            true
        });
        assert!(!said.windows(TOKEN.len()).any(|part| part == TOKEN), "{}", String::from_utf8_lossy(&said));
    }),
    ("the program answers at a port of the command's loopback interface", |ground| {
        let own = tempfile::tempdir_in(ground.directory.path()).unwrap();
        let (_layers, root) = ground.layers(vec![ground.tree()]);
        let command = Command { given: given(own.path()), ..command(&["/attack", "act", "given", "ask", "hello"]) };
        let mut said = String::new();
        let ran = Sandbox::default().run(&root, &command, |output| {
            match output {
                Some(Output::Listener(listener)) => drop(std::thread::spawn(move || answer(&listener))),
                Some(Output::Stdout(line)) => said.push_str(&String::from_utf8(line).unwrap()),
                _ => {}
            }
            true
        });
        assert_eq!(ran.unwrap().ended, Ended::Exited(0));
        assert_eq!(said, "hello to you");
    }),
];

fn answer(listener: &TcpListener) {
    let (mut stream, _) = listener.accept().unwrap();
    let mut text = String::new();
    stream.read_to_string(&mut text).unwrap();
    stream.write_all(format!("{text} to you").as_bytes()).unwrap();
}

/// Attacks through what a command is given.
pub(crate) const ATTACKS: &[(&str, Attack)] = &[
    ("writes a secret", |_| writes(SECRET)),
    ("removes a secret", |_| fs_err::remove_file(SECRET).is_ok()),
    ("changes the mode of a secret", |_| {
        fs_err::set_permissions(SECRET, std::fs::Permissions::from_mode(0o644)).is_ok()
    }),
    ("gives a secret a second name in the image", |_| fs_err::hard_link(SECRET, "/data/secret").is_ok()),
    ("moves a secret into the image", |_| fs_err::rename(SECRET, "/data/secret").is_ok()),
    ("moves the directory of a secret", |_| fs_err::rename("/run/secrets", "/data/secrets").is_ok()),
    ("writes a file of the host that it may read", |_| writes(BOUND)),
    ("makes a mount writable", |_| {
        mounts("none", BOUND, libc::MS_REMOUNT | libc::MS_BIND)
            || mounts("none", SECRET, libc::MS_REMOUNT | libc::MS_BIND)
    }),
    ("replaces a file of the host that it may read", |_| {
        fs_err::write("/etc/other", "other").unwrap();
        fs_err::rename("/etc/other", BOUND).is_ok()
    }),
    ("leaves a cache by its parent", |aim| {
        let up = "/..".repeat(30);
        reads(&format!("{CACHE}{up}{}", aim.file)) || reads(&format!("{CACHE}/../bound"))
    }),
    ("leaves a cache by a directory that moves", |aim| {
        // A directory that is moved while it is the working directory has another parent.
        fs_err::create_dir_all(format!("{CACHE}/a/b")).unwrap();
        std::env::set_current_dir(format!("{CACHE}/a/b")).unwrap();
        let _ = fs_err::rename(format!("{CACHE}/a/b"), "/data/b");
        let _ = fs_err::rename(format!("{CACHE}/a/b"), format!("{CACHE}/b"));
        reads(&format!("{}{}", "../".repeat(30), aim.file.trim_start_matches('/'))) || reads("../../bound")
    }),
    ("opens a file of the host by its handle from a cache", |_| {
        // A handle of the root of the file system: inode 2 of ext4.
        let directory = fs_err::File::open(CACHE).unwrap();
        let mut handle = [0_u8; 16];
        handle[..4].copy_from_slice(&8_u32.to_ne_bytes());
        handle[4..8].copy_from_slice(&1_u32.to_ne_bytes());
        handle[8..12].copy_from_slice(&2_u32.to_ne_bytes());
        let (at, pointer) = (std::os::fd::AsRawFd::as_raw_fd(&directory), handle.as_ptr() as libc::c_long);
        call(libc::SYS_open_by_handle_at, &[libc::c_long::from(at), pointer, 0])
    }),
    ("makes a device in a cache", |_| {
        let path = std::ffi::CString::new(format!("{CACHE}/disk")).unwrap();
        // SAFETY: the string ends in a zero byte.
        let made = unsafe { libc::mknod(path.as_ptr(), libc::S_IFBLK | 0o666, libc::makedev(8, 0)) == 0 };
        made && reads(&format!("{CACHE}/disk"))
    }),
    ("reads a file of the host through a link in a cache", |aim| {
        std::os::unix::fs::symlink(&aim.file, format!("{CACHE}/link")).unwrap();
        reads(&format!("{CACHE}/link"))
    }),
    ("reaches a server of the host beside its own port", |aim| {
        ["127.0.0.1", "192.0.2.1", "10.0.2.2", "169.254.169.254"]
            .iter()
            .any(|host| TcpStream::connect_timeout(&format!("{host}:{}", aim.port).parse().unwrap(), TIME).is_ok())
    }),
    ("finds the socket of the program among its own files", |_| {
        (3..64).any(|number| {
            fs_err::read_link(format!("/proc/self/fd/{number}"))
                .is_ok_and(|path| path.to_string_lossy().contains("socket"))
        })
    }),
    ("sees where its mounts come from", |aim| {
        let host = Path::new(&aim.file).parent().unwrap().display().to_string();
        fs_err::read_to_string("/proc/self/mountinfo").unwrap().lines().any(|line| {
            // The path in the file system of a cache is seen (proc(5)), and leads nowhere.
            line.split(' ').nth(4).is_some_and(|place| place.contains(&host))
        })
    }),
];

const TIME: std::time::Duration = std::time::Duration::from_millis(200);
