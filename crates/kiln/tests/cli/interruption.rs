//! Signals, killed processes and full disks: what was finished stays, and nothing half-written is trusted.

use std::io::Read as _;
use std::path::Path;
use std::process::{Child, Command};
use std::time::{Duration, Instant};

use crate::environment::{Outcome, TestEnvironment, kill_once, spawn, wait_until};
use crate::server::{Behaviour, Server};
use crate::wheels::{native, pure, stack};
use insta::assert_snapshot;

/// Several wheels that take a moment to splice, each with a layer of its own.
fn large() -> TestEnvironment {
    let names: Vec<String> = (0..6).map(|at| format!("solver{at}")).collect();
    let packages: Vec<String> = names.iter().map(|name| format!("\"{name}\"")).collect();
    let environment = TestEnvironment::with_stack(&stack(&format!("packages = [{}]", packages.join(", "))));
    for name in &names {
        environment.wheel(&native(name, "3.0", "x86_64", 10_000_000));
    }
    environment
}

fn signal(child: &Child, signal: &str) {
    let sent = Command::new("kill").args([signal, &child.id().to_string()]).status().unwrap();
    assert!(sent.success());
}

/// Waits for the end, which must come soon.
#[track_caller]
fn end(mut child: Child, within: Duration) -> Outcome {
    let since = Instant::now();
    while child.try_wait().unwrap().is_none() {
        if since.elapsed() > within {
            child.kill().unwrap();
            panic!("it did not end within {within:?}");
        }
        std::thread::sleep(Duration::from_millis(10));
    }
    child.wait_with_output().unwrap().into()
}

/// Files in a directory of the project or the store, temporary ones too.
fn files(directory: &Path) -> usize {
    fs_err::read_dir(directory).map_or(0, Iterator::count)
}

/// A state of the store and of the output.
type Moment<'a> = &'a dyn Fn(&Path, &Path) -> bool;

#[test]
fn a_build_that_is_killed_at_any_moment_goes_on_to_the_same_digest() {
    let environment = large();
    let digests = environment.digests("--output oci:reference");
    fs_err::remove_dir_all(environment.root().join("store")).unwrap();
    let store = environment.root().join("store");
    // While the store is made, while layers are, after some of them, and while they are written out.
    let layers = |count: usize| move |store: &Path, _: &Path| files(&store.join("recipes/sha256")) >= count;
    let moments: [Moment<'_>; 6] = [
        &|store, _| store.join("metadata.db").exists(),
        &|store, _| files(&store.join("temporary")) > 0,
        &layers(1),
        &layers(2),
        &layers(4),
        &|_, out| files(&out.join("blobs/sha256")) > 0,
    ];
    for moment in moments {
        let mut command = environment.command();
        command.args(["build", "--jobs", "1", "--output", "oci:out"]);
        kill_once(&mut spawn(command), || moment(&store, &environment.path("out")));
        assert!(!environment.path("out/index.json").exists(), "it was not in the middle");
    }
    assert_eq!(environment.digests("--output oci:out"), digests);
    let blobs = |layout: &str| {
        let mut names: Vec<_> = fs_err::read_dir(environment.path(layout).join("blobs/sha256")).unwrap().collect();
        names.retain(|entry| entry.as_ref().is_ok_and(|entry| entry.path().extension().is_none()));
        names.len()
    };
    assert_eq!(blobs("out"), blobs("reference"));
    crate::images::ReadBack::of(&environment.path("out"), "app", "amd64");
    environment.succeed("gc");
    assert_eq!(files(&store.join("temporary")), 0);
}

