//! Code that pruning leaves in its place whatever GPUs are wanted, and why.

use std::collections::BTreeMap;
use std::io;

use serde::Serialize;

use super::references::References;
use super::{Decision, Stop, archive, embedded, fats, object, prune, room};
use crate::elf::{Elf, ElfError};
use crate::listing::{Found, Listing};
use crate::read::REGION_SECTIONS;
use crate::search::Form;
use crate::selection::Selection;
use crate::source::{Source, Window};

/// Code of one place that stays.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Uncut {
    /// The place, as listings name it.
    pub place: String,
    /// Bytes.
    pub bytes: u64,
    /// A clause.
    pub reason: String,
}

/// Finds the code of a listed file that is never cut.
pub fn uncut<S: Source + ?Sized>(source: &S, listing: &Listing) -> io::Result<Vec<Uncut>> {
    let all = |reason: &str| {
        let places = listing.code.iter();
        places.map(|code| Uncut { place: code.place.clone(), bytes: code.bytes, reason: reason.to_owned() }).collect()
    };
    match listing.format {
        Found::Windows => return Ok(all("libraries of Windows are not cut")),
        Found::Ptx => return Ok(all("it is code for one architecture")),
        Found::Cubin | Found::Fatbin | Found::Compiler => return Ok(Vec::new()),
        Found::Elf(_) | Found::Archive => {}
    }
    // No code is for no GPU, so that all that is understood would go.
    let nothing = Selection { gpus: Vec::new(), keep_ptx: false, drop_relocatable: true };
    if let Decision::Refused(reason) = prune(source, &nothing)? {
        return Ok(all(&reason));
    }
    let found = match listing.format {
        Found::Archive => archive::uncut(source, &nothing).map(of_objects),
        _ => places(source, listing, &nothing),
    };
    match found {
        Ok(places) => Ok(places),
        Err(Stop::Refused(reason)) => Ok(all(&reason)),
        Err(Stop::Io(error)) => Err(error),
    }
}

/// Code of object files that stays, by section.
fn of_objects(pinned: Vec<(String, u64)>) -> Vec<Uncut> {
    let mut sums: BTreeMap<String, u64> = BTreeMap::new();
    for (place, bytes) in pinned {
        *sums.entry(place).or_default() += bytes;
    }
    let reason = "something leads into it, or several regions share a section";
    sums.into_iter().map(|(place, bytes)| Uncut { place, bytes, reason: reason.to_owned() }).collect()
}

fn places<S: Source + ?Sized>(source: &S, listing: &Listing, nothing: &Selection) -> Result<Vec<Uncut>, Stop> {
    let mut window = Window::new(source)?;
    let elf = match Elf::read(&mut window) {
        Ok(elf) => elf,
        Err(ElfError::Io(error)) => return Err(error.into()),
        Err(_) => return Ok(Vec::new()),
    };
    if object::is_object(&elf) {
        return Ok(of_objects(object::plan(&mut window, &elf, nothing)?.pinned));
    }
    let fats = fats(&mut window, &elf)?;
    let references = References::find(&mut window, &elf, &fats)?;
    let dynamic = room::dynamic(&mut window, &elf)?;
    let embedded = embedded::find(&mut window, &elf, &dynamic)?;
    let cut = || embedded.fats.iter().flat_map(|fat| fat.regions.iter().map(move |region| (fat, region)));
    let cut = || cut().filter(|(fat, region)| !embedded.stays.contains(&fat.address(region)));
    let mut uncut = Vec::new();
    for code in &listing.code {
        let (bytes, reason) = if REGION_SECTIONS.contains(&code.place.as_str()) {
            let own = fats.iter().filter(|fat| fat.section.name == code.place);
            let pinned = own.flat_map(|fat| fat.regions.iter().filter(|region| references.pins(fat.address(region))));
            (pinned.map(|region| region.size).sum(), "something besides a wrapper points at it, or nothing")
        } else {
            let own = cut().filter(|(fat, region)| Form::of(region).place(&fat.section.name) == code.place);
            let known: u64 = own.map(|(_, region)| region.size).sum();
            let reason = "it is for the linker, too little, or found in a way that is not known";
            (code.bytes - known.min(code.bytes), reason)
        };
        if bytes > 0 {
            uncut.push(Uncut { place: code.place.clone(), bytes, reason: reason.to_owned() });
        }
    }
    Ok(uncut)
}
