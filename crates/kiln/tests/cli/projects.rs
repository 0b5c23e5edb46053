//! Requirements of projects: `pyproject.toml`, `uv.lock`, `poetry.lock`, several files, and files above the stack.

use crate::environment::TestEnvironment;
use crate::wheels::{pure, stack};
use insta::assert_snapshot;
use kiln_plan::digest::Digest;

/// A stack with these requirements, and wheels of alpha, beta, gamma and delta in two versions.
fn project(requirements: &str) -> TestEnvironment {
    let environment = TestEnvironment::with_stack(&stack(&format!("requirements = {requirements}")));
    for name in ["alpha", "beta", "gamma", "delta"] {
        for version in ["1.0", "2.0"] {
            environment.wheel(&pure(name, version));
        }
    }
    environment
}

/// The packages of the image `app`, as the lock names them.
fn locked(environment: &TestEnvironment) -> Vec<String> {
    let lock: toml::Table = environment.read("kiln.lock").parse().unwrap();
    let packages = lock["image"][0]["packages"].as_array().unwrap().clone();
    let text = |package: &toml::Value, key: &str| package[key].as_str().unwrap().to_owned();
    packages.iter().map(|package| format!("{}=={}", text(package, "name"), text(package, "version"))).collect()
}

const PYPROJECT: &str = r#"
[project]
name = "demo"
version = "1"
requires-python = ">=3.10"
dependencies = ["alpha", "delta<2 ; python_version >= '3.12'"]

[project.optional-dependencies]
fast = ["beta==1.0", "demo[more]"]
more = ["gamma"]
cpu = ["delta==1.0"]
gpu = ["delta==2.0"]

[dependency-groups]
dev = ["delta"]
serve = [{ include-group = "dev" }, "beta<2"]

[tool.uv]
constraint-dependencies = ["alpha<2"]
conflicts = [[{ extra = "cpu" }, { extra = "gpu" }]]
"#;

#[test]
fn a_project_asks_for_its_dependencies_and_for_chosen_extras_and_groups() {
    for (choice, expected) in [
        ("", vec!["alpha==1.0"]),
        (", extras = [\"fast\"]", vec!["alpha==1.0", "beta==1.0", "gamma==2.0"]),
        (", groups = [\"serve\"]", vec!["alpha==1.0", "beta==1.0", "delta==2.0"]),
        (", dev = true", vec!["alpha==1.0", "delta==2.0"]),
    ] {
        let environment = project(&format!("{{ file = \"pyproject.toml\"{choice} }}"));
        environment.write("pyproject.toml", PYPROJECT);
        environment.succeed("lock");
        assert_eq!(locked(&environment), expected, "{choice}");
    }
}

#[test]
fn sources_of_a_project_say_where_packages_come_from() {
    let environment = project("\"pyproject.toml\"");
    environment.write(
        "pyproject.toml",
        "[project]\nname = \"demo\"\nversion = \"1\"\ndependencies = [\"alpha\", \"beta\"]\n\n[tool.uv.sources]\n\
         alpha = { path = \"wheels/alpha-1.0-py3-none-any.whl\" }\n\
         beta = [{ path = \"wheels/beta-1.0-py3-none-any.whl\", marker = \"sys_platform == 'win32'\" }]\n",
    );
    environment.succeed("lock");
    assert_eq!(locked(&environment), ["alpha==1.0", "beta==2.0"]);
}

