//! The commands that are killed and that find a full disk, each from a state of its own.

use kiln_plan::digest::Digest;

use super::outcome::{Outcome, Problem, problem};
use super::place::{Place, Registry, Start};
use super::world::{USER, Variant, World};
use super::{Result, check};
use crate::random::Random;

/// Prunes the wheel with GPU code.
pub(crate) const PRUNE: &str = "prune wheels/ops-1.0-cp311-cp311-manylinux_2_28_x86_64.whl -o pruned --gpus H100";
/// Credentials that are there before `kiln login`.
const OTHER_CREDENTIALS: &str = r#"{"auths":{"registry.example.org":{"auth":"Ym9iOm90aGVy"}}}"#;

/// A command and what it starts from.
#[derive(Debug)]
pub(crate) struct Scenario {
    pub(crate) name: &'static str,
    /// Its arguments; `REGISTRY` and `LOGIN` are replaced by addresses.
    pub(crate) arguments: &'static str,
    /// Its standard input.
    pub(crate) input: Option<&'static str>,
    /// Whether what it sends counts among its changes.
    pub(crate) sends: bool,
    /// How often it is drawn, compared with the others.
    pub(crate) weight: u64,
    start: fn() -> Start,
    /// Judges what it made after status 0.
    pub(crate) finished: fn(&Place<'_>, &Outcome) -> Vec<Problem>,
    /// Judges what is there right after it was killed or failed.
    pub(crate) between: fn(&Place<'_>) -> Vec<Problem>,
}

/// All of them.
pub(crate) static SCENARIOS: [Scenario; 11] = [
    Scenario {
        name: "cold",
        arguments: "build --json --output oci:out",
        input: None,
        sends: false,
        weight: 4,
        start: || Start::new(Variant::A),
        finished: |place, outcome| place.judge(outcome, Some("out")),
        between: either_layout,
    },
    Scenario {
        name: "locked",
        arguments: "build --json --locked --output oci:out",
        input: None,
        sends: false,
        weight: 4,
        start: || Start { lock: Some(Variant::A), ..Start::new(Variant::A) },
        finished: |place, outcome| place.judge(outcome, Some("out")),
        between: either_layout,
    },
    Scenario {
        name: "changed",
        arguments: "build --json --output oci:out",
        input: None,
        sends: false,
        weight: 4,
        start: || Start {
            lock: Some(Variant::A),
            store: Some(Variant::A),
            output: Some(Variant::A),
            ..Start::new(Variant::B)
        },
        finished: |place, outcome| place.judge(outcome, Some("out")),
        between: either_layout,
    },
    Scenario {
        name: "push",
        arguments: "build --json --push",
        input: None,
        sends: true,
        weight: 4,
        start: || Start { registry: Registry::Own, ..Start::built(Variant::A) },
        finished: |place, outcome| [place.judge(outcome, None), tags(place)].concat(),
        between: complete_registry,
    },
    Scenario {
        name: "cached",
        arguments: "build --json --locked --output oci:out",
        input: None,
        sends: false,
        weight: 3,
        start: || Start { lock: Some(Variant::A), registry: Registry::Pushed, ..Start::new(Variant::A) },
        finished: |place, outcome| place.judge(outcome, Some("out")),
        between: either_layout,
    },
    Scenario {
        name: "pull",
        arguments: "pull REGISTRY/acme/arr/train:latest --platform linux/amd64 --output oci:shared --output docker-archive:ml.tar",
        input: None,
        sends: false,
        weight: 2,
        start: || Start { lock: Some(Variant::A), registry: Registry::Pushed, ..Start::new(Variant::A) },
        finished: |place, _| {
            check::layout(&place.project().join("shared"), &Default::default(), check::Moment::Disturbed)
        },
        between: |place| check::layout(&place.project().join("shared"), &Default::default(), check::Moment::Disturbed),
    },
    Scenario {
        name: "archive",
        arguments: "build ml --json --output docker-archive:ml.tar",
        input: None,
        sends: false,
        weight: 1,
        start: || Start { output: Some(Variant::A), ..Start::built(Variant::B) },
        finished: |place, _| archive(place, &[Variant::B]),
        between: |place| archive(place, &[Variant::A, Variant::B]),
    },
    Scenario {
        name: "gc",
        arguments: "gc --all",
        input: None,
        sends: false,
        weight: 2,
        start: || Start { output: Some(Variant::B), ..Start::built(Variant::B) },
        finished: |_, _| Vec::new(),
        between: either_layout,
    },
    Scenario {
        name: "lock",
        arguments: "lock",
        input: None,
        sends: false,
        weight: 2,
        start: || Start { project: Variant::B, ..Start::built(Variant::A) },
        finished: |place, _| lock(place, &[Variant::B]),
        between: |place| lock(place, &[Variant::A, Variant::B]),
    },
    Scenario {
        name: "prune",
        arguments: PRUNE,
        input: None,
        sends: false,
        weight: 1,
        start: || Start::built(Variant::A),
        finished: |place, _| pruned(place, true),
        between: |place| pruned(place, false),
    },
    Scenario {
        name: "login",
        arguments: "login LOGIN --insecure --user alice --password-stdin",
        input: Some(USER.1),
        sends: false,
        weight: 1,
        start: || Start::built(Variant::A),
        finished: |place, _| credentials(place, true),
        between: |place| credentials(place, false),
    },
];

/// One of them, by weight.
pub(crate) fn draw(random: &mut Random) -> &'static Scenario {
    let [first, ..] = &SCENARIOS;
    let mut left = random.below(SCENARIOS.iter().map(|scenario| scenario.weight).sum());
    for scenario in &SCENARIOS {
        match left.checked_sub(scenario.weight) {
            Some(less) => left = less,
            None => return scenario,
        }
    }
    first
}

impl Scenario {
    /// A directory in the state that it starts from.
    pub(crate) fn place<'w>(&self, world: &'w World, name: &str) -> Result<Place<'w>> {
        let place = Place::new(world, name, &(self.start)())?;
        if self.name == "login" {
            fs_err::write(place.root.join("home/.docker/config.json"), OTHER_CREDENTIALS)?;
        }
        Ok(place)
    }

    /// Its arguments in a place.
    pub(crate) fn command(&self, place: &Place<'_>) -> String {
        let login = place.world.login.address();
        self.arguments.replace("REGISTRY", &place.registry().address()).replace("LOGIN", &login)
    }
}

