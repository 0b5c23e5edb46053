//! Publishers of files of an index (PEP 740): the page of a package names a document for each file, and the document names who
//! published it.
//!
//! The identity is taken from the index's word: signatures are not verified.

use kiln_plan::digest::Digest;
use serde::Deserialize;
use serde_json::{Map, Value};

/// Bytes that the text of a publisher may have.
const LONGEST: usize = 300;
/// Publishers of one file.
const MOST: usize = 8;

/// The page of a package in the JSON form of the simple API (PEP 691).
#[derive(Deserialize)]
struct Page {
    #[serde(default)]
    meta: Map<String, Value>,
    files: Vec<File>,
}

#[derive(Deserialize)]
struct File {
    filename: String,
    #[serde(default)]
    hashes: Map<String, Value>,
    /// A member that is there and null is told from one that is not there.
    #[serde(default, deserialize_with = "said")]
    provenance: Option<Option<String>>,
}

fn said<'de, D: serde::Deserializer<'de>>(member: D) -> Result<Option<Option<String>>, D::Error> {
    Option::<String>::deserialize(member).map(Some)
}

impl Page {
    /// Returns true if an index says who published its files: its API has version 1.3, or some file has the member.
    fn knows_publishers(&self) -> bool {
        let version = self.meta.get("api-version").and_then(Value::as_str);
        let minor = version.and_then(|version| version.strip_prefix("1.")).and_then(|minor| minor.parse::<u32>().ok());
        minor.is_some_and(|minor| minor >= 3) || self.files.iter().any(|file| file.provenance.is_some())
    }
}

/// The part of a page about one file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Entry {
    /// The file, and its document, where it has one.
    Document(Option<String>),
    /// The page does not know the file.
    Absent,
}

/// Finds a file in the page of its package; nothing where that is not a page in JSON, or of an index (or a mirror of one)
/// that says nothing of publishers.
pub fn entry(page: &[u8], file: &str, sha256: &Digest) -> Option<Entry> {
    let page: Page = serde_json::from_slice(page).ok()?;
    let is_it = |one: &File| {
        let other = one.hashes.get("sha256").and_then(Value::as_str).is_some_and(|hex| hex != sha256.hex());
        one.filename == file && !other
    };
    let knows = page.knows_publishers();
    match page.files.into_iter().find(is_it) {
        Some(found) => knows.then(|| Entry::Document(found.provenance.flatten())),
        None => Some(Entry::Absent),
    }
}

#[derive(Deserialize)]
struct Document {
    version: u32,
    attestation_bundles: Vec<Bundle>,
}

#[derive(Deserialize)]
struct Bundle {
    publisher: Map<String, Value>,
}

/// The publishers that a document names, in one line: `GitHub acme/engine release.yml (environment pypi)`. Nothing where the
/// document cannot be read.
pub fn publisher(document: &[u8]) -> Option<String> {
    let document: Document = serde_json::from_slice(document).ok()?;
    if document.version != 1 || document.attestation_bundles.len() > MOST {
        return None;
    }
    let mut publishers: Vec<String> =
        document.attestation_bundles.iter().map(|bundle| one(&bundle.publisher)).collect::<Option<_>>()?;
    publishers.sort();
    publishers.dedup();
    let text = publishers.join(", ");
    (!text.is_empty() && text.len() <= LONGEST && !text.contains(char::is_control)).then_some(text)
}

