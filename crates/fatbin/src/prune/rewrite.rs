//! The pruned file as pieces of the old one, and what is new.

use std::collections::BTreeMap;
use std::io::{self, Write};

use serde::Serialize;

use super::embedded::Pointer;
use super::layout::Layout;
use super::references::{References, each_symbol};
use super::{Cut, EMPTY_FRAME, Fat, File, Placed, Stop, Way, cuts, fixed, refused, room};
use crate::elf::{Elf, PROGRAM_HEADER, Section, Segment, field};
use crate::entry::Entry;
use crate::region::{MAGIC, REGION_HEADER, Region};
use crate::source::{Source, Window};
use crate::wrapper::Wrapper;

/// Bytes that are copied at once.
const CHUNK: usize = 1 << 20;

/// Some bytes of the pruned file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Piece {
    /// From the old file.
    Copy { from: u64, bytes: u64 },
    /// New.
    Bytes(Vec<u8>),
    /// Zeros.
    Zeros(u64),
}

/// The plan of a pruned file.
#[derive(Debug, Serialize)]
pub struct Rewrite {
    /// Bytes before.
    pub before: u64,
    /// Bytes after.
    pub after: u64,
    /// Regions.
    pub regions: u64,
    /// Regions that must stay where they are.
    pub pinned: u64,
    /// By kind and architecture.
    pub code: Vec<Cut>,
    /// False if no code for any of the GPUs is left.
    pub serves: bool,
    /// Bytes of code that is never cut.
    pub uncut: u64,
    /// Each behind where it begins in the pruned file.
    #[serde(skip)]
    pieces: Vec<(u64, Piece)>,
}

impl Rewrite {
    pub(super) fn new<S: Source + ?Sized>(
        window: &mut Window<'_, S>,
        file: &File<'_>,
        fats: &[Fat<'_>],
        placed: &[Vec<Placed>],
        references: &References,
        layout: &Layout,
    ) -> Result<Self, Stop> {
        let mut changes = Changes::default();
        let elf = file.elf;
        changes.headers(elf, fats, placed, layout);
        changes.displaced(window, file, layout)?;
        changes.pointers(window, elf, fats, placed, references)?;
        changes.symbols(fats, placed, references);
        for (fat, placed) in fats.iter().zip(placed) {
            changes.section(fat, placed, layout);
        }
        let (pieces, after) = in_order(changes.pieces(window.size())?);
        let pinned = fats.iter().map(|fat| {
            let stays = |region: &&Region| fat.way == Way::Fixed || references.pins(fat.address(region));
            fat.regions.iter().filter(stays).count() as u64
        });
        Ok(Self {
            before: window.size(),
            after,
            regions: fats.iter().map(|fat| fat.regions.len() as u64).sum(),
            pinned: pinned.sum(),
            code: cuts(fats, placed),
            serves: true,
            uncut: 0,
            pieces,
        })
    }

    /// A file without addresses: of so many regions, of which so many stay as they are.
    pub(super) fn of_pieces(before: u64, regions: (u64, u64), code: Vec<Cut>, mut pieces: Vec<Piece>) -> Self {
        pieces.retain(|piece| piece.size() > 0);
        let (pieces, after) = in_order(pieces);
        let (regions, pinned) = regions;
        Self { before, after, regions, pinned, code, serves: true, uncut: 0, pieces }
    }

    /// The pruned file, read out of the old one.
    pub fn of<'r, S: Source + ?Sized>(&'r self, old: &'r S) -> Rewritten<'r, S> {
        Rewritten { rewrite: self, old }
    }

    /// Ranges of the old file that the pruned one has, in its order: where each begins in the old and in the pruned, and
    /// its bytes.
    pub fn copies(&self) -> impl Iterator<Item = (u64, u64, u64)> {
        self.pieces.iter().filter_map(|(to, piece)| match piece {
            Piece::Copy { from, bytes } => Some((*from, *to, *bytes)),
            Piece::Bytes(_) | Piece::Zeros(_) => None,
        })
    }

    /// Writes the pruned file. `advance` is told of bytes as they are written and may end it.
    pub fn write<S: Source + ?Sized>(
        &self,
        source: &S,
        out: &mut impl Write,
        advance: &dyn Fn(u64) -> io::Result<()>,
    ) -> io::Result<()> {
        let new = self.of(source);
        let mut buffer = vec![0; (CHUNK as u64).min(self.after) as usize];
        let mut at = 0;
        while at < self.after {
            let read = new.read_at(&mut buffer, at)?;
            out.write_all(&buffer[..read])?;
            advance(read as u64)?;
            at += read as u64;
        }
        Ok(())
    }
}

/// Pieces behind where each begins, and the bytes of all.
fn in_order(pieces: Vec<Piece>) -> (Vec<(u64, Piece)>, u64) {
    let mut after = 0;
    let placed = pieces.into_iter().map(|piece| {
        let begin = after;
        after += piece.size();
        (begin, piece)
    });
    let placed = placed.collect();
    (placed, after)
}

/// A pruned file that is not written: the old one, and what is new.
#[derive(Debug)]
pub struct Rewritten<'r, S: Source + ?Sized> {
    rewrite: &'r Rewrite,
    old: &'r S,
}

