//! Images that are copied as they are: from registries to layouts and archives, and from layouts to registries.

use insta::assert_snapshot;
use kiln_oci::image::{CONFIG, INDEX, MANIFEST};
use kiln_plan::digest::Digest;
use kiln_registry::testing::{FakeRegistry, Fault, Request};
use serde_json::{Value, json};

use crate::bases;
use crate::environment::{Outcome, TestEnvironment};
use crate::images::{ReadBack, archive};

/// A layout of documents that are made by hand.
struct Made<'a> {
    machine: &'a TestEnvironment,
    directory: &'static str,
}

impl Made<'_> {
    fn add(&self, media_type: &str, bytes: &[u8]) -> Value {
        let digest = Digest::of(bytes);
        self.machine.write(&format!("{}/blobs/sha256/{}", self.directory, digest.hex()), bytes);
        json!({ "mediaType": media_type, "digest": digest, "size": bytes.len() })
    }

    fn document(&self, document: &Value) -> Value {
        self.add(document["mediaType"].as_str().unwrap_or(MANIFEST), document.to_string().as_bytes())
    }

    fn image(&self, cpu: &str) -> Value {
        let layer = bases::little_layer(cpu);
        let config = json!({ "architecture": cpu, "os": "linux", "config": { "Env": ["PATH=/bin"] },
            "rootfs": { "type": "layers", "diff_ids": [layer.diff_id] } });
        let layer = self.add("application/vnd.oci.image.layer.v1.tar+gzip", &layer.bytes);
        let config = self.add(CONFIG, config.to_string().as_bytes());
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer],
            "annotations": { "made": "by hand" } });
        let mut entry = self.document(&manifest);
        entry["platform"] = json!({ "architecture": cpu, "os": "linux" });
        entry
    }

    /// An attestation as BuildKit writes it.
    fn attestation(&self, of: &Value) -> Value {
        let statement = self.add("application/vnd.in-toto+json", br#"{"_type": "statement"}"#);
        let config = json!({ "architecture": "unknown", "os": "unknown", "config": {},
            "rootfs": { "type": "layers", "diff_ids": [statement["digest"]] } });
        let config = self.add(CONFIG, config.to_string().as_bytes());
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [statement] });
        let mut entry = self.document(&manifest);
        entry["platform"] = json!({ "architecture": "unknown", "os": "unknown" });
        entry["annotations"] = json!({ "vnd.docker.reference.digest": of["digest"],
            "vnd.docker.reference.type": "attestation-manifest" });
        entry
    }

    /// An artifact beside images.
    fn artifact(&self) -> Value {
        let empty = self.add("application/vnd.oci.empty.v1+json", b"{}");
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "artifactType": "application/spdx+json",
            "config": empty, "layers": [self.add("application/spdx+json", b"{\"spdx\": 1}")], "annotations": null });
        self.document(&manifest)
    }

    fn index(&self, manifests: &[Value]) -> Value {
        let index = json!({ "mediaType": INDEX, "schemaVersion": 2, "manifests": manifests, "subject": null,
            "annotations": { "org.opencontainers.image.version": "1" } });
        self.document(&index)
    }

    /// Writes `index.json` with spaces and an annotation of its own.
    fn list(&self, entries: &[Value]) {
        let index = json!({ "schemaVersion": 2, "manifests": entries, "annotations": { "top": "stays" } });
        self.machine.write(&format!("{}/index.json", self.directory), format!("{index:#}"));
        self.machine.write(&format!("{}/oci-layout", self.directory), r#"{"imageLayoutVersion": "1.0.0"}"#);
    }
}

/// A layout with images for two platforms, one of them in an inner index, with attestations and an artifact.
fn nested(machine: &TestEnvironment) -> String {
    let made = Made { machine, directory: "nested" };
    let (amd64, arm64) = (made.image("amd64"), made.image("arm64"));
    let inner = made.index(&[arm64.clone(), made.attestation(&arm64)]);
    let outer = made.index(&[made.artifact(), amd64.clone(), made.attestation(&amd64), inner]);
    made.list(std::slice::from_ref(&outer));
    outer["digest"].as_str().unwrap().to_owned()
}

