//! One record: what a step gave, for whom, and as what it is stored on a registry.

use std::collections::BTreeMap;
use std::time::SystemTime;

use kiln_oci::image::{CONFIG, Descriptor, MANIFEST, Manifest, to_json};
use kiln_plan::step::StepKey;
use kiln_registry::Document;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use super::{Found, RECORD, SIGNATURE};
use crate::error::{BuildError, Result};
use crate::signing::Signer;

/// Content where there is none (OCI image specification, "Guidance for an Empty Descriptor").
pub(super) const EMPTY: &[u8] = b"{}";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
const CREATED: &str = "org.opencontainers.image.created";
/// Raised when an older kiln would misread a record.
const VERSION: u32 = 1;

/// What a step gave.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    /// The step's key.
    pub(crate) key: StepKey,
    /// What kind of step: `wheels`, `paths`, `base facts`.
    pub(crate) kind: String,
    /// What it is, for people.
    pub(crate) name: String,
    /// The image that it was first made for.
    pub(crate) image: String,
    /// Whether that image says `persist`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) persist: bool,
    /// What it gave.
    pub(crate) value: Value,
}

/// The tag of a record.
pub(super) fn tag(key: &StepKey) -> String {
    format!("kiln-{key}")
}

impl Record {
    pub(crate) fn new(key: StepKey, kind: &str, name: &str, image: &str, persist: bool, value: Value) -> Self {
        let (kind, name, image) = (kind.to_owned(), name.to_owned(), image.to_owned());
        Self { version: VERSION, key, kind, name, image, persist, value }
    }

    pub(super) fn parse(text: &str) -> Option<Self> {
        serde_json::from_str::<Self>(text).ok().filter(|record| record.version == VERSION)
    }

    /// As a registry keeps it, with what must stay as long as it does. `now` is in seconds since 1970.
    pub(super) fn document(&self, keeps: &[Descriptor], signer: Option<&Signer>, now: u64) -> Result<Document> {
        let json = |error| BuildError::step("a record cannot be written", error);
        let text = serde_json::to_string(self).map_err(json)?;
        let sign =
            |signer: &Signer| signer.sign(&text).map_err(|error| BuildError::step("a record cannot be signed", error));
        let signature = signer.map(sign).transpose()?;
        document(text, signature, keeps, now)
    }
}

impl Found {
    /// The same record and the same signature, written now: its age begins anew, and nobody else vouches for it.
    pub(super) fn renewed(&self, now: u64) -> Result<Document> {
        document(self.text.clone(), self.signature.clone(), &self.keeps, now)
    }
}

fn document(text: String, signature: Option<String>, keeps: &[Descriptor], now: u64) -> Result<Document> {
    let mut annotations = BTreeMap::from([(CREATED.to_owned(), crate::compose::timestamp(now))]);
    annotations.extend(signature.map(|signature| (SIGNATURE.to_owned(), signature)));
    annotations.insert(RECORD.into(), text);
    // Some registries refuse manifests without layers, and configs whose type they do not know.
    let layers = if keeps.is_empty() { vec![Descriptor::of(EMPTY_TYPE, EMPTY)] } else { keeps.to_vec() };
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(MANIFEST.into()),
        config: Descriptor::of(CONFIG, EMPTY),
        layers,
        annotations,
    };
    let bytes = to_json(&manifest)?;
    Ok(Document { media_type: MANIFEST.into(), digest: kiln_plan::digest::Digest::of(&bytes), bytes })
}

/// When a record was written, as its manifest tells, in seconds since 1970.
pub(super) fn created(manifest: &Manifest) -> Option<u64> {
    seconds(manifest.annotations.get(CREATED)?)
}

/// Seconds since 1970 of a time that [`crate::compose::timestamp`] wrote.
fn seconds(time: &str) -> Option<u64> {
    let time = humantime::parse_rfc3339(time).ok()?;
    Some(time.duration_since(SystemTime::UNIX_EPOCH).ok()?.as_secs())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_they_are_written() {
        for time in [0, 86_399, 315_532_800, 951_782_400, 1_709_210_096, 1_735_689_599, 4_102_444_800] {
            assert_eq!(seconds(&crate::compose::timestamp(time)), Some(time));
        }
        for text in [
            "",
            "yesterday",
            "1969-12-31T23:59:59Z",
            "2024-13-01T00:00:00Z",
            "2023-02-29T00:00:00Z",
            "ÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿÿ",
        ] {
            assert_eq!(seconds(text), None, "{text}");
        }
    }
}