impl<S: Source + ?Sized> Source for Rewritten<'_, S> {
    fn size(&self) -> io::Result<u64> {
        Ok(self.rewrite.after)
    }

    fn read_at(&self, buffer: &mut [u8], position: u64) -> io::Result<usize> {
        let pieces = &self.rewrite.pieces;
        let first = pieces.partition_point(|(begin, _)| *begin <= position).saturating_sub(1);
        let mut filled = 0;
        for (begin, piece) in pieces.get(first..).unwrap_or_default() {
            let into = (position + filled as u64).saturating_sub(*begin);
            let most = piece.size().saturating_sub(into).min((buffer.len() - filled) as u64) as usize;
            piece.read(self.old, &mut buffer[filled..filled + most], into)?;
            filled += most;
            if filled == buffer.len() {
                break;
            }
        }
        Ok(filled)
    }
}

impl Piece {
    /// The same piece of a file in which the old one lies at a position.
    pub(super) fn shifted(&self, by: u64) -> Self {
        match self {
            Self::Copy { from, bytes } => Self::Copy { from: from + by, bytes: *bytes },
            other => other.clone(),
        }
    }

    pub(super) fn size(&self) -> u64 {
        match self {
            Self::Copy { bytes, .. } | Self::Zeros(bytes) => *bytes,
            Self::Bytes(bytes) => bytes.len() as u64,
        }
    }

    /// Reads from a position of the piece, as many bytes as there are room for.
    fn read<S: Source + ?Sized>(&self, old: &S, buffer: &mut [u8], into: u64) -> io::Result<()> {
        match self {
            Self::Zeros(_) => buffer.fill(0),
            Self::Bytes(bytes) => buffer.copy_from_slice(&bytes[into as usize..into as usize + buffer.len()]),
            Self::Copy { from, .. } => {
                let mut filled = 0;
                while filled < buffer.len() {
                    let read = old.read_at(&mut buffer[filled..], from + into + filled as u64)?;
                    if read == 0 {
                        return Err(io::Error::other("the file became shorter while it was read"));
                    }
                    filled += read;
                }
            }
        }
        Ok(())
    }
}

/// Ranges of the old file, and what takes their place.
#[derive(Default)]
pub(super) struct Changes(Vec<(std::ops::Range<u64>, Vec<Piece>)>);

impl Changes {
    pub(super) fn put(&mut self, offset: u64, bytes: impl Into<Vec<u8>>) {
        let bytes = bytes.into();
        self.0.push((offset..offset + bytes.len() as u64, vec![Piece::Bytes(bytes)]));
    }

    pub(super) fn replace(&mut self, range: std::ops::Range<u64>, pieces: Vec<Piece>) {
        self.0.push((range, pieces));
    }

