//! Changes that images make to the packages of a base: requirements inside the base that break, packages that hide one another in two
//! directories, and names that are said twice.

use insta::assert_snapshot;
use kiln_wheel::testing::WheelBuilder;

use crate::base_python::installed;
use crate::bases;
use crate::environment::TestEnvironment;
use crate::images::ReadBack;
use crate::wheels::{pure, stack};

/// A distribution of a base with requirements and one module.
fn requiring(name: &str, version: &str, requires: &[&str]) -> Vec<(String, String)> {
    let module = format!("{name}/__init__.py");
    let mut files = installed(name, version, &[(&module, "x = 1\n")]);
    let metadata = files.iter_mut().find(|(path, _)| path.ends_with("/METADATA")).unwrap();
    requires.iter().for_each(|one| metadata.1 += &format!("Requires-Dist: {one}\n"));
    files
}

/// A project over a base with these distributions.
fn over(distributions: &[Vec<(String, String)>], image: &str) -> TestEnvironment {
    let environment = TestEnvironment::with_stack(&stack(image));
    fs_err::remove_dir_all(environment.path("base")).unwrap();
    bases::with_files_in_site_packages(&environment.path("base"), &distributions.concat());
    environment
}

const OVERLAY: &str = "python.environment = \"overlay\"";

