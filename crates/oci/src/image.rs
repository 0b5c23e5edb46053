//! Manifests, configs and indexes of images (OCI image specification 1.1), and how an image is composed onto another.
//!
//! Fields that kiln does not know are kept as they are: a base may say things about itself that matter to others.

use std::collections::BTreeMap;

use kiln_plan::digest::Digest;
use kiln_plan::platform::Platform;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::OciError;
pub use crate::json::{Foreign, from_json};
use crate::layer::{Layer, MediaType};

/// Media type of a manifest.
pub const MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
/// Media type of an index.
pub const INDEX: &str = "application/vnd.oci.image.index.v1+json";
/// Docker's media type of a manifest (image manifest version 2, schema 2).
pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
/// Docker's media type of an index.
pub const DOCKER_INDEX: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
/// Bytes that a config may have.
pub const CONFIG_LIMIT: u64 = 16 << 20;
/// Media type of a config.
pub const CONFIG: &str = "application/vnd.oci.image.config.v1+json";

/// What points at content.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// Media type; empty where nobody says.
    #[serde(default)]
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes; 0 where nobody says.
    #[serde(default)]
    pub size: u64,
    /// What it runs on, where it is an image.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub platform: Option<PlatformObject>,
    /// Where else the content may be had: said of layers that registries may not distribute.
    #[serde(skip_serializing_if = "Vec::is_empty", default)]
    pub urls: Vec<String>,
    /// Remarks.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub annotations: BTreeMap<String, String>,
    /// Unknown members.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Descriptor {
    /// Points at some bytes.
    pub fn of(media_type: &str, bytes: &[u8]) -> Self {
        Self {
            media_type: media_type.to_owned(),
            digest: Digest::of(bytes),
            size: bytes.len() as u64,
            platform: None,
            urls: Vec::new(),
            annotations: BTreeMap::new(),
            other: BTreeMap::new(),
        }
    }

    /// Returns true for a layer that registries may not distribute, and that is at other addresses.
    pub(crate) fn is_elsewhere(&self) -> bool {
        let foreign = self.media_type.contains("foreign") || self.media_type.contains("nondistributable");
        foreign && !self.urls.is_empty()
    }

    /// Returns false where it says that it is for another system than Linux.
    pub(crate) fn may_be_linux(&self) -> bool {
        self.platform.as_ref().is_none_or(|platform| matches!(platform.os.as_str(), "" | "linux"))
    }
}

/// A platform as indexes write it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PlatformObject {
    /// `amd64`, `arm64`; empty where nobody says.
    #[serde(default)]
    pub architecture: String,
    /// `linux`; empty where nobody says.
    #[serde(default)]
    pub os: String,
    /// `v8`.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub variant: Option<String>,
    /// Unknown members.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl std::fmt::Display for PlatformObject {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.iter().filter(|variant| !variant.is_empty()).try_for_each(|variant| write!(f, "/{variant}"))
    }
}

impl PlatformObject {
    /// How indexes write a platform.
    pub fn new(platform: Platform) -> Self {
        let (architecture, os) = (platform.cpu.oci().into(), "linux".into());
        Self { architecture, os, variant: None, other: BTreeMap::new() }
    }

    /// Returns true where it says nothing that another platform says: what is empty is not said.
    pub fn may_be(&self, platform: Platform) -> bool {
        let said = |said: &str, one: &str| said.is_empty() || said == one;
        let variant = self.variant.as_deref().is_none_or(|variant| matches!(variant, "" | "v8"));
        said(&self.os, "linux") && said(&self.architecture, platform.cpu.oci()) && variant
    }

    /// Returns true where it says which platform it is.
    pub fn is_complete(&self) -> bool {
        !self.os.is_empty() && !self.architecture.is_empty()
    }
}

