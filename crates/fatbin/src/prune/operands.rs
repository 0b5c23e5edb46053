//! Addresses that instructions name, in the forms in which compilers take the address of data of their own file.
//!
//! On x86-64 the operand of `lea`, a distance of 32 bits from the next instruction, and of `movabs`, a distance of 64 bits
//! from the global offset table (System V ABI for AMD64, "Code Models"); on aarch64 `adrp`, a page, and the numbers that
//! `add` adds to it (Arm ARM, "ADRP" and "ADD (immediate)"). Instructions are not told from what lies between them: an
//! address that is looked for is hardly met by chance.

use super::Stop;
use super::room::Dynamic;
use crate::elf::{Elf, Machine};
use crate::source::{Fields, Source, WINDOW, Window};

/// `DT_PLTGOT`: the entry of the dynamic table that names the global offset table.
const OFFSET_TABLE: u64 = 3;
/// Bytes of the longest instruction that is looked at, from its operand's opcode on.
const LONGEST: usize = 10;
/// The operation code of `lea`, and of its operand the bits that say that it is a distance from the next instruction.
const LEA: u8 = 0x8d;
const OPERAND: u8 = 0xc7;
const DISTANCE: u8 = 0x05;
/// The prefixes of `movabs` and the highest bits of its operation code.
const WIDE: [u8; 2] = [0x48, 0x49];
const MOVABS: u8 = 0xb8;

/// Calls back for every address that an instruction names.
pub(super) fn each<S: Source + ?Sized>(
    window: &mut Window<'_, S>,
    elf: &Elf,
    dynamic: &Dynamic,
    mut found: impl FnMut(u64),
) -> Result<(), Stop> {
    let table = dynamic.get(&OFFSET_TABLE).map(|(_, address)| *address);
    let mut registers = Registers::default();
    for section in elf.sections.iter().filter(|section| section.is_executable() && section.has_content()) {
        let mut at = section.offset;
        while at < section.range().end {
            let most = usize::try_from(section.range().end - at).unwrap_or(WINDOW).min(WINDOW);
            let bytes = window.bytes(at, most)?;
            let address = section.address_of(at);
            let overlap = match elf.machine {
                Machine::Aarch64 => {
                    registers.follow(bytes, address, &mut found);
                    0
                }
                _ => {
                    x86_64(bytes, address, table, &mut found);
                    LONGEST - 1
                }
            };
            if bytes.len() <= overlap || at + bytes.len() as u64 == section.range().end {
                break;
            }
            at += (bytes.len() - overlap) as u64;
        }
    }
    Ok(())
}

fn x86_64(bytes: &[u8], address: u64, table: Option<u64>, found: &mut impl FnMut(u64)) {
    for at in memchr::memchr_iter(LEA, bytes) {
        if let Some([_, operand, distance @ ..]) = bytes.get(at..at + 6)
            && operand & OPERAND == DISTANCE
        {
            let distance = i64::from(Fields(distance).u32(0).cast_signed());
            found(address.wrapping_add(at as u64 + 6).wrapping_add_signed(distance));
        }
    }
    let Some(table) = table else { return };
    for at in memchr::memchr2_iter(WIDE[0], WIDE[1], bytes) {
        if let Some([_, code, distance @ ..]) = bytes.get(at..at + LONGEST)
            && code & 0xf8 == MOVABS
        {
            found(table.wrapping_add(Fields(distance).u64(0)));
        }
    }
}

/// Addresses in the registers of aarch64, as far as `adrp` and `add` put them there.
#[derive(Default)]
struct Registers([Option<u64>; 32]);

impl Registers {
    fn follow(&mut self, bytes: &[u8], address: u64, found: &mut impl FnMut(u64)) {
        for (place, word) in (address..).step_by(4).zip(bytes.chunks_exact(4)) {
            let word = Fields(word).u32(0);
            let (to, from) = ((word & 31) as usize, (word >> 5 & 31) as usize);
            if word & 0x9f00_0000 == 0x9000_0000 {
                // 21 bits with a sign: two of them lie apart.
                let pages = (word >> 5 & 0x7_ffff) << 2 | word >> 29 & 3;
                let pages = i64::from((pages << 11).cast_signed() >> 11);
                self.0[to] = Some((place & !0xfff).wrapping_add_signed(pages << 12));
            } else if word & 0xff80_0000 == 0x9100_0000 {
                let shift = if word & 0x40_0000 == 0 { 0 } else { 12 };
                self.0[to] = self.0[from].map(|base| base.wrapping_add(u64::from(word >> 10 & 0xfff) << shift));
                self.0[to].into_iter().for_each(&mut *found);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn named(machine: u16, code: &[u8]) -> Vec<u64> {
        let mut found = Vec::new();
        match machine {
            62 => x86_64(code, 0x1000, Some(0x20_0000), &mut |address| found.push(address)),
            _ => Registers::default().follow(code, 0x1000, &mut |address| found.push(address)),
        }
        found
    }

    #[test]
    fn addresses_are_read_out_of_lea_and_movabs() {
        // lea 0x10(%rip),%rax; movabs $0x1476ee0,%r11; lea -0x8(%rip),%rdi
        let code = [
            &[0x48, 0x8d, 0x05, 0x10, 0, 0, 0][..],
            &[0x49, 0xbb, 0xe0, 0x6e, 0x47, 0x01, 0, 0, 0, 0],
            &[0x48, 0x8d, 0x3d, 0xf8, 0xff, 0xff, 0xff],
        ];
        assert_eq!(named(62, &code.concat()), [0x1017, 0x1010, 0x167_6ee0]);
        assert_eq!(named(62, &code[0][..5]), [0_u64; 0]);
    }

    #[test]
    fn addresses_are_followed_through_adrp_and_add() {
        // adrp x1, 0x3000; add x2, x1, #0x10; add x3, x2, #1, lsl #12; add x4, x9, #1
        let code = [0xd000_0001_u32, 0x9100_4022, 0x9140_0443, 0x9100_0524].map(u32::to_le_bytes).concat();
        assert_eq!(named(183, &code), [0x3010, 0x4010]);
        // adrp x1, the page before
        let code = [0xf0ff_ffe1_u32, 0x9100_0021].map(u32::to_le_bytes).concat();
        assert_eq!(named(183, &code), [0x0]);
    }
}
