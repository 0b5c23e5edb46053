//! Judging what lies on the disk: layouts against the digests that name their blobs, and what must not be left over.
//!
//! None of kiln's own code reads here: it is what is tested.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use kiln_plan::digest::Digest;
use kiln_registry::testing::FakeRegistry;
use serde_json::Value;

use super::outcome::{Problem, problem};

const REF_NAME: &str = "org.opencontainers.image.ref.name";

/// When something is looked at.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Moment {
    /// Right after a disturbance: temporary files of a process that died are still there.
    Disturbed,
    /// After a later build and `kiln gc`.
    Settled,
}

/// Checks a layout: every blob has the digest that names it, everything that `index.json` lists can be resolved, and
/// the images of `finished` are listed with their digests.
pub(crate) fn layout(path: &Path, finished: &BTreeMap<String, String>, moment: Moment) -> Vec<Problem> {
    let mut checked = Checked { path, problems: Vec::new(), right: BTreeSet::new() };
    if !path.exists() && finished.is_empty() {
        return Vec::new();
    }
    checked.files(moment);
    let listed = checked.index();
    match listed {
        Some(listed) => {
            for (name, digest) in finished {
                match listed.get(name) {
                    Some(found) if found == digest => {}
                    Some(found) => checked.fail("a layout lists another image", format!("{name} is {found}")),
                    None => checked.fail("a layout lost an image", format!("{name} is not listed")),
                }
            }
        }
        None if finished.is_empty() && moment == Moment::Disturbed => {}
        None => checked.fail("a layout without a readable index.json", String::new()),
    }
    checked.problems
}

/// The digests that a layout's `index.json` lists, by name.
pub(crate) fn listed(path: &Path) -> BTreeMap<String, String> {
    let mut checked = Checked { path, problems: Vec::new(), right: BTreeSet::new() };
    checked.index().unwrap_or_default()
}

struct Checked<'a> {
    path: &'a Path,
    problems: Vec<Problem>,
    /// Digests whose blobs are right.
    right: BTreeSet<String>,
}

impl Checked<'_> {
    fn fail(&mut self, kind: &str, details: String) {
        self.problems.push(problem(kind, format!("{}: {details}", self.path.display())));
    }

    fn files(&mut self, moment: Moment) {
        for name in names(&self.path.join("blobs/sha256")) {
            let is_digest = Digest::from_hex(&name).is_ok();
            match fs_err::read(self.path.join("blobs/sha256").join(&name)) {
                Ok(bytes) if is_digest && Digest::of(&bytes).hex() == name => drop(self.right.insert(name)),
                Ok(bytes) if is_digest => {
                    self.fail("a wrong blob in a layout", format!("{name} has {} wrong bytes", bytes.len()));
                }
                Ok(_) if moment == Moment::Disturbed => {}
                Ok(_) => self.fail("a file is left over in a layout", name),
                Err(error) => self.fail("a blob that cannot be read", error.to_string()),
            }
        }
        for name in names(self.path) {
            if moment == Moment::Settled && !["blobs", "index.json", "oci-layout"].contains(&name.as_str()) {
                self.fail("a file is left over in a layout", name);
            }
        }
    }

    /// The images that `index.json` lists, all of them followed to the last blob.
    fn index(&mut self) -> Option<BTreeMap<String, String>> {
        let bytes = fs_err::read(self.path.join("index.json")).ok()?;
        let Ok(index) = serde_json::from_slice::<Value>(&bytes) else {
            self.fail("a layout's index.json is damaged", format!("{} bytes", bytes.len()));
            return None;
        };
        let marker = fs_err::read(self.path.join("oci-layout")).unwrap_or_default();
        if serde_json::from_slice::<Value>(&marker).is_err() {
            self.fail("a layout's oci-layout is damaged", format!("{} bytes", marker.len()));
        }
        let mut listed = BTreeMap::new();
        for entry in index["manifests"].as_array()? {
            self.follow(entry, 0);
            let (name, digest) = (entry["annotations"][REF_NAME].as_str(), entry["digest"].as_str());
            listed.insert(name.unwrap_or_default().to_owned(), digest.unwrap_or_default().to_owned());
        }
        Some(listed)
    }

    fn follow(&mut self, descriptor: &Value, depth: usize) {
        let digest = descriptor["digest"].as_str().unwrap_or_default().to_owned();
        let hex = digest.strip_prefix("sha256:").unwrap_or_default();
        let blob = self.path.join("blobs/sha256").join(hex);
        if !self.right.contains(hex) {
            if !blob.exists() {
                self.fail("a layout lacks a blob", digest);
            }
            return;
        }
        let Ok(bytes) = fs_err::read(blob) else { return };
        if descriptor["size"].as_u64() != Some(bytes.len() as u64) {
            self.fail("a descriptor has another size than its blob", digest);
        }
        let kind = descriptor["mediaType"].as_str().unwrap_or_default();
        if depth > 4 || !(kind.contains("manifest") || kind.contains("index")) {
            return;
        }
        let Ok(document) = serde_json::from_slice::<Value>(&bytes) else { return };
        let lists = [&document["manifests"], &document["layers"]];
        for part in lists.into_iter().filter_map(Value::as_array).flatten() {
            self.follow(part, depth + 1);
        }
        if document["config"].is_object() {
            self.follow(&document["config"], depth + 1);
        }
    }
}

