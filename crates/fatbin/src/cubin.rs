//! Cubins: ELF files with the machine code of one architecture, as far as their headers tell.
//!
//! The flags hold the architecture's number: in ABI 7 in the lowest byte, from 8 on in the next. The suffix `a` is a bit of
//! the flags in ABI 7 (`EF_CUDA_ACCELERATORS_V1` of LLVM's `ELF.h`; written by ptxas 12.0 to 12.9), and from 8 on in CUDA 12
//! alone (`EF_CUDA_ACCELERATORS`). Else it is in the section `.nv.compat` (attribute 9 is 1 for `a`), or in the assembler's
//! options in `.note.nv.tkinfo`, as `f` always is; seen in cubins of CUDA 12.9 to 13.5. Every kernel has a section `.nv.constant0.NAME` for its parameters; device functions have none.

use std::collections::BTreeSet;
use std::io;

use kiln_plan::gpu::{Architecture, Capability, Form, Suffix};
use memchr::memmem;

use crate::elf::{ALLOCATED, HEADER, NOBITS, PROGRAM_HEADER, SECTION_HEADER};
use crate::source::{Fields, Source, Window};

/// `EM_CUDA`.
const CUDA: u16 = 190;
/// Types of `.nv.compat` and of notes.
const COMPATIBILITY: u32 = 0x7000_0086;
const NOTE: u32 = 7;
/// Sections that are looked at: linked kernels of large libraries have some thousand.
const MOST_SECTIONS: u64 = 1 << 15;
/// Bytes of a section that are read.
const SMALL: usize = 4096;
/// The attribute of `.nv.compat` that tells code for exactly one architecture.
const EXACT: u8 = 9;
/// The place of the ABI's version in a header (`EI_ABIVERSION`), and the first version with notes of the assembler.
const ABI: usize = 8;
const FIRST_WITH_NOTES: u8 = 8;
/// Flags of code for exactly one architecture.
const EXACT_BEFORE_NOTES: u32 = 0x800;
const EXACT_WITH_NOTES: u32 = 0x8;
/// The first architecture that code with a suffix is for: `sm_90a`.
const FIRST_WITH_SUFFIX: u32 = 90;
/// The text of a compiler of NVIDIA's before its release: `Cuda compilation tools, release 12.4, V12.4.131`.
pub(crate) const RELEASE: &[u8] = b"Cuda compilation tools, release ";
/// The option of the assembler that names the architecture.
const OPTION: &[u8] = b"-arch";
/// The directive of PTX before a kernel's name.
const ENTRY: &[u8] = b".entry";
const PARAMETERS: &str = ".nv.constant0.";

/// The facts that the headers of a cubin tell.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Cubin {
    /// The architecture that it is for.
    pub(crate) architecture: Architecture,
    /// Bytes that it takes up.
    pub(crate) size: u64,
    /// True if nothing in it is loaded.
    pub(crate) hollow: bool,
}

impl Cubin {
    /// One that has not been looked into, of so many bytes.
    pub(crate) fn unknown(size: u64) -> Self {
        let architecture = Capability::new(0, 0).architecture();
        Self { architecture, size, hollow: false }
    }
}

/// Reads the cubin at a position, which must end before `end`; nothing where there is none.
pub(crate) fn read<S: Source + ?Sized>(source: &mut Window<'_, S>, at: u64, end: u64) -> io::Result<Option<Cubin>> {
    let Some(header) = source.array::<HEADER>(at)? else { return Ok(None) };
    let fields = Fields(&header);
    let Some(architecture) = architecture_of_header(&header) else { return Ok(None) };
    let (segments, table) = (fields.u64(32), fields.u64(40));
    let (segment_count, count) = (u64::from(fields.u16(56)), u64::from(fields.u16(60)));
    let ends = [
        table.checked_add(count * SECTION_HEADER),
        segments.checked_add(segment_count * PROGRAM_HEADER),
        Some(HEADER as u64),
    ];
    let Some(size) = ends.into_iter().try_fold(0, |most: u64, end| Some(most.max(end?))) else { return Ok(None) };
    if at.checked_add(size).is_none_or(|last| last > end) || count > MOST_SECTIONS {
        return Ok(None);
    }
    let mut cubin = Cubin { architecture, size, hollow: count > 0 };
    for index in 0..count {
        let Some(found) = section(source, at + table + index * SECTION_HEADER)? else { return Ok(None) };
        cubin.hollow &= found.flags & ALLOCATED == 0;
        if found.kind != 0 && found.kind != NOBITS {
            let last = found.offset.checked_add(found.size).filter(|last| at.saturating_add(*last) <= end);
            let Some(last) = last else { return Ok(None) };
            cubin.size = cubin.size.max(last);
        }
        if cubin.architecture.suffix == Suffix::None {
            cubin.architecture.suffix = suffix(source, at, &found)?;
        }
    }
    Ok(Some(cubin))
}

