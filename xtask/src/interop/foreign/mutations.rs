//! Documents that differ in a detail from those that others made: what Go's decoder takes, kiln reads as skopeo does, from
//! a layout and from a registry alike.

use std::collections::BTreeSet;
use std::sync::Arc;

use kiln_plan::event::{Cancel, Silent};
use kiln_plan::platform::Platform;
use kiln_registry::testing::FakeRegistry;
use kiln_registry::{Options, Registries};
use serde_json::{Map, Value, json};

use super::documents::{Documents, list};
use super::made::Made;
use super::{Fixture, reading};
use crate::interop::report::{Checks, eprint, none, same};
use crate::interop::{Result, transports};

/// The fewest documents that skopeo has to read for the comparison to count.
const FEWEST: usize = 200;
/// Images whose documents are changed, and the most that is tried with each document.
const SEEDS: [&str; 6] =
    ["docker-full", "docker-list", "buildah-annotated", "podman-build", "umoci-config", "attested"];
const MOST: usize = 50;

/// A way of changing a value.
#[derive(Debug, Clone, Copy)]
enum Change {
    /// `null` in its place.
    Null,
    /// It is left out.
    Absent,
    /// The empty value of its kind.
    Empty,
    /// Its name in capital letters.
    Capitals,
    /// A member that nobody knows beside it, and it comes twice: `null` the first time.
    Twice,
}

const CHANGES: [Change; 5] = [Change::Null, Change::Absent, Change::Empty, Change::Capitals, Change::Twice];

/// Makes the checks.
pub(super) fn check(fixture: &Fixture, made: &[Made], checks: &mut Checks) {
    checks.check("kiln reads changed documents as skopeo does, from layouts and from registries", || {
        let mut comparison = Comparison::new(fixture)?;
        for name in SEEDS {
            let image = made.iter().find(|image| image.name == name).ok_or("an image is missing")?;
            let documents = Documents::fetch(image, &fixture.directory.join("fetched"))?;
            for (what, changed) in variants(&documents)? {
                comparison.compare(&format!("{name}: {what}"), &changed)?;
            }
        }
        eprint(&format!("skopeo reads {} of {} changed documents", comparison.taken, comparison.made));
        none("changed documents are read otherwise", &comparison.wrong)?;
        same("whether skopeo reads enough of them", comparison.taken >= FEWEST, true)
    });
}

/// An image with the `index.json` of a layout, which a registry has as the root where it was changed.
struct Changed {
    documents: Documents,
    list: Vec<u8>,
    list_is_root: bool,
}

struct Comparison<'a> {
    fixture: &'a Fixture,
    registry: FakeRegistry,
    client: Registries,
    platform: Platform,
    made: usize,
    taken: usize,
    wrong: Vec<String>,
}

impl<'a> Comparison<'a> {
    fn new(fixture: &'a Fixture) -> Result<Self> {
        let client = Registries::new(Options::default(), &Cancel::default(), Arc::new(Silent))?;
        let platform = "linux/amd64".parse().map_err(|_| "a platform")?;
        let registry = FakeRegistry::start();
        Ok(Self { fixture, registry, client, platform, made: 0, taken: 0, wrong: Vec::new() })
    }

    fn compare(&mut self, what: &str, changed: &Changed) -> Result<()> {
        self.made += 1;
        let (layout, repository) = (self.fixture.directory.join("changed"), format!("acme/changed-{}", self.made));
        changed.documents.write_layout(&layout, &changed.list)?;
        let entry = changed.documents.entry();
        let tagged = match changed.list_is_root {
            true => ("application/vnd.oci.image.index.v1+json", changed.list.as_slice()),
            false => (entry["mediaType"].as_str().unwrap_or_default(), changed.documents.root.as_slice()),
        };
        changed.documents.put(&self.registry, &repository, tagged);
        let reference = format!("{}/{repository}:1", self.registry.address());
        let here = reading::in_layout(&layout, self.platform);
        let there = reading::on_registry(&self.client, &reference, self.platform);
        let mut taken = false;
        for (place, read) in [(format!("oci:{}", layout.display()), &here), (format!("docker://{reference}"), &there)] {
            if let Some(expected) = reading::by_skopeo(&place)? {
                taken = true;
                match read {
                    Ok(found) if *found == expected => {}
                    Ok(found) => self.wrong.push(format!("{what}: {found} is not {expected}")),
                    Err(error) => self.wrong.push(format!("{what}: {error}")),
                }
            }
        }
        if here.as_ref().ok() != there.as_ref().ok() {
            self.wrong.push(format!("{what}: {here:?} in a layout, {there:?} on a registry"));
        }
        self.taken += usize::from(taken);
        Ok(fs_err::remove_dir_all(layout)?)
    }
}

