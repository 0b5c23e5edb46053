//! Documents that Docker, BuildKit, buildah, podman, umoci and skopeo wrote, read alike from a layout and from a registry.
//!
//! Each line of `of-others.jsonl` is an image that the interoperability suite had made: how an index names it, its
//! documents as they are, and what `skopeo inspect --config` reads of it.

use kiln_oci::image::LoadedImage;
use kiln_oci::image::from_json;
use kiln_oci::layout::Layout;
use kiln_plan::platform::Platform;
use serde::Deserialize;
use serde_json::{Value, json};

use super::*;

#[derive(Deserialize)]
struct Line {
    image: String,
    entry: Value,
    documents: Vec<String>,
    read: Value,
}

fn lines() -> Vec<Line> {
    include_str!("of-others.jsonl").lines().map(|line| serde_json::from_str(line).unwrap()).collect()
}

fn platform() -> Platform {
    "linux/amd64".parse().unwrap()
}

/// The row that an image would have in the table.
fn read(loaded: &LoadedImage) -> Value {
    let config: Config = from_json(&loaded.config_bytes, "a config").unwrap();
    let read = json!({ "user": config.config.user, "env": config.config.env, "entrypoint": config.config.entrypoint,
        "cmd": config.config.cmd, "workdir": config.config.working_dir, "labels": config.config.labels,
        "diff_ids": config.rootfs.diff_ids, "history": config.history.len() });
    let is_empty = |value: &Value| [json!(""), json!([]), json!({}), json!(0)].contains(value);
    let Value::Object(members) = read else { unreachable!() };
    members.into_iter().filter(|(_, value)| !is_empty(value)).collect::<serde_json::Map<_, _>>().into()
}

#[test]
fn documents_of_others_are_read_as_skopeo_reads_them() {
    let pair = Pair::open();
    let lines = lines();
    assert!(lines.len() >= 40);
    for Line { image, entry, documents, read: expected } in lines {
        let directory = tempfile::tempdir().unwrap();
        let blobs = directory.path().join("blobs/sha256");
        fs_err::create_dir_all(&blobs).unwrap();
        fs_err::write(directory.path().join("oci-layout"), "{}").unwrap();
        let index = json!({ "schemaVersion": 2, "manifests": [entry] });
        fs_err::write(directory.path().join("index.json"), index.to_string()).unwrap();
        for document in &documents {
            let digest = pair.registry.add_blob(&image, document.as_bytes());
            fs_err::write(blobs.join(digest.hex()), document).unwrap();
            let said: Value = serde_json::from_str(document).unwrap();
            let said = said["mediaType"].as_str().unwrap_or(MANIFEST);
            pair.registry.add_manifest(&image, &digest.to_string(), said, document.as_bytes());
        }
        let said = entry["mediaType"].as_str().unwrap();
        pair.registry.add_manifest(&image, "1", said, documents[0].as_bytes());
        let here = Layout::open(directory.path()).unwrap().image_for(None, platform()).unwrap();
        let there = pair.client.image(&pair.repository(&image).tag("1"), platform()).unwrap().loaded;
        assert_eq!((&here.image, &here.config_bytes), (&there.image, &there.config_bytes), "{image}");
        assert_eq!(read(&here), expected, "{image}");
    }
}

/// Returns a document with a member left out, and with `null` in its place, for each of its members.
fn with_and_without(document: &Value, at: &str, found: &mut Vec<(Value, Value)>, whole: &Value) {
    let children: Vec<(String, &Value)> = match document {
        Value::Object(members) => members.iter().map(|(name, value)| (name.replace('/', "~1"), value)).collect(),
        Value::Array(elements) => elements.iter().enumerate().map(|(at, value)| (at.to_string(), value)).collect(),
        _ => Vec::new(),
    };
    for (name, value) in children {
        let place = format!("{at}/{name}");
        if document.is_object() && !at.ends_with("/Labels") && !at.ends_with("/annotations") {
            let (mut null, mut absent) = (whole.clone(), whole.clone());
            *null.pointer_mut(&place).unwrap() = Value::Null;
            absent.pointer_mut(at).unwrap().as_object_mut().unwrap().remove(&name.replace("~1", "/"));
            found.push((null, absent));
        }
        with_and_without(value, &place, found, whole);
    }
}

#[test]
fn null_is_what_is_absent_in_documents_of_others() {
    fn parsed<T: kiln_oci::image::Foreign + serde::Serialize>(document: &Value) -> Option<Value> {
        let found: T = from_json(document.to_string().as_bytes(), "a document").ok()?;
        Some(without_null(serde_json::to_value(found).unwrap()))
    }
    let mut count = 0;
    for document in lines().iter().flat_map(|line| &line.documents) {
        let document: Value = serde_json::from_str(document).unwrap();
        let mut pairs = Vec::new();
        with_and_without(&document, "", &mut pairs, &document);
        count += pairs.len();
        for (null, absent) in pairs {
            assert_eq!(parsed::<Manifest>(&null), parsed::<Manifest>(&absent), "{null}");
            assert_eq!(parsed::<Index>(&null), parsed::<Index>(&absent), "{null}");
            assert_eq!(parsed::<Config>(&null), parsed::<Config>(&absent), "{null}");
        }
    }
    assert!(count > 1000, "{count}");
}

/// Unknown members stay as they are.
fn without_null(value: Value) -> Value {
    match value {
        Value::Object(members) => {
            let members = members.into_iter().filter(|(_, value)| !value.is_null());
            members.map(|(name, value)| (name, without_null(value))).collect::<serde_json::Map<_, _>>().into()
        }
        Value::Array(elements) => elements.into_iter().map(without_null).collect(),
        other => other,
    }
}

#[test]
fn an_answer_that_is_no_manifest_is_not_asked_for_again() {
    let pair = Pair::open();
    pair.registry.add_manifest("a", "page", "text/html", b"<html>log in</html>");
    let reference = format!("{}/a:page", pair.registry.address()).parse().unwrap();
    let error = pair.client.manifest(&reference).unwrap_err().to_string();
    assert!(error.contains("is not a manifest (text/html)"), "{error}");
    let asked = pair.registry.log().iter().filter(|logged| logged.path.contains("/manifests/page")).count();
    assert_eq!(asked, 1);
}
