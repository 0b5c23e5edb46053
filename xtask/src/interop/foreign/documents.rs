//! Images that others made, read by kiln from where those put them, and from a layout that has the same bytes.

use std::collections::BTreeMap;
use std::path::Path;
use std::process::Command;

use kiln_registry::testing::FakeRegistry;
use serde::Deserialize;
use serde_json::{Value, json};

use super::made::Made;
use super::{Fixture, reading};
use crate::interop::report::{Checks, none, same};
use crate::interop::{Result, programs, transports};

/// The fewest images that count.
const FEWEST: usize = 40;

/// The documents and layers of an image, as they are.
#[derive(Debug, Clone)]
pub(super) struct Documents {
    /// The manifest or the index.
    pub(super) root: Vec<u8>,
    /// The manifests of an index.
    pub(super) manifests: Vec<Vec<u8>>,
    /// Configs and layers.
    pub(super) blobs: Vec<Vec<u8>>,
}

impl Documents {
    /// Fetches those of an image by way of a directory.
    pub(super) fn fetch(made: &Made, directory: &Path) -> Result<Self> {
        let mut skopeo = transports::skopeo();
        skopeo.args(["copy", "--quiet", "--all", "--preserve-digests", "--src-tls-verify=false", &made.place()]);
        programs::output(skopeo.arg(format!("dir:{}", directory.display())))?;
        let mut found = Self { root: Vec::new(), manifests: Vec::new(), blobs: Vec::new() };
        for entry in fs_err::read_dir(directory)? {
            let entry = entry?;
            let bytes = fs_err::read(entry.path())?;
            match entry.file_name().to_string_lossy().as_ref() {
                "manifest.json" => found.root = bytes,
                "version" => {}
                name if name.ends_with(".manifest.json") => found.manifests.push(bytes),
                _ => found.blobs.push(bytes),
            }
        }
        fs_err::remove_dir_all(directory)?;
        Ok(found)
    }

    /// Returns how an index names the image.
    pub(super) fn entry(&self) -> Value {
        let root: Value = serde_json::from_slice(&self.root).unwrap_or_default();
        let media_type =
            root["mediaType"].as_str().filter(|said| !said.is_empty()).unwrap_or(match &root["manifests"] {
                Value::Array(_) => "application/vnd.oci.image.index.v1+json",
                _ => "application/vnd.oci.image.manifest.v1+json",
            });
        json!({ "mediaType": media_type, "digest": transports::digest(&self.root), "size": self.root.len() })
    }

    /// Writes a layout with this `index.json`.
    pub(super) fn write_layout(&self, directory: &Path, index: &[u8]) -> Result<()> {
        let blobs = directory.join("blobs/sha256");
        fs_err::create_dir_all(&blobs)?;
        for bytes in self.manifests.iter().chain(&self.blobs).chain([&self.root]) {
            fs_err::write(blobs.join(transports::digest(bytes).trim_start_matches("sha256:")), bytes)?;
        }
        fs_err::write(directory.join("oci-layout"), r#"{"imageLayoutVersion":"1.0.0"}"#)?;
        Ok(fs_err::write(directory.join("index.json"), index)?)
    }

    /// Puts all of it into a repository of a registry that looks at nothing, with this as the tag `1`.
    pub(super) fn put(&self, registry: &FakeRegistry, repository: &str, (media_type, tagged): (&str, &[u8])) {
        for bytes in &self.blobs {
            registry.add_blob(repository, bytes);
        }
        for bytes in self.manifests.iter().chain([&self.root]) {
            let said: Value = serde_json::from_slice(bytes).unwrap_or_default();
            let said = said["mediaType"].as_str().unwrap_or("application/vnd.oci.image.manifest.v1+json");
            registry.add_manifest(repository, &transports::digest(bytes), said, bytes);
        }
        registry.add_manifest(repository, "1", media_type, tagged);
    }
}

/// Returns the `index.json` of a layout with one entry.
pub(super) fn list(entry: &Value) -> Vec<u8> {
    json!({ "schemaVersion": 2, "manifests": [entry] }).to_string().into_bytes()
}

/// Makes the checks.
pub(super) fn check(fixture: &Fixture, made: &[Made], checks: &mut Checks) {
    let name = format!("kiln reads {} images of others as skopeo does, from layouts and from registries", made.len());
    checks.check(&name, || {
        same("whether there are enough images", made.len() >= FEWEST, true)?;
        let found = locked(fixture, made)?;
        let mut wrong = Vec::new();
        for image in made {
            let expected = reading::chosen_by_skopeo(&image.place(), &fixture.directory.join("chosen"))?;
            for key in [format!("{}-there", image.name), format!("{}-copied", image.name)] {
                match found.get(&key) {
                    Some(manifest) if *manifest == expected => {}
                    other => wrong.push(format!("{key}: {other:?} is not {expected}")),
                }
            }
        }
        none("images are read otherwise", &wrong)
    });
}

/// Locks a stack with all images as bases: where they are, and in layouts that have the same bytes. Returns the digests
/// of their manifests.
fn locked(fixture: &Fixture, made: &[Made]) -> Result<BTreeMap<String, String>> {
    let mut text = "[stack]\nname = \"foreign\"\n\n[target]\nplatforms = [\"linux/amd64\"]\n".to_owned();
    let machine = fixture.machine("reader")?.project("reader", "")?;
    let mut names = BTreeMap::new();
    for image in made {
        let (there, copied) = (format!("there/{}", image.name), format!("copied/{}", image.name));
        let documents = Documents::fetch(image, &fixture.directory.join("fetched"))?;
        documents.write_layout(&machine.project.join(&copied), &list(&documents.entry()))?;
        let mut places = vec![("copied", format!("oci {copied}"))];
        places.push(match &image.layout {
            None => ("there", image.reference.clone()),
            Some(layout) => {
                let copy = machine.project.join(&there);
                fs_err::create_dir_all(machine.project.join("there"))?;
                programs::output(Command::new("cp").arg("-a").arg(layout).arg(copy))?;
                let name = image.name_in_layout().map_or_else(String::new, |name| format!(":{name}"));
                ("there", format!("oci {there}{name}"))
            }
        });
        for (kind, base) in places {
            let from = match base.strip_prefix("oci ") {
                Some(path) => format!("{{ oci = \"{path}\" }}"),
                None => format!("\"{base}\""),
            };
            let key = format!("{}-{kind}", image.name);
            text += &format!("\n[images.{key}]\nfrom = {from}\nbase-facts = {{}}\n");
            names.insert(key, base);
        }
    }
    let machine = machine.project("reader", &text)?;
    programs::output(machine.kiln().args(["build", "--output", "oci:built"]))?;
    let lock: Locked = toml::from_str(&machine.lock()?)?;
    let manifest = |name: &String| lock.bases.iter().find(|base| base.name == *name).map(|base| base.manifest.clone());
    Ok(names.iter().filter_map(|(key, base)| Some((key.clone(), manifest(base)?))).collect())
}

#[derive(Deserialize)]
struct Locked {
    #[serde(rename = "base")]
    bases: Vec<Base>,
}

/// A base of a lock.
#[derive(Deserialize)]
struct Base {
    name: String,
    manifest: String,
}
