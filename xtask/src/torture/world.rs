//! What all cases start from: wheels, an index that serves them, a base, two variants of a stack, and stores in which
//! they were built without a disturbance. The digests of that build are the reference.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

use kiln_fatbin::testing::{Library, entry};
use kiln_plan::digest::Digest;
use kiln_registry::testing::{Auth, FakeRegistry, Options};
use kiln_wheel::testing::WheelBuilder;
use kiln_wheel::testing::index::Server;

use super::Result;
use super::commands::Prepared;
use super::interposer::{Calls, Interposer};
use super::place::{Build, Place, Registry, Start};
use super::scenario::{SCENARIOS, Scenario};
use crate::random::Random;

/// The user of the registry that asks for a password.
pub(crate) const USER: (&str, &str) = ("alice", "secret");
/// A cubin, as regions of GPU code number it.
const CUBIN: u16 = 2;
const SOLVER_BYTES: usize = 300_000;

/// One of the two states of the project: B has a newer package, another file and another setting than A.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Variant {
    A,
    B,
}

/// Digests of the images of a variant, by name.
pub(crate) type Digests = BTreeMap<String, String>;

/// Everything that cases share. None of it changes once cases run.
#[derive(Debug)]
pub(crate) struct World {
    pub(crate) root: PathBuf,
    /// Whether the directories of cases stay.
    pub(crate) keep: bool,
    pub(crate) kiln: PathBuf,
    pub(crate) interposer: Interposer,
    /// Serves the wheels of the index.
    pub(crate) index: Server,
    /// Holds what was pushed of variant A.
    pub(crate) registry: FakeRegistry,
    /// Asks for a password.
    pub(crate) login: FakeRegistry,
    /// The digests that `build --json` prints.
    pub(crate) reference: BTreeMap<Variant, Digests>,
    /// The digests that a layout lists: of manifests, not of indexes for one platform.
    pub(crate) listed: BTreeMap<Variant, Digests>,
    /// The Docker archive of the image `ml` of a variant.
    pub(crate) archives: BTreeMap<Variant, Digest>,
    /// File name and digest of the pruned wheel.
    pub(crate) pruned: (String, Digest),
    /// The start of cases with commands; `None` where no sandbox can be made.
    pub(crate) commands: Option<Prepared>,
    /// What an undisturbed run of each scenario does.
    pub(crate) calls: BTreeMap<&'static str, Calls>,
}

impl World {
    /// Makes everything in an empty directory. `uv` is the stand-in that resolves.
    pub(crate) fn prepare(root: &Path, kiln: &Path, uv: &Path, keep: bool) -> Result<Self> {
        for directory in ["bin", "served", "cases", "wheels", "stores"] {
            fs_err::create_dir_all(root.join(directory))?;
        }
        std::os::unix::fs::symlink(uv, root.join("bin/uv"))?;
        fs_err::write(root.join("bin/uv.served"), root.join("served").as_os_str().as_encoded_bytes())?;
        write_wheels(root)?;
        kiln_oci::testing::debian(&root.join("base"));
        let (user, password) = (USER.0.to_owned(), USER.1.to_owned());
        let mut world = Self {
            interposer: Interposer::compile(root)?,
            index: Server::start(root.join("served")),
            registry: FakeRegistry::start(),
            login: FakeRegistry::with(Options { auth: Auth::Basic { user, password }, ..Options::default() }),
            root: root.to_owned(),
            keep,
            commands: Prepared::make(root, &fs_err::canonicalize(kiln)?)?,
            kiln: fs_err::canonicalize(kiln)?,
            reference: BTreeMap::new(),
            listed: BTreeMap::new(),
            archives: BTreeMap::new(),
            pruned: (String::new(), Digest::of(b"")),
            calls: BTreeMap::new(),
        };
        for variant in [Variant::A, Variant::B] {
            world.build_reference(variant)?;
        }
        world.push_reference()?;
        world.prune_reference()?;
        for scenario in &SCENARIOS {
            let calls = world.count(scenario)?;
            world.calls.insert(scenario.name, calls);
        }
        Ok(world)
    }

    /// Where the results of the undisturbed build of a variant are: `store`, `kiln.lock`, `out`, `ml.tar`.
    pub(crate) fn built(&self, variant: Variant) -> PathBuf {
        self.root.join("stores").join(format!("{variant:?}"))
    }

    /// The digests of a variant.
    pub(crate) fn digests(&self, variant: Variant) -> Digests {
        self.reference.get(&variant).cloned().unwrap_or_default()
    }

    /// The digests that a layout with the images of a variant lists.
    pub(crate) fn listed(&self, variant: Variant) -> Digests {
        self.listed.get(&variant).cloned().unwrap_or_default()
    }

