//! A registry: CNCF distribution as Debian packages it, on this machine's loopback address, with files of its own.

use std::fmt::Write as _;
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::Duration;

use crate::interop::{Result, programs};

/// How often a registry is asked whether it answers by now, and the pause before each question.
const QUESTIONS: u32 = 200;
const PAUSE: Duration = Duration::from_millis(50);
/// How many ports are tried: one that was free may be somebody else's a moment later.
const PORTS: u32 = 5;

/// What a registry is like.
#[derive(Debug, Clone, Default)]
pub(crate) struct Options {
    /// A file of `htpasswd` with who may come in.
    pub(crate) htpasswd: Option<PathBuf>,
    /// A certificate and its key, where it speaks TLS.
    pub(crate) tls: Option<(PathBuf, PathBuf)>,
    /// The authority that vouches for its clients, where they need a certificate.
    pub(crate) client_authority: Option<PathBuf>,
    /// Whether nothing may be written.
    pub(crate) read_only: bool,
    /// What it signs the state of uploads with. Without it, it makes one up when it starts, and knows nothing afterwards
    /// of uploads that were begun before.
    pub(crate) secret: Option<&'static str>,
    /// Whether it says where to upload to without its own name, as behind another server.
    pub(crate) relative: bool,
    /// The registry that it passes on, of whose images it keeps copies.
    pub(crate) proxied: Option<String>,
}

/// A registry, which ends when this is dropped.
#[derive(Debug)]
pub(crate) struct Registry {
    /// Everything of it.
    directory: PathBuf,
    port: u16,
    child: Option<Child>,
}

impl Registry {
    /// Starts one that keeps its files in this directory.
    pub(crate) fn start(directory: &Path, options: &Options) -> Result<Self> {
        fs_err::create_dir_all(directory)?;
        let mut registry = Self { directory: directory.to_owned(), port: 0, child: None };
        for _ in 1..PORTS {
            registry.port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
            if registry.serve(options).is_ok() {
                return Ok(registry);
            }
            registry.stop();
        }
        registry.port = TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port();
        registry.serve(options)?;
        Ok(registry)
    }

    /// Stops it and starts it again, under the same address.
    pub(crate) fn restart(&mut self, options: &Options) -> Result<()> {
        self.stop();
        self.serve(options)
    }

    /// How references write it.
    pub(crate) fn address(&self) -> String {
        format!("127.0.0.1:{}", self.port)
    }

    /// Another address of it, which programs do not know for this machine's own: TLS is on it what it is elsewhere.
    pub(crate) fn foreign_address(&self) -> String {
        format!("0.0.0.0:{}", self.port)
    }

    /// Ends it at once, in the middle of whatever it does.
    pub(crate) fn stop(&mut self) {
        if let Some(mut child) = self.child.take() {
            // It may have ended by itself.
            let _ = child.kill();
            let _ = child.wait();
        }
    }

    /// Removes what no manifest names. Nothing may be written meanwhile, so it is stopped and started again.
    pub(crate) fn collect_garbage(&mut self, options: &Options) -> Result<String> {
        self.stop();
        let collected =
            programs::text(Command::new("docker-registry").arg("garbage-collect").arg(self.configuration()));
        self.serve(options)?;
        collected
    }

    /// Requests so far that were to change something.
    pub(crate) fn writes(&self) -> Result<usize> {
        let log = fs_err::read_to_string(self.directory.join("log"))?;
        let methods = ["\"POST /v2/", "\"PUT /v2/", "\"PATCH /v2/", "\"DELETE /v2/"];
        Ok(log.lines().filter(|line| methods.iter().any(|method| line.contains(method))).count())
    }

    /// Bytes in its files.
    pub(crate) fn size(&self) -> u64 {
        size(&self.directory.join("data"))
    }

    fn configuration(&self) -> PathBuf {
        self.directory.join("config.yml")
    }

    fn serve(&mut self, options: &Options) -> Result<()> {
        fs_err::write(self.configuration(), self.text(options))?;
        let log = fs_err::OpenOptions::new().create(true).append(true).open(self.directory.join("log"))?;
        let (log, _) = log.into_parts();
        let mut command = ending_with_the_suite(Path::new("docker-registry"));
        command.arg("serve").arg(self.configuration()).env_clear().env("PATH", "/usr/bin:/bin");
        let child = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn()?;
        let child = self.child.insert(child);
        let address = SocketAddr::from(([127, 0, 0, 1], self.port));
        for _ in 0..QUESTIONS {
            std::thread::sleep(PAUSE);
            if let Some(status) = child.try_wait()? {
                return Err(format!("the registry ended at once: {status}").into());
            }
            if TcpStream::connect(address).is_ok() {
                return Ok(());
            }
        }
        Err("the registry does not answer".into())
    }

    fn text(&self, options: &Options) -> String {
        let mut text = format!(
            "version: 0.1\nlog:\n  level: info\nstorage:\n  cache:\n    blobdescriptor: inmemory\n  filesystem:\n    \
             rootdirectory: {}\n  delete:\n    enabled: true\n  maintenance:\n    readonly:\n      enabled: {}\nhttp:\n  \
             addr: 127.0.0.1:{}\n  relativeurls: {}\n",
            self.directory.join("data").display(),
            options.read_only,
            self.port,
            options.relative,
        );
        // Writing to a string does not fail.
        if let Some(secret) = options.secret {
            let _ = writeln!(text, "  secret: {secret}");
        }
        if let Some((certificate, key)) = &options.tls {
            let _ = writeln!(text, "  tls:\n    certificate: {}\n    key: {}", certificate.display(), key.display());
        }
        if let Some(authority) = &options.client_authority {
            let _ = writeln!(text, "    clientcas:\n      - {}", authority.display());
        }
        if let Some(registry) = &options.proxied {
            let _ = writeln!(text, "proxy:\n  remoteurl: http://{registry}");
        }
        if let Some(file) = &options.htpasswd {
            let _ = writeln!(text, "auth:\n  htpasswd:\n    realm: interop\n    path: {}", file.display());
        }
        text
    }
}

impl Drop for Registry {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A server that is told to end when the suite does, however it ends.
pub(crate) fn ending_with_the_suite(program: &Path) -> Command {
    let mut command = Command::new("setpriv");
    command.args(["--pdeathsig", "TERM"]).arg(program);
    command
}

/// Bytes in the files below a directory. What goes away meanwhile does not count.
fn size(directory: &Path) -> u64 {
    let Ok(entries) = fs_err::read_dir(directory) else { return 0 };
    let sizes = entries.flatten().map(|entry| match entry.metadata() {
        Ok(found) if found.is_dir() => size(&entry.path()),
        Ok(found) => found.len(),
        Err(_) => 0,
    });
    sizes.sum()
}
