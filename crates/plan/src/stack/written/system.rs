//! `system`: packages of the base's distribution, as written.

use schemars::JsonSchema;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};
use serde::{Deserialize, Deserializer};

use super::{Text, scalar_or_table};
use crate::stack::spanned::Spanned;

/// Packages of a distribution, as written.
#[derive(Debug, Clone)]
pub enum SystemWritten {
    /// Packages to install.
    List(Vec<Text>),
    /// `{ install = [...], ... }`.
    Table(SystemTable),
}

/// Changes of the packages of a distribution.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SystemTable {
    /// Packages to install, as apt takes them: `name` or `name=version`.
    #[serde(default)]
    pub install: Vec<Text>,
    /// Packages to remove.
    #[serde(default)]
    pub remove: Vec<Text>,
    /// Brings all packages of the base to their newest versions first.
    #[serde(default)]
    pub upgrade: bool,
    /// Installs recommended packages too.
    #[serde(default)]
    pub recommends: bool,
    /// Archives that packages are chosen from besides those that the base knows.
    #[serde(default)]
    pub repositories: Vec<RepositoryTable>,
    /// Files of the base in `/etc/apt/sources.list.d` whose archives are left out, such as `cuda.list`.
    #[serde(default)]
    pub disable: Vec<Text>,
    /// Packages that are no archive's: files of the project, or `{ url, sha256 }`.
    #[serde(default)]
    pub debs: Vec<Spanned<DebWritten>>,
}

/// An archive of packages.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RepositoryTable {
    /// The address above `dists` and `pool`.
    pub uri: Text,
    /// Suites; one that ends in a slash is a directory of the archive.
    pub suites: Vec<Text>,
    /// Components, such as `main`. Default: none, for suites that end in a slash.
    #[serde(default)]
    pub components: Vec<Text>,
    /// A file of OpenPGP keys that sign its lists, relative to the stack file, or `{ url, fingerprint }`. Default: the keys of the base.
    pub key: Option<Spanned<KeyWritten>>,
}

/// Keys of an archive, as written.
#[derive(Debug, Clone)]
pub enum KeyWritten {
    /// A file.
    File(String),
    /// An address.
    Table(KeyTable),
}

/// Keys of an archive at an address.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct KeyTable {
    /// The address of a file of OpenPGP keys.
    pub url: Text,
    /// The fingerprint that one of them must have.
    pub fingerprint: Option<Text>,
}

/// A package that is no archive's, as written.
#[derive(Debug, Clone)]
pub enum DebWritten {
    /// A file.
    File(String),
    /// An address.
    Table(DebTable),
}

/// A package at an address.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct DebTable {
    /// Its address.
    pub url: Text,
    /// Its SHA-256, in hexadecimal digits.
    pub sha256: Text,
}

scalar_or_table!(
    string,
    KeyWritten,
    KeyWritten::File,
    KeyWritten::Table,
    KeyTable,
    "a file, or `{ url, fingerprint }`"
);
scalar_or_table!(string, DebWritten, DebWritten::File, DebWritten::Table, DebTable, "a file, or `{ url, sha256 }`");

const EXPECTED: &str = "a list of packages, or `{ install, remove, upgrade, recommends, repositories, disable, debs }`";

impl<'de> Deserialize<'de> for SystemWritten {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = SystemWritten;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(EXPECTED)
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, list: A) -> Result<SystemWritten, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(SystemWritten::List)
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<SystemWritten, A::Error> {
                SystemTable::deserialize(MapAccessDeserializer::new(map)).map(SystemWritten::Table)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for SystemWritten {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "System".into()
    }

    fn json_schema(generator: &mut schemars::SchemaGenerator) -> schemars::Schema {
        let table = generator.subschema_for::<SystemTable>();
        schemars::json_schema!({ "anyOf": [{ "type": "array", "items": { "type": "string" } }, table] })
    }
}
