//! Code among data that keeps its place.

use crate::testing::{By, cubin};

use super::*;

/// A region of one architecture.
fn single(number: u32, payload: usize) -> Vec<u8> {
    region(&[entry(CUBIN, number, 0, payload)])
}

/// Pieces of three architectures, in runs of more than a mebibyte each.
fn runs(library: Library, by: By) -> Library {
    let numbers = [80, 90, 100].into_iter().flat_map(|number| [number; 5]);
    numbers.fold(library, |library, number| library.embedded(single(number, 300_000), by))
}

/// The address of the code of a section, in order.
fn addresses(file: &[u8], name: &str) -> Vec<u64> {
    let elf = elf(file);
    let section = elf.named(name).next().unwrap();
    let magic = crate::region::MAGIC.to_le_bytes();
    let content = &file[section.offset as usize..section.range().end as usize];
    memchr::memmem::find_iter(content, &magic).map(|at| section.address + at as u64).collect()
}

/// The bytes of memory at an address; zeros where there is memory and nothing in the file.
fn memory(file: &[u8], address: u64, bytes: u64) -> Vec<u8> {
    let elf = elf(file);
    let mut memory = Vec::new();
    while (memory.len() as u64) < bytes {
        let at = address + memory.len() as u64;
        let segment = elf.segments.iter().find(|segment| segment.is_loaded() && segment.holds(at)).unwrap();
        let (into, most) = (at - segment.address, bytes - memory.len() as u64);
        match segment.size.checked_sub(into).filter(|left| *left > 0) {
            Some(left) => {
                let from = (segment.offset + into) as usize;
                memory.extend(&file[from..from + left.min(most) as usize]);
            }
            None => memory.resize(memory.len() + (segment.memory - into).min(most) as usize, 0),
        }
    }
    memory
}

#[test]
fn large_runs_of_what_no_gpu_needs_are_zeros_in_memory_alone() {
    let libraries = [
        runs(Library::new().room(), By::Word),
        runs(Library::new().room(), By::Instruction),
        runs(Library::new().room().aarch64(), By::Instruction),
    ];
    for library in libraries {
        let before = library.finish();
        let places = addresses(&before, ".lrodata");
        for (gpu, stays) in [("9.0", 5..10), ("8.0", 0..5), ("10.3", 10..15)] {
            let after = pruned(&library, &[gpu]);
            assert!(after.len() < before.len() / 2, "{} of {}", after.len(), before.len());
            for (at, address) in places.iter().enumerate() {
                let (old, new) = (memory(&before, *address, 300_080), memory(&after, *address, 300_080));
                assert_eq!(stays.contains(&at), old == new, "{at} {gpu}");
                let stub = [region(&[]), vec![0; 300_064]].concat();
                assert!(stays.contains(&at) || new == stub || new.iter().all(|byte| *byte == 0), "{at} {gpu}");
            }
            assert!(matches!(prune(after.as_slice(), &selection(&[gpu])).unwrap(), Decision::Stays { .. }));
        }
    }
}

#[test]
fn pieces_that_are_not_named_one_by_one_stay() {
    let bytes = |file: &[u8]| -> u64 {
        listing(file).code.iter().filter(|code| code.place.starts_with(".lrodata")).map(|code| code.bytes).sum()
    };
    // Something looks for one behind another.
    let first = (0..9).fold(library().embedded(single(80, 300_000), By::Word), |library, _| {
        library.embedded(single(80, 300_000), By::Nothing)
    });
    assert_eq!(bytes(&pruned(&first, &["9.0"])), bytes(&first.finish()));
    let uncut = crate::prune::uncut(first.finish().as_slice(), &listing(&first.finish())).unwrap();
    assert_eq!(
        uncut.iter().map(|uncut| (uncut.place.as_str(), uncut.bytes)).collect::<Vec<_>>(),
        [(".lrodata", bytes(&first.finish()))]
    );
    // One of ten is named in a way that is not known, and one is for the linker.
    let most = (0..9).fold(library().embedded(region(&[entry(LTO, 80, 0, 300_000)]), By::Word), |library, at| {
        library.embedded(single(80, 300_000), if at == 5 { By::Nothing } else { By::Word })
    });
    let after = pruned(&most, &["9.0"]);
    let left = listing(&after).code.into_iter().find(|code| code.place == ".lrodata").unwrap();
    assert_eq!(
        left.groups.iter().map(|group| (group.kind, group.entries)).collect::<Vec<_>>(),
        [(Kind::Cubin, 1), (Kind::Lto, 1)]
    );
}

