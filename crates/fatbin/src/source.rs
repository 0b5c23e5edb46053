//! Sources of bytes: positions of a file, or of memory.

use std::io;
use std::os::unix::fs::FileExt as _;

/// Bytes that are read at once at most, where one read follows the other.
pub(crate) const WINDOW: usize = 64 << 10;
/// Bytes that are read after a jump: a few headers. Most of what is jumped over are kernels of many kilobytes each, so that
/// more would mean to copy all of a library.
const JUMP: usize = 1 << 10;

/// Something that can be read at any position.
pub trait Source {
    /// The number of bytes.
    fn size(&self) -> io::Result<u64>;

    /// Reads from a position, as many bytes as there are room and content for.
    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize>;
}

impl Source for fs_err::File {
    fn size(&self) -> io::Result<u64> {
        Ok(self.metadata()?.len())
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.file().read_at(buffer, position)
    }
}

impl Source for [u8] {
    fn size(&self) -> io::Result<u64> {
        Ok(self.len() as u64)
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let from = usize::try_from(position).unwrap_or(usize::MAX).min(self.len());
        let taken = buffer.len().min(self.len() - from);
        buffer[..taken].copy_from_slice(&self[from..from + taken]);
        Ok(taken)
    }
}

impl Source for Vec<u8> {
    fn size(&self) -> io::Result<u64> {
        self.as_slice().size()
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        self.as_slice().read_at(buffer, position)
    }
}

/// A part of a source.
pub(crate) struct Part<'a, S: Source + ?Sized> {
    pub(crate) source: &'a S,
    pub(crate) from: u64,
    pub(crate) size: u64,
}

impl<S: Source + ?Sized> Source for Part<'_, S> {
    fn size(&self) -> io::Result<u64> {
        Ok(self.size)
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let left = usize::try_from(self.size.saturating_sub(position)).unwrap_or(usize::MAX).min(buffer.len());
        self.source.read_at(&mut buffer[..left], self.from.saturating_add(position))
    }
}

/// Reads a source through a small buffer, since headers that follow one another lie near one another.
pub struct Window<'a, S: Source + ?Sized> {
    source: &'a S,
    size: u64,
    start: u64,
    filled: usize,
    /// Bytes that were read the last time.
    step: usize,
    /// As large as the largest read: most members of archives are read in small ones.
    buffer: Vec<u8>,
}

impl<'a, S: Source + ?Sized> Window<'a, S> {
    /// A window on a source.
    pub fn new(source: &'a S) -> io::Result<Self> {
        Ok(Self { source, size: source.size()?, start: 0, filled: 0, step: JUMP, buffer: Vec::new() })
    }

    /// Another window on the same source.
    pub fn another(&self) -> Self {
        Self { source: self.source, size: self.size, start: 0, filled: 0, step: JUMP, buffer: Vec::new() }
    }

    /// The number of bytes.
    pub fn size(&self) -> u64 {
        self.size
    }

    /// So many bytes from a position on, at most the window's; fewer at the end.
    pub fn bytes(&mut self, position: u64, count: usize) -> io::Result<&[u8]> {
        // Positions come from headers, which may say anything.
        if position >= self.size {
            return Ok(&[]);
        }
        let count = count.min(WINDOW);
        let inside = position >= self.start && position + count as u64 <= self.start + self.filled as u64;
        if !inside {
            let end = self.start + self.filled as u64;
            let follows = position >= self.start && position <= end + JUMP as u64;
            self.step = if follows { (self.step * 2).min(WINDOW) } else { JUMP };
            let wanted = self.step.max(count);
            (self.start, self.filled) = (position, 0);
            if self.buffer.len() < wanted {
                self.buffer.resize(wanted, 0);
            }
            while self.filled < wanted {
                let room = &mut self.buffer[self.filled..wanted];
                match self.source.read_at(room, position + self.filled as u64)? {
                    0 => break,
                    read => self.filled += read,
                }
            }
        }
        let from = usize::try_from(position - self.start).unwrap_or(usize::MAX).min(self.filled);
        Ok(&self.buffer[from..self.filled.min(from + count)])
    }

    /// Exactly so many bytes.
    pub fn array<const N: usize>(&mut self, position: u64) -> io::Result<Option<[u8; N]>> {
        Ok(self.bytes(position, N)?.try_into().ok())
    }
}

/// Numbers of a header, little-endian; zero beyond its end, which callers have checked.
pub(crate) struct Fields<'b>(pub(crate) &'b [u8]);

impl Fields<'_> {
    fn array<const N: usize>(&self, at: usize) -> [u8; N] {
        self.0.get(at..at + N).and_then(|bytes| bytes.try_into().ok()).unwrap_or([0; N])
    }

    pub(crate) fn u16(&self, at: usize) -> u16 {
        u16::from_le_bytes(self.array(at))
    }

    pub(crate) fn u32(&self, at: usize) -> u32 {
        u32::from_le_bytes(self.array(at))
    }

    pub(crate) fn u64(&self, at: usize) -> u64 {
        u64::from_le_bytes(self.array(at))
    }
}
