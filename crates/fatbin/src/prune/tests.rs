//! Tests of pruning shared objects that are laid out as linkers do it.

mod fixed;
mod linked;

use proptest::prelude::*;

use super::*;
use crate::elf::Segment;
use crate::testing::{Library, entry, entry_of, region};
use crate::{Listing, list};

const CUBIN: u16 = 2;
const PTX: u16 = 1;
const LTO: u16 = 8;

fn selection(gpus: &[&str]) -> Selection {
    let gpus = gpus.iter().map(|gpu| gpu.parse().unwrap()).collect();
    Selection { gpus, keep_ptx: false, drop_relocatable: false }
}

/// Cubins for three architectures, and PTX.
fn every(payload: usize) -> Vec<Vec<u8>> {
    vec![entry(CUBIN, 80, 0, payload), entry(CUBIN, 90, 0, payload), entry(CUBIN, 100, 0, payload), ptx(payload)]
}

fn ptx(payload: usize) -> Vec<u8> {
    entry(PTX, 100, 0, payload)
}

fn library() -> Library {
    Library::new().region(&every(30_000)).region(&every(8_000)).region(&every(30_000))
}

/// The pruned file, checked.
fn pruned_with(file: &[u8], selection: &Selection) -> Vec<u8> {
    let rewrite = match prune(file, selection).unwrap() {
        Decision::Rewrite(rewrite) => rewrite,
        other => panic!("{other:?}"),
    };
    let mut out = Vec::new();
    rewrite.write(file, &mut out, &|_| Ok(())).unwrap();
    assert_eq!((rewrite.before, rewrite.after), (file.len() as u64, out.len() as u64));
    assert_eq!(check(file, out.as_slice(), selection).unwrap(), Ok(()));
    out
}

fn pruned(library: &Library, gpus: &[&str]) -> Vec<u8> {
    pruned_with(&library.finish(), &selection(gpus))
}

fn refusal(library: &Library) -> String {
    match prune(library.finish().as_slice(), &selection(&["9.0"])).unwrap() {
        Decision::Refused(reason) => reason,
        other => panic!("{other:?}"),
    }
}

fn listing(file: &[u8]) -> Listing {
    list(file).unwrap().unwrap()
}

/// Architectures and how many entries there are for each, in all sections.
fn code(file: &[u8]) -> Vec<(String, u64)> {
    let listing = listing(file);
    assert_eq!(listing.malformed, [""; 0]);
    let groups = listing.code.iter().flat_map(|code| &code.groups);
    groups.map(|group| (group.architecture.unwrap().to_string(), group.entries)).collect()
}

fn elf(file: &[u8]) -> Elf {
    Elf::read(&mut Window::new(file).unwrap()).unwrap()
}

#[test]
fn only_code_for_the_wanted_gpus_stays() {
    let before = library().finish();
    let after = pruned(&library(), &["9.0"]);
    assert_eq!(code(&after), [("sm_90".to_owned(), 3)]);
    assert!(after.len() < before.len() / 2, "{} of {}", after.len(), before.len());
    assert_eq!(code(&pruned(&library(), &["8.6", "10.3"])), [("sm_80".to_owned(), 3), ("sm_100".to_owned(), 3)]);
}

#[test]
fn ptx_stays_where_a_gpu_has_nothing_else_and_where_it_is_asked_for() {
    assert_eq!(code(&pruned(&library(), &["12.0"])), [("compute_100".to_owned(), 3)]);
    let keep_ptx = Selection { keep_ptx: true, ..selection(&["9.0"]) };
    let kept = pruned_with(&library().finish(), &keep_ptx);
    assert_eq!(code(&kept), [("compute_100".to_owned(), 3), ("sm_90".to_owned(), 3)]);
}

