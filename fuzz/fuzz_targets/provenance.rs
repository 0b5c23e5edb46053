//! The page of a package and the document of a file, as an index answers them: any bytes at all.

#![no_main]

use kiln_plan::digest::Digest;
use kiln_wheel::provenance::{entry, publisher};
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 64 << 20);

fuzz_target!(|bytes: &[u8]| {
    let _ = entry(bytes, "a-1-py3-none-any.whl", &Digest::of(b""));
    if let Some(text) = publisher(bytes) {
        assert!(!text.is_empty() && text.len() <= 300, "{text} is no short line");
        assert!(!text.contains(char::is_control), "{text} has control characters");
    }
});
