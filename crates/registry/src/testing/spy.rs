//! A server that remembers every byte that it is sent, to find out who sends it credentials.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{TcpListener, TcpStream};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread;

/// A server on a port of the loopback interface. It answers every request alike.
#[derive(Debug)]
pub struct Spy {
    address: String,
    requests: Arc<Mutex<Vec<String>>>,
}

impl Spy {
    /// Starts a server that answers 200 with this JSON.
    pub fn start(answer: &str) -> Self {
        Self::answering(&format!(
            "200 OK\r\nContent-Type: application/json\r\nContent-Length: {}\r\n\r\n{answer}",
            answer.len()
        ))
    }

    /// Starts a server that answers with this status line, these header fields and this body.
    pub fn answering(answer: &str) -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port of the loopback interface");
        let address = format!("http://{}", listener.local_addr().expect("the address of a bound socket"));
        let requests = Arc::new(Mutex::new(Vec::new()));
        let (seen, answer) = (Arc::clone(&requests), format!("HTTP/1.1 {answer}"));
        thread::spawn(move || {
            for stream in listener.incoming().flatten() {
                let (seen, answer) = (Arc::clone(&seen), answer.clone());
                // An error is a client that went away.
                thread::spawn(move || drop(serve(&stream, &answer, &seen)));
            }
        });
        Self { address, requests }
    }

    /// Scheme, host and port: `http://127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Takes the requests since the last call, head and body as they came.
    pub fn requests(&self) -> Vec<String> {
        std::mem::take(&mut self.requests.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

/// Answers one request. The body is read as far as its length is announced, or to its last chunk, so that a client need
/// not wait.
fn serve(mut stream: &TcpStream, answer: &str, seen: &Mutex<Vec<String>>) -> std::io::Result<()> {
    let mut input = BufReader::new(stream);
    let (mut text, mut length, mut in_chunks) = (String::new(), 0, false);
    loop {
        let from = text.len();
        if input.read_line(&mut text)? == 0 || text[from..].trim().is_empty() {
            break;
        }
        let field = text[from..].to_ascii_lowercase();
        if let Some(value) = field.strip_prefix("content-length:") {
            length = value.trim().parse().unwrap_or(0);
        }
        in_chunks |= field.trim_end() == "transfer-encoding: chunked";
    }
    let mut body = Vec::new();
    while in_chunks {
        let mut size = String::new();
        input.read_line(&mut size)?;
        let size = u64::from_str_radix(size.trim(), 16).unwrap_or(0);
        in_chunks = size > 0;
        (&mut input).take(size).read_to_end(&mut body)?;
        input.read_line(&mut String::new())?;
    }
    input.take(length).read_to_end(&mut body)?;
    text.push_str(&String::from_utf8_lossy(&body));
    let body_allowed = !text.starts_with("HEAD ");
    seen.lock().unwrap_or_else(PoisonError::into_inner).push(text);
    let head = answer.split_inclusive("\r\n\r\n").next().unwrap_or_default();
    stream.write_all(if body_allowed { answer } else { head }.as_bytes())
}
