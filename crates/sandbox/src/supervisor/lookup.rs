//! Finding a file by a path as the kernel does it for the caller (path_resolution(7)): component by component, each opened once.
//!
//! The kernel could do this by itself but for `/proc/self`: that is whoever looks, and not the caller.

use std::ffi::OsStr;
use std::os::fd::{AsRawFd as _, OwnedFd};
use std::os::unix::ffi::OsStrExt as _;

use rustix::fs::{
    FileType, Mode, OFlags, PROC_SUPER_MAGIC, ResolveFlags, Stat, fstat, fstatfs, openat, openat2, readlinkat,
};
use rustix::io::Errno;

use super::caller::Caller;

/// Links that are followed for one path.
const LINKS: u32 = 40;
/// The inode of the root of a file system `proc`.
const PROC_ROOT: u64 = 1;

pub(super) struct Lookup<'c> {
    pub(super) caller: &'c Caller,
    /// `/proc` of this process.
    pub(super) proc: &'c OwnedFd,
}

impl Lookup<'_> {
    /// Finds a file where nothing is guarded: by the kernel where it goes the way that it would go for the caller, which is the case but
    /// for links that leave a directory, and for `/proc/self`.
    pub(super) fn find_quickly(&self, directory: i32, path: &[u8], follow: bool) -> Result<OwnedFd, Errno> {
        let (from, within) = match path.starts_with(b"/") {
            true => (self.caller.root()?, ResolveFlags::IN_ROOT),
            false => (self.caller.descriptor(directory)?, ResolveFlags::BENEATH),
        };
        let flags = if follow { OFlags::PATH } else { OFlags::PATH | OFlags::NOFOLLOW } | OFlags::CLOEXEC;
        let within = within | ResolveFlags::NO_MAGICLINKS;
        match openat2(from, OsStr::from_bytes(path), flags, Mode::empty(), within) {
            Err(Errno::XDEV | Errno::LOOP | Errno::NOSYS | Errno::AGAIN) => self.find(directory, path, follow),
            Err(Errno::NOENT) if may_be_own(path) => self.find(directory, path, follow),
            found => found,
        }
    }

    /// Finds a file from a descriptor's directory on; a link at the end is followed or not.
    pub(super) fn find(&self, directory: i32, path: &[u8], follow: bool) -> Result<OwnedFd, Errno> {
        if path.is_empty() {
            return Err(Errno::NOENT);
        }
        let root = self.caller.root()?;
        let mut at = if path.starts_with(b"/") { self.caller.root()? } else { self.caller.descriptor(directory)? };
        let mut left = Vec::new();
        push(&mut left, path);
        let mut links = 0;
        while let Some(name) = left.pop() {
            if name == b".." {
                if !is_same(&at, &root)? {
                    at = open(&at, b"..", OFlags::DIRECTORY)?;
                }
                continue;
            }
            let next = open(&at, &name, OFlags::NOFOLLOW)?;
            let found = fstat(&next)?;
            if kind(&found) != FileType::Symlink || (left.is_empty() && !follow) {
                at = next;
                continue;
            }
            links += 1;
            if links > LINKS {
                return Err(Errno::LOOP);
            }
            match self.text(&at, &name, &next)? {
                Some(text) => {
                    if text.starts_with(b"/") {
                        at = self.caller.root()?;
                    }
                    push(&mut left, &text);
                }
                None => at = open(&at, &name, OFlags::empty())?,
            }
        }
        Ok(at)
    }

    /// Returns the text of a link; `None` for one of `proc` that leads to a file by itself.
    fn text(&self, directory: &OwnedFd, name: &[u8], link: &OwnedFd) -> Result<Option<Vec<u8>>, Errno> {
        let is_proc = fstatfs(link)?.f_type == PROC_SUPER_MAGIC;
        if is_proc && fstat(directory)?.st_ino == PROC_ROOT {
            let (process, thread) = self.caller.ids().ok_or(Errno::NOENT)?;
            match name {
                b"self" => return Ok(Some(process.as_bytes().to_vec())),
                b"thread-self" => return Ok(Some(format!("{process}/task/{thread}").into_bytes())),
                _ => {}
            }
        } else if is_proc {
            let plain = openat2(
                directory,
                OsStr::from_bytes(name),
                OFlags::PATH | OFlags::CLOEXEC,
                Mode::empty(),
                ResolveFlags::NO_MAGICLINKS,
            );
            if plain.is_err_and(|error| error == Errno::LOOP) {
                let own = format!("self/fd/{}", link.as_raw_fd());
                let path = readlinkat(self.proc, own, Vec::new())?;
                // The first process is the sandbox's own: nobody inside may look into it.
                return if path.to_bytes().starts_with(b"/proc/1/") { Err(Errno::ACCESS) } else { Ok(None) };
            }
        }
        let text = readlinkat(link, "", Vec::new())?.into_bytes();
        if text.is_empty() { Err(Errno::NOENT) } else { Ok(Some(text)) }
    }
}

/// Returns true if a path may lead to what the process itself has, which is not this one.
fn may_be_own(path: &[u8]) -> bool {
    path.starts_with(b"/dev/") || path.windows(4).any(|part| matches!(part, b"proc" | b"self"))
}

fn open(directory: &OwnedFd, name: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
    openat(directory, OsStr::from_bytes(name), OFlags::PATH | OFlags::CLOEXEC | flags, Mode::empty())
}

/// Puts the components of a path on a stack, the first one on top. A slash at the end asks for a directory, as `.` does.
fn push(stack: &mut Vec<Vec<u8>>, path: &[u8]) {
    if path.ends_with(b"/") {
        stack.push(b".".to_vec());
    }
    stack.extend(path.rsplit(|byte| *byte == b'/').filter(|name| !name.is_empty()).map(<[u8]>::to_vec));
}

fn is_same(one: &OwnedFd, other: &OwnedFd) -> Result<bool, Errno> {
    let (one, other) = (fstat(one)?, fstat(other)?);
    Ok((one.st_dev, one.st_ino) == (other.st_dev, other.st_ino))
}

fn kind(found: &Stat) -> FileType {
    FileType::from_raw_mode(found.st_mode)
}
