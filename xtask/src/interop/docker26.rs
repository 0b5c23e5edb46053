//! Docker as Debian 13 has it, with buildx and a BuildKit that still agrees with the present one.
//!
//! Docker 20.10, which Debian 12 has, reads ignore files in an old way: a pattern looks at one directory above a path
//! alone, and `+`, `|` and `(` are what they are in expressions.

use std::path::Path;
use std::process::Command;

use super::registries::docker::Docker;
use super::{Result, programs};

/// The packages.
const PACKAGES: &str = "docker.io,docker-cli,docker-buildx";

/// Unpacks it below a directory, and starts it there. Its programs run with the libraries of this system.
pub(crate) fn start(directory: &Path) -> Result<Docker> {
    let root = directory.join("debian13");
    fs_err::create_dir_all(directory)?;
    let mut unpack = Command::new("mmdebstrap");
    unpack.args(["--quiet", "--variant=extract", "--include", PACKAGES, "trixie"]).arg(&root);
    programs::output(&mut unpack)?;
    let docker = Docker::start_with(&root.join("usr"), &directory.join("docker26"))?;
    let plugin = root.join("usr/libexec/docker/cli-plugins/docker-buildx");
    docker.add_plugin(&plugin)?;
    Ok(docker)
}
