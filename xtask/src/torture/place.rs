//! The directory of one case: project, store and home of its own, and kiln that runs there.

use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_registry::testing::FakeRegistry;
use kiln_wheel::testing::index::Server;

use super::interposer::{Calls, Disturbance};
use super::outcome::{Outcome, Problem, finish, problem, start};
use super::scenario::Scenario;
use super::world::{Digests, Variant, World, stack};
use super::{Result, check};

/// Entries that the project of a case may have.
const KNOWN: [&str; 9] = ["base", "kiln.lock", "kiln.toml", "ml.tar", "out", "pruned", "src", "wheels", "shared"];

/// What a case starts from.
#[derive(Debug, Clone)]
pub(crate) struct Start {
    /// The project.
    pub(crate) project: Variant,
    /// Its lock, which may be an older one.
    pub(crate) lock: Option<Variant>,
    /// What the store was used for before.
    pub(crate) store: Option<Variant>,
    /// What the layout `out` and the archive `ml.tar` hold.
    pub(crate) output: Option<Variant>,
    /// The registry that images go to and that shares results.
    pub(crate) registry: Registry,
    /// Whether the case has an index of its own, which may misbehave.
    pub(crate) own_index: bool,
}

/// A registry that a stack names.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Registry {
    None,
    /// An empty one of the case's own.
    Own,
    /// The one that all cases read, and that has everything of variant A.
    Pushed,
}

impl Start {
    /// A project and nothing else.
    pub(crate) fn new(project: Variant) -> Self {
        Self { project, lock: None, store: None, output: None, registry: Registry::None, own_index: false }
    }

    /// A project that was built.
    pub(crate) fn built(variant: Variant) -> Self {
        Self { lock: Some(variant), store: Some(variant), ..Self::new(variant) }
    }
}

/// The directory of a case, removed with the value unless it is to be kept.
#[derive(Debug)]
pub(crate) struct Place<'w> {
    pub(crate) world: &'w World,
    pub(crate) root: PathBuf,
    pub(crate) project: Variant,
    /// The registry of its own, if it has one.
    pub(crate) registry: Option<FakeRegistry>,
    /// The index of its own, if it has one.
    pub(crate) index: Option<Server>,
    /// The store of another case's directory, where it is used in the place of its own.
    pub(crate) shared_store: Option<PathBuf>,
}

impl<'w> Place<'w> {
    /// Makes the directory.
    pub(crate) fn new(world: &'w World, name: &str, start: &Start) -> Result<Self> {
        let root = world.root.join("cases").join(name);
        let registry = (start.registry == Registry::Own).then(FakeRegistry::start);
        let index = start.own_index.then(|| Server::start(world.root.join("served")));
        let place = Self { world, root, project: start.project, registry, index, shared_store: None };
        let project = place.project();
        for directory in [project.join("src"), place.root.join("home/.docker")] {
            fs_err::create_dir_all(directory)?;
        }
        let index = place.index.as_ref().unwrap_or(&world.index).index();
        let registry = (start.registry != Registry::None).then(|| place.registry().address());
        fs_err::write(project.join("kiln.toml"), stack(start.project, &index, registry.as_deref()))?;
        fs_err::write(project.join("src/main.py"), format!("print('{:?}')\n", start.project))?;
        copy_tree(&world.root.join("base"), &project.join("base"))?;
        copy_tree(&world.root.join("wheels"), &project.join("wheels"))?;
        if let Some(variant) = start.lock {
            fs_err::copy(world.built(variant).join("kiln.lock"), project.join("kiln.lock"))?;
        }
        if let Some(variant) = start.store {
            copy_tree(&world.built(variant).join("store"), &place.store())?;
        }
        if let Some(variant) = start.output {
            copy_tree(&world.built(variant).join("out"), &project.join("out"))?;
            fs_err::copy(world.built(variant).join("ml.tar"), project.join("ml.tar"))?;
        }
        Ok(place)
    }

    /// The registry of the case, or that of all.
    pub(crate) fn registry(&self) -> &FakeRegistry {
        self.registry.as_ref().unwrap_or(&self.world.registry)
    }

    pub(crate) fn project(&self) -> PathBuf {
        self.root.join("project")
    }

    pub(crate) fn store(&self) -> PathBuf {
        self.shared_store.clone().unwrap_or_else(|| self.root.join("store"))
    }

