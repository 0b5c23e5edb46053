//! `cache`, `secrets` and `ssh`: things that commands have and images do not.

use std::io::{Read as _, Write as _};

use insta::assert_snapshot;

use crate::commands::{is_impossible, project, stack};
use crate::environment::{Outcome, TestEnvironment};
use crate::images::ReadBack;

const TOKEN: &str = "tok_AbCdEf0123456789xyz";

fn said(outcome: &Outcome) -> Vec<String> {
    assert!(outcome.status == Some(0), "{outcome}");
    outcome.stderr.lines().filter_map(|line| Some(line.strip_prefix("  ")?.to_owned())).collect()
}

fn list(environment: &TestEnvironment, image: &str) -> Vec<String> {
    let cpu = if cfg!(target_arch = "aarch64") { "arm64" } else { "amd64" };
    let list = ReadBack::of(&environment.path("out"), image, cpu).list();
    let own = |line: &&str| ["made", "cache", "run", "secret"].iter().any(|name| line.contains(name));
    list.lines().filter(own).map(str::to_owned).collect()
}

/// Builds with the token in a variable.
fn build(environment: &TestEnvironment, arguments: &str) -> Outcome {
    let mut command = environment.command();
    command.env("TOKEN", TOKEN).args(arguments.split_whitespace());
    Outcome::of(command)
}

fn with_secret(words: &[&str]) -> String {
    let table = "[secrets]\ntoken = { env = \"TOKEN\" }\n";
    stack(&format!("run = [{{ command = {words:?}, secrets = [\"token\"] }}]\n{table}"))
}

#[test]
fn a_cache_keeps_its_content_and_the_image_does_not_get_it() {
    if is_impossible() {
        return;
    }
    let environment = project(
        r#"run = [{ command = ["/step", "count", "/var/cache/tool/n", "then", "write", "/made", "1"], cache = ["/var/cache/tool"] }]
"#,
    );
    for count in ["1", "2", "3"] {
        assert_eq!(said(&environment.kiln("build -v --output oci:out --no-cache app")), [count]);
    }
    assert_snapshot!(list(&environment, "app").join("\n"), @"-0644 0:0 made");
    let usage = environment.succeed("du");
    assert!(usage.lines().any(|line| line.contains("caches of commands") && line.trim_end().ends_with('1')), "{usage}");
    environment.succeed("gc --all --keep-storage 0");
    assert_eq!(said(&environment.kiln("build -v --no-cache app")), ["1"]);
}

#[test]
fn a_cache_is_of_one_image_unless_it_has_an_id() {
    if is_impossible() {
        return;
    }
    let count = r#"command = ["/step", "count", "/c/n"]"#;
    let images = |cache: &str| {
        let run = format!("run = [{{ {count}, cache = [{cache}] }}]\n");
        format!("{run}[images.other]\nfrom = \"scratch\"\ncopy = [{{ from = \"root\", to = \"/\" }}]\n{run}")
    };
    let environment = project("");
    let counts = || {
        let said = |image: &str| said(&environment.kiln(&format!("build -v {image} --no-cache {image}"))).concat();
        (said("app"), said("other"))
    };
    environment.stack(&stack(&images("\"/c\"")));
    assert_eq!(counts(), ("1".into(), "1".into()));
    environment.stack(&stack(&images("{ to = \"/c\", id = \"shared\" }")));
    assert_eq!(counts(), ("1".into(), "2".into()));
    // Another stack has a cache of its own, also where it chooses the same id.
    environment.write("second.toml", stack(&images("{ to = \"/c\", id = \"shared\" }")));
    assert_eq!(said(&environment.kiln("-f second.toml build -v app --no-cache app")), ["1"]);
}

#[test]
fn a_cache_that_is_too_large_is_emptied() {
    if is_impossible() {
        return;
    }
    let environment = project(
        r#"run = [{ command = ["/step", "count", "/c/n"], cache = [{ to = "/c", max-size = "2" }] }]
"#,
    );
    let counts = ["1", "2", "3", "1"].map(|_| environment.kiln("build -v --no-cache app"));
    assert_eq!(counts.each_ref().map(|outcome| said(outcome).concat()), ["1", "2", "3", "1"]);
    assert!(counts[2].stderr.contains("the cache `/c` had 3 B, more than 2 B: it was emptied"), "{}", counts[2]);
}

