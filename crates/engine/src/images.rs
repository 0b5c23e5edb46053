//! From a stack, its lock and the snapshot to the graph of its images. It is built once for a command.

use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;

use kiln_oci::image::Image;
use kiln_oci::layer::Layer;
use kiln_oci::tree::Listed;
use kiln_plan::base::BaseFacts;
use kiln_plan::digest::Digest;
use kiln_plan::lock::{Lock, LockedBase, LockedWheel};
use kiln_plan::platform::Platform;
use kiln_plan::stack::{self, Environment, From, GpuCode as Demand};

use crate::accounts::Accounts;
use crate::bases;
use crate::below::Below;
use crate::error::{BuildError, Result};
use crate::graph::Graph;
use crate::node::{Node, NodeId};
use crate::product::{Conflicts as ConflictsProduct, OldestDriver, Paths as PathsProduct, Verdict};
use crate::project::Project;
use crate::python::BasePython;
use crate::settings::Settings;
use crate::snapshot::Snapshot;
use crate::step::Subject;
use crate::steps::agreement::{Agreement, Content};
use crate::steps::base::{Base, Source};
use crate::steps::compose::{Compose, Made};
use crate::steps::driver::Driver;
use crate::steps::facts::Facts;
use crate::steps::gpu_code::GpuCode;

mod commands;
mod elsewhere;
mod files;
mod look;
mod python;

use look::Look;
pub(crate) use look::{Making, require_sandbox};

/// Layers of one step of an image.
#[derive(Debug, Clone)]
pub(crate) struct LayerNode {
    pub(crate) node: Node<Vec<Layer>>,
    /// Bytes that go in, for forecasts.
    pub(crate) bytes: u64,
    /// The wheels that it is made of, as they are locked.
    pub(crate) wheels: Vec<NodeId>,
}

/// The nodes of an image on a platform.
#[derive(Debug, Clone)]
pub(crate) struct ImageNodes {
    pub(crate) name: String,
    pub(crate) platform: Platform,
    /// Its base and what the lock calls it, where it stands on one.
    pub(crate) base: Option<(LockedBase, Node<Image>)>,
    /// The facts of a base on a registry, which the lock holds: no step reads them, and others may want to know.
    pub(crate) facts: Option<NodeId>,
    /// The image of the stack below.
    pub(crate) parent: Option<String>,
    /// Its own layers, the lowest first.
    pub(crate) layers: Vec<LayerNode>,
    /// Those of its layers that commands make.
    pub(crate) commands: Vec<NodeId>,
    /// Its packages as they are locked.
    pub(crate) packages: Vec<NodeId>,
    pub(crate) image: Node<Image>,
    /// The check that it must pass.
    pub(crate) gate: Option<Node<Verdict>>,
}

/// The graph of a command, and where the images are in it.
pub(crate) struct Images {
    pub(crate) graph: Graph,
    pub(crate) images: Vec<ImageNodes>,
    /// Images whose steps depend on results that are not known, with these.
    pub(crate) unplanned: Vec<(String, Platform, String)>,
    /// The first error of those that left an image out.
    pub(crate) failure: Option<BuildError>,
    /// Commands that are performed though their results are known, and were not yet.
    pub(crate) again: BTreeSet<NodeId>,
}

impl Images {
    /// Builds the graph of these images, each of which stands after those that it needs, on all platforms. What the graph itself
    /// depends on is made.
    pub(crate) fn new(project: &Project<'_>, images: &[&stack::Image], lock: &Lock) -> Result<Self> {
        Self::made(project, images, lock, Making::default())
    }

    /// As [`Images::new`], without performing any step that takes time.
    pub(crate) fn planned(project: &Project<'_>, images: &[&stack::Image], lock: &Lock) -> Result<Self> {
        Self::made(project, images, lock, Making { performs: false, ..Making::default() })
    }

    /// Returns the facts that the packages of an image are installed by: those of its base, or those after commands below it.
    ///
    /// # Errors
    ///
    /// [`BuildError::NotYet`] where commands must run for it, and nothing is to be performed.
    pub(crate) fn facts_below(
        project: &Project<'_>,
        image: &stack::Image,
        platform: Platform,
        lock: &Lock,
        performs: bool,
    ) -> Result<BaseFacts> {
        let stack = &project.stack;
        let image = stack.on(image, platform);
        if !stack.stands_on_commands(image) {
            return Ok(base_facts(lock, stack.root(image), platform));
        }
        let chosen = project.chosen(std::slice::from_ref(&image.name))?;
        let mut builder = Builder::new(project, &chosen, lock, Making { performs, ..Making::default() })?;
        for below in chosen.iter().filter(|below| below.name != image.name) {
            builder.image(below, platform)?;
        }
        Ok(builder.prepared(image, platform)?.0.facts.as_ref().clone())
    }