fn digest(bytes: &[u8]) -> String {
    Digest::of(bytes).to_string()
}

#[test]
fn an_index_goes_to_a_registry_and_comes_back_byte_for_byte() {
    let registry = FakeRegistry::start();
    let machine = TestEnvironment::new();
    let expected = nested(&machine);
    let reference = format!("{}/acme/app:1", registry.address());
    assert_snapshot!(machine.kiln(&format!("push oci:nested {reference}")), @"pushed 127.0.0.1:<port>/acme/app:1: 4.71 kB sent");
    assert_eq!(registry.check(), Ok(()));
    assert_eq!(digest(&registry.manifest("acme/app", "1").unwrap().1), expected);
    assert_snapshot!(machine.kiln(&format!("pull {reference} --output oci:pulled --output oci-archive:pulled.tar")), @"app sha256:<digest> 4.14 kB in 1 layer for 2 platforms (unchanged)");
    let listed: Value = serde_json::from_str(&machine.read("pulled/index.json")).unwrap();
    assert_eq!(listed["manifests"][0]["digest"], expected);
    let blobs = |directory: &str| {
        let mut names: Vec<_> = fs_err::read_dir(machine.path(directory).join("blobs/sha256")).unwrap().collect();
        names.sort_by_key(|entry| entry.as_ref().unwrap().file_name());
        names.into_iter().map(|entry| entry.unwrap().file_name()).collect::<Vec<_>>()
    };
    assert_eq!(blobs("pulled"), blobs("nested"));
    assert_eq!(archive(&machine.path("pulled.tar")).len(), blobs("nested").len() + 2);
    for cpu in ["amd64", "arm64"] {
        ReadBack::of(&machine.path("pulled"), "app", cpu);
    }
    // What was pulled is pushed as it was, again and again.
    machine.succeed(&format!("push oci:pulled:app {}/acme/other:2", registry.address()));
    assert_eq!(digest(&registry.manifest("acme/other", "2").unwrap().1), expected);
}

