//! Advice about a machine on which no sandbox can be made.

use std::path::Path;

use crate::error::{SandboxError, Stage};
use crate::ids;

/// Settings that forbid user namespaces: the file, the value that does, and what changes it.
const SETTINGS: [(&str, &str, &str); 3] = [
    (
        "/proc/sys/user/max_user_namespaces",
        "0",
        "the machine allows no user namespaces: `sysctl -w user.max_user_namespaces=15000`",
    ),
    // Debian's kernels before 5.10 and their descendants.
    (
        "/proc/sys/kernel/unprivileged_userns_clone",
        "0",
        "the machine allows user namespaces to root alone: `sysctl -w kernel.unprivileged_userns_clone=1`",
    ),
    // Ubuntu since 23.10, GitHub's runners among them.
    (
        "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        "1",
        "AppArmor restricts user namespaces here: `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or give \
         kiln a profile with `userns,`",
    ),
];
/// Says how the user of this process gets the ids that an image may use.
pub fn more_ids() -> String {
    let lines = ["/etc/subuid", "/etc/subgid"].map(|file| ids::missing_line(file).map(|line| (line, file)));
    let lines: Vec<_> =
        lines.into_iter().flatten().map(|(line, file)| format!("the line `{line}` to {file}")).collect();
    let lines = if lines.is_empty() { String::new() } else { format!(", and let root add {}", lines.join(" and ")) };
    format!("this user has one id: install `newuidmap` (package `uidmap`){lines}; or run kiln as root")
}

/// Files by which containers are known.
const MARKS: [&str; 2] = ["/.dockerenv", "/run/.containerenv"];

impl SandboxError {
    /// Says what to change on this machine, as far as its settings tell.
    pub fn remedy(&self) -> String {
        let reads = |file: &str| fs_err::read_to_string(file).ok();
        let forbidden = SETTINGS.iter().find(|(file, value, _)| reads(file).is_some_and(|text| text.trim() == *value));
        match self {
            Self::Helper(_) => "is there enough memory, and may this user start more processes?".into(),
            Self::Refused { stage: Stage::User, .. } => {
                format!("{}, or run the command as root (leave `user` out)", more_ids())
            }
            Self::Refused { .. } => match forbidden {
                Some((_, _, advice)) => (*advice).to_owned(),
                None if MARKS.iter().any(|mark| Path::new(mark).exists()) => {
                    "this is a container whose profile forbids it: `docker run --security-opt seccomp=unconfined \
                     --security-opt apparmor=unconfined --security-opt systempaths=unconfined`"
                        .into()
                }
                None => "may this user make user, mount and process namespaces here, and mount overlayfs?".into(),
            },
        }
    }
}
