//! The registry as everyone's cache.

use insta::assert_snapshot;
use kiln_registry::testing::{Fault, Options, Request};

use crate::environment::TestEnvironment;
use crate::images::ReadBack;
use crate::team::Team;

/// A team one of whose machines built and pushed.
fn pushed() -> (Team, Vec<(String, String)>) {
    let mut team = Team::new();
    let first = team.machine();
    let digests = first.digests("--push");
    team.commit(&first);
    (team, digests)
}

#[test]
fn a_machine_with_an_empty_store_and_no_wheel_ends_with_the_same_images_and_moves_nothing() {
    let (team, digests) = pushed();
    let second = team.bare_machine();
    let (received, sent) = (team.registry.received(), team.registry.sent());
    assert_eq!(second.digests("--locked --push"), digests);
    assert_eq!(team.registry.received(), received);
    assert!(team.registry.sent() - sent < 50_000, "{}", team.registry.sent() - sent);
    assert_snapshot!(second.kiln("build --locked"), @r"
    ml sha256:<digest> 7.99 MB in 3 layers (unchanged)
    train sha256:<digest> 7.99 MB in 5 layers (unchanged)
    ");
}

#[test]
fn what_is_only_in_the_registry_is_written_out_from_there() {
    let (team, _) = pushed();
    let second = team.bare_machine();
    second.succeed("build train --output oci:out --output docker-archive:out.tar");
    let read = ReadBack::of(&second.path("out"), "train", "amd64");
    assert_eq!(read.file("app/main.py").content, b"print('hello')\n");
}

#[test]
fn the_plan_says_what_is_where_and_why() {
    let (team, _) = pushed();
    let second = team.machine();
    assert_snapshot!(second.kiln("plan"), @r"
    ml (linux/amd64)
      oci base                         in the store
      virtual environment              in the registry
      2 small packages      7.98 MB    in the registry
    train (linux/amd64)
      2 small packages      1.74 kB    in the registry
      copy src to /app         15 B    in the registry

    ml: cached in registry · train: cached in registry
    ");
    second.succeed("build ml");
    second.stack(&second.read("kiln.toml").replace("greeting<1.1\"", "greeting>=1.1\"").replace("fast", "slow"));
    second.succeed("lock");
    second.write("src/main.py", "print('other')\n");
    assert_snapshot!(second.kiln("plan"), @r"
    ml (linux/amd64)
      oci base                         in the store
      virtual environment              in the registry
      2 small packages      7.98 MB    in the registry
    train (linux/amd64)
      2 small packages      1.74 kB    depends on greeting-1.1-py3-none-any.whl: greeting 1.0 -> 1.1 (kiln.lock line 52)
      copy src to /app         15 B    to do: src to /app changed (kiln.toml line 22)
      image                            depends on 2 small packages, copy src to /app

    ml: cached in registry · train: 1 package, copy, 1 setting changed
    ");
    assert_snapshot!(second.kiln("explain train"), @r"
    train:
      copy: src to /app changed (kiln.toml line 22)
      env.MODE: fast -> slow (kiln.toml line 23)
      packages: greeting 1.0 -> 1.1 (kiln.lock line 52)
    everything above unchanged
    ");
    second.succeed("build");
    assert_snapshot!(second.kiln("explain train"), @r"
    train: nothing changed since it was built; before that
      copy: src to /app changed (kiln.toml line 22)
      env.MODE: fast -> slow (kiln.toml line 23)
      packages: greeting 1.0 -> 1.1 (kiln.lock line 52)
    everything above unchanged
    ");
    assert_snapshot!(second.kiln("plan train"), @r"
    ml (linux/amd64)
      oci base                         in the store
      virtual environment              in the registry
      2 small packages      7.98 MB    in the registry
    train (linux/amd64)
      2 small packages      1.74 kB    in the store
      copy src to /app         15 B    in the store

    ml: cached in registry · train: unchanged
    ");
    let third = Team::new().machine();
    third.succeed("lock");
    assert_snapshot!(third.kiln("plan"), @r"
    ml (linux/amd64)
      oci base                         in the store
      virtual environment              to do: never built, under a second
      2 small packages      7.98 MB    depends on solver-3.0-cp311-cp311-manylinux_2_28_x86_64.whl, words-1.0-py3-none-any.whl: never built
      image                            depends on virtual environment, 2 small packages
    train (linux/amd64)
      2 small packages      1.74 kB    depends on greeting-1.0-py3-none-any.whl, names-1.0-py3-none-any.whl: never built
      copy src to /app         15 B    to do: never built
      image                            depends on ml, 2 small packages, copy src to /app

    ml: 2 steps to do · train: 2 steps to do
    ------- stderr -------
    reading 127.0.0.1:<port>/acme/cache:kiln-<digest>: attempt 3 of 3 in <s> s: it cannot be reached or broke off (Connection refused (os error 111))
    warning: the cache is not used: 127.0.0.1:<port> cannot be reached or broke off (Connection refused (os error 111))
    ");
    assert_snapshot!(third.kiln("explain train"), @r"
    train: never built here, and nobody is known to have pushed it
    ml: never built here, and nobody is known to have pushed it
    ------- stderr -------
    reading 127.0.0.1:<port>/acme/cache:kiln-<digest>: attempt 3 of 3 in <s> s: it cannot be reached or broke off (Connection refused (os error 111))
    warning: the cache is not used: 127.0.0.1:<port> cannot be reached or broke off (Connection refused (os error 111))
    ");
}

#[test]
fn one_changed_package_needs_only_what_shares_its_layer() {
    let (team, _) = pushed();
    let second = team.bare_machine();
    second.stack(&second.read("kiln.toml").replace("greeting<1.1\"", "greeting>=1.1\""));
    for (name, version) in [("greeting", "1.1"), ("names", "1.0")] {
        second.wheel(&crate::wheels::pure(name, version));
    }
    // Resolving looks at all wheels; building does not.
    let first = team.machine();
    first.stack(&second.read("kiln.toml"));
    first.succeed("lock");
    second.write("kiln.lock", first.read("kiln.lock"));
    let outcome = second.kiln("build --locked");
    assert_eq!(outcome.status, Some(0), "{outcome}");
    assert_eq!(first.digests(""), second.digests(""));
}

#[test]
fn a_cache_that_cannot_be_read_costs_a_warning() {
    let (team, digests) = pushed();
    team.registry.fail(Request::GetManifest, Fault::Status(400, None), 100);
    let second = team.machine();
    let outcome = second.kiln("build --locked");
    assert_eq!(outcome.status, Some(0), "{outcome}");
    assert_snapshot!(outcome.stderr, @"warning: the cache is not used: 127.0.0.1:<port> answered 400: this registry was told to fail");
    team.registry.forgive();
    assert_eq!(second.digests(""), digests);
}

#[test]
fn a_cache_that_may_not_be_written_is_read_all_the_same() {
    let (team, digests) = pushed();
    team.registry.set_options(|options: &mut Options| options.read_only = true);
    let second = team.bare_machine();
    assert_eq!(second.digests("--locked"), digests);
}

#[test]
fn a_layer_that_is_gone_is_made_again() {
    let (team, digests) = pushed();
    let second = team.machine();
    let document: serde_json::Value = serde_json::from_str(&second.succeed("build --locked --json")).unwrap();
    let layers = document["images"][1]["platforms"][0]["layers"].as_array().unwrap();
    for layer in layers.iter().skip(1) {
        let digest = layer["digest"].as_str().unwrap().parse().unwrap();
        for repository in ["acme/cache", "acme/arr/ml", "acme/arr/train"] {
            team.registry.remove_blob(repository, &digest);
        }
    }
    let outcome = second.kiln("build --locked --push");
    assert_eq!(outcome.status, Some(0), "{outcome}");
    assert!(outcome.stderr.contains("they are made again"), "{outcome}");
    assert_eq!(second.digests(""), digests);
    assert_eq!(team.registry.check(), Ok(()));
}

/// Puts another layer under the record of a step, as whoever may write the repository can.
fn forge(team: &Team) {
    let tags = team.registry.tags("acme/cache");
    let mut forged = 0;
    for tag in tags {
        let (media_type, bytes) = team.registry.manifest("acme/cache", &tag).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        if !text.contains("\\\"kind\\\":\\\"copy\\\"") {
            continue;
        }
        let document: serde_json::Value = serde_json::from_str(&text).unwrap();
        let real = document["layers"][0]["digest"].as_str().unwrap().to_owned();
        let other = team.registry.add_blob("acme/cache", b"something else");
        team.registry.add_blob("acme/arr/train", b"something else");
        let changed = text.replace(&real, &other.to_string());
        team.registry.add_manifest("acme/cache", &tag, &media_type, changed.as_bytes());
        forged += 1;
    }
    assert_eq!(forged, 1);
}

fn keygen(machine: &TestEnvironment) -> String {
    machine.succeed("cache keygen secret.key").trim().to_owned()
}

#[test]
fn with_keys_only_what_is_signed_with_one_of_them_counts() {
    let mut team = Team::new();
    let (first, stranger) = (team.machine(), team.machine());
    let (key, other) = (keygen(&first), keygen(&stranger));
    let stack = first.read("kiln.toml");
    let trusting = stack.replace("/acme/cache\"\n", &format!("/acme/cache\"\ntrust = [\"{key}\"]\n"));
    assert_ne!(trusting, stack);
    first.stack(&trusting);
    // Without the secret key nothing is shared, which is said.
    let outcome = first.kiln("build --push");
    assert!(outcome.stderr.contains("warning: nothing is shared: `cache.trust` names keys"), "{outcome}");
    let digests = first.digests("");
    team.commit(&first);
    assert_eq!(team.registry.tags("acme/cache"), [""; 0]);
    // With a key that the stack does not name neither.
    let secret = |machine: &TestEnvironment| fs_err::read_to_string(machine.path("secret.key")).unwrap();
    stranger.stack(&trusting);
    stranger.write("kiln.lock", first.read("kiln.lock"));
    let outcome = stranger.shell(&format!("KILN_CACHE_KEY='{}' $KILN build --push", secret(&stranger)));
    assert!(outcome.stderr.contains(&other), "{outcome}");
    assert_eq!(team.registry.tags("acme/cache"), [""; 0]);
    // One that trusts everybody fills the cache: for those with keys it is empty still.
    stranger.stack(&stack);
    assert_eq!(stranger.kiln("build --push").status, Some(0));
    assert_ne!(team.registry.tags("acme/cache"), [""; 0]);
    let bare = team.bare_machine();
    assert_eq!(bare.kiln("build --locked").status, Some(3));
    // Signed records count.
    let outcome = first.shell("KILN_CACHE_KEY_FILE=secret.key $KILN build --push");
    assert_eq!(outcome.status, Some(0), "{outcome}");
    assert_eq!(bare.digests("--locked"), digests);
    assert!(!bare.succeed("cache ls --remote").contains("not trusted"));
    // What somebody changed afterwards does not, and is derived again where that is possible.
    forge(&team);
    assert!(bare.succeed("cache ls --remote").contains("not trusted"));
    assert_eq!(team.machine().digests("--locked"), digests);
}

#[test]
fn a_forged_record_is_believed_where_the_registry_is_trusted_and_found_by_deriving_it() {
    let (team, digests) = pushed();
    forge(&team);
    let second = team.machine();
    assert_ne!(second.digests("--locked"), digests);
    let outcome = second.kiln("cache verify");
    assert_eq!(outcome.status, Some(1), "{outcome}");
    assert!(outcome.stdout.contains("is WRONG"), "{outcome}");
    assert!(outcome.stdout.contains("14 records checked, 1 wrong"), "{outcome}");
    assert_eq!(second.digests("--locked"), digests);
}

#[test]
fn records_are_listed_and_pruned_and_those_of_persistent_images_stay() {
    let mut team = Team::new();
    let first = team.machine();
    first.stack(&first.read("kiln.toml").replace("[images.ml]\n", "[images.ml]\npersist = true\n"));
    first.succeed("build --push");
    team.commit(&first);
    let listed = first.succeed("cache ls --remote");
    let without_ages: Vec<&str> =
        listed.lines().map(|line| line.split_once(" s ").map_or(line, |(_, rest)| rest.trim())).collect();
    let mut sorted = without_ages.clone();
    sorted.sort_unstable();
    assert_snapshot!(sorted.join("\n"), @r"
    1.06 kB  venv       virtual environment                               arr/ml linux/amd64     persist
    137 B  copy       copy src to /app                                  arr/train linux/amd64
    15 records, 7.98 MB
    179 B  paths      words-1.0-py3-none-any.whl                        arr/ml linux/amd64     persist
    180 B  paths      names-1.0-py3-none-any.whl                        arr/train linux/amd64
    181 B  paths      greeting-1.0-py3-none-any.whl                     arr/train linux/amd64
    194 B  paths      solver-3.0-cp311-cp311-manylinux_2_28_x86_64.whl  arr/ml linux/amd64     persist
    2 B  agreement  ml                                                arr/ml linux/amd64     persist
    2 B  agreement  train                                             arr/train linux/amd64
    2 B  conflicts  ml                                                arr/ml linux/amd64     persist
    2 B  conflicts  train                                             arr/train linux/amd64
    2 B  conflicts  train                                             arr/train linux/amd64
    2 B  image      ml                                                arr/ml linux/amd64     persist
    2 B  image      train                                             arr/train linux/amd64
    7.98 MB  wheels     2 small packages                                  arr/ml linux/amd64     persist
    875 B  wheels     2 small packages                                  arr/train linux/amd64
    ");
    assert_snapshot!(first.kiln("cache prune --remote --older-than 1d"), @"0 records removed, 15 kept");
    assert!(first.succeed("cache prune --remote --keep-storage 0GB --dry-run").contains("would go"));
    let pruned = first.succeed("cache prune --remote --keep-storage 0GB");
    assert!(pruned.contains(" removed, ") && !pruned.contains("arr/ml"), "{pruned}");
    let left = first.succeed("cache ls --remote");
    assert!(left.contains("arr/ml") && !left.contains("arr/train"), "{left}");
    team.registry.set_options(|options: &mut Options| options.deletes = false);
    first.succeed("build --push");
    assert_snapshot!(first.kiln("cache prune --remote --keep-storage 0GB"), @r"
    ------- stderr -------
    error: 127.0.0.1:<port> does not allow to remove anything

    hint: its administrator decides that (for CNCF distribution: `storage.delete.enabled: true`)
    [exit status: 2]
    ");
    assert_snapshot!(first.kiln("cache ls"), @r"
    ------- stderr -------
    error: which cache is meant is not said

    hint: with `--remote` it is about the cache on the registry; for this machine's store: `kiln du`
    [exit status: 2]
    ");
}

#[test]
fn a_stack_without_a_cache_says_so() {
    let machine = crate::wheels::greeting();
    assert_snapshot!(machine.kiln("cache ls --remote"), @r#"
    ------- stderr -------
    error: the stack names no cache

    hint: say where it is: `[cache]` with `remote = "ghcr.io/acme/kiln-cache"`
    [exit status: 2]
    "#);
}

#[test]
fn a_secret_key_is_readable_for_its_owner_alone_and_never_overwritten() {
    use std::os::unix::fs::PermissionsExt;
    let machine = TestEnvironment::new();
    assert!(keygen(&machine).starts_with("ed25519:"));
    assert_eq!(fs_err::metadata(machine.path("secret.key")).unwrap().permissions().mode() & 0o777, 0o600);
    assert_eq!(machine.kiln("cache keygen secret.key").status, Some(3));
    machine.stack("[stack]\nname = \"demo\"\n\n[images.app]\nfrom = \"scratch\"\n");
    assert_snapshot!(machine.shell("KILN_CACHE_KEY=nonsense $KILN build"), @r"
    ------- stderr -------
    error: `KILN_CACHE_KEY`: this is not a secret key of `kiln cache keygen`

    hint: `kiln cache keygen FILE` makes one
    [exit status: 2]
    ");
}

#[test]
fn an_image_that_is_only_in_the_cache_can_be_looked_at() {
    let (team, _) = pushed();
    let second = team.bare_machine();
    let shown = second.succeed("inspect train");
    assert!(shown.contains("linux/amd64"), "{shown}");
    let third = Team::new().machine();
    third.succeed("lock");
    assert_eq!(third.kiln("inspect train").status, Some(2));
}

/// Changes the records of a kind, as whoever may write the repository can.
fn change_records(team: &Team, kind: &str, change: impl Fn(&str) -> String) {
    let mut changed = 0;
    for tag in team.registry.tags("acme/cache") {
        let (media_type, bytes) = team.registry.manifest("acme/cache", &tag).unwrap();
        let text = String::from_utf8(bytes).unwrap();
        if text.contains(&format!("\\\"kind\\\":\\\"{kind}\\\"")) {
            team.registry.add_manifest("acme/cache", &tag, &media_type, change(&text).as_bytes());
            changed += 1;
        }
    }
    assert!(changed > 0, "{kind}");
}

#[test]
fn an_image_does_not_depend_on_which_records_are_left() {
    let mut team = Team::new();
    // Both images have the same small wheel; in one of them a large wheel brings a file of it too.
    let overlapping = crate::wheels::native("solver", "3.0", "x86_64", 9_000_000).file("words/__init__.py", "other\n");
    let with_overlap = |machine: TestEnvironment| {
        machine.wheel(&overlapping);
        machine
    };
    let first = with_overlap(team.machine());
    let image = "[images.other]\nfrom = { oci = \"base\" }\npackages = [\"words<2\"]\n";
    first.stack(&format!("{}\n{image}", first.read("kiln.toml")));
    let digests = first.digests("--push");
    team.commit(&first);
    for kind in ["paths", "conflicts"] {
        change_records(&team, kind, |text| text.replace("dev.kiln.record", "dev.kiln.gone"));
    }
    assert_eq!(with_overlap(team.machine()).digests("--locked"), digests);
}

#[test]
fn a_record_that_is_kept_young_is_not_vouched_for_by_whoever_used_it() {
    let (team, _) = pushed();
    let created = written_at(&team);
    change_records(&team, "wheels", |text| text.replace(&created, "1980-01-01T00:00:00Z"));
    let second = team.machine();
    keygen(&second);
    let outcome = second.shell("KILN_CACHE_KEY_FILE=secret.key $KILN build --locked --push");
    assert_eq!(outcome.status, Some(0), "{outcome}");
    change_records(&team, "wheels", |text| {
        assert!(!text.contains("1980-01-01") && !text.contains("dev.kiln.signature"), "{text}");
        text.to_owned()
    });
}

/// When records were written, as their manifests say it.
fn written_at(team: &Team) -> String {
    let tag = &team.registry.tags("acme/cache")[0];
    let (_, bytes) = team.registry.manifest("acme/cache", tag).unwrap();
    let document: serde_json::Value = serde_json::from_slice(&bytes).unwrap();
    document["annotations"]["org.opencontainers.image.created"].as_str().unwrap().to_owned()
}