/// The layout `out` is that of one variant or the other, if it is there at all.
fn either_layout(place: &Place<'_>) -> Vec<Problem> {
    let path = place.project().join("out");
    let found = check::layout(&path, &Default::default(), check::Moment::Disturbed);
    if !found.is_empty() || !path.join("index.json").exists() {
        return found;
    }
    let complete = |variant| check::layout(&path, &place.world.listed(variant), check::Moment::Disturbed);
    let mut found = complete(Variant::A);
    if !found.is_empty() {
        found = complete(Variant::B);
    }
    found
}

fn complete_registry(place: &Place<'_>) -> Vec<Problem> {
    check::registry(place.registry(), &Default::default())
}

/// Every image has its tag, which leads to the reference, and all of it is there.
pub(crate) fn tags(place: &Place<'_>) -> Vec<Problem> {
    let tags = place.reference().into_iter().map(|(name, digest)| (format!("acme/arr/{name}"), digest));
    check::registry(place.registry(), &tags.collect())
}

/// Whether the archive is that of a variant.
pub(crate) fn is_archive(place: &Place<'_>, variant: Variant) -> bool {
    archive(place, &[variant]).is_empty()
}

fn archive(place: &Place<'_>, allowed: &[Variant]) -> Vec<Problem> {
    let found = fs_err::read(place.project().join("ml.tar")).map(|bytes| Digest::of(&bytes));
    let allowed = |digest: &Digest| allowed.iter().any(|variant| place.world.archives.get(variant) == Some(digest));
    match found {
        Ok(digest) if allowed(&digest) => Vec::new(),
        Ok(digest) => vec![problem("an archive with wrong bytes", digest.to_string())],
        Err(error) => vec![problem("an archive is lost", error.to_string())],
    }
}

fn lock(place: &Place<'_>, allowed: &[Variant]) -> Vec<Problem> {
    let read = |path: &std::path::Path| fs_err::read_to_string(path).unwrap_or_default();
    let found = read(&place.project().join("kiln.lock"));
    match allowed.iter().any(|variant| read(&place.world.built(*variant).join("kiln.lock")) == found) {
        true => Vec::new(),
        false => vec![problem("a kiln.lock that is neither old nor new", format!("{} bytes", found.len()))],
    }
}

fn pruned(place: &Place<'_>, finished: bool) -> Vec<Problem> {
    let (name, digest) = &place.world.pruned;
    let path = place.project().join("pruned").join(name);
    match fs_err::read(&path) {
        Ok(bytes) if Digest::of(&bytes) == *digest => Vec::new(),
        Ok(bytes) => vec![problem("a pruned wheel with wrong bytes", format!("{} bytes", bytes.len()))],
        Err(error) if finished => vec![problem("a pruned wheel is lost", error.to_string())],
        Err(_) => Vec::new(),
    }
}

fn credentials(place: &Place<'_>, finished: bool) -> Vec<Problem> {
    let text = fs_err::read_to_string(place.root.join("home/.docker/config.json")).unwrap_or_default();
    let Ok(document) = serde_json::from_str::<serde_json::Value>(&text) else {
        return vec![problem("a config.json that is damaged", text)];
    };
    let has = |registry: &str| document["auths"].get(registry).is_some();
    if !has("registry.example.org") {
        return vec![problem("credentials are lost from config.json", text)];
    }
    match has(&place.world.login.address()) || !finished {
        true => Vec::new(),
        false => vec![problem("status 0 without the credentials in config.json", text)],
    }
}
