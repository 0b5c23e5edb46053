//! A `pylock.toml` (PEP 751), as uv and other tools write it: any text at all.

#![no_main]

use kiln_plan::platform::Platform;
use kiln_wheel::name::WheelName;
use kiln_wheel::pylock::{Choice, LockedPackage, PylockError, best, environment, file_name, parse};
use kiln_wheel::tags::Tags;
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 64 << 20);

fuzz_target!(|text: &str| {
    let platform = Platform::ALL[0];
    let Ok(environment) = environment("3.11", "3.11.2", platform) else { return };
    assert!(file_name(text).len() <= 3 * text.len(), "decoding makes a name longer");
    let (groups, extras) = (["dev".to_owned()], ["x".to_owned()]);
    for groups in [None, Some(&groups[..])] {
        check(parse(text, &environment, Choice { groups, extras: &extras }));
        check(parse(text, &environment, Choice { groups, extras: &[] }));
    }
});

fn check(packages: Result<Vec<LockedPackage>, PylockError>) {
    let Ok(packages) = packages else { return };
    let tags = Tags::new(11, Platform::ALL[0], None);
    for package in packages {
        let normal = kiln_wheel::name_of(&package.name).expect("names are checked");
        assert_eq!(normal.to_string(), package.name, "a name is not normalised");
        for wheel in &package.wheels {
            assert!(wheel.file.ends_with(".whl"), "{} is no wheel", wheel.file);
        }
        if let Some(chosen) = best(&package.wheels, &tags) {
            let name: WheelName = chosen.file.parse().expect("only names of wheels are chosen");
            assert!(!chosen.file.contains(['/', '\\', '\0']), "{} leaves its directory", chosen.file);
            assert!(tags.fit(&name).is_some());
        }
    }
}
