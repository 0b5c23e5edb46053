//! Servers that misbehave.

use crate::environment::{Outcome, TestEnvironment, kill_once, spawn};
use crate::server::{Behaviour, Server};
use crate::wheels::{noise, pure, stack};
use insta::assert_snapshot;

const FILE: &str = "remote-1.0-py3-none-any.whl";

struct Project {
    environment: TestEnvironment,
    server: Server,
}

impl std::ops::Deref for Project {
    type Target = TestEnvironment;
    fn deref(&self) -> &TestEnvironment {
        &self.environment
    }
}

/// A project whose one wheel is on a server, and locked.
fn project() -> Project {
    let environment = TestEnvironment::with_stack("");
    let served = environment.root().join("served");
    fs_err::create_dir_all(&served).unwrap();
    let wheel = pure("remote", "1.0").file("remote/data.bin", noise(3_000_000, "remote"));
    fs_err::write(served.join(FILE), wheel.finish()).unwrap();
    let server = Server::start(served);
    let project = Project { environment, server };
    project.stack_with(&project.server.index());
    project.lock();
    project
}

impl Project {
    fn stack_with(&self, index: &str) {
        let text = stack("packages = [\"remote\"]");
        self.environment.stack(&text.replace("find-links = [\"wheels\"]", &format!("default = \"{index}\"")));
    }

    fn lock(&self) {
        let served = self.root().join("served");
        self.tell_uv("served", &served);
        let outcome = self.kiln("lock");
        assert_eq!(outcome.status, Some(0), "{outcome}");
        self.server.log();
    }

    fn wheel_size(&self) -> u64 {
        fs_err::metadata(self.root().join("served").join(FILE)).unwrap().len()
    }
}

#[test]
fn a_wheel_is_fetched_once_and_the_lock_says_from_where() {
    let project = project();
    assert!(project.read("kiln.lock").contains("/files/remote-1.0-py3-none-any.whl\""));
    let digests = project.digests("");
    assert_eq!(project.server.log(), ["GET remote-1.0-py3-none-any.whl"]);
    assert_eq!(project.digests("--offline"), digests);
    assert_eq!(project.server.log(), [""; 0]);
}