#[test]
fn a_secret_is_a_file_in_memory_that_only_its_user_reads() {
    if is_impossible() {
        return;
    }
    let environment = project("");
    environment.write("../home/token", format!("{TOKEN}\n"));
    environment.script("vault", &format!("echo {TOKEN}"));
    let options = r#"secrets = ["one", { name = "two", to = "/root/.secret/two", mode = "0440" }, "three"]"#;
    let words = ["one", "two", "three"].map(|name| match name {
        "two" => format!("\"/root/.secret/{name}\""),
        name => format!("\"/run/secrets/{name}\""),
    });
    let shown: String =
        words.iter().map(|path| format!("\"show\", {path}, \"then\", \"mode\", {path}, \"then\", ")).collect();
    environment.stack(&stack(&format!(
        "run = [{{ command = [\"/step\", {shown}\"write\", \"/made\", \"1\"], {options} }}]\n\
         [secrets]\none = {{ env = \"TOKEN\" }}\ntwo = {{ file = \"~/token\" }}\nthree = {{ command = [\"vault\"] }}\n"
    )));
    let outcome = build(&environment, "build -v --output oci:out");
    let said: Vec<String> =
        said(&outcome).into_iter().filter(|line| !line.is_empty() && !line.contains("$ ")).collect();
    assert_eq!(said, ["****", "400 0:0", "****", "440 0:0", "****", "400 0:0"], "{outcome}");
    assert_snapshot!(list(&environment, "app").join("\n"), @"-0644 0:0 made");
}

#[test]
fn a_layer_that_holds_a_secret_is_not_made() {
    if is_impossible() {
        return;
    }
    let environment = project("");
    let secret = "/run/secrets/token";
    environment.stack(&with_secret(&["/step", "make", "/made", "then", "copy", secret, "/made/copy"]));
    assert_snapshot!(build(&environment, "build"), @r"
    ------- stderr -------
    error: `/step make /made then copy /run/secrets/token /made/copy` of image `app` (kiln.toml line 10) left a secret in `/made/copy`

    hint: the layer was not made: let the command remove these files, or keep the secret out of them (git: a credential helper that reads `/run/secrets/NAME` in place of a token in the address)
    [exit status: 1]
    ");
    environment.stack(&with_secret(&["/step", "show", secret, "then", "fail", "3"]));
    assert_snapshot!(build(&environment, "build"), @r"
    ------- stderr -------
    error: `/step show /run/secrets/token then fail 3` of image `app` (kiln.toml line 10) failed with status 3; its last lines:
    ****

    hint: `kiln build --shell-on-failure` opens a shell in the files that it left
    [exit status: 1]
    ");
    // Neither the store nor what was printed holds it.
    assert!(!holds(&environment.root().join("store"), TOKEN.as_bytes()));
}

/// Returns true if a file below a directory holds some bytes.
fn holds(directory: &std::path::Path, bytes: &[u8]) -> bool {
    fs_err::read_dir(directory).unwrap().any(|entry| {
        let path = entry.unwrap().path();
        match path.symlink_metadata().unwrap() {
            found if found.is_dir() => holds(&path, bytes),
            found if found.is_file() => fs_err::read(&path).unwrap().windows(bytes.len()).any(|part| part == bytes),
            _ => false,
        }
    })
}

#[test]
fn secrets_that_cannot_be_read_and_mistakes_are_told() {
    let environment = project("");
    let run = |secret: &str, table: &str| {
        stack(&format!("run = [{{ command = [\"/step\"], secrets = [{secret}] }}]\n[secrets]\n{table}\n"))
    };
    for (name, secret, table) in [
        ("undeclared", "\"tokn\"", "token = { env = \"TOKEN\" }"),
        ("no source", "\"token\"", "token = {}"),
        ("two sources", "\"token\"", "token = { env = \"A\", file = \"b\" }"),
        ("a name that is a path", "\"../x\"", "\"../x\" = { env = \"A\" }"),
        ("no variable", "\"token\"", "token = { env = \"NO_TOKEN\" }"),
        ("no file", "\"token\"", "token = { file = \"missing\" }"),
        ("a command that fails", "\"token\"", "token = { command = [\"missing-program\"] }"),
        ("at a place of the kernel", "{ name = \"token\", to = \"/proc/x\" }", "token = { env = \"TOKEN\" }"),
    ] {
        environment.stack(&run(secret, table));
        assert_snapshot!(format!("secret, {name}"), build(&environment, "build"));
    }
}

#[test]
fn a_command_may_use_the_agent_where_the_stack_says_so() {
    if is_impossible() {
        return;
    }
    let environment = project("run = [{ command = [\"/step\", \"agent\", \"sign\"], ssh = true }]\n");
    assert_snapshot!(environment.kiln("build"), @r"
    ------- stderr -------
    error: `/step agent sign` of image `app` (kiln.toml line 10) has `ssh = true`, and `SSH_AUTH_SOCK` is not set

    hint: start one: `eval $(ssh-agent); ssh-add`
    [exit status: 3]
    ");
    let socket = environment.root().join("agent");
    let listener = std::os::unix::net::UnixListener::bind(&socket).unwrap();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut text = String::new();
            let _ = stream.read_to_string(&mut text);
            let _ = stream.write_all(format!("{text}ed").as_bytes());
        }
    });
    let mut command = environment.command();
    command.env("SSH_AUTH_SOCK", &socket).args(["build", "-v"]);
    assert_eq!(said(&Outcome::of(command)), ["signed"]);
}

