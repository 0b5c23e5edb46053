//! The stack file as written: what TOML holds, with the place of every value, before any of it means anything.
//!
//! The JSON schema for editors is derived from these types, so their doc comments are documentation that users read.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::MapAccessDeserializer;

use super::spanned::Spanned;
use crate::base::BaseFacts;

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
    /// Where Python packages come from; the default is uv's.
    #[serde(default)]
    pub index: IndexTable,
    /// What machines share with one another.
    pub cache: Option<CacheTable>,
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

/// One image.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ImageTable {
    /// What the image stands on.
    pub from: Spanned<FromWritten>,
    /// What is inside the base, where it is to be said rather than looked up.
    pub base_facts: Option<BaseFacts>,
    /// Python requirements (PEP 508) and `"@group"`.
    #[serde(default)]
    pub packages: Vec<Text>,
    /// A requirements.txt, `pylock.toml` or `uv.lock` beside the stack file.
    pub requirements: Option<Text>,
    /// How Python packages are installed.
    #[serde(default)]
    pub python: PythonTable,
    /// Files from the project.
    #[serde(default)]
    pub copy: Vec<CopyTable>,
    /// The user that the image runs as: `"name"`, `"1000:1000"`, or `{ name, uid, gid }` to create one.
    pub user: Option<Spanned<UserWritten>>,
    /// IANA time zone such as `Asia/Seoul`.
    pub timezone: Option<Text>,
    /// Environment variables, added to those of the image below.
    #[serde(default)]
    pub env: BTreeMap<Spanned<String>, Text>,
    /// Working directory.
    pub workdir: Option<Text>,
    /// What is run; clears an inherited `command`.
    pub entrypoint: Option<Vec<Text>>,
    /// Arguments of the entry point, or the command where there is none.
    pub command: Option<Vec<Text>>,
    /// Labels, added to those of the image below.
    #[serde(default)]
    pub labels: BTreeMap<String, Text>,
    /// Garbage collection leaves this image.
    #[serde(default)]
    pub persist: bool,
    /// `gzip` (spliced, the default) or `zstd` (recompressed).
    pub compression: Option<Text>,
    /// Wheels above this size, such as `2GiB`, are split over several layers.
    pub max_layer_size: Option<Text>,
    /// `true`: GPU code of its wheels is cut to `target.gpus`. Or a table, to choose what else stays or goes.
    pub prune: Option<Spanned<PruneWritten>>,
    /// What must be true of the image, or it is neither written nor pushed.
    pub verify: Option<VerifyTable>,
    /// Where this image goes, instead of the stack's registry.
    pub registry: Option<Text>,
    /// The whole name of the repository that this image goes to, such as `docker.io/acme/train`, for registries whose
    /// names have two parts.
    pub repository: Option<Text>,
    /// Tags, instead of the stack's.
    pub tags: Option<Vec<Text>>,
}

/// Whether GPU code is cut, as written.
#[derive(Debug, Clone)]
pub enum PruneWritten {
    /// `true` or `false`.
    Flag(bool),
    /// With options.
    Table(PruneTable),
}

/// How GPU code is cut.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PruneTable {
    /// All PTX stays, for GPUs that come later. Default: whether `target.gpus` asks for PTX.
    pub keep_ptx: Option<bool>,
    /// Code for the linker goes too, which a program that only runs does not need.
    #[serde(default)]
    pub drop_relocatable: bool,
}

/// What must be true of an image.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct VerifyTable {
    /// `required`: every library with GPU code has some that runs on each of `target.gpus`; `native`: without PTX.
    pub gpu_code: Option<Text>,
    /// Paths of files that may lack code, or libraries that they need: `*` stands for any characters, and a pattern begins
    /// at any directory. `["vllm/_flashmla*"]`.
    #[serde(default)]
    pub except: Vec<Text>,
}

/// How Python packages are installed.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PythonTable {
    /// `venv` (the default): `/opt/venv`; `base`: into the base's own environment.
    pub environment: Option<Text>,
}

