//! Object files and static libraries, which are linked before anything runs.

use super::*;
use crate::testing::entry_of;

fn object(payload: usize) -> Vec<u8> {
    Library::new().region(&every(payload)).object().finish()
}

/// A static library with an index that names each member once.
fn archive(members: &[Vec<u8>], wide: bool) -> Vec<u8> {
    let width = if wide { 8 } else { 4 };
    let index = width * (members.len() + 1) + 6 * members.len();
    let mut bytes = b"!<arch>\n".to_vec();
    let put = |bytes: &mut Vec<u8>, name: &str, content: &[u8]| {
        bytes.extend(format!("{name:<16}{:<12}{:<6}{:<6}{:<8}{:<10}`\n", 0, 0, 0, 644, content.len()).bytes());
        bytes.extend(content);
        bytes.resize(bytes.len().next_multiple_of(2), b'\n');
    };
    let mut places = Vec::new();
    let mut at = 8 + 60 + index.next_multiple_of(2);
    for member in members {
        places.push(at as u64);
        at += 60 + member.len().next_multiple_of(2);
    }
    let numbers = [members.len() as u64].into_iter().chain(places);
    let mut content: Vec<u8> = numbers.flat_map(|number| number.to_be_bytes()[8 - width..].to_vec()).collect();
    content.extend((0..members.len()).flat_map(|at| format!("sym{at:02}\0").into_bytes()));
    put(&mut bytes, if wide { "/SYM64/" } else { "/" }, &content);
    for (at, member) in members.iter().enumerate() {
        put(&mut bytes, &format!("{at}.o/"), member);
    }
    bytes
}

/// The members that an index names.
fn named(archive: &[u8], wide: bool) -> Vec<&[u8]> {
    let width = if wide { 8 } else { 4 };
    let number = |at: usize| archive[at..at + width].iter().fold(0, |number, byte| number << 8 | usize::from(*byte));
    (1..=number(68)).map(|at| &archive[number(68 + at * width)..][..16]).collect()
}

#[test]
fn an_object_file_is_cut_and_its_other_sections_stay() {
    let (before, after) = (object(30_000), pruned_with(&object(30_000), &selection(&["9.0"])));
    assert_eq!(code(&after), [("sm_90".to_owned(), 1)]);
    assert!(after.len() < before.len() / 3, "{} of {}", after.len(), before.len());
    assert_eq!(elf(&after).sections.len(), elf(&before).sections.len());
    assert!(matches!(prune(after.as_slice(), &selection(&["9.0"])).unwrap(), Decision::Stays { serves: true, .. }));
}

#[test]
fn an_object_file_with_symbols_inside_regions_or_several_regions_stays() {
    let several = Library::new().region(&every(9_000)).region(&every(9_000)).object();
    let symbol = Library::new().region(&every(9_000)).symbol(0, 8).object();
    for library in [several, symbol] {
        assert!(matches!(
            prune(library.finish().as_slice(), &selection(&["9.0"])).unwrap(),
            Decision::Stays { serves: true, .. }
        ));
    }
    // A symbol at the beginning moves with its region, and its size shrinks.
    let mut file = Library::new().region(&every(9_000)).symbol(0, 0).object().finish();
    let table = elf(&file).sections.into_iter().find(|section| section.name == ".symtab").unwrap().offset as usize;
    file[table + 8..table + 16].fill(0);
    file[table + 16..table + 24].copy_from_slice(&40_000u64.to_le_bytes());
    let after = pruned_with(&file, &selection(&["9.0"]));
    let table = elf(&after).sections.into_iter().find(|section| section.name == ".symtab").unwrap().offset as usize;
    let size = u64::from_le_bytes(after[table + 16..table + 24].try_into().unwrap());
    assert!((9_000..10_000).contains(&size), "{size}");
}

#[test]
fn members_of_a_static_library_are_cut_and_its_index_names_them() {
    let plain = vec![7; 333];
    for wide in [false, true] {
        let before = archive(&[object(30_000), plain.clone(), object(9_000)], wide);
        let after = pruned_with(&before, &selection(&["9.0"]));
        assert!(after.len() < before.len() / 3, "{} of {}", after.len(), before.len());
        assert_eq!(code(&after), [("sm_90".to_owned(), 2)]);
        assert_eq!(named(&after, wide), [b"0.o/            ", b"1.o/            ", b"2.o/            "]);
        assert!(matches!(prune(after.as_slice(), &selection(&["9.0"])).unwrap(), Decision::Stays { serves: true, .. }));
    }
    let none = archive(&[plain], false);
    assert!(matches!(prune(none.as_slice(), &selection(&["9.0"])).unwrap(), Decision::NoCode));
}

#[test]
fn a_damaged_static_library_is_refused_and_the_check_sees_a_wrong_index() {
    let before = archive(&[object(30_000), object(9_000)], false);
    let mut wrong = before.clone();
    wrong[75] ^= 1;
    assert!(matches!(prune(wrong.as_slice(), &selection(&["9.0"])).unwrap(), Decision::Refused(_)));
    let mut cut = before.clone();
    cut.truncate(before.len() - 100);
    assert!(matches!(prune(cut.as_slice(), &selection(&["9.0"])).unwrap(), Decision::Refused(_)));
    let mut after = pruned_with(&before, &selection(&["9.0"]));
    after[75] ^= 1;
    assert!(check(before.as_slice(), after.as_slice(), &selection(&["9.0"])).unwrap().is_err());
    let other =
        archive(&[object(30_000), Library::new().region(&[entry_of(CUBIN, 90, 0, &[1; 9])]).object().finish()], false);
    assert!(check(before.as_slice(), other.as_slice(), &selection(&["9.0"])).unwrap().is_err());
}

proptest! {
    #[test]
    fn damage_of_a_static_library_is_refused_or_harmless(
        changes in proptest::collection::vec((0usize..3000, any::<u8>()), 1..6), from_end in any::<bool>(),
    ) {
        let mut file = archive(&[object(9_000), vec![7; 33]], false);
        for (at, byte) in changes {
            let at = if from_end { file.len() - 1 - at.min(file.len() - 1) } else { at };
            file[at] = byte;
        }
        if let Ok(Decision::Rewrite(rewrite)) = prune(file.as_slice(), &selection(&["9.0"])) {
            let mut out = Vec::new();
            rewrite.write(file.as_slice(), &mut out, &|_| Ok(())).unwrap();
            check(file.as_slice(), out.as_slice(), &selection(&["9.0"])).unwrap().ok();
        }
    }
}
