//! What registries and layouts hold: a manifest on the first line, a config on the second, references, indexes.

#![no_main]

use kiln_oci::image::{Index, LoadedImage, Manifest, from_json, to_json};
use kiln_plan::reference::Reference;
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 64 << 20);

fuzz_target!(|text: &str| {
    let (first, second) = text.split_once('\n').unwrap_or((text, ""));
    if let Ok(reference) = first.parse::<Reference>() {
        assert_eq!(reference.to_string().parse(), Ok(reference));
    }
    if let Ok(index) = from_json::<Index>(first.as_bytes(), "an index") {
        let written = to_json(&index).expect("it was just read");
        let again: Index = from_json(&written, "an index").expect("it was just written");
        assert_eq!(again.manifests.len(), index.manifests.len());
    }
    let Ok(manifest) = from_json::<Manifest>(first.as_bytes(), "a manifest") else { return };
    let Ok(Some(loaded)) = LoadedImage::new(&manifest, first.into(), second.into()) else { return };
    let layers = loaded.image.layers.clone();
    let Ok(oci) = loaded.in_oci() else { return };
    assert_eq!(oci.image.layers, layers);
    let again: Manifest = from_json(&oci.manifest_bytes, "a manifest").expect("it was just written");
    assert_eq!(again.layers.len(), layers.len());
});
