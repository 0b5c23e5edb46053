//! Files that an image copies, as written.

use std::borrow::Cow;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::Deserialize;
use serde::de::value::{MapAccessDeserializer, SeqAccessDeserializer};

use super::{NumberWritten, Text, TextOrList};
use crate::stack::spanned::Spanned;

/// Files that an image copies.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct CopyTable {
    /// A file or directory relative to the stack file, a pattern of some, or a list of both. Or a table: `{ image, path }`,
    /// `{ git, rev, path }`, `{ url, sha256, unpack }`.
    pub from: Spanned<CopyFromWritten>,
    /// Absolute path in the image. A directory's content goes into it; a file goes there, or into it with a final `/`. What a
    /// list or a pattern names goes into it: under its name, or a directory's content where it has a final `/`.
    pub to: Text,
    /// Patterns (as in `.gitignore`, relative to what is copied) of what is left out.
    #[serde(default)]
    pub exclude: Vec<Text>,
    /// A file with such patterns, relative to the stack file: they count from where it lies. `.dockerignore` has Docker's
    /// rules and counts by default where it lies beside the stack file; every other has git's.
    pub ignore_file: Option<Text>,
    /// `user`, `user:group`, `uid:gid`. Default: `0:0`.
    pub owner: Option<Text>,
    /// Octal mode of files; directories get `x` where files have `r`. Default: as they are.
    pub mode: Option<Text>,
}

/// The source of a copy, as written.
#[derive(Debug, Clone)]
pub enum CopyFromWritten {
    /// Of the project.
    Project(TextOrList),
    /// From outside of the project.
    Elsewhere(Box<ElsewhereTable>),
}

/// A place outside of the project that files are copied from: one of `image`, `git` and `url`.
#[derive(Debug, Clone, Deserialize, JsonSchema)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct ElsewhereTable {
    /// Another image of this file, or a registry reference.
    pub image: Option<Text>,
    /// Address of a repository of git.
    pub git: Option<Text>,
    /// Address of a file.
    pub url: Option<Text>,
    /// A file or directory there. Default: all of it. An image needs one.
    pub path: Option<Text>,
    /// A branch, a tag or a commit. Default: the repository's own branch.
    pub rev: Option<Text>,
    /// The repositories that the repository contains are checked out, too.
    #[serde(default)]
    pub submodules: bool,
    /// `false`: files that Git LFS keeps stay the pointers that the commit has.
    pub lfs: Option<bool>,
    /// The directory `.git` stays, with one commit.
    #[serde(default)]
    pub keep_git: bool,
    /// Patches, relative to the stack file, which `git apply` applies in their order.
    #[serde(default)]
    pub patches: Vec<Text>,
    /// SHA-256 of the file. Default: the lock's.
    pub sha256: Option<Text>,
    /// The file is an archive (tar, with any compression, or zip) that is unpacked.
    #[serde(default)]
    pub unpack: bool,
    /// Leading components of paths that are left out.
    pub strip: Option<Spanned<NumberWritten>>,
}

impl<'de> Deserialize<'de> for CopyFromWritten {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl<'de> serde::de::Visitor<'de> for Visitor {
            type Value = CopyFromWritten;
            fn expecting(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str("a path, a list of paths, `{ image, path }`, `{ git, rev }` or `{ url, sha256 }`")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<CopyFromWritten, E> {
                Ok(CopyFromWritten::Project(TextOrList::Text(text.to_owned())))
            }
            fn visit_seq<A: serde::de::SeqAccess<'de>>(self, list: A) -> Result<CopyFromWritten, A::Error> {
                let paths = Vec::deserialize(SeqAccessDeserializer::new(list))?;
                Ok(CopyFromWritten::Project(TextOrList::List(paths)))
            }
            fn visit_map<A: serde::de::MapAccess<'de>>(self, map: A) -> Result<CopyFromWritten, A::Error> {
                let table = ElsewhereTable::deserialize(MapAccessDeserializer::new(map))?;
                Ok(CopyFromWritten::Elsewhere(Box::new(table)))
            }
        }
        deserializer.deserialize_any(Visitor)
    }
}

impl JsonSchema for CopyFromWritten {
    fn schema_name() -> Cow<'static, str> {
        "CopyFrom".into()
    }

    fn json_schema(generator: &mut SchemaGenerator) -> Schema {
        let (paths, table) = (generator.subschema_for::<TextOrList>(), generator.subschema_for::<ElsewhereTable>());
        json_schema!({ "anyOf": [paths, table] })
    }
}