    /// Returns the layers that the packages of a distribution are installed over: those of the base, or of the image below.
    pub(crate) fn layers_below(
        project: &Project<'_>,
        image: &stack::Image,
        platform: Platform,
        lock: &Lock,
    ) -> Result<Vec<Layer>> {
        let image = project.stack.on(image, platform);
        let chosen = project.chosen(std::slice::from_ref(&image.name))?;
        let mut builder = Builder::new(project, &chosen, lock, Making::default())?;
        for below in chosen.iter().filter(|below| below.name != image.name) {
            builder.image(below, platform)?;
        }
        let Some(node) = builder.ground(image, platform)?.image else { return Ok(Vec::new()) };
        let found = builder.look.at(&builder.graph, &[node])?;
        Ok(found.into_iter().flat_map(|image| image.layers).collect())
    }

    /// As [`Images::new`], in some way.
    pub(crate) fn made(
        project: &Project<'_>,
        images: &[&stack::Image],
        lock: &Lock,
        making: Making<'_>,
    ) -> Result<Self> {
        let mut builder = Builder::new(project, images, lock, making)?;
        let (mut all, mut unplanned, mut failure) = (Vec::new(), Vec::new(), None);
        for &image in images {
            for &platform in &project.stack.platforms {
                match builder.image(image, platform) {
                    Err(BuildError::NotYet(on)) if making.performs && failure.is_none() => {
                        return Err(BuildError::Unreachable(on));
                    }
                    Err(BuildError::NotYet(on)) => {
                        let is_own = on == Subject::Image(image.name.clone(), platform).to_string();
                        let on = if is_own { "its `system` or `setup`, which has not run here".to_owned() } else { on };
                        unplanned.push((image.name.clone(), platform, on));
                    }
                    Err(BuildError::Interrupted) => return Err(BuildError::Interrupted),
                    Err(error) if making.keep_going => {
                        unplanned.push((image.name.clone(), platform, error.to_string()));
                        failure = failure.or(Some(error));
                    }
                    done => all.push(done?),
                }
            }
        }
        let again = builder.look.into_again();
        Ok(Self { graph: builder.graph, images: all, unplanned, failure, again })
    }
}

/// Wheels of one image: file names and lists of files, by package name.
type Tier = Vec<(String, Node<PathsProduct>)>;

/// What images above need to know of one.
struct Done {
    image: Node<Image>,
    inherited: Inherited,
    /// Layers, by the steps that make them.
    layers: usize,
    /// Of the images below and its own, lowest first.
    tiers: Vec<Tier>,
    contents: Vec<Arc<Content>>,
    below: Below,
    accounts: Accounts,
    facts: Arc<BaseFacts>,
    commands: usize,
    /// Its commands may have changed anything that was known of it.
    is_changed: bool,
}

struct Builder<'p> {
    project: &'p Project<'p>,
    lock: &'p Lock,
    wheels: BTreeMap<Digest, &'p LockedWheel>,
    snapshot: Snapshot,
    graph: Graph,
    done: HashMap<(String, Platform), Done>,
    look: Look<'p>,
    /// Lists of trees that images copy from, by their nodes.
    lists: HashMap<NodeId, Arc<Vec<Listed>>>,
    /// The facts that the packages of images are installed by.
    facts: HashMap<(String, Platform), Arc<BaseFacts>>,
}

impl<'p> Builder<'p> {
    fn new(project: &'p Project<'p>, images: &[&stack::Image], lock: &'p Lock, making: Making<'p>) -> Result<Self> {
        project.find_packages_in_cache(lock);
        Ok(Self {
            project,
            lock,
            wheels: lock.wheels_by_digest(),
            snapshot: Snapshot::of(project, images)?,
            graph: Graph::default(),
            done: HashMap::new(),
            look: Look::new(project, making),
            lists: HashMap::new(),
            facts: HashMap::new(),
        })
    }
}

/// Settings that an image has of the one below it.
#[derive(Debug, Clone, Default)]
struct Inherited {
    /// `PATH`, where something sets it.
    path: Option<String>,
    user: Option<String>,
    workdir: Option<String>,
    /// `PATH` of login shells, where kiln sets it.
    login_path: Option<String>,
}

