//! `kiln doctor`, and machines on which no command can run.

use insta::assert_snapshot;

use crate::commands::{is_impossible, project, stack};
use crate::environment::{Outcome, TestEnvironment};

/// Runs kiln where no user namespace can be made.
fn confined(environment: &TestEnvironment, arguments: &str) -> Outcome {
    environment.shell(&format!(
        "PATH=$PATH:/usr/bin:/bin; exec unshare --user --map-root-user /bin/sh -c \
         'echo 0 > /proc/sys/user/max_user_namespaces; exec $KILN {arguments}'"
    ))
}

fn findings(outcome: &Outcome, title: &str) -> Vec<serde_json::Value> {
    let said: serde_json::Value = serde_json::from_str(&outcome.stdout).unwrap();
    let sections = said["sections"].as_array().unwrap();
    let section = sections.iter().find(|section| section["title"].as_str().unwrap().contains(title)).unwrap();
    section["findings"].as_array().unwrap().clone()
}

#[test]
fn the_doctor_tells_what_works_and_ends_with_status_0() {
    if is_impossible() {
        return;
    }
    let environment = TestEnvironment::new();
    environment.script("git", "echo git version 2.39.5");
    environment.script("git-lfs", "exit 3");
    let outcome = environment.kiln("doctor --json");
    assert_eq!(outcome.status, Some(0), "{outcome}");
    for finding in findings(&outcome, "commands of images") {
        assert!(["works", "limited"].contains(&finding["state"].as_str().unwrap()), "{finding}");
    }
    let programs = findings(&outcome, "programs");
    let shown = |at: usize| format!("{} {}", programs[at]["state"], programs[at]["detail"]);
    assert_snapshot!(shown(1), @r#""works" "2.39.5 (<root>/bin/git)""#);
    assert!(shown(2).starts_with("\"limited\""), "{}", shown(2));
    // Nothing stays of what was tried.
    assert_eq!(fs_err::read_dir(environment.root().join("store/temporary")).unwrap().count(), 0);
}

#[test]
fn the_doctor_names_helpers_that_are_missing() {
    let environment = TestEnvironment::new();
    environment
        .write("../home/.docker/config.json", r#"{ "credsStore": "nowhere", "credHelpers": { "ghcr.io": "" } }"#);
    let outcome = environment.kiln("doctor --json");
    let helpers = findings(&outcome, "registries");
    assert_snapshot!(helpers[0]["detail"].as_str().unwrap(), @"not on PATH: docker-credential-nowhere");
}

#[test]
fn a_machine_without_user_namespaces_is_told_how_to_allow_them() {
    if is_impossible() {
        return;
    }
    let environment = TestEnvironment::new();
    let outcome = confined(&environment, "doctor");
    assert_eq!(outcome.status, Some(1), "{outcome}");
    let first: Vec<&str> = outcome.stdout.lines().take(5).map(str::trim_end).collect();
    assert_snapshot!(first.join("\n"), @r"
    commands of images (`run`)
      MISSING  user and other namespaces        unshare: No space left on device (os error 28)
               the machine allows no user namespaces: `sysctl -w user.max_user_namespaces=15000`
      untried  map of user ids
      untried  network of its own
    ");
}

#[test]
fn a_command_that_cannot_run_fails_before_anything_starts() {
    if is_impossible() {
        return;
    }
    let environment = project("run = [[\"/step\", \"write\", \"/made\", \"1\"]]\n");
    assert_snapshot!(confined(&environment, "build"), @r"
    ------- stderr -------
    error: `/step write /made 1` needs a sandbox, which cannot be made here
      caused by: namespaces cannot be made: unshare: No space left on device (os error 28)

    hint: the machine allows no user namespaces: `sysctl -w user.max_user_namespaces=15000`
    [exit status: 3]
    ");
    let store = environment.root().join("store");
    assert_eq!(fs_err::read_dir(store.join("blobs/sha256")).unwrap().count(), 0, "the files were copied all the same");
    // What the store knows needs no sandbox.
    let built = environment.succeed("build");
    let outcome = confined(&environment, "build");
    assert_eq!((outcome.status, &outcome.stdout), (Some(0), &built.replace("\n", " (unchanged)\n")), "{outcome}");
    environment.stack(&stack("labels = { a = \"b\" }\nrun = [[\"/step\", \"write\", \"/made\", \"1\"]]\n"));
    assert_eq!(confined(&environment, "build").status, Some(0));
    // Nor does an image without commands.
    environment.write("root/data/file", "edited");
    environment.stack(&stack(""));
    assert_eq!(confined(&environment, "build").status, Some(0));
}

#[test]
fn a_command_of_another_user_fails_before_anything_starts_for_a_user_with_one_id() {
    if is_impossible() {
        return;
    }
    let environment = project("");
    let line = "run = [[\"/step\", \"write\", \"/made\", \"1\"], { command = [\"/step\", \"id\"], user = \"1000\" }]\n";
    environment.stack(&stack(line));
    let outcome = environment.shell(
        "PATH=$PATH:/usr/bin:/bin; exec unshare --user --map-user=54321 --map-group=54321 /bin/sh -c '$KILN build'",
    );
    // The first id that is free depends on the users of the machine.
    insta::with_settings!({ filters => vec![(r"54321:\d+:65536", "54321:<first>:65536")] }, {
    assert_snapshot!(outcome, @r"
    ------- stderr -------
    error: `/step id` of image `app` (kiln.toml line 10) runs as user or group 1000, which a user with one id cannot become

    hint: this user has one id: install `newuidmap` (package `uidmap`), and let root add the line `54321:<first>:65536` to /etc/subuid and the line `54321:<first>:65536` to /etc/subgid; or run kiln as root
    [exit status: 1]
    ");
    });
    let store = environment.root().join("store");
    assert_eq!(fs_err::read_dir(store.join("blobs/sha256")).unwrap().count(), 0, "the files were copied all the same");
}