    fn build_reference(&mut self, variant: Variant) -> Result<()> {
        let kept = self.built(variant);
        let place = Place::new(self, &format!("reference-{variant:?}"), &Start::new(variant))?;
        let built = must(&place, "build --json --output oci:out")?;
        let digests = built.digests().ok_or("`build --json` lists no images")?;
        must(&place, "build ml --output docker-archive:ml.tar")?;
        fs_err::create_dir_all(&kept)?;
        for name in ["out", "ml.tar", "kiln.lock"] {
            fs_err::rename(place.project().join(name), kept.join(name))?;
        }
        fs_err::rename(place.store(), kept.join("store"))?;
        drop(place);
        self.listed.insert(variant, super::check::listed(&kept.join("out")));
        self.reference.insert(variant, digests.into_iter().collect());
        self.archives.insert(variant, Digest::of(&fs_err::read(kept.join("ml.tar"))?));
        Ok(())
    }

    fn push_reference(&mut self) -> Result<()> {
        let start = Start { registry: Registry::Pushed, ..Start::built(Variant::A) };
        let place = Place::new(self, "reference-push", &start)?;
        let build = Build::of(&must(&place, "build --json --push")?);
        if build.digests != self.digests(Variant::A) {
            return Err("an image that is pushed has another digest than one that is not".into());
        }
        Ok(self.registry.check()?)
    }

    fn prune_reference(&mut self) -> Result<()> {
        let place = Place::new(self, "reference-prune", &Start::new(Variant::A))?;
        must(&place, super::scenario::PRUNE)?;
        let directory = place.project().join("pruned");
        let names = super::check::names(&directory);
        let [name] = names.as_slice() else { return Err(format!("`kiln prune` wrote {names:?}").into()) };
        let pruned = (name.clone(), Digest::of(&fs_err::read(directory.join(name))?));
        drop(place);
        self.pruned = pruned;
        Ok(())
    }

    /// Runs a scenario undisturbed and counts.
    fn count(&self, scenario: &Scenario) -> Result<Calls> {
        let place = scenario.place(self, &format!("count-{}", scenario.name))?;
        let (outcome, calls) = place.disturbed(scenario, None)?;
        let mut problems = outcome.problems(scenario.arguments);
        problems.extend((scenario.finished)(&place, &outcome));
        match problems.as_slice() {
            [] if outcome.succeeded() => Ok(calls),
            _ => Err(format!("undisturbed, `{}` ends with {}: {problems:?}", scenario.name, outcome.brief()).into()),
        }
    }
}

fn must(place: &Place<'_>, command: &str) -> Result<super::outcome::Outcome> {
    let outcome = place.kiln(command)?;
    match outcome.succeeded() {
        true => Ok(outcome),
        false => Err(format!("undisturbed, `kiln {command}` ends with {}", outcome.brief()).into()),
    }
}

fn write_wheels(root: &Path) -> Result<()> {
    let mut random = Random::of_case(1, "wheels", 0);
    let platform = "cp311-cp311-manylinux_2_28_x86_64";
    let pure = |name: &str, version: &str| {
        WheelBuilder::new(name, version).file(&format!("{name}/__init__.py"), format!("version = \"{version}\"\n"))
    };
    let solver =
        pure("solver", "3.0").tag(platform).file_with("solver/solver.so", true, true, random.bytes(SOLVER_BYTES));
    let served = [
        solver,
        pure("words", "1.0").file("words/list.bin", random.bytes(40_000)),
        pure("greeting", "1.0").requires("words"),
        pure("greeting", "1.1").requires("words").file("greeting/new.bin", random.bytes(20_000)),
    ];
    let code = |payload| [80, 90, 100].map(|number| entry(CUBIN, number, 0, payload));
    let library = Library::new().region(&code(20_000)).region(&code(6_000)).finish();
    let local = [
        pure("names", "1.0").file("names/list.bin", random.bytes(30_000)),
        pure("ops", "1.0").tag(platform).file_with("ops/_C.so", true, true, library),
    ];
    for (directory, wheels) in [("served", served.as_slice()), ("wheels", local.as_slice())] {
        for wheel in wheels {
            fs_err::write(root.join(directory).join(wheel.file_name()), wheel.finish())?;
        }
    }
    Ok(())
}

/// The stack file of a variant.
pub(crate) fn stack(variant: Variant, index: &str, registry: Option<&str>) -> String {
    let (greeting, mode) = match variant {
        Variant::A => ("greeting<1.1", "fast"),
        Variant::B => ("greeting>=1.1", "slow"),
    };
    let (stack, cache) = match registry {
        Some(address) => {
            (format!("registry = \"{address}/acme\"\n"), format!("[cache]\nremote = \"{address}/acme/cache\"\n\n"))
        }
        None => (String::new(), String::new()),
    };
    format!(
        "[stack]\nname = \"arr\"\n{stack}\n[target]\nplatforms = [\"linux/amd64\"]\npython = \"3.11\"\ngpus = [\"H100\"]\n\n\
         [index]\ndefault = \"{index}\"\nfind-links = [\"wheels\"]\n\n{cache}[images.ml]\nfrom = {{ oci = \"base\" }}\n\
         packages = [\"solver\", \"ops\"]\nprune = true\n\n[images.train]\nfrom = \"ml\"\n\
         packages = [\"{greeting}\", \"names\"]\ncopy = [{{ from = \"src\", to = \"/app\" }}]\nenv = {{ MODE = \"{mode}\" }}\n\n\
         [images.serve]\nfrom = \"ml\"\npackages = [\"words\"]\n"
    )
}
