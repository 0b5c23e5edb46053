//! `copy`: files of the project in the layer.

use std::os::unix::fs::PermissionsExt;

use crate::environment::TestEnvironment;
use crate::images::ReadBack;
use crate::wheels::stack;
use insta::assert_snapshot;

fn project(copy: &str) -> TestEnvironment {
    let environment = TestEnvironment::with_stack(&stack(&format!("copy = [{copy}]")));
    environment.write("src/main.py", "print()\n");
    environment.write("src/deep/tool.sh", "#!/bin/sh\n");
    environment.write("src/deep/tool.pyc", "x");
    environment.write("src/notes.md", "x");
    let mode = std::fs::Permissions::from_mode(0o700);
    fs_err::set_permissions(environment.path("src/deep/tool.sh"), mode).unwrap();
    std::os::unix::fs::symlink("main.py", environment.path("src/link.py")).unwrap();
    environment
}

#[track_caller]
fn copied(copy: &str) -> String {
    let environment = project(copy);
    environment.write("ignored.txt", "*.md\n/src/deep/\n");
    environment.succeed("build --output oci:out");
    ReadBack::of(&environment.path("out"), "app", "amd64").list()
}

#[test]
fn a_directory_goes_with_its_content_and_only_execute_bits_of_its_modes() {
    assert_snapshot!(copied(r#"{ from = "src", to = "/app" }"#), @r"
    d0755 0:0 app
    d0755 0:0 app/deep
    -0644 0:0 app/deep/tool.pyc
    -0755 0:0 app/deep/tool.sh
    l0777 0:0 app/link.py -> main.py
    -0644 0:0 app/main.py
    -0644 0:0 app/notes.md
    ");
}

#[test]
fn patterns_leave_files_out() {
    assert_snapshot!(copied(r#"{ from = "src/", to = "/app/", exclude = ["**/*.pyc", "link.py"] }"#), @r"
    d0755 0:0 app
    d0755 0:0 app/deep
    -0755 0:0 app/deep/tool.sh
    -0644 0:0 app/main.py
    -0644 0:0 app/notes.md
    ");
    assert_snapshot!(copied(r#"{ from = "src", to = "/app", ignore-file = "ignored.txt" }"#), @r"
    d0755 0:0 app
    l0777 0:0 app/link.py -> main.py
    -0644 0:0 app/main.py
    ");
}

#[test]
fn owner_and_mode_are_set_on_all_that_is_copied() {
    assert_snapshot!(copied(r#"{ from = "src", to = "/srv/app", owner = "1000:50", mode = "0640" }"#), @r"
    d0755 1000:50 srv
    d0750 1000:50 srv/app
    d0750 1000:50 srv/app/deep
    -0640 1000:50 srv/app/deep/tool.pyc
    -0640 1000:50 srv/app/deep/tool.sh
    l0777 1000:50 srv/app/link.py -> main.py
    -0640 1000:50 srv/app/main.py
    -0640 1000:50 srv/app/notes.md
    ");
    assert_snapshot!(copied(r#"{ from = "src/main.py", to = "/a.py", owner = "nobody:staff" }"#), @"-0644 65534:50 a.py");
    assert_snapshot!(copied(r#"{ from = "src/main.py", to = "/a.py", owner = "nobody" }"#), @"-0644 65534:65534 a.py");
}

#[test]
fn an_owner_may_be_a_user_that_the_image_creates() {
    let environment = project(r#"{ from = "src/main.py", to = "/home/alice/main.py", owner = "alice" }"#);
    environment
        .stack(&format!("{}user = {{ name = \"alice\", uid = 1234, gid = 50 }}\n", environment.read("kiln.toml")));
    environment.succeed("build --output oci:out");
    let image = ReadBack::of(&environment.path("out"), "app", "amd64");
    assert_eq!(image.file("home/alice/main.py").owner, (1234, 50));
}

#[test]
fn an_owner_that_the_base_does_not_have_is_named_with_those_it_has() {
    let environment = project(r#"{ from = "src", to = "/app", owner = "nobdy" }"#);
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: there is no user `nobdy` in the base
      --> kiln.toml:13:46
       |
    13 | copy = [{ from = "src", to = "/app", owner = "nobdy" }]
       |                                              ^^^^^^^
       |
    help: known are root, nobody
    [exit status: 2]
    "#);
}

#[test]
fn a_file_goes_to_the_path_or_into_the_directory_that_ends_with_a_slash() {
    assert_snapshot!(copied(r#"{ from = "src/main.py", to = "/usr/bin/start" }"#), @r"
    d0755 0:0 usr
    d0755 0:0 usr/bin
    -0644 0:0 usr/bin/start
    ");
    assert_snapshot!(copied(r#"{ from = "src/main.py", to = "/opt/tools/" }"#), @r"
    d0755 0:0 opt
    d0755 0:0 opt/tools
    -0644 0:0 opt/tools/main.py
    ");
    assert_snapshot!(copied(r#"{ from = "src/main.py", to = "/" }"#), @"-0644 0:0 main.py");
}

#[test]
fn a_changed_file_is_picked_up_and_nothing_else_is_rebuilt() {
    let environment = project(r#"{ from = "src", to = "/app", exclude = ["*.md"] }, { from = "more", to = "/more" }"#);
    environment.write("more/x", "x");
    let first = environment.digests("");
    environment.write("src/notes.md", "what is left out may change");
    let touched = fs_err::File::options().write(true).open(environment.path("src/main.py")).unwrap();
    touched.set_modified(std::time::SystemTime::UNIX_EPOCH).unwrap();
    assert_eq!(environment.digests(""), first);
    assert_snapshot!(environment.kiln("build"), @"app sha256:<digest> <size> in 3 layers (unchanged)");
    environment.write("src/main.py", "print(1)\n");
    assert_snapshot!(environment.kiln("plan"), @r"
    app (linux/amd64)
      oci base                        in the store
      copy src to /app        20 B    to do: src to /app changed (kiln.toml line 13)
      copy more to /more       1 B    in the store
      image                           depends on copy src to /app

    app: copy changed
    ");
    assert_ne!(environment.digests(""), first);
    environment.write("src/main.py", "print()\n");
    assert_eq!(environment.digests(""), first);
}

#[test]
fn a_change_of_the_same_length_right_after_a_build_is_seen() {
    let environment = project(r#"{ from = "src", to = "/app" }"#);
    let mut digests = std::collections::BTreeSet::new();
    for round in 0..8 {
        environment.write("src/main.py", format!("print({round})\n"));
        digests.insert(environment.digests(""));
    }
    assert_eq!(digests.len(), 8);
}

#[test]
fn what_is_to_be_copied_must_be_there_and_inside_the_project() {
    let environment = project(r#"{ from = "scr", to = "/app" }"#);
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: `scr` does not exist in <root>/project
      --> kiln.toml:13:18
       |
    13 | copy = [{ from = "scr", to = "/app" }]
       |                  ^^^^^
    [exit status: 2]
    "#);
    let environment = project(r#"{ from = "outside/passwd", to = "/app" }"#);
    std::os::unix::fs::symlink("/etc", environment.path("outside")).unwrap();
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: `outside/passwd` leads out of the project by a symbolic link
      --> kiln.toml:13:18
       |
    13 | copy = [{ from = "outside/passwd", to = "/app" }]
       |                  ^^^^^^^^^^^^^^^^
    [exit status: 2]
    "#);
    let environment = project(r#"{ from = "src", to = "/app", ignore-file = "nowhere" }"#);
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: `nowhere` does not exist in <root>/project
    [exit status: 2]
    ");
}

#[test]
fn a_link_that_leads_out_of_the_project_is_copied_as_a_link() {
    let environment = project(r#"{ from = "src", to = "/app", exclude = ["deep", "*.md", "*.py"] }"#);
    std::os::unix::fs::symlink("/etc/passwd", environment.path("src/outside")).unwrap();
    environment.succeed("build --output oci:out");
    assert_snapshot!(ReadBack::of(&environment.path("out"), "app", "amd64").list(), @r"
    d0755 0:0 app
    l0777 0:0 app/outside -> /etc/passwd
    ");
}

#[test]
fn a_pipe_is_refused_rather_than_waited_for() {
    let environment = project(r#"{ from = "src", to = "/app" }"#);
    let made = std::process::Command::new("mkfifo").arg(environment.path("src/pipe")).status().unwrap();
    assert!(made.success());
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: `<root>/project/src/pipe` is neither file, directory nor link
    [exit status: 2]
    ");
}
