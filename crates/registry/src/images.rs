//! Images on a registry: what a reference names, and which of it is for a platform.

use kiln_oci::OciError;
use kiln_oci::choose::{self, Pointed, Shelf};
use kiln_oci::image::{CONFIG_LIMIT, Descriptor, LoadedImage};
use kiln_plan::digest::Digest;
use kiln_plan::platform::Platform;
use kiln_plan::reference::Reference;

use super::{Document, Registries, RegistryError};

/// What a reference named when it was asked for.
#[derive(Debug, Clone)]
pub struct RemoteImage {
    /// The digest of the index, where the reference names one.
    pub index: Option<Digest>,
    /// The image for the platform.
    pub loaded: LoadedImage,
}

/// The repository of a reference, as a place of documents.
#[derive(Debug, Clone, Copy)]
pub struct RemoteShelf<'a> {
    registries: &'a Registries,
    reference: &'a Reference,
}

impl Shelf for RemoteShelf<'_> {
    type Error = RegistryError;

    fn document(&self, entry: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        Ok(self.registries.manifest(&self.reference.repository.digest(entry.digest))?.bytes)
    }

    fn config(&self, config: &Descriptor) -> Result<Vec<u8>, RegistryError> {
        self.registries.blob(&self.reference.repository, &config.digest, CONFIG_LIMIT)
    }

    fn size(&self, blob: &Digest) -> Result<u64, RegistryError> {
        match self.registries.blob_size(&self.reference.repository, blob) {
            Err(error) if error.is_not_found() => Ok(0),
            size => size,
        }
    }

    fn unusable(&self, problem: String) -> RegistryError {
        RegistryError::Unusable { reference: self.reference.to_string(), problem }
    }

    fn is_about_content(&self, error: &RegistryError) -> bool {
        matches!(error, RegistryError::Unusable { .. } | RegistryError::Image(OciError::Json { .. }))
    }
}

impl RemoteShelf<'_> {
    /// Returns what the reference names.
    pub fn root(&self) -> Result<Pointed, RegistryError> {
        let Document { media_type, digest, bytes } = self.registries.manifest(self.reference)?;
        let entry = Descriptor { digest, size: bytes.len() as u64, ..Descriptor::of(&media_type, b"") };
        Pointed::new(entry, bytes).map_err(|problem| self.unusable(problem))
    }

    /// Returns every image within a document; attestations and images for other systems are left out.
    pub fn images(&self, root: Pointed) -> Result<Vec<LoadedImage>, RegistryError> {
        let found = choose::images(self, vec![((), root)])?;
        if found.is_empty() {
            return Err(self.unusable("there is no image for linux in it".into()));
        }
        Ok(found.into_iter().map(|(_, image)| image).collect())
    }

    /// Returns the image for a platform within a document.
    pub fn image_for(&self, root: &Pointed, platform: Platform) -> Result<LoadedImage, RegistryError> {
        match choose::image_for(self, root, platform)? {
            Some(loaded) => Ok(loaded),
            None => Err(self.unusable(choose::none_for(self, platform, &root.entries()?))),
        }
    }
}

impl Registries {
    /// The repository of a reference, as a place of documents.
    pub fn shelf<'a>(&'a self, reference: &'a Reference) -> RemoteShelf<'a> {
        RemoteShelf { registries: self, reference }
    }

    /// The image that a reference names for a platform.
    pub fn image(&self, reference: &Reference, platform: Platform) -> Result<RemoteImage, RegistryError> {
        let shelf = self.shelf(reference);
        let root = shelf.root()?;
        let index = root.is_index().then_some(root.entry.digest);
        Ok(RemoteImage { index, loaded: shelf.image_for(&root, platform)? })
    }

    /// Every image that a reference names; attestations and images for other systems are left out.
    pub fn images(&self, reference: &Reference) -> Result<Vec<LoadedImage>, RegistryError> {
        let shelf = self.shelf(reference);
        shelf.images(shelf.root()?)
    }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use kiln_oci::image::{CONFIG, DOCKER_INDEX, DOCKER_MANIFEST, INDEX, MANIFEST};

    use super::super::testing::FakeRegistry;
    use super::super::{Options, Registries};
    use super::*;

    const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

    struct Shelf {
        registry: FakeRegistry,
        client: Registries,
    }

    impl Shelf {
        fn new() -> Self {
            let (cancel, reporter) = (kiln_plan::event::Cancel::default(), kiln_plan::event::Silent);
            let client = Registries::new(Options::default(), &cancel, std::sync::Arc::new(reporter)).unwrap();
            Self { registry: FakeRegistry::start(), client }
        }

        fn reference(&self) -> Reference {
            format!("{}/a:t", self.registry.address()).parse().unwrap()
        }

