//! Programs that kiln runs: the variables that they get, what `-v` shows of them, and uv where the machine has none.

use insta::assert_snapshot;
use kiln_registry::testing::FakeRegistry;

use crate::environment::{Outcome, TestEnvironment};
use crate::wheels::{greeting, stack};

/// Variables of a user, each planted with a secret: of kiln, of accounts, of other tools, of the system.
const PLANTED: [&str; 20] = [
    "KILN_CACHE_KEY_FILE",
    "KILN_ANYTHING",
    "AWS_SECRET_ACCESS_KEY",
    "GITHUB_TOKEN",
    "TWINE_PASSWORD",
    "UV_INDEX_URL",
    "UV_NO_SOURCES",
    "UV_FIND_LINKS",
    "PIP_INDEX_URL",
    "PIP_NO_INDEX",
    "PYTHONPATH",
    "VIRTUAL_ENV",
    "DOCKER_HOST",
    "GNUPGHOME",
    "APT_CONFIG",
    "LD_LIBRARY_PATH",
    "NETRC",
    "LANG",
    "no_proxy",
    "ftp_proxy",
];

/// The names of planted variables that each program gets, and those that every run has.
const EXPECTED: [(&str, &[&str]); 5] = [
    ("docker", &["DOCKER_HOST", "HOME", "LANG", "PATH", "no_proxy"]),
    ("docker-credential-fake", &["AWS_SECRET_ACCESS_KEY", "GNUPGHOME", "HOME", "LANG", "PATH", "no_proxy"]),
    ("nvidia-smi", &["LD_LIBRARY_PATH", "PATH"]),
    ("python3", &["HOME", "LANG", "NETRC", "PATH", "no_proxy"]),
    ("uv", &["HOME", "LANG", "NETRC", "no_proxy"]),
];

#[test]
fn each_program_gets_the_variables_that_it_needs_and_no_others() {
    let environment = TestEnvironment::with_stack(&stack(""));
    environment.succeed("cache keygen key");
    let registry = FakeRegistry::start();
    let run = |arguments: &str| {
        let mut command = environment.command();
        command.envs(PLANTED.map(|name| (name, "planted-secret")));
        command
            .env("KILN_CACHE_KEY_FILE", environment.path("key"))
            .env("KILN_CACHE_KEY", environment.read("key").trim());
        command.args(arguments.split_whitespace());
        Outcome::of(command)
    };
    let fake = |name: &str, then: &str| {
        let file = environment.root().join(name).with_added_extension("env");
        environment.script(name, &format!("export -p > '{}'\n{then}\n", file.display()));
    };
    fake("docker", "exec /bin/cat > /dev/null");
    assert_eq!(run("build --load").status, Some(0));
    fake("docker-credential-fake", "echo '{\"Username\":\"u\",\"Secret\":\"s\"}'");
    fs_err::create_dir_all(environment.root().join("home/.docker")).unwrap();
    fs_err::write(environment.root().join("home/.docker/config.json"), "{\"credsStore\":\"fake\"}").unwrap();
    run(&format!("pull {}/a:latest --output oci:pulled", registry.address()));
    fake("nvidia-smi", "echo 9.0");
    run("inspect --gpus native key");
    environment.stack(&stack("packages = [\"six\"]"));
    fake("uv", "exit 1");
    run("lock");
    fs_err::remove_file(environment.root().join("bin/uv")).unwrap();
    fake("python3", "exit 1");
    run("lock");
    for (name, expected) in EXPECTED {
        let file = environment.root().join(name).with_added_extension("env");
        let text = fs_err::read_to_string(&file).unwrap_or_else(|error| panic!("{name} was not run: {error}"));
        let names = text.lines().filter_map(|line| line.strip_prefix("export ")?.split('=').next());
        // A shell adds its own.
        let own = ["PWD", "OLDPWD", "SHLVL", "_", "LC_ALL", "SOURCE_DATE_EPOCH"];
        let mut names: Vec<&str> = names.filter(|name| !own.contains(name)).collect();
        names.sort_unstable();
        assert_eq!(names, expected, "{name}");
        assert!(!text.contains(environment.read("key").trim()), "{name}: {text}");
    }
}

