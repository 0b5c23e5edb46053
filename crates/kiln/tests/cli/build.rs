//! Building: what is printed, and what lies in the images.

use std::os::unix::fs::PermissionsExt;

use crate::environment::{Outcome, TestEnvironment};
use crate::images::{self, ReadBack};
use crate::wheels::{greeting, pure, stack};
use insta::assert_snapshot;

#[test]
fn an_image_is_built_into_the_store_and_nothing_is_done_the_second_time() {
    let environment = greeting();
    assert_snapshot!(environment.kiln("build"), @"app sha256:<digest> <size> in 3 layers");
    assert_snapshot!(environment.kiln("build"), @"app sha256:<digest> <size> in 3 layers (unchanged)");
    let first = environment.digests("");
    fs_err::remove_dir_all(environment.root().join("store")).unwrap();
    assert_eq!(environment.digests(""), first);
}

#[test]
fn a_layout_holds_what_an_installer_would_have_written() {
    let environment = greeting();
    environment.succeed("build --output oci:out");
    let image = ReadBack::of(&environment.path("out"), "app", "amd64");
    assert_snapshot!(image.list(), @r"
    d0755 0:0 opt
    d0755 0:0 opt/venv
    d0755 0:0 opt/venv/bin
    d0755 0:0 opt/venv/lib
    d0755 0:0 opt/venv/lib/python3.11
    d0755 0:0 opt/venv/lib/python3.11/site-packages
    l0777 0:0 opt/venv/bin/python -> /usr/bin/python3.11
    l0777 0:0 opt/venv/bin/python3 -> python
    l0777 0:0 opt/venv/bin/python3.11 -> python
    l0777 0:0 opt/venv/lib64 -> lib
    -0644 0:0 opt/venv/bin/activate
    -0644 0:0 opt/venv/bin/activate.csh
    -0644 0:0 opt/venv/bin/activate.fish
    -0644 0:0 opt/venv/pyvenv.cfg
    --
    d0755 0:0 opt/venv
    d0755 0:0 opt/venv/lib
    d0755 0:0 opt/venv/lib/python3.11
    d0755 0:0 opt/venv/lib/python3.11/site-packages
    d0755 0:0 opt/venv/lib/python3.11/site-packages/words
    -0644 0:0 opt/venv/lib/python3.11/site-packages/words/__init__.py
    d0755 0:0 opt/venv/lib/python3.11/site-packages/words-2.1.dist-info
    -0644 0:0 opt/venv/lib/python3.11/site-packages/words-2.1.dist-info/METADATA
    -0644 0:0 opt/venv/lib/python3.11/site-packages/words-2.1.dist-info/WHEEL
    -0644 0:0 opt/venv/lib/python3.11/site-packages/words-2.1.dist-info/INSTALLER
    -0644 0:0 opt/venv/lib/python3.11/site-packages/words-2.1.dist-info/RECORD
    d0755 0:0 opt/venv/lib/python3.11/site-packages/greeting-1.0.dist-info
    -0644 0:0 opt/venv/lib/python3.11/site-packages/greeting-1.0.dist-info/entry_points.txt
    d0755 0:0 opt/venv/lib/python3.11/site-packages/greeting
    -0644 0:0 opt/venv/lib/python3.11/site-packages/greeting/__init__.py
    -0644 0:0 opt/venv/lib/python3.11/site-packages/greeting-1.0.dist-info/METADATA
    -0644 0:0 opt/venv/lib/python3.11/site-packages/greeting-1.0.dist-info/WHEEL
    d0755 0:0 opt/venv/bin
    -0755 0:0 opt/venv/bin/greet
    -0644 0:0 opt/venv/lib/python3.11/site-packages/greeting-1.0.dist-info/INSTALLER
    -0644 0:0 opt/venv/lib/python3.11/site-packages/greeting-1.0.dist-info/RECORD
    ");
    assert_snapshot!(image.history().join("\n"), @r"
    (base)
    kiln: virtual environment for /usr/bin/python3.11
    kiln: words 2.1, greeting 1.0
    ");
    assert_snapshot!(image.config.config.env.join("\n"), @r"
    PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin
    VIRTUAL_ENV=/opt/venv
    ");
    assert_snapshot!(image.text("opt/venv/bin/greet"), @r#"
    #!/opt/venv/bin/python
    import sys

    from greeting import main

    if __name__ == "__main__":
        sys.exit(main())
    "#);
    assert_snapshot!(image.text("opt/venv/pyvenv.cfg"), @r"
    home = /usr/bin
    implementation = CPython
    version_info = 3.11
    include-system-site-packages = false
    ");
    assert_eq!(image.text("opt/venv/lib/python3.11/site-packages/words/__init__.py"), "version = \"2.1\"\n");
    let record = image.text("opt/venv/lib/python3.11/site-packages/greeting-1.0.dist-info/RECORD");
    assert!(record.contains("../../../bin/greet,sha256="), "{record}");
    // From 1980-01-02 on: Python's zip tools refuse files that are older anywhere on earth.
    assert!(image.added().all(|member| member.modified >= 315_619_200));
}

#[test]
fn a_layout_keeps_the_images_that_other_builds_put_there() {
    let environment = greeting();
    environment.stack(&format!("{}\n[images.other]\nfrom = \"app\"\n", environment.read("kiln.toml")));
    environment.succeed("build app --output oci:out");
    environment.succeed("build other --output oci:out");
    assert_snapshot!(environment.kiln("inspect oci:out"), @r"
    app (linux/amd64)  sha256:<digest>  8.46 kB
      env: PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin VIRTUAL_ENV=/opt/venv
      <digest>    6.17 kB  (base)
      <digest>    1.06 kB  kiln: virtual environment for /usr/bin/python3.11
      <digest>    1.23 kB  kiln: words 2.1, greeting 1.0
    other (linux/amd64)  sha256:<digest>  8.46 kB
      env: PATH=/opt/venv/bin:/usr/local/bin:/usr/bin:/bin VIRTUAL_ENV=/opt/venv
      <digest>    6.17 kB  (base)
      <digest>    1.06 kB  kiln: virtual environment for /usr/bin/python3.11
      <digest>    1.23 kB  kiln: words 2.1, greeting 1.0
    ");
}

#[test]
fn a_directory_with_other_files_is_not_made_a_layout() {
    let environment = greeting();
    environment.write("out/precious.txt", "");
    assert_snapshot!(environment.kiln("build --output oci:out"), @r"
    ------- stderr -------
    error: `out` is not a usable OCI image layout: the directory has other files in it

    hint: name another directory, or write this one again with the program that made it
    [exit status: 2]
    ");
}

#[test]
fn a_docker_archive_has_the_manifest_that_docker_reads() {
    let environment = greeting();
    environment.succeed("build --output docker-archive:app.tar");
    let files = images::archive(&environment.path("app.tar"));
    let manifest: serde_json::Value = serde_json::from_slice(&files["manifest.json"]).unwrap();
    assert_eq!(manifest[0]["RepoTags"], serde_json::json!(["demo/app:latest"]));
    let layers = manifest[0]["Layers"].as_array().unwrap();
    let mut members =
        layers.iter().flat_map(|layer| images::members(&images::inflate(&files[layer.as_str().unwrap()])));
    assert!(members.any(|member| member.path == "opt/venv/bin/greet"));
    assert_eq!(fs_err::metadata(environment.path("app.tar")).unwrap().permissions().mode() & 0o777, 0o644);
}

#[test]
fn a_docker_archive_takes_one_image_for_one_platform() {
    let environment = greeting();
    environment.stack(&environment.read("kiln.toml").replace("\"linux/amd64\"", "\"linux/amd64\", \"linux/arm64\""));
    assert_snapshot!(environment.kiln("build --output docker-archive:app.tar"), @r"
    ------- stderr -------
    error: `docker-archive:app.tar` takes one platform, and `app` is built for linux/amd64 and linux/arm64: choose with `--platform`
    [exit status: 2]
    ");
    let one = "build --output docker-archive:app.tar --platform linux/arm64";
    assert_snapshot!(environment.kiln(one), @"app sha256:<digest> <size> in 3 layers (unchanged)");
    environment.stack(&format!("{}\n[images.other]\nfrom = \"app\"\n", environment.read("kiln.toml")));
    assert_snapshot!(environment.kiln("build --output docker-archive:app.tar --platform linux/arm64"), @r"
    ------- stderr -------
    error: `docker-archive:app.tar` takes one image: name one of app, other
    [exit status: 2]
    ");
    assert!(environment.kiln("build app --output docker-archive:app.tar --platform linux/arm64").status == Some(0));
}

#[test]
fn json_is_one_document_on_stdout() {
    let environment = greeting();
    let outcome = environment.kiln("build --json");
    assert_eq!(outcome.stderr, "");
    let mut document: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    document.as_object_mut().unwrap().remove("steps").unwrap();
    assert_snapshot!(format!("{document:#}"), @r#"
    {
      "images": [
        {
          "name": "app",
          "digest": "sha256:<digest>",
          "unchanged": false,
          "platforms": [
            {
              "platform": "linux/amd64",
              "manifest": "sha256:<digest>",
              "config": "sha256:<digest>",
              "layers": [
                {
                  "media_type": "application/vnd.oci.image.layer.v1.tar+gzip",
                  "digest": "sha256:<digest>",
                  "diff_id": "sha256:<digest>",
                  "size": <n>
                },
                {
                  "media_type": "application/vnd.oci.image.layer.v1.tar+gzip",
                  "digest": "sha256:<digest>",
                  "diff_id": "sha256:<digest>",
                  "size": <n>
                },
                {
                  "media_type": "application/vnd.oci.image.layer.v1.tar+gzip",
                  "digest": "sha256:<digest>",
                  "diff_id": "sha256:<digest>",
                  "size": <n>
                }
              ]
            }
          ]
        }
      ]
    }
    "#);
    assert_eq!(document["images"][0]["unchanged"], false);
    let again: serde_json::Value = serde_json::from_str(&environment.succeed("build --json")).unwrap();
    assert_eq!(again["images"][0]["unchanged"], true);
    assert_eq!(again["images"][0]["platforms"], document["images"][0]["platforms"]);
}

/// The steps of a build in JSON: outcome, kind, subject.
fn steps(document: &str) -> String {
    let document: serde_json::Value = serde_json::from_str(document).unwrap();
    let steps = document["steps"].as_array().unwrap().iter();
    let text = |step: &serde_json::Value, key: &str| step[key].as_str().unwrap().to_owned();
    let line = |step| format!("{} {}: {}\n", text(step, "kind"), text(step, "subject"), text(step, "outcome"));
    steps.map(line).collect()
}

#[test]
fn json_says_of_every_step_if_it_was_performed() {
    let environment = greeting();
    let first = environment.succeed("build --json");
    assert_snapshot!(steps(&first), @r"
    agreement app: performed
    base oci base: performed
    compose app: performed
    conflicts app: performed
    facts oci base: performed
    fetch greeting 1.0: performed
    fetch words 2.1: performed
    paths greeting-1.0-py3-none-any.whl: performed
    paths words-2.1-py3-none-any.whl: performed
    venv virtual environment: performed
    wheels 2 small packages: performed
    ");
    let first: serde_json::Value = serde_json::from_str(&first).unwrap();
    let made = first["steps"].as_array().unwrap().iter().find(|step| step["outcome"] == "performed").unwrap();
    assert_eq!(made["key"].as_str().unwrap().len(), 64);
    assert!(made["seconds"].is_f64() && made["bytes"].is_u64(), "{made}");
    assert_snapshot!(steps(&environment.succeed("build --json")), @r"
    agreement app: local
    base oci base: performed
    compose app: performed
    conflicts app: local
    fetch greeting 1.0: declared
    fetch words 2.1: declared
    paths greeting-1.0-py3-none-any.whl: local
    paths words-2.1-py3-none-any.whl: local
    venv virtual environment: local
    wheels 2 small packages: local
    ");
}

#[test]
fn spans_are_shown_where_they_are_asked_for_and_nowhere_else() {
    let environment = greeting();
    let logged = |script: &str| environment.shell(script).stderr;
    assert!(!logged("$KILN build -v").contains("time.busy"));
    let all = logged("$KILN build -vv --store ../other");
    for expected in ["step{kind=\"wheels\"", "write{path=", "time.busy"] {
        assert!(all.contains(expected), "{expected}: {all}");
    }
    let some = logged("KILN_LOG=kiln_engine=debug $KILN build --store ../third");
    assert!(some.contains("step{kind=") && !some.contains("write{"), "{some}");
    assert_snapshot!(environment.shell("KILN_LOG=kiln=loud $KILN build"), @r#"
    ------- stderr -------
    error: `KILN_LOG` cannot be read: error parsing level filter: expected one of "off", "error", "warn", "info", "debug", "trace", or a number 0-5

    hint: write levels, such as `debug`, or targets with levels: `kiln_registry=debug,kiln_engine=debug`
    [exit status: 2]
    "#);
}

#[test]
fn of_two_wheels_with_the_same_path_the_first_by_name_wins_as_with_pip_or_the_one_that_the_stack_names() {
    let environment = TestEnvironment::with_stack(&stack("packages = [\"zebra\", \"aardvark\", \"middle\"]"));
    for (name, text) in [("zebra", "of zebra"), ("aardvark", "of aardvark, the first"), ("middle", "of middle")] {
        environment.wheel(&pure(name, "1.0").file("shared/data.txt", text).file("shared/same.txt", "same"));
    }
    let outcome = environment.kiln("build --output oci:out");
    assert_snapshot!(outcome, @r#"
    app sha256:<digest> <size> in 3 layers
    ------- stderr -------
    warning: `zebra-1.0-py3-none-any.whl` and `aardvark-1.0-py3-none-any.whl` both bring `opt/venv/lib/python3.11/site-packages/shared/data.txt` with different content, and the latter's is in the image: what the former needs of its own may be gone. `overlaps = { winner = "NAME" }` chooses the other, `resolution = { exclude = ["NAME"] }` leaves one out
    warning: `middle-1.0-py3-none-any.whl` and `aardvark-1.0-py3-none-any.whl` both bring `opt/venv/lib/python3.11/site-packages/shared/data.txt` with different content, and the latter's is in the image: what the former needs of its own may be gone. `overlaps = { winner = "NAME" }` chooses the other, `resolution = { exclude = ["NAME"] }` leaves one out
    "#);
    let image = ReadBack::of(&environment.path("out"), "app", "amd64");
    assert_eq!(image.text("opt/venv/lib/python3.11/site-packages/shared/data.txt"), "of aardvark, the first");
    let brought = image.added().filter(|member| member.path.ends_with("shared/data.txt"));
    assert_eq!(brought.count(), 1, "a layer must not hold a path twice");
    for (winner, expected) in [("\"zebra\"", "of zebra"), ("[\"middle\", \"zebra\"]", "of middle")] {
        let packages = "packages = [\"zebra\", \"aardvark\", \"middle\"]";
        environment.stack(&stack(&format!("{packages}\noverlaps = {{ winner = {winner} }}")));
        environment.succeed("build --output oci:out");
        let image = ReadBack::of(&environment.path("out"), "app", "amd64");
        assert_eq!(image.text("opt/venv/lib/python3.11/site-packages/shared/data.txt"), expected);
    }
}

#[test]
fn user_and_time_zone_are_a_layer_of_their_own() {
    let settings = "user = { name = \"alice\", uid = 1000 }\ntimezone = \"Asia/Seoul\"\nworkdir = \"/home/alice\"";
    let environment = TestEnvironment::with_stack(&stack(settings));
    environment.succeed("build --output oci:out");
    let image = ReadBack::of(&environment.path("out"), "app", "amd64");
    assert_snapshot!(image.list(), @r"
    d0755 0:0 etc
    -0644 0:0 etc/passwd
    -0644 0:0 etc/group
    d0755 0:0 home
    d0755 1000:1000 home/alice
    d0755 0:0 usr
    d0755 0:0 usr/share
    d0755 0:0 usr/share/zoneinfo
    d0755 0:0 usr/share/zoneinfo/Asia
    -0644 0:0 usr/share/zoneinfo/Asia/Seoul
    l0777 0:0 etc/localtime -> /usr/share/zoneinfo/Asia/Seoul
    -0644 0:0 etc/timezone
    ");
    assert_snapshot!(image.text("etc/passwd"), @r"
    root:x:0:0:root:/root:/bin/bash
    nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin
    alice:x:1000:1000:alice:/home/alice:/bin/sh
    ");
    assert_snapshot!(image.text("etc/group"), @r"
    root:x:0:
    staff:x:50:
    nogroup:x:65534:
    alice:x:1000:
    ");
    assert_eq!(image.text("etc/timezone"), "Asia/Seoul\n");
    let run = &image.config.config;
    assert_eq!((run.user.as_str(), run.working_dir.as_str()), ("1000:1000", "/home/alice"));
    assert!(run.env.contains(&"TZ=Asia/Seoul".to_owned()));
}

#[test]
fn a_user_whose_ids_the_base_has_otherwise_is_refused() {
    let environment = TestEnvironment::with_stack(&stack("user = { name = \"nobody\", uid = 1000 }"));
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: the base has a user `nobody` already, with the ids 65534:65534
      --> kiln.toml:13:8
       |
    13 | user = { name = "nobody", uid = 1000 }
       |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       |
    help: take those ids, run as them with `user = "nobody"`, take another name, or say `replace = true`
    [exit status: 2]
    "#);
}

#[test]
fn settings_are_inherited_and_an_entry_point_clears_the_command() {
    let environment = TestEnvironment::with_stack(&stack(
        "env = { A = \"1\", B = \"2\" }\ncommand = [\"serve\"]\nlabels = { one = \"1\" }\nworkdir = \"/app\"\n\n\
         [images.below]\nfrom = \"app\"\nenv = { B = \"3\" }\nlabels = { two = \"2\" }\n\n\
         [images.tool]\nfrom = \"app\"\nentrypoint = [\"python3.11\"]",
    ));
    environment.succeed("build --output oci:out");
    let config = |name: &str| ReadBack::of(&environment.path("out"), name, "amd64").config.config;
    let below = config("below");
    assert_eq!(below.env, ["PATH=/usr/local/bin:/usr/bin:/bin", "A=1", "B=3"]);
    assert_eq!((below.cmd, below.working_dir), (vec!["serve".to_owned()], "/app".to_owned()));
    assert_eq!(below.labels.len(), 2);
    let tool = config("tool");
    assert_eq!((tool.entrypoint, tool.cmd), (vec!["python3.11".to_owned()], Vec::new()));
}

#[test]
fn a_base_without_its_bytes_can_be_built_on_but_not_written_out() {
    let facts = "[images.app.base-facts]\ndistribution = \"debian 12\"\n\
                 libc = { family = \"glibc\", version = \"2.36\" }\n\
                 interpreters = [{ path = \"/usr/bin/python3.11\", version = \"3.11.2\" }]";
    let environment = greeting();
    environment.stack(&stack(&format!("packages = [\"greeting\"]\n\n{facts}")));
    crate::bases::delete_layers(&environment.path("base"));
    assert_snapshot!(environment.kiln("build"), @"app sha256:<digest> <size> in 3 layers");
    assert_snapshot!(environment.kiln("build --output oci:out"), @r"
    ------- stderr -------
    error: the layer sha256:<digest> of `app` is only described, and its bytes are needed to write the image out

    hint: get the base again: its layout must hold every layer, or its registry be in reach
    [exit status: 1]
    ");
    environment.stack(&stack("packages = [\"greeting\"]"));
    fs_err::remove_file(environment.path("kiln.lock")).unwrap();
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: the layers of `oci base` cannot be read, and `base-facts` are not declared
      caused by: the layer sha256:<digest> of the base is only described, and its bytes are needed to write the image out
    [exit status: 1]
    ");
}

#[test]
fn an_image_on_nothing_needs_no_base_at_all() {
    let environment = TestEnvironment::new();
    environment.write("hello.txt", "hello");
    environment.stack(
        "[stack]\nname = \"demo\"\n[target]\nplatforms = [\"linux/arm64\"]\n[images.data]\nfrom = \"scratch\"\n\
         copy = [{ from = \"hello.txt\", to = \"/hello.txt\" }]\n",
    );
    assert_snapshot!(environment.kiln("build --output oci:out"), @"data sha256:<digest> 94 B in 1 layer");
    assert_snapshot!(environment.kiln("inspect oci:out"), @r"
    data (linux/arm64)  sha256:<digest>  94 B
      <digest>       94 B  kiln: copy hello.txt to /hello.txt
    ");
}

#[test]
fn zstd_layers_hold_the_same_as_spliced_ones() {
    let environment = greeting();
    environment.succeed("build --output oci:gzip");
    environment.stack(&stack("packages = [\"greeting\"]\ncompression = \"zstd\""));
    environment.succeed("build --output oci:zstd");
    let read = |layout: &str| ReadBack::of(&environment.path(layout), "app", "amd64");
    assert_eq!(read("gzip").layers, read("zstd").layers);
}

#[test]
fn a_large_wheel_is_split_where_the_stack_says_how_much_a_layer_may_hold() {
    let environment = TestEnvironment::with_stack(&stack("packages = [\"big\"]\nmax-layer-size = \"1MiB\""));
    let mut wheel = pure("big", "1.0");
    for part in 0..3 {
        let noise = crate::wheels::noise(900_000, &part.to_string());
        wheel = wheel.file_with(&format!("big/{part}.bin"), false, true, noise);
    }
    environment.wheel(&wheel);
    environment.succeed("build --output oci:out");
    let image = ReadBack::of(&environment.path("out"), "app", "amd64");
    let holds = |layer: &Vec<images::Member>| layer.iter().filter(|member| member.path.ends_with(".bin")).count();
    assert_eq!(image.layers.iter().map(holds).collect::<Vec<_>>(), [0, 0, 1, 1, 1]);
}

#[test]
fn results_that_cannot_be_printed_are_an_error() {
    let environment = greeting();
    assert_snapshot!(environment.shell("$KILN build > /dev/full"), @r"
    ------- stderr -------
    error: No space left on device (os error 28)

    hint: free some space: `kiln du` says what the store takes, `kiln gc` makes it smaller
    [exit status: 3]
    ");
    let piped = environment.shell("$KILN gpus --json | { read line; }; exit 0");
    assert_eq!((piped.status, piped.stderr.as_str()), (Some(0), ""), "a reader that has seen enough is no error");
}

#[test]
fn an_image_that_the_stack_does_not_have_is_named_with_those_it_has() {
    let environment = greeting();
    assert_snapshot!(environment.kiln("build ap"), @r"
    ------- stderr -------
    error: the stack has no image `ap`; it has `app`
    [exit status: 2]
    ");
    let unknown: Outcome = environment.kiln("build app --output tar:x");
    assert_snapshot!(unknown, @r"
    ------- stderr -------
    error: invalid value 'tar:x' for '--output <OUTPUT>': write `oci:DIRECTORY`, `oci-archive:FILE` or `docker-archive:FILE`

    For more information, try '--help'.
    [exit status: 2]
    ");
}

#[test]
fn a_docker_daemon_gets_the_archive_that_could_be_written() {
    let environment = greeting();
    assert_snapshot!(environment.kiln("build --load"), @r"
    ------- stderr -------
    error: the program `docker` is needed for `--load`, and is not on PATH

    hint: is the daemon running, and may you use it? `docker info` says
    [exit status: 3]
    ");
    environment.script("docker", "[ \"$1\" = load ] && exec /bin/cat > loaded.tar");
    environment.succeed("build --load --output docker-archive:app.tar");
    assert_eq!(
        fs_err::read(environment.path("loaded.tar")).unwrap(),
        fs_err::read(environment.path("app.tar")).unwrap()
    );
    environment.script("docker", "echo 'Cannot connect to the Docker daemon' >&2; exit 1");
    assert_snapshot!(environment.kiln("build --load"), @r"
    ------- stderr -------
    error: the program `docker` is needed for `--load`, and `docker load` failed: Cannot connect to the Docker daemon

    hint: is the daemon running, and may you use it? `docker info` says
    [exit status: 3]
    ");
}