#[test]
fn a_file_that_is_emptied_is_known_as_one_before_and_after() {
    let file = library().finish();
    let Decision::Rewrite(rewrite) = prune(file.as_slice(), &selection(&["7.0"])).unwrap() else { panic!() };
    assert!(!rewrite.serves);
    let emptied = listing(&pruned_with(&file, &selection(&["7.0"])));
    assert_eq!(emptied.code[0].emptied, 3);
    for gpu in ["7.0", "9.0"] {
        let verdict = emptied.verdict(gpu.parse().unwrap(), None).unwrap();
        assert_eq!((verdict.coverage, verdict.regions.missing), (crate::Coverage::Missing, 3));
        assert!(verdict.to_string().contains("emptied by a cut; it was cut to other GPUs"), "{verdict}");
    }
    let small = Library::new().region(&[entry(CUBIN, 80, 0, 100)]).finish();
    let Decision::Stays { serves: false, .. } = prune(small.as_slice(), &selection(&["9.0"])).unwrap() else {
        panic!()
    };
    // What the linker has does not run.
    let both = library().relocatable(&[ptx(40_000), entry(CUBIN, 70, 0, 40_000)]).finish();
    let Decision::Rewrite(rewrite) = prune(both.as_slice(), &selection(&["7.0"])).unwrap() else { panic!() };
    assert!(!rewrite.serves);
    // Code for the linker that was asked to go is no loss.
    let linked = Library::new().relocatable(&[entry(LTO, 90, 0, 40_000), entry(CUBIN, 80, 0, 40_000)]).finish();
    let dropped = Selection { drop_relocatable: true, ..selection(&["9.0"]) };
    let Decision::Rewrite(rewrite) = prune(linked.as_slice(), &dropped).unwrap() else { panic!() };
    assert!(rewrite.serves);
}

#[test]
fn a_file_that_was_cut_does_not_pass_for_a_gpu_of_which_little_was_left() {
    let few = || [entry(CUBIN, 70, 0, 900), entry(CUBIN, 90, 0, 900)];
    let many = (0..100).fold(Library::new().region(&few()), |library, _| library.region(&[entry(CUBIN, 90, 0, 900)]));
    let extent = |file: &[u8]| listing(file).verdict("7.0".parse().unwrap(), None).unwrap().extent;
    assert_eq!(extent(&many.finish()), crate::Extent::Thin);
    assert_eq!(extent(&pruned(&many, &["7.0"])), crate::Extent::Thin);
}

#[test]
fn regions_in_which_nothing_is_loaded_stay_as_they_are() {
    let hollow = || entry_of(CUBIN, 75, 0, &crate::testing::cubin(75, "", &[]));
    let library = library().region(&[hollow()]).region(&[hollow(), entry(CUBIN, 80, 0, 9_000)]);
    assert_eq!(code(&pruned(&library, &["9.0"])), [("sm_75".to_owned(), 1), ("sm_90".to_owned(), 3)]);
    let left = listing(&pruned(&library, &["7.5"]));
    assert_eq!((left.code[0].emptied, left.code[0].regions), (4, 5));
}

#[test]
fn pieces_that_share_a_payload_stay_or_go_together() {
    let both = |one, other| {
        let [one, other]: [(u32, Vec<u8>); 2] = [(one, vec![1; 20_000]), (other, vec![2; 20_000])];
        crate::testing::concatenated(&[(CUBIN, one.0, 0, &one.1), (CUBIN, other.0, 0, &other.1)])
    };
    let library = Library::new().region(&[both(80, 90), both(100, 120), ptx(9_000)]);
    assert_eq!(code(&pruned(&library, &["9.0"])), [("sm_80".to_owned(), 1), ("sm_90".to_owned(), 1)]);
    let kept: Vec<String> = code(&pruned(&library, &["11.0"])).into_iter().map(|(name, _)| name).collect();
    assert_eq!(kept, ["compute_100"]);
}

#[test]
fn code_for_the_linker_is_dropped_on_demand_alone() {
    let library = library().relocatable(&[entry(LTO, 90, 0, 40_000), entry(CUBIN, 80, 0, 40_000)]);
    let kept = |file: &[u8]| listing(file).code.iter().map(|code| code.groups.len()).collect::<Vec<_>>();
    assert_eq!(kept(&pruned(&library, &["9.0"])), [1, 1]);
    let dropped = Selection { drop_relocatable: true, ..selection(&["9.0"]) };
    assert_eq!(kept(&pruned_with(&library.finish(), &dropped)), [1, 0]);
}

#[test]
fn nothing_that_is_mapped_changes_its_address() {
    let before = library().finish();
    let after = pruned(&library(), &["9.0"]);
    let (old, new) = (elf(&before), elf(&after));
    for (one, other) in old.sections.iter().zip(&new.sections) {
        assert_eq!((&one.name, one.address), (&other.name, other.address));
        if one.name == ".rodata" || one.name == ".text" || one.name == ".data" {
            let content =
                |file: &[u8], section: &Section| file[section.offset as usize..section.range().end as usize].to_vec();
            assert_eq!(content(&before, one), content(&after, other), "{}", one.name);
            assert_eq!(new.offset_of(other.address), Some(other.offset));
        }
    }
}

