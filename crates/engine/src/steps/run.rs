//! `run`: a command runs in a sandbox over the image so far, and what it changes becomes a layer.

mod extras;

use std::path::PathBuf;
use std::time::Duration;

use kiln_oci::image::Config;
use kiln_oci::layer::Layer;
use kiln_oci::whole::WHOLE_VERSION;
use kiln_plan::base::DEFAULT_PATH;
use kiln_plan::event::Work;
use kiln_plan::platform::Platform;
use kiln_plan::stack::{self, CommandLine, Compression, Shell};
use kiln_proxy::{Material, Proxy};
use kiln_sandbox::{Command, Ended, Ids, Output, Ran, Root, Sandbox};
use serde::Serialize;

use crate::commands::UserTerminal;
use crate::context::Context;
use crate::error::{BuildError, Result, RunError};
use crate::inside::Done;
use crate::node::Node;
use crate::product::Foundation;
use crate::sandboxed::{self, Conditions, Finished};
use crate::settings::Settings;
use crate::sources::native;
use crate::step::{Commanded, Cost, Keep, Kind, Level, Read, Repeat, Step, Subject};

use extras::Lent;
pub(crate) use extras::{Cache, Extras, Secret};

/// Becomes an interactive shell: bash, where the image has it.
const OPEN: &str = "if command -v bash >/dev/null; then exec bash -i; else exec sh -i; fi";
/// A command.
#[derive(Serialize)]
pub(crate) struct Run {
    words: Vec<String>,
    /// The image's settings that programs see.
    settings: Settings,
    /// The command's own.
    own: Settings,
    /// User id, group id, further groups.
    user: (u32, u32, Vec<u32>),
    home: String,
    /// Commands below, which are older.
    below: u8,
    platform: Platform,
    /// The image or base below; `None` for `scratch`.
    foundation: Option<Node<Foundation>>,
    /// Layers of the image so far, the lowest first.
    layers: Vec<Node<Vec<Layer>>>,
    /// Files that it sees and that the image does not get.
    #[serde(skip_serializing_if = "Vec::is_empty")]
    bind: Vec<Bound>,
    #[serde(skip_serializing_if = "Extras::is_empty")]
    extras: Extras,
    compression: Compression,
    writer: u32,
    #[serde(skip)]
    timeout: Option<Duration>,
    /// The image that it was first met in, and the line of the stack file.
    #[serde(skip)]
    place: String,
    /// The command, for people.
    #[serde(skip)]
    pub(super) shown: String,
}

/// The place of a command in its image.
pub(crate) struct Place<'p> {
    /// The image and the line of the stack file, for people.
    pub(crate) place: String,
    pub(crate) settings: &'p Settings,
    /// User id, group id, further groups, and the home directory.
    pub(crate) user: (u32, u32, Vec<u32>),
    pub(crate) home: String,
    /// The number of commands before it.
    pub(crate) below: usize,
    pub(crate) platform: Platform,
    pub(crate) foundation: Option<Node<Foundation>>,
    pub(crate) layers: Vec<Node<Vec<Layer>>>,
    pub(crate) bind: Vec<Bound>,
    pub(crate) extras: Extras,
    pub(crate) compression: Compression,
}

/// Files that a command sees at a path.
#[derive(Serialize)]
pub(crate) struct Bound {
    pub(crate) layers: Node<Vec<Layer>>,
    /// Path in the image, without a leading slash and without links.
    pub(crate) path: String,
}

impl Run {
    pub(crate) fn new(run: &stack::Run, place: Place<'_>) -> Self {
        let Place { place, settings, user, home, below, platform, foundation, layers, bind, extras, compression } =
            place;
        let visible = Settings {
            venv: settings.venv,
            libraries: settings.libraries.clone(),
            timezone: settings.timezone.clone(),
            env: settings.env.clone(),
            workdir: settings.workdir.clone(),
            ..Settings::default()
        };
        let own = Settings { env: run.env.clone(), workdir: run.workdir.clone(), ..Settings::default() };
        Self {
            words: words(run),
            settings: visible,
            own,
            user,
            home,
            below: u8::try_from(below).unwrap_or(u8::MAX),
            platform,
            foundation,
            layers,
            bind,
            extras,
            compression,
            writer: WHOLE_VERSION,
            timeout: run.timeout.map(Duration::from_nanos),
            place,
            shown: short(&run.command.to_string()),
        }
    }

