//! A layer from a registry: its compression, the facts of it, and an archive to be normalised.

#![no_main]

use std::io::{Cursor, Read};

use kiln_oci::compression::decompress;
use kiln_oci::debian::normalise;
use kiln_oci::facts::FactsReader;
use kiln_plan::digest::Digest;
use kiln_plan::lock::{Lock, LockedBase, VERSION};
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 256 << 20);

/// How much is inflated: a few bytes may stand for gigabytes, which are streamed and prove nothing here.
const INFLATED: u64 = 4 << 20;

fuzz_target!(|bytes: &[u8]| {
    let mut tar = Vec::new();
    let Ok(reader) = decompress(Cursor::new(bytes.to_vec())) else {
        return;
    };
    // What came before an error is a tar that is cut off, which is to be survived too.
    let read = reader.take(INFLATED).read_to_end(&mut tar);
    assert!(read.is_err() || read.is_ok_and(|read| read == tar.len()), "bytes are lost");
    facts(&tar);
    let mut first = Vec::new();
    if let Ok(normalised) = normalise(&mut [Cursor::new(&tar)], &mut first, 7) {
        assert_eq!(normalised.size, first.len() as u64);
        let mut second = Vec::new();
        let again = normalise(&mut [Cursor::new(&first)], &mut second, 7);
        assert!(again.is_ok(), "what was normalised cannot be read: {again:?}");
    }
});

/// Facts of a hostile base still make a lock that can be read.
fn facts(tar: &[u8]) {
    let mut reader = FactsReader::new();
    // A second layer upon the first goes other ways: it replaces what is there.
    if reader.layer(tar).and_then(|()| reader.layer(tar)).is_err() {
        return;
    }
    let base = LockedBase {
        layers: Some(1),
        name: "base".into(),
        platform: kiln_plan::platform::Platform::ALL[0],
        index: None,
        manifest: Digest::of(b""),
        snapshot: None,
        archives: Vec::new(),
        packages: Vec::new(),
        facts: reader.finish(),
    };
    let lock = Lock { version: VERSION, bases: vec![base], ..Lock::default() };
    match Lock::parse(&lock.text()) {
        Ok(again) => assert_eq!(again, lock),
        Err(error) => panic!("{error}\n{}", lock.text()),
    }
}
