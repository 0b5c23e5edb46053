//! Files that are made in a directory that passes its group on (setgid bit, inode(7)). The kernel does not know the group, and gives
//! them root's. So calls that may make a file are looked at before the kernel makes them; once they are over, what was made gets
//! a note. They are over when their thread calls again, or the file is there.

use std::ffi::OsString;
use std::os::fd::OwnedFd;
use std::os::unix::ffi::OsStringExt as _;

use rustix::fs::{AtFlags, Mode, OFlags, fstat, openat, statat};
use rustix::io::Errno;

use super::Supervisor;
use super::caller::Caller;
use super::lookup::Lookup;
use crate::notify::Call;
use crate::privileges::X32;

/// The bit of a mode that lets a directory pass its group on.
const SETGID: u32 = 0o2000;

/// A file that may be being made.
pub(super) struct Made {
    thread: u32,
    directory: OwnedFd,
    name: OsString,
    group: u32,
}

/// Returns the descriptor of the directory, and the address of the path, of a call that may make a file.
fn place(caller: &Caller, call: &Call) -> Option<(i32, u64)> {
    let [a, b, c, ..] = call.arguments;
    match call.number & !X32 {
        #[cfg(target_arch = "x86_64")]
        libc::SYS_open | libc::SYS_creat | libc::SYS_mkdir | libc::SYS_mknod => Some((libc::AT_FDCWD, a)),
        #[cfg(target_arch = "x86_64")]
        libc::SYS_symlink => Some((libc::AT_FDCWD, b)),
        libc::SYS_openat | libc::SYS_mkdirat | libc::SYS_mknodat => Some((a as i32, b)),
        libc::SYS_symlinkat => Some((b as i32, c)),
        libc::SYS_openat2 => {
            // `struct open_how` begins with the flags.
            let mut flags = [0; 8];
            caller.memory(c, &mut flags).ok()?;
            let makes = u64::from_ne_bytes(flags) & u64::from(OFlags::CREATE.bits()) != 0;
            makes.then_some((a as i32, b))
        }
        _ => None,
    }
}

impl Supervisor {
    /// Returns true for a call that may make a file, and keeps in mind what it would make if that is to be noted.
    pub(super) fn may_make(&mut self, caller: &Caller, call: &Call) -> bool {
        let Some((directory, path)) = place(caller, call) else {
            return matches!(call.number & !X32, libc::SYS_openat2);
        };
        if let Ok(Some(made)) = self.to_be_made(caller, directory, path, call.thread) {
            self.made.push(made);
        }
        true
    }

    fn to_be_made(&self, caller: &Caller, directory: i32, path: u64, thread: u32) -> Result<Option<Made>, Errno> {
        let path = caller.path(path)?;
        let path = path.strip_suffix(b"/").unwrap_or(&path);
        let slash = path.iter().rposition(|byte| *byte == b'/');
        let (above, name) = path.split_at(slash.map_or(0, |at| at + 1));
        let lookup = Lookup { caller, proc: &self.proc };
        let directory = match above {
            b"" => caller.descriptor(directory)?,
            above => lookup.find_quickly(directory, above, true)?,
        };
        if fstat(&directory)?.st_mode & SETGID == 0 {
            return Ok(None);
        }
        let group = self.noted(&directory).map_or(0, |(_, group)| group);
        let name = OsString::from_vec(name.to_vec());
        let is_there = statat(&directory, &name, AtFlags::SYMLINK_NOFOLLOW).is_ok();
        Ok((group != 0 && !is_there).then_some(Made { thread, directory, name, group }))
    }

    /// Notes the group of what was made since the last call.
    pub(super) fn note_made(&mut self, thread: Option<u32>) {
        for made in std::mem::take(&mut self.made) {
            let flags = OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            match openat(&made.directory, &made.name, flags, Mode::empty()) {
                Ok(file) => {
                    if self.noted(&file).is_none() {
                        // It stays root's where it cannot be noted.
                        let _ = self.note(&file, (0, made.group));
                    }
                }
                Err(_) if thread.is_some_and(|thread| thread != made.thread) => self.made.push(made),
                Err(_) => {}
            }
        }
    }
}
