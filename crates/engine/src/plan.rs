//! What a build would do: for every step whether its product is known, else why not, and what it will cost.

use std::collections::BTreeMap;

use kiln_oci::image::Image;
use kiln_plan::lock::{Lock, LockedBase};
use kiln_plan::platform::Platform;
use kiln_plan::reference::Repository;
use kiln_plan::stack::{self, From};
use kiln_plan::step::StepKey;
use serde::Serialize;

use crate::build::Build;
use crate::documents;
use crate::driver::Driver;
use crate::error::{BuildError, Result};
use crate::explain::Change;
use crate::history::Speed;
use crate::images::{ImageNodes, Images, LayerNode};
use crate::node::NodeId;
use crate::project::Project;
use crate::remote::CacheReader;
use crate::step::{Keep, Subject};
use crate::workshop::Workshop;

mod files;

pub use files::{CopiedFile, CopyPlan};

/// What a build would do for one image on one platform.
#[derive(Debug, Clone, Serialize)]
pub struct ImagePlan {
    /// The image.
    pub image: String,
    /// For this platform.
    pub platform: Platform,
    /// Its base, if it stands on one.
    pub base: Option<StepPlan>,
    /// Its steps, the lowest layer first.
    pub steps: Vec<StepPlan>,
    /// The state of the image itself: it follows from its steps and from the image that it stands on.
    pub result: State,
    /// What changed since it was built or pushed last; nothing if it never was.
    pub changes: Option<Vec<Change>>,
    /// Bytes that will be downloaded.
    pub fetch: u64,
    /// Seconds that it will take, as far as this machine's past tells.
    pub seconds: Option<f64>,
}

/// One step of a plan.
#[derive(Debug, Clone, Serialize)]
pub struct StepPlan {
    /// Its subject.
    pub name: String,
    /// Its key; nothing where the key depends on what is not known yet.
    pub key: Option<StepKey>,
    /// Bytes that go in.
    pub bytes: u64,
    /// The state of its product.
    pub state: State,
    /// What must be here to do it.
    pub needs: Needs,
    /// Bytes that will be downloaded for it.
    pub fetch: u64,
    /// Seconds that it will take, as far as this machine's past tells.
    pub seconds: Option<f64>,
    /// Why it is to be done: clauses.
    pub reasons: Vec<String>,
    /// The date of a known result that may be another each time, and what it was made from.
    pub notes: Vec<String>,
}

/// The state of a product.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "kebab-case", tag = "state", content = "on")]
pub enum State {
    /// In the store.
    Here,
    /// In the registry.
    Cached,
    /// It must be done.
    ToDo,
    /// What it is follows from these.
    DependsOn(Vec<String>),
}

/// What must be here to do a step, besides what goes into it.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize)]
pub struct Needs {
    /// The bytes of the base.
    pub base_bytes: bool,
    /// A processor of the platform, or an emulator.
    pub cpu: bool,
}

impl State {
    /// Returns true if nothing is to be done.
    pub fn is_known(&self) -> bool {
        matches!(self, Self::Here | Self::Cached)
    }
}

