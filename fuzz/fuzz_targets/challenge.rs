//! What guards a registry: a `WWW-Authenticate` header on the first line, the answer of a token service behind it.

#![no_main]

use std::time::Duration;

use kiln_registry::fuzzing::{challenge, token};
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 64 << 20);

fuzz_target!(|text: &str| {
    let (header, answer) = text.split_once('\n').unwrap_or((text, ""));
    if let Some((realm, service, scope)) = challenge(header) {
        let bound = 2 * header.len();
        assert!([service, scope].iter().flatten().all(|value| value.len() <= bound));
        // An address is written with escapes: three bytes for one, and what its scheme adds.
        assert!(realm.len() <= 12 * header.len() + 64);
    }
    if let Some((value, life)) = token(answer.as_bytes()) {
        let secret = value.strip_prefix(b"Bearer ").expect("the token of a bearer");
        assert!(!secret.is_empty() && !secret.iter().any(|byte| matches!(byte, b'\r' | b'\n' | 0)));
        assert!(life <= Duration::from_secs(86_400), "{life:?}");
    }
});
