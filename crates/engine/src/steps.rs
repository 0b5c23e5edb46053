//! What an image is made of, as steps with keys: known before anything is done.

use std::collections::BTreeMap;

use kiln_fatbin::Selection;
use kiln_oci::layer::{Layer, LayerFile};
use kiln_oci::{SPLICE_VERSION, whole};
use kiln_plan::base::{BaseFacts, Interpreter};
use kiln_plan::lock::{Lock, LockedWheel};
use kiln_plan::platform::Platform;
use kiln_plan::stack::{Compression, Environment, From, Image, User};
use kiln_plan::step::{KeyBuilder, StepKey};
use kiln_wheel::install::{MAPPING_VERSION, Scheme};

use crate::agreement::WheelTier;
use crate::bases;
use crate::copy::CopySource;
use crate::error::{BuildError, Result};
use crate::locking::interpreter;
use crate::project::Project;
use crate::pruned::{may_hold_code, prunable, selection_key};
use crate::users;

/// Wheels above this many compressed bytes get a layer of their own.
const OWN_LAYER: u64 = 8 << 20;
/// Layers that an image has at most, base included: Docker refuses more than 125.
pub(crate) const MAX_LAYERS: usize = 100;

/// One step: what gives one or more layers.
#[derive(Debug, Clone)]
pub struct Step {
    /// What it is, for people: `torch 2.11.0`.
    pub name: String,
    /// The hash of everything that determines the layers.
    pub key: StepKey,
    /// What is to be done.
    pub task: Task,
    /// Bytes that go in, for progress and forecasts.
    pub bytes: u64,
    /// How the image's history says it.
    pub history: String,
    /// Whether the key is final: that of small wheels is not before it is known what all wheels do to one another.
    pub settled: bool,
}

/// What a step does.
#[derive(Debug, Clone)]
pub enum Task {
    /// Splices wheels.
    Wheels(WheelTask),
    /// Writes a few files that kiln makes.
    Files(Vec<LayerFile>),
    /// Copies files of the project.
    Copy(CopySource),
}

/// Wheels that become one layer, or several where they are large.
#[derive(Debug, Clone)]
pub struct WheelTask {
    /// The wheels, by normalised name.
    pub wheels: Vec<LockedWheel>,
    /// Where they are installed.
    pub scheme: Scheme,
    /// How the layer is compressed.
    pub compression: Compression,
    /// Compressed bytes that one layer has at most.
    pub max_layer_size: Option<u64>,
    /// What stays of the wheels' GPU code, where it is cut.
    pub prune: Option<Selection>,
    /// Paths that a wheel leaves out, because one that comes later by name brings them too: path to that wheel's place.
    pub superseded: BTreeMap<String, usize>,
}

/// What an image stands on and consists of.
#[derive(Debug)]
pub struct ImageSteps<'a> {
    /// The image.
    pub image: &'a Image,
    /// For this platform.
    pub platform: Platform,
    /// Its steps, the lowest layer first.
    pub steps: Vec<Step>,
    /// Everything above of the base: for users and interpreters.
    pub facts: BaseFacts,
    /// Wheels that must be looked into before it is known what the layer that wheels share consists of.
    pub unsettled: Vec<LockedWheel>,
    /// All wheels of the image, by normalised name, and where they are installed; nothing where it has none.
    pub wheels: Option<(Vec<LockedWheel>, Scheme)>,
    /// The wheels of the images below that have any, lowest first, and its own.
    pub(crate) tiers: Vec<WheelTier>,
}

