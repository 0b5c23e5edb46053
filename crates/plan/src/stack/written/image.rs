//! An image table as written.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::SeqAccessDeserializer;

use super::{
    CopyTable, OverlapsTable, PythonWritten, RequirementsWritten, ResolutionTable, RunWritten, SystemWritten, Text,
    scalar_or_table,
};
use crate::base::BaseFacts;
use crate::stack::spanned::Spanned;

/// One image.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ImageTable {
    /// The image or base below.
    pub from: Spanned<FromWritten>,
    /// Facts about the inside of the base, instead of looking it up.
    pub base_facts: Option<BaseFacts>,
    /// Python requirements (PEP 508) and `"@group"`.
    #[serde(default)]
    pub packages: Vec<Text>,
    /// A requirements.txt, `pyproject.toml`, `pylock.toml`, `uv.lock` or `poetry.lock`, or a list of them. A table says
    /// which groups and extras are installed: `{ file = "uv.lock", groups = ["serve"], extras = ["cuda"] }`.
    pub requirements: Option<Spanned<RequirementsWritten>>,
    /// The choice of versions, beside what `[resolution]` says for every image.
    #[serde(default)]
    pub resolution: ResolutionTable,
    /// The package whose file is in the image where several bring one.
    pub overlaps: Option<OverlapsTable>,
    /// CUDA release such as `13.0`, or `none`, where it differs from `[target]` and from the image below.
    pub cuda: Option<Text>,
    /// GPUs, where they differ from `[target]` and from the image below.
    pub gpus: Option<Vec<Text>>,
    /// The Python version, where it differs from `[target]`, or a table about the environment of Python packages.
    pub python: Option<Spanned<PythonWritten>>,
    /// Files from the project, from other images, from repositories of git and from addresses.
    #[serde(default)]
    pub copy: Vec<CopyTable>,
    /// Files, directories and links that the stack file itself holds; they come after the copies.
    #[serde(default)]
    pub files: Vec<FileTable>,
    /// Packages of the base's distribution, which its own apt installs before anything else of the image is made: a list, or a table.
    pub system: Option<Spanned<SystemWritten>>,
    /// Commands that run before anything else of the image is made, as in `run`: its packages and files stand on them.
    #[serde(default)]
    pub setup: Vec<Spanned<RunWritten>>,
    /// Commands that run over everything else of the image, one after the other, each a layer: a line for `sh -e`, a list of words, or
    /// `{ command, shell = "bash", env, user, workdir, timeout, bind }`. They have no network.
    #[serde(default)]
    pub run: Vec<Spanned<RunWritten>>,
    /// Users that the image creates.
    #[serde(default)]
    pub users: Vec<Spanned<UserTable>>,
    /// The user that the image runs as: `"name"`, `"1000:1000"`, or `{ name, uid, gid }` to create one.
    pub user: Option<Spanned<UserWritten>>,
    /// IANA time zone such as `Asia/Seoul`.
    pub timezone: Option<Text>,
    /// Environment variables, added to those of the image below. `${NAME}` is the inherited value where `[vars]` has no
    /// such name: `PATH = "/opt/x/bin:${PATH}"`.
    #[serde(default)]
    pub env: BTreeMap<Spanned<String>, Text>,
    /// Working directory. It is made, the user's, where it is not there.
    pub workdir: Option<Text>,
    /// The program: a list of words, or a line for the shell. Clears an inherited `command`.
    pub entrypoint: Option<Spanned<TextOrList>>,
    /// Arguments of the entry point, or the command where there is none: a list of words, or a line for the shell.
    pub command: Option<Spanned<TextOrList>>,
    /// A command that says whether the container is healthy, with its times; `false` clears an inherited one.
    pub healthcheck: Option<Spanned<HealthWritten>>,
    /// Ports that the image listens on: `8080`, `"53/udp"`.
    #[serde(default)]
    pub expose: Vec<Spanned<NumberWritten>>,
    /// Directories whose content outlives a container.
    #[serde(default)]
    pub volumes: Vec<Text>,
    /// The signal that ends a container, such as `SIGINT`.
    pub stop_signal: Option<Text>,
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
    /// Conditions without which the image is neither written nor pushed.
    pub verify: Option<VerifyTable>,
    /// The registry of this image, instead of the stack's.
    pub registry: Option<Text>,
    /// The whole name of the repository that this image goes to, such as `docker.io/acme/train`, for registries whose
    /// names have two parts.
    pub repository: Option<Text>,
    /// Tags, instead of the stack's.
    pub tags: Option<Vec<Text>>,
    /// `false`: a tier that is never pushed, loaded or tagged.
    #[serde(default = "yes")]
    pub publish: bool,
}

fn yes() -> bool {
    true
}

/// A health check, as written.
#[derive(Debug, Clone)]
pub enum HealthWritten {
    /// `false`: not at all.
    Flag(bool),
    /// With a command.
    Table(Box<HealthTable>),
}

/// A health check (Docker's image specification, `Healthcheck`).
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct HealthTable {
    /// Status 0 is healthy: a list of words, or a line for the shell.
    pub command: Spanned<TextOrList>,
    /// Time between checks, such as `30s`. Default: the runtime's.
    pub interval: Option<Text>,
    /// Time after which a check has failed.
    pub timeout: Option<Text>,
    /// Time in which failed checks do not count.
    pub start_period: Option<Text>,
    /// Time between checks in the start period.
    pub start_interval: Option<Text>,
    /// Failed checks after which the container is unhealthy.
    pub retries: Option<Spanned<NumberWritten>>,
}

