//! Images that kiln pulls and pushes again: all of them stays, and the digest with it.

use kiln_oci::image::{DOCKER_INDEX, DOCKER_MANIFEST};
use serde_json::Value;

use super::Fixture;
use super::documents::Documents;
use super::made::Made;
use crate::interop::registries::{by_hand, machine::Machine, skopeo};
use crate::interop::report::{Checks, none, same};
use crate::interop::{Result, programs, transports};

/// Makes the checks.
pub(super) fn check(fixture: &Fixture, made: &[Made], checks: &mut Checks) {
    let Some(machine) =
        checks.check("a machine has nothing but kiln", || fixture.machine("copier")?.project("nothing", ""))
    else {
        return;
    };
    checks.check("a digest stays when kiln pulls and pushes an image, with attestations and all", || {
        let mut wrong = Vec::new();
        for image in made.iter().filter(|image| image.layout.is_none()) {
            wrong.extend(there_and_back(fixture, &machine, image)?.map(|problem| format!("{}: {problem}", image.name)));
        }
        none("images are not what they were", &wrong)
    });
    checks.check("a digest stays when kiln pushes a layout of others", || {
        let mut wrong = Vec::new();
        for image in made {
            let Some(layout) = &image.layout else { continue };
            let name = image.name_in_layout().map_or_else(String::new, |name| format!(":{name}"));
            let to = format!("{}/acme/pushed:{}", fixture.hub.address(), image.name);
            programs::output(machine.kiln().arg("push").arg(format!("oci:{}{name}", layout.display())).arg(&to))?;
            let expected = Documents::fetch(image, &fixture.directory.join("fetched"))?.root;
            let found = skopeo::plain(&to)?;
            if found != expected {
                wrong.push(format!("{}: {}", image.name, String::from_utf8_lossy(&found)));
            }
        }
        none("images are not what they were", &wrong)
    });
    checks.check("a digest stays where an index is within an index", || {
        let hub = fixture.hub.address();
        let directory = &fixture.directory;
        by_hand::Repository { registry: &hub, path: "acme/attested", directory }.nest("with", "nested")?;
        let (from, to) = (format!("{hub}/acme/attested:nested"), format!("{hub}/acme/nested"));
        let expected = skopeo::plain(&from)?;
        let told: Value = machine.json(&["pull", &from, "--output", "oci:nested"])?;
        same("the digest that kiln tells", told["digest"].as_str().unwrap_or(""), &transports::digest(&expected))?;
        programs::output(machine.kiln().args(["push", "oci:nested", &format!("{to}:1")]))?;
        same("whether the index stays", skopeo::plain(&format!("{to}:1"))? == expected, true)?;
        let inner = transports::digest(&skopeo::plain(&format!("{hub}/acme/attested:with"))?);
        skopeo::plain(&format!("{to}@{inner}")).map(drop)
    });
}

/// Pulls an image into a layout, and pushes that; what is wrong. In Docker's words no layout holds an image: it gets OCI's,
/// and kiln says both digests.
fn there_and_back(fixture: &Fixture, machine: &Machine, image: &Made) -> Result<Option<String>> {
    let expected = transports::digest(&skopeo::plain(&image.reference)?);
    let (output, to) = (format!("oci:{}", image.name), format!("{}/acme/copied:{}", fixture.hub.address(), image.name));
    let pulled = machine.kiln().args(["--json", "pull", &image.reference, "--output", &output]).output()?;
    let said = String::from_utf8_lossy(&pulled.stderr).into_owned();
    if !pulled.status.success() {
        return Ok(Some(said));
    }
    let told: Value = serde_json::from_slice(&pulled.stdout)?;
    programs::output(machine.kiln().args(["push", &output, &to]))?;
    let found = transports::digest(&skopeo::plain(&to)?);
    let documents = Documents::fetch(image, &fixture.directory.join("fetched"))?;
    let is_docker = |bytes: &Vec<u8>| {
        let text = String::from_utf8_lossy(bytes).into_owned();
        text.contains(DOCKER_MANIFEST) || text.contains(DOCKER_INDEX) || text.contains("application/vnd.docker.")
    };
    let stays = !documents.manifests.iter().chain([&documents.root]).any(is_docker);
    let expected_here = if stays { &expected } else { &found };
    if told["digest"] != expected_here.as_str() || found != *expected_here {
        return Ok(Some(format!("{found} is on the registry, and kiln told {}, not {expected}", told["digest"])));
    }
    let is_said = said.contains(&found) && said.contains(&expected);
    if !stays && !is_said {
        return Ok(Some(format!("kiln does not say that {expected} became {found}: {said}")));
    }
    // skopeo finds every byte of it.
    let mut copy = transports::skopeo();
    copy.args(["copy", "--quiet", "--all", "--src-tls-verify=false", &format!("docker://{to}")]);
    let directory = fixture.directory.join("looked-at");
    programs::output(copy.arg(format!("dir:{}", directory.display())))?;
    fs_err::remove_dir_all(directory)?;
    Ok(None)
}
