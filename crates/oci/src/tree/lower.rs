//! Trees below a directory of changes, and the files that they show together.

use std::ffi::OsStr;
use std::io;
use std::os::unix::ffi::OsStrExt as _;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _};
use std::path::{Path, PathBuf};

use kiln_plan::whiteout;

use super::OPAQUE;

/// Trees, the lowest first.
pub(super) struct Lower<'l>(pub(super) &'l [PathBuf]);

/// A path of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Shown {
    Nothing,
    Directory,
    Other,
}

impl Lower<'_> {
    /// Returns the kind of what they show at a path.
    pub(super) fn at(&self, path: &[u8]) -> io::Result<Shown> {
        'trees: for tree in self.0.iter().rev() {
            let mut place = tree.clone();
            let mut hides = false;
            for name in path.split(|byte| *byte == b'/') {
                let marker = |of: &[u8]| place.join(OsStr::from_bytes(&[whiteout::PREFIX.as_bytes(), of].concat()));
                hides |= rustix::fs::lgetxattr(&place, OPAQUE, &mut [0; 8][..]).is_ok() || exists(&marker(b".wh..opq"));
                if exists(&marker(name)) {
                    return Ok(Shown::Nothing);
                }
                place.push(OsStr::from_bytes(name));
                let found = match fs_err::symlink_metadata(&place) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound && hides => return Ok(Shown::Nothing),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue 'trees,
                    found => found?,
                };
                match found.file_type() {
                    kind if kind.is_dir() => {}
                    kind if kind.is_char_device() && found.rdev() == 0 => return Ok(Shown::Nothing),
                    _ if place.as_os_str().len() == tree.as_os_str().len() + 1 + path.len() => return Ok(Shown::Other),
                    // What lies below another kind of file is hidden.
                    _ => return Ok(Shown::Nothing),
                }
            }
            return Ok(Shown::Directory);
        }
        Ok(Shown::Nothing)
    }
}

fn exists(path: &Path) -> bool {
    fs_err::symlink_metadata(path).is_ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_uppermost_tree_that_has_a_path_or_hides_it_decides() {
        let directory = tempfile::tempdir().unwrap();
        let trees = ["low", "high"].map(|name| directory.path().join(name));
        for path in ["low/a/b", "low/opaque/old", "low/becomes", "high/a/c", "high/opaque", "low/hidden/x", "low/gone"]
        {
            fs_err::create_dir_all(directory.path().join(path)).unwrap();
        }
        for path in ["low/file", "high/becomes", "low/a/f", "high/.wh.gone"] {
            fs_err::write(directory.path().join(path), "").unwrap();
        }
        rustix::fs::setxattr(trees[1].join("opaque"), OPAQUE, b"y", rustix::fs::XattrFlags::empty()).unwrap();
        let whiteout = rustix::fs::FileType::CharacterDevice;
        rustix::fs::mknodat(rustix::fs::CWD, trees[1].join("hidden"), whiteout, rustix::fs::Mode::empty(), 0).unwrap();
        let lower = Lower(&trees);
        let at = |path: &str| lower.at(path.as_bytes()).unwrap();
        assert_eq!(["a", "a/b", "a/c", "opaque"].map(at), [Shown::Directory; 4]);
        assert_eq!(["file", "becomes", "a/f"].map(at), [Shown::Other; 3]);
        assert_eq!(
            ["opaque/old", "becomes/x", "hidden", "hidden/x", "gone", "nothing", "a/n"].map(at),
            [Shown::Nothing; 7]
        );
    }
}
