//! A registry is killed in the middle of a push and comes back: either the push goes on, or the next one ends well.

use std::io::Read;
use std::process::{Command, Stdio};
use std::time::Duration;

use super::machine::{Machine, Told};
use super::server::{Options, Registry};
use super::{Fixture, beginning, skopeo};
use crate::interop::Result;
use crate::interop::report::{Checks, eprint};

/// Bytes of each of the files that are pushed, which nothing compresses.
const LENGTH: u64 = 150_000_000;
const FILES: [&str; 2] = ["one", "two"];
/// Bytes that the registry has when it is killed.
const MIDDLE: u64 = 60_000_000;
/// How often it is looked how far the push is, and the pause before each look.
const LOOKS: u32 = 6000;
const PAUSE: Duration = Duration::from_millis(10);
/// How long the registry is gone.
const GONE: Duration = Duration::from_secs(1);

/// Makes the checks.
pub(crate) fn check(fixture: &Fixture, checks: &mut Checks) {
    let kinds = [("forgets", None), ("remembers", Some("interop"))];
    for (kind, secret) in kinds {
        let options = Options { secret, ..Options::default() };
        checks.check(&format!("a push survives a crash of a registry that {kind} what was begun"), || {
            let mut registry = Registry::start(&fixture.directory.join(kind), &options)?;
            let machine = project(fixture, kind, &registry)?;
            machine.json::<Told>(&["build"])?;
            let told = interrupted(&machine, &mut registry, &options)?;
            let pushed = told.pushed("data")?;
            skopeo::inspect(told.image("data")?, pushed)?;
            skopeo::copy(&pushed.reference(), &pushed.digest, &fixture.directory.join("copied"))
        });
    }
}

fn project(fixture: &Fixture, kind: &str, registry: &Registry) -> Result<Machine> {
    let copies: Vec<String> = FILES.iter().map(|file| format!("{{ from = \"{file}\", to = \"/{file}\" }}")).collect();
    let text = format!(
        "{}[images.data]\nfrom = \"scratch\"\ncopy = [{}]\n",
        beginning(&registry.address(), &["linux/amd64"]),
        copies.join(", ")
    );
    let machine = fixture.machine(&format!("crash-{kind}"))?.project("project", &text)?;
    for file in FILES {
        let mut random = fs_err::File::open("/dev/urandom")?.take(LENGTH);
        std::io::copy(&mut random, &mut fs_err::File::create(machine.project.join(file))?)?;
    }
    Ok(machine)
}

/// Pushes, with a crash in the middle; what kiln told in the end.
fn interrupted(machine: &Machine, registry: &mut Registry, options: &Options) -> Result<Told> {
    let (out, messages) = (machine.project.join("out"), machine.project.join("messages"));
    let mut command: Command = machine.kiln();
    command.args(["--json", "build", "--push"]).stdin(Stdio::null());
    command.stdout(fs_err::File::create(&out)?.into_parts().0);
    command.stderr(fs_err::File::create(&messages)?.into_parts().0);
    let mut kiln = command.spawn()?;
    let mut looks = 0..LOOKS;
    let reached = looks.any(|_| {
        std::thread::sleep(PAUSE);
        registry.size() > MIDDLE || matches!(kiln.try_wait(), Ok(Some(_)) | Err(_))
    });
    registry.stop();
    let size = registry.size();
    std::thread::sleep(GONE);
    registry.restart(options)?;
    let status = looks.find_map(|_| {
        std::thread::sleep(PAUSE);
        kiln.try_wait().ok().flatten()
    });
    let Some(status) = status else {
        kiln.kill()?;
        kiln.wait()?;
        return Err("kiln does not come to an end".into());
    };
    if !reached || !(MIDDLE..LENGTH * 2).contains(&size) {
        return Err(format!("the registry had {size} bytes when it was killed, which is not the middle").into());
    }
    if status.success() {
        return Ok(serde_json::from_slice(&fs_err::read(out)?)?);
    }
    let said = fs_err::read_to_string(messages)?;
    if status.code() != Some(3) || !said.contains("error: ") {
        return Err(format!("kiln ended with {status} and said `{}`", said.trim()).into());
    }
    eprint(&format!("   the push that was interrupted failed, as it may: {}", said.trim()));
    machine.push(&[])
}
