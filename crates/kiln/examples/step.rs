//! A program for images of tests: it does what its arguments say. Images of tests have no shell.

use std::process::ExitCode;

use std::io::{Read as _, Write as _};
use std::net::TcpStream;
use std::os::unix::fs::MetadataExt as _;
use std::os::unix::net::UnixStream;

use fs_err::os::unix::fs::symlink;

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    for words in arguments.split(|word| word == "then") {
        match words.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
            ["print", text] => say(text),
            ["variable", name] => say(&std::env::var(name).unwrap_or_else(|_| "unset".into())),
            ["where"] => say(&std::env::current_dir().map(|path| path.display().to_string()).unwrap_or_default()),
            ["write", path, text] => done(fs_err::write(path, text)),
            ["append", path, text] => {
                let old = fs_err::read_to_string(path).unwrap_or_default();
                done(fs_err::write(path, old + text));
            }
            ["show", path] => match fs_err::read_to_string(path) {
                Ok(text) => say(&text),
                Err(error) => done(Err(error)),
            },
            // Nobody can make the same file twice.
            ["now", path] => {
                let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
                done(fs_err::write(path, format!("{:020}", now.as_nanos())));
            }
            ["make", path] => done(fs_err::create_dir_all(path)),
            ["remove", path] => done(fs_err::remove_file(path)),
            ["link", target, path] => done(symlink(target, path)),
            ["own", path] => done(fs_err::os::unix::fs::chown(path, Some(1000), Some(1000))),
            ["count", path] => {
                let old = fs_err::read_to_string(path).unwrap_or_default();
                done(fs_err::write(path, format!("{old}x")));
                say(&(old.len() + 1).to_string());
            }
            ["join", one, other] => match (fs_err::read_to_string(one), fs_err::read_to_string(other)) {
                (Ok(one), Ok(other)) => say(&format!("{one}{other}")),
                (Err(error), _) | (_, Err(error)) => done(Err(error)),
            },
            ["mode", path] => match fs_err::metadata(path) {
                Ok(found) => say(&format!("{:o} {}:{}", found.mode() & 0o7777, found.uid(), found.gid())),
                Err(error) => done(Err(error)),
            },
            ["copy", from, to] => done(fs_err::copy(from, to).map(drop)),
            ["get", url] => say(&proxied(&format!("GET {url} HTTP/1.1\r\nHost: x\r\nConnection: close\r\n\r\n"), "")),
            ["tunnel", host, text] => say(&proxied(&format!("CONNECT {host} HTTP/1.1\r\nHost: {host}\r\n\r\n"), text)),
            ["connect", address] => match TcpStream::connect(address) {
                Ok(_) => say("connected"),
                Err(error) => say(&format!("{:?}", error.kind())),
            },
            ["agent", text] => say(&agent(text).unwrap_or_else(|error| error.to_string())),
            ["wait"] => std::thread::sleep(std::time::Duration::from_secs(60)),
            ["fail", status] => return ExitCode::from(status.parse::<u8>().unwrap_or(1)),
            other => say(&format!("unknown: {other:?}")),
        }
    }
    ExitCode::SUCCESS
}

/// Sends a request to the proxy, and text through the tunnel that it makes; returns the line and the content of the answer.
fn proxied(request: &str, text: &str) -> String {
    let exchange = || -> std::io::Result<String> {
        let proxy = std::env::var("http_proxy").map_err(std::io::Error::other)?;
        let mut stream = TcpStream::connect(proxy.trim_start_matches("http://"))?;
        stream.write_all(request.as_bytes())?;
        let mut answer = String::new();
        if !text.is_empty() {
            let mut byte = [0];
            while !answer.ends_with("\r\n\r\n") && stream.read(&mut byte)? > 0 {
                answer.push(byte[0].into());
            }
            stream.write_all(text.as_bytes())?;
            stream.shutdown(std::net::Shutdown::Write)?;
        }
        stream.read_to_string(&mut answer)?;
        let (head, body) = answer.split_once("\r\n\r\n").unwrap_or((&answer, ""));
        Ok(format!("{}: {}", head.lines().next().unwrap_or_default(), body.trim()))
    };
    exchange().unwrap_or_else(|error| error.to_string())
}

fn agent(text: &str) -> std::io::Result<String> {
    let socket = std::env::var("SSH_AUTH_SOCK").map_err(std::io::Error::other)?;
    let mut stream = UnixStream::connect(socket)?;
    stream.write_all(text.as_bytes())?;
    stream.shutdown(std::net::Shutdown::Write)?;
    let mut answer = String::new();
    stream.read_to_string(&mut answer)?;
    Ok(answer)
}

#[allow(clippy::print_stdout, reason = "the program exists to print")]
fn say(text: &str) {
    println!("{text}");
}

fn done(result: std::io::Result<()>) {
    if let Err(error) = result {
        say(&error.to_string());
        std::process::exit(9);
    }
}
