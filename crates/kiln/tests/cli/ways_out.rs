//! Packages that are asked for as sources, which kiln does not build: each error names ways out, and each way works.

use insta::assert_snapshot;

use crate::environment::TestEnvironment;
use crate::requirements::locked;
use crate::server::Server;
use crate::wheels::{pure, stack};

/// Ways to ask for omega's source: the file that does, with its content.
const PROJECT: &str = "[project]\nname = \"demo\"\nversion = \"1\"\nrequires-python = \">=3.10\"\n";

fn sources() -> [(&'static str, String); 11] {
    let poetry = |rest: &str| {
        format!(
            "[[package]]\nname = \"omega\"\nversion = \"1.0\"\ngroups = [\"main\"]\n{rest}\n\
             [metadata]\nlock-version = \"2.1\"\npython-versions = \"^3.10\"\n"
        )
    };
    let pylock =
        |rest: &str| format!("lock-version = \"1.0\"\ncreated-by = \"t\"\n[[packages]]\nname = \"omega\"\n{rest}\n");
    let uv = |rest: &str| {
        format!(
            "version = 1\n[[package]]\nname = \"demo\"\nversion = \"1\"\nsource = {{ virtual = \".\" }}\n\
             dependencies = [{{ name = \"omega\" }}]\n[package.metadata]\nrequires-dist = []\n\
             [[package]]\nname = \"omega\"\nversion = \"1.0\"\n{rest}\n"
        )
    };
    let hash = "0".repeat(64);
    [
        ("uv.lock", uv("sdist = { url = \"https://example.org/omega-1.0.tar.gz\" }")),
        ("uv.lock", uv("source = { git = \"https://example.org/omega\" }")),
        ("pylock.toml", pylock("version = \"1.0\"\nsdist = { url = \"https://example.org/omega-1.0.tar.gz\" }")),
        ("pylock.toml", pylock("vcs = { type = \"git\", url = \"https://example.org/omega\", commit-id = \"0\" }")),
        ("pylock.toml", pylock("directory = { path = \"omega\" }")),
        ("poetry.lock", poetry(&format!("files = [{{ file = \"omega-1.0.tar.gz\", hash = \"sha256:{hash}\" }}]"))),
        ("poetry.lock", poetry("files = []\n[package.source]\ntype = \"git\"\nurl = \"https://example.org/omega\"\n")),
        ("pyproject.toml", format!("{PROJECT}dependencies = [\"omega @ git+https://example.org/omega\"]\n")),
        (
            "pyproject.toml",
            format!("{PROJECT}dependencies = [\"omega\"]\n[tool.uv.sources]\nomega = {{ path = \"omega\" }}\n"),
        ),
        ("requirements.txt", "-e git+https://example.org/omega#egg=omega\n".to_owned()),
        ("requirements.txt", "https://example.org/omega-1.0.tar.gz\n".to_owned()),
    ]
}

/// A project whose image takes a file of requirements, with omega's wheel beside it.
fn project((file, text): &(&str, String)) -> TestEnvironment {
    let environment = TestEnvironment::with_stack(&stack(&format!("requirements = \"{file}\"")));
    environment.wheel(&pure("omega", "1.0").requires("alpha"));
    environment.wheel(&pure("alpha", "1.0"));
    if *file == "uv.lock" {
        environment.write("pyproject.toml", PROJECT);
    }
    environment.write(file, text);
    environment
}

#[test]
fn a_source_is_refused_at_its_line_with_a_way_out() {
    let mut said = String::new();
    for source in &sources() {
        let outcome = project(source).kiln("lock");
        assert_eq!(outcome.status, Some(2), "{}", outcome.stderr);
        assert!(outcome.stderr.contains("declare `[wheels.omega]`"), "{}", outcome.stderr);
        let lines = outcome.stderr.lines().filter(|line| line.starts_with("error") || line.contains("-->"));
        said.extend(lines.map(|line| format!("{}\n", line.trim())));
    }
    assert_snapshot!(said, @r"
    error: the lock has no wheel of omega 1.0, only an archive of its source
    --> uv.lock:10:8
    error: the lock has no wheel of omega, only a repository
    --> uv.lock:10:8
    error: the lock has no wheel of omega 1.0, only an archive of its source
    --> pylock.toml:4:8
    error: the lock has no wheel of omega, only a repository
    --> pylock.toml:4:8
    error: the lock has no wheel of omega, only a directory
    --> pylock.toml:4:8
    error: `omega` has no wheel in this lock, only its source
    --> poetry.lock:2:8
    error: `omega` is built from source, and kiln does not build sources yet
    --> poetry.lock:2:8
    error: a repository is not taken: it is source
    --> pyproject.toml:5:17
    error: `omega` is built from source here, and kiln does not build sources yet
    --> pyproject.toml:7:9
    error: `-e` is not taken: an image holds no checkout, and kiln installs wheels
    --> requirements.txt:1:1
    error: a source archive is not taken: kiln installs wheels
    --> requirements.txt:1:1
    ");
    assert_snapshot!(project(&sources()[0]).kiln("lock"), @r#"
    ------- stderr -------
    error: the lock has no wheel of omega 1.0, only an archive of its source
      --> uv.lock:10:8
       |
    10 | name = "omega"
       |        ^^^^^^^
       |
    help: put its wheel, built elsewhere (`pip wheel --no-deps`), into a directory of `[index] find-links`, and declare `[wheels.omega]` with `version = "1.0"` and the wheel's `dependencies`: kiln builds no sources yet
    [exit status: 2]
    "#);
    assert_snapshot!(project(&sources()[7]).kiln("lock"), @r#"
    ------- stderr -------
    error: a repository is not taken: it is source
     --> pyproject.toml:5:17
      |
    5 | dependencies = ["omega @ git+https://example.org/omega"]
      |                 ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: put its wheel, built elsewhere (`pip wheel --no-deps`), into a directory of `[index] find-links`, and declare `[wheels.omega]` with `version = "VERSION"` and the wheel's `dependencies`: kiln builds no sources yet; or take a release of it: `[resolution] overrides = ["omega==VERSION"]`
    [exit status: 2]
    "#);
}

#[test]
fn a_wheel_that_the_stack_brings_takes_the_place_of_a_source() {
    for source in &sources() {
        let environment = project(source);
        let text = environment.read("kiln.toml");
        environment.stack(&format!("{text}\n[wheels.omega]\nversion = \"1.0\"\ndependencies = [\"alpha\"]\n"));
        environment.succeed("lock");
        let is_lock = source.0.ends_with(".lock") || source.0 == "pylock.toml";
        let expected = if is_lock { vec!["omega==1.0"] } else { vec!["alpha==1.0", "omega==1.0"] };
        assert_eq!(locked(&environment), expected, "{source:?}");
        environment.succeed("build --locked");
    }
}

#[test]
fn an_override_takes_the_place_of_a_source_and_an_exclusion_leaves_it_out() {
    for source in &sources() {
        let environment = project(source);
        let text = environment.read("kiln.toml");
        environment.stack(&format!("{text}\n[resolution]\nexclude = [\"omega\"]\n"));
        environment.succeed("lock");
        assert!(locked(&environment).is_empty(), "{source:?}");
        if matches!(source.0, "pyproject.toml" | "requirements.txt") {
            environment.stack(&format!("{text}\n[resolution]\noverrides = [\"omega==1.0\"]\n"));
            environment.succeed("lock");
            assert_eq!(locked(&environment), ["alpha==1.0", "omega==1.0"], "{source:?}");
        }
    }
}

#[test]
fn a_wheel_of_another_version_than_is_locked_is_refused() {
    let environment = project(&sources()[0]);
    let text = environment.read("kiln.toml");
    environment.stack(&format!("{text}\n[wheels.omega]\nversion = \"1.1\"\ndependencies = []\n"));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: omega is locked in version 1.0, and its recipe brings 1.1
      --> uv.lock:10:8
       |
    10 | name = "omega"
       |        ^^^^^^^
       |
      ::: kiln.toml:15:9
       |
    15 | [wheels.omega]
       |         ----- its recipe
       |
    help: bring its wheel in that version, `version = "1.0"`, or lock 1.1
    [exit status: 2]
    "#);
    let environment = project(&sources()[5]);
    environment.stack(&format!("{text}\n[wheels.omega]\nversion = \"1.1\"\n").replace("uv.lock", "poetry.lock"));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: `omega` is compiled from source, and its metadata is not known
      --> poetry.lock:2:8
       |
     2 | name = "omega"
       |        ^^^^^^^
       |
      ::: kiln.toml:15:9
       |
    15 | [wheels.omega]
       |         ----- its recipe
       |
    help: declare `version` and `dependencies` in its recipe: wheels cannot be compiled yet
    [exit status: 2]
    "#);
}

#[test]
fn a_choice_that_no_lock_and_no_project_offers_is_shown_at_its_line_with_what_there_is() {
    let mut said = String::new();
    for (file, choice) in [
        ("uv.lock", "groups = [\"dew\"]"),
        ("uv.lock", "extras = [\"x\"]"),
        ("uv.lock", "package = \"demi\""),
        ("pylock.toml", "groups = [\"dew\"]"),
        ("pylock.toml", "extras = [\"x\"]"),
        ("poetry.lock", "groups = [\"dew\"]"),
        ("poetry.lock", "extras = [\"x\"]"),
        ("pyproject.toml", "groups = [\"dew\"]"),
        ("pyproject.toml", "extras = [\"x\"]"),
    ] {
        let source = sources().into_iter().find(|(name, _)| *name == file).unwrap();
        let environment = project(&source);
        environment.stack(&stack(&format!("requirements = {{ file = \"{file}\", {choice} }}")));
        let groups = "[package.dev-dependencies]\ndev = []\n";
        let uv = environment.path("uv.lock");
        if uv.exists() {
            let text = environment.read("uv.lock");
            environment.write("uv.lock", text.replace("[package.metadata]", &format!("{groups}[package.metadata]")));
        }
        let outcome = environment.kiln("lock");
        assert_eq!(outcome.status, Some(2), "{}", outcome.stderr);
        let kept = |line: &&str| ["error", "help"].iter().any(|start| line.starts_with(start)) || line.contains("-->");
        said.extend(outcome.stderr.lines().filter(kept).map(|line| format!("{}\n", line.trim())));
    }
    assert_snapshot!(said, @r#"
    error: `uv.lock` has no group `dew`
    --> kiln.toml:13:25
    help: did you mean `dev`?
    error: `uv.lock` has no extra `x`
    --> kiln.toml:13:25
    help: it has no extra
    error: `uv.lock` has no member `demi`
    --> kiln.toml:13:25
    help: did you mean `demo`?
    error: `pylock.toml` cannot be used: it has no group `dew`; there is none
    --> kiln.toml:13:25
    help: choose from what there is: `groups`, `extras`
    error: `pylock.toml` cannot be used: it has no extra `x`; there is none
    --> kiln.toml:13:25
    help: choose from what there is: `groups`, `extras`
    error: `poetry.lock` has no group `dew`; there is `main`
    --> kiln.toml:13:25
    error: `poetry.lock` has no extra `x`; there is none
    --> kiln.toml:13:25
    error: a repository is not taken: it is source
    --> pyproject.toml:5:17
    help: put its wheel, built elsewhere (`pip wheel --no-deps`), into a directory of `[index] find-links`, and declare `[wheels.omega]` with `version = "VERSION"` and the wheel's `dependencies`: kiln builds no sources yet; or take a release of it: `[resolution] overrides = ["omega==VERSION"]`
    error: the project has no group `dew`
    --> kiln.toml:13:25
    help: it declares no group
    error: a repository is not taken: it is source
    --> pyproject.toml:5:17
    help: put its wheel, built elsewhere (`pip wheel --no-deps`), into a directory of `[index] find-links`, and declare `[wheels.omega]` with `version = "VERSION"` and the wheel's `dependencies`: kiln builds no sources yet; or take a release of it: `[resolution] overrides = ["omega==VERSION"]`
    error: the project has no extra `x`
    --> kiln.toml:13:25
    help: it declares no extra
    "#);
}

#[test]
fn wheels_for_other_pythons_are_told_by_the_page_of_their_index() {
    let environment = TestEnvironment::with_stack("");
    let served = environment.root().join("served");
    fs_err::create_dir_all(&served).unwrap();
    environment.tell_uv("served", &served);
    let server = Server::start(served.clone());
    let index = format!("default = \"{}\"", server.index());
    environment.stack(&stack("packages = [\"alpha<2\"]").replace("find-links = [\"wheels\"]", &index));
    let files = ["alpha-1.0-cp39-cp39-manylinux_2_17_x86_64.whl", "alpha-1.0-cp310-cp310-win_amd64.whl"];
    for file in files {
        fs_err::write(served.join(file), pure("alpha", "1.0").finish()).unwrap();
    }
    let page = |more: &str| {
        let links: Vec<String> =
            files.iter().chain([&more]).map(|file| format!("<a href=\"/files/{file}\">{file}</a>")).collect();
        fs_err::write(served.join("alpha"), links.concat()).unwrap();
    };
    page("alpha-2.0-py3-none-any.whl");
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: no wheel of alpha==1.0 fits Python 3.11 on linux/amd64 with glibc 2.36
      --> kiln.toml:13:13
       |
    13 | packages = ["alpha<2"]
       |             ^^^^^^^^^
       |
    help: its wheels of these versions are for cp39, cp310 alone; 2.0 has one that fits; choose a version or a Python that has wheels, or build the wheel elsewhere (`pip wheel --no-deps`) and put it into a directory of `[index] find-links`
    [exit status: 2]
    "#);
    // An index that has no page decides nothing.
    fs_err::remove_file(served.join("alpha")).unwrap();
    let said = environment.kiln("lock").stderr;
    assert!(said.contains("it has wheels for other systems alone, or only its source"), "{said}");
}
