//! A shared object, any bytes at all: pruned, and looked at again.

#![no_main]

use kiln_fatbin::{Decision, Selection, check, prune};
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 64 << 20);

fuzz_target!(|bytes: &[u8]| {
    for (gpus, keep_ptx, drop_relocatable) in [(&["9.0"][..], false, false), (&["7.5", "12.0"], true, true)] {
        let gpus = gpus.iter().map(|text| text.parse().expect("a capability")).collect();
        let selection = Selection { gpus, keep_ptx, drop_relocatable };
        if let Ok(Decision::Rewrite(rewrite)) = prune(bytes, &selection) {
            let mut out = Vec::new();
            rewrite.write(bytes, &mut out, &|_| Ok(())).expect("memory can be read and written");
            assert_eq!((rewrite.before, rewrite.after), (bytes.len() as u64, out.len() as u64));
            assert!(rewrite.after < rewrite.before);
            // What is damaged may be found out here alone; what is sound stays so.
            let _ = check(bytes, out.as_slice(), &selection);
        }
    }
});
