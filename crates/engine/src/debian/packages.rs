//! The packages of a Debian: fetched by their digests, several at once, and unpacked as a system or as an archive for its own apt.

use std::collections::BTreeMap;
use std::io::{self, BufReader, Read, Write};
use std::path::Path;
use std::sync::{Condvar, Mutex, PoisonError};

use kiln_debian::deb::Deb;
use kiln_debian::index::Package;
use kiln_debian::system::System;
use kiln_plan::digest::Digest;
use kiln_plan::event::Work;
use kiln_plan::lock::{LockedDeb, LockedSuite};
use kiln_plan::parallel;
use kiln_store::StoreError;
use url::Url;

use super::Debian;
use crate::error::{BuildError, DebianError, FetchError, Result};
use crate::fetch::Wanted;
use crate::workshop::Workshop;

/// Packages that are fetched at once.
const CONNECTIONS: usize = 8;

/// Returns a package as it is locked. `uri` is the address of its archive.
pub(super) fn locked(package: &Package<'_>, uri: &str, base: bool) -> LockedDeb {
    LockedDeb {
        name: package.name.to_owned(),
        version: package.version.to_string(),
        architecture: package.architecture.to_owned(),
        sha256: package.sha256,
        size: package.size,
        url: format!("{uri}/{}", package.filename.trim_start_matches("./")),
        base,
    }
}

/// Brings packages into the store. One that has left its archive is looked for in others. `name` is that of the base or the image.
pub(super) fn fetch(
    workshop: &Workshop<'_>,
    name: &str,
    packages: &[LockedDeb],
    suites: &[LockedSuite],
    elsewhere: &[String],
) -> Result<()> {
    let here = parallel::each(packages, workshop.surroundings.jobs, |package| is_here(workshop, &package.sha256))?;
    let mut missing: Vec<&LockedDeb> =
        packages.iter().zip(here).filter(|(_, here)| !here).map(|(package, _)| package).collect();
    missing.sort_by_key(|package| std::cmp::Reverse(package.size));
    if missing.is_empty() {
        return Ok(());
    }
    if workshop.surroundings.offline {
        let first = missing.first().map(|package| package.name.clone()).unwrap_or_default();
        return Err(FetchError::Offline(format!("{first} and {} more packages", missing.len() - 1)).into());
    }
    let one = |package: &&LockedDeb| {
        let mut refused = None;
        for url in addresses(&package.url, suites, elsewhere) {
            let file = format!("{} {}", package.name, package.version);
            let url = Url::parse(&url).map_err(|_| BuildError::LockOutdated(format!("it has the address `{url}`")))?;
            match workshop.download(&Wanted { file, url, digest: package.sha256, size: Some(package.size) }) {
                Ok(()) => return Ok(()),
                Err(BuildError::Fetch(FetchError::Refused { status, .. })) => refused = Some(status),
                Err(BuildError::Interrupted) => return Err(BuildError::Interrupted),
                Err(error) => return if is_in_cache(workshop, package)? { Ok(()) } else { Err(error) },
            }
        }
        if is_in_cache(workshop, package)? {
            return Ok(());
        }
        let (package, version) = (package.name.clone(), package.version.clone());
        Err(DebianError::Gone { package, version, status: refused.unwrap_or_default() }.of(name))
    };
    parallel::each(&missing, CONNECTIONS, one).map(drop)
}

/// Brings a package that its archive does not give out from the cache; false if that lacks it too.
fn is_in_cache(workshop: &Workshop<'_>, package: &LockedDeb) -> Result<bool> {
    let Some(repository) = workshop.places.repository(&package.sha256) else { return Ok(false) };
    let work = workshop.work("fetch", format!("{} {}", package.name, package.version), Some(package.size));
    match workshop.bring(&repository, &package.sha256, package.size, &work)? {
        Err(BuildError::Interrupted) => Err(BuildError::Interrupted),
        brought => Ok(brought.is_ok()),
    }
}

/// Returns true if the store has some content, undamaged.
pub(super) fn is_here(workshop: &Workshop<'_>, digest: &Digest) -> Result<bool> {
    match workshop.store.open_hashed(digest) {
        Ok(_) => Ok(true),
        Err(StoreError::Missing(_)) => Ok(false),
        Err(error) => Err(error.into()),
    }
}

/// Returns the places of a file: its own address, and those of the same path in other archives.
fn addresses(url: &str, suites: &[LockedSuite], elsewhere: &[String]) -> Vec<String> {
    let mut all = vec![url.to_owned()];
    let path = suites.iter().find_map(|suite| url.strip_prefix(suite.uri.as_str()));
    all.extend(path.into_iter().flat_map(|path| elsewhere.iter().map(move |uri| format!("{uri}{path}"))));
    let mut seen = std::collections::BTreeSet::new();
    all.retain(|one| seen.insert(one.clone()));
    all
}