impl Project<'_> {
    /// The steps of an image. `layers_below` are those of what it stands on.
    pub fn steps<'a>(
        &'a self,
        image: &'a Image,
        platform: Platform,
        lock: &Lock,
        layers_below: usize,
    ) -> Result<ImageSteps<'a>> {
        let root = self.stack.root(image);
        let base = bases::name(&root.from);
        let facts = match &base {
            Some(name) => lock.base(name, platform).map(|base| base.facts.clone()).unwrap_or_default(),
            None => root.base_facts.clone().unwrap_or_default(),
        };
        let base = base.unwrap_or_else(|| "scratch".into());
        let (mut steps, mut unsettled, mut all_wheels) = (Vec::new(), Vec::new(), None);
        let python = self.stack.target.python.as_deref().unwrap_or_default();
        let mut tiers = Vec::new();
        for above in self.stack.ancestors(image) {
            let wheels = locked_wheels(above, platform, lock);
            if !wheels.is_empty() {
                let scheme = self.scheme(above, python, interpreter(&facts, python, &base)?)?;
                tiers.insert(0, (wheels.into_iter().map(|(_, wheel)| wheel).collect(), scheme));
            }
        }
        let wheels = locked_wheels(image, platform, lock);
        if !wheels.is_empty() {
            let interpreter = interpreter(&facts, python, &base)?;
            let scheme = self.scheme(image, python, interpreter)?;
            if image.environment == Environment::Venv && !self.has_venv_below(image, platform, lock) {
                steps.push(venv(python, interpreter));
            }
            let others = layers_below + steps.len() + image.copy.len() + 1;
            let own: WheelTier = (wheels.iter().map(|(_, wheel)| wheel.clone()).collect(), scheme.clone());
            tiers.push(own.clone());
            self.require_agreement_of_tiers(&tiers)?;
            all_wheels = Some(own);
            let (of_wheels, unknown) = self.wheel_steps(image, wheels, &scheme, others, self.selection(image, lock))?;
            steps.extend(of_wheels);
            unsettled = unknown;
        }
        let created = self.created_users(image);
        for copy in &image.copy {
            steps.push(self.copy_step(copy, &facts, &created, image)?);
        }
        steps.extend(users::step(image, &facts, &self.created_above(image))?);
        Ok(ImageSteps { image, platform, steps, facts, unsettled, wheels: all_wheels, tiers })
    }

    fn scheme(&self, image: &Image, python: &str, interpreter: &Interpreter) -> Result<Scheme> {
        match image.environment {
            Environment::Venv => Ok(Scheme::venv(python)),
            Environment::Base => match &interpreter.site_packages {
                Some(site) => Ok(Scheme::base(&interpreter.path, site)),
                None => Err(BuildError::Project(format!(
                    "where {} of the base keeps packages is not known: declare its `site-packages` in `base-facts`",
                    interpreter.path
                ))),
            },
        }
    }

    fn has_venv_below(&self, image: &Image, platform: Platform, lock: &Lock) -> bool {
        self.stack.ancestors(image).any(|above| {
            above.environment == Environment::Venv
                && lock.image(&above.name, platform).is_some_and(|locked| !locked.packages.is_empty())
        })
    }

    /// Users that an image and those it stands on create.
    fn created_users<'a>(&'a self, image: &'a Image) -> Vec<&'a User> {
        let own = image.user.iter().filter(|user| matches!(user, User::Create { .. }));
        self.created_above(image).into_iter().chain(own).collect()
    }

    fn created_above<'a>(&'a self, image: &'a Image) -> Vec<&'a User> {
        let mut users: Vec<&User> = self
            .stack
            .ancestors(image)
            .filter_map(|above| above.user.as_ref())
            .filter(|user| matches!(user, User::Create { .. }))
            .collect();
        users.reverse();
        users
    }

    /// One step for each large wheel, and one for all that are small; the smallest large ones join those where the
    /// image would have too many layers.
    fn wheel_steps(
        &self,
        image: &Image,
        wheels: Vec<(String, LockedWheel)>,
        scheme: &Scheme,
        other_layers: usize,
        prune: Option<Selection>,
    ) -> Result<(Vec<Step>, Vec<LockedWheel>)> {
        let room = MAX_LAYERS.saturating_sub(other_layers + 1).max(1);
        let size = |wheel: &LockedWheel| wheel.size.unwrap_or(0);
        let mut large: Vec<usize> = (0..wheels.len()).filter(|at| size(&wheels[*at].1) > OWN_LAYER).collect();
        large.sort_by_key(|at| (std::cmp::Reverse(size(&wheels[*at].1)), *at));
        large.truncate(room);
        large.sort_unstable();
        let small: Vec<usize> = (0..wheels.len()).filter(|at| !large.contains(at)).collect();
        let all: Vec<LockedWheel> = wheels.iter().map(|(_, wheel)| wheel.clone()).collect();
        let overlaps = self.overlaps(&all, scheme)?;
        let task = |members: &[usize]| {
            let superseded = overlaps
                .by_path
                .iter()
                .filter(|(_, by)| members.iter().any(|member| by.losers.contains(member)))
                .map(|(path, by)| (path.clone(), by.winner))
                .map(|(path, winner)| {
                    // Places count within the step; a winner outside of it stands after all its members.
                    let place = members.iter().position(|member| *member == winner).unwrap_or(usize::MAX);
                    (path, place)
                })
                // Layers of their own lie below the shared one: a loser there is simply covered.
                .filter(|_| members.len() > 1 || members == small.as_slice())
                .collect();
            let prunes = members.iter().any(|at| may_hold_code(&all[*at]));
            WheelTask {
                prune: prune.clone().filter(|_| prunes),
                wheels: members.iter().map(|at| all[*at].clone()).collect(),
                scheme: scheme.clone(),
                compression: image.compression,
                max_layer_size: image.max_layer_size,
                superseded,
            }
        };
        let mut steps: Vec<Step> =
            large.iter().map(|at| wheel_step(wheels[*at].0.clone(), &wheels[*at].0, task(&[*at]))).collect();
        if !small.is_empty() {
            let names: Vec<&str> = small.iter().map(|at| wheels[*at].0.as_str()).collect();
            let title = match names.as_slice() {
                [only] => (*only).to_owned(),
                names => format!("{} small packages", names.len()),
            };
            let step = wheel_step(title, &names.join(", "), task(&small));
            steps.push(Step { settled: overlaps.unknown.is_empty(), ..step });
        }
        let unsettled = if small.is_empty() { Vec::new() } else { overlaps.unknown };
        Ok((steps, unsettled))
    }

    fn copy_step(
        &self,
        copy: &kiln_plan::stack::Copy,
        facts: &BaseFacts,
        created: &[&User],
        image: &Image,
    ) -> Result<Step> {
        let owner = users::owner(copy, facts, created)?;
        let source = self.copy_source(copy, owner, image.compression)?;
        let key = source.key(StepKey::of("copy", whole::WHOLE_VERSION));
        Ok(Step {
            name: format!("copy {} to {}", copy.from, copy.to),
            key,
            bytes: source.bytes,
            history: format!("kiln: copy {} to {}", copy.from, copy.to),
            task: Task::Copy(source),
            settled: true,
        })
    }

    /// Bytes of wheels that must be fetched before a step can be done.
    pub fn bytes_to_fetch(&self, step: &Step) -> u64 {
        let missing = wheels_of(std::slice::from_ref(step)).filter(|wheel| !self.store.has_blob(&wheel.sha256));
        missing.filter(|wheel| wheel.url.is_some()).filter_map(|wheel| wheel.size).sum()
    }

    /// The layers of a step, if they are here with all that they need.
    pub fn known_layers(&self, step: &Step) -> Result<Option<Vec<Layer>>> {
        if !step.settled {
            return Ok(None);
        }
        let mut layers: Option<Vec<Layer>> = self.store.recall(&step.key)?;
        if layers.is_none() && prunable(step).next().is_some() {
            layers = self.store.recall(&self.believed_key(step))?;
        }
        Ok(layers.filter(|layers| layers.iter().all(|layer| self.store.has(&layer.digest))))
    }
}

