//! The Python packages of an image: the environment, the layers of its wheels, and what of the base gives way to them.

use std::path::PathBuf;
use std::sync::Arc;

use kiln_fatbin::Selection;
use kiln_plan::base::{BaseFacts, Distribution};
use kiln_plan::diagnostic::{Diagnostic, Diagnostics};
use kiln_plan::lock::{Lock, LockedWheel};
use kiln_plan::platform::Platform;
use kiln_plan::stack::{self, Environment};

use super::{Builder, Draft, Ground, LayerNode, Tier};
use crate::error::Result;
use crate::node::{Node, NodeId};
use crate::opened;
use crate::product::{Conflicts as ConflictsProduct, Paths as PathsProduct, Wheel};
use crate::project::Project;
use crate::python::{BasePython, environment};
use crate::step::Subject;
use crate::steps::agreement::Content;
use crate::steps::compose::{MAX_LAYERS, Made};
use crate::steps::conflicts::Conflicts;
use crate::steps::fetch::Fetch;
use crate::steps::modules::{Brought, Modules};
use crate::steps::paths::Paths;
use crate::steps::prune::Prune;
use crate::steps::remove::Remove;
use crate::steps::venv::Venv;
use crate::steps::wheels::{LayerForm, Wheels};
use crate::uninstall::Removal;

/// Wheels above this many compressed bytes get a layer of their own.
const OWN_LAYER: u64 = 8 << 20;

/// A wheel of an image.
pub(super) struct ImageWheel {
    name: String,
    version: String,
    file: String,
    size: u64,
    pub(super) locked: NodeId,
    /// As it goes into a layer.
    node: Node<Wheel>,
    /// Its GPU code may be cut.
    prunable: bool,
}