#[test]
fn what_something_leads_into_stays() {
    let library = runs(Library::new().room(), By::Word);
    let mut file = library.finish();
    let table = elf(&file).named(".rela.dyn").next().unwrap().clone();
    // The first pointer leads eight bytes into its piece, and the second piece begins where it says.
    let target = table.offset as usize + 16;
    file[target] += 8;
    let after = pruned_with(&file, &selection(&["9.0"]));
    let kept = addresses(&file, ".lrodata")[0];
    assert_eq!(memory(&after, kept, 300_080), memory(&file, kept, 300_080));
    assert!(after.len() < file.len() / 2);
}

#[test]
fn without_room_for_program_headers_zeros_stay_in_the_file() {
    // Two runs, of which the larger one is cut out.
    let library = [(80, 5), (90, 1), (100, 8)].into_iter().fold(Library::new().note(), |library, (number, times)| {
        (0..times).fold(library, |library, _| library.embedded(single(number, 300_000), By::Instruction))
    });
    let (before, after) = (library.finish(), pruned(&library, &["9.0"]));
    assert_eq!(elf(&after).segments.len(), elf(&before).segments.len());
    let gone = before.len() - after.len();
    assert!((2_300_000..2_500_000).contains(&gone), "{gone}");
    let emptied = &addresses(&before, ".lrodata")[..5];
    assert!(emptied.iter().all(|address| memory(&after, *address, 16) == region(&[])));
}

#[test]
fn bare_cubins_are_cut_where_they_are() {
    let code = |number| [cubin(number, "", &["add"]), vec![0; 300_000]].concat();
    let bare = |number| {
        // The table of sections says how far it goes.
        let mut file = code(number);
        let from = file.len() as u64;
        let table = crate::source::Fields(&file).u64(40) as usize;
        let headers = file[table..table + 64 * 6].to_vec();
        file.extend(headers);
        file[40..48].copy_from_slice(&from.to_le_bytes());
        file[60..62].copy_from_slice(&6u16.to_le_bytes());
        file
    };
    let library = [80, 80, 80, 80, 90].into_iter();
    let library = library.fold(library_with_room(), |library, number| library.embedded(bare(number), By::Word));
    let place = ".lrodata (bare cubins)";
    let entries = |file: &[u8]| -> Vec<(String, u64)> {
        let found = listing(file).code.into_iter().find(|code| code.place == place).unwrap();
        found.groups.iter().map(|group| (group.architecture.unwrap().to_string(), group.entries)).collect()
    };
    assert_eq!(entries(&library.finish()), [("sm_80".to_owned(), 4), ("sm_90".to_owned(), 1)]);
    assert_eq!(entries(&pruned(&library, &["9.0"])), [("sm_90".to_owned(), 1)]);
}

fn library_with_room() -> Library {
    Library::new().room()
}

#[test]
fn the_check_sees_code_in_data_that_changed() {
    let library = runs(Library::new().room(), By::Word);
    let before = library.finish();
    let after = pruned(&library, &["9.0"]);
    let kept = elf(&after).offset_of(addresses(&before, ".lrodata")[7]).unwrap() as usize;
    let mut damaged = after.clone();
    damaged[kept + 100] ^= 1;
    let problem = check(before.as_slice(), damaged.as_slice(), &selection(&["9.0"])).unwrap().unwrap_err();
    assert!(problem.ends_with("has changed"), "{problem}");
    // Addresses that hold nothing at all.
    let mut unmapped = after;
    let hole = elf(&unmapped).segments.iter().position(|segment| segment.memory > segment.size).unwrap();
    let memory = 64 + 56 * hole + 40;
    let size = unmapped[memory - 8..memory].to_vec();
    unmapped[memory..memory + 8].copy_from_slice(&size);
    assert!(check(before.as_slice(), unmapped.as_slice(), &selection(&["9.0"])).unwrap().is_err());
}
