//! Bases: locked to a digest, known by their facts, and turned into something that images can be composed on.

use kiln_oci::debian::{self, Bootstrap};
use kiln_oci::facts::FactsReader;
use kiln_oci::image::{Config, Descriptor, History, Image, Manifest, from_json, to_json};
use kiln_oci::layout::{Layout, LayoutImage};
use kiln_oci::{compression, whole};
use kiln_plan::base::BaseFacts;
use kiln_plan::diagnostic::{Diagnostic, Diagnostics};
use kiln_plan::lock::LockedBase;
use kiln_plan::platform::Platform;
use kiln_plan::stack;
use kiln_plan::step::StepKey;

use crate::error::{BuildError, Result};
use crate::project::Project;

/// Raised when the same layers would give other facts.
const FACTS_VERSION: u32 = 1;
/// Raised when the same packages would give another layer.
const DEBIAN_VERSION: u32 = 1;

/// Seconds for which a bootstrapped Debian is new enough for another lock.
const RECENT: u64 = 24 * 3600;

/// What an image is composed on.
#[derive(Debug, Clone)]
pub struct Base {
    /// What it is called in messages.
    pub name: String,
    /// Its layers and so on; nothing for `scratch`.
    pub image: Option<Image>,
    /// Its config.
    pub config: Config,
    /// The layout that has its bytes, where it is one.
    pub layout: Option<Layout>,
}

/// How the lock calls what an image stands on; nothing for `scratch` and for other images.
pub fn name(from: &stack::From) -> Option<String> {
    match from {
        stack::From::Scratch | stack::From::Image(_) => None,
        stack::From::OciLayout(path) => Some(format!("oci {path}")),
        stack::From::Debian { suite, include, mirror } => {
            let mirror = mirror.as_ref().map(|mirror| format!(" from {mirror}")).unwrap_or_default();
            Some(format!("debian {suite} {}{mirror}", include.join(" ")).trim_end().to_owned())
        }
        stack::From::Reference(reference) => Some(reference.clone()),
    }
}

