//! Things that a command has besides the files of its image: files in memory, directories and sockets of the host, and a network.
//!
//! Their places are made in the lowest layer of the overlay. So the layer of the changes does not hold them, unless the image hides
//! them there.

use std::fmt;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::{Component, Path, PathBuf};

use rustix::mount::MountFlags;
use serde::{Deserialize, Serialize};

use crate::bind::bind;

/// Things that a command has besides the files of its image.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Given {
    /// Its network.
    pub network: Network,
    /// Directories, files and sockets of the host.
    pub mounts: Vec<Mount>,
    /// Files in memory.
    pub files: Vec<MemoryFile>,
}

/// The network of a command. Each has a loopback interface of its own.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Network {
    /// It leads nowhere.
    #[default]
    None,
    /// The program that made the sandbox listens at this port of its loopback interface ([`Output::Listener`](crate::Output)).
    Listener(u16),
    /// It leads to other machines through slirp4netns, which is this program. Names are found by [`NAME_SERVER`](crate::NAME_SERVER).
    Outside(PathBuf),
}

/// A directory, a file or a socket of the host that a command sees.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Mount {
    /// Absolute path on the host, without links.
    pub from: PathBuf,
    /// Absolute path in the image.
    pub to: PathBuf,
    /// The command may change it: a directory becomes its user's.
    pub writable: bool,
}

/// A file that lies in memory alone.
#[derive(Clone, Serialize, Deserialize)]
pub struct MemoryFile {
    /// Absolute path in the image.
    pub path: PathBuf,
    /// Its content.
    pub content: Vec<u8>,
    /// Permission bits.
    pub mode: u32,
    /// User and group, in the image.
    pub owner: (u32, u32),
}

impl fmt::Debug for MemoryFile {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("MemoryFile").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Given {
    /// Makes the places of everything in a directory that becomes the lowest layer.
    pub(crate) fn make_places(&self, skeleton: &Path) -> io::Result<()> {
        for mount in &self.mounts {
            make_place(skeleton, &mount.to, mount.from.is_dir())?;
        }
        self.files.iter().try_for_each(|file| make_place(skeleton, &file.path, false))
    }

    /// Writes the files in memory into a directory that lies there.
    pub(crate) fn write(&self, memory: &Path) -> io::Result<()> {
        fs_err::create_dir(memory)?;
        for (at, file) in self.files.iter().enumerate() {
            let path = memory.join(at.to_string());
            fs_err::write(&path, &file.content)?;
            fs_err::set_permissions(&path, PermissionsExt::from_mode(file.mode))?;
            // A user with one id has no other owner to give, and no command of another user.
            let _ = std::os::unix::fs::chown(&path, Some(file.owner.0), Some(file.owner.1));
        }
        Ok(())
    }

    /// Mounts everything below the new root. The working directory is the old one; `memory` is where [`Given::write`] wrote, there.
    pub(crate) fn mount(&self, memory: &Path, user: (u32, u32)) -> io::Result<()> {
        let old = |path: &Path| path.strip_prefix("/").unwrap_or(path).to_owned();
        let restricted = MountFlags::NOSUID | MountFlags::NODEV;
        for Mount { from, to, writable } in &self.mounts {
            let from = old(from);
            make_place(Path::new("/"), to, from.is_dir())?;
            let mode = fs_err::metadata(to)?.permissions();
            let more = if *writable { restricted } else { restricted | MountFlags::RDONLY };
            bind(&from, to, more).map_err(|error| of_path(to, error))?;
            if *writable && from.is_dir() {
                // With one id all directories are that user's already.
                let _ = std::os::unix::fs::chown(to, Some(user.0), Some(user.1));
                // As the directory of the image is, such as `/tmp`.
                fs_err::set_permissions(to, mode)?;
            }
        }
        for (at, file) in self.files.iter().enumerate() {
            make_place(Path::new("/"), &file.path, false)?;
            let more = restricted | MountFlags::NOEXEC | MountFlags::RDONLY;
            bind(&old(memory).join(at.to_string()), &file.path, more).map_err(|error| of_path(&file.path, error))?;
        }
        Ok(())
    }
}

/// Makes an empty directory or file, and directories above it, where nothing is yet.
fn make_place(root: &Path, path: &Path, is_directory: bool) -> io::Result<()> {
    let inside: PathBuf = path.components().filter(|part| matches!(part, Component::Normal(_))).collect();
    let place = root.join(inside);
    if place.exists() {
        return Ok(());
    }
    let above = if is_directory { Some(place.as_path()) } else { place.parent() };
    above.map_or(Ok(()), fs_err::create_dir_all)?;
    match is_directory {
        true => Ok(()),
        false => fs_err::write(&place, ""),
    }
}

fn of_path(path: &Path, error: io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{}: {error}", path.display()))
}
