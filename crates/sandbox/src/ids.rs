//! Maps of user and group ids (user_namespaces(7)).

use std::io;

use rustix::process::{Pid, getegid, geteuid};

/// Ids that an image may use.
const IDS: u32 = 65_536;

/// Maps the ids of a process in a user namespace of its own: for root as they are, and for anybody else their own id as root's.
pub(crate) fn map(process: Pid) -> io::Result<()> {
    let write = |file: &str, text: String| {
        fs_err::OpenOptions::new()
            .write(true)
            .open(format!("/proc/{}/{file}", process.as_raw_nonzero()))
            .and_then(|mut opened| io::Write::write_all(&mut opened, text.as_bytes()))
    };
    let (user, group) = (geteuid(), getegid());
    if user.is_root() {
        write("uid_map", format!("0 0 {IDS}\n"))?;
        return write("gid_map", format!("0 0 {IDS}\n"));
    }
    write("setgroups", "deny".to_owned())?;
    write("uid_map", format!("0 {} 1\n", user.as_raw()))?;
    write("gid_map", format!("0 {} 1\n", group.as_raw()))
}