impl Project<'_> {
    /// Says what declared facts of a base leave out: layers are made as if it was not there.
    fn tell_of_declared_facts(&self, image: &stack::Image) {
        let Some(facts) = image.base_facts.as_ref().filter(|_| image.from != From::Scratch) else { return };
        let told = [("links", facts.links.is_empty()), ("directories", facts.directories.is_empty())];
        let absent: Vec<String> =
            told.iter().filter(|(_, absent)| *absent).map(|(key, _)| format!("`{key}`")).collect();
        if !absent.is_empty() {
            self.workshop.warn(format!(
                "the `base-facts` of `{}` declare no {}: layers are made as if the base had none",
                image.name,
                absent.join(" and no ")
            ));
        }
    }

    /// Plans a build. Nothing is done.
    pub fn plan(&self, names: &[String], lock: &Lock) -> Result<Vec<ImagePlan>> {
        let chosen = self.chosen(names)?;
        chosen.iter().for_each(|image| self.tell_of_declared_facts(image));
        let images = Images::planned(self, &chosen, lock)?;
        let remote = CacheReader::new(self);
        let driver = Driver::new(&images.graph, &self.workshop, &remote);
        let build = Build { images: &images, driver: &driver, remote: &remote };
        driver.settle(
            images.images.iter().flat_map(|node| [Some(node.image.id()), node.gate.map(|gate| gate.id())]).flatten(),
        )?;
        let mut plans: Vec<ImagePlan> = Vec::new();
        for node in &images.images {
            let mut plan = self.plan_image(&build, node, lock)?;
            let same =
                |below: &&ImagePlan| Some(&below.image) == node.parent.as_ref() && below.platform == plan.platform;
            plan.result = plan.follows_from(plans.iter().find(same));
            if plan.result == State::Here && !build.is_checked(node) {
                plan.result = State::ToDo;
            }
            plans.push(plan);
        }
        plans.extend(images.unplanned.iter().map(|(name, platform, on)| ImagePlan {
            image: name.clone(),
            platform: *platform,
            base: None,
            steps: Vec::new(),
            result: State::DependsOn(vec![on.clone()]),
            changes: None,
            fetch: 0,
            seconds: None,
        }));
        let place = |plan: &ImagePlan| chosen.iter().position(|image| image.name == plan.image);
        plans.sort_by_key(place);
        Ok(plans)
    }

    fn plan_image(&self, build: &Build<'_>, node: &ImageNodes, lock: &Lock) -> Result<ImagePlan> {
        let changes = match self.stack.image(&node.name) {
            Some(image) => self.explain_image(build, image, node, lock)?.changes,
            None => None,
        };
        let packages: BTreeMap<NodeId, Subject> =
            node.packages.iter().map(|id| (*id, build.images.graph.entry(*id).step.subject())).collect();
        let steps = node.layers.iter().map(|layer| self.plan_layer(build, layer, &packages, changes.as_deref()));
        let steps = steps.collect::<Result<Vec<_>>>()?;
        let to_run = |(layer, step): (&LayerNode, &StepPlan)| {
            !step.state.is_known() && build.images.graph.entry(layer.node.id()).step.command().is_some()
        };
        let runs = node.layers.iter().zip(&steps).any(to_run);
        let fetch = steps.iter().map(|step| step.fetch).sum();
        let work = steps.iter().filter(|step| !step.state.is_known()).map(|step| step.bytes).sum();
        Ok(ImagePlan {
            image: node.name.clone(),
            platform: node.platform,
            base: self.plan_base(node, changes.is_some()),
            steps,
            result: State::ToDo,
            changes,
            fetch,
            seconds: match runs {
                true => None,
                false => self.seconds(fetch, work)?,
            },
        })
    }

    /// Downloads and splicing overlap.
    fn seconds(&self, fetch: u64, work: u64) -> Result<Option<f64>> {
        let workshop = &self.workshop;
        let (fetch, work) = (workshop.forecast(Speed::Fetch, fetch)?, workshop.forecast(Speed::Splice, work)?);
        Ok(fetch.zip(work).map(|(fetch, work)| fetch.max(work)))
    }

    fn plan_layer(
        &self,
        build: &Build<'_>,
        layer: &LayerNode,
        packages: &BTreeMap<NodeId, Subject>,
        changes: Option<&[Change]>,
    ) -> Result<StepPlan> {
        let (graph, driver, id) = (&build.images.graph, build.driver, layer.node.id());
        let subject = graph.entry(id).step.subject();
        let state = if driver.is_here(id) {
            State::Here
        } else if driver.is_reachable(id) {
            State::Cached
        } else {
            match build.unknown_below(id) {
                on if on.is_empty() => State::ToDo,
                on => State::DependsOn(on),
            }
        };
        let known = state.is_known();
        let fetch = if known { 0 } else { self.bytes_to_fetch(build, layer) };
        let key = if matches!(state, State::DependsOn(_)) { None } else { driver.key(id) };
        let notes = driver.notes(id).unwrap_or_default();
        let is_old = || driver.is_outdated(id);
        Ok(StepPlan {
            name: subject.to_string(),
            key,
            bytes: layer.bytes,
            // Wheels, files and copies are put together without looking into the base.
            needs: Needs::default(),
            fetch,
            seconds: match known {
                true => Some(0.0),
                // No command tells how long it will take.
                false if graph.entry(id).step.command().is_some() => None,
                false => self.seconds(fetch, layer.bytes)?,
            },
            notes,
            reasons: if known {
                Vec::new()
            } else if is_old()? {
                vec!["its result is older than `max-age`".into()]
            } else {
                reasons(&subject, layer, packages, changes, driver.product(id).is_some())
            },
            state,
        })
    }

    /// Returns the bytes of wheels that must be downloaded before a layer can be made.
    fn bytes_to_fetch(&self, build: &Build<'_>, layer: &LayerNode) -> u64 {
        let missing = layer.wheels.iter().filter(|id| !build.driver.is_here(**id));
        missing.filter_map(|id| build.images.graph.entry(*id).step.downloads()).sum()
    }

    fn plan_base(&self, node: &ImageNodes, built: bool) -> Option<StepPlan> {
        let (locked, _) = node.base.as_ref()?;
        let from = &self.stack.image(&node.name)?.from;
        let state = match from {
            From::Debian { .. } => debian_state(&self.workshop, locked, self.read_cache()),
            From::Reference(_) if !self.workshop.store.has_blob(&locked.manifest) => State::Cached,
            _ => State::Here,
        };
        let reasons = match (&state, built) {
            (State::ToDo, false) => vec!["never bootstrapped here".to_owned()],
            (State::ToDo, true) => vec!["not in the store any more".to_owned()],
            _ => Vec::new(),
        };
        // Bootstrapping runs programs of the base.
        let needs = Needs { base_bytes: false, cpu: state == State::ToDo };
        let (name, key) = (locked.name.clone(), None);
        Some(StepPlan { name, key, bytes: 0, state, needs, fetch: 0, seconds: None, reasons, notes: Vec::new() })
    }
}