/// Checks a registry: all that tags lead to is there and right, and `latest` of each of these repositories leads to the
/// image of this digest.
pub(crate) fn registry(registry: &FakeRegistry, finished: &BTreeMap<String, String>) -> Vec<Problem> {
    let mut problems = Vec::new();
    if let Err(why) = registry.check() {
        problems.push(problem("a tag in the registry is incomplete", why));
    }
    for (repository, digest) in finished {
        let manifest = registry.manifest(repository, "latest");
        match manifest.map(|(_, bytes)| Digest::of(&bytes).to_string()) {
            Some(found) if found == *digest => {}
            Some(found) => problems.push(problem("a tag leads to another image", format!("{repository}: {found}"))),
            None => problems.push(problem("a tag is missing", repository)),
        }
    }
    problems
}

/// Finds what must not be left over in the directory of a case after the next `kiln gc`. `known` are the entries that
/// the project may have.
pub(crate) fn left_over(root: &Path, known: &[&str]) -> Vec<Problem> {
    let mut problems = Vec::new();
    let mut found = |kind: &str, directory: &str, name: &str| {
        problems.push(problem(kind, format!("{directory}/{name}")));
    };
    for directory in ["store/temporary", "store/partial"] {
        for name in names(&root.join(directory)) {
            found(&format!("a file is left over in {directory}"), directory, &name);
        }
    }
    for name in names(&root.join("store/locks")) {
        if name.starts_with("step-") || name.len() >= 64 {
            found("a lock is left over in store/locks", "store/locks", &name);
        }
    }
    for name in names(&root.join("project")) {
        if !known.contains(&name.as_str()) {
            found("a file is left over beside the stack", "project", &name);
        }
    }
    for directory in [
        "store",
        "store/blobs/sha256",
        "store/recipes/sha256",
        "store/tools",
        "project/wheels",
        "project/pruned",
        "home/.docker",
    ] {
        for name in names(&root.join(directory)) {
            if is_temporary(&name) {
                found("a temporary file is left over", directory, &name);
            }
        }
    }
    problems
}

fn is_temporary(name: &str) -> bool {
    name.ends_with(".part") || name.contains(".tmp") || name.starts_with(".kiln-") || name.ends_with(".new")
}