#[test]
fn a_piece_without_instructions_is_not_executable() {
    let new = elf(&pruned(&library(), &["9.0"]));
    let flags: Vec<u32> = new.segments.iter().map(|segment| segment.flags).collect();
    assert_eq!(flags, [5, 4, 6]);
    // The linker's 2 MiB no longer hold for what has moved in the file.
    assert_eq!(new.segments.iter().map(|segment| segment.alignment).max(), Some(0x1000));
}

#[test]
fn program_headers_grow_where_they_are_or_move_into_what_became_free() {
    let table = |library: &Library| elf(&pruned(library, &["9.0"])).program_headers;
    assert_eq!(table(&library().room()), 64);
    let moved = table(&library());
    let elf = elf(&pruned(&library(), &["9.0"]));
    assert!(moved > 64 && moved.is_multiple_of(0x1000) && elf.segments[0].size > moved, "{moved:#x}");
}

#[test]
fn aarch64_is_cut_in_pages_of_64_kilobytes() {
    let large = Library::new().aarch64().region(&every(200_000));
    let after = elf(&pruned(&large, &["9.0"]));
    assert_eq!(after.segments.len(), 3);
    assert!(after.segments[1].address.is_multiple_of(0x1_0000));
}

#[test]
fn packed_relocations_are_read_and_what_they_point_at_is_told_anew() {
    let after = pruned(&library().packed(), &["9.0"]);
    assert_eq!(code(&after), [("sm_90".to_owned(), 3)]);
}

#[test]
fn regions_that_something_else_points_at_stay_where_they_are() {
    let pins = |library: &Library| {
        let Decision::Rewrite(rewrite) = prune(library.finish().as_slice(), &selection(&["9.0"])).unwrap() else {
            panic!("nothing is cut");
        };
        pruned(library, &["9.0"]);
        rewrite.pinned
    };
    assert_eq!(pins(&library()), 0);
    assert_eq!(pins(&library().pointer(1, 0)), 1);
    assert_eq!(pins(&library().without_wrapper(0)), 1);
    // A symbol that only debuggers read moves along.
    assert_eq!(pins(&library().symbol(1, 0)), 0);
}

#[test]
fn symbols_move_with_their_regions() {
    let after = pruned(&library().symbol(2, 0), &["9.0"]);
    let table = elf(&after).sections.into_iter().find(|section| section.name == ".symtab").unwrap();
    let at = table.offset as usize + 8;
    let address = u64::from_le_bytes(after[at..at + 8].try_into().unwrap());
    let offset = elf(&after).offset_of(address).unwrap() as usize;
    assert_eq!(after[offset..offset + 4], crate::region::MAGIC.to_le_bytes());
}

#[test]
fn what_is_not_as_it_is_known_to_be_is_refused() {
    let mut core = library().finish();
    core[16] = 4;
    let Decision::Refused(reason) = prune(core.as_slice(), &selection(&["9.0"])).unwrap() else { panic!() };
    assert!(reason.contains("neither a library nor a program"), "{reason}");
    assert!(refusal(&library().pointer(1, 8)).contains("a relocation points into a region"));
    assert!(refusal(&library().symbol(1, 24)).contains("a symbol points into a region"));
    let mut broken = library().finish();
    let fat = elf(&broken).sections.into_iter().find(|section| section.name == ".nv_fatbin").unwrap();
    broken[fat.offset as usize + 20] ^= 0xff;
    let Decision::Refused(reason) = prune(broken.as_slice(), &selection(&["9.0"])).unwrap() else { panic!() };
    assert!(reason.starts_with("in `.nv_fatbin` at byte "), "{reason}");
}

#[test]
fn programs_at_a_fixed_address_are_pruned_and_their_own_pointers_pin() {
    let pins = |library: &Library| {
        let Decision::Rewrite(rewrite) = prune(library.finish().as_slice(), &selection(&["9.0"])).unwrap() else {
            panic!("nothing is cut");
        };
        assert_eq!(code(&pruned(library, &["9.0"])), [("sm_90".to_owned(), 3)]);
        rewrite.pinned
    };
    assert_eq!(pins(&library().fixed()), 0);
    assert_eq!(pins(&library().fixed().pointer(1, 0)), 1);
}

#[test]
fn wrappers_that_are_filled_in_later_are_left_alone() {
    let library = library().unfilled_wrapper().without_wrapper(1);
    assert_eq!(code(&pruned(&library, &["9.0"])), [("sm_90".to_owned(), 3)]);
}