/// The architecture that a cubin's header names; `None` where it is no cubin. A suffix may be told elsewhere.
fn architecture_of_header(header: &[u8; HEADER]) -> Option<Architecture> {
    let flags = Fields(header).u32(48);
    let (number, exact) = match header[ABI] {
        ..FIRST_WITH_NOTES => (flags & 0xff, flags & EXACT_BEFORE_NOTES != 0),
        FIRST_WITH_NOTES.. => (flags >> 8 & 0xff, flags & EXACT_WITH_NOTES != 0),
    };
    // Earlier code has other flags there.
    let suffix = if exact && number >= FIRST_WITH_SUFFIX { Suffix::ArchitectureSpecific } else { Suffix::None };
    let capability = Capability::from_number(number).filter(|_| is_cubin(header))?;
    Some(Architecture { capability, suffix, form: Form::Real })
}

/// The architecture that the beginning of a cubin tells; `None` where it does not reach as far as the assembler's options.
pub(crate) fn architecture(start: &[u8]) -> Option<Architecture> {
    let architecture = architecture_of_header(start.first_chunk()?)?;
    let is_certain = start[ABI] < FIRST_WITH_NOTES || architecture.capability.number() < FIRST_WITH_SUFFIX;
    if is_certain || architecture.suffix != Suffix::None {
        return Some(architecture);
    }
    let options = memmem::find(start, OPTION)?;
    let suffix = of_options(start.get(options..options + SMALL).unwrap_or(&start[options..]));
    Some(Architecture { suffix, ..architecture })
}

/// The major version of CUDA whose assembler made a cubin, as its note says (`.note.nv.tkinfo`: `Cuda compilation tools,
/// release 13.0, V13.0.79`; seen in code of ABI 8). Nothing where the beginning does not reach as far, or says nothing.
pub(crate) fn cuda(start: &[u8]) -> Option<u8> {
    let at = memmem::find(start, RELEASE)? + RELEASE.len();
    let digits = start[at..].iter().take_while(|byte| byte.is_ascii_digit()).count();
    let followed = start.get(at + digits) == Some(&b'.');
    std::str::from_utf8(&start[at..at + digits]).ok()?.parse().ok().filter(|_| followed)
}

/// Tells if some bytes begin like a cubin.
pub(crate) fn is_cubin(start: &[u8]) -> bool {
    start.starts_with(b"\x7fELF\x02\x01") && start.len() >= 20 && Fields(start).u16(18) == CUDA
}

struct Section {
    kind: u32,
    flags: u64,
    offset: u64,
    size: u64,
}

fn section<S: Source + ?Sized>(source: &mut Window<'_, S>, at: u64) -> io::Result<Option<Section>> {
    let Some(header) = source.array::<{ SECTION_HEADER as usize }>(at)? else { return Ok(None) };
    let fields = Fields(&header);
    Ok(Some(Section { kind: fields.u32(4), flags: fields.u64(8), offset: fields.u64(24), size: fields.u64(32) }))
}

/// The suffix that a section tells.
fn suffix<S: Source + ?Sized>(source: &mut Window<'_, S>, at: u64, section: &Section) -> io::Result<Suffix> {
    if section.kind != COMPATIBILITY && section.kind != NOTE {
        return Ok(Suffix::None);
    }
    let most = usize::try_from(section.size).unwrap_or(SMALL).min(SMALL);
    let bytes = source.bytes(at.saturating_add(section.offset), most)?;
    Ok(if section.kind == NOTE { of_options(bytes) } else { of_attributes(bytes) })
}