#[test]
fn what_a_project_cannot_give_is_shown_at_its_line() {
    let environment = project("{ file = \"pyproject.toml\", extras = [\"cpu\", \"gpu\", \"fasd\"] }");
    environment.write("pyproject.toml", PYPROJECT.replace(">=3.10", ">=3.12"));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: the extra `cpu` and the extra `gpu` contradict one another
      --> pyproject.toml:20:14
       |
    20 | conflicts = [[{ extra = "cpu" }, { extra = "gpu" }]]
       |              ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       |
    help: choose one of them

    error: the project has no extra `fasd`
      --> kiln.toml:13:25
       |
    13 | requirements = { file = "pyproject.toml", extras = ["cpu", "gpu", "fasd"] }
       |                         ^^^^^^^^^^^^^^^^
       |
    help: did you mean `fast`?
    [exit status: 2]
    "#);
    environment.stack(&stack("requirements = \"pyproject.toml\""));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: the project is for another Python than the image's 3.11.0
     --> pyproject.toml:5:19
      |
    5 | requires-python = ">=3.12"
      |                   ^^^^^^^^
      |
    help: change `target.python`, the base, or the project
    [exit status: 2]
    "#);
    environment.write(
        "pyproject.toml",
        "[project]\nname = \"demo\"\nversion = \"1\"\ndependencies = [\"alpha\", \"beta @ git+https://example.org/b\"]\n\n\
         [tool.uv.sources]\nalpha = { workspace = true }\n\n[dependency-groups]\na = [{ include-group = \"a\" }]\n",
    );
    environment.stack(&stack("requirements = { file = \"pyproject.toml\", groups = [\"a\"] }"));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: `alpha` is built from source here, and kiln does not build sources yet
     --> pyproject.toml:7:9
      |
    7 | alpha = { workspace = true }
      |         ^^^^^^^^^^^^^^^^^^^^
      |
    help: put its wheel, built elsewhere (`pip wheel --no-deps`), into a directory of `[index] find-links`, and declare `[wheels.alpha]` with `version = "VERSION"` and the wheel's `dependencies`: kiln builds no sources yet; or take a release of it: `[resolution] overrides = ["alpha==VERSION"]`

    error: a repository is not taken: it is source
     --> pyproject.toml:4:26
      |
    4 | dependencies = ["alpha", "beta @ git+https://example.org/b"]
      |                          ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: put its wheel, built elsewhere (`pip wheel --no-deps`), into a directory of `[index] find-links`, and declare `[wheels.beta]` with `version = "VERSION"` and the wheel's `dependencies`: kiln builds no sources yet; or take a release of it: `[resolution] overrides = ["beta==VERSION"]`

    error: the group `a` includes itself
      --> pyproject.toml:10:6
       |
    10 | a = [{ include-group = "a" }]
       |      ^^^^^^^^^^^^^^^^^^^^^^^
       |
    help: remove one of the `include-group`
    [exit status: 2]
    "#);
}

/// A `uv.lock` of [`UV_PROJECT`].
fn uv_lock(environment: &TestEnvironment) -> String {
    let mut text = String::from(
        "version = 1\n[[package]]\nname = \"demo\"\nversion = \"1\"\nsource = { virtual = \".\" }\n\
         dependencies = [{ name = \"alpha\" }]\n[package.optional-dependencies]\nfast = [{ name = \"beta\" }]\n\
         [package.dev-dependencies]\ndev = [{ name = \"gamma\" }]\nserve = [{ name = \"delta\" }]\n\
         [package.metadata]\nrequires-dist = [{ name = \"alpha\", specifier = \"==1.0\" }]\n",
    );
    for name in ["alpha", "beta", "gamma", "delta"] {
        let file = format!("wheels/{name}-1.0-py3-none-any.whl");
        let bytes = fs_err::read(environment.path(&file)).unwrap();
        let (path, hash) = (environment.path(&file).display().to_string(), Digest::of(&bytes).hex());
        text += &format!(
            "[[package]]\nname = \"{name}\"\nversion = \"1.0\"\n\
             wheels = [{{ url = \"file://{path}\", hash = \"sha256:{hash}\" }}]\n"
        );
    }
    text
}

const UV_PROJECT: &str = "[project]\nname = \"demo\"\nversion = \"1\"\ndependencies = [\"alpha==1.0\"]\n";

#[test]
fn groups_and_extras_of_a_uv_lock_are_chosen_and_developers_groups_left_out() {
    for (choice, expected) in [
        ("", vec!["alpha==1.0"]),
        (", dev = true", vec!["alpha==1.0", "gamma==1.0"]),
        (", groups = [\"serve\"], extras = [\"fast\"]", vec!["alpha==1.0", "beta==1.0", "delta==1.0"]),
    ] {
        let environment = project(&format!("{{ file = \"uv.lock\"{choice} }}"));
        environment.write("pyproject.toml", UV_PROJECT);
        environment.write("uv.lock", uv_lock(&environment));
        environment.succeed("lock");
        assert_eq!(locked(&environment), expected, "{choice}");
    }
}

