//! containerd, with the snapshots of the kernel's overlay.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::interop::registries::server;
use crate::interop::{Result, programs};

/// Questions whether containerd answers by now, and the pause before each.
const QUESTIONS: u32 = 100;
const PAUSE: Duration = Duration::from_millis(50);
/// The namespace of images that are looked at.
const NAMESPACE: &str = "looked-at";

/// containerd with files of its own, which ends when this is dropped.
pub(crate) struct Containerd {
    daemon: Child,
    /// Sockets: the path of one has hardly more than 100 bytes.
    run: tempfile::TempDir,
}

impl Containerd {
    /// Starts one that keeps its files below a directory.
    pub(crate) fn start(directory: &Path) -> Result<Self> {
        let (root, run) =
            (directory.join("containerd"), tempfile::Builder::new().prefix("interop-containerd-").tempdir()?);
        fs_err::create_dir_all(&root)?;
        let configuration = root.join("config.toml");
        fs_err::write(&configuration, "version = 2\ndisabled_plugins = [\"io.containerd.grpc.v1.cri\"]\n")?;
        let (log, _) = fs_err::File::create(root.join("log"))?.into_parts();
        let program = programs::find("containerd").ok_or("there is no containerd")?;
        let mut command = server::ending_with_the_suite(&program);
        command.arg("--config").arg(configuration).arg("--root").arg(root.join("root"));
        command.arg("--state").arg(run.path().join("state")).arg("--address").arg(socket(run.path()));
        let daemon = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut containerd = Self { daemon, run };
        for _ in 0..QUESTIONS {
            std::thread::sleep(PAUSE);
            if let Some(status) = containerd.daemon.try_wait()? {
                return Err(format!("containerd ended at once: {status}").into());
            }
            if programs::output(containerd.client("interop").arg("version")).is_ok() {
                return Ok(containerd);
            }
        }
        Err("containerd does not answer".into())
    }

    /// Its client, for the images of a namespace.
    pub(crate) fn client(&self, namespace: &str) -> Command {
        let mut command = Command::new("ctr");
        command.arg("--address").arg(socket(self.run.path())).args(["--namespace", namespace]);
        command
    }

    /// Imports the image of an archive and looks at its root.
    pub(super) fn look(
        &self,
        archive: &Path,
        name: &str,
        root: &Path,
        look: impl FnOnce(&Path) -> Result<()>,
    ) -> Result<()> {
        programs::output(self.client(NAMESPACE).args(["images", "import"]).arg(archive))?;
        fs_err::create_dir_all(root)?;
        programs::output(self.client(NAMESPACE).args(["images", "mount", name]).arg(root))?;
        let looked = look(root);
        programs::output(self.client(NAMESPACE).args(["images", "unmount", "--rm"]).arg(root))?;
        looked
    }
}

impl Drop for Containerd {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = programs::output(Command::new("kill").arg(self.daemon.id().to_string()));
        for _ in 0..QUESTIONS {
            if matches!(self.daemon.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(PAUSE);
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
    }
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("containerd.sock")
}
