//! Programs that become another user or group by a bit of their mode: the kernel would start them as root.

use rustix::io::Errno;

use super::Supervisor;
use super::caller::Caller;
use super::lookup::Lookup;
use crate::notify::{Answer, Call};
use crate::privileges::X32;

impl Supervisor {
    /// Refuses a program that would become another user or group by a bit of its mode; `None` for other calls.
    pub(super) fn program(&mut self, caller: &Caller, call: &Call) -> Option<Answer> {
        const SETUID: u32 = 0o4000;
        const SETGID: u32 = 0o2010;
        let [a, b, _, _, e, _] = call.arguments;
        let (directory, path, flags) = match call.number & !X32 {
            libc::SYS_execve => (libc::AT_FDCWD, a, 0),
            libc::SYS_execveat => (a as i32, b, e as i32),
            _ => return None,
        };
        let found = caller.path(path).and_then(|path| {
            if path.is_empty() && flags & libc::AT_EMPTY_PATH != 0 {
                return caller.descriptor(directory);
            }
            Lookup { caller, proc: &self.proc }.find_quickly(directory, &path, flags & libc::AT_SYMLINK_NOFOLLOW == 0)
        });
        let becomes = found.ok().and_then(|file| {
            let mode = rustix::fs::fstat(&file).ok()?.st_mode;
            let (user, group) = self.noted(&file).filter(|_| mode & (SETUID | SETGID) != 0)?;
            let user = (mode & SETUID != 0 && user != 0).then_some(user);
            user.or((mode & SETGID == SETGID && group != 0).then_some(group))
        });
        Some(match becomes {
            Some(id) => {
                self.another = self.another.or(Some(id));
                Answer::Error(Errno::PERM)
            }
            None => Answer::Through,
        })
    }
}
