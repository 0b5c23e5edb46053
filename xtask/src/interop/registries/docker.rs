//! A Docker daemon of the suite's own: Debian's, with its files in directories of its own, without any network.

use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use super::server;
use crate::interop::{Result, programs};

/// Debian's programs, and not others of the same name that may lie before them on `PATH`.
pub(crate) const PROGRAMS: &str = "/usr/bin";
/// Where Debian has the daemon.
const DAEMON: &str = "/usr/sbin/dockerd";
/// How often the daemon is asked whether it is ready, or has ended; the pause before each question.
const QUESTIONS: u32 = 150;
const PAUSE: Duration = Duration::from_millis(200);

/// A Docker daemon, which ends when this is dropped.
pub(crate) struct Docker {
    daemon: Child,
    /// Sockets and the like. Not where everything else is: the path of a socket has hardly more than 100 bytes.
    run: tempfile::TempDir,
    /// Where its client keeps what it keeps.
    home: PathBuf,
    /// Its client.
    client: PathBuf,
}

impl Docker {
    /// Starts one that keeps images in a directory.
    pub(crate) fn start(directory: &Path) -> Result<Self> {
        let daemon = programs::find("dockerd").unwrap_or_else(|| DAEMON.into());
        Self::start_programs(&daemon, Path::new(PROGRAMS).join("docker"), directory)
    }

    /// Starts one whose programs lie in `bin` and `sbin` of a directory.
    pub(crate) fn start_with(programs: &Path, directory: &Path) -> Result<Self> {
        Self::start_programs(&programs.join("sbin/dockerd"), programs.join("bin/docker"), directory)
    }

    fn start_programs(daemon: &Path, client: PathBuf, directory: &Path) -> Result<Self> {
        let home = directory.join("home");
        fs_err::create_dir_all(&home)?;
        let run = tempfile::Builder::new().prefix("interop-docker-").tempdir()?;
        let log = fs_err::File::create(directory.join("log"))?;
        let (log, _) = log.into_parts();
        let mut command = server::ending_with_the_suite(daemon);
        command.arg("--data-root").arg(directory.join("data")).arg("--exec-root").arg(run.path().join("exec"));
        command.arg("--pidfile").arg(run.path().join("pid")).arg("--host").arg(socket(run.path()));
        command.args(["--iptables=false", "--ip6tables=false", "--bridge=none"]);
        let daemon = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let mut docker = Self { daemon, run, home, client };
        for _ in 0..QUESTIONS {
            std::thread::sleep(PAUSE);
            if let Some(status) = docker.daemon.try_wait()? {
                return Err(format!("the Docker daemon ended at once: {status}").into());
            }
            if programs::output(docker.command().arg("version")).is_ok() {
                return Ok(docker);
            }
        }
        Err("the Docker daemon does not answer".into())
    }

    /// Where the daemon listens, as `DOCKER_HOST` has it.
    pub(crate) fn host(&self) -> String {
        socket(self.run.path())
    }

    /// Its client.
    pub(crate) fn command(&self) -> Command {
        let mut command = Command::new(&self.client);
        command.arg("--host").arg(self.host()).env("HOME", &self.home).env_remove("DOCKER_CONFIG");
        command
    }

    /// Gives its client a plugin.
    pub(crate) fn add_plugin(&self, program: &Path) -> Result<()> {
        let plugins = self.home.join(".docker/cli-plugins");
        fs_err::create_dir_all(&plugins)?;
        let name = program.file_name().ok_or("a plugin is a program")?;
        Ok(fs_err::os::unix::fs::symlink(program, plugins.join(name))?)
    }

    /// Does something with an image of which nothing is said: what the client prints.
    pub(crate) fn text(&self, arguments: &[&str]) -> Result<String> {
        programs::text(self.command().args(arguments))
    }

    /// Runs a program of an image, without any network; what it prints.
    pub(crate) fn run(&self, image: &str, program: &[&str]) -> Result<String> {
        programs::text(self.command().args(["run", "--rm", "--network", "none", image]).args(program))
    }

    /// Pulls an image, though it were here, and runs a line of Python in it; what it prints.
    pub(crate) fn pull_and_run(&self, image: &str, code: &str) -> Result<String> {
        self.text(&["pull", "--quiet", image])?;
        self.run(image, &["python", "-c", code])
    }
}

impl Drop for Docker {
    fn drop(&mut self) {
        // It takes its containers and its containerd with it, and unmounts what it mounted, when it is asked to end.
        let _ = programs::output(&mut signal("TERM", &self.daemon.id().to_string()));
        for _ in 0..QUESTIONS {
            if matches!(self.daemon.try_wait(), Ok(Some(_)) | Err(_)) {
                return;
            }
            std::thread::sleep(PAUSE);
        }
        let _ = self.daemon.kill();
        let _ = self.daemon.wait();
        if let Ok(pid) = fs_err::read_to_string(self.run.path().join("exec/containerd/containerd.pid")) {
            let _ = programs::output(&mut signal("KILL", pid.trim()));
        }
    }
}

fn signal(signal: &str, pid: &str) -> Command {
    let mut command = Command::new("sh");
    command.arg("-c").arg(format!("kill -{signal} {pid}"));
    command
}

fn socket(directory: &Path) -> String {
    format!("unix://{}", directory.join("docker.sock").display())
}
