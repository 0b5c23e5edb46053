//! The packages that an image wants of its base's distribution: chosen by its own apt, of the archives that it knows itself.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kiln_debian::index::Index;
use kiln_debian::release::Keyring;
use kiln_debian::sources::Place;
use kiln_plan::diagnostic::{Diagnostic, Diagnostics, closest};
use kiln_plan::lock::{Lock, LockedDeb, LockedSuite};
use kiln_plan::parallel;
use kiln_plan::platform::Platform;
use kiln_plan::stack;
use kiln_plan::step::StepKey;

use super::apt::Apt;
use super::script::{self, Wishes};
use super::suites::{self, From, Reader, Suite, places};
use super::{debs, packages};
use crate::bases;
use crate::error::{BuildError, DebianError, ProjectError, Result};
use crate::inside::Done;
use crate::project::Project;
use crate::workshop::Workshop;

/// Suites that are read at once.
const CONNECTIONS: usize = 8;

/// An image whose apt is asked.
pub(crate) struct Asked<'a> {
    pub(crate) workshop: &'a Workshop<'a>,
    /// The image, for people.
    pub(crate) name: String,
    /// Trees of what the packages are installed over, the lowest first.
    pub(crate) layers: Vec<PathBuf>,
    pub(crate) platform: Platform,
    pub(crate) below: u8,
}

impl Asked<'_> {
    fn apt(&self) -> Apt<'_> {
        Apt { workshop: self.workshop, name: &self.name, layers: self.layers.clone(), below: self.below }
    }

    /// Chooses packages, of archives that are not older than those that are locked. Files of keys are relative to `directory`.
    pub(crate) fn choose(
        &self,
        wanted: &stack::System,
        directory: &Path,
        before: &[LockedSuite],
    ) -> Result<(Vec<LockedSuite>, Vec<LockedDeb>)> {
        if self.workshop.surroundings.offline {
            return Err(ProjectError::Offline(self.name.clone()).into());
        }
        let work = self.workshop.work("resolve", self.name.as_str(), None);
        let architecture = self.platform.cpu.debian();
        let apt = self.apt();
        let (known, mut keys) = apt.look(script::look(), &work, |place| {
            let found = place.join("found");
            Ok((places(&found.join("apt"), &From::Image(&wanted.disable)), keys(&found)))
        })?;
        for key in wanted.repositories.iter().filter_map(|repository| repository.key.as_ref()) {
            keys.extend(suites::keys_of(self.workshop, directory, key, &self.name)?);
        }
        let known: Vec<Place> = known.into_iter().chain(wanted.repositories.iter().flat_map(of_repository)).collect();
        let reader = Reader {
            workshop: self.workshop,
            name: &self.name,
            keys,
            architecture,
            is_snapshot: false,
            is_one: false,
            locked: before,
        };
        let suites = parallel::each(&known, CONNECTIONS, |place| reader.required(place))?;
        let index = suites::index(&suites, architecture, &self.name)?;
        let (list, own) = debs::listed(self.workshop, &wanted.debs, directory, &self.name)?;
        let mut shown: Vec<_> = suites.iter().map(Suite::shown).collect();
        if !own.is_empty() {
            shown.push((debs::DESCRIBED, &list));
        }
        let wishes = Wishes::of(wanted, &own);
        // apt installs what the base has, too: it alone can tell what is missing.
        let chosen = apt.choose(&shown, architecture, &wishes, &work);
        let chosen = chosen.or_else(|error| self.require_known(wanted, &index).and(Err(error)))?;
        let chosen: BTreeSet<_> = chosen.into_iter().collect();
        let package = |(at, path): &(usize, String)| {
            let missing = || DebianError::Chosen { line: path.clone() }.of(&self.name);
            match suites.get(*at) {
                Some(suite) => {
                    let package = index.at(*at, path).ok_or_else(missing)?;
                    Ok(packages::locked(package, &suite.uri, false))
                }
                None => own.get(debs::number(path)).cloned().ok_or_else(missing),
            }
        };
        let packages = chosen.iter().map(package).collect::<Result<_>>()?;
        Ok((suites.iter().map(Suite::locked).collect(), packages))
    }

    /// Refuses names that no archive has, and says what may be meant. Patterns and names of tasks are apt's to judge.
    fn require_known(&self, wanted: &stack::System, index: &Index<'_>) -> Result<()> {
        let is_plain = |word: &&String| !word.contains(['*', '?', '^', '/', ':', '[', '+']);
        let mut unknown = Vec::new();
        for word in wanted.install.iter().filter(is_plain) {
            let (name, version) =
                word.split_once('=').map_or((word.as_str(), None), |(name, version)| (name, Some(version)));
            let versions = index.versions(name);
            if versions.is_empty() && index.providers(name).is_empty() {
                let close = closest(name, index.newest().map(|package| package.name));
                unknown
                    .push((name.to_owned(), close.map(|close| format!("did you mean `{close}`?")).unwrap_or_default()));
            } else if version.is_some_and(|version| versions.iter().all(|one| one.version.to_string() != version)) {
                let there: Vec<String> = versions.iter().map(|one| one.version.to_string()).collect();
                unknown.push((word.clone(), format!("there is {}", there.join(", "))));
            }
        }
        match unknown.is_empty() {
            true => Ok(()),
            false => Err(DebianError::Unknown { packages: unknown }.of(&self.name)),
        }
    }

    /// Installs packages that are locked, and hands on what that left.
    pub(crate) fn install<T>(
        &self,
        wishes: &Wishes,
        debs: &[LockedDeb],
        archives: &[LockedSuite],
        then: impl FnOnce(&Done<'_>) -> Result<T>,
    ) -> Result<T> {
        packages::fetch(self.workshop, &self.name, debs, archives, &[])?;
        let work = self.workshop.work("install", self.name.as_str(), None);
        self.apt().install(script::install(wishes), &debs.iter().collect::<Vec<_>>(), &work, then)
    }
}