/// Returns the image with one detail of one of its documents changed.
fn variants(documents: &Documents) -> Result<Vec<(String, Changed)>> {
    let mut all = Vec::new();
    let root: Value = serde_json::from_slice(&documents.root)?;
    let index = list(&documents.entry());
    let changed = |documents: Documents| {
        let list = list(&documents.entry());
        Changed { documents, list, list_is_root: false }
    };
    for (what, bytes) in changes(&serde_json::from_slice(&index)?) {
        all.push((
            format!("index.json {what}"),
            Changed { documents: documents.clone(), list: bytes, list_is_root: true },
        ));
    }
    for (what, bytes) in changes(&root) {
        all.push((format!("root {what}"), changed(Documents { root: bytes, ..documents.clone() })));
    }
    let config = root["config"]["digest"].as_str().unwrap_or_default();
    if let Some(config) = documents.blobs.iter().find(|bytes| transports::digest(bytes) == config) {
        for (what, bytes) in changes(&serde_json::from_slice(config)?) {
            let mut root = root.clone();
            root["config"]["digest"] = transports::digest(&bytes).into();
            root["config"]["size"] = bytes.len().into();
            let mut documents = Documents { root: serde_json::to_vec(&root)?, ..documents.clone() };
            documents.blobs.push(bytes);
            all.push((format!("config {what}"), changed(documents)));
        }
    }
    Ok(all)
}

/// Returns a document with one detail changed, in as many ways as count.
fn changes(document: &Value) -> Vec<(String, Vec<u8>)> {
    let mut places = Vec::new();
    collect(document, String::new(), &mut places);
    let mut all = Vec::new();
    let mut seen = BTreeSet::new();
    for pointer in &places {
        for change in CHANGES {
            if let Some(text) = changed(document, pointer, change).filter(|text| seen.insert(text.clone())) {
                all.push((format!("{pointer} {change:?}"), text.into_bytes()));
            }
        }
    }
    let step = all.len().div_ceil(MOST).max(1);
    all.into_iter().step_by(step).collect()
}

/// Collects the places of all members and of the elements of lists of strings. Digests stay, and so do as many layers as
/// there are.
fn collect(value: &Value, at: String, places: &mut Vec<String>) {
    match value {
        Value::Object(members) => {
            for (name, value) in members {
                let place = format!("{at}/{}", name.replace('~', "~0").replace('/', "~1"));
                if !["digest", "diff_ids", "layers", "manifests", "rootfs"].contains(&name.as_str()) {
                    places.push(place.clone());
                }
                if name != "diff_ids" {
                    collect(value, place, places);
                }
            }
        }
        Value::Array(elements) => {
            for (number, element) in elements.iter().enumerate() {
                let place = format!("{at}/{number}");
                if element.is_string() {
                    places.push(place.clone());
                }
                collect(element, place, places);
            }
        }
        _ => {}
    }
}

fn changed(document: &Value, pointer: &str, change: Change) -> Option<String> {
    let mut document = document.clone();
    let (above, name) = pointer.rsplit_once('/')?;
    let name = name.replace("~1", "/").replace("~0", "~");
    match (change, document.pointer_mut(above)?) {
        (Change::Absent, Value::Object(members)) => drop(members.remove(&name)),
        (Change::Capitals, Value::Object(members)) => {
            let value = members.remove(&name)?;
            members.insert(name.to_uppercase(), value);
        }
        (Change::Twice, Value::Object(members)) => {
            members.insert("Unknown-to-all".to_owned(), json!({ "a": [null] }));
            // Names are sorted here, and the text has it first.
            let text = document.to_string();
            let first = format!("\"{name}\":");
            return (text.matches(&first).count() == 1)
                .then(|| text.replacen(&first, &format!("{first}null,{first}"), 1));
        }
        (Change::Null, _) => *document.pointer_mut(pointer)? = Value::Null,
        (Change::Empty, _) => {
            let value = document.pointer_mut(pointer)?;
            *value = match value {
                Value::String(_) => json!(""),
                Value::Array(_) => json!([]),
                Value::Object(_) => Value::Object(Map::new()),
                Value::Number(_) => json!(-1),
                _ => return None,
            };
        }
        _ => return None,
    }
    Some(document.to_string())
}
