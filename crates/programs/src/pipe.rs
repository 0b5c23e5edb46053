//! Pipes that never block for good: a program may end and leave them open in a process of its own making.

use std::io::{self, Read, Write};
use std::os::fd::{AsFd, BorrowedFd};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::fs::{OFlags, fcntl_getfl, fcntl_setfl};

/// Bytes that are read at once.
const CHUNK: usize = 16 << 10;

/// Makes reading and writing return at once.
pub(crate) fn unblock(pipe: impl AsFd) -> io::Result<()> {
    let flags = fcntl_getfl(&pipe)?;
    Ok(fcntl_setfl(&pipe, flags | OFlags::NONBLOCK)?)
}

/// Waits until one of these pipes has something to read, or for so long.
pub(crate) fn wait_readable<'p>(pipes: impl Iterator<Item = BorrowedFd<'p>>, most: Duration) -> io::Result<()> {
    let mut polled: Vec<PollFd<'_>> = pipes.map(|pipe| PollFd::from_borrowed_fd(pipe, PollFlags::IN)).collect();
    wait(&mut polled, most)
}

fn wait(polled: &mut [PollFd<'_>], most: Duration) -> io::Result<()> {
    let most = Timespec { tv_sec: 0, tv_nsec: most.subsec_nanos().into() };
    match poll(polled, Some(&most)) {
        Ok(_) | Err(rustix::io::Errno::INTR) => Ok(()),
        Err(error) => Err(error.into()),
    }
}

/// The end of a pipe that kiln reads from.
pub(crate) struct Source<R> {
    pipe: Option<R>,
}

impl<R: Read + AsFd> Source<R> {
    pub(crate) fn new(pipe: Option<R>) -> io::Result<Self> {
        if let Some(pipe) = &pipe {
            unblock(pipe)?;
        }
        Ok(Self { pipe })
    }

    /// Returns the pipe, until its end was read.
    pub(crate) fn open(&self) -> Option<BorrowedFd<'_>> {
        self.pipe.as_ref().map(AsFd::as_fd)
    }

    /// Passes on one chunk of what is there. Returns false if there is nothing.
    pub(crate) fn take(&mut self, each: &mut dyn FnMut(&[u8])) -> io::Result<bool> {
        let Some(pipe) = &mut self.pipe else { return Ok(false) };
        let mut chunk = [0; CHUNK];
        match pipe.read(&mut chunk) {
            Ok(0) => self.pipe = None,
            Ok(length) => {
                each(&chunk[..length]);
                return Ok(true);
            }
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::Interrupted) => {}
            Err(error) => return Err(error),
        }
        Ok(false)
    }
}

/// The end of a pipe that kiln writes to. After the program has ended it takes no more.
pub(crate) struct Sink<'e, W> {
    pipe: W,
    ended: &'e AtomicBool,
    pause: Duration,
}

impl<'e, W: Write + AsFd> Sink<'e, W> {
    pub(crate) fn new(pipe: W, ended: &'e AtomicBool, pause: Duration) -> io::Result<Self> {
        unblock(&pipe)?;
        Ok(Self { pipe, ended, pause })
    }
}

impl<W: Write + AsFd> Write for Sink<'_, W> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        loop {
            match self.pipe.write(bytes) {
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {}
                written => return written,
            }
            if self.ended.load(Ordering::Acquire) {
                return Err(io::ErrorKind::BrokenPipe.into());
            }
            wait(&mut [PollFd::new(&self.pipe, PollFlags::OUT)], self.pause)?;
        }
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}