/// Returns the wheels that are locked for an image, by normalised name, each with what it is called.
fn locked_wheels(image: &Image, platform: Platform, lock: &Lock) -> Vec<(String, LockedWheel)> {
    let by_digest = lock.wheels_by_digest();
    let packages = lock.image(&image.name, platform).into_iter().flat_map(|locked| &locked.packages);
    // The lock was checked when it was read: every package has its wheel.
    packages
        .filter_map(|package| {
            let wheel = by_digest.get(&package.wheel)?;
            Some((format!("{} {}", package.name, package.version), (*wheel).clone()))
        })
        .collect()
}

pub(crate) fn wheel_step(name: String, wheels: &str, task: WheelTask) -> Step {
    let bytes = task.wheels.iter().filter_map(|wheel| wheel.size).sum();
    let mut key = StepKey::of("wheels", 1)
        .number("mapping", u64::from(MAPPING_VERSION))
        .list("wheels", task.wheels.iter().map(|wheel| wheel.sha256.to_string()))
        .text(
            "compression",
            match task.compression {
                Compression::Gzip => "gzip",
                Compression::Zstd => "zstd",
            },
        )
        .number(
            "compressor",
            u64::from(match task.compression {
                Compression::Gzip => SPLICE_VERSION,
                Compression::Zstd => whole::WHOLE_VERSION,
            }),
        )
        .option("max layer size", task.max_layer_size.map(|size| size.to_string()).as_deref())
        .list("superseded", task.superseded.iter().map(|(path, by)| format!("{by} {path}")));
    key = scheme_key(key, &task.scheme);
    let mut history = format!("kiln: {wheels}");
    // Where nothing is cut, keys are what they were before anything could be.
    if let Some(selection) = &task.prune {
        key = selection_key(key, selection);
        let gpus: Vec<String> = selection.gpus.iter().map(ToString::to_string).collect();
        history.push_str(&format!("; GPU code cut to {}", gpus.join(", ")));
    }
    Step { name, key: key.finish(), bytes, history, task: Task::Wheels(task), settled: true }
}

