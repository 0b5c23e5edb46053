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
use flate2::{Decompress, FlushDecompress, Status};
use kiln_plan::event::Cancel;
use kiln_wheel::archive::{Entry, Method};

/// Bytes of a chunk: small enough that it is still in the second-level cache when it is hashed.
const CHUNK: usize = 256 << 10;
/// Chunks that wait for one hasher.
const AHEAD: usize = 4;
/// Compressed bytes that are read at once.
const INPUT: usize = 128 << 10;

/// Some content of an entry, or a clause that says what is wrong with the entry.
pub(crate) type Chunk = Result<Vec<u8>, InflateProblem>;

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

struct Task {
    file: Arc<fs_err::File>,
    entry: Entry,
    out: Sender<Chunk>,
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
                let mut state = Inflater { spare, cancel, input: vec![0; INPUT], stream: Decompress::new(false) };
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
    pub(crate) fn content(&self, file: Arc<fs_err::File>, entry: Entry) -> Receiver<Chunk> {
        let (out, content) = bounded(AHEAD);
        // The threads live as long as the pool, so that somebody listens; if not, the closed channel says so.
        let _ = self.tasks.send(Task { file, entry, out });
        content
    }

    /// Gives a chunk's memory back.
    pub(crate) fn recycle(&self, chunk: Vec<u8>) {
        let _ = self.spare.0.try_send(chunk);
    }
}

struct Inflater {
    spare: Receiver<Vec<u8>>,
    cancel: Cancel,
    input: Vec<u8>,
    stream: Decompress,
}

impl Inflater {
    fn copy(&mut self, task: &Task) -> Result<(), InflateProblem> {
        let entry = &task.entry;
        let (mut at, mut crc) = (0, crc32fast::Hasher::new());
        while at < entry.size {
            self.cancel.check().map_err(|_| InflateProblem::Cancelled)?;
            let mut chunk = vec![0; (entry.size - at).min(CHUNK as u64) as usize];
            task.file.file().read_exact_at(&mut chunk, entry.offset + at).map_err(InflateProblem::Io)?;
            at += chunk.len() as u64;
            crc.update(&chunk);
            if task.out.send(Ok(chunk)).is_err() {
                return Ok(());
            }
        }
        check_crc(crc, entry)
    }

    fn inflate(&mut self, task: &Task) -> Result<(), InflateProblem> {
        const BROKEN: InflateProblem = InflateProblem::Entry("is not a valid deflate stream");
        const WRONG_SIZE: InflateProblem = InflateProblem::Entry("does not have the size that is declared");
        let entry = &task.entry;
        self.stream.reset(false);
        let (mut offset, mut left) = (entry.offset, entry.compressed);
        let (mut begin, mut end) = (0, 0);
        let (mut size, mut crc) = (0u64, crc32fast::Hasher::new());
        loop {
            self.cancel.check().map_err(|_| InflateProblem::Cancelled)?;
            let mut chunk = self.spare.try_recv().unwrap_or_else(|_| vec![0; CHUNK]);
            chunk.resize(CHUNK, 0);
            let mut filled = 0;
            let mut status = Status::Ok;
            while filled < CHUNK && status != Status::StreamEnd {
                if begin == end && left > 0 {
                    let wanted = (INPUT as u64).min(left) as usize;
                    end = wanted;
                    begin = 0;
                    task.file.file().read_exact_at(&mut self.input[..wanted], offset).map_err(InflateProblem::Io)?;
                    offset += wanted as u64;
                    left -= wanted as u64;
                }
                let before = (self.stream.total_in(), self.stream.total_out());
                status = self
                    .stream
                    .decompress(&self.input[begin..end], &mut chunk[filled..], FlushDecompress::None)
                    .map_err(|_| BROKEN)?;
                let (read, written) = (self.stream.total_in() - before.0, self.stream.total_out() - before.1);
                begin += read as usize;
                filled += written as usize;
                if read == 0 && written == 0 && status != Status::StreamEnd {
                    return Err(BROKEN);
                }
            }
            size += filled as u64;
            if size > entry.size {
                return Err(WRONG_SIZE);
            }
            chunk.truncate(filled);
            crc.update(&chunk);
            if task.out.send(Ok(chunk)).is_err() {
                return Ok(());
            }
            if status == Status::StreamEnd {
                break;
            }
        }
        if left > 0 || begin != end || size != entry.size {
            return Err(WRONG_SIZE);
        }
        check_crc(crc, entry)
    }
}

fn check_crc(crc: crc32fast::Hasher, entry: &Entry) -> Result<(), InflateProblem> {
    if crc.finalize() == entry.crc {
        return Ok(());
    }
    Err(InflateProblem::Entry("does not have the content that its CRC-32 says"))
}