#[test]
fn every_program_is_shown_with_v_and_without_secrets() {
    let text = stack("packages = [\"six\"]");
    let text = text.replace("find-links = [\"wheels\"]", "default = \"https://user:hidden-word@index.example/simple\"");
    let environment = TestEnvironment::with_stack(&text);
    environment.script("uv", "echo 'asking https://user:hidden-word@index.example/simple: hidden-word' >&2; exit 1");
    let outcome = environment.kiln("lock -v").to_string();
    assert!(!outcome.contains("hidden-word"), "{outcome}");
    assert_snapshot!(outcome, @r"
    ------- stderr -------
      $ <root>/bin/uv pip compile --no-progress --color never --format pylock.toml --config-file kiln-uv.toml --only-binary :all: --no-header --no-annotate --no-python-downloads --python <root>/store/temporary/.tmp<n>/python3.11 --output-file pylock.kiln.toml pyproject.toml
      asking https://****@index.example/simple: ****
    error: the packages of `app` cannot be resolved
      caused by: uv failed: asking https://****@index.example/simple: ****
    [exit status: 1]
    ");
    assert!(!environment.kiln("lock").to_string().contains("pip compile"));
}

/// A Python whose pip notes its arguments and its requirements, and installs the stand-in for uv.
fn python(environment: &TestEnvironment, then: &str) {
    let root = environment.root();
    let stand_in = fs_err::canonicalize(root.join("bin/uv")).unwrap();
    fs_err::remove_file(root.join("bin/uv")).unwrap();
    let script = format!(
        "echo \"$@\" >> '{root}/asked'\n[ -z \"$(/bin/ls -A)\" ] || [ \"$(/bin/ls -A)\" = requirements.txt ] || exit 7\n\
         while [ $# -gt 0 ]; do case $1 in\n--target) target=$2 ;;\n--requirement) requirements=$2 ;;\nesac; shift; done\n\
         /bin/cat \"$requirements\" > '{root}/requirements'\n{then}\n/bin/mkdir -p \"$target/bin\" && \
         /bin/cp '{stand_in}' \"$target/bin/uv\"\n",
        root = root.display(),
        stand_in = stand_in.display(),
    );
    environment.script("python3", &script);
}

#[test]
fn uv_is_installed_into_the_store_by_its_digests_where_the_machine_has_none() {
    let environment = greeting();
    python(&environment, "");
    // A kill of an older kiln left a half of it.
    let tools = environment.root().join("store/tools");
    let directory = tools.join(format!("uv-{}-pinned", kiln_wheel::uv::PINNED_VERSION));
    fs_err::create_dir_all(directory.join("bin")).unwrap();
    fs_err::write(directory.join("bin/uv"), "half").unwrap();
    environment.succeed("lock");
    environment.succeed("lock --upgrade");
    let asked = fs_err::read_to_string(environment.root().join("asked")).unwrap();
    assert_eq!(asked.lines().count(), 1, "{asked}");
    assert!(asked.contains(" --require-hashes ") && asked.contains(" --only-binary :all: "), "{asked}");
    let requirements = fs_err::read_to_string(environment.root().join("requirements")).unwrap();
    assert_eq!(requirements.matches("--hash=sha256:").count(), kiln_wheel::uv::PINNED_SHA256.len());
    assert_eq!(fs_err::read_dir(&tools).unwrap().count(), 1);
}

#[test]
fn a_uv_that_cannot_be_installed_leaves_nothing_and_is_tried_again() {
    let environment = greeting();
    python(&environment, "echo 'ERROR: THESE PACKAGES DO NOT MATCH THE HASHES' >&2; exit 1");
    assert_snapshot!(environment.kiln("lock"), @r"
    ------- stderr -------
    error: the program `uv` is needed to resolve Python packages, and `python3 -m pip` could not install it: ERROR: THESE PACKAGES DO NOT MATCH THE HASHES

    hint: install it: `pip install uv`, or see its documentation; kiln finds it on PATH
    [exit status: 3]
    ");
    assert_eq!(fs_err::read_dir(environment.root().join("store/tools")).unwrap().count(), 0);
    environment.kiln("lock");
    let asked = fs_err::read_to_string(environment.root().join("asked")).unwrap();
    assert_eq!(asked.lines().count(), 2, "{asked}");
}
