//! Why an image would be built again: what it is made of now, beside what it was made of when it was built last.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use kiln_oci::time::CREATED;
use kiln_plan::digest::Digest;
use kiln_plan::lock::{Lock, line_of_package};
use kiln_plan::platform::Platform;
use kiln_plan::stack::{
    self, CommandLine, Compression, Copy as Wanted, Environment, Network, NewUser, line_at, line_of,
};
use kiln_plan::step::StepKey;
use serde::{Deserialize, Serialize};

use crate::bases;
use crate::build::Build;
use crate::debian::Wishes;
use crate::driver::Driver;
use crate::error::Result;
use crate::images::{ImageNodes, Images};
use crate::node::NodeId;
use crate::project::Project;
use crate::remote::CacheReader;
use crate::step::Subject;

/// The variable of the time of creation, the one setting that no file holds.
const EPOCH: &str = "SOURCE_DATE_EPOCH";

/// What an image is made of, besides what it stands on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastImage {
    /// The digest of its manifest, where it is known.
    manifest: Option<Digest>,
    /// The base's manifest, by the base's name.
    base: BTreeMap<String, Digest>,
    /// The image of the stack that it stands on, with its manifest, where that is known.
    #[serde(default)]
    parent: Option<(String, Option<Digest>)>,
    /// Version and wheel, by the package's name.
    packages: BTreeMap<String, (String, Digest)>,
    /// Copies with their keys.
    copies: Vec<(Subject, StepKey)>,
    /// Everything else that the stack file says, by its key there.
    settings: BTreeMap<String, String>,
}

/// An image when it was built last, and what had changed then.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
struct LastBuild {
    image: LastImage,
    /// `None` where it was the first build.
    changes: Option<Vec<Change>>,
}

/// One thing of which an image is made that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// `packages`, `base`, `copy`, or a key of the stack file such as `env.OMP_NUM_THREADS`.
    pub what: String,
    /// Which of them; empty for keys of the stack file.
    pub name: String,
    /// The subject of the step that it concerns, where it concerns one.
    #[serde(skip)]
    pub(crate) subject: Option<Subject>,
    /// What it was; nothing if it is new.
    pub old: Option<String>,
    /// What it is; nothing if it is gone.
    pub new: Option<String>,
    /// Where that is said: file and line.
    pub place: Option<(String, usize)>,
}

/// Why an image would be built again, or was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Explanation {
    /// The image.
    pub image: String,
    /// For this platform.
    pub platform: Platform,
    /// The reason for which it is not known what it is made of: a clause. Changes are then those of the stack file alone.
    pub unknown: Option<String>,
    /// Changes since it was built last, here or, where it never was, by whoever pushed it; `None` if it never was.
    pub changes: Option<Vec<Change>>,
    /// Changes of the last build.
    pub before: Option<Vec<Change>>,
    /// Commands with a network whose results are known.
    pub taken: Vec<Taken>,
}

/// A command with a network, and what it took in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Taken {
    /// The command.
    pub command: String,
    /// Its date, and a line for each address or host.
    pub notes: Vec<String>,
}

impl fmt::Display for Change {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name = if self.name.is_empty() { String::new() } else { format!("{} ", self.name) };
        match (&self.old, &self.new) {
            (Some(old), Some(new)) => write!(f, "{name}{old} -> {new}")?,
            (None, Some(new)) => write!(f, "{name}{new} is new")?,
            (Some(old), None) => write!(f, "{name}{old} is gone")?,
            (None, None) => write!(f, "{name}changed")?,
        }
        match &self.place {
            Some((file, line)) => write!(f, " ({file} line {line})"),
            None => Ok(()),
        }
    }
}