#[test]
fn a_secret_in_a_long_line_or_an_address_is_not_shown() {
    if is_impossible() {
        return;
    }
    let environment = project("");
    environment.write("filler", "x".repeat(65_530));
    let run = "run = [{ command = [\"/step\", \"join\", \"/filler\", \"/run/secrets/token\", \"then\", \"show\", \"/run/secrets/token\"], \
               secrets = [\"token\"] }]\n";
    let copy = "copy = [{ from = \"root\", to = \"/\" }, { from = \"filler\", to = \"/filler\" }]";
    let text = stack(run).replace("copy = [{ from = \"root\", to = \"/\" }]", copy);
    environment.stack(&format!("{text}[secrets]\ntoken = {{ env = \"TOKEN\" }}\n"));
    let said = build(&environment, "build -v").stderr;
    assert!((6..TOKEN.len()).all(|length| !said.contains(&TOKEN[..length])), "a beginning is shown");
    assert!((6..TOKEN.len()).all(|length| !said.contains(&TOKEN[TOKEN.len() - length..])), "an end is shown");
}

#[test]
fn a_secret_in_a_cache_is_removed_from_it() {
    if is_impossible() {
        return;
    }
    let environment = project("");
    let run = "run = [{ command = [\"/step\", \"copy\", \"/run/secrets/token\", \"/c/token\", \"then\", \"count\", \"/c/n\"], \
               secrets = [\"token\"], cache = [\"/c\"] }]\n[secrets]\ntoken = { env = \"TOKEN\" }\n";
    environment.stack(&stack(run));
    let outcome = build(&environment, "build");
    assert!(outcome.stderr.contains("warning: `/c/token` held a secret, and was removed from the cache"), "{outcome}");
    assert!(!holds(&environment.root().join("store"), TOKEN.as_bytes()));
    assert_eq!(said(&build(&environment, "build -v --no-cache app")), ["2"]);
}

#[test]
fn things_of_a_command_that_cannot_be_where_they_should_are_mistakes() {
    let environment = project("");
    let table = "[secrets]\ntoken = { file = \"root\" }\n";
    for (name, options) in [
        ("a cache twice", "cache = [\"/c\", \"/c/\"]"),
        ("an id twice", "cache = [{ to = \"/c\", id = \"x\" }, { to = \"/d\", id = \"x\" }]"),
        ("a cache on a file", "cache = [\"/data/file\"]"),
        ("a cache without an id", "cache = [{ to = \"/c\", id = \"\" }]"),
        ("a secret twice", "secrets = [\"token\", \"token\"]"),
        ("a secret on a directory", "secrets = [{ name = \"token\", to = \"/data\" }]"),
        ("a secret that is a directory", "secrets = [\"token\"]"),
        ("an odd host", "network = { allow = [\"http://localhost\"] }"),
        ("an odd port", "network = { allow = [\"localhost:99999\"] }"),
    ] {
        environment.stack(&stack(&format!("run = [{{ command = [\"/step\"], {options} }}]\n{table}")));
        assert_snapshot!(format!("given, {name}"), environment.kiln("build"));
    }
}
