//! Step keys: the hash of everything that determines what a step results in.
//!
//! A key is built from named fields, each with its length, so that no two different inputs write the same bytes. Every
//! kind of step has a name and a version of its own; raising the version forgets old results of that kind and no others.
//! A golden test pins the keys, so that an unintended change of every key is seen.

use std::fmt;

use serde::{Deserialize, Serialize};

use crate::digest::Digest;

/// The hash (BLAKE3, 32 bytes) of everything that determines the result of a step.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct StepKey([u8; 32]);

impl StepKey {
    /// Begins a key for a kind of step.
    pub fn of(kind: &str, version: u32) -> KeyBuilder {
        let mut hasher = blake3::Hasher::new_derive_key("kiln step key");
        hasher.update(&(kind.len() as u64).to_le_bytes());
        hasher.update(kind.as_bytes());
        hasher.update(&version.to_le_bytes());
        KeyBuilder(hasher)
    }

    /// 64 hexadecimal digits.
    pub fn hex(&self) -> String {
        blake3::Hash::from_bytes(self.0).to_hex().to_string()
    }
}

impl fmt::Display for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.hex())
    }
}

impl fmt::Debug for StepKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Serialize for StepKey {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for StepKey {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        let text = String::deserialize(deserializer)?;
        let hash = blake3::Hash::from_hex(&text).map_err(serde::de::Error::custom)?;
        Ok(Self(*hash.as_bytes()))
    }
}

/// Collects the fields of a key. Their order matters, and so does each name.
#[derive(Debug, Clone)]
pub struct KeyBuilder(blake3::Hasher);

impl KeyBuilder {
    /// Adds a field of bytes.
    #[must_use]
    pub fn bytes(mut self, name: &str, value: &[u8]) -> Self {
        for part in [name.as_bytes(), value] {
            self.0.update(&(part.len() as u64).to_le_bytes());
            self.0.update(part);
        }
        self
    }

    /// Adds a field of text.
    #[must_use]
    pub fn text(self, name: &str, value: &str) -> Self {
        self.bytes(name, value.as_bytes())
    }

    /// Adds a field that may be absent; absent differs from empty.
    #[must_use]
    pub fn option(self, name: &str, value: Option<&str>) -> Self {
        match value {
            Some(value) => self.bytes(name, &[b"1", value.as_bytes()].concat()),
            None => self.bytes(name, b"0"),
        }
    }

    /// Adds a field that is a number.
    #[must_use]
    pub fn number(self, name: &str, value: u64) -> Self {
        self.bytes(name, &value.to_le_bytes())
    }

    /// Adds a field that is some content.
    #[must_use]
    pub fn digest(self, name: &str, value: &Digest) -> Self {
        self.text(name, &value.to_string())
    }

    /// Adds a list of texts.
    #[must_use]
    pub fn list<T: AsRef<str>>(mut self, name: &str, values: impl IntoIterator<Item = T>) -> Self {
        let values: Vec<T> = values.into_iter().collect();
        self = self.number(name, values.len() as u64);
        for value in values {
            self = self.text("", value.as_ref());
        }
        self
    }

    /// The key.
    pub fn finish(self) -> StepKey {
        StepKey(*self.0.finalize().as_bytes())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keys_are_pinned() {
        let key = StepKey::of("example", 1)
            .text("name", "torch")
            .option("prefix", None)
            .number("size", 7)
            .digest("content", &Digest::of(b""))
            .list("files", ["a", "b"])
            .finish();
        assert_eq!(key.hex(), "8817ff58a424395fcd441f6cfd6f463dffd9d227aafce5909d0c41dbe6e236e3");
    }

    #[test]
    fn different_fields_give_different_keys() {
        let keys = [
            StepKey::of("a", 1).text("x", "yz").finish(),
            StepKey::of("a", 1).text("xy", "z").finish(),
            StepKey::of("a", 2).text("x", "yz").finish(),
            StepKey::of("b", 1).text("x", "yz").finish(),
            StepKey::of("a", 1).option("x", None).finish(),
            StepKey::of("a", 1).option("x", Some("")).finish(),
            StepKey::of("a", 1).list("x", ["yz"]).finish(),
            StepKey::of("a", 1).list("x", ["y", "z"]).finish(),
        ];
        let distinct: std::collections::BTreeSet<_> = keys.iter().collect();
        assert_eq!(distinct.len(), keys.len());
    }
}
