//! Documents of images: how a manifest is told from an index, and the members that kiln reads of each.

use serde::Deserialize;
use serde_json::Value;

use crate::image::{Config, DOCKER_INDEX, DOCKER_MANIFEST, Descriptor, INDEX, Index, MANIFEST, Manifest};
use crate::json::{Foreign, Shape, parse, tidy};

/// Media types of what Docker wrote until 2016 (image manifest version 2, schema 1).
const OLD: [&str; 2] = [
    "application/vnd.docker.distribution.manifest.v1+json",
    "application/vnd.docker.distribution.manifest.v1+prettyjws",
];

/// The kinds of documents.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// An index: several images.
    Index,
    /// The manifest of one image, or of an artifact.
    Manifest,
    /// A manifest in the format that Docker wrote until 2016.
    Old,
    /// Something else.
    Other,
}

const PLATFORM: Shape = Shape::Object(&[
    ("architecture", Shape::Text),
    ("os", Shape::Text),
    ("os.version", Shape::Text),
    ("os.features", Shape::List(&Shape::Text)),
    ("variant", Shape::Text),
]);
const ANNOTATIONS: Shape = Shape::Map(&Shape::Text);
const DESCRIPTOR: Shape = Shape::Object(&[
    ("mediaType", Shape::Text),
    ("digest", Shape::Text),
    ("size", Shape::Number),
    ("platform", PLATFORM),
    ("urls", Shape::List(&Shape::Text)),
    ("annotations", ANNOTATIONS),
]);
const INDEX_SHAPE: Shape = Shape::Object(&[
    ("schemaVersion", Shape::Number),
    ("mediaType", Shape::Text),
    ("manifests", Shape::List(&DESCRIPTOR)),
    ("annotations", ANNOTATIONS),
]);
const PARTS: Shape = Shape::Object(&[
    ("manifests", Shape::List(&DESCRIPTOR)),
    ("config", DESCRIPTOR),
    ("layers", Shape::List(&DESCRIPTOR)),
    ("blobs", Shape::List(&DESCRIPTOR)),
]);
const MANIFEST_SHAPE: Shape = Shape::Object(&[
    ("schemaVersion", Shape::Number),
    ("mediaType", Shape::Text),
    ("config", DESCRIPTOR),
    ("layers", Shape::List(&DESCRIPTOR)),
    ("annotations", ANNOTATIONS),
]);
const CONFIG_SHAPE: Shape = Shape::Object(&[
    ("created", Shape::Text),
    ("architecture", Shape::Text),
    ("os", Shape::Text),
    ("variant", Shape::Text),
    ("author", Shape::Text),
    (
        "config",
        Shape::Object(&[
            ("User", Shape::Text),
            ("ExposedPorts", Shape::Any),
            ("Volumes", Shape::Any),
            ("StopSignal", Shape::Text),
            ("StopTimeout", Shape::Any),
            ("Healthcheck", Shape::Any),
            ("OnBuild", Shape::List(&Shape::Text)),
            ("Shell", Shape::List(&Shape::Text)),
            ("ArgsEscaped", Shape::Flag),
            ("Env", Shape::List(&Shape::Text)),
            ("Entrypoint", Shape::List(&Shape::Text)),
            ("Cmd", Shape::List(&Shape::Text)),
            ("WorkingDir", Shape::Text),
            ("Labels", Shape::Map(&Shape::Text)),
        ]),
    ),
    ("rootfs", Shape::Object(&[("type", Shape::Text), ("diff_ids", Shape::List(&Shape::Text))])),
    (
        "history",
        Shape::List(&Shape::Object(&[
            ("created", Shape::Text),
            ("created_by", Shape::Text),
            ("author", Shape::Text),
            ("comment", Shape::Text),
            ("empty_layer", Shape::Flag),
        ])),
    ),
]);
/// All that tells documents of one kind from those of another.
const HEAD: Shape = Shape::Object(&[
    ("mediaType", Shape::Text),
    ("manifests", Shape::Any),
    ("config", Shape::Any),
    ("layers", Shape::Any),
    ("fsLayers", Shape::Any),
]);

/// All that a document names, whatever it is: an index, a manifest, or the manifest of an artifact.
#[derive(Debug, Default, Deserialize)]
#[serde(default)]
pub(crate) struct Parts {
    pub(crate) manifests: Vec<Descriptor>,
    pub(crate) config: Option<Descriptor>,
    pub(crate) layers: Vec<Descriptor>,
    pub(crate) blobs: Vec<Descriptor>,
}

