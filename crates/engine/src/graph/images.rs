//! From a stack, its lock and the snapshot to the graph of its images.

use std::collections::{BTreeMap, HashMap};
use std::path::PathBuf;
use std::sync::Arc;

use kiln_fatbin::Selection;
use kiln_oci::debian::Bootstrap;
use kiln_oci::image::Image;
use kiln_oci::layer::Layer;
use kiln_plan::base::{BaseFacts, Interpreter};
use kiln_plan::diagnostic::{Diagnostic, Diagnostics};
use kiln_plan::digest::Digest;
use kiln_plan::lock::{Lock, LockedBase, LockedWheel};
use kiln_plan::platform::Platform;
use kiln_plan::stack::{self, Environment, From, GpuCode as Demand};
use kiln_wheel::install::Scheme;

use super::Graph;
use crate::accounts::Accounts;
use crate::bases::{self, interpreter};
use crate::below::Below;
use crate::error::{BuildError, ProjectError, Result};
use crate::node::{Node, NodeId};
use crate::product::{Conflicts as ConflictsProduct, OldestDriver, Paths as PathsProduct, Verdict, Wheel};
use crate::project::Project;
use crate::settings::Settings;
use crate::snapshot::Snapshot;
use crate::step::Subject;
use crate::steps::agreement::{Agreement, Content};
use crate::steps::base::{Base, Source};
use crate::steps::compose::{Compose, MAX_LAYERS, Made};
use crate::steps::conflicts::Conflicts;
use crate::steps::driver::Driver;
use crate::steps::facts::Facts;
use crate::steps::fetch::Fetch;
use crate::steps::gpu_code::GpuCode;
use crate::steps::paths::Paths;
use crate::steps::prune::Prune;
use crate::steps::venv::Venv;
use crate::steps::wheels::{Around, LayerForm, Wheels};

mod files;

/// Wheels above this many compressed bytes get a layer of their own.
const OWN_LAYER: u64 = 8 << 20;

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
}

