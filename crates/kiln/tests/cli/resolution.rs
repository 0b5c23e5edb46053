//! The choice of versions: overrides, constraints, exclusions, pre-releases; and tiers that must agree.

use crate::environment::TestEnvironment;
use crate::wheels::{pure, stack};
use insta::assert_snapshot;

/// The packages of an image, as the lock names them.
fn locked(environment: &TestEnvironment, image: &str) -> Vec<String> {
    let lock: toml::Table = environment.read("kiln.lock").parse().unwrap();
    let images = lock["image"].as_array().unwrap().clone();
    let image = images.iter().find(|one| one["name"].as_str() == Some(image)).unwrap();
    let packages = image.get("packages").and_then(toml::Value::as_array).cloned().unwrap_or_default();
    let text = |package: &toml::Value, key: &str| package[key].as_str().unwrap().to_owned();
    packages.iter().map(|package| format!("{}=={}", text(package, "name"), text(package, "version"))).collect()
}

/// A stack for `frames`, which needs `numbers>=2`, beside `solver`, which needs `numbers<2` and `extra`.
fn contradiction(resolution: &str, image: &str) -> TestEnvironment {
    let text = stack(&format!("packages = [\"frames\", \"solver\"]\n{image}"));
    let environment = TestEnvironment::with_stack(&format!("{text}\n[resolution]\n{resolution}\n"));
    for version in ["1.26", "2.1", "3.0rc1"] {
        environment.wheel(&pure("numbers", version));
    }
    environment.wheel(&pure("extra", "1.0"));
    environment.wheel(&pure("frames", "1.0").requires("numbers>=2"));
    environment.wheel(&pure("solver", "1.0").requires("numbers<2").requires("extra"));
    environment
}

#[test]
fn an_override_replaces_every_other_requirement_of_its_package() {
    assert!(contradiction("", "").kiln("lock").stderr.contains("contradict"));
    let environment = contradiction("overrides = [\"numbers>=2\"]", "");
    environment.succeed("lock");
    assert_eq!(locked(&environment, "app"), ["extra==1.0", "frames==1.0", "numbers==2.1", "solver==1.0"]);
    // An image may say more than the stack.
    let environment = contradiction("overrides = [\"numbers>=2\"]", "resolution = { exclude = [\"extra\"] }");
    environment.succeed("lock");
    assert_eq!(locked(&environment, "app"), ["frames==1.0", "numbers==2.1", "solver==1.0"]);
}

#[test]
fn constraints_and_pre_releases_bound_the_choice() {
    let environment = contradiction("overrides = [\"numbers\"]\nconstraints = [\"numbers<2\"]", "");
    environment.succeed("lock");
    assert!(locked(&environment, "app").contains(&"numbers==1.26".to_owned()));
    for prerelease in ["[\"numbers\"]", "\"allow\""] {
        let environment = contradiction(&format!("overrides = [\"numbers\"]\nprerelease = {prerelease}"), "");
        environment.succeed("lock");
        assert!(locked(&environment, "app").contains(&"numbers==3.0rc1".to_owned()), "{prerelease}");
    }
}

#[test]
fn a_changed_choice_makes_the_lock_outdated() {
    let environment = contradiction("overrides = [\"numbers>=2\"]", "");
    environment.succeed("lock");
    let text = environment.read("kiln.toml");
    environment.stack(&text.replace("numbers>=2", "numbers<2"));
    assert!(environment.kiln("build --locked").stderr.contains("the lock does not fit the stack"));
    environment.succeed("lock");
    assert!(locked(&environment, "app").contains(&"numbers==1.26".to_owned()));
}

