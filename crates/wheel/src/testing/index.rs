//! A package index on the loopback interface that can be told to misbehave.
//!
//! It serves files with ranges, as indexes do, and only std networking, so that it shares nothing with the client that
//! it tests.

#![allow(clippy::unwrap_used, reason = "test support: a panic is a failed test")]

use std::collections::{HashMap, VecDeque};
use std::io::{self, Write};
use std::net::TcpStream;
use std::path::PathBuf;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use kiln_testing::http::{Answer, Head};
use kiln_testing::{Listener, Server as Connections};

/// How the server treats requests for one file.
#[derive(Debug, Clone)]
pub enum Behaviour {
    /// Sends so many bytes of the file and breaks off, the first so many times.
    BreakOff {
        /// Bytes that are sent.
        after: usize,
        /// Requests that are treated so.
        times: usize,
    },
    /// Sends so many bytes and then nothing, keeping the connection.
    Stall {
        /// Bytes that are sent.
        after: usize,
    },
    /// Answers this status and asks to come back at once, the first so many times.
    Status {
        /// The status.
        status: u16,
        /// Requests that are treated so.
        times: usize,
    },
    /// Redirects to this address.
    Redirect(String),
    /// Sends these bytes instead.
    Other(Vec<u8>),
    /// Sends the file, and after it zeros without an end, in chunks.
    Endless,
    /// Sends the whole file whatever part was asked for.
    NoRanges {
        /// Bytes that are sent.
        after: usize,
        /// Requests that are treated so.
        times: usize,
    },
    /// Breaks off a whole answer after so many bytes; answers a request for the rest with zeros.
    WrongRest {
        /// Bytes that are sent.
        after: usize,
    },
    /// Breaks off a whole answer after so many bytes and refuses a request for a part, the first so many times.
    RefusesParts {
        /// Bytes that are sent.
        after: usize,
        /// Requests that are treated so.
        times: usize,
    },
    /// Waits before it answers properly.
    Slow(Duration),
    /// Answers a request for a part as if another part had been asked for: its bytes and its `Content-Range`.
    WrongRange,
    /// Answers a request for a part with another part, under the `Content-Range` that was asked for.
    WrongPart,
}

/// A server; it ends with the value.
#[derive(Debug)]
pub struct Server {
    connections: Connections,
    state: Arc<Mutex<State>>,
}

#[derive(Debug, Default)]
struct State {
    directory: PathBuf,
    /// By file, in their order.
    behaviours: HashMap<String, VecDeque<Behaviour>>,
    /// Base64 of `user:password`, where it is asked for.
    credentials: Option<String>,
    log: Vec<String>,
    /// Bytes of content that were sent.
    sent: u64,
}

impl Server {
    /// Serves the files of a directory below `/files/`; one with a package's name is its page below `/simple/`.
    pub fn start(directory: PathBuf) -> Self {
        let state = Arc::new(Mutex::new(State { directory, ..State::default() }));
        let shared = Arc::clone(&state);
        let connections = Listener::bind().serve(move |stream, head, _| {
            let stays = answer(stream, &Request::of(&head), &shared)?;
            Ok(stays && head.keep_alive)
        });
        Self { connections, state }
    }

    /// Host and port: `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        self.connections.address()
    }

    /// The address of its index.
    pub fn index(&self) -> String {
        format!("http://{}/simple", self.address())
    }

    /// The address of its index with credentials in it.
    pub fn index_with(&self, credentials: &str) -> String {
        format!("http://{credentials}@{}/simple", self.address())
    }

    /// Treats requests for a file so from now on, whatever was said before.
    pub fn behave(&self, file: &str, behaviour: Behaviour) {
        self.behave_in_turn(file, [behaviour]);
    }

    /// Treats requests for a file in these ways from now on: each after the one before it has happened as many times as it
    /// says.
    pub fn behave_in_turn(&self, file: &str, behaviours: impl IntoIterator<Item = Behaviour>) {
        self.state.lock().unwrap().behaviours.insert(file.to_owned(), behaviours.into_iter().collect());
    }

    /// Treats all requests properly again.
    pub fn forgive(&self) {
        self.state.lock().unwrap().behaviours.clear();
    }

    /// Answers only who says this, in base64.
    pub fn demand(&self, credentials: &str) {
        self.state.lock().unwrap().credentials = Some(credentials.to_owned());
    }

    /// The requests since the last call: method, file, range.
    pub fn log(&self) -> Vec<String> {
        std::mem::take(&mut self.state.lock().unwrap().log)
    }

    /// Bytes of content that were sent.
    pub fn sent(&self) -> u64 {
        self.state.lock().unwrap().sent
    }
}

struct Request {
    method: String,
    file: String,
    from: Option<usize>,
    credentials: Option<String>,
}

impl Request {
    fn of(head: &Head) -> Self {
        let from = |range: &str| range.strip_prefix("bytes=")?.strip_suffix('-')?.parse().ok();
        Self {
            method: head.method.clone(),
            file: head.path().trim_end_matches('/').rsplit('/').next().unwrap_or_default().to_owned(),
            from: head.field("range").and_then(from),
            credentials: head.field("authorization").and_then(|value| value.strip_prefix("Basic ")).map(str::to_owned),
        }
    }
}

