//! Pushing and pulling.

use insta::assert_snapshot;
use kiln_registry::testing::{Auth, FakeRegistry, Fault, Options, Request};

use crate::bases;
use crate::environment::TestEnvironment;
use crate::images::ReadBack;
use crate::team::Team;

fn no_cache(options: Options) -> Team {
    Team::with(options, "")
}

fn with_password() -> Options {
    let (user, password) = ("alice".into(), "secret".into());
    let auth = Auth::Bearer { user, password, anonymous_pull: false, identity_token: None };
    Options { auth, ..Options::default() }
}

#[test]
fn tiers_are_pushed_in_order_and_pushing_again_moves_nothing() {
    let team = no_cache(Options::default());
    let machine = team.machine();
    assert_snapshot!(machine.kiln("build --push"), @r"
    ml sha256:<digest> 7.99 MB in 3 layers
    train sha256:<digest> 7.99 MB in 5 layers
    pushed 127.0.0.1:<port>/acme/arr/ml:<tag>, latest: 7.99 MB sent
    pushed 127.0.0.1:<port>/acme/arr/train:<tag>, latest: 2.00 kB sent, 7.99 MB mounted
    ");
    assert_eq!(team.registry.check(), Ok(()));
    let (digest, train) = (machine.digests("")[1].1.clone(), "acme/arr/train");
    assert_eq!(team.registry.tags(train), [&digest["sha256:".len()..][..16], "latest"]);
    team.requests();
    let received = team.registry.received();
    assert_snapshot!(machine.kiln("build --push"), @r"
    ml sha256:<digest> 7.99 MB in 3 layers (unchanged)
    train sha256:<digest> 7.99 MB in 5 layers (unchanged)
    pushed 127.0.0.1:<port>/acme/arr/ml:<tag>, latest: 7.99 MB were there
    pushed 127.0.0.1:<port>/acme/arr/train:<tag>, latest: 7.99 MB were there
    ");
    assert_eq!(team.requests(), [Request::HeadBlob, Request::HeadManifest]);
    assert_eq!(team.registry.received(), received);
}

#[test]
fn only_what_changed_moves() {
    let team = no_cache(Options::default());
    let machine = team.machine();
    machine.succeed("build --push");
    machine.write("src/main.py", "print('another')\n");
    let received = team.registry.received();
    assert_snapshot!(machine.kiln("build train --push"), @r"
    ml sha256:<digest> 7.99 MB in 3 layers (unchanged)
    train sha256:<digest> 7.99 MB in 5 layers
    pushed 127.0.0.1:<port>/acme/arr/train:<tag>, latest: 1.12 kB sent, 7.99 MB were there
    ");
    assert!(team.registry.received() - received < 5000);
    assert_eq!(team.registry.check(), Ok(()));
}

#[test]
fn an_image_without_a_registry_cannot_be_pushed_and_that_is_said_before_anything_is_done() {
    let machine = crate::wheels::greeting();
    assert_snapshot!(machine.kiln("build --push"), @r#"
    ------- stderr -------
    error: where the image `app` is to be pushed is not said

    hint: say it in the stack file: `[stack]` with `registry = "ghcr.io/acme"`, or `registry` for the image
    [exit status: 2]
    "#);
    assert!(!machine.path("kiln.lock").exists());
}

#[test]
fn two_platforms_become_one_index_and_machines_can_share_the_work() {
    let mut team = no_cache(Options::default());
    let first = team.machine();
    let both = first.read("kiln.toml").replace("[\"linux/amd64\"]", "[\"linux/amd64\", \"linux/arm64\"]");
    // The wheel for one processor only is not needed here.
    first.stack(&both.replace("\"solver\", ", ""));
    let whole = first.digests("");
    team.commit(&first);
    let (one, other) = (team.machine(), team.machine());
    assert_snapshot!(one.kiln("build train --platform linux/amd64 --push"), @r"
    ml sha256:<digest> <size> in 3 layers
    train sha256:<digest> <size> in 5 layers
    pushed 127.0.0.1:<port>/acme/arr/train@sha256:<digest> (linux/amd64) without a tag, for `kiln index train`: 9.87 kB sent
    ");
    assert_eq!(team.registry.tags("acme/arr/train"), [""; 0]);
    assert_snapshot!(first.kiln("index train"), @r"
    ------- stderr -------
    error: 127.0.0.1:<port>/acme/arr/train does not have `train` for linux/arm64 yet

    hint: `kiln build train --platform linux/arm64 --push` puts it there
    [exit status: 2]
    ");
    assert_eq!(other.kiln("build train --platform linux/arm64 --push").status, Some(0));
    assert_snapshot!(first.kiln("index train"), @"pushed 127.0.0.1:<port>/acme/arr/train:<tag>, latest");
    let digest = &whole[1].1;
    assert_eq!(team.registry.tags("acme/arr/train"), [&digest["sha256:".len()..][..16], "latest"]);
    assert_eq!(team.registry.check(), Ok(()));
    // A machine that knows nothing of the steps is told the manifests.
    let manifests: Vec<String> = [&one, &other]
        .iter()
        .zip(["linux/amd64", "linux/arm64"])
        .map(|(machine, platform)| {
            let text = machine.succeed(&format!("build train --platform {platform} --push --json"));
            let document: serde_json::Value = serde_json::from_str(&text).unwrap();
            document["pushed"][0]["manifests"][0]["manifest"].as_str().unwrap().to_owned()
        })
        .collect();
    let ignorant = team.bare_machine();
    assert_snapshot!(ignorant.kiln("index train"), @r"
    ------- stderr -------
    error: `virtual environment` for linux/amd64 is neither here nor in the cache

    hint: `kiln build train --platform linux/amd64 --push` with a `[cache]` in the stack, or name the manifests' digests
    [exit status: 2]
    ");
    assert_snapshot!(ignorant.kiln(&format!("index train {}", manifests[0])), @r"
    ------- stderr -------
    error: the manifests are for linux/amd64, and `train` is for linux/amd64 and linux/arm64

    hint: name one manifest for each platform, or none: they follow from the lock
    [exit status: 2]
    ");
    let joined = ignorant.succeed(&format!("index train --json {}", manifests.join(" ")));
    assert!(joined.contains(digest.as_str()), "{joined}");
}

#[test]
fn what_was_pushed_is_pulled_as_it_was() {
    let team = no_cache(Options::default());
    let machine = team.machine();
    machine.succeed("build --push --output oci:built");
    let other = team.bare_machine();
    let reference = format!("{}/acme/arr/train", team.registry.address());
    assert_snapshot!(other.kiln(&format!("pull {reference} --output oci:pulled --platform linux/amd64")), @"train sha256:<digest> 7.99 MB in 5 layers (unchanged)");
    let (built, pulled) =
        (ReadBack::of(&machine.path("built"), "train", "amd64"), ReadBack::of(&other.path("pulled"), "train", "amd64"));
    assert_eq!(built.config, pulled.config);
    assert_eq!(built.layers, pulled.layers);
    // Layers go where they are wanted and nowhere else.
    assert_snapshot!(other.kiln("du").stdout.lines().nth(2).unwrap(), @"recipes of layers             0 B  0, for 0 B of layers");
    let archive = format!("pull {reference}:latest --output docker-archive:train.tar --platform linux/amd64");
    other.succeed(&archive);
    assert!(other.path("train.tar").is_file());
    assert_snapshot!(other.kiln(&format!("pull {reference}:none --output oci:x --platform linux/amd64")), @r"
    ------- stderr -------
    error: 127.0.0.1:<port> has no `127.0.0.1:<port>/acme/arr/train:none`, or shows it only to those who may see it

    hint: if it is private: `kiln login 127.0.0.1:<port>`
    [exit status: 2]
    ");
    assert_snapshot!(other.kiln(&format!("pull {reference} --output oci:x --platform linux/arm64")), @r"
    ------- stderr -------
    error: `127.0.0.1:<port>/acme/arr/train` cannot be used: it has no image for linux/arm64; it has linux/amd64
    [exit status: 2]
    ");
}

#[test]
fn a_pull_goes_on_after_connections_broke() {
    let team = no_cache(Options::default());
    team.machine().succeed("build --push");
    let other = team.bare_machine();
    team.registry.fail(Request::GetBlob, Fault::DropAfter(4_000_000), 3);
    team.registry.fail(Request::GetManifest, Fault::Status(503, Some(0)), 1);
    let reference = format!("{}/acme/arr/ml", team.registry.address());
    other.succeed(&format!("pull {reference} --output oci:pulled --platform linux/amd64"));
    ReadBack::of(&other.path("pulled"), "ml", "amd64");
}

#[test]
fn credentials_are_asked_for_kept_and_forgotten() {
    let team = no_cache(with_password());
    let machine = team.machine();
    let address = team.registry.address();
    assert_snapshot!(machine.kiln("build --push"), @r"
    ------- stderr -------
    error: pushing to 127.0.0.1:<port>/acme/arr/ml: 127.0.0.1:<port> wants credentials

    hint: run `kiln login 127.0.0.1:<port>`
    [exit status: 3]
    ");
    assert_snapshot!(machine.kiln(&format!("login {address} --user alice")), @r"
    ------- stderr -------
    error: there is no terminal to ask for the password on

    hint: give it on standard input with `--password-stdin`
    [exit status: 2]
    ");
    let login = |password: &str| {
        machine.shell(&format!("echo {password} | $KILN login {address} --user alice --password-stdin"))
    };
    assert_snapshot!(login("wrong"), @r"
    ------- stderr -------
    error: logging in to 127.0.0.1:<port>: 127.0.0.1:<port> does not accept the credentials

    hint: many registries want an access token in the place of the password
    [exit status: 3]
    ");
    assert_snapshot!(login("secret"), @"logged in to 127.0.0.1:<port> as alice; kept in <root>/home/.docker/config.json");
    let config = fs_err::read_to_string(machine.root().join("home/.docker/config.json")).unwrap();
    assert!(config.contains("YWxpY2U6c2VjcmV0"), "{config}");
    assert_eq!(machine.kiln("build --push").status, Some(0));
    assert_snapshot!(machine.kiln(&format!("logout {address}")), @"logged out of 127.0.0.1:<port>");
    assert_snapshot!(machine.kiln(&format!("logout {address}")), @"there were no credentials for 127.0.0.1:<port>");
    assert_eq!(machine.kiln("build --push").status, Some(3));
    assert_snapshot!(machine.kiln("login https://ghcr.io"), @r"
    ------- stderr -------
    error: invalid value 'https://ghcr.io' for '<REGISTRY>': write a host name with an optional port, such as `ghcr.io`

    For more information, try '--help'.
    [exit status: 2]
    ");
}

#[test]
fn a_registry_that_is_read_only_or_gone_is_said_and_nothing_is_lost() {
    let team = no_cache(Options { read_only: true, ..Options::default() });
    let machine = team.machine();
    assert_snapshot!(machine.kiln("build --push"), @r"
    ------- stderr -------
    error: pushing sha256:<digest> to 127.0.0.1:<port>/acme/arr/ml: 127.0.0.1:<port> answered 405: this registry is read-only

    hint: the registry does not do that: it may be read-only, or only pass on what another registry has
    [exit status: 3]
    ");
    let gone = FakeRegistry::start().address();
    machine.stack(&machine.read("kiln.toml").replace(&team.registry.address(), &gone));
    let outcome = machine.kiln("build --push");
    assert_eq!(outcome.status, Some(3));
    assert!(outcome.stderr.contains("cannot be reached or broke off"), "{outcome}");
    assert_snapshot!(machine.kiln("build --push --offline"), @r"
    ------- stderr -------
    error: pushing to 127.0.0.1:<port>/acme/arr/ml: `--offline` forbids to ask a registry

    hint: run once without `--offline`
    [exit status: 3]
    ");
}

#[test]
fn a_layout_holds_the_bytes_of_a_base_that_is_only_on_a_registry() {
    let registry = FakeRegistry::start();
    let machine = TestEnvironment::new();
    bases::debian(&machine.path("base"));
    let reference = registry.add_layout(&machine.path("base"), "library/debian", "12");
    machine.stack(&format!(
        "[stack]\nname = \"demo\"\n\n[target]\nplatforms = [\"linux/amd64\"]\n\n[images.app]\nfrom = \"{reference}\"\n"
    ));
    machine.succeed("build --output oci:out");
    ReadBack::of(&machine.path("out"), "app", "amd64");
    assert_snapshot!(machine.kiln("build --offline --output oci:other"), @r"
    ------- stderr -------
    error: reading sha256:<digest> of 127.0.0.1:<port>/library/debian: `--offline` forbids to ask a registry

    hint: run once without `--offline`
    [exit status: 3]
    ");
}

/// What Docker's registry would hold: the manifest of a base in Docker's words.
fn docker_image(registry: &FakeRegistry, machine: &TestEnvironment) -> String {
    bases::for_one_platform(&machine.path("docker"));
    let reference = registry.add_layout(&machine.path("docker"), "library/old", "1");
    let opened = kiln_oci::layout::Layout::open(&machine.path("docker")).unwrap();
    let (_, found) = opened.images().unwrap().remove(0);
    let text = String::from_utf8(found.manifest_bytes).unwrap();
    let docker = text
        .replace("application/vnd.oci.image.manifest.v1+json", "application/vnd.docker.distribution.manifest.v2+json")
        .replace("application/vnd.oci.image.config.v1+json", "application/vnd.docker.container.image.v1+json")
        .replace("application/vnd.oci.image.layer.v1.tar+gzip", "application/vnd.docker.image.rootfs.diff.tar.gzip");
    let media_type = "application/vnd.docker.distribution.manifest.v2+json";
    registry.add_manifest("library/old", "1", media_type, docker.as_bytes());
    reference
}

#[test]
fn an_image_in_dockers_words_is_written_in_ocis_throughout() {
    let registry = FakeRegistry::start();
    let machine = TestEnvironment::new();
    let reference = docker_image(&registry, &machine);
    machine.succeed(&format!("pull {reference} --output oci:pulled --platform linux/amd64"));
    ReadBack::of(&machine.path("pulled"), "old", "amd64");
    machine.stack(&format!(
        "[stack]\nname = \"demo\"\nregistry = \"{}/acme\"\n\n[target]\nplatforms = [\"linux/amd64\"]\n\n[images.app]\n\
         from = \"{reference}\"\nenv = {{ A = \"1\" }}\n",
        registry.address()
    ));
    machine.succeed("build --push");
    assert_eq!(registry.check(), Ok(()));
    let (_, index) = registry.manifest("acme/demo/app", "latest").unwrap();
    let index: serde_json::Value = serde_json::from_slice(&index).unwrap();
    let digest = index["manifests"][0]["digest"].as_str().unwrap();
    let (_, manifest) = registry.manifest("acme/demo/app", digest).unwrap();
    for text in [String::from_utf8(manifest).unwrap(), machine.read("pulled/index.json")] {
        assert!(!text.contains("docker") && text.contains("application/vnd.oci.image."), "{text}");
    }
}

#[test]
fn an_image_of_a_layout_is_pushed() {
    let registry = FakeRegistry::start();
    let machine = TestEnvironment::new();
    bases::debian(&machine.path("base"));
    let address = registry.address();
    assert_snapshot!(machine.kiln(&format!("push oci:base {address}/acme/base:12")), @"pushed 127.0.0.1:<port>/acme/base:12: 12.8 kB sent");
    assert_eq!(registry.check(), Ok(()));
    assert_eq!(registry.tags("acme/base"), ["12"]);
    assert_snapshot!(machine.kiln(&format!("push oci:base:none {address}/acme/base:12")), @r"
    ------- stderr -------
    error: base has no image `none`: its images have no names
    [exit status: 2]
    ");
    assert_snapshot!(machine.kiln(&format!("push base {address}/acme/base:12")), @r"
    ------- stderr -------
    error: invalid value 'base' for '<IMAGE>': write `oci:DIR` or `oci:DIR:NAME`

    For more information, try '--help'.
    [exit status: 2]
    ");
    assert_snapshot!(machine.kiln(&format!("push oci:base {address}/acme/Base")), @r"
    ------- stderr -------
    error: invalid value '127.0.0.1:<port>/acme/Base' for '<REFERENCE>': `127.0.0.1:<port>/acme/Base` is not a reference to an image: a repository consists of lower-case letters and digits, with `.`, `_`, `__` or `-` between them and `/` between its parts

    For more information, try '--help'.
    [exit status: 2]
    ");
}

#[test]
fn a_push_against_a_busy_registry_says_what_it_waits_for_and_in_the_end_what_failed() {
    let team = no_cache(Options::default());
    let machine = team.machine();
    machine.succeed("lock");
    team.registry.fail(Request::PutManifest, Fault::Status(503, Some(0)), 99);
    assert_snapshot!(machine.kiln("build ml --push -v"), @r"
    ------- stderr -------
    pushing 127.0.0.1:<port>/acme/arr/ml@sha256:<digest>: attempt 2 of 6 in <s> s: it answered 503 Service Unavailable: this registry was told to fail
    pushing 127.0.0.1:<port>/acme/arr/ml@sha256:<digest>: attempt 3 of 6 in <s> s: it answered 503 Service Unavailable: this registry was told to fail
    pushing 127.0.0.1:<port>/acme/arr/ml@sha256:<digest>: attempt 4 of 6 in <s> s: it answered 503 Service Unavailable: this registry was told to fail
    pushing 127.0.0.1:<port>/acme/arr/ml@sha256:<digest>: attempt 5 of 6 in <s> s: it answered 503 Service Unavailable: this registry was told to fail
    pushing 127.0.0.1:<port>/acme/arr/ml@sha256:<digest>: attempt 6 of 6 in <s> s: it answered 503 Service Unavailable: this registry was told to fail
    error: pushing 127.0.0.1:<port>/acme/arr/ml@sha256:<digest>: 127.0.0.1:<port> answered 503 Service Unavailable: this registry was told to fail (6 attempts: PUT http://127.0.0.1:<port>/v2/acme/arr/ml/manifests/sha256:<digest>)

    hint: layers that have arrived there stay: run the command again and only what is missing moves
    [exit status: 3]
    ");
    // A first failure that costs less than a second is no news.
    assert_snapshot!(machine.kiln("build ml --push"), @r"
    ------- stderr -------
    pushing 127.0.0.1:<port>/acme/arr/ml@sha256:<digest>: attempt 3 of 6 in <s> s: it answered 503 Service Unavailable: this registry was told to fail
    pushing 127.0.0.1:<port>/acme/arr/ml@sha256:<digest>: attempt 4 of 6 in <s> s: it answered 503 Service Unavailable: this registry was told to fail
    pushing 127.0.0.1:<port>/acme/arr/ml@sha256:<digest>: attempt 5 of 6 in <s> s: it answered 503 Service Unavailable: this registry was told to fail
    pushing 127.0.0.1:<port>/acme/arr/ml@sha256:<digest>: attempt 6 of 6 in <s> s: it answered 503 Service Unavailable: this registry was told to fail
    error: pushing 127.0.0.1:<port>/acme/arr/ml@sha256:<digest>: 127.0.0.1:<port> answered 503 Service Unavailable: this registry was told to fail (6 attempts: PUT http://127.0.0.1:<port>/v2/acme/arr/ml/manifests/sha256:<digest>)

    hint: layers that have arrived there stay: run the command again and only what is missing moves
    [exit status: 3]
    ");
    let outcome = machine.kiln("build ml --push -q");
    assert_eq!(outcome.status, Some(3), "{outcome}");
    assert!(!outcome.stderr.contains("attempt 2 of"), "{outcome}");
}