impl Project<'_> {
    /// Explains images: those that are named, each after what it stands on.
    pub fn explain(&self, names: &[String], lock: &Lock) -> Result<Vec<Explanation>> {
        let images = Images::planned(self, &self.chosen(names)?, lock)?;
        let remote = CacheReader::new(self);
        let driver = Driver::new(&images.graph, &self.workshop, &remote);
        let build = Build { images: &images, driver: &driver, remote: &remote };
        driver.settle(images.images.iter().map(|node| node.image.id()))?;
        let mut explanations = Vec::new();
        for node in &images.images {
            let Some(image) = self.stack.image(&node.name) else { continue };
            explanations.push(self.explain_image(&build, image, node, lock)?);
        }
        for (name, platform, on) in &images.unplanned {
            let Some(image) = self.stack.image(name) else { continue };
            let last = self.last_build(&build, image, *platform)?;
            let changes = last.map(|(last, _)| {
                let now = LastImage { settings: self.settings(image), ..last.image.clone() };
                self.changes(&last.image, &now, image, *platform)
            });
            let unknown = Some(format!("depends on {on}"));
            explanations.push(Explanation {
                image: name.clone(),
                platform: *platform,
                unknown,
                changes,
                before: None,
                taken: Vec::new(),
            });
        }
        Ok(explanations)
    }

    /// Explains an image.
    pub(crate) fn explain_image(
        &self,
        build: &Build<'_>,
        image: &stack::Image,
        node: &ImageNodes,
        lock: &Lock,
    ) -> Result<Explanation> {
        let mut explanation = Explanation {
            image: image.name.clone(),
            platform: node.platform,
            unknown: None,
            changes: None,
            before: None,
            taken: node.commands.iter().filter_map(|id| taken(build, *id)).collect(),
        };
        if let Some((last, _)) = self.last_build(build, image, node.platform)? {
            let now = self.last_image(build, image, node, lock);
            explanation.changes = Some(self.changes(&last.image, &now, image, node.platform));
            explanation.before = last.changes;
        }
        Ok(explanation)
    }

    /// Returns the last build of an image on this machine or, where it was never built, what was pushed last; true if it was
    /// here.
    fn last_build(
        &self,
        build: &Build<'_>,
        image: &stack::Image,
        platform: Platform,
    ) -> Result<Option<(LastBuild, bool)>> {
        if let Some(last) = self.workshop.store.recall(&self.local_key(image, platform))? {
            return Ok(Some((last, true)));
        }
        let pushed: Option<LastImage> = build.remote.value(self.pushed_key(image, platform))?;
        Ok(pushed.map(|image| (LastBuild { image, changes: None }, false)))
    }

    /// Records what an image is made of now; returns true if it is what it was.
    pub(crate) fn remember_last(
        &self,
        build: &Build<'_>,
        image: &stack::Image,
        node: &ImageNodes,
        lock: &Lock,
    ) -> Result<bool> {
        let now = self.last_image(build, image, node, lock);
        let (same, changes) = match self.last_build(build, image, node.platform)? {
            Some((last, true)) if last.image == now => return Ok(true),
            Some((last, _)) => {
                let same = last.image.manifest == now.manifest;
                (same, Some(self.changes(&last.image, &now, image, node.platform)))
            }
            None => (false, None),
        };
        let last = LastBuild { image: now, changes };
        self.workshop.store.remember(&self.local_key(image, node.platform), &last)?;
        Ok(same)
    }

    pub(crate) fn last_image(
        &self,
        build: &Build<'_>,
        image: &stack::Image,
        node: &ImageNodes,
        lock: &Lock,
    ) -> LastImage {
        let base = bases::name(&image.from).and_then(|name| lock.base(&name, node.platform));
        let packages = lock.image(&image.name, node.platform).map_or(&[][..], |locked| &locked.packages);
        let graph = &build.images.graph;
        // Files that commands see are read by their steps.
        let bound = node.commands.iter().flat_map(|id| graph.entry(*id).reads.iter().map(|read| read.node));
        let copies = node.layers.iter().map(|layer| layer.node.id()).chain(bound).filter_map(|id| {
            let subject = graph.entry(id).step.subject();
            let key = build.driver.key(id)?;
            matches!(subject, Subject::Copy { .. }).then_some((subject, key))
        });
        LastImage {
            manifest: build.driver.known(node.image).map(|image| image.manifest),
            base: base.map(|base| (base.name.clone(), base.manifest)).into_iter().collect(),
            parent: node.parent.clone().map(|name| {
                let is_it = |below: &&ImageNodes| below.name == name && below.platform == node.platform;
                let below = build.images.images.iter().find(is_it);
                let manifest = below.and_then(|below| build.driver.known(below.image)).map(|image| image.manifest);
                (name, manifest)
            }),
            packages: packages
                .iter()
                .map(|package| (package.name.clone(), (package.version.clone(), package.wheel)))
                .collect(),
            copies: copies.collect(),
            settings: self.settings(image),
        }
    }

    fn settings(&self, image: &stack::Image) -> BTreeMap<String, String> {
        let mut settings = BTreeMap::new();
        let mut say = |key: &str, value: Option<String>| {
            if let Some(value) = value {
                settings.insert(key.to_owned(), value);
            }
        };
        let words = |command: &Option<CommandLine>| command.as_ref().map(shown);
        if let stack::From::Image(name) = &image.from {
            say("from", Some(name.clone()));
        }
        if image.has_packages() {
            say("target.python", image.target.python.clone());
            say(
                "python.environment",
                image.python.environment.and_then(|environment| match environment {
                    Environment::Venv => None,
                    Environment::Overlay => Some("overlay".into()),
                    Environment::Base => Some("base".into()),
                }),
            );
            say("compression", (image.compression == Compression::Zstd).then(|| "zstd".into()));
            say("max-layer-size", image.max_layer_size.map(|size| size.to_string()));
            if let Some(prune) = image.prune {
                let gpus = image.target.gpus.iter().map(ToString::to_string);
                let native = image.target.native_gpus.then(|| "native".to_owned());
                say("target.gpus", Some(gpus.chain(native).collect::<Vec<_>>().join(", ")));
                let options = [(prune.keep_ptx, "keep-ptx"), (prune.drop_relocatable, "drop-relocatable")];
                let options: Vec<&str> = options.iter().filter(|(said, _)| *said).map(|(_, option)| *option).collect();
                say("prune", Some(if options.is_empty() { "true".into() } else { options.join(", ") }));
            }
        }
        let created = self.workshop.surroundings.created;
        say(EPOCH, (created != CREATED).then(|| created.to_string()));
        say("user", image.user.clone());
        say("users", (!image.users.is_empty()).then(|| image.users.iter().map(user).collect::<Vec<_>>().join(", ")));
        say("timezone", image.timezone.clone());
        say("workdir", image.workdir.clone());
        say("entrypoint", words(&image.entrypoint));
        say("command", words(&image.command));
        say("healthcheck", image.healthcheck.as_ref().map(|health| format!("{health:?}")));
        let list = |list: &[String]| (!list.is_empty()).then(|| list.join(", "));
        say("expose", list(&image.expose));
        say("volumes", list(&image.volumes));
        say("stop-signal", image.stop_signal.clone());
        say("system", image.system.as_ref().map(|system| Wishes::of(system, &[]).to_string()));
        for (table, runs) in [("setup", &image.setup), ("run", &image.run)] {
            for (at, run) in runs.iter().enumerate() {
                say(&format!("{table}.{}", at + 1), Some(command(run)));
            }
        }
        for (name, value) in &image.env {
            say(&format!("env.{name}"), Some(value.to_string()));
        }
        for (name, value) in &image.labels {
            say(&format!("labels.{name}"), Some(value.clone()));
        }
        settings
    }

    /// Returns what is not as it was, with the lines that say so.
    fn changes(&self, old: &LastImage, new: &LastImage, image: &stack::Image, platform: Platform) -> Vec<Change> {
        let lock = fs_err::read_to_string(self.lock_path()).unwrap_or_default();
        let stack = fs_err::read_to_string(&self.file).unwrap_or_default();
        let file = self.file.file_name().map_or_else(|| "kiln.toml".into(), |name| name.to_string_lossy().into_owned());
        let (told, image) = (image, image.name.as_str());
        let in_lock =
            |package: &str| line_of_package(&lock, image, platform, package).map(|line| (self.lock_name(), line));
        let in_stack = |path: &[&str]| line_of(&stack, path).map(|line| (file.clone(), line));
        let mut changes = Vec::new();
        compare(&old.base, &new.base, |name, old, new| {
            let place = in_stack(&["images", image, "from"]);
            let short = |digest: Option<&Digest>| digest.map(Digest::short);
            let (old, new) = (short(old), short(new));
            changes.push(Change { what: "base".into(), name: name.clone(), subject: None, old, new, place });
        });
        if let (Some((was, Some(old))), Some((name, Some(new)))) = (&old.parent, &new.parent)
            && (was, old) != (name, new)
        {
            let (old, new, place) = (Some(old.short()), Some(new.short()), in_stack(&["images", image, "from"]));
            changes.push(Change { what: "base".into(), name: name.clone(), subject: None, old, new, place });
        }
        compare(&old.packages, &new.packages, |name, old, new| {
            let same_version = old.map(|old| &old.0) == new.map(|new| &new.0);
            let show = |package: Option<&(String, Digest)>| {
                package.map(|(version, wheel)| match same_version {
                    true => format!("{version} ({})", wheel.short()),
                    false => version.clone(),
                })
            };
            let (old, new, place) = (show(old), show(new), in_lock(name));
            changes.push(Change { what: "packages".into(), name: name.clone(), subject: None, old, new, place });
        });
        let copies = |image: &LastImage| image.copies.iter().cloned().collect::<BTreeMap<_, _>>();
        compare(&copies(old), &copies(new), |subject, old, new| {
            let bound = told.setup.iter().chain(&told.run).flat_map(|run| &run.bind);
            let said = |copy: &&Wanted| matches!(subject, Subject::Copy { from, to } if *from == copy.shown() && *to == copy.to);
            let (bound, copied) = (bound.clone().find(said), told.copy.iter().find(said));
            let what = if copied.is_none() && bound.is_some() { "bind" } else { "copy" };
            let place = match copied.or(bound) {
                Some(copy) => Some((file.clone(), line_at(&stack, copy.span().start))),
                None => in_stack(&["images", image, "copy"]),
            };
            let (old, new) = match (old, new) {
                (Some(_), Some(_)) => (None, None),
                (old, new) => (old.map(|_| "files".to_owned()), new.map(|_| "files".to_owned())),
            };
            let name = match subject {
                Subject::Copy { from, to } => format!("{from} to {to}"),
                other => other.to_string(),
            };
            changes.push(Change { what: what.into(), name, subject: Some(subject.clone()), old, new, place });
        });
        compare(&old.settings, &new.settings, |key, old, new| {
            let (mut path, mut at) = (vec!["images", image], None);
            match key.split_once('.') {
                Some(("target", rest)) => path = vec!["target", rest],
                Some((table @ ("setup" | "run"), number)) => {
                    let runs = if table == "setup" { &told.setup } else { &told.run };
                    let run = number.parse().ok().and_then(|number: usize| runs.get(number.checked_sub(1)?));
                    at = run.map(|run| line_at(&stack, run.span.start));
                    path.push(table);
                }
                Some((table, name)) => path.extend([table, name]),
                None => path.push(key),
            }
            let place = match at {
                Some(line) => Some((file.clone(), line)),
                None if key == EPOCH => None,
                None => in_stack(&path),
            };
            let (old, new) = (old.cloned(), new.cloned());
            changes.push(Change { what: key.clone(), name: String::new(), subject: None, old, new, place });
        });
        changes
    }

    fn local_key(&self, image: &stack::Image, platform: Platform) -> StepKey {
        StepKey::of("last build", 2)
            .text("stack", &self.file.display().to_string())
            .text("image", &image.name)
            .text("platform", &platform.to_string())
            .finish()
    }

    /// Returns the key under which machines tell one another what an image was when it was pushed.
    pub(crate) fn pushed_key(&self, image: &stack::Image, platform: Platform) -> StepKey {
        let repository = image.repository.as_ref().map(ToString::to_string);
        StepKey::of("last push", 2)
            .option("repository", repository.as_deref())
            .text("stack", &self.stack.name)
            .text("image", &image.name)
            .text("platform", &platform.to_string())
            .finish()
    }
}

