//! Owners of files: given by commands as root, as a user with a range of ids, and as a user with one id, for whom calls are answered.

use std::collections::BTreeMap;
use std::ffi::CString;
use std::os::fd::AsRawFd as _;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{MetadataExt as _, PermissionsExt, symlink};
use std::path::Path;
use std::process::ExitCode;
use std::sync::atomic::{AtomicBool, AtomicU8, Ordering};

use kiln_sandbox::{Ended, Ids, Inode, Overlay, Owners, Ran, Root, Sandbox};
use libc::{AT_EMPTY_PATH, AT_FDCWD, AT_SYMLINK_NOFOLLOW, c_int, c_long};
use rustix::fs::{CWD, XattrFlags};

use crate::cases::{Case, Ground, command, run_whole};

/// Capability `CAP_NET_BIND_SERVICE` of a file, permitted and effective (`struct vfs_cap_data`, version 2).
const CAPABILITY: [u8; 20] = [1, 0, 0, 2, 0, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0];

/// Returns the owner of a path among the changes, as it is inside.
fn owner(root: &Root, owners: &Owners, path: &str) -> (u32, u32) {
    let place = root.upper().join(path);
    let found = fs_err::symlink_metadata(&place).unwrap();
    match owners {
        Owners::Given => {
            // SAFETY: the calls take no arguments.
            let own = unsafe { (libc::geteuid(), libc::getegid()) };
            let inside = |id: u32, own: u32, first: u32| if id == own { 0 } else { id - first + 1 };
            match Ids::of_this_process() {
                Ids::Range(users, groups) => (inside(found.uid(), own.0, users), inside(found.gid(), own.1, groups)),
                _ => (found.uid(), found.gid()),
            }
        }
        Owners::Noted { table, .. } => {
            let mut text = [0; 32];
            if let Ok(length) = rustix::fs::lgetxattr(&place, "user.kiln.owner", &mut text[..]) {
                let (user, group) = std::str::from_utf8(&text[..length]).unwrap().split_once(':').unwrap();
                return (user.parse().unwrap(), group.parse().unwrap());
            }
            let table: BTreeMap<_, _> = table.iter().copied().collect();
            let inode = Inode::of(&place).unwrap();
            table.get(&inode).copied().unwrap_or((0, 0))
        }
        Owners::Lost => panic!("this kernel has no notifications"),
    }
}

/// Runs something of [`act`] over the tree, on an overlay and on copies.
fn both(ground: &Ground, words: &[&str], look: impl Fn(&Root, &Ran, &str)) {
    for overlay in [Overlay::Any, Overlay::Copies] {
        let (_own, root) = ground.layers(vec![ground.tree()]);
        let words: Vec<&str> = ["/attack", "act", "owners"].iter().chain(words).copied().collect();
        let mut said = String::new();
        let sandbox = Sandbox { overlay, ..Sandbox::default() };
        let ran = run_whole(&sandbox, &root, &command(&words), &mut said).unwrap();
        look(&root, &ran, &said);
    }
}

