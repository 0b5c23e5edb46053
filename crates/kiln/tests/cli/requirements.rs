//! Requirements files: what is read, what is refused at its line, and what never reaches uv.

use insta::assert_snapshot;

use crate::environment::{Outcome, TestEnvironment};
use crate::wheels::{pure, stack};

/// A project whose image has the packages of `requirements.txt`, with wheels of `alpha`, `beta` and `gamma`.
pub(crate) fn project(text: &str) -> TestEnvironment {
    let environment = TestEnvironment::with_stack(&stack("requirements = \"requirements.txt\""));
    environment.write("requirements.txt", text);
    for (name, version) in [("alpha", "1.0"), ("alpha", "2.0"), ("alpha", "3.0a1"), ("beta", "1.0")] {
        environment.wheel(&pure(name, version));
    }
    environment.wheel(&pure("gamma", "1.0").requires("beta"));
    environment
}

/// The packages of the lock.
pub(crate) fn locked(environment: &TestEnvironment) -> Vec<String> {
    let lock = environment.read("kiln.lock");
    let lines = lock.lines().filter(|line| line.contains(", wheel = "));
    lines
        .map(|line| {
            let mut quoted = line.split('"').skip(1).step_by(2);
            format!("{}=={}", quoted.next().unwrap(), quoted.next().unwrap())
        })
        .collect()
}

fn refused(text: &str) -> Outcome {
    let outcome = project(text).kiln("lock");
    assert_eq!(outcome.status, Some(2), "{outcome}");
    outcome
}

#[test]
fn included_files_constraints_markers_and_wheels_are_read_as_pip_reads_them() {
    let environment = project("-r deep/base.txt\n-c limits.txt\ngamma ; sys_platform == 'win32'\nalpha>=1 # any\n");
    environment.write("deep/base.txt", "../wheels/beta-1.0-py3-none-any.whl ; \\\n    python_full_version >= '3.11'\n");
    environment.write("limits.txt", "alpha<2\n");
    environment.succeed("build");
    assert_eq!(locked(&environment), ["alpha==1.0", "beta==1.0"]);
}

#[test]
fn pre_releases_are_chosen_where_the_file_says_so() {
    let environment = project("--pre\nalpha\n");
    environment.succeed("lock");
    assert_eq!(locked(&environment), ["alpha==3.0a1"]);
    environment.write("requirements.txt", "alpha\n");
    environment.succeed("lock --upgrade");
    assert_eq!(locked(&environment), ["alpha==2.0"]);
}

#[test]
fn indexes_and_links_of_the_file_are_searched() {
    let environment = project("--index-url ./index\n-f more\ndelta\nepsilon\n");
    let (delta, epsilon) = (pure("delta", "1.0"), pure("epsilon", "1.0"));
    environment.write(&format!("index/delta/{}", delta.file_name()), delta.finish());
    environment.write("index/delta/index.html", format!("<a href=\"{0}\">{0}</a>", delta.file_name()));
    environment.write(&format!("more/{}", epsilon.file_name()), epsilon.finish());
    environment.succeed("build");
    assert_eq!(locked(&environment), ["delta==1.0", "epsilon==1.0"]);
}