/// An index: one image for several platforms.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    #[serde(default)]
    pub schema_version: u32,
    /// [`INDEX`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub media_type: Option<String>,
    /// The manifests. What has no SHA-256 digest cannot be asked for, and is left out.
    #[serde(default, deserialize_with = "addressable")]
    pub manifests: Vec<Descriptor>,
    /// Unknown members.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

fn addressable<'de, D: serde::Deserializer<'de>>(from: D) -> Result<Vec<Descriptor>, D::Error> {
    let mut entries = Vec::<Value>::deserialize(from)?;
    entries.retain(|entry| entry["digest"].as_str().is_some_and(|digest| digest.parse::<Digest>().is_ok()));
    entries.into_iter().map(|entry| Descriptor::deserialize(entry).map_err(serde::de::Error::custom)).collect()
}

impl Index {
    /// An index of these manifests.
    pub fn new(manifests: Vec<Descriptor>) -> Self {
        Self { schema_version: 2, media_type: Some(INDEX.into()), manifests, other: BTreeMap::new() }
    }
}

/// A manifest: a config and layers.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    #[serde(default)]
    pub schema_version: u32,
    /// [`MANIFEST`].
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub media_type: Option<String>,
    /// The config.
    pub config: Descriptor,
    /// The layers, the lowest first.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    /// Remarks.
    #[serde(skip_serializing_if = "BTreeMap::is_empty", default)]
    pub annotations: BTreeMap<String, String>,
}

/// A config: how to run an image, and the diff ids of its layers.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Config {
    /// When it was made (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub created: Option<String>,
    /// `amd64`, `arm64`; empty where nobody says.
    #[serde(default)]
    pub architecture: String,
    /// `linux`; empty where nobody says.
    #[serde(default)]
    pub os: String,
    /// How to run it.
    #[serde(default)]
    pub config: RunConfig,
    /// Diff ids.
    #[serde(default)]
    pub rootfs: RootFs,
    /// How each layer came to be.
    #[serde(default)]
    pub history: Vec<History>,
    /// Unknown members.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// How to run an image.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "PascalCase", default, expecting = "an object")]
pub struct RunConfig {
    /// `name`, `uid`, `uid:gid`.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub user: String,
    /// `NAME=value`.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub env: Vec<String>,
    /// What is run.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub entrypoint: Vec<String>,
    /// Its arguments.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub cmd: Vec<String>,
    /// Working directory.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub working_dir: String,
    /// Labels.
    #[serde(skip_serializing_if = "BTreeMap::is_empty")]
    pub labels: BTreeMap<String, String>,
    /// Unknown members.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

/// Diff ids, the lowest first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type")]
    pub kind: String,
    /// The diff ids.
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: "layers".into(), diff_ids: Vec::new() }
    }
}

/// How a layer came to be.
#[derive(Debug, Clone, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct History {
    /// When (RFC 3339).
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub created: Option<String>,
    /// By what.
    #[serde(skip_serializing_if = "Option::is_none", default)]
    pub created_by: Option<String>,
    /// Whether there is no layer for it.
    #[serde(skip_serializing_if = "std::ops::Not::not", default)]
    pub empty_layer: bool,
    /// Unknown members.
    #[serde(flatten)]
    pub other: BTreeMap<String, Value>,
}

impl Config {
    /// Returns the platform that it is for; what it does not say is as `told`.
    pub fn platform(&self, told: Option<Platform>) -> Option<Platform> {
        let os = if self.os.is_empty() { "linux" } else { &self.os };
        match self.architecture.as_str() {
            "" => told.filter(|_| os == "linux"),
            cpu => format!("{os}/{cpu}").parse().ok(),
        }
    }

    /// Says the platform, where it is not said.
    pub fn say_platform(&mut self, platform: Platform) {
        for (said, one) in [(&mut self.architecture, platform.cpu.oci()), (&mut self.os, "linux")] {
            if said.is_empty() {
                one.clone_into(said);
            }
        }
    }

    /// A config without layers.
    pub fn scratch(platform: Platform) -> Self {
        Self { architecture: platform.cpu.oci().into(), os: "linux".into(), ..Self::default() }
    }