pub(crate) const CASES: &[Case] = &[
    ("files of all kinds are given away, by all calls", |ground| {
        both(ground, &["give"], |root, ran, said| {
            assert_eq!(ran.ended, Ended::Exited(0), "{said}");
            let expected = [
                ("o/by-path", (1000, 1001)),
                ("o/by-link", (1002, 0)),
                ("o/link", (0, 0)),
                ("o/given-link", (5, 6)),
                ("o/renamed-link", (8, 8)),
                ("o/by-descriptor", (7, 0)),
                ("o/at", (0, 1003)),
                ("o/empty", (1004, 1004)),
                ("o/pipe", (9, 10)),
                ("o/directory", (11, 12)),
                ("o/renamed", (13, 14)),
                ("o/hard", (15, 16)),
                ("o/hard-too", (15, 16)),
                ("o/by-number", (17, 17)),
                ("o/by-dev", (18, 18)),
                ("o/back", (0, 0)),
                ("o/new-link", (0, 0)),
                ("data/file", (19, 20)),
            ];
            let found = expected.map(|(path, _)| (path, owner(root, &ran.owners, path)));
            assert_eq!(found, expected);
        });
    }),
    ("every call that asks for an owner is told the one that a file was given", |ground| {
        both(ground, &["look"], |_, ran, said| {
            assert_eq!(ran.ended, Ended::Exited(0), "{said}");
            assert_eq!(said, LOOKS);
        });
    }),
    ("files have the group of a directory that passed it on when they were made", |ground| {
        both(ground, &["made"], |root, ran, said| {
            assert_eq!(ran.ended, Ended::Exited(0), "{said}");
            assert_eq!(said, "0:60 0:60 0:60 0:0 0:0\n");
            let expected = [
                ("g/before", (0, 0)),
                ("g/opened", (0, 60)),
                ("g/made", (0, 60)),
                ("g/made/below", (0, 60)),
                ("g/link", (0, 60)),
                ("g/pipe", (0, 60)),
                ("g/given", (0, 0)),
                ("g/moved", (0, 0)),
                ("out", (0, 60)),
            ];
            let found = expected.map(|(path, _)| (path, owner(root, &ran.owners, path)));
            assert_eq!(found, expected);
        });
    }),
    ("nobody inside sees the attribute that holds an owner", |ground| {
        both(ground, &["attributes"], |root, ran, said| {
            assert_eq!((ran.ended, said), (Ended::Exited(0), "user.other\n\n"));
            assert_eq!([owner(root, &ran.owners, "x/given"), owner(root, &ran.owners, "x/set")], [(5, 6), (0, 0)]);
        });
    }),
    ("files in memory keep owners", |ground| {
        both(ground, &["memory"], |_, ran, said| assert_eq!((ran.ended, said), (Ended::Exited(0), "5:6\n")));
    }),
    ("a program that would become another user by its mode is refused with one id", |ground| {
        if ground.ids == Ids::One {
            both(ground, &["program"], |_, ran, said| match &ran.owners {
                Owners::Noted { another, .. } => assert_eq!((*another, said), (Some(33), "1\n")),
                _ => panic!("{said}"),
            });
        }
    }),
    ("a link of a layer has its owner", |ground| {
        if ground.ids == Ids::One {
            for overlay in [Overlay::Any, Overlay::Copies] {
                let layer = ground.directory.path().join("linked");
                fs_err::create_dir_all(layer.join("data")).unwrap();
                drop(symlink("nowhere", layer.join("data/link")));
                let (_own, mut root) = ground.layers(vec![ground.tree(), layer]);
                root.owners_below.insert("data/link".to_owned(), (7, 8));
                let mut said = String::new();
                let sandbox = Sandbox { overlay, ..Sandbox::default() };
                let ran =
                    run_whole(&sandbox, &root, &command(&["/attack", "act", "owners", "link"]), &mut said).unwrap();
                assert_eq!((ran.ended, said.as_str()), (Ended::Exited(0), "7:8 0:0\n"), "{overlay:?}");
            }
        }
    }),
    ("a new owner takes away bits and capabilities as the kernel does", |ground| {
        both(ground, &["bits"], |root, ran, said| {
            assert_eq!(ran.ended, Ended::Exited(0), "{said}");
            let mode = |path: &str| fs_err::metadata(root.upper().join(path)).unwrap().mode() & 0o7777;
            assert_eq!(["b/file", "b/no-x", "b/directory", "b/same"].map(mode), [0o755, 0o2644, 0o6755, 0o755]);
            assert_eq!((mode("b/after"), owner(root, &ran.owners, "b/after")), (0o4755, (1000, 1000)));
            let has = |path: &str| {
                let name = "security.capability";
                rustix::fs::lgetxattr(root.upper().join(path), name, &mut [0; 64][..]).is_ok()
            };
            assert_eq!((has("b/without"), has("b/with")), (false, true));
        });
    }),
    ("calls fail as the kernel lets them fail", |ground| {
        both(ground, &["errors"], |_, ran, said| {
            assert_eq!(ran.ended, Ended::Exited(0), "{said}");
            assert_eq!(said, ERRORS.map(|(name, error)| format!("{name}: {error}\n")).concat());
        });
    }),
    ("root stays root, and becomes nobody else with one id", |ground| {
        both(ground, &["ids"], |_, ran, said| {
            assert_eq!((ran.ended, said), (Ended::Exited(0), "0 0 0 0 0 0\n"));
            if let Owners::Noted { another, .. } = &ran.owners {
                assert_eq!(*another, None);
            }
        });
        for call in ["uid", "gid", "resuid", "fsuid"] {
            both(ground, &["become", call], |_, ran, said| match &ran.owners {
                Owners::Noted { another, .. } => {
                    let expected = if call == "fsuid" { "0\n" } else { "1\n" };
                    assert_eq!((*another, said), (Some(1000), expected), "{call}");
                }
                _ => assert_eq!(said, "0\n", "{call}"),
            });
        }
    }),
    ("ten thousand calls of many threads are answered", |ground| {
        both(ground, &["many"], |root, ran, said| {
            assert_eq!(ran.ended, Ended::Exited(0), "{said}");
            for thread in 0..8 {
                assert_eq!(owner(root, &ran.owners, &format!("m/{thread}")), (1249, 1249));
            }
        });
    }),
    ("a path that changes while a call is answered leads to a file of the step", |ground| {
        both(ground, &["race"], |_, ran, said| assert_eq!(ran.ended, Ended::Exited(0), "{said}"));
        assert_eq!(fs_err::metadata(&ground.aim.file).unwrap().uid(), fs_err::metadata(ground.tree()).unwrap().uid());
    }),
    ("without notifications owners are lost, and it is told", |ground| {
        if ground.ids == Ids::One {
            let (_own, root) = ground.layers(vec![ground.tree()]);
            let mut program = std::process::Command::new(std::env::current_exe().unwrap());
            let done = program.arg("unsupervised").args([ground.tree(), root.directory]).output().unwrap();
            assert_eq!(String::from_utf8_lossy(&done.stdout), "Exited(0) Lost 22\n");
        }
    }),
    ("files that are no files of the image are given away and keep nothing", |ground| {
        both(ground, &["odd"], |root, ran, said| {
            assert_eq!(ran.ended, Ended::Exited(0), "{said}");
            let mut names = fs_err::read_dir(root.upper()).unwrap();
            assert!(names.next().is_none(), "{names:?}");
        });
        let null = fs_err::metadata("/dev/null").unwrap();
        assert_eq!((null.uid(), null.mode() & 0o777), (0, 0o666));
    }),
];

