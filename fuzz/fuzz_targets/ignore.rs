//! An ignore file for git and for Docker, and paths below its directory: one on each line after the first empty one.

#![no_main]

use kiln_ignore::Rules;
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 64 << 20);

fuzz_target!(|input: &[u8]| {
    let end = input.windows(2).position(|two| two == b"\n\n").unwrap_or(input.len());
    let (text, paths) = input.split_at(end);
    for rules in [Some(Rules::git(text)), Rules::docker(text).ok()].into_iter().flatten() {
        let lines = text.split(|byte| *byte == b'\n').count();
        let mut unmatched = rules.unmatched();
        for path in paths.split(|byte| *byte == b'\n') {
            let decided = rules.decide(path, true);
            assert!(decided.is_none_or(|decided| (1..=lines).contains(&decided.line)));
            unmatched.see(path, true);
        }
        assert!(unmatched.lines().all(|line| (1..=lines).contains(&line.number)));
    }
});