#[test]
fn an_interrupted_build_says_so_and_goes_on_the_next_time() {
    let environment = large();
    environment.succeed("lock");
    let store = environment.root().join("store");
    let mut command = environment.command();
    command.args(["build", "--jobs", "1"]);
    let child = spawn(command);
    wait_until(|| fs_err::read_dir(store.join("temporary")).is_ok_and(|entries| entries.count() > 0));
    signal(&child, "-INT");
    let outcome = end(child, Duration::from_secs(10));
    assert_snapshot!(outcome, @r"
    ------- stderr -------
    Interrupted. Nothing that was finished is lost; the next run goes on from there.
    [exit status: 130]
    ");
    let mut fresh = environment.command();
    fresh.env("KILN_STORE", environment.root().join("fresh")).args(["build"]);
    let fresh = Outcome::of(fresh);
    assert_eq!(environment.succeed("build"), fresh.stdout);
}

#[test]
fn an_interruption_while_uv_resolves_is_an_interruption() {
    let environment = large();
    let wait = environment.root().join("wait");
    fs_err::write(&wait, "").unwrap();
    let mut command = environment.command();
    environment.tell_uv("wait", &wait);
    command.arg("build");
    // As a terminal does it: uv gets the signal too.
    std::os::unix::process::CommandExt::process_group(&mut command, 0);
    let child = spawn(command);
    wait_until(|| environment.root().join("wait.seen").exists());
    let group = format!("-{}", child.id());
    assert!(Command::new("kill").args(["-INT", "--", &group]).status().unwrap().success());
    let outcome = end(child, Duration::from_secs(10));
    assert_snapshot!(outcome, @r"
    ------- stderr -------
    Interrupted. Nothing that was finished is lost; the next run goes on from there.
    [exit status: 130]
    ");
    assert!(!environment.path("kiln.lock").exists());
}

#[test]
fn an_interruption_that_uv_does_not_see_ends_it_too() {
    let environment = large();
    let wait = environment.root().join("wait");
    fs_err::write(&wait, "").unwrap();
    let mut command = environment.command();
    environment.tell_uv("wait", &wait);
    command.arg("build");
    let child = spawn(command);
    wait_until(|| environment.root().join("wait.seen").exists());
    signal(&child, "-INT");
    let outcome = end(child, Duration::from_secs(10));
    fs_err::remove_file(&wait).unwrap();
    assert_eq!(outcome.status, Some(130), "{outcome}");
}

#[test]
fn an_interruption_ends_a_download_that_hangs() {
    let environment = TestEnvironment::with_stack("");
    let served = environment.root().join("served");
    fs_err::create_dir_all(&served).unwrap();
    let wheel = pure("remote", "1.0").file("remote/data.bin", crate::wheels::noise(3_000_000, "remote"));
    fs_err::write(served.join(wheel.file_name()), wheel.finish()).unwrap();
    let server = Server::start(served.clone());
    let index = format!("default = \"{}\"", server.index());
    environment.stack(&stack("packages = [\"remote\"]").replace("find-links = [\"wheels\"]", &index));
    server.behave(&wheel.file_name(), Behaviour::Stall { after: 1_000_000 });
    let mut command = environment.command();
    environment.tell_uv("served", &served);
    command.arg("build");
    let child = spawn(command);
    wait_until(|| environment.partial_downloads() == [1_000_000]);
    signal(&child, "-INT");
    let outcome = end(child, Duration::from_secs(10));
    assert_eq!(outcome.status, Some(130), "{outcome}");
}

/// True if a signal is sent to a process that has not taken it yet (proc(5), `ShdPnd`).
fn is_pending(child: &Child, signal: u32) -> bool {
    let status = fs_err::read_to_string(format!("/proc/{}/status", child.id())).unwrap();
    let mask = status.lines().find_map(|line| line.strip_prefix("ShdPnd:")).unwrap();
    u64::from_str_radix(mask.trim(), 16).unwrap() >> (signal - 1) & 1 == 1
}

#[test]
fn a_second_interruption_ends_at_once() {
    let environment = large();
    environment.succeed("build");
    let pipe = environment.path("pipe.tar");
    assert!(Command::new("mkfifo").arg(&pipe).status().unwrap().success());
    let mut command = environment.command();
    command.args(["build", "--output", "docker-archive:pipe.tar"]);
    let mut child = spawn(command);
    // The first bytes are read and no more: kiln is stuck in the middle of a write.
    let mut reader = fs_err::File::open(&pipe).unwrap();
    reader.read_exact(&mut [0; 512]).unwrap();
    signal(&child, "-INT");
    // Two that wait at once would be one.
    wait_until(|| !is_pending(&child, 2));
    assert_eq!(child.try_wait().unwrap(), None, "the first was enough");
    signal(&child, "-INT");
    let outcome = end(child, Duration::from_secs(5));
    drop(reader);
    assert_eq!(outcome.status, Some(130), "{outcome}");
    assert!(!outcome.stderr.contains("Interrupted"), "it ended cleanly: {outcome}");
}

#[test]
fn a_file_that_cannot_be_written_is_the_surroundings_fault_and_nothing_is_trusted() {
    let environment = large();
    environment.write("blob.bin", crate::wheels::noise(5_000_000, "blob"));
    let text = environment.read("kiln.toml") + "copy = [{ from = \"blob.bin\", to = \"/blob.bin\" }]\n";
    environment.stack(&text);
    environment.succeed("lock");
    // In blocks of 512 bytes: the database and recipes may be written, the copied layer may not.
    let outcome = environment.shell("trap '' XFSZ; ulimit -f 2048; exec $KILN build");
    assert_eq!(outcome.status, Some(3), "{outcome}");
    assert!(outcome.stderr.contains("File too large"), "{outcome}");
    let outcome = environment.shell("trap '' XFSZ; ulimit -f 2048; exec $KILN build");
    assert_eq!(outcome.status, Some(3), "{outcome}");
    let mut fresh = environment.command();
    fresh.env("KILN_STORE", environment.root().join("fresh")).arg("build");
    assert_eq!(environment.succeed("build"), Outcome::of(fresh).stdout);
}

#[test]
fn an_output_that_cannot_be_written_leaves_no_half_of_it() {
    let environment = large();
    environment.succeed("build");
    let outcome = environment.shell("trap '' XFSZ; ulimit -f 2048; exec $KILN build --output docker-archive:app.tar");
    assert_eq!(outcome.status, Some(3), "{outcome}");
    assert!(!environment.path("app.tar").exists());
    let outcome = environment.shell("trap '' XFSZ; ulimit -f 2048; exec $KILN build --output oci:out");
    assert_eq!(outcome.status, Some(3), "{outcome}");
    environment.succeed("build --output oci:out");
    crate::images::ReadBack::of(&environment.path("out"), "app", "amd64");
    let names = fs_err::read_dir(environment.path("")).unwrap().map(|entry| entry.unwrap().file_name());
    let hidden: Vec<_> = names.filter(|name| name.to_string_lossy().starts_with('.')).collect();
    assert!(hidden.is_empty(), "{hidden:?}");
}

#[test]
fn a_lock_that_cannot_be_written_stays_as_it_was() {
    let environment = large();
    environment.succeed("lock");
    let lock = environment.read("kiln.lock");
    environment.stack(&environment.read("kiln.toml").replace("packages = [", "packages = [\"more\", "));
    environment.wheel(&pure("more", "1.0"));
    let outcome = environment.shell("trap '' XFSZ; ulimit -f 1; exec $KILN lock");
    assert_eq!(outcome.status, Some(3), "{outcome}");
    assert_eq!(environment.read("kiln.lock"), lock);
}

#[test]
fn whoever_waits_for_the_store_is_told_and_can_stop() {
    let environment = large();
    environment.succeed("build");
    let store = environment.root().join("store/locks/store");
    let lock = || fs_err::OpenOptions::new().write(true).open(&store).unwrap();
    for (arguments, reason) in [
        ("build", "the store: another kiln opens it or removes garbage from it; waiting"),
        ("du", "the store: another kiln opens it or removes garbage from it; waiting"),
        ("gc", "the store: other kilns use it; waiting"),
    ] {
        let held = lock();
        match arguments {
            "gc" => held.file().lock_shared().unwrap(),
            _ => held.file().lock().unwrap(),
        }
        let log = fs_err::File::create(environment.path("waiting.log")).unwrap();
        let mut command = environment.command();
        command.arg(arguments).stdout(std::process::Stdio::null()).stderr(log.into_file());
        let mut child = command.spawn().unwrap();
        wait_until(|| environment.read("waiting.log").contains(reason));
        signal(&child, "-INT");
        assert_eq!(child.wait().unwrap().code(), Some(130), "{arguments}");
        drop(held);
        environment.succeed(arguments);
    }
}
