//! Golden files: for every kind of step its fields as JSON, its key, and the digests of the bytes that a fixed input gives.
//!
//! A change of a key here forgets the records that users have of that kind: raise the version of the kind, and say so in the
//! changelog. A change of bytes under an unchanged key is a mistake: whatever makes them other (a threshold, a level, a
//! library) has a version that is a field.

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::path::Path;

use kiln_fatbin::testing::{Library, entry};
use kiln_oci::layout::{Contents, layer_blobs, write_layout};
use kiln_plan::base::{BaseFacts, Distribution, Interpreter};
use kiln_plan::digest::Digest;
use kiln_plan::event::{Cancel, Silent, Work};
use kiln_plan::lock::{Lock, LockedBase, LockedDeb, LockedImage, LockedPackage, LockedSystem, LockedWheel};
use kiln_plan::platform::Platform;
use kiln_plan::stack::{self, Overrides, read};
use kiln_store::Store;
use kiln_wheel::testing::WheelBuilder;

use crate::below::Below;
use crate::built::manifest_descriptor;
use crate::driver::{Alone, Driver};
use crate::graph::Graph;
use crate::images::{Images, base_step};
use crate::node::NodeId;
use crate::product::Product;
use crate::project::Project;
use crate::step::{Level, Subject};
use crate::steps::facts::Facts;
use crate::steps::foundation::Foundation;
use crate::steps::remove::Remove;
use crate::steps::system::System;
use crate::uninstall::Removal;
use crate::workshop::{Surroundings, Workshop};

const TARGET: &str = "[stack]\nname = \"golden\"\n\n[target]\nplatforms = [\"linux/amd64\"]\npython = \"3.11\"\n\
                      gpus = [\"H100\"]\n\n[index]\nfind-links = [\"wheels\"]\n\n";
const BASE: &str = "[images.base]\nfrom = \"scratch\"\ncopy = [{ from = \"root\", to = \"/\" }]\n";
const APP: &str = "[images.app]\nfrom = { oci = \"layout\" }\npackages = [\"ops\", \"words\", \"more\"]\nprune = true\n\
                   timezone = \"UTC\"\nuser = { name = \"me\", uid = 1000, gid = 1000 }\nenv = { A = \"1\" }\n\
                   copy = [{ from = \"src\", to = \"/opt/venv/share\" }]\nentrypoint = [\"serve\"]\n\
                   files = [{ to = \"/etc/passwd\", append = \"x:x:7:7::/:/bin/sh\" }]\nverify = { gpu-code = \"required\" }\n";

/// The machine code of NVIDIA's entries in fat binaries.
const CUBIN: u16 = 2;

/// Content that compresses a little, always the same.
fn noise(size: usize, seed: u64) -> Vec<u8> {
    let mut state = seed;
    let next = |state: &mut u64| {
        *state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (*state >> 58) as u8
    };
    (0..size).map(|_| next(&mut state)).collect()
}

fn wheels() -> Vec<WheelBuilder> {
    let library = Library::new().region(&[80, 90, 100].map(|number| entry(CUBIN, number, 0, 30_000))).finish();
    let native = |name: &str| WheelBuilder::new(name, "1.0").tag("cp311-cp311-manylinux_2_28_x86_64");
    vec![
        native("ops").file_with("ops/_C.so", true, true, library).file_with(
            "ops/data.bin",
            false,
            false,
            noise(9 << 20, 1),
        ),
        WheelBuilder::new("words", "1.0")
            .file("words/__init__.py", "words = 1\n")
            .file("shared/a.txt", "of words")
            .file("words-1.0.data/scripts/serve", "#!python\n"),
        WheelBuilder::new("more", "1.0").file("more/__init__.py", noise(40_000, 2)).file("shared/a.txt", "of more"),
    ]
}

struct Place {
    directory: tempfile::TempDir,
    store: Store,
}

