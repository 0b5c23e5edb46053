//! What locking refuses, and how it says so.

use crate::bases;
use crate::environment::TestEnvironment;
use crate::wheels::{greeting, native, pure, stack};
use insta::assert_snapshot;

#[test]
fn a_child_that_contradicts_what_it_stands_on_is_shown_with_both_lines() {
    let environment = TestEnvironment::with_stack(&stack(
        "packages = [\"numbers<2\"]\n\n[images.middle]\nfrom = \"app\"\n\n[images.child]\nfrom = \"middle\"\n\
         packages = [\"frames\", \"numbers>=2\"]",
    ));
    for version in ["1.26", "2.1"] {
        environment.wheel(&pure("numbers", version));
    }
    environment.wheel(&pure("frames", "1.0"));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: the packages of `child` contradict one another on linux/amd64
      --> kiln.toml:20:23
       |
    13 | packages = ["numbers<2"]
       |             ----------- in `app`
    ...
    20 | packages = ["frames", "numbers>=2"]
       |                       ^^^^^^^^^^^^
       |
    help: Because the stack requires numbers>=2 and the stack requires numbers<2
    [exit status: 2]
    "#);
}

#[test]
fn a_package_below_that_needs_another_version_than_above_is_shown_with_both_lines() {
    let environment = TestEnvironment::with_stack(&stack(
        "packages = [\"numbers\"]\n\n[images.child]\nfrom = \"app\"\npackages = [\"frames\"]",
    ));
    environment.wheel(&pure("numbers", "1.26"));
    environment.wheel(&pure("frames", "1.0").requires("numbers>=2"));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: the packages of `child` contradict one another on linux/amd64
      --> kiln.toml:17:13
       |
    13 | packages = ["numbers"]
       |             --------- in `app`
    ...
    17 | packages = ["frames"]
       |             ^^^^^^^^
       |
    help: Because the stack requires numbers and frames==1.0 depends on numbers>=2
    [exit status: 2]
    "#);
}

#[test]
fn a_package_that_does_not_exist_is_shown_with_its_line() {
    let environment = TestEnvironment::with_stack(&stack("packages = [\"nosuch>=1\"]"));
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: the packages of `app` cannot be resolved on linux/amd64
      --> kiln.toml:13:13
       |
    13 | packages = ["nosuch>=1"]
       |             ^^^^^^^^^^^
       |
    help: Because nosuch was not found in the package registry and this image depends on nosuch>=1
    [exit status: 2]
    "#);
}

#[test]
fn a_package_without_a_wheel_for_the_platform_is_to_be_brought() {
    let text = stack("packages = [\"solver\"]").replace("amd64", "arm64");
    let environment = TestEnvironment::with_stack(&text);
    environment.wheel(&native("solver", "3.0", "x86_64", 100));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: no wheel of solver==3.0 fits Python 3.11 on linux/arm64 with glibc 2.36
      --> kiln.toml:13:13
       |
    13 | packages = ["solver"]
       |             ^^^^^^^^
       |
    help: it has wheels for other systems alone, or only its source; choose a version or a Python that has wheels, or build the wheel elsewhere (`pip wheel --no-deps`) and put it into a directory of `[index] find-links`
    [exit status: 2]
    "#);
}

