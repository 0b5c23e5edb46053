//! Packages of Debian: an archive of ar with two tars, unpacked as a system.

#![no_main]

use std::io::Read as _;

use kiln_debian::deb::Deb;
use kiln_debian::system::System;
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 512 << 20);

/// Bytes of its files that are read: a few may stand for gigabytes, which are streamed and prove nothing here.
const INFLATED: u64 = 4 << 20;

fuzz_target!(|bytes: &[u8]| {
    let Ok(Deb { control, data }) = Deb::read(bytes) else { return };
    let mut files = Vec::new();
    let whole = data.take(INFLATED).read_to_end(&mut files).is_ok();
    let Ok(mut system) = System::new(Vec::new()) else { return };
    let deb = Deb { control, data: Box::new(files.as_slice()) };
    if system.add("package", deb).is_ok()
        && whole
        && let Ok(tar) = system.finish()
    {
        for entry in tar::Archive::new(tar.as_slice()).entries().expect("entries") {
            let path = entry.expect("an entry that can be read").path_bytes().into_owned();
            assert!(!path.starts_with(b"/") && !path.split(|byte| *byte == b'/').any(|name| name == b".."), "{path:?}");
        }
    }
});