#[test]
fn mistakes_in_the_choice_of_versions_are_shown() {
    let environment = contradiction(
        "overrides = [\"./a-1-py3-none-any.whl\"]\nexclude = [\"numbers<2\"]\nprerelease = \"yes\"\nexclude-newer = \"7 days\"",
        "",
    );
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: `overrides` takes requirements, and this is a file
      --> kiln.toml:17:14
       |
    17 | overrides = ["./a-1-py3-none-any.whl"]
       |              ^^^^^^^^^^^^^^^^^^^^^^^^
       |
    help: name the file in `packages`

    error: `numbers<2` is not a package name
      --> kiln.toml:18:12
       |
    18 | exclude = ["numbers<2"]
       |            ^^^^^^^^^^^
       |
    help: `exclude` takes names of packages, without versions

    error: `yes` is not a value of `prerelease`
      --> kiln.toml:19:14
       |
    19 | prerelease = "yes"
       |              ^^^^^
       |
    help: `"allow"`, or a list of packages

    error: `7 days` is not a date
      --> kiln.toml:20:17
       |
    20 | exclude-newer = "7 days"
       |                 ^^^^^^^^
       |
    help: such as `2026-01-31`, which counts to its end in UTC, or `2026-01-31T12:00:00Z`
    [exit status: 2]
    "#);
}

/// The tiers of a platform team: the resolver brings `files` 2 into the base through `torch`, and `data` needs an older one.
fn tiers(child: &str) -> TestEnvironment {
    let environment = TestEnvironment::with_stack(&stack(&format!(
        "packages = [\"torch\"]\n\n[images.middle]\nfrom = \"app\"\npackages = [\"tools\"]\n\n[images.child]\n\
         from = \"middle\"\npackages = [{child}]\n\n[images.sibling]\nfrom = \"app\"\npackages = [\"tools\"]"
    )));
    for version in ["1.5", "2.0"] {
        environment.wheel(&pure("files", version));
    }
    environment.wheel(&pure("torch", "1.0").requires("files"));
    environment.wheel(&pure("tools", "1.0"));
    environment.wheel(&pure("data", "1.0").requires("files<2"));
    environment.wheel(&pure("other", "1.0").requires("files>=2"));
    environment
}

