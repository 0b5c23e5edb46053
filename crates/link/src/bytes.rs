//! A file by the addresses that it is loaded at.

use std::ops::Range;

use kiln_fatbin::{Elf, ElfError, Segment, Source, Window};

/// Program headers that a file may have; the kernel takes no more than a page of them.
const MOST_HEADERS: usize = 1 << 10;
/// Bytes that most names fit in, and that none may have more of: what a window holds.
const NAME: usize = 256;
const LONGEST: usize = 16 << 10;
/// Bytes of all names of a file together: a hundred times what the largest libraries have.
const ALL_NAMES: usize = 1 << 20;

/// A part of a file.
#[derive(Clone, Copy)]
pub(crate) struct Place {
    pub(crate) offset: u64,
    pub(crate) size: u64,
}

/// A file whose program headers have been read.
pub(crate) struct Image<'s, S: Source + ?Sized> {
    window: Window<'s, S>,
    pub(crate) elf: Elf,
    /// Bytes that further names may have.
    left: usize,
    pub(crate) dynamic: Option<Place>,
    pub(crate) interpreter: Option<Place>,
}

impl<'s, S: Source + ?Sized> Image<'s, S> {
    /// Reads the headers; nothing where it is no ELF file of 64 bits.
    pub(crate) fn open(source: &'s S) -> Result<Option<Self>, ElfError> {
        let mut window = Window::new(source)?;
        let elf = match Elf::read_loaded(&mut window) {
            Err(ElfError::NotElf | ElfError::Unsupported) => return Ok(None),
            elf => elf?,
        };
        if elf.segments.len() > MOST_HEADERS {
            return Err(ElfError::Damaged("its program headers are of no known kind"));
        }
        let place = |kind| {
            // Files of debugging information have the headers of what they describe, without the content.
            let found = elf.segments.iter().rfind(|segment| segment.kind == kind && segment.size > 0);
            found.map(|segment| Place { offset: segment.offset, size: segment.size })
        };
        let (dynamic, interpreter) = (place(Segment::DYNAMIC), place(Segment::INTERPRETER));
        Ok(Some(Self { window, elf, left: ALL_NAMES, dynamic, interpreter }))
    }

    /// Where in the file an address is.
    pub(crate) fn offset(&self, address: u64) -> Result<u64, ElfError> {
        self.elf.offset_of(address).ok_or(ElfError::Damaged("an address is not in the file"))
    }

    /// Bytes at an address.
    pub(crate) fn at<const N: usize>(&mut self, address: u64) -> Result<[u8; N], ElfError> {
        let offset = self.offset(address)?;
        self.array(offset, 0)
    }

    /// Bytes at a position of the file.
    pub(crate) fn array<const N: usize>(&mut self, offset: u64, beyond: u64) -> Result<[u8; N], ElfError> {
        let cut_off = ElfError::Damaged("its headers are cut off");
        let Some(position) = offset.checked_add(beyond) else { return Err(cut_off) };
        self.window.array(position)?.ok_or(cut_off)
    }

    /// The string at a position of the file, up to its zero byte.
    pub(crate) fn text(&mut self, position: u64) -> Result<String, ElfError> {
        for count in [NAME, LONGEST] {
            let bytes = self.window.bytes(position, count)?;
            if let Some(end) = bytes.iter().position(|byte| *byte == 0) {
                let text = String::from_utf8_lossy(&bytes[..end]).into_owned();
                self.spend(text.len())?;
                return Ok(text);
            }
        }
        Err(ElfError::Damaged("a name has no end"))
    }

    /// Counts bytes of names.
    pub(crate) fn spend(&mut self, bytes: usize) -> Result<(), ElfError> {
        self.left = self.left.checked_sub(bytes).ok_or(ElfError::Damaged("its names have no end"))?;
        Ok(())
    }
}

/// A little-endian number of a header.
pub(crate) fn number(bytes: &[u8], range: Range<usize>) -> u64 {
    bytes.get(range).unwrap_or_default().iter().rev().fold(0, |number, byte| number << 8 | u64::from(*byte))
}
