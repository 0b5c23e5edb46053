//! Images on a registry: what a reference names, and which of it is for a platform.
//!
//! What stands there was made by many tools over many years. Manifests are Docker's or OCI's, an index may hold
//! attestations (for the platform `unknown/unknown`), other indexes, variants of arm that nobody asks for, or images
//! without a word about their platform, which their configs tell then.

use kiln_plan::digest::Digest;
use kiln_plan::platform::Platform;
use kiln_plan::reference::{Reference, Repository};

use super::{Document, Registries, RegistryError};
use kiln_oci::OciError;
use kiln_oci::image::{
    CONFIG, CONFIG_LIMIT, DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, INDEX, Index, LoadedImage, LoadedImageError,
    MANIFEST, Manifest, from_json,
};

/// Indexes within indexes.
const DEPTH: usize = 4;
/// Docker's media type of a config.
const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";

/// What a reference named when it was asked for.
#[derive(Debug, Clone)]
pub struct RemoteImage {
    /// The digest of the index, where the reference names one.
    pub index: Option<Digest>,
    /// The image for the platform.
    pub loaded: LoadedImage,
}

impl Registries {
    /// The image that a reference names for a platform.
    pub fn image(&self, reference: &Reference, platform: Platform) -> Result<RemoteImage, RegistryError> {
        let named = self.manifest(reference)?;
        let index = is_index(&named.media_type).then_some(named.digest);
        let manifest = self.for_platform(reference, named, platform, 0)?;
        let loaded = self.load(reference, manifest)?;
        if loaded.image.platform != platform {
            return Err(unusable(reference, format!("it is for {}, not for {platform}", loaded.image.platform)));
        }
        Ok(RemoteImage { index, loaded })
    }

    /// Every image that a reference names; attestations and images for other systems are left out.
    pub fn images(&self, reference: &Reference) -> Result<Vec<LoadedImage>, RegistryError> {
        let mut found = Vec::new();
        let mut waiting = vec![(self.manifest(reference)?, 0)];
        while let Some((document, depth)) = waiting.pop() {
            if !is_index(&document.media_type) {
                match self.load(reference, document) {
                    Ok(loaded) => found.push(loaded),
                    // Attestations, charts, images for other systems.
                    Err(RegistryError::Unusable { .. } | RegistryError::Image(OciError::Json { .. })) => {}
                    Err(error) => return Err(error),
                }
                continue;
            }
            let index: Index = from_json(&document.bytes, &format!("the index of `{reference}`"))?;
            let wanted = |entry: &&Descriptor| entry.platform.as_ref().is_none_or(|platform| platform.os == "linux");
            for entry in index.manifests.iter().rev().filter(wanted).filter(|_| depth < DEPTH) {
                waiting.push((self.manifest(&reference.repository.digest(entry.digest))?, depth + 1));
            }
        }
        if found.is_empty() {
            return Err(unusable(reference, "there is no image for linux in it"));
        }
        Ok(found)
    }

    fn for_platform(
        &self,
        reference: &Reference,
        document: Document,
        platform: Platform,
        depth: usize,
    ) -> Result<Document, RegistryError> {
        if !is_index(&document.media_type) {
            return Ok(document);
        }
        let index: Index = from_json(&document.bytes, &format!("the index of `{reference}`"))?;
        let fits = |entry: &&Descriptor| entry.platform.as_ref().is_some_and(|found| found.is(platform));
        if let Some(entry) = index.manifests.iter().find(fits).filter(|_| depth < DEPTH) {
            let found = self.manifest(&reference.repository.digest(entry.digest))?;
            return self.for_platform(reference, found, platform, depth + 1);
        }
        for entry in index.manifests.iter().filter(|entry| entry.platform.is_none() && depth < DEPTH) {
            let found = self.manifest(&reference.repository.digest(entry.digest))?;
            let inner = match self.for_platform(reference, found, platform, depth + 1) {
                Ok(inner) => inner,
                Err(RegistryError::Unusable { .. } | RegistryError::Image(OciError::Json { .. })) => continue,
                Err(error) => return Err(error),
            };
            match self.load(reference, inner.clone()) {
                Ok(loaded) if loaded.image.platform == platform => return Ok(inner),
                Ok(_) | Err(RegistryError::Unusable { .. } | RegistryError::Image(OciError::Json { .. })) => {}
                Err(error) => return Err(error),
            }
        }
        let known = index.manifests.iter().filter_map(|entry| entry.platform.as_ref());
        let mut have: Vec<String> =
            known.filter(|platform| platform.os != "unknown").map(ToString::to_string).collect();
        have.dedup();
        Err(unusable(reference, format!("it has no image for {platform}; it has {}", have.join(", "))))
    }

    /// An image from its manifest: fetches the config.
    fn load(&self, reference: &Reference, document: Document) -> Result<LoadedImage, RegistryError> {
        match document.media_type.as_str() {
            MANIFEST | DOCKER_MANIFEST => {}
            "application/vnd.docker.distribution.manifest.v1+json"
            | "application/vnd.docker.distribution.manifest.v1+prettyjws" => {
                let problem = "its manifest has the format that Docker wrote until 2016: push the image again";
                return Err(unusable(reference, problem));
            }
            other => return Err(unusable(reference, format!("it is no image but `{other}`"))),
        }
        let manifest: Manifest = from_json(&document.bytes, &format!("the manifest of `{reference}`"))?;
        let kind = manifest.config.media_type.as_str();
        if ![CONFIG, DOCKER_CONFIG].contains(&kind) {
            return Err(unusable(reference, format!("it is no image: its config is `{kind}`")));
        }
        let config = self.config(&reference.repository, &manifest)?;
        match LoadedImage::new(&manifest, document.bytes, config) {
            Ok(Some(loaded)) => Ok(loaded),
            Ok(None) => Err(unusable(reference, "it is for a platform that kiln does not build for")),
            Err(LoadedImageError::Json(error)) => Err(error.into()),
            Err(LoadedImageError::Inconsistent(problem)) => Err(unusable(reference, problem)),
        }
    }

    fn config(&self, repository: &Repository, manifest: &Manifest) -> Result<Vec<u8>, RegistryError> {
        self.blob(repository, &manifest.config.digest, CONFIG_LIMIT)
    }
}

fn is_index(media_type: &str) -> bool {
    media_type == INDEX || media_type == DOCKER_INDEX
}

fn unusable(reference: &Reference, problem: impl Into<String>) -> RegistryError {
    RegistryError::Unusable { reference: reference.to_string(), problem: problem.into() }
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::super::testing::FakeRegistry;
    use super::super::{Options, Registries};
    use super::*;

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
