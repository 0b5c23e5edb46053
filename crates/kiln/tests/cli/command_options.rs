//! `--no-cache`, `--twice` and `--shell-on-failure`: commands that are performed in another way than once.

use std::os::fd::OwnedFd;
use std::process::Stdio;

use insta::assert_snapshot;
use rustix::fs::{Mode, OFlags};
use rustix::pty::{OpenptFlags, grantpt, openpt, ptsname, unlockpt};

use crate::commands::{is_impossible, libraries, project, stack};
use crate::environment::TestEnvironment;

const TWO: &str = "run = [[\"/step\", \"write\", \"/made\", \"1\"], [\"/step\", \"append\", \"/made\", \"2\"]]\n";

/// The outcomes of the commands of a build, in the order of their subjects.
fn outcomes(environment: &TestEnvironment, arguments: &str) -> Vec<String> {
    let said: serde_json::Value =
        serde_json::from_str(&environment.succeed(&format!("build --json {arguments}"))).unwrap();
    let steps = said["steps"].as_array().unwrap().iter().filter(|step| step["kind"] == "run");
    steps.map(|step| format!("{} {}", step["subject"].as_str().unwrap(), step["outcome"].as_str().unwrap())).collect()
}

#[test]
fn a_command_is_performed_again_where_that_is_asked_for() {
    if is_impossible() {
        return;
    }
    let environment = project(TWO);
    let digests = environment.digests("");
    let both = |one: &str, other: &str| {
        vec![format!("run /step append /made 2 {other}"), format!("run /step write /made 1 {one}")]
    };
    assert_eq!(outcomes(&environment, ""), both("local", "local"));
    // The first changes the same again, so that the second has all that it had.
    assert_eq!(outcomes(&environment, "--no-cache app:1"), both("performed", "local"));
    assert_eq!(outcomes(&environment, "--no-cache app:2"), both("local", "performed"));
    assert_eq!(outcomes(&environment, "--no-cache app"), both("performed", "performed"));
    assert_eq!(environment.digests("--no-cache app"), digests);
}

#[test]
fn a_result_that_is_another_the_second_time_stands_for_the_first() {
    if is_impossible() {
        return;
    }
    let environment = project("run = [[\"/step\", \"now\", \"/made\"], [\"/step\", \"append\", \"/made\", \"2\"]]\n");
    let first = environment.digests("");
    assert_eq!(environment.digests(""), first);
    let second = environment.digests("--no-cache app:1");
    assert_ne!(second, first);
    assert_eq!(environment.digests(""), second);
}

#[test]
fn a_command_that_there_is_not_cannot_be_performed_again() {
    let environment = project(&format!("{TWO}\n[images.plain]\nfrom = \"scratch\"\n"));
    for (name, text) in
        [("nothing", "no image"), ("plain", "no commands"), ("app:3", "no number"), ("app:x", "no number at all")]
    {
        assert_snapshot!(format!("again, {text}"), environment.kiln(&format!("build --no-cache {name}")));
    }
}

#[test]
fn a_command_that_changes_something_else_the_second_time_is_an_error_that_says_what() {
    if is_impossible() {
        return;
    }
    let environment = project(TWO);
    let digests = environment.digests("--twice");
    // Also what is known.
    assert_eq!(outcomes(&environment, "--twice").iter().filter(|line| line.ends_with("performed")).count(), 2);
    assert_eq!(environment.digests(""), digests);
    environment.stack(&stack(
        "run = [[\"/step\", \"make\", \"/made\", \"then\", \"now\", \"/made/time\", \"then\", \"write\", \"/made/same\", \"1\"]]\n",
    ));
    let outcome = environment.kiln("build --twice").to_string();
    // The time begins with the same digits.
    let outcome = outcome.split("from byte").next().unwrap().to_owned();
    assert_snapshot!(outcome, @r"
    ------- stderr -------
    error: `/step make /made then now /made/time then write /made/same 1` of image `app` (kiln.toml line 10) does not change the same each time:
    /made/time: the content differs
    ");
    // Nothing of it is kept as the command's result.
    assert_eq!(outcomes(&environment, "").iter().filter(|line| line.ends_with("performed")).count(), 1);
}

/// A terminal: the end that a person sees, and the end that programs have.
fn terminal() -> (OwnedFd, OwnedFd) {
    let ours = openpt(OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC).unwrap();
    grantpt(&ours).unwrap();
    unlockpt(&ours).unwrap();
    let name = ptsname(&ours, Vec::new()).unwrap();
    let theirs =
        rustix::fs::open(name.as_c_str(), OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC, Mode::empty()).unwrap();
    (ours, theirs)
}

/// Reads from a terminal until it shows a text.
fn read_until(terminal: &OwnedFd, text: &str) -> String {
    let mut seen = Vec::new();
    let mut buffer = [0; 1024];
    while !String::from_utf8_lossy(&seen).contains(text) {
        match rustix::io::read(terminal, &mut buffer) {
            Ok(read @ 1..) => seen.extend(&buffer[..read]),
            _ => panic!("it ended with {}", String::from_utf8_lossy(&seen)),
        }
    }
    String::from_utf8_lossy(&seen).into_owned()
}

#[test]
fn a_shell_opens_where_a_command_failed() {
    if is_impossible() {
        return;
    }
    let environment = project(
        r#"env = { NAME = "world" }
run = [{ command = ["/step", "write", "/left", "behind", "then", "fail", "3"], workdir = "/data" }]
"#,
    );
    let Ok(shell) = fs_err::canonicalize("/bin/sh") else { return };
    fs_err::create_dir_all(environment.path("root/bin")).unwrap();
    fs_err::copy(&shell, environment.path("root/bin/sh")).unwrap();
    assert!(!libraries().is_empty());
    let (seen, theirs) = terminal();
    let end = || Stdio::from(theirs.try_clone().unwrap());
    let mut command = environment.command();
    command.args(["build", "--shell-on-failure"]).stdin(end()).stdout(end()).stderr(end());
    let mut kiln = command.spawn().unwrap();
    drop((command, theirs));
    let opened = read_until(&seen, "until `exit`");
    assert!(opened.contains("`/step write /left behind then fail 3` failed"), "{opened}");
    rustix::io::write(&seen, b"read x < /left; echo \"$x, $NAME, $PWD\"; exit\n").unwrap();
    let answer = read_until(&seen, "failed with status 3");
    assert!(answer.contains("behind, world, /data\r\n"), "{answer}");
    assert_eq!(kiln.wait().unwrap().code(), Some(1));
}

#[test]
fn a_shell_needs_a_terminal() {
    let environment = TestEnvironment::new();
    assert_snapshot!(environment.kiln("build --shell-on-failure"), @r"
    ------- stderr -------
    error: `--shell-on-failure` needs a terminal

    hint: leave it out where nobody can type: the error shows the last lines of the command
    [exit status: 2]
    ");
}
