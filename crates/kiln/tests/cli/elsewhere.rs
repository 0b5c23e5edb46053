//! Copies from outside of the project: from other images, and from addresses. Repositories of git need git: the interoperability suite
//! has them.

use std::os::unix::fs::PermissionsExt;

use insta::assert_snapshot;
use kiln_registry::testing::{FakeRegistry, Request};

use crate::bases;
use crate::environment::TestEnvironment;
use crate::images::ReadBack;
use crate::server::Server;

const HEAD: &str = "[stack]\nname = \"demo\"\n\n[target]\nplatforms = [\"linux/amd64\"]\n\n";

fn list(environment: &TestEnvironment, image: &str) -> String {
    ReadBack::of(&environment.path("out"), image, "amd64").list()
}

/// A project with an image `builder` of two layers, the upper one of which hides a file of the lower.
fn builder(copies: &str) -> TestEnvironment {
    let environment = TestEnvironment::new();
    environment.write("src/bin/tool", "a tool");
    let executable = std::fs::Permissions::from_mode(0o755);
    fs_err::set_permissions(environment.path("src/bin/tool"), executable).unwrap();
    environment.write("src/share/data.txt", "data");
    environment.write("src/share/notes.md", "notes");
    environment.write("more/data.txt", "newer");
    environment.stack(&format!(
        "{HEAD}[images.builder]\nfrom = \"scratch\"\ncopy = [{{ from = \"src\", to = \"/out\", owner = \"7:8\" }}, \
         {{ from = \"more\", to = \"/out/share\" }}]\nfiles = [{{ to = \"/current\", link = \"out/share\" }}, \
         {{ to = \"/out/bin/alias\", link = \"tool\" }}]\n\n[images.app]\nfrom = \"scratch\"\ncopy = [\n{{ from = \"more\", to = \"/first\" }},\n{copies}\n]\n"
    ));
    environment
}

