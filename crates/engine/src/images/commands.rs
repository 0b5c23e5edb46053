//! Commands: before everything else of an image, and over everything else of it.

use std::collections::BTreeSet;
use std::sync::Arc;

use kiln_plan::diagnostic::{Diagnostic, Diagnostics, Span};
use kiln_plan::digest::Digest;
use kiln_plan::platform::Platform;
use kiln_plan::stack::{self, Network, line_at};
use kiln_sandbox::Ids;

use super::{Builder, Draft, Ground, LayerNode};
use crate::accounts::Accounts;
use crate::below::{Below, Presence};
use crate::debian;
use crate::error::{BuildError, Result};
use crate::node::NodeId;
use crate::settings::Settings;
use crate::step::Subject;
use crate::steps::compose::Compose;
use crate::steps::copy::Copy;
use crate::steps::facts::Facts;
use crate::steps::foundation::Foundation;
use crate::steps::network_run::NetworkRun;
use crate::steps::run::{Bound, Cache, Extras, Place, Run, Secret};
use crate::steps::system::System;

/// Directories over which the sandbox lays those of the kernel.
const KERNELS: [&str; 3] = ["dev", "proc", "sys"];

impl Builder<'_> {
    /// Returns the ground that an image is made on, with its `setup` performed, and the layers of that.
    pub(super) fn prepared(&mut self, image: &stack::Image, platform: Platform) -> Result<(Ground, Vec<LayerNode>)> {
        let mut ground = self.ground(image, platform)?;
        let mut layers = Vec::new();
        if image.system.is_some() || !image.setup.is_empty() {
            let settings = Settings { env: image.env.clone(), ..Settings::default() };
            let mut draft = Draft::new(platform, ground);
            self.system(image, &mut draft)?;
            self.commands(image, (&image.setup, 0), &settings, &mut draft)?;
            let compose = Compose {
                platform,
                below: draft.ground.image,
                made: draft.made,
                settings: Settings::default(),
                created: self.project.workshop.surroundings.created,
                conflicts: Vec::new(),
                modules: Vec::new(),
                agreement: None,
                program: None,
                drivers: Vec::new(),
                subject: Subject::Image(image.name.clone(), platform),
            };
            layers = draft.layers;
            ground = draft.ground;
            ground.layers += layers.len();
            ground.image = Some(self.graph.add(compose)?);
            self.look_again(&image.name, platform, &mut ground)?;
        }
        self.facts.insert((image.name.clone(), platform), Arc::clone(&ground.facts));
        Ok((ground, layers))
    }

    /// Adds the layer of the packages of the base's distribution.
    fn system(&mut self, image: &stack::Image, draft: &mut Draft) -> Result<()> {
        let Some(wanted) = &image.system else { return Ok(()) };
        let platform = draft.platform;
        let below = draft.ground.image.ok_or_else(|| debian::no_base(wanted))?;
        let inputs = debian::inputs(self.project, self.lock, image, platform)?;
        let locked = self.lock.system(&image.name, platform, &inputs);
        let locked = locked.ok_or_else(|| BuildError::NotYet(format!("system packages of {}", image.name)))?;
        debian::bring_files(self.project, locked)?;
        let foundation = self.graph.add(Foundation::new(below, Subject::Image(image.name.clone(), platform)))?;
        let step = System::new(wanted, locked, foundation, (draft.ground.commands, image.compression));
        let (history, bytes) = (step.history(), step.bytes());
        let node = self.graph.add(step)?;
        self.look.command(&image.name, 0, node.id());
        draft.layer(node, history, bytes);
        draft.ground.commands += 1;
        Ok(())
    }

    /// Takes the facts of what is below again, after commands of this image. Packages that kiln put there stay known as they are.
    pub(super) fn look_again(&mut self, name: &str, platform: Platform, ground: &mut Ground) -> Result<()> {
        let Some(image) = ground.image else { return Ok(()) };
        let node = self.graph.add(Facts::new(Subject::Image(name.to_owned(), platform), image))?;
        for facts in self.look.at(&self.graph, &[node])? {
            ground.below = Below::of(&facts, name);
            ground.accounts = Accounts::of(&facts).made_as_in(&ground.accounts);
            if ground.tiers.iter().all(Vec::is_empty) {
                ground.facts = Arc::from(facts);
            }
        }
        Ok(())
    }

    /// Adds a layer for each command, which has so many of its image before it. Each runs over those of all before it.
    pub(super) fn commands(
        &mut self,
        image: &stack::Image,
        (runs, before): (&[stack::Run], usize),
        settings: &Settings,
        draft: &mut Draft,
    ) -> Result<Vec<NodeId>> {
        let mut commands = Vec::new();
        if runs.is_empty() {
            return Ok(commands);
        }
        let subject = Subject::Image(image.name.clone(), draft.platform);
        let foundation = draft.ground.image.map(|below| self.graph.add(Foundation::new(below, subject))).transpose()?;
        let file = self.project.file.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let text = fs_err::read_to_string(&self.project.file).unwrap_or_default();
        for run in runs {
            let accounts = &draft.ground.accounts;
            let (user, groups, home) = match &run.user {
                Some((text, span)) => {
                    accounts.require(text, span.clone())?;
                    let (groups, home) = accounts.further(text);
                    let ids = accounts.ids(text).ok_or_else(|| {
                        let message = format!("the ids of `{text}` are not known: the base does not tell its users");
                        Diagnostics::from(
                            Diagnostic::at(span.clone(), message).hint("give ids: `user = \"1000:1000\"`"),
                        )
                    })?;
                    (ids, groups, home)
                }
                None => ((0, 0), Vec::new(), "/root".to_owned()),
            };
            let place = Place {
                place: format!("image `{}` ({file} line {})", image.name, line_at(&text, run.span.start)),
                settings,
                user: (user.0, user.1, groups),
                home,
                below: draft.ground.commands,
                platform: draft.platform,
                foundation,
                layers: draft.layers.iter().map(|layer| layer.node).collect(),
                bind: self.bound(run, image, draft)?,
                extras: self.extras(run, image, draft)?,
                compression: image.compression,
            };
            let step = Run::new(run, place);
            let history = step.history();
            let node = match run.network {
                Network::None => self.graph.add(step)?,
                _ => self.graph.add(NetworkRun::new(step, run.max_age))?.layers(),
            };
            commands.push(node.id());
            self.look.command(&image.name, before + commands.len(), node.id());
            draft.layer(node, history, 0);
            draft.ground.commands += 1;
        }
        Ok(commands)
    }

    /// Returns the caches, the secrets and the rest that a command has.
    fn extras(&self, run: &stack::Run, image: &stack::Image, draft: &Draft) -> Result<Extras> {
        let below = &draft.ground.below;
        let caches = run.caches.iter().map(|cache| {
            let path = below.directory_path(&cache.to).unwrap_or_else(|| bare(&cache.to));
            require_mountable(&path, cache.span.clone())?;
            if below.holds(&path) == Presence::File {
                return Err(mistake(
                    &cache.span,
                    format!("`/{path}` is a file of the image, and no directory for a cache"),
                ));
            }
            // Other stacks, and other images of this one, have caches of their own.
            let (file, stack) = (self.project.file.display(), &self.project.stack.name);
            let whose = match &cache.id {
                Some(id) => format!("id {id}"),
                None => format!("image {} {path}", image.name),
            };
            let owner = format!("{}\n{stack}\n{whose}\n{}\n{}", file, draft.platform, Ids::of_this_process());
            Ok(Cache {
                path,
                id: cache.id.clone(),
                owner: Digest::of(owner.as_bytes()),
                is_private: cache.is_private,
                max_size: cache.max_size,
            })
        });
        let secrets = run.secrets.iter().map(|secret| {
            let path = below.landing(&secret.to).unwrap_or_else(|| bare(&secret.to));
            require_mountable(&path, secret.span.clone())?;
            if below.holds(&path) == Presence::Directory {
                return Err(mistake(
                    &secret.span,
                    format!("`/{path}` is a directory of the image, and no file for a secret"),
                ));
            }
            let source = self.project.stack.secrets.get(&secret.name).cloned();
            Ok(Secret { name: secret.name.clone(), path, mode: secret.mode, source })
        });
        let caches: Vec<Cache> = caches.collect::<Result<_>>()?;
        let secrets: Vec<Secret> = secrets.collect::<Result<_>>()?;
        require_different(run, &caches, &secrets)?;
        Ok(Extras {
            caches,
            secrets,
            ssh: run.ssh,
            apt: run.apt,
            network: run.network.clone(),
            directory: self.project.directory.clone(),
            resolver: below.landing("/etc/resolv.conf").unwrap_or_else(|| "etc/resolv.conf".into()),
        })
    }

    /// Returns the files that a command sees and that the image does not get.
    fn bound(&mut self, run: &stack::Run, image: &stack::Image, draft: &Draft) -> Result<Vec<Bound>> {
        let mut bound = Vec::new();
        for copy in &run.bind {
            let (copied, after) = self.copied(copy, draft.platform)?;
            let mut below = draft.ground.below.clone();
            let path = copied.place(copy, |path| below.is_directory(path));
            let path = match copied.is_single() {
                true => below.landing(&path),
                false => below.directory_path(&path),
            }
            .unwrap_or(path);
            require_mountable(&path, copy.span())?;
            let owner = draft.ground.accounts.owner_of(copy)?;
            let step = Copy::new(vec![(copy, copied, owner)], after, image.compression, &mut below)?;
            bound.push(Bound { layers: self.graph.add(step)?, path });
        }
        Ok(bound)
    }
}