fn shown(command: &CommandLine) -> String {
    match command {
        CommandLine::Words(words) => format!("{words:?}"),
        CommandLine::Shell(line) => line.clone(),
    }
}

/// Returns what a command with a network took in, if that is known.
fn taken(build: &Build<'_>, id: NodeId) -> Option<Taken> {
    let notes = build.driver.notes(id).filter(|notes| !notes.is_empty())?;
    Some(Taken { command: build.images.graph.entry(id).step.subject().to_string(), notes })
}

fn command(run: &stack::Run) -> String {
    let mut text = run.command.to_string();
    let network = match &run.network {
        Network::None => None,
        Network::Proxy(allow) if allow.is_empty() => Some("true".to_owned()),
        Network::Proxy(allow) => Some(allow.join("+")),
        Network::Full => Some("full".to_owned()),
    };
    let list = |paths: Vec<&str>| (!paths.is_empty()).then(|| paths.join("+"));
    let options = [
        ("user", run.user.as_ref().map(|(user, _)| user.clone())),
        ("workdir", run.workdir.clone()),
        ("shell", (run.shell != stack::Shell::Sh).then(|| "bash".into())),
        ("network", network),
        ("cache", list(run.caches.iter().map(|cache| cache.to.as_str()).collect())),
        ("secrets", list(run.secrets.iter().map(|secret| secret.name.as_str()).collect())),
        ("ssh", run.ssh.then(|| "true".into())),
        ("apt", run.apt.then(|| "true".into())),
    ];
    for (name, value) in options.into_iter().filter_map(|(name, value)| Some((name, value?))) {
        text.push_str(&format!(" ({name} {value})"));
    }
    run.env.iter().for_each(|(name, value)| text.push_str(&format!(" ({name}={value})")));
    text
}

fn user(user: &NewUser) -> String {
    let number = |id: Option<u32>| id.map_or_else(|| "-".to_owned(), |id| id.to_string());
    let NewUser { name, uid, gid, group, groups, home, shell, replace, .. } = user;
    let group = group.clone().unwrap_or_else(|| number(*gid));
    let replace = if *replace { " replace" } else { "" };
    format!("{name} {}:{group} {} {home} {shell}{replace}", number(*uid), groups.join("+"))
}

/// Calls for every key whose values differ.
fn compare<'m, K: Ord, V: PartialEq>(
    old: &'m BTreeMap<K, V>,
    new: &'m BTreeMap<K, V>,
    mut differs: impl FnMut(&K, Option<&'m V>, Option<&'m V>),
) {
    let keys: BTreeSet<&K> = old.keys().chain(new.keys()).collect();
    for key in keys {
        let (was, is) = (old.get(key), new.get(key));
        if was != is {
            differs(key, was, is);
        }
    }
}
