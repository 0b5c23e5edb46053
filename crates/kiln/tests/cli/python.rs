//! Python environments and requirements files.

use crate::bases;
use crate::environment::TestEnvironment;
use crate::images::ReadBack;
use crate::wheels::{pure, stack};
use insta::assert_snapshot;

/// A base with `six` in its own environment, and an image that installs into it.
fn into_the_base(packages: &str) -> TestEnvironment {
    let environment = TestEnvironment::new();
    bases::with_site_packages(&environment.path("base"), &[("six", "1.16.0")]);
    environment.stack(&stack(&format!("python.environment = \"base\"\npackages = {packages}")));
    environment.wheel(&pure("greeting", "1.0").requires("six"));
    environment.wheel(&pure("six", "1.17.0"));
    environment.wheel(&pure("six", "1.16.0"));
    environment
}

#[test]
fn the_bases_own_environment_is_added_to_and_never_installed_again() {
    let environment = into_the_base("[\"greeting\"]");
    environment.succeed("build --output oci:out");
    let image = ReadBack::of(&environment.path("out"), "app", "amd64");
    assert_snapshot!(image.list(), @r"
    d0755 0:0 usr/local/lib/python3.11/site-packages/greeting
    -0644 0:0 usr/local/lib/python3.11/site-packages/greeting/__init__.py
    d0755 0:0 usr/local/lib/python3.11/site-packages/greeting-1.0.dist-info
    -0644 0:0 usr/local/lib/python3.11/site-packages/greeting-1.0.dist-info/METADATA
    -0644 0:0 usr/local/lib/python3.11/site-packages/greeting-1.0.dist-info/WHEEL
    -0644 0:0 usr/local/lib/python3.11/site-packages/greeting-1.0.dist-info/INSTALLER
    -0644 0:0 usr/local/lib/python3.11/site-packages/greeting-1.0.dist-info/RECORD
    ");
    assert_eq!(image.config.env("VIRTUAL_ENV"), None);
    assert_eq!(image.config.env("PATH"), Some("/usr/local/bin:/usr/bin:/bin"));
}

#[test]
fn a_requirement_that_the_bases_distributions_do_not_meet_is_an_error() {
    let environment = into_the_base("[\"six>=1.17\"]");
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: the packages of `app` cannot be resolved on linux/amd64
      --> kiln.toml:14:13
       |
    14 | packages = ["six>=1.17"]
       |             ^^^^^^^^^^^
       |
    help: Because the base has six 1.16.0 and this image depends on six>=1.17
          six 1.16.0 is one of the base's own packages, which stay as they are. `python = { accept = ["six"] }` takes it as it is, `replace = ["six"]` installs another in its place, and `environment = "venv"` sees none of the base's packages
    [exit status: 2]
    "#);
}

#[test]
fn a_virtual_environment_is_blind_to_the_base() {
    let environment = into_the_base("[\"greeting\"]");
    environment.stack(&stack("packages = [\"greeting\"]"));
    environment.succeed("build --output oci:out");
    let image = ReadBack::of(&environment.path("out"), "app", "amd64");
    image.file("opt/venv/lib/python3.11/site-packages/six-1.17.0.dist-info/METADATA");
}

#[test]
fn a_base_that_holds_torch_already_is_warned_of() {
    let environment = TestEnvironment::new();
    bases::with_site_packages(&environment.path("base"), &[("torch", "2.6.0")]);
    environment.stack(&stack("python.environment = \"venv\"\npackages = [\"greeting\"]"));
    environment.wheel(&pure("greeting", "1.0"));
    assert_snapshot!(environment.kiln("build"), @r#"
    app sha256:<digest> <size> in 3 layers
    ------- stderr -------
    warning: the base of `app` already holds torch 2.6.0: it would stand there twice. `python.environment = "overlay"` installs beside it
    "#);
}

#[test]
fn requirements_may_stand_in_a_file() {
    let environment = TestEnvironment::with_stack(&stack("requirements = \"requirements.txt\"\npackages = [\"beta\"]"));
    environment.write("requirements.txt", "# ours\nalpha==1.0\n");
    for (name, version) in [("alpha", "1.0"), ("alpha", "2.0"), ("beta", "1.0")] {
        environment.wheel(&pure(name, version));
    }
    assert_snapshot!(environment.kiln("build"), @"app sha256:<digest> <size> in 3 layers");
    environment.write("requirements.txt", "alpha==2.0\n");
    assert_snapshot!(environment.kiln("build --locked"), @r"
    ------- stderr -------
    error: the lock does not fit the stack: its requirements file, indexes, recipes, Python, or what stands above `app` (linux/amd64) changed

    hint: run `kiln lock`
    [exit status: 2]
    ");
    environment.succeed("build");
    assert!(environment.read("kiln.lock").contains("name = \"alpha\", version = \"2.0\""));
    fs_err::remove_file(environment.path("requirements.txt")).unwrap();
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: `requirements.txt` does not exist in <root>/project
    [exit status: 2]
    ");
}

#[test]
fn a_locked_requirements_file_is_taken_as_it_is() {
    let environment = TestEnvironment::with_stack(&stack("requirements = \"pylock.toml\""));
    let wheel = pure("alpha", "1.0");
    environment.wheel(&wheel);
    environment.wheel(&pure("alpha", "2.0"));
    let digest = kiln_plan::digest::Digest::of(&wheel.finish()).hex();
    environment.write(
        "pylock.toml",
        format!(
            "lock-version = \"1.0\"\ncreated-by = \"test\"\n[[packages]]\nname = \"alpha\"\nversion = \"1.0\"\n\
             wheels = [{{ path = \"wheels/alpha-1.0-py3-none-any.whl\", hashes = {{ sha256 = \"{digest}\" }} }}]\n"
        ),
    );
    environment.succeed("build");
    assert!(environment.read("kiln.lock").contains("name = \"alpha\", version = \"1.0\""));
}

#[test]
fn a_pip_that_is_the_bases_is_warned_of() {
    let environment = TestEnvironment::with_stack(&stack("packages = [\"greeting\"]"));
    fs_err::remove_dir_all(environment.path("base")).unwrap();
    bases::debian_with(&environment.path("base"), &[("usr/bin/pip", b"#!/usr/bin/python3\n".to_vec())]);
    environment.wheel(&pure("greeting", "1.0"));
    environment.wheel(&pure("pip", "25.3"));
    assert_snapshot!(environment.kiln("lock"), @r"
    <root>/project/kiln.lock: app (1 package)
    ------- stderr -------
    warning: `pip` in `app` is the base's (/usr/bin/pip), which does not see /opt/venv: add `pip` to its packages if somebody installs with it
    ");
    environment.stack(&stack("packages = [\"greeting\", \"pip\"]"));
    assert_snapshot!(environment.kiln("lock"), @"<root>/project/kiln.lock: app (2 packages)");
}

#[test]
fn libraries_that_packages_open_by_name_are_found() {
    let environment = TestEnvironment::with_stack(&stack("packages = [\"ctranslate2\", \"nvidia-cublas-cu12\"]"));
    environment.wheel(&pure("ctranslate2", "4.6"));
    environment.wheel(&pure("nvidia_cublas_cu12", "12.8"));
    environment.succeed("build --output oci:out");
    let image = ReadBack::of(&environment.path("out"), "app", "amd64");
    let site = "/opt/venv/lib/python3.11/site-packages";
    assert_eq!(image.config.env("LD_LIBRARY_PATH"), Some(format!("{site}/nvidia/cublas/lib").as_str()));
}
