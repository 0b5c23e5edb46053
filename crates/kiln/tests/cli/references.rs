//! Bases on registries.

use insta::assert_snapshot;
use kiln_registry::testing::{FakeRegistry, Options, Request};

use crate::bases;
use crate::environment::TestEnvironment;
use crate::wheels::pure;

/// A project on a base that is only on a registry, and that goes to `to`.
fn project(base: &FakeRegistry, to: &FakeRegistry) -> (TestEnvironment, String) {
    let machine = TestEnvironment::new();
    let layout = machine.root().join("layout");
    bases::debian(&layout);
    let reference = base.add_layout(&layout, "library/debian", "12");
    machine.stack(&format!(
        "[stack]\nname = \"demo\"\nregistry = \"{}/acme\"\n\n[target]\nplatforms = [\"linux/amd64\", \"linux/arm64\"]\n\
         python = \"3.11\"\n\n[index]\nfind-links = [\"wheels\"]\n\n[images.app]\nfrom = \"{reference}\"\n\
         packages = [\"greeting\"]\n",
        to.address()
    ));
    machine.wheel(&pure("greeting", "1.0"));
    (machine, reference)
}

fn requests(registry: &FakeRegistry, request: Request) -> usize {
    registry.log().into_iter().filter(|logged| logged.request == request).count()
}