/// Returns the places of an archive that a stack names.
fn of_repository(repository: &stack::Archive) -> Vec<Place> {
    let stack::Archive { uri, suites, components, .. } = repository;
    let place = |suite: &String| Place { uri: uri.clone(), suite: suite.clone(), components: components.clone() };
    suites.iter().map(place).collect()
}

/// Returns the keys that apt may trust, below a copy of its files. Files that hold none are left out.
fn keys(found: &Path) -> Keyring {
    let mut all = Keyring::default();
    let directories = ["apt/trusted.gpg.d", "apt/keyrings", "keyrings"].map(|path| found.join(path));
    let entries =
        directories.iter().filter_map(|path| fs_err::read_dir(path).ok()).flatten().filter_map(std::result::Result::ok);
    let files = entries.map(|entry| entry.path()).chain([found.join("apt/trusted.gpg")]);
    for keyring in files.filter_map(|path| Keyring::parse(&fs_err::read(path).ok()?).ok()) {
        all.extend(keyring);
    }
    all
}

/// Returns the error of packages over nothing.
pub(crate) fn no_base(wanted: &stack::System) -> BuildError {
    let at = Diagnostic::at(wanted.span.clone(), "nothing is below, whose apt could install packages");
    Diagnostics::from(at.hint("`system` is for images upon a Debian or an Ubuntu")).into()
}

/// Returns the hash of everything that the choice of an image's packages depends on: what it wants, and what is below.
pub(crate) fn inputs(project: &Project<'_>, lock: &Lock, image: &stack::Image, platform: Platform) -> Result<String> {
    let stack = &project.stack;
    let image = stack.on(image, platform);
    let mut key = StepKey::of("inputs of system", 1);
    for one in std::iter::once(image).chain(stack.ancestors(image).map(|below| stack.on(below, platform))) {
        if let Some(system) = &one.system {
            let wishes = Wishes::of(system, &[]);
            key = key.text("wishes", &format!("{wishes} {}", wishes.recommends));
            key = key.text("archives", &format!("{:?} {:?}", system.repositories, system.disable));
            for deb in &system.debs {
                key = key.text("deb", &debs::identity(deb, &project.directory)?);
            }
        }
    }
    let root = stack.root(image);
    let name = bases::name(&root.from).unwrap_or_default();
    if let Some(base) = lock.base(&name, platform) {
        key = key.digest("base", &base.manifest);
    }
    Ok(key.text("name", &name).finish().hex()[..32].to_owned())
}
