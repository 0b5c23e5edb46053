//! `network`: commands that reach other machines through kiln's proxy, and nothing else.

use std::io::{Read as _, Write as _};
use std::net::TcpListener;

use insta::assert_snapshot;
use kiln_testing::http::Answer;
use kiln_testing::{Listener, Server};

use crate::commands::{is_impossible, project, stack};
use crate::environment::TestEnvironment;

/// A server that answers everything with its method and path.
fn server() -> Server {
    Listener::bind().serve(|mut stream, head, _| {
        let body = format!("{} {}", head.method, head.path()).into_bytes();
        Answer::new(200).body("text/plain", body.clone()).write_head(&mut stream, false)?;
        stream.write_all(&body)?;
        Ok(true)
    })
}

/// A server without a protocol: it sends back what it gets.
fn echo() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    std::thread::spawn(move || {
        for stream in listener.incoming() {
            let mut stream = stream.unwrap();
            let mut text = String::new();
            if stream.read_to_string(&mut text).is_ok() {
                let _ = stream.write_all(format!("back: {text}").as_bytes());
            }
        }
    });
    address
}

fn said(environment: &TestEnvironment, arguments: &str) -> Vec<String> {
    let said = environment.kiln(&format!("build -v {arguments}"));
    assert!(said.status == Some(0), "{said}");
    said.stderr.lines().filter_map(|line| Some(line.strip_prefix("  ")?.to_owned())).collect()
}

/// A stack whose command has a network that leads to some hosts of this machine, and more options.
fn with_network(allow: &[&str], words: &[&str], more: &str) -> String {
    let run = format!("run = [{{ command = {words:?}, network = {{ allow = {allow:?} }}{more} }}]\n");
    stack(&run)
}

#[test]
fn a_command_reaches_named_hosts_and_explain_tells_what_it_took_in() {
    if is_impossible() {
        return;
    }
    let (server, echo) = (server(), echo());
    let url = format!("http://{}/a?b=c", server.address());
    let environment = project("");
    let words = ["/step", "get", &url, "then", "tunnel", &echo, "hello", "then", "write", "/made", "1"];
    environment.stack(&with_network(&[server.address(), &echo], &words, ""));
    assert_eq!(said(&environment, ""), ["HTTP/1.1 200 OK: GET /a", "HTTP/1.1 200 OK: back: hello"]);
    let explained = environment.succeed("explain app").replace(server.address(), "SERVER").replace(&echo, "ECHO");
    let lines: Vec<&str> =
        explained.lines().filter(|line| line.starts_with("    ") && !line.contains("ran 2")).collect();
    assert_snapshot!(lines.join("\n"), @r"
    GET http://SERVER/a?b=c: 200, 6 bytes, sha256:<digest>
    ECHO: 1 connections, 11 bytes received, 5 bytes sent
    ");
    assert!(explained.contains("    ran 2"), "{explained}");
    let plan = environment.succeed("plan");
    assert!(plan.contains("in the store, ran 2"), "{plan}");
}

#[test]
fn hosts_that_the_stack_does_not_name_are_refused_where_they_are_this_machine() {
    if is_impossible() {
        return;
    }
    let (server, environment) = (server(), project(""));
    let port = server.address().rsplit_once(':').unwrap().1;
    for host in
        ["127.0.0.1", "localhost", "0.0.0.0", "[::1]", "[::ffff:127.0.0.1]", "2130706433", "127.1", "169.254.169.254"]
    {
        let (url, place) = (format!("http://{host}:{port}/"), format!("{host}:{port}"));
        let words = ["/step", "get", &url, "then", "tunnel", &place, "hello", "then", "connect", server.address()];
        environment.stack(&with_network(&["elsewhere.example"], &words, ""));
        let said = said(&environment, "");
        let [got, tunnelled, connected] = said.as_slice() else { panic!("{said:?}") };
        for answer in [got, tunnelled] {
            assert!(answer.contains(" 403 ") || answer.contains(" 502 "), "{host}: {answer}");
            assert!(!answer.contains("GET"), "{host}: {answer}");
        }
        assert_eq!(connected, "ConnectionRefused", "{host}");
    }
}

#[test]
fn a_result_counts_as_long_as_it_is_not_too_old() {
    if is_impossible() {
        return;
    }
    let environment = project("");
    let run = |age: &str| with_network(&[], &["/step", "now", "/made"], &format!(", max-age = \"{age}\""));
    environment.stack(&run("1h"));
    let first = environment.digests("");
    assert_eq!(environment.digests(""), first);
    std::thread::sleep(std::time::Duration::from_millis(2100));
    // The age is no part of the command.
    environment.stack(&run("1s"));
    let plan = environment.succeed("plan");
    assert!(plan.contains("to do: its result is older than `max-age`"), "{plan}");
    assert_ne!(environment.digests(""), first);
}

#[test]
fn offline_a_known_result_counts_and_a_missing_one_is_an_error() {
    if is_impossible() {
        return;
    }
    let environment = project("");
    environment.stack(&with_network(&[], &["/step", "write", "/made", "1"], ""));
    assert_snapshot!(environment.kiln("build --offline"), @r"
    ------- stderr -------
    error: `/step write /made 1` needs the network, and `--offline` forbids it

    hint: run once without `--offline`
    [exit status: 3]
    ");
    environment.succeed("build");
    environment.succeed("build --offline");
}

#[test]
fn mistakes_in_network_options_are_told_at_their_lines() {
    let environment = project("");
    for (name, options) in [
        ("a word", "network = \"host\""),
        ("a number", "network = 1"),
        ("an age without a network", "max-age = \"1d\""),
        ("an age that is none", "network = true, max-age = \"soon\""),
        ("an unknown key", "network = { hosts = [] }"),
    ] {
        environment.stack(&stack(&format!("run = [{{ command = \"make\", {options} }}]\n")));
        assert_snapshot!(format!("network, {name}"), environment.kiln("plan"));
    }
}
