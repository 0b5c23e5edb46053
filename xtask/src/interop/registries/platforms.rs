//! Images for two processors, pushed by one machine, or by two and then joined.

use serde::Deserialize;

use super::bases::BY_SKOPEO;
use super::by_hand::Repository;
use super::machine::{Machine, Told};
use super::server::Registry;
use super::{CODE, Fixture, NUMPY, PRINTED, beginning, skopeo};
use crate::interop::report::{Checks, same};
use crate::interop::{Result, packages, programs, transports};

const PLATFORMS: [&str; 2] = ["linux/amd64", "linux/arm64"];

/// What `kiln --json index` tells.
#[derive(Deserialize)]
struct Joined {
    digest: String,
    tags: Vec<String>,
}

/// What `skopeo inspect` says of an image.
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected {
    architecture: String,
    layers: Vec<String>,
}

/// Makes the checks.
pub(crate) fn check(fixture: &Fixture, hub: &Registry, checks: &mut Checks) {
    let found = checks.check("two machines push an image for a platform each", || push_parts(fixture, hub));
    let Some((machine, whole)) = found else { return };
    let joined = checks.check("kiln joins them into the index that one machine would have made", || {
        let joined: Joined = machine.json(&["index", "both"])?;
        same("the digest", joined.digest.as_str(), &whole.image("both")?.digest)?;
        let digits = joined.digest.trim_start_matches("sha256:").get(..16).unwrap_or_default();
        same("the tags", joined.tags.join(" "), format!("{digits} latest"))
    });
    if joined.is_none() {
        return;
    }
    let reference = format!("{}/acme/arr/both:latest", hub.address());
    checks.check("skopeo sees both platforms", || {
        for (platform, expected) in PLATFORMS.iter().zip(&whole.image("both")?.platforms) {
            let architecture = platform.trim_start_matches("linux/");
            let mut skopeo = transports::skopeo();
            skopeo.args(["--override-arch", architecture, "inspect", "--tls-verify=false"]);
            let found: Inspected = programs::json(skopeo.arg(format!("docker://{reference}")))?;
            same("the architecture", found.architecture.as_str(), architecture)?;
            let layers: Vec<&str> = expected.layers.iter().map(|layer| layer.digest.as_str()).collect();
            same("the layers", found.layers.join(" "), layers.join(" "))?;
        }
        skopeo::copy(&reference, &whole.image("both")?.digest, &fixture.directory.join("copied"))
    });
    checks.check("a machine that pushes both platforms sends nothing any more", || {
        let told = machine.push(&["--locked"])?;
        skopeo::inspect(told.image("both")?, told.pushed("both")?)?;
        same("the index", told.digests(), whole.digests())
    });
    checks.check("Docker runs its own platform of the index", || {
        same("what it prints", fixture.docker.pull_and_run(&reference, CODE)?.as_str(), PRINTED)
    });
}

/// The machine that knows both halves, and what it says of the whole.
fn push_parts(fixture: &Fixture, hub: &Registry) -> Result<(Machine, Told)> {
    let address = hub.address();
    let repository = Repository { registry: &address, path: BY_SKOPEO, directory: &fixture.directory };
    repository.double("1", "double")?;
    let text = format!(
        "{}[images.both]\nfrom = \"{address}/{BY_SKOPEO}:double\"\npackages = [\"{NUMPY}\", \"{}\"]\n",
        beginning(&address, &PLATFORMS),
        packages::FIRST_MORE,
    );
    let machines = [fixture.machine("amd64")?, fixture.machine("arm64")?];
    let [first, second] = machines.map(|machine| machine.project("platforms", &text));
    let (first, second) = (first?.with_wheels(&fixture.wheels)?, second?.with_wheels(&fixture.wheels)?);
    let whole: Told = first.json(&["build"])?;
    fs_err::copy(first.project.join("kiln.lock"), second.project.join("kiln.lock"))?;
    for (machine, platform) in [&first, &second].into_iter().zip(PLATFORMS) {
        let told = machine.push(&["--locked", "--platform", platform])?;
        same("the tags of a half", told.pushed("both")?.tags.join(" "), String::new())?;
    }
    Ok((first, whole))
}
