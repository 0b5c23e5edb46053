//! A `kiln.lock`: any text at all. What is read and written again is the same.

#![no_main]

use kiln_plan::lock::Lock;
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 256 << 20);

fuzz_target!(|text: &str| {
    let Ok(lock) = Lock::parse(text) else { return };
    let written = lock.text();
    match Lock::parse(&written) {
        Ok(again) => {
            assert_eq!(again.text(), written);
            assert_eq!(sorted(again), sorted(lock));
        }
        Err(error) => panic!("{error}\n{written}"),
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
