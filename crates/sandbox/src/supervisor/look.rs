//! Answers to `stat` and its kin: files that were given away have the owner that was noted.
//!
//! Nothing is guarded here: the caller may know all of it. So whatever cannot be answered is left to the kernel, which says root.

use std::os::fd::{AsRawFd as _, OwnedFd};

use rustix::fs::AtFlags;
use rustix::io::{Errno, pwrite};

use super::Supervisor;
use super::caller::Caller;
use super::lookup::Lookup;
use crate::notify::{Answer, Call, Listener};
use crate::privileges::X32;

/// Flags that the calls have. The kernel refuses others.
const KNOWN: AtFlags = AtFlags::SYMLINK_NOFOLLOW
    .union(AtFlags::EMPTY_PATH)
    .union(AtFlags::NO_AUTOMOUNT)
    .union(AtFlags::STATX_FORCE_SYNC)
    .union(AtFlags::STATX_DONT_SYNC);

/// A call that asks for the owner of a file.
struct Question {
    directory: i32,
    /// Address of the path; 0 for the descriptor's own file.
    path: u64,
    flags: AtFlags,
    /// Address of the answer.
    to: u64,
    /// The parts that `statx` asks for; `None` for the other calls.
    mask: Option<u32>,
}

impl Question {
    fn of(call: &Call) -> Option<Self> {
        let [a, b, c, d, e, _] = call.arguments;
        // The kernel takes the lower halves.
        let (number, flags) = (a as i32, |flags: u64| AtFlags::from_bits_retain(flags as u32));
        let question = |directory, path, flags, to| Some(Self { directory, path, flags, to, mask: None });
        match call.number & !X32 {
            #[cfg(target_arch = "x86_64")]
            libc::SYS_stat => question(libc::AT_FDCWD, a, AtFlags::empty(), b),
            #[cfg(target_arch = "x86_64")]
            libc::SYS_lstat => question(libc::AT_FDCWD, a, AtFlags::SYMLINK_NOFOLLOW, b),
            libc::SYS_fstat => question(number, 0, AtFlags::EMPTY_PATH, b),
            libc::SYS_newfstatat => question(number, b, flags(d), c),
            libc::SYS_statx => Some(Self { directory: number, path: b, flags: flags(c), to: e, mask: Some(d as u32) }),
            _ => None,
        }
    }

    fn target(&self, caller: &Caller, lookup: &Lookup<'_>) -> Result<OwnedFd, Errno> {
        let path = if self.path == 0 { Vec::new() } else { caller.path(self.path)? };
        if path.is_empty() && self.flags.contains(AtFlags::EMPTY_PATH) {
            return caller.descriptor(self.directory);
        }
        lookup.find_quickly(self.directory, &path, !self.flags.contains(AtFlags::SYMLINK_NOFOLLOW))
    }

    /// Returns the answer's bytes, as the kernel would write them but for the owner.
    fn bytes(&self, target: &OwnedFd, owner: (u32, u32)) -> Option<Vec<u8>> {
        let (file, path) = (target.as_raw_fd(), c"".as_ptr());
        match self.mask {
            Some(mask) => {
                // SAFETY: both are structs of integers, for which zeros are values; the kernel writes one. The path ends in a zero byte.
                #[allow(unsafe_code, reason = "its bytes go to another process as the kernel made them")]
                let (done, mut found) = unsafe {
                    let mut found: libc::statx = std::mem::zeroed();
                    let flags = libc::AT_EMPTY_PATH | (self.flags.bits() as i32 & libc::AT_STATX_SYNC_TYPE);
                    (libc::statx(file, path, flags, mask, &raw mut found), found)
                };
                (found.stx_uid, found.stx_gid) = owner;
                (done == 0).then(|| plain(&found))
            }
            None => {
                // SAFETY: as above.
                #[allow(unsafe_code, reason = "its bytes go to another process as the kernel made them")]
                let (done, mut found) = unsafe {
                    let mut found: libc::stat = std::mem::zeroed();
                    (libc::fstatat(file, path, &raw mut found, libc::AT_EMPTY_PATH), found)
                };
                (found.st_uid, found.st_gid) = owner;
                (done == 0).then(|| plain(&found))
            }
        }
    }
}

/// Returns the bytes of a struct of the kernel.
fn plain<T>(value: &T) -> Vec<u8> {
    // SAFETY: callers pass structs of integers whose padding, all of it in named fields, was made of zeros.
    #[allow(unsafe_code, reason = "no safe function shows the bytes of a struct")]
    unsafe { std::slice::from_raw_parts(std::ptr::from_ref(value).cast::<u8>(), size_of::<T>()) }.to_vec()
}

impl Supervisor {
    /// Answers a call that asks for an owner; `None` for other calls.
    pub(super) fn look(&self, caller: &Caller, listener: &Listener, call: &Call) -> Option<Answer> {
        let question = Question::of(call)?;
        if !KNOWN.contains(question.flags) {
            return Some(Answer::Through);
        }
        let answered = self.owner_for(caller, &question).is_some_and(|(target, owner)| {
            let (Some(bytes), Ok(memory)) = (question.bytes(&target, owner), caller.writable_memory()) else {
                return false;
            };
            listener.is_waiting(call) && pwrite(memory, &bytes, question.to) == Ok(bytes.len())
        });
        Some(if answered { Answer::Value(0) } else { Answer::Through })
    }

    fn owner_for(&self, caller: &Caller, question: &Question) -> Option<(OwnedFd, (u32, u32))> {
        let target = question.target(caller, &Lookup { caller, proc: &self.proc }).ok()?;
        let owner = self.noted(&target).filter(|owner| *owner != (0, 0))?;
        Some((target, owner))
    }
}
