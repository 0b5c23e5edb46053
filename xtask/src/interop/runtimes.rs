//! Every image is the same under every runtime: kind, owner, mode and target of every path, directories included.
//!
//! Docker and podman apply a layer without those below it and let the kernel put them over one another, containerd applies
//! it onto what is below, umoci unpacks all into one directory. Where a layer leaves something open, they decide
//! differently. What each of them shows is compared with kiln's own picture of the layers.

mod awkward;
mod containerd;
mod docker;
mod podman;

use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::{Mutex, PoisonError};

use super::registries::docker::Docker;
use super::report::{Checks, eprint, none};
use super::seen::{self, Seen};
use super::tree::{self, Kind, Tree};
use super::{Result, Suite, programs, transports};
pub(crate) use containerd::Containerd;

/// The repository under which the runtimes know images. These stay until all are looked at: layers that they share are unpacked once.
const REPOSITORY: &str = "looked/at";

/// The runtimes, each with files of its own.
pub(crate) struct Runtimes {
    directory: PathBuf,
    docker: Docker,
    podman: podman::Podman,
    containerd: Containerd,
}

/// Builds images of its own, and compares them.
pub(crate) fn check(suite: &Suite, checks: &mut Checks) {
    let Some(layout) = checks.check("kiln builds images with awkward copies", || awkward::build(suite)) else { return };
    compare(suite, &[(layout, awkward::IMAGES.map(str::to_owned).to_vec())], checks);
    suite.remove("runtimes");
}

/// Compares the images of some layouts.
pub(crate) fn compare(suite: &Suite, layouts: &[(PathBuf, Vec<String>)], checks: &mut Checks) {
    let directory = suite.work.join("runtimes/run");
    let Some(runtimes) = checks.check("Docker, podman and containerd run", || Runtimes::start(&directory)) else {
        return;
    };
    for (layout, images) in layouts {
        for image in images {
            let name =
                format!("`{image}` is the same under Docker, podman, containerd and umoci, and in kiln's picture");
            checks.check(&name, || runtimes.compare(layout, image));
        }
    }
    drop(runtimes);
    suite.remove("runtimes/run");
}

impl Runtimes {
    fn start(directory: &Path) -> Result<Self> {
        fs_err::create_dir_all(directory)?;
        Ok(Self {
            directory: directory.to_owned(),
            docker: Docker::start(&directory.join("docker"))?,
            podman: podman::Podman::new(&directory.join("podman"))?,
            containerd: Containerd::start(directory)?,
        })
    }

    fn compare(&self, layout: &Path, image: &str) -> Result<()> {
        let picture = seen::image(layout, image)?;
        let from = transports::in_layout(layout, image);
        let wrong = Mutex::new(Vec::new());
        let look = |runtime: &str, root: &Path| {
            let found = differences(&picture, root)?.into_iter().map(|difference| format!("{runtime}: {difference}"));
            wrong.lock().unwrap_or_else(PoisonError::into_inner).extend(found);
            Ok(())
        };
        let name = format!("{REPOSITORY}:{image}");
        let archive = self.archive("oci-archive", &from, &name)?;
        let podman = || self.podman.look(&archive, |root| look("podman", root));
        let containerd =
            || self.containerd.look(&archive, &name, &self.directory.join("mounted"), |root| look("containerd", root));
        let docker = || {
            let archive = self.archive("docker-archive", &from, &name)?;
            docker::look(&self.docker, &archive, &name, |root| look("Docker", root))
        };
        let umoci = || {
            let bundle = self.directory.join("bundle");
            programs::output(Command::new("umoci").args(["unpack", "--image", &from["oci:".len()..]]).arg(&bundle))?;
            look("umoci", &bundle.join("rootfs"))?;
            Ok(fs_err::remove_dir_all(bundle)?)
        };
        let mut looks: Vec<&(dyn Fn() -> Result<()> + Sync)> = vec![&podman, &containerd];
        if !has_zstd(&from)? {
            looks.extend([&docker as &(dyn Fn() -> Result<()> + Sync), &umoci]);
        }
        // Each of them unpacks on one processor.
        std::thread::scope(|scope| {
            let looks: Vec<_> = looks.into_iter().map(|look| scope.spawn(look)).collect();
            looks.into_iter().try_for_each(|look| look.join().unwrap_or_else(|_| Err("a look panicked".into())))
        })?;
        eprint(&format!("{} paths of `{image}`", picture.len()));
        none("paths are otherwise", &wrong.into_inner().unwrap_or_else(PoisonError::into_inner))
    }

    fn archive(&self, kind: &str, from: &str, name: &str) -> Result<tempfile::TempPath> {
        // skopeo adds to an archive that is there.
        let archive = tempfile::Builder::new().suffix(".tar").tempfile_in(&self.directory)?.into_temp_path();
        fs_err::remove_file(&archive)?;
        let to = format!("{kind}:{}:{name}", archive.display());
        programs::output(transports::skopeo().args(["copy", "--quiet", from, &to]))?;
        Ok(archive)
    }
}

/// Returns true if an image has layers that Debian's Docker and umoci do not read.
fn has_zstd(from: &str) -> Result<bool> {
    Ok(programs::text(transports::skopeo().args(["inspect", "--raw", from]))?.contains("+zstd"))
}

/// The differences between a picture and what lies at a root. The root itself has mode 0555 under podman (4.3) and 0755 under
/// Docker (20.10), whatever the layers say of it: nobody can do anything about it. Where none does, it is not compared.
fn differences(picture: &Seen, root: &Path) -> Result<Vec<String>> {
    let mut tree = Tree::read(root)?;
    if picture.contains_key(&b""[..]) {
        tree.nodes.insert(String::new(), tree::node(root)?);
    }
    let mut wrong = Vec::new();
    for (path, (node, _)) in picture {
        let path = std::str::from_utf8(path)?;
        match tree.nodes.remove(path) {
            None => wrong.push(format!("/{path} is not there")),
            Some(found) => {
                let mode = if matches!(found.kind, Kind::Link(_)) { node.mode } else { found.mode };
                if (&found.kind, mode, found.owner) != (&node.kind, node.mode, node.owner) {
                    let show = |node: &tree::Node| format!("{:?} {:o} {:?}", node.kind, node.mode, node.owner);
                    wrong.push(format!("/{path} is {}, in the picture {}", show(&found), show(node)));
                }
            }
        }
    }
    wrong.extend(tree.nodes.into_keys().map(|path| format!("/{path} is in no layer")));
    Ok(wrong)
}
