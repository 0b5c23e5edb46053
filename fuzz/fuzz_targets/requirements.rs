//! A requirements file that includes another one: any bytes at all, divided at the first byte 255 behind a possible mark.
//!
//! What is taken must be read by uv as it was read here: each requirement that is written is read again, alone, and says
//! the same.

#![no_main]

use std::io;
use std::path::Path;

use kiln_plan::diagnostic::Place;
use kiln_wheel::requirements::{FileRequirement, Placed, Provided, Requirements, read};
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 256 << 20);

fuzz_target!(|bytes: &[u8]| {
    let (first, second) = match bytes.iter().position(|byte| *byte == 0xff) {
        Some(at) if at > 2 => (&bytes[..at], &bytes[at + 1..]),
        _ => (bytes, &b""[..]),
    };
    let project = Path::new("/project");
    let mut content = |path: &Path| match path.to_str() {
        Some("/project/r.txt") => Ok(first.to_vec()),
        Some("/project/x/s.txt") => Ok(second.to_vec()),
        _ => Err(io::ErrorKind::NotFound.into()),
    };
    match read(project, &project.join("r.txt"), &Provided::new(), &mut content) {
        Ok(found) => check(&found),
        Err(diagnostics) => {
            assert!(!diagnostics.0.is_empty());
            for label in diagnostics.0.iter().flat_map(|diagnostic| &diagnostic.labels) {
                let file = label.file.as_ref().expect("a mistake in no file");
                assert!(file.text.get(label.span.clone()).is_some(), "{:?} is no place in the text", label.span);
            }
        }
    }
});

fn check(found: &Requirements) {
    for line in found.requirements.iter().chain(&found.constraints) {
        inside(&line.place);
        let written = line.value.to_string();
        assert!(!written.contains(['\n', '\r']) && !written.starts_with('-'), "{written:?}");
        let again = again(&written);
        assert_eq!(again.value.to_string(), written);
        assert_eq!((&again.value.name, &again.value.extras), (&line.value.name, &line.value.extras));
    }
}

/// Reads one line that was written.
fn again(written: &str) -> Placed<FileRequirement> {
    let mut content = |_: &Path| Ok(written.as_bytes().to_vec());
    match read(Path::new("/project"), Path::new("/project/again.txt"), &Provided::new(), &mut content) {
        Ok(mut again) if again.requirements.len() == 1 => again.requirements.remove(0),
        other => panic!("{written:?} is read as {other:?}"),
    }
}

fn inside(place: &Place) {
    assert!(place.file.text.get(place.span.clone()).is_some(), "{:?} is no place in the text", place.span);
}