/// Answers one request. Returns true if the connection stays.
fn answer(mut stream: &TcpStream, request: &Request, state: &Mutex<State>) -> io::Result<bool> {
    let (content, behaviour) = {
        let mut state = state.lock().unwrap();
        let range = request.from.map(|from| format!(" from {from}")).unwrap_or_default();
        state.log.push(format!("{} {}{range}", request.method, request.file));
        if state.credentials.is_some() && state.credentials != request.credentials {
            Answer::new(401).write_head(&mut stream, false)?;
            return Ok(true);
        }
        (fs_err::read(state.directory.join(&request.file)), state.behaviour(&request.file))
    };
    let Ok(mut content) = content else {
        Answer::new(404).write_head(&mut stream, false)?;
        return Ok(true);
    };
    let mut from = request.from.unwrap_or(0);
    let mut limit = usize::MAX;
    let mut claimed = None;
    match &behaviour {
        Some(Behaviour::Status { status, .. }) => {
            Answer::new(*status).with("Retry-After", 0).write_head(&mut stream, false)?;
            return Ok(true);
        }
        Some(Behaviour::Redirect(to)) => {
            Answer::new(302).with("Location", to).write_head(&mut stream, false)?;
            return Ok(true);
        }
        Some(Behaviour::BreakOff { after, .. } | Behaviour::Stall { after }) => limit = *after,
        Some(Behaviour::NoRanges { after, .. }) => (from, limit) = (0, *after),
        Some(Behaviour::RefusesParts { .. }) if from > 0 => {
            Answer::new(416).write_head(&mut stream, false)?;
            return Ok(true);
        }
        Some(Behaviour::WrongRest { .. }) if from > 0 => content = vec![0; content.len()],
        Some(Behaviour::RefusesParts { after, .. } | Behaviour::WrongRest { after }) => limit = *after,
        Some(Behaviour::Other(bytes)) => content.clone_from(bytes),
        Some(Behaviour::Endless) => return endless(stream, &content, state),
        Some(Behaviour::Slow(pause)) => std::thread::sleep(*pause),
        Some(Behaviour::WrongRange) if from > 1 => from /= 2,
        Some(Behaviour::WrongPart) if from > 1 => (from, claimed) = (from / 2, Some(from)),
        Some(Behaviour::WrongRange | Behaviour::WrongPart) | None => {}
    }
    let claimed = claimed.unwrap_or(from);
    let mut answer = Answer::new(if from > 0 { 206 } else { 200 });
    if from > 0 {
        let last = content.len().saturating_sub(1);
        answer = answer.with("Content-Range", format!("bytes {claimed}-{last}/{}", content.len()));
    }
    answer.body = content.split_off(from.min(content.len()));
    answer.write_head(&mut stream, false)?;
    if request.method == "HEAD" {
        return Ok(true);
    }
    let part = &answer.body;
    let sent = part.get(..limit).unwrap_or(part);
    stream.write_all(sent)?;
    state.lock().unwrap().sent += sent.len() as u64;
    if matches!(behaviour, Some(Behaviour::Stall { .. })) {
        std::thread::sleep(Duration::from_secs(600));
    }
    Ok(sent.len() == part.len())
}

fn endless(mut stream: &TcpStream, content: &[u8], state: &Mutex<State>) -> io::Result<bool> {
    Answer::new(200).write_head(&mut stream, true)?;
    let zeros = vec![0; 1 << 20];
    for part in std::iter::once(content).chain(std::iter::repeat_n(zeros.as_slice(), 512)) {
        write!(stream, "{:x}\r\n", part.len())?;
        stream.write_all(part)?;
        stream.write_all(b"\r\n")?;
        state.lock().unwrap().sent += part.len() as u64;
    }
    stream.write_all(b"0\r\n\r\n")?;
    Ok(true)
}

impl State {
    fn behaviour(&mut self, file: &str) -> Option<Behaviour> {
        let queue = self.behaviours.get_mut(file)?;
        loop {
            let behaviour = queue.front_mut()?;
            match behaviour.times() {
                Some(0) => drop(queue.pop_front()),
                Some(times) => {
                    *times -= 1;
                    break;
                }
                None => break,
            }
        }
        queue.front().cloned()
    }
}

impl Behaviour {
    /// Returns the requests that are still treated so, where they are counted.
    fn times(&mut self) -> Option<&mut usize> {
        match self {
            Self::BreakOff { times, .. }
            | Self::Status { times, .. }
            | Self::NoRanges { times, .. }
            | Self::RefusesParts { times, .. } => Some(times),
            Self::Stall { .. }
            | Self::WrongRest { .. }
            | Self::Redirect(_)
            | Self::Other(_)
            | Self::Endless
            | Self::Slow(_)
            | Self::WrongRange
            | Self::WrongPart => None,
        }
    }
}
