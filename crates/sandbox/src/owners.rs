//! Owners of the files that a command made.

use std::io;
use std::os::fd::AsFd;
use std::path::Path;

use rustix::fs::{AtFlags, CWD, StatxFlags, statx};
use serde::{Deserialize, Serialize};

/// Extended attribute for the owner of a file that its user could not give away: `UID:GID` in decimal digits.
pub const OWNER: &str = "user.kiln.owner";

/// An inode, told from a later one of the same number by the time at which it was made.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Inode {
    /// Its number.
    pub number: u64,
    /// Seconds and nanoseconds since 1970; zeros where the file system does not keep them.
    pub made: (i64, u32),
}

impl Inode {
    /// Returns the inode of a path; a link's is its own.
    ///
    /// # Errors
    ///
    /// If there is no such file.
    pub fn of(path: &Path) -> io::Result<Self> {
        Ok(Self::found(CWD, path, AtFlags::SYMLINK_NOFOLLOW)?)
    }

    /// Returns the inode of an open file.
    pub(crate) fn of_open(file: impl AsFd) -> rustix::io::Result<Self> {
        Self::found(file, Path::new(""), AtFlags::EMPTY_PATH)
    }

    fn found(directory: impl AsFd, path: &Path, flags: AtFlags) -> rustix::io::Result<Self> {
        let found = statx(directory, path, flags, StatxFlags::INO | StatxFlags::BTIME)?;
        let has_time = StatxFlags::from_bits_retain(found.stx_mask).contains(StatxFlags::BTIME);
        let made = if has_time { (found.stx_btime.tv_sec, found.stx_btime.tv_nsec) } else { (0, 0) };
        Ok(Self { number: found.stx_ino, made })
    }
}

/// The place where the owners of files are that a command changed.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Owners {
    /// In the file system, as it sees them from inside the namespace of [`Ids`](crate::Ids).
    Given,
    /// In attributes of the files, as their user has one id.
    Noted {
        /// Owners of links, pipes and other files among the changes that have no such attribute.
        table: Vec<(Inode, (u32, u32))>,
        /// The id of another user or group that a process wanted to become. It was refused.
        another: Option<u32>,
    },
    /// Nowhere: their user has one id, and this kernel notifies nobody of calls. All files are root's.
    Lost,
}