/// Files from the project.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CopyTable {
    /// A file or directory, relative to the stack file.
    pub from: Text,
    /// Absolute path in the image. A directory's content goes into it; a file goes there, or into it with a final `/`.
    pub to: Text,
    /// Patterns (as in `.gitignore`) of what is left out.
    #[serde(default)]
    pub exclude: Vec<Text>,
    /// A file with such patterns, relative to the stack file.
    pub ignore_file: Option<Text>,
    /// `user`, `user:group`, `uid:gid`. Default: `0:0`.
    pub owner: Option<Text>,
    /// Octal mode of files; directories get `x` where files have `r`. Default: 0644, or 0755 where executable.
    pub mode: Option<Text>,
}

/// What an image stands on, as written.
#[derive(Debug, Clone)]
pub enum FromWritten {
    /// `"scratch"`, an image of this file, or a registry reference.
    Name(String),
    /// `{ oci = PATH }` or `{ debian = SUITE, ... }`.
    Table(FromTable),
}

/// A base that is not a reference.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FromTable {
    /// An OCI image layout, relative to the stack file.
    pub oci: Option<Text>,
    /// A Debian suite, bootstrapped.
    pub debian: Option<Text>,
    /// Debian packages besides the minimal set.
    #[serde(default)]
    pub include: Vec<Text>,
    /// A Debian mirror. Default: this machine's.
    pub mirror: Option<Text>,
}

/// The user of an image, as written.
#[derive(Debug, Clone)]
pub enum UserWritten {
    /// A name or id, with an optional group.
    Name(String),
    /// A user to create.
    Table(UserTable),
}

/// A user to create.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct UserTable {
    /// Login name.
    pub name: Text,
    /// User id.
    pub uid: Spanned<u32>,
    /// Group id; a group of the user's name is made where the base has none with this id. Default: the user id.
    pub gid: Option<Spanned<u32>>,
    /// Home directory. Default: `/home/<name>`.
    pub home: Option<Text>,
    /// Login shell. Default: `/bin/sh`.
    pub shell: Option<Text>,
}

/// A string or a flag, or a table that is read as `T` with the places of its values kept: serde's untagged enums lose both the
/// places and the names of unknown keys.
macro_rules! scalar_or_table {
    (@visit string, $type:ty, $scalar:path) => {
        fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<$type, E> {
            Ok($scalar(text.to_owned()))
        }
    };
    (@visit boolean, $type:ty, $scalar:path) => {
        fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<$type, E> {
            Ok($scalar(value))
        }
    };
    ($kind:ident, $type:ty, $scalar:path, $table:path, $inner:ty, $expected:literal) => {
        impl<'de> Deserialize<'de> for $type {
            fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                struct Visitor;
                impl<'de> serde::de::Visitor<'de> for Visitor {
                    type Value = $type;
                    fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                        f.write_str($expected)
                    }
                    scalar_or_table!(@visit $kind, $type, $scalar);
                    fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<$type, A::Error> {
                        <$inner>::deserialize(MapAccessDeserializer::new(map)).map($table)
                    }
                }
                deserializer.deserialize_any(Visitor)
            }
        }

        impl JsonSchema for $type {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($type).into()
            }
            fn json_schema(generator: &mut SchemaGenerator) -> Schema {
                let table = generator.subschema_for::<$inner>();
                json_schema!({ "anyOf": [{ "type": stringify!($kind) }, table] })
            }
        }
    };
}

scalar_or_table!(
    string,
    FromWritten,
    FromWritten::Name,
    FromWritten::Table,
    FromTable,
    "an image, a reference, `{ oci = PATH }` or `{ debian = SUITE }`"
);
scalar_or_table!(
    string,
    UserWritten,
    UserWritten::Name,
    UserWritten::Table,
    UserTable,
    "a user name, an id, or `{ name, uid, gid }`"
);
scalar_or_table!(
    boolean,
    PruneWritten,
    PruneWritten::Flag,
    PruneWritten::Table,
    PruneTable,
    "`true`, `false`, or `{ keep-ptx, drop-relocatable }`"
);
