//! Commands that run while an image is built, as written.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::SeqAccessDeserializer;

use super::{CopyTable, Text, TextOrList, scalar_or_table};
use crate::stack::spanned::Spanned;

/// A command that runs while the image is built, as written.
#[derive(Debug, Clone)]
pub enum RunWritten {
    /// A line for the shell, or a list of words.
    Command(TextOrList),
    /// With options.
    Table(Box<RunTable>),
}

/// A command that runs while the image is built.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RunTable {
    /// A line for the shell, or a list of words, which runs without one.
    pub command: Spanned<TextOrList>,
    /// `sh` (the default: `sh -e`) or `bash` (`bash -euo pipefail`).
    pub shell: Option<Text>,
    /// Environment variables of this command alone.
    #[serde(default)]
    pub env: BTreeMap<Spanned<String>, Text>,
    /// `user`, `user:group`, `uid:gid`. Default: root.
    pub user: Option<Text>,
    /// The directory that it starts in. Default: the image's.
    pub workdir: Option<Text>,
    /// The time after which it is ended, such as `20m`.
    pub timeout: Option<Text>,
    /// Files that the command sees at a path and that the image does not get: tables as in `copy`. Changes below these paths are lost.
    #[serde(default)]
    pub bind: Vec<CopyTable>,
    /// `true`: the command reaches other machines by a proxy of HTTP, and what it took in is recorded. `"full"`: it reaches them by any
    /// protocol. Or a table, to allow addresses of this machine. Default: no network.
    pub network: Option<Spanned<NetworkWritten>>,
    /// The age at which the result of a command with a network is made again, such as `30d`. Default: never.
    pub max_age: Option<Text>,
    /// Directories whose content stays for the next time, and that the image does not get: paths or tables.
    #[serde(default)]
    pub cache: Vec<Spanned<CacheMountWritten>>,
    /// Secrets, in memory at `/run/secrets/NAME`: names in `[secrets]`, or tables.
    #[serde(default)]
    pub secrets: Vec<Spanned<SecretMountWritten>>,
    /// The command may use the SSH agent of whoever builds (`SSH_AUTH_SOCK`).
    #[serde(default)]
    pub ssh: bool,
    /// The command calls apt: its lists, downloads and logs stay out of the image, it asks nobody, and no service starts.
    #[serde(default)]
    pub apt: bool,
}

/// The network of a command, as written.
#[derive(Debug, Clone)]
pub enum NetworkWritten {
    /// `true` or `false`.
    Flag(bool),
    /// `full`.
    Word(String),
    /// With addresses of this machine.
    Table(NetworkTable),
}

/// A network with addresses of this machine.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct NetworkTable {
    /// Hosts that may be this machine or on its link: `localhost:5000`, `mirror.internal`.
    pub allow: Vec<Text>,
}

/// A directory whose content stays, as written.
#[derive(Debug, Clone)]
pub enum CacheMountWritten {
    /// Its path.
    Path(String),
    /// With options.
    Table(CacheMountTable),
}

/// A directory whose content stays for the next time.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CacheMountTable {
    /// Absolute path in the image.
    pub to: Text,
    /// Commands of the stack that name the same id share the directory. Default: it is one image's.
    pub id: Option<Text>,
    /// `locked` (the default): a command waits until no other one uses it. `private`: it gets another one meanwhile.
    pub sharing: Option<Text>,
    /// Once it is larger, it is emptied. Default: `10GiB`.
    pub max_size: Option<Text>,
}

/// A secret of a command, as written.
#[derive(Debug, Clone)]
pub enum SecretMountWritten {
    /// Its name.
    Name(String),
    /// With options.
    Table(SecretMountTable),
}

/// A secret that a command can read.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SecretMountTable {
    /// Its name in `[secrets]`.
    pub name: Text,
    /// Absolute path in the image. Default: `/run/secrets/NAME`.
    pub to: Option<Text>,
    /// Octal mode. Default: `0400`.
    pub mode: Option<Text>,
}

/// The source of a secret: one of three.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SecretTable {
    /// A file, relative to the stack file, or below the home directory (`~/`).
    pub file: Option<Text>,
    /// An environment variable of kiln.
    pub env: Option<Text>,
    /// A program and its arguments, or a line for the shell: what it prints is the secret.
    pub command: Option<Spanned<TextOrList>>,
}

scalar_or_table!(
    string,
    CacheMountWritten,
    CacheMountWritten::Path,
    CacheMountWritten::Table,
    CacheMountTable,
    "a path, or `{ to, id, sharing, max-size }`"
);
scalar_or_table!(
    string,
    SecretMountWritten,
    SecretMountWritten::Name,
    SecretMountWritten::Table,
    SecretMountTable,
    "a name in `[secrets]`, or `{ name, to, mode }`"
);

impl<'de> Deserialize<'de> for NetworkWritten {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = NetworkWritten;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("`true`, `false`, `\"full\"`, or `{ allow = [\"HOST:PORT\"] }`")
            }
            fn visit_bool<E: serde::de::Error>(self, flag: bool) -> Result<NetworkWritten, E> {
                Ok(NetworkWritten::Flag(flag))
            }
            fn visit_str<E: serde::de::Error>(self, word: &str) -> Result<NetworkWritten, E> {
                Ok(NetworkWritten::Word(word.to_owned()))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<NetworkWritten, A::Error> {
                NetworkTable::deserialize(serde::de::value::MapAccessDeserializer::new(map)).map(NetworkWritten::Table)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for NetworkWritten {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Network".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let table = generator.subschema_for::<NetworkTable>();
        json_schema!({ "anyOf": [{ "type": "boolean" }, { "enum": ["full"] }, table] })
    }
}

impl<'de> Deserialize<'de> for RunWritten {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = RunWritten;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(
                    "a line for the shell, a list of words, or `{ command, shell, env, user, workdir, timeout, bind, \
                     network, max-age, cache, secrets, ssh, apt }`",
                )
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<RunWritten, E> {
                Ok(RunWritten::Command(TextOrList::Text(text.to_owned())))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, list: A) -> Result<RunWritten, A::Error> {
                let words = Vec::deserialize(SeqAccessDeserializer::new(list))?;
                Ok(RunWritten::Command(TextOrList::List(words)))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<RunWritten, A::Error> {
                let table = RunTable::deserialize(serde::de::value::MapAccessDeserializer::new(map))?;
                Ok(RunWritten::Table(Box::new(table)))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for RunWritten {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Run".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (command, table) = (generator.subschema_for::<TextOrList>(), generator.subschema_for::<RunTable>());
        json_schema!({ "anyOf": [command, table] })
    }
}
