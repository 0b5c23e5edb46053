//! A record of the cache, as a registry has it: a manifest, any bytes at all. What is written anew reads the same.

#![no_main]

use kiln_engine::fuzzing::rewritten;
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 64 << 20);

fuzz_target!(|bytes: &[u8]| {
    let Some(first) = rewritten(bytes) else { return };
    let second = rewritten(&first).expect("what was written is a record");
    assert_eq!(first, second);
});