impl Images {
    /// Builds the graph of these images, each of which stands after the one below it, on all platforms.
    pub(crate) fn new(project: &Project<'_>, images: &[&stack::Image], lock: &Lock) -> Result<Self> {
        let snapshot = Snapshot::of(project, images)?;
        let wheels = lock.wheels_by_digest();
        let mut builder = Builder { project, lock, wheels, snapshot, graph: Graph::default(), done: HashMap::new() };
        let mut all = Vec::new();
        for &image in images {
            for &platform in &project.stack.target.platforms {
                all.push(builder.image(image, platform)?);
            }
        }
        Ok(Self { graph: builder.graph, images: all })
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
}

struct Builder<'p> {
    project: &'p Project<'p>,
    lock: &'p Lock,
    wheels: BTreeMap<Digest, &'p LockedWheel>,
    snapshot: Snapshot,
    graph: Graph,
    done: HashMap<(String, Platform), Done>,
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

/// A wheel of an image.
struct ImageWheel {
    name: String,
    version: String,
    file: String,
    size: u64,
    locked: NodeId,
    /// As it goes into a layer.
    node: Node<Wheel>,
    /// Its GPU code may be cut.
    prunable: bool,
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
}

/// An image while its nodes are added.
struct Draft {
    platform: Platform,
    ground: Ground,
    layers: Vec<LayerNode>,
    made: Vec<Made>,
    conflicts: Vec<Node<ConflictsProduct>>,
}

impl Draft {
    fn layer(&mut self, node: Node<Vec<Layer>>, history: String, bytes: u64) {
        self.layers.push(LayerNode { node, bytes, wheels: Vec::new() });
        self.made.push(Made { layers: node, history, pruned: Vec::new() });
    }
}

impl Builder<'_> {
    fn image(&mut self, image: &stack::Image, platform: Platform) -> Result<ImageNodes> {
        let image = self.project.stack.on(image, platform);
        let root = self.project.stack.root(image);
        let base_name = bases::name(&root.from);
        let facts = match &base_name {
            Some(name) => self.lock.base(name, platform).map(|base| base.facts.clone()).unwrap_or_default(),
            None => root.base_facts.clone().unwrap_or_default(),
        };
        let base_name = base_name.unwrap_or_else(|| "scratch".into());
        let ground = self.ground(image, platform, &facts)?;
        let (base, below) = (ground.base.clone(), ground.image);
        let mut draft = Draft { platform, ground, layers: Vec::new(), made: Vec::new(), conflicts: Vec::new() };
        let wheels = self.image_wheels(image, platform)?;
        let packages = wheels.iter().map(|wheel| wheel.locked).collect();
        let has_packages = !wheels.is_empty();
        if has_packages {
            let python = self.project.stack.target.python.as_deref().unwrap_or_default();
            self.python(image, interpreter(&facts, python, &base_name, image.environment)?, wheels, &mut draft)?;
        }
        let venv = image.environment == Environment::Venv && has_packages || self.has_venv_below(image, platform);
        self.users(image, &facts, &mut draft)?;
        self.copies(image, &mut draft)?;
        let settings = Settings::of(image, venv, &draft.ground.accounts);
        self.files(image, &settings, &mut draft)?;
        let program = self.program(image, &draft)?;
        let subject = Subject::Image(image.name.clone(), platform);
        let agreement = Agreement::new(subject.clone(), &draft.ground.contents)?;
        let agreement = agreement.map(|agreement| self.graph.add(agreement)).transpose()?;
        let drivers = match image.gpu_code {
            Demand::Any => Vec::new(),
            _ => self.drivers(&subject, &draft, &image.except)?,
        };
        let node = self.graph.add(Compose {
            platform,
            below,
            made: draft.made,
            settings,
            created: self.project.workshop.surroundings.created,
            conflicts: draft.conflicts,
            agreement,
            program,
            drivers,
            subject: subject.clone(),
        })?;
        let gate = match image.gpu_code {
            Demand::Any => None,
            demand => {
                let gpus = (self.project.gpus(self.lock), self.project.stack.target.gpu_names.clone());
                Some(self.graph.add(GpuCode::new(subject, node, gpus, demand, image.except.clone()))?)
            }
        };
        let Ground { layers, tiers, contents, below, accounts, inherited, .. } = draft.ground;
        let done =
            Done { image: node, layers: layers + draft.layers.len(), tiers, contents, below, accounts, inherited };
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
            layers: draft.layers,
            packages,
            image: node,
            gate,
        })
    }

    /// Adds the steps that find out which driver the layers need: where GPU code is demanded it is looked at anyway.
    fn drivers(&mut self, subject: &Subject, draft: &Draft, except: &[String]) -> Result<Vec<Node<OldestDriver>>> {
        let gpus = self.project.gpus(self.lock);
        let layers = draft.layers.iter().filter(|layer| !layer.wheels.is_empty());
        let driver = |node| Driver::new(subject.clone(), node, gpus.clone(), except.to_vec());
        layers.map(|layer| self.graph.add(driver(layer.node))).collect()
    }

    fn ground(&mut self, image: &stack::Image, platform: Platform, facts: &BaseFacts) -> Result<Ground> {
        if let Some(done) = parent(image).and_then(|parent| self.done.get(&(parent.to_owned(), platform))) {
            return Ok(Ground {
                base: None,
                image: Some(done.image),
                layers: done.layers,
                tiers: done.tiers.clone(),
                contents: done.contents.clone(),
                below: done.below.clone(),
                accounts: done.accounts.clone(),
                inherited: done.inherited.clone(),
            });
        }
        let (tiers, contents, accounts) = (Vec::new(), Vec::new(), Accounts::of(facts));
        let (path, user, workdir) = (facts.path.clone(), facts.user.clone(), facts.workdir.clone());
        let inherited = Inherited { path, user, workdir, login_path: None };
        let Some(name) = bases::name(&image.from) else {
            let below = Below::nothing();
            return Ok(Ground { base: None, image: None, layers: 0, tiers, contents, below, accounts, inherited });
        };
        let below = Below::of(facts, &name);
        let locked = self.lock.base(&name, platform);
        let base = locked.map(|locked| {
            Ok::<_, BuildError>((locked.clone(), self.graph.add(base_step(self.project, image, locked)?)?))
        });
        let base = base.transpose()?;
        let layers = base.as_ref().and_then(|(locked, _)| locked.layers).unwrap_or(0);
        let image = base.as_ref().map(|(_, node)| *node);
        Ok(Ground { base, image, layers, tiers, contents, below, accounts, inherited })
    }

    /// Adds the wheels of an image in the order in which they go into layers: of two that bring one file, the later has it. pip
    /// installs packages on which none depends by name, the last name first; those that the stack names come last.
    fn image_wheels(&mut self, image: &stack::Image, platform: Platform) -> Result<Vec<ImageWheel>> {
        let selection = self.project.selection(image, self.lock);
        let packages = self.lock.image(&image.name, platform).into_iter().flat_map(|locked| &locked.packages);
        let mut all = Vec::new();
        for package in packages {
            // The lock was checked when it was read: every package has its wheel.
            let Some(wheel) = self.wheels.get(&package.wheel).map(|wheel| (*wheel).clone()) else { continue };
            let subject = Subject::Package { name: package.name.clone(), version: package.version.clone() };
            let (file, size) = (wheel.file.clone(), wheel.size.unwrap_or(0));
            let fetch = self.graph.add(self.fetch(subject, wheel))?;
            let prune = selection.as_ref().filter(|_| Prune::concerns(&file, size));
            let node = match prune {
                Some(selection) => {
                    let subject = Subject::Pruned(file.clone());
                    self.graph.add(Prune::new(subject, fetch, size, selection, &image.except))?
                }
                None => fetch,
            };
            let (name, version) = (package.name.clone(), package.version.clone());
            let (locked, prunable) = (fetch.id(), prune.is_some());
            all.push(ImageWheel { name, version, file, size, locked, node, prunable });
        }
        let winner = |wheel: &ImageWheel| image.winners.iter().position(|name| name.as_ref() == wheel.name);
        all.sort_by(|one, other| winner(one).cmp(&winner(other)).then_with(|| other.name.cmp(&one.name)));
        Ok(all)
    }

    fn fetch(&self, subject: Subject, wheel: LockedWheel) -> Fetch {
        let paths = places(self.project, &wheel);
        let url = wheel.url.as_ref().and_then(|url| url.parse().ok()).map(|url| self.project.with_credentials(&url));
        Fetch::new(subject, wheel, paths, url)
    }

    /// Adds the layers of an image's packages: the environment, one layer for each large wheel, and one for all small ones.
    fn python(
        &mut self,
        image: &stack::Image,
        interpreter: &Interpreter,
        wheels: Vec<ImageWheel>,
        draft: &mut Draft,
    ) -> Result<()> {
        let python = self.project.stack.target.python.as_deref().unwrap_or_default();
        let scheme = scheme(image, python, interpreter)?;
        if image.environment == Environment::Venv && !self.has_venv_below(image, draft.platform) {
            require_no_venv(image, &draft.ground)?;
            let venv = Venv::new(python, interpreter, &mut draft.ground.below)?;
            let (history, files) = (venv.history(), venv.files());
            draft.ground.contents.push(Arc::new(Content::Files("virtual environment".into(), files)));
            let node = self.graph.add(venv)?;
            draft.layer(node, history, 0);
        }
        let mut tier = Tier::new();
        for wheel in &wheels {
            let subject = Subject::Wheel(wheel.file.clone());
            tier.push((wheel.file.clone(), self.graph.add(Paths::new(subject, wheel.node, scheme.clone()))?));
        }
        // The smallest large ones join the shared layer where the image would have too many layers: users, copies and files
        // need one each at least.
        let others = draft.ground.layers + draft.layers.len() + image.copy.len().min(1) + 2;
        let (large, small) = layer_places(&wheels, MAX_LAYERS.saturating_sub(others + 1));
        let subject = Subject::Image(image.name.clone(), draft.platform);
        let below: Tier = draft.ground.tiers.iter().flatten().cloned().collect();
        let conflicts = match tier.len() {
            0 | 1 => None,
            _ => Some(self.graph.add(Conflicts::new(subject.clone(), &tier, &[], small.clone()))?),
        };
        draft.conflicts.extend(conflicts);
        if !below.is_empty() {
            draft.conflicts.push(self.graph.add(Conflicts::new(subject, &tier, &below, Vec::new()))?);
        }
        let (directories, links) = draft.ground.below.around(&scheme.roots());
        let (compression, max_layer_size) = (image.compression, image.max_layer_size);
        let around = Around { directories, links };
        let form = LayerForm { scheme: scheme.clone(), around, compression, max_layer_size };
        for at in large {
            self.wheel_layer(&[&wheels[at]], &[&tier[at]], None, &form, draft)?;
        }
        if !small.is_empty() {
            let members: Vec<&ImageWheel> = small.iter().map(|at| &wheels[*at]).collect();
            let lists: Vec<_> = small.iter().map(|at| &tier[*at]).collect();
            self.wheel_layer(&members, &lists, conflicts, &form, draft)?;
        }
        draft.ground.tiers.push(tier);
        Ok(())
    }

    fn wheel_layer(
        &mut self,
        members: &[&ImageWheel],
        lists: &[&(String, Node<PathsProduct>)],
        conflicts: Option<Node<ConflictsProduct>>,
        form: &LayerForm,
        draft: &mut Draft,
    ) -> Result<()> {
        let names: Vec<(String, String)> =
            members.iter().map(|wheel| (wheel.name.clone(), wheel.version.clone())).collect();
        let titles: Vec<String> = names.iter().map(|(name, version)| format!("{name} {version}")).collect();
        let history = format!("kiln: {}", titles.join(", "));
        let subject = match names.as_slice() {
            [(name, version)] => Subject::Package { name: name.clone(), version: version.clone() },
            _ => Subject::Packages(names),
        };
        let bytes = members.iter().map(|wheel| wheel.size).sum();
        let nodes = members.iter().map(|wheel| wheel.node).collect();
        let node = self.graph.add(Wheels::new(subject, nodes, bytes, conflicts, form))?;
        let pruned = members.iter().filter(|wheel| wheel.prunable).map(|wheel| wheel.node).collect();
        draft.layers.push(LayerNode { node, bytes, wheels: members.iter().map(|wheel| wheel.locked).collect() });
        draft.made.push(Made { layers: node, history, pruned });
        let wheels = lists.iter().map(|list| (*list).clone()).collect();
        draft.ground.contents.push(Arc::new(Content::Wheels(form.scheme.clone(), wheels)));
        Ok(())
    }

    fn has_venv_below(&self, image: &stack::Image, platform: Platform) -> bool {
        self.project.stack.ancestors(image).any(|above| {
            above.environment == Environment::Venv
                && self.lock.image(&above.name, platform).is_some_and(|locked| !locked.packages.is_empty())
        })
    }
}