#[test]
fn a_plan_says_how_much_is_to_be_fetched() {
    let project = project();
    assert_snapshot!(project.kiln("plan"), @r"
    app (linux/amd64)
      oci base                         in the store
      virtual environment              to do: never built, under a second
      remote 1.0            2.66 MB    to do: never built; 2.66 MB to fetch
      image                            depends on virtual environment, remote 1.0

    app: 2 steps to do, +2.66 MB
    ");
}

#[test]
fn a_download_goes_on_where_it_broke_off() {
    let project = project();
    project.server.behave(FILE, Behaviour::BreakOff { after: 1_000_000, times: 2 });
    project.succeed("build");
    let log = project.server.log();
    assert_eq!(log.len(), 3, "{log:?}");
    assert!(log[1..].iter().all(|request| request.contains(" from ")), "{log:?}");
    assert!(project.server.sent() < project.wheel_size() + 1000, "nothing is fetched twice");
}

#[test]
fn a_download_goes_on_in_the_next_run() {
    let project = project();
    // The second request is for the rest, of which another million bytes come.
    let faults = [Behaviour::BreakOff { after: 1_000_000, times: 1 }, Behaviour::Stall { after: 1_000_000 }];
    project.server.behave_in_turn(FILE, faults);
    let mut command = project.command();
    command.arg("build");
    kill_once(&mut spawn(command), || project.partial_downloads() == [2_000_000]);
    assert_eq!(project.server.log(), [format!("GET {FILE}"), format!("GET {FILE} from 1000000")]);
    project.server.forgive();
    project.succeed("build");
    assert_eq!(project.server.log(), [format!("GET {FILE} from 2000000")]);
}

#[test]
fn a_server_without_ranges_sends_everything_again() {
    let project = project();
    let faults =
        [Behaviour::BreakOff { after: 1_000_000, times: 1 }, Behaviour::NoRanges { after: usize::MAX, times: 1 }];
    project.server.behave_in_turn(FILE, faults);
    let digests = project.digests("");
    assert_eq!(project.server.log(), [format!("GET {FILE}"), format!("GET {FILE} from 1000000")]);
    assert_eq!(project.server.sent(), 1_000_000 + project.wheel_size());
    // All that came the second time is the wheel, and nothing of the first.
    let mut fresh = project.command();
    fresh.env("KILN_STORE", project.root().join("fresh")).args(["build", "--json"]);
    let fresh: serde_json::Value = serde_json::from_str(&Outcome::of(fresh).stdout).unwrap();
    assert_eq!(fresh["images"][0]["digest"], digests[0].1.as_str());
}

#[test]
fn a_server_without_ranges_that_breaks_off_again_is_asked_again() {
    let project = project();
    project.server.behave(FILE, Behaviour::NoRanges { after: 1_000_000, times: 2 });
    project.succeed("build");
    let rest = format!("GET {FILE} from 1000000");
    assert_eq!(project.server.log(), [format!("GET {FILE}"), rest.clone(), rest]);
}

#[test]
fn a_server_that_sends_a_right_half_and_a_wrong_rest_is_given_up_on() {
    let project = project();
    project.server.behave(FILE, Behaviour::WrongRest { after: 1_000_000 });
    let outcome = project.kiln("build");
    assert_eq!(outcome.status, Some(3), "{outcome}");
    assert!(outcome.stderr.contains("is not the wanted file"), "{outcome}");
    let log = project.server.log();
    assert_eq!(log.len(), 4, "the rest is asked for twice, since an older answer may have brought the half: {log:?}");
}

#[test]
fn a_server_that_refuses_a_part_is_asked_for_everything_again() {
    let project = project();
    project.server.behave(FILE, Behaviour::RefusesParts { after: 1_000_000, times: 2 });
    project.succeed("build");
    let log = project.server.log();
    assert_eq!(log.len(), 3, "{log:?}");
    assert!(log[1].ends_with(" from 1000000") && !log[2].contains(" from "), "{log:?}");
}

#[test]
fn a_busy_server_is_asked_again() {
    let project = project();
    project.server.behave(FILE, Behaviour::Status { status: 429, times: 2 });
    project.succeed("build");
    assert_eq!(project.server.log().len(), 3);
    let project = self::project();
    project.server.behave(FILE, Behaviour::Status { status: 503, times: 1 });
    project.succeed("build");
}

#[test]
fn a_server_that_always_fails_is_given_up_on() {
    let project = project();
    project.server.behave(FILE, Behaviour::Status { status: 500, times: 99 });
    assert_snapshot!(project.kiln("build"), @r"
    ------- stderr -------
    downloading remote-1.0-py3-none-any.whl: attempt 3 of 6 in <s> s: it answered 500 Internal Server Error
    downloading remote-1.0-py3-none-any.whl: attempt 4 of 6 in <s> s: it answered 500 Internal Server Error
    downloading remote-1.0-py3-none-any.whl: attempt 5 of 6 in <s> s: it answered 500 Internal Server Error
    downloading remote-1.0-py3-none-any.whl: attempt 6 of 6 in <s> s: it answered 500 Internal Server Error
    error: `remote-1.0-py3-none-any.whl` could not be downloaded from http://127.0.0.1:<port>/files/remote-1.0-py3-none-any.whl: at the last of 6 attempts, the server answered 500 Internal Server Error

    hint: check the network, or run the command again later
    [exit status: 3]
    ");
    assert_eq!(project.server.log().len(), 6);
}

#[test]
fn a_refusal_is_not_repeated() {
    let project = project();
    project.server.behave(FILE, Behaviour::Status { status: 404, times: 99 });
    assert_snapshot!(project.kiln("build"), @r"
    ------- stderr -------
    error: `remote-1.0-py3-none-any.whl` could not be downloaded: 127.0.0.1 answered 404

    hint: the index may have withdrawn the file: `kiln lock --upgrade` chooses anew
    [exit status: 3]
    ");
    assert_eq!(project.server.log().len(), 1);
    project.server.behave(FILE, Behaviour::Status { status: 403, times: 99 });
    assert_snapshot!(project.kiln("build"), @r"
    ------- stderr -------
    error: `remote-1.0-py3-none-any.whl` could not be downloaded: 127.0.0.1 answered 403

    hint: give credentials for 127.0.0.1 in `~/.netrc`, or in the index URL
    [exit status: 3]
    ");
}

#[test]
fn other_content_is_never_taken() {
    let project = project();
    let same_size = noise(project.wheel_size() as usize, "garbage");
    for garbage in [same_size, b"<html>please log in</html>".to_vec(), Vec::new()] {
        let short = (garbage.len() as u64) < project.wheel_size();
        project.server.behave(FILE, Behaviour::Other(garbage));
        let outcome = project.kiln("build");
        assert_eq!(outcome.status, Some(3), "{outcome}");
        if !short {
            assert_snapshot!(outcome, @r"
            ------- stderr -------
            error: `remote-1.0-py3-none-any.whl` from 127.0.0.1 is not the wanted file: sha256:<digest> was expected, and it has sha256:<digest>

            hint: somebody replaced the file after its digest was written down: find out who before `kiln lock --upgrade` or another `sha256`
            [exit status: 3]
            ");
        }
    }
    project.server.forgive();
    project.succeed("build");
}

#[test]
fn a_file_that_was_replaced_on_the_server_is_not_taken() {
    let project = project();
    let other = pure("remote", "1.0").file("remote/evil.py", noise(4_000_000, "evil")).finish();
    project.server.behave(FILE, Behaviour::Other(other));
    let outcome = project.kiln("build");
    assert_eq!(outcome.status, Some(3), "{outcome}");
    assert!(outcome.stderr.contains("is not the wanted file"), "{outcome}");
}

#[test]
fn a_server_that_sends_without_end_is_cut_off() {
    let project = project();
    project.server.behave(FILE, Behaviour::Endless);
    let outcome = project.kiln("build");
    assert_eq!(outcome.status, Some(3), "{outcome}");
    let sent = project.server.sent();
    assert!(sent < 100 << 20, "{sent} bytes were taken for a wheel of {}", project.wheel_size());
}

#[test]
fn a_server_that_asks_for_a_password_gets_the_one_of_netrc_or_of_the_stack() {
    let project = project();
    // me:secret
    project.server.demand("bWU6c2VjcmV0");
    assert_snapshot!(project.kiln("build"), @r"
    ------- stderr -------
    error: `remote-1.0-py3-none-any.whl` could not be downloaded: 127.0.0.1 answered 401

    hint: give credentials for 127.0.0.1 in `~/.netrc`, or in the index URL
    [exit status: 3]
    ");
    fs_err::write(project.root().join("home/.netrc"), "machine 127.0.0.1 login me password secret\n").unwrap();
    let digests = project.digests("");
    let other = self::project();
    other.server.demand("bWU6c2VjcmV0");
    other.stack_with(&other.server.index_with("me:secret"));
    other.lock();
    assert!(!other.read("kiln.lock").contains("secret"));
    assert_eq!(other.digests("")[0].0, digests[0].0);
}

#[test]
fn passwords_are_in_no_message() {
    let project = project();
    project.stack_with(&project.server.index_with("me:secret"));
    project.lock();
    project.server.behave(FILE, Behaviour::Status { status: 500, times: 99 });
    for arguments in ["build", "build -v", "build -vv", "build --json", "plan -v", "inspect app"] {
        let outcome = project.kiln(arguments);
        assert!(!outcome.to_string().contains("secret"), "{outcome}");
    }
    let gone = project
        .read("kiln.toml")
        .replace(&project.server.index_with("me:secret"), "http://me:secret@127.0.0.1:1/simple");
    project.stack(&gone);
    let outcome = project.kiln("build -v");
    assert!(!outcome.to_string().contains("secret"), "{outcome}");
}

#[test]
fn without_the_network_what_is_missing_is_named() {
    let project = project();
    assert_snapshot!(project.kiln("build --offline"), @r"
    ------- stderr -------
    error: `remote-1.0-py3-none-any.whl` is not in the store, and `--offline` forbids to download it

    hint: run once without `--offline`
    [exit status: 3]
    ");
}

#[test]
fn a_wheel_that_lies_beside_the_stack_is_not_fetched() {
    let project = project();
    fs_err::copy(project.root().join("served").join(FILE), project.path("wheels").join(FILE)).unwrap();
    let text = project.read("kiln.toml").replace("[index]", "[index]\nfind-links = [\"wheels\"]");
    project.stack(&text);
    project.lock();
    project.succeed("build");
    assert_eq!(project.server.log(), [""; 0]);
}