impl Place {
    fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Store::open(&directory.path().join("store")).unwrap();
        let place = Self { directory, store };
        place.write("root/etc/passwd", "root:x:0:0:root:/root:/bin/sh\n");
        place.write("root/etc/os-release", "ID=debian\nVERSION_ID=\"12\"\n");
        place.write("src/tool.txt", "a tool\n");
        for wheel in wheels() {
            place.write(&format!("wheels/{}", wheel.file_name()), wheel.finish());
        }
        place
    }

    fn write(&self, path: &str, content: impl AsRef<[u8]>) {
        let path = self.directory.path().join(path);
        fs_err::create_dir_all(path.parent().unwrap()).unwrap();
        fs_err::write(path, content).unwrap();
    }

    fn project(&self, images: &str) -> Project<'_> {
        let workshop = Workshop::new(&self.store, std::sync::Arc::new(Silent), Cancel::default(), Surroundings::bare());
        let directory = fs_err::canonicalize(self.directory.path()).unwrap();
        let stack = read(&format!("{TARGET}{images}"), &Overrides::default()).unwrap();
        Project { file: directory.join("kiln.toml"), directory, stack, workshop }
    }

    /// Builds the base and writes it to a layout.
    fn base(&self) -> LockedBase {
        let project = self.project(BASE);
        let images = Images::new(&project, &project.chosen(&[]).unwrap(), &Lock::default()).unwrap();
        let driver = Driver::new(&images.graph, &project.workshop, &Alone);
        let image = driver.get(images.images[0].image, Level::Known).unwrap();
        let documents = [image.config, image.manifest].map(|digest| self.store.read(&digest).unwrap());
        let (silent, cancel) = (Silent, Cancel::default());
        let work = Work::start(&silent, &cancel, "write", "layout", None);
        let contents = Contents {
            blobs: layer_blobs(&image).collect(),
            documents: documents.to_vec(),
            entries: vec![manifest_descriptor(&image)],
        };
        let blobs = project.workshop.blobs();
        let layout = self.directory.path().join("layout");
        write_layout(&layout, &blobs, contents, &work).unwrap();
        let interpreter =
            Interpreter { path: "/usr/bin/python3.11".into(), version: "3.11.2".into(), ..Interpreter::default() };
        LockedBase {
            name: "oci layout".into(),
            platform: image.platform,
            index: None,
            manifest: image.manifest,
            layers: Some(image.layers.len()),
            snapshot: None,
            archives: Vec::new(),
            packages: Vec::new(),
            facts: BaseFacts {
                interpreters: vec![interpreter],
                programs: vec!["usr(bin(python3.11))".parse().unwrap()],
                ..BaseFacts::default()
            },
        }
    }

    fn lock(&self) -> Lock {
        let (base, platform): (_, Platform) = (self.base(), "linux/amd64".parse().unwrap());
        let locked = |wheel: &WheelBuilder| {
            let (file, bytes) = (wheel.file_name(), wheel.finish());
            let path = Some(format!("wheels/{file}"));
            LockedWheel {
                sha256: Digest::of(&bytes),
                size: Some(bytes.len() as u64),
                file,
                url: None,
                path,
                publisher: None,
                indexes: Vec::new(),
            }
        };
        let wheels: Vec<LockedWheel> = wheels().iter().map(locked).collect();
        let mut packages: Vec<LockedPackage> = ["ops", "words", "more"]
            .iter()
            .zip(&wheels)
            .map(|(name, wheel)| LockedPackage { name: (*name).into(), version: "1.0".into(), wheel: wheel.sha256 })
            .collect();
        packages.sort();
        let (name, inputs, requirements) = ("app".into(), String::new(), Vec::new());
        let image = LockedImage {
            name,
            platform,
            variant: String::new(),
            inputs,
            requirements,
            gives_way: Vec::new(),
            packages,
        };
        Lock { bases: vec![base], images: vec![image], wheels, ..Lock::default() }
    }
}

/// Adds what is known of the nodes of a graph, by kind.
fn describe(graph: &Graph, driver: &Driver<'_>, golden: &mut BTreeMap<&'static str, String>) {
    describe_kinds(graph, driver, golden, |_| true);
}

/// Adds what is known of the nodes of some kinds.
fn describe_kinds(
    graph: &Graph,
    driver: &Driver<'_>,
    golden: &mut BTreeMap<&'static str, String>,
    is_wanted: fn(&str) -> bool,
) {
    for id in graph.ids() {
        let entry = graph.entry(id);
        if !is_wanted(entry.step.kind().name) {
            continue;
        }
        let (kind, fields) = (entry.step.kind(), String::from_utf8(entry.fields.clone()).unwrap());
        let text = golden.entry(kind.name).or_default();
        let (product, _) = driver.product(id).unwrap();
        let key = driver.key(id).map_or_else(|| "declared".to_owned(), |key| key.hex());
        writeln!(text, "version {}\nfields {fields}\nkey {key}\nproduct {}", kind.version, product.digest()).unwrap();
        if let Product::Layers(layers) = &product {
            for layer in layers {
                writeln!(text, "layer {} of {}", layer.digest, layer.diff_id).unwrap();
            }
        }
        writeln!(text).unwrap();
    }
}

