//! Inflating large entries on all cores, in bounded memory.
//!
//! A tar's digest needs its contents in order, while deflate streams are independent of one another. So a pool of
//! threads inflates entries ahead of the thread that hashes, each into a channel that holds a few chunks. Entries are
//! taken in the order in which they were asked for: of those that a hasher waits for, the first is always being
//! inflated, so that no order of layers can block.

use std::io;
use std::os::unix::fs::FileExt;
use std::sync::Arc;

use crossbeam_channel::{Receiver, Sender, bounded, unbounded};
use kiln_inflate::{Blocks, Inflate, WINDOW};
use kiln_plan::event::Cancel;
use kiln_wheel::archive::{Entry, Method};

use crate::error::OciError;

/// Bytes of a chunk: small enough that it is still in the second-level cache when it is hashed.
const CHUNK: usize = 256 << 10;
/// Chunks that wait for one hasher.
const AHEAD: usize = 4;
/// Compressed bytes that are read at once.
const INPUT: usize = 128 << 10;

/// Some content of an entry, behind what the decoder needed to look back at.
#[derive(Debug)]
pub(crate) struct Chunk {
    buffer: Vec<u8>,
    start: usize,
    end: usize,
    /// The blocks of the stream that begin in it.
    blocks: Blocks,
}

impl Chunk {
    pub(crate) fn bytes(&self) -> &[u8] {
        &self.buffer[self.start..self.end]
    }
}

/// A chunk, or why there is none.
pub(crate) type Inflated = Result<Chunk, InflateProblem>;

/// Why an entry cannot be inflated.
#[derive(Debug)]
pub(crate) enum InflateProblem {
    /// The entry itself: a clause.
    Entry(&'static str),
    /// Reading the wheel.
    Io(io::Error),
    /// The user wants to stop.
    Cancelled,
}

impl InflateProblem {
    /// The error, for an entry of a wheel.
    pub(crate) fn of(self, wheel: &str, entry: &str) -> OciError {
        match self {
            Self::Entry(problem) => OciError::entry(wheel, entry, problem),
            Self::Io(error) => OciError::Io(error),
            Self::Cancelled => OciError::Interrupted,
        }
    }
}

struct Task {
    file: Arc<fs_err::File>,
    entry: Entry,
    out: Sender<Inflated>,
}

/// Threads that inflate. They end when the pool is dropped.
#[derive(Debug)]
pub struct InflatePool {
    tasks: Sender<Task>,
    spare: (Sender<Vec<u8>>, Receiver<Vec<u8>>),
}

impl InflatePool {
    /// Starts as many threads.
    pub fn new(threads: usize, cancel: &Cancel) -> io::Result<Self> {
        let (tasks, queue) = unbounded::<Task>();
        let spare = bounded(threads * (AHEAD + 2) * 2);
        for _ in 0..threads.max(1) {
            let (queue, spare, cancel) = (queue.clone(), spare.1.clone(), cancel.clone());
            std::thread::Builder::new().name("inflate".into()).spawn(move || {
                let mut state = Inflater { spare, cancel, input: vec![0; INPUT], stream: Inflate::new() };
                for task in queue {
                    let done = match task.entry.method {
                        Method::Stored => state.copy(&task),
                        Method::Deflated => state.inflate(&task),
                    };
                    if let Err(problem) = done {
                        // A hasher that has gone away no longer wants to know.
                        let _ = task.out.send(Err(problem));
                    }
                }
            })?;
        }
        Ok(Self { tasks, spare })
    }

    /// Asks for the content of an entry. The channel closes after its last chunk.
    pub(crate) fn content(&self, file: Arc<fs_err::File>, entry: Entry) -> Receiver<Inflated> {
        let (out, content) = bounded(AHEAD);
        // The threads live as long as the pool, so that somebody listens; if not, the closed channel says so.
        let _ = self.tasks.send(Task { file, entry, out });
        content
    }

    /// Writes the content of an entry of a wheel, and tells what blocks its stream has. `advance` is told of bytes as they
    /// are written and may end it.
    pub fn write(
        &self,
        wheel: &str,
        file: &Arc<fs_err::File>,
        entry: &Entry,
        out: &mut impl io::Write,
        advance: &dyn Fn(u64) -> io::Result<()>,
    ) -> Result<Blocks, OciError> {
        let mut blocks = Blocks::default();
        for chunk in self.content(Arc::clone(file), entry.clone()) {
            let mut chunk = chunk.map_err(|problem| problem.of(wheel, &entry.path))?;
            out.write_all(chunk.bytes())?;
            advance(chunk.bytes().len() as u64)?;
            blocks.append(std::mem::take(&mut chunk.blocks));
            self.recycle(chunk);
        }
        Ok(blocks)
    }

