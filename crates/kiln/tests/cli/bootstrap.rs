//! Bootstrapped Debian bases, by a made-up mmdebstrap that writes an archive of a few files.

use insta::assert_snapshot;
use tar::{Builder, EntryType, Header};

use crate::environment::TestEnvironment;
use crate::team::Team;
use crate::wheels::{pure, stack};

/// What mmdebstrap writes: a system with an interpreter and a C library.
fn system() -> Vec<u8> {
    let mut builder = Builder::new(Vec::new());
    let mut add = |path: &str, content: &str| {
        let mut header = Header::new_gnu();
        header.set_mode(0o755);
        header.set_size(content.len() as u64);
        header.set_entry_type(EntryType::Regular);
        builder.append_data(&mut header, format!("./{path}"), content.as_bytes()).unwrap();
    };
    add("etc/os-release", "ID=debian\nVERSION_ID=\"12\"\n");
    add("etc/passwd", "root:x:0:0:root:/root:/bin/bash\n");
    add("usr/bin/python3.11", "\x7fELF");
    add(
        "var/lib/dpkg/status",
        "Package: libc6\nStatus: install ok installed\nArchitecture: amd64\nVersion: 2.36-9\n\n\
         Package: python3.11-minimal\nStatus: install ok installed\nArchitecture: amd64\nVersion: 3.11.2-6\n\n",
    );
    builder.into_inner().unwrap()
}

/// Puts the made-up mmdebstrap onto `PATH`; every run adds a line to `home/runs`.
fn with_debian(machine: &TestEnvironment) {
    fs_err::write(machine.root().join("home/system.tar"), system()).unwrap();
    let installed = "libc6\\tamd64\\t2.36-9\\n";
    let hash = "1".repeat(64);
    let available = format!("Package: libc6\\nVersion: 2.36-9\\nArchitecture: amd64\\nSHA256: {hash}\\n\\n");
    machine.script(
        "mmdebstrap",
        &format!(
            "for argument; do case $argument in *copy-out*) folder=${{argument##* \\'}}; folder=${{folder%\\'}};; esac; done\n\
             printf '{installed}' > \"$folder/kiln-installed\"\nprintf '{available}' > \"$folder/kiln-available\"\n\
             echo ran >> \"$HOME/runs\"\nexec /bin/cat \"$HOME/system.tar\"\n"
        ),
    );
}

fn runs(machine: &TestEnvironment) -> usize {
    fs_err::read_to_string(machine.root().join("home/runs")).unwrap_or_default().lines().count()
}

fn debian(text: &str) -> String {
    text.replace("{ oci = \"base\" }", "{ debian = \"bookworm\", include = [\"python3\"] }")
}

fn project() -> TestEnvironment {
    let machine = TestEnvironment::with_stack(&debian(&stack("packages = [\"words\"]")));
    machine.wheel(&pure("words", "1.0"));
    with_debian(&machine);
    machine
}

#[test]
fn a_base_is_bootstrapped_once_and_looked_into() {
    let machine = project();
    let digests = machine.digests("--output oci:out");
    assert_eq!(runs(&machine), 1);
    let lock = machine.read("kiln.lock");
    assert!(lock.contains("path = \"/usr/bin/python3.11\"") && lock.contains("layers = 1"), "{lock}");
    assert!(lock.contains("\"libc6 2.36-9 amd64 1111"), "{lock}");
    assert_eq!(machine.digests(""), digests);
    assert_snapshot!(machine.kiln("plan"), @r"
    app (linux/amd64)
      debian bookworm python3              in the store
      virtual environment                  in the store
      words 1.0                   859 B    in the store

    app: unchanged
    ");
    // Another stack needs the same base within a day.
    fs_err::remove_file(machine.path("kiln.lock")).unwrap();
    assert_eq!(machine.digests(""), digests);
    assert_eq!(runs(&machine), 1);
}

#[test]
fn garbage_collection_keeps_all_of_a_base_that_a_lock_names_or_none() {
    let machine = project();
    machine.succeed("lock");
    machine.succeed("gc");
    let digests = machine.digests("--offline --output oci:out");
    machine.succeed("gc");
    assert_eq!(machine.digests("--offline --output oci:again"), digests);
    assert_eq!(runs(&machine), 1);
    assert!(machine.succeed("gc --all").ends_with(" freed, 0 B left\n"));
    assert_eq!(machine.digests("--output oci:more"), digests);
    assert_eq!(runs(&machine), 2);
}

#[test]
fn a_machine_that_shares_the_cache_takes_the_base_by_the_digest_that_is_locked() {
    let mut team = Team::new();
    let first = team.machine();
    with_debian(&first);
    first.stack(&debian(&first.read("kiln.toml")).replace("\"solver\", ", ""));
    let digests = first.digests("--push");
    team.commit(&first);
    let second = team.bare_machine();
    with_debian(&second);
    assert_eq!(second.digests("--locked --output oci:out"), digests);
    assert_eq!(runs(&second), 0);
    // The record that keeps it there decides nothing, whatever it says.
    for tag in team.registry.tags("acme/cache") {
        let (media_type, bytes) = team.registry.manifest("acme/cache", &tag).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        if text.contains("\\\"kind\\\":\\\"debian\\\"") {
            let lie = text.replace("\\\"config\\\":\\\"sha256:", "\\\"config\\\":\\\"sha256:00");
            team.registry.add_manifest("acme/cache", &tag, &media_type, lie.as_bytes());
        }
    }
    let third = team.bare_machine();
    assert_eq!(third.digests("--locked"), digests);
}
