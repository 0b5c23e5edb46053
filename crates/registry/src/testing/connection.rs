//! Connections: reads requests, lets the state answer them, and misbehaves where it was told to.

use std::io::{self, BufRead, Read, Write};
use std::net::TcpStream;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::thread;

use kiln_plan::digest::Digest;
use kiln_testing::http::{Answer, Head, Incoming};

use super::errors::error;
use super::route::Route;
use super::state::{Received, State};
use super::{Fault, Logged, Options};

/// Bodies are read and written in pieces of so many bytes.
const PIECE: usize = 64 << 10;

/// [`Fault::Endless`] ends all the same after so many zeros.
const ENDLESS: usize = 64 << 20;

/// [`Fault::Garbage`]: a TLS alert, which is what a client meets that speaks HTTP to a port of HTTPS.
const GARBAGE: &[u8] = b"\x15\x03\x01\x00\x02\x02\x16";

/// What the threads of a registry share.
#[derive(Debug)]
pub(super) struct Shared {
    pub(super) address: String,
    pub(super) received: AtomicU64,
    pub(super) sent: AtomicU64,
    state: Mutex<State>,
}

impl Shared {
    /// An empty registry that will listen on this address.
    pub(super) fn new(address: String, options: Options) -> Self {
        let state = Mutex::new(State::new(address.clone(), options));
        let (received, sent) = (AtomicU64::new(0), AtomicU64::new(0));
        Self { address, received, sent, state }
    }

    /// Locks the state. No one waits for the network with it.
    pub(super) fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// Answers a request. Returns true if another can follow on the connection.
pub(super) fn answer(shared: &Shared, stream: &TcpStream, head: Head, input: &mut impl BufRead) -> io::Result<bool> {
    let route = Route::of(&head);
    Exchange { shared, stream, head, route }.run(input)
}

/// A request whose head was read.
#[derive(Debug)]
struct Exchange<'a> {
    shared: &'a Shared,
    stream: &'a TcpStream,
    head: Head,
    route: Route,
}

