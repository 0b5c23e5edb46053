//! Locking: what is chosen, what stays, and what a lock never holds.

use crate::environment::TestEnvironment;
use crate::images::ReadBack;
use crate::wheels::{native, pure, stack};
use insta::assert_snapshot;
use kiln_wheel::testing::WheelBuilder;

const TIERS: &str = r#"
[stack]
name = "tiers"

[target]
platforms = ["linux/amd64", "linux/arm64"]
python = "3.11"

[index]
find-links = ["wheels"]

[groups]
tools = ["rich>=1", "typer"]

[wheels.scatter]
source = { sdist = "2.1" }
version = "2.1"
dependencies = ["solver>=3"]

[images.base]
from = { oci = "base" }
packages = ["solver"]

[images.train]
from = "base"
packages = ["scatter", "@tools"]

[images.serve]
from = "train"
packages = ["server"]
command = ["serve"]

[images.serve-debug]
from = "train"
packages = ["server", "debugger"]
"#;

fn tiers() -> TestEnvironment {
    let environment = TestEnvironment::with_stack(TIERS);
    for machine in ["x86_64", "aarch64"] {
        environment.wheel(&native("solver", "3.0", machine, 20_000));
        environment.wheel(&native("scatter", "2.1", machine, 1000).requires("solver>=3"));
    }
    for (name, version) in [("rich", "1.2"), ("typer", "0.4"), ("server", "5.0"), ("debugger", "0.1")] {
        environment.wheel(&pure(name, version));
    }
    environment.wheel(&pure("typer", "0.5").requires("rich>=1"));
    environment
}

