//! Opening regular files. Opening a pipe waits for whoever writes into it, and no build may hang on one.

use std::io;
use std::path::Path;

use fs_err::os::unix::fs::OpenOptionsExt;
use rustix::fs::OFlags;

/// Opens a regular file for reading, through symbolic links. A directory, a pipe, a device or a socket is an error of kind
/// [`InvalidInput`](io::ErrorKind::InvalidInput), whenever it took the place of the file.
pub fn open_regular(path: &Path) -> io::Result<fs_err::File> {
    let refuse = || io::Error::new(io::ErrorKind::InvalidInput, format!("`{}` is no regular file", path.display()));
    // Some devices act when they are opened, so the file is looked at first.
    if !fs_err::metadata(path)?.is_file() {
        return Err(refuse());
    }
    let file = fs_err::OpenOptions::new().read(true).custom_flags(OFlags::NONBLOCK.bits() as i32).open(path)?;
    if file.metadata()?.is_file() { Ok(file) } else { Err(refuse()) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pipe_and_a_directory_are_refused_at_once_and_links_are_followed() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link, pipe) = (directory.path().join("f"), directory.path().join("l"), directory.path().join("p"));
        fs_err::write(&file, "content").unwrap();
        fs_err::os::unix::fs::symlink(&file, &link).unwrap();
        rustix::fs::mknodat(rustix::fs::CWD, &pipe, rustix::fs::FileType::Fifo, 0o600.into(), 0).unwrap();
        assert_eq!(io::read_to_string(open_regular(&link).unwrap()).unwrap(), "content");
        for other in [&pipe, &directory.path().to_owned()] {
            assert_eq!(open_regular(other).unwrap_err().kind(), io::ErrorKind::InvalidInput);
        }
        assert_eq!(open_regular(&directory.path().join("none")).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}