impl Foreign for Parts {
    fn tidy(value: &mut Value) {
        tidy(value, &PARTS);
    }
}

impl Foreign for Index {
    fn tidy(value: &mut Value) {
        tidy(value, &INDEX_SHAPE);
    }
}

impl Foreign for Manifest {
    fn tidy(value: &mut Value) {
        tidy(value, &MANIFEST_SHAPE);
    }
}

impl Foreign for Config {
    fn tidy(value: &mut Value) {
        tidy(value, &CONFIG_SHAPE);
    }
}

/// Returns the media type of a document: its own word counts, then that of whoever points at it (a descriptor, or the
/// header of an answer), then its members. `None` where nothing tells, or where it is no JSON object.
pub fn media_type(bytes: &[u8], told: Option<&str>) -> Option<String> {
    let head = head(bytes)?;
    let own = head.get("mediaType").and_then(Value::as_str).filter(|own| !own.is_empty());
    let vague = |told: &str| matches!(told, "" | "application/json" | "application/octet-stream" | "text/plain");
    let told = told.filter(|told| !vague(told));
    let has = |member: &str| head.contains_key(member);
    let members = || match (has("manifests"), has("config") || has("layers"), has("fsLayers")) {
        (true, ..) => Some(INDEX),
        (_, true, _) => Some(MANIFEST),
        (.., true) => Some(OLD[0]),
        _ => None,
    };
    own.or(told).or_else(members).map(str::to_owned)
}

/// Returns the kind of a document of this media type. The error is a clause: a document that can be read as two kinds is
/// not read at all, since others may see another image in it (CVE-2021-41190).
pub fn kind(bytes: &[u8], media_type: &str) -> Result<Kind, String> {
    let (kind, foreign) = match media_type {
        INDEX | DOCKER_INDEX => (Kind::Index, ["config", "layers", "fsLayers"].as_slice()),
        MANIFEST | DOCKER_MANIFEST => (Kind::Manifest, ["manifests", "fsLayers"].as_slice()),
        old if OLD.contains(&old) => return Ok(Kind::Old),
        _ => return Ok(Kind::Other),
    };
    let head = head(bytes).ok_or("it is no JSON object")?;
    match foreign.iter().find(|member| head.contains_key(**member)) {
        Some(member) => Err(format!("it says that it is `{media_type}`, and has `{member}`")),
        None => Ok(kind),
    }
}

fn head(bytes: &[u8]) -> Option<serde_json::Map<String, Value>> {
    let mut value = parse(bytes).ok()?;
    tidy(&mut value, &HEAD);
    match value {
        Value::Object(members) => Some(members),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_document_tells_what_it_is_before_others_do() {
        for (document, told, expected) in [
            (r#"{"mediaType": "application/x"}"#, Some(MANIFEST), Some("application/x")),
            (r#"{"mediaType": ""}"#, Some(MANIFEST), Some(MANIFEST)),
            (r#"{"mediaType": null, "manifests": null}"#, Some(MANIFEST), Some(MANIFEST)),
            (r#"{"manifests": []}"#, Some("text/plain"), Some(INDEX)),
            (r#"{"config": {}}"#, Some(""), Some(MANIFEST)),
            (r#"{"layers": []}"#, None, Some(MANIFEST)),
            (r#"{"fsLayers": []}"#, None, Some(OLD[0])),
            ("{}", None, None),
            ("[]", Some(MANIFEST), None),
            ("", Some(MANIFEST), None),
        ] {
            assert_eq!(media_type(document.as_bytes(), told).as_deref(), expected, "{document}");
        }
    }

    #[test]
    fn a_document_that_is_two_kinds_at_once_is_none() {
        let both = br#"{"manifests": [], "layers": []}"#;
        assert!(kind(both, INDEX).unwrap_err().contains("layers"));
        assert!(kind(both, DOCKER_MANIFEST).unwrap_err().contains("manifests"));
        assert_eq!(kind(br#"{"manifests": null, "config": {}}"#, MANIFEST), Ok(Kind::Manifest));
        assert_eq!(kind(b"{}", INDEX), Ok(Kind::Index));
        assert_eq!(kind(b"{}", OLD[1]), Ok(Kind::Old));
        assert_eq!(kind(b"", "application/x"), Ok(Kind::Other));
    }
}
