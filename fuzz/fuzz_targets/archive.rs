//! Lists of Debian's archives: packages and those that belong together, signed lists, the configuration of apt, versions.

#![no_main]

use kiln_debian::closure;
use kiln_debian::index::Index;
use kiln_debian::release::{Keyring, Release};
use kiln_debian::sources;
use kiln_debian::version::Version;
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 256 << 20);

fuzz_target!(|bytes: &[u8]| {
    let Ok(text) = std::str::from_utf8(bytes) else { return };
    let mut index = Index::default();
    if index.add(text, 0, "amd64").is_ok() {
        let _ = closure::system(&index, &[]);
    }
    let _ = Release::parse(text);
    assert!(Release::verify(text, &Keyring::default()).is_err(), "nobody is trusted");
    for place in sources::lines(text).into_iter().chain(sources::paragraphs(text)) {
        assert!(!place.uri.is_empty() || text.contains("deb"), "{place:?}");
    }
    let versions: Vec<Version> = text.lines().take(3).filter_map(|line| Version::parse(line).ok()).collect();
    if let [one, two, three] = versions.as_slice() {
        assert_eq!(one.cmp(two), two.cmp(one).reverse());
        assert!(!(one <= two && two <= three) || one <= three, "{one} {two} {three}");
    }
});