    /// ELF header, section headers, and program headers where they stay.
    fn headers(&mut self, elf: &Elf, fats: &[Fat<'_>], placed: &[Vec<Placed>], layout: &Layout) {
        self.put(field::PROGRAM_HEADERS, layout.moved(layout.table).to_le_bytes());
        self.put(field::SECTION_HEADERS, layout.moved(elf.section_headers).to_le_bytes());
        self.put(field::PROGRAM_HEADER_COUNT, (layout.segments.len() as u16).to_le_bytes());
        for section in elf.sections.iter().filter(|section| section.kind != 0) {
            let offset = layout.displaced(elf, section.offset).filter(|_| section.has_content());
            let offset = offset.map_or(section.offset, |(offset, _)| offset);
            self.put(section.header + field::OFFSET, layout.moved(offset).to_le_bytes());
        }
        let mut sizes = BTreeMap::new();
        for (fat, placed) in fats.iter().zip(placed) {
            let end = match (fat.way, placed.last()) {
                (Way::Wrapped, Some(last)) => last.offset + last.size,
                (Way::Wrapped, None) => fat.section.offset,
                (Way::Paired | Way::Framed | Way::Fixed, _) => fat.section.range().end,
            };
            sizes.insert(fat.section.header + field::SIZE, layout.moved(end) - layout.moved(fat.section.offset));
        }
        for (place, size) in sizes {
            self.put(place, size.to_le_bytes());
        }
        if layout.table == elf.program_headers {
            self.put(layout.table, table(&layout.segments));
        }
    }

    /// The addresses of sections that make room for program headers, and of the symbols in them.
    fn displaced<S: Source + ?Sized>(
        &mut self,
        window: &mut Window<'_, S>,
        file: &File<'_>,
        layout: &Layout,
    ) -> Result<(), Stop> {
        let Some(range) = &layout.displaced else { return Ok(()) };
        let displaced =
            |section: &Section| layout.displaced(file.elf, section.offset).filter(|_| section.has_content());
        // Those of a table that is itself moved stay: nothing but debuggers reads the address of a section's symbol.
        each_symbol(window, file.elf, |symbol| {
            let section = file.elf.sections.get(symbol.section).filter(|_| !range.contains(&symbol.offset));
            let moved = section.and_then(|section| Some((section, displaced(section)?)));
            if let Some((section, (_, address))) = moved {
                let into = symbol.address.wrapping_sub(section.address);
                self.put(symbol.offset + 8, address.wrapping_add(into).to_le_bytes());
            }
            Ok(())
        })?;
        for section in file.elf.sections.iter().filter(|section| section.has_content()) {
            let Some((_, address)) = layout.displaced(file.elf, section.offset) else { continue };
            self.put(section.header + field::ADDRESS, address.to_le_bytes());
            if let Some(Some((value, _))) = room::named(section, file.dynamic) {
                self.put(value, address.to_le_bytes());
            }
        }
        Ok(())
    }

    /// The words that wrappers hold, and what their relocations say.
    fn pointers<S: Source + ?Sized>(
        &mut self,
        window: &mut Window<'_, S>,
        elf: &Elf,
        fats: &[Fat<'_>],
        placed: &[Vec<Placed>],
        references: &References,
    ) -> Result<(), Stop> {
        let wrappers = references.wrappers.iter().map(|wrapper| {
            let Wrapper { pointer: location, region: code, addend } = *wrapper;
            Pointer { location, addend, code, behind: None }
        });
        for pointer in wrappers.chain(references.pointers.iter().copied()) {
            let Some(code) = moved(fats, placed, pointer.code) else { continue };
            let (target, address) = pointer.moves(&code);
            if address == target {
                continue;
            }
            if let Some(addend) = pointer.addend {
                self.put(addend, address.to_le_bytes());
            }
            let outside = || refused("a pointer to GPU code lies outside of the file");
            let word = elf.offset_of(pointer.location).ok_or_else(outside)?;
            let written = window.array(word)?.map(u64::from_le_bytes).ok_or_else(outside)?;
            if written == target {
                self.put(word, address.to_le_bytes());
            }
        }
        Ok(())
    }

    fn symbols(&mut self, fats: &[Fat<'_>], placed: &[Vec<Placed>], references: &References) {
        for symbol in &references.symbols {
            if let Some(Moved { size, address, .. }) = moved(fats, placed, symbol.address) {
                self.put(symbol.offset + 8, address.to_le_bytes());
                if symbol.size > size {
                    self.put(symbol.offset + 16, size.to_le_bytes());
                }
            }
        }
    }

    /// The regions of a section, with zeros between them where nothing is cut out.
    fn section(&mut self, fat: &Fat<'_>, placed: &[Placed], layout: &Layout) {
        let range = fat.range.clone();
        let mut pieces = Vec::new();
        let mut at = range.start;
        for (region, placed) in fat.regions.iter().zip(placed) {
            if fat.way == Way::Fixed {
                at = in_place(at, region, placed, layout, &mut pieces);
                continue;
            }
            gap(at, placed.offset, layout, &mut pieces);
            match fat.way {
                Way::Framed if placed.keeps.contains(&true) => {}
                Way::Framed => pieces.push(Piece::Bytes(EMPTY_FRAME.to_vec())),
                _ => pieces.push(Piece::Bytes(region_header(placed.size))),
            }
            copy_entries(&region.entries, &placed.keeps, &mut pieces);
            at = placed.offset + placed.size;
        }
        gap(at, range.end, layout, &mut pieces);
        self.replace(range, pieces);
    }

    /// The whole file. What is changed twice is a file whose parts overlap.
    pub(super) fn pieces(mut self, size: u64) -> Result<Vec<Piece>, Stop> {
        self.0.sort_by_key(|(range, _)| (range.start, range.end));
        let (mut pieces, mut at) = (Vec::new(), 0);
        for (range, new) in self.0 {
            if range.start < at || range.end > size {
                return Err(refused("its headers and tables overlap"));
            }
            pieces.push(Piece::Copy { from: at, bytes: range.start - at });
            pieces.extend(new);
            at = range.end;
        }
        pieces.push(Piece::Copy { from: at, bytes: size - at });
        pieces.retain(|piece| piece.size() > 0);
        Ok(pieces)
    }
}

/// A piece at its old place: all of it, or what takes its place unless that is cut out. Returns the place behind.
fn in_place(at: u64, region: &Region, placed: &Placed, layout: &Layout, pieces: &mut Vec<Piece>) -> u64 {
    let (start, stays) = (region.offset, placed.size > 0);
    let stub = if stays { Vec::new() } else { fixed::stub(region) };
    let end = start + placed.size.max(stub.len() as u64);
    if !stays && layout.cuts.iter().any(|cut| cut.meets(&(start..end))) {
        return at;
    }
    gap(at, start, layout, pieces);
    pieces.push(if stays { Piece::Copy { from: start, bytes: region.size } } else { Piece::Bytes(stub) });
    end
}

/// Zeros between two places of the old file, less what is cut out, and the program headers where they go there.
fn gap(from: u64, to: u64, layout: &Layout, pieces: &mut Vec<Piece>) {
    let mut at = from;
    if let Some(freed) = layout.freed.filter(|freed| (from..to).contains(freed)) {
        pieces.push(Piece::Zeros(freed - from));
        let piece = match &layout.displaced {
            Some(range) => Piece::Copy { from: range.start, bytes: range.end - range.start },
            None => Piece::Bytes(table(&layout.segments)),
        };
        at = freed + piece.size();
        pieces.push(piece);
    }
    for cut in layout.cuts.iter().filter(|cut| from <= cut.start && cut.end <= to) {
        pieces.push(Piece::Zeros(cut.start - at));
        at = cut.end;
    }
    pieces.push(Piece::Zeros(to - at));
}

pub(super) fn region_header(size: u64) -> Vec<u8> {
    let mut header = Vec::with_capacity(REGION_HEADER as usize);
    header.extend(MAGIC.to_le_bytes());
    header.extend([1, 0, REGION_HEADER as u8, 0]);
    header.extend((size - REGION_HEADER).to_le_bytes());
    header
}

pub(super) fn copy_entries(entries: &[Entry], keeps: &[bool], pieces: &mut Vec<Piece>) {
    for (entry, _) in entries.iter().zip(keeps).filter(|(_, keep)| **keep) {
        match pieces.last_mut() {
            Some(Piece::Copy { from, bytes }) if *from + *bytes == entry.offset => *bytes += entry.size(),
            _ => pieces.push(Piece::Copy { from: entry.offset, bytes: entry.size() }),
        }
    }
}

/// A region that lay at an address: the bytes that it had, those that it has now, and its new address.
pub(super) struct Moved {
    pub(super) before: u64,
    pub(super) size: u64,
    pub(super) address: u64,
}

fn moved(fats: &[Fat<'_>], placed: &[Vec<Placed>], address: u64) -> Option<Moved> {
    fats.iter().zip(placed).find_map(|(fat, placed)| {
        let at = fat.region_at(address)?;
        let placed = &placed[at];
        let address = fat.section.address_of(placed.offset);
        Some(Moved { before: fat.regions[at].size, size: placed.size, address })
    })
}

fn table(segments: &[Segment]) -> Vec<u8> {
    let mut bytes = Vec::with_capacity(segments.len() * PROGRAM_HEADER as usize);
    for segment in segments {
        bytes.extend(segment.kind.to_le_bytes());
        bytes.extend(segment.flags.to_le_bytes());
        let Segment { offset, address, physical, size, memory, alignment, .. } = *segment;
        for word in [offset, address, physical, size, memory, alignment] {
            bytes.extend(word.to_le_bytes());
        }
    }
    bytes
}
