//! What uv says on its standard error when it finds no answer: any text at all.

#![no_main]

use kiln_wheel::fuzzing::refusal;
use kiln_wheel::uv::UvError;
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 64 << 20);

fuzz_target!(|text: &str| {
    let refusal = refusal(text);
    let shown = refusal.to_string();
    assert!(shown.len() <= 4 * text.len() + 1024, "an explanation is longer than what it explains");
    if !matches!(refusal, UvError::Unsatisfiable(_)) {
        assert!(!shown.contains('\n'), "{shown:?} is more than a line");
    }
});
