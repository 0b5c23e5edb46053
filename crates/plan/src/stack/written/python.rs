//! Python requirements of an image as written: files of them, the choice of versions, and the environment.

use schemars::JsonSchema;
use serde::Deserialize;

use super::scalar::OneOrList;
use super::{Text, scalar_or_table};
use crate::stack::spanned::Spanned;

/// Files of requirements: one, or a list.
pub type RequirementsWritten = OneOrList<RequirementsFileWritten>;

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