#[test]
fn what_is_left_out_of_an_index_is_said() {
    let registry = FakeRegistry::start();
    let machine = TestEnvironment::new();
    nested(&machine);
    let reference = format!("{}/acme/app:1", registry.address());
    machine.succeed(&format!("push oci:nested {reference}"));
    assert_snapshot!(machine.kiln(&format!("pull {reference} --output oci:one --platform linux/amd64")), @r"
    app sha256:<digest> 2.07 kB in 1 layer (unchanged)
    ------- stderr -------
    warning: 2 other entries and 1 attestation of the index of `127.0.0.1:<port>/acme/app:1` are left out; without `--platform` a layout gets all
    ");
    let listed: Value = serde_json::from_str(&machine.read("one/index.json")).unwrap();
    let (_, index) = registry.manifest("acme/app", "1").unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    assert_eq!(listed["manifests"][0]["digest"], index["manifests"][1]["digest"]);
    assert_snapshot!(machine.kiln(&format!("pull {reference} --output docker-archive:one.tar")), @r"
    app sha256:<digest> 2.07 kB in 1 layer (unchanged)
    ------- stderr -------
    warning: 2 other entries and 1 attestation of the index of `127.0.0.1:<port>/acme/app:1` are left out; without `--platform` a layout gets all
    ");
}

#[test]
fn a_manifest_of_a_layout_is_pushed_as_it_is_and_several_become_an_index() {
    let registry = FakeRegistry::start();
    let machine = TestEnvironment::new();
    let made = Made { machine: &machine, directory: "flat" };
    let (amd64, arm64) = (made.image("amd64"), made.image("arm64"));
    made.list(std::slice::from_ref(&amd64));
    machine.succeed(&format!("push oci:flat {}/acme/one:1", registry.address()));
    assert_eq!(digest(&registry.manifest("acme/one", "1").unwrap().1), amd64["digest"].as_str().unwrap());
    made.list(&[amd64.clone(), arm64, made.attestation(&amd64), made.artifact()]);
    machine.succeed(&format!("push oci:flat {}/acme/two:1", registry.address()));
    let (media_type, index) = registry.manifest("acme/two", "1").unwrap();
    let index: Value = serde_json::from_slice(&index).unwrap();
    assert_eq!((media_type.as_str(), index["manifests"].as_array().unwrap().len()), (INDEX, 4));
    assert_eq!(
        (&index["annotations"]["top"], index["manifests"][2]["annotations"].is_object()),
        (&json!("stays"), true)
    );
    assert_eq!(registry.check(), Ok(()));
}

#[test]
fn a_layout_that_lacks_something_is_not_pushed() {
    let registry = FakeRegistry::start();
    let machine = TestEnvironment::new();
    nested(&machine);
    let reference = format!("{}/acme/app:1", registry.address());
    let of = |what: &[u8]| machine.path(&format!("nested/blobs/sha256/{}", Digest::of(what).hex()));
    fs_err::remove_file(of(br#"{"_type": "statement"}"#)).unwrap();
    assert_snapshot!(machine.kiln(&format!("push oci:nested {reference}")), @r"
    ------- stderr -------
    error: nested does not have sha256:<digest>
    [exit status: 2]
    ");
    assert_eq!(registry.tags("acme/app"), [""; 0]);
    assert_snapshot!(machine.kiln(&format!("push oci:nested:none {reference}")), @r"
    ------- stderr -------
    error: nested has no image `none`: its images have no names
    [exit status: 2]
    ");
    machine.write("nested/index.json", "{\"manifests\": []}");
    assert_snapshot!(machine.kiln(&format!("push oci:nested {reference}")), @r"
    ------- stderr -------
    error: nested has no image

    hint: its `index.json` lists none that kiln can read: one for linux, with digests of SHA-256
    [exit status: 2]
    ");
}

#[test]
fn a_registry_that_lets_nobody_look_is_written_to() {
    let registry = FakeRegistry::start();
    let machine = TestEnvironment::new();
    let expected = nested(&machine);
    for request in [Request::HeadManifest, Request::GetManifest, Request::HeadBlob] {
        registry.fail(request, Fault::Status(403, None), 1000);
    }
    machine.succeed(&format!("push oci:nested {}/acme/app:1", registry.address()));
    registry.forgive();
    assert_eq!(digest(&registry.manifest("acme/app", "1").unwrap().1), expected);
}

#[test]
fn a_tag_that_cannot_be_moved_does_not_fail_a_push() {
    let registry = FakeRegistry::start();
    let machine = TestEnvironment::new();
    let made = Made { machine: &machine, directory: "flat" };
    let (old, new) = (made.image("amd64"), made.image("arm64"));
    let push = format!("push oci:flat {}/acme/app:1", registry.address());
    made.list(std::slice::from_ref(&old));
    machine.succeed(&push);
    made.list(std::slice::from_ref(&new));
    for status in [400, 403, 409, 412] {
        registry.fail(Request::PutManifest, Fault::Status(status, None), 1);
        machine.succeed(&push);
    }
    registry.fail(Request::PutManifest, Fault::Status(400, None), 1);
    assert_snapshot!(machine.kiln(&push), @r"
        pushed 127.0.0.1:<port>/acme/app@sha256:<digest>: 2.25 kB were there
        ------- stderr -------
        warning: the tag `1` stays as it was (127.0.0.1:<port> answered 400: this registry was told to fail); the image is there as 127.0.0.1:<port>/acme/app@sha256:<digest>
        ");
    assert_eq!(digest(&registry.manifest("acme/app", "1").unwrap().1), old["digest"].as_str().unwrap());
    assert!(registry.manifest("acme/app", new["digest"].as_str().unwrap()).is_some());
    // A tag that is not there yet is no tag that cannot be moved.
    registry.fail(Request::PutManifest, Fault::Status(403, None), 1);
    let other = machine.kiln(&format!("push oci:flat {}/acme/app:2", registry.address()));
    assert!(other.stderr.contains("does not allow it") && other.status == Some(3), "{other}");
    // Where the registry takes nothing at all, nothing was pushed.
    registry.fail(Request::PutManifest, Fault::Status(400, None), 1000);
    made.list(&[made.index(&[new])]);
    assert_snapshot!(machine.kiln(&push), @r"
    ------- stderr -------
    error: pushing 127.0.0.1:<port>/acme/app:1: 127.0.0.1:<port> answered 400: this registry was told to fail
    [exit status: 3]
    ");
}

#[test]
fn an_archive_has_an_entry_for_each_name() {
    let machine = TestEnvironment::new();
    machine.write("f", "x");
    let stack = "[stack]\nname = \"t\"\ntags = [\"1\", \"latest\"]\n\n[target]\nplatforms = [\"linux/amd64\"]\n\n\
                 [images.a]\nfrom = \"scratch\"\ncopy = [{ from = \"f\", to = \"/f\" }]\n\n[images.b]\nfrom = \"a\"\n\
                 repository = \"docker.io/acme/train\"\n";
    machine.stack(stack);
    let names = |file: &str| {
        let members = archive(&machine.path(file));
        let index: Value = serde_json::from_slice(&members["index.json"]).unwrap();
        let name = |entry: &Value, key: &str| entry["annotations"][key].as_str().unwrap().to_owned();
        let entries = index["manifests"].as_array().unwrap().iter();
        let entries = entries
            .map(|entry| {
                name(entry, "io.containerd.image.name") + " " + &name(entry, "org.opencontainers.image.ref.name")
            })
            .collect::<Vec<String>>();
        (entries, members.get("manifest.json").map(|list| String::from_utf8_lossy(list).into_owned()))
    };
    machine.succeed("build a --output docker-archive:a.tar");
    let (entries, list) = names("a.tar");
    assert_eq!(entries, ["docker.io/t/a:1 a:1", "docker.io/t/a:latest a:latest"]);
    assert!(list.unwrap().contains(r#""RepoTags":["t/a:1","t/a:latest"]"#));
    machine.succeed("build --output oci-archive:both.tar");
    let (entries, list) = names("both.tar");
    let expected = [
        "docker.io/t/a:1 a:1",
        "docker.io/t/a:latest a:latest",
        "docker.io/acme/train:1 b:1",
        "docker.io/acme/train:latest b:latest",
    ];
    assert_eq!((entries.as_slice(), list), (expected.map(str::to_owned).as_slice(), None));
    machine.shell("$KILN build a --output oci-archive:- > piped.tar 2> said && $KILN build -q a --output oci-archive:/dev/stdout | /bin/cat > second.tar");
    for file in ["piped.tar", "second.tar"] {
        assert_eq!(names(file).0.len(), 2, "{file}");
    }
    assert!(machine.read("said").starts_with("a sha256:"));
}

#[test]
fn a_base_may_be_one_image_of_a_layout() {
    let machine = TestEnvironment::new();
    let made = Made { machine: &machine, directory: "flat" };
    let named = |cpu: &str, name: &str| {
        let mut entry = made.image(cpu);
        entry["annotations"] = json!({ "org.opencontainers.image.ref.name": name });
        entry
    };
    let same = named("amd64", "app:1");
    let mut twice = same.clone();
    twice["annotations"]["org.opencontainers.image.ref.name"] = json!("app:latest");
    made.list(&[same, twice]);
    let stack = |from: &str| {
        let _ = fs_err::remove_file(machine.path("kiln.lock"));
        machine.stack(&format!(
            "[stack]\nname = \"t\"\n\n[target]\nplatforms = [\"linux/amd64\"]\n\n[images.a]\nfrom = {{ oci = \"{from}\" }}\n\
             base-facts = {{}}\n"
        ));
    };
    for from in ["flat", "flat:app:1", "flat:app:latest"] {
        stack(from);
        machine.succeed("build");
    }
    stack("flat:none");
    assert_snapshot!(machine.kiln("build"), @r#"
        ------- stderr -------
        error: <root>/project/flat has no image `none`: it has app:1, app:latest
         --> kiln.toml:8:8
          |
        8 | from = { oci = "flat:none" }
          |        ^^^^^^^^^^^^^^^^^^^^^
        [exit status: 2]
        "#);
    let mut other = named("amd64", "other");
    other["digest"] = named("arm64", "x")["digest"].clone();
    made.list(&[named("amd64", "app"), other]);
    let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": {} });
    let empty = json!({ "schemaVersion": 2, "config": made.add(CONFIG, config.to_string().as_bytes()), "layers": [] });
    let mut second = made.document(&empty);
    second["annotations"] = json!({ "org.opencontainers.image.ref.name": "empty" });
    made.list(&[named("amd64", "app"), second]);
    stack("flat");
    assert_snapshot!(machine.kiln("build"), @r#"
    ------- stderr -------
    error: `<root>/project/flat` is not a usable OCI image layout: it has more than one image for linux/amd64: name one of app, empty
     --> kiln.toml:8:8
      |
    8 | from = { oci = "flat" }
      |        ^^^^^^^^^^^^^^^^
      |
    help: name another directory, or write this one again with the program that made it
    [exit status: 2]
    "#);
    stack("flat:empty");
    machine.succeed("build");
}

#[test]
fn an_unusable_document_is_named_by_its_digest() {
    let machine = TestEnvironment::new();
    let registry = FakeRegistry::start();
    let mut all = String::new();
    for (config, manifest) in [
        (json!({ "architecture": "amd64", "os": "linux", "config": 1 }), json!({})),
        (json!({ "architecture": "amd64", "os": "linux", "rootfs": { "diff_ids": [null] } }), json!({})),
        (json!({ "architecture": "amd64", "os": "linux" }), json!({ "layers": [{ "digest": "sha256:1" }] })),
        (json!({ "architecture": "amd64", "os": "linux" }), json!({ "manifests": [] })),
        (json!({ "architecture": "s390x", "os": "linux" }), json!({})),
    ] {
        let made = Made { machine: &machine, directory: "odd" };
        let config = config.to_string();
        let mut whole =
            json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": made.add(CONFIG, config.as_bytes()) });
        whole.as_object_mut().unwrap().extend(manifest.as_object().unwrap().clone());
        made.list(&[made.document(&whole)]);
        registry.add_blob("acme/odd", config.as_bytes());
        registry.add_manifest("acme/odd", "1", MANIFEST, whole.to_string().as_bytes());
        for from in ["{ oci = \"odd\" }".to_owned(), format!("\"{}/acme/odd:1\"", registry.address())] {
            let _ = fs_err::remove_file(machine.path("kiln.lock"));
            machine.stack(&format!(
                "[stack]\nname = \"t\"\n\n[target]\nplatforms = [\"linux/amd64\"]\n\n[images.a]\nfrom = {from}\n"
            ));
            let outcome = machine.kiln("lock");
            assert!(outcome.stderr.contains("sha256:") || outcome.stderr.contains("s390x"), "{outcome}");
            let first = outcome.stderr.lines().next().unwrap_or_default();
            all.push_str(&format!("{first}\n"));
        }
    }
    assert_snapshot!(all, @r"
    error: the config sha256:<digest> is not valid: invalid type: integer `1`, expected an object
    error: the config sha256:<digest> is not valid: invalid type: integer `1`, expected an object
    error: the config sha256:<digest> is not valid: `` is not a SHA-256 digest (`sha256:` and 64 hexadecimal digits)
    error: the config sha256:<digest> is not valid: `` is not a SHA-256 digest (`sha256:` and 64 hexadecimal digits)
    error: the manifest sha256:<digest> is not valid: `sha256:1` is not a SHA-256 digest (`sha256:` and 64 hexadecimal digits)
    error: the manifest sha256:<digest> is not valid: `sha256:1` is not a SHA-256 digest (`sha256:` and 64 hexadecimal digits)
    error: `<root>/project/odd` is not a usable OCI image layout: the document sha256:<digest> cannot be used: it says that it is `application/vnd.oci.image.manifest.v1+json`, and has `manifests`
    error: `127.0.0.1:<port>/acme/odd:1` cannot be used: the document sha256:<digest> cannot be used: it says that it is `application/vnd.oci.image.manifest.v1+json`, and has `manifests`
    error: `<root>/project/odd` is not a usable OCI image layout: it has no image for linux/amd64; it has linux/s390x
    error: `127.0.0.1:<port>/acme/odd:1` cannot be used: it is for linux/s390x, which kiln does not build for
    ");
}

#[test]
fn an_unusable_certificate_of_a_registry_is_named() {
    let registry = FakeRegistry::start();
    let machine = TestEnvironment::new();
    let directory = machine.path(&format!("../home/.config/containers/certs.d/{}", registry.address()));
    fs_err::create_dir_all(&directory).unwrap();
    fs_err::write(directory.join("ca.crt"), "no certificate").unwrap();
    let pull = format!("pull {}/acme/app:1 --output oci:pulled", registry.address());
    assert_snapshot!(machine.kiln(&pull), @r"
    ------- stderr -------
    error: `<root>/home/.config/containers/certs.d/127.0.0.1:<port>/ca.crt` cannot be used: it holds no certificate in PEM
    [exit status: 3]
    ");
    fs_err::rename(directory.join("ca.crt"), directory.join("client.cert")).unwrap();
    assert_snapshot!(machine.kiln(&pull), @r"
    ------- stderr -------
    error: `<root>/home/.config/containers/certs.d/127.0.0.1:<port>/client.cert` cannot be used: there is no key for it beside it: the same name with `.key`
    [exit status: 3]
    ");
}

#[test]
fn a_proxy_is_left_alone_by_the_rules_of_gos_programs() {
    let registry = FakeRegistry::start();
    let machine = TestEnvironment::new();
    let made = Made { machine: &machine, directory: "flat" };
    let image = made.image("amd64");
    made.list(std::slice::from_ref(&image));
    // Programs do not take this address for their own machine's.
    let address = registry.address().replace("127.0.0.1", "0.0.0.0");
    let proxy =
        kiln_registry::testing::Spy::answering("404 Not Found\r\nConnection: close\r\nContent-Length: 0\r\n\r\n");
    for (no_proxy, asked) in
        [("", true), ("0.0.0.0:1", true), (address.as_str(), false), ("0.0.0.0/8", false), ("*", false)]
    {
        let mut command = machine.command();
        command.args(["--insecure", "push", "oci:flat", &format!("{address}/acme/app:1")]);
        command.env("HTTP_PROXY", proxy.address()).env("HTTPS_PROXY", proxy.address()).env("NO_PROXY", no_proxy);
        let outcome = Outcome::of(command);
        assert_eq!((!proxy.requests().is_empty(), outcome.status == Some(0)), (asked, !asked), "{no_proxy}: {outcome}");
    }
}

#[test]
fn a_layer_of_unknown_size_is_copied_and_built_on() {
    let registry = FakeRegistry::start();
    let machine = TestEnvironment::new();
    let layer = bases::little_layer("x");
    let config = json!({ "architecture": "amd64", "os": "linux", "rootfs": { "diff_ids": [layer.diff_id] } });
    for size in [json!(-1), Value::Null] {
        let made = Made { machine: &machine, directory: "flat" };
        let mut entry = made.add("application/vnd.oci.image.layer.v1.tar+gzip", &layer.bytes);
        entry["size"] = size;
        let config = made.add(CONFIG, config.to_string().as_bytes());
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [entry] });
        made.list(&[made.document(&manifest)]);
        let reference = format!("{}/acme/app:1", registry.address());
        machine.succeed(&format!("push oci:flat {reference}"));
        for output in ["oci:pulled", "docker-archive:pulled.tar", "oci-archive:pulled.tar"] {
            machine.succeed(&format!("pull {reference} --output {output}"));
        }
        for from in ["{ oci = \"flat\" }".to_owned(), format!("\"{reference}\"")] {
            let _ = fs_err::remove_file(machine.path("kiln.lock"));
            machine.stack(&format!(
                "[stack]\nname = \"t\"\n\n[target]\nplatforms = [\"linux/amd64\"]\n\n[images.a]\nfrom = {from}\n"
            ));
            machine.succeed("build --output oci:built");
            let blob = machine.path("built/blobs/sha256").join(Digest::of(&layer.bytes).hex());
            assert_eq!(fs_err::read(blob).unwrap(), layer.bytes);
            fs_err::remove_dir_all(machine.path("built")).unwrap();
        }
    }
}
