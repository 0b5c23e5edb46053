//! Files made here, byte by byte.

mod code;

use kiln_plan::gpu::{Architecture, Capability};

use super::*;

use crate::testing::{Library, entry, region};

/// A shared object with these sections.
fn elf(sections: &[(&str, Vec<u8>)]) -> Vec<u8> {
    let mut names = vec![0u8];
    let mut body = Vec::new();
    let mut headers = vec![vec![0u8; 64]];
    let mut add = |name: &str, kind: u32, content: &[u8], names: &mut Vec<u8>| {
        let mut header = vec![0u8; 64];
        header[0..4].copy_from_slice(&(names.len() as u32).to_le_bytes());
        header[4..8].copy_from_slice(&kind.to_le_bytes());
        header[8] = 2;
        names.extend(name.bytes());
        names.push(0);
        let content = if name == ".shstrtab" { names.clone() } else { content.to_vec() };
        header[24..32].copy_from_slice(&(64 + body.len() as u64).to_le_bytes());
        header[32..40].copy_from_slice(&(content.len() as u64).to_le_bytes());
        body.extend(content);
        body.resize(body.len().next_multiple_of(8), 0);
        headers.push(header);
    };
    for (name, content) in sections {
        add(name, 1, content, &mut names);
    }
    add(".shstrtab", 3, &[], &mut names);
    let mut file = vec![0u8; 64];
    file[..6].copy_from_slice(b"\x7fELF\x02\x01");
    file[18..20].copy_from_slice(&62u16.to_le_bytes());
    file[40..48].copy_from_slice(&(64 + body.len() as u64).to_le_bytes());
    file[58..60].copy_from_slice(&64u16.to_le_bytes());
    file[60..62].copy_from_slice(&(headers.len() as u16).to_le_bytes());
    file[62..64].copy_from_slice(&(headers.len() as u16 - 1).to_le_bytes());
    file.extend(body);
    file.extend(headers.concat());
    file
}

fn gpu(text: &str) -> Capability {
    text.parse().unwrap()
}

fn architecture(text: &str) -> Option<Architecture> {
    Some(text.parse().unwrap())
}

fn listed(file: &[u8]) -> Option<Listing> {
    list(file).unwrap()
}

const ZSTD: u64 = 0x8000;
const SUFFIX_A: u64 = 0x10_0000;

#[test]
fn code_is_listed_by_architecture_and_regions_are_counted_for_each_gpu() {
    let both = region(&[entry(2, 80, ZSTD, 40), entry(2, 90, SUFFIX_A, 24), entry(1, 80, 0, 16)]);
    let old = region(&[entry(2, 80, ZSTD, 8)]);
    let file = elf(&[(".nv_fatbin", [both.clone(), vec![0; 8], old].concat())]);
    let listing = listed(&file).unwrap();
    assert_eq!(listing.format, Found::Elf(Machine::X86_64));
    assert_eq!(listing.malformed, [""; 0]);
    let [code] = listing.code.as_slice() else { panic!("{listing:?}") };
    let groups: Vec<_> =
        code.groups.iter().map(|group| (group.kind, group.architecture, group.compression, group.entries)).collect();
    assert_eq!(
        groups,
        [
            (Kind::Ptx, architecture("compute_80"), Compression::None, 1),
            (Kind::Cubin, architecture("sm_80"), Compression::Zstd, 2),
            (Kind::Cubin, architecture("sm_90a"), Compression::None, 1),
        ]
    );
    let tallies = ["8.6", "9.0", "10.0"]
        .map(|text| code.coverage(gpu(text)))
        .map(|tally| (tally.native, tally.ptx, tally.missing));
    assert_eq!(tallies, [(2, 0, 0), (1, 0, 1), (0, 1, 1)]);
}

#[test]
fn code_in_other_sections_is_found_and_what_only_looks_like_it_is_passed_over() {
    let mut content = vec![1u8; 8192];
    // The magic alone, by chance, and a whole region.
    content[64..68].copy_from_slice(&region::MAGIC.to_le_bytes());
    let inside = region(&[entry(2, 90, 0, 16)]);
    content[4096..4096 + inside.len()].copy_from_slice(&inside);
    let listing = listed(&elf(&[(".rodata", content)])).unwrap();
    assert_eq!(listing.code.len(), 1);
    assert_eq!((listing.code[0].place.as_str(), listing.code[0].regions), (".rodata", 1));
    assert_eq!(listing.malformed, [""; 0]);
}

