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
        Ok(self.find(path)?.0)
    }

    /// Returns the place of what they show at a path, if that is no directory.
    pub(super) fn place(&self, path: &[u8]) -> io::Result<Option<PathBuf>> {
        Ok(self.find(path)?.1)
    }

    fn find(&self, path: &[u8]) -> io::Result<(Shown, Option<PathBuf>)> {
        const NOTHING: (Shown, Option<PathBuf>) = (Shown::Nothing, None);
        'trees: for tree in self.0.iter().rev() {
            let mut place = tree.clone();
            let mut hides = false;
            for name in path.split(|byte| *byte == b'/') {
                let marker = |of: &[u8]| place.join(OsStr::from_bytes(&[whiteout::PREFIX.as_bytes(), of].concat()));
                hides |= rustix::fs::lgetxattr(&place, OPAQUE, &mut [0; 8][..]).is_ok() || exists(&marker(b".wh..opq"));
                if exists(&marker(name)) {
                    return Ok(NOTHING);
                }
                place.push(OsStr::from_bytes(name));
                let found = match fs_err::symlink_metadata(&place) {
                    Err(error) if error.kind() == io::ErrorKind::NotFound && hides => return Ok(NOTHING),
                    Err(error) if error.kind() == io::ErrorKind::NotFound => continue 'trees,
                    found => found?,
                };
                match found.file_type() {
                    kind if kind.is_dir() => {}
                    kind if kind.is_char_device() && found.rdev() == 0 => return Ok(NOTHING),
                    _ if place.as_os_str().len() == tree.as_os_str().len() + 1 + path.len() => {
                        return Ok((Shown::Other, Some(place)));
                    }
                    // What lies below another kind of file is hidden.
                    _ => return Ok(NOTHING),
                }
            }
            return Ok((Shown::Directory, None));
        }
        Ok(NOTHING)
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