/// What an image stands on.
struct Ground {
    /// Its base and its node, where it stands on one.
    base: Option<(LockedBase, Node<Image>)>,
    /// The image below, or the base.
    image: Option<Node<Image>>,
    /// Layers, by the steps that make them.
    layers: usize,
    tiers: Vec<Tier>,
    contents: Vec<Arc<Content>>,
    below: Below,
    accounts: Accounts,
    inherited: Inherited,
    /// The facts that packages are installed by.
    facts: Arc<BaseFacts>,
    /// Commands below, which are older.
    commands: usize,
}

/// An image while its nodes are added.
struct Draft {
    platform: Platform,
    ground: Ground,
    layers: Vec<LayerNode>,
    made: Vec<Made>,
    conflicts: Vec<Node<ConflictsProduct>>,
    /// Checks of its wheels against the base's modules.
    modules: Vec<Node<Verdict>>,
}

impl Draft {
    fn new(platform: Platform, ground: Ground) -> Self {
        let (layers, made, conflicts, modules) = (Vec::new(), Vec::new(), Vec::new(), Vec::new());
        Self { platform, ground, layers, made, conflicts, modules }
    }

    fn layer(&mut self, node: Node<Vec<Layer>>, history: String, bytes: u64) {
        self.layers.push(LayerNode { node, bytes, wheels: Vec::new() });
        self.made.push(Made { layers: node, history, pruned: Vec::new() });
    }
}

impl Builder<'_> {
    fn image(&mut self, image: &stack::Image, platform: Platform) -> Result<ImageNodes> {
        let image = self.project.stack.on(image, platform);
        let root = self.project.stack.root(image);
        let base_name = bases::name(&root.from).unwrap_or_else(|| "scratch".into());
        let (ground, setup) = self.prepared(image, platform)?;
        let facts = Arc::clone(&ground.facts);
        let (base, below) = (ground.base.clone(), ground.image);
        let mut draft = Draft::new(platform, ground);
        let wheels = self.image_wheels(image, platform)?;
        let packages = wheels.iter().map(|wheel| wheel.locked).collect();
        let has_packages = !wheels.is_empty();
        let mut venv = self.venv_below(image, platform).is_some();
        let mut libraries = Vec::new();
        if has_packages || !image.python.remove.is_empty() {
            let base = BasePython::of(&self.project.stack, image, &facts, &base_name)?;
            venv |= has_packages && base.environment != Environment::Base;
            libraries = self.libraries(image, &base, platform)?;
            self.python(image, &base, wheels, &mut draft)?;
        }
        self.users(image, &facts, &mut draft)?;
        self.copies(image, &mut draft)?;
        let settings = Settings { libraries, ..Settings::of(image, venv, &draft.ground.accounts) };
        self.files(image, &settings, &mut draft)?;
        let commands = self.commands(image, (&image.run, image.setup.len()), &settings, &mut draft)?;
        let program = self.program(image, &draft)?;
        let subject = Subject::Image(image.name.clone(), platform);
        let agreement = Agreement::new(subject.clone(), &draft.ground.contents)?;
        let agreement = agreement.map(|agreement| self.graph.add(agreement)).transpose()?;
        let drivers = match image.gpu_code {
            Demand::Any => Vec::new(),
            _ => self.drivers(image, &subject, &draft)?,
        };
        let node = self.graph.add(Compose {
            platform,
            below,
            made: draft.made,
            settings,
            created: self.project.workshop.surroundings.created,
            conflicts: draft.conflicts,
            modules: draft.modules,
            agreement,
            program,
            drivers,
            subject: subject.clone(),
        })?;
        let gate = match image.gpu_code {
            Demand::Any => None,
            demand => {
                let gpus = (self.project.gpus(image, self.lock), image.target.gpu_names.clone());
                Some(self.graph.add(GpuCode::new(subject, node, gpus, demand, image.except.clone()))?)
            }
        };
        let Ground { layers, tiers, contents, below, accounts, inherited, facts, commands: older, .. } = draft.ground;
        let done = Done {
            image: node,
            layers: layers + draft.layers.len(),
            tiers,
            contents,
            below,
            accounts,
            inherited,
            facts,
            commands: older,
            is_changed: !image.run.is_empty(),
        };
        self.done.insert((image.name.clone(), platform), done);
        let facts = match (&base, &image.from, &image.base_facts) {
            (Some((locked, node)), From::Reference(_), None) => {
                let subject = Subject::Base(locked.name.clone(), platform);
                Some(self.graph.add(Facts::new(subject, *node))?.id())
            }
            _ => None,
        };
        Ok(ImageNodes {
            name: image.name.clone(),
            platform,
            base,
            facts,
            parent: parent(image).map(str::to_owned),
            commands: setup.iter().map(|layer| layer.node.id()).chain(commands).collect(),
            layers: setup.into_iter().chain(draft.layers).collect(),
            packages,
            image: node,
            gate,
        })
    }

    /// Adds the steps that find out which driver the layers need: where GPU code is demanded it is looked at anyway.
    fn drivers(&mut self, image: &stack::Image, subject: &Subject, draft: &Draft) -> Result<Vec<Node<OldestDriver>>> {
        let (gpus, except) = (self.project.gpus(image, self.lock), &image.except);
        let layers = draft.layers.iter().filter(|layer| !layer.wheels.is_empty());
        let driver = |node| Driver::new(subject.clone(), node, gpus.clone(), except.to_vec());
        layers.map(|layer| self.graph.add(driver(layer.node))).collect()
    }

    fn ground(&mut self, image: &stack::Image, platform: Platform) -> Result<Ground> {
        if let Some(parent) = parent(image) {
            let done = self.done.get(&(parent.to_owned(), platform));
            let done = done.ok_or_else(|| BuildError::NotYet(format!("image {parent}")))?;
            let is_changed = done.is_changed;
            let mut ground = Ground {
                base: None,
                image: Some(done.image),
                layers: done.layers,
                tiers: done.tiers.clone(),
                contents: done.contents.clone(),
                below: done.below.clone(),
                accounts: done.accounts.clone(),
                inherited: done.inherited.clone(),
                facts: Arc::clone(&done.facts),
                commands: done.commands,
            };
            if is_changed {
                self.look_again(parent, platform, &mut ground)?;
            }
            return Ok(ground);
        }
        let facts = Arc::new(base_facts(self.lock, image, platform));
        let (tiers, contents, accounts) = (Vec::new(), Vec::new(), Accounts::of(&facts));
        let (path, user, workdir) = (facts.path.clone(), facts.user.clone(), facts.workdir.clone());
        let inherited = Inherited { path, user, workdir, login_path: None };
        let (mut base, mut below, mut layers) = (None, Below::nothing(), 0);
        if let Some(name) = bases::name(&image.from) {
            below = Below::of(&facts, &name);
            if let Some(locked) = self.lock.base(&name, platform) {
                base = Some((locked.clone(), self.graph.add(base_step(self.project, image, locked)?)?));
                layers = locked.layers.unwrap_or(0);
            }
        }
        let image = base.as_ref().map(|(_, node)| *node);
        Ok(Ground { base, image, layers, tiers, contents, below, accounts, inherited, facts, commands: 0 })
    }
}