/// The kinds that the files of `steps/` define.
fn kinds() -> Vec<String> {
    let steps = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/steps");
    let mut kinds = Vec::new();
    for file in fs_err::read_dir(steps).unwrap() {
        let path = file.unwrap().path();
        if path.extension().is_some_and(|extension| extension == "rs") {
            let text = fs_err::read_to_string(path).unwrap();
            let names = text.split("Kind { name: \"").skip(1).map(|rest| rest.split('"').next().unwrap().to_owned());
            kinds.extend(names);
        }
    }
    kinds.sort();
    kinds
}

/// Adds the kinds that stand between an image and the packages of its base.
fn describe_base_packages(place: &Place, mut lock: Lock, golden: &mut BTreeMap<&'static str, String>) {
    let distribution = |name: &str, location: &str| Distribution {
        location: location.into(),
        name: name.into(),
        version: "1.0".into(),
        modules: vec![name.into()],
        ..Distribution::default()
    };
    lock.bases[0].facts.distributions = vec![distribution("old", "/usr/lib/python3.11/site-packages")];
    let project = place.project(&format!("{APP}python.environment = \"overlay\"\n"));
    let mut images = Images::new(&project, &project.chosen(&[]).unwrap(), &lock).unwrap();
    let image = images.images[0].image;
    let words = distribution("words", "/opt/venv/lib/python3.11/site-packages");
    let removal = (Remove::name(&words), Removal::new(&words, &[]));
    let remove = Remove::new(image, vec![removal], Below::nothing().around(&[]));
    let remove = images.graph.add(remove).unwrap();
    let driver = Driver::new(&images.graph, &project.workshop, &Alone);
    driver.want(&[(image.id(), Level::Known), (remove.id(), Level::Known)]).unwrap();
    describe_kinds(&images.graph, &driver, golden, |kind| matches!(kind, "modules" | "remove"));
}

/// Adds the kinds that find what an image copies of another.
fn describe_copies(place: &Place, golden: &mut BTreeMap<&'static str, String>) {
    let images = "[images.tool]\nfrom = \"scratch\"\ncopy = [{ from = \"src\", to = \"/t\" }]\n\n[images.app]\nfrom = \"scratch\"\n\
                  copy = [{ from = { image = \"tool\", path = \"/t\" }, to = \"/x\" }]\n";
    let project = place.project(images);
    let images = Images::new(&project, &project.chosen(&[]).unwrap(), &Lock::default()).unwrap();
    let driver = Driver::new(&images.graph, &project.workshop, &Alone);
    driver.want(&images.images.iter().map(|node| (node.image.id(), Level::Known)).collect::<Vec<_>>()).unwrap();
    describe_kinds(&images.graph, &driver, golden, |kind| matches!(kind, "list" | "image-layers"));
}

/// Adds the kinds that run commands: their keys alone, since the test is no program that can be a sandbox's helper.
fn describe_commands(place: &Place, lock: &Lock, golden: &mut BTreeMap<&'static str, String>) {
    let commands = "run = [\"make\", { command = [\"make\", \"install\"], env = { A = \"2\" }, user = \"1000\", workdir = \"/src\" }]\n";
    let project = place.project(&format!("{APP}{commands}"));
    let images = Images::new(&project, &project.chosen(&[]).unwrap(), lock).unwrap();
    let driver = Driver::new(&images.graph, &project.workshop, &Alone);
    let is_command = |id: &NodeId| matches!(images.graph.entry(*id).step.kind().name, "run" | "foundation");
    let nodes: Vec<NodeId> = images.graph.ids().filter(is_command).collect();
    // All that the first command reads.
    let first = nodes.iter().find(|id| images.graph.entry(**id).step.kind().name == "run").unwrap();
    let reads: Vec<_> = images.graph.entry(*first).reads.iter().map(|read| (read.node, Level::Known)).collect();
    driver.want(&reads).unwrap();
    driver.settle(nodes.iter().copied()).unwrap();
    nodes.iter().for_each(|id| describe_key(&images.graph, &driver, *id, golden));
}