impl Exchange<'_> {
    /// Reads the rest and answers. The result is whether another request can follow on the connection.
    fn run(&self, input: &mut impl BufRead) -> io::Result<bool> {
        let (refusal, fault) = self.prospects();
        if fault == Some(Fault::Drop) {
            return Ok(self.dropped());
        }
        let most = match fault {
            Some(Fault::DropAfter(most)) if self.route.request.continues_upload() => Some(most),
            _ => None,
        };
        let body = self.receive(input, most)?;
        if !body.complete {
            if refusal.is_none() && self.route.request.continues_upload() {
                self.shared.state().answer(&self.head, &self.route, body);
            }
            return Ok(self.dropped());
        }
        if let Some(Fault::Slow(wait)) = fault {
            thread::sleep(wait);
        }
        let answer = match (&fault, refusal) {
            (Some(Fault::Status(status, after)), _) => told(*status, *after),
            (Some(Fault::Redirect(status, address)), _) => {
                Answer::new(*status).with("Location", format!("{address}{}", self.head.target))
            }
            (Some(Fault::Unauthorized), _) => self.shared.state().challenge(&self.route),
            (_, Some(refusal)) => refusal,
            (_, None) => self.shared.state().answer(&self.head, &self.route, body),
        };
        self.send(answer, fault)
    }

    /// The challenge for a request without credentials, and the fault that is to happen.
    fn prospects(&self) -> (Option<Answer>, Option<Fault>) {
        let mut state = self.shared.state();
        let refusal = state.authorize(&self.head, &self.route).err();
        let fault = state.next_fault(self.route.request, refusal.is_none());
        (refusal, fault)
    }

    /// Reads the body, or at most so many bytes of it as if it ended there too early.
    fn receive(&self, input: &mut impl BufRead, most: Option<usize>) -> io::Result<Received> {
        let body = Incoming::after(&self.head, input)?;
        if self.head.expects_continue() {
            let mut out = self.stream;
            out.write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
        }
        let mut body = body.take(most.map_or(u64::MAX, |most| most as u64));
        let mut received = Received { bytes: Vec::new(), complete: most.is_none() };
        let mut piece = vec![0; PIECE];
        loop {
            match body.read(&mut piece) {
                Ok(0) => return Ok(received),
                Ok(count) => {
                    received.bytes.extend_from_slice(&piece[..count]);
                    if self.route.request.uploads() {
                        self.shared.received.fetch_add(count as u64, Ordering::SeqCst);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(_) => return Ok(Received { complete: false, ..received }),
            }
        }
    }

    fn send(&self, mut answer: Answer, fault: Option<Fault>) -> io::Result<bool> {
        let mut out = self.stream;
        match &fault {
            Some(Fault::DropAnswer) => return Ok(self.dropped()),
            Some(Fault::Garbage) => {
                self.dropped();
                return out.write_all(GARBAGE).map(|()| false);
            }
            Some(Fault::Truncated(length)) => answer.body.truncate(*length),
            Some(Fault::OtherContent) => flip(&mut answer.body),
            Some(Fault::Location(address)) => answer.relocate(address),
            Some(Fault::OtherDigest) => answer.replace("Docker-Content-Digest", Digest::of(b"another content")),
            _ => {}
        }
        let endless = fault == Some(Fault::Endless) && self.head.method == "GET" && answer.may_have_body();
        self.log(answer.status);
        answer.fields.push(("Docker-Distribution-Api-Version", "registry/2.0".into()));
        answer.write_head(&mut out, endless)?;
        let sendable = self.head.method != "HEAD" && answer.may_have_body();
        let body = if sendable { answer.body.as_slice() } else { &[] };
        match fault {
            Some(Fault::DropAfter(length)) => self.send_body(&body[..length.min(body.len())]).map(|()| false),
            _ if endless => self.send_endless(body).map(|()| false),
            _ => self.send_body(body).map(|()| self.head.keep_alive),
        }
    }

    /// Counts before it writes, so that a client that has the body finds it counted.
    fn send_body(&self, body: &[u8]) -> io::Result<()> {
        let mut out = self.stream;
        for piece in body.chunks(PIECE) {
            self.shared.sent.fetch_add(piece.len() as u64, Ordering::SeqCst);
            out.write_all(piece)?;
        }
        Ok(())
    }

    fn send_endless(&self, body: &[u8]) -> io::Result<()> {
        let mut out = self.stream;
        let zeros = vec![0; PIECE];
        for chunk in body.chunks(PIECE).chain(std::iter::repeat_n(zeros.as_slice(), ENDLESS / PIECE)) {
            write!(out, "{:x}\r\n", chunk.len())?;
            self.send_body(chunk)?;
            out.write_all(b"\r\n")?;
        }
        out.write_all(b"0\r\n\r\n")
    }

    /// Logs a request that gets no answer. The result is that no other can follow on the connection.
    fn dropped(&self) -> bool {
        self.log(0);
        false
    }

    fn log(&self, status: u16) {
        let (request, method, path) = (self.route.request, self.head.method.clone(), self.head.target.clone());
        self.shared.state().log.push(Logged { request, method, path, status });
    }
}

/// [`Fault::Status`].
fn told(status: u16, retry_after: Option<u64>) -> Answer {
    let code = match status {
        401 => "UNAUTHORIZED",
        403 => "DENIED",
        404 => "NAME_UNKNOWN",
        405 => "UNSUPPORTED",
        413 => "SIZE_INVALID",
        429 => "TOOMANYREQUESTS",
        503 => "UNAVAILABLE",
        _ => "UNKNOWN",
    };
    let answer = error(status, code, "this registry was told to fail");
    match retry_after {
        Some(seconds) => answer.with("Retry-After", seconds),
        None => answer,
    }
}

/// [`Fault::OtherContent`].
fn flip(body: &mut [u8]) {
    let middle = body.len() / 2;
    for byte in body.iter_mut().skip(middle).step_by(512) {
        *byte ^= 1;
    }
}
