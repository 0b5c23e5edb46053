//! The content of a tree: everything in it with owners, modes and attributes, for those who copy out of it.

use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt};
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::changes::{attributes, owner, records};
use super::{OPAQUE, OWNER, Others, Owners};
use crate::names;

/// A path of a tree.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Listed {
    /// Path without a leading slash, as text (see [`crate::names`]).
    pub path: String,
    /// Permission bits.
    pub mode: u32,
    /// Owner and group.
    pub owner: (u32, u32),
    /// Seconds since 1970, of a file; 0 of all else: directories for which a layer has no member have the time at which they were made.
    pub time: u64,
    /// Extended attributes by name.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
    /// The kind of the path.
    pub kind: ListedKind,
}

/// The kind of a [`Listed`] path.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum ListedKind {
    /// A directory; true if it hides all that lies below it in lower layers.
    Directory(bool),
    /// A file: bytes, and the digest that the caller gives it.
    File(u64, String),
    /// A link to this text (see [`crate::names`]).
    Symlink(String),
    /// The removal of the path.
    Whiteout,
    /// A named pipe, a socket or a device.
    Special,
}

/// Lists a tree, each directory before its content. Paths whose text would stand for other names are left out.
///
/// # Errors
///
/// If something in the tree cannot be read.
pub fn list(tree: &Path, owners: Owners, others: &Others) -> io::Result<Vec<Listed>> {
    let mut all = Vec::new();
    let mut waiting = vec![PathBuf::new()];
    while let Some(directory) = waiting.pop() {
        let mut found = Vec::new();
        readable(&tree.join(&directory), |place| {
            for entry in fs_err::read_dir(place)? {
                found.push(directory.join(entry?.file_name()));
            }
            Ok(())
        })?;
        found.sort();
        let mut below = Vec::new();
        for path in found {
            let Some(listed) = one(tree, &path, owners, others)? else { continue };
            if matches!(listed.kind, ListedKind::Directory(_)) {
                below.push(path);
            }
            all.push(listed);
        }
        waiting.extend(below.into_iter().rev());
    }
    Ok(all)
}

fn one(tree: &Path, path: &Path, owners: Owners, others: &Others) -> io::Result<Option<Listed>> {
    let place = tree.join(path);
    let found = fs_err::symlink_metadata(&place)?;
    let kind = found.file_type();
    let other = others.get(path.as_os_str().as_bytes()).copied();
    let Some(path) = names::text(path.as_os_str().as_bytes()) else { return Ok(None) };
    let attributes = attributes_of(&place, kind)?;
    let held = |name: &str| attributes.iter().find(|(known, _)| known == name.as_bytes()).map(|(_, value)| value);
    let kind = if kind.is_dir() {
        ListedKind::Directory(held(OPAQUE).is_some_and(|value| value == b"y"))
    } else if kind.is_symlink() {
        let target = fs_err::read_link(&place)?;
        let Some(target) = names::text(target.as_os_str().as_bytes()) else { return Ok(None) };
        ListedKind::Symlink(target)
    } else if kind.is_char_device() && found.rdev() == 0 {
        ListedKind::Whiteout
    } else if kind.is_file() {
        ListedKind::File(found.len(), String::new())
    } else {
        ListedKind::Special
    };
    let owner = match owners {
        Owners::Given => (found.uid(), found.gid()),
        Owners::Noted => held(OWNER).and_then(|text| owner(text)).or(other).unwrap_or((0, 0)),
    };
    let plain = |(name, value): (Vec<u8>, Vec<u8>)| (name[XATTR.len().min(name.len())..].to_vec(), value);
    let xattrs = records(&attributes).into_iter().map(plain).collect();
    let time = if found.is_file() { u64::try_from(found.mtime()).unwrap_or(0) } else { 0 };
    Ok(Some(Listed { path, mode: found.mode() & 0o7777, owner, time, xattrs, kind }))
}

/// Prefix of the pax records of extended attributes.
const XATTR: &str = "SCHILY.xattr.";

fn attributes_of(place: &Path, kind: std::fs::FileType) -> io::Result<Vec<(Vec<u8>, Vec<u8>)>> {
    match kind.is_dir() || kind.is_file() {
        true => readable(place, attributes),
        false => Ok(Vec::new()),
    }
}

/// Reads a file or directory of a tree. A user with one id owns it and may still have to be let in: its mode is the layer's.
///
/// # Errors
///
/// Those of `read`, and of changing the mode.
pub fn readable<T>(place: &Path, mut read: impl FnMut(&Path) -> io::Result<T>) -> io::Result<T> {
    match read(place) {
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            let own = fs_err::symlink_metadata(place)?.permissions();
            fs_err::set_permissions(place, PermissionsExt::from_mode(own.mode() | 0o700))?;
            let done = read(place);
            fs_err::set_permissions(place, own)?;
            done
        }
        done => done,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::tree::unpack;

    #[test]
    fn a_tree_is_listed_as_its_layer_tells_it() {
        let mut tar = tar::Builder::new(Vec::new());
        let mut add = |path: &str, kind: tar::EntryType, mode, link: &str, data: &[u8]| {
            let mut header = tar::Header::new_ustar();
            header.set_entry_type(kind);
            header.set_mode(mode);
            header.set_uid(7);
            header.set_gid(8);
            header.set_size(data.len() as u64);
            match link {
                "" => tar.append_data(&mut header, path, data).unwrap(),
                link => tar.append_link(&mut header, path, link).unwrap(),
            }
        };
        add("usr/", tar::EntryType::Directory, 0o750, "", b"");
        add("usr/tool", tar::EntryType::Regular, 0o4755, "", b"content");
        add("usr/closed", tar::EntryType::Regular, 0o000, "", b"c");
        add("usr/also", tar::EntryType::Link, 0o755, "usr/tool", b"");
        add("usr/link", tar::EntryType::Symlink, 0o777, "../tool", b"");
        add("usr/.wh.gone", tar::EntryType::Regular, 0o644, "", b"");
        add("etc/.wh..wh..opq", tar::EntryType::Regular, 0o644, "", b"");
        let tar = tar.into_inner().unwrap();
        let directory = tempfile::tempdir().unwrap();
        let owners = if rustix::process::geteuid().is_root() { Owners::Given } else { Owners::Noted };
        let others = unpack(tar.as_slice(), directory.path(), owners, &mut |_| Ok(())).unwrap();
        let listed = list(directory.path(), owners, &others).unwrap();
        let lines: Vec<String> = listed
            .iter()
            .map(|one| format!("{} {:o} {}:{} {:?}", one.path, one.mode, one.owner.0, one.owner.1, one.kind))
            .collect();
        assert_eq!(
            lines,
            [
                "etc 755 0:0 Directory(true)".to_owned(),
                "usr 750 7:8 Directory(false)".to_owned(),
                "usr/also 4755 7:8 File(7, \"\")".to_owned(),
                "usr/closed 0 7:8 File(1, \"\")".to_owned(),
                "usr/gone 0 0:0 Whiteout".to_owned(),
                "usr/link 777 7:8 Symlink(\"../tool\")".to_owned(),
                "usr/tool 4755 7:8 File(7, \"\")".to_owned(),
            ]
        );
        let content = readable(&directory.path().join("usr/closed"), |place| fs_err::read(place)).unwrap();
        assert_eq!(content, b"c");
    }
}