#[test]
fn a_large_hole_before_a_region_that_stays_is_cut_out() {
    let library = Library::new().region(&every(2_000_000)).region(&every(1_000)).pointer(1, 0).note();
    let (before, after) = (library.finish(), pruned(&library, &["9.0"]));
    assert!(after.len() < before.len() / 3, "{} of {}", after.len(), before.len());
    assert_eq!(code(&after), [("sm_90".to_owned(), 2)]);
    assert!(matches!(prune(after.as_slice(), &selection(&["9.0"])).unwrap(), Decision::Stays { serves: true, .. }));
    let Decision::Refused(reason) = prune(after.as_slice(), &selection(&["12.0"])).unwrap() else { panic!() };
    assert!(reason.ends_with("prune the original"), "{reason}");
}

/// A cubin in a frame of so many bytes and more, which does not become smaller.
fn frame(number: u32, bytes: u32) -> (u32, Vec<u8>, u32) {
    let mut file = crate::testing::cubin(number, "", &["add"]);
    let mut noise = number.wrapping_mul(2_654_435_761) | 1;
    file.extend((0..bytes).map(|_| {
        noise = noise.wrapping_mul(1_103_515_245).wrapping_add(12_345);
        (noise >> 16) as u8
    }));
    (number, zstd::bulk::compress(&file, 3).unwrap(), file.len() as u32)
}

fn with_tables() -> Library {
    let frames = [75, 80, 90, 100].repeat(2).into_iter().map(|number| frame(number, 60_000));
    let later = |payload| [entry(CUBIN, 100, 0x10_0000, payload), entry(CUBIN, 120, 0, payload)];
    let library = library().tabled(&later(100_000)).tabled(&later(1_000)).tabled(&later(200_000));
    frames.fold(library, |library, (number, frame, inflated)| library.framed(number, frame, inflated))
}

#[test]
fn code_that_tables_of_data_name_is_cut_and_the_tables_are_told() {
    let before = with_tables().finish();
    for (gpu, stays) in [("9.0", "sm_90"), ("8.6", "sm_80"), ("7.5", "sm_75")] {
        let after = pruned(&with_tables(), &[gpu]);
        let framed = listing(&after).code.into_iter().find(|code| code.place.contains("frames")).unwrap();
        assert_eq!((framed.regions, framed.emptied), (8, 6));
        assert_eq!(framed.groups[0].architecture.unwrap().to_string(), stays);
        // Two of eight frames stay, and no entry of a table.
        assert!(after.len() < before.len() / 3, "{} of {}", after.len(), before.len());
    }
    // A row of regions of which something stays stays where it is.
    let tabled = |file: &[u8]| listing(file).code.into_iter().find(|code| code.place == ".cask_resource").unwrap();
    assert_eq!(tabled(&pruned(&with_tables(), &["12.0"])), tabled(&before));
    assert_eq!(tabled(&pruned(&with_tables(), &["9.0"])).groups, []);
}

#[test]
fn code_in_data_that_no_table_explains_keeps_its_place_or_stays() {
    let code = |file: &[u8]| -> Vec<_> {
        let places = listing(file).code.into_iter().filter(|code| code.place.starts_with(['.']));
        places.filter(|code| code.place != ".nv_fatbin").map(|code| (code.place, code.bytes)).collect()
    };
    let (number, frame, inflated) = frame(80, 300_000);
    for library in [library().framed(75, frame.clone(), inflated), library().framed(number, frame, inflated + 1)] {
        assert_eq!(code(&pruned(&library, &["9.0"])), [(".ldata (cubins in Zstandard frames)".to_owned(), 9)]);
        assert_eq!(code(&pruned(&library, &["8.0"])), code(&library.finish()));
    }
    let unnamed = library().read_only([region(&every(100_000)), vec![0; 64]].concat());
    assert_eq!(code(&pruned(&unnamed, &["7.0"])), code(&unnamed.finish()));
    // A relocation of another kind at the pointer of a table: no pointer changes.
    let mut file = with_tables().finish();
    let table = elf(&file).named(".rela.dyn").next().unwrap().clone();
    let last = (table.range().end - 24) as usize;
    file[last + 8] = 1;
    let after = pruned_with(&file, &selection(&["9.0"]));
    let framed = listing(&after).code.into_iter().find(|code| code.place.contains("frames")).unwrap();
    assert_eq!((framed.regions, framed.emptied), (8, 6));
    // Behind the table of ends and beginnings, which is told anew.
    let descriptors =
        |file: &[u8]| file[elf(file).named(".data").next().unwrap().offset as usize + 48..][..8 * 32].to_vec();
    assert_eq!(descriptors(&after), descriptors(&file));
}