#[test]
fn a_base_is_locked_to_digests_and_its_layers_are_read_once() {
    let registry = FakeRegistry::start();
    let (machine, _) = project(&registry, &registry);
    machine.succeed("lock");
    let lock = machine.read("kiln.lock");
    let base: String = lock.lines().skip_while(|line| *line != "[[base]]").take(14).collect::<Vec<_>>().join("\n");
    assert_snapshot!(base, @r#"
    [[base]]
    name = "127.0.0.1:<port>/library/debian:12"
    platform = "linux/amd64"
    index = "sha256:<digest>"
    manifest = "sha256:<digest>"
    layers = 1

    [base.facts]
    distribution = "debian 12"
    libc = { family = "glibc", version = "2.36" }
    passwd = [
        "root:x:0:0:root:/root:/bin/bash",
        "nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin",
    ]
    "#);
    // One layer and one config for each platform.
    assert_eq!(requests(&registry, Request::GetBlob), 4);
    machine.succeed("build");
    machine.succeed("lock");
    assert_eq!(registry.log(), []);
    assert_snapshot!(machine.kiln("du").stdout.lines().nth(2).unwrap(), @"recipes of layers         1.99 kB  2, for 1.72 kB of layers");
}

#[test]
fn garbage_collection_leaves_the_documents_of_a_base_that_a_lock_names() {
    let hub = FakeRegistry::start();
    let (machine, _) = project(&hub, &hub);
    machine.succeed("build");
    machine.succeed("gc");
    hub.log();
    machine.succeed("build");
    assert_eq!(hub.log(), []);
}

#[test]
fn on_the_same_registry_the_base_is_mounted_and_on_another_it_is_streamed_through() {
    let (hub, own) = (FakeRegistry::start(), FakeRegistry::start());
    let (machine, _) = project(&hub, &hub);
    machine.succeed("lock");
    hub.log();
    assert_snapshot!(machine.kiln("build --push"), @r"
    app sha256:<digest> <size> in 3 layers for 2 platforms
    pushed 127.0.0.1:<port>/acme/demo/app:<tag>, latest: 3.05 kB sent, 12.3 kB mounted
    ");
    assert_eq!(requests(&hub, Request::GetBlob), 0);
    assert_eq!(hub.check(), Ok(()));
    let (machine, _) = project(&hub, &own);
    assert_snapshot!(machine.kiln("build --push"), @r"
    app sha256:<digest> <size> in 3 layers for 2 platforms
    pushed 127.0.0.1:<port>/acme/demo/app:<tag>, latest: 15.4 kB sent
    ");
    assert_eq!(own.check(), Ok(()));
    let both = [&hub, &own].map(|registry| registry.manifest("acme/demo/app", "latest"));
    assert_eq!(both[0], both[1]);
    assert_snapshot!(machine.kiln("du").stdout.lines().nth(1).unwrap(), @"wheels and other files    5.55 kB  11");
}

#[test]
fn a_machine_with_the_lock_needs_manifest_and_config_alone() {
    let registry = FakeRegistry::start();
    let (machine, _) = project(&registry, &registry);
    let digests = machine.digests("");
    let (other, _) = project(&registry, &registry);
    // The same registry, so the same stack file and lock.
    other.write("kiln.lock", machine.read("kiln.lock"));
    registry.log();
    assert_eq!(other.digests("--locked"), digests);
    // The configs of two platforms.
    assert_eq!(requests(&registry, Request::GetBlob), 2);
}

#[test]
fn a_tag_that_moved_is_taken_when_an_upgrade_is_asked_for() {
    let registry = FakeRegistry::start();
    let (machine, _) = project(&registry, &registry);
    let digests = machine.digests("");
    let newer = machine.root().join("newer");
    bases::debian_with(&newer, &[("etc/new", b"new".to_vec())]);
    registry.add_layout(&newer, "library/debian", "12");
    assert_eq!(machine.digests(""), digests);
    machine.succeed("lock --upgrade");
    assert_ne!(machine.digests(""), digests);
    let explained = machine.kiln("explain app");
    assert!(explained.stdout.contains("base: "), "{explained}");
}

#[test]
fn what_is_not_there_points_at_its_line() {
    let registry = FakeRegistry::start();
    let (machine, reference) = project(&registry, &registry);
    let stack = machine.read("kiln.toml");
    machine.stack(&stack.replace(&reference, &reference.replace(":12", ":13")));
    assert_snapshot!(machine.kiln("lock"), @r#"
    ------- stderr -------
    error: 127.0.0.1:<port> has no such image, or shows it only to those who may see it
      --> kiln.toml:13:8
       |
    13 | from = "127.0.0.1:<port>/library/debian:13"
       |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       |
    help: if it is private: `kiln login 127.0.0.1:<port>`
    [exit status: 2]
    "#);
    machine.stack(&stack.replace(&reference, &reference.replace("debian", "nothing")));
    assert_eq!(machine.kiln("lock").status, Some(2));
    let only = machine.root().join("only");
    bases::for_one_platform(&only);
    let one = registry.add_layout(&only, "library/one", "1");
    machine.stack(&stack.replace(&reference, &one));
    assert_snapshot!(machine.kiln("lock"), @r#"
    ------- stderr -------
    error: `127.0.0.1:<port>/library/one:1` cannot be used: it has no image for linux/arm64; it has linux/amd64
      --> kiln.toml:13:8
       |
    13 | from = "127.0.0.1:<port>/library/one:1"
       |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    [exit status: 2]
    "#);
    machine.stack(&stack);
    assert_snapshot!(machine.kiln("lock --offline"), @r"
    ------- stderr -------
    error: reading 127.0.0.1:<port>/library/debian:12: `--offline` forbids to ask a registry

    hint: run once without `--offline`
    [exit status: 3]
    ");
}

#[test]
fn declared_facts_spare_reading_the_layers() {
    let registry = FakeRegistry::with(Options::default());
    let (machine, reference) = project(&registry, &registry);
    let facts = "base-facts = { interpreters = [{ path = \"/usr/bin/python3.11\", version = \"3.11\" }], \
                 libc = { family = \"glibc\", version = \"2.36\" } }";
    let stack = machine
        .read("kiln.toml")
        .replace(&format!("from = \"{reference}\""), &format!("from = \"{reference}\"\n{facts}"));
    machine.stack(&stack);
    registry.log();
    machine.succeed("build");
    assert_eq!(requests(&registry, Request::GetBlob), 2);
}

#[test]
fn facts_that_a_cache_told_and_the_lock_holds_are_derived_and_named_with_their_line() {
    let registry = FakeRegistry::start();
    let (first, _) = project(&registry, &registry);
    let stack = first.read("kiln.toml");
    first.stack(&format!("{stack}\n[cache]\nremote = \"{}/acme/cache\"\n", registry.address()));
    first.succeed("build --push");
    // Whoever may write the cache adds a user to the base.
    let mut forged = 0;
    for tag in registry.tags("acme/cache") {
        let (media_type, bytes) = registry.manifest("acme/cache", &tag).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        if text.contains("\\\"kind\\\":\\\"facts\\\"") {
            let lie = text.replace("nobody:x:65534", "nobody:x:0");
            assert_ne!(lie, text);
            registry.add_manifest("acme/cache", &tag, &media_type, lie.as_bytes());
            forged += 1;
        }
    }
    assert_eq!(forged, 2, "one for each platform");
    let second = TestEnvironment::new();
    second.stack(&first.read("kiln.toml"));
    second.wheel(&pure("greeting", "1.0"));
    second.succeed("lock");
    assert!(second.read("kiln.lock").contains("nobody:x:0"));
    second.succeed("build --push");
    let outcome = second.kiln("cache verify");
    assert_eq!(outcome.status, Some(1), "{outcome}");
    let line = second.read("kiln.lock").lines().position(|line| line == "[base.facts]").unwrap() + 1;
    assert!(outcome.stdout.contains(&format!("is WRONG (kiln.lock line {line})")), "{outcome}");
    assert_eq!(first.kiln("cache verify").status, Some(0));
}
