//! The parts of a sandbox on this machine: one is made and entered, part by part, and what cannot be had is told with its remedy.

use std::collections::BTreeMap;
use std::io;
use std::path::Path;

use serde::Serialize;

use crate::error::{SandboxError, Stage};
use crate::given::Given;
use crate::ids::Ids;
use crate::remedy;
use crate::running::{Ended, Sandbox};
use crate::spec::{Command, Root};

/// A part of a sandbox, or something else that builds use.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub struct Finding {
    /// A noun phrase: `user ids`.
    pub subject: &'static str,
    /// Its state.
    pub state: State,
    /// The finding, in a phrase; it may be empty.
    pub detail: String,
    /// Advice.
    pub remedy: Option<String>,
}

/// The state of a part.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It works.
    Works,
    /// It works in part, or what needs it is rare.
    Limited,
    /// It does not work.
    Missing,
    /// It was not tried: something before it does not work.
    Untried,
}

impl Finding {
    /// Something that works.
    pub fn works(subject: &'static str, detail: impl Into<String>) -> Self {
        Self { subject, state: State::Works, detail: detail.into(), remedy: None }
    }

    /// Something that works in part, or what needs it is rare.
    pub fn limited(subject: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { subject, state: State::Limited, detail: detail.into(), remedy: Some(remedy.into()) }
    }

    /// Something that does not work.
    pub fn missing(subject: &'static str, detail: impl Into<String>, remedy: impl Into<String>) -> Self {
        Self { subject, state: State::Missing, detail: detail.into(), remedy: Some(remedy.into()) }
    }
}

/// The parts in the order in which they are made.
const PARTS: [(Stage, &str); 6] = [
    (Stage::Namespaces, "user and other namespaces"),
    (Stage::Ids, "map of user ids"),
    (Stage::Network, "network of its own"),
    (Stage::Overlay, "overlays of layers"),
    (Stage::Mounts, "/proc, /dev and /sys"),
    (Stage::User, "users and privileges"),
];

/// A sandbox that was tried.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tried {
    /// Layers are copied, since no overlay can be mounted.
    pub copies: bool,
}

impl Sandbox {
    /// Makes a sandbox over an empty tree, changes a file in it, and removes all of it. `directory` is an empty one on the file
    /// system where commands will work.
    ///
    /// # Errors
    ///
    /// If no command can run here.
    pub fn try_out(&self, directory: &Path) -> Result<Tried, SandboxError> {
        let place = directory.join("trial");
        let root = Root { layers: vec![place.join("layer")], owners_below: BTreeMap::new(), directory: place.clone() };
        fs_err::create_dir_all(place.join("layer")).map_err(SandboxError::Helper)?;
        let command = Command {
            words: Vec::new(),
            env: Vec::new(),
            workdir: "/".into(),
            user: (0, 0, Vec::new()),
            given: Given::default(),
        };
        let trial = Self { spare: (0, 0), ..self.clone() };
        let tried = trial.run(&root, &command, |_| true);
        // overlayfs closes these to their owner, who then could not remove them.
        for closed in ["work", "work/incompat", "work/incompat/volatile"] {
            let open = std::os::unix::fs::PermissionsExt::from_mode(0o700);
            let _ = fs_err::set_permissions(root.work().join(closed), open);
        }
        fs_err::remove_dir_all(place).map_err(SandboxError::Helper)?;
        let ran = tried?;
        match ran.ended {
            Ended::Exited(0) => Ok(Tried { copies: ran.copied }),
            ended => {
                Err(SandboxError::Helper(io::Error::other(format!("it ended otherwise than it should: {ended:?}"))))
            }
        }
    }

    /// Tells of each part of a sandbox if it can be had here. `directory` is as for [`Sandbox::try_out`].
    pub fn diagnose(&self, directory: &Path) -> Vec<Finding> {
        let tried = self.try_out(directory);
        let made = match &tried {
            Ok(_) => Some(PARTS.len()),
            Err(SandboxError::Refused { stage, .. }) => PARTS.iter().position(|(part, _)| part == stage),
            Err(SandboxError::Helper(_)) => None,
        };
        let mut findings = Vec::new();
        if let (Err(error), None) = (&tried, made) {
            findings.push(Finding::missing("process of a sandbox", error.to_string(), error.remedy(directory)));
        }
        findings.extend(PARTS.iter().enumerate().map(|(at, (stage, subject))| match &tried {
            Ok(Tried { copies: true }) if *stage == Stage::Overlay => {
                Finding::limited(subject, "layers are copied for each command", remedy::COPIES)
            }
            _ if made.is_some_and(|made| at < made) => Finding::works(subject, ""),
            Err(error @ SandboxError::Refused { problem, .. }) if made == Some(at) => {
                Finding::missing(subject, problem, error.remedy(directory))
            }
            _ => Finding { subject, state: State::Untried, detail: String::new(), remedy: None },
        }));
        findings.extend([ids(), notification(), self.memory_finding()]);
        findings
    }

    fn memory_finding(&self) -> Finding {
        const SUBJECT: &str = "limit of memory";
        match self.memory_control() {
            Some(version) => Finding::works(SUBJECT, format!("control groups, version {version}")),
            None => Finding::limited(SUBJECT, "no control groups that this user may use", remedy::MEMORY),
        }
    }
}

/// Tells which owners files can have while a command runs (subuid(5), newuidmap(1)).
fn ids() -> Finding {
    const SUBJECT: &str = "owners of files";
    match Ids::of_this_process() {
        Ids::All => Finding::works(SUBJECT, "all"),
        Ids::Range(..) => Finding::works(SUBJECT, "this user's, and its ranges of /etc/subuid and /etc/subgid"),
        Ids::One => Finding::limited(
            SUBJECT,
            "kept for files that commands give away; no command runs as another user",
            remedy::more_ids(),
        ),
    }
}

/// Tells if a process may answer the calls of another (seccomp_unotify(2)).
fn notification() -> Finding {
    const SUBJECT: &str = "notification of calls (seccomp)";
    let action = libc::SECCOMP_RET_USER_NOTIF;
    // SAFETY: the call reads one number, which lives longer, and changes nothing.
    #[allow(unsafe_code, reason = "no safe function makes this call")]
    let done =
        unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_GET_ACTION_AVAIL, 0_u32, std::ptr::from_ref(&action)) };
    match done {
        0 => Finding::works(SUBJECT, ""),
        _ => Finding::limited(SUBJECT, io::Error::last_os_error().to_string(), remedy::NOTIFICATION),
    }
}