#[test]
fn what_the_dynamic_table_names_makes_room_for_program_headers() {
    let library = library().hashed();
    let (before, after) = (elf(&library.finish()), elf(&pruned(&library, &["9.0"])));
    assert_eq!((after.program_headers, after.segments.len()), (before.program_headers, before.segments.len() + 1));
    let bytes = pruned(&library, &["9.0"]);
    let section = |name: &str| after.named(name).next().unwrap().clone();
    let (hash, dynamic) = (section(".gnu.hash"), section(".dynamic"));
    assert_ne!(hash.address, before.named(".gnu.hash").next().unwrap().address);
    assert_eq!(after.offset_of(hash.address), Some(hash.offset));
    assert_eq!(bytes[hash.range().start as usize..hash.range().end as usize], [5; 400]);
    let value = dynamic.offset as usize + 8;
    assert_eq!(bytes[value..value + 8], hash.address.to_le_bytes());
    // A table that names something else names nothing that can move.
    let mut file = library.finish();
    let dynamic = before.named(".dynamic").next().unwrap().offset as usize;
    file[dynamic + 8] ^= 1;
    let moved = elf(&pruned_with(&file, &selection(&["9.0"])));
    assert_ne!(moved.program_headers, before.program_headers);
}

#[test]
fn symbols_of_sections_that_move_are_told_the_new_address() {
    let mut file = library().hashed().symbol(0, 0).symbol(0, 0).finish();
    let old = elf(&file);
    let (symbols, hash) = (old.sections.iter().find(|section| section.kind == SYMBOLS).unwrap(), &old.sections[1]);
    assert_eq!(hash.name, ".gnu.hash");
    for (at, kind, into) in [(symbols.offset as usize, 3, 0), (symbols.offset as usize + 24, 1, 16)] {
        file[at + 4] = kind;
        file[at + 6..at + 8].copy_from_slice(&1u16.to_le_bytes());
        file[at + 8..at + 16].copy_from_slice(&(hash.address + into).to_le_bytes());
    }
    let after = pruned_with(&file, &selection(&["9.0"]));
    let new = elf(&after);
    let table = new.sections.iter().find(|section| section.kind == SYMBOLS).unwrap().offset as usize;
    let address = |at: usize| u64::from_le_bytes(after[at + 8..at + 16].try_into().unwrap());
    assert_ne!(new.sections[1].address, hash.address);
    assert_eq!((address(table), address(table + 24)), (new.sections[1].address, new.sections[1].address + 16));
}

#[test]
fn notes_make_room_for_program_headers() {
    let after = elf(&pruned(&library().note(), &["9.0"]));
    assert_eq!((after.program_headers, after.segments.len()), (64, 3));
    assert!(after.segments.iter().all(Segment::is_loaded));
}

#[test]
fn regions_alone_are_pruned_to_a_smaller_file() {
    let file = [region(&every(1_000)), region(&[ptx(80)]), region(&every(2_000))].concat();
    let after = pruned_with(&file, &selection(&["9.0"]));
    assert_eq!(code(&after), [("sm_90".to_owned(), 2)]);
    assert!(matches!(prune(after.as_slice(), &selection(&["9.0"])).unwrap(), Decision::Stays { serves: true, .. }));
    let mut cut = after.clone();
    cut.truncate(after.len() - 8);
    assert!(check(file.as_slice(), cut.as_slice(), &selection(&["9.0"])).unwrap().is_err());
}

#[test]
fn a_pruned_file_that_another_tool_damaged_is_told() {
    let after = pruned(&library(), &["9.0"]);
    assert!(!listing(&after).damaged);
    let table = elf(&after).program_headers as usize;
    let mut emptied = after.clone();
    emptied[table..table + 3 * 56].fill(0);
    let mut shifted = after;
    shifted[table + 8] ^= 0x10;
    assert!(listing(&emptied).damaged && listing(&shifted).damaged);
}

#[test]
fn what_would_not_become_smaller_stays() {
    let needed = Library::new().region(&[entry(CUBIN, 90, 0, 30_000), entry(CUBIN, 80, 0, 1_000)]);
    assert!(matches!(
        prune(needed.finish().as_slice(), &selection(&["9.0"])).unwrap(),
        Decision::Stays { serves: true, .. }
    ));
    let none = Library::new();
    assert!(matches!(prune(none.finish().as_slice(), &selection(&["9.0"])).unwrap(), Decision::NoCode));
}