    /// kiln with arguments that are separated by spaces.
    pub(crate) fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(&self.world.kiln);
        command
            .args(arguments.split_whitespace())
            .current_dir(self.project())
            .env_clear()
            .env("HOME", self.root.join("home"))
            .env("KILN_STORE", self.store())
            .env("PATH", self.world.root.join("bin"));
        command
    }

    /// The same, logged and disturbed.
    pub(crate) fn disturb(&self, arguments: &str, log: &Path, disturbance: Option<Disturbance>) -> Command {
        let mut command = self.command(arguments);
        self.world.interposer.attach(&mut command, &self.world.kiln, log, disturbance);
        command
    }

    /// Runs kiln.
    pub(crate) fn kiln(&self, arguments: &str) -> Result<Outcome> {
        finish(start(&mut self.command(arguments), None)?)
    }

    /// Runs a scenario, disturbed or only counted.
    pub(crate) fn disturbed(&self, scenario: &Scenario, disturbance: Option<Disturbance>) -> Result<(Outcome, Calls)> {
        let log = self.root.join("calls");
        let mut command = self.disturb(&scenario.command(self), &log, disturbance);
        if scenario.sends && disturbance.is_none_or(|disturbance| disturbance.mode.kills()) {
            command.env("TORTURE_SENDS", "1");
        }
        let outcome = finish(start(&mut command, scenario.input)?)?;
        Ok((outcome, Calls::read(&log)?))
    }

    /// What must hold in the end whatever happened before: the next build succeeds and gives the reference, in a layout
    /// that is right, and after `kiln gc` nothing is left over.
    pub(crate) fn settle(&self) -> Result<Vec<Problem>> {
        let mut problems = self.build_reference("out")?;
        let built = problems.is_empty();
        let collected = self.kiln("gc")?;
        problems.extend(collected.problems("gc"));
        if !collected.succeeded() {
            problems.push(problem("`kiln gc` fails", collected.brief()));
        }
        if built {
            problems.extend(check::layout(&self.project().join("out"), &self.listed(), check::Moment::Settled));
        }
        problems.extend(check::left_over(&self.root, &KNOWN));
        Ok(problems)
    }

    /// Builds everything into a layout and compares with the reference.
    pub(crate) fn build_reference(&self, layout: &str) -> Result<Vec<Problem>> {
        let outcome = self.kiln(&format!("build --json --output oci:{layout}"))?;
        let mut problems = outcome.problems("build");
        if problems.is_empty() && !outcome.succeeded() {
            problems.push(problem("the next build fails", outcome.brief()));
        }
        problems.extend(self.judge(&outcome, Some(layout)));
        Ok(problems)
    }

    /// The digests that a build of this project must give.
    pub(crate) fn reference(&self) -> Digests {
        self.world.digests(self.project)
    }

    /// The digests that a layout with its images must list.
    pub(crate) fn listed(&self) -> Digests {
        self.world.listed(self.project)
    }

    /// Judges what a build with `--json` that ended with status 0 gave.
    pub(crate) fn judge(&self, outcome: &Outcome, layout: Option<&str>) -> Vec<Problem> {
        if !outcome.succeeded() {
            return Vec::new();
        }
        let mut problems = Vec::new();
        let build = Build::of(outcome);
        let reference = self.reference();
        if build.digests != reference {
            problems.push(problem("status 0 with another digest", format!("{:?}", build.digests)));
        }
        if let Some(layout) = layout {
            let found = check::layout(&self.project().join(layout), &self.listed(), check::Moment::Disturbed);
            let wrong = |found: Problem| problem(format!("status 0 with {}", found.kind), found.details);
            problems.extend(found.into_iter().map(wrong));
        }
        problems
    }
}

impl Drop for Place<'_> {
    fn drop(&mut self) {
        if !self.world.keep {
            let _ = fs_err::remove_dir_all(&self.root);
        }
    }
}

/// What `build --json` printed.
#[derive(Debug, Default)]
pub(crate) struct Build {
    pub(crate) digests: Digests,
}

impl Build {
    pub(crate) fn of(outcome: &Outcome) -> Self {
        Self { digests: outcome.digests().unwrap_or_default().into_iter().collect() }
    }
}

/// Copies a directory with everything in it and the times of its files, which a store compares.
pub(crate) fn copy_tree(from: &Path, to: &Path) -> Result<()> {
    fs_err::create_dir_all(to)?;
    for entry in fs_err::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy_tree(&entry.path(), &target)?;
        } else {
            fs_err::copy(entry.path(), &target)?;
            let modified = entry.metadata()?.modified()?;
            fs_err::OpenOptions::new().write(true).open(&target)?.file().set_modified(modified)?;
        }
    }
    Ok(())
}