fn shown(path: &str) -> String {
    let found = fs_err::symlink_metadata(path).unwrap();
    format!("{}:{}", found.uid(), found.gid())
}

fn made() {
    fs_err::create_dir("/g").unwrap();
    fs_err::write("/g/before", "").unwrap();
    assert_eq!(chown("/g", 0, 60), 0);
    fs_err::set_permissions("/g", PermissionsExt::from_mode(0o2775)).unwrap();
    std::env::set_current_dir("/g").unwrap();
    for name in ["opened", "/g/given", "leaves"] {
        fs_err::write(name, "").unwrap();
    }
    assert_eq!(chown("given", SAME, 0), 0);
    fs_err::create_dir("made").unwrap();
    fs_err::write("made/below", "").unwrap();
    symlink("nowhere", "link").unwrap();
    rustix::fs::mknodat(CWD, "pipe", rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    fs_err::write("/moved", "").unwrap();
    fs_err::rename("/moved", "moved").unwrap();
    let all = ["opened", "made/below", "link", "given", "moved"].map(shown);
    fs_err::rename("leaves", "/out").unwrap();
    println!("{}", all.join(" "));
}

fn attributes() {
    fs_err::create_dir("/x").unwrap();
    for name in ["/x/given", "/x/set"] {
        fs_err::write(name, "").unwrap();
    }
    rustix::fs::setxattr("/x/given", "user.other", b"1", XattrFlags::empty()).unwrap();
    assert_eq!(chown("/x/given", 5, 6), 0);
    rustix::fs::setxattr("/x/set", "user.kiln.owner", b"7:8", XattrFlags::empty()).unwrap();
    for name in ["/x/given", "/x/set"] {
        let mut names = vec![0; 1 << 10];
        let length = rustix::fs::listxattr(name, names.as_mut_slice()).unwrap();
        let names = String::from_utf8_lossy(&names[..length]).replace("user.kiln.owner\0", "");
        println!("{}", names.trim_end_matches('\0').replace('\0', " "));
    }
}

/// Owners and sizes that calls tell.
const LOOKS: &str = "stat 5:6 3\nlstat 7:8 7\nfstat 5:6 3\nfstatat 5:6 3\nempty 5:6 3\nlink 7:8 7\nstatx 5:6 3\nstatx link 7:8 7\n\
                     self 5:6 3\nroot 0:0 1\nlast 0:0 3\nnowhere 14\nnothing 2\n";

fn look() {
    fs_err::create_dir("/l").unwrap();
    std::env::set_current_dir("/l").unwrap();
    fs_err::write("given", "123").unwrap();
    fs_err::write("roots", "1").unwrap();
    symlink("nowhere", "link").unwrap();
    assert_eq!((chown("given", 5, 6), lchown("link", 7, 8)), (0, 0));
    let file = fs_err::File::open("given").unwrap();
    let say = |name: &str, found: libc::stat| println!("{name} {}:{} {}", found.st_uid, found.st_gid, found.st_size);
    let said = |name: &str, done: c_int, found: libc::stat| match done {
        0 => say(name, found),
        _ => println!("{name} {}", std::io::Error::last_os_error().raw_os_error().unwrap()),
    };
    let at = |directory: c_int, path: &str, flags: c_int| {
        let path = text(path);
        // SAFETY: zeros are values of integers; the kernel writes one struct and reads a string that ends in a zero byte.
        unsafe {
            let mut found: libc::stat = std::mem::zeroed();
            (libc::fstatat(directory, path.as_ptr(), &raw mut found, flags), found)
        }
    };
    let by = |call: c_long, first: u64| {
        // SAFETY: as above; the first argument is a path's address or a descriptor.
        unsafe {
            let mut found: libc::stat = std::mem::zeroed();
            (libc::syscall(call, first, &raw mut found) as c_int, found)
        }
    };
    let extended = |path: &str, flags: c_int| {
        let path = text(path);
        // SAFETY: as above.
        let (done, found) = unsafe {
            let mut found: libc::statx = std::mem::zeroed();
            (libc::statx(AT_FDCWD, path.as_ptr(), flags, libc::STATX_BASIC_STATS, &raw mut found), found)
        };
        assert_eq!((done, found.stx_mask & libc::STATX_BASIC_STATS), (0, libc::STATX_BASIC_STATS));
        format!("{}:{} {}", found.stx_uid, found.stx_gid, found.stx_size)
    };
    let (given, link) = (text("given"), text("link"));
    #[cfg(target_arch = "x86_64")]
    {
        let (done, found) = by(libc::SYS_stat, given.as_ptr() as u64);
        said("stat", done, found);
        let (done, found) = by(libc::SYS_lstat, link.as_ptr() as u64);
        said("lstat", done, found);
    }
    let (done, found) = by(libc::SYS_fstat, file.as_raw_fd() as u64);
    said("fstat", done, found);
    for (name, directory, path, flags) in [
        ("fstatat", AT_FDCWD, "/l/given", 0),
        ("empty", file.as_raw_fd(), "", AT_EMPTY_PATH),
        ("link", AT_FDCWD, "link", AT_SYMLINK_NOFOLLOW),
    ] {
        let (done, found) = at(directory, path, flags);
        said(name, done, found);
    }
    println!("statx {}", extended("given", 0));
    println!("statx link {}", extended("link", AT_SYMLINK_NOFOLLOW));
    for (name, path) in [("self", format!("/proc/self/fd/{}", file.as_raw_fd())), ("root", "roots".into())] {
        let (done, found) = at(AT_FDCWD, &path, 0);
        said(name, done, found);
    }
    assert_eq!(chown("given", 0, 0), 0);
    let (done, found) = at(AT_FDCWD, "given", 0);
    said("last", done, found);
    assert_eq!(chown("given", 5, 6), 0);
    // SAFETY: the address is no one's, which is an error.
    let done = unsafe { libc::syscall(libc::SYS_newfstatat, AT_FDCWD, given.as_ptr(), 8, 0) };
    println!("nowhere {}", error(done));
    let (done, found) = at(AT_FDCWD, "nothing", 0);
    said("nothing", done, found);
}

/// Attempts and the errors that they give, 0 for none.
const ERRORS: [(&str, c_int); 18] = [
    ("no file", libc::ENOENT),
    ("an empty path", libc::ENOENT),
    ("below a file", libc::ENOTDIR),
    ("a file as a directory", libc::ENOTDIR),
    ("links in a circle", libc::ELOOP),
    ("a link in a circle itself", 0),
    ("a long name", libc::ENAMETOOLONG),
    ("a long path", libc::ENAMETOOLONG),
    ("no memory", libc::EFAULT),
    ("no descriptor", libc::EBADF),
    ("a descriptor of a path alone", libc::EBADF),
    ("no directory's descriptor", libc::ENOTDIR),
    ("no descriptor and a whole path", 0),
    ("unknown flags", libc::EINVAL),
    ("an id that there is not", libc::EINVAL),
    ("groups that there are not", libc::EINVAL),
    ("what the first process has open", libc::EACCES),
    ("without the capability", libc::EPERM),
];

fn error(done: c_long) -> c_int {
    if done == 0 { 0 } else { std::io::Error::last_os_error().raw_os_error().unwrap() }
}

fn text(path: impl AsRef<Path>) -> CString {
    CString::new(path.as_ref().as_os_str().as_bytes()).unwrap()
}

fn chown_at(directory: c_int, path: impl AsRef<Path>, ids: (u32, u32), flags: c_int) -> c_int {
    let path = text(path);
    // SAFETY: the string ends in a zero byte.
    error(unsafe { libc::fchownat(directory, path.as_ptr(), ids.0, ids.1, flags) }.into())
}

fn chown(path: impl AsRef<Path>, user: u32, group: u32) -> c_int {
    let path = text(path);
    // SAFETY: the string ends in a zero byte.
    error(unsafe { libc::chown(path.as_ptr(), user, group) }.into())
}

fn lchown(path: impl AsRef<Path>, user: u32, group: u32) -> c_int {
    let path = text(path);
    // SAFETY: the string ends in a zero byte.
    error(unsafe { libc::lchown(path.as_ptr(), user, group) }.into())
}

fn fchown(file: c_int, user: u32, group: u32) -> c_int {
    // SAFETY: the call takes integers alone.
    error(unsafe { libc::fchown(file, user, group) }.into())
}

const SAME: u32 = u32::MAX;

/// The commands of the cases.
pub(crate) fn act(words: &[&str]) -> ExitCode {
    match words {
        ["give"] => give(),
        ["bits"] => bits(),
        ["errors"] => errors(),
        ["ids"] => ids(),
        ["become", call] => {
            // SAFETY: the calls take integers alone.
            let done = unsafe {
                match *call {
                    "uid" => libc::setuid(1000),
                    "gid" => libc::setgid(1000),
                    "resuid" => libc::setresuid(u32::MAX, 1000, 0),
                    _ => libc::setfsuid(1000),
                }
            };
            println!("{}", error(done.into()));
        }
        ["many"] => many(),
        ["one"] => println!("{}", chown("/data/file", 5, 5)),
        ["race"] => race(),
        ["odd"] => odd(),
        ["look"] => look(),
        ["made"] => made(),
        ["attributes"] => attributes(),
        ["memory"] => {
            fs_err::write("/dev/shm/file", "").unwrap();
            assert_eq!(chown("/dev/shm/file", 5, 6), 0);
            println!("{}", shown("/dev/shm/file"));
        }
        ["program"] => {
            fs_err::copy("/attack", "/other").unwrap();
            assert_eq!(chown("/other", 33, 0), 0);
            fs_err::set_permissions("/other", PermissionsExt::from_mode(0o4755)).unwrap();
            let started = std::process::Command::new("/other").arg("act").status();
            println!("{}", started.unwrap_err().raw_os_error().unwrap());
        }
        ["link"] => {
            let owner =
                || fs_err::symlink_metadata("/data/link").map(|found| format!("{}:{}", found.uid(), found.gid()));
            let below = owner().unwrap();
            fs_err::rename("/data/link", "/data/former").unwrap();
            symlink("file", "/data/link").unwrap();
            println!("{below} {}", shown("/data/link"));
        }
        other => panic!("{other:?}"),
    }
    ExitCode::SUCCESS
}

/// Gives a file away again and again.
pub(crate) fn give_away_for_ever() -> ExitCode {
    loop {
        chown("/data/file", 1, 1);
        chown("/data/file", 2, 2);
    }
}

/// Runs a command that gives a file away, under a supervisor that never answers: a process has one at most.
pub(crate) fn run_unsupervised(tree: &str, directory: &str) -> ExitCode {
    let allow =
        libc::sock_filter { code: (libc::BPF_RET | libc::BPF_K) as u16, jt: 0, jf: 0, k: libc::SECCOMP_RET_ALLOW };
    let program = libc::sock_fprog { len: 1, filter: (&raw const allow).cast_mut() };
    rustix::thread::set_no_new_privs(true).unwrap();
    // SAFETY: the kernel reads one instruction; the descriptor stays open for this process and those that it starts.
    let listener = unsafe {
        let (mode, flag) = (libc::SECCOMP_SET_MODE_FILTER, libc::SECCOMP_FILTER_FLAG_NEW_LISTENER);
        libc::dup(libc::syscall(libc::SYS_seccomp, mode, flag, &raw const program) as c_int)
    };
    assert!(listener >= 0);
    let root = Root { layers: vec![tree.into()], owners_below: BTreeMap::new(), directory: directory.into() };
    let mut said = String::new();
    let ran = run_whole(&Sandbox::default(), &root, &command(&["/attack", "act", "owners", "one"]), &mut said).unwrap();
    print!("{:?} {:?} {said}", ran.ended, ran.owners);
    ExitCode::SUCCESS
}

fn give() {
    fs_err::create_dir_all("/o/directory").unwrap();
    std::env::set_current_dir("/o").unwrap();
    for name in ["by-path", "linked", "by-descriptor", "at", "empty", "old", "hard", "by-number", "by-dev", "back"] {
        fs_err::write(name, name).unwrap();
    }
    assert_eq!(chown("/o/../o/./by-path", 1000, 1001), 0);
    fs_err::rename("linked", "by-link").unwrap();
    symlink("../o/by-link", "link").unwrap();
    assert_eq!(chown("link", 1002, SAME), 0);
    symlink("nowhere", "given-link").unwrap();
    assert_eq!(lchown("given-link", 5, 6), 0);
    symlink("nowhere", "old-link").unwrap();
    assert_eq!(chown_at(AT_FDCWD, "old-link", (8, 8), AT_SYMLINK_NOFOLLOW), 0);
    fs_err::rename("old-link", "renamed-link").unwrap();
    let file = fs_err::File::open("by-descriptor").unwrap();
    assert_eq!(fchown(file.as_raw_fd(), 7, SAME), 0);
    let directory = fs_err::File::open("/o").unwrap();
    assert_eq!(chown_at(directory.as_raw_fd(), "at", (SAME, 1003), 0), 0);
    let file = fs_err::File::open("empty").unwrap();
    assert_eq!(chown_at(file.as_raw_fd(), "", (1004, SAME), AT_EMPTY_PATH), 0);
    assert_eq!(chown_at(file.as_raw_fd(), "", (SAME, 1004), AT_EMPTY_PATH), 0);
    rustix::fs::mknodat(CWD, "pipe", rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
    assert_eq!(chown("pipe", 9, 10), 0);
    assert_eq!(chown("directory/", 11, 12), 0);
    assert_eq!(chown("old", 13, 14), 0);
    fs_err::rename("old", "renamed").unwrap();
    fs_err::hard_link("hard", "hard-too").unwrap();
    assert_eq!(chown("hard-too", 15, 16), 0);
    let file = fs_err::File::open("by-number").unwrap();
    assert_eq!(chown(format!("/proc/self/fd/{}", file.as_raw_fd()), 17, 17), 0);
    let file = fs_err::File::open("by-dev").unwrap();
    assert_eq!(chown(format!("/dev/fd/{}", file.as_raw_fd()), 18, 18), 0);
    assert_eq!((chown("back", 1, 1), chown("back", 0, 0)), (0, 0));
    // A later file of the same inode is another one.
    symlink("nowhere", "gone").unwrap();
    assert_eq!(lchown("gone", 33, 33), 0);
    fs_err::remove_file("gone").unwrap();
    symlink("nowhere", "new-link").unwrap();
    // One of a layer below.
    assert_eq!(chown("/data/file", 19, 20), 0);
}

fn bits() {
    fs_err::create_dir_all("/b/directory").unwrap();
    std::env::set_current_dir("/b").unwrap();
    let mode = |name: &str, mode| fs_err::set_permissions(name, PermissionsExt::from_mode(mode)).unwrap();
    for (name, bits) in [("file", 0o6755), ("no-x", 0o6644), ("same", 0o6755), ("with", 0o755), ("without", 0o755)] {
        fs_err::write(name, name).unwrap();
        mode(name, bits);
    }
    mode("directory", 0o6755);
    for name in ["with", "without"] {
        rustix::fs::setxattr(name, "security.capability", &CAPABILITY, XattrFlags::empty()).unwrap();
    }
    for name in ["file", "no-x", "directory", "without"] {
        assert_eq!(chown(name, 1000, 1000), 0, "{name}");
    }
    assert_eq!(chown("same", SAME, SAME), 0);
    fs_err::write("after", "").unwrap();
    assert_eq!(chown("after", 1000, 1000), 0);
    mode("after", 0o4755);
}

fn errors() {
    fs_err::create_dir("/e").unwrap();
    std::env::set_current_dir("/e").unwrap();
    fs_err::write("file", "").unwrap();
    symlink("circle", "circle").unwrap();
    let file = fs_err::File::open("file").unwrap();
    let path_alone = rustix::fs::open("file", rustix::fs::OFlags::PATH, rustix::fs::Mode::empty()).unwrap();
    let groups = [5, 70_000_u32];
    // SAFETY: the address is no one's, and the list is as long as is said.
    let (nowhere, groups) = unsafe {
        let nowhere = std::ptr::without_provenance::<libc::c_char>(8);
        (error(libc::chown(nowhere, 1, 1).into()), error(libc::setgroups(2, groups.as_ptr()).into()))
    };
    let long = "x/".repeat(2500);
    let found = [
        chown("nothing", 1, 1),
        chown("", 1, 1),
        chown("file/x", 1, 1),
        lchown("file/", 1, 1),
        chown("circle", 1, 1),
        lchown("circle", 1, 1),
        chown("x".repeat(256), 1, 1),
        chown(long, 1, 1),
        nowhere,
        fchown(77, 1, 1),
        fchown(path_alone.as_raw_fd(), 1, 1),
        chown_at(file.as_raw_fd(), "x", (1, 1), 0),
        chown_at(77, "/e/file", (1, 1), 0),
        chown_at(AT_FDCWD, "file", (1, 1), 0x4_0000),
        chown("file", 65_536, SAME),
        groups,
        chown("/proc/1/fd/0", 1, 1),
        {
            rustix::thread::set_capabilities(
                None,
                rustix::thread::CapabilitySets {
                    effective: rustix::thread::CapabilitySet::FOWNER,
                    permitted: rustix::thread::CapabilitySet::FOWNER,
                    inheritable: rustix::thread::CapabilitySet::empty(),
                },
            )
            .unwrap();
            chown("file", 2, 2)
        },
    ];
    for ((name, _), found) in ERRORS.iter().zip(found) {
        println!("{name}: {found}");
    }
}

fn ids() {
    let groups = [0_u32, 5, 6];
    // SAFETY: the list is as long as is said; the other calls take integers alone.
    let done = unsafe {
        [
            libc::setgroups(3, groups.as_ptr()),
            libc::setuid(0),
            libc::setresgid(u32::MAX, 0, u32::MAX),
            libc::setreuid(u32::MAX, 0),
            libc::setfsuid(u32::MAX),
            libc::setegid(0),
        ]
    };
    println!("{}", done.map(|done| error(done.into()).to_string()).join(" "));
}

fn many() {
    fs_err::create_dir("/m").unwrap();
    let threads = (0..8).map(|thread| {
        std::thread::spawn(move || {
            let name = format!("/m/{thread}");
            fs_err::write(&name, "").unwrap();
            for id in 0..1250 {
                assert_eq!(chown(&name, id, id), 0);
            }
        })
    });
    let threads: Vec<_> = threads.collect();
    threads.into_iter().for_each(|thread| thread.join().unwrap());
}

/// Swaps a directory and a link, and the text of a path, while files are given away.
fn race() {
    static ENDED: AtomicBool = AtomicBool::new(false);
    fs_err::create_dir_all("/r/one").unwrap();
    fs_err::write("/r/one/file", "").unwrap();
    symlink("/proc/1/root/etc", "/r/two").unwrap();
    let swap = std::thread::spawn(|| {
        while !ENDED.load(Ordering::Relaxed) {
            let flags = rustix::fs::RenameFlags::EXCHANGE;
            rustix::fs::renameat_with(CWD, "/r/one", CWD, "/r/two", flags).unwrap();
        }
    });
    static PATH: [AtomicU8; 12] = [const { AtomicU8::new(0) }; 12];
    let put = |at: usize, bytes: &[u8]| {
        bytes.iter().enumerate().for_each(|(offset, byte)| PATH[at + offset].store(*byte, Ordering::Relaxed));
    };
    put(0, b"/r/one/file");
    let write = std::thread::spawn(move || {
        while !ENDED.load(Ordering::Relaxed) {
            put(3, b"two");
            put(3, b"one");
        }
    });
    for _ in 0..2000 {
        // SAFETY: the bytes end in a zero that nobody writes to.
        unsafe { libc::chown(PATH.as_ptr().cast(), 1000, 1000) };
    }
    ENDED.store(true, Ordering::Relaxed);
    swap.join().unwrap();
    write.join().unwrap();
}

fn odd() {
    let mut pipe = [0; 2];
    // SAFETY: the calls write two descriptors, and read a string that ends in a zero byte.
    let (memory, socket) = unsafe {
        assert_eq!(libc::pipe(pipe.as_mut_ptr()), 0);
        (libc::memfd_create(c"x".as_ptr(), 0), libc::socket(libc::AF_UNIX, libc::SOCK_STREAM, 0))
    };
    for (name, file) in [("pipe", pipe[0]), ("memory", memory), ("socket", socket)] {
        assert_eq!(fchown(file, 0, SAME), 0, "{name}");
        assert_eq!(fchown(file, 5, 6), 0, "{name}");
    }
    // They may fail; they change nothing of the machine.
    for path in ["/dev/null", "/proc/self/status", "/proc/sys/kernel", "/dev/shm", "/dev", "/proc", "/sys"] {
        chown(path, 5, 6);
        let _ = fs_err::set_permissions(path, PermissionsExt::from_mode(0o700));
    }
}