impl Project<'_> {
    /// Locks a base. What the lock says already stays, unless it no longer holds or an upgrade is asked for.
    pub fn lock_base(
        &self,
        image: &stack::Image,
        platform: Platform,
        locked: Option<&LockedBase>,
        upgrade: bool,
    ) -> Result<Option<LockedBase>> {
        let Some(name) = name(&image.from) else { return Ok(None) };
        let mut found = match &image.from {
            stack::From::OciLayout(path) => {
                let layout = self.layout_image(path, platform).map_err(|error| at_from(image, error))?;
                match locked.filter(|locked| locked.manifest == layout.image.manifest) {
                    Some(locked) => locked.clone(),
                    None => self.lock_layout(name, path, platform, &layout, image.base_facts.is_some())?,
                }
            }
            stack::From::Debian { .. } => match locked.filter(|_| !upgrade) {
                Some(locked) => locked.clone(),
                None => match self.recent_bootstrap(&name, platform, upgrade)? {
                    Some(recent) => recent,
                    None => self.bootstrap(name, image, platform)?.0,
                },
            },
            stack::From::Reference(reference) => return Err(no_registries(image, reference)),
            stack::From::Scratch | stack::From::Image(_) => return Ok(None),
        };
        if let Some(facts) = &image.base_facts {
            found.facts = facts.clone();
        }
        Ok(Some(found))
    }

    /// What an image is composed on, from what is locked.
    pub fn load_base(&self, image: &stack::Image, platform: Platform, locked: Option<&LockedBase>) -> Result<Base> {
        let scratch = || Base { name: "scratch".into(), image: None, config: Config::scratch(platform), layout: None };
        let Some(locked) = locked else { return Ok(scratch()) };
        match &image.from {
            stack::From::OciLayout(path) => {
                let layout = Layout::open(&self.path(path)?)?;
                let found = layout.image_for(platform)?;
                if found.image.manifest != locked.manifest {
                    let message = format!("`{path}` has another image for {platform} than is locked");
                    return Err(BuildError::LockOutdated(message));
                }
                self.store.add(&found.config_bytes)?;
                self.store.add(&found.manifest_bytes)?;
                let LayoutImage { image, config, .. } = found;
                Ok(Base { name: locked.name.clone(), image: Some(image), config, layout: Some(layout) })
            }
            stack::From::Debian { .. } => self.load_debian(image, platform, locked),
            stack::From::Reference(reference) => Err(no_registries(image, reference)),
            stack::From::Scratch | stack::From::Image(_) => Ok(scratch()),
        }
    }

    fn layout_image(&self, path: &str, platform: Platform) -> Result<LayoutImage> {
        Ok(Layout::open(&self.path(path)?)?.image_for(platform)?)
    }

    fn lock_layout(
        &self,
        name: String,
        path: &str,
        platform: Platform,
        found: &LayoutImage,
        declared: bool,
    ) -> Result<LockedBase> {
        let facts = if declared { BaseFacts::default() } else { self.layout_facts(path, found)? };
        let manifest = found.image.manifest;
        Ok(LockedBase { name, platform, manifest, snapshot: None, packages: Vec::new(), facts })
    }

    /// Streams the layers of a layout, unless somebody did before.
    fn layout_facts(&self, path: &str, found: &LayoutImage) -> Result<BaseFacts> {
        let key = StepKey::of("base facts", FACTS_VERSION).digest("manifest", &found.image.manifest).finish();
        if let Some(facts) = self.store.recall(&key)? {
            return Ok(facts);
        }
        let layout = Layout::open(&self.path(path)?)?;
        let bytes = found.image.layers.iter().map(|layer| layer.size).sum();
        let work = self.work("inspect", format!("base {path}"), Some(bytes));
        let mut reader = FactsReader::new();
        for layer in &found.image.layers {
            let file = fs_err::File::open(layout.blob_path(&layer.digest)).map_err(|error| {
                let what = format!("the layers of `{path}` cannot be read, and `base-facts` are not declared");
                BuildError::step(what, error)
            })?;
            let tar = compression::decompress(file).map_err(|error| unreadable(path, error))?;
            reader.layer(tar).map_err(|error| unreadable(path, error))?;
            work.advance(layer.size)?;
        }
        let facts = reader.finish();
        self.store.remember(&key, &facts)?;
        Ok(facts)
    }

    /// Bootstraps a Debian and stores it as an image of one layer.
    fn bootstrap(&self, name: String, image: &stack::Image, platform: Platform) -> Result<(LockedBase, Image)> {
        let stack::From::Debian { suite, include, mirror } = &image.from else {
            return Err(BuildError::Project(format!("`{name}` is not a Debian base")));
        };
        let program = self.find_program("mmdebstrap").ok_or_else(|| BuildError::Program {
            program: "mmdebstrap".into(),
            purpose: format!("to bootstrap `{{ debian = \"{suite}\" }}`"),
            problem: "is not on PATH".into(),
            hint: "install it: `apt-get install mmdebstrap`; or use another base: `{ oci = \"PATH\" }`".into(),
        })?;
        if self.surroundings.offline {
            return Err(BuildError::Project(format!("`{name}` must be bootstrapped, and `--offline` forbids it")));
        }
        let bootstrap = Bootstrap { suite: suite.clone(), include: include.clone(), mirror: mirror.clone(), platform };
        let work = self.work("bootstrap", format!("{name} ({platform})"), None);
        let directory = self.store.temporary_directory()?;
        // mmdebstrap may run as a subordinate user, who must be able to pass.
        let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
        fs_err::set_permissions(directory.path(), mode)?;
        let failed = |error: debian::DebianError| {
            let hint = error.hint();
            match (error, hint) {
                (error, Some(hint)) => BuildError::Program {
                    program: "mmdebstrap".into(),
                    purpose: format!("to bootstrap {name}"),
                    problem: format!("failed: {error}"),
                    hint: hint.to_owned(),
                },
                (error, None) => BuildError::step(format!("{name} cannot be bootstrapped"), error),
            }
        };
        let environment = self.surroundings.environment.clone();
        let done = bootstrap.bootstrap(&program, directory.path(), environment, &mut |line| work.output(line));
        // Ctrl-C reaches mmdebstrap too, whose complaint is then of no interest.
        self.cancel.check()?;
        let done = done.map_err(failed)?;
        let normal = directory.path().join("normal.tar");
        let out = std::io::BufWriter::with_capacity(1 << 20, fs_err::File::create(&normal)?);
        debian::normalise(fs_err::File::open(&done.raw)?.into_file(), out).map_err(failed)?;
        let mut facts = FactsReader::new();
        facts.layer(fs_err::File::open(&normal)?.into_file()).map_err(|error| unreadable(&name, error))?;
        let layer =
            whole::from_tar(self.store, fs_err::File::open(&normal)?.into_file(), self.surroundings.jobs, &work)?;
        let mut config = Config::scratch(platform);
        config.set_env("PATH", "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
        config.config.cmd = vec!["/bin/sh".into()];
        config.rootfs.diff_ids.push(layer.diff_id);
        config.history.push(History { created_by: Some(format!("kiln: {name}")), ..History::default() });
        let config_bytes = to_json(&config)?;
        let manifest =
            Manifest::new(Descriptor::of(kiln_oci::image::CONFIG, &config_bytes), std::slice::from_ref(&layer));
        let manifest_bytes = to_json(&manifest)?;
        let image = Image {
            platform,
            config: self.store.add(&config_bytes)?,
            manifest: self.store.add(&manifest_bytes)?,
            manifest_size: manifest_bytes.len() as u64,
            layers: vec![layer],
        };
        let packages: Vec<String> = done
            .packages
            .iter()
            .map(|package| {
                format!("{} {} {} {}", package.name, package.version, package.architecture, package.sha256.hex())
            })
            .collect();
        let locked = LockedBase {
            name,
            platform,
            manifest: image.manifest,
            snapshot: Some(now()),
            packages,
            facts: facts.finish(),
        };
        self.store.remember(&debian_key(&locked), &image)?;
        self.store.remember(&recent_key(&locked.name, platform), &locked)?;
        Ok((locked, image))
    }

    /// What was bootstrapped under this name within the last day and is still in the store: a second stack, or a lock
    /// that failed afterwards, need not do it again.
    fn recent_bootstrap(&self, name: &str, platform: Platform, upgrade: bool) -> Result<Option<LockedBase>> {
        let known: Option<LockedBase> = self.store.recall(&recent_key(name, platform))?;
        let recent = |locked: &LockedBase| locked.snapshot.is_some_and(|then| now().saturating_sub(then) < RECENT);
        let here = |locked: &LockedBase| self.store.has_blob(&locked.manifest);
        Ok(known.filter(|locked| !upgrade && recent(locked) && here(locked)))
    }

    fn load_debian(&self, image: &stack::Image, platform: Platform, locked: &LockedBase) -> Result<Base> {
        let known: Option<Image> = self.store.recall(&debian_key(locked))?;
        let whole = |image: &Image| {
            image.manifest == locked.manifest
                && self.store.has_blob(&image.config)
                && image.layers.iter().all(|layer| self.store.has_blob(&layer.digest))
        };
        let found = match known.filter(whole) {
            Some(found) => found,
            None => {
                let (again, found) = self.bootstrap(locked.name.clone(), image, platform)?;
                if again.manifest != locked.manifest {
                    return Err(moved(locked, &again));
                }
                found
            }
        };
        let config = from_json(&self.store.read(&found.config)?, "the config of a Debian base")?;
        Ok(Base { name: locked.name.clone(), image: Some(found), config, layout: None })
    }
}