#[test]
fn requirements_of_the_base_that_an_image_breaks_are_told() {
    let tool = requiring("tool", "1.0", &["packaging<24", "boost>=2", "idna; python_version<'3'", "absent"]);
    let base = [tool, requiring("packaging", "23.2", &[]), requiring("boost", "2.1", &[])];
    let image = "packages = [\"modern\"]\npython = { environment = \"overlay\", replace = [\"packaging\"], remove = [\"boost\"] }";
    let environment = over(&base, image);
    environment.wheel(&pure("packaging", "25.0"));
    environment.wheel(&pure("modern", "1.0").requires("packaging>=24"));
    assert_snapshot!(environment.kiln("lock"), @r"
    <root>/project/kiln.lock: app (2 packages)
    ------- stderr -------
    warning: `app` breaks what distributions of its base require: tool 1.0 requires packaging<24, and there is 25.0; tool 1.0 requires boost>=2, which is not there. Other versions, or another choice of `python.replace` and `python.remove`, mend it; `remove` takes away what is not used
    ");
    // An image that only takes away is told, too.
    environment.stack(&stack("python = { environment = \"overlay\", remove = [\"boost\"] }"));
    assert_snapshot!(environment.kiln("lock"), @r"
    <root>/project/kiln.lock: app (0 packages)
    ------- stderr -------
    warning: `app` breaks what distributions of its base require: tool 1.0 requires boost>=2, which is not there. Other versions, or another choice of `python.replace` and `python.remove`, mend it; `remove` takes away what is not used
    ");
}

#[test]
fn requirements_that_the_base_itself_does_not_meet_are_told_where_packages_reach_them() {
    let base = [requiring("tool", "1.0", &["inner>=2", "absent"]), requiring("inner", "1.0", &[])];
    let environment = over(&base, &format!("packages = [\"alone\"]\n{OVERLAY}"));
    environment.wheel(&pure("alone", "1.0"));
    environment.wheel(&pure("user", "1.0").requires("tool"));
    assert_snapshot!(environment.kiln("lock"), @"<root>/project/kiln.lock: app (1 package)");
    environment.stack(&stack(&format!("packages = [\"user\"]\n{OVERLAY}")));
    assert_snapshot!(environment.kiln("lock"), @r"
    <root>/project/kiln.lock: app (1 package)
    ------- stderr -------
    warning: the base of `app` lacks what its own distributions require, and packages of the image need them: tool 1.0 requires inner>=2, and there is 1.0; tool 1.0 requires absent, which is not there. What is missing can be added to `packages`
    ");
}

#[test]
fn a_wheel_with_modules_for_a_package_of_the_base_is_refused_in_an_overlay() {
    let base = [installed("pytorch-triton", "3.3", &[("triton/__init__.py", "x = 1\n"), ("triton/a.py", "x\n")])];
    let environment = over(&base, &format!("packages = [\"more\"]\n{OVERLAY}"));
    environment.wheel(&WheelBuilder::new("more", "1.0").file("triton/backends/new.py", "x = 1\n"));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: `more-1.0-py3-none-any.whl` brings modules into the package `triton`, which the base holds as pytorch-triton 3.3 in another directory: Python would find the base's alone

    hint: `python.environment = "base"` installs into the base's directory, where Python finds both; or `resolution = { exclude = ["more"] }` leaves it out
    [exit status: 2]
    "#);
    environment.stack(&stack("packages = [\"more\"]\npython.environment = \"base\""));
    environment.succeed("build --output oci:out");
    let list = ReadBack::of(&environment.path("out"), "app", "amd64").list();
    assert!(list.contains("usr/local/lib/python3.11/site-packages/triton/backends/new.py"), "{list}");
}

#[test]
fn a_wheel_whose_package_hides_modules_of_the_base_is_refused_in_an_overlay() {
    let base = [installed("protobuf", "5.0", &[("google/protobuf/__init__.py", "x = 1\n")])];
    let environment = over(&base, &format!("packages = [\"auth\"]\n{OVERLAY}"));
    environment.wheel(&WheelBuilder::new("auth", "1.0").file("google/__init__.py", "").file("google/auth.py", "x"));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: `auth-1.0-py3-none-any.whl` brings the package `google`, which hides the module `google.protobuf` of the base's protobuf 5.0

    hint: `python.environment = "base"` installs into the base's directory, where Python finds both; or `resolution = { exclude = ["auth"] }` leaves it out
    [exit status: 2]
    "#);
}

#[test]
fn namespace_packages_are_shared_with_the_base() {
    let pkgutil = "__path__ = __import__('pkgutil').extend_path(__path__, __name__)\n";
    let base = [
        installed("protobuf", "5.0", &[("google/protobuf/__init__.py", "x = 1\n")]),
        installed("old", "1.0", &[("zope/__init__.py", pkgutil), ("zope/old/__init__.py", "x = 1\n")]),
        installed("cublas", "1.0", &[("nvidia/__init__.py", ""), ("nvidia/cublas/__init__.py", "")]),
        installed("six", "1.0", &[("six.py", "x = 1\n"), ("tests/__init__.py", "x = 1\n")]),
    ];
    let environment = over(&base, &format!("packages = [\"plain\", \"style\", \"cudnn\", \"stray\"]\n{OVERLAY}"));
    environment.wheel(&WheelBuilder::new("plain", "1.0").file("google/auth/__init__.py", "x").file("zope/new.py", "x"));
    let style = WheelBuilder::new("style", "1.0").file("google/__init__.py", pkgutil).file("google/style.py", "x");
    environment.wheel(&style.file("zope/__init__.py", pkgutil));
    environment
        .wheel(&WheelBuilder::new("cudnn", "1.0").file("nvidia/__init__.py", "").file("nvidia/cudnn/a.txt", "x"));
    environment.wheel(&pure("stray", "1.0").file("tests/__init__.py", "").file("tests/test_six.py", "x"));
    environment.succeed("build");
}

#[test]
fn a_clash_of_modules_is_told_when_it_is_locked() {
    let base = [installed("headless", "4.9", &[("cv2/__init__.py", "x = 1\n")])];
    let environment = over(&base, "packages = [\"contrib\"]\npython.environment = \"base\"");
    environment.wheel(&WheelBuilder::new("contrib", "4.10").file("cv2/__init__.py", "x"));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: `contrib-4.10-py3-none-any.whl` brings the module `cv2`, which the base already holds as headless 4.9

    hint: `resolution = { exclude = ["contrib"] }` takes the base's in its place; `python = { replace = ["headless"] }` lets the image's take the place of the base's
    [exit status: 2]
    "#);
    assert!(!environment.path("kiln.lock").exists());
}

#[test]
fn one_thing_is_said_of_a_distribution_of_the_base() {
    let base = [requiring("Six_Pack", "1.0", &[]), requiring("other", "1.0", &[])];
    let environment = over(
        &base,
        "packages = [\"other\"]\npython = { environment = \"overlay\", accept = [\"six.pack\"], replace = [\"Six-Pack\"], \
         remove = [\"SIX__pack\"] }",
    );
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: `six-pack` is in `python.replace` and in `python.accept`
      --> kiln.toml:14:71
       |
    14 | python = { environment = "overlay", accept = ["six.pack"], replace = ["Six-Pack"], remove = ["SIX__pack"] }
       |                                               ---------- here         ^^^^^^^^^^
       |
    help: `accept` keeps the base's, `replace` lets another take its place, and `remove` takes it away: choose one

    error: `six-pack` is in `python.remove` and in `python.accept`
      --> kiln.toml:14:94
       |
    14 | python = { environment = "overlay", accept = ["six.pack"], replace = ["Six-Pack"], remove = ["SIX__pack"] }
       |                                               ---------- here                                ^^^^^^^^^^^
       |
    help: `accept` keeps the base's, `replace` lets another take its place, and `remove` takes it away: choose one
    [exit status: 2]
    "#);
    for spelling in ["six_pack", "SIX.Pack", "six--pack"] {
        environment.stack(&stack(&format!(
            "packages = [\"other\"]\npython = {{ environment = \"overlay\", remove = [\"{spelling}\"] }}"
        )));
        environment.succeed("lock");
    }
}

#[test]
fn what_an_image_says_of_the_base_counts_more_than_what_images_below_say() {
    let base = [requiring("packaging", "23.2", &[]), requiring("boost", "2.1", &[])];
    let lower =
        "packages = [\"old\"]\npython = { environment = \"overlay\", accept = [\"packaging\"], remove = [\"boost\"] }";
    let environment = over(&base, lower);
    environment.wheel(&pure("packaging", "25.0"));
    environment.wheel(&pure("old", "1.0").requires("packaging<20"));
    environment.wheel(&pure("modern", "1.0").requires("packaging>=24"));
    let upper = |python: &str| {
        format!("{}\n[images.upper]\nfrom = \"app\"\npackages = [\"modern\"]\npython = {{ {python} }}\n", stack(lower))
    };
    environment.stack(&upper("accept = [\"boost\"]"));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: `boost` of the base is removed in an image below
      --> kiln.toml:19:22
       |
    19 | python = { accept = ["boost"] }
       |                      ^^^^^^^
       |
    help: leave it out of `python.accept`
    [exit status: 2]
    "#);
}

#[test]
fn an_interpreter_is_named_by_any_of_its_names() {
    let environment = over(&[requiring("six", "1.0", &[])], "packages = [\"alone\"]");
    environment.wheel(&pure("alone", "1.0"));
    let facts = "interpreters = [{ path = \"/usr/bin/python3.11\", version = \"3.11.2\", names = [\"/usr/bin/python3\"] }, \
                 { path = \"/usr/bin/python3.12\", version = \"3.12.1\" }, \
                 { path = \"/srv/v/bin/python3.11\", version = \"3.11.2\", environment = true, names = [\"/srv/v/bin/python\"] }]";
    let libc = "libc = { family = \"glibc\", version = \"2.36\" }";
    let image = |python: &str| {
        stack(&format!(
            "packages = [\"alone\"]\nbase-facts = {{ {libc}, {facts} }}\npython = {{ interpreter = \"{python}\" }}"
        ))
    };
    environment.stack(&image("/usr/bin/python3"));
    environment.succeed("build");
    environment.stack(&image("/usr/bin/python3.12"));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: `/usr/bin/python3.12` of the base `oci base` is Python 3.12.1, and the image is for 3.11
      --> kiln.toml:6:10
       |
     6 | python = "3.11"
       |          ^^^^^^
    ...
    11 | [images.app]
       |         --- for this image
       |
    help: `python = { version = "3.12" }`, or another `interpreter`
    [exit status: 2]
    "#);
    environment.stack(&image("/srv/v/bin/python"));
    assert_snapshot!(environment.kiln("lock"), @r#"
    ------- stderr -------
    error: `/srv/v/bin/python3.11` of the base `oci base` belongs to a virtual environment, on which `/opt/venv` cannot stand
      --> kiln.toml:6:10
       |
     6 | python = "3.11"
       |          ^^^^^^
    ...
    11 | [images.app]
       |         --- for this image
       |
    help: `python.environment = "base"` installs into that environment; or choose the interpreter that it was made with
    [exit status: 2]
    "#);
}

#[test]
fn the_list_of_files_of_a_distribution_decides_whether_it_can_be_removed() {
    let egg = |name: &str| (format!("{name}-1.egg-info/PKG-INFO"), format!("Name: {name}\nVersion: 1\n"));
    let listed = vec![
        egg("listed"),
        ("listed-1.egg-info/installed-files.txt".to_owned(), "../listed/__init__.py\nPKG-INFO\n".to_owned()),
        ("listed/__init__.py".to_owned(), "x".to_owned()),
        ("listed/__pycache__/__init__.cpython-311.pyc".to_owned(), "x".to_owned()),
    ];
    let bare = vec![("bare-1.egg-info".to_owned(), "Name: bare\nVersion: 1\n".to_owned())];
    let environment = over(&[listed, bare], "python = { environment = \"overlay\", remove = [\"listed\"] }");
    environment.succeed("build --output oci:out");
    let list = ReadBack::of(&environment.path("out"), "app", "amd64").list();
    let hidden: Vec<&str> = list.lines().filter(|line| line.contains(".wh.")).collect();
    assert_snapshot!(hidden.join("\n"), @r"
    -0644 0:0 usr/local/lib/python3.11/site-packages/.wh.listed
    -0644 0:0 usr/local/lib/python3.11/site-packages/.wh.listed-1.egg-info
    ");
    environment.stack(&stack("python = { environment = \"overlay\", remove = [\"bare\"] }"));
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: the base has no list of the files of bare 1: it cannot be removed

    hint: take a base without it, or one where pip installed it: of what distutils or a package of the system installed, pip removes nothing either
    [exit status: 2]
    ");
}

#[test]
fn an_image_of_the_stack_takes_away_what_is_below_it() {
    let base = [installed("mine", "1.0", &[("names/mine/__init__.py", "x")])];
    let lower = "packages = [\"theirs\"]\npython.environment = \"base\"";
    let environment = over(&base, lower);
    environment.wheel(&WheelBuilder::new("theirs", "1.0").file("names/theirs.py", "x"));
    environment.stack(&format!("{}\n[images.upper]\nfrom = \"app\"\npython.remove = [\"mine\"]\n", stack(lower)));
    environment.succeed("build --output oci:out");
    let list = ReadBack::of(&environment.path("out"), "upper", "amd64").list();
    let hidden: Vec<&str> = list.lines().filter(|line| line.contains(".wh.")).collect();
    assert_snapshot!(hidden.join("\n"), @r"
    -0644 0:0 usr/local/lib/python3.11/site-packages/.wh.mine-1.0.dist-info
    -0644 0:0 usr/local/lib/python3.11/site-packages/names/.wh.mine
    ");
}