    /// Sets an environment variable, replacing those of the same name in the place of the first.
    pub fn set_env(&mut self, name: &str, value: &str) {
        let entry = format!("{name}={value}");
        let same = |other: &String| other.split('=').next() == Some(name);
        match self.config.env.iter().position(same) {
            Some(first) => {
                let mut at = 0;
                self.config.env.retain(|other| {
                    at += 1;
                    at == first + 1 || !same(other)
                });
                self.config.env[first] = entry;
            }
            None => self.config.env.push(entry),
        }
    }

    /// The value of an environment variable.
    pub fn env(&self, name: &str) -> Option<&str> {
        self.config.env.iter().rev().find_map(|entry| entry.strip_prefix(name)?.strip_prefix('='))
    }

    /// Gives every layer below one history entry, and every entry a time: tools that count the two lists, or that take no time
    /// for the year 1, need both. Entries of more layers than there are go.
    pub fn complete_history(&mut self) {
        let layers = self.rootfs.diff_ids.len();
        let mut told = 0;
        self.history.retain(|entry| {
            told += usize::from(!entry.empty_layer);
            entry.empty_layer || told <= layers
        });
        for _ in told..layers {
            self.history.push(History { created_by: Some("(base)".into()), ..History::default() });
        }
        for entry in &mut self.history {
            entry.created =
                entry.created.take().filter(|time| !time.starts_with("0001-")).or_else(|| self.created.clone());
        }
    }

    /// Removes the instructions that a Dockerfile's build would run (`ONBUILD`); returns how many there are, if any.
    pub fn clear_triggers(&mut self) -> Option<usize> {
        let triggers = self.config.other.remove("OnBuild")?;
        triggers.as_array().map(Vec::len).filter(|triggers| *triggers > 0)
    }
}

/// An image on one platform: what is needed to go on from it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Image {
    /// What it runs on.
    pub platform: Platform,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// The manifest's size in bytes.
    pub manifest_size: u64,
    /// The digest of its config.
    pub config: Digest,
    /// Its layers, the lowest first.
    pub layers: Vec<Layer>,
}

/// An image with the documents that describe it, wherever they were read.
#[derive(Debug, Clone)]
pub struct LoadedImage {
    /// Manifest, layers and so on.
    pub image: Image,
    /// Its config.
    pub config: Config,
    /// The bytes of its manifest.
    pub manifest_bytes: Vec<u8>,
    /// The bytes of its config.
    pub config_bytes: Vec<u8>,
}

impl LoadedImage {
    /// An image from its documents; nothing if it is for a platform that kiln does not build for. Where its config does
    /// not say which, it is for the platform that whoever points at it names.
    pub fn new(
        manifest: &Manifest,
        manifest_bytes: Vec<u8>,
        config_bytes: Vec<u8>,
        told: Option<Platform>,
    ) -> Result<Option<Self>, LoadedImageError> {
        let config: Config = from_json(&config_bytes, &format!("the config {}", manifest.config.digest))?;
        let Some(platform) = config.platform(told) else { return Ok(None) };
        let image = Image {
            platform,
            manifest: Digest::of(&manifest_bytes),
            manifest_size: manifest_bytes.len() as u64,
            config: manifest.config.digest,
            layers: manifest.layers(&config).map_err(LoadedImageError::Inconsistent)?,
        };
        Ok(Some(Self { image, config, manifest_bytes, config_bytes }))
    }

    /// The same image in OCI's words throughout: where another format describes it, its manifest is written anew, with
    /// the same config and layers.
    pub fn in_oci(mut self) -> Result<Self, OciError> {
        let manifest: Manifest = from_json(&self.manifest_bytes, &format!("the manifest {}", self.image.manifest))?;
        let spoken = manifest.media_type.as_deref().is_none_or(|kind| kind == MANIFEST);
        let oci = |kind: &str| kind.starts_with("application/vnd.oci.");
        if spoken && oci(&manifest.config.media_type) && manifest.layers.iter().all(|layer| oci(&layer.media_type)) {
            return Ok(self);
        }
        let config = Descriptor::of(CONFIG, &self.config_bytes);
        self.manifest_bytes = to_json(&Manifest::new(config, &self.image.layers))?;
        self.image.manifest = Digest::of(&self.manifest_bytes);
        self.image.manifest_size = self.manifest_bytes.len() as u64;
        Ok(self)
    }
}

