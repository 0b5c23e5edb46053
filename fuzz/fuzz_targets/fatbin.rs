//! A library, an archive, regions: any bytes at all.

#![no_main]

use kiln_fatbin::list;
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 64 << 20);

fuzz_target!(|bytes: &[u8]| {
    if let Ok(Some(listing)) = list(bytes) {
        assert!(listing.code.iter().map(|code| code.bytes).sum::<u64>() <= bytes.len() as u64);
        for code in &listing.code {
            for gpu in ["8.9", "9.0", "8.7", "12.0"] {
                let tally = code.coverage(gpu.parse().expect("a capability"));
                assert!(tally.native + tally.ptx + tally.missing <= code.regions);
            }
        }
    }
});
