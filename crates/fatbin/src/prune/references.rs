//! References to GPU code: the wrappers, which can be told otherwise, and whatever else, which cannot.

use std::collections::{BTreeMap, BTreeSet};

use super::embedded::Pointer;
use super::{Fat, SYMBOL, SYMBOLS, Stop, refused};
use crate::elf::{Elf, Section};
use crate::relocation::{self, Relocation};
use crate::source::{Fields, Source, Window};
use crate::wrapper::{Wrapper, wrappers};

/// `SHT_DYNSYM`.
const DYNAMIC_SYMBOLS: u32 = 11;
/// Bytes of an address, and those of data that are read at once.
const WORD: u64 = 8;
const CHUNK: usize = 32 << 10;
/// `STT_SECTION`.
const SECTION_SYMBOL: u8 = 3;

/// A symbol.
#[derive(Debug, Clone, Copy)]
pub(super) struct Symbol {
    /// Its position in the file.
    pub(super) offset: u64,
    /// True if it is one that other libraries are linked against, rather than one that only debuggers read.
    is_dynamic: bool,
    /// True if it stands for a section.
    pub(super) is_section: bool,
    /// The index of its section.
    pub(super) section: usize,
    /// Its address.
    pub(super) address: u64,
    /// The size that it states.
    pub(super) size: u64,
}

/// References to regions.
pub(super) struct References {
    /// The wrappers whose region is one of the sections'.
    pub(super) wrappers: Vec<Wrapper>,
    /// Symbols that move with their regions.
    pub(super) symbols: Vec<Symbol>,
    /// Pointers of tables to code in data.
    pub(super) pointers: Vec<Pointer>,
    /// Addresses of regions that something besides wrappers points at, or nothing.
    pinned: BTreeSet<u64>,
}

impl References {
    pub(super) fn find<S: Source + ?Sized>(
        window: &mut Window<'_, S>,
        elf: &Elf,
        fats: &[Fat<'_>],
    ) -> Result<Self, Stop> {
        let wrappers = wrappers(window, elf)?.map_err(refused)?;
        let wrappers: Vec<Wrapper> =
            wrappers.into_iter().filter(|wrapper| within(fats, wrapper.region).is_some()).collect();
        let mut users: BTreeMap<u64, bool> = BTreeMap::new();
        for wrapper in &wrappers {
            users.insert(wrapper.region, true);
        }
        let pointers: BTreeSet<u64> = wrappers.iter().map(|wrapper| wrapper.pointer).collect();
        let mut problem = None;
        let others = |relocation| {
            let (location, target) = match relocation {
                Relocation::Relative { location, target, .. } => (location, Some(target)),
                Relocation::Other { location, target } => (location, target),
            };
            if within(fats, location).is_some() {
                problem = Some("the loader writes into GPU code".to_owned());
            }
            let Some(target) = target else { return };
            let Some(fat) = within(fats, target) else { return };
            if fat.region_at(target).is_none() {
                problem = Some(format!("a relocation points into a region, at {target:#x}"));
            } else if !pointers.contains(&location) {
                users.insert(target, false);
            }
        };
        relocation::each(window, elf, others)?.map_err(refused)?;
        if let Some(problem) = problem {
            return Err(refused(problem));
        }
        if elf.is_fixed() {
            for (location, target) in words(window, elf, fats)? {
                if !pointers.contains(&location) {
                    users.insert(target, false);
                }
            }
        }
        let mut references = Self { wrappers, symbols: Vec::new(), pointers: Vec::new(), pinned: BTreeSet::new() };
        for fat in fats {
            let addresses = fat.regions.iter().map(|region| fat.address(region));
            references.pinned.extend(addresses.filter(|address| users.get(address) != Some(&true)));
        }
        each_symbol(window, elf, |symbol| references.symbol(symbol, fats))?;
        Ok(references)
    }

    /// Adds addresses of code that must stay where it is.
    pub(super) fn pin(&mut self, addresses: BTreeSet<u64>) {
        self.pinned.extend(addresses);
    }

    /// Tells if the region at an address must stay there.
    pub(super) fn pins(&self, address: u64) -> bool {
        self.pinned.contains(&address)
    }

    fn symbol(&mut self, symbol: Symbol, fats: &[Fat<'_>]) -> Result<(), Stop> {
        let address = symbol.address;
        let Some(fat) = fats.iter().find(|fat| fat.index == symbol.section && !symbol.is_section) else {
            return Ok(());
        };
        match fat.region_at(address) {
            // Other libraries may have been linked against what is said here.
            Some(_) if symbol.is_dynamic => _ = self.pinned.insert(address),
            Some(_) => self.symbols.push(symbol),
            None if address == fat.section.address => {}
            None => return Err(refused(format!("a symbol points into a region, at {address:#x}"))),
        }
        Ok(())
    }
}

/// Calls back for every symbol.
pub(super) fn each_symbol<S: Source + ?Sized>(
    window: &mut Window<'_, S>,
    elf: &Elf,
    mut found: impl FnMut(Symbol) -> Result<(), Stop>,
) -> Result<(), Stop> {
    let is_table = |table: &&Section| table.has_content() && matches!(table.kind, SYMBOLS | DYNAMIC_SYMBOLS);
    for table in elf.sections.iter().filter(is_table) {
        let mut offset = table.offset;
        while offset + SYMBOL <= table.range().end {
            let Some(bytes) = window.array::<{ SYMBOL as usize }>(offset)? else { break };
            let fields = Fields(&bytes);
            found(Symbol {
                offset,
                is_dynamic: table.kind == DYNAMIC_SYMBOLS,
                is_section: bytes[4] & 0xf == SECTION_SYMBOL,
                section: usize::from(fields.u16(6)),
                address: fields.u64(8),
                size: fields.u64(16),
            })?;
            offset += SYMBOL;
        }
    }
    Ok(())
}

/// Words of the data of a program at a fixed address that are addresses of regions: no relocation names them.
fn words<S: Source + ?Sized>(window: &mut Window<'_, S>, elf: &Elf, fats: &[Fat<'_>]) -> Result<Vec<(u64, u64)>, Stop> {
    let mut found = Vec::new();
    let is_data = |section: &&Section| section.is_data() && within(fats, section.address).is_none();
    for section in elf.sections.iter().filter(is_data) {
        let mut at = section.offset.next_multiple_of(WORD);
        while at + WORD <= section.range().end {
            let most = usize::try_from(section.range().end - at).unwrap_or(CHUNK).min(CHUNK);
            let bytes = window.bytes(at, most)?;
            let whole = bytes.len() / WORD as usize * WORD as usize;
            for (place, word) in (at..).step_by(WORD as usize).zip(bytes.chunks_exact(WORD as usize)) {
                let target = Fields(word).u64(0);
                if within(fats, target).is_some_and(|fat| fat.region_at(target).is_some()) {
                    found.push((section.address_of(place), target));
                }
            }
            if whole == 0 {
                break;
            }
            at += whole as u64;
        }
    }
    Ok(found)
}

fn within<'f, 'e>(fats: &'f [Fat<'e>], address: u64) -> Option<&'f Fat<'e>> {
    fats.iter().find(|fat| fat.section.memory().contains(&address))
}
