//! Debian bases of a made-up archive. Their shell is a program of this package that does what dpkg and apt would do.

use insta::assert_snapshot;
use kiln_debian::testing::{Archive, PackageFile, now};

use crate::commands::{example, is_impossible, libraries};
use crate::environment::TestEnvironment;
use crate::team::Team;
use crate::wheels::{pure, stack};

const CPU: &str = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
/// A time before which nothing is signed, in seconds since 1970.
const SIGNED: u64 = 1_750_000_000;

/// An archive of a suite with a C library, an interpreter and a shell, and one package besides.
fn archive() -> Archive {
    let mut archive = Archive::start();
    let required = "Priority: required\nVersion: 3.11.2-6\n";
    let passwd: PackageFile<'_> = ("./etc/passwd", 0o644, b"root:x:0:0:root:/root:/bin/sh\n");
    archive.package("bookworm", "base-files", required, &[], &[passwd]);
    archive.package("bookworm", "libc6", "Priority: required\nVersion: 2.36-9\n", &[], &[]);
    let key = archive.key();
    let key: PackageFile<'_> = ("./etc/apt/trusted.gpg.d/archive.asc", 0o644, key.as_bytes());
    archive.package("bookworm", "apt", "Version: 2.6.1\nDepends: libc6 (>= 2.30)\n", &[], &[key]);
    let python: PackageFile<'_> = ("./usr/bin/python3.11", 0o755, b"\x7fELF");
    archive.package("bookworm", "python3.11-minimal", required, &[], &[python]);
    let release: PackageFile<'_> = ("./etc/os-release", 0o644, b"ID=debian\nVERSION_ID=\"12\"\n");
    archive.package("bookworm", "tool", "Version: 1.0\n", &[], &[release]);
    let shell = fs_err::read(example("fake-shell")).unwrap();
    let libraries: Vec<(String, Vec<u8>)> = libraries()
        .iter()
        .flat_map(|path| {
            let real = fs_err::canonicalize(path).unwrap();
            [path.clone(), real].map(|to| (format!(".{}", to.display()), fs_err::read(path).unwrap()))
        })
        .collect();
    let mut files: Vec<PackageFile<'_>> =
        libraries.iter().map(|(path, bytes)| (path.as_str(), 0o755, bytes.as_slice())).collect();
    files.dedup_by(|one, other| one.0 == other.0);
    files.extend([release, ("./bin/sh", 0o755, shell.as_slice())]);
    archive.package("bookworm", "dash", required, &[], &files);
    archive.sign("bookworm", SIGNED, "");
    archive
}

/// Makes a machine whose image stands on the archive's suite.
fn on(machine: &TestEnvironment, archive: &Archive, include: &str, mirror: &str) {
    machine.write("archive.asc", archive.key());
    let uri = archive.uri();
    let from =
        format!("{{ debian = \"bookworm\", {include}mirror = {{ uri = \"{uri}\", key = \"archive.asc\"{mirror} }} }}");
    machine.stack(&machine.read("kiln.toml").replace("{ oci = \"base\" }", &from).replace("\"solver\", ", ""));
}

struct Project {
    machine: TestEnvironment,
    archive: Archive,
}

impl std::ops::Deref for Project {
    type Target = TestEnvironment;
    fn deref(&self) -> &TestEnvironment {
        &self.machine
    }
}

fn project_with(include: &str, mirror: &str) -> Project {
    let machine = TestEnvironment::with_stack(&stack("packages = [\"words\"]"));
    machine.wheel(&pure("words", "1.0"));
    let archive = archive();
    on(&machine, &archive, include, mirror);
    Project { machine, archive }
}

fn project() -> Project {
    project_with("", "")
}

impl Project {
    /// Returns the packages that were fetched since this was called last.
    fn fetched(&self) -> usize {
        self.archive.log().iter().filter(|path| path.ends_with(".deb")).count()
    }

    fn refused(&self) -> String {
        let outcome = self.kiln("lock");
        assert_ne!(outcome.status, Some(0), "{outcome}");
        outcome.stderr
    }
}

