//! Answers for a user with one id, who can neither give a file away nor become another user: both calls are answered by the outer
//! helper (seccomp_unotify(2)). No such call is let through after it was looked at: its arguments could be others by then.
//!
//! Calls that ask for an owner are answered for files that were given away ([`look`]), and let through for all others.
//!
//! A file that is given away gets an extended attribute with its owner ([`OWNER`]); links, pipes and sockets can have none, and stand
//! in a table. Otherwise the kernel does what it does for every change of owner, since root is made the owner anew: the file is
//! copied up, and bits and capabilities that a new owner may not inherit go.

mod attributes;
mod caller;
mod look;
mod lookup;
mod made;
mod programs;

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::io;
use std::os::fd::{AsFd as _, AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::net::UnixStream;
use std::path::Path;

use rustix::event::{PollFd, PollFlags, poll};
use rustix::fs::{
    AtFlags, CWD, FileType, Gid, Mode, OFlags, ResolveFlags, StatxFlags, Uid, XattrFlags, chownat, fstat, fstatfs,
    getxattr, open, openat2, readlinkat, setxattr, statx,
};
use rustix::io::Errno;
use rustix::process::{Pid, PidfdFlags, fchdir, pidfd_open};
use rustix::time::{ClockId, clock_gettime};

use self::caller::Caller;
use self::lookup::Lookup;
use self::made::Made;
use crate::ids::IDS;
use crate::notify::{self, Answer, Call, Listener};
use crate::owners::{Inode, OWNER, Owners};
use crate::privileges::X32;

/// Capabilities that the calls need (capability.h).
const CAP_CHOWN: u32 = 0;
const CAP_SETGID: u32 = 6;
const CAP_SETUID: u32 = 7;
/// Groups of a process at most.
const GROUPS: u64 = 65_536;

/// The kind of file systems in memory (magic.h).
const TMPFS_MAGIC: rustix::fs::FsWord = 0x0102_1994;

/// Calls that are answered.
pub(crate) const CALLS: &[libc::c_long] = &[
    #[cfg(target_arch = "x86_64")]
    libc::SYS_chown,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lchown,
    libc::SYS_fchown,
    libc::SYS_fchownat,
    libc::SYS_setgroups,
    libc::SYS_setuid,
    libc::SYS_setgid,
    libc::SYS_setreuid,
    libc::SYS_setregid,
    libc::SYS_setresuid,
    libc::SYS_setresgid,
    libc::SYS_setfsuid,
    libc::SYS_setfsgid,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_stat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_lstat,
    libc::SYS_fstat,
    libc::SYS_newfstatat,
    libc::SYS_statx,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_creat,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mkdir,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_mknod,
    #[cfg(target_arch = "x86_64")]
    libc::SYS_symlink,
    libc::SYS_mkdirat,
    libc::SYS_mknodat,
    libc::SYS_symlinkat,
    libc::SYS_openat2,
    libc::SYS_listxattr,
    libc::SYS_llistxattr,
    libc::SYS_flistxattr,
    libc::SYS_setxattr,
    libc::SYS_lsetxattr,
    libc::SYS_fsetxattr,
    libc::SYS_execve,
    libc::SYS_execveat,
];

/// Calls that are answered where this argument has a bit of these: those that open a file, if they may make it.
pub(crate) const CALLS_WITH: &[(libc::c_long, usize, u32)] = &[
    #[cfg(target_arch = "x86_64")]
    (libc::SYS_open, 1, libc::O_CREAT as u32),
    (libc::SYS_openat, 2, libc::O_CREAT as u32),
];

/// The one who answers.
pub(crate) struct Supervisor {
    /// `/proc` of this process, which becomes its working directory, too. Its root becomes the command's.
    proc: OwnedFd,
    /// The directory of the changes.
    upper: OwnedFd,
    /// Owners of what can have no attribute.
    table: BTreeMap<Inode, (u32, u32)>,
    /// A file system has no attributes: its files and directories stand in the table, too.
    lacks_attributes: bool,
    /// Owners of such files in the layers, by path.
    below: BTreeMap<String, (u32, u32)>,
    /// Files that may be being made, and are to be noted.
    made: Vec<Made>,
    /// The time at which the command started, by the clock of file systems.
    started: (i64, u32),
    /// The id of a user or group that a process wanted to become.
    another: Option<u32>,
}

impl Supervisor {
    /// Opens what cannot be reached later.
    pub(crate) fn new(upper: &Path, below: BTreeMap<String, (u32, u32)>) -> io::Result<Self> {
        // Not as a path alone: that cannot become the working directory on all kernels.
        let directory = |path: &Path| open(path, OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty());
        let proc = directory(Path::new("/proc"))?;
        Ok(Self {
            proc,
            upper: directory(upper)?,
            table: BTreeMap::new(),
            lacks_attributes: false,
            below,
            made: Vec::new(),
            started: (0, 0),
            another: None,
        })
    }

    /// Answers until the first process of the command's namespace ends.
    pub(crate) fn run(mut self, socket: &UnixStream, first: Pid) -> io::Result<Owners> {
        fchdir(&self.proc)?;
        let Some(listener) = notify::receive(socket.as_fd())? else { return Ok(Owners::Lost) };
        listener.wake_here();
        let now = clock_gettime(ClockId::RealtimeCoarse);
        self.started = (now.tv_sec, now.tv_nsec as u32);
        let first = pidfd_open(first, PidfdFlags::empty())?;
        loop {
            let mut ready = [PollFd::new(&listener, PollFlags::IN), PollFd::new(&first, PollFlags::IN)];
            match poll(&mut ready, None) {
                Err(Errno::INTR) => continue,
                done => done?,
            };
            let (notified, ended) = (ready[0].revents(), ready[1].revents());
            if notified.contains(PollFlags::IN)
                && let Some(call) = listener.next()?
            {
                let answer = self.answer(&listener, &call);
                listener.answer(&call, answer);
            } else if !ended.is_empty() || notified.contains(PollFlags::HUP) {
                break;
            }
        }
        self.note_made(None);
        let table = self.table.into_iter().collect();
        Ok(Owners::Noted { table, another: self.another })
    }

    fn answer(&mut self, listener: &Listener, call: &Call) -> Answer {
        if !self.made.is_empty() {
            self.note_made(Some(call.thread));
        }
        let caller = match Caller::open(&self.proc, call.thread) {
            Ok(caller) => caller,
            Err(error) => return Answer::Error(error),
        };
        let looked_at = self.look(&caller, listener, call).or_else(|| self.program(&caller, call));
        if let Some(answer) = looked_at.or_else(|| self.attributes(&caller, listener, call)) {
            return answer;
        }
        if self.may_make(&caller, call) {
            return Answer::Through;
        }
        self.act(&caller, listener, call).map_or_else(Answer::Error, Answer::Value)
    }

    fn act(&mut self, caller: &Caller, listener: &Listener, call: &Call) -> Result<i64, Errno> {
        let waits = || if listener.is_waiting(call) { Ok(()) } else { Err(Errno::SRCH) };
        let [a, b, c, d, e, _] = call.arguments;
        // The kernel takes the lower halves.
        let (number, flags) = (a as i32, AtFlags::from_bits_retain(e as u32));
        let lookup = Lookup { caller, proc: &self.proc };
        let at = |directory: i32, path: u64, follow: bool| {
            let path = caller.path(path)?;
            let found = lookup.find(directory, &path, follow)?;
            waits().map(|()| found)
        };
        let ((user, group), target) = match call.number & !X32 {
            #[cfg(target_arch = "x86_64")]
            libc::SYS_chown => ((b, c), at(libc::AT_FDCWD, a, true)?),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_lchown => ((b, c), at(libc::AT_FDCWD, a, false)?),
            libc::SYS_fchown => ((b, c), caller.open_file(number).and_then(|file| waits().map(|()| file))?),
            libc::SYS_fchownat => {
                if !(AtFlags::SYMLINK_NOFOLLOW | AtFlags::EMPTY_PATH).contains(flags) {
                    return Err(Errno::INVAL);
                }
                let is_empty = flags.contains(AtFlags::EMPTY_PATH) && (b == 0 || caller.path(b)?.is_empty());
                let target = match is_empty {
                    true => caller.descriptor(number).and_then(|file| waits().map(|()| file))?,
                    false => at(number, b, !flags.contains(AtFlags::SYMLINK_NOFOLLOW))?,
                };
                ((c, d), target)
            }
            libc::SYS_setgroups => return groups(caller, a, b),
            other => return self.become_another(caller, other, [a, b, c]),
        };
        self.own(&target, (user as u32, group as u32), caller.may(CAP_CHOWN)).map(|()| 0)
    }

    /// Gives a file away; an id of -1 leaves it as it is.
    fn own(&mut self, target: &OwnedFd, ids: (u32, u32), may: bool) -> Result<(), Errno> {
        let part = |id: u32| if id == u32::MAX { Ok(None) } else { valid(id).map(Some) };
        let (user, group) = (part(ids.0)?, part(ids.1)?);
        let noted = self.noted(target);
        let now = noted.unwrap_or((0, 0));
        let wanted = (user.unwrap_or(now.0), group.unwrap_or(now.1));
        if wanted != now && !may {
            return Err(Errno::PERM);
        }
        chownat(target, "", user.map(|_| Uid::ROOT), group.map(|_| Gid::ROOT), AtFlags::EMPTY_PATH)?;
        if (noted.is_none() && wanted == (0, 0)) || !keeps_owners(target)? {
            return Ok(());
        }
        self.note(target, wanted)
    }

    /// Notes an owner: in an attribute, where a file can have one.
    fn note(&mut self, target: &OwnedFd, owner: (u32, u32)) -> Result<(), Errno> {
        if matches!(kind(target)?, FileType::RegularFile | FileType::Directory) {
            let text = format!("{}:{}", owner.0, owner.1);
            match setxattr(own_path(target), OWNER, text.as_bytes(), XattrFlags::empty()) {
                Err(Errno::OPNOTSUPP) => self.lacks_attributes = true,
                done => return done,
            }
        }
        if let Some(inode) = self.inode(target) {
            self.table.insert(inode, owner);
        }
        Ok(())
    }

    /// Returns the owner that was noted for a file.
    fn noted(&self, target: &OwnedFd) -> Option<(u32, u32)> {
        let mut text = [0; 32];
        if let Ok(length) = getxattr(own_path(target), OWNER, &mut text[..]) {
            let (user, group) = std::str::from_utf8(&text[..length]).ok()?.split_once(':')?;
            return Some((user.parse().ok()?, group.parse().ok()?));
        }
        let has_attributes = || matches!(kind(target), Ok(FileType::RegularFile | FileType::Directory));
        if self.table.is_empty() && self.below.is_empty() || (!self.lacks_attributes && has_attributes()) {
            return None;
        }
        let known = self.inode(target).and_then(|inode| self.table.get(&inode));
        known.or_else(|| self.of_layer(target)).copied()
    }

    /// Returns the owner of a file that no change put where it is: copies of layers are some ticks of the clock older than the command.
    fn of_layer(&self, target: &OwnedFd) -> Option<&(u32, u32)> {
        let owner = self.below.get(self.path(target)?.to_str()?)?;
        let is_older = Inode::of_open(target).is_ok_and(|inode| inode.made < self.started);
        (is_older && self.in_upper(target).is_none()).then_some(owner)
    }

    /// Returns the inode among the changes. An overlay may show another; copies are not among the changes yet.
    fn inode(&self, target: &OwnedFd) -> Option<Inode> {
        let real = self.in_upper(target);
        Inode::of_open(real.as_ref().unwrap_or(target)).ok()
    }

    /// Returns the path of a file of the image, without a leading slash.
    fn path(&self, target: &OwnedFd) -> Option<OsString> {
        let path = readlinkat(&self.proc, own_path(target), Vec::new()).ok()?;
        Some(OsStr::from_bytes(path.as_bytes().strip_prefix(b"/")?).to_owned())
    }

    fn in_upper(&self, target: &OwnedFd) -> Option<OwnedFd> {
        let path = self.path(target)?;
        let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let beneath = ResolveFlags::BENEATH | ResolveFlags::NO_SYMLINKS;
        let real = openat2(&self.upper, path, flags, Mode::empty(), beneath).ok()?;
        (kind(&real) == kind(target)).then_some(real)
    }

    /// Answers a call that changes ids: root may stay root.
    fn become_another(&mut self, caller: &Caller, call: libc::c_long, arguments: [u64; 3]) -> Result<i64, Errno> {
        let arguments = arguments.map(|id| id as u32);
        let (ids, capability, only_if_valid) = match call {
            libc::SYS_setuid => (&arguments[..1], CAP_SETUID, false),
            libc::SYS_setgid => (&arguments[..1], CAP_SETGID, false),
            libc::SYS_setreuid => (&arguments[..2], CAP_SETUID, true),
            libc::SYS_setregid => (&arguments[..2], CAP_SETGID, true),
            libc::SYS_setresuid => (&arguments[..], CAP_SETUID, true),
            libc::SYS_setresgid => (&arguments[..], CAP_SETGID, true),
            libc::SYS_setfsuid | libc::SYS_setfsgid => {
                // They return the id as it was, and tell of no error.
                self.another = self.another.or(Some(arguments[0]).filter(|id| (1..IDS).contains(id)));
                return Ok(0);
            }
            _ => return Err(Errno::NOSYS),
        };
        for id in ids.iter().filter(|id| !(only_if_valid && **id == u32::MAX)) {
            if valid(*id)? != 0 {
                if caller.may(capability) {
                    self.another = self.another.or(Some(*id));
                }
                return Err(Errno::PERM);
            }
        }
        Ok(0)
    }
}

/// Answers a change of further groups: to root, who may do everything, they mean nothing.
fn groups(caller: &Caller, count: u64, list: u64) -> Result<i64, Errno> {
    if !caller.may(CAP_SETGID) {
        return Err(Errno::PERM);
    }
    let count = count & u64::from(u32::MAX);
    if count > GROUPS {
        return Err(Errno::INVAL);
    }
    let mut ids = vec![0; count as usize * 4];
    if count > 0 {
        caller.memory(list, &mut ids)?;
    }
    let (ids, _) = ids.as_chunks::<4>();
    ids.iter().try_for_each(|id| valid(u32::from_ne_bytes(*id)).map(drop)).map(|()| 0)
}

/// Refuses an id that root's sandbox does not have either.
fn valid(id: u32) -> Result<u32, Errno> {
    if id < IDS { Ok(id) } else { Err(Errno::INVAL) }
}

fn kind(file: &OwnedFd) -> Result<FileType, Errno> {
    Ok(FileType::from_raw_mode(fstat(file)?.st_mode))
}

/// Returns a path, from this process's `/proc` on, that leads to an open file.
fn own_path(file: &OwnedFd) -> String {
    format!("self/fd/{}", file.as_raw_fd())
}

/// Returns true if a file lies on the file system of the image, or on one of files in memory (`/dev/shm`), and not on one that the
/// kernel shows.
fn keeps_owners(file: &OwnedFd) -> Result<bool, Errno> {
    if fstatfs(file)?.f_type == TMPFS_MAGIC {
        return Ok(true);
    }
    let root = statx(CWD, "/", AtFlags::empty(), StatxFlags::MNT_ID)?;
    let found = statx(file, "", AtFlags::EMPTY_PATH, StatxFlags::MNT_ID)?;
    Ok(root.stx_mnt_id == found.stx_mnt_id)
}