fn recent_key(name: &str, platform: Platform) -> StepKey {
    StepKey::of("recent bootstrap", DEBIAN_VERSION).text("name", name).text("platform", &platform.to_string()).finish()
}

/// Seconds since 1970.
fn now() -> u64 {
    std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

fn debian_key(locked: &LockedBase) -> StepKey {
    StepKey::of("debian", DEBIAN_VERSION)
        .text("platform", &locked.platform.to_string())
        .digest("manifest", &locked.manifest)
        .finish()
}

/// The archive has other packages than were locked.
fn moved(locked: &LockedBase, found: &LockedBase) -> BuildError {
    let changed: Vec<&str> = found
        .packages
        .iter()
        .filter(|new| !locked.packages.contains(new))
        .map(|line| {
            let end = line.match_indices(' ').nth(1).map_or(line.len(), |(at, _)| at);
            &line[..end]
        })
        .collect();
    let shown = changed.iter().take(5).copied().collect::<Vec<_>>().join(", ");
    let more = changed.len().saturating_sub(5);
    let more = if more > 0 { format!(" and {more} more") } else { String::new() };
    let what = if changed.is_empty() {
        "the same packages gave another layer: another version of mmdebstrap or dpkg made it".to_owned()
    } else {
        format!("the archive now has {shown}{more}")
    };
    BuildError::Mistake {
        message: format!("`{}` cannot be bootstrapped as it was locked: {what}", locked.name),
        hint: "name a mirror of a snapshot (`mirror = ...`), or take the new packages with `kiln lock --upgrade`"
            .into(),
    }
}

fn unreadable(name: &str, error: impl Into<Box<dyn std::error::Error + Send + Sync + 'static>>) -> BuildError {
    BuildError::step(format!("the layers of `{name}` cannot be read"), error)
}

/// Points at the `from` that names an unusable layout.
fn at_from(image: &stack::Image, error: BuildError) -> BuildError {
    match error {
        BuildError::Oci(error @ kiln_oci::OciError::Layout { .. }) => {
            Diagnostics::from(Diagnostic::at(image.from_span.clone(), error.to_string())).into()
        }
        BuildError::Project(message) => Diagnostics::from(Diagnostic::at(image.from_span.clone(), message)).into(),
        error => error,
    }
}

fn no_registries(image: &stack::Image, reference: &str) -> BuildError {
    let message = format!("`{reference}` is on a registry, and this release of kiln cannot read registries yet");
    Diagnostics::from(
        Diagnostic::at(image.from_span.clone(), message).hint(
            "copy it to a layout (`skopeo copy docker://REFERENCE oci:base`) and say `from = { oci = \"base\" }`",
        ),
    )
    .into()
}
