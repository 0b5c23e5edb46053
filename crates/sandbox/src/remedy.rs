//! Advice about a machine on which no sandbox can be made, or one that lacks a part. Refusals and `kiln doctor` give the same.

use std::path::Path;

use crate::error::{SandboxError, Stage};
use crate::ids;

/// Advice where memory is not limited.
pub(crate) const MEMORY: &str =
    "run kiln as root: a command that takes all memory may otherwise end other programs too";
/// Advice where no overlay can be mounted over the store.
pub(crate) const COPIES: &str =
    "put the store on another file system, such as ext4 or xfs (`KILN_STORE`); in a container, on a volume";
/// Advice for kernels without user notification.
pub(crate) const NOTIFICATION: &str = "take a kernel from 5.0 on, and a profile that allows `seccomp`";

/// A setting that forbids user namespaces.
struct Setting {
    file: &'static str,
    /// The value that does.
    forbids: &'static str,
    /// True if it concerns root too.
    is_for_all: bool,
    advice: &'static str,
}

const SETTINGS: [Setting; 3] = [
    Setting {
        file: "/proc/sys/user/max_user_namespaces",
        forbids: "0",
        is_for_all: true,
        advice: "the machine allows no user namespaces: `sysctl -w user.max_user_namespaces=15000`",
    },
    // Debian's kernels before 5.10 and their descendants.
    Setting {
        file: "/proc/sys/kernel/unprivileged_userns_clone",
        forbids: "0",
        is_for_all: false,
        advice: "the machine allows user namespaces to root alone: `sysctl -w kernel.unprivileged_userns_clone=1`",
    },
    // Ubuntu since 23.10, GitHub's runners among them.
    Setting {
        file: "/proc/sys/kernel/apparmor_restrict_unprivileged_userns",
        forbids: "1",
        is_for_all: false,
        advice: "AppArmor restricts user namespaces here: `sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`, or give \
                 kiln a profile with `userns,`",
    },
];
/// Says how the user of this process gets the ids that an image may use.
pub fn more_ids() -> String {
    let lines = ["/etc/subuid", "/etc/subgid"].map(|file| ids::missing_line(file).map(|line| (line, file)));
    let lines: Vec<_> =
        lines.into_iter().flatten().map(|(line, file)| format!("the line `{line}` to {file}")).collect();
    let lines = if lines.is_empty() { String::new() } else { format!(", and let root add {}", lines.join(" and ")) };
    format!("this user has one id: install `newuidmap` (package `uidmap`){lines}; or run kiln as root")
}

/// A container runtime: a file by which its containers are known, its name, and the options under which sandboxes can be made in them.
const RUNTIMES: [(&str, &str, &str); 3] = [
    (
        "/run/secrets/kubernetes.io",
        "Kubernetes",
        "`hostUsers: false` for the pod, and for the container `securityContext: { procMount: Unmasked, seccompProfile: \
         { type: Unconfined }, appArmorProfile: { type: Unconfined } }`",
    ),
    (
        "/.dockerenv",
        "Docker",
        "`docker run --security-opt seccomp=unconfined --security-opt apparmor=unconfined --security-opt \
         systempaths=unconfined`",
    ),
    ("/run/.containerenv", "podman", "`podman run --security-opt seccomp=unconfined --security-opt unmask=ALL`"),
];

/// Returns the name of the runtime whose container this process is in.
pub fn container() -> Option<&'static str> {
    runtime().map(|(_, name, _)| *name)
}

fn runtime() -> Option<&'static (&'static str, &'static str, &'static str)> {
    RUNTIMES.iter().find(|(mark, ..)| Path::new(mark).exists())
}

impl SandboxError {
    /// Says what to change on this machine, as far as its settings tell. `directory` is the one for the command's files.
    pub fn remedy(&self, directory: &Path) -> String {
        let stage = match self {
            Self::Helper(_) => return "is there enough memory, and may this user start more processes?".into(),
            Self::Refused { stage, .. } => *stage,
        };
        if stage == Stage::Given {
            return "choose another path for it in the stack file".into();
        }
        if stage == Stage::Network {
            return "slirp4netns needs `/dev/net/tun`, which this user must be able to open".into();
        }
        if stage == Stage::User {
            return format!("{}, or run the command as root (leave `user` out)", more_ids());
        }
        if stage == Stage::Overlay && is_on_overlay(directory) {
            return "the store lies on an overlay, over which no other can be laid: put it on a volume, `docker run --volume \
                    kiln:/store --env KILN_STORE=/store`"
                .into();
        }
        if let Some(setting) = SETTINGS.iter().find(|setting| setting.is_in_the_way()) {
            return setting.advice.into();
        }
        match runtime() {
            Some((_, name, options)) => format!("this is a container of {name} whose profile forbids it: {options}"),
            None => "may this user make user, mount and process namespaces here, and mount overlayfs?".into(),
        }
    }
}

impl Setting {
    fn is_in_the_way(&self) -> bool {
        let is_set = fs_err::read_to_string(self.file).is_ok_and(|text| text.trim() == self.forbids);
        is_set && (self.is_for_all || !rustix::process::geteuid().is_root())
    }
}

fn is_on_overlay(directory: &Path) -> bool {
    /// `OVERLAYFS_SUPER_MAGIC` of linux/magic.h.
    const OVERLAY: u64 = 0x794c_7630;
    rustix::fs::statfs(directory).is_ok_and(|found| found.f_type as u64 == OVERLAY)
}
