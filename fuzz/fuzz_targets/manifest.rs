//! Documents of registries and layouts: a manifest or an index on the first line, a config on the second, references.

#![no_main]

use kiln_oci::OciError;
use kiln_oci::choose::{Pointed, Shelf, image_for};
use kiln_oci::image::{Descriptor, Index, LoadedImage, MANIFEST, Manifest, from_json, to_json};
use kiln_oci::reach::reach;
use kiln_plan::digest::Digest;
use kiln_plan::platform::Platform;
use kiln_plan::reference::Reference;
use libfuzzer_sys::fuzz_target;

#[global_allocator]
static ALLOCATOR: cap::Cap<std::alloc::System> = cap::Cap::new(std::alloc::System, 64 << 20);

/// A place where every manifest and every config is the same.
struct Two<'a>(&'a [u8], &'a [u8]);

impl Shelf for Two<'_> {
    type Error = OciError;

    fn document(&self, _entry: &Descriptor) -> Result<Vec<u8>, OciError> {
        Ok(self.0.to_vec())
    }

    fn config(&self, _config: &Descriptor) -> Result<Vec<u8>, OciError> {
        Ok(self.1.to_vec())
    }

    fn size(&self, _blob: &Digest) -> Result<u64, OciError> {
        Ok(1)
    }

    fn unusable(&self, problem: String) -> OciError {
        OciError::Layout { path: "here".into(), problem }
    }

    fn is_about_content(&self, _error: &OciError) -> bool {
        true
    }
}

fuzz_target!(|bytes: &[u8]| {
    let at = bytes.iter().position(|byte| *byte == b'\n').unwrap_or(bytes.len());
    let (first, second) = (&bytes[..at], bytes.get(at + 1..).unwrap_or_default());
    if let Ok(Ok(reference)) = std::str::from_utf8(first).map(str::parse::<Reference>) {
        assert_eq!(reference.to_string().parse(), Ok(reference));
    }
    if let Ok(index) = from_json::<Index>(first, "an index") {
        let written = to_json(&index).expect("it was just read");
        let again: Index = from_json(&written, "an index").expect("it was just written");
        assert_eq!(again.manifests.len(), index.manifests.len());
    }
    let platform: Platform = "linux/amd64".parse().expect("a platform");
    let shelf = Two(first, second);
    if let Ok(root) = Pointed::new(Descriptor::of(MANIFEST, first), first.to_vec()) {
        if let Ok(Some(found)) = image_for(&shelf, &root, platform) {
            assert_eq!(found.image.platform, platform);
        }
        if let Ok(reached) = reach(&shelf, root) {
            let count = reached.documents.len();
            assert_eq!(reached.in_oci().expect("it was just read").documents.len(), count);
        }
    }
    let Ok(manifest) = from_json::<Manifest>(first, "a manifest") else { return };
    let Ok(Some(loaded)) = LoadedImage::new(&manifest, first.into(), second.into(), Some(platform)) else { return };
    let layers = loaded.image.layers.clone();
    let Ok(oci) = loaded.in_oci() else { return };
    assert_eq!(oci.image.layers, layers);
    let again: Manifest = from_json(&oci.manifest_bytes, "a manifest").expect("it was just written");
    assert_eq!(again.layers.len(), layers.len());
});
