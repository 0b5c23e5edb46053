//! Names and forms that no layer may have: whiteouts, files in the place of directories, parts of the environment itself.

use crate::bases;
use crate::environment::{Outcome, TestEnvironment};
use crate::wheels::{pure, stack};
use insta::assert_snapshot;
use kiln_plan::digest::Digest;
use kiln_wheel::testing::WheelBuilder;

/// Builds an image with the wheel `evil` in it.
#[track_caller]
fn build(wheel: &WheelBuilder) -> Outcome {
    let environment = TestEnvironment::with_stack(&stack("packages = [\"evil\"]"));
    environment.wheel(wheel);
    let outcome = environment.kiln("build --output oci:out");
    assert_eq!(outcome.status, Some(1), "{outcome}");
    assert!(!environment.path("out").exists());
    outcome
}

#[test]
fn a_wheel_deletes_no_file_of_the_layers_below() {
    assert_snapshot!(build(&pure("evil", "1.0").file(".wh.numpy", "")), @r"
    ------- stderr -------
    error: the wheel `evil-1.0-py3-none-any.whl` cannot be used
      caused by: its file for `opt/venv/lib/python3.11/site-packages/.wh.numpy` cannot be installed: no layer can hold a file named `.wh.numpy`: names that begin with `.wh.` delete files of the layers below

    hint: the file is damaged or not what it says it is: get it again, or report it to its author
    [exit status: 1]
    ");
    build(&pure("evil", "1.0").file(".wh..wh..opq", ""));
    build(&pure("evil", "1.0").file("evil-1.0.data/data/.wh.lib/x", ""));
}

#[test]
fn a_wheel_replaces_no_part_of_the_environment() {
    let points = "[console_scripts]\npython = evil:main\n";
    assert_snapshot!(build(&pure("evil", "1.0").file("evil-1.0.dist-info/entry_points.txt", points)), @r"
    ------- stderr -------
    error: the wheel `evil-1.0-py3-none-any.whl` cannot be used
      caused by: its file for `opt/venv/bin/python` cannot be installed: `python` is the name of an interpreter, which it would replace

    hint: the file is damaged or not what it says it is: get it again, or report it to its author
    [exit status: 1]
    ");
    assert_snapshot!(build(&pure("evil", "1.0").file("evil-1.0.data/data/pyvenv.cfg", "home = /nowhere\n")), @r"
    ------- stderr -------
    error: the wheel `evil-1.0-py3-none-any.whl` cannot be used
      caused by: its file for `opt/venv/pyvenv.cfg` cannot be installed: `pyvenv.cfg` belongs to the environment

    hint: the file is damaged or not what it says it is: get it again, or report it to its author
    [exit status: 1]
    ");
    build(&pure("evil", "1.0").file("evil-1.0.data/data/lib64", ""));
}

#[test]
fn a_wheel_is_the_package_that_its_file_name_says() {
    let environment = TestEnvironment::with_stack(&stack("packages = [\"evil\"]"));
    let file = "wheels/evil-1.0-py3-none-any.whl";
    let metadata = "Metadata-Version: 2.1\nName: evil\nVersion: 1.0\n";
    // The resolver reads the metadata that an index gives beside a wheel (PEP 658).
    environment.write(&format!("{file}.metadata"), metadata);
    let two = pure("evil", "1.0").file("good-2.0.dist-info/METADATA", "Name: good\nVersion: 2.0\n");
    environment.write(file, two.finish());
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: the wheel `evil-1.0-py3-none-any.whl` cannot be used
      caused by: it has several `.dist-info` directories: evil-1.0.dist-info, good-2.0.dist-info

    hint: the file is damaged or not what it says it is: get it again, or report it to its author
    [exit status: 1]
    ");
    environment.write(file, pure("evil", "2.0").finish());
    fs_err::remove_file(environment.path("kiln.lock")).unwrap();
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: the wheel `evil-1.0-py3-none-any.whl` cannot be used
      caused by: its `evil-2.0.dist-info/METADATA` says Version `2.0`, and the file name says `1.0`

    hint: the file is damaged or not what it says it is: get it again, or report it to its author
    [exit status: 1]
    ");
}

/// Plans and builds a copy, which both must refuse.
#[track_caller]
fn copy(copy: &str, file: &str) -> Outcome {
    let environment = TestEnvironment::with_stack(&stack(&format!("copy = [{copy}]")));
    environment.write(file, "x");
    let outcome = environment.kiln("build --output oci:out");
    assert_eq!(outcome.status, Some(2), "{outcome}");
    assert!(!environment.path("out").exists());
    outcome
}

#[test]
fn a_copy_deletes_no_file_of_the_layers_below() {
    assert_snapshot!(copy(r#"{ from = "src", to = "/app" }"#, "src/.wh.numpy"), @r#"
    ------- stderr -------
    error: `/app/.wh.numpy` cannot be in a layer: no layer can hold a file named `.wh.numpy`: names that begin with `.wh.` delete files of the layers below
      --> kiln.toml:13:18
       |
    13 | copy = [{ from = "src", to = "/app" }]
       |                  ^^^^^
       |
    help: leave it out with `exclude`, or give it another name
    [exit status: 2]
    "#);
    copy(r#"{ from = "src", to = "/app" }"#, "src/.wh.d/x");
    copy(r#"{ from = "src/.wh.x", to = "/app/" }"#, "src/.wh.x");
    assert_snapshot!(copy(r#"{ from = "src/x", to = "/.wh.x" }"#, "src/x"), @r#"
    ------- stderr -------
    error: `/.wh.x` cannot be in a layer: no layer can hold a file named `.wh.x`: names that begin with `.wh.` delete files of the layers below
      --> kiln.toml:13:32
       |
    13 | copy = [{ from = "src/x", to = "/.wh.x" }]
       |                                ^^^^^^^^
       |
    help: choose another name
    [exit status: 2]
    "#);
    let environment = TestEnvironment::with_stack(&stack("copy = [{ from = \"src\", to = \"/app\" }]"));
    environment.write("src/x", "x");
    std::os::unix::fs::symlink("x", environment.path("src/.wh.link")).unwrap();
    assert_eq!(environment.kiln("build").status, Some(2));
    environment.stack(&stack("copy = [{ from = \"src\", to = \"/app\", exclude = [\".wh.*\"] }]"));
    environment.succeed("build");
}

#[test]
fn a_home_deletes_no_file_of_the_layers_below() {
    let user = "user = { name = \"alice\", uid = 1000, home = \"/home/.wh.bob\" }";
    assert_snapshot!(TestEnvironment::with_stack(&stack(user)).kiln("build"), @r#"
    ------- stderr -------
    error: `/home/.wh.bob` cannot be in a layer: no layer can hold a file named `.wh.bob`: names that begin with `.wh.` delete files of the layers below
      --> kiln.toml:13:45
       |
    13 | user = { name = "alice", uid = 1000, home = "/home/.wh.bob" }
       |                                             ^^^^^^^^^^^^^^^
       |
    help: choose another name
    [exit status: 2]
    "#);
}

#[test]
fn a_copy_is_no_file_where_another_layer_has_a_directory() {
    let environment = TestEnvironment::with_stack(&stack(
        "packages = [\"good\"]\ncopy = [{ from = \"src/x\", to = \"/opt/venv/lib\" }]",
    ));
    environment.wheel(&pure("good", "1.0").file("good-1.0.data/data/share/good/x", ""));
    environment.write("src/x", "x");
    environment.succeed("build --output oci:out");
    let image = crate::images::ReadBack::of(&environment.path("out"), "app", "amd64");
    assert_eq!(image.text("opt/venv/lib/x"), "x", "the file goes into the directory");
    for (to, refused) in [("share/good", true), ("share/good/x/y", true), ("share/good/x", false), ("share/z", false)] {
        let copy = format!("copy = [{{ from = \"src/x\", to = \"/opt/venv/{to}\" }}]");
        environment.stack(&stack(&format!("packages = [\"good\"]\n{copy}")));
        let outcome = environment.kiln("build");
        assert_eq!(outcome.status, Some(if refused { 2 } else { 0 }), "{to}: {outcome}");
        assert!(!refused || outcome.stderr.contains("`good-1.0-py3-none-any.whl`"), "{outcome}");
    }
    let twice = "copy = [{ from = \"src/x\", to = \"/app/x\" }, { from = \"src\", to = \"/app/x\" }]";
    environment.stack(&stack(twice));
    assert_eq!(environment.kiln("build").status, Some(2));
}

#[test]
fn a_wheel_is_no_file_where_one_of_an_image_below_has_a_directory() {
    let lines = "packages = [\"one\"]\n\n[images.top]\nfrom = \"app\"\npackages = [\"one\", \"two\"]\n";
    let environment = TestEnvironment::with_stack(&stack(lines));
    environment.wheel(&pure("one", "1.0").file("shared", "a file"));
    environment.wheel(&pure("two", "1.0").file("shared/inside.py", "below it"));
    assert_snapshot!(environment.kiln("build --output oci:out"), @r"
    ------- stderr -------
    error: `/opt/venv/lib/python3.11/site-packages/shared` is a file in `one-1.0-py3-none-any.whl` and a directory in `two-1.0-py3-none-any.whl`: in an image the one removes the other

    hint: leave one of the two out, or give it another place
    [exit status: 2]
    ");
    assert!(!environment.path("out").exists());
}

#[test]
fn a_file_with_other_content_than_below_is_warned_of_and_the_upper_image_has_its_own() {
    let lines = "packages = [\"zebra\"]\n\n[images.top]\nfrom = \"app\"\npackages = [\"aardvark\"]\n";
    let environment = TestEnvironment::with_stack(&stack(lines));
    environment.wheel(&pure("zebra", "1.0").file("shared/data.txt", "below"));
    environment.wheel(&pure("aardvark", "1.0").file("shared/data.txt", "above"));
    assert_snapshot!(environment.kiln("build"), @r#"
    app sha256:<digest> <size> in 3 layers
    top sha256:<digest> <size> in 4 layers
    ------- stderr -------
    warning: `zebra-1.0-py3-none-any.whl` and `aardvark-1.0-py3-none-any.whl` both bring `opt/venv/lib/python3.11/site-packages/shared/data.txt` with different content, and the latter's is in the image: what the former needs of its own may be gone. `overlaps = { winner = "NAME" }` chooses the other, `resolution = { exclude = ["NAME"] }` leaves one out
    "#);
    // It is a warning each time: nobody looks for one in the logs of the first build.
    let again = environment.kiln("build");
    assert!(again.stderr.contains("both bring"), "{again}");
}

#[test]
fn a_base_whose_config_is_that_of_other_layers_is_refused() {
    let environment = TestEnvironment::with_stack(&stack(""));
    bases::with_other_diff_ids(&environment.path("base"), &Digest::of(b"another tar"));
    assert_snapshot!(environment.kiln("lock"), @r"
    ------- stderr -------
    error: the layers of `oci base` cannot be read
      caused by: the layer sha256:<digest> is another than the config of its image says: its diff id is sha256:<digest> rather than sha256:<digest>
    [exit status: 1]
    ");
    assert_eq!(environment.kiln("build --output oci:out").status, Some(1));
    assert_eq!(environment.kiln("verify oci:base").status, Some(1));
}
