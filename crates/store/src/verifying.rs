//! The reader through which content leaves the store: it digests what passes and ends in an error if that is not what was
//! asked for.

use std::io::{self, Read};

use kiln_plan::digest::Digest;
use sha2::{Digest as _, Sha256};

/// A reader's content was not what its digest says. Readers give it inside an [`io::Error`] of kind `InvalidData`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the content of {expected} is damaged: it has {size} bytes and the digest {found}")]
pub struct WrongContent {
    /// What was asked for.
    pub expected: Digest,
    /// What was read.
    pub found: Digest,
    /// Bytes that were read.
    pub size: u64,
}

impl WrongContent {
    /// Returns what an I/O error says of damaged content.
    pub fn of(error: &io::Error) -> Option<&Self> {
        error.get_ref()?.downcast_ref()
    }
}

/// A reader of content whose digest and size are known. Its last read is an error if they differ.
#[derive(Debug)]
pub struct Verifying<R> {
    reader: R,
    expected: Digest,
    size: u64,
    hasher: Option<Sha256>,
    read: u64,
}

impl<R: Read> Verifying<R> {
    /// Wraps a reader that begins at the content's first byte. `size` is in bytes.
    pub fn new(reader: R, expected: Digest, size: u64) -> Self {
        Self { reader, expected, size, hasher: Some(Sha256::new()), read: 0 }
    }

    fn end(&mut self) -> io::Result<()> {
        let Some(hasher) = self.hasher.take() else { return Ok(()) };
        let found = Digest::finish(hasher);
        if found == self.expected && self.read == self.size {
            return Ok(());
        }
        let wrong = WrongContent { expected: self.expected, found, size: self.read };
        Err(io::Error::new(io::ErrorKind::InvalidData, wrong))
    }
}

impl<R: Read> Read for Verifying<R> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.reader.read(buffer)?;
        self.read += read as u64;
        if let Some(hasher) = &mut self.hasher {
            hasher.update(&buffer[..read]);
        }
        // At the last byte rather than behind it: a consumer that stops at the declared size never asks again.
        if self.read >= self.size || (read == 0 && !buffer.is_empty()) {
            self.end()?;
        }
        Ok(read)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(content: &[u8], expected: &[u8]) -> io::Result<Vec<u8>> {
        let mut bytes = Vec::new();
        Verifying::new(content, Digest::of(expected), expected.len() as u64).read_to_end(&mut bytes)?;
        Ok(bytes)
    }

    #[test]
    fn content_of_its_digest_passes_and_other_content_ends_in_an_error_that_names_it() {
        assert_eq!(read(b"content", b"content").unwrap(), b"content");
        assert_eq!(read(b"", b"").unwrap(), b"");
        for wrong in [&b"Content"[..], b"conten", b"contents", b""] {
            let error = read(wrong, b"content").unwrap_err();
            assert_eq!(WrongContent::of(&error).unwrap().expected, Digest::of(b"content"), "{wrong:?}");
        }
    }

    #[test]
    fn a_consumer_that_stops_at_the_declared_size_learns_of_damage() {
        let mut reader = Verifying::new(&b"cOntent"[..], Digest::of(b"content"), 7);
        assert!(reader.read_exact(&mut [0; 7]).is_err());
    }
}
