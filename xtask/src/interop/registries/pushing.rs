//! What kiln pushes is there, is what kiln says, and runs in Docker.

use super::machine::{Machine, Told};
use super::server::Registry;
use super::{CODE, Fixture, NUMPY, PRINTED, beginning, skopeo};
use crate::interop::report::{Checks, same};
use crate::interop::{Result, packages, programs};

/// Makes the checks; the machine that pushed.
pub(crate) fn check(fixture: &Fixture, hub: &Registry, checks: &mut Checks) -> Option<Machine> {
    let (machine, told) = checks.check("kiln pushes tiers to a registry", || push(fixture, hub))?;
    checks.check("skopeo finds there what kiln says it pushed", || {
        same("the number of images", told.pushed.len(), 3)?;
        told.pushed.iter().try_for_each(|pushed| skopeo::inspect(told.image(&pushed.name)?, pushed))
    });
    checks.check("skopeo copies it from there, and every byte is right", || {
        let directory = fixture.directory.join("copied");
        let mut pushed = told.pushed.iter();
        pushed.try_for_each(|pushed| skopeo::copy(&pushed.reference(), &pushed.digest, &directory))
    });
    checks.check("a tier's layers are mounted from what it stands on", || {
        let (below, above) = (told.pushed("ml")?, told.pushed("train")?);
        same("whether the lower tier was sent", below.sent > 50_000_000 && below.mounted == 0, true)?;
        same("whether the upper tier was mounted", above.sent < 1_000_000 && above.mounted >= below.sent / 2, true)
    });
    checks.check("pushing again sends nothing", || {
        let writes = hub.writes()?;
        let again = machine.push(&[])?;
        same("what was pushed", again.digests(), told.digests())?;
        same("the number of bytes", again.network.sent, 0)?;
        same("the number of requests that were to change something", hub.writes()? - writes, 0)
    });
    checks.check("what changed is all that is sent", || {
        let changed = machine.clone().with_file("src/main.py", b"print('other')\n")?.push(&[])?;
        same("whether little was sent", (1..100_000).contains(&changed.network.sent), true)?;
        skopeo::inspect(changed.image("train")?, changed.pushed("train")?)
    });
    checks.check("Docker pulls and runs what kiln pushed", || {
        let printed = fixture.docker.pull_and_run(&told.pushed("train")?.reference(), CODE)?;
        same("what it prints", printed.as_str(), PRINTED)?;
        let printed = fixture.docker.run(&told.pushed("train")?.reference(), &["python", "/app/main.py"])?;
        same("what the copied program prints", printed.as_str(), "other")
    });
    Some(machine)
}

fn push(fixture: &Fixture, hub: &Registry) -> Result<(Machine, Told)> {
    let text = format!(
        "{}[images.ml]\nfrom = {{ oci = \"base\" }}\npackages = [\"{NUMPY}\"]\n\n\
         [images.train]\nfrom = \"ml\"\npackages = [\"{}\"]\ncopy = [{{ from = \"src\", to = \"/app\" }}]\n\n\
         [images.zstd]\nfrom = \"ml\"\npackages = [\"{}\"]\ncompression = \"zstd\"\n",
        beginning(&hub.address(), &["linux/amd64"]),
        packages::FIRST_MORE,
        packages::FIRST_MORE,
    );
    let machine = fixture.machine("first")?.project("pushing", &text)?.with_wheels(&fixture.wheels)?;
    let machine = machine.with_file("src/main.py", b"print('hello')\n")?;
    let mut copy = std::process::Command::new("cp");
    programs::output(copy.arg("--recursive").arg(&fixture.base).arg(&machine.project))?;
    let told = machine.push(&[])?;
    Ok((machine, told))
}
