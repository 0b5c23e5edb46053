//! `run`: commands that run while an image is built.

use std::collections::BTreeSet;
use std::path::PathBuf;

use insta::assert_snapshot;

use crate::environment::TestEnvironment;
use crate::images::ReadBack;

/// A project whose image `app` holds one program, `/step`, with its libraries, and has more lines.
pub(crate) fn project(lines: &str) -> TestEnvironment {
    let environment = TestEnvironment::new();
    let step = example("step");
    let place = environment.path("root/step");
    fs_err::create_dir_all(place.parent().unwrap()).unwrap();
    fs_err::copy(&step, place).unwrap();
    for library in libraries() {
        let real = fs_err::canonicalize(&library).unwrap();
        for to in [&library, &real] {
            let to = environment.path("root").join(to.strip_prefix("/").unwrap());
            fs_err::create_dir_all(to.parent().unwrap()).unwrap();
            fs_err::copy(&real, to).unwrap();
        }
    }
    fs_err::create_dir_all(environment.path("root/data")).unwrap();
    environment.write("root/data/file", "original");
    environment.stack(&stack(lines));
    environment
}

pub(crate) fn stack(lines: &str) -> String {
    let cpu = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    format!(
        "[stack]\nname = \"demo\"\n\n[target]\nplatforms = [\"linux/{cpu}\"]\n\n[images.app]\nfrom = \"scratch\"\n\
         copy = [{{ from = \"root\", to = \"/\" }}]\n{lines}"
    )
}

/// A program for images: an example of this package, which tests are built with.
pub(crate) fn example(name: &str) -> PathBuf {
    let own = std::env::current_exe().unwrap();
    own.parent().unwrap().parent().unwrap().join("examples").join(name)
}

/// The files that this process has mapped to run, and the place at which programs look for the loader.
pub(crate) fn libraries() -> BTreeSet<PathBuf> {
    let maps = fs_err::read_to_string("/proc/self/maps").unwrap();
    let paths = maps.lines().filter_map(|line| line.find('/').map(|at| PathBuf::from(&line[at..])));
    let is_library = |path: &PathBuf| path.to_string_lossy().contains(".so") && path.is_file();
    let mut paths: BTreeSet<PathBuf> = paths.filter(is_library).collect();
    let loaders = ["/lib64/ld-linux-x86-64.so.2", "/lib/ld-linux-aarch64.so.1"].map(PathBuf::from);
    paths.extend(loaders.into_iter().filter(|path| path.exists()));
    paths
}

/// Returns true, and says so, if this machine allows no sandbox.
#[allow(clippy::print_stderr, reason = "a test that was skipped says so")]
pub(crate) fn is_impossible() -> bool {
    let possible = std::process::Command::new("unshare").args(["-Urm", "true"]).status();
    let impossible = possible.is_ok_and(|status| !status.success());
    if impossible {
        eprintln!("SKIPPED: this machine allows no user namespaces");
    }
    impossible
}

fn built(environment: &TestEnvironment, image: &str) -> ReadBack {
    let cpu = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    ReadBack::of(&environment.path("out"), image, cpu)
}

fn list(environment: &TestEnvironment) -> String {
    let list = built(environment, "app").list();
    list.lines().filter(|line| line.contains("made") || line.contains(".wh.")).collect::<Vec<_>>().join("\n")
}

