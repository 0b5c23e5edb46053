//! Images that are put on a registry request by request, as no program at hand writes them: curl sends what is said here.
//!
//! BuildKit attaches attestations to images: manifests for no platform, in the same index. Debian's Docker is older than
//! that, so the suite puts such an index together itself. Likewise a base for two platforms, whose files are the same:
//! nothing of the other processor runs here, and what kiln does with a base depends on its facts alone.

use std::path::Path;
use std::process::Command;

use serde_json::{Value, json};

use super::skopeo;
use crate::interop::transports::digest;
use crate::interop::{Result, programs};

const INDEX: &str = "application/vnd.oci.image.index.v1+json";
const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
const CONFIG: &str = "application/vnd.oci.image.config.v1+json";
const STATEMENT: &str = "application/vnd.in-toto+json";

/// A repository of a registry.
pub(crate) struct Repository<'a> {
    /// The address of the registry.
    pub(crate) registry: &'a str,
    /// The path there.
    pub(crate) path: &'a str,
    /// A directory for what is to be sent.
    pub(crate) directory: &'a Path,
}

impl Repository<'_> {
    /// Puts an index under a tag: the image for linux/amd64 that another tag names, and an attestation about it.
    pub(crate) fn attest(&self, image: &str, tag: &str) -> Result<()> {
        let (image, _) = self.image(image)?;
        let statement = json!({
            "_type": "https://in-toto.io/Statement/v0.1",
            "predicateType": "https://slsa.dev/provenance/v0.2",
            "subject": [],
            "predicate": {},
        });
        let mut layer = self.blob(STATEMENT, &statement)?;
        layer["annotations"] = json!({ "in-toto.io/predicate-type": "https://slsa.dev/provenance/v0.2" });
        let config = json!({
            "architecture": "unknown",
            "os": "unknown",
            "config": {},
            "rootfs": { "type": "layers", "diff_ids": [layer["digest"]] },
        });
        let config = self.blob(CONFIG, &config)?;
        let manifest = json!({ "schemaVersion": 2, "mediaType": MANIFEST, "config": config, "layers": [layer] });
        let mut attestation = self.manifest(MANIFEST, &manifest, None)?;
        attestation["platform"] = json!({ "architecture": "unknown", "os": "unknown" });
        attestation["annotations"] = json!({
            "vnd.docker.reference.type": "attestation-manifest",
            "vnd.docker.reference.digest": image["digest"],
        });
        self.index(&[image, attestation], tag)
    }

    /// Puts an index under a tag that holds another index, and says something of its own.
    pub(crate) fn nest(&self, index: &str, tag: &str) -> Result<()> {
        let bytes = skopeo::plain(&format!("{}/{}:{index}", self.registry, self.path))?;
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": [descriptor(INDEX, &bytes)],
            "annotations": { "org.opencontainers.image.version": "1" } });
        self.manifest(INDEX, &index, Some(tag)).map(drop)
    }

    /// Puts an index under a tag: the image for linux/amd64 that another tag names, and the same files for linux/arm64.
    pub(crate) fn double(&self, image: &str, tag: &str) -> Result<()> {
        let (image, mut manifest) = self.image(image)?;
        let config = format!("http://{}/v2/{}/blobs/{}", self.registry, self.path, text(&manifest["config"]["digest"]));
        let mut config: Value = programs::json(curl().arg("--location").arg(config))?;
        config["architecture"] = "arm64".into();
        manifest["config"] = self.blob(CONFIG, &config)?;
        let mut other = self.manifest(MANIFEST, &manifest, None)?;
        other["platform"] = json!({ "architecture": "arm64", "os": "linux" });
        self.index(&[image, other], tag)
    }

    /// The manifest under a tag, as an index names it, and its content.
    fn image(&self, tag: &str) -> Result<(Value, Value)> {
        let bytes = skopeo::plain(&format!("{}/{}:{tag}", self.registry, self.path))?;
        let mut descriptor = descriptor(MANIFEST, &bytes);
        descriptor["platform"] = json!({ "architecture": "amd64", "os": "linux" });
        Ok((descriptor, serde_json::from_slice(&bytes)?))
    }

    fn index(&self, manifests: &[Value], tag: &str) -> Result<()> {
        let index = json!({ "schemaVersion": 2, "mediaType": INDEX, "manifests": manifests });
        self.manifest(INDEX, &index, Some(tag)).map(drop)
    }

    /// Puts a manifest or an index under a tag, or under its digest.
    fn manifest(&self, media_type: &str, content: &Value, tag: Option<&str>) -> Result<Value> {
        let bytes = serde_json::to_vec(content)?;
        let descriptor = descriptor(media_type, &bytes);
        let selector = tag.unwrap_or_else(|| text(&descriptor["digest"]));
        self.put(&format!("http://{}/v2/{}/manifests/{selector}", self.registry, self.path), media_type, &bytes)?;
        Ok(descriptor)
    }

    fn blob(&self, media_type: &str, content: &Value) -> Result<Value> {
        let bytes = serde_json::to_vec(content)?;
        let descriptor = descriptor(media_type, &bytes);
        let begin = format!("http://{}/v2/{}/blobs/uploads/", self.registry, self.path);
        let location = programs::text(curl().args([
            "--request",
            "POST",
            "--output",
            "/dev/null",
            "--write-out",
            "%header{location}",
            &begin,
        ]))?;
        let separator = if location.contains('?') { '&' } else { '?' };
        let url = format!("{location}{separator}digest={}", text(&descriptor["digest"]));
        self.put(&url, "application/octet-stream", &bytes)?;
        Ok(descriptor)
    }

    fn put(&self, url: &str, media_type: &str, bytes: &[u8]) -> Result<()> {
        let file = self.directory.join("to-be-sent");
        fs_err::write(&file, bytes)?;
        let mut command = curl();
        command.args(["--request", "PUT", "--header", &format!("Content-Type: {media_type}"), "--data-binary"]);
        programs::output(command.arg(format!("@{}", file.display())).arg(url)).map(drop)
    }
}

fn curl() -> Command {
    let mut command = Command::new("curl");
    command.args(["--silent", "--show-error", "--fail-with-body", "--noproxy", "*"]);
    command
}

fn descriptor(media_type: &str, bytes: &[u8]) -> Value {
    json!({ "mediaType": media_type, "digest": digest(bytes), "size": bytes.len() })
}

/// A string of a document, or nothing.
fn text(value: &Value) -> &str {
    value.as_str().unwrap_or_default()
}