impl Builder<'_> {
    /// Adds the wheels of an image in the order in which they go into layers: of two that bring one file, the later has it. pip
    /// installs packages on which none depends by name, the last name first; those that the stack names come last.
    pub(super) fn image_wheels(&mut self, image: &stack::Image, platform: Platform) -> Result<Vec<ImageWheel>> {
        let selection = self.project.selection(image, self.lock);
        let packages = self.lock.image(&image.name, platform).into_iter().flat_map(|locked| &locked.packages);
        let mut all = Vec::new();
        for package in packages {
            // The lock was checked when it was read: every package has its wheel.
            let Some(wheel) = self.wheels.get(&package.wheel).map(|wheel| (*wheel).clone()) else { continue };
            let subject = Subject::Package { name: package.name.clone(), version: package.version.clone() };
            let (file, size) = (wheel.file.clone(), wheel.size.unwrap_or(0));
            let fetch = self.graph.add(self.project.fetch(subject, wheel))?;
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
        let winner = |wheel: &ImageWheel| image.winners.iter().position(|winner| winner.name.as_ref() == wheel.name);
        all.sort_by(|one, other| winner(one).cmp(&winner(other)).then_with(|| other.name.cmp(&one.name)));
        Ok(all)
    }

    /// Adds the layers of an image's packages: the environment, one layer for each large wheel, and one for all small ones.
    pub(super) fn python(
        &mut self,
        image: &stack::Image,
        base: &BasePython<'_>,
        wheels: Vec<ImageWheel>,
        draft: &mut Draft,
    ) -> Result<()> {
        self.removed(base, image, &wheels, draft)?;
        if wheels.is_empty() {
            return Ok(());
        }
        let python = image.target.python();
        let scheme = base.scheme(python)?;
        self.require_one_environment(image, base, draft.platform)?;
        if base.environment != Environment::Base && self.venv_below(image, draft.platform).is_none() {
            require_no_venv(image, &draft.ground)?;
            let venv = Venv::new(python, base, &mut draft.ground.below)?;
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
        let brought = wheels.iter().zip(&tier).map(|(wheel, (file, paths))| {
            let (package, file) = (wheel.name.clone(), file.clone());
            Brought { paths: *paths, package, file }
        });
        let brought = brought.collect();
        if let Some(modules) = Modules::of(subject.clone(), brought, &scheme.site_packages, base) {
            draft.modules.push(self.graph.add(modules)?);
        }
        let below: Tier = draft.ground.tiers.iter().flatten().cloned().collect();
        let conflicts = match tier.len() {
            0 | 1 => None,
            _ => Some(self.graph.add(Conflicts::new(subject.clone(), &tier, &[], small.clone()))?),
        };
        draft.conflicts.extend(conflicts);
        if !below.is_empty() {
            draft.conflicts.push(self.graph.add(Conflicts::new(subject, &tier, &below, Vec::new()))?);
        }
        let around = draft.ground.below.around(&scheme.roots());
        let (compression, max_layer_size) = (image.compression, image.max_layer_size);
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

    /// Refuses an `/opt/venv` that would have to see the base's packages in one image, and not in the other.
    fn require_one_environment(&self, image: &stack::Image, base: &BasePython<'_>, platform: Platform) -> Result<()> {
        let Some(below) = self.venv_below(image, platform) else { return Ok(()) };
        let facts = self.facts_of(image, platform);
        if base.environment == Environment::Base || environment(below, &facts) == base.environment {
            return Ok(());
        }
        let span = image.python.environment_span.clone().unwrap_or_else(|| image.span.clone());
        let message = format!(
            "`{}` and `{}`, which it stands on, share `/opt/venv`, and one of them alone sees the base's packages in it",
            image.name, below.name
        );
        let hint = "give both the same `python.environment`, or this one `\"base\"`";
        let diagnostic = Diagnostic::at(span, message).hint(hint);
        let below = below.python.environment_span.clone().unwrap_or_else(|| below.span.clone());
        Err(Diagnostics::from(diagnostic.also(below, "chosen here")).into())
    }

    /// Returns the facts that the packages of an image are installed by.
    fn facts_of(&self, image: &stack::Image, platform: Platform) -> Arc<BaseFacts> {
        self.facts.get(&(image.name.clone(), platform)).cloned().unwrap_or_default()
    }

    /// Returns the nearest image below whose packages lie in `/opt/venv`.
    pub(super) fn venv_below<'i>(&self, image: &'i stack::Image, platform: Platform) -> Option<&'i stack::Image>
    where
        Self: 'i,
    {
        let facts = self.facts_of(image, platform);
        self.project.stack.ancestors(image).find(|above| {
            environment(above, &facts) != Environment::Base
                && self.lock.image(&above.name, platform).is_some_and(|locked| !locked.packages.is_empty())
        })
    }

    /// Returns the directories of libraries that packages of an image, or of those below it, open by name.
    pub(super) fn libraries(
        &self,
        image: &stack::Image,
        base: &BasePython<'_>,
        platform: Platform,
    ) -> Result<Vec<String>> {
        let chain = std::iter::once(image).chain(self.project.stack.ancestors(image));
        let locked = chain.filter_map(|image| self.lock.image(&image.name, platform));
        let packages: Vec<(&str, &str)> = locked
            .flat_map(|locked| &locked.packages)
            .map(|package| (package.name.as_str(), package.version.as_str()))
            .collect();
        Ok(opened::directories(&base.scheme(image.target.python())?.site_packages, &packages))
    }

    /// Adds the layer that hides distributions of the base.
    fn removed(
        &mut self,
        base: &BasePython<'_>,
        image: &stack::Image,
        wheels: &[ImageWheel],
        draft: &mut Draft,
    ) -> Result<()> {
        let is_own =
            |list: &[stack::Named], held: &&Distribution| list.iter().any(|named| named.name.as_ref() == held.name);
        let below: Vec<&stack::Image> = self.project.stack.ancestors(image).collect();
        let is_gone = |held: &&Distribution| below.iter().any(|below| is_own(&below.python.remove, held));
        let own = base.removed.iter().copied().filter(|held| is_own(&image.python.remove, held) && !is_gone(held));
        // In one environment, two distributions of a name would lie beside one another.
        let in_place =
            base.replaced.iter().copied().filter(|held| {
                base.environment == Environment::Base && wheels.iter().any(|wheel| wheel.name == held.name)
            });
        let gone: Vec<&Distribution> = own.chain(in_place).collect();
        if gone.is_empty() {
            return Ok(());
        }
        // Scratch has no distributions.
        let Some(below) = draft.ground.image else { return Ok(()) };
        let removals: Vec<(String, Removal)> =
            gone.into_iter().map(|held| (Remove::name(held), Removal::new(held, &base.seen))).collect();
        let prefixes: Vec<&str> = removals.iter().map(|(_, removal)| removal.prefix()).collect();
        let around = draft.ground.below.around(&prefixes);
        let step = Remove::new(below, removals, around);
        let history = step.history();
        let node = self.graph.add(step)?;
        draft.layer(node, history, 0);
        Ok(())
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
    /// Returns the step that brings a locked wheel here.
    pub(crate) fn fetch(&self, subject: Subject, wheel: LockedWheel) -> Fetch {
        let paths = places(self, &wheel);
        let url = wheel.url.as_ref().and_then(|url| url.parse().ok()).map(|url| self.with_credentials(&url));
        Fetch::new(subject, wheel, paths, url)
    }

    /// The GPU code that stays of an image's wheels, where some is cut.
    pub(crate) fn selection(&self, image: &stack::Image, lock: &Lock) -> Option<Selection> {
        image.prune.map(|prune| Selection {
            gpus: self.gpus(image, lock),
            keep_ptx: prune.keep_ptx,
            drop_relocatable: prune.drop_relocatable,
        })
    }
}