#[test]
fn a_lock_of_several_tiers_and_platforms_says_everything_once() {
    let environment = tiers();
    assert_snapshot!(environment.kiln("lock"), @"<root>/project/kiln.lock: base (1 package), serve (1 package), serve-debug (2 packages), train (3 packages)");
    assert_snapshot!(environment.read("kiln.lock"), @r#"
    # Written by `kiln lock`; not meant to be edited.
    version = 4

    [[base]]
    name = "oci base"
    platform = "linux/amd64"
    manifest = "sha256:<digest>"
    layers = 1

    [base.facts]
    distribution = "debian 12"
    libc = { family = "glibc", version = "2.36" }
    passwd = [
        "root:x:0:0:root:/root:/bin/bash",
        "nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin",
    ]
    group = [
        "root:x:0:",
        "staff:x:50:",
        "nogroup:x:65534:",
    ]
    folders = [
        "etc",
        "lib(x86_64-linux-gnu)",
        "usr(bin)",
    ]
    programs = [
        "etc(group os-release passwd)",
        "usr(bin(python3.11))",
    ]
    path = "/usr/local/bin:/usr/bin:/bin"
    interpreters = [
        { path = "/usr/bin/python3.11", version = "3.11", site-packages = "/usr/local/lib/python3.11/dist-packages" },
    ]

    [[base]]
    name = "oci base"
    platform = "linux/arm64"
    manifest = "sha256:<digest>"
    layers = 1

    [base.facts]
    distribution = "debian 12"
    libc = { family = "glibc", version = "2.36" }
    passwd = [
        "root:x:0:0:root:/root:/bin/bash",
        "nobody:x:65534:65534::/nonexistent:/usr/sbin/nologin",
    ]
    group = [
        "root:x:0:",
        "staff:x:50:",
        "nogroup:x:65534:",
    ]
    folders = [
        "etc",
        "lib(aarch64-linux-gnu)",
        "usr(bin)",
    ]
    programs = [
        "etc(group os-release passwd)",
        "usr(bin(python3.11))",
    ]
    path = "/usr/local/bin:/usr/bin:/bin"
    interpreters = [
        { path = "/usr/bin/python3.11", version = "3.11", site-packages = "/usr/local/lib/python3.11/dist-packages" },
    ]

    [[image]]
    name = "base"
    platform = "linux/amd64"
    inputs = "<hash>"
    requirements = ["solver"]
    packages = [
        { name = "solver", version = "3.0", wheel = "sha256:<digest>" },
    ]

    [[image]]
    name = "base"
    platform = "linux/arm64"
    inputs = "<hash>"
    requirements = ["solver"]
    packages = [
        { name = "solver", version = "3.0", wheel = "sha256:<digest>" },
    ]

    [[image]]
    name = "serve"
    platform = "linux/amd64"
    inputs = "<hash>"
    requirements = ["server"]
    packages = [
        { name = "server", version = "5.0", wheel = "sha256:<digest>" },
    ]

    [[image]]
    name = "serve"
    platform = "linux/arm64"
    inputs = "<hash>"
    requirements = ["server"]
    packages = [
        { name = "server", version = "5.0", wheel = "sha256:<digest>" },
    ]

    [[image]]
    name = "serve-debug"
    platform = "linux/amd64"
    inputs = "<hash>"
    requirements = ["server", "debugger"]
    packages = [
        { name = "debugger", version = "0.1", wheel = "sha256:<digest>" },
        { name = "server", version = "5.0", wheel = "sha256:<digest>" },
    ]

    [[image]]
    name = "serve-debug"
    platform = "linux/arm64"
    inputs = "<hash>"
    requirements = ["server", "debugger"]
    packages = [
        { name = "debugger", version = "0.1", wheel = "sha256:<digest>" },
        { name = "server", version = "5.0", wheel = "sha256:<digest>" },
    ]

    [[image]]
    name = "train"
    platform = "linux/amd64"
    inputs = "<hash>"
    requirements = ["scatter", "rich>=1", "typer"]
    packages = [
        { name = "rich", version = "1.2", wheel = "sha256:<digest>" },
        { name = "scatter", version = "2.1", wheel = "sha256:<digest>" },
        { name = "typer", version = "0.5", wheel = "sha256:<digest>" },
    ]

    [[image]]
    name = "train"
    platform = "linux/arm64"
    inputs = "<hash>"
    requirements = ["scatter", "rich>=1", "typer"]
    packages = [
        { name = "rich", version = "1.2", wheel = "sha256:<digest>" },
        { name = "scatter", version = "2.1", wheel = "sha256:<digest>" },
        { name = "typer", version = "0.5", wheel = "sha256:<digest>" },
    ]

    [[wheel]]
    file = "debugger-0.1-py3-none-any.whl"
    sha256 = "sha256:<digest>"
    size = <n>
    path = "wheels/debugger-0.1-py3-none-any.whl"

    [[wheel]]
    file = "rich-1.2-py3-none-any.whl"
    sha256 = "sha256:<digest>"
    size = <n>
    path = "wheels/rich-1.2-py3-none-any.whl"

    [[wheel]]
    file = "scatter-2.1-cp311-cp311-manylinux_2_28_aarch64.whl"
    sha256 = "sha256:<digest>"
    size = <n>
    path = "wheels/scatter-2.1-cp311-cp311-manylinux_2_28_aarch64.whl"

    [[wheel]]
    file = "scatter-2.1-cp311-cp311-manylinux_2_28_x86_64.whl"
    sha256 = "sha256:<digest>"
    size = <n>
    path = "wheels/scatter-2.1-cp311-cp311-manylinux_2_28_x86_64.whl"

    [[wheel]]
    file = "server-5.0-py3-none-any.whl"
    sha256 = "sha256:<digest>"
    size = <n>
    path = "wheels/server-5.0-py3-none-any.whl"

    [[wheel]]
    file = "solver-3.0-cp311-cp311-manylinux_2_28_aarch64.whl"
    sha256 = "sha256:<digest>"
    size = <n>
    path = "wheels/solver-3.0-cp311-cp311-manylinux_2_28_aarch64.whl"

    [[wheel]]
    file = "solver-3.0-cp311-cp311-manylinux_2_28_x86_64.whl"
    sha256 = "sha256:<digest>"
    size = <n>
    path = "wheels/solver-3.0-cp311-cp311-manylinux_2_28_x86_64.whl"

    [[wheel]]
    file = "typer-0.5-py3-none-any.whl"
    sha256 = "sha256:<digest>"
    size = <n>
    path = "wheels/typer-0.5-py3-none-any.whl"
    "#);
}

#[test]
fn a_lock_is_the_same_bytes_twice_and_elsewhere_and_holds_no_path_of_the_machine() {
    let environment = tiers();
    environment.succeed("lock");
    let lock = environment.read("kiln.lock");
    assert!(!lock.contains(environment.root().to_str().unwrap()), "{lock}");
    environment.succeed("lock");
    assert_eq!(environment.read("kiln.lock"), lock);
    fs_err::remove_file(environment.path("kiln.lock")).unwrap();
    environment.succeed("lock --jobs 1");
    assert_eq!(environment.read("kiln.lock"), lock);
    let elsewhere = tiers();
    elsewhere.succeed("lock");
    assert_eq!(elsewhere.read("kiln.lock"), lock);
}

#[test]
fn a_lock_holds_elsewhere_with_the_wheels_beside_it() {
    let environment = tiers();
    let digests = environment.digests("");
    let elsewhere = tiers();
    elsewhere.write("kiln.lock", environment.read("kiln.lock"));
    assert_eq!(elsewhere.digests("--locked"), digests);
}

#[test]
fn every_tier_installs_the_difference_alone_for_every_platform() {
    let environment = tiers();
    assert_snapshot!(environment.kiln("build --output oci:out"), @r"
    base sha256:<digest> <size> in 3 layers for 2 platforms
    train sha256:<digest> <size> in 4 layers for 2 platforms
    serve sha256:<digest> <size> in 5 layers for 2 platforms
    serve-debug sha256:<digest> <size> in 5 layers for 2 platforms
    ");
    for (cpu, machine) in [("amd64", "x86_64"), ("arm64", "aarch64")] {
        let image = ReadBack::of(&environment.path("out"), "serve-debug", cpu);
        assert_eq!(image.config.architecture, cpu);
        let wheel = image.text("opt/venv/lib/python3.11/site-packages/scatter-2.1.dist-info/WHEEL");
        assert!(wheel.contains(machine), "{wheel}");
        let solvers = image.added().filter(|member| member.path.ends_with("/solver.so")).count();
        assert_eq!(solvers, 1);
    }
    let serve = ReadBack::of(&environment.path("out"), "serve", "amd64");
    assert_snapshot!(serve.history().join("\n"), @r"
    (base)
    kiln: virtual environment for /usr/bin/python3.11
    kiln: solver 3.0
    kiln: typer 0.5, scatter 2.1, rich 1.2
    kiln: server 5.0
    ");
    assert_eq!(serve.config.config.cmd, ["serve"]);
}

#[test]
fn one_image_is_built_with_those_it_stands_on_and_no_others() {
    let environment = tiers();
    assert_snapshot!(environment.kiln("build serve --platform linux/arm64"), @r"
    base sha256:<digest> <size> in 3 layers
    train sha256:<digest> <size> in 4 layers
    serve sha256:<digest> <size> in 5 layers
    ");
}

#[test]
fn another_platform_alone_leaves_the_lock_of_the_others() {
    let environment = tiers();
    environment.succeed("lock");
    let lock = environment.read("kiln.lock");
    environment.succeed("build --platform linux/arm64");
    assert_eq!(environment.read("kiln.lock"), lock);
}

fn versions(environment: &TestEnvironment) -> String {
    let lock = environment.read("kiln.lock");
    let lines = lock.lines().filter(|line| line.contains(", version = ")).filter(|line| line.contains("wheel = "));
    lines.map(|line| line.split(", wheel").next().unwrap().replace("    { ", "") + "\n").collect()
}

#[test]
fn versions_stay_until_an_upgrade_is_asked_for() {
    let environment = TestEnvironment::with_stack(&stack("packages = [\"alpha\", \"beta\"]"));
    for name in ["alpha", "beta"] {
        environment.wheel(&pure(name, "1.0"));
    }
    environment.succeed("lock");
    for name in ["alpha", "beta", "gamma"] {
        environment.wheel(&pure(name, "2.0"));
    }
    environment.succeed("lock");
    environment.stack(&stack("packages = [\"alpha\", \"beta\", \"gamma\"]"));
    environment.succeed("lock");
    assert_snapshot!(versions(&environment), @r#"
    name = "alpha", version = "1.0"
    name = "beta", version = "1.0"
    name = "gamma", version = "2.0"
    "#);
    environment.succeed("lock --upgrade Beta");
    assert_snapshot!(versions(&environment), @r#"
    name = "alpha", version = "1.0"
    name = "beta", version = "2.0"
    name = "gamma", version = "2.0"
    "#);
    environment.succeed("lock --upgrade");
    assert_snapshot!(versions(&environment), @r#"
    name = "alpha", version = "2.0"
    name = "beta", version = "2.0"
    name = "gamma", version = "2.0"
    "#);
}

#[test]
fn an_upgrade_of_a_package_that_no_image_has_is_a_mistake() {
    let environment = TestEnvironment::with_stack(&stack("packages = [\"alpha\"]"));
    environment.wheel(&pure("alpha", "1.0"));
    environment.succeed("lock");
    let outcome = environment.kiln("lock --upgrade alhpa");
    assert_eq!(outcome.status, Some(2), "{outcome}");
    assert!(outcome.stderr.contains("`alhpa`"), "{outcome}");
}

#[test]
fn an_upgrade_above_is_followed_below() {
    let environment = TestEnvironment::with_stack(&stack(
        "packages = [\"alpha\"]\n\n[images.below]\nfrom = \"app\"\npackages = [\"beta\"]",
    ));
    environment.wheel(&pure("alpha", "1.0"));
    environment.wheel(&pure("beta", "1.0").requires("alpha==1.0"));
    environment.succeed("lock");
    environment.wheel(&pure("alpha", "2.0"));
    environment.wheel(&pure("beta", "2.0").requires("alpha==2.0"));
    environment.succeed("lock --upgrade alpha");
    assert_snapshot!(versions(&environment), @r#"
    name = "alpha", version = "2.0"
    name = "beta", version = "2.0"
    "#);
}

#[test]
fn variables_and_markers_choose_versions() {
    let text = stack("packages = [\"alpha==${alpha}\", \"beta ; sys_platform == 'win32'\"]");
    let environment = TestEnvironment::with_stack(&format!("{text}\n[vars]\nalpha = \"1.0\"\n"));
    environment.wheel(&pure("alpha", "1.0"));
    environment.wheel(&pure("alpha", "2.0"));
    environment.succeed("lock");
    assert_snapshot!(versions(&environment), @r#"name = "alpha", version = "1.0""#);
    environment.succeed("lock --var alpha=2.0");
    assert_snapshot!(versions(&environment), @r#"
    name = "alpha", version = "1.0"
    name = "alpha", version = "2.0"
    "#);
}

#[test]
fn an_index_may_be_a_directory_and_packages_may_have_one_of_their_own() {
    let environment = TestEnvironment::with_stack(
        &stack("packages = [\"alpha\", \"beta\"]")
            .replace("find-links = [\"wheels\"]", "default = \"file:index\"\npackages = { beta = \"file:special\" }"),
    );
    for (index, name, version) in
        [("index", "alpha", "1.0"), ("index", "beta", "9.0"), ("special", "beta", "1.0+cu130")]
    {
        let wheel = pure(name, version);
        environment.write(&format!("{index}/{name}/{}", wheel.file_name()), wheel.finish());
        let page = format!("<a href=\"{0}\">{0}</a>", wheel.file_name());
        environment.write(&format!("{index}/{name}/index.html"), page);
    }
    environment.succeed("build");
    assert_snapshot!(versions(&environment), @r#"
    name = "alpha", version = "1.0"
    name = "beta", version = "1.0+cu130"
    "#);
    assert!(!environment.read("kiln.lock").contains(environment.root().to_str().unwrap()));
}

#[test]
fn a_package_that_another_requires_comes_from_its_own_index_too() {
    let environment = TestEnvironment::with_stack(&stack("packages = [\"alpha\"]").replace(
        "find-links = [\"wheels\"]",
        "default = \"file:index\"\npackages = { beta = \"file:special\", gamma = \"file:special\", delta = \"file:special\" }",
    ));
    let put = |index: &str, wheel: WheelBuilder| {
        let (file, name) = (wheel.file_name(), wheel.file_name().split('-').next().unwrap().to_owned());
        environment.write(&format!("{index}/{name}/{file}"), wheel.finish());
        environment.write(&format!("{index}/{name}/index.html"), format!("<a href=\"{file}\">{file}</a>"));
    };
    // One is on both indexes, one on its own alone, and one is not needed.
    put("index", pure("alpha", "1.0").requires("beta").requires("gamma"));
    put("index", pure("beta", "9.0"));
    for (name, version) in [("beta", "1.0"), ("gamma", "2.0"), ("delta", "3.0")] {
        put("special", pure(name, version));
    }
    environment.succeed("lock");
    assert_snapshot!(versions(&environment), @r#"
    name = "alpha", version = "1.0"
    name = "beta", version = "1.0"
    name = "gamma", version = "2.0"
    "#);
}

#[test]
fn json_lists_what_was_locked() {
    let environment = TestEnvironment::with_stack(&stack("packages = [\"alpha\"]"));
    environment.wheel(&pure("alpha", "1.0"));
    assert_snapshot!(environment.kiln("lock --json"), @r#"
    {
      "lock": "<root>/project/kiln.lock",
      "images": [
        {
          "name": "app",
          "platform": "linux/amd64",
          "variant": "",
          "packages": [
            {
              "name": "alpha",
              "version": "1.0",
              "wheel": "sha256:<digest>"
            }
          ]
        }
      ]
    }
    "#);
}

#[test]
fn a_lock_of_the_former_version_is_renewed_with_the_same_choices() {
    let environment = tiers();
    environment.succeed("lock");
    let lock = environment.read("kiln.lock");
    // As the former version wrote it: facts with fields that are gone.
    let former = lock.replace("version = 4", "version = 2");
    let former = former.replace("[base.facts]\n", "[base.facts]\npackage-manager = \"apt\"\n");
    environment.write("kiln.lock", &former);
    assert_snapshot!(environment.kiln("build --locked"), @r"
    ------- stderr -------
    error: the lock does not fit the stack: it has format version 2, and this kiln writes 4

    hint: run `kiln lock`
    [exit status: 2]
    ");
    environment.wheel(&pure("rich", "1.3"));
    environment.succeed("lock");
    assert_eq!(environment.read("kiln.lock"), lock, "no newer version is chosen");
}

#[test]
fn two_stacks_in_one_directory_have_a_lock_each() {
    let environment = TestEnvironment::with_stack(&stack("packages = [\"words\"]"));
    environment.wheel(&pure("words", "1.0"));
    environment.succeed("lock");
    let first = environment.read("kiln.lock");
    environment.write("cpu.toml", stack(""));
    environment.succeed("-f cpu.toml lock");
    assert_eq!(environment.read("kiln.lock"), first);
    assert!(!environment.read("cpu.lock").contains("words"));
    let outcome = environment.kiln("-f other.toml plan");
    assert_eq!(outcome.status, Some(2), "{outcome}");
    environment.write("other.toml", stack(""));
    let outcome = environment.kiln("-f other.toml plan");
    assert!(outcome.stderr.contains("there is no `other.lock`"), "{outcome}");
}