#[test]
fn commands_change_the_image_one_after_the_other() {
    if is_impossible() {
        return;
    }
    let environment = project(
        r#"env = { NAME = "world" }
workdir = "/data"
run = [
  ["/step", "make", "/made", "then", "write", "/made/a", "1", "then", "variable", "NAME", "then", "where"],
  { command = ["/step", "append", "/made/a", "2", "then", "remove", "/data/file", "then", "variable", "OWN"], env = { OWN = "x" } },
  ["/step", "link", "a", "/made/link", "then", "variable", "OWN"],
]
"#,
    );
    let said = environment.kiln("build -v --output oci:out");
    assert!(said.status == Some(0), "{said}");
    let lines: Vec<&str> = said.stderr.lines().filter(|line| line.starts_with("  ")).collect();
    assert_eq!(lines, ["  world", "  /data", "  x", "  unset"]);
    assert_snapshot!(list(&environment), @r"
    d0755 0:0 made
    -0644 0:0 made/a
    -0644 0:0 data/.wh.file
    d0755 0:0 made
    -0644 0:0 made/a
    d0755 0:0 made
    l0777 0:0 made/link -> a
    ");
    let image = built(&environment, "app");
    assert_snapshot!(image.history().join("\n"), @r"
    kiln: copy root to /
    kiln: run /step make /made then write /made/a 1 then variable NAME the...
    kiln: run /step append /made/a 2 then remove /data/file then variable ...
    kiln: run /step link a /made/link then variable OWN
    ");
    // A second build runs nothing.
    assert!(environment.succeed("build").contains("(unchanged)"));
    let plan = environment.succeed("plan");
    assert_eq!(plan.lines().filter(|line| line.contains("run /step") && line.ends_with("in the store")).count(), 3);
}

#[test]
fn a_command_that_fails_shows_its_last_lines() {
    if is_impossible() {
        return;
    }
    let environment = project(r#"run = [["/step", "print", "before", "then", "fail", "3"]]"#);
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: `/step print before then fail 3` of image `app` (kiln.toml line 10) failed with status 3; its last lines:
    before

    hint: `kiln build --shell-on-failure` opens a shell in the files that it left
    [exit status: 1]
    ");
    environment.stack(&stack(r#"run = [["/nothing"]]"#));
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: `/nothing` of image `app` (kiln.toml line 10) failed with status 127; its last lines:
    kiln: /nothing: No such file or directory (os error 2)

    hint: a program is missing in the image, or `PATH` does not lead to it
    [exit status: 1]
    ");
    environment.stack(&stack(r#"run = [{ command = ["/step", "wait"], timeout = "200ms" }]"#));
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: `/step wait` of image `app` (kiln.toml line 10) took longer than its timeout of 0.2 s

    hint: give it more time: `timeout = "1h"`
    [exit status: 1]
    "#);
    environment.stack(&stack(r#"run = ["make install"]"#));
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: `make install` of image `app` (kiln.toml line 10) failed with status 127; its last lines:
    kiln: /bin/sh: No such file or directory (os error 2)

    hint: a program is missing in the image, or `PATH` does not lead to it
    [exit status: 1]
    ");
    environment.stack(&stack(r#"run = [{ command = ["/step", "where"], workdir = "/nowhere" }]"#));
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: `/step where` of image `app` (kiln.toml line 10) failed with status 126; its last lines:
    kiln: the working directory `/nowhere` cannot be entered

    hint: the command or its working directory cannot be used: `kiln build --shell-on-failure` opens a shell to look
    [exit status: 1]
    ");
}

#[test]
fn setup_runs_before_everything_else_and_an_edit_of_a_source_does_not_run_it_again() {
    if is_impossible() {
        return;
    }
    let environment = project("");
    environment.write("src/a", "1");
    let lines = "\n[images.train]\nfrom = \"app\"\nenv = { NAME = \"world\" }\n\
                 setup = [[\"/step\", \"make\", \"/made/real\", \"then\", \"link\", \"real\", \"/made/link\", \"then\", \"variable\", \"NAME\"]]\n\
                 copy = [{ from = \"src\", to = \"/made/link\" }]\n\
                 run = [[\"/step\", \"write\", \"/made/link/b\", \"2\"]]\n";
    environment.stack(&stack(lines));
    let said = environment.kiln("build -v --output oci:out");
    assert!(said.status == Some(0) && said.stderr.contains("  world"), "{said}");
    let image = built(&environment, "train");
    let made = image.list();
    assert_snapshot!(made.lines().filter(|line| line.contains("made")).collect::<Vec<_>>().join("\n"), @r"
    d0755 0:0 made
    l0777 0:0 made/link -> real
    d0755 0:0 made/real
    d0755 0:0 made
    d0755 0:0 made/real
    -0644 0:0 made/real/a
    d0755 0:0 made
    d0755 0:0 made/real
    -0644 0:0 made/real/b
    ");
    environment.write("src/a", "edited");
    let said: serde_json::Value = serde_json::from_str(&environment.succeed("build --json")).unwrap();
    let steps = said["steps"].as_array().unwrap().iter().filter(|step| step["kind"] == "run");
    let ran: Vec<&str> = steps.map(|step| step["outcome"].as_str().unwrap()).collect();
    assert_snapshot!(ran.join(" "), @"local performed");
}

#[test]
fn an_image_stands_on_what_the_commands_below_it_left() {
    if is_impossible() {
        return;
    }
    let lines = "run = [[\"/step\", \"make\", \"/made/real\", \"then\", \"link\", \"real\", \"/made/link\", \"then\", \"make\", \"/etc\", \
                 \"then\", \"write\", \"/etc/passwd\", \"bob:x:1234:1234::/home/bob:/bin/sh\\n\", \"then\", \"write\", \"/etc/group\", \"bob:x:1234:\\n\"]]\n\n\
                 [images.above]\nfrom = \"app\"\nuser = \"bob\"\nfiles = [{ to = \"/made/link/text\", text = \"t\", owner = \"bob\" }]\n";
    let environment = project(lines);
    environment.succeed("lock");
    let plan = environment.succeed("plan");
    assert!(plan.contains("above: depends on"), "{plan}");
    environment.succeed("build --locked --output oci:out");
    let image = built(&environment, "above");
    let made = image.list();
    assert_snapshot!(made.lines().filter(|line| line.contains("made")).collect::<Vec<_>>().join("\n"), @r"
    d0755 0:0 made
    l0777 0:0 made/link -> real
    d0755 0:0 made/real
    d0755 0:0 made
    d0755 0:0 made/real
    -0644 1234:1234 made/real/text
    ");
}

#[test]
fn a_command_sees_bound_files_and_the_image_does_not_get_them() {
    if is_impossible() {
        return;
    }
    let environment = project("");
    environment.write("src/a", "bound");
    environment.stack(&stack(
        "run = [{ command = [\"/step\", \"show\", \"/data/in/a\", \"then\", \"write\", \"/data/in/lost\", \"1\", \"then\", \
         \"remove\", \"/data/in/a\", \"then\", \"write\", \"/made\", \"2\"], bind = [{ from = \"src\", to = \"/data/in\" }] },\n\
         { command = [\"/step\", \"show\", \"/tools/made\"], bind = [{ from = { image = \"tools\", path = \"/t\" }, to = \"/tools\" }] }]\n\
         \n[images.tools]\nfrom = \"scratch\"\nfiles = [{ to = \"/t/made\", text = \"elsewhere\" }]\n",
    ));
    let said = environment.kiln("build -v --output oci:out");
    assert!(said.status == Some(0), "{said}");
    let lines: Vec<&str> = said.stderr.lines().filter(|line| line.starts_with("  ")).collect();
    assert_eq!(lines, ["  bound", "  elsewhere"]);
    assert_snapshot!(list(&environment), @"-0644 0:0 made");
    // Other content is another command.
    environment.write("src/a", "other");
    assert!(environment.kiln("build -v").stderr.contains("  other"));
}

#[test]
fn files_that_are_bound_at_a_link_of_the_image_and_files_of_runtimes_leave_nothing() {
    if is_impossible() {
        return;
    }
    let environment = project("");
    environment.write("src/a", "bound");
    environment.stack(&stack(
        "files = [{ to = \"/made\", link = \"data\" }]\nrun = [{ command = [\"/step\", \"write\", \"/made/new\", \"1\", \"then\", \
         \"remove\", \"/made/a\", \"then\", \"append\", \"/made/file\", \"2\"], bind = [{ from = \"src\", to = \"/made\" }] },\n\
         [\"/step\", \"append\", \"/etc/hosts\", \"1.2.3.4 x\"]]\n",
    ));
    environment.succeed("build --output oci:out");
    let image = built(&environment, "app");
    let list = image.list();
    assert!(!list.contains("data/new") && !list.contains(".wh.") && !list.contains("hosts"), "{list}");
    assert_eq!(list.matches("data/file").count(), 0, "{list}");
    environment.stack(&stack("run = [{ command = [\"/step\"], bind = [{ from = \"src\", to = \"/\" }] }]\n"));
    assert!(environment.kiln("build").stderr.contains("files appear in a directory or a file"));
    environment.stack(&stack("run = [{ command = [\"/step\"], bind = [{ from = \"src\", to = \"/proc/x\" }] }]\n"));
    assert!(environment.kiln("build").stderr.contains("`/proc` holds the kernel's files in every command"));
}

#[test]
fn an_edit_above_runs_nothing_and_an_edit_below_runs_all() {
    if is_impossible() {
        return;
    }
    let environment = project("run = [[\"/step\", \"write\", \"/made\", \"1\"]]\n");
    environment.succeed("build");
    environment.stack(&stack(
        "run = [[\"/step\", \"write\", \"/made\", \"1\"]]\nlabels = { a = \"b\" }\ncommand = [\"/step\"]\n",
    ));
    let ran = |environment: &TestEnvironment| {
        let said: serde_json::Value = serde_json::from_str(&environment.succeed("build --json")).unwrap();
        let steps = said["steps"].as_array().unwrap().clone();
        steps.iter().find(|step| step["kind"] == "run").unwrap()["outcome"].as_str().unwrap().to_owned()
    };
    assert_eq!(ran(&environment), "local");
    environment.write("root/data/file", "edited");
    assert_eq!(ran(&environment), "performed");
    assert_eq!(ran(&environment), "local");
    environment.stack(&stack("run = [[\"/step\", \"write\", \"/made\", \"1\"]]\nenv = { A = \"b\" }\n"));
    assert_eq!(ran(&environment), "performed");
}

#[test]
fn mistakes_point_at_their_lines() {
    let environment = TestEnvironment::new();
    for (lines, name) in [
        ("run = [\"\"]\n", "empty"),
        ("run = [[]]\n", "no words"),
        ("run = [{ command = [\"make\"], shell = \"bash\" }]\n", "a shell for words"),
        ("run = [{ command = \"make\", shell = \"fish\" }]\n", "another shell"),
        ("run = [{ command = \"make\", timeout = \"soon\" }]\n", "a time"),
        ("run = [{ command = \"make\", workdir = \"src\" }]\n", "a relative directory"),
        ("run = [7]\n", "a number"),
        ("run = [{ shell = \"bash\" }]\n", "no command"),
        ("setup = [\"\"]\n", "empty setup"),
        ("run = [{ command = \"make\", bind = [{ from = \"root\", to = \"x\" }] }]\n", "a bind at a relative path"),
    ] {
        environment.stack(&stack(lines));
        environment.write("root/file", "");
        assert_snapshot!(format!("commands, {name}"), environment.kiln("plan"));
    }
}

#[test]
fn a_user_that_the_base_does_not_have_is_an_error() {
    let environment = TestEnvironment::with_stack(
        "[stack]\nname = \"demo\"\n\n[target]\nplatforms = [\"linux/amd64\"]\n\n[images.app]\nfrom = { oci = \"base\" }\n\
         run = [{ command = \"make\", user = \"alice\" }]\n",
    );
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: there is no user `alice` in the base
     --> kiln.toml:9:35
      |
    9 | run = [{ command = "make", user = "alice" }]
      |                                   ^^^^^^^
      |
    help: known are root, nobody
    [exit status: 2]
    "#);
}

#[test]
fn the_umask_of_whoever_builds_does_not_show() {
    if is_impossible() {
        return;
    }
    let environment = project(
        "files = [{ to = \"/opt/deep/file\", text = \"x\" }]\nrun = [[\"/step\", \"mode\", \"/\", \"then\", \"mode\", \"/opt\", \"then\", \"make\", \"/opt/made\"]]\n",
    );
    let built = ["022", "077", "000"].map(|mask| {
        let said = environment.shell(&format!("umask {mask}; $KILN --store ../store-{mask} build -v"));
        assert!(said.status == Some(0), "{said}");
        let modes: Vec<String> =
            said.stderr.lines().filter_map(|line| Some(line.strip_prefix("  ")?.to_owned())).collect();
        assert_eq!(modes, ["755 0:0", "755 0:0"], "umask {mask}");
        said.stdout
    });
    assert_eq!(built[0], built[1]);
    assert_eq!(built[0], built[2]);
}
