//! Layers that are stored whole, because no wheel holds their bytes: files of a project, a bootstrapped base, and
//! everything where zstd is asked for.

use std::io::{self, Read, Write};

use crossbeam_channel::{Receiver, Sender, bounded};
use kiln_plan::digest::Digest;
use kiln_plan::event::Work;
use kiln_store::Store;
use libdeflater::{CompressionLvl, Compressor};
use sha2::{Digest as _, Sha256};

use crate::error::OciError;
use crate::header;
use crate::inflate::InflatePool;
use crate::layer::{Body, Layer, LayerFile, MediaType};
use crate::splice::{Source, gzip_member};

/// Raised when the bytes of such a layer change for the same input.
pub const WHOLE_VERSION: u32 = 2;

/// Bytes of tar in one gzip member: independent members are compressed on all cores.
const MEMBER: usize = 1 << 20;
const GZIP_LEVEL: i32 = 6;
const ZSTD_LEVEL: i32 = 3;

/// Takes a tar and gives a layer.
pub struct LayerWriter<'a> {
    tar: Sha256,
    sink: Sink<'a>,
}

enum Sink<'a> {
    Gzip(Box<GzipSink<'a>>),
    Zstd(Box<zstd::stream::Encoder<'static, kiln_store::BlobWriter<'a>>>),
}

impl<'a> LayerWriter<'a> {
    /// Begins a layer in a store. `threads` compress; how many there are does not change the bytes.
    pub fn new(store: &'a Store, media_type: MediaType, threads: usize) -> Result<Self, OciError> {
        let writer = store.writer()?;
        let sink = match media_type {
            MediaType::Zstd => {
                let mut encoder = zstd::stream::Encoder::new(writer, ZSTD_LEVEL)?;
                // With workers the frame is cut into jobs of a size that depends on the level alone. Without workers it
                // is not cut at all, so there is always one at least.
                encoder.multithread(threads.max(1) as u32)?;
                encoder.include_checksum(true)?;
                Sink::Zstd(Box::new(encoder))
            }
            MediaType::Tar | MediaType::Gzip => Sink::Gzip(Box::new(GzipSink::new(writer, threads)?)),
        };
        Ok(Self { tar: Sha256::new(), sink })
    }

    /// Ends the layer and stores it.
    pub fn finish(self) -> Result<Layer, OciError> {
        let diff_id = Digest::finish(self.tar);
        let (media_type, writer) = match self.sink {
            Sink::Gzip(sink) => (MediaType::Gzip, sink.finish()?),
            Sink::Zstd(encoder) => (MediaType::Zstd, encoder.finish()?),
        };
        let (digest, size) = writer.finish()?;
        Ok(Layer { media_type, digest, diff_id, size, urls: Vec::new() })
    }
}

impl Write for LayerWriter<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let written = match &mut self.sink {
            Sink::Gzip(sink) => sink.write(bytes)?,
            Sink::Zstd(encoder) => encoder.write(bytes)?,
        };
        self.tar.update(&bytes[..written]);
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

type Compressed = Receiver<io::Result<Vec<u8>>>;
/// Tar bytes to compress, and where the member goes.
type Job = (Vec<u8>, Sender<io::Result<Vec<u8>>>);

/// Compresses members on several threads and writes them in order.
struct GzipSink<'a> {
    writer: kiln_store::BlobWriter<'a>,
    pending: Vec<u8>,
    jobs: Sender<Job>,
    waiting: std::collections::VecDeque<Compressed>,
    threads: usize,
}

impl<'a> GzipSink<'a> {
    fn new(writer: kiln_store::BlobWriter<'a>, threads: usize) -> io::Result<Self> {
        let threads = threads.max(1);
        let (jobs, queue) = bounded::<Job>(threads);
        for _ in 0..threads {
            let queue = queue.clone();
            std::thread::Builder::new().name("compress".into()).spawn(move || {
                let mut compressor = Compressor::new(CompressionLvl::new(GZIP_LEVEL).unwrap_or_default());
                for (bytes, out) in queue {
                    // A writer that has gone away no longer wants the member.
                    let _ = out.send(gzip_member(&mut compressor, &bytes));
                }
            })?;
        }
        Ok(Self { writer, pending: Vec::with_capacity(MEMBER), jobs, waiting: Default::default(), threads })
    }

    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let taken = bytes.len().min(MEMBER - self.pending.len());
        self.pending.extend_from_slice(&bytes[..taken]);
        if self.pending.len() == MEMBER {
            self.submit()?;
        }
        Ok(taken)
    }

    fn submit(&mut self) -> io::Result<()> {
        let (out, compressed) = bounded(1);
        let member = std::mem::replace(&mut self.pending, Vec::with_capacity(MEMBER));
        self.jobs.send((member, out)).map_err(|_| io::Error::other("the compressing threads have ended"))?;
        self.waiting.push_back(compressed);
        if self.waiting.len() > 2 * self.threads { self.take_one() } else { Ok(()) }
    }

    fn take_one(&mut self) -> io::Result<()> {
        let Some(compressed) = self.waiting.pop_front() else { return Ok(()) };
        let member = compressed.recv().map_err(|_| io::Error::other("the compressing threads have ended"))??;
        self.writer.write_all(&member)
    }

    fn finish(mut self) -> io::Result<kiln_store::BlobWriter<'a>> {
        if !self.pending.is_empty() {
            self.submit()?;
        }
        while !self.waiting.is_empty() {
            self.take_one()?;
        }
        Ok(self.writer)
    }
}

/// Makes a zstd layer of files of wheels: everything is inflated and compressed again.
pub fn recompress(
    store: &Store,
    pool: &InflatePool,
    sources: &[Source],
    files: &[LayerFile],
    threads: usize,
    work: &Work<'_>,
) -> Result<Layer, OciError> {
    let mut out = LayerWriter::new(store, MediaType::Zstd, threads)?;
    for file in files {
        let mut head = Vec::new();
        file.write_header(&mut head)?;
        out.write_all(&head)?;
        match &file.body {
            Body::Directory | Body::Symlink(_) | Body::Whiteout | Body::File(_) => {}
            Body::Bytes(bytes) => out.write_all(bytes)?,
            Body::Entry(source, entry) => {
                let source = &sources[*source];
                let advance = |bytes| work.advance(bytes).map_err(io::Error::from);
                pool.write(&source.name, &source.file, entry, &mut out, &advance)?;
            }
        }
        out.write_all(&header::END[..header::padding(file.body.size())])?;
    }
    out.write_all(&header::END)?;
    out.finish()
}

impl LayerWriter<'_> {
    /// Adds a member whose content comes from a reader, which must have as many bytes as the member says.
    pub fn file(&mut self, file: &LayerFile, content: &mut impl Read) -> Result<(), OciError> {
        let mut head = Vec::new();
        file.write_header(&mut head)?;
        self.write_all(&head)?;
        let size = file.body.size();
        let copied = io::copy(&mut content.take(size), self)?;
        if copied != size {
            let message = format!("`{}` became shorter while it was read", file.path);
            return Err(io::Error::other(message).into());
        }
        Ok(self.write_all(&header::END[..header::padding(size)])?)
    }

    /// Adds a member without content, or one that holds its own.
    pub fn small(&mut self, file: &LayerFile) -> Result<(), OciError> {
        match &file.body {
            Body::Bytes(bytes) => self.file(file, &mut bytes.as_slice()),
            _ => self.file(file, &mut io::empty()),
        }
    }

    /// Ends the tar and the layer.
    pub fn end(mut self) -> Result<Layer, OciError> {
        self.write_all(&header::END)?;
        self.finish()
    }
}