/// Adds the kind that runs commands with a network.
fn describe_network(place: &Place, lock: &Lock, golden: &mut BTreeMap<&'static str, String>) {
    let command = "run = [{ command = \"make\", network = { allow = [\"localhost:80\"] }, max-age = \"1d\", cache = [\"/c\", { to = \"/d\", \
                   id = \"d\" }], secrets = [\"token\"], ssh = true }]\n[secrets]\ntoken = { env = \"TOKEN\" }\n";
    let project = place.project(&format!("{APP}{command}"));
    let images = Images::new(&project, &project.chosen(&[]).unwrap(), lock).unwrap();
    let driver = Driver::new(&images.graph, &project.workshop, &Alone);
    let is_it = |id: &NodeId| images.graph.entry(*id).step.kind().name == "network-run";
    let run = images.graph.ids().find(is_it).unwrap();
    let reads: Vec<_> = images.graph.entry(run).reads.iter().map(|read| (read.node, Level::Known)).collect();
    driver.want(&reads).unwrap();
    driver.settle([run]).unwrap();
    describe_key(&images.graph, &driver, run, golden);
}

/// Adds packages of a distribution: the key alone, for the same reason.
fn describe_system(place: &Place, lock: &Lock, golden: &mut BTreeMap<&'static str, String>) {
    let project = place.project(APP);
    let (mut graph, platform) = (Graph::default(), lock.bases[0].platform);
    let base = graph.add(base_step(&project, &project.stack.images[0], &lock.bases[0]).unwrap()).unwrap();
    let subject = Subject::Image("app".into(), platform);
    let foundation = graph.add(Foundation::new(base, subject)).unwrap();
    let wanted = stack::System {
        install: vec!["libgl1".into()],
        remove: vec!["nano".into()],
        upgrade: true,
        recommends: false,
        repositories: Vec::new(),
        debs: Vec::new(),
        disable: Vec::new(),
        span: 0..0,
    };
    let deb = LockedDeb {
        name: "libgl1".into(),
        version: "1".into(),
        architecture: "amd64".into(),
        sha256: Digest::of(b"deb"),
        size: 3,
        url: "https://example.org/libgl1.deb".into(),
        base: false,
    };
    let (image, inputs) = ("app".into(), String::new());
    let locked = LockedSystem { image, platform, inputs, archives: Vec::new(), packages: vec![deb] };
    let system = System::new(&wanted, &locked, foundation, (1, stack::Compression::Gzip));
    let system = graph.add(system).unwrap().id();
    let driver = Driver::new(&graph, &project.workshop, &Alone);
    driver.want(&[(foundation.id(), Level::Known)]).unwrap();
    driver.settle([system]).unwrap();
    describe_key(&graph, &driver, system, golden);
}

fn describe_key(graph: &Graph, driver: &Driver<'_>, id: NodeId, golden: &mut BTreeMap<&'static str, String>) {
    let entry = graph.entry(id);
    let fields = String::from_utf8(entry.fields.clone()).unwrap();
    let key = driver.key(id).map_or_else(|| "depends on the one before".to_owned(), |key| key.hex());
    let kind = entry.step.kind();
    writeln!(golden.entry(kind.name).or_default(), "version {}\nfields {fields}\nkey {key}\n", kind.version).unwrap();
}

#[test]
fn keys_and_bytes_of_every_kind_are_pinned() {
    let place = Place::new();
    let lock = place.lock();
    let mut golden = BTreeMap::new();
    for compression in ["gzip", "zstd"] {
        let project = place.project(&format!("{APP}compression = \"{compression}\"\n"));
        let images = Images::new(&project, &project.chosen(&[]).unwrap(), &lock).unwrap();
        let driver = Driver::new(&images.graph, &project.workshop, &Alone);
        let node = &images.images[0];
        let wants = [(node.image.id(), Level::Known), (node.gate.unwrap().id(), Level::Known)];
        driver.want(&wants).unwrap();
        describe(&images.graph, &driver, &mut golden);
    }
    let project = place.project(APP);
    let mut graph = Graph::default();
    let base = graph.add(base_step(&project, &project.stack.images[0], &lock.bases[0]).unwrap()).unwrap();
    let facts = graph.add(Facts::new(Subject::Base("oci layout".into(), lock.bases[0].platform), base)).unwrap();
    let driver = Driver::new(&graph, &project.workshop, &Alone);
    driver.get(facts, Level::Known).unwrap();
    describe(&graph, &driver, &mut golden);
    describe_commands(&place, &lock, &mut golden);
    describe_network(&place, &lock, &mut golden);
    describe_system(&place, &lock, &mut golden);
    describe_copies(&place, &mut golden);
    describe_base_packages(&place, lock, &mut golden);
    assert_eq!(golden.keys().copied().collect::<Vec<_>>(), kinds(), "every kind has a golden file");
    for (kind, text) in golden {
        insta::assert_snapshot!(kind, text);
    }
}
