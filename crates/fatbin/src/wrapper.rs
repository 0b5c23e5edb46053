//! Wrappers: what a program registers with the CUDA runtime, each with a pointer to a region.
//!
//! They fill the section `.nvFatBinSegment`, 24 bytes each: u32 magic, u32 version (2 where device code was linked), u64
//! pointer to a region, u64 for the runtime. In a shared object the pointer is filled in by a relative relocation.

use std::collections::BTreeMap;
use std::io;

use crate::elf::Elf;
use crate::relocation::{self, Relocation};
use crate::source::{Fields, Source, Window};

const SECTION: &str = ".nvFatBinSegment";
const MAGIC: u32 = 0x4662_43B1;
const SIZE: u64 = 24;
/// The place of the pointer in a wrapper.
const POINTER: u64 = 8;

/// One wrapper.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Wrapper {
    /// Address of its pointer.
    pub(crate) pointer: u64,
    /// Address that it points at.
    pub(crate) region: u64,
    /// The place in the file of the pointer's relocation.
    pub(crate) addend: Option<u64>,
}

/// All wrappers of a file that lead to a region, in order. The inner error is a clause.
///
/// A wrapper without a pointer is one that a program fills in while it runs: statically linked cuFFT has such (298 of 382 in
/// torch 1.13's libtorch_cuda_cpp.so). A program at a fixed address has its pointers written out.
pub(crate) fn wrappers<S: Source + ?Sized>(
    source: &mut Window<'_, S>,
    elf: &Elf,
) -> io::Result<Result<Vec<Wrapper>, &'static str>> {
    let sections: Vec<_> = elf.named(SECTION).collect();
    let inside = |address: u64| sections.iter().any(|section| section.memory().contains(&address));
    let mut filled: BTreeMap<u64, (u64, Option<u64>)> = BTreeMap::new();
    let read = relocation::each(source, elf, |relocation| {
        if let Relocation::Relative { location, target, addend } = relocation
            && inside(location)
        {
            filled.insert(location, (target, addend));
        }
    })?;
    if let Err(problem) = read {
        return Ok(Err(problem));
    }
    let mut wrappers = Vec::new();
    for section in &sections {
        let mut at = 0;
        while at + SIZE <= section.size {
            let Some(bytes) = source.array::<{ SIZE as usize }>(section.offset + at)? else { break };
            let fields = Fields(&bytes);
            if fields.u32(0) != MAGIC {
                return Ok(Err("its section of wrappers holds something else"));
            }
            let pointer = section.address + at + POINTER;
            let written = fields.u64(POINTER as usize);
            match filled.get(&pointer) {
                Some((region, addend)) => wrappers.push(Wrapper { pointer, region: *region, addend: *addend }),
                None if written == 0 => {}
                None if elf.is_fixed() => wrappers.push(Wrapper { pointer, region: written, addend: None }),
                None => return Ok(Err("a wrapper's pointer is not filled in by the loader")),
            }
            at += SIZE;
        }
    }
    Ok(Ok(wrappers))
}
