//! Maps of user and group ids (user_namespaces(7)).
//!
//! With a range of subordinate ids (subuid(5)), root inside is the user, and only the ids above come from the range: most files of
//! an image are root's, so that they are the user's own outside, who can read, count and remove them without a namespace.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};

use rustix::process::{Pid, getegid, geteuid};
use serde::{Deserialize, Serialize};

/// Ids that an image may use.
pub(crate) const IDS: u32 = 65_536;

/// The ids that commands have.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Ids {
    /// All, as they are: this is root.
    All,
    /// Root is the user of this process, and the others begin at these, for users and for groups.
    Range(u32, u32),
    /// Root is the user of this process, and there is no other.
    One,
}

impl Ids {
    /// Maps the ids of a process in a user namespace of its own.
    pub(crate) fn map(self, process: Pid) -> io::Result<()> {
        let write = |file: &str, text: String| {
            fs_err::OpenOptions::new()
                .write(true)
                .open(format!("/proc/{}/{file}", process.as_raw_nonzero()))
                .and_then(|mut opened| io::Write::write_all(&mut opened, text.as_bytes()))
        };
        let (user, group) = (geteuid().as_raw(), getegid().as_raw());
        match self {
            Self::All => {
                write("uid_map", format!("0 0 {IDS}\n"))?;
                write("gid_map", format!("0 0 {IDS}\n"))
            }
            Self::Range(users, groups) => {
                ask("newuidmap", process, user, users)?;
                ask("newgidmap", process, group, groups)
            }
            Self::One => {
                write("setgroups", "deny".to_owned())?;
                write("uid_map", format!("0 {user} 1\n"))?;
                write("gid_map", format!("0 {group} 1\n"))
            }
        }
    }
}

/// The map as text. Two processes that have the same one see the same owners of files.
impl fmt::Display for Ids {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::All => f.write_str("all"),
            Self::Range(users, groups) => write!(f, "range {users} {groups}"),
            Self::One => f.write_str("one"),
        }
    }
}

/// Maps ids by newuidmap(1) or newgidmap(1), which root has allowed to.
fn ask(program: &str, process: Pid, own: u32, first: u32) -> io::Result<()> {
    let place = ["/usr/bin", "/bin", "/usr/local/bin"].map(|place| Path::new(place).join(program));
    let path = place.iter().find(|path| path.exists()).ok_or(io::ErrorKind::NotFound)?;
    let map = [0, own, 1, 1, first, IDS - 1].map(|number| number.to_string());
    let mut asked = Command::new(path);
    asked.env_clear().arg(process.as_raw_nonzero().to_string()).args(map).stdin(Stdio::null());
    let done = asked.output()?;
    let said = || io::Error::other(String::from_utf8_lossy(&done.stderr).trim().to_owned());
    if done.status.success() { Ok(()) } else { Err(said()) }
}

/// Returns the name of this process's user, where it has one.
fn user_name() -> Option<String> {
    let user = geteuid().as_raw().to_string();
    let accounts = fs_err::read_to_string("/etc/passwd").ok()?;
    accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == user).then(|| name.to_owned())
    })
}

/// A line of a file of ranges (subuid(5)): whose, the first id, and how many.
fn ranges(text: &str) -> impl Iterator<Item = (&str, u32, u32)> {
    text.lines().filter_map(|line| {
        let mut fields = line.trim().split(':');
        Some((fields.next()?, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}

/// Returns the first id of the range that a file gives to the user of this process.
pub(crate) fn subordinate(file: &str) -> Option<u32> {
    let (user, name) = (geteuid().as_raw().to_string(), user_name());
    let text = fs_err::read_to_string(file).ok()?;
    let is_own = |owner: &str| owner == user || Some(owner) == name.as_deref();
    ranges(&text).find(|(owner, _, count)| is_own(owner) && *count >= IDS - 1).map(|(_, first, _)| first)
}

/// Returns the line of a file that would give a range to this user, after all that are given; `None` if it has one.
pub(crate) fn missing_line(file: &str) -> Option<String> {
    if subordinate(file).is_some() {
        return None;
    }
    let user = user_name().unwrap_or_else(|| geteuid().as_raw().to_string());
    let text = fs_err::read_to_string(file).unwrap_or_default();
    let end = ranges(&text).filter_map(|(_, first, count)| first.checked_add(count)).max();
    Some(format!("{user}:{}:{IDS}", end.unwrap_or(0).max(100_000)))
}
