//! The `pyproject.toml` beside a `uv.lock`, as far as it decides about the lock.

use std::path::Path;

use pep440_rs::VersionSpecifiers;
use toml::{Table, Value};

/// Settings of `[tool.uv]` that decide what a lock holds.
const SETTINGS: [&str; 12] = [
    "exclude-newer",
    "exclude-newer-package",
    "extra-index-url",
    "find-links",
    "fork-strategy",
    "index",
    "index-strategy",
    "index-url",
    "no-index",
    "prerelease",
    "prerelease-package",
    "resolution",
];

/// A project beside its lock.
#[derive(Debug)]
pub struct BesideLock(Table);

impl BesideLock {
    /// Reads a project; `None` for what is no TOML.
    pub fn read(text: &str) -> Option<Self> {
        text.parse().ok().map(Self)
    }

    /// Returns the settings that decide what the lock holds, as a configuration file of uv. Relative paths become absolute.
    pub fn settings(&self, directory: &Path) -> String {
        let own = self.0.get("tool").and_then(|tool| tool.get("uv")).and_then(Value::as_table);
        let mut kept: Table = own
            .into_iter()
            .flatten()
            .filter(|(key, _)| SETTINGS.contains(&key.as_str()))
            .map(|(key, value)| (key.clone(), value.clone()))
            .collect();
        let absolute = |value: &mut Value| {
            if let Some(path) = value.as_str().filter(|path| !path.contains(':') && !path.starts_with('/')) {
                *value = directory.join(path).display().to_string().into();
            }
        };
        for key in ["find-links", "extra-index-url"] {
            kept.get_mut(key).and_then(Value::as_array_mut).into_iter().flatten().for_each(absolute);
        }
        kept.get_mut("index-url").into_iter().for_each(absolute);
        let indexes = kept.get_mut("index").and_then(Value::as_array_mut).into_iter().flatten();
        indexes.filter_map(|index| index.get_mut("url")).for_each(absolute);
        kept.to_string()
    }

    /// Returns the versions of Python that it names.
    pub fn requires_python(&self) -> Option<VersionSpecifiers> {
        self.0.get("project")?.get("requires-python")?.as_str()?.parse().ok()
    }

    /// Returns true for a project; a `pyproject.toml` may hold a workspace alone.
    pub fn has_project(&self) -> bool {
        self.0.contains_key("project")
    }
}
