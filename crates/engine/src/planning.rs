//! What a build would do: for every step whether its result is known, else why not, and what it will cost.

use kiln_plan::lock::Lock;
use kiln_plan::platform::Platform;
use kiln_plan::stack::{self, From};
use kiln_plan::step::StepKey;
use serde::Serialize;

use crate::bases;
use crate::error::Result;
use crate::explain::Change;
use crate::history::Speed;
use crate::project::Project;
use crate::pruned::may_hold_code;
use crate::steps::{ImageSteps, Step, Task, parent, wheels_of};

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
    /// Whether the image itself is known: it follows from its steps and from the image that it stands on.
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
    /// What it is.
    pub name: String,
    /// Its key; nothing where the key depends on what is not known yet.
    pub key: Option<StepKey>,
    /// Bytes that go in.
    pub bytes: u64,
    /// Whether its result is known.
    pub state: State,
    /// What must be here to do it.
    pub needs: Needs,
    /// Bytes that will be downloaded for it.
    pub fetch: u64,
    /// Seconds that it will take, as far as this machine's past tells.
    pub seconds: Option<f64>,
    /// Why it is to be done: clauses.
    pub reasons: Vec<String>,
}

/// Whether the result of a step is known.
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

impl Project<'_> {
    /// What a build would do. Nothing is done.
    pub fn plan(&self, names: &[String], lock: &Lock) -> Result<Vec<ImagePlan>> {
        let images = self.chosen(names)?;
        let all = self.all_steps(&images, lock)?;
        self.ask_cache(all.iter().flat_map(|steps| &steps.steps))?;
        let mut plans: Vec<ImagePlan> = Vec::new();
        for steps in &all {
            let mut plan = self.plan_image(steps, lock)?;
            let parent = parent(steps.image);
            let below =
                plans.iter().find(|below| Some(below.image.as_str()) == parent && below.platform == plan.platform);
            plan.result = plan.follows_from(below);
            plans.push(plan);
        }
        Ok(plans)
    }

    fn plan_image(&self, steps: &ImageSteps<'_>, lock: &Lock) -> Result<ImagePlan> {
        let (changes, _) = self.changes_since(steps, lock)?;
        let planned = steps.steps.iter().map(|step| self.plan_step(step, steps, changes.as_deref()));
        let planned = planned.collect::<Result<Vec<_>>>()?;
        let base = self.plan_base(steps.image, steps.platform, lock, changes.is_some())?;
        let fetch = planned.iter().map(|step| step.fetch).sum();
        let work = planned.iter().filter(|step| !step.state.is_known()).map(|step| step.bytes).sum();
        Ok(ImagePlan {
            image: steps.image.name.clone(),
            platform: steps.platform,
            base,
            steps: planned,
            result: State::ToDo,
            changes,
            fetch,
            seconds: self.seconds(fetch, work)?,
        })
    }

    /// Downloads and splicing overlap.
    fn seconds(&self, fetch: u64, work: u64) -> Result<Option<f64>> {
        let (fetch, work) = (self.forecast(Speed::Fetch, fetch)?, self.forecast(Speed::Splice, work)?);
        Ok(fetch.zip(work).map(|(fetch, work)| fetch.max(work)))
    }

    fn plan_step(&self, step: &Step, steps: &ImageSteps<'_>, changes: Option<&[Change]>) -> Result<StepPlan> {
        let state = if self.known_layers(step)?.is_some() {
            State::Here
        } else if self.remote_layers(step).is_some() {
            State::Cached
        } else if !step.settled {
            State::DependsOn(steps.unsettled.iter().map(|wheel| wheel.file.clone()).collect())
        } else {
            State::ToDo
        };
        let known = state.is_known();
        let fetch = if known { 0 } else { self.bytes_to_fetch(step) };
        Ok(StepPlan {
            name: step.name.clone(),
            key: (!matches!(state, State::DependsOn(_))).then_some(step.key),
            bytes: step.bytes,
            needs: step.task.needs(),
            fetch,
            seconds: if known { Some(0.0) } else { self.seconds(fetch, step.bytes)? },
            reasons: if known { Vec::new() } else { reasons(step, steps, changes) },
            state,
        })
    }

    fn plan_base(
        &self,
        image: &stack::Image,
        platform: Platform,
        lock: &Lock,
        built: bool,
    ) -> Result<Option<StepPlan>> {
        let Some(locked) = bases::name(&image.from).and_then(|name| lock.base(&name, platform)) else {
            return Ok(None);
        };
        let state = match &image.from {
            From::Debian { .. } => self.debian_state(locked)?,
            From::Reference(_) if !self.store.has_blob(&locked.manifest) => State::Cached,
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
        Ok(Some(StepPlan { name, key, bytes: 0, state, needs, fetch: 0, seconds: None, reasons }))
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

impl State {
    /// Whether nothing is to be done.
    pub fn is_known(&self) -> bool {
        matches!(self, Self::Here | Self::Cached)
    }
}

impl Task {
    /// What must be here to do it. Wheels, files and copies are put together without looking into the base.
    pub fn needs(&self) -> Needs {
        match self {
            Self::Wheels(_) | Self::Files(_) | Self::Copy(_) => Needs::default(),
        }
    }
}

/// Why a step is to be done.
fn reasons(step: &Step, steps: &ImageSteps<'_>, changes: Option<&[Change]>) -> Vec<String> {
    let Some(changes) = changes else { return vec!["never built".into()] };
    let concerns = |change: &&Change| match &step.task {
        Task::Wheels(task) => match change.what.as_str() {
            "packages" => is_in(step, steps, change),
            "prune" | "target.gpus" => task.wheels.iter().any(may_hold_code),
            "target.python" | "python.environment" | "compression" | "max-layer-size" => true,
            _ => false,
        },
        Task::Copy(_) => change.what == "copy" && step.name.ends_with(&change.name),
        Task::Files(_) => matches!(change.what.as_str(), "user" | "target.python" | "base"),
    };
    let found: Vec<String> = changes.iter().filter(concerns).map(ToString::to_string).collect();
    if found.is_empty() { vec!["not in the store any more".into()] } else { found }
}

/// Whether a changed package is among the wheels of a step, or left the one that small wheels share.
fn is_in(step: &Step, steps: &ImageSteps<'_>, change: &Change) -> bool {
    let name = |file: &str| {
        let parsed: Option<kiln_wheel::name::WheelName> = file.parse().ok();
        parsed.is_some_and(|wheel| wheel.name.to_string() == change.name)
    };
    let here = wheels_of(std::slice::from_ref(step)).any(|wheel| name(&wheel.file));
    let anywhere = wheels_of(&steps.steps).any(|wheel| name(&wheel.file));
    here || (step.is_shared() && !anywhere)
}
