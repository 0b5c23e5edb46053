//! Manners of the processes that this crate starts.

use std::io;

use rustix::process::{Signal, getppid, set_parent_process_death_signal};

/// The first byte that such a process sends: its namespaces are there.
pub(crate) const READY: u8 = 1;

/// Asks for the end of this process with its parent's; one whose parent is gone already ends now.
pub(crate) fn die_with_parent() -> io::Result<()> {
    let parent = getppid();
    set_parent_process_death_signal(Some(Signal::KILL))?;
    match getppid() == parent {
        true => Ok(()),
        false => Err(io::Error::other("the parent is gone")),
    }
}

/// Lets no descriptor but the standard ones reach another program.
pub(crate) fn close_inherited() -> io::Result<()> {
    // SAFETY: the call closes nothing: it marks descriptors to be closed by exec.
    #[allow(unsafe_code, reason = "no safe function makes this call")]
    let done = unsafe { libc::syscall(libc::SYS_close_range, 3_u32, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) };
    match io::Error::last_os_error() {
        _ if done == 0 => Ok(()),
        // New in Linux 5.11; Rust opens everything with O_CLOEXEC.
        error if matches!(error.raw_os_error(), Some(libc::ENOSYS | libc::EINVAL)) => Ok(()),
        error => Err(error),
    }
}
