//! Other programs' documents, archives, credentials and networks, which kiln reads and writes as those programs do.
//!
//! Docker, buildah, podman, umoci and skopeo make small images in all the ways that they know. kiln has to read of each,
//! and of documents that differ from them in details, what skopeo reads, from a layout and from a registry alike. What
//! kiln writes goes into Docker, podman and containerd. Credentials and proxies are told apart by servers on this
//! machine's loopback address, which note who speaks to them.

mod archives;
mod copies;
mod credentials;
mod documents;
mod made;
mod mutations;
mod networks;
mod reading;

use std::path::PathBuf;

use super::registries::docker::Docker;
use super::registries::machine::Machine;
use super::registries::server::{Options, Registry};
use super::report::Checks;
use super::{Result, Suite};

/// The programs and places that all checks use.
struct Fixture {
    kiln: PathBuf,
    /// Everything that is made lies in it.
    directory: PathBuf,
    hub: Registry,
    docker: Docker,
    /// The directory of what podman keeps as long as it runs: its path has 50 bytes at most.
    run: tempfile::TempDir,
}

impl Fixture {
    /// Returns the file that lets buildah, podman and skopeo speak plain HTTP to the registry.
    fn registries(&self) -> PathBuf {
        self.directory.join("registries.conf")
    }

    /// podman or buildah, with images of their own below a name.
    fn storage(&self, program: &str, name: &str) -> String {
        let (root, run) = (self.directory.join(name).join(program), self.run.path().join(name));
        format!("{program} --storage-driver vfs --root {} --runroot {}", root.display(), run.display())
    }

    /// A machine with an empty store.
    fn machine(&self, name: &str) -> Result<Machine> {
        Machine::new(&self.kiln, self.directory.join(name))
    }
}

/// Makes the checks.
pub(crate) fn check(suite: &Suite, checks: &mut Checks) {
    let Some(fixture) = checks.check("a registry and a Docker daemon run", || prepare(suite)) else {
        return;
    };
    if let Some(made) = checks.check("Docker, buildah, podman, umoci and skopeo make images", || made::all(&fixture)) {
        documents::check(&fixture, &made, checks);
        mutations::check(&fixture, &made, checks);
        copies::check(&fixture, &made, checks);
    }
    archives::check(&fixture, checks);
    credentials::check(&fixture, checks);
    networks::check(&fixture, checks);
    drop(fixture);
    suite.remove("foreign");
}

fn prepare(suite: &Suite) -> Result<Fixture> {
    let directory = suite.work.join("foreign");
    let docker = Docker::start(&directory.join("docker"))?;
    let hub = Registry::start(&directory.join("hub"), &Options::default())?;
    let run = tempfile::Builder::new().prefix("interop-podman-").tempdir()?;
    let fixture = Fixture { kiln: suite.kiln.clone(), directory, hub, docker, run };
    let insecure = format!("[[registry]]\nlocation = \"{}\"\ninsecure = true\n", fixture.hub.address());
    fs_err::write(fixture.registries(), insecure)?;
    Ok(fixture)
}