/// Refuses a base that has an `/opt/venv` of its own: two environments in one place are neither of the two.
fn require_no_venv(image: &stack::Image, ground: &Ground) -> Result<()> {
    if !ground.below.is_directory("opt/venv") {
        return Ok(());
    }
    let message = "the base has an `/opt/venv` of its own, which is where kiln puts the packages of an image";
    let hint = "install into the base's Python with `python.environment = \"base\"`, or choose a base without it";
    Err(Diagnostics::from(Diagnostic::at(image.from_span.clone(), message).hint(hint)).into())
}

/// Returns the places of wheels with a layer of their own, at most so many, and of those that share one.
fn layer_places(wheels: &[ImageWheel], room: usize) -> (Vec<usize>, Vec<usize>) {
    let mut large: Vec<usize> = (0..wheels.len()).filter(|at| wheels[*at].size > OWN_LAYER).collect();
    large.sort_by_key(|at| (std::cmp::Reverse(wheels[*at].size), *at));
    large.truncate(room);
    large.sort_unstable();
    let small = (0..wheels.len()).filter(|at| !large.contains(at)).collect();
    (large, small)
}

fn scheme(image: &stack::Image, python: &str, interpreter: &Interpreter) -> Result<Scheme> {
    match (image.environment, &interpreter.site_packages) {
        (Environment::Venv, _) => Ok(Scheme::venv(python)),
        (Environment::Base, Some(site)) => Ok(Scheme::base(&interpreter.path, site)),
        (Environment::Base, None) => Err(ProjectError::NoSitePackages(interpreter.path.clone()).into()),
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
            let wanted = Bootstrap {
                suite: suite.clone(),
                include: include.clone(),
                mirror: mirror.clone(),
                platform: locked.platform,
            };
            Source::Debian(wanted, cache.map(|cache| cache.remote.clone()))
        }
        From::Reference(reference) => Source::Registry(reference.clone()),
        From::Scratch | From::Image(_) => {
            return Err(BuildError::Unreachable(format!("the base of {}", image.name)));
        }
    };
    Ok(Base::new(locked.clone(), source))
}

