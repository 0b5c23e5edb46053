//! A stack file: any text at all.

#![no_main]

use kiln_plan::stack::{Overrides, read};
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 256 << 20);

fuzz_target!(|text: &str| {
    if let Err(diagnostics) = read(text, &Overrides::default()) {
        assert!(!diagnostics.0.is_empty());
        for label in diagnostics.0.iter().flat_map(|diagnostic| &diagnostic.labels) {
            assert!(text.get(label.span.clone()).is_some(), "{:?} is no place in the text", label.span);
        }
    }
});
