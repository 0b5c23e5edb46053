//! Python requirements of an image as written: files of them, the choice of versions, and the environment.

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};

use super::{Text, scalar_or_table};
use crate::stack::spanned::Spanned;

/// Files of requirements: one, or a list.
#[derive(Debug, Clone)]
pub enum RequirementsWritten {
    /// One.
    One(RequirementsFileWritten),
    /// Any number.
    List(Vec<Spanned<RequirementsFileWritten>>),
}

/// A file of requirements, as written.
#[derive(Debug, Clone)]
pub enum RequirementsFileWritten {
    /// Its path.
    Path(String),
    /// Its path, and what of it is installed.
    Table(Box<RequirementsTable>),
}

/// A file of requirements, and the part of it that is installed.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct RequirementsTable {
    /// Path relative to the stack file.
    pub file: Text,
    /// Dependency groups, in the place of those that the file takes by default.
    pub groups: Option<Vec<Text>>,
    /// Extras of the project.
    #[serde(default)]
    pub extras: Vec<Text>,
    /// `true`: the groups that a project installs for its developers, too.
    #[serde(default)]
    pub dev: bool,
    /// The member of a workspace whose requirements they are. Default: its root.
    pub package: Option<Text>,
    /// The place of the file, where it is not this repository: a repository of git, or an address.
    pub from: Option<Spanned<SourceTable>>,
}

/// A place outside of the project: its content is locked.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct SourceTable {
    /// Address of a repository of git: `https://`, `ssh://`, `file://`, or `user@host:path`.
    pub git: Option<Text>,
    /// A branch, a tag or a commit. Default: the repository's own branch.
    pub rev: Option<Text>,
    /// Address of the file itself.
    pub url: Option<Text>,
}

/// Files that several packages bring.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct OverlapsTable {
    /// The package whose file is in the image, or several, the strongest first. Default: the first name, as pip has it.
    pub winner: Spanned<super::TextOrList>,
}

/// The choice of versions.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ResolutionTable {
    /// Requirements that replace every other one of their packages, whoever has it.
    #[serde(default)]
    pub overrides: Vec<Text>,
    /// Versions that hold for what is installed anyhow.
    #[serde(default)]
    pub constraints: Vec<Text>,
    /// Packages that are not installed, whoever requires them.
    #[serde(default)]
    pub exclude: Vec<Text>,
    /// `allow`: pre-releases are chosen like releases. Or the packages for which they are. Default: only where a
    /// requirement names one, or where there is no release.
    pub prerelease: Option<Spanned<super::TextOrList>>,
    /// A date, or a time with its zone: nothing that the indexes got later. A date counts to its end, in UTC.
    pub exclude_newer: Option<Text>,
}

/// The Python version of an image, or its environment.
#[derive(Debug, Clone)]
pub enum PythonWritten {
    /// `MAJOR.MINOR`.
    Version(String),
    /// The environment.
    Table(Box<PythonTable>),
}

/// The environment of Python packages.
#[derive(Debug, Clone, Default, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct PythonTable {
    /// Python version, `MAJOR.MINOR`, where it differs from `[target]`.
    pub version: Option<Text>,
    /// `venv`: `/opt/venv`, which does not see the base's packages; `overlay`: `/opt/venv`, which sees them, and holds what they
    /// lack; `base`: into the base's own environment. Default: as the image below, else `overlay` where the base has torch,
    /// else `venv`.
    pub environment: Option<Text>,
    /// The base's interpreter, by its path. Default: the first of the version that `PATH` finds.
    pub interpreter: Option<Text>,
    /// Packages that the base meets, whatever its versions are and under which name it brings them.
    #[serde(default)]
    pub accept: Vec<Text>,
    /// Distributions of the base that the image's own may take the place of.
    #[serde(default)]
    pub replace: Vec<Text>,
    /// Distributions of the base that are hidden.
    #[serde(default)]
    pub remove: Vec<Text>,
}

scalar_or_table!(
    string,
    PythonWritten,
    PythonWritten::Version,
    PythonWritten::Table,
    PythonTable,
    "a version such as `3.11`, or `{ version, environment, interpreter, accept, replace, remove }`"
);

scalar_or_table!(
    string,
    RequirementsFileWritten,
    RequirementsFileWritten::Path,
    RequirementsFileWritten::Table,
    RequirementsTable,
    "a path, or `{ file = PATH, groups, extras, dev, package, from }`"
);

impl<'de> Deserialize<'de> for RequirementsWritten {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = RequirementsWritten;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a path, `{ file = PATH, groups, extras, dev, package, from }`, or a list of them")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<RequirementsWritten, E> {
                Ok(RequirementsWritten::One(RequirementsFileWritten::Path(text.to_owned())))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<RequirementsWritten, A::Error> {
                let table = RequirementsTable::deserialize(MapAccessDeserializer::new(map))?;
                Ok(RequirementsWritten::One(RequirementsFileWritten::Table(Box::new(table))))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, list: A) -> Result<RequirementsWritten, A::Error> {
                Vec::deserialize(SeqAccessDeserializer::new(list)).map(RequirementsWritten::List)
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for RequirementsWritten {
    fn schema_name() -> std::borrow::Cow<'static, str> {
        "Requirements".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let one = generator.subschema_for::<RequirementsFileWritten>();
        json_schema!({ "anyOf": [one.clone(), { "type": "array", "items": one }] })
    }
}
