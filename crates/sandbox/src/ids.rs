//! Maps of user and group ids (user_namespaces(7)).
//!
//! With a range of subordinate ids (subuid(5)), root inside is the user, and only the ids above come from the range: most files of
//! an image are root's, so that they are the user's own outside, who can read, count and remove them without a namespace.

use std::fmt;
use std::io;
use std::path::Path;
use std::process::{Command, Stdio};
use std::sync::OnceLock;

use rustix::process::{Pid, getegid, geteuid};
use serde::{Deserialize, Serialize};

use crate::inside::Inside;

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
    /// Returns the ids that this process can give to commands. It is found out once, by trying.
    pub fn of_this_process() -> Self {
        static FOUND: OnceLock<Ids> = OnceLock::new();
        *FOUND.get_or_init(|| {
            if geteuid().is_root() {
                return Self::All;
            }
            let range = || Some(Self::Range(subordinate("/etc/subuid")?, subordinate("/etc/subgid")?));
            range().filter(|range| Inside::start(*range, "", &[]).and_then(Inside::finish).is_ok()).unwrap_or(Self::One)
        })
    }

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

/// Returns the first id of the range that a file gives to the user of this process (subuid(5)).
fn subordinate(file: &str) -> Option<u32> {
    let user = geteuid().as_raw().to_string();
    let accounts = fs_err::read_to_string("/etc/passwd").unwrap_or_default();
    let name = accounts.lines().find_map(|line| {
        let mut fields = line.split(':');
        let name = fields.next()?;
        (fields.nth(1)? == user).then_some(name)
    });
    let text = fs_err::read_to_string(file).ok()?;
    text.lines().find_map(|line| {
        let mut fields = line.trim().split(':');
        let owner = fields.next()?;
        let (first, count) = (fields.next()?.parse().ok()?, fields.next()?.parse::<u32>().ok()?);
        ((owner == user || Some(owner) == name) && count >= IDS - 1).then_some(first)
    })
}
