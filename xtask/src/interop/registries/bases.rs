//! Bases that other programs put on a registry: by skopeo, by Docker with its own media types, with attestations.

use super::by_hand::Repository;
use super::machine::{LockedBases, Machine, Outcome, Told};
use super::server::{Options, Registry};
use super::{CODE, Fixture, NUMPY, PRINTED, beginning, skopeo};
use crate::interop::Result;
use crate::interop::report::{Checks, same};

/// The repository of bases that skopeo fills, and that Docker fills.
pub(crate) const BY_SKOPEO: &str = "bases/skopeo";
pub(crate) const BY_DOCKER: &str = "bases/docker";
/// Images and the bases that they stand on, by repository and tag.
const IMAGES: [(&str, &str, &str); 4] = [
    ("on-skopeo", BY_SKOPEO, "1"),
    ("on-docker", BY_DOCKER, "1"),
    ("on-list", BY_DOCKER, "list"),
    ("on-buildkit", BY_SKOPEO, "attested"),
];
/// What all media types of Docker's begin with.
const DOCKER: &str = "application/vnd.docker.";
/// Bytes of what is an image's own: all but its base and wheels.
const SMALL: u64 = 1_000_000;

/// Makes the checks.
pub(crate) fn check(fixture: &Fixture, hub: &Registry, first: &Machine, checks: &mut Checks) {
    let machine = checks.check("a base on a registry is locked to digests and facts", || lock(fixture, hub, first));
    let Some(machine) = machine else { return };
    let told = checks.check("images on such bases are pushed beside them, and the bases are mounted", || {
        let told = machine.push(&["--locked"])?;
        told.pushed.iter().try_for_each(|pushed| {
            let what =
                format!("{} bytes of {} that were sent, and {} mounted", pushed.sent, pushed.name, pushed.mounted);
            same(&what, pushed.sent < SMALL && pushed.mounted > 50_000_000, true)
        })?;
        Ok(told)
    });
    if let Some(told) = told {
        checks.check("what they became is the OCI's alone, whatever the base was", || {
            told.pushed.iter().try_for_each(|pushed| {
                skopeo::inspect(told.image(&pushed.name)?, pushed)?;
                skopeo::copy(&pushed.reference(), &pushed.digest, &fixture.directory.join("copied"))
            })
        });
        checks.check("Docker pulls and runs them", || {
            told.pushed.iter().try_for_each(|pushed| {
                let printed = fixture.docker.pull_and_run(&pushed.reference(), CODE)?;
                same(&format!("what {} prints", pushed.name), printed.as_str(), PRINTED)
            })
        });
        checks.check("what Docker's base has and has removed stays so", || {
            let image = told.pushed("on-docker")?.reference();
            let printed = fixture.docker.run(&image, &["sh", "-c", "cat /etc/marker; ls /etc/issue || true"])?;
            same("what the image has", printed.as_str(), "committed")
        });
    }
    checks.check("on the way to another registry a base leaves nothing behind", || stream(fixture, hub));
    checks.check("a registry that passes on another's images serves for bases, and cannot be pushed to", || {
        pass_on(fixture, hub)
    });
}

/// Has others push bases. Docker's layers are its own: it has not pulled anything yet whose layers it would push again.
pub(crate) fn push(fixture: &Fixture, hub: &Registry) -> Result<()> {
    let address = hub.address();
    skopeo::push(&fixture.base, "base", &format!("{address}/{BY_SKOPEO}:1"))?;
    let repository = Repository { registry: &address, path: BY_SKOPEO, directory: &fixture.directory };
    repository.attest("1", "attested")?;
    // An image of two layers, the upper of which removes a file of the lower.
    let docker = &fixture.docker;
    let layer = fixture.base_layer.display().to_string();
    let path = "ENV PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    docker.text(&["import", "--change", path, &layer, "imported"])?;
    let script = "echo committed > /etc/marker; rm /etc/issue";
    docker.text(&["run", "--name", "changed", "--network", "none", "imported", "sh", "-c", script])?;
    let reference = format!("{address}/{BY_DOCKER}:1");
    docker.text(&["commit", "changed", &reference])?;
    docker.text(&["rm", "changed"])?;
    docker.text(&["push", "--quiet", &reference])?;
    let pushed: skopeo::Document = serde_json::from_slice(&skopeo::plain(&reference)?)?;
    let found = pushed.media_type.unwrap_or_default();
    same("whether Docker pushed with its own media types", found.starts_with(DOCKER), true)?;
    let list = format!("{address}/{BY_DOCKER}:list");
    docker.text(&["manifest", "create", "--insecure", &list, &reference])?;
    docker.text(&["manifest", "push", "--insecure", &list]).map(drop)
}

