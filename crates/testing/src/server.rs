//! Connections: accepted on the loopback interface, each on a thread of its own, until the server is dropped.

use std::io::{self, BufReader};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread;

use crate::http::Head;

/// Bytes of requests that are read at once.
const PIECE: usize = 64 << 10;

/// The rest of a connection, behind a head.
pub type Input<'a> = BufReader<&'a TcpStream>;

/// A port of the loopback interface on which nobody answers yet.
#[derive(Debug)]
pub struct Listener {
    listener: TcpListener,
    address: String,
}

/// A server that answers until it is dropped.
#[derive(Debug)]
pub struct Server {
    address: String,
    closed: Arc<AtomicBool>,
}

impl Listener {
    /// Takes a free port.
    pub fn bind() -> Self {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("a port of the loopback interface");
        let address = listener.local_addr().expect("the address of a bound socket").to_string();
        Self { listener, address }
    }

    /// Host and port: `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }

    /// Answers every request with a function that reads the body and writes the answer. It returns true if another
    /// request may follow on the connection.
    pub fn serve(
        self,
        answer: impl Fn(&TcpStream, Head, &mut Input<'_>) -> io::Result<bool> + Send + Sync + 'static,
    ) -> Server {
        let Self { listener, address } = self;
        let (closed, answer) = (Arc::new(AtomicBool::new(false)), Arc::new(answer));
        let ended = Arc::clone(&closed);
        thread::spawn(move || {
            for stream in listener.incoming() {
                if ended.load(Ordering::SeqCst) {
                    return;
                }
                let Ok(stream) = stream else { continue };
                let (ended, answer) = (Arc::clone(&ended), Arc::clone(&answer));
                // An error is a peer that went away, or that cannot be understood; either way it is gone now.
                thread::spawn(move || drop(converse(&stream, &ended, &*answer)));
            }
        });
        Server { address, closed }
    }
}

fn converse(
    stream: &TcpStream,
    ended: &AtomicBool,
    answer: &dyn Fn(&TcpStream, Head, &mut Input<'_>) -> io::Result<bool>,
) -> io::Result<()> {
    stream.set_nodelay(true)?;
    let mut input = BufReader::with_capacity(PIECE, stream);
    while let Some(head) = Head::read(&mut input)? {
        if ended.load(Ordering::SeqCst) || !answer(stream, head, &mut input)? {
            break;
        }
    }
    stream.shutdown(Shutdown::Both)
}

impl Server {
    /// Host and port: `127.0.0.1:PORT`.
    pub fn address(&self) -> &str {
        &self.address
    }
}

impl Drop for Server {
    /// Gives the port back, or else a test of many cases would run out of file descriptors.
    fn drop(&mut self) {
        self.closed.store(true, Ordering::SeqCst);
        // The listener waits for a connection and looks at the flag after it.
        drop(TcpStream::connect(&self.address));
    }
}
