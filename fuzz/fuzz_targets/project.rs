//! A `pyproject.toml` and a `poetry.lock`: any text at all, divided at the first byte 1.

#![no_main]

use std::path::Path;

use kiln_plan::diagnostic::Diagnostics;
use kiln_wheel::pylock::{Choice, environment};
use kiln_wheel::requirements::{Provided, Requirements, poetry, pyproject};
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 256 << 20);

fuzz_target!(|text: &str| {
    let (project, lock) = text.split_once('\x01').unwrap_or((text, text));
    let Ok(environment) = environment("3.11", "3.11.2", kiln_plan::platform::Platform::ALL[0]) else { return };
    let (groups, extras) = (["dev".to_owned(), "a".to_owned()], ["x".to_owned()]);
    let directory = Path::new("/project");
    for (groups, extras, dev) in [(&groups[..], &extras[..], true), (&[], &[], false)] {
        let choice = pyproject::Choice { groups, extras, dev };
        let mut content = |_: &Path| Ok(project.as_bytes().to_vec());
        check(pyproject::read(directory, &directory.join("pyproject.toml"), choice, &Provided::new(), &mut content));
        let choice = Choice { groups: Some(groups).filter(|groups| !groups.is_empty()), extras };
        let provided = Provided::new();
        let written = poetry::Written { text: lock, path: "poetry.lock", project: Some(project), directory, provided: &provided };
        check(poetry::read(written, &environment, choice, dev));
    }
    if let Some(settings) = pyproject::BesideLock::read(project).map(|beside| beside.settings(directory)) {
        assert!(settings.parse::<toml::Table>().is_ok(), "{settings}");
    }
});

fn check(found: Result<Requirements, Diagnostics>) {
    match found {
        Ok(found) => {
            for line in found.requirements.iter().chain(&found.constraints).chain(&found.overrides) {
                let written = line.value.to_string();
                assert!(!written.contains(['\n', '\r']) && !written.starts_with('-'), "{written:?}");
                assert!(line.place.file.text.get(line.place.span.clone()).is_some());
            }
        }
        Err(diagnostics) => {
            assert!(!diagnostics.0.is_empty());
            for label in diagnostics.0.iter().flat_map(|diagnostic| &diagnostic.labels) {
                let file = label.file.as_ref().expect("a mistake in no file");
                assert!(file.text.get(label.span.clone()).is_some(), "{:?} is no place in the text", label.span);
            }
        }
    }
}
