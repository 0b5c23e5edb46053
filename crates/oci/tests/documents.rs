//! Images among what an index names, and all that a document names.
#![allow(clippy::unwrap_used, reason = "helpers of tests fail as tests do")]

use std::cell::Cell;
use std::collections::BTreeMap;

use kiln_oci::OciError;
use kiln_oci::choose::{Pointed, Shelf, image_for, images, none_for};
use kiln_oci::image::{CONFIG, Descriptor, INDEX, MANIFEST};
use kiln_oci::layer::MediaType;
use kiln_oci::reach::reach;
use kiln_plan::digest::Digest;
use kiln_plan::platform::Platform;
use serde_json::{Value, json};

/// Documents by their digests, and the number of times that one was read.
#[derive(Default)]
struct Memory {
    documents: BTreeMap<Digest, Vec<u8>>,
    reads: Cell<usize>,
}

impl Shelf for Memory {
    type Error = OciError;

    fn document(&self, entry: &Descriptor) -> Result<Vec<u8>, OciError> {
        self.reads.set(self.reads.get() + 1);
        Ok(self.documents[&entry.digest].clone())
    }

    fn config(&self, config: &Descriptor) -> Result<Vec<u8>, OciError> {
        Ok(self.documents[&config.digest].clone())
    }

    fn size(&self, blob: &Digest) -> Result<u64, OciError> {
        Ok(self.documents.get(blob).map_or(0, |bytes| bytes.len() as u64))
    }

    fn unusable(&self, problem: String) -> OciError {
        OciError::Layout { path: "memory".into(), problem }
    }

    fn is_about_content(&self, error: &OciError) -> bool {
        matches!(error, OciError::Layout { .. } | OciError::Json { .. })
    }
}

impl Memory {
    fn add(&mut self, media_type: &str, document: &Value) -> Value {
        let bytes = document.to_string().into_bytes();
        let digest = Digest::of(&bytes);
        let size = bytes.len();
        self.documents.insert(digest, bytes);
        json!({ "mediaType": media_type, "digest": digest, "size": size })
    }

    fn image(&mut self, cpu: &str, layers: &[Value], diff_ids: &[Digest]) -> Value {
        let config = json!({ "architecture": cpu, "os": "linux", "rootfs": { "diff_ids": diff_ids } });
        let config = self.add(CONFIG, &config);
        self.add(MANIFEST, &json!({ "schemaVersion": 2, "config": config, "layers": layers }))
    }

    fn index(&mut self, entries: &[Value]) -> Value {
        self.add(INDEX, &json!({ "schemaVersion": 2, "manifests": entries }))
    }

    fn root(&self, entry: &Value) -> Pointed {
        Pointed::read(self, serde_json::from_value(entry.clone()).unwrap()).unwrap()
    }
}

fn platform() -> Platform {
    "linux/amd64".parse().unwrap()
}

#[test]
fn each_document_is_read_once_however_often_it_is_named() {
    let mut memory = Memory::default();
    let mut entry = memory.image("arm64", &[], &[]);
    for _ in 0..4 {
        entry = memory.index(&vec![entry; 1000]);
    }
    let root = memory.root(&entry);
    let reads = |search: &dyn Fn()| {
        memory.reads.set(0);
        search();
        memory.reads.get()
    };
    assert!(reads(&|| assert!(image_for(&memory, &root, platform()).unwrap().is_none())) <= 4);
    assert!(reads(&|| assert_eq!(images(&memory, vec![((), root.clone())]).unwrap().len(), 1)) <= 4);
    assert!(reads(&|| assert_eq!(reach(&memory, root.clone()).unwrap().documents.len(), 5)) <= 4);
    let entries = root.entries().unwrap();
    let none = "it has no image for linux/amd64; it has linux/arm64";
    assert!(reads(&|| assert_eq!(none_for(&memory, platform(), &entries), none)) <= 4);
}

#[test]
fn an_index_that_contradicts_a_config_is_not_believed() {
    let mut memory = Memory::default();
    let mut image = memory.image("arm64", &[], &[]);
    image["platform"] = json!({ "architecture": "amd64", "os": "linux" });
    let index = memory.index(&[image]);
    let error = image_for(&memory, &memory.root(&index), platform()).unwrap_err().to_string();
    assert!(error.contains("is for linux/amd64, and its config is for linux/arm64"), "{error}");
}

#[test]
fn a_layer_without_a_media_type_is_gzip_unless_it_is_its_own_tar() {
    let mut memory = Memory::default();
    let (one, other) = (Digest::of(b"one"), Digest::of(b"other"));
    let layer = json!({ "mediaType": null, "digest": one, "size": 3 });
    let image = memory.image("amd64", &[layer.clone(), layer], &[one, other]);
    let found = image_for(&memory, &memory.root(&image), platform()).unwrap().unwrap();
    let types: Vec<MediaType> = found.image.layers.iter().map(|layer| layer.media_type).collect();
    assert_eq!(types, [MediaType::Tar, MediaType::Gzip]);
}

#[test]
fn documents_in_dockers_words_become_ocis_with_all_that_names_them() {
    const DOCKER: &str = "application/vnd.docker.distribution.manifest";
    let mut memory = Memory::default();
    let config = memory
        .add("application/vnd.docker.container.image.v1+json", &json!({ "architecture": "amd64", "os": "linux" }));
    let kind = format!("{DOCKER}.v2+json");
    let inner = json!({ "schemaVersion": 2, "mediaType": kind, "config": config, "layers": [] });
    let inner = memory.add(&kind, &inner);
    let list = format!("{DOCKER}.list.v2+json");
    let outer = memory.add(&list, &json!({ "schemaVersion": 2, "mediaType": list, "manifests": [inner], "x": null }));
    let reached = reach(&memory, memory.root(&outer)).unwrap().in_oci().unwrap();
    let [manifest, index] = reached.documents.as_slice() else { panic!("{reached:?}") };
    let read = |document: &Pointed| serde_json::from_slice::<Value>(&document.bytes).unwrap();
    assert_eq!(
        (read(manifest)["mediaType"].as_str(), read(index)["mediaType"].as_str()),
        (Some(MANIFEST), Some(INDEX))
    );
    assert_eq!(read(index)["manifests"][0]["digest"], json!(manifest.entry.digest));
    assert_eq!(read(index)["manifests"][0]["mediaType"], MANIFEST);
    assert_eq!((Digest::of(&index.bytes), index.entry.digest), (index.entry.digest, Digest::of(&index.bytes)));
    assert!(read(index).as_object().unwrap().contains_key("x"));
    // What is in OCI's words already stays, byte for byte.
    let mut memory = Memory::default();
    let image = memory.image("amd64", &[], &[]);
    let before = memory.root(&image).bytes;
    assert_eq!(reach(&memory, memory.root(&image)).unwrap().in_oci().unwrap().documents[0].bytes, before);
}