/// Why documents are not those of an image.
#[derive(Debug, thiserror::Error)]
pub enum LoadedImageError {
    /// One of them is not what it should be.
    #[error(transparent)]
    Json(#[from] OciError),
    /// They contradict one another: a clause.
    #[error("{0}")]
    Inconsistent(String),
}

/// Serializes as images are hashed: without spaces, with a stable order.
pub fn to_json<T: Serialize>(value: &T) -> Result<Vec<u8>, OciError> {
    serde_json::to_vec(value).map_err(|source| OciError::Json { what: "a manifest".into(), source })
}

impl Manifest {
    /// The manifest of a config and layers.
    pub fn new(config: Descriptor, layers: &[Layer]) -> Self {
        let layers = layers
            .iter()
            .map(|layer| Descriptor {
                media_type: match layer.urls.as_slice() {
                    [] => layer.media_type.as_str().to_owned(),
                    _ => layer.media_type.as_str().replace(".layer.", ".layer.nondistributable."),
                },
                digest: layer.digest,
                size: layer.size,
                urls: layer.urls.clone(),
                ..Descriptor::of("", b"")
            })
            .collect();
        Self { schema_version: 2, media_type: Some(MANIFEST.into()), config, layers, annotations: BTreeMap::new() }
    }

    /// The layers, with the diff ids of the config.
    pub fn layers(&self, config: &Config) -> Result<Vec<Layer>, String> {
        let (layers, ids) = (&self.layers, &config.rootfs.diff_ids);
        if layers.len() != ids.len() {
            return Err(format!("its manifest has {} layers and its config {}", layers.len(), ids.len()));
        }
        let layer = |(layer, diff_id): (&Descriptor, &Digest)| {
            let media_type = match layer.media_type.as_str() {
                "" if layer.digest == *diff_id => Some(MediaType::Tar),
                // Gzip is what layers have where nobody says; whoever reads one looks at its first bytes.
                "" => Some(MediaType::Gzip),
                said => MediaType::parse(said),
            };
            let media_type =
                media_type.ok_or_else(|| format!("it has a layer of the unknown type `{}`", layer.media_type))?;
            let urls = if layer.is_elsewhere() { layer.urls.clone() } else { Vec::new() };
            Ok(Layer { media_type, digest: layer.digest, diff_id: *diff_id, size: layer.size, urls })
        };
        layers.iter().zip(ids).map(layer).collect()
    }
}

impl MediaType {
    /// As manifests write it.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Tar => "application/vnd.oci.image.layer.v1.tar",
            Self::Gzip => "application/vnd.oci.image.layer.v1.tar+gzip",
            Self::Zstd => "application/vnd.oci.image.layer.v1.tar+zstd",
        }
    }

    /// From OCI's or Docker's name.
    pub fn parse(text: &str) -> Option<Self> {
        match text.replace("nondistributable.", "").replace("foreign.", "").as_str() {
            "application/vnd.oci.image.layer.v1.tar" | "application/vnd.docker.image.rootfs.diff.tar" => {
                Some(Self::Tar)
            }
            "application/vnd.oci.image.layer.v1.tar+gzip" | "application/vnd.docker.image.rootfs.diff.tar.gzip" => {
                Some(Self::Gzip)
            }
            "application/vnd.oci.image.layer.v1.tar+zstd" | "application/vnd.docker.image.rootfs.diff.tar.zstd" => {
                Some(Self::Zstd)
            }
            _ => None,
        }
    }
}