#[test]
fn pruning_twice_is_pruning_once() {
    let after = pruned(&library(), &["9.0"]);
    assert!(matches!(prune(after.as_slice(), &selection(&["9.0"])).unwrap(), Decision::Stays { serves: true, .. }));
}

#[test]
fn the_check_sees_code_that_is_missing_and_wrappers_that_lead_astray() {
    let before = library().finish();
    let after = pruned(&library(), &["9.0"]);
    let problem = |after: &[u8], gpus: &[&str]| check(before.as_slice(), after, &selection(gpus)).unwrap().unwrap_err();
    assert!(problem(&after, &["8.0"]).contains("no longer serves 8.0"));
    let elf = elf(&after);
    let fat = elf.sections.iter().find(|section| section.name == ".nv_fatbin").unwrap();
    let relocations = elf.sections.iter().find(|section| section.kind == 4).unwrap();
    let mut astray = after.clone();
    let at = relocations.offset as usize + 16;
    astray[at..at + 8].copy_from_slice(&(fat.address + 8).to_le_bytes());
    assert!(problem(&astray, &["9.0"]).contains("no region"));
    let mut cut = after.clone();
    cut.truncate(after.len() - 4096);
    assert!(check(before.as_slice(), cut.as_slice(), &selection(&["9.0"])).unwrap().is_err());
}

proptest! {
    #[test]
    fn whatever_is_in_the_regions_pruning_keeps_what_serves_a_gpu(
        regions in proptest::collection::vec(
            proptest::collection::vec((0usize..4, 0usize..6, 0usize..3, 1usize..1000), 0..6), 1..6),
        relocatable in proptest::collection::vec((0usize..4, 0usize..6, 0usize..3, 1usize..1000), 0..4),
        gpu in 0usize..5,
        (pinned, packed, room, keep_ptx) in (any::<bool>(), any::<bool>(), any::<bool>(), any::<bool>()),
    ) {
        let build = |(kind, number, flags, payload): (usize, usize, usize, usize)| {
            let (number, flags) = ([75, 80, 86, 90, 100, 120][number], [0, 0x10_0000, 0x20_0000][flags]);
            match kind {
                3 => crate::testing::concatenated(&[(CUBIN, number, flags, &vec![number as u8; payload * 8])]),
                kind => entry([CUBIN, PTX, LTO][kind], number, flags, payload * 8),
            }
        };
        let mut library = Library::new();
        for region in regions {
            library = library.region(&region.into_iter().map(build).collect::<Vec<_>>());
        }
        if !relocatable.is_empty() {
            library = library.relocatable(&relocatable.into_iter().map(build).collect::<Vec<_>>());
        }
        library = if pinned { library.pointer(0, 0) } else { library };
        library = if packed { library.packed() } else { library };
        library = if room { library.room() } else { library };
        let file = library.finish();
        let selection = Selection { keep_ptx, ..selection(&[["7.5", "8.6", "9.0", "10.3", "12.0"][gpu]]) };
        match prune(file.as_slice(), &selection).unwrap() {
            Decision::Rewrite(_) => drop(pruned_with(&file, &selection)),
            Decision::Stays { .. } => {}
            other => prop_assert!(false, "{other:?}"),
        }
    }

    #[test]
    fn damage_is_refused_or_harmless_and_never_a_panic(
        changes in proptest::collection::vec((0usize..2000, any::<u8>()), 1..6), from_end in any::<bool>(),
    ) {
        let library = Library::new().region(&every(9_000)).relocatable(&every(9_000)).symbol(0, 0).pointer(0, 0);
        let tabled = library.clone().hashed().tabled(&[entry(CUBIN, 100, 0, 300_000)]);
        let mut file = if changes.len() % 2 == 0 { library } else { tabled }.finish();
        for (at, byte) in changes {
            let at = if from_end { file.len() - 1 - at.min(file.len() - 1) } else { at };
            file[at] = byte;
        }
        if let Ok(Decision::Rewrite(rewrite)) = prune(file.as_slice(), &selection(&["9.0"])) {
            let mut out = Vec::new();
            rewrite.write(file.as_slice(), &mut out, &|_| Ok(())).unwrap();
            if check(file.as_slice(), out.as_slice(), &selection(&["9.0"])).unwrap().is_ok() {
                prop_assert!(list(out.as_slice()).is_ok(), "a file that passes the check cannot be listed");
            }
        }
    }
}
