//! Bootstrapped Debian bases: made by mmdebstrap, normalised, kept as an image of one layer.

use kiln_oci::debian::{self, Bootstrap};
use kiln_oci::facts::FactsReader;
use kiln_oci::image::{CONFIG_LIMIT, Config, Descriptor, History, Image, LoadedImage, Manifest, from_json, to_json};
use kiln_oci::whole;
use kiln_plan::lock::LockedBase;
use kiln_plan::platform::Platform;
use kiln_plan::reference::Repository;
use kiln_plan::stack;
use kiln_plan::step::StepKey;

use super::{Base, unreadable};
use crate::error::{BuildError, Result};
use crate::planning::State;
use crate::project::Project;
use crate::workshop::now;

/// Raised when the same packages would give another layer.
const DEBIAN_VERSION: u32 = 1;
/// Seconds for which a bootstrapped Debian is new enough for another lock.
const RECENT: u64 = 24 * 3600;

impl Project<'_> {
    /// Bootstraps a Debian and stores it as an image of one layer.
    pub(super) fn bootstrap(
        &self,
        name: String,
        image: &stack::Image,
        platform: Platform,
    ) -> Result<(LockedBase, Image)> {
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
        let environment = &self.surroundings.environment;
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
            index: None,
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
    pub(super) fn recent_bootstrap(&self, name: &str, platform: Platform, upgrade: bool) -> Result<Option<LockedBase>> {
        let known: Option<LockedBase> = self.store.recall(&recent_key(name, platform))?;
        let recent = |locked: &LockedBase| locked.snapshot.is_some_and(|then| now().saturating_sub(then) < RECENT);
        let here = |locked: &LockedBase| self.store.has_blob(&locked.manifest);
        Ok(known.filter(|locked| !upgrade && recent(locked) && here(locked)))
    }

    pub(super) fn load_debian(&self, image: &stack::Image, platform: Platform, locked: &LockedBase) -> Result<Base> {
        let known: Option<Image> = self.store.recall(&debian_key(locked))?;
        let whole = |image: &Image| {
            image.manifest == locked.manifest
                && self.store.has_blob(&image.config)
                && image.layers.iter().all(|layer| self.store.has_blob(&layer.digest))
        };
        let found = match known.filter(whole) {
            Some(found) => Some(found),
            None => self.shared_debian(locked)?,
        };
        let found = match found {
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

    fn fetch_debian(&self, remote: &Repository, locked: &LockedBase) -> Result<Image> {
        let registries = self.registries()?;
        let bytes = registries.blob(remote, &locked.manifest, CONFIG_LIMIT)?;
        let manifest: Manifest = from_json(&bytes, "the manifest of a Debian base")?;
        let config = registries.blob(remote, &manifest.config.digest, CONFIG_LIMIT)?;
        self.store.add(&bytes)?;
        self.store.add(&config)?;
        let loaded = LoadedImage::new(&manifest, bytes, config).map_err(|error| unreadable(&locked.name, error))?;
        let loaded = loaded.filter(|loaded| loaded.image.platform == locked.platform);
        let other = || BuildError::Project(format!("it is not for {}", locked.platform));
        Ok(loaded.ok_or_else(other)?.image)
    }

    /// Whether a locked base is in the store, or at least in the cache.
    pub(crate) fn debian_state(&self, locked: &LockedBase) -> Result<State> {
        let known: Option<Image> = self.store.recall(&debian_key(locked))?;
        let whole = |image: &Image| image.layers.iter().all(|layer| self.store.has_blob(&layer.digest));
        if known.is_some_and(|image| whole(&image)) {
            return Ok(State::Here);
        }
        let shared: Option<Image> = self.recall_remote(&[debian_key(locked)])?.pop().flatten();
        Ok(if shared.is_some() { State::Cached } else { State::ToDo })
    }

    /// A base that another machine bootstrapped: its config; its layer stays where it is.
    fn shared_debian(&self, locked: &LockedBase) -> Result<Option<Image>> {
        let known: Option<Image> = self.recall_remote(&[debian_key(locked)])?.pop().flatten();
        let (Some(_), Some(cache)) = (known, self.cache()) else { return Ok(None) };
        // What counts is the manifest that is locked, whatever else the record says.
        let fetched = self.fetch_debian(&cache.remote, locked);
        let found = match fetched {
            Ok(found) => found,
            Err(BuildError::Interrupted) => return Err(BuildError::Interrupted),
            Err(error) => {
                self.warn(format!("the base of the cache is not used: {error}"));
                return Ok(None);
            }
        };
        self.session.found(found.layers.iter().map(|layer| layer.digest), &cache.remote);
        Ok(Some(found))
    }
}

fn recent_key(name: &str, platform: Platform) -> StepKey {
    StepKey::of("recent bootstrap", DEBIAN_VERSION).text("name", name).text("platform", &platform.to_string()).finish()
}

pub(crate) fn debian_key(locked: &LockedBase) -> StepKey {
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
