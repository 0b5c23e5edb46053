//! `copy`: sources, patterns, and the rules of what stays out.

use std::os::unix::ffi::OsStrExt;

use crate::environment::TestEnvironment;
use crate::images::ReadBack;
use crate::wheels::stack;
use insta::assert_snapshot;

fn project(copy: &str, files: &[(&str, &str)]) -> TestEnvironment {
    let environment = TestEnvironment::with_stack(&stack(&format!("copy = [{copy}]")));
    files.iter().for_each(|(path, text)| environment.write(path, text));
    environment
}

#[track_caller]
fn copied(environment: &TestEnvironment) -> String {
    environment.succeed("build --output oci:out");
    let image = ReadBack::of(&environment.path("out"), "app", "amd64");
    let list = image.list();
    list.lines().filter_map(|line| line.split_once("0:0 ")).map(|(_, path)| path).collect::<Vec<_>>().join(" ")
}

#[test]
fn what_a_list_or_a_pattern_names_keeps_its_name_unless_it_ends_with_a_slash() {
    let files =
        [("src/a.py", "a"), ("tests/b.py", "b"), ("conf/c.yaml", "c"), ("conf/d.yaml", "d"), ("conf/e.txt", "e")];
    let of = |copy: &str| copied(&project(copy, &files));
    assert_eq!(of(r#"{ from = "src", to = "/app" }"#), "app app/a.py");
    assert_eq!(of(r#"{ from = ["src", "conf/e.txt"], to = "/app" }"#), "app app/src app/src/a.py app/e.txt");
    assert_eq!(of(r#"{ from = ["src/", "tests"], to = "/app" }"#), "app app/a.py app/tests app/tests/b.py");
    assert_eq!(of(r#"{ from = "conf/*.yaml", to = "/app" }"#), "app app/c.yaml app/d.yaml");
    assert_eq!(of(r#"{ from = "**/*.py", to = "/app" }"#), "app app/a.py app/b.py");
    assert_eq!(of(r#"{ from = "con?", to = "/app" }"#), "app app/conf app/conf/c.yaml app/conf/d.yaml app/conf/e.txt");
    assert_eq!(
        of(r#"{ from = ["conf", "src"], to = "/app", exclude = ["/conf/*.yaml", "*.py"] }"#),
        "app app/conf app/conf/e.txt app/src"
    );
    assert_eq!(of(r#"{ from = "conf/*", to = "/app", exclude = ["*.yaml"] }"#), "app app/e.txt");
    assert_eq!(of(r#"{ from = "con?/", to = "/app" }"#), "app app/c.yaml app/d.yaml app/e.txt");
    assert_snapshot!(project(r#"{ from = ["src", "conf/*.json"], to = "/app" }"#, &files).kiln("build"), @r#"
    ------- stderr -------
    error: the pattern `conf/*.json` matches nothing that is copied
      --> kiln.toml:13:26
       |
    13 | copy = [{ from = ["src", "conf/*.json"], to = "/app" }]
       |                          ^^^^^^^^^^^^^
    [exit status: 2]
    "#);
}

#[test]
fn a_named_link_is_what_it_leads_to_and_one_in_a_tree_stays_a_link() {
    let environment = project(r#"{ from = "current", to = "/app" }, { from = ["app.conf"], to = "/etc" }"#, &[]);
    environment.write("releases/r", "r");
    environment.write("real.conf", "c");
    for (target, link) in [("releases", "current"), ("real.conf", "app.conf"), ("r", "releases/link")] {
        std::os::unix::fs::symlink(target, environment.path(link)).unwrap();
    }
    environment.succeed("build --output oci:out");
    let image = ReadBack::of(&environment.path("out"), "app", "amd64");
    assert_snapshot!(image.list(), @r"
    d0755 0:0 app
    l0777 0:0 app/link -> r
    -0644 0:0 app/r
    --
    d0755 0:0 etc
    -0644 0:0 etc/app.conf
    ");
}

#[test]
fn rules_count_from_where_their_file_lies() {
    let files = [
        ("src/secret.env", "s"),
        ("src/a.key", "s"),
        ("src/app.py", "a"),
        ("src/deep/x.log", "x"),
        ("src/deep/y", "y"),
    ];
    let environment = project(r#"{ from = "src/", to = "/app", ignore-file = ".gitignore" }"#, &files);
    environment.write(".gitignore", "/src/secret.env\nsrc/*.key\n*.log\n");
    assert_eq!(copied(&environment), "app app/app.py app/deep app/deep/y");
    // As for git, an inner file decides before an outer one.
    environment.write("src/deep/.gitignore", "!x.log\ny\n");
    assert_eq!(copied(&environment), "app app/app.py app/deep app/deep/.gitignore app/deep/x.log");
    environment.write(".gitignore", "src/\n");
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: `src/` is left out by line 1 of `.gitignore`, `src/`
      --> kiln.toml:13:18
       |
    13 | copy = [{ from = "src/", to = "/app", ignore-file = ".gitignore" }]
       |                  ^^^^^^
       |
    help: name another `ignore-file`, or change the rule
    [exit status: 2]
    "#);
}

#[test]
fn a_dockerignore_beside_the_stack_file_counts_by_docker_s_rules() {
    let files = [("a.py", "a"), ("logs/old", "o"), ("logs/keep", "k"), ("sub/logs/x", "x")];
    let environment = project(r#"{ from = ".", to = "/app" }"#, &files);
    environment.write(".dockerignore", "logs\n!logs/keep\nbase\nout\nwheels\n");
    // Docker's patterns count from the top; and kiln's own files stay out.
    assert_eq!(
        copied(&environment),
        "app app/.dockerignore app/a.py app/logs app/logs/keep app/sub app/sub/logs app/sub/logs/x"
    );
    assert_snapshot!(environment.kiln("plan --files"), @r"
    app: copy . to /app
      .dockerignore  0644       32 B
      a.py           0644        1 B
      logs           0755  directory
      logs/keep      0644        1 B
      sub            0755  directory
      sub/logs       0755  directory
      sub/logs/x     0644        1 B
      left out: base by line 3 of `.dockerignore`, `base`
      left out: kiln.lock by kiln, whose file it is
      left out: kiln.toml by kiln, whose file it is
      kept: logs/keep by line 2 of `.dockerignore`, `!logs/keep`
      left out: logs/old by line 1 of `.dockerignore`, `logs`
      left out: out by line 4 of `.dockerignore`, `out`
      left out: wheels by line 5 of `.dockerignore`, `wheels`
    ");
    let json = environment.kiln("plan --files --json");
    assert!(json.stdout.contains(r#""rule": "line 2 of `.dockerignore`, `!logs/keep`""#), "{json}");
    environment.write(".dockerignore", "[a\n");
    assert_snapshot!(environment.kiln("build"), @r#"
    ------- stderr -------
    error: `.dockerignore` cannot be used: `[a` in line 1: syntax error in pattern
      --> kiln.toml:13:18
       |
    13 | copy = [{ from = ".", to = "/app" }]
       |                  ^^^
    [exit status: 2]
    "#);
}

#[test]
fn a_pattern_that_matches_nothing_and_names_of_secrets_are_warned_of() {
    let files = [("src/a.py", "a"), ("src/.env", "s"), ("src/tls/server.pem", "s"), ("src/.env.example", "e")];
    let environment = project(r#"{ from = "src", to = "/app", exclude = ["*.pyc", "a.py"] }"#, &files);
    assert_snapshot!(environment.kiln("build"), @r"
    app sha256:<digest> <size> in 2 layers
    ------- stderr -------
    warning: `exclude` of `src`: the pattern `*.pyc` matches nothing
    warning: `src` is copied with `.env`, `tls/server.pem`, by the name a secret: whoever has the image has them. Leave them out with `exclude` or an ignore file
    ");
    environment.stack(&stack(r#"copy = [{ from = "src/.env", to = "/app/" }]"#));
    assert_eq!(environment.kiln("build").stderr, "", "it is named");
}

#[test]
fn names_that_are_not_utf8_are_kept_or_left_out_like_any_other() {
    let environment = project(r#"{ from = "src", to = "/app" }"#, &[("src/a", "a")]);
    let name = std::ffi::OsStr::from_bytes(b"caf\xe9");
    fs_err::write(environment.path("src").join(name), "x").unwrap();
    environment.succeed("build --output oci:out");
    let blobs = fs_err::read_dir(environment.path("out/blobs/sha256"))
        .unwrap()
        .map(|entry| fs_err::read(entry.unwrap().path()).unwrap());
    let mut tars = blobs.filter(|blob| blob.starts_with(&[0x1f, 0x8b])).map(|blob| crate::images::inflate(&blob));
    assert!(tars.any(|tar| tar.windows(9).any(|bytes| bytes == b"app/caf\xe9\n")), "as it is, in a pax record");
    environment.stack(&stack(r#"copy = [{ from = "src", to = "/app", exclude = ["caf*"] }]"#));
    assert_eq!(copied(&environment), "app app/a");
}