/// Returns the paths on this machine where a wheel may lie: as the lock says, in find-links directories, in `file:` indexes.
fn places(project: &Project<'_>, wheel: &LockedWheel) -> Vec<PathBuf> {
    let said = wheel.path.iter().map(|path| project.directory.join(path));
    let index = &project.stack.index;
    let links = index.find_links.iter().filter(|link| !link.contains("://") || link.starts_with("file:"));
    let links = links.map(|link| project.directory.join(link.trim_start_matches("file://")).join(&wheel.file));
    let name: Option<kiln_wheel::name::WheelName> = wheel.file.parse().ok();
    let indexed = name.into_iter().flat_map(|name| {
        let addresses = index.packages.get(&name.name).into_iter().chain(&index.extra).chain(&index.default);
        addresses
            .filter_map(|address| address.strip_prefix("file:"))
            .map(|path| {
                let directory = project.directory.join(path.trim_start_matches("//"));
                directory.join(name.name.to_string()).join(&wheel.file)
            })
            .collect::<Vec<_>>()
    });
    said.chain(links).chain(indexed).collect()
}

impl Project<'_> {
    /// The GPU code that stays of an image's wheels, where some is cut.
    pub(crate) fn selection(&self, image: &stack::Image, lock: &Lock) -> Option<Selection> {
        image.prune.map(|prune| Selection {
            gpus: self.gpus(lock),
            keep_ptx: prune.keep_ptx,
            drop_relocatable: prune.drop_relocatable,
        })
    }
}