pub(crate) fn scheme_key(key: KeyBuilder, scheme: &Scheme) -> KeyBuilder {
    key.text("site-packages", &scheme.site_packages)
        .text("scripts", &scheme.scripts)
        .text("data", &scheme.data)
        .text("headers", &scheme.headers)
        .text("interpreter", &scheme.interpreter)
        .list("existing", &scheme.existing)
}

/// The virtual environment itself: a few links and `pyvenv.cfg` (PEP 405).
fn venv(python: &str, interpreter: &Interpreter) -> Step {
    let home = interpreter.path.rsplit_once('/').map_or("/", |(home, _)| home);
    let config = format!(
        "home = {home}\nimplementation = CPython\nversion_info = {}\ninclude-system-site-packages = false\n",
        interpreter.version
    );
    let site = format!("opt/venv/lib/python{python}");
    let directories = ["opt/venv", "opt/venv/bin", "opt/venv/lib", &site, &format!("{site}/site-packages")]
        .map(|path| LayerFile::directory(path.to_owned()));
    let links = [
        ("opt/venv/bin/python".to_owned(), interpreter.path.clone()),
        ("opt/venv/bin/python3".to_owned(), "python".to_owned()),
        (format!("opt/venv/bin/python{python}"), "python".to_owned()),
        ("opt/venv/lib64".to_owned(), "lib".to_owned()),
    ];
    let mut files: Vec<LayerFile> = directories.into();
    files.extend(links.into_iter().map(|(path, to)| LayerFile::symlink(path, to)));
    files.push(LayerFile::bytes("opt/venv/pyvenv.cfg", config.clone()));
    let key = StepKey::of("virtual environment", 1)
        .text("python", python)
        .text("interpreter", &interpreter.path)
        .text("config", &config)
        .number("compressor", u64::from(SPLICE_VERSION))
        .finish();
    Step {
        name: "virtual environment".into(),
        key,
        task: Task::Files(files),
        bytes: 0,
        history: format!("kiln: virtual environment for {}", interpreter.path),
        settled: true,
    }
}

