//! The registry as everyone's cache: what one machine made, another that has neither wheels nor a way to get them uses.

use std::process::Command;
use std::time::Duration;

use serde::Deserialize;
use serde_json::Value;

use super::bases::BY_SKOPEO;
use super::machine::{Machine, Outcome, Told};
use super::server::{Options, Registry};
use super::{CODE, Fixture, NUMPY, PRINTED, beginning, skopeo};
use crate::interop::report::{Checks, same};
use crate::interop::{Result, packages, programs};

/// Nobody listens there: whoever goes that way does not reach the network.
const NOWHERE: &str = "http://127.0.0.1:1";
/// Bytes of records, manifests and configs, and no layers.
const SMALL: u64 = 5_000_000;

/// What `kiln --json cache verify` tells.
#[derive(Deserialize)]
struct Verified {
    records: Vec<Value>,
    wrong: usize,
}

/// What `kiln --json cache prune` tells.
#[derive(Deserialize)]
struct Pruned {
    removed: Vec<Value>,
    kept: usize,
}

/// Makes the checks.
pub(crate) fn check(fixture: &Fixture, hub: &mut Registry, checks: &mut Checks) {
    let Some((first, told)) = checks.check("kiln fills a cache with a push", || fill(fixture, hub)) else { return };
    checks.check("a machine without store, wheels and network pushes the same from the cache", || {
        let told_again = deprived(fixture, &first, "second")?;
        same("what was pushed", told_again.digests(), told.digests())
    });
    checks.check("a registry that is read-only refuses a push in one message", || {
        hub.restart(&Options { read_only: true, ..Options::default() })?;
        let changed = first.clone().with_file("src/main.py", b"print('other')\n")?;
        Outcome::of(changed.kiln().args(["build", "--push"]), "")?.failed_with(&["read-only"])?;
        first.clone().with_file("src/main.py", b"print('hello')\n").map(drop)
    });
    checks.check("the cache of a registry that is read-only is read", || {
        let third = bare(fixture, &first, "third")?;
        let built: Told = programs::json(offline_but_for_registries(&third).args(["--json", "build", "--locked"]))?;
        same("what was built", built.digests(), told.digests())
    });
    checks.check("kiln derives everything again and finds the cache right", || {
        hub.restart(&Options::default())?;
        let fresh = bare(fixture, &first, "verifying")?.with_wheels(&fixture.wheels)?;
        [&first, &fresh].into_iter().try_for_each(|machine| {
            let verified: Verified = machine.json(&["cache", "verify"])?;
            same("the number of wrong records", verified.wrong, 0)?;
            let recorded = verified.records.iter().filter(|step| !step["recorded"].is_null()).count();
            same("how many steps have a record", (recorded, recorded > 0) == (verified.records.len(), true), true)
        })
    });
    checks.check("kiln prunes the cache, and the registry's own garbage collection works", || {
        prune(fixture, hub, &first, &told)
    });
    checks.check("a cache that is empty is filled again", || {
        let again = first.push(&["--locked"])?;
        same("what was pushed", again.digests(), told.digests())?;
        deprived(fixture, &first, "fourth").map(drop)
    });
}

fn fill(fixture: &Fixture, hub: &Registry) -> Result<(Machine, Told)> {
    let address = hub.address();
    let text = format!(
        "{}[cache]\nremote = \"{address}/acme/cache\"\n\n\
         [images.lower]\nfrom = \"{address}/{BY_SKOPEO}:1\"\npackages = [\"{NUMPY}\"]\n\n\
         [images.upper]\nfrom = \"lower\"\npackages = [\"{}\"]\ncopy = [{{ from = \"src\", to = \"/app\" }}]\n",
        beginning(&address, &["linux/amd64"]),
        packages::FIRST_MORE,
    );
    let machine = fixture.machine("caching")?.project("cached", &text)?.with_wheels(&fixture.wheels)?;
    let machine = machine.with_file("src/main.py", b"print('hello')\n")?;
    let told = machine.push(&[])?;
    Ok((machine, told))
}

/// A machine with the project of another, and with nothing else.
fn bare(fixture: &Fixture, other: &Machine, name: &str) -> Result<Machine> {
    let text = fs_err::read_to_string(other.project.join("kiln.toml"))?;
    let machine = fixture.machine(name)?.project("cached", &text)?;
    machine.with_file("src/main.py", b"print('hello')\n")?.with_file("kiln.lock", other.lock()?.as_bytes())
}

/// kiln, which reaches registries on this machine and no other part of the network.
fn offline_but_for_registries(machine: &Machine) -> Command {
    let mut kiln = machine.kiln();
    for variable in ["HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"] {
        kiln.env(variable, NOWHERE);
    }
    for variable in ["NO_PROXY", "no_proxy"] {
        kiln.env_remove(variable);
    }
    kiln
}

/// Builds and pushes on such a machine, and looks at how little moved.
fn deprived(fixture: &Fixture, first: &Machine, name: &str) -> Result<Told> {
    let machine = bare(fixture, first, name)?;
    let mut kiln = offline_but_for_registries(&machine);
    let told: Told = programs::json(kiln.args(["--json", "build", "--locked", "--push"]))?;
    same("the number of bytes that were sent", told.network.sent, 0)?;
    let received = told.network.received;
    same(&format!("whether {received} bytes that were received are few"), (1..SMALL).contains(&received), true)?;
    same(&format!("whether {} bytes in the store are few", machine.stored()?), machine.stored()? < SMALL, true)?;
    Ok(told)
}

fn prune(fixture: &Fixture, hub: &mut Registry, first: &Machine, told: &Told) -> Result<()> {
    // Age is counted in whole seconds.
    std::thread::sleep(Duration::from_secs(2));
    let before = first.json::<Value>(&["cache", "ls", "--remote"])?["records"].as_array().map_or(0, Vec::len);
    let pruned: Pruned = first.json(&["cache", "prune", "--remote", "--older-than", "0s"])?;
    same("how many records were removed", (pruned.removed.len(), pruned.kept) == (before, 0) && before > 0, true)?;
    let left = first.json::<Value>(&["cache", "ls", "--remote"])?;
    same("the records that are left", left["records"].to_string().as_str(), "[]")?;
    let size = hub.size();
    let collected = hub.collect_garbage(&Options::default())?;
    same(&format!("whether `{collected}` removed anything"), hub.size() < size, true)?;
    for pushed in &told.pushed {
        skopeo::copy(&pushed.reference(), &pushed.digest, &fixture.directory.join("copied"))?;
    }
    let printed = fixture.docker.pull_and_run(&told.pushed("upper")?.reference(), CODE)?;
    same("what the image prints", printed.as_str(), PRINTED)
}
