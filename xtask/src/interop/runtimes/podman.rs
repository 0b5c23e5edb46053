//! podman with its overlay driver, as root, with files of its own.

use std::path::{Path, PathBuf};
use std::process::Command;

use crate::interop::{Result, programs};

/// podman's storage.
pub(super) struct Podman {
    root: PathBuf,
    /// Its path has 50 bytes at most.
    run: tempfile::TempDir,
}

impl Podman {
    pub(super) fn new(root: &Path) -> Result<Self> {
        Ok(Self { root: root.to_owned(), run: tempfile::Builder::new().prefix("interop-podman-").tempdir()? })
    }

    fn command(&self) -> Command {
        let mut command = Command::new("podman");
        command.arg("--storage-driver").arg("overlay").arg("--root").arg(&self.root);
        command.arg("--runroot").arg(self.run.path());
        command
    }

    /// Pulls the image of an archive and looks at its root.
    pub(super) fn look(&self, archive: &Path, look: impl FnOnce(&Path) -> Result<()>) -> Result<()> {
        let image =
            programs::text(self.command().args(["pull", "--quiet", &format!("oci-archive:{}", archive.display())]))?;
        let root = programs::text(self.command().args(["image", "mount", &image]))?;
        let looked = look(Path::new(&root));
        programs::output(self.command().args(["image", "unmount", &image]))?;
        looked
    }
}

impl Drop for Podman {
    fn drop(&mut self) {
        // It keeps its storage mounted while anything is.
        let _ = programs::output(Command::new("umount").arg("--recursive").arg(self.root.join("overlay")));
    }
}
