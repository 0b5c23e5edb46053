//! Credentials of a user: a `config.json` of Docker or podman, a netrc and `NO_PROXY`, all of the same text.

#![no_main]

use kiln_engine::Netrc;
use kiln_plan::reference::Repository;
use kiln_registry::Proxies;
use kiln_registry::fuzzing::credential;
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 64 << 20);

fuzz_target!(|text: &str| {
    for name in ["ghcr.io/acme/app", "docker.io/library/debian", "localhost:5000/a"] {
        let repository: Repository = name.parse().expect("a repository");
        match credential(text, &repository) {
            Ok(Some(found)) => {
                // No secret is ever in a message.
                let shown = format!("{found:?}");
                assert!(shown == "Identity" || shown == format!("Password({})", found.user()));
            }
            Ok(None) => {}
            Err(error) => assert!(error.to_string().len() < 1024 + text.len()),
        }
    }
    let _ = Proxies::new(text, text, text);
    let netrc = Netrc::parse(text);
    for host in ["example.org", "a"] {
        if let Some((login, password)) = netrc.find(host) {
            assert!(login.len() + password.len() <= text.len(), "an entry takes more than there is");
            if !text.contains('"') {
                let whole = |word: &str| !word.contains(char::is_whitespace);
                assert!(whole(&login) && whole(&password), "an entry takes more than a word");
                assert!(text.contains(&login) && text.contains(&password));
            }
        }
    }
    assert_eq!(Netrc::parse("").find("example.org"), None);
});
