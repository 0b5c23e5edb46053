//! A file by the addresses that it is loaded at.

use std::ops::Range;

use kiln_fatbin::{ElfError, Source, Window};

const HEADER: usize = 64;
const PROGRAM_HEADER: u64 = 56;
/// Program headers that a file may have; the kernel takes no more than a page of them.
const MOST_HEADERS: u64 = 1 << 10;
/// `p_type` of what is loaded, of the dynamic table, and of the loader's path.
const LOAD: u64 = 1;
const DYNAMIC: u64 = 2;
const INTERPRETER: u64 = 3;
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
    /// What is loaded: from which address on, and from where in the file.
    loaded: Vec<(u64, Place)>,
    /// Bytes that further names may have.
    left: usize,
    pub(crate) dynamic: Option<Place>,
    pub(crate) interpreter: Option<Place>,
}

impl<'s, S: Source + ?Sized> Image<'s, S> {
    /// Reads the header, which is returned, and the program headers; nothing where it is no ELF file of 64 bits.
    pub(crate) fn open(source: &'s S) -> Result<Option<(Self, [u8; HEADER])>, ElfError> {
        let mut window = Window::new(source)?;
        let Some(header) = window.array::<HEADER>(0)? else { return Ok(None) };
        if !header.starts_with(b"\x7fELF\x02\x01") {
            return Ok(None);
        }
        let mut image = Self { window, loaded: Vec::new(), left: ALL_NAMES, dynamic: None, interpreter: None };
        let (at, size, count) = (number(&header, 32..40), number(&header, 54..56), number(&header, 56..58));
        if count > 0 && (size != PROGRAM_HEADER || count > MOST_HEADERS) {
            return Err(ElfError::Damaged("its program headers are of no known kind"));
        }
        for index in 0..count {
            let header = image.array::<56>(at, index * PROGRAM_HEADER)?;
            let place = Place { offset: number(&header, 8..16), size: number(&header, 32..40) };
            match number(&header, 0..4) {
                // Files of debugging information have the headers of what they describe, without the content.
                _ if place.size == 0 => {}
                LOAD => image.loaded.push((number(&header, 16..24), place)),
                DYNAMIC => image.dynamic = Some(place),
                INTERPRETER => image.interpreter = Some(place),
                _ => {}
            }
        }
        Ok(Some((image, header)))
    }

    /// Where in the file an address is.
    pub(crate) fn offset(&self, address: u64) -> Result<u64, ElfError> {
        let found = self.loaded.iter().find_map(|(start, place)| {
            let inside = address.checked_sub(*start).filter(|inside| *inside < place.size)?;
            place.offset.checked_add(inside)
        });
        found.ok_or(ElfError::Damaged("an address is not in the file"))
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