    /// Gives a chunk's memory back.
    pub(crate) fn recycle(&self, chunk: Chunk) {
        let _ = self.spare.0.try_send(chunk.buffer);
    }
}

struct Inflater {
    spare: Receiver<Vec<u8>>,
    cancel: Cancel,
    input: Vec<u8>,
    stream: Inflate,
}

impl Inflater {
    /// A buffer for a chunk and the window before it.
    fn buffer(&self) -> Vec<u8> {
        self.spare.try_recv().unwrap_or_else(|_| vec![0; WINDOW + CHUNK])
    }

    fn copy(&mut self, task: &Task) -> Result<(), InflateProblem> {
        let entry = &task.entry;
        let (mut at, mut crc) = (0, crc32fast::Hasher::new());
        while at < entry.size {
            self.cancel.check().map_err(|_| InflateProblem::Cancelled)?;
            let mut buffer = self.buffer();
            let end = (entry.size - at).min(CHUNK as u64) as usize;
            task.file.file().read_exact_at(&mut buffer[..end], entry.offset + at).map_err(InflateProblem::Io)?;
            at += end as u64;
            crc.update(&buffer[..end]);
            if task.out.send(Ok(Chunk { buffer, start: 0, end, blocks: Blocks::default() })).is_err() {
                return Ok(());
            }
        }
        check_crc(crc, entry)
    }

    fn inflate(&mut self, task: &Task) -> Result<(), InflateProblem> {
        let entry = &task.entry;
        self.stream.reset();
        let mut input = Input { task, offset: entry.offset, left: entry.compressed, begin: 0, end: 0 };
        let (mut size, mut crc) = (0u64, crc32fast::Hasher::new());
        let mut buffer = self.buffer();
        let mut done = false;
        while !done {
            self.cancel.check().map_err(|_| InflateProblem::Cancelled)?;
            let mut end = WINDOW;
            while end < buffer.len() && !done {
                input.refill(&mut self.input)?;
                let progress =
                    self.stream.decode(&self.input[input.begin..input.end], &mut buffer, end).map_err(|_| BROKEN)?;
                input.begin += progress.read;
                end += progress.written;
                done = progress.done;
                if progress.read == 0 && progress.written == 0 && !done {
                    return Err(BROKEN);
                }
            }
            size += (end - WINDOW) as u64;
            if size > entry.size {
                return Err(WRONG_SIZE);
            }
            crc.update(&buffer[WINDOW..end]);
            let mut next = self.buffer();
            next[..WINDOW].copy_from_slice(&buffer[end - WINDOW..end]);
            let full = std::mem::replace(&mut buffer, next);
            let blocks = self.stream.take_blocks();
            if task.out.send(Ok(Chunk { buffer: full, start: WINDOW, end, blocks })).is_err() {
                return Ok(());
            }
        }
        if input.left > 0 || input.begin != input.end || size != entry.size {
            return Err(WRONG_SIZE);
        }
        check_crc(crc, entry)
    }
}

const BROKEN: InflateProblem = InflateProblem::Entry("is not a valid deflate stream");
const WRONG_SIZE: InflateProblem = InflateProblem::Entry("does not have the size that is declared");

/// The compressed bytes of an entry, read piece by piece.
struct Input<'t> {
    task: &'t Task,
    offset: u64,
    left: u64,
    begin: usize,
    end: usize,
}

impl Input<'_> {
    /// Reads the next piece once the last is used up.
    fn refill(&mut self, buffer: &mut [u8]) -> Result<(), InflateProblem> {
        if self.begin == self.end && self.left > 0 {
            let wanted = (buffer.len() as u64).min(self.left) as usize;
            self.task.file.file().read_exact_at(&mut buffer[..wanted], self.offset).map_err(InflateProblem::Io)?;
            (self.begin, self.end) = (0, wanted);
            self.offset += wanted as u64;
            self.left -= wanted as u64;
        }
        Ok(())
    }
}

fn check_crc(crc: crc32fast::Hasher, entry: &Entry) -> Result<(), InflateProblem> {
    if crc.finalize() == entry.crc {
        return Ok(());
    }
    Err(InflateProblem::Entry("does not have the content that its CRC-32 says"))
}
