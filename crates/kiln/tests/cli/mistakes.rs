//! Every mistake that a user can make in a stack file, as it is shown.

mod values;

use crate::environment::{Outcome, TestEnvironment, run};
use insta::assert_snapshot;

const TARGET: &str = "[stack]\nname = \"demo\"\n\n[target]\nplatforms = [\"linux/amd64\"]\npython = \"3.11\"\n";

/// What `kiln build` says to a stack that goes on like this. The store must not be touched.
#[track_caller]
fn refused(text: &str) -> Outcome {
    whole(&format!("{TARGET}{text}"))
}

#[track_caller]
fn whole(text: &str) -> Outcome {
    let environment = TestEnvironment::with_stack(text);
    let outcome = environment.kiln("build");
    assert_eq!(outcome.status, Some(2), "{outcome}");
    assert!(!environment.path("kiln.lock").exists());
    outcome
}

#[test]
fn an_unknown_key_is_shown_with_what_was_probably_meant() {
    assert_snapshot!(refused("\n[images.app]\nform = \"scratch\"\n"), @r#"
    ------- stderr -------
    error: unknown key `form`
     --> kiln.toml:9:1
      |
    9 | form = "scratch"
      | ^^^^
      |
    help: did you mean `from`?
    [exit status: 2]
    "#);
    assert_snapshot!(refused("\n[images.app]\nfrom = \"scratch\"\ncpoy = []\n"), @r"
    ------- stderr -------
    error: unknown key `cpoy`
      --> kiln.toml:10:1
       |
    10 | cpoy = []
       | ^^^^
       |
    help: did you mean `copy`?
    [exit status: 2]
    ");
    assert_snapshot!(refused("\n[images.app]\nfrom = \"scratch\"\nprivileged = []\n"), @r"
    ------- stderr -------
    error: unknown key `privileged`
      --> kiln.toml:10:1
       |
    10 | privileged = []
       | ^^^^^^^^^^
       |
    help: valid here: `from`, `base-facts`, `packages`, `requirements`, `resolution`, `overlaps`, `cuda`, `gpus`, `python`, `copy`, `files`, `system`, `setup`, `run`, `users`, `user`, `timezone`, `env`, `workdir`, `entrypoint`, `command`, `healthcheck`, `expose`, `volumes`, `stop-signal`, `labels`, `persist`, `compression`, `max-layer-size`, `prune`, `verify`, `registry`, `repository`, `tags`, `publish`
    [exit status: 2]
    ");
    assert_snapshot!(refused("\n[images.app]\nfrom = { oci = \"base\", tag = \"x\" }\n"), @r#"
    ------- stderr -------
    error: unknown key `tag`
     --> kiln.toml:9:24
      |
    9 | from = { oci = "base", tag = "x" }
      |                        ^^^
      |
    help: valid here: `oci`, `debian`, `include`, `mirror`
    [exit status: 2]
    "#);
    assert_snapshot!(refused("\n[images.app]\nfrom = \"scratch\"\nuser = { name = \"a\", id = 1 }\n"), @r#"
    ------- stderr -------
    error: unknown key `id`
      --> kiln.toml:10:22
       |
    10 | user = { name = "a", id = 1 }
       |                      ^^
       |
    help: did you mean `uid`?
    [exit status: 2]
    "#);
}

#[test]
fn a_key_of_a_later_release_is_refused_rather_than_ignored() {
    assert_snapshot!(refused("\n[images.app]\nfrom = \"scratch\"\nbytecode = true\n"), @r"
    ------- stderr -------
    error: this release of kiln cannot do `bytecode` yet
      --> kiln.toml:10:1
       |
    10 | bytecode = true
       | ^^^^^^^^
       |
    help: it is refused rather than ignored, so that an image is never less than its stack file says
    [exit status: 2]
    ");
    let compiler = "\n[cache]\nremote = \"x\"\ncompiler = \"local\"\n\n[images.app]\nfrom = \"scratch\"\n";
    assert_snapshot!(refused(compiler), @r#"
    ------- stderr -------
    error: this release of kiln cannot do `compiler` yet
      --> kiln.toml:10:1
       |
    10 | compiler = "local"
       | ^^^^^^^^
       |
    help: it is refused rather than ignored, so that an image is never less than its stack file says
    [exit status: 2]
    "#);
}

#[test]
fn what_concerns_registries_points_at_its_line() {
    let image = "\n[images.app]\nfrom = \"scratch\"\n";
    let mut all = String::new();
    for text in [
        format!("{image}registry = \"https://ghcr.io/acme\"\n"),
        format!("{image}registry = \"ghcr.io/Acme\"\n"),
        format!("{image}tags = [\"latest\", \"a/b\"]\n"),
        format!("{image}repository = \"acme/train\"\n"),
        format!("{image}repository = \"docker.io/acme/train:1\"\n"),
        format!("{image}repository = \"docker.io/Acme/train\"\n"),
        format!("{image}registry = \"ghcr.io/acme\"\nrepository = \"docker.io/acme/train\"\n"),
        format!(
            "{image}repository = \"docker.io/acme/x\"\n{}repository = \"docker.io/acme/x\"\n",
            image.replace("app", "web")
        ),
        "\n[images.app]\nfrom = \"ghcr.io/acme/base@sha256:12\"\n".to_owned(),
        format!("\n[cache]\nremote = \"ghcr.io/acme/Cache\"\n{image}"),
        format!("\n[cache]\nremote = \"ghcr.io/acme/cache\"\ntrust = \"everybody\"\n{image}"),
        format!("\n[cache]\nremote = \"ghcr.io/acme/cache\"\ntrust = []\n{image}"),
        format!("\n[cache]\nremote = \"ghcr.io/acme/cache\"\ntrust = [\"ed25519:AAAA\"]\n{image}"),
        format!("\n[cache]\ntrust = \"registry\"\n{image}"),
    ] {
        all.push_str(&refused(&text).to_string());
        all.push('\n');
    }
    assert_snapshot!(all, @r#"
    ------- stderr -------
    error: `https://ghcr.io/acme` is not a place on a registry: its registry is not a host name with an optional port
      --> kiln.toml:10:12
       |
    10 | registry = "https://ghcr.io/acme"
       |            ^^^^^^^^^^^^^^^^^^^^^^
       |
    help: such as `ghcr.io/acme`: images become `<registry>/<stack>/<image>`
    [exit status: 2]

    ------- stderr -------
    error: `ghcr.io/Acme` is not a place on a registry: a repository consists of lower-case letters and digits, with `.`, `_`, `__` or `-` between them and `/` between its parts
      --> kiln.toml:10:12
       |
    10 | registry = "ghcr.io/Acme"
       |            ^^^^^^^^^^^^^^
       |
    help: such as `ghcr.io/acme`: images become `<registry>/<stack>/<image>`
    [exit status: 2]

    ------- stderr -------
    error: `a/b` cannot be a tag
      --> kiln.toml:10:19
       |
    10 | tags = ["latest", "a/b"]
       |                   ^^^^^
       |
    help: letters, digits, `_`, `.` and `-`, not beginning with the last two, at most 128
    [exit status: 2]

    ------- stderr -------
    error: `acme/train` is not a repository on a registry: it does not say its registry
      --> kiln.toml:10:14
       |
    10 | repository = "acme/train"
       |              ^^^^^^^^^^^^
       |
    help: such as `docker.io/acme/train`; tags are said with `tags`
    [exit status: 2]

    ------- stderr -------
    error: `docker.io/acme/train:1` is not a repository on a registry: it has a tag or a digest
      --> kiln.toml:10:14
       |
    10 | repository = "docker.io/acme/train:1"
       |              ^^^^^^^^^^^^^^^^^^^^^^^^
       |
    help: such as `docker.io/acme/train`; tags are said with `tags`
    [exit status: 2]

    ------- stderr -------
    error: `docker.io/Acme/train` is not a repository on a registry: a repository consists of lower-case letters and digits, with `.`, `_`, `__` or `-` between them and `/` between its parts
      --> kiln.toml:10:14
       |
    10 | repository = "docker.io/Acme/train"
       |              ^^^^^^^^^^^^^^^^^^^^^^
       |
    help: such as `docker.io/acme/train`; tags are said with `tags`
    [exit status: 2]

    ------- stderr -------
    error: `registry` and `repository` both say where the image goes
      --> kiln.toml:10:12
       |
    10 | registry = "ghcr.io/acme"
       |            ^^^^^^^^^^^^^^
       |
    help: leave `registry` out
    [exit status: 2]

    ------- stderr -------
    error: `app` and `web` both go to `docker.io/acme/x:latest`
      --> kiln.toml:12:9
       |
    12 | [images.web]
       |         ^^^
       |
    help: give each its own `tags`
    [exit status: 2]

    ------- stderr -------
    error: `ghcr.io/acme/base@sha256:12` is not a reference to an image: after `@` a SHA-256 digest is expected
     --> kiln.toml:9:8
      |
    9 | from = "ghcr.io/acme/base@sha256:12"
      |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    [exit status: 2]

    ------- stderr -------
    error: `ghcr.io/acme/Cache` is not a repository: a repository consists of lower-case letters and digits, with `.`, `_`, `__` or `-` between them and `/` between its parts
     --> kiln.toml:9:10
      |
    9 | remote = "ghcr.io/acme/Cache"
      |          ^^^^^^^^^^^^^^^^^^^^
      |
    help: such as `ghcr.io/acme/kiln-cache`, without a tag
    [exit status: 2]

    ------- stderr -------
    error: `everybody` is not a value of `cache.trust`
      --> kiln.toml:10:9
       |
    10 | trust = "everybody"
       |         ^^^^^^^^^^^
       |
    help: `"registry"`, or a list of public keys: `kiln cache keygen` makes one
    [exit status: 2]

    ------- stderr -------
    error: `cache.trust` names no key, so nothing of the cache would count
      --> kiln.toml:10:9
       |
    10 | trust = []
       |         ^^
       |
    help: leave `[cache]` out, or name the public keys of those who write it
    [exit status: 2]

    ------- stderr -------
    error: `ed25519:AAAA` is not a public key (`ed25519:` and 44 characters of base64)
      --> kiln.toml:10:9
       |
    10 | trust = ["ed25519:AAAA"]
       |         ^^^^^^^^^^^^^^^^
       |
    help: `kiln cache keygen` prints one
    [exit status: 2]

    ------- stderr -------
    error: missing field `remote`
     --> kiln.toml:8:1
      |
    8 | [cache]
      | ^^^^^^^
    [exit status: 2]
    "#);
}

#[test]
fn a_value_of_the_wrong_type_and_a_missing_key_are_shown() {
    assert_snapshot!(refused("\n[images.app]\nfrom = \"scratch\"\npackages = \"torch\"\n"), @r#"
    ------- stderr -------
    error: a list is expected here, not the string "torch"
      --> kiln.toml:10:12
       |
    10 | packages = "torch"
       |            ^^^^^^^
       |
    help: write `["torch"]`
    [exit status: 2]
    "#);
    assert_snapshot!(refused("\n[images.app]\npackages = [\"torch\"]\n"), @r"
    ------- stderr -------
    error: missing field `from`
     --> kiln.toml:8:1
      |
    8 | [images.app]
      | ^^^^^^^^^^^^
    [exit status: 2]
    ");
    assert_snapshot!(refused("\n[images.app]\nfrom = 3\n"), @r"
    ------- stderr -------
    error: an image, a reference, `{ oci = PATH }` or `{ debian = SUITE }` is expected here, not the number `3`
     --> kiln.toml:9:8
      |
    9 | from = 3
      |        ^
    [exit status: 2]
    ");
    assert_snapshot!(refused("\n[images.app\nfrom = 3\n"), @r"
    ------- stderr -------
    error: unclosed table, expected `]`
     --> kiln.toml:8:12
      |
    8 | [images.app
      |            ^
    [exit status: 2]
    ");
    assert_snapshot!(whole("[stak]\nname = \"x\"\n"), @r"
    ------- stderr -------
    error: unknown key `stak`
     --> kiln.toml:1:2
      |
    1 | [stak]
      |  ^^^^
      |
    help: did you mean `stack`?
    [exit status: 2]
    ");
    assert_snapshot!(whole(""), @r"
    ------- stderr -------
    error: missing field `stack`
     --> kiln.toml:1:1
      |
    1 |
      | ^
    [exit status: 2]
    ");
}

#[test]
fn an_unknown_gpu_comes_with_a_suggestion() {
    let with = |gpus: &str| refused(&format!("gpus = [{gpus}]\n\n[images.app]\nfrom = \"scratch\"\n"));
    assert_snapshot!(with("\"H1000\""), @r#"
    ------- stderr -------
    error: `H1000` is not a GPU that kiln knows
     --> kiln.toml:7:9
      |
    7 | gpus = ["H1000"]
      |         ^^^^^^^
      |
    help: `kiln gpus` lists every name and capability
    [exit status: 2]
    "#);
    assert_snapshot!(with("\"L4\", \"9.1\", \"sm_90z\""), @r#"
    ------- stderr -------
    error: no NVIDIA GPU has the compute capability 9.1
     --> kiln.toml:7:15
      |
    7 | gpus = ["L4", "9.1", "sm_90z"]
      |               ^^^^^
      |
    help: the nearest is 9.0

    error: `sm_90z` is neither the name of a GPU, nor a capability, nor an architecture
     --> kiln.toml:7:22
      |
    7 | gpus = ["L4", "9.1", "sm_90z"]
      |                      ^^^^^^^^
      |
    help: write names (`H100`), generations (`Ampere`), capabilities (`9.0`, `9.0a`, `8.0+PTX`), `sm_90` or `native`, with commas between
    [exit status: 2]
    "#);
}

#[test]
fn an_architecture_that_the_cuda_release_cannot_compile_points_at_both() {
    assert_snapshot!(
        refused("cuda = \"11.8\"\ngpus = [\"L4\", \"B200\"]\n\n[images.app]\nfrom = \"scratch\"\n"),
        @r#"
    ------- stderr -------
    error: CUDA 11.8 cannot compile `sm_100` (`B200`)
     --> kiln.toml:8:15
      |
    7 | cuda = "11.8"
      |        ------ CUDA 11.8 is asked for here
    8 | gpus = ["L4", "B200"]
      |               ^^^^^^
      |
    help: CUDA 12.8 to 13.5 can compile `sm_100`
    [exit status: 2]
    "#
    );
    assert_snapshot!(refused("cuda = \"99\"\n\n[images.app]\nfrom = \"scratch\"\n"), @r#"
    ------- stderr -------
    error: `99` is not a CUDA release
     --> kiln.toml:7:8
      |
    7 | cuda = "99"
      |        ^^^^
      |
    help: or `none` for CPU builds; known are `11.8`, `12.0`, `12.1`, `12.2`, `12.3`, `12.4`, `12.5`, `12.6`, `12.8`, `12.9`, `13.0`, `13.1`, `13.2`, `13.3`, `13.4`, `13.5`
    [exit status: 2]
    "#);
}

#[test]
fn images_that_are_built_from_one_another_are_shown_as_a_cycle() {
    let three = "\n[images.a]\nfrom = \"b\"\n\n[images.b]\nfrom = \"c\"\n\n[images.c]\nfrom = \"a\"\n";
    assert_snapshot!(refused(three), @r#"
    ------- stderr -------
    error: these images are built from one another
      --> kiln.toml:9:8
       |
     9 | from = "b"
       |        ^^^ `a` is built from this
    ...
    12 | from = "c"
       |        --- `b` is built from this
    ...
    15 | from = "a"
       |        --- `c` is built from this
       |
    help: one of them needs a base: `{ debian = "bookworm" }`, `{ oci = "PATH" }`
    [exit status: 2]
    "#);
    assert_snapshot!(refused("\n[images.a]\nfrom = \"a\"\n"), @r#"
    ------- stderr -------
    error: these images are built from one another
     --> kiln.toml:9:8
      |
    9 | from = "a"
      |        ^^^ `a` is built from this
      |
    help: one of them needs a base: `{ debian = "bookworm" }`, `{ oci = "PATH" }`
    [exit status: 2]
    "#);
    assert_snapshot!(refused("\n[images.a]\nfrom = \"b\"\n\n[images.b]\nfrom = \"b\"\n"), @r#"
    ------- stderr -------
    error: these images are built from one another
      --> kiln.toml:9:8
       |
     9 | from = "b"
       |        ^^^ `a` is built from this
    ...
    12 | from = "b"
       |        --- `b` is built from this
       |
    help: one of them needs a base: `{ debian = "bookworm" }`, `{ oci = "PATH" }`
    [exit status: 2]
    "#);
}

#[test]
fn a_path_outside_the_project_is_refused() {
    assert_snapshot!(
        refused("\n[images.app]\nfrom = { oci = \"../base\" }\ncopy = [{ from = \"/etc\", to = \"app\" }]\n"),
        @r#"
    ------- stderr -------
    error: `../base` is outside the project
     --> kiln.toml:9:16
      |
    9 | from = { oci = "../base" }
      |                ^^^^^^^^^
      |
    help: paths are relative to the stack file and stay below its directory

    error: `/etc` is outside the project
      --> kiln.toml:10:18
       |
    10 | copy = [{ from = "/etc", to = "app" }]
       |                  ^^^^^^
       |
    help: paths are relative to the stack file and stay below its directory

    error: `app` is not an absolute path in the image
      --> kiln.toml:10:31
       |
    10 | copy = [{ from = "/etc", to = "app" }]
       |                               ^^^^^
       |
    help: it starts with `/` and has no `..`
    [exit status: 2]
    "#
    );
}

#[test]
fn a_variable_that_is_not_declared_is_shown() {
    let misspelt = "\n[vars]\ntorch = \"1\"\n\n[images.app]\nfrom = \"scratch\"\npackages = [\"a==${troch}\"]\n";
    assert_snapshot!(refused(misspelt), @r#"
    ------- stderr -------
    error: the variable `troch` is not declared under `[vars]`
      --> kiln.toml:13:13
       |
    13 | packages = ["a==${troch}"]
       |             ^^^^^^^^^^^^^
       |
    help: did you mean `${torch}`?
    [exit status: 2]
    "#);
    assert_snapshot!(refused("\n[images.app]\nfrom = \"scratch\"\npackages = [\"a==${version}\", \"b==${\"]\n"), @r#"
    ------- stderr -------
    error: the variable `version` is not declared under `[vars]`
      --> kiln.toml:10:13
       |
    10 | packages = ["a==${version}", "b==${"]
       |             ^^^^^^^^^^^^^^^
       |
    help: declare it: `[vars]` with `version = "..."`

    error: `${` without a closing `}`
      --> kiln.toml:10:30
       |
    10 | packages = ["a==${version}", "b==${"]
       |                              ^^^^^^^
       |
    help: write `$$` for a dollar sign
    [exit status: 2]
    "#);
    let environment =
        TestEnvironment::with_stack(&format!("{TARGET}\n[vars]\ntorch = \"1\"\n[images.a]\nfrom = \"scratch\"\n"));
    assert_snapshot!(run(&environment, &["build", "--var", "troch=2"]), @r"
    ------- stderr -------
    error: `--var troch=...`: the stack declares no variable `troch`
     |
    help: did you mean `torch`?
    [exit status: 2]
    ");
}

#[test]
fn an_unknown_group_comes_with_those_there_are() {
    let text = "\n[groups]\nonnx = [\"onnx\", \"@more\"]\n\n\
                [images.app]\nfrom = \"scratch\"\npackages = [\"@onx\", \"@onnx\"]\n";
    assert_snapshot!(refused(text), @r#"
    ------- stderr -------
    error: there is no group `onx`
      --> kiln.toml:13:13
       |
    13 | packages = ["@onx", "@onnx"]
       |             ^^^^^^
       |
    help: did you mean `@onnx`?

    error: a group cannot hold another group
     --> kiln.toml:9:17
      |
    9 | onnx = ["onnx", "@more"]
      |                 ^^^^^^^
      |
    help: list both in the image
    [exit status: 2]
    "#);
}

#[test]
fn a_bad_requirement_is_explained() {
    let with = |packages: &str| refused(&format!("\n[images.app]\nfrom = \"scratch\"\npackages = [{packages}]\n"));
    assert_snapshot!(with("\"torch=2.0\""), @r#"
    ------- stderr -------
    error: `torch=2.0` is not a Python requirement
      --> kiln.toml:10:13
       |
    10 | packages = ["torch=2.0"]
       |             ^^^^^^^^^^^ no such comparison operator "=", must be one of ~= == != <= >= < > ===
       |
    help: a requirement is a name and, optionally, versions: `torch==2.11.0`, `transformers>=4.30,<5`
    [exit status: 2]
    "#);
    assert_snapshot!(with("\"torch==2.0.x\", \"\", \"a b\""), @r#"
    ------- stderr -------
    error: `torch==2.0.x` is not a Python requirement
      --> kiln.toml:10:13
       |
    10 | packages = ["torch==2.0.x", "", "a b"]
       |             ^^^^^^^^^^^^^^ after parsing `2.0`, found `.x`, which is not part of a valid version
       |
    help: a requirement is a name and, optionally, versions: `torch==2.11.0`, `transformers>=4.30,<5`

    error: `` is not a Python requirement
      --> kiln.toml:10:29
       |
    10 | packages = ["torch==2.0.x", "", "a b"]
       |                             ^^ Empty field is not allowed for PEP508
       |
    help: a requirement is a name and, optionally, versions: `torch==2.11.0`, `transformers>=4.30,<5`

    error: `a b` is not a Python requirement
      --> kiln.toml:10:33
       |
    10 | packages = ["torch==2.0.x", "", "a b"]
       |                                 ^^^^^ Expected one of `@`, `(`, `<`, `=`, `>`, `~`, `!`, `;`, found `b`
       |
    help: a requirement is a name and, optionally, versions: `torch==2.11.0`, `transformers>=4.30,<5`
    [exit status: 2]
    "#);
    assert_snapshot!(with("\"torch ; python_version >= '3.x'\", \"a ; os_name\""), @r#"
    ------- stderr -------
    error: `torch ; python_version >= '3.x'` has a marker that cannot be evaluated
      --> kiln.toml:10:13
       |
    10 | packages = ["torch ; python_version >= '3.x'", "a ; os_name"]
       |             ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ `python_version >= '3.x'` does not compare with a plain version
       |
    help: write `python_version >= '3.11'`, with a version in digits and dots

    error: `a ; os_name` has a marker that cannot be read
      --> kiln.toml:10:48
       |
    10 | packages = ["torch ; python_version >= '3.x'", "a ; os_name"]
       |                                                ^^^^^^^^^^^^^ its marker ends after `os_name`
       |
    help: compare a variable with a quoted string: `; python_version >= '3.10'`
    [exit status: 2]
    "#);
    let recipe = "\n[wheels.scatter]\nversion = \"new\"\ndependencies = [\"=1\"]\n\n[images.a]\nfrom = \"scratch\"\n";
    assert_snapshot!(refused(recipe), @r#"
    ------- stderr -------
    error: `new` is not a version: expected version to start with a number, but no leading ASCII digits were found
     --> kiln.toml:9:11
      |
    9 | version = "new"
      |           ^^^^^

    error: `=1` is not a Python requirement
      --> kiln.toml:10:17
       |
    10 | dependencies = ["=1"]
       |                 ^^^^ Expected package name starting with an alphanumeric character, found `=`
       |
    help: a requirement is a name and, optionally, versions: `torch==2.11.0`, `transformers>=4.30,<5`
    [exit status: 2]
    "#);
}