/// The digests of all wheels that an image's steps use.
pub(crate) fn wheels_of(steps: &[Step]) -> impl Iterator<Item = &LockedWheel> {
    steps.iter().flat_map(|step| match &step.task {
        Task::Wheels(task) => task.wheels.as_slice(),
        Task::Files(_) | Task::Copy(_) => &[],
    })
}

/// Whether an image stands on another of the stack.
pub(crate) fn parent(image: &Image) -> Option<&str> {
    match &image.from {
        From::Image(name) => Some(name),
        _ => None,
    }
}

impl Step {
    /// What kind of step it is, in a word.
    pub fn kind(&self) -> &'static str {
        match &self.task {
            Task::Wheels(_) => "wheels",
            Task::Files(_) => "files",
            Task::Copy(_) => "copy",
        }
    }

    /// Whether several wheels share the layer, so that which of them supersede one another matters.
    pub(crate) fn is_shared(&self) -> bool {
        matches!(&self.task, Task::Wheels(task) if task.wheels.len() > 1)
    }
}

#[cfg(test)]
mod tests {
    use kiln_plan::digest::Digest;

    use super::*;

    fn task() -> WheelTask {
        let wheel = LockedWheel {
            file: "six-1.17.0-py2.py3-none-any.whl".into(),
            sha256: Digest::of(b"six"),
            size: Some(11_050),
            url: None,
            path: None,
        };
        WheelTask {
            wheels: vec![wheel],
            scheme: Scheme::venv("3.11"),
            compression: Compression::Gzip,
            max_layer_size: None,
            prune: None,
            superseded: BTreeMap::new(),
        }
    }

    fn interpreter() -> Interpreter {
        Interpreter { path: "/usr/bin/python3.11".into(), version: "3.11.2".into(), site_packages: None }
    }

    /// A change here forgets every result that users have: raise the version of the kind of step, and say so in the
    /// changelog.
    #[test]
    fn keys_are_pinned() {
        let wheels = wheel_step("six 1.17.0".into(), "six 1.17.0", task()).key.hex();
        let environment = venv("3.11", &interpreter()).key.hex();
        insta::assert_snapshot!(format!("wheels {wheels}\nvirtual environment {environment}"));
    }

    #[test]
    fn a_key_depends_on_the_bytes_of_a_wheel_and_where_they_go_and_not_on_its_name_or_place() {
        let key = |change: fn(&mut WheelTask)| {
            let mut task = task();
            change(&mut task);
            wheel_step(String::new(), "", task).key
        };
        let same = key(|_| {});
        assert_eq!(key(|task| task.wheels[0].file = "other-1-py3-none-any.whl".into()), same);
        assert_eq!(key(|task| task.wheels[0].path = Some("wheels/x".into())), same);
        assert_ne!(key(|task| task.wheels[0].sha256 = Digest::of(b"")), same);
        assert_ne!(key(|task| task.scheme = Scheme::venv("3.12")), same);
        assert_ne!(key(|task| task.compression = Compression::Zstd), same);
        assert_ne!(key(|task| task.max_layer_size = Some(1)), same);
        let pruned = |number, keep_ptx| {
            let gpus = vec![kiln_plan::gpu::Capability::new(number, 0)];
            let prune = Some(Selection { gpus, keep_ptx, drop_relocatable: false });
            wheel_step(String::new(), "", WheelTask { prune, ..task() }).key
        };
        let distinct = [same, pruned(9, false), pruned(9, true), pruned(8, false)];
        assert_eq!(distinct.iter().collect::<std::collections::BTreeSet<_>>().len(), 4);
    }
}
