//! Extended attributes: the one that holds an owner is nobody's business inside, and programs that copy all attributes of a file would
//! give its owner to the copy.

use rustix::io::{Errno, pwrite};

use super::caller::Caller;
use super::lookup::Lookup;
use super::{Supervisor, own_path};
use crate::notify::{Answer, Call, Listener};
use crate::owners::OWNER;
use crate::privileges::X32;

/// Names of lists of access (acl(5)), which name ids.
const ACLS: [&[u8]; 2] = [b"system.posix_acl_access", b"system.posix_acl_default"];
/// Bytes of a list at most (`XATTR_SIZE_MAX`).
const MAX_VALUE: u64 = 64 << 10;
/// Tags of entries for a named user or group, in such an attribute (posix_acl_xattr.h).
const NAMED: [u16; 2] = [0x02, 0x08];

impl Supervisor {
    /// Answers a call that lists or sets attributes; `None` for other calls.
    pub(super) fn attributes(&mut self, caller: &Caller, listener: &Listener, call: &Call) -> Option<Answer> {
        let [a, b, c, d, ..] = call.arguments;
        let at = |path: u64, follow: bool| {
            let path = caller.path(path)?;
            Lookup { caller, proc: &self.proc }.find_quickly(libc::AT_FDCWD, &path, follow)
        };
        let listed = match call.number & !X32 {
            libc::SYS_listxattr => at(a, true),
            libc::SYS_llistxattr => at(a, false),
            libc::SYS_flistxattr => caller.open_file(a as i32),
            libc::SYS_setxattr | libc::SYS_lsetxattr | libc::SYS_fsetxattr => {
                return Some(self.set(caller, b, (c, d)).unwrap_or(Answer::Through));
            }
            _ => return None,
        };
        let names = listed.and_then(|file| {
            let mut names = vec![0; MAX_VALUE as usize];
            let length = rustix::fs::listxattr(own_path(&file), names.as_mut_slice())?;
            names.truncate(length);
            Ok(names)
        });
        let Ok(names) = names else { return Some(Answer::Through) };
        let hidden = [OWNER.as_bytes(), b"\0"].concat();
        let shown: Vec<u8> =
            names.split_inclusive(|byte| *byte == 0).filter(|name| *name != hidden).flatten().copied().collect();
        if shown.len() == names.len() {
            return Some(Answer::Through);
        }
        let length = shown.len() as i64;
        Some(match (c, caller.writable_memory()) {
            (0, _) => Answer::Value(length),
            (room, _) if room < shown.len() as u64 => Answer::Error(Errno::RANGE),
            (_, Ok(memory)) if listener.is_waiting(call) => match pwrite(memory, &shown, b) {
                Ok(written) if written == shown.len() => Answer::Value(length),
                _ => Answer::Error(Errno::FAULT),
            },
            _ => Answer::Error(Errno::FAULT),
        })
    }

    /// An owner that is set as an attribute goes nowhere. A list of access with ids that there are not stops the step: the kernel
    /// refuses it, and would not for root.
    fn set(&mut self, caller: &Caller, name: u64, (value, size): (u64, u64)) -> Result<Answer, Errno> {
        let name = caller.path(name)?;
        if name == OWNER.as_bytes() {
            return Ok(Answer::Value(0));
        }
        if ACLS.contains(&name.as_slice()) && size <= MAX_VALUE {
            let mut list = vec![0; size as usize];
            caller.memory(value, &mut list)?;
            // Four bytes of a version; then entries of a tag, permissions and an id.
            let (entries, _) = list.get(4..).unwrap_or_default().as_chunks::<8>();
            let of_others = entries.iter().find_map(|[t, u, _, _, id @ ..]| {
                let id = u32::from_le_bytes(*id);
                (NAMED.contains(&u16::from_le_bytes([*t, *u])) && id != 0).then_some(id)
            });
            self.another = self.another.or(of_others);
        }
        Ok(Answer::Through)
    }
}