    fn commanded(&self) -> Commanded {
        let (user, group, groups) = &self.user;
        let another = [user, group].into_iter().chain(groups).copied().find(|id| *id != 0);
        Commanded {
            shown: self.shown.clone(),
            place: self.place.clone(),
            another,
            timeout: self.timeout,
            has_shell: true,
            has_network: self.extras.has_network(),
        }
    }

    /// Returns the line of the image's history.
    pub(crate) fn history(&self) -> String {
        format!("kiln: run {}", self.shown)
    }

    /// Returns the environment and the working directory, over those of the image below.
    fn surroundings(&self, foundation: Option<&Foundation>) -> (Vec<(String, String)>, String) {
        let mut config = Config::scratch(self.platform);
        if let Some(below) = foundation {
            config.config.env.clone_from(&below.env);
            config.config.working_dir.clone_from(&below.workdir);
        }
        if config.env("PATH").is_none() {
            config.set_env("PATH", DEFAULT_PATH);
        }
        self.settings.apply(&mut config);
        self.own.apply(&mut config);
        if config.env("APT_CONFIG").is_none() {
            config.set_env("APT_CONFIG", kiln_sandbox::APT_CONFIG);
        }
        if config.env("HOME").is_none() {
            config.set_env("HOME", &self.home);
        }
        let pair = |entry: &String| entry.split_once('=').map(|(name, value)| (name.to_owned(), value.to_owned()));
        let workdir = if config.config.working_dir.is_empty() { "/".to_owned() } else { config.config.working_dir };
        (config.config.env.iter().filter_map(pair).collect(), workdir)
    }

    fn run(&self, context: &Context<'_>, root: &Root, work: &Work<'_>, lent: &Lent) -> Result<(Ran, Vec<Material>)> {
        let (mut env, workdir) = self.surroundings(self.foundation.map(|node| context.get(node)));
        self.extras.add_variables(&lent.given, &mut env);
        let (words, user, given) = (self.words.clone(), self.user.clone(), lent.given.clone());
        let command = Command { words, env, workdir, user, given };
        let (timeout, allow) = (self.timeout, self.extras.allow());
        let conditions = Conditions { timeout, allow, secrets: Some(&lent.searched) };
        let finished = sandboxed::run(context.workshop, (root, &command), &conditions, &self.shown, work)?;
        let Finished { ran, lines, materials } = finished;
        let another = ran.another();
        match ran.ended {
            Ended::Exited(0) if another.is_none() => Ok((ran, materials)),
            Ended::Stopped => Err(BuildError::Interrupted),
            ended => {
                let failed = RunError::new(&self.commanded(), ended, another, lines);
                if let Some(shell) = context.commands.shell {
                    self.open_shell(shell, context, root, command)?;
                }
                Err(failed.into())
            }
        }
    }

    /// Opens a shell where the command failed: with its files, its environment, its user and its working directory.
    fn open_shell(
        &self,
        shell: &dyn UserTerminal,
        context: &Context<'_>,
        root: &Root,
        mut command: Command,
    ) -> Result<()> {
        command.words = ["/bin/sh", "-c", OPEN].map(str::to_owned).to_vec();
        let mut ended = None;
        shell.lend(&self.shown, &mut |terminal, kind| {
            command.env.push(("TERM".to_owned(), kind.to_owned()));
            let mut proxy = None;
            let more = |output| {
                if let Some(Output::Listener(listener)) = output {
                    let rules = sandboxed::rules(context.workshop, self.extras.allow());
                    proxy = Some(Proxy::start(listener, rules));
                }
                context.cancel().check().is_ok()
            };
            ended = Some(Sandbox::default().run_on(terminal, root, &command, more));
        })?;
        if let Some(Err(error)) = ended {
            context.workshop.warn(format!("no shell can be opened: {error}"));
        }
        context.cancel().check().map_err(BuildError::from)
    }