/// A file, directory or link that the stack file itself holds.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct FileTable {
    /// Absolute path in the image; with a final `/` and nothing else a directory.
    pub to: Text,
    /// Content of a file.
    pub text: Option<Text>,
    /// Text that is added to the end of a file that is there.
    pub append: Option<Text>,
    /// Target of a symbolic link.
    pub link: Option<Text>,
    /// `user`, `user:group`, `uid:gid`. Default: `0:0`.
    pub owner: Option<Text>,
    /// Octal mode. Default: 0644, and 0755 for directories.
    pub mode: Option<Text>,
}

/// A choice of GPU code, as written.
#[derive(Debug, Clone)]
pub enum PruneWritten {
    /// `true` or `false`.
    Flag(bool),
    /// With options.
    Table(PruneTable),
}

/// Options of cutting GPU code.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PruneTable {
    /// All PTX stays, for GPUs that come later. Default: whether `target.gpus` asks for PTX.
    pub keep_ptx: Option<bool>,
    /// Code for the linker goes too, which a program that only runs does not need.
    #[serde(default)]
    pub drop_relocatable: bool,
}

/// Conditions on an image.
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

/// The image or base below, as written.
#[derive(Debug, Clone)]
pub enum FromWritten {
    /// `"scratch"`, an image of this file, or a registry reference.
    Name(String),
    /// `{ oci = PATH }` or `{ debian = SUITE, ... }`.
    Table(Box<FromTable>),
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
    pub mirror: Option<Spanned<MirrorWritten>>,
}

/// A mirror, as written.
#[derive(Debug, Clone)]
pub enum MirrorWritten {
    /// Its address.
    Uri(String),
    /// `{ uri = URL, ... }`.
    Table(MirrorTable),
}

/// A mirror of Debian packages.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct MirrorTable {
    /// The address above `dists` and `pool`.
    pub uri: Text,
    /// The address of the archive of security updates. Default: that of the mirror with `debian-security` in place of `debian`.
    pub security: Option<Text>,
    /// A state of the past: its lists may be older than they allow themselves to be.
    #[serde(default)]
    pub snapshot: bool,
    /// A file of OpenPGP keys that sign its lists, relative to the stack file. Default: the keys of Debian's archive.
    pub key: Option<Text>,
}

/// The user of an image, as written.
#[derive(Debug, Clone)]
pub enum UserWritten {
    /// A name or id, with an optional group.
    Name(String),
    /// A user to create.
    Table(Box<UserTable>),
}

/// A user to create.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct UserTable {
    /// Login name.
    pub name: Text,
    /// User id. Default: the first from 1000 on that nobody has.
    pub uid: Option<Spanned<NumberWritten>>,
    /// Group id; a group of the user's name is made where the base has none with this id. Default: the user id.
    pub gid: Option<Spanned<NumberWritten>>,
    /// The name of a group that the base has, instead of `gid`.
    pub group: Option<Text>,
    /// Names of further groups that the base has.
    #[serde(default)]
    pub groups: Vec<Text>,
    /// Home directory. Default: `/home/<name>`.
    pub home: Option<Text>,
    /// Login shell. Default: `/bin/sh`.
    pub shell: Option<Text>,
    /// Takes the place of a user of the base who has the name or the id.
    #[serde(default)]
    pub replace: bool,
}

/// A number, or a string with one: variables are written in strings.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NumberWritten {
    /// The number.
    Number(u32),
    /// Text that expands to one.
    Text(String),
}

impl<'de> Deserialize<'de> for NumberWritten {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = NumberWritten;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a number from 0 to 4294967295, or a string with one")
            }
            fn visit_i64<E: serde::de::Error>(self, number: i64) -> Result<NumberWritten, E> {
                let unexpected = serde::de::Unexpected::Signed(number);
                u32::try_from(number).map(NumberWritten::Number).map_err(|_| E::invalid_value(unexpected, &self))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<NumberWritten, E> {
                Ok(NumberWritten::Text(text.to_owned()))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

/// A string, or a list of strings.
#[derive(Debug, Clone)]
pub enum TextOrList {
    /// One.
    Text(String),
    /// Any number.
    List(Vec<Text>),
}

impl<'de> Deserialize<'de> for TextOrList {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = TextOrList;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a string, or a list of strings")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<TextOrList, E> {
                Ok(TextOrList::Text(text.to_owned()))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, list: A) -> Result<TextOrList, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(TextOrList::List)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for TextOrList {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "TextOrList".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }] })
    }
}

impl JsonSchema for NumberWritten {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Number".into()
    }

    fn json_schema(_: &mut SchemaGenerator) -> Schema {
        json_schema!({ "anyOf": [{ "type": "integer", "minimum": 0, "maximum": u32::MAX }, { "type": "string" }] })
    }
}

scalar_or_table!(
    string,
    MirrorWritten,
    MirrorWritten::Uri,
    MirrorWritten::Table,
    MirrorTable,
    "an address, or `{ uri = URL, snapshot = true }`"
);
scalar_or_table!(
    string,
    FromWritten,
    FromWritten::Name,
    FromWritten::Table,
    Box<FromTable>,
    "an image, a reference, `{ oci = PATH }` or `{ debian = SUITE }`"
);
scalar_or_table!(
    string,
    UserWritten,
    UserWritten::Name,
    UserWritten::Table,
    Box<UserTable>,
    "a user name, an id, or `{ name, uid, gid }`"
);
scalar_or_table!(
    boolean,
    HealthWritten,
    HealthWritten::Flag,
    HealthWritten::Table,
    Box<HealthTable>,
    "`false`, or `{ command, interval, timeout, start-period, retries }`"
);
scalar_or_table!(
    boolean,
    PruneWritten,
    PruneWritten::Flag,
    PruneWritten::Table,
    PruneTable,
    "`true`, `false`, or `{ keep-ptx, drop-relocatable }`"
);