/// A publisher: its kind, its repository, workflow or address, and the environment. Kinds that are not known are described by
/// all that their publisher says.
fn one(publisher: &Map<String, Value>) -> Option<String> {
    let text = |key: &str| publisher.get(key).and_then(Value::as_str).filter(|text| !text.is_empty());
    let mut words = vec![text("kind")?.to_owned()];
    let known = ["repository", "workflow", "workflow_filepath", "email"];
    words.extend(known.into_iter().filter_map(text).map(str::to_owned));
    let is_more = |key: &&String| !known.contains(&key.as_str()) && !matches!(key.as_str(), "kind" | "environment");
    words.extend(publisher.keys().filter(is_more).filter_map(|key| Some(format!("{key} {}", text(key)?))));
    words.extend(text("environment").map(|environment| format!("(environment {environment})")));
    Some(words.join(" "))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_page_names_the_document_of_a_file() {
        let sha256 = Digest::of(b"wheel");
        let page = format!(
            r#"{{"meta": {{"api-version": "1.3"}}, "name": "a", "files": [
                {{"filename": "a-1-py3-none-any.whl", "hashes": {{"sha256": "{}"}}, "provenance": "https://example.org/other"}},
                {{"filename": "a-1-py3-none-any.whl", "hashes": {{"sha256": "{}"}}, "provenance": "https://example.org/p"}},
                {{"filename": "a-2-py3-none-any.whl", "url": "x", "provenance": null}},
                {{"filename": "a-3-py3-none-any.whl"}}]}}"#,
            Digest::of(b"").hex(),
            sha256.hex()
        );
        let found = |file: &str| entry(page.as_bytes(), file, &sha256);
        assert_eq!(found("a-1-py3-none-any.whl"), Some(Entry::Document(Some("https://example.org/p".into()))));
        assert_eq!(found("a-2-py3-none-any.whl"), Some(Entry::Document(None)));
        assert_eq!(found("a-3-py3-none-any.whl"), Some(Entry::Document(None)));
        assert_eq!(found("a-4-py3-none-any.whl"), Some(Entry::Absent));
        assert_eq!(entry(b"<!DOCTYPE html>", "a", &sha256), None);
        // A mirror that leaves the member out knows nothing.
        let mirrored = r#"{"meta": {"api-version": "1.1"}, "files": [{"filename": "a-3-py3-none-any.whl"}]}"#;
        assert_eq!(entry(mirrored.as_bytes(), "a-3-py3-none-any.whl", &sha256), None);
    }

    #[test]
    fn a_publisher_is_one_line() {
        let of = |publishers: &str| {
            let bundles: Vec<String> =
                publishers.split('|').map(|one| format!("{{\"publisher\": {one}, \"attestations\": []}}")).collect();
            publisher(format!("{{\"version\": 1, \"attestation_bundles\": [{}]}}", bundles.join(",")).as_bytes())
        };
        for (publishers, expected) in [
            (
                r#"{"kind": "GitHub", "repository": "acme/engine", "workflow": "release.yml", "environment": "pypi", "claims": null}"#,
                "GitHub acme/engine release.yml (environment pypi)",
            ),
            (
                r#"{"kind": "GitHub", "repository": "acme/engine", "workflow": "release.yml", "environment": null}"#,
                "GitHub acme/engine release.yml",
            ),
            (
                r#"{"kind": "GitLab", "repository": "acme/engine", "workflow_filepath": ".gitlab-ci.yml"}"#,
                "GitLab acme/engine .gitlab-ci.yml",
            ),
            (r#"{"kind": "Google", "email": "bot@example.org"}"#, "Google bot@example.org"),
            (r#"{"kind": "New", "team": "a", "environment": "b"}"#, "New team a (environment b)"),
            (r#"{"kind": "B", "email": "b"}|{"kind": "A", "email": "a"}|{"kind": "B", "email": "b"}"#, "A a, B b"),
        ] {
            assert_eq!(of(publishers).as_deref(), Some(expected));
        }
        for publishers in [r#"{"repository": "a"}"#, r#"{"kind": "a\nb"}"#, "[]", "null"] {
            assert_eq!(of(publishers), None, "{publishers}");
        }
        assert_eq!(of(&format!("{{\"kind\": \"{}\"}}", "a".repeat(1000))), None);
        assert_eq!(publisher(b"{\"version\": 2, \"attestation_bundles\": []}"), None);
        assert_eq!(publisher(b"{\"version\": 1, \"attestation_bundles\": []}"), None);
    }
}