#[test]
fn locked_refuses_to_decide() {
    let environment = greeting();
    assert_snapshot!(environment.kiln("build --locked"), @r"
    ------- stderr -------
    error: there is no `kiln.lock` yet

    hint: run `kiln lock`
    [exit status: 2]
    ");
    assert!(!environment.path("kiln.lock").exists());
    environment.succeed("lock");
    environment.wheel(&pure("polite", "1.0"));
    environment.stack(&stack("packages = [\"greeting\", \"polite\"]"));
    let lock = environment.read("kiln.lock");
    assert_snapshot!(environment.kiln("build --locked"), @r"
    ------- stderr -------
    error: the lock does not fit the stack: in `app` (linux/amd64) `polite` is new

    hint: run `kiln lock`
    [exit status: 2]
    ");
    assert_snapshot!(environment.kiln("lock --check"), @r"
    ------- stderr -------
    error: the lock does not fit the stack: in `app` (linux/amd64) `polite` is new

    hint: run `kiln lock`
    [exit status: 2]
    ");
    environment.stack(&stack("packages = [\"greeting\"]\n\n[images.new]\nfrom = \"app\"\npackages = [\"polite\"]"));
    assert_snapshot!(environment.kiln("build --locked"), @r"
    ------- stderr -------
    error: the lock does not fit the stack: it has no image `new` for linux/amd64

    hint: run `kiln lock`
    [exit status: 2]
    ");
    environment.stack(&stack("packages = [\"greeting\"]").replace("amd64", "arm64"));
    assert_snapshot!(environment.kiln("build --locked"), @r"
    ------- stderr -------
    error: the lock does not fit the stack: it has no base `oci base` for linux/arm64

    hint: run `kiln lock`
    [exit status: 2]
    ");
    environment.stack(&stack("packages = [\"greeting\"]").replace("[\"wheels\"]", "[\"wheels\", \"more\"]"));
    assert_snapshot!(environment.kiln("build --locked"), @r"
    ------- stderr -------
    error: the lock does not fit the stack: indexes, recipes, Python, or what stands above `app` (linux/amd64) changed

    hint: run `kiln lock`
    [exit status: 2]
    ");
    environment.stack(&stack("packages = [\"greeting\"]"));
    fs_err::remove_dir_all(environment.path("base")).unwrap();
    bases::with_site_packages(&environment.path("base"), &[]);
    assert_snapshot!(environment.kiln("build --locked"), @r"
    ------- stderr -------
    error: the lock does not fit the stack: the base `oci base` is another than is locked

    hint: run `kiln lock`
    [exit status: 2]
    ");
    assert_eq!(environment.read("kiln.lock"), lock);
}

#[test]
fn a_recipe_without_its_finished_wheel_says_what_is_missing() {
    let recipe = "[wheels.scatter]\nversion = \"2.1\"\ndependencies = [\"words\"]\n";
    let environment = TestEnvironment::with_stack(&stack(&format!("packages = [\"scatter\"]\n\n{recipe}")));
    environment.wheel(&pure("words", "1.0"));
    environment.wheel(&native("scatter", "2.1", "aarch64", 10).requires("words"));
    assert_snapshot!(environment.kiln("lock"), @r"
    ------- stderr -------
    error: the wheel of scatter 2.1 for linux/amd64 is not there
      --> kiln.toml:15:9
       |
    15 | [wheels.scatter]
       |         ^^^^^^^
       |
    help: compile it elsewhere and put it into a directory of `[index] find-links`: this release of kiln cannot compile wheels yet
    [exit status: 2]
    ");
    environment.wheel(&native("scatter", "2.1", "x86_64", 10).requires("words>=1").requires("more"));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: `scatter-2.1-cp311-cp311-manylinux_2_28_x86_64.whl` requires something else than its recipe declares
      --> kiln.toml:15:9
       |
    15 | [wheels.scatter]
       |         ^^^^^^^
       |
    help: the wheel says ["words>=1", "more"]; put that into `dependencies`
    [exit status: 2]
    "#);
    environment.stack(&stack("packages = [\"scatter\"]\n\n[wheels.scatter]\nversion = \"2.1\"\n"));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: `scatter` is compiled from source, and its metadata is not known
      --> kiln.toml:13:13
       |
    13 | packages = ["scatter"]
       |             ^^^^^^^^^
    14 |
    15 | [wheels.scatter]
       |         ------- its recipe
       |
    help: declare `version` and `dependencies` in its recipe: wheels cannot be compiled yet
    [exit status: 2]
    "#);
}

#[test]
fn members_of_the_torch_family_that_do_not_pair_are_refused() {
    let environment = TestEnvironment::with_stack(&stack(
        "packages = [\"torch==2.6.0\", \"torchvision\"]\n\n[images.audio]\nfrom = \"app\"\npackages = [\"torchaudio\"]",
    ));
    for (name, version) in [("torch", "2.6.0"), ("torchvision", "0.20.0"), ("torchaudio", "2.11.0")] {
        environment.wheel(&pure(name, version));
    }
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: torchvision 0.20.0 does not pair with torch 2.6.0; torchvision 0.21.0 does
      --> kiln.toml:13:29
       |
    13 | packages = ["torch==2.6.0", "torchvision"]
       |                             ^^^^^^^^^^^^^
       |
    help: the resolver accepts the pair, since nothing in the packages forbids it, and it crashes when it runs
    [exit status: 2]
    "#);
    environment.wheel(&pure("torchvision", "0.21.0"));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: torchaudio 2.11.0 does not pair with torch 2.6.0; torchaudio 2.6.0 does
      --> kiln.toml:17:13
       |
    17 | packages = ["torchaudio"]
       |             ^^^^^^^^^^^^
       |
    help: the resolver accepts the pair, since nothing in the packages forbids it, and it crashes when it runs
    [exit status: 2]
    "#);
}

#[test]
fn a_torch_for_another_cuda_than_the_stack_is_for_is_refused() {
    let cuda = |cuda: &str| {
        stack("packages = [\"torch\"]").replace("python = \"3.11\"", &format!("python = \"3.11\"\ncuda = \"{cuda}\""))
    };
    let environment = TestEnvironment::with_stack(&cuda("12.8"));
    environment.wheel(&pure("torch", "2.11.0+cu130"));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: torch 2.11.0+cu130 brings CUDA 13, and the stack is for CUDA 12
      --> kiln.toml:14:13
       |
     7 | cuda = "12.8"
       |        ------ said here
    ...
    14 | packages = ["torch"]
       |             ^^^^^^^
       |
    help: say `cuda = "13.x"`, or take torch from an index for CUDA 12 (`[index] packages`)
    [exit status: 2]
    "#);
    environment.stack(&cuda("none"));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: torch 2.11.0+cu130 brings CUDA 13, and the stack says `cuda = "none"`
      --> kiln.toml:14:13
       |
     7 | cuda = "none"
       |        ------ said here
    ...
    14 | packages = ["torch"]
       |             ^^^^^^^
       |
    help: take torch from an index with CPU builds: `[index] packages = { torch = "URL" }`
    [exit status: 2]
    "#);
    environment.stack(&cuda("13.0"));
    environment.succeed("lock");
    let environment = TestEnvironment::with_stack(&cuda("12.8"));
    environment.wheel(&pure("torch", "2.11.0+cpu"));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: torch 2.11.0+cpu brings no CUDA, and the stack is for CUDA 12
      --> kiln.toml:14:13
       |
     7 | cuda = "12.8"
       |        ------ said here
    ...
    14 | packages = ["torch"]
       |             ^^^^^^^
       |
    help: say `cuda = "none"`, or take torch from an index with CUDA builds (`[index] packages`)
    [exit status: 2]
    "#);
    let environment = TestEnvironment::with_stack(&cuda("12.8"));
    environment.wheel(&pure("torch", "2.11.0").requires("cuda-toolkit"));
    environment.wheel(&pure("cuda_toolkit", "13.0.2"));
    let outcome = environment.kiln("lock");
    assert!(outcome.stderr.contains("torch 2.11.0 brings CUDA 13"), "{outcome}");
}

#[test]
fn a_base_without_the_interpreter_says_which_it_has() {
    let environment = greeting();
    environment.stack(&environment.read("kiln.toml").replace("\"3.11\"", "\"3.12\""));
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: the base `oci base` has no interpreter for Python 3.12: it has /usr/bin/python3.11 (3.11)
      --> kiln.toml:6:10
       |
     6 | python = "3.12"
       |          ^^^^^^
    ...
    11 | [images.app]
       |         --- for this image
       |
    help: choose a base that has it (a Debian with `include = ["python3"]` has its release's: 3.9 in bullseye, 3.11 in bookworm, 3.13 in trixie), or set `target.python`
    [exit status: 2]
    "#);
    let environment = greeting();
    fs_err::remove_dir_all(environment.path("base")).unwrap();
    bases::without_python(&environment.path("base"));
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: the base `oci base` has no interpreter for Python 3.11: it has no Python at all
      --> kiln.toml:6:10
       |
     6 | python = "3.11"
       |          ^^^^^^
    ...
    11 | [images.app]
       |         --- for this image
       |
    help: choose a base that has it (a Debian with `include = ["python3"]` has its release's: 3.9 in bullseye, 3.11 in bookworm, 3.13 in trixie), or set `target.python`
    [exit status: 2]
    "#);
}

#[test]
fn a_base_that_is_not_there_or_not_a_layout_is_said() {
    let environment = greeting();
    fs_err::remove_file(environment.path("base/oci-layout")).unwrap();
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: `<root>/project/base` is not a usable OCI image layout: it has no file `oci-layout`
      --> kiln.toml:12:8
       |
    12 | from = { oci = "base" }
       |        ^^^^^^^^^^^^^^^^
       |
    help: name another directory, or write this one again with the program that made it
    [exit status: 2]
    "#);
    fs_err::remove_dir_all(environment.path("base")).unwrap();
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: `base` does not exist in <root>/project
      --> kiln.toml:12:8
       |
    12 | from = { oci = "base" }
       |        ^^^^^^^^^^^^^^^^
    [exit status: 2]
    "#);
}

#[test]
fn a_base_for_one_platform_is_not_taken_for_another() {
    let environment = greeting();
    let index = environment.read("base/index.json");
    let index: kiln_oci::image::Index = serde_json::from_str(&index).unwrap();
    let blob = format!("base/blobs/sha256/{}", index.manifests[0].digest.hex());
    let mut nested: kiln_oci::image::Index = serde_json::from_str(&environment.read(&blob)).unwrap();
    nested.manifests.truncate(1);
    environment.write("base/index.json", kiln_oci::image::to_json(&nested).unwrap());
    environment.stack(&environment.read("kiln.toml").replace("amd64", "arm64"));
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: `<root>/project/base` is not a usable OCI image layout: it has no image for linux/arm64; it has linux/amd64
      --> kiln.toml:12:8
       |
    12 | from = { oci = "base" }
       |        ^^^^^^^^^^^^^^^^
       |
    help: name another directory, or write this one again with the program that made it
    [exit status: 2]
    "#);
}

#[test]
fn an_index_that_cannot_be_reached_is_the_surroundings_fault() {
    let text = stack("packages = [\"greeting\"]");
    let text = text.replace("find-links = [\"wheels\"]", "default = \"http://127.0.0.1:1/simple\"");
    let environment = TestEnvironment::with_stack(&text);
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: the package index cannot be reached
      caused by: Failed to fetch: `http://127.0.0.1:1/simple/greeting/` cause: error sending request for url (http://127.0.0.1:1/simple/greeting/) cause: client error (Connect)

    hint: check the network, `[index]` in the stack file, and proxies
    [exit status: 3]
    ");
    assert_snapshot!(environment.kiln("build --offline"), @r"
    ------- stderr -------
    error: the package index cannot be reached
      caused by: Failed to fetch: `http://127.0.0.1:1/simple/greeting/` cause: Network connectivity is disabled

    hint: check the network, `[index]` in the stack file, and proxies
    [exit status: 3]
    ");
}

#[test]
fn without_uv_it_is_said_how_to_get_it() {
    let environment = greeting();
    fs_err::remove_file(environment.root().join("bin/uv")).unwrap();
    assert_snapshot!(environment.kiln("lock"), @r"
    ------- stderr -------
    error: the program `uv` is needed to resolve Python packages, and is not on PATH, and cannot be installed without `python3` and the network

    hint: install it: `pip install uv`, or see its documentation; kiln finds it on PATH
    [exit status: 3]
    ");
}

#[test]
fn a_uv_that_fails_or_makes_no_sense_is_quoted() {
    let environment = greeting();
    environment.script("uv", "echo 'error: unexpected argument `--format` found' >&2\nexit 2\n");
    assert_snapshot!(environment.kiln("lock"), @r"
    ------- stderr -------
    error: the packages of `app` cannot be resolved
      caused by: uv failed: unexpected argument `--format` found
    [exit status: 1]
    ");
    environment.script("uv", "echo 'packages = 3' > pylock.kiln.toml\n");
    assert_snapshot!(environment.kiln("lock"), @r"
    ------- stderr -------
    error: the packages of `app` cannot be resolved
      caused by: uv's answer cannot be read
      caused by: at its line 1: invalid type: integer `3`, expected a sequence
    [exit status: 1]
    ");
    environment.script("uv", "exit 0\n");
    assert_snapshot!(environment.kiln("lock"), @r"
    ------- stderr -------
    error: the packages of `app` cannot be resolved
      caused by: failed to open file `<root>/store/temporary/.tmp<n>/pylock.kiln.toml`: No such file or directory (os error 2)
    [exit status: 1]
    ");
}

#[test]
fn a_uv_that_is_killed_is_said_to_be() {
    let environment = greeting();
    environment.script("uv", "kill -9 $$\n");
    let outcome = environment.kiln("lock");
    assert!(outcome.stderr.contains("signal"), "{outcome}");
}

#[test]
fn a_damaged_lock_and_one_of_a_newer_kiln_are_not_overwritten() {
    let environment = greeting();
    environment.succeed("lock");
    let lock = environment.read("kiln.lock");
    let refused = |text: &str| {
        environment.write("kiln.lock", text);
        let outcome = environment.kiln("build");
        assert_eq!(environment.read("kiln.lock"), text, "a lock that cannot be read must stay");
        outcome
    };
    assert_snapshot!(refused("version = 4\nfuture = true\n"), @r"
    ------- stderr -------
    error: `<root>/project/kiln.lock` cannot be used
      caused by: the lock has a table `future`: a newer kiln wrote it

    hint: use the kiln that wrote it, or delete it and run `kiln lock`
    [exit status: 2]
    ");
    assert_snapshot!(refused(""), @r"
    ------- stderr -------
    error: `<root>/project/kiln.lock` cannot be used
      caused by: the lock is damaged at line 1: missing field `version`

    hint: restore it from version control, or delete it and run `kiln lock`
    [exit status: 2]
    ");
    assert_snapshot!(refused("<<<<<<< HEAD\n"), @r"
    ------- stderr -------
    error: `<root>/project/kiln.lock` cannot be used
      caused by: the lock is damaged at line 1: key with no value, expected `=`

    hint: restore it from version control, or delete it and run `kiln lock`
    [exit status: 2]
    ");
    assert_snapshot!(refused(&lock[..lock.len() / 2]), @r"
    ------- stderr -------
    error: `<root>/project/kiln.lock` cannot be used
      caused by: the lock is damaged at line 33: unclosed inline table, expected `}`

    hint: restore it from version control, or delete it and run `kiln lock`
    [exit status: 2]
    ");
    let wheels = lock.find("\n[[wheel]]").unwrap();
    assert_snapshot!(refused(&lock[..wheels]), @r"
    ------- stderr -------
    error: `<root>/project/kiln.lock` cannot be used
      caused by: the lock is damaged at line 1: no wheel has the digest of greeting 1.0

    hint: restore it from version control, or delete it and run `kiln lock`
    [exit status: 2]
    ");
}

#[test]
fn a_locked_stack_is_built_without_uv() {
    let environment = greeting();
    let digests = environment.digests("");
    fs_err::remove_file(environment.root().join("bin/uv")).unwrap();
    fs_err::remove_dir_all(environment.root().join("store")).unwrap();
    assert_eq!(environment.digests("--locked --offline"), digests);
    assert_eq!(environment.digests(""), digests);
}

#[test]
fn native_gpus_are_those_of_the_machine_that_locks() {
    let environment = greeting();
    environment.stack(&environment.read("kiln.toml").replace("python = ", "gpus = [\"native\"]\npython = "));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: `gpus = ["native"]`, and this machine has no NVIDIA GPU that its driver tells of: name the GPUs instead
    [exit status: 2]
    "#);
    environment.script("nvidia-smi", "echo 9.0; echo 8.9; echo 9.0");
    environment.succeed("lock");
    assert!(environment.read("kiln.lock").contains("native-gpus = "), "{}", environment.read("kiln.lock"));
    let lock = environment.read("kiln.lock");
    fs_err::remove_file(environment.root().join("bin/nvidia-smi")).unwrap();
    environment.succeed("build --locked");
    assert_eq!(environment.read("kiln.lock"), lock);
}

#[test]
fn a_lock_that_is_a_pipe_is_refused_at_once() {
    let environment = greeting();
    assert!(std::process::Command::new("mkfifo").arg(environment.path("kiln.lock")).status().unwrap().success());
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: `<root>/project/kiln.lock` is no regular file
    [exit status: 3]
    ");
}
