//! One entry of a region: code for one architecture (docs/fatbin.md).

use std::io;

use kiln_plan::gpu::{Architecture, Capability, Form, PtxVersion, Suffix};

use crate::cubin::Cubin;
use crate::source::{Fields, Source, Window};

/// Bytes that the header of every entry has at least.
pub(crate) const LEAST_HEADER: u64 = 48;
/// Bytes of a header that are read; longer ones hold what is of no interest here.
pub(crate) const HEADER: usize = 64;

/// The first architecture of Blackwell, from which on code of CUDA 12 and 13 has the same version.
pub(crate) const FIRST_OF_BLACKWELL: u32 = 100;

/// Bytes of options or of an identifier that are of interest.
const LONGEST_TEXT: usize = 256;

const FLAG_ZLIB: u64 = 0x1000;
const FLAG_LZ4: u64 = 0x2000;
const FLAG_LZ4_FRAME: u64 = 0x4000;
const FLAG_ZSTD: u64 = 0x8000;
const FLAG_ARCHITECTURE_SPECIFIC: u64 = 0x10_0000;
const FLAG_FAMILY: u64 = 0x20_0000;

/// The content of an entry.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Kind {
    /// PTX: text that the driver compiles.
    Ptx,
    /// Machine code.
    Cubin,
    /// Intermediate code for the linker (NVVM, LTO-IR).
    Lto,
    /// An index over other entries.
    Index,
    /// PTX for the linker.
    RelocatablePtx,
    /// Intermediate code of tiles.
    TileIr,
    /// Several entries that share a payload (CUDA 13.4, `--concat`).
    Concatenated,
    /// Something that is not known here: its number.
    #[serde(untagged)]
    Other(u16),
}

impl Kind {
    fn of(number: u16) -> Self {
        match number {
            1 => Self::Ptx,
            2 | 4 => Self::Cubin,
            8 => Self::Lto,
            0x20 => Self::Index,
            0x40 => Self::RelocatablePtx,
            0x80 => Self::TileIr,
            0x100 => Self::Concatenated,
            other => Self::Other(other),
        }
    }

    /// As the field's tools call it.
    pub fn name(self) -> String {
        match self {
            Self::Ptx => "PTX".into(),
            Self::Cubin => "cubin".into(),
            Self::Lto => "LTO-IR".into(),
            Self::Index => "index".into(),
            Self::RelocatablePtx => "relocatable PTX".into(),
            Self::TileIr => "TileIR".into(),
            Self::Concatenated => "concatenated".into(),
            Self::Other(number) => format!("kind {number:#x}"),
        }
    }
}

/// The compression of a payload.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize, serde::Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Not at all.
    None,
    /// zlib.
    Zlib,
    /// LZ4, as a block or a frame.
    Lz4,
    /// Zstandard, which not every driver understands.
    Zstd,
}

/// One entry of a region.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// The position of its header in the file.
    pub offset: u64,
    /// Its content.
    pub kind: Kind,
    /// Bytes of its header.
    pub header: u64,
    /// Bytes of its payload, padding included.
    pub payload: u64,
    /// Version of the PTX language, or of the code: major and minor.
    pub version: (u16, u16),
    /// The architecture's number: 90, 100, 121.
    pub number: u32,
    /// Flags.
    pub flags: u64,
    /// The place of the compiler's options, from the beginning of the header; 0 where there are none.
    pub options: u32,
    /// The place of its identifier, likewise, and how many bytes it has.
    pub identifier: (u32, u32),
    /// Bytes when inflated; 0 where it is not compressed.
    pub uncompressed: u64,
    /// Bytes of the payload without padding, where it is compressed; else 0.
    pub compressed: u32,
    /// True if it is a cubin or PTX in which nothing is to be loaded.
    pub hollow: bool,
}

impl Entry {
    /// Reads a header. Whether it is sound is for the caller to check, who knows where the region ends.
    pub(crate) fn read(offset: u64, bytes: &[u8]) -> Self {
        let fields = Fields(bytes);
        let header = u64::from(fields.u32(4));
        Self {
            offset,
            kind: Kind::of(fields.u16(0)),
            header,
            payload: fields.u64(8),
            version: (fields.u16(26), fields.u16(24)),
            number: fields.u32(28),
            flags: fields.u64(40),
            options: fields.u32(20),
            identifier: (fields.u32(32), fields.u32(36)),
            hollow: false,
            compressed: fields.u32(16),
            uncompressed: if header >= HEADER as u64 { fields.u64(56) } else { 0 },
        }
    }

    /// A cubin that lies in a file by itself, or in a Zstandard frame of so many bytes.
    pub(crate) fn bare(offset: u64, cubin: &Cubin, framed: Option<u64>) -> Self {
        let suffix = match cubin.architecture.suffix {
            Suffix::None => 0,
            Suffix::ArchitectureSpecific => FLAG_ARCHITECTURE_SPECIFIC,
            Suffix::Family => FLAG_FAMILY,
        };
        let size = framed.unwrap_or(cubin.size);
        Self {
            offset,
            kind: Kind::Cubin,
            header: 0,
            payload: size,
            version: (0, 0),
            number: cubin.architecture.capability.number(),
            flags: suffix | if framed.is_some() { FLAG_ZSTD } else { 0 },
            options: 0,
            identifier: (0, 0),
            uncompressed: if framed.is_some() { cubin.size } else { 0 },
            compressed: if framed.is_some() { u32::try_from(size).unwrap_or(0) } else { 0 },
            hollow: cubin.hollow,
        }
    }

