//! The config of an image with its history, and a recorded speed: any text at all.

#![no_main]

use kiln_engine::fuzzing::seconds;
use kiln_oci::image::{Config, from_json, to_json};
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 64 << 20);

fuzz_target!(|text: &str| {
    for bytes in [0, 1, 1 << 40, u64::MAX] {
        if let Some(seconds) = seconds(text.as_bytes(), bytes) {
            assert!(seconds.is_finite() && seconds >= 0.0, "{seconds}");
        }
    }
    let Ok(mut config) = from_json::<Config>(text.as_bytes(), "a config") else { return };
    config.complete_history();
    let layers = config.history.iter().filter(|entry| !entry.empty_layer).count();
    assert!(layers >= config.rootfs.diff_ids.len(), "a layer has no history");
    config.set_env("KILN", "a=b");
    assert_eq!(config.env("KILN"), Some("a=b"));
    let written = to_json(&config).expect("a config can be written");
    let again: Config = from_json(&written, "a config").expect("it was just written");
    // Numbers of fields that kiln does not know may lose their last digit.
    assert_eq!(
        (again.config.env, again.rootfs, again.history.len()),
        (config.config.env, config.rootfs, config.history.len())
    );
});
