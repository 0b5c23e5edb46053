//! A shared object, any bytes at all: pruned, and looked at again.

#![no_main]

use kiln_fatbin::{Decision, Selection, Source, check, list, prune};
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
            assert_eq!(read(&rewrite.of(bytes)), out, "what is read out of a rewrite is what it writes");
            // Sections that overlap are cut with one another: the check finds that, and the file is left as it is.
            if check(bytes, out.as_slice(), &selection).expect("memory can be read").is_ok() {
                assert!(list(out.as_slice()).is_ok(), "a file that passes the check cannot be listed");
            }
        }
    }
});

fn read(source: &dyn Source) -> Vec<u8> {
    let mut content = vec![0; source.size().expect("memory has a size") as usize];
    let mut at = 0;
    while at < content.len() {
        match source.read_at(&mut content[at..], at as u64).expect("memory can be read") {
            0 => break,
            read => at += read,
        }
    }
    content
}