    /// Runs the command over layers, and hands on what it left.
    fn run_over<T>(
        &self,
        context: &Context<'_>,
        layers: &[PathBuf],
        work: &Work<'_>,
        lent: &Lent,
        then: impl FnOnce(&Done<'_>, Vec<Material>) -> Result<T>,
    ) -> Result<T> {
        sandboxed::over(context.workshop, layers, |root| {
            let (ran, materials) = self.run(context, root, work, lent)?;
            let paths = self.bind.iter().map(|bound| bound.path.as_str()).chain(self.extras.paths());
            let bound = paths.map(native).collect();
            then(&Done { root, ran: &ran, below: self.below, bound }, materials)
        })
    }

    fn require_same(&self, done: &Done<'_>, again: &Done<'_>) -> Result<()> {
        match done.differences(again, Ids::of_this_process())? {
            differences if differences.is_empty() => Ok(()),
            differences => {
                Err(BuildError::Differs { command: self.shown.clone(), place: self.place.clone(), differences })
            }
        }
    }

    /// Returns the layer of what the command changed.
    fn layer(&self, context: &Context<'_>, done: &Done<'_>, lent: &Lent) -> Result<Vec<Layer>> {
        let work = context.work("export", self.shown.as_str(), None);
        let name = (self.shown.as_str(), self.place.as_str());
        sandboxed::pack(context.workshop, done, self.compression, name, &lent.searched, &work)
    }

    /// Performs the command, and returns its layer and what it took in.
    pub(super) fn perform_with_materials(&self, context: &Context<'_>) -> Result<(Vec<Layer>, Vec<Material>)> {
        let below = self.foundation.iter().flat_map(|node| &context.get(*node).layers);
        let own = self.layers.iter().flat_map(|node| context.get(*node));
        let bound = self.bind.iter().flat_map(|bound| context.get(bound.layers));
        let layers = context.workshop.trees(&below.chain(own).chain(bound).collect::<Vec<_>>())?;
        let work = context.work("run", self.shown.as_str(), None);
        let (user, group, _) = self.user;
        let lent = self.extras.lend(context.workshop, (user, group), (&self.shown, &self.place))?;
        let made = self.run_over(context, &layers, &work, &lent, |done, materials| {
            if context.commands.twice {
                self.run_over(context, &layers, &work, &lent, |again, _| self.require_same(done, again))?;
            }
            Ok((self.layer(context, done, &lent)?, materials))
        });
        lent.settle_caches(context.workshop)?;
        made
    }
}

/// Returns the program and its arguments.
fn words(run: &stack::Run) -> Vec<String> {
    let shell = |words: &[&str], line: &str| words.iter().copied().chain([line]).map(str::to_owned).collect();
    match (&run.command, run.shell) {
        (CommandLine::Words(words), _) => words.clone(),
        (CommandLine::Shell(line), Shell::Sh) => shell(&["/bin/sh", "-e", "-c"], line),
        (CommandLine::Shell(line), Shell::Bash) => shell(&["/bin/bash", "-euo", "pipefail", "-c"], line),
    }
}

/// Returns the first line of a command, for people.
fn short(command: &str) -> String {
    let line = command.trim().lines().next().unwrap_or_default();
    let cut: String = line.chars().take(60).collect();
    if cut.len() < command.trim().len() { format!("{cut}...") } else { cut }
}

impl Step for Run {
    type Product = Vec<Layer>;
    const KIND: Kind = Kind { name: "run", version: 3 };

    fn subject(&self) -> Subject {
        Subject::Run(self.shown.clone())
    }

    fn reads(&self) -> Vec<Read> {
        let foundation = self.foundation.map(|node| node.at(Level::Known));
        let bound = self.bind.iter().map(|bound| &bound.layers);
        foundation.into_iter().chain(self.layers.iter().chain(bound).map(|node| node.at(Level::Reachable))).collect()
    }

    fn cost(&self) -> Cost {
        Cost::Sandbox(0)
    }

    fn command(&self) -> Option<Commanded> {
        Some(self.commanded())
    }

    fn keep(&self) -> Keep {
        Keep::Shared
    }

    fn repeatable(&self) -> Repeat {
        Repeat::Recorded
    }

    fn perform(&self, context: &Context<'_>) -> Result<Vec<Layer>> {
        self.perform_with_materials(context).map(|(layers, _)| layers)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_command_is_told_by_its_first_line() {
        assert_eq!(short("make -C /src"), "make -C /src");
        assert_eq!(short("\n  set -x\n  make\n"), "set -x...");
        assert_eq!(short(&"x".repeat(80)), format!("{}...", "x".repeat(60)));
    }
}
