//! Code among other data of a file: regions at any address, cubins by themselves, and cubins in Zstandard frames.
//!
//! cuFFT and cuBLASLt keep regions and frames in sections of their own (`.ldata`), onnxruntime and CUPTI cubins in
//! `.rodata`, and whatever a program embeds as an array lies at any byte.

use std::io;
use std::ops::Range;

use memchr::memmem::Finder;

use crate::cubin;
use crate::entry::Entry;
use crate::inflate::{self, EMPTY_FRAME, ZSTD_MAGIC};
use crate::region::{self, MAGIC, Malformed, Region};
use crate::source::{Source, WINDOW, Window};

/// Bytes that are searched together at first.
const FIRST_STEP: usize = 256;
/// Bytes that the longest beginning has less one: searched again with the next bytes.
const OVERLAP: usize = 5;
/// The bytes that a cubin begins with: 64 bits, little-endian.
const ELF: &[u8] = b"\x7fELF\x02\x01";
/// Bytes of a cubin in a frame that are looked at before all of it is: names and notes come before instructions.
const BEGINNING: u64 = 1 << 20;
/// Bytes of a cubin in a frame that are inflated at most: a frame may say that it holds anything.
const MOST: u64 = 16 << 20;

/// The forms of code among other data.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Form {
    Region,
    Cubin,
    Frame,
}

impl Form {
    /// The form of a piece of code that was found.
    pub(crate) fn of(region: &Region) -> Self {
        match region.entries.first() {
            Some(entry) if entry.header == 0 && entry.compressed > 0 => Self::Frame,
            Some(entry) if entry.header == 0 => Self::Cubin,
            _ => Self::Region,
        }
    }

    /// The name of a place with code of this form.
    pub(crate) fn place(self, section: &str) -> String {
        match self {
            Self::Region => section.to_owned(),
            Self::Cubin => format!("{section} (bare cubins)"),
            Self::Frame => format!("{section} (cubins in Zstandard frames)"),
        }
    }
}

/// Searches a range of a file. What looks like code and is none costs time: as much as the range would if it were all
/// entries; then it ends with what is wrong.
pub(crate) fn search<S: Source + ?Sized>(
    window: &mut Window<'_, S>,
    range: Range<u64>,
    mut found: impl FnMut(Form, &Region, &mut Window<'_, S>) -> io::Result<()>,
) -> io::Result<Result<(), Malformed>> {
    let region_magic = MAGIC.to_le_bytes();
    let finders = [(Form::Region, &region_magic[..]), (Form::Cubin, ELF), (Form::Frame, &ZSTD_MAGIC[..])];
    let finders = finders.map(|(form, magic)| (form, Finder::new(magic)));
    let mut patience = range.end - range.start;
    let mut position = range.start;
    // One region often follows another, so that little is read after each, and ever more where none comes.
    let mut step = FIRST_STEP;
    while position < range.end {
        let most = usize::try_from(range.end - position).unwrap_or(step).min(step);
        let bytes = window.bytes(position, most)?;
        if bytes.len() < ELF.len() {
            break;
        }
        let first = finders.iter().filter_map(|(form, finder)| Some((finder.find(bytes)?, *form))).min();
        let Some((at, form)) = first else {
            let last = bytes.len() as u64 >= range.end - position;
            position += (bytes.len() - if last { 0 } else { OVERLAP }) as u64;
            step = (step * 2).min(WINDOW);
            continue;
        };
        position += at as u64;
        match code(window, position, range.end, form)? {
            Ok(region) => {
                found(form, &region, window)?;
                position = region.offset + region.size.max(1);
                step = FIRST_STEP;
            }
            // A few bytes may look like code by chance.
            Err(malformed) => {
                let looked = malformed.offset.saturating_sub(position) + 8;
                if looked > patience {
                    return Ok(Err(malformed));
                }
                patience -= looked;
                position += 1;
            }
        }
    }
    Ok(Ok(()))
}

fn code<S: Source + ?Sized>(
    window: &mut Window<'_, S>,
    at: u64,
    end: u64,
    form: Form,
) -> io::Result<Result<Region, Malformed>> {
    let none = Err(Malformed { offset: at, problem: "there is no code" });
    match form {
        Form::Region => region::read_anywhere(window, at, end),
        Form::Cubin => Ok(match cubin::read(window, at, end)? {
            Some(cubin) => Ok(Region::bare(Entry::bare(at, &cubin, None))),
            None => none,
        }),
        Form::Frame => {
            let Some(size) = inflate::zstd_frame(window, at, end)? else { return Ok(none) };
            if window.bytes(at, EMPTY_FRAME.len())? == EMPTY_FRAME {
                return Ok(Ok(Region { offset: at, size, entries: Vec::new(), parts: Vec::new() }));
            }
            Ok(framed(window, at, size)?.map_or(none, |entry| Ok(Region::bare(entry))))
        }
    }
}

/// The cubin of a Zstandard frame.
fn framed<S: Source + ?Sized>(window: &mut Window<'_, S>, at: u64, size: u64) -> io::Result<Option<Entry>> {
    let unknown = cubin::Cubin::unknown(size);
    let probe = Entry::bare(at, &unknown, Some(size));
    // Inflating all of cuBLASLt's frames takes half a second.
    let tells = |start: &[u8]| !cubin::is_cubin(start) || cubin::architecture(start).is_some();
    let start = inflate::beginning(window, &probe, BEGINNING, tells)?.unwrap_or_default();
    if !cubin::is_cubin(&start) {
        return Ok(None);
    }
    if let Some(architecture) = cubin::architecture(&start) {
        return Ok(Some(Entry::bare(at, &cubin::Cubin { architecture, size, hollow: false }, Some(size))));
    }
    drop(start);
    let whole = inflate::payload(window, &probe, MOST)?.unwrap_or_default();
    let mut inside = Window::new(&whole)?;
    let found = cubin::read(&mut inside, 0, whole.len() as u64)?;
    Ok(found.map(|cubin| Entry::bare(at, &cubin, Some(size))))
}