#[test]
fn what_has_to_be_built_is_refused_at_its_line() {
    assert_snapshot!(refused("alpha\n-e .\n"), @r"
    ------- stderr -------
    error: the project itself is not installed: kiln installs wheels
     --> requirements.txt:2:1
      |
    2 | -e .
      | ^^^^
      |
    help: list what it needs; kiln runs no code while it locks: build a wheel elsewhere (`pip wheel --no-deps`) and name it, `./dist/NAME-VERSION-py3-none-any.whl`; or bring its files with `copy`
    [exit status: 2]
    ");
    assert_snapshot!(refused(".\n"), @r"
    ------- stderr -------
    error: a directory is not taken: kiln installs wheels
     --> requirements.txt:1:1
      |
    1 | .
      | ^
      |
    help: kiln runs no code while it locks: build a wheel elsewhere (`pip wheel --no-deps`) and name it, `./dist/NAME-VERSION-py3-none-any.whl`
    [exit status: 2]
    ");
    assert_snapshot!(refused("alpha\n./src # ours\n"), @r"
    ------- stderr -------
    error: a directory is not taken: kiln installs wheels
     --> requirements.txt:2:1
      |
    2 | ./src # ours
      | ^^^^^
      |
    help: kiln runs no code while it locks: build a wheel elsewhere (`pip wheel --no-deps`) and name it, `./dist/NAME-VERSION-py3-none-any.whl`
    [exit status: 2]
    ");
    assert_snapshot!(refused("numpy @ file:///croot/numpy_1708638617955/work\n"), @r#"
    ------- stderr -------
    error: `numpy` is asked for as a directory, and kiln installs wheels
     --> requirements.txt:1:1
      |
    1 | numpy @ file:///croot/numpy_1708638617955/work
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: this line was written by `pip freeze` inside conda: write `NAME==VERSION` instead; put its wheel, built elsewhere (`pip wheel --no-deps`), into a directory of `[index] find-links`, and declare `[wheels.numpy]` with `version = "VERSION"` and the wheel's `dependencies`: kiln builds no sources yet; or take a release of it: `[resolution] overrides = ["numpy==VERSION"]`
    [exit status: 2]
    "#);
    assert_snapshot!(refused("alpha @ git+https://example.org/alpha@v1\n"), @r#"
    ------- stderr -------
    error: a repository is not taken: it is source
     --> requirements.txt:1:1
      |
    1 | alpha @ git+https://example.org/alpha@v1
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: put its wheel, built elsewhere (`pip wheel --no-deps`), into a directory of `[index] find-links`, and declare `[wheels.alpha]` with `version = "VERSION"` and the wheel's `dependencies`: kiln builds no sources yet; or take a release of it: `[resolution] overrides = ["alpha==VERSION"]`
    [exit status: 2]
    "#);
    assert_snapshot!(refused("https://example.org/alpha-1.0.tar.gz\n"), @r#"
    ------- stderr -------
    error: a source archive is not taken: kiln installs wheels
     --> requirements.txt:1:1
      |
    1 | https://example.org/alpha-1.0.tar.gz
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: put its wheel, built elsewhere (`pip wheel --no-deps`), into a directory of `[index] find-links`, and declare `[wheels.alpha]` with `version = "VERSION"` and the wheel's `dependencies`: kiln builds no sources yet; or take a release of it: `[resolution] overrides = ["alpha==VERSION"]`
    [exit status: 2]
    "#);
    assert_snapshot!(refused("alpha --no-binary alpha\n--no-binary :all:\n"), @r"
    ------- stderr -------
    error: `--no-binary` stands beside a requirement, where pip ignores it
     --> requirements.txt:1:7
      |
    1 | alpha --no-binary alpha
      |       ^^^^^^^^^^^^^^^^^
      |
    help: give it a line of its own

    error: `--no-binary` is not taken: it asks to build sources
     --> requirements.txt:2:1
      |
    2 | --no-binary :all:
      | ^^^^^^^^^^^^^^^^^
      |
    help: kiln runs no code while it locks: build a wheel elsewhere (`pip wheel --no-deps`) and name it, `./dist/NAME-VERSION-py3-none-any.whl`
    [exit status: 2]
    ");
    assert_snapshot!(refused("alpha -C--build-option=x\n"), @r"
    ------- stderr -------
    error: `--config-settings` concerns building, which is not done
     --> requirements.txt:1:7
      |
    1 | alpha -C--build-option=x
      |       ^^^^^^^^^^^^^^^^^^
      |
    help: kiln runs no code while it locks: build a wheel elsewhere (`pip wheel --no-deps`) and name it, `./dist/NAME-VERSION-py3-none-any.whl`
    [exit status: 2]
    ");
}

#[test]
fn options_that_are_not_followed_are_refused_at_their_line() {
    assert_snapshot!(refused("--trusted-host example.org\nalpha\n"), @r"
    ------- stderr -------
    error: `--trusted-host` is not taken: certificates are always checked
     --> requirements.txt:1:1
      |
    1 | --trusted-host example.org
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: trust the certificate of its authority: `SSL_CERT_FILE=FILE kiln lock`
    [exit status: 2]
    ");
    assert_snapshot!(refused("alpha\n--frobnicate\n"), @r"
    ------- stderr -------
    error: `--frobnicate` is no option of requirements files
     --> requirements.txt:2:1
      |
    2 | --frobnicate
      | ^^^^^^^^^^^^
      |
    help: options are those of pip's requirements files: `-r`, `-c`, `--hash`, `--index-url`, `--extra-index-url`, `--find-links`, `--no-index`, `--pre`, `--require-hashes`
    [exit status: 2]
    ");
    assert_snapshot!(refused("--use-feature fast-deps\n"), @r"
    ------- stderr -------
    error: `--use-feature` is not taken
     --> requirements.txt:1:1
      |
    1 | --use-feature fast-deps
      | ^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: it changes how pip works: remove it
    [exit status: 2]
    ");
    assert_snapshot!(refused("--index-url https://${USER}:${TOKEN}@example.org/simple\n"), @r"
    ------- stderr -------
    error: `${USER}` would come from the environment, which kiln does not read
     --> requirements.txt:1:21
      |
    1 | --index-url https://****************@example.org/simple
      |                     ^^^^^^^
      |
    help: write the value; credentials of an index belong in `~/.netrc`
    [exit status: 2]
    ");
    assert_snapshot!(refused("-i https://me:secret@example.org/simple\nalpha\n"), @r"
    ------- stderr -------
    error: credentials in a requirements file are not taken: a lock holds none
     --> requirements.txt:1:1
      |
    1 | -i https://*********@example.org/simple
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: they belong in `~/.netrc`; an index may have them in `[index]` of the stack file
    [exit status: 2]
    ");
    assert_snapshot!(refused("alpha --pre\n"), @r"
    ------- stderr -------
    error: `--pre` stands beside a requirement, where pip ignores it
     --> requirements.txt:1:7
      |
    1 | alpha --pre
      |       ^^^^^
      |
    help: give it a line of its own
    [exit status: 2]
    ");
    assert_snapshot!(refused("alpha=1\n"), @r#"
    ------- stderr -------
    error: this is not a Python requirement
     --> requirements.txt:1:1
      |
    1 | alpha=1
      | ^^^^^^^ Failed to parse version: no such comparison operator "=", must be one of ~= == != <= >= < > ===
      |
    help: a requirement is a name and, optionally, versions: `torch==2.11.0`, `transformers>=4.30,<5`
    [exit status: 2]
    "#);
}

#[test]
fn markers_that_tools_read_in_different_ways_are_refused_at_their_line() {
    let text =
        "alpha ; sys_platform ~= 'linux'\nalpha ; platform_release >= '5'\nalpha ; python_version in '3.9,3.10'\n";
    assert_snapshot!(refused(text), @r"
    ------- stderr -------
    error: this marker cannot be evaluated
     --> requirements.txt:1:1
      |
    1 | alpha ; sys_platform ~= 'linux'
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ `sys_platform ~= 'linux'` orders texts, which tools do in different ways
      |
    help: compare texts with `==`, `!=` or `in`

    error: this marker cannot be evaluated
     --> requirements.txt:2:1
      |
    2 | alpha ; platform_release >= '5'
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ `platform_release >= '5'` asks for the kernel of the machine that runs the image
      |
    help: nobody knows it while packages are chosen: leave it out

    error: this marker cannot be evaluated
     --> requirements.txt:3:1
      |
    3 | alpha ; python_version in '3.9,3.10'
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^ `python_version in '3.9,3.10'` looks for a text in a text, and some tools compare versions
      |
    help: compare with `==`, joined by `or`
    [exit status: 2]
    ");
}

#[test]
fn a_mistake_in_an_included_file_is_shown_in_that_file() {
    let environment = project("-r deep/base.txt\n");
    environment.write("deep/base.txt", "alpha\n\n-r nested.txt\n");
    assert_snapshot!(environment.kiln("lock"), @r"
    ------- stderr -------
    error: `deep/nested.txt` does not exist
     --> deep/base.txt:3:1
      |
    3 | -r nested.txt
      | ^^^^^^^^^^^^^
      |
    help: a path in a requirements file is relative to that file
    [exit status: 2]
    ");
    environment.write("deep/nested.txt", "# sources\n-e ./x\n-r ../requirements.txt\n");
    assert_snapshot!(environment.kiln("lock"), @r"
    ------- stderr -------
    error: `-e` is not taken: an image holds no checkout, and kiln installs wheels
     --> deep/nested.txt:2:1
      |
    2 | -e ./x
      | ^^^^^^
      |
    help: kiln runs no code while it locks: build a wheel elsewhere (`pip wheel --no-deps`) and name it, `./dist/NAME-VERSION-py3-none-any.whl`

    error: `requirements.txt` includes itself
     --> deep/nested.txt:3:1
      |
    3 | -r ../requirements.txt
      | ^^^^^^^^^^^^^^^^^^^^^^
      |
    help: remove this line or the one that includes this file
    [exit status: 2]
    ");
}

#[test]
fn files_that_are_not_there_or_elsewhere_are_refused_at_their_line() {
    let environment = project("./wheels/alpha-9-py3-none-any.whl\n");
    assert_snapshot!(environment.kiln("lock"), @r"
    ------- stderr -------
    error: there is no file `alpha-9-py3-none-any.whl`
     --> requirements.txt:1:1
      |
    1 | ./wheels/alpha-9-py3-none-any.whl
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: a path is relative to the file that names it
    [exit status: 2]
    ");
    environment.write("requirements.txt", "-f nowhere\nalpha\n");
    assert_snapshot!(environment.kiln("lock"), @r"
    ------- stderr -------
    error: this is not a directory
     --> requirements.txt:1:1
      |
    1 | -f nowhere
      | ^^^^^^^^^^
      |
    help: a path is relative to the file that names it
    [exit status: 2]
    ");
    fs_err::create_dir(environment.root().join("outside")).unwrap();
    environment.write("requirements.txt", "-f ../outside\nalpha\n");
    assert_snapshot!(environment.kiln("lock"), @r"
    ------- stderr -------
    error: this lies outside the project, where a lock cannot name it
     --> requirements.txt:1:1
      |
    1 | -f ../outside
      | ^^^^^^^^^^^^^
      |
    help: bring the wheels into the stack's directory, or name theirs in `[index] find-links`
    [exit status: 2]
    ");
    environment.write("requirements.txt", "-r /dev/zero\n");
    assert_snapshot!(environment.kiln("lock"), @r"
    ------- stderr -------
    error: `../../../dev/zero` cannot be read: it is outside of the repository
     --> requirements.txt:1:1
      |
    1 | -r /dev/zero
      | ^^^^^^^^^^^^
      |
    help: a path in a requirements file is relative to that file
    [exit status: 2]
    ");
}

#[test]
fn indexes_of_the_file_and_of_the_stack_must_agree() {
    let environment = project("--no-index\nalpha\n");
    let text = environment.read("kiln.toml");
    environment.stack(&text.replace("find-links", "default = \"https://example.org/simple\"\nfind-links"));
    assert_snapshot!(environment.kiln("lock"), @r"
    ------- stderr -------
    error: no index is to be searched, and the stack names some
     --> requirements.txt:1:1
      |
    1 | --no-index
      | ^^^^^^^^^^
      |
    help: remove this line, or `default`, `extra` and `packages` of `[index]` in the stack
    [exit status: 2]
    ");
    environment.write("requirements.txt", "--index-url https://example.org/other\nalpha\n");
    assert_snapshot!(environment.kiln("lock"), @r"
    ------- stderr -------
    error: the stack names another default index
     --> requirements.txt:1:1
      |
    1 | --index-url https://example.org/other
      | ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^
      |
    help: keep one of them; `extra` of `[index]` and `--extra-index-url` name more
    [exit status: 2]
    ");
    environment.stack(&text);
    environment.write("requirements.txt", "--index-url https://example.org/other\n--no-index\nalpha\n");
    assert_snapshot!(environment.kiln("lock"), @r"
    ------- stderr -------
    error: no index is to be searched, and one is named
     --> requirements.txt:2:1
      |
    1 | --index-url https://example.org/other
      | ------------------------------------- here
    2 | --no-index
      | ^^^^^^^^^^
      |
    help: remove one of the two
    [exit status: 2]
    ");
    environment.write("requirements.txt", "--no-index\nalpha\n");
    environment.succeed("lock");
}

#[test]
fn a_change_in_an_included_file_is_noticed() {
    for option in ["-r", "-c"] {
        let environment = project(&format!("{option} deep/base.txt\nalpha\n"));
        environment.write("deep/base.txt", "-r more.txt\n");
        environment.write("deep/more.txt", "alpha==1.0\n");
        environment.succeed("lock");
        environment.succeed("lock --check");
        environment.write("deep/more.txt", "alpha==2.0\n");
        let outcome = environment.kiln("lock --check");
        assert_eq!(outcome.status, Some(2), "{outcome}");
        environment.succeed("build");
        assert_eq!(locked(&environment), ["alpha==2.0"]);
    }
}

#[test]
fn a_conflict_points_at_the_lines_of_the_file_and_of_the_stack() {
    let environment = project("# ours\nalpha==1.0\n");
    let text = environment.read("kiln.toml");
    environment.stack(&text.replace("requirements =", "packages = [\"alpha==2.0\"]\nrequirements ="));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: the packages of `app` contradict one another on linux/amd64
      --> kiln.toml:13:13
       |
    13 | packages = ["alpha==2.0"]
       |             ^^^^^^^^^^^^
       |
      ::: requirements.txt:2:1
       |
     2 | alpha==1.0
       | ----------
       |
    help: Because this image depends on alpha==2.0 and you require alpha==1.0
    [exit status: 2]
    "#);
    environment.stack(&text);
    environment.write("requirements.txt", "nosuch>=1\n");
    assert_snapshot!(environment.kiln("lock"), @r"
    ------- stderr -------
    error: the packages of `app` cannot be resolved on linux/amd64
     --> requirements.txt:1:1
      |
    1 | nosuch>=1
      | ^^^^^^^^^
      |
    help: Because nosuch was not found in the package registry and you require nosuch>=1
    [exit status: 2]
    ");
}

/// uv that shows what it gets, and what lies in its directory.
const CURIOUS: &str = r#"
{ echo "$@"; env | sort; } > "$0.seen"
cat kiln-uv.toml pyproject.toml requirements.txt constraints.txt > "$0.files"
exit 2
"#;

#[test]
fn uv_reads_what_kiln_writes_and_sees_nothing_of_the_user() {
    let environment = project("");
    let (hash, wheels) = ("0".repeat(64), environment.path("wheels"));
    environment.write(
        "requirements.txt",
        format!("-c limits.txt\n--pre\nalpha[x] >= 1 ; python_version > '3'  --hash=sha256:{hash}\n./wheels/beta-1.0-py3-none-any.whl\n"),
    );
    environment.write("limits.txt", "gamma<2\n");
    environment.script("uv", CURIOUS);
    let mut command = environment.command();
    for name in ["UV_NO_SOURCES", "UV_INDEX_URL", "UV_CONFIG_FILE", "PIP_INDEX_URL", "VIRTUAL_ENV", "KILN_CACHE_REMOTE"]
    {
        command.env(name, "https://example.org/simple");
    }
    command.env("SSL_CERT_FILE", "/ca.pem").env("https_proxy", "http://127.0.0.1:1").env("NETRC", "/netrc").arg("lock");
    let _ = Outcome::of(command);
    let seen = |name: &str| {
        let text = fs_err::read_to_string(environment.root().join("bin").join(name)).unwrap();
        // The shell's own.
        let own = |line: &&str| !["PWD=", "OLDPWD=", "SHLVL=", "_="].iter().any(|name| line.starts_with(name));
        text.lines().filter(own).map(|line| format!("{line}\n")).collect::<String>()
    };
    assert_snapshot!(seen("uv.seen"), @r"
    pip compile --no-progress --color never --format pylock.toml --config-file kiln-uv.toml --only-binary :all: --no-header --no-annotate --no-python-downloads --python <root>/store/temporary/.tmp<n>/python3.11 --output-file pylock.kiln.toml pyproject.toml requirements.txt --constraints constraints.txt
    HOME=<root>/home
    NETRC=/netrc
    SSL_CERT_FILE=/ca.pem
    https_proxy=http://127.0.0.1:1
    ");
    assert_snapshot!(seen("uv.files").replace(wheels.to_str().unwrap(), "<wheels>"), @r#"
    no-build = true
    no-index = false
    find-links = ["file://<root>/store/temporary/.tmp<n>/links-0.html"]
    constraint-dependencies = []
    prerelease = "allow"
    [project]
    name = "kiln-image"
    version = "0"
    requires-python = ">=3.11.0"
    dependencies = []

    [tool.uv.workspace]
    members = []
    alpha[x]>=1 ; python_version > '3' --hash=sha256:<digest>
    beta @ file://<wheels>/beta-1.0-py3-none-any.whl
    gamma<2
    "#);
}

#[test]
fn an_index_that_other_tools_are_told_of_is_hinted_at_without_its_credentials() {
    let environment = project("alpha\n");
    let locked = |name: &str| {
        let mut command = environment.command();
        command.env(name, "https://user:pa/ss@example.org/simple").args(["lock", "--upgrade"]);
        Outcome::of(command)
    };
    assert_snapshot!(locked("UV_INDEX_URL"), @r#"
    <root>/project/kiln.lock: app (1 package)
    ------- stderr -------
    warning: `UV_INDEX_URL` is not read, and the stack names no index: if packages come from there, write `default = "https://example.org/simple"` below `[index]`; its credentials belong in `~/.netrc`
    "#);
    assert_snapshot!(locked("PIP_INDEX_URL").stderr, @r#"warning: `PIP_INDEX_URL` is not read, and the stack names no index: if packages come from there, write `default = "https://example.org/simple"` below `[index]`; its credentials belong in `~/.netrc`"#);
    assert!(locked("UV_DEFAULT_INDEX").stderr.contains("`UV_DEFAULT_INDEX`"));
    environment.write("requirements.txt", "--index-url https://example.org/mine\n");
    assert!(!locked("UV_INDEX_URL").stderr.contains("UV_INDEX_URL"));
}

#[test]
fn under_the_name_of_a_python_kiln_prints_what_lies_beside_it() {
    let environment = TestEnvironment::new();
    let program = environment.path("python3.11");
    std::os::unix::fs::symlink(env!("CARGO_BIN_EXE_kiln"), &program).unwrap();
    let run = || {
        let mut command = std::process::Command::new(&program);
        command.env_clear().args(["-I", "-c", "import sys"]);
        Outcome::of(command)
    };
    assert_snapshot!(run(), @"[exit status: 1]");
    environment.write("python3.11.json", "{}");
    assert_snapshot!(run(), @"{}");
}

#[test]
fn files_outside_of_the_repository_are_not_read_whatever_leads_to_them() {
    let environment = project("-r inner.txt\n");
    let outside = environment.root().join("outside.txt");
    fs_err::write(&outside, "secret-name\n").unwrap();
    for line in [format!("-r {}", outside.display()), "-c ../outside.txt".to_owned(), "-r link.txt".to_owned()] {
        environment.write("inner.txt", format!("{line}\n"));
        let _ = fs_err::os::unix::fs::symlink(&outside, environment.path("link.txt"));
        let refused = environment.kiln("lock");
        assert_eq!(refused.status, Some(2), "{refused}");
        assert!(refused.stderr.contains("it is outside of the repository"), "{refused}");
        assert!(!refused.stderr.contains("secret-name"), "{refused}");
    }
}
