//! Writes of the loader into a file's memory: relocations (System V ABI, "Relocation"; RELR in "Relative Relocation
//! Table"), of which only those that point at GPU code are of interest.

use std::io;

use crate::elf::{Elf, Machine, REL, RELA, RELA_ENTRY, Section};
use crate::source::{Fields, Source, Window};

/// `SHT_RELR`.
const RELR: u32 = 19;
/// `SHT_ANDROID_REL` and `SHT_ANDROID_RELA`: packed in ways of their own.
const ANDROID: [u32; 2] = [0x6000_0001, 0x6000_0002];
const WORD: u64 = 8;

/// One relocation.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Relocation {
    /// A word that will hold an address of the file itself.
    Relative {
        /// Address of the word.
        location: u64,
        /// The address that it will hold, before the file's place in memory is added.
        target: u64,
        /// The place in the file of the target, besides the word itself; `None` where the word is all there is.
        addend: Option<u64>,
    },
    /// Anything else: what is written there is a symbol's, or found out by calling a function.
    Other {
        /// Address of what is written.
        location: u64,
        /// An address that it rests on, where there is no symbol.
        target: Option<u64>,
    },
}

/// Calls back for every relocation. The inner error is a clause about a table that cannot be read here.
pub(crate) fn each<S: Source + ?Sized>(
    source: &mut Window<'_, S>,
    elf: &Elf,
    mut found: impl FnMut(Relocation),
) -> io::Result<Result<(), &'static str>> {
    for section in elf.sections.iter().filter(|section| section.is_loaded() && section.has_content()) {
        match section.kind {
            RELA => rela(source, elf.machine, section, &mut found)?,
            RELR => {
                if let Err(problem) = relr(source, elf, section, &mut found)? {
                    return Ok(Err(problem));
                }
            }
            REL => return Ok(Err("it has relocations without addends")),
            kind if ANDROID.contains(&kind) => return Ok(Err("its relocations are packed for Android")),
            _ => {}
        }
    }
    Ok(Ok(()))
}

fn rela<S: Source + ?Sized>(
    source: &mut Window<'_, S>,
    machine: Machine,
    section: &Section,
    found: &mut impl FnMut(Relocation),
) -> io::Result<()> {
    // R_X86_64_RELATIVE, R_AARCH64_RELATIVE.
    let relative = if machine == Machine::Aarch64 { 1027 } else { 8 };
    let mut at = section.offset;
    while at + RELA_ENTRY <= section.range().end {
        let Some(bytes) = source.array::<{ RELA_ENTRY as usize }>(at)? else { break };
        let fields = Fields(&bytes);
        let (location, info, addend) = (fields.u64(0), fields.u64(8), fields.u64(16));
        found(if info & 0xffff_ffff == relative {
            Relocation::Relative { location, target: addend, addend: Some(at + 16) }
        } else {
            Relocation::Other { location, target: (info >> 32 == 0).then_some(addend) }
        });
        at += RELA_ENTRY;
    }
    Ok(())
}

/// Addresses and bitmaps: an even word is an address, an odd one says which of the next 63 words are meant too.
fn relr<S: Source + ?Sized>(
    source: &mut Window<'_, S>,
    elf: &Elf,
    section: &Section,
    found: &mut impl FnMut(Relocation),
) -> io::Result<Result<(), &'static str>> {
    const OUTSIDE: &str = "its relative relocations lead out of the file";
    // The table and what it points at lie far apart, so each has a window of its own.
    let mut words = source.another();
    let (mut at, mut next) = (section.offset, 0_u64);
    while at + WORD <= section.range().end {
        let Some(word) = source.array(at)?.map(u64::from_le_bytes) else { break };
        at += WORD;
        let (bits, base) = match word & 1 {
            0 => (1, word),
            _ => (word >> 1, next),
        };
        for bit in (0..63).filter(|bit| bits >> bit & 1 == 1) {
            let location = base.wrapping_add(bit * WORD);
            let Some(position) = elf.offset_of(location) else { return Ok(Err(OUTSIDE)) };
            let Some(target) = words.array(position)?.map(u64::from_le_bytes) else { return Ok(Err(OUTSIDE)) };
            found(Relocation::Relative { location, target, addend: None });
        }
        next = match word & 1 {
            0 => base.wrapping_add(WORD),
            _ => base.wrapping_add(63 * WORD),
        };
    }
    Ok(Ok(()))
}
