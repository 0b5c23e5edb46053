//! Files that facts of a base are read from, such as `/etc/passwd` and `os-release`: a text of files, each behind a line
//! `--- PATH`, of which a layer is made. Checksums of an archive would keep mutations from ever reaching them.

#![no_main]

use kiln_oci::facts::FactsReader;
use kiln_plan::digest::Digest;
use kiln_plan::lock::{Lock, LockedBase, VERSION};
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 256 << 20);

fuzz_target!(|text: &str| {
    let mut reader = FactsReader::new();
    // Twice: the second layer replaces what the first has.
    for _ in 0..2 {
        if reader.layer(layer(text).as_slice()).is_err() {
            return;
        }
    }
    let facts = reader.finish();
    for line in facts.passwd.iter().chain(&facts.group) {
        assert!(!line.contains('\n'), "{line:?} is more than a line");
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
        facts,
    };
    let lock = Lock { version: VERSION, bases: vec![base], ..Lock::default() };
    match Lock::parse(&lock.text()) {
        Ok(again) => assert_eq!(again, lock),
        Err(error) => panic!("{error}\n{}", lock.text()),
    }
});

/// A layer of files, and of links where the content begins with `-> `.
fn layer(text: &str) -> Vec<u8> {
    let mut tar = tar::Builder::new(Vec::new());
    for file in text.split("--- ").skip(1) {
        let (path, content) = file.split_once('\n').unwrap_or((file, ""));
        let mut header = tar::Header::new_gnu();
        header.set_mode(0o644);
        // What the library cannot write is no file.
        let _ = match content.strip_prefix("-> ") {
            Some(target) => {
                header.set_entry_type(tar::EntryType::Symlink);
                header.set_size(0);
                tar.append_link(&mut header, path, target.lines().next().unwrap_or_default())
            }
            None => {
                header.set_size(content.len() as u64);
                tar.append_data(&mut header, path, content.as_bytes())
            }
        };
    }
    tar.into_inner().unwrap_or_default()
}
