//! Mistakes in what an image says, and in what stands around the stack file.

use super::{TARGET, refused, whole};
use crate::environment::TestEnvironment;
use insta::assert_snapshot;

#[test]
fn a_bad_platform_or_python_is_explained() {
    let text = "[stack]\nname = \"demo\"\n\n[target]\nplatforms = [\"linux/riscv64\"]\npython = \"2.7\"\n\n\
                [images.a]\nfrom = \"scratch\"\n";
    assert_snapshot!(whole(text), @r#"
    ------- stderr -------
    error: `linux/riscv64` is not a platform that kiln builds for; valid are `linux/amd64` and `linux/arm64`
     --> kiln.toml:5:14
      |
    5 | platforms = ["linux/riscv64"]
      |              ^^^^^^^^^^^^^^^

    error: `2.7` is not a Python version that images can be built for
     --> kiln.toml:6:10
      |
    6 | python = "2.7"
      |          ^^^^^
      |
    help: `MAJOR.MINOR` from `3.8` on: `3.11`, `3.12`
    [exit status: 2]
    "#);
    let environment = TestEnvironment::with_stack(&format!("{TARGET}\n[images.a]\nfrom = \"scratch\"\n"));
    assert_snapshot!(environment.kiln("build --platform windows/amd64"), @r"
    ------- stderr -------
    error: `windows/amd64` is not a platform that kiln builds for; valid are `linux/amd64` and `linux/arm64`
    [exit status: 2]
    ");
    assert_snapshot!(environment.kiln("build --gpus H1000"), @r"
    ------- stderr -------
    error: `H1000` is not a GPU that kiln knows
     |
    help: `kiln gpus` lists every name and capability
    [exit status: 2]
    ");
    let none = "[stack]\nname = \"demo\"\n\n[target]\nplatforms = []\n\n[images.a]\nfrom = \"scratch\"\n";
    assert_snapshot!(whole(none), @r"
    ------- stderr -------
    error: `target.platforms` is empty
     |
    help: name at least one: `linux/amd64`
    [exit status: 2]
    ");
}

#[test]
fn bad_owners_modes_users_and_sizes_are_explained() {
    assert_snapshot!(
        refused("\n[images.app]\nfrom = \"scratch\"\n\
                 copy = [{ from = \"a\", to = \"/a\", mode = \"rwx\", owner = \"a:b:c\" }]\n"),
        @r#"
    ------- stderr -------
    error: `rwx` is not an octal mode
      --> kiln.toml:10:41
       |
    10 | copy = [{ from = "a", to = "/a", mode = "rwx", owner = "a:b:c" }]
       |                                         ^^^^^
       |
    help: such as `"0644"` or `"0755"`
    [exit status: 2]
    "#
    );
    assert_snapshot!(
        refused("\n[images.app]\nfrom = \"scratch\"\nuser = { name = \"Big User\", uid = 1000, home = \"home\" }\n"),
        @r#"
    ------- stderr -------
    error: `Big User` is not a user name
      --> kiln.toml:10:17
       |
    10 | user = { name = "Big User", uid = 1000, home = "home" }
       |                 ^^^^^^^^^^
       |
    help: lower-case letters, digits, `_`, `-`, `.`, beginning with a letter

    error: `home` is not an absolute path in the image
      --> kiln.toml:10:48
       |
    10 | user = { name = "Big User", uid = 1000, home = "home" }
       |                                                ^^^^^^
       |
    help: it starts with `/` and has no `..`
    [exit status: 2]
    "#
    );
    assert_snapshot!(refused("\n[images.app]\nfrom = \"scratch\"\nuser = { name = \"a\", uid = -1 }\n"), @r#"
    ------- stderr -------
    error: invalid value: integer `-1`, expected a number from 0 to 4294967295, or a string with one
      --> kiln.toml:10:28
       |
    10 | user = { name = "a", uid = -1 }
       |                            ^^
    [exit status: 2]
    "#);
    assert_snapshot!(
        refused(
            "\n[images.app]\nfrom = \"scratch\"\nmax-layer-size = \"big\"\ntimezone = \"../etc\"\nworkdir = \"app\"\n\
             compression = \"xz\"\npython.environment = \"conda\"\n"
        ),
        @r#"
    ------- stderr -------
    error: `conda` is not a value of `python.environment`
      --> kiln.toml:14:22
       |
    14 | python.environment = "conda"
       |                      ^^^^^^^
       |
    help: valid are `venv`, `overlay`, `base`

    error: `../etc` is not the name of a time zone
      --> kiln.toml:11:12
       |
    11 | timezone = "../etc"
       |            ^^^^^^^^
       |
    help: an IANA name: `Asia/Seoul`, `America/Los_Angeles`, `UTC`

    error: `app` is not an absolute path in the image
      --> kiln.toml:12:11
       |
    12 | workdir = "app"
       |           ^^^^^
       |
    help: it starts with `/` and has no `..`

    error: `xz` is not a value of `compression`
      --> kiln.toml:13:15
       |
    13 | compression = "xz"
       |               ^^^^
       |
    help: valid are `gzip`, `zstd`

    error: `big` is not a size
      --> kiln.toml:10:18
       |
    10 | max-layer-size = "big"
       |                  ^^^^^
       |
    help: a number with a unit: `512MiB`, `2GiB`, `2GB`
    [exit status: 2]
    "#
    );
}

#[test]
fn an_owner_that_is_nobody_anywhere_is_explained() {
    let environment = TestEnvironment::with_stack(&format!(
        "{TARGET}\n[images.app]\nfrom = {{ oci = \"base\" }}\ncopy = [{{ from = \"kiln.toml\", to = \"/a\", owner = \"root:wheel\" }}]\n"
    ));
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: there is no group `wheel` in the base
      --> kiln.toml:10:50
       |
    10 | copy = [{ from = "kiln.toml", to = "/a", owner = "root:wheel" }]
       |                                                  ^^^^^^^^^^^^
       |
    help: known are root, staff, nogroup
    [exit status: 2]
    "#);
}

#[test]
fn an_unknown_image_to_stand_on_comes_with_a_suggestion() {
    assert_snapshot!(refused("\n[images.base]\nfrom = \"scratch\"\n\n[images.app]\nfrom = \"bsae\"\n"), @r#"
    ------- stderr -------
    error: there is no image `bsae` in this stack
      --> kiln.toml:12:8
       |
    12 | from = "bsae"
       |        ^^^^^^
       |
    help: did you mean `base`?
    [exit status: 2]
    "#);
    assert_snapshot!(refused("\n[images.app]\nfrom = \"debian\"\n"), @r#"
    ------- stderr -------
    error: there is no image `debian` in this stack
     --> kiln.toml:9:8
      |
    9 | from = "debian"
      |        ^^^^^^^^
      |
    help: a registry reference says its registry: `docker.io/library/debian:TAG`
    [exit status: 2]
    "#);
    assert_snapshot!(refused("\n[images.app]\nfrom = {}\n"), @r#"
    ------- stderr -------
    error: a base is either a layout or a Debian
     --> kiln.toml:9:8
      |
    9 | from = {}
      |        ^^
      |
    help: `{ oci = "PATH" }` or `{ debian = "bookworm", include = ["python3"] }`
    [exit status: 2]
    "#);
    assert_snapshot!(refused("\n[images.app]\nfrom = { oci = \"a\", debian = \"bookworm\" }\n"), @r#"
    ------- stderr -------
    error: a base is either a layout or a Debian
     --> kiln.toml:9:8
      |
    9 | from = { oci = "a", debian = "bookworm" }
      |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: `{ oci = "PATH" }` or `{ debian = "bookworm", include = ["python3"] }`
    [exit status: 2]
    "#);
    assert_snapshot!(refused("\n[images.app]\nfrom = { oci = \"a\", include = [\"python3\"] }\n"), @r#"
    ------- stderr -------
    error: `include` belongs to `debian`, not to `oci`
     --> kiln.toml:9:8
      |
    9 | from = { oci = "a", include = ["python3"] }
      |        ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
    [exit status: 2]
    "#);
}

#[test]
fn packages_without_a_python_version_are_a_question() {
    let text = "[stack]\nname = \"demo\"\n\n[images.app]\nfrom = \"scratch\"\npackages = [\"torch\"]\n";
    assert_snapshot!(whole(text), @r#"
    ------- stderr -------
    error: the image `app` installs packages
     --> kiln.toml:4:9
      |
    4 | [images.app]
      |         ^^^ for which Python?
      |
    help: say it: `[target]` with `python = "3.11"`
    [exit status: 2]
    "#);
}

#[test]
fn names_that_no_reference_can_have_are_refused() {
    assert_snapshot!(whole("[stack]\nname = \"My Stack\"\n\n[images.\"A/b\"]\nfrom = \"scratch\"\n"), @r#"
    ------- stderr -------
    error: `My Stack` cannot be the stack's name
     --> kiln.toml:2:8
      |
    2 | name = "My Stack"
      |        ^^^^^^^^^^
      |
    help: lower-case letters, digits, and `.`, `_`, `-` between them: it becomes part of a reference

    error: `A/b` cannot be an image's name
     --> kiln.toml:4:9
      |
    4 | [images."A/b"]
      |         ^^^^^
      |
    help: lower-case letters, digits, and `.`, `_`, `-` between them: it becomes part of a reference
    [exit status: 2]
    "#);
}

#[test]
fn a_stack_without_images_is_told_how_to_get_one() {
    assert_snapshot!(refused(""), @r#"
    ------- stderr -------
    error: the stack has no image
     |
    help: add one: `[images.NAME]` with `from = "..."` and `packages = [...]`
    [exit status: 2]
    "#);
}

#[test]
fn several_mistakes_are_shown_at_once() {
    assert_snapshot!(
        refused("gpus = [\"H10\"]\n\n[images.a]\nfrom = \"bb\"\npackages = [\"@x\", \"=\"]\n\n\
                 [images.b]\nfrom = \"scratch\"\n"),
        @r#"
    ------- stderr -------
    error: `H10` is not a GPU that kiln knows
     --> kiln.toml:7:9
      |
    7 | gpus = ["H10"]
      |         ^^^^^
      |
    help: `kiln gpus` lists every name and capability

    error: there is no image `bb` in this stack
      --> kiln.toml:10:8
       |
    10 | from = "bb"
       |        ^^^^
       |
    help: did you mean `b`?

    error: there is no group `x`
      --> kiln.toml:11:13
       |
    11 | packages = ["@x", "="]
       |             ^^^^
       |
    help: declare it: `[groups]` with `x = ["..."]`

    error: `=` is not a Python requirement
      --> kiln.toml:11:19
       |
    11 | packages = ["@x", "="]
       |                   ^^^ Expected package name starting with an alphanumeric character, found `=`
       |
    help: a requirement is a name and, optionally, versions: `torch==2.11.0`, `transformers>=4.30,<5`
    [exit status: 2]
    "#
    );
}

#[test]
fn a_missing_stack_file_is_told_how_to_be_named() {
    let environment = TestEnvironment::new();
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: there is no stack file `kiln.toml`

    hint: say where the stack file is: `-f FILE`; or write one: the README begins with an example
    [exit status: 2]
    ");
    fs_err::create_dir_all(environment.path("kiln.toml")).unwrap();
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: failed to read from file `kiln.toml`: Is a directory (os error 21)
    [exit status: 3]
    ");
    environment.write("latin1.toml", b"# \xe4\n");
    assert_snapshot!(environment.kiln("build -f latin1.toml"), @r"
    ------- stderr -------
    error: failed to read from file `latin1.toml`: stream did not contain valid UTF-8
    [exit status: 3]
    ");
}

#[test]
fn what_no_program_could_be_given_is_refused() {
    assert_snapshot!(
        refused("\n[images.app]\nfrom = \"scratch\"\nworkdir = \"/a\\u0000b\"\n\
                 env = { \"\" = \"a\", \"A=B\" = \"a\", \"A\\u0000\" = \"a\", A = \"a\\u0000\" }\n\
                 entrypoint = [\"a\\u0000\"]\n\
                 copy = [{ from = \"a\", to = \"/a\\u0000/b\" }, { from = \"a\\u0000\", to = \"/a\" }]\n"),
        @r#"
    ------- stderr -------
    error: `/a\0/b` holds a NUL
      --> kiln.toml:13:28
       |
    13 | copy = [{ from = "a", to = "/a\u0000/b" }, { from = "a\u0000", to = "/a" }]
       |                            ^^^^^^^^^^^^
       |
    help: paths, variables and arguments end at the first NUL

    error: `a\0` holds a NUL
      --> kiln.toml:13:53
       |
    13 | copy = [{ from = "a", to = "/a\u0000/b" }, { from = "a\u0000", to = "/a" }]
       |                                                     ^^^^^^^^^
       |
    help: paths, variables and arguments end at the first NUL

    error: `` cannot be the name of an environment variable
      --> kiln.toml:11:9
       |
    11 | env = { "" = "a", "A=B" = "a", "A\u0000" = "a", A = "a\u0000" }
       |         ^^
       |
    help: a name is not empty and holds neither `=` nor NUL

    error: `a\0` holds a NUL
      --> kiln.toml:11:53
       |
    11 | env = { "" = "a", "A=B" = "a", "A\u0000" = "a", A = "a\u0000" }
       |                                                     ^^^^^^^^^
       |
    help: paths, variables and arguments end at the first NUL

    error: `A\0` cannot be the name of an environment variable
      --> kiln.toml:11:32
       |
    11 | env = { "" = "a", "A=B" = "a", "A\u0000" = "a", A = "a\u0000" }
       |                                ^^^^^^^^^
       |
    help: a name is not empty and holds neither `=` nor NUL

    error: `A=B` cannot be the name of an environment variable
      --> kiln.toml:11:19
       |
    11 | env = { "" = "a", "A=B" = "a", "A\u0000" = "a", A = "a\u0000" }
       |                   ^^^^^
       |
    help: a name is not empty and holds neither `=` nor NUL

    error: `/a\0b` holds a NUL
      --> kiln.toml:10:11
       |
    10 | workdir = "/a\u0000b"
       |           ^^^^^^^^^^^
       |
    help: paths, variables and arguments end at the first NUL

    error: `a\0` holds a NUL
      --> kiln.toml:12:15
       |
    12 | entrypoint = ["a\u0000"]
       |               ^^^^^^^^^
       |
    help: paths, variables and arguments end at the first NUL
    [exit status: 2]
    "#
    );
}

#[test]
fn variables_cannot_expand_without_bound() {
    let text = format!(
        "[stack]\nname = \"demo\"\n[vars]\nv = \"{}\"\n[images.app]\nfrom = \"scratch\"\nenv.A = \"{}\"\nenv.B = \"${{v}}\"\n",
        "x".repeat(1 << 20),
        "${v}".repeat(20),
    );
    assert_snapshot!(whole(&text), @r#"
    ------- stderr -------
    error: the variables of this file expand to more than 16.0 MB
     --> kiln.toml:7:9
      |
    7 | env.A = "${v}${v}${v}${v}${v}${v}${v}${v}${v}${v}${v}${v}${v}${v}${v}${v}${v}${v}${v}${v}"
      |         ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ `v` has 1.05 MB here
      |
    help: variables hold versions, names and addresses: shorten them, or use them less often
    [exit status: 2]
    "#);
}

#[test]
fn a_variable_of_kilns_own_without_a_value_says_where_it_comes_from() {
    let text = format!(
        "{}\n[variants.old]\ncuda = \"12.6\"\n\n[images.a]\nfrom = \"scratch\"\nenv = {{ GPUS = \"${{gpus.torch}}\" }}\n",
        TARGET.replace("name = \"demo\"", "name = \"demo\"\ntags = [\"1-${cuda.tag}\"]")
    );
    assert_snapshot!(whole(&text), @r#"
    ------- stderr -------
    error: `${gpus.torch}` has no value here: `target.gpus` names none
      --> kiln.toml:14:16
       |
    14 | env = { GPUS = "${gpus.torch}" }
       |                ^^^^^^^^^^^^^^^
       |
    help: name them below `[target]`, `gpus = ["H100"]`, or declare a variable of your own under `[vars]`

    error: `${cuda.tag}` has no value here: `target.cuda` names no release
     --> kiln.toml:3:9
      |
    3 | tags = ["1-${cuda.tag}"]
      |         ^^^^^^^^^^^^^^^
      |
    help: say it below `[target]`, `cuda = "12.8"` or `cuda = "none"`: that of a variant takes its place
    [exit status: 2]
    "#);
}
