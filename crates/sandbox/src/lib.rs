//! One command in user, mount, pid, ipc, uts and network namespaces of its own, over an overlay of layer trees. What it changes is
//! left in one directory.
//!
//! A process with threads cannot make itself a sandbox: `unshare(2)` refuses user namespaces there, and between `fork` and `exec`
//! hardly any code is sound. So the program starts itself again as a helper ([`help`]), which has one thread:
//!
//! 1. the *outer* helper leaves all namespaces, and waits until the program has mapped its ids;
//! 2. the *inner* helper is the first process of the pid namespace. It mounts the file system, gives up what it may not keep, starts
//!    the command, and waits for whatever the command leaves behind. When it ends, the kernel ends everything in the namespace.
//!
//! A user with one id can neither give files away nor become another user: the outer helper answers these calls of the command, and
//! notes the owners ([`Owners`]). With a range of ids, files belong to ids of it, and who is not root of such a namespace may not touch
//! them ([`Inside`]).
//!
//! Each ends with its parent (`PR_SET_PDEATHSIG`), so that nothing stays when the program is killed.

mod bind;
mod cgroup;
mod copies;
mod diagnosis;
mod error;
mod file_system;
mod given;
mod helper;
mod ids;
mod inside;
mod limits;
mod network;
mod notify;
mod outside;
mod owners;
mod privileges;
mod process;
mod remedy;
mod running;
mod spec;
mod supervisor;

pub use diagnosis::{Finding, State, Tried};
pub use error::{SandboxError, Stage};
pub use file_system::{APT_AS_ROOT, APT_CONFIG};
pub use given::{Given, MemoryFile, Mount, Network};
pub use helper::help;
pub use ids::Ids;
pub use inside::Inside;
pub use outside::NAME_SERVER;
pub use owners::{Inode, OWNER, Owners};
pub use remedy::{container, more_ids};
pub use running::{Ended, LONGEST_LINE, Output, Ran, Sandbox};
pub use spec::{Command, Overlay, Root};