/// Writes packages as a system that is not configured, and returns those with a script to run first.
pub(super) fn unpack(
    workshop: &Workshop<'_>,
    wanted: &Debian,
    packages: &[&LockedDeb],
    out: impl Write,
    work: &Work<'_>,
) -> Result<Vec<String>> {
    let problem = |error: DebianError| error.of(&wanted.name);
    let mut system = System::new(out).map_err(|error| problem(error.into()))?;
    let ahead = Ahead::default();
    let jobs = workshop.surroundings.jobs.max(1);
    std::thread::scope(|scope| {
        for _ in 0..jobs {
            scope.spawn(|| ahead.inflate(workshop, packages, 2 * jobs));
        }
        let done = packages.iter().enumerate().try_for_each(|(at, package)| {
            let (control, data) = ahead.take(at).map_err(|error| unreadable(package, error))?;
            work.advance(package.size)?;
            let deb = Deb { control, data: Box::new(data.as_slice()) };
            system.add(&package.name, deb).map_err(|error| problem(error.into()))
        });
        ahead.stop();
        done
    })?;
    let preinst = system.with_preinst();
    system.finish().map_err(|error| problem(error.into()))?.flush()?;
    Ok(preinst)
}

/// Returns a field of a package's control file; empty text where it has none.
pub(super) fn field<'c>(control: &'c str, name: &str) -> &'c str {
    let value = |line: &'c str| line.strip_prefix(name)?.strip_prefix(':');
    control.lines().find_map(value).unwrap_or_default().trim()
}

/// Returns the paragraph that lists a package for apt.
pub(super) fn paragraph(control: &str, file: &str, size: u64, sha256: &Digest) -> String {
    format!("{control}\nFilename: {file}\nSize: {size}\nSHA256: {}\n\n", sha256.hex())
}

/// Refuses a package that is another one than the list of its archive said.
fn require_said(package: &LockedDeb, control: &str) -> Result<()> {
    let found = [field(control, "Package"), field(control, "Version")];
    let said = [package.name.as_str(), &package.version];
    match found == said {
        true => Ok(()),
        false => {
            let problem =
                format!("it is {} {}, and its archive lists it as {} {}", found[0], found[1], said[0], said[1]);
            Err(unreadable(package, io::Error::other(problem)))
        }
    }
}

fn unreadable(package: &LockedDeb, source: io::Error) -> BuildError {
    BuildError::Unreadable { what: format!("the package {} {}", package.name, package.version), source: source.into() }
}

type Inflated = (BTreeMap<String, kiln_debian::deb::ControlFile>, Vec<u8>);

/// Packages that are inflated before they are written: several at once, and no more than a few wait.
#[derive(Default)]
struct Ahead {
    state: Mutex<State>,
    changed: Condvar,
}

#[derive(Default)]
struct State {
    begun: usize,
    taken: usize,
    stopped: bool,
    done: BTreeMap<usize, io::Result<Inflated>>,
}

impl Ahead {
    fn inflate(&self, workshop: &Workshop<'_>, packages: &[&LockedDeb], most: usize) {
        loop {
            let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
            while !state.stopped && state.begun >= state.taken + most {
                state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
            }
            let at = state.begun;
            let Some(package) = packages.get(at).filter(|_| !state.stopped) else { return };
            state.begun += 1;
            drop(state);
            let inflated = read(workshop, package);
            self.state.lock().unwrap_or_else(PoisonError::into_inner).done.insert(at, inflated);
            self.changed.notify_all();
        }
    }

    /// Waits for the package with this number.
    fn take(&self, at: usize) -> io::Result<Inflated> {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        loop {
            if let Some(done) = state.done.remove(&at) {
                state.taken = at + 1;
                self.changed.notify_all();
                return done;
            }
            state = self.changed.wait(state).unwrap_or_else(PoisonError::into_inner);
        }
    }

    fn stop(&self) {
        self.state.lock().unwrap_or_else(PoisonError::into_inner).stopped = true;
        self.changed.notify_all();
    }
}

fn read(workshop: &Workshop<'_>, package: &LockedDeb) -> io::Result<Inflated> {
    let blob = workshop.store.open_blob(&package.sha256).map_err(io::Error::other)?;
    let Deb { control, mut data } = Deb::read(BufReader::new(blob)).map_err(io::Error::other)?;
    let mut bytes = Vec::new();
    data.read_to_end(&mut bytes)?;
    Ok((control, bytes))
}

/// Makes an archive of packages for apt, of one directory.
pub(super) fn archive(workshop: &Workshop<'_>, packages: &[&LockedDeb], directory: &Path) -> Result<()> {
    let mut list = String::new();
    for (at, package) in packages.iter().enumerate() {
        let name = format!("{at}.deb");
        let blob = workshop.store.open_blob(&package.sha256)?;
        let place = directory.join(&name);
        io::copy(&mut io::BufReader::new(&blob), &mut fs_err::File::create(&place)?)?;
        let deb = Deb::read(BufReader::new(fs_err::File::open(&place)?))
            .map_err(|error| unreadable(package, io::Error::other(error)))?;
        let control = deb.text("control").unwrap_or_default().trim();
        require_said(package, control)?;
        list.push_str(&paragraph(control, &format!("./{name}"), package.size, &package.sha256));
    }
    Ok(fs_err::write(directory.join("Packages"), list)?)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_package_is_also_looked_for_under_its_path_in_other_archives() {
        let suite = |uri: &str| LockedSuite { uri: uri.into(), suite: "bookworm".into(), date: 0 };
        let elsewhere = ["https://b.example/debian".to_owned(), "https://a.example/debian".to_owned()];
        assert_eq!(
            addresses("https://a.example/debian/pool/x.deb", &[suite("https://a.example/debian")], &elsewhere),
            ["https://a.example/debian/pool/x.deb", "https://b.example/debian/pool/x.deb"]
        );
        assert_eq!(
            addresses("https://c.example/x.deb", &[suite("https://a.example/debian")], &elsewhere),
            ["https://c.example/x.deb"]
        );
    }
}