fn stack(hub: &Registry, to: &Registry, images: &[(&str, &str, &str)]) -> String {
    let images: Vec<String> = images
        .iter()
        .map(|(name, path, tag)| {
            format!("[images.{name}]\nfrom = \"{}/{path}:{tag}\"\npackages = [\"{NUMPY}\"]\n", hub.address())
        })
        .collect();
    format!("{}{}", beginning(&to.address(), &["linux/amd64"]), images.join("\n"))
}

fn lock(fixture: &Fixture, hub: &Registry, first: &Machine) -> Result<Machine> {
    let machine = first.project("bases", &stack(hub, hub, &IMAGES))?.with_wheels(&fixture.wheels)?;
    machine.json::<serde_json::Value>(&["lock"])?;
    let locked: LockedBases = toml::from_str(&machine.lock()?)?;
    for (_, path, tag) in IMAGES {
        let name = format!("{}/{path}:{tag}", hub.address());
        let base = locked.bases.iter().find(|base| base.name == name);
        let base = base.ok_or_else(|| format!("the lock has no base `{name}`"))?;
        same(&format!("whether an index is locked for {name}"), base.index.is_some(), tag != "1")?;
        let manifest = skopeo::plain(&format!("{}/{path}@{}", hub.address(), base.manifest))?;
        let manifest: skopeo::Document = serde_json::from_slice(&manifest)?;
        same("whether the manifest is locked", manifest.layers.is_empty(), false)?;
        same("what libc is", base.facts["libc"]["version"].as_str().unwrap_or_default(), "2.36")?;
        let interpreters = base.facts["interpreters"].as_array().map_or(0, Vec::len);
        same("how many interpreters there are", interpreters, 1)?;
    }
    Ok(machine)
}

/// Nothing of the base is in the store of this machine, and nothing of it is afterwards.
fn stream(fixture: &Fixture, hub: &Registry) -> Result<()> {
    let options = Options { relative: true, ..Options::default() };
    let away = Registry::start(&fixture.directory.join("away"), &options)?;
    let machine = fixture.machine("streaming")?.project("project", &stack(hub, &away, &IMAGES[1..2]))?;
    let machine = machine.with_wheels(&fixture.wheels)?;
    machine.json::<serde_json::Value>(&["build"])?;
    let before = machine.stored()?;
    let told: Told = machine.push(&["--locked"])?;
    let pushed = told.pushed("on-docker")?;
    same(&format!("whether {} bytes are those of the base", pushed.sent), pushed.sent > 70_000_000, true)?;
    let grown = machine.stored()?.saturating_sub(before);
    same(&format!("whether the {grown} bytes by which the store has grown are few"), grown < SMALL, true)?;
    same("whether nothing of the base was there before", before < 40_000_000, true)?;
    skopeo::inspect(told.image("on-docker")?, pushed)?;
    skopeo::copy(&pushed.reference(), &pushed.digest, &fixture.directory.join("copied"))
}

fn pass_on(fixture: &Fixture, hub: &Registry) -> Result<()> {
    let options = Options { proxied: Some(hub.address()), ..Options::default() };
    let mirror = Registry::start(&fixture.directory.join("mirror"), &options)?;
    let text = stack(&mirror, hub, &IMAGES);
    let machine = fixture.machine("mirrored")?.project("project", &text)?.with_wheels(&fixture.wheels)?;
    let told = machine.push(&[])?;
    for (name, _, _) in IMAGES {
        skopeo::inspect(told.image(name)?, told.pushed(name)?)?;
    }
    // Under another name: what the other registry has is there for the mirror too.
    let text = stack(&mirror, &mirror, &IMAGES).replace("\"arr\"", "\"other\"");
    let machine = machine.project("project", &text)?;
    Outcome::of(machine.kiln().args(["build", "--push"]), "")?.failed_with(&["only pass on"])
}