/// Returns the facts of the base that a lowest image stands on.
fn base_facts(lock: &Lock, root: &stack::Image, platform: Platform) -> BaseFacts {
    match bases::name(&root.from) {
        Some(name) => lock.base(&name, platform).map(|base| base.facts.clone()).unwrap_or_default(),
        None => root.base_facts.clone().unwrap_or_default(),
    }
}

/// Returns the image of the stack that an image stands on.
pub(crate) fn parent(image: &stack::Image) -> Option<&str> {
    match &image.from {
        From::Image(name) => Some(name),
        _ => None,
    }
}

/// Returns the step that brings a locked base here.
pub(crate) fn base_step(project: &Project<'_>, image: &stack::Image, locked: &LockedBase) -> Result<Base> {
    let source = match &image.from {
        From::OciLayout(text) => {
            let (directory, name) = project.layout(text)?;
            Source::Layout(directory, name, text.clone())
        }
        From::Debian { suite, include, mirror } => {
            let cache = project.stack.cache.as_ref().filter(|_| !project.workshop.surroundings.registry.offline);
            let wanted = project.debian(locked.name.clone(), (suite, include, mirror.as_ref()), locked.platform);
            Source::Debian(wanted, cache.map(|cache| cache.remote.clone()))
        }
        From::Reference(reference) => Source::Registry(reference.clone()),
        From::Scratch | From::Image(_) => {
            return Err(BuildError::Unreachable(format!("the base of {}", image.name)));
        }
    };
    Base::new(locked.clone(), source).looked_for(project.workshop.store)
}