#[test]
fn files_of_another_image_keep_owners_and_modes() {
    let environment = builder(
        r#"  { from = { image = "builder", path = "/out/bin" }, to = "/usr/bin" },
  { from = { image = "builder", path = "/current/" }, to = "/data", exclude = ["*.md"], owner = "1:2", mode = "0600" },
  { from = { image = "builder", path = "/out/bin/alias" }, to = "/opt/" },"#,
    );
    assert_snapshot!(environment.succeed("build --output oci:out"), @r"
    builder sha256:<digest> <size> in 3 layers
    app sha256:<digest> <size> in 4 layers
    ");
    assert_snapshot!(list(&environment, "app"), @r"
    d0755 0:0 usr
    d0755 0:0 usr/bin
    l0777 0:0 usr/bin/alias -> tool
    -0755 7:8 usr/bin/tool
    --
    d0700 1:2 data
    -0600 1:2 data/data.txt
    --
    d0755 0:0 opt
    -0755 7:8 opt/alias
    ");
    let image = ReadBack::of(&environment.path("out"), "app", "amd64");
    assert_eq!(image.text("data/data.txt"), "newer");
    assert_eq!(image.text("opt/alias"), "a tool");
    assert_snapshot!(image.history().join("\n"), @r"
    kiln: copy more to /first
    kiln: copy /out/bin of builder to /usr/bin
    kiln: copy /current of builder to /data
    kiln: copy /out/bin/alias of builder to /opt/
    ");
    // Nothing that the copies do not take makes them again.
    environment.write("src/share/notes.md", "other notes");
    assert_snapshot!(environment.succeed("build"), @r"
    builder sha256:<digest> <size> in 3 layers
    app sha256:<digest> <size> in 4 layers (unchanged)
    ");
    environment.write("src/bin/tool", "another tool");
    assert!(!environment.succeed("build").contains("app sha256:<digest> <size> in 3 layers (unchanged)"));
}

#[test]
fn directories_of_another_image_bring_owners_and_modes_over_those_that_are_there() {
    let environment = TestEnvironment::new();
    environment.write("src/in/file", "content");
    let given = "{ from = \"src\", to = \"/src\", owner = \"5:6\", mode = \"0600\" }";
    environment.stack(&format!(
        "{HEAD}[images.a]\nfrom = \"scratch\"\ncopy = [{given}]\n\n[images.b]\nfrom = \"scratch\"\n\
         copy = [{{ from = \"src\", to = \"/t\" }}, {{ from = {{ image = \"a\", path = \"/src\" }}, to = \"/t\" }}]\n"
    ));
    environment.succeed("build --output oci:out");
    assert_snapshot!(list(&environment, "b"), @r"
    d0755 0:0 t
    d0700 5:6 t/in
    -0600 5:6 t/in/file
    ");
}

#[test]
fn a_copy_makes_an_image_before_the_one_that_has_it_and_a_plan_says_that_it_waits_for_it() {
    let environment = builder(r#"  { from = { image = "builder", path = "/out" }, to = "/" },"#);
    environment.succeed("lock");
    assert_snapshot!(environment.succeed("plan"), @r"
    builder (linux/amd64)
      copy src to /out                    15 B    to do: never built
      copy more to /out/share              5 B    to do: never built
      files /current, /out/bin/alias              to do: never built, under a second
      image                                       depends on copy src to /out, copy more to /out/share, files /current, /out/bin/alias
    app (linux/amd64)
      image                                       depends on builder

    builder: 3 steps to do · app: depends on builder
    ");
    environment.succeed("build app");
    assert_snapshot!(environment.succeed("plan app"), @r"
    builder (linux/amd64)
      copy src to /out                    15 B    in the store
      copy more to /out/share              5 B    in the store
      files /current, /out/bin/alias              in the store
    app (linux/amd64)
      copy more to /first                  5 B    in the store
      copy /out of builder to /           16 B    in the store

    builder: unchanged · app: unchanged
    ");
}

#[test]
fn mistakes_in_copies_point_at_their_lines() {
    for (copy, name) in [
        (r#"{ from = { image = "builder", path = "/out/bni" }, to = "/" }"#, "a path that is not there"),
        (r#"{ from = { image = "builder" }, to = "/" }"#, "no path"),
        (r#"{ from = { image = "bilder", path = "/out" }, to = "/" }"#, "no such image"),
        (r#"{ from = { image = "app", path = "/out" }, to = "/" }"#, "itself"),
        (r#"{ from = { image = "scratch", path = "/out" }, to = "/" }"#, "scratch"),
        (r#"{ from = { image = "builder", path = "/../out" }, to = "/" }"#, "a path that leads out"),
        (r#"{ from = { image = "builder", path = "/out", rev = "v1" }, to = "/" }"#, "a key of another kind"),
        (r#"{ from = { url = "ftp://example.org/a" }, to = "/" }"#, "an address of another kind"),
        (r#"{ from = { url = "https://user:secret@example.org/a" }, to = "/" }"#, "a password"),
        (r#"{ from = { url = "https://example.org/a", sha256 = "12" }, to = "/" }"#, "a digest"),
        (r#"{ from = { url = "https://example.org/a", strip = 1 }, to = "/" }"#, "strip without an archive"),
        (r#"{ from = { git = "example.org/a" }, to = "/" }"#, "an address of no repository"),
        (r#"{ from = { git = "https://example.org/a", url = "https://example.org/a" }, to = "/" }"#, "two kinds"),
        (r#"{ from = { path = "a" }, to = "/" }"#, "no kind"),
        (r#"{ from = { image = "builder", path = "/out" }, to = "/", ignore-file = "x" }"#, "an ignore file"),
    ] {
        let environment = builder(copy);
        assert_snapshot!(format!("copies, {name}"), environment.kiln("build"));
    }
}

/// A project with one image and an address that has its files.
fn served(files: &[(&str, &[u8])]) -> (TestEnvironment, Server) {
    let environment = TestEnvironment::new();
    let served = environment.root().join("served");
    fs_err::create_dir_all(&served).unwrap();
    for (name, content) in files {
        fs_err::write(served.join(name), content).unwrap();
    }
    let server = Server::start(served);
    (environment, server)
}

fn copies(environment: &TestEnvironment, server: &Server, copies: &[&str]) {
    let copies: Vec<String> =
        copies.iter().map(|copy| copy.replace("URL", &format!("http://{}/files", server.address()))).collect();
    environment.stack(&format!("{HEAD}[images.app]\nfrom = \"scratch\"\ncopy = [\n  {},\n]\n", copies.join(",\n  ")));
}

/// A tar with a directory around everything.
fn archive() -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    let members =
        [("pkg-1/bin/tool", 0o755, "a tool"), ("pkg-1/README", 0o640, "read me"), ("pkg-1/su", 0o6755, "setuid")];
    for (path, mode, content) in members {
        let mut header = tar::Header::new_ustar();
        header.set_mode(mode);
        header.set_uid(1234);
        header.set_size(content.len() as u64);
        tar.append_data(&mut header, path, content.as_bytes()).unwrap();
    }
    let mut header = tar::Header::new_ustar();
    header.set_entry_type(tar::EntryType::Symlink);
    header.set_size(0);
    tar.append_link(&mut header, "pkg-1/tool", "bin/tool").unwrap();
    tar.into_inner().unwrap()
}

#[test]
fn a_download_is_copied_or_unpacked() {
    let (environment, server) = served(&[("model.bin", b"weights"), ("pkg.tar", &archive())]);
    copies(
        &environment,
        &server,
        &[
            r#"{ from = { url = "URL/model.bin" }, to = "/models/", mode = "0444" }"#,
            r#"{ from = { url = "URL/model.bin" }, to = "/renamed" }"#,
            r#"{ from = { url = "URL/pkg.tar", unpack = true, strip = 1 }, to = "/opt/pkg" }"#,
            r#"{ from = { url = "URL/pkg.tar", unpack = true, path = "pkg-1/bin" }, to = "/usr/bin" }"#,
        ],
    );
    environment.succeed("build --output oci:out");
    assert_snapshot!(list(&environment, "app"), @r"
    -0644 0:0 renamed
    --
    d0755 0:0 opt
    d0755 0:0 opt/pkg
    -0640 0:0 opt/pkg/README
    d0755 0:0 opt/pkg/bin
    -0755 0:0 opt/pkg/bin/tool
    -0755 0:0 opt/pkg/su
    l0777 0:0 opt/pkg/tool -> bin/tool
    --
    d0755 0:0 usr
    d0755 0:0 usr/bin
    -0755 0:0 usr/bin/tool
    ");
    assert_snapshot!(environment.read("kiln.lock").lines().filter(|line| line.contains("path =")).collect::<String>(), @r#"    { path = "model.bin", sha256 = "sha256:<digest>" },    { path = "pkg.tar", sha256 = "sha256:<digest>" },"#);
    // Each is downloaded once to be locked, and is then in the store.
    assert_eq!(server.log(), ["GET model.bin", "GET pkg.tar"]);
    environment.succeed("build");
    environment.succeed("--offline build --locked");
    assert_eq!(server.log().len(), 0);
}

#[test]
fn what_was_collected_is_fetched_and_listed_again() {
    let (environment, server) = served(&[("pkg.tar", &archive())]);
    copies(&environment, &server, &[r#"{ from = { url = "URL/pkg.tar", unpack = true }, to = "/opt" }"#]);
    let built = environment.succeed("build");
    environment.succeed("gc --all");
    server.log();
    assert_eq!(environment.succeed("build"), built);
    assert_eq!(server.log(), ["GET pkg.tar"]);
}

#[test]
fn a_digest_of_the_stack_file_needs_no_lock_and_other_content_is_refused() {
    let (environment, server) = served(&[("model.bin", b"weights")]);
    let sha256 = kiln_plan::digest::Digest::of(b"weights").hex();
    copies(
        &environment,
        &server,
        &[&format!(r#"{{ from = {{ url = "URL/model.bin", sha256 = "{sha256}" }}, to = "/m" }}"#)],
    );
    environment.succeed("lock");
    assert!(!environment.read("kiln.lock").contains("model.bin"));
    fs_err::write(environment.root().join("served/model.bin"), "changed").unwrap();
    let refused = environment.kiln("build");
    assert_eq!(refused.status, Some(3), "{refused}");
    assert!(refused.stderr.contains("model.bin"), "{refused}");
    fs_err::write(environment.root().join("served/model.bin"), "weights").unwrap();
    environment.succeed("build");
}

#[test]
fn an_archive_that_leads_out_or_is_none_is_refused() {
    let mut tar = tar::Builder::new(Vec::new());
    let mut header = tar::Header::new_ustar();
    header.set_size(1);
    header.as_mut_bytes()[..7].copy_from_slice(b"../evil");
    header.set_cksum();
    tar.append(&header, b"x".as_slice()).unwrap();
    let evil = tar.into_inner().unwrap();
    let (environment, server) = served(&[("evil.tar", &evil), ("text.tar.gz", b"not an archive")]);
    copies(&environment, &server, &[r#"{ from = { url = "URL/evil.tar", unpack = true }, to = "/x" }"#]);
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: the archive `evil.tar` cannot be read
      caused by: its member `../evil` leaves the root
    [exit status: 1]
    ");
    copies(&environment, &server, &[r#"{ from = { url = "URL/text.tar.gz", unpack = true }, to = "/x" }"#]);
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: `text.tar.gz` is no archive that kiln knows

    hint: it unpacks tar (plain, or compressed by gzip, bzip2, xz, lzma, lzip or zstd) and zip; without `unpack` the file itself is copied
    [exit status: 2]
    ");
}

#[test]
fn a_machine_with_the_cache_fetches_nothing_that_is_copied() {
    let registry = FakeRegistry::start();
    let (first, server) = served(&[("model.bin", b"weights")]);
    let layout = first.root().join("layout");
    bases::debian(&layout);
    let reference = registry.add_layout(&layout, "library/debian", "12");
    let stack = format!(
        "[stack]\nname = \"demo\"\nregistry = \"{0}/acme\"\n\n[cache]\nremote = \"{0}/acme/cache\"\n\n[target]\n\
         platforms = [\"linux/amd64\"]\n\n[images.app]\nfrom = \"scratch\"\ncopy = [\n  \
         {{ from = {{ url = \"http://{1}/files/model.bin\" }}, to = \"/m\" }},\n  \
         {{ from = {{ image = \"{reference}\", path = \"/etc/passwd\" }}, to = \"/etc/\" }},\n]\n",
        registry.address(),
        server.address()
    );
    first.stack(&stack);
    let digests = first.digests("--push");
    assert_snapshot!(first.read("kiln.lock").lines().filter(|line| line.contains("name =")).collect::<Vec<_>>().join("\n"), @r#"
    name = "127.0.0.1:<port>/library/debian:12"
    name = "app"
    "#);
    let second = TestEnvironment::new();
    second.stack(&stack);
    second.write("kiln.lock", fs_err::read(first.path("kiln.lock")).unwrap());
    drop((registry.log(), server.log()));
    assert_eq!(second.digests("--locked --push"), digests);
    assert_eq!(server.log().len(), 0);
    let fetched: Vec<String> = registry
        .log()
        .into_iter()
        .filter(|logged| logged.request == Request::GetBlob)
        .map(|logged| format!("{logged:?}"))
        .collect();
    // The lists of files, and the configuration of the image that is copied from.
    assert_eq!(fetched.len(), 3, "{fetched:#?}");
}