#[test]
fn a_version_that_nobody_wrote_gives_way_to_an_image_further_up() {
    let environment = tiers("\"data\"");
    assert_snapshot!(environment.kiln("lock"), @r"
    <root>/project/kiln.lock: app (2 packages), child (1 package), middle (1 package), sibling (1 package)
    ------- stderr -------
    warning: `app` gets files 1.5 rather than 2.0: `child` requires it, and nothing below forbids it
    ");
    assert_eq!(locked(&environment, "app"), ["files==1.5", "torch==1.0"]);
    assert_eq!(locked(&environment, "middle"), ["tools==1.0"]);
    assert_eq!(locked(&environment, "child"), ["data==1.0"]);
    let text = environment.read("kiln.lock");
    assert!(text.contains("gives-way = [\"files for child\"]"), "{text}");
    // The lock stands, also for those who may not change it.
    environment.succeed("build --locked");
    environment.succeed("lock");
    assert_eq!(environment.read("kiln.lock"), text);
    // Once nobody asks for it any more, the newest version comes back.
    let stack = environment.read("kiln.toml");
    environment.stack(&stack.replace("\"data\"", "\"tools\""));
    environment.succeed("lock --upgrade");
    assert_eq!(locked(&environment, "app"), ["files==2.0", "torch==1.0"]);
}

#[test]
fn requirements_of_siblings_that_contradict_one_another_are_shown_with_their_lines() {
    let environment = tiers("\"data\"");
    let text = environment.read("kiln.toml");
    let text = text.replace(
        "[images.sibling]\nfrom = \"app\"\npackages = [\"tools\"]",
        "[images.sibling]\nfrom = \"app\"\npackages = [\"other\"]",
    );
    environment.stack(&text);
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    warning: `app` gets files 1.5 rather than 2.0: `child` requires it, and nothing below forbids it
    error: the packages of `sibling` contradict one another on linux/amd64
      --> kiln.toml:25:13
       |
    21 | packages = ["data"]
       |             ------ in `child`
    ...
    25 | packages = ["other"]
       |             ^^^^^^^
       |
    help: Because other==1.0 depends on files>=2 and data==1.0 depends on files<2
    [exit status: 2]
    "#);
}

/// A stack whose variable chooses a version, with a variant for the older one.
fn variants() -> TestEnvironment {
    let text = stack("packages = [\"numbers==${numbers}\"]\ntags = [\"1-${variant}\"]");
    let environment = TestEnvironment::with_stack(&format!(
        "{text}\n[vars]\nnumbers = \"2.1\"\n\n[variants.old]\ncuda = \"none\"\nvars = {{ numbers = \"1.26\" }}\n"
    ));
    for version in ["1.26", "2.1"] {
        environment.wheel(&pure("numbers", version));
    }
    environment
}

#[test]
fn a_lock_holds_the_choices_of_a_stack_beside_one_another() {
    let environment = variants();
    assert_snapshot!(environment.kiln("lock"), @"<root>/project/kiln.lock: app (1 package)");
    environment.succeed("build --locked --output oci:out");
    let image = |directory: &str| crate::images::ReadBack::of(&environment.path(directory), "app", "amd64");
    image("out").file("opt/venv/lib/python3.11/site-packages/numbers-2.1.dist-info/METADATA");
    environment.succeed("build --variant old --locked --output oci:old");
    image("old").file("opt/venv/lib/python3.11/site-packages/numbers-1.26.dist-info/METADATA");
    // A variable that changes no package needs no lock of its own; one that does has one.
    let lock = environment.read("kiln.lock");
    environment.succeed("build --var numbers=2.1 --locked");
    assert!(environment.kiln("build --var numbers=2.01 --locked").stderr.contains("does not fit the stack"));
    environment.succeed("build --var numbers=1.26");
    assert_ne!(environment.read("kiln.lock"), lock);
    for command in
        ["build --locked", "build --variant old --locked", "build --var numbers=1.26 --locked", "lock --check"]
    {
        environment.succeed(command);
    }
    // What is no longer declared goes.
    environment.stack(&environment.read("kiln.toml").replace("[variants.old]", "[variants.older]"));
    environment.succeed("lock");
    let lock = environment.read("kiln.lock");
    assert!(lock.contains("variant = \"older\"") && !lock.contains("variant = \"old\""), "{lock}");
}

#[test]
fn a_variant_is_locked_as_if_it_were_alone() {
    let environment = variants();
    environment.stack(&environment.read("kiln.toml").replace("numbers==", "numbers<="));
    environment.stack(&environment.read("kiln.toml").replace("numbers = \"2.1\"", "numbers = \"1.26\""));
    environment.stack(&environment.read("kiln.toml").replace("{ numbers = \"1.26\" }", "{ numbers = \"2.1\" }"));
    environment.succeed("lock");
    let lock = environment.read("kiln.lock");
    assert!(lock.contains("version = \"1.26\"") && lock.contains("version = \"2.1\""), "{lock}");
}

#[test]
fn choices_that_are_locked_at_once_stay_beside_one_another() {
    let environment = variants();
    let lock = |version: &str| environment.kiln(&format!("lock --var numbers={version}"));
    std::thread::scope(|scope| {
        scope.spawn(|| lock("1.26"));
        scope.spawn(|| lock("2.1"));
        scope.spawn(|| lock("2.01"));
    });
    let lock = environment.read("kiln.lock");
    assert!(lock.contains("variant = \"numbers=1.26\"") && lock.contains("variant = \"numbers=2.1\""), "{lock}");
}

#[test]
fn a_lock_that_contradicts_itself_is_refused() {
    let environment = variants();
    environment.succeed("lock");
    let lock = environment.read("kiln.lock");
    let package = lock.lines().find(|line| line.contains("version = \"2.1\", wheel")).unwrap().to_owned();
    for (was, is) in [
        (package.clone(), format!("{package}\n{package}")),
        (package.clone(), package.replace("2.1", "2.2")),
        (package.clone(), package.replace("numbers", "letters")),
    ] {
        environment.write("kiln.lock", lock.replacen(&was, &is, 1));
        let refused = environment.kiln("build --locked");
        assert!(refused.stderr.contains("the lock is damaged"), "{refused}");
    }
}

#[test]
fn every_variant_is_built_under_a_tag_of_its_own() {
    let environment = variants();
    assert_snapshot!(environment.kiln("build --all-variants"), @r"
    default:
    app sha256:<digest> <size> in 3 layers
    old:
    app sha256:<digest> <size> in 3 layers
    ");
    let text = environment
        .read("kiln.toml")
        .replace("1-${variant}", "1")
        .replace("name = \"demo\"", "name = \"demo\"\nregistry = \"localhost:1/x\"");
    environment.stack(&text);
    assert_snapshot!(environment.kiln("build --all-variants --push"), @r#"
    ------- stderr -------
    error: several variants of `app` have the tag `1`
      --> kiln.toml:12:9
       |
    12 | [images.app]
       |         ^^^
       |
    help: write the variant into it: `tags = ["1.0-${variant}"]`
    [exit status: 2]
    "#);
    assert_snapshot!(environment.kiln("build --all-variants --output oci:out"), @r"
    ------- stderr -------
    error: `--all-variants` takes no `--output`: the images of all variants have the same names

    hint: build each into a place of its own, `--variant NAME --output oci:NAME`; `--push` and `--load` tell them apart by their tags
    [exit status: 2]
    ");
}

/// A torch for CUDA 12.6 on the usual index, and PyTorch's own builds for 12.8 and for none.
fn torch(target: &str) -> TestEnvironment {
    let environment = TestEnvironment::with_stack(&stack(&format!("packages = [\"torch\"]\n{target}")));
    environment.wheel(&pure("torch", "2.7.1").requires("nvidia-cuda-runtime-cu12"));
    environment.wheel(&pure("nvidia_cuda_runtime_cu12", "12.6.77"));
    for tag in ["cu128", "cpu"] {
        let place = environment.root().join("torch").join(tag);
        fs_err::create_dir_all(&place).unwrap();
        let wheel = pure("torch", &format!("2.7.1+{tag}"));
        fs_err::write(place.join(wheel.file_name()), wheel.finish()).unwrap();
    }
    environment
}

#[test]
fn torch_is_for_the_cuda_release_of_the_image() {
    for (target, version) in [("", "2.7.1"), ("cuda = \"12.8\"", "2.7.1+cu128"), ("cuda = \"none\"", "2.7.1+cpu")] {
        let environment = torch(target);
        environment.tell_uv("torch", &environment.root().join("torch"));
        environment.succeed("lock");
        let locked = locked(&environment, "app");
        assert!(locked.contains(&format!("torch=={version}")), "{target}: {locked:?}");
    }
}

#[test]
fn a_torch_for_another_cuda_release_is_told_of() {
    assert_snapshot!(torch("cuda = \"12.8\"").kiln("lock"), @r#"
    <root>/project/kiln.lock: app (2 packages)
    ------- stderr -------
    warning: torch 2.7.1 of `app` brings CUDA 12.6, and PyTorch's own index has no build for `cu128` that fits: `[index] packages = { torch = "URL" }` names another
    "#);
    assert_snapshot!(torch("cuda = \"none\"").kiln("lock"), @r#"
    ------- stderr -------
    error: torch 2.7.1 brings CUDA 12, and the stack says `cuda = "none"`
      --> kiln.toml:13:13
       |
    13 | packages = ["torch"]
       |             ^^^^^^^
    14 | cuda = "none"
       |        ------ said here
       |
    help: take torch from an index with CPU builds: `[index] packages = { torch = "URL" }`
    [exit status: 2]
    "#);
}

#[test]
fn members_of_torchs_family_are_of_one_build() {
    let environment = TestEnvironment::with_stack(&stack("packages = [\"torch==2.7.1+cpu\", \"torchvision\"]"));
    environment.wheel(&pure("torch", "2.7.1+cpu"));
    for build in ["cpu", "cu126"] {
        environment.wheel(&pure("torchvision", &format!("0.22.1+{build}")));
    }
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: torchvision 0.22.1+cu126 is built for another torch than 2.7.1+cpu
      --> kiln.toml:13:33
       |
    13 | packages = ["torch==2.7.1+cpu", "torchvision"]
       |                                 ^^^^^^^^^^^^^
       |
    help: name the build: `torchvision==0.22.1+cpu`
    [exit status: 2]
    "#);
}

#[test]
fn mistakes_in_variants_are_shown() {
    let environment = variants();
    assert_snapshot!(environment.kiln("build --variant odl"), @r"
    ------- stderr -------
    error: the stack has no variant `odl`
     |
    help: did you mean `old`?
    [exit status: 2]
    ");
    let text = environment.read("kiln.toml");
    environment.stack(
        &text.replace("{ numbers = \"1.26\" }", "{ number = \"1.26\" }").replace("1-${variant}", "1-${variants}"),
    );
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: the stack declares no variable `number`
      --> kiln.toml:21:10
       |
    21 | vars = { number = "1.26" }
       |          ^^^^^^
       |
    help: did you mean `numbers`?

    error: the variable `variants` is not declared under `[vars]`
      --> kiln.toml:14:9
       |
    14 | tags = ["1-${variants}"]
       |         ^^^^^^^^^^^^^^^
       |
    help: did you mean `${variant}`?
    [exit status: 2]
    "#);
}

#[test]
fn names_in_the_choice_of_versions_that_nothing_has_are_warned_of() {
    let environment = contradiction(
        "overrides = [\"numbers>=2\", \"nunbers<3\"]\nconstraints = [\"solver\", \"a\", \"b\", \"c\", \"d\"]\n\
         exclude = [\"extra\", \"extr\"]",
        "overlaps = { winner = \"frame\" }",
    );
    assert_snapshot!(environment.kiln("lock"), @r"
    <root>/project/kiln.lock: app (3 packages)
    ------- stderr -------
    warning: kiln.toml:18: `constraints` names `a`, `b`, `c` and 1 more, which no image has
    warning: kiln.toml:19: `exclude` names `extr`, which nothing requires
    warning: kiln.toml:17: `overrides` names `nunbers`, which no image has: did you mean `numbers`?
    warning: kiln.toml:14: `winner` names `frame`, which no image has: did you mean `frames`?
    ");
    // What is locked already was looked at.
    assert!(!environment.kiln("lock").stderr.contains("`exclude`"));
    let environment = contradiction(
        "overrides = [\"numbers>=2\"]\nconstraints = [\"solver\"]\nexclude = [\"extra\"]",
        "overlaps = { winner = \"frames\" }",
    );
    assert_eq!(environment.kiln("lock").stderr, "");
}

/// Puts a program before uv's stand-in that counts its calls.
fn count_calls(environment: &TestEnvironment) -> impl Fn() -> usize + use<> {
    let (root, bin) = (environment.root(), environment.root().join("bin"));
    let (real, calls) = (root.join("real"), root.join("calls"));
    fs_err::create_dir_all(&real).unwrap();
    for name in ["uv", "uv.torch"] {
        if bin.join(name).exists() {
            fs_err::rename(bin.join(name), real.join(name)).unwrap();
        }
    }
    let script = format!("echo call >> {}\nexec {} \"$@\"\n", calls.display(), real.join("uv").display());
    environment.script("uv", &script);
    move || std::mem::take(&mut fs_err::read_to_string(&calls).unwrap_or_default()).lines().count()
}

#[test]
fn uv_is_not_asked_twice_for_what_is_locked_or_known() {
    let environment = torch("cuda = \"12.8\"");
    environment.tell_uv("torch", &environment.root().join("torch"));
    environment.wheel(&pure("six", "1.0"));
    let calls = count_calls(&environment);
    environment.succeed("lock");
    assert_eq!(locked(&environment, "app"), ["torch==2.7.1+cu128"]);
    let first = calls();
    environment.stack(&environment.read("kiln.toml").replace("\"torch\"]", "\"torch\", \"six\"]"));
    environment.succeed("lock");
    assert_eq!(locked(&environment, "app"), ["six==1.0", "torch==2.7.1+cu128"]);
    assert_eq!((first, calls() - first), (2, 1));
    // The pair of a torch that is named is known before anything is chosen.
    let environment = TestEnvironment::with_stack(&stack("packages = [\"torch==2.7.1\", \"torchvision\"]"));
    for (name, version) in [("torch", "2.7.1"), ("torchvision", "0.22.1"), ("torchvision", "0.23.0")] {
        environment.wheel(&pure(name, version));
    }
    let calls = count_calls(&environment);
    environment.succeed("lock");
    assert_eq!(locked(&environment, "app"), ["torch==2.7.1", "torchvision==0.22.1"]);
    assert_eq!(calls(), 1);
}
