use proptest::prelude::*;

use super::elf::{Builder, library, nameless, program};
use crate::{ElfError, Machine, Object};

fn read(builder: &Builder) -> Option<Object> {
    Object::read(builder.build().as_slice()).unwrap()
}

fn everything() -> Builder {
    library("libwhole.so.1")
        .needs("libc.so.6")
        .needs("libm.so.6")
        .runpath("$ORIGIN/a::/b")
        .rpath("/c")
        .requires("libc.so.6", "GLIBC_2.34")
        .requires_weakly("libc.so.6", "GLIBC_2.99")
        .requires("libm.so.6", "GLIBC_2.29")
        .provides("libwhole.so.1")
        .provides("WHOLE_1.0")
}

#[test]
fn what_the_loader_reads_is_read_without_section_headers() {
    let object = read(&everything()).unwrap();
    assert_eq!(object.machine, Machine::X86_64);
    assert_eq!(object.soname.as_deref(), Some("libwhole.so.1"));
    assert_eq!(object.needed, ["libc.so.6", "libm.so.6"]);
    assert_eq!((object.rpath, object.runpath), (vec!["/c".into()], vec!["$ORIGIN/a".into(), "/b".into()]));
    let requires: Vec<_> = object.requires.iter().map(|r| (r.library.as_str(), r.version.as_str(), r.weak)).collect();
    assert_eq!(
        requires,
        [("libc.so.6", "GLIBC_2.34", false), ("libc.so.6", "GLIBC_2.99", true), ("libm.so.6", "GLIBC_2.29", false)]
    );
    assert_eq!(object.provides, ["libwhole.so.1", "WHOLE_1.0"]);
    assert!(object.is_library && !object.nodeflib);
}

#[test]
fn programs_are_told_from_libraries() {
    let object = read(&program().needs("libc.so.6")).unwrap();
    assert_eq!(object.interpreter.as_deref(), Some("/lib64/ld-linux-x86-64.so.2"));
    assert!(!object.is_library);
    assert!(!read(&nameless().kind(2)).unwrap().is_library);
    assert!(!read(&nameless().number(0x6fff_fffb, 0x0800_0000)).unwrap().is_library);
    assert!(read(&nameless()).unwrap().is_library);
    // libc.so.6 is a library that can be run.
    assert!(read(&library("libc.so.6").interpreter("/lib64/ld-linux-x86-64.so.2")).unwrap().is_library);
    assert!(read(&library("liba.so").nodeflib()).unwrap().nodeflib);
}

#[test]
fn what_is_not_dynamically_linked_is_no_object() {
    assert_eq!(read(&nameless().kind(1)), None);
    assert_eq!(read(&nameless().machine(190)), None);
    for bytes in [&b"#!/bin/sh\n"[..], b"!<arch>\n", b"\x7fELF", &[0x7f; 64], b""] {
        assert_eq!(Object::read(bytes).unwrap(), None);
    }
    let mut other = nameless().build();
    other[4] = 1;
    assert_eq!(Object::read(other.as_slice()).unwrap(), None);
    // A static program has segments and no dynamic table; a file of debugging information has one without content.
    let mut bytes = nameless().build();
    bytes[64 + 56..64 + 60].copy_from_slice(&4u32.to_le_bytes());
    assert_eq!(Object::read(bytes.as_slice()).unwrap(), None);
    let mut bytes = nameless().build();
    bytes[64 + 56 + 32..64 + 56 + 40].fill(0);
    assert_eq!(Object::read(bytes.as_slice()).unwrap(), None);
}

#[test]
fn a_chain_of_versions_that_goes_round_ends() {
    let bytes = library("a").provides("A").provides("B").build();
    // The second definition's distance to the next, which wraps around to the first.
    let at = bytes.windows(8).rposition(|window| window == [1, 0, 0, 0, 2, 0, 1, 0]).unwrap();
    let mut bytes = bytes;
    bytes[at + 16..at + 20].copy_from_slice(&1u32.to_le_bytes());
    let _ = Object::read(bytes.as_slice());
    let round = library("a").requires("b", "V").build();
    let at = round.windows(4).rposition(|window| window == [1, 0, 1, 0]).unwrap();
    for distance in 1..16u32 {
        let mut bytes = round.clone();
        bytes[at + 12..at + 16].copy_from_slice(&distance.to_le_bytes());
        let _ = Object::read(bytes.as_slice());
    }
}

#[test]
fn headers_that_lead_out_of_the_file_are_damage() {
    let whole = everything().build();
    for cut in [65, 64 + 56 * 2, whole.len() - 1] {
        assert!(matches!(Object::read(&whole[..cut]), Err(ElfError::Damaged(_))), "{cut}");
    }
    let mut many = whole.clone();
    many[56..58].copy_from_slice(&0xffffu16.to_le_bytes());
    assert!(matches!(Object::read(many.as_slice()), Err(ElfError::Damaged(_))));
}

#[test]
fn objects_survive_being_written_as_json() {
    for builder in [everything(), program(), library("a").aarch64(), nameless().machine(243)] {
        let object = read(&builder).unwrap();
        let json = serde_json::to_string(&object).unwrap();
        assert_eq!(serde_json::from_str::<Object>(&json).unwrap(), object);
    }
    let json = serde_json::to_string(&read(&library("a").needs("b")).unwrap()).unwrap();
    assert_eq!(json, r#"{"machine":"x86-64","soname":"a","needed":["b"],"is_library":true}"#);
}

proptest! {
    #[test]
    fn no_bytes_make_it_panic(bytes in prop::collection::vec(any::<u8>(), 0..64), at in 0usize..900, cut in 0usize..900) {
        let mut file = everything().interpreter("/lib/ld.so").build();
        let at = at.min(file.len());
        let end = (at + bytes.len()).min(file.len());
        file[at..end].copy_from_slice(&bytes[..end - at]);
        let _ = Object::read(file.as_slice());
        file.truncate(cut);
        let _ = Object::read(file.as_slice());
    }

    #[test]
    fn no_number_makes_it_panic(number in prop_oneof![any::<u64>(), Just(u64::MAX), 0u64..2000], word in 0usize..112) {
        let mut file = everything().interpreter("/lib/ld.so").build();
        let at = (word * 8).min(file.len() - 8);
        file[at..at + 8].copy_from_slice(&number.to_le_bytes());
        let _ = Object::read(file.as_slice());
    }
}
