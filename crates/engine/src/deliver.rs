//! A build from the stack to where the images go: the graph is made and driven, checks are waited for, and images are
//! written out and pushed. Bytes that a record promised and nobody has are made on the way, and nothing else.

mod commands;

use std::collections::{BTreeMap, BTreeSet};

use kiln_oci::image::Image;
use kiln_plan::digest::Digest;
use kiln_plan::event::Event;
use kiln_plan::lock::Lock;
use kiln_plan::platform::Platform;
use kiln_plan::stack;
use kiln_store::Root;

use crate::build::Build;
use crate::built::Built;
use crate::cache::Shared;
use crate::commands::Commands;
use crate::driver::Driver;
use crate::error::{BuildError, ProjectError, Result};
use crate::history::Speed;
use crate::images::{ImageNodes, Images, Making, require_sandbox};
use crate::locking::Upgrade;
use crate::node::NodeId;
use crate::output::Output;
use crate::project::Project;
use crate::push::{self, Pushed};
use crate::remote::CacheReader;
use crate::step::Level;

/// Attempts to deliver, each of which may find other bytes gone.
const ATTEMPTS: usize = 3;

/// What came of a build.
#[derive(Debug, Default)]
pub struct Delivered {
    /// The images.
    pub built: Vec<Built>,
    /// Those that were pushed.
    pub pushed: Vec<Pushed>,
    /// What was shared with other machines.
    pub shared: Shared,
    /// The error about the images that are not among them.
    pub failure: Option<BuildError>,
}

/// What is to be done with images.
#[derive(Debug, Clone, Copy, Default)]
pub struct Delivery<'a> {
    /// Where they are written.
    pub outputs: &'a [Output],
    /// They are pushed, and what was performed is shared.
    pub push: bool,
    /// After a failure, steps and images that do not depend on it are made and delivered too.
    pub keep_going: bool,
    /// The way in which commands are performed.
    pub commands: Commands<'a>,
}

impl Build<'_> {
    /// Returns true if an image, and the check that it must pass, are known on all platforms.
    fn is_ready(&self, image: &str) -> bool {
        let known = |node: &ImageNodes| {
            let gate = node.gate.is_none_or(|gate| self.driver.known(gate).is_some());
            gate && self.driver.known(node.image).is_some()
        };
        self.images.images.iter().filter(|node| node.name == image).all(known)
    }
}

