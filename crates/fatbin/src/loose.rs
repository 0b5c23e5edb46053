//! Files that are nothing but code in other forms: PTX as text, and libraries of Windows.

use std::io;

use kiln_plan::gpu::{Architecture, Form, PtxVersion};

use crate::cubin::{self, Cubin};
use crate::source::{Fields, Source, Window};

/// Bytes at the beginning of PTX in which its directives stand (PTX ISA, ".version", ".target").
const DIRECTIVES: usize = 64 << 10;
/// The first directive of PTX, and what may stand before it: a mark of the encoding, blanks, and comments.
const FIRST: &str = ".version";
const MARK: &str = "\u{feff}";
const COMMENTS: [(&str, &str); 2] = [("//", "\n"), ("/*", "*/")];
/// Bytes of a section header of the Portable Executable format, and of what stands before the first.
const SECTION: u64 = 40;
const COFF: u64 = 24;
const MOST_SECTIONS: u16 = 96;
/// Bytes of zeros that may lie between cubins.
const MOST_PADDING: usize = 4096;

/// Tells if a file may be PTX by its first eight bytes.
pub(crate) fn may_be_ptx(start: &[u8]) -> bool {
    let start = start.strip_prefix(MARK.as_bytes()).unwrap_or(start);
    let text = start.trim_ascii_start();
    let begins = |word: &str| text.starts_with(&word.as_bytes()[..word.len().min(text.len())]);
    !start.is_empty() && (begins(FIRST) || COMMENTS.iter().any(|(begin, _)| begins(begin)))
}

/// The text from its first directive on.
fn without_comments(text: &str) -> &str {
    let mut text = text.strip_prefix(MARK).unwrap_or(text).trim_start();
    while let Some((begin, end)) = COMMENTS.iter().find(|(begin, _)| text.starts_with(begin)) {
        let behind = text[begin.len()..].split_once(end).map_or("", |(_, behind)| behind);
        text = behind.trim_start();
    }
    text
}

/// The target of PTX, and the version of its language; `None` where it is no PTX.
pub(crate) fn ptx<S: Source + ?Sized>(
    source: &mut Window<'_, S>,
) -> io::Result<Option<(Architecture, Option<PtxVersion>)>> {
    let text = String::from_utf8_lossy(source.bytes(0, DIRECTIVES)?).into_owned();
    let text = without_comments(&text);
    if !text.starts_with(FIRST) {
        return Ok(None);
    }
    let directive = |name: &str| {
        let line = text.lines().find_map(|line| line.trim_start().strip_prefix(name))?;
        Some(line.trim().split([',', ' ', '/']).next()?.to_owned())
    };
    let version = directive(FIRST).and_then(|version| version.parse().ok());
    let target = directive(".target").and_then(|target| target.parse::<Architecture>().ok());
    Ok(target.filter(|_| version.is_some()).map(|target| (target.with_form(Form::Virtual), version)))
}

/// The cubins of a file that holds nothing else, each with its place: zeros may lie between them. What follows the last
/// belongs to it.
pub(crate) fn cubins<S: Source + ?Sized>(source: &mut Window<'_, S>) -> io::Result<Vec<(u64, Cubin)>> {
    let (mut found, mut at, end) = (Vec::<(u64, Cubin)>::new(), 0, source.size());
    while let Some(cubin) = cubin::read(source, at, end)? {
        let behind = at + cubin.size;
        found.push((at, cubin));
        let zeros = source.bytes(behind, MOST_PADDING)?.iter().take_while(|byte| **byte == 0).count();
        at = behind + zeros as u64;
    }
    if let Some((at, last)) = found.last_mut() {
        last.size = end - *at;
    }
    Ok(found)
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