    /// A piece of a concatenated entry: its record at a position, and its share of the payload.
    pub(crate) fn part(&self, offset: u64, record: &[u8], share: u64) -> Self {
        let fields = Fields(record);
        let compression = self.flags & (FLAG_ZLIB | FLAG_LZ4 | FLAG_LZ4_FRAME | FLAG_ZSTD);
        Self {
            offset,
            kind: Kind::of(fields.u16(0)),
            header: 0,
            payload: share,
            version: (fields.u16(26), fields.u16(24)),
            number: fields.u32(28),
            flags: fields.u64(40) | compression,
            options: 0,
            identifier: (0, 0),
            uncompressed: u64::from(fields.u32(8)),
            compressed: 0,
            hollow: false,
        }
    }

    /// PTX that is all of a file.
    pub(crate) fn of_text(architecture: Architecture, version: Option<PtxVersion>, size: u64) -> Self {
        let cubin = Cubin { architecture, size, hollow: false };
        let version = version.map_or((0, 0), |version| (version.major, version.minor));
        Self { kind: Kind::Ptx, version, ..Self::bare(0, &cubin, None) }
    }

    /// The options that it was compiled with, where they are text: behind the header's numbers, as {u32 offset, u32 length} and text.
    pub(crate) fn options_text<S: Source + ?Sized>(&self, source: &mut Window<'_, S>) -> io::Result<Option<String>> {
        if self.options == 0 {
            return Ok(None);
        }
        let at = self.offset + u64::from(self.options);
        let Some(place) = source.array::<8>(at)? else { return Ok(None) };
        let fields = Fields(&place);
        self.text(source, fields.u32(0), fields.u32(4))
    }

    /// The name of its source.
    pub(crate) fn identifier_text<S: Source + ?Sized>(&self, source: &mut Window<'_, S>) -> io::Result<Option<String>> {
        if self.identifier.0 == 0 { Ok(None) } else { self.text(source, self.identifier.0, self.identifier.1) }
    }

    /// Text of the header.
    fn text<S: Source + ?Sized>(
        &self,
        source: &mut Window<'_, S>,
        offset: u32,
        length: u32,
    ) -> io::Result<Option<String>> {
        let end = u64::from(offset) + u64::from(length);
        if length == 0 || end > self.header {
            return Ok(None);
        }
        let bytes = source.bytes(self.offset + u64::from(offset), (length as usize).min(LONGEST_TEXT))?;
        // Cubins of CUDA 13 have options in a form of their own there.
        let text = std::str::from_utf8(bytes).unwrap_or_default();
        let text = text.trim_matches(|c: char| c == '\0' || c.is_whitespace());
        Ok((!text.is_empty() && !text.contains(char::is_control)).then(|| text.to_owned()))
    }

    /// Bytes that it takes up.
    pub fn size(&self) -> u64 {
        self.header.saturating_add(self.payload)
    }

    /// The architecture that it was compiled for; `None` where the number is none that an architecture can have.
    pub fn architecture(&self) -> Option<Architecture> {
        let suffix = match self.flags {
            flags if flags & FLAG_ARCHITECTURE_SPECIFIC != 0 => Suffix::ArchitectureSpecific,
            flags if flags & FLAG_FAMILY != 0 => Suffix::Family,
            _ => Suffix::None,
        };
        let form = match self.kind {
            Kind::Ptx | Kind::RelocatablePtx => Form::Virtual,
            _ => Form::Real,
        };
        let capability = Capability::from_number(self.number).filter(|_| self.number > 0)?;
        Some(Architecture { capability, suffix, form })
    }

    /// The version of its language, where it is PTX that a driver compiles.
    pub fn ptx(&self) -> Option<PtxVersion> {
        let (major, minor) = self.version;
        (self.kind == Kind::Ptx).then_some(PtxVersion { major, minor })
    }

    /// Tells if a driver takes it as it is or compiles it; what is for the linker, or has nothing in it, is neither.
    pub fn is_loadable(&self) -> bool {
        !self.hollow && matches!(self.kind, Kind::Ptx | Kind::Cubin | Kind::Concatenated)
    }

    /// Tells if its payload is a frame of LZ4 rather than a block.
    pub(crate) fn is_lz4_frame(&self) -> bool {
        self.flags & FLAG_LZ4_FRAME != 0
    }

    /// Tells if it was made by CUDA 13 or later: machine code for GPUs before Blackwell has version 1.8 from there on (1.7
    /// before, seen in all releases from 11.2 to 13.5), and PTX version 9.
    pub fn is_of_cuda_13(&self) -> bool {
        match self.kind {
            Kind::Cubin => self.version >= (1, 8) && self.number < FIRST_OF_BLACKWELL,
            Kind::Ptx => self.version >= (9, 0),
            _ => false,
        }
    }

    /// The compression of its payload.
    pub fn compression(&self) -> Compression {
        match self.flags {
            flags if flags & FLAG_ZSTD != 0 => Compression::Zstd,
            flags if flags & (FLAG_LZ4 | FLAG_LZ4_FRAME) != 0 => Compression::Lz4,
            flags if flags & FLAG_ZLIB != 0 => Compression::Zlib,
            _ => Compression::None,
        }
    }
}
