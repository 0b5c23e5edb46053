//! Undoing the compression of a layer, whichever it is.
//!
//! What a stream is compressed with is read from its first bytes and not from a media type: registries hold layers
//! whose media type says otherwise, and the file of a local layer has none. Gzip may consist of many members (RFC 1952,
//! section 2.2), which is what spliced layers, eStargz and `pigz` write; zstd of many frames, some of them to be
//! skipped (RFC 8878, section 3.1).

use std::io::{self, BufRead, BufReader, Read};

use flate2::bufread::MultiGzDecoder;
use kiln_plan::digest::Digest;

use crate::hash::Sha256;
use crate::layer::Layer;

const BUFFER: usize = 64 * 1024;

/// What the first bytes of a stream say about its compression.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compression {
    /// None that is known here: a plain tar, presumably.
    Plain,
    /// Gzip, of one member or many.
    Gzip,
    /// Zstandard, of one frame or many.
    Zstd,
}

impl Compression {
    /// Tells from the first bytes of a stream; four suffice.
    pub fn sniff(start: &[u8]) -> Self {
        match *start {
            [0x1f, 0x8b, ..] => Self::Gzip,
            [0x28, 0xb5, 0x2f, 0xfd, ..] => Self::Zstd,
            // A skippable frame, with which `zstd:chunked` and `pzstd` may start.
            [low, 0x2a, 0x4d, 0x18, ..] if low & 0xf0 == 0x50 => Self::Zstd,
            _ => Self::Plain,
        }
    }
}

/// The uncompressed bytes of `reader`, which may be gzip, zstd or not compressed at all.
///
/// Memory is bounded by zstd's default window limit of 128 MiB; a frame that asks for more is an error while reading.
pub fn decompress(mut reader: impl Read + Send + 'static) -> io::Result<Box<dyn Read + Send>> {
    let mut start = Vec::with_capacity(4);
    reader.by_ref().take(4).read_to_end(&mut start)?;
    let compression = Compression::sniff(&start);
    let whole: BufReader<_> = BufReader::with_capacity(BUFFER, io::Cursor::new(start).chain(reader));
    Ok(match compression {
        Compression::Plain => Box::new(whole),
        Compression::Gzip => Box::new(MultiGzDecoder::new(whole)),
        Compression::Zstd => Box::new(zstd_decoder(whole)?),
    })
}

/// A layer whose tar is not the one that the config of its image names.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error(
    "the layer {digest} is another than the config of its image says: its diff id is {found} rather than {expected}"
)]
pub struct WrongDiffId {
    /// The digest of the compressed layer.
    pub digest: Digest,
    /// The diff id of the config.
    pub expected: Digest,
    /// The diff id of what was read.
    pub found: Digest,
}

/// The tar of a layer, which is checked against the layer's diff id while it is read.
///
/// Registries and layouts name a layer by the digest of its compressed bytes, and containers are made of what those
/// inflate to. A config whose diff ids belong to other layers describes another image than the one that runs.
pub struct LayerTar<'l> {
    tar: Box<dyn Read + Send>,
    hash: Sha256,
    layer: &'l Layer,
}

impl<'l> LayerTar<'l> {
    /// Returns the tar of `layer`, whose compressed bytes a reader gives.
    pub fn open(layer: &'l Layer, compressed: impl Read + Send + 'static) -> io::Result<Self> {
        Ok(Self { tar: decompress(compressed)?, hash: Sha256::new(), layer })
    }

    /// Reads what is left and compares the diff id: what was learnt of the layer counts only after this.
    pub fn verify(mut self) -> io::Result<()> {
        io::copy(&mut self, &mut io::sink())?;
        let (digest, expected, found) = (self.layer.digest, self.layer.diff_id, self.hash.finish());
        if found == expected {
            return Ok(());
        }
        Err(io::Error::new(io::ErrorKind::InvalidData, WrongDiffId { digest, expected, found }))
    }
}

impl Read for LayerTar<'_> {
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        let read = self.tar.read(buffer)?;
        self.hash.update(&buffer[..read]);
        Ok(read)
    }
}

fn zstd_decoder<'a, R: BufRead>(reader: R) -> io::Result<zstd::stream::read::Decoder<'a, R>> {
    zstd::stream::read::Decoder::with_buffer(reader)
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use flate2::write::GzEncoder;

    use super::*;

    fn read(bytes: Vec<u8>) -> io::Result<Vec<u8>> {
        let mut out = Vec::new();
        decompress(io::Cursor::new(bytes))?.read_to_end(&mut out)?;
        Ok(out)
    }

    fn gzip(bytes: &[u8]) -> Vec<u8> {
        let mut encoder = GzEncoder::new(Vec::new(), flate2::Compression::fast());
        encoder.write_all(bytes).unwrap();
        encoder.finish().unwrap()
    }

    #[test]
    fn all_members_of_a_gzip_stream_are_read() {
        let bytes = [gzip(b"first "), gzip(b""), gzip(b"second")].concat();
        assert_eq!(read(bytes).unwrap(), b"first second");
    }

    #[test]
    fn all_frames_of_a_zstd_stream_are_read_and_skippable_ones_are_skipped() {
        let skippable = b"\x51\x2a\x4d\x18\x02\0\0\0xx".to_vec();
        let frame = |bytes: &[u8]| zstd::encode_all(bytes, 1).unwrap();
        let bytes = [skippable.clone(), frame(b"first "), skippable, frame(b"second")].concat();
        assert_eq!(read(bytes).unwrap(), b"first second");
    }

    #[test]
    fn what_is_not_compressed_passes_through() {
        for plain in [b"".as_slice(), b"\x1f", b"etc/passwd\0\0\0"] {
            assert_eq!(read(plain.to_vec()).unwrap(), plain);
        }
    }

    #[test]
    fn a_layer_is_checked_against_its_diff_id_to_its_end() {
        let tar = b"a tar, and more".to_vec();
        for blob in [gzip(&tar), zstd::encode_all(tar.as_slice(), 1).unwrap(), tar.clone()] {
            let layer = |diff_id| Layer {
                media_type: crate::layer::MediaType::Gzip,
                digest: Digest::of(&blob),
                diff_id,
                size: blob.len() as u64,
                urls: Vec::new(),
            };
            let verify = |layer: &Layer| {
                let mut open = LayerTar::open(layer, io::Cursor::new(blob.clone())).unwrap();
                open.read_exact(&mut [0; 5]).unwrap();
                open.verify()
            };
            verify(&layer(Digest::of(&tar))).unwrap();
            let error = verify(&layer(Digest::of(b"other"))).unwrap_err();
            assert!(error.get_ref().is_some_and(|error| error.is::<WrongDiffId>()), "{error}");
        }
    }

    #[test]
    fn a_truncated_stream_is_an_error() {
        let gzip = gzip(&[7; 1000]);
        assert!(read(gzip[..gzip.len() - 4].to_vec()).is_err());
        let zstd = zstd::encode_all([7; 1000].as_slice(), 1).unwrap();
        assert!(read(zstd[..zstd.len() - 1].to_vec()).is_err());
    }
}
