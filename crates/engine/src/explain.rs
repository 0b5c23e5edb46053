//! Why an image would be built again: what it is made of now, beside what it was made of when it was built last.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use kiln_plan::digest::Digest;
use kiln_plan::lock::{Lock, line_of_package};
use kiln_plan::platform::Platform;
use kiln_plan::stack::{self, Compression, Environment, User, line_of};
use kiln_plan::step::StepKey;
use serde::{Deserialize, Serialize};

use crate::bases;
use crate::error::Result;
use crate::project::Project;
use crate::steps::{ImageSteps, Task};

/// What an image is made of, besides what it stands on.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Ingredients {
    /// The base's manifest, by the base's name.
    base: BTreeMap<String, Digest>,
    /// Version and wheel, by the package's name.
    packages: BTreeMap<String, (String, Digest)>,
    /// Keys of copied files, by `FROM to TO`.
    copies: BTreeMap<String, String>,
    /// Everything else that is said in the stack file, by its key there.
    settings: BTreeMap<String, String>,
}

/// What an image was when it was built last, and what had changed then.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct LastBuild {
    pub(crate) ingredients: Ingredients,
    /// Nothing where it was the first build.
    pub(crate) changes: Option<Vec<Change>>,
}

/// One thing of which an image is made that is not as it was.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Change {
    /// `packages`, `base`, `copy`, or a key of the stack file such as `env.OMP_NUM_THREADS`.
    pub what: String,
    /// Which of them; empty for keys of the stack file.
    pub name: String,
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
    /// What changed since it was built last, here or, where it never was, by whoever pushed it; nothing if it never was.
    pub changes: Option<Vec<Change>>,
    /// What had changed when it was built last.
    pub before: Option<Vec<Change>>,
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
    /// Why images would be built again: those that are named, each after what it stands on.
    pub fn explain(&self, names: &[String], lock: &Lock) -> Result<Vec<Explanation>> {
        let all = self.all_steps(&self.chosen(names)?, lock)?;
        let mut explanations = Vec::new();
        for steps in &all {
            let (changes, before) = self.changes_since(steps, lock)?;
            explanations.push(Explanation {
                image: steps.image.name.clone(),
                platform: steps.platform,
                changes,
                before,
            });
        }
        Ok(explanations)
    }

    /// What changed since an image was built last, and what had changed then; nothing where it never was.
    #[expect(clippy::type_complexity, reason = "two lists, both of which may be missing")]
    pub(crate) fn changes_since(
        &self,
        steps: &ImageSteps<'_>,
        lock: &Lock,
    ) -> Result<(Option<Vec<Change>>, Option<Vec<Change>>)> {
        let Some((last, _)) = self.last_build(steps.image, steps.platform)? else { return Ok((None, None)) };
        let now = self.ingredients(steps, lock);
        Ok((Some(self.changes(&last.ingredients, &now, steps.image, steps.platform)), last.changes))
    }

    /// What an image was when it was built last on this machine or, where it never was, when it was pushed last; whether
    /// it was here.
    pub(crate) fn last_build(&self, image: &stack::Image, platform: Platform) -> Result<Option<(LastBuild, bool)>> {
        if let Some(last) = self.store.recall(&self.local_key(image, platform))? {
            return Ok(Some((last, true)));
        }
        let pushed: Option<Ingredients> = self.recall_remote(&[self.ingredients_key(image, platform)])?.pop().flatten();
        Ok(pushed.map(|ingredients| (LastBuild { ingredients, changes: None }, false)))
    }

    /// Remembers what an image is made of now.
    pub(crate) fn remember_build(
        &self,
        image: &stack::Image,
        platform: Platform,
        ingredients: Ingredients,
    ) -> Result<()> {
        let changes = match self.last_build(image, platform)? {
            Some((last, true)) if last.ingredients == ingredients => return Ok(()),
            Some((last, _)) => Some(self.changes(&last.ingredients, &ingredients, image, platform)),
            None => None,
        };
        Ok(self.store.remember(&self.local_key(image, platform), &LastBuild { ingredients, changes })?)
    }

    pub(crate) fn ingredients(&self, steps: &ImageSteps<'_>, lock: &Lock) -> Ingredients {
        let (image, platform) = (steps.image, steps.platform);
        let base = bases::name(&image.from).and_then(|name| lock.base(&name, platform));
        let packages = lock.image(&image.name, platform).map_or(&[][..], |locked| &locked.packages);
        let copies = steps.steps.iter().filter(|step| matches!(step.task, Task::Copy(_)));
        Ingredients {
            base: base.map(|base| (base.name.clone(), base.manifest)).into_iter().collect(),
            packages: packages
                .iter()
                .map(|package| (package.name.clone(), (package.version.clone(), package.wheel)))
                .collect(),
            copies: copies.map(|step| (step.name.trim_start_matches("copy ").to_owned(), step.key.hex())).collect(),
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
        let words = |words: &Option<Vec<String>>| words.as_ref().map(|words| format!("{words:?}"));
        if let stack::From::Image(name) = &image.from {
            say("from", Some(name.clone()));
        }
        if image.has_packages() {
            say("target.python", self.stack.target.python.clone());
            say("python.environment", (image.environment == Environment::Base).then(|| "base".into()));
            say("compression", (image.compression == Compression::Zstd).then(|| "zstd".into()));
            say("max-layer-size", image.max_layer_size.map(|size| size.to_string()));
            if let Some(prune) = image.prune {
                let gpus = self.stack.target.gpus.iter().map(ToString::to_string);
                let native = self.stack.target.native_gpus.then(|| "native".to_owned());
                say("target.gpus", Some(gpus.chain(native).collect::<Vec<_>>().join(", ")));
                let options = [(prune.keep_ptx, "keep-ptx"), (prune.drop_relocatable, "drop-relocatable")];
                let options: Vec<&str> = options.iter().filter(|(said, _)| *said).map(|(_, option)| *option).collect();
                say("prune", Some(if options.is_empty() { "true".into() } else { options.join(", ") }));
            }
        }
        say("user", image.user.as_ref().map(user));
        say("timezone", image.timezone.clone());
        say("workdir", image.workdir.clone());
        say("entrypoint", words(&image.entrypoint));
        say("command", words(&image.command));
        for (name, value) in &image.env {
            say(&format!("env.{name}"), Some(value.clone()));
        }
        for (name, value) in &image.labels {
            say(&format!("labels.{name}"), Some(value.clone()));
        }
        settings
    }

    /// What is not as it was, with the lines that say so.
    pub(crate) fn changes(
        &self,
        old: &Ingredients,
        new: &Ingredients,
        image: &stack::Image,
        platform: Platform,
    ) -> Vec<Change> {
        let lock = fs_err::read_to_string(self.lock_path()).unwrap_or_default();
        let stack = fs_err::read_to_string(&self.file).unwrap_or_default();
        let file = self.file.file_name().map_or_else(|| "kiln.toml".into(), |name| name.to_string_lossy().into_owned());
        let image = image.name.as_str();
        let in_lock =
            |package: &str| line_of_package(&lock, image, platform, package).map(|line| ("kiln.lock".to_owned(), line));
        let in_stack = |path: &[&str]| line_of(&stack, path).map(|line| (file.clone(), line));
        let mut changes = Vec::new();
        compare(&old.base, &new.base, |name, old, new| {
            let place = in_stack(&["images", image, "from"]);
            let short = |digest: Option<&Digest>| digest.map(Digest::short);
            changes.push(Change { what: "base".into(), name: name.into(), old: short(old), new: short(new), place });
        });
        compare(&old.packages, &new.packages, |name, old, new| {
            let same_version = old.map(|old| &old.0) == new.map(|new| &new.0);
            let show = |package: Option<&(String, Digest)>| {
                package.map(|(version, wheel)| match same_version {
                    true => format!("{version} ({})", wheel.short()),
                    false => version.clone(),
                })
            };
            let place = in_lock(name);
            changes.push(Change { what: "packages".into(), name: name.into(), old: show(old), new: show(new), place });
        });
        compare(&old.copies, &new.copies, |name, old, new| {
            let place = in_stack(&["images", image, "copy"]);
            let (said_old, said_new) = match (old, new) {
                (Some(_), Some(_)) => (None, None),
                (old, new) => (old.map(|_| "files".to_owned()), new.map(|_| "files".to_owned())),
            };
            changes.push(Change { what: "copy".into(), name: name.into(), old: said_old, new: said_new, place });
        });
        compare(&old.settings, &new.settings, |key, old, new| {
            let mut path = vec!["images", image];
            match key.split_once('.') {
                Some(("target", rest)) => path = vec!["target", rest],
                Some((table, name)) => path.extend([table, name]),
                None => path.push(key),
            }
            let place = in_stack(&path);
            let (old, new) = (old.cloned(), new.cloned());
            changes.push(Change { what: key.into(), name: String::new(), old, new, place });
        });
        changes
    }

    fn local_key(&self, image: &stack::Image, platform: Platform) -> StepKey {
        StepKey::of("last build", 1)
            .text("stack", &self.file.display().to_string())
            .text("image", &image.name)
            .text("platform", &platform.to_string())
            .finish()
    }

    /// The key under which machines tell one another what an image was when it was pushed.
    pub(crate) fn ingredients_key(&self, image: &stack::Image, platform: Platform) -> StepKey {
        let repository = image.repository.as_ref().map(ToString::to_string);
        StepKey::of("last push", 1)
            .option("repository", repository.as_deref())
            .text("stack", &self.stack.name)
            .text("image", &image.name)
            .text("platform", &platform.to_string())
            .finish()
    }
}

fn user(user: &User) -> String {
    match user {
        User::Existing(name) => name.clone(),
        User::Create { name, uid, gid, home, shell } => format!("{name} {uid}:{gid} {home} {shell}"),
    }
}

/// Calls for every key whose values differ.
fn compare<'m, V: PartialEq>(
    old: &'m BTreeMap<String, V>,
    new: &'m BTreeMap<String, V>,
    mut differs: impl FnMut(&str, Option<&'m V>, Option<&'m V>),
) {
    let keys: BTreeSet<&String> = old.keys().chain(new.keys()).collect();
    for key in keys {
        let (was, is) = (old.get(key), new.get(key));
        if was != is {
            differs(key, was, is);
        }
    }
}
