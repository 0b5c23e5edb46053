//! A list of the paths of a wheel, as the cache keeps it: compressed JSON, any bytes at all; or JSON that is compressed here.

#![no_main]

use kiln_engine::fuzzing::{read_list, write_list};
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 512 << 20);

fuzz_target!(|bytes: &[u8]| {
    let made = if bytes.starts_with(b"[") { zstd::bulk::compress(bytes, 1).ok() } else { None };
    let Some(list) = read_list(made.as_deref().unwrap_or(bytes)) else { return };
    let written = write_list(&list).expect("memory can be written");
    assert_eq!(read_list(&written), Some(list));
});
