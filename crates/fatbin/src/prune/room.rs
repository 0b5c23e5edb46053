//! Room for more program headers where they are: what lies right behind them moves into pages that became free, as far as
//! the loader finds it through its dynamic table alone.
//!
//! A table that keeps its place is one that GNU strip and eu-strip understand; they damage files whose table lies elsewhere.

use std::collections::BTreeMap;
use std::ops::Range;

use super::Stop;
use crate::elf::{Elf, Section};
use crate::source::{Fields, Source, Window};

/// `SHT_NOTE`, whose sections segments name, and `SHT_DYNAMIC`.
const NOTE: u32 = 7;
const DYNAMIC: u32 = 6;
/// Types of sections that entries of the dynamic table name, each with its tag (System V ABI, "Dynamic Section"; GNU's and
/// the versions' in the Linux Standard Base): `SHT_HASH`, `SHT_GNU_HASH`, `SHT_DYNSYM`, `SHT_STRTAB`, `SHT_GNU_versym`,
/// `SHT_GNU_verdef`, `SHT_GNU_verneed`.
const NAMED: [(u32, u64); 7] = [
    (5, 4),
    (0x6fff_fff6, 0x6fff_fef5),
    (11, 6),
    (3, 5),
    (0x6fff_ffff, 0x6fff_fff0),
    (0x6fff_fffd, 0x6fff_fffc),
    (0x6fff_fffe, 0x6fff_fffe),
];
const ENTRY: u64 = 16;
/// Entries that a dynamic table has at most.
const MOST: u64 = 4096;
/// The largest alignment of what moves.
pub(super) const ALIGNMENT: u64 = 64;

/// Entries of the dynamic table by their tag: the place of the value in the file, and the value.
pub(super) type Dynamic = BTreeMap<u64, (u64, u64)>;

/// Reads the dynamic table.
pub(super) fn dynamic<S: Source + ?Sized>(window: &mut Window<'_, S>, elf: &Elf) -> Result<Dynamic, Stop> {
    let mut entries = Dynamic::new();
    for section in elf.sections.iter().filter(|section| section.kind == DYNAMIC && section.has_content()) {
        for index in 0..(section.size / ENTRY).min(MOST) {
            let at = section.offset + index * ENTRY;
            let Some(bytes) = window.array::<{ ENTRY as usize }>(at)? else { break };
            let fields = Fields(&bytes);
            entries.entry(fields.u64(0)).or_insert((at + 8, fields.u64(8)));
        }
    }
    Ok(entries)
}

/// The entry of the dynamic table that names a section. The outer option is empty where the section cannot move.
pub(super) fn named(section: &Section, dynamic: &Dynamic) -> Option<Option<(u64, u64)>> {
    if section.kind == NOTE && section.is_loaded() {
        return Some(None);
    }
    let (_, tag) = NAMED.iter().find(|(kind, _)| *kind == section.kind && section.is_loaded())?;
    dynamic.get(tag).filter(|(_, address)| *address == section.address).map(|entry| Some(*entry))
}

/// The sections behind the program headers that would make room for so many bytes of them.
pub(super) fn behind(elf: &Elf, dynamic: &Dynamic, bytes: u64) -> Option<Range<u64>> {
    let mut sections: Vec<&Section> =
        elf.sections.iter().filter(|section| section.has_content() && section.offset > elf.program_headers).collect();
    sections.sort_by_key(|section| section.offset);
    let end = elf.program_headers.checked_add(bytes)?;
    let first = sections.first()?.offset;
    for (at, section) in sections.iter().enumerate() {
        if section.offset >= end {
            return None;
        }
        named(section, dynamic)?;
        let next = sections.get(at + 1)?.offset;
        let own = section.range().end;
        if next >= end && own <= next && elf.section_headers > own {
            return Some(first..own);
        }
    }
    None
}
