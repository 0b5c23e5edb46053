//! A stack file and a lock: any text at all.

#![no_main]

use kiln_plan::lock::Lock;
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
    if let Ok(lock) = Lock::parse(text) {
        let written = lock.text();
        match Lock::parse(&written) {
            Ok(again) => {
                assert_eq!(again.text(), written);
                assert_eq!(sorted(again), sorted(lock));
            }
            Err(error) => panic!("{error}\n{written}"),
        }
    }
});

/// A lock without the order of its lists, which writing changes, and with each wheel once.
fn sorted(mut lock: Lock) -> (Vec<String>, Vec<String>, Vec<String>, Vec<String>) {
    lock.images.iter_mut().for_each(|image| image.packages.sort());
    let mut bases: Vec<_> = lock.bases.iter().map(|base| format!("{base:?}")).collect();
    let mut images: Vec<_> = lock.images.iter().map(|image| format!("{image:?}")).collect();
    let mut wheels: Vec<_> = lock.wheels.iter().map(|wheel| format!("{} {}", wheel.file, wheel.sha256)).collect();
    bases.sort();
    images.sort();
    wheels.sort();
    wheels.dedup();
    (lock.native_gpus, bases, images, wheels)
}
