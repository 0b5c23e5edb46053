//! The SSH agent of whoever builds, for commands: kiln passes connections on, since agents answer nobody but their own user.

use std::io;
use std::os::fd::AsRawFd as _;
use std::os::unix::fs::PermissionsExt as _;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

/// The name of the socket in its directory.
const SOCKET: &str = "agent";
/// Time between two looks for a connection.
const PAUSE: Duration = Duration::from_millis(20);

/// A socket that leads to the agent until it is dropped.
pub(crate) struct Agent {
    socket: PathBuf,
    ended: Arc<AtomicBool>,
}

impl Agent {
    /// Makes the socket in a directory that other users of the machine cannot enter. `agent` is the socket of the agent.
    pub(crate) fn start(directory: &Path, agent: PathBuf) -> io::Result<Self> {
        let socket = directory.join(SOCKET);
        let opened = fs_err::File::open(directory)?;
        // The path of a socket has at most 108 bytes (unix(7)).
        let listener = UnixListener::bind(format!("/proc/self/fd/{}/{SOCKET}", opened.as_raw_fd()))?;
        // A command may run as another user.
        fs_err::set_permissions(&socket, std::fs::Permissions::from_mode(0o666))?;
        listener.set_nonblocking(true)?;
        let ended = Arc::new(AtomicBool::new(false));
        let until = Arc::clone(&ended);
        std::thread::spawn(move || {
            while !until.load(Ordering::Relaxed) {
                match listener.accept() {
                    Ok((near, _)) => pass_on(near, &agent),
                    Err(_) => std::thread::sleep(PAUSE),
                }
            }
        });
        Ok(Self { socket, ended })
    }

    /// Returns the path of the socket.
    pub(crate) fn socket(&self) -> &Path {
        &self.socket
    }
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.ended.store(true, Ordering::Relaxed);
    }
}

/// Connects a connection with the agent, until either ends.
fn pass_on(near: UnixStream, agent: &Path) {
    let connected = || -> io::Result<_> {
        near.set_nonblocking(false)?;
        let far = UnixStream::connect(agent)?;
        Ok([(near.try_clone()?, far.try_clone()?), (far, near)])
    };
    // The command sees a connection that ends.
    let Ok(directions) = connected() else { return };
    for (mut from, mut to) in directions {
        std::thread::spawn(move || {
            let _ = io::copy(&mut from, &mut to);
            let _ = to.shutdown(std::net::Shutdown::Write);
        });
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Write as _};

    #[test]
    fn a_command_speaks_with_the_agent_as_long_as_it_runs() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().join("real");
        let listener = UnixListener::bind(&real).unwrap();
        std::thread::spawn(move || {
            for stream in listener.incoming() {
                let mut stream = stream.unwrap();
                let mut said = String::new();
                stream.read_to_string(&mut said).unwrap();
                stream.write_all(format!("{said} to you").as_bytes()).unwrap();
            }
        });
        let agent = Agent::start(directory.path(), real).unwrap();
        for word in ["hello", "goodbye"] {
            let mut stream = UnixStream::connect(agent.socket()).unwrap();
            stream.write_all(word.as_bytes()).unwrap();
            stream.shutdown(std::net::Shutdown::Write).unwrap();
            let mut said = String::new();
            stream.read_to_string(&mut said).unwrap();
            assert_eq!(said, format!("{word} to you"));
        }
    }
}