#[test]
fn a_uv_lock_that_does_not_fit_its_project_is_refused() {
    let environment = project("\"uv.lock\"");
    environment.write("pyproject.toml", UV_PROJECT.replace("==1.0\"", "==1.0\", \"beta\""));
    environment.write("uv.lock", uv_lock(&environment));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: `uv.lock` does not fit its `pyproject.toml`
      --> kiln.toml:13:16
       |
    13 | requirements = "uv.lock"
       |                ^^^^^^^^^
       |
    help: the project asks for something else than is locked: run `uv lock` there
    [exit status: 2]
    "#);
}

#[test]
fn a_poetry_lock_names_versions_and_hashes_and_the_indexes_the_rest() {
    let environment = project("\"poetry.lock\"");
    let lock = |hash: &str| {
        let package = |name: &str, group: &str, hash: &str| {
            format!(
                "[[package]]\nname = \"{name}\"\nversion = \"1.0\"\ngroups = [\"{group}\"]\n\
                 files = [{{ file = \"{name}-1.0-py3-none-any.whl\", hash = \"sha256:{hash}\" }}]\n"
            )
        };
        let metadata = "[metadata]\nlock-version = \"2.1\"\npython-versions = \"^3.10\"\n";
        package("alpha", "main", hash) + &package("beta", "dev", hash) + metadata
    };
    let wheel = fs_err::read(environment.path("wheels/alpha-1.0-py3-none-any.whl")).unwrap();
    environment.write("poetry.lock", lock(&Digest::of(&wheel).hex()));
    environment.succeed("lock");
    assert_eq!(locked(&environment), ["alpha==1.0"]);
    environment.write("poetry.lock", lock(&"0".repeat(64)));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: no wheel of alpha 1.0 has a hash that is given
     --> poetry.lock:2:8
      |
    2 | name = "alpha"
      |        ^^^^^^^
      |
    help: `alpha-1.0-py3-none-any.whl` has sha256:<digest>: find out which of the two is wrong; where the hashes belong to another version, pin it with `==`
    [exit status: 2]
    "#);
}

