//! Files that are nothing but code in other forms: PTX as text, and libraries of Windows.

use std::io;

use kiln_plan::gpu::{Architecture, Form, PtxVersion};

use crate::source::{Fields, Source, Window};

/// Bytes at the beginning of PTX in which its directives stand (PTX ISA, ".version", ".target").
const DIRECTIVES: usize = 16 << 10;
/// The beginnings of PTX: of NVIDIA's compilers, and as written by hand.
const PTX: [&[u8]; 2] = [b"//\n// Gen", b".version"];
/// Bytes of a section header of the Portable Executable format, and of what stands before the first.
const SECTION: u64 = 40;
const COFF: u64 = 24;
const MOST_SECTIONS: u16 = 96;

/// Tells if a file begins like PTX, told by eight bytes.
pub(crate) fn may_be_ptx(start: &[u8]) -> bool {
    PTX.iter().any(|text| start.starts_with(&text[..8]))
}

/// The target of PTX, and the version of its language; `None` where it is no PTX.
pub(crate) fn ptx<S: Source + ?Sized>(
    source: &mut Window<'_, S>,
) -> io::Result<Option<(Architecture, Option<PtxVersion>)>> {
    let text = String::from_utf8_lossy(source.bytes(0, DIRECTIVES)?).into_owned();
    let directive = |name: &str| {
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix(name))?;
        Some(line.trim().split([',', ' ', '/']).next()?.to_owned())
    };
    let version = directive(".version").and_then(|version| version.parse().ok());
    let target = directive(".target").and_then(|target| target.parse::<Architecture>().ok());
    Ok(target.filter(|_| version.is_some()).map(|target| (target.with_form(Form::Virtual), version)))
}

/// The sections of a library of Windows (PE format, "COFF File Header", "Section Table"): name, place and bytes. Names have
/// eight bytes, so that `.nv_fatbin` is `.nv_fatb`.
pub(crate) fn pe_sections<S: Source + ?Sized>(source: &mut Window<'_, S>) -> io::Result<Vec<(String, u64, u64)>> {
    let Some(header) = source.array::<64>(0)? else { return Ok(Vec::new()) };
    let at = u64::from(Fields(&header).u32(60));
    let Some(coff) = source.array::<{ COFF as usize }>(at)? else { return Ok(Vec::new()) };
    if !coff.starts_with(b"PE\0\0") {
        return Ok(Vec::new());
    }
    let (count, optional) = (Fields(&coff).u16(6), Fields(&coff).u16(20));
    let mut sections = Vec::new();
    for index in 0..count.min(MOST_SECTIONS) {
        let place = at + COFF + u64::from(optional) + u64::from(index) * SECTION;
        let Some(section) = source.array::<{ SECTION as usize }>(place)? else { break };
        let fields = Fields(&section);
        let name = String::from_utf8_lossy(&section[..8]).trim_end_matches('\0').to_owned();
        let (size, offset) = (u64::from(fields.u32(16)), u64::from(fields.u32(20)));
        // What is behind the content and before the next section is padding.
        let size = size.min(u64::from(fields.u32(8)).max(1));
        if offset + size <= source.size() {
            sections.push((name, offset, size));
        }
    }
    Ok(sections)
}