fn mistake(span: &Span, message: String) -> BuildError {
    Diagnostics::from(Diagnostic::at(span.clone(), message).hint("choose another path")).into()
}

/// Refuses caches and secrets of a command that are the same, or at the same place.
fn require_different(run: &stack::Run, caches: &[Cache], secrets: &[Secret]) -> Result<()> {
    let mut places = BTreeSet::new();
    let mut owners = BTreeSet::new();
    for (cache, written) in caches.iter().zip(&run.caches) {
        if !owners.insert(cache.owner) && !cache.is_private {
            return Err(mistake(&written.span, "the command has this cache twice".into()));
        }
        if !places.insert(&cache.path) {
            return Err(mistake(&written.span, format!("the command has two things at `/{}`", cache.path)));
        }
    }
    for (secret, written) in secrets.iter().zip(&run.secrets) {
        if !places.insert(&secret.path) {
            return Err(mistake(&written.span, format!("the command has two things at `/{}`", secret.path)));
        }
    }
    Ok(())
}

fn bare(path: &str) -> String {
    path.trim_matches('/').to_owned()
}

/// Refuses paths at which nothing can be mounted for a command.
fn require_mountable(path: &str, span: Span) -> Result<()> {
    let refuse = |message: String| {
        let hint = "choose another directory, such as `to = \"/in\"`";
        Err(Diagnostics::from(Diagnostic::at(span, message).hint(hint)).into())
    };
    match path.split('/').next() {
        None | Some("") => {
            refuse("files appear in a directory or a file of the image, and not in place of the whole image".into())
        }
        Some(kernels) if KERNELS.contains(&kernels) => {
            refuse(format!("`/{kernels}` holds the kernel's files in every command, and nothing else can appear there"))
        }
        Some(_) => Ok(()),
    }
}