#[test]
fn libraries_loose_files_and_cubins_are_known() {
    let one = region(&[entry(2, 90, 0, 16)]);
    assert_eq!(listed(&one).unwrap().format, Found::Fatbin);
    let object = elf(&[(".nv_fatbin", one.clone()), ("__nv_relfatbin", one)]);
    let mut archive = b"!<arch>\n".to_vec();
    for name in ["a.o/", "b.o/"] {
        archive.extend(format!("{name:<48}{:<10}`\n", object.len()).bytes());
        archive.extend(&object);
        archive.resize(archive.len().next_multiple_of(2), b'\n');
    }
    let listing = listed(&archive).unwrap();
    assert_eq!(listing.format, Found::Archive);
    assert_eq!(listing.code.iter().map(|code| code.regions).collect::<Vec<_>>(), [2, 2]);
    let mut cubin = elf(&[]);
    cubin[18..20].copy_from_slice(&190u16.to_le_bytes());
    cubin[8] = 8;
    cubin[48..52].copy_from_slice(&(100u32 << 8).to_le_bytes());
    let listing = listed(&cubin).unwrap();
    assert_eq!(listing.code[0].groups[0].architecture, architecture("sm_100"));
    assert_eq!(listing.verdict(gpu("9.0"), None).unwrap().coverage, Coverage::Missing);
}

#[test]
fn a_file_without_gpu_code_has_no_listing() {
    assert_eq!(listed(b"#!/bin/sh\n"), None);
    assert_eq!(listed(&elf(&[(".text", vec![1; 5000])])), None);
    assert!(listed(&elf(&[(".hip_fatbin", vec![1; 64])])).unwrap().hip);
}

#[test]
fn what_makes_no_sense_is_said_with_its_place() {
    let mut long = region(&[entry(2, 90, 0, 16)]);
    long[16 + 8] = 200;
    let listing = listed(&elf(&[(".nv_fatbin", long)])).unwrap();
    assert_eq!(listing.malformed, [".nv_fatbin: at byte 0x50 an entry is longer than its region"]);
    let garbage = [vec![0; 16], vec![7; 16]].concat();
    let listing = listed(&elf(&[(".nv_fatbin", garbage)])).unwrap();
    assert_eq!(listing.malformed, [".nv_fatbin: at byte 0x50 there is something that is no region"]);
}

#[test]
fn regions_that_were_overwritten_with_zeros_are_noticed_by_what_points_at_them() {
    let cubins = || [entry(2, 80, 0, 64), entry(2, 90, 0, 64)];
    let whole = || (0..3).fold(Library::new(), |library, _| library.region(&cubins()));
    let size = region(&cubins()).len();
    for library in [whole(), whole().packed(), whole().fixed(), whole().aarch64(), whole().pointer(1, 0)] {
        let file = library.finish();
        assert_eq!(listed(&file).unwrap().malformed, [""; 0]);
        let first = memchr::memmem::find(&file, &region(&cubins())).unwrap();
        for (from, regions) in [(0, 1), (1, 1), (2, 1), (0, 3)] {
            let mut damaged = file.clone();
            damaged[first + from * size..first + (from + regions) * size].fill(0);
            let malformed = listed(&damaged).unwrap().malformed;
            let what = match regions {
                1 => "a pointer leads to zeros where a region was,".to_owned(),
                several => format!("{several} pointers lead to zeros where regions were, the first"),
            };
            assert_eq!(malformed, [format!("{what} at address {:#x}", first + from * size)]);
        }
    }
    // Padding is none.
    let padded = Library::new().raw(&[region(&cubins()), vec![0; 4096]].concat()).region(&cubins()).finish();
    assert_eq!(listed(&padded).unwrap().malformed, [""; 0]);
}

#[test]
fn sections_that_overlap_are_not_read_again_and_again() {
    let one = region(&[entry(2, 90, 0, 4096)]);
    let mut file = elf(&[(".nv_fatbin", one.clone()), (".nv_fatbin", one)]);
    // The second section's header points at the first one's content, and at everything behind it.
    let headers = u64::from_le_bytes(file[40..48].try_into().unwrap()) as usize;
    file[headers + 2 * 64 + 24..][..8].copy_from_slice(&64u64.to_le_bytes());
    let size = (file.len() - 64) as u64;
    file[headers + 2 * 64 + 32..][..8].copy_from_slice(&size.to_le_bytes());
    let listing = listed(&file).unwrap();
    assert_eq!(listing.malformed, [".nv_fatbin: it overlaps with other sections"]);
    assert_eq!(listing.code.len(), 1);
}

proptest::proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in proptest::collection::vec(proptest::num::u8::ANY, 0..400), at in 0usize..400) {
        let one = region(&[entry(2, 90, 0, 16), entry(1, 90, 0, 8)]);
        let mut file = elf(&[(".nv_fatbin", one.clone()), (".rodata", vec![1; 4096]), ("x", one)]);
        let at = at.min(file.len());
        let end = (at + bytes.len()).min(file.len());
        file[at..end].copy_from_slice(&bytes[..end - at]);
        let _ = list(file.as_slice());
        let _ = list(bytes.as_slice());
    }
}
