//! One record: which product a step gave, for whom, and the form in which a registry stores it.

use std::collections::BTreeMap;

use kiln_oci::image::{CONFIG, Descriptor, MANIFEST, Manifest, from_json, to_json};
use kiln_oci::layer::Layer;
use kiln_plan::digest::Digest;
use kiln_plan::public_key::PublicKey;
use kiln_plan::stack::{Cache, Trust};
use kiln_plan::step::StepKey;
use kiln_registry::Document;
use serde::{Deserialize, Serialize};
use serde_json::Value;

use crate::error::{BuildError, Result};
use crate::product::{Product, ProductKind as _};
use crate::signing::{Signer, signed_by};
use crate::time::{rfc3339, seconds};

/// The annotation that holds a record: JSON in one string, so that a signature can be of these very bytes.
const RECORD: &str = "dev.kiln.record";
/// The annotation that holds its signature.
const SIGNATURE: &str = "dev.kiln.signature";
/// The annotation that says when the record was written last. It is not signed: it says only what is of use still.
const CREATED: &str = "org.opencontainers.image.created";
/// Content where there is none (OCI image specification, "Guidance for an Empty Descriptor").
pub(crate) const EMPTY: &[u8] = b"{}";
const EMPTY_TYPE: &str = "application/vnd.oci.empty.v1+json";
/// Raised when an older kiln would misread a record.
const VERSION: u32 = 2;

/// The product of a step, as one machine tells others.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub(crate) struct Record {
    version: u32,
    /// The step's key.
    pub(crate) key: StepKey,
    /// The kind of step: `wheels`, `paths`.
    pub(crate) kind: String,
    /// Its subject, for people.
    pub(crate) name: String,
    /// The image that it was first made for.
    pub(crate) image: String,
    /// That image says `persist`.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) persist: bool,
    /// When the step was performed, or its product found in the store of whoever performed it, in seconds since 1970. It is
    /// signed: an old record cannot be made young.
    pub(crate) made: u64,
    /// The product.
    pub(crate) value: Value,
}

/// Returns the tag of a record.
pub(crate) fn tag(key: &StepKey) -> String {
    format!("kiln-{key}")
}

impl Record {
    pub(crate) fn new(
        key: StepKey,
        kind: &str,
        name: &str,
        image: &str,
        persist: bool,
        made: u64,
        value: Value,
    ) -> Self {
        let (kind, name, image) = (kind.to_owned(), name.to_owned(), image.to_owned());
        Self { version: VERSION, key, kind, name, image, persist, made, value }
    }

    fn parse(text: &str) -> Option<Self> {
        serde_json::from_str::<Self>(text).ok().filter(|record| record.version == VERSION)
    }

    /// Returns the product, if it is one of a step, and no layer lies somewhere on the web.
    pub(crate) fn product(&self) -> Option<Product> {
        let product: Product = serde_json::from_value(self.value.clone()).ok()?;
        let layers = Vec::<Layer>::of(&product);
        let is_elsewhere = layers.is_some_and(|layers| layers.iter().any(|layer| !layer.urls.is_empty()));
        (!is_elsewhere).then_some(product)
    }

    /// Returns the record as a registry keeps it, with what must stay as long as it does.
    pub(crate) fn document(&self, keeps: &[Descriptor], signer: Option<&Signer>) -> Result<Document> {
        let json = |source| BuildError::Json { what: "a record", source };
        let text = serde_json::to_string(self).map_err(json)?;
        let sign = |signer: &Signer| signer.sign(&text).map_err(BuildError::Signing);
        let signature = signer.map(sign).transpose()?;
        document(text, signature, keeps, self.made)
    }
}

/// A record as a registry has it.
#[derive(Debug, Clone)]
pub(crate) struct Found {
    pub(crate) record: Record,
    /// The record's own bytes, and their signature.
    text: String,
    signature: Option<String>,
    /// The content that it keeps.
    pub(crate) keeps: Vec<Descriptor>,
    /// When it was written last, in seconds since 1970.
    pub(crate) written: u64,
    pub(crate) signer: Option<PublicKey>,
}

impl Found {
    /// Reads a document; `None` if it is no record.
    pub(crate) fn read(document: &Document) -> Option<Self> {
        let manifest: Manifest = from_json(&document.bytes, "a record").ok()?;
        let text = manifest.annotations.get(RECORD)?;
        let signature = manifest.annotations.get(SIGNATURE);
        Some(Self {
            record: Record::parse(text)?,
            text: text.clone(),
            signature: signature.cloned(),
            signer: signature.and_then(|signature| signed_by(text, signature)),
            written: manifest.annotations.get(CREATED).and_then(|time| seconds(time)).unwrap_or(0),
            keeps: manifest.layers,
        })
    }

    /// Returns true if its author is trusted.
    pub(crate) fn is_trusted(&self, cache: &Cache) -> bool {
        match &cache.trust {
            Trust::Registry => true,
            Trust::Keys(keys) => self.signer.is_some_and(|key| keys.contains(&key)),
        }
    }

    /// Returns the same record with the same signature, written now: its age begins anew, and nobody else signs it.
    pub(crate) fn renewed(&self, now: u64) -> Result<Document> {
        document(self.text.clone(), self.signature.clone(), &self.keeps, now)
    }
}

fn document(text: String, signature: Option<String>, keeps: &[Descriptor], now: u64) -> Result<Document> {
    let mut annotations = BTreeMap::from([(CREATED.to_owned(), rfc3339(now))]);
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
    Ok(Document { media_type: MANIFEST.into(), digest: Digest::of(&bytes), bytes })
}

/// Reads a record out of a manifest and writes it anew, with what it keeps; `None` where it is none.
#[cfg(feature = "fuzzing")]
pub fn rewritten(manifest: &[u8]) -> Option<Vec<u8>> {
    let document = Document { media_type: MANIFEST.into(), digest: Digest::of(manifest), bytes: manifest.to_vec() };
    let found = Found::read(&document)?;
    Some(found.renewed(found.written).ok()?.bytes)
}
