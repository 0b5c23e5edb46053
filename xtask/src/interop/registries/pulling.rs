//! Images that kiln pulls, from whomever: into a layout, which umoci and skopeo read, and into a Docker daemon.

use std::path::Path;

use super::bases::BY_DOCKER;
use super::machine::Machine;
use super::server::Registry;
use super::{CODE, Fixture, PRINTED, docker};
use crate::interop::report::{Checks, same};
use crate::interop::{Result, programs, running, transports, unpacked};

/// Makes the checks.
pub(crate) fn check(fixture: &Fixture, hub: &Registry, checks: &mut Checks) {
    let Some(machine) =
        checks.check("a machine has nothing but kiln", || fixture.machine("pulling")?.project("nothing", ""))
    else {
        return;
    };
    checks.check("kiln pulls what Docker pushed into a layout, and umoci unpacks it", || {
        let rootfs = pull(&machine, &format!("{}/{BY_DOCKER}:1", hub.address()), "docker")?;
        same("the marker", fs_err::read_to_string(rootfs.join("etc/marker"))?.as_str(), "committed\n")?;
        same("whether what was removed is gone", rootfs.join("etc/issue").exists(), false)
    });
    checks.check("kiln pulls what kiln pushed into a layout, and Python runs in what umoci unpacks", || {
        let rootfs = pull(&machine, &format!("{}/acme/arr/ml", hub.address()), "ml")?;
        same("what it prints", running::python(&rootfs, CODE)?.as_str(), PRINTED)
    });
    checks.check("kiln pulls one platform of two and both", || {
        let reference = format!("{}/acme/arr/both:latest", hub.address());
        for platforms in ["linux/arm64", "linux/amd64,linux/arm64"] {
            let output = format!("oci:{}", platforms.replace(['/', ','], "-"));
            machine.json::<serde_json::Value>(&["pull", &reference, "--platform", platforms, "--output", &output])?;
            let copy = machine.project.join("copy");
            let mut skopeo = transports::skopeo();
            let from = format!("{output}:both").replace("oci:", &format!("oci:{}/", machine.project.display()));
            skopeo.args(["--override-arch", "arm64", "copy", &from, &format!("dir:{}", copy.display())]);
            programs::output(&mut skopeo)?;
            fs_err::remove_dir_all(copy)?;
        }
        Ok(())
    });
    checks.check("kiln loads into the Docker daemon what it pulls", || {
        let reference = format!("{}/acme/arr/ml:latest", hub.address());
        fixture.docker.text(&["image", "rm", "--force", &reference])?;
        let path = std::env::var("PATH").unwrap_or_default();
        let mut kiln = machine.kiln();
        kiln.env("DOCKER_HOST", fixture.docker.host()).env("PATH", format!("{}:{path}", docker::PROGRAMS));
        programs::output(kiln.args(["pull", &reference, "--load"]))?;
        same("what it prints", fixture.docker.run(&reference, &["python", "-c", CODE])?.as_str(), PRINTED)
    });
}

/// Pulls an image into a layout; the root of the unpacked image.
fn pull(machine: &Machine, reference: &str, name: &str) -> Result<std::path::PathBuf> {
    let layout: &Path = &machine.project.join(format!("{name}-layout"));
    let output = format!("oci:{}", layout.display());
    machine.json::<serde_json::Value>(&["pull", reference, "--output", &output])?;
    let copy = machine.project.join("copy");
    let to = format!("dir:{}", copy.display());
    programs::output(transports::skopeo().args(["copy", &transports::in_layout(layout, name), &to]))?;
    fs_err::remove_dir_all(copy)?;
    unpacked::unpack(layout, name, &machine.project.join(name))
}