impl Project<'_> {
    /// Builds images, writes them out, and pushes them. `names` are those that the command asked for; without names, all.
    pub fn deliver(&self, names: &[String], lock: &Lock, delivery: Delivery<'_>) -> Result<Delivered> {
        let chosen = self.chosen(names)?;
        self.require_published(names, &delivery)?;
        let making = Making { performs: true, keep_going: delivery.keep_going, commands: delivery.commands };
        let mut images = Images::made(self, &chosen, lock, making)?;
        delivery.commands.again.iter().try_for_each(|name| commands::require_command(name, &images))?;
        self.require_lock_above_commands(&chosen)?;
        let (mut failure, again) = (images.failure.take(), std::mem::take(&mut images.again));
        for (name, ..) in &images.unplanned {
            self.workshop.warn(format!("`{name}` is left out: it depends on what failed"));
        }
        let remote = CacheReader::new(self);
        let driver = Driver::new(&images.graph, &self.workshop, &remote)
            .keep_going(delivery.keep_going)
            .commands(delivery.commands, again);
        let build = Build { images: &images, driver: &driver, remote: &remote };
        let (mut built, later) = self.build(&build, lock, delivery.keep_going)?;
        failure = failure.or(later);
        let mut failed = self.failed_checks(&build)?;
        built.retain(|built| !failed.contains_key(&built.name));
        failure = failure.or_else(|| failed.pop_first().map(|(_, error)| error));
        let is_published = |name: &str| self.stack.image(name).is_none_or(|image| image.publish);
        let is_wanted =
            |built: &&Built| if names.is_empty() { is_published(&built.name) } else { names.contains(&built.name) };
        let wanted: Vec<&Built> = built.iter().filter(is_wanted).collect();
        if !wanted.is_empty() {
            for output in delivery.outputs {
                self.with_bytes(&build, || self.workshop.output(output, &wanted))?;
            }
        }
        let mut pushed = Vec::new();
        for built in wanted.iter().filter(|_| delivery.push) {
            pushed.push(self.with_bytes(&build, || self.push_one(built))?);
        }
        let shared = if delivery.push { self.share(&build, &wanted, lock)? } else { Shared::default() };
        self.workshop.store.sync()?;
        Ok(Delivered { built, pushed, shared, failure })
    }

    /// Compares the lock with what commands left, now that they have run: packages that are installed above them depend on it.
    fn require_lock_above_commands(&self, images: &[&stack::Image]) -> Result<()> {
        match images.iter().any(|image| image.has_packages() && self.stack.stands_on_commands(image)) {
            true => self.lock(&Upgrade::Nothing, true).map(drop),
            false => Ok(()),
        }
    }

    /// Refuses to push or load an image by name that the stack file keeps from that.
    fn require_published(&self, names: &[String], delivery: &Delivery<'_>) -> Result<()> {
        let loads = delivery.outputs.iter().any(|output| matches!(output, Output::Docker));
        if !delivery.push && !loads {
            return Ok(());
        }
        let images = names.iter().filter_map(|name| self.stack.image(name));
        images.filter(|image| !image.publish).try_for_each(|image| Err(push::not_published(image)))
    }

    /// Brings every image of a graph to where it is known and its bytes can be had. With `keep_going`, a failure stands
    /// beside the images that could be made all the same.
    fn build(&self, build: &Build<'_>, lock: &Lock, keep_going: bool) -> Result<(Vec<Built>, Option<BuildError>)> {
        let nodes = &build.images.images;
        let mut wants: Vec<(NodeId, Level)> = nodes.iter().map(|image| (image.image.id(), Level::Known)).collect();
        wants.extend(nodes.iter().filter_map(|image| Some((image.gate?.id(), Level::Known))));
        let ids: Vec<NodeId> = wants.iter().map(|(id, _)| *id).collect();
        if !keep_going {
            require_sandbox(&self.workshop, &build.images.graph, build.driver, &ids)?;
        }
        let began = std::time::Instant::now();
        let driven = build.driver.want(&wants);
        self.learn_speeds(build, began)?;
        let failure = match driven {
            Ok(()) => None,
            Err(error) if keep_going && !matches!(error, BuildError::Interrupted) => Some(error),
            Err(error) => return Err(error),
        };
        build.driver.warnings(&ids).into_iter().for_each(|warning| self.workshop.warn(warning));
        let mut all: Vec<Built> = Vec::new();
        for image in self.stack.images.iter().filter(|image| nodes.iter().any(|node| node.name == image.name)) {
            if failure.is_some() && !build.is_ready(&image.name) {
                self.workshop.warn(format!("`{}` is left out: it depends on what failed", image.name));
                continue;
            }
            let mut done = self.built(build, image)?;
            done.unchanged = self.remember(build, image, lock, &done)?;
            let (name, digest, unchanged) = (image.name.clone(), done.digest, done.unchanged);
            self.workshop.reporter.event(Event::Image { name, digest, unchanged });
            all.push(done);
        }
        self.workshop.store.sync()?;
        Ok((all, failure))
    }

    /// Records how fast this machine was.
    fn learn_speeds(&self, build: &Build<'_>, began: std::time::Instant) -> Result<()> {
        let (bytes, seconds) = self.workshop.downloaded();
        if bytes > 0 {
            return self.workshop.learn(Speed::Fetch, bytes, seconds);
        }
        self.workshop.learn(Speed::Splice, build.driver.performed_bytes(), began.elapsed().as_secs_f64())
    }

    /// Returns an image of a graph that was driven.
    pub(crate) fn built(&self, build: &Build<'_>, image: &stack::Image) -> Result<Built> {
        let nodes = build.images.images.iter().filter(|node| node.name == image.name);
        let composed = nodes.map(|node| {
            let product = build.driver.known(node.image);
            product.ok_or_else(|| BuildError::Unreachable(format!("{} ({})", node.name, node.platform)))
        });
        let composed: Vec<Image> = composed.collect::<Result<_>>()?;
        let mut built = Built::of(&image.name, composed, self.workshop.store)?;
        built.references = self.references(image);
        Ok(built)
    }

    /// Returns the errors of checks that failed, by image.
    fn failed_checks(&self, build: &Build<'_>) -> Result<BTreeMap<String, BuildError>> {
        let mut failed = BTreeMap::new();
        for node in &build.images.images {
            let Some(verdict) = node.gate.and_then(|gate| build.driver.known(gate)) else { continue };
            if !verdict.failures.is_empty() {
                let source = verdict.failures.join("\n").into();
                let error = BuildError::GpuCode { image: node.name.clone(), platform: node.platform, source };
                failed.insert(node.name.clone(), error);
            }
        }
        Ok(failed)
    }

    /// Does something that needs bytes. Those that turn out to be gone are made, and it is done again.
    pub(crate) fn with_bytes<T>(&self, build: &Build<'_>, act: impl Fn() -> Result<T>) -> Result<T> {
        let mut attempt = 1;
        loop {
            let error = match act() {
                Ok(done) => return Ok(done),
                Err(error) => error,
            };
            let gone = match &error {
                BuildError::Lost(layers) => layers.clone(),
                error if error.is_not_found() => self.lost_layers()?,
                _ => Vec::new(),
            };
            if gone.is_empty() || attempt == ATTEMPTS {
                return Err(error);
            }
            attempt += 1;
            self.workshop.warn("layers are not there any more where the cache said: they are made again");
            self.workshop.places.lose(&gone);
            let nodes = build.driver.lose(&gone);
            if nodes.is_empty() {
                return Err(error);
            }
            let wants: Vec<(NodeId, Level)> = nodes.into_iter().map(|id| (id, Level::Here)).collect();
            build.driver.want(&wants)?;
        }
    }

    /// Returns layers that are neither here nor where they were said to be.
    fn lost_layers(&self) -> Result<Vec<Digest>> {
        let mut lost = Vec::new();
        let places = self.workshop.places.repositories();
        let repositories: BTreeSet<_> = places.values().collect();
        for repository in repositories {
            let there = places.iter().filter(|(layer, place)| *place == repository && !self.workshop.store.has(layer));
            let layers: Vec<Digest> = there.map(|(layer, _)| *layer).collect();
            lost.extend(self.workshop.registries()?.missing_blobs(repository, &layers)?);
        }
        Ok(lost)
    }

    /// Records what an image is, for `explain` and garbage collection; returns true if nothing changed since the last build.
    fn remember(&self, build: &Build<'_>, image: &stack::Image, lock: &Lock, built: &Built) -> Result<bool> {
        let mut unchanged = true;
        for node in build.images.images.iter().filter(|node| node.name == image.name) {
            unchanged &= self.remember_last(build, image, node, lock)?;
            let all = build.images.graph.with_reads([node.image.id()]);
            unchanged &= !all.into_iter().any(|id| build.driver.has_worked(id));
        }
        let mut digests = BTreeSet::from([built.digest]);
        for done in &built.images {
            digests.extend([done.manifest, done.config]);
            digests.extend(done.layers.iter().map(|layer| layer.digest));
        }
        for node in build.images.images.iter().filter(|node| self.is_in_chain(image, node)) {
            // Archives drop old versions.
            let packages = lock.system_packages(&node.name, node.platform);
            digests.extend(packages.map(|package| package.sha256));
            for id in build.images.graph.with_reads([node.image.id()]) {
                if let Some((product, _)) = build.driver.product(id) {
                    digests.extend(product.blobs().iter().map(|blob| blob.digest));
                }
            }
        }
        let stack = self.lock_path().display().to_string();
        let root = Root { stack, image: image.name.clone(), persist: image.persist, digests };
        self.workshop.store.remember_root(&root)?;
        Ok(unchanged)
    }

    fn is_in_chain(&self, image: &stack::Image, node: &ImageNodes) -> bool {
        node.name == image.name || self.stack.ancestors(image).any(|above| above.name == node.name)
    }

    /// Returns the images that a command is about: those named, or all, each after those that it stands on and copies from.
    pub fn chosen(&self, names: &[String]) -> Result<Vec<&stack::Image>> {
        let mut wanted = BTreeSet::new();
        let mut waiting = Vec::new();
        for name in names {
            waiting.push(self.stack.image(name).ok_or_else(|| self.no_image(name))?);
        }
        while let Some(image) = waiting.pop() {
            if wanted.insert(&image.name) {
                waiting.extend(image.needs().filter_map(|(name, _)| self.stack.image(name)));
            }
        }
        let chosen = |image: &&stack::Image| names.is_empty() || wanted.contains(&image.name);
        Ok(self.stack.images.iter().filter(chosen).collect())
    }

    pub(crate) fn no_image(&self, name: &str) -> ProjectError {
        let known = self.stack.images.iter().map(|image| image.name.clone()).collect();
        ProjectError::NoImage { name: name.to_owned(), known }
    }

    /// Returns an image without performing any step that takes time; else the first step that is neither here nor in the
    /// cache, with its platform.
    pub fn known_image(
        &self,
        image: &stack::Image,
        lock: &Lock,
    ) -> Result<std::result::Result<Built, (String, Platform)>> {
        let images = Images::planned(self, &self.chosen(std::slice::from_ref(&image.name))?, lock)?;
        if let Some((_, platform, on)) = images.unplanned.first() {
            return Ok(Err((on.clone(), *platform)));
        }
        let remote = CacheReader::new(self);
        let driver = Driver::new(&images.graph, &self.workshop, &remote);
        let build = Build { images: &images, driver: &driver, remote: &remote };
        driver.settle(images.images.iter().map(|node| node.image.id()))?;
        for node in &images.images {
            for layer in &node.layers {
                if !driver.is_reachable(layer.node.id()) {
                    return Ok(Err((images.graph.entry(layer.node.id()).step.subject().to_string(), node.platform)));
                }
            }
        }
        // All layers are known: only bases whose documents are not here yet are left.
        driver.want(&images.images.iter().map(|node| (node.image.id(), Level::Known)).collect::<Vec<_>>())?;
        self.built(&build, image).map(Ok)
    }
}