/// The suffix in attributes: format, attribute, and two bytes, which are the size of more in format 4.
fn of_attributes(mut bytes: &[u8]) -> Suffix {
    while let [format, attribute, low, high, rest @ ..] = bytes {
        if (*format, *attribute, *low) == (2, EXACT, 1) {
            return Suffix::ArchitectureSpecific;
        }
        let more = if *format == 4 { usize::from(u16::from_le_bytes([*low, *high])) } else { 0 };
        bytes = rest.get(more..).unwrap_or_default();
    }
    Suffix::None
}

/// The suffix in the options of the assembler: `-arch sm_100f`, `-arch=sm_90a`.
fn of_options(bytes: &[u8]) -> Suffix {
    let text = String::from_utf8_lossy(bytes);
    let Some((_, rest)) = text.split_once("-arch") else { return Suffix::None };
    let word = rest.trim_start_matches([' ', '=']).split(['\0', ' ']).next().unwrap_or_default();
    word.parse::<Architecture>().map_or(Suffix::None, |architecture| architecture.suffix)
}

/// The kernels that the beginning of a cubin names, and whether that is all of them: NVIDIA's assembler writes the names of
/// sections and symbols first. Nothing where it does not begin so.
pub(crate) fn kernels(start: &[u8]) -> Option<(BTreeSet<String>, bool)> {
    let strings = start.get(HEADER..)?;
    if !strings.starts_with(b"\0.") {
        return None;
    }
    let mut found = BTreeSet::new();
    let mut complete = false;
    let mut rest = strings;
    let mut empty = 0;
    while let Some(end) = rest.iter().position(|byte| *byte == 0) {
        let (name, more) = (&rest[..end], &rest[end + 1..]);
        rest = more;
        empty = if name.is_empty() { empty + 1 } else { 0 };
        // Symbols follow: the first is all zeros.
        if empty > 16 || !name.iter().all(|byte| (0x20..0x7f).contains(byte)) {
            complete = true;
            break;
        }
        if let Some(kernel) = std::str::from_utf8(name).ok().and_then(kernel_of) {
            found.insert(kernel.to_owned());
        }
    }
    Some((found, complete))
}

/// The kernel whose parameters a section holds.
fn kernel_of(section: &str) -> Option<&str> {
    let plain = section.strip_prefix(".rela").or_else(|| section.strip_prefix(".rel")).unwrap_or(section);
    plain.strip_prefix(PARAMETERS)
}

/// The kernels of a whole cubin, by the names of its sections.
pub(crate) fn kernels_of_sections(cubin: &[u8]) -> Option<BTreeSet<String>> {
    let fields = Fields(cubin);
    let (table, count, names) = (fields.u64(40), u64::from(fields.u16(60)), u64::from(fields.u16(62)));
    let header = |index: u64| {
        let at = usize::try_from(table.checked_add(index * SECTION_HEADER)?).ok()?;
        cubin.get(at..at + SECTION_HEADER as usize)
    };
    let strings = usize::try_from(Fields(header(names)?).u64(24)).ok()?;
    let mut found = BTreeSet::new();
    for index in 0..count.min(MOST_SECTIONS) {
        let name = strings.checked_add(Fields(header(index)?).u32(0) as usize)?;
        let text = cubin.get(name..)?;
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        found.extend(std::str::from_utf8(text).ok().and_then(kernel_of).map(str::to_owned));
    }
    Some(found)
}

/// The kernels of PTX: what follows `.entry`.
pub(crate) fn kernels_of_ptx(text: &[u8]) -> BTreeSet<String> {
    let names = memmem::find_iter(text, ENTRY).filter_map(|at| {
        let rest = &text[at + ENTRY.len()..];
        let name = rest.trim_ascii_start().split(|byte| byte.is_ascii_whitespace() || *byte == b'(').next()?;
        let is_name = rest.first().is_some_and(u8::is_ascii_whitespace) && !name.is_empty();
        is_name.then(|| String::from_utf8_lossy(name).into_owned())
    });
    names.collect()
}
