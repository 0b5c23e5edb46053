//! Bind mounts.

use std::io;
use std::path::Path;

use rustix::fs::StatVfsMountFlags;
use rustix::mount::{MountFlags, mount_bind, mount_remount};

/// Mounts what is at one path at another, too, with more flags. Those that it has must be named again: a user namespace keeps them.
pub(crate) fn bind(from: &Path, to: &Path, more: MountFlags) -> io::Result<()> {
    mount_bind(from, to)?;
    let has = rustix::fs::statvfs(to)?.f_flag;
    let kept = [
        (StatVfsMountFlags::NOSUID, MountFlags::NOSUID),
        (StatVfsMountFlags::NODEV, MountFlags::NODEV),
        (StatVfsMountFlags::NOEXEC, MountFlags::NOEXEC),
        (StatVfsMountFlags::NOATIME, MountFlags::NOATIME),
        (StatVfsMountFlags::NODIRATIME, MountFlags::NODIRATIME),
        (StatVfsMountFlags::RELATIME, MountFlags::RELATIME),
    ];
    let kept = kept.into_iter().filter(|(flag, _)| has.contains(*flag)).map(|(_, flag)| flag);
    Ok(mount_remount(to, kept.fold(MountFlags::BIND | more, MountFlags::union), c"")?)
}
