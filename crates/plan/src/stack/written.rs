//! The stack file as written: what TOML holds, with the place of every value, before any of it means anything.
//!
//! The JSON schema for editors is derived from these types, so their doc comments are documentation that users read.

use std::collections::BTreeMap;

use schemars::JsonSchema;
use serde::Deserialize;

use super::spanned::Spanned;

mod copy;
mod image;
mod python;
mod run;
mod scalar;
mod system;

pub use copy::*;
pub use image::*;
pub use python::*;
pub use run::*;
use scalar::scalar_or_table;
pub use system::*;

/// A string of the stack file, in which `${name}` stands for a variable.
pub type Text = Spanned<String>;

/// A stack: targets, wheels and images, built with `kiln build`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct StackFile {
    /// The stack's name and where its images go.
    pub stack: StackTable,
    /// Variables with their defaults, used as `${name}` in strings and overridden with `--var name=value`.
    #[serde(default)]
    pub vars: BTreeMap<Spanned<String>, Spanned<String>>,
    /// What everything is built for.
    #[serde(default)]
    pub target: TargetTable,
    /// Other choices of the same stack, built with `--variant NAME` and locked beside one another.
    #[serde(default)]
    pub variants: BTreeMap<Spanned<String>, VariantTable>,
    /// Where Python packages come from; the default is uv's.
    #[serde(default)]
    pub index: IndexTable,
    /// The choice of versions of Python packages, for every image.
    #[serde(default)]
    pub resolution: ResolutionTable,
    /// What machines share with one another.
    pub cache: Option<CacheTable>,
    /// Secrets that commands read, by name.
    #[serde(default)]
    pub secrets: BTreeMap<Spanned<String>, SecretTable>,
    /// Lists of requirements that images share as `"@name"`.
    #[serde(default)]
    pub groups: BTreeMap<Spanned<String>, Vec<Text>>,
    /// Wheels that are compiled from source.
    #[serde(default)]
    pub wheels: BTreeMap<Spanned<String>, WheelTable>,
    /// The images, by name.
    #[serde(default)]
    pub images: BTreeMap<Spanned<String>, ImageTable>,
}

/// The stack's name and where its images go.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct StackTable {
    /// Lower-case name: a component of image references.
    pub name: Text,
    /// Images are `<registry>/<name>/<image>:<tag>`.
    pub registry: Option<Text>,
    /// Tags of every image. Default: `["latest"]`.
    pub tags: Option<Vec<Text>>,
}

/// What machines share with one another.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CacheTable {
    /// A repository on a registry that keeps results of steps: read by everybody, written with `--push` where allowed.
    pub remote: Text,
    /// `"registry"` (the default): whoever may write the repository is trusted. Or public keys (`kiln cache keygen`):
    /// only what is signed with one of them counts.
    pub trust: Option<Spanned<TrustWritten>>,
}

/// Whom the cache is believed, as written.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(untagged)]
pub enum TrustWritten {
    /// `registry`.
    Word(String),
    /// Public keys.
    Keys(Vec<String>),
}

/// What everything is built for.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct TargetTable {
    /// `linux/amd64`, `linux/arm64`. Default: this machine's.
    pub platforms: Option<Vec<Text>>,
    /// Python version, `MAJOR.MINOR`.
    pub python: Option<Text>,
    /// CUDA release such as `13.0`, or `none` for CPU builds.
    pub cuda: Option<Text>,
    /// GPU names (`L4`, `H100`), capabilities (`9.0a`, `8.0+PTX`), or `native` for this machine's GPUs.
    #[serde(default)]
    pub gpus: Vec<Text>,
}

/// Another choice of the same stack: what it says takes the place of what stands in `[target]` and `[vars]`.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct VariantTable {
    /// CUDA release, or `none`.
    pub cuda: Option<Text>,
    /// Python version.
    pub python: Option<Text>,
    /// GPUs.
    pub gpus: Option<Vec<Text>>,
    /// Variables that `[vars]` declares.
    #[serde(default)]
    pub vars: BTreeMap<Spanned<String>, Spanned<String>>,
}

/// Where Python packages come from.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct IndexTable {
    /// The index that is asked last. Default: uv's.
    pub default: Option<Text>,
    /// Indexes that are asked before, in order; the first that has a package wins.
    #[serde(default)]
    pub extra: Vec<Text>,
    /// Packages that come from one index only: name to URL.
    #[serde(default)]
    pub packages: BTreeMap<Spanned<String>, Text>,
    /// Directories or pages with wheels, besides the indexes.
    #[serde(default)]
    pub find_links: Vec<Text>,
}

/// A wheel that is compiled from source.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct WheelTable {
    /// `{ sdist = VERSION }`, `{ git = URL, rev = REV }`, `{ url = URL, sha256 = HEX }` or `{ path = PATH }`.
    pub source: Option<BTreeMap<String, Spanned<serde_json::Value>>>,
    /// The version, known before it is built.
    pub version: Option<Text>,
    /// Its requirements, known before it is built.
    pub dependencies: Option<Vec<Text>>,
    /// Requirements of the build environment.
    #[serde(default)]
    pub requires: Vec<Text>,
    /// System packages of the build environment.
    #[serde(default)]
    pub system: Vec<Text>,
    /// Whether the finished wheel must hold the `exact` architectures or may be `covered`.
    pub accept: Option<Text>,
    /// Variables of the build.
    #[serde(default)]
    pub env: BTreeMap<String, Text>,
    /// Patch files, or `{ find, replace }`.
    #[serde(default)]
    pub patches: Vec<serde_json::Value>,
    /// GPUs, instead of the target's.
    pub gpus: Option<Vec<Text>>,
    /// A first guess of what one compile job takes, such as `3GiB`.
    pub memory_per_job: Option<Text>,
    /// Names for the progress line.
    #[serde(default)]
    pub stages: Vec<serde_json::Value>,
}
