//! Images that stand on the packages of a base: they see what is there, add what is missing, and never overwrite a module.

use crate::bases;
use crate::environment::TestEnvironment;
use crate::images::ReadBack;
use crate::wheels::{pure, stack};
use insta::assert_snapshot;

/// The files of an installed distribution, its `RECORD` among them.
pub(crate) fn installed(name: &str, version: &str, files: &[(&str, &str)]) -> Vec<(String, String)> {
    let info = format!("{}-{version}.dist-info", name.replace('-', "_"));
    let mut all: Vec<(String, String)> =
        files.iter().map(|(path, text)| (path.replace("INFO", &info), (*text).to_owned())).collect();
    all.push((format!("{info}/METADATA"), format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n")));
    let mut rows: Vec<String> = all.iter().map(|(path, text)| format!("{path},sha256=x,{}\n", text.len())).collect();
    rows.push(format!("{info}/RECORD,,\n"));
    all.push((format!("{info}/RECORD"), rows.concat()));
    all
}

/// A base with a torch of its own, as a framework's image is.
fn framework(environment: &TestEnvironment) {
    let torch = installed(
        "torch",
        "2.8.0a0+5228986c39.nv25.5",
        &[
            ("torch/__init__.py", "version = 'of the base'\n"),
            ("INFO/entry_points.txt", "[console_scripts]\ntorchrun = torch.distributed.run:main\n"),
            ("../../../bin/torchrun", "#!/usr/local/bin/python3.11\n"),
        ],
    );
    let triton = installed("pytorch-triton", "3.3.0", &[("triton/__init__.py", "x = 1\n")]);
    let packaging = installed("packaging", "23.2", &[("packaging/__init__.py", "x = 1\n")]);
    let boost =
        [("xgboost/__init__.py", "x"), ("xgboost/lib/a.so", "x"), ("../../../bin/xgb", "x"), ("shared/b.py", "x")];
    let boost = installed("xgboost", "2.1", &boost);
    let files: Vec<_> = [torch, triton, packaging, boost].concat();
    fs_err::remove_dir_all(environment.path("base")).unwrap();
    bases::with_files_in_site_packages(&environment.path("base"), &files);
}

fn over_the_framework(image: &str) -> TestEnvironment {
    let environment = TestEnvironment::with_stack(&stack(image));
    framework(&environment);
    environment.wheel(&pure("lightning", "1.0").requires("torch>=2").requires("packaging"));
    environment.wheel(&pure("packaging", "25.0"));
    environment.wheel(&pure("modern", "1.0").requires("packaging>=24"));
    environment.wheel(&pure("triton", "3.9.0"));
    environment.wheel(&pure("compiled", "1.0").requires("triton"));
    environment.wheel(&pure("strict", "1.0").requires("torch==2.7.1"));
    environment
}

#[test]
fn packages_go_beside_the_torch_of_a_base_which_they_see() {
    let environment = over_the_framework("packages = [\"lightning\"]");
    environment.succeed("build --output oci:out");
    let lock = environment.read("kiln.lock");
    assert!(!lock.contains("name = \"packaging\", version = \"25.0\""), "{lock}");
    let image = ReadBack::of(&environment.path("out"), "app", "amd64");
    let config = image.text("opt/venv/pyvenv.cfg");
    assert!(config.contains("include-system-site-packages = true\n"));
    assert_snapshot!(image.text("opt/venv/bin/torchrun"), @r#"
    #!/opt/venv/bin/python
    import sys

    from torch.distributed.run import main

    if __name__ == "__main__":
        sys.exit(main())
    "#);
    image.file("opt/venv/lib/python3.11/site-packages/lightning/__init__.py");
    assert!(!image.list().contains("site-packages/torch"), "{}", image.list());
}

#[test]
fn a_wheel_never_hides_a_module_of_the_base_without_a_word() {
    let environment = over_the_framework("packages = [\"compiled\"]");
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: `triton-3.9.0-py3-none-any.whl` brings the module `triton`, which the base already holds as pytorch-triton 3.3.0

    hint: `python = { accept = ["triton"] }` takes the base's in its place; `python = { replace = ["pytorch-triton"] }` lets the image's take the place of the base's
    [exit status: 2]
    "#);
    environment.stack(&stack("packages = [\"compiled\"]\npython.accept = [\"triton\"]"));
    environment.succeed("build");
    assert!(!environment.read("kiln.lock").contains("name = \"triton\""));
    environment.stack(&stack("packages = [\"compiled\"]\npython.replace = [\"pytorch-triton\"]"));
    environment.succeed("build");
    assert!(environment.read("kiln.lock").contains("name = \"triton\", version = \"3.9.0\""));
}

#[test]
fn a_distribution_of_the_base_gives_way_only_where_the_stack_names_it() {
    let environment = over_the_framework("packages = [\"modern\"]");
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: the packages of `app` cannot be resolved on linux/amd64
      --> kiln.toml:13:13
       |
    13 | packages = ["modern"]
       |             ^^^^^^^^
       |
    help: Because the base has packaging 23.2 and modern==1.0 depends on packaging>=24
          packaging 23.2 is one of the base's own packages, which stay as they are. `python = { accept = ["packaging"] }` takes it as it is, `replace = ["packaging"]` installs another in its place, and `environment = "venv"` sees none of the base's packages
    [exit status: 2]
    "#);
    environment.stack(&stack("packages = [\"modern\"]\npython.replace = [\"packaging\"]"));
    environment.succeed("build --output oci:out");
    let image = ReadBack::of(&environment.path("out"), "app", "amd64");
    image.file("opt/venv/lib/python3.11/site-packages/packaging-25.0.dist-info/METADATA");
    // In the base's own environment it goes away: two distributions of a name would lie beside one another.
    environment
        .stack(&stack("packages = [\"modern\"]\npython = { environment = \"base\", replace = [\"packaging\"] }"));
    environment.succeed("build --output oci:in-base");
    let list = ReadBack::of(&environment.path("in-base"), "app", "amd64").list();
    assert!(list.contains("site-packages/.wh.packaging-23.2.dist-info\n"), "{list}");
    assert!(list.contains("site-packages/packaging-25.0.dist-info/METADATA"), "{list}");
}

#[test]
fn what_the_base_has_is_accepted_whatever_its_version_is() {
    let environment = over_the_framework("packages = [\"strict\"]");
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: the packages of `app` cannot be resolved on linux/amd64
      --> kiln.toml:13:13
       |
    13 | packages = ["strict"]
       |             ^^^^^^^^
       |
    help: Because only torch==2.8.0a0+5228986c39.nv25.5 is available and strict==1.0 depends on torch==2.7.1
          torch 2.8.0a0+5228986c39.nv25.5 is one of the base's own packages, which stay as they are. `python = { accept = ["torch"] }` takes it as it is, `replace = ["torch"]` installs another in its place, and `environment = "venv"` sees none of the base's packages
    [exit status: 2]
    "#);
    environment.stack(&stack("packages = [\"strict\", \"torch<2.5\"]\npython.accept = [\"torch\"]"));
    environment.succeed("build");
    assert!(!environment.read("kiln.lock").contains("name = \"torch\", version = \"2.7.1\""));
}

#[test]
fn a_distribution_of_the_base_is_hidden_by_its_record() {
    let environment = over_the_framework("packages = [\"lightning\"]\npython.remove = [\"xgboost\"]");
    environment.succeed("build --output oci:out");
    let list = ReadBack::of(&environment.path("out"), "app", "amd64").list();
    let hidden: Vec<&str> = list.lines().filter(|line| line.contains(".wh.")).collect();
    assert_snapshot!(hidden.join("\n"), @r"
    -0644 0:0 usr/local/bin/.wh.xgb
    -0644 0:0 usr/local/lib/python3.11/site-packages/.wh.shared
    -0644 0:0 usr/local/lib/python3.11/site-packages/.wh.xgboost
    -0644 0:0 usr/local/lib/python3.11/site-packages/.wh.xgboost-2.1.dist-info
    ");
}

#[test]
fn what_an_image_below_hides_stays_hidden_and_may_be_named_again() {
    let environment = over_the_framework("packages = [\"lightning\"]\npython.remove = [\"xgboost\"]");
    let above = "\n[images.upper]\nfrom = \"app\"\npackages = [\"modern\", \"xgboost\"]\n\
                 python = { remove = [\"xgboost\"], replace = [\"packaging\"] }\n";
    let text = stack("packages = [\"lightning\"]\npython.remove = [\"xgboost\"]");
    environment.stack(&format!("{text}{above}"));
    environment.wheel(&pure("xgboost", "3.0"));
    environment.succeed("build");
    assert!(environment.read("kiln.lock").contains("name = \"xgboost\", version = \"3.0\""));
}

#[test]
fn a_distribution_of_the_base_without_a_version_meets_nothing() {
    let environment = over_the_framework("packages = [\"packaging\"]");
    let first = installed("packaging", "24.0", &[("packaging/__init__.py", "x")]);
    let odd = installed("badver", "banana-1", &[("badver/__init__.py", "x")]);
    fs_err::remove_dir_all(environment.path("base")).unwrap();
    bases::with_files_in_site_packages(&environment.path("base"), &[first, odd].concat());
    environment.stack(&stack("packages = [\"modern\"]\npython.environment = \"overlay\""));
    environment.succeed("build");
    assert!(!environment.read("kiln.lock").contains("name = \"packaging\", version = \"25.0\""));
}

#[test]
fn a_member_of_torchs_family_that_does_not_pair_with_the_torch_of_the_base_is_warned_of() {
    let environment = over_the_framework("packages = [\"torchaudio\"]");
    environment.wheel(&pure("torchaudio", "2.11.0"));
    assert_snapshot!(environment.kiln("lock"), @r"
    <root>/project/kiln.lock: app (1 package)
    ------- stderr -------
    warning: torchaudio 2.11.0 does not pair with torch 2.8.0a0; torchaudio 2.8.0 does, and the torch of `app` is the base's
    ");
}

#[test]
fn the_extras_of_a_base_s_distribution_are_installed() {
    let environment = over_the_framework("packages = [\"reader\"]");
    let http = "Metadata-Version: 2.1\nName: fsspec\nVersion: 2026.9.0\nProvides-Extra: http\n\
                Requires-Dist: aiohttp>=3; extra == 'http'\nRequires-Dist: unknown\n";
    let files = [("fsspec-2026.9.0.dist-info/METADATA".to_owned(), http.to_owned())];
    fs_err::remove_dir_all(environment.path("base")).unwrap();
    bases::with_files_in_site_packages(&environment.path("base"), &files);
    environment.stack(&stack("packages = [\"reader\"]\npython.environment = \"overlay\""));
    environment.wheel(&pure("reader", "1.0").requires("fsspec[http]"));
    environment.wheel(&pure("aiohttp", "3.9"));
    environment.succeed("lock");
    assert!(environment.read("kiln.lock").contains("name = \"aiohttp\", version = \"3.9\""));
}

#[test]
fn names_of_packages_that_the_base_does_not_have_are_errors() {
    let environment = over_the_framework("packages = [\"lightning\"]\npython.remove = [\"xgbost\"]");
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: the base `oci base` has no Python distribution `xgbost` that the image sees
      --> kiln.toml:14:18
       |
    14 | python.remove = ["xgbost"]
       |                  ^^^^^^^^
       |
    help: did you mean `xgboost`?
    [exit status: 2]
    "#);
    environment.stack(&stack("packages = [\"lightning\"]\npython = { environment = \"venv\", accept = [\"torch\"] }"));
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: `python.accept` names packages of the base, which the image does not see
      --> kiln.toml:14:44
       |
    14 | python = { environment = "venv", accept = ["torch"] }
       |                                            ^^^^^^^
       |
    help: it does with `python.environment = "overlay"`
    [exit status: 2]
    "#);
    environment.stack(&stack("python.accept = [\"torch\"]"));
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: `app` has no packages, which `python.accept` is about
      --> kiln.toml:13:18
       |
    13 | python.accept = ["torch"]
       |                  ^^^^^^^
       |
    help: write it to the image that has them
    [exit status: 2]
    "#);
}

#[test]
fn an_image_has_one_opt_venv() {
    let environment = over_the_framework("packages = [\"lightning\"]");
    let above = "\n[images.upper]\nfrom = \"app\"\npackages = [\"modern\"]\npython.environment = \"venv\"\n";
    environment.stack(&format!("{}{above}", stack("packages = [\"lightning\"]")));
    environment.wheel(&pure("torch", "2.9"));
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    warning: the base of `upper` already holds torch 2.8.0a0+5228986c39.nv25.5, 177 B in all: it would stand there twice. `python.environment = "overlay"` installs beside it
    error: `upper` and `app`, which it stands on, share `/opt/venv`, and one of them alone sees the base's packages in it
      --> kiln.toml:18:22
       |
    11 | [images.app]
       |         --- chosen here
    ...
    18 | python.environment = "venv"
       |                      ^^^^^^
       |
    help: give both the same `python.environment`, or this one `"base"`
    [exit status: 2]
    "#);
}

#[test]
fn an_image_may_have_another_python_than_the_stack() {
    let environment = over_the_framework("packages = [\"lightning\"]\npython = \"3.12\"");
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: the base `oci base` has no interpreter for Python 3.12: it has /usr/local/bin/python3.11 (3.11)
      --> kiln.toml:14:10
       |
    11 | [images.app]
       |         --- for this image
    ...
    14 | python = "3.12"
       |          ^^^^^^
       |
    help: choose a base that has it (a Debian with `include = ["python3"]` has its release's: 3.9 in bullseye, 3.11 in bookworm, 3.13 in trixie), or set `target.python`
    [exit status: 2]
    "#);
    environment.stack(&stack(
        "packages = [\"lightning\"]\npython = { version = \"3.11\", interpreter = \"/opt/py/bin/python\" }",
    ));
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: the base `oci base` has no interpreter for Python 3.11 at /opt/py/bin/python: it has /usr/local/bin/python3.11 (3.11)
      --> kiln.toml:14:22
       |
    11 | [images.app]
       |         --- for this image
    ...
    14 | python = { version = "3.11", interpreter = "/opt/py/bin/python" }
       |                      ^^^^^^
       |
    help: choose a base that has it (a Debian with `include = ["python3"]` has its release's: 3.9 in bullseye, 3.11 in bookworm, 3.13 in trixie), or set `target.python`
    [exit status: 2]
    "#);
    environment.stack(&stack(
        "packages = [\"lightning\"]\npython = { version = \"3.11\", interpreter = \"/usr/local/bin/python3.11\" }",
    ));
    environment.succeed("build");
}
