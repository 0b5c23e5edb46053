//! Commands that run while an image is built, as written.

use std::collections::BTreeMap;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::SeqAccessDeserializer;

use super::{CopyTable, Text, TextOrList};
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
}

impl<'de> Deserialize<'de> for RunWritten {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = RunWritten;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(
                    "a line for the shell, a list of words, or `{ command, shell, env, user, workdir, timeout, bind }`",
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