#[test]
fn a_base_is_made_once_and_looked_into() {
    if is_impossible() {
        return;
    }
    let project = project();
    let digests = project.digests("--output oci:out");
    assert_eq!(project.fetched(), 5);
    let lock = project.read("kiln.lock");
    assert!(lock.contains("path = \"/usr/bin/python3.11\"") && lock.contains("layers = 1"), "{lock}");
    assert!(lock.contains("{ name = \"libc6\", version = \"2.36-9\", architecture = "), "{lock}");
    assert!(lock.contains("suite = \"bookworm\", date = 1750000000 }"), "{lock}");
    assert_eq!(project.digests(""), digests);
    let plan = project.kiln("plan").stdout.replace(&project.archive.uri(), "<archive>");
    assert_snapshot!(plan, @r"
    app (linux/amd64)
      debian bookworm from <archive>              in the store
      virtual environment                                      in the store
      words 1.0                                       859 B    in the store

    app: unchanged
    ");
    // Another stack needs the same base within a day.
    fs_err::remove_file(project.path("kiln.lock")).unwrap();
    assert_eq!(project.digests(""), digests);
    assert_eq!(project.archive.log(), [""; 0]);
}

#[test]
fn a_base_has_what_its_packages_and_their_scripts_say() {
    if is_impossible() {
        return;
    }
    let project = project_with("include = [\"tool\"], ", "");
    project.succeed("build --output oci:out");
    let image = crate::images::ReadBack::of(&project.path("out"), "app", CPU);
    let list = crate::images::list(&image.layers[0]);
    for line in
        ["l0777 0:0 bin -> usr/bin", "-0755 0:0 usr/bin/sh", "-0644 0:0 included-tool", "-0644 0:0 var/lib/dpkg/arch"]
    {
        assert!(list.lines().any(|found| found == line), "{line}: {list}");
    }
    assert!(!list.contains("kiln-packages") && !list.contains("policy-rc.d"), "{list}");
    let lock = project.read("kiln.lock");
    assert_eq!(lock.matches(", base = true }").count(), 5, "{lock}");
}

#[test]
fn a_locked_base_is_made_again_of_the_same_packages() {
    if is_impossible() {
        return;
    }
    let mut project = project_with("include = [\"tool\"], ", "");
    let digests = project.digests("");
    // The archive has newer ones, and keeps the old ones.
    project.archive.package("bookworm", "libc6", "Priority: required\nVersion: 2.36-10\n", &[], &[]);
    project.archive.sign("bookworm", SIGNED + 10, "");
    project.succeed("gc --all");
    assert_eq!(project.digests(""), digests);
    assert!(!project.archive.log().iter().any(|path| path.starts_with("dists/") && path.contains("by-hash")));
    project.succeed("lock --upgrade");
    assert!(project.read("kiln.lock").contains("version = \"2.36-10\""));
}

#[test]
fn a_package_that_left_its_archive_is_named() {
    if is_impossible() {
        return;
    }
    let project = project();
    let digests = project.digests("");
    let gone = project.archive.remove("pool/main/libc6");
    // The store has it.
    assert_eq!(project.digests(""), digests);
    project.succeed("gc --all");
    let said = project.kiln("build").stderr.replace(&project.archive.uri(), "<archive>");
    assert_snapshot!(said, @r#"
    error: `debian bookworm from <archive>` cannot be made
      caused by: no archive has libc6 2.36-9 any more (status 404)

    hint: take the packages that there are now with `kiln lock --upgrade`, or name an archive that keeps old ones: `mirror = { uri = "...", snapshot = true }`
    "#);
    for (path, content) in gone {
        project.archive.put(&path, content);
    }
    assert_eq!(project.digests(""), digests);
}

#[test]
fn lists_count_if_a_trusted_key_signed_them() {
    let project = project();
    project.machine.write("archive.asc", Archive::start().key());
    let said = project.refused();
    assert!(said.contains("InRelease` cannot be trusted: none of its signatures is by a trusted key"), "{said}");
    project.machine.write("archive.asc", "no key");
    let said = project.refused();
    assert!(said.contains("`archive.asc` holds no keys"), "{said}");
    project.machine.write("archive.asc", project.archive.key());
    project.archive.put("dists/bookworm/InRelease", b"Suite: bookworm\n".to_vec());
    let said = project.refused();
    assert!(said.contains("InRelease` cannot be trusted: it is not signed"), "{said}");
}

#[test]
fn lists_and_packages_are_those_that_were_signed() {
    let project = project();
    let list = project.archive.remove("dists/bookworm/main");
    for (path, mut content) in list {
        content[0] ^= 1;
        project.archive.put(&path, content);
    }
    let said = project.refused();
    assert!(said.contains("is not the wanted file"), "{said}");
    project.archive.sign("bookworm", SIGNED, "");
    for (path, mut content) in project.archive.remove("pool/main/libc6") {
        content[70] ^= 1;
        project.archive.put(&path, content);
    }
    let said = project.refused();
    assert!(said.contains("`libc6 2.36-9` from") && said.contains("is not the wanted file"), "{said}");
}

#[test]
fn lists_that_are_stale_or_older_than_the_lock_are_refused() {
    if is_impossible() {
        return;
    }
    let project = project();
    project.archive.sign("bookworm", SIGNED, "Valid-Until: Sat, 06 Sep 2025 10:19:12 UTC\n");
    let said = project.refused();
    assert!(said.contains("was valid until 2025-09-06T10:19:12Z"), "{said}");
    assert!(said.contains("snapshot = true"), "{said}");
    project.archive.sign("bookworm", SIGNED, "");
    project.succeed("lock");
    project.archive.sign("bookworm", SIGNED - 60, "");
    let outcome = project.kiln("lock --upgrade");
    assert!(outcome.stderr.contains("is of 2025-06-15T15:05:40Z, and the lock of 2025-06-15T15:06:40Z"), "{outcome}");
    on(&project.machine, &project.archive, "", "");
    let text = project.read("kiln.toml").replace("key = ", "snapshot = true, key = ");
    project.machine.stack(&text);
    project.archive.sign("bookworm", SIGNED - 60, "Valid-Until: Sat, 06 Sep 2025 10:19:12 UTC\n");
    project.succeed("lock --upgrade");
    assert!(now() > SIGNED);
}

#[test]
fn what_cannot_be_installed_is_said_by_apt() {
    if is_impossible() {
        return;
    }
    let project = project_with("include = [\"tool\", \"toool\"], ", "");
    let said = project.refused().replace(&project.archive.uri(), "<archive>");
    assert_snapshot!(said, @r"
    warning: no archive with `bookworm-security` was found: `bookworm` has no security updates (`mirror = { uri, security = URL }` names one)
    error: `debian bookworm tool toool from <archive>` cannot be made
      caused by: its apt cannot install tool, toool; its last lines:
        E: Unable to locate package toool

    hint: see the names of packages in the suite; recommended packages are not installed
    ");
}

#[test]
fn a_script_that_fails_is_shown() {
    if is_impossible() {
        return;
    }
    let mut project = project();
    project.archive.package("bookworm", "broken", "Priority: required\nVersion: 1\n", &[], &[]);
    project.archive.sign("bookworm", SIGNED, "");
    let said = project.refused().replace(&project.archive.uri(), "<archive>");
    assert_snapshot!(said, @r"
    warning: no archive with `bookworm-security` was found: `bookworm` has no security updates (`mirror = { uri, security = URL }` names one)
    error: `debian bookworm from <archive>` cannot be made
      caused by: `dpkg` of debian bookworm from <archive> failed with status 100; its last lines:
        E: the script of broken failed
    ");
}

#[test]
fn garbage_collection_keeps_all_of_a_base_that_a_lock_names_or_none() {
    if is_impossible() {
        return;
    }
    let project = project();
    project.succeed("lock");
    project.succeed("gc");
    let digests = project.digests("--offline --output oci:out");
    project.succeed("gc");
    assert_eq!(project.digests("--offline --output oci:again"), digests);
    assert_eq!(project.fetched(), 5);
    assert!(project.succeed("gc --all").ends_with(" freed, 0 B left\n"));
    assert_eq!(project.digests("--output oci:more"), digests);
    assert_eq!(project.fetched(), 5);
}

#[test]
fn a_machine_that_shares_the_cache_takes_the_base_by_the_digest_that_is_locked() {
    if is_impossible() {
        return;
    }
    let mut team = Team::new();
    let first = team.machine();
    let archive = archive();
    on(&first, &archive, "", "");
    let digests = first.digests("--push");
    team.commit(&first);
    archive.log();
    let second = team.bare_machine();
    second.write("archive.asc", archive.key());
    assert_eq!(second.digests("--locked --output oci:out"), digests);
    assert_eq!(archive.log(), [""; 0]);
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
    third.write("archive.asc", archive.key());
    assert_eq!(third.digests("--locked"), digests);
}

#[test]
fn a_locked_package_that_left_its_archive_comes_from_the_cache_on_another_machine() {
    if is_impossible() {
        return;
    }
    let mut team = Team::new();
    let first = team.machine();
    let archive = archive();
    on(&first, &archive, "", "");
    first.stack(&first.read("kiln.toml").replace("packages = [\"words<2\"]", "system = [\"tool\"]"));
    let digests = first.digests("--push ml");
    team.commit(&first);
    archive.remove("pool/");
    let second = team.bare_machine();
    second.write("archive.asc", archive.key());
    archive.log();
    assert_eq!(second.digests("--locked --no-cache ml ml"), digests);
    let asked = archive.log();
    assert_eq!(asked.iter().filter(|path| path.ends_with(".deb")).count(), 1, "{asked:?}");
    // Nobody has it any more.
    let lock = first.read("kiln.lock");
    let line = lock.lines().find(|line| line.contains("{ name = \"tool\"")).unwrap();
    let sum = line.split("sha256 = \"").nth(1).unwrap().split('"').next().unwrap();
    team.registry.remove_blob("acme/cache", &sum.parse().unwrap());
    let third = team.bare_machine();
    third.write("archive.asc", archive.key());
    assert_snapshot!(third.kiln("build --locked --no-cache ml ml"), @r#"
    ------- stderr -------
    error: `ml (linux/amd64)` cannot be made
      caused by: no archive has tool 1.0 any more (status 404)

    hint: take the packages that there are now with `kiln lock --upgrade`, or name an archive that keeps old ones: `mirror = { uri = "...", snapshot = true }`
    [exit status: 1]
    "#);
}

/// Lets the image install packages of its distribution.
fn with_system(project: &Project, system: &str) {
    let text = project.read("kiln.toml").replace("packages = [\"words\"]", &format!("system = {system}"));
    project.stack(&text);
}

#[test]
fn packages_of_the_distribution_are_chosen_and_installed_by_its_apt() {
    if is_impossible() {
        return;
    }
    let project = project();
    with_system(&project, "[\"tool\"]");
    let digests = project.digests("--output oci:out");
    let lock = project.read("kiln.lock");
    assert!(lock.contains("[[system]]\nimage = \"app\"\n") && lock.contains("{ name = \"tool\", "), "{lock}");
    let image = crate::images::ReadBack::of(&project.path("out"), "app", CPU);
    assert_snapshot!(image.list(), @r"
    -0644 0:0 included-tool
    d0755 0:0 var
    d0755 0:0 var/lib
    d0755 0:0 var/lib/dpkg
    -0644 0:0 var/lib/dpkg/status
    ");
    assert_snapshot!(image.history().join("\n").replace(&project.archive.uri(), "<archive>"), @r"
    kiln: debian bookworm from <archive>
    kiln: system tool
    ");
    let plan = project.kiln("plan").stdout.replace(&project.archive.uri(), "<archive>");
    assert_snapshot!(plan, @r"
    app (linux/amd64)
      debian bookworm from <archive>              in the store
      system tool                                     454 B    in the store

    app: unchanged
    ");
    project.archive.log();
    assert_eq!(project.digests("--offline"), digests);
    assert_eq!(project.archive.log(), [""; 0]);
}

#[test]
fn a_locked_package_of_the_distribution_that_left_its_archive_comes_from_the_store() {
    if is_impossible() {
        return;
    }
    let mut project = project();
    with_system(&project, "[\"tool\"]");
    let digests = project.digests("");
    project.archive.remove("pool/main/tool");
    project.archive.package("bookworm", "tool", "Version: 2.0\n", &[], &[]);
    project.archive.sign("bookworm", SIGNED + 1, "");
    assert_eq!(project.digests("--no-cache app"), digests);
    project.succeed("lock --upgrade");
    assert!(project.read("kiln.lock").contains("version = \"2.0\""));
    assert_ne!(project.digests(""), digests);
}

#[test]
fn what_an_image_wants_of_its_distribution_must_be_there() {
    if is_impossible() {
        return;
    }
    let project = project();
    with_system(&project, "{ install = [\"toool\"], upgrade = true }");
    assert_snapshot!(project.refused().replace(&project.archive.uri(), "<archive>"), @r"
    warning: no archive with `bookworm-security` was found: `bookworm` has no security updates (`mirror = { uri, security = URL }` names one)
    error: `app (linux/amd64)` cannot be made
      caused by: no archive has `toool` (did you mean `tool`?)

    hint: another archive may have it: `repositories = [{ uri, suites, components, key }]`
    ");
    project.stack(&project.read("kiln.toml").replace("{ install = [\"toool\"], upgrade = true }", "[\"to ol\"]"));
    assert_snapshot!(project.refused(), @r#"
    error: `to ol` is no name of a Debian package
      --> kiln.toml:13:11
       |
    13 | system = ["to ol"]
       |           ^^^^^^^
    "#);
}

#[test]
fn packages_over_nothing_are_a_mistake() {
    let machine =
        TestEnvironment::with_stack(&stack("system = [\"tool\"]").replace("{ oci = \"base\" }", "\"scratch\""));
    assert_snapshot!(machine.kiln("build"), @r#"
    ------- stderr -------
    error: nothing is below, whose apt could install packages
      --> kiln.toml:13:10
       |
    13 | system = ["tool"]
       |          ^^^^^^^^
       |
    help: `system` is for images upon a Debian or an Ubuntu
    [exit status: 2]
    "#);
}

#[test]
fn packages_and_lists_that_are_damaged_in_the_store_are_fetched_again() {
    if is_impossible() {
        return;
    }
    let project = project();
    with_system(&project, "[\"tool\"]");
    let digests = project.digests("");
    let blobs = project.root().join("store/blobs/sha256");
    let mut damaged = 0;
    for entry in fs_err::read_dir(blobs).unwrap() {
        let path = entry.unwrap().path();
        let mut bytes = fs_err::read(&path).unwrap();
        if bytes.starts_with(b"!<arch>") || bytes.starts_with(b"Package: ") {
            let last = bytes.len() - 1;
            bytes[last] ^= 1;
            fs_err::remove_file(&path).unwrap();
            fs_err::write(&path, bytes).unwrap();
            damaged += 1;
        }
    }
    assert_eq!(damaged, 7);
    project.archive.log();
    assert_eq!(project.digests("--no-cache app"), digests);
    assert_eq!(project.fetched(), 1);
    project.succeed("lock --upgrade");
    assert_eq!(project.digests(""), digests);
    assert_eq!(project.fetched(), 5);
}

#[test]
fn packages_come_from_archives_that_the_image_names_too() {
    if is_impossible() {
        return;
    }
    let project = project();
    let mut other = Archive::start();
    other.package("stable", "extra", "Version: 3\n", &[], &[]);
    other.sign("stable", SIGNED, "");
    let repository = |key: &str| {
        let uri = other.uri();
        format!("{{ uri = \"{uri}\", suites = [\"stable\"], components = [\"main\"]{key} }}")
    };
    let system = |repository: &str| format!("{{ install = [\"tool\"], repositories = [{repository}] }}");
    with_system(&project, &system(&repository("")));
    let said = project.refused();
    assert!(said.contains("cannot be trusted: none of its signatures is by a trusted key"), "{said}");
    project.machine.write("other.asc", other.key());
    let text = project.read("kiln.toml").replace(&repository(""), &repository(", key = \"other.asc\""));
    project.stack(&text);
    project.succeed("lock");
    let lock = project.read("kiln.lock");
    assert!(lock.contains("suite = \"stable\", date = 1750000000"), "{lock}");
    // The base's own archive is in `sources.list`, which no name of a file beside it switches off.
    project.stack(&text.replace("repositories = ", "disable = [\"cuda.list\"], repositories = "));
    project.succeed("build");
}

#[test]
fn keys_come_from_an_address_if_that_or_their_fingerprint_can_be_trusted() {
    if is_impossible() {
        return;
    }
    let project = project();
    let mut other = Archive::start();
    other.package("stable", "extra", "Version: 3\n", &[], &[]);
    other.sign("stable", SIGNED, "");
    other.put("key.asc", other.key().into_bytes());
    let uri = other.uri();
    let system = |fingerprint: &str| {
        let key = format!("{{ url = \"{uri}/key.asc\"{fingerprint} }}");
        let place = format!("uri = \"{uri}\", suites = [\"stable\"], components = [\"main\"]");
        format!("{{ install = [\"tool\"], repositories = [{{ {place}, key = {key} }}] }}")
    };
    let text = project.read("kiln.toml");
    let said = |fingerprint: &str| {
        project.stack(&text.replace("packages = [\"words\"]", &format!("system = {}", system(fingerprint))));
        project.refused().replace(&uri, "<archive>")
    };
    let plain = said("");
    assert!(plain.contains("anybody on the way could replace keys that come by `http`"), "{plain}");
    let short = said(", fingerprint = \"abc\"");
    assert!(short.contains("`abc` is not a fingerprint"), "{short}");
    let wrong = said(&format!(", fingerprint = \"{}\"", "0".repeat(40)));
    assert!(wrong.contains("`<archive>/key.asc` holds no keys: none has the fingerprint 0000"), "{wrong}");
    let fingerprint = wrong.rsplit_once("0000: ").unwrap().1.split_whitespace().next().unwrap().to_uppercase();
    project.stack(&text.replace(
        "packages = [\"words\"]",
        &format!("system = {}", system(&format!(", fingerprint = \"{fingerprint}\""))),
    ));
    project.succeed("build");
}

#[test]
fn packages_that_are_no_archives_are_installed_and_locked() {
    if is_impossible() {
        return;
    }
    let project = project();
    let control = "Package: own\nVersion: 1.0\nArchitecture: all\nDescription: ours\n";
    let deb = kiln_debian::testing::deb(&[("./control", 0o644, control.as_bytes())], &[]);
    let sum = kiln_plan::digest::Digest::of(&deb).hex();
    project.machine.write("debs/own.deb", &deb);
    project.archive.put("elsewhere/own.deb", deb);
    with_system(&project, "{ debs = [\"debs/own.deb\"] }");
    let digests = project.digests("");
    let lock = project.read("kiln.lock");
    assert!(lock.contains("url = \"./debs/own.deb\""), "{lock}");
    // From an address it is the same package.
    let text = project.read("kiln.toml");
    let url = format!("{{ url = \"{}/elsewhere/own.deb\", sha256 = \"{sum}\" }}", project.archive.uri());
    project.stack(&text.replace("\"debs/own.deb\"", &url));
    assert_eq!(project.digests(""), digests);
    // Another file is another choice.
    project.stack(&text);
    let other = control.replace("1.0", "2.0");
    project.machine.write("debs/own.deb", kiln_debian::testing::deb(&[("./control", 0o644, other.as_bytes())], &[]));
    let frozen = project.kiln("build --locked");
    assert!(frozen.stderr.contains("were chosen for another list or another base"), "{frozen}");
    assert_ne!(project.digests(""), digests);
    project.machine.write("debs/own.deb", "no package");
    assert_snapshot!(project.kiln("build"), @r"
    ------- stderr -------
    error: `app (linux/amd64)` cannot be made
      caused by: the package `./debs/own.deb` cannot be used: it is no Debian package: it is no archive of ar
    [exit status: 1]
    ");
    fs_err::remove_file(project.path("debs/own.deb")).unwrap();
    assert_snapshot!(project.kiln("build"), @r"
    ------- stderr -------
    error: the package `debs/own.deb` cannot be read: failed to open file `<root>/project/debs/own.deb`: No such file or directory (os error 2)

    hint: `debs` names it
    [exit status: 2]
    ");
}