impl Build<'_> {
    /// Returns true if every comparison and check of an image was done, and none failed.
    fn is_checked(&self, node: &ImageNodes) -> bool {
        let graph = &self.images.graph;
        let is_to_do = |id: &NodeId| {
            let step = &graph.entry(*id).step;
            step.keep() != Keep::Never && self.driver.key(*id).is_some() && self.driver.product(*id).is_none()
        };
        let gate = node.gate.map(|gate| gate.id());
        let passed = node.gate.and_then(|gate| self.driver.known(gate)).is_none_or(|found| found.failures.is_empty());
        passed && !graph.with_reads([node.image.id()].into_iter().chain(gate)).iter().any(is_to_do)
    }

    /// Returns the subjects of the steps that must be performed before the key of a node is known.
    fn unknown_below(&self, id: NodeId) -> Vec<String> {
        let graph = &self.images.graph;
        if self.driver.key(id).is_some() {
            return Vec::new();
        }
        let mut names = Vec::new();
        for below in graph.with_reads([id]) {
            let step = &graph.entry(below).step;
            let unknown = self.driver.key(below).is_some() && self.driver.product(below).is_none();
            if below != id && unknown {
                names.push(step.subject().to_string());
            }
        }
        names.sort();
        names
    }
}

impl ImagePlan {
    fn follows_from(&self, below: Option<&Self>) -> State {
        let own = self.base.iter().chain(&self.steps).filter(|step| !step.state.is_known()).map(|step| &step.name);
        let below = below.filter(|below| !below.result.is_known()).map(|below| &below.image);
        let on: Vec<String> = below.into_iter().chain(own).cloned().collect();
        let cached = self.base.iter().chain(&self.steps).any(|step| step.state == State::Cached);
        match (on.as_slice(), cached) {
            ([_, ..], _) => State::DependsOn(on),
            ([], true) => State::Cached,
            ([], false) => State::Here,
        }
    }
}

/// Returns why a step is to be done.
fn reasons(
    subject: &Subject,
    layer: &LayerNode,
    packages: &BTreeMap<NodeId, Subject>,
    changes: Option<&[Change]>,
    was_made: bool,
) -> Vec<String> {
    let Some(changes) = changes else { return vec!["never built".into()] };
    let is_named =
        |wanted: &Subject, name: &str| matches!(wanted, Subject::Package { name: found, .. } if found == name);
    let concerns = |change: &&Change| match subject {
        Subject::Copy { .. } => change.subject.as_ref() == Some(subject),
        Subject::Environment | Subject::Users(_) => {
            matches!(change.what.as_str(), "user" | "target.python" | "base")
        }
        _ => match change.what.as_str() {
            "packages" => {
                let here = layer.wheels.iter().any(|id| packages.get(id).is_some_and(|p| is_named(p, &change.name)));
                let anywhere = packages.values().any(|package| is_named(package, &change.name));
                // A package that is gone left the layer that small ones share.
                here || (layer.wheels.len() > 1 && !anywhere)
            }
            "prune" | "target.gpus" | "target.python" | "python.environment" | "compression" | "max-layer-size" => true,
            _ => false,
        },
    };
    let found: Vec<String> = changes.iter().filter(concerns).map(ToString::to_string).collect();
    match found.as_slice() {
        [] if was_made => vec!["not in the store any more".into()],
        [] => vec!["what it is made of changed".into()],
        _ => found,
    }
}

/// Returns the state of a locked Debian: in the store, in the cache, or to be bootstrapped.
fn debian_state(workshop: &Workshop<'_>, locked: &LockedBase, cache: Option<&Repository>) -> State {
    let whole = |image: Image| image.layers.iter().all(|layer| workshop.store.has_blob(&layer.digest));
    if documents::here(workshop.store, &locked.manifest, &locked.name, locked.platform)
        .ok()
        .flatten()
        .is_some_and(whole)
    {
        return State::Here;
    }
    let missing =
        |cache: &Repository| Ok::<_, BuildError>(workshop.registries()?.missing_blobs(cache, &[locked.manifest])?);
    match cache.map(missing) {
        Some(Ok(missing)) if missing.is_empty() => State::Cached,
        _ => State::ToDo,
    }
}
