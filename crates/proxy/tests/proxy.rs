//! The proxy between a client and servers, all in this process.

#![allow(clippy::unwrap_used, clippy::expect_used, reason = "these are tests")]

use std::io::{Read as _, Write as _};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::mpsc;

use kiln_proxy::{Material, Proxy, Rules, Upstream};

/// A server that sends one answer on each connection, and passes on what it was sent, to the end of the head or of the stream.
fn server(answer: &'static [u8], whole: bool) -> (String, mpsc::Receiver<String>) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let (send, asked) = mpsc::channel();
    std::thread::spawn(move || {
        for mut stream in listener.incoming().flatten() {
            let send = send.clone();
            std::thread::spawn(move || {
                let (mut text, mut byte) = (Vec::new(), [0]);
                while (whole || !text.ends_with(b"\r\n\r\n")) && stream.read(&mut byte).is_ok_and(|read| read == 1) {
                    text.push(byte[0]);
                }
                let _ = stream.write_all(answer);
                let _ = stream.shutdown(Shutdown::Write);
                let _ = send.send(String::from_utf8_lossy(&text).into_owned());
                let _ = std::io::copy(&mut stream, &mut std::io::sink());
            });
        }
    });
    (address, asked)
}

/// Starts a proxy; returns its address.
fn proxy(allow: &[&str], upstream: Option<&str>) -> (Proxy, String) {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let address = listener.local_addr().unwrap().to_string();
    let proxy = upstream.map(|at| format!("http://me:secret@{at}"));
    let get = |name: &str| proxy.clone().filter(|_| matches!(name, "http_proxy" | "https_proxy"));
    let rules = Rules { allow: allow.iter().map(|host| (*host).to_owned()).collect(), upstream: Upstream::of(get) };
    (Proxy::start(listener, rules).unwrap(), address)
}

fn ask(proxy: &str, request: &str) -> String {
    let mut stream = TcpStream::connect(proxy).unwrap();
    stream.write_all(request.as_bytes()).unwrap();
    let mut answer = String::new();
    stream.read_to_string(&mut answer).unwrap();
    answer
}

#[test]
fn an_answer_is_passed_on_and_recorded() {
    let (server, asked) = server(
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nConnection: X-Own\r\nX-Own: 1\r\nX-End: 2\r\n\r\nhello",
        false,
    );
    let (proxy, address) = proxy(&[&server], None);
    let request = format!(
        "GET http://me:pass@{server}/a?b HTTP/1.1\r\nHost: other\r\nProxy-Connection: close\r\nConnection: close\r\nX-Client: 1\r\n\r\n"
    );
    let answer = ask(&address, &request);
    assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("hello"), "{answer}");
    assert!(answer.contains("X-End: 2") && !answer.contains("X-Own"), "{answer}");
    let asked = asked.recv().unwrap();
    assert!(asked.starts_with("GET /a?b HTTP/1.1\r\n") && asked.contains("X-Client: 1"), "{asked}");
    assert!(!asked.to_lowercase().contains("proxy-connection"), "{asked}");
    let sha256 = "2cf24dba5fb0a30e26e83b2ac5b9e29e1b161e5c1fa7425e73043362938b9824".to_owned();
    let url = format!("http://{server}/a?b");
    assert_eq!(
        proxy.finish(),
        [Material::Http { method: "GET".into(), url, status: 200, bytes: 5, sha256: Some(sha256) }]
    );
}

#[test]
fn an_answer_that_ends_early_has_no_digest() {
    let (server, _asked) = server(b"HTTP/1.1 200 OK\r\nContent-Length: 50\r\n\r\nhello", false);
    let (proxy, address) = proxy(&[&server], None);
    ask(&address, &format!("GET http://{server}/ HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"));
    let passed = proxy.finish();
    assert!(matches!(passed.as_slice(), [Material::Http { bytes: 5, sha256: None, .. }]), "{passed:?}");
}

#[test]
fn bytes_of_a_tunnel_are_counted_in_both_directions() {
    let (server, asked) = server(b"an answer", true);
    let (proxy, address) = proxy(&[&server], None);
    for _ in 0..2 {
        let mut stream = TcpStream::connect(&address).unwrap();
        stream.write_all(format!("CONNECT {server} HTTP/1.1\r\nHost: {server}\r\n\r\nearly").as_bytes()).unwrap();
        stream.shutdown(Shutdown::Write).unwrap();
        let mut answer = String::new();
        stream.read_to_string(&mut answer).unwrap();
        assert!(answer.starts_with("HTTP/1.1 200 OK\r\n") && answer.ends_with("\r\n\r\nan answer"), "{answer}");
        assert_eq!(asked.recv().unwrap(), "early");
    }
    assert_eq!(proxy.finish(), [Material::Tunnel { host: server, connections: 2, sent: 10, received: 18 }]);
}

#[test]
fn this_machine_and_odd_requests_are_refused() {
    let (server, _asked) = server(b"HTTP/1.1 200 OK\r\nContent-Length: 0\r\n\r\n", false);
    let (proxy, address) = proxy(&[], None);
    let port = server.rsplit_once(':').unwrap().1;
    for (request, status) in [
        (format!("GET http://{server}/ HTTP/1.1"), "403"),
        (format!("GET http://localhost:{port}/ HTTP/1.1"), "403"),
        (format!("CONNECT [::ffff:127.0.0.1]:{port} HTTP/1.1"), "403"),
        ("GET http://169.254.169.254/latest HTTP/1.1".to_owned(), "403"),
        ("GET https://a.example/ HTTP/1.1".to_owned(), "501"),
        ("GET / HTTP/1.1".to_owned(), "400"),
        ("CONNECT a.example HTTP/1.1".to_owned(), "400"),
    ] {
        let answer = ask(&address, &format!("{request}\r\nHost: x\r\nConnection: close\r\n\r\n"));
        assert_eq!(answer.split(' ').nth(1), Some(status), "{request}: {answer}");
    }
    assert!(proxy.finish().iter().all(|material| matches!(material, Material::Refused { .. })));
}

#[test]
fn where_this_machine_uses_a_proxy_that_is_asked() {
    let (upstream, asked) = server(b"HTTP/1.1 200 OK\r\nContent-Length: 2\r\n\r\nhi", false);
    let (running, address) = proxy(&[], Some(&upstream));
    let answer = ask(
        &address,
        "GET http://elsewhere.invalid/x HTTP/1.1\r\nHost: elsewhere.invalid\r\nConnection: close\r\n\r\n",
    );
    assert!(answer.ends_with("hi"), "{answer}");
    let request = asked.recv().unwrap();
    assert!(request.starts_with("GET http://elsewhere.invalid/x HTTP/1.1\r\n"), "{request}");
    assert!(request.to_lowercase().contains("proxy-authorization: basic bwu6c2vjcmv0"), "{request}");
    // This machine is refused before the other proxy is asked.
    let answer = ask(&address, "GET http://localhost:1/x HTTP/1.1\r\nHost: localhost\r\nConnection: close\r\n\r\n");
    assert_eq!(answer.split(' ').nth(1), Some("403"), "{answer}");
    let mut stream = TcpStream::connect(&address).unwrap();
    stream.write_all(b"CONNECT elsewhere.invalid:443 HTTP/1.1\r\nHost: elsewhere.invalid:443\r\n\r\n").unwrap();
    let request = asked.recv().unwrap();
    assert!(request.starts_with("CONNECT elsewhere.invalid:443 HTTP/1.1\r\n"), "{request}");
    drop(stream);
    drop(running);
}