/// The names in a directory, sorted; none where it does not exist.
pub(crate) fn names(directory: &Path) -> Vec<String> {
    let entries = fs_err::read_dir(directory).into_iter().flatten().flatten();
    let mut names: Vec<String> = entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A layout with one image; its digest.
    fn image(path: &Path) -> String {
        fs_err::create_dir_all(path.join("blobs/sha256")).unwrap();
        let add = |bytes: &[u8]| {
            fs_err::write(path.join("blobs/sha256").join(Digest::of(bytes).hex()), bytes).unwrap();
            serde_json::json!({ "digest": Digest::of(bytes).to_string(), "size": bytes.len(), "mediaType": "x" })
        };
        let manifest = serde_json::json!({ "config": add(b"config"), "layers": [add(b"layer")] }).to_string();
        let mut entry = add(manifest.as_bytes());
        entry["mediaType"] = "application/vnd.oci.image.manifest.v1+json".into();
        entry["annotations"] = serde_json::json!({ REF_NAME: "app" });
        let index = serde_json::json!({ "manifests": [entry.clone()] });
        fs_err::write(path.join("index.json"), index.to_string()).unwrap();
        fs_err::write(path.join("oci-layout"), "{}").unwrap();
        entry["digest"].as_str().unwrap().to_owned()
    }

    /// The kinds of problems of a layout after it was changed.
    fn after(change: impl FnOnce(&Path)) -> Vec<String> {
        let directory = tempfile::tempdir().unwrap();
        let digest = image(directory.path());
        change(directory.path());
        let finished = BTreeMap::from([("app".to_owned(), digest)]);
        layout(directory.path(), &finished, Moment::Settled).into_iter().map(|problem| problem.kind).collect()
    }

    fn blob(path: &Path, content: &[u8]) -> std::path::PathBuf {
        path.join("blobs/sha256").join(Digest::of(content).hex())
    }

    #[test]
    fn a_right_layout_passes() {
        assert_eq!(after(|_| ()), [""; 0]);
    }

    #[test]
    fn a_flipped_bit_and_a_lost_blob_are_found() {
        assert_eq!(after(|path| fs_err::write(blob(path, b"layer"), b"lbyer").unwrap()), ["a wrong blob in a layout"]);
        assert_eq!(after(|path| fs_err::write(blob(path, b"config"), b"").unwrap()), ["a wrong blob in a layout"]);
        assert_eq!(after(|path| fs_err::remove_file(blob(path, b"layer")).unwrap()), ["a layout lacks a blob"]);
    }

    #[test]
    fn a_lost_entry_another_entry_and_a_damaged_index_are_found() {
        let empty = |path: &Path| fs_err::write(path.join("index.json"), r#"{"manifests":[]}"#).unwrap();
        assert_eq!(after(empty), ["a layout lost an image"]);
        let torn = |path: &Path| fs_err::write(path.join("index.json"), r#"{"manif"#).unwrap();
        assert_eq!(after(torn), ["a layout's index.json is damaged", "a layout without a readable index.json"]);
        let directory = tempfile::tempdir().unwrap();
        image(directory.path());
        let other = BTreeMap::from([("app".to_owned(), "sha256:other".to_owned())]);
        assert_eq!(layout(directory.path(), &other, Moment::Settled)[0].kind, "a layout lists another image");
    }

    #[test]
    fn a_part_is_tolerated_right_after_a_kill_alone() {
        let part = |path: &Path| fs_err::write(blob(path, b"x").with_extension("17.part"), "half").unwrap();
        assert_eq!(after(part), ["a file is left over in a layout"]);
        let directory = tempfile::tempdir().unwrap();
        image(directory.path());
        part(directory.path());
        assert_eq!(layout(directory.path(), &BTreeMap::new(), Moment::Disturbed), []);
    }

    #[test]
    fn a_tag_without_one_of_its_blobs_another_tag_and_a_missing_tag_are_found() {
        let directory = tempfile::tempdir().unwrap();
        kiln_oci::testing::debian(directory.path());
        let server = FakeRegistry::start();
        server.add_layout(directory.path(), "acme/app", "latest");
        let kinds = |repository: &str, digest: &str| {
            let finished = BTreeMap::from([(repository.to_owned(), digest.to_owned())]);
            registry(&server, &finished).into_iter().map(|problem| problem.kind).collect::<Vec<_>>()
        };
        let (_, index) = server.manifest("acme/app", "latest").unwrap();
        let digest = Digest::of(&index).to_string();
        assert_eq!(kinds("acme/app", &digest), [""; 0]);
        assert_eq!(kinds("acme/app", "sha256:other"), ["a tag leads to another image"]);
        assert_eq!(kinds("acme/other", &digest), ["a tag is missing"]);
        for name in names(&directory.path().join("blobs/sha256")) {
            server.remove_blob("acme/app", &Digest::from_hex(&name).unwrap());
        }
        assert_eq!(kinds("acme/app", &digest), ["a tag in the registry is incomplete"]);
    }

    #[test]
    fn what_a_dead_process_left_is_found() {
        let directory = tempfile::tempdir().unwrap();
        let write = |path: &str| {
            let path = directory.path().join(path);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, "").unwrap();
        };
        for path in ["store/locks/store", "store/metadata.db", "project/kiln.toml", "home/.docker/config.json"] {
            write(path);
        }
        assert_eq!(left_over(directory.path(), &["kiln.toml"]), []);
        let paths = [
            "store/temporary/.tmpAb12",
            "store/partial/0123.part",
            "store/locks/step-0123",
            "project/.kiln-archive.x",
            "home/.docker/.tmpAb12",
        ];
        for path in paths {
            write(path);
        }
        assert_eq!(left_over(directory.path(), &["kiln.toml"]).len(), paths.len());
    }
}