#[test]
fn several_files_count_together_and_may_lie_above_the_stack_in_its_repository() {
    let environment = project("[\"requirements.txt\", { file = \"../shared/more.txt\" }]");
    environment.write("requirements.txt", "alpha==1.0\n");
    fs_err::create_dir_all(environment.path("../shared")).unwrap();
    fs_err::write(environment.path("../shared/more.txt"), "beta==1.0\n").unwrap();
    assert_snapshot!(environment.kiln("lock"), @r"
    ------- stderr -------
    error: `../shared/more.txt` lies outside the repository: files of requirements lie below the nearest directory with a `.git`, or below the stack file's
    [exit status: 2]
    ");
    fs_err::create_dir_all(environment.path("../.git")).unwrap();
    environment.succeed("lock");
    assert_eq!(locked(&environment), ["alpha==1.0", "beta==1.0"]);
    assert_snapshot!(environment.kiln("build"), @"app sha256:<digest> <size> in 3 layers");
}

#[test]
fn a_choice_that_a_file_does_not_offer_is_refused() {
    let environment = project("{ file = \"requirements.txt\", groups = [\"a\"] }");
    environment.write("requirements.txt", "alpha\n");
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: a list of requirements has no groups and no extras
      --> kiln.toml:13:25
       |
    13 | requirements = { file = "requirements.txt", groups = ["a"] }
       |                         ^^^^^^^^^^^^^^^^^^
       |
    help: groups and extras are chosen from `pyproject.toml`, `uv.lock`, `pylock.toml` and `poetry.lock`
    [exit status: 2]
    "#);
}

#[test]
fn a_lock_whose_files_are_of_another_version_is_refused() {
    let environment = project("\"pylock.toml\"");
    let lock = "lock-version = \"1.0\"\ncreated-by = \"t\"\n\n[[packages]]\nname = \"alpha\"\nversion = \"2.0\"\n\
                wheels = [{ path = \"wheels/alpha-1.0-py3-none-any.whl\", hashes = { sha256 = \"00\" } }]\n";
    environment.write("pylock.toml", lock);
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: `alpha` has `alpha-1.0-py3-none-any.whl`, a wheel of alpha 1.0, and its version is 2.0
     --> pylock.toml:5:8
      |
    5 | name = "alpha"
      |        ^^^^^^^
      |
    help: write the file anew with the tool that made it, for this Python and with wheels
    [exit status: 2]
    "#);
}

#[test]
fn a_lock_that_says_another_size_than_the_wheel_has_is_refused_where_the_wheel_is_known() {
    let environment = project("\"pylock.toml\"");
    pylock(&environment);
    let text = environment.read("pylock.toml");
    environment.write("pylock.toml", text.replace("hashes =", "size = 5, hashes ="));
    let refused = environment.kiln("lock").to_string();
    let bytes = fs_err::metadata(environment.path("wheels/alpha-1.0-py3-none-any.whl")).unwrap().len().to_string();
    assert_snapshot!(refused.replace(&format!("{bytes} bytes"), "<size> bytes"), @r#"
    ------- stderr -------
    error: `alpha-1.0-py3-none-any.whl` has <size> bytes, and 5 are said of it
     --> pylock.toml:4:8
      |
    4 | name = "alpha"
      |        ^^^^^^^
      |
    help: the file and what names it do not belong together: write the lock anew, or get the file that it is for
    [exit status: 2]
    "#);
    environment.write("pylock.toml", &text);
    environment.succeed("build");
    // The store has it now.
    let url = text.replace("path = \"wheels/", "size = 5, url = \"https://example.org/");
    environment.write("pylock.toml", url);
    assert!(environment.kiln("lock").stderr.contains("bytes, and 5 are said of it"));
}

#[test]
fn groups_of_one_name_in_two_spellings_are_refused() {
    let environment = project("{ file = \"pyproject.toml\", groups = [\"a-b\"] }");
    let groups = "\n[dependency-groups]\na-b = [\"alpha\"]\na_b = [\"beta\"]\n";
    environment.write("pyproject.toml", format!("[project]\nname = \"demo\"\nversion = \"1\"\n{groups}"));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: the dependency group `a_b` is there twice, in another spelling
     --> pyproject.toml:7:1
      |
    7 | a_b = ["beta"]
      | ^^^
      |
    help: names that differ in case and in `-`, `_` and `.` alone are the same
    [exit status: 2]
    "#);
}

#[test]
fn a_wheel_of_the_project_is_a_package() {
    let environment = project("\"requirements.txt\"\npackages = [\"./dist/epsilon-1.0-py3-none-any.whl\"]");
    environment.write("requirements.txt", "alpha==1.0\n");
    let wheel = pure("epsilon", "1.0").requires("beta<2").finish();
    fs_err::create_dir_all(environment.path("dist")).unwrap();
    fs_err::write(environment.path("dist/epsilon-1.0-py3-none-any.whl"), wheel).unwrap();
    environment.succeed("lock");
    assert_eq!(locked(&environment), ["alpha==1.0", "beta==1.0", "epsilon==1.0"]);
    environment.stack(&stack(
        "packages = [\"./dist\", \"other @ ./dist/epsilon-1.0-py3-none-any.whl\", \"../x-1-py3-none-any.whl\"]",
    ));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: `./dist` is not a wheel, and kiln does not build sources yet
      --> kiln.toml:13:13
       |
    13 | packages = ["./dist", "other @ ./dist/epsilon-1.0-py3-none-any.whl", "../x-1-py3-none-any.whl"]
       |             ^^^^^^^^
       |
    help: build a wheel elsewhere and name it, such as `./dist/NAME-1.0-py3-none-any.whl`, relative to the stack file and below its directory

    error: the wheel is one of `epsilon`, and `other` is asked for
      --> kiln.toml:13:23
       |
    13 | packages = ["./dist", "other @ ./dist/epsilon-1.0-py3-none-any.whl", "../x-1-py3-none-any.whl"]
       |                       ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
       |
    help: name the wheel's package before the `@`

    error: `../x-1-py3-none-any.whl` is outside the project
      --> kiln.toml:13:70
       |
    13 | packages = ["./dist", "other @ ./dist/epsilon-1.0-py3-none-any.whl", "../x-1-py3-none-any.whl"]
       |                                                                      ^^^^^^^^^^^^^^^^^^^^^^^^^
       |
    help: such as `./dist/NAME-1.0-py3-none-any.whl`, relative to the stack file and below its directory
    [exit status: 2]
    "#);
}

#[test]
fn a_pipe_in_the_place_of_a_file_of_requirements_is_refused_at_once() {
    for file in ["pylock.toml", "uv.lock", "poetry.lock", "pyproject.toml", "requirements.txt"] {
        let environment = project(&format!("\"{file}\""));
        assert!(std::process::Command::new("mkfifo").arg(environment.path(file)).status().unwrap().success());
        let outcome = environment.kiln("lock");
        assert!(outcome.stderr.contains("regular file"), "{file}: {}", outcome.stderr);
        assert!(outcome.status.is_some_and(|status| (1..=3).contains(&status)), "{file}");
    }
}

/// A lock of pip with alpha 1.0.
fn pylock(environment: &TestEnvironment) {
    let digest = Digest::of(&pure("alpha", "1.0").finish()).hex();
    environment.write(
        "pylock.toml",
        format!(
            "lock-version = \"1.0\"\ncreated-by = \"test\"\n[[packages]]\nname = \"alpha\"\nversion = \"1.0\"\n\
             wheels = [{{ path = \"wheels/alpha-1.0-py3-none-any.whl\", hashes = {{ sha256 = \"{digest}\" }} }}]\n"
        ),
    );
}

#[test]
fn a_lock_that_contradicts_what_is_below_is_an_error() {
    let environment = project("\"pylock.toml\"");
    pylock(&environment);
    let tiers = |below: &str| {
        let upper = "\n[images.upper]\nfrom = \"app\"\nrequirements = \"pylock.toml\"\n";
        format!("{}{upper}", stack(&format!("packages = [\"{below}\"]")))
    };
    environment.stack(&tiers("alpha==2.0"));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: the packages of `upper` contradict one another on linux/amd64
      --> kiln.toml:13:13
       |
    13 | packages = ["alpha==2.0"]
       |             ^^^^^^^^^^^^ in `app`
       |
      ::: pylock.toml:4:8
       |
     4 | name = "alpha"
       |        ------- locked here
       |
    help: Because `pylock.toml` has alpha 1.0 and the stack requires alpha==2.0
    [exit status: 2]
    "#);
    // What nobody asked for in this version gives way.
    environment.stack(&tiers("alpha"));
    environment.succeed("lock");
    assert_eq!(locked(&environment), ["alpha==1.0"]);
}

#[test]
fn a_package_of_a_lock_is_left_out_and_other_choices_are_told_to_change_nothing() {
    let environment = project("\"pylock.toml\"");
    pylock(&environment);
    let text = stack("requirements = \"pylock.toml\"");
    environment.stack(&format!("{text}\n[resolution]\nexclude = [\"alpha\"]\nconstraints = [\"alpha>=2\"]\n"));
    assert_snapshot!(environment.kiln("lock"), @r"
    <root>/project/kiln.lock: app (0 packages)
    ------- stderr -------
    warning: `constraints` of `resolution` choose nothing in the locks that `app` names, which are taken as they are: `exclude` leaves a package out, and the tool that wrote the lock changes a version
    warning: kiln.toml:17: `constraints` names `alpha`, which no image has
    ");
}

#[test]
fn a_uv_lock_without_its_project_or_for_another_python_is_refused() {
    let environment = project("\"uv.lock\"");
    environment.write("uv.lock", "version = 1\n");
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: `uv.lock` has no `pyproject.toml` beside it
      --> kiln.toml:13:16
       |
    13 | requirements = "uv.lock"
       |                ^^^^^^^^^
       |
    help: uv tells by it which packages of the lock are the project's
    [exit status: 2]
    "#);
    environment.write("pyproject.toml", "[project]\nname = \"x\"\nversion = \"1\"\nrequires-python = \">=3.12\"\n");
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: the project of `uv.lock` needs Python >=3.12, and the image has 3.11.0
      --> kiln.toml:13:16
       |
    13 | requirements = "uv.lock"
       |                ^^^^^^^^^
       |
    help: change the Python of the image, the base, or the project
    [exit status: 2]
    "#);
}