        /// Puts an image with one layer there, in Docker's words or OCI's; how an index points at it.
        fn image(&self, docker: bool, cpu: &str, config: Value) -> Value {
            let layer = self.registry.add_blob("a", cpu.as_bytes());
            let mut whole =
                json!({ "architecture": cpu, "os": "linux", "rootfs": { "type": "layers", "diff_ids": [layer] } });
            whole.as_object_mut().unwrap().extend(config.as_object().unwrap().clone());
            let config = whole.to_string();
            let types = match docker {
                true => (DOCKER_MANIFEST, DOCKER_CONFIG, "application/vnd.docker.image.rootfs.diff.tar.gzip"),
                false => (MANIFEST, CONFIG, "application/vnd.oci.image.layer.v1.tar+gzip"),
            };
            let config_digest = self.registry.add_blob("a", config.as_bytes());
            let manifest = json!({
                "schemaVersion": 2,
                "mediaType": types.0,
                "config": { "mediaType": types.1, "digest": config_digest, "size": config.len() },
                "layers": [{ "mediaType": types.2, "digest": layer, "size": cpu.len() }],
            })
            .to_string();
            let digest = Digest::of(manifest.as_bytes());
            self.registry.add_manifest("a", &digest.to_string(), types.0, manifest.as_bytes());
            json!({ "mediaType": types.0, "digest": digest, "size": manifest.len() })
        }

        fn index(&self, media_type: &str, manifests: Vec<Value>) {
            let index = json!({ "schemaVersion": 2, "mediaType": media_type, "manifests": manifests }).to_string();
            self.registry.add_manifest("a", "t", media_type, index.as_bytes());
        }

        fn find(&self, platform: &str) -> Result<RemoteImage, RegistryError> {
            self.client.image(&self.reference(), platform.parse().unwrap())
        }
    }

    fn on(mut entry: Value, platform: Value) -> Value {
        entry["platform"] = platform;
        entry
    }

    #[test]
    fn an_image_is_found_among_attestations_and_variants_of_arm() {
        for (docker, kind) in [(true, DOCKER_INDEX), (false, INDEX)] {
            let shelf = Shelf::new();
            let attestation =
                on(shelf.image(docker, "riscv64", json!({})), json!({ "architecture": "unknown", "os": "unknown" }));
            let arm = |variant: &str, cpu: &str| {
                on(
                    shelf.image(docker, cpu, json!({})),
                    json!({ "architecture": "arm", "os": "linux", "variant": variant }),
                )
            };
            let arm64 = shelf.image(docker, "arm64", json!({}));
            let amd64 = shelf.image(docker, "amd64", json!({}));
            shelf.index(
                kind,
                vec![
                    attestation,
                    arm("v6", "arm"),
                    arm("v7", "arm"),
                    on(arm64, json!({ "architecture": "arm64", "os": "linux", "variant": "v8" })),
                    on(amd64, json!({ "architecture": "amd64", "os": "linux" })),
                ],
            );
            for platform in ["linux/amd64", "linux/arm64"] {
                let found = shelf.find(platform).unwrap();
                assert_eq!(found.loaded.image.platform.to_string(), platform);
                assert!(found.index.is_some());
            }
            assert_eq!(shelf.client.images(&shelf.reference()).unwrap().len(), 2);
        }
    }

    #[test]
    fn an_index_that_does_not_tell_platforms_is_searched() {
        let shelf = Shelf::new();
        let entries = vec![shelf.image(false, "arm64", json!({})), shelf.image(true, "amd64", json!({}))];
        shelf.index(INDEX, entries);
        assert_eq!(shelf.find("linux/amd64").unwrap().loaded.image.platform.to_string(), "linux/amd64");
    }

    #[test]
    fn configs_may_be_silent_or_null() {
        let shelf = Shelf::new();
        let odd = json!({ "config": null, "history": null, "container": "x" });
        let entry = shelf.image(true, "amd64", odd);
        let digest = entry["digest"].as_str().unwrap().to_owned();
        let reference: Reference = format!("{}/a@{digest}", shelf.registry.address()).parse().unwrap();
        let found = shelf.client.image(&reference, "linux/amd64".parse().unwrap()).unwrap();
        assert_eq!(found.index, None);
        assert_eq!(found.loaded.config.history, []);
    }

    #[test]
    fn what_is_no_image_for_the_platform_says_what_it_is() {
        let shelf = Shelf::new();
        let arm = on(shelf.image(false, "arm64", json!({})), json!({ "architecture": "arm64", "os": "linux" }));
        shelf.index(INDEX, vec![arm]);
        let problem = |shelf: &Shelf| shelf.find("linux/amd64").unwrap_err().to_string();
        assert!(
            problem(&shelf).ends_with("it has no image for linux/amd64; it has linux/arm64"),
            "{}",
            problem(&shelf)
        );
        let chart = json!({ "schemaVersion": 2, "mediaType": MANIFEST,
            "config": { "mediaType": "application/vnd.cncf.helm.config.v1+json", "digest": Digest::of(b""), "size": 0 },
            "layers": [] });
        shelf.registry.add_manifest("a", "t", MANIFEST, chart.to_string().as_bytes());
        assert!(problem(&shelf).contains("helm"), "{}", problem(&shelf));
        let old = "application/vnd.docker.distribution.manifest.v1+prettyjws";
        shelf.registry.add_manifest("a", "t", old, b"{\"schemaVersion\":1}");
        assert!(problem(&shelf).contains("until 2016"), "{}", problem(&shelf));
    }
}
