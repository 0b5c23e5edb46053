//! Real registries, and those who use them beside kiln: images that kiln pushes are pulled by others, and the other way
//! round.
//!
//! kiln's own tests have a registry of their own, which does what its author read in the specification. Here kiln speaks
//! to CNCF distribution as Debian packages it, on this machine's loopback address; skopeo, Docker and curl put there
//! what images stand on, and look at what kiln made of it. What is special about somebody's registry is here too:
//! passwords, a certificate of one's own authority, no permission to write, a crash in the middle of a push.

mod access;
mod bases;
pub(super) mod by_hand;
mod cache;
mod crash;
pub(super) mod docker;
pub(super) mod machine;
mod platforms;
mod pulling;
mod pushing;
pub(super) mod server;
pub(super) mod skopeo;

use std::path::PathBuf;

pub(super) use access::make_certificates;
use docker::Docker;
use machine::Machine;
use server::{Options, Registry};

use super::report::Checks;
use super::{Result, Suite, packages, stack};

/// A wheel that gets a layer of its own.
const NUMPY: &str = "numpy==2.4.6";
/// What a program prints that needs it, and the program.
const CODE: &str = "import numpy; print(numpy.ones(3).sum())";
const PRINTED: &str = "3.0";

/// What the checks share.
struct Fixture {
    /// kiln.
    kiln: PathBuf,
    /// Everything that is made lies in it.
    directory: PathBuf,
    /// A layout with the image `base`: Debian and Python.
    base: PathBuf,
    /// The layer of that image, as a file.
    base_layer: PathBuf,
    /// A directory with the wheels of [`NUMPY`] and [`packages::FIRST_MORE`].
    wheels: PathBuf,
    /// Who most images are made for.
    docker: Docker,
}

impl Fixture {
    /// A machine with an empty store.
    fn machine(&self, name: &str) -> Result<Machine> {
        Machine::new(&self.kiln, self.directory.join(name))
    }
}

/// The beginning of a stack: what it is called, where it goes, and for which platforms.
fn beginning(registry: &str, platforms: &[&str]) -> String {
    format!(
        "[stack]\nname = \"arr\"\nregistry = \"{registry}/acme\"\n\n[target]\nplatforms = {platforms:?}\n\
         python = \"3.11\"\n\n[index]\nfind-links = [\"wheels\"]\n\n"
    )
}

/// Makes the checks.
pub(crate) fn check(suite: &Suite, checks: &mut Checks) {
    let Some((fixture, mut hub)) = checks.check("a registry and a Docker daemon run", || prepare(suite)) else {
        return;
    };
    let bases = checks.check("skopeo, Docker and curl push bases", || bases::push(&fixture, &hub));
    let first = pushing::check(&fixture, &hub, checks);
    if let (Some(()), Some(first)) = (bases, first) {
        bases::check(&fixture, &hub, &first, checks);
        platforms::check(&fixture, &hub, checks);
        pulling::check(&fixture, &hub, checks);
        cache::check(&fixture, &mut hub, checks);
    }
    access::check(&fixture, checks);
    crash::check(&fixture, checks);
    // Both use what is removed then.
    drop((fixture, hub));
    suite.remove("registries");
}

fn prepare(suite: &Suite) -> Result<(Fixture, Registry)> {
    let directory = suite.work.join("registries");
    let project = directory.join("wheels");
    let text = format!(
        "[stack]\nname = \"wheels\"\n\n[target]\nplatforms = [\"linux/amd64\"]\npython = \"3.11\"\n\n\
         [images.base]\nfrom = {{ debian = \"bookworm\", include = [\"python3\"] }}\n\n\
         [images.wheels]\nfrom = \"base\"\npackages = [\"{NUMPY}\", \"{}\"]\n",
        packages::FIRST_MORE,
    );
    stack::write(&project, &text)?;
    let base = directory.join("base");
    let images = suite.build(&project, &[])?;
    suite.build(&project, &["--locked", "base", "--output", &format!("oci:{}", base.display())])?;
    let layer = stack::image(&images, "base")?.layers.first().ok_or("the base has no layer")?;
    let base_layer = base.join("blobs").join(layer.digest.replace(':', "/"));
    let wheels = project.join("wheels");
    stack::export_wheels(&project, &suite.store, &wheels)?;
    let docker = Docker::start(&directory.join("docker"))?;
    let hub = Registry::start(&directory.join("hub"), &Options::default())?;
    let kiln = suite.kiln.clone();
    Ok((Fixture { kiln, directory, base, base_layer, wheels, docker }, hub))
}
