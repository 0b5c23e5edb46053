//! The suites that a Debian comes from: those of the stack's mirror, else of the archives that the machine's own apt knows. Their lists
//! count where keys of Debian, or of the stack, signed them, and as long as they say that they are valid.

use std::io::Read as _;
use std::path::Path;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use kiln_debian::index::Index;
use kiln_debian::release::{Keyring, Release};
use kiln_debian::sources::{self, Place};
use kiln_plan::digest::Digest;
use kiln_plan::lock::LockedSuite;
use kiln_plan::parallel;
use kiln_plan::stack::ArchiveKey;
use url::Url;

use super::{Debian, packages};
use crate::error::{BuildError, DebianError, FetchError, Result};
use crate::fetch::Wanted;
use crate::workshop::Workshop;

/// Bytes that a signed list may have: those of Debian have half a megabyte.
const LARGEST_RELEASE: u64 = 64 << 20;
/// Bytes that a file of keys may have.
const LARGEST_KEYS: u64 = 16 << 20;
/// Bytes that a list of packages may have, inflated: that of Debian has fifty megabytes.
const LARGEST_LIST: u64 = 1 << 30;
/// Archives of the machine's apt that are asked for a suite.
const MOST_ARCHIVES: usize = 8;
/// Times that a suite is read: an archive may change between a list and the list that signs it.
const ATTEMPTS: u32 = 3;
/// Suites that have neither updates nor security updates.
const ROLLING: [&str; 3] = ["sid", "unstable", "experimental"];

/// A suite and its packages.
pub(super) struct Suite {
    /// The address of its archive.
    pub(super) uri: String,
    /// The name that it has there.
    pub(super) name: String,
    pub(super) release: Release,
    /// The paragraphs of its packages.
    pub(super) packages: String,
}

impl Suite {
    /// Returns the suite as apt gets it, whose list of packages has no digest, and the paragraphs of its packages.
    pub(super) fn shown(&self) -> (&str, &str) {
        (&self.release.described, &self.packages)
    }

    pub(super) fn locked(&self) -> LockedSuite {
        LockedSuite { uri: self.uri.clone(), suite: self.name.clone(), date: seconds(self.release.date) }
    }
}

fn seconds(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// Addresses of archives, the first ones first.
struct Archives {
    main: Vec<String>,
    security: Vec<String>,
    /// True for those of the stack: no other is asked.
    are_named: bool,
}

impl Archives {
    fn of(wanted: &Debian, apt: &Path) -> Self {
        match &wanted.mirror {
            Some(mirror) => {
                let security = mirror.security.clone().or_else(|| beside(&mirror.uri));
                Self { main: vec![mirror.uri.clone()], security: security.into_iter().collect(), are_named: true }
            }
            None => Self::of_machine(&places(apt, &From::Machine)),
        }
    }

    fn of_machine(places: &[Place]) -> Self {
        let of = |is_wanted: fn(&Place) -> bool| {
            let mut found: Vec<String> = Vec::new();
            let fitting = places.iter().filter(|place| place.components.iter().any(|name| name == "main"));
            for place in fitting.filter(|place| is_wanted(place) && is_asked(&place.uri)) {
                if !found.contains(&place.uri) {
                    found.push(place.uri.clone());
                }
            }
            found.truncate(MOST_ARCHIVES);
            found
        };
        let main = of(|place| !is_of_security(place));
        let mut security = of(is_of_security);
        security.extend(main.iter().filter_map(|uri| beside(uri)).filter(|_| security.is_empty()).collect::<Vec<_>>());
        Self { main, security, are_named: false }
    }
}

fn is_of_security(place: &Place) -> bool {
    place.suite.ends_with("-security") || place.suite.ends_with("/updates")
}

fn is_asked(uri: &str) -> bool {
    uri.starts_with("http://") || uri.starts_with("https://")
}

/// Returns the address of the security updates that mirrors have beside their `debian`.
fn beside(uri: &str) -> Option<String> {
    let at = uri.rfind("/debian").filter(|at| matches!(uri.as_bytes().get(at + 7), None | Some(b'/')))? + 7;
    Some(format!("{}-security{}", &uri[..at], &uri[at..]))
}

/// Whose configuration of apt is read.
pub(super) enum From<'f> {
    /// This machine's, whose lists of mirrors are followed.
    Machine,
    /// An image's, without the files of these names.
    Image(&'f [String]),
}

/// Reads the files of apt (sources.list(5)); those that cannot be read are left out.
pub(super) fn places(apt: &Path, from: &From<'_>) -> Vec<Place> {
    let read = |path: &Path| fs_err::read_to_string(path).unwrap_or_default();
    let mut found = sources::lines(&read(&apt.join("sources.list")));
    let entries =
        fs_err::read_dir(apt.join("sources.list.d")).into_iter().flatten().filter_map(std::result::Result::ok);
    let mut paths: Vec<_> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    if let From::Image(disabled) = from {
        paths.retain(|path| !disabled.iter().any(|name| path.file_name().is_some_and(|own| own == name.as_str())));
    }
    for path in paths {
        match path.extension().and_then(|end| end.to_str()) {
            Some("list") => found.extend(sources::lines(&read(&path))),
            Some("sources") => found.extend(sources::paragraphs(&read(&path))),
            _ => {}
        }
    }
    let followed = |place| match from {
        From::Machine => listed(place),
        From::Image(_) => vec![place],
    };
    found.into_iter().flat_map(followed).filter(|place| is_asked(&place.uri)).collect()
}

/// Returns the places behind one whose address is a file with addresses, as images of clouds have it.
fn listed(place: Place) -> Vec<Place> {
    let Some(path) = place.uri.strip_prefix("mirror+file:") else { return vec![place] };
    let text = fs_err::read_to_string(path).unwrap_or_default();
    let addresses = text.lines().filter_map(|line| line.split_whitespace().next()).filter(|uri| is_asked(uri));
    addresses.map(|uri| Place { uri: uri.trim_end_matches('/').to_owned(), ..place.clone() }).collect()
}

/// Reads the suites of a Debian: its own, its updates and its security updates.
pub(super) fn read(workshop: &Workshop<'_>, wanted: &Debian, locked: &[LockedSuite]) -> Result<Vec<Suite>> {
    let archives = Archives::of(wanted, &workshop.surroundings.apt);
    let reader = Reader {
        workshop,
        name: &wanted.name,
        keys: wanted.keys()?,
        architecture: wanted.platform.cpu.debian(),
        is_snapshot: wanted.mirror.as_ref().is_some_and(|mirror| mirror.snapshot),
        is_one: true,
        locked,
    };
    let mut suites = vec![reader.first(&archives, &wanted.suite)?];
    let (uri, release) = (suites[0].uri.clone(), suites[0].release.clone());
    if [&wanted.suite, &release.suite, &release.codename].iter().any(|name| ROLLING.contains(&name.as_str())) {
        return Ok(suites);
    }
    let (updates, security) = (format!("{}-updates", wanted.suite), format!("{}-security", wanted.suite));
    let more = [(vec![uri], updates), (archives.security, security)];
    let found = parallel::each(&more, more.len(), |(uris, name)| reader.any(uris, name))?;
    let lost = more
        .iter()
        .zip(&found)
        .find(|((_, name), found)| found.is_none() && locked.iter().any(|locked| &locked.suite == name));
    if let Some(((_, name), _)) = lost {
        return Err(DebianError::NoSuite(name.clone()).of(&wanted.name));
    }
    if found[1].is_none() {
        workshop.warn(format!(
            "no archive with `{}` was found: `{}` has no security updates (`mirror = {{ uri, security = URL }}` names one)",
            more[1].1, wanted.suite
        ));
    }
    suites.extend(found.into_iter().flatten());
    Ok(suites)
}

/// Returns the packages of suites, each with the number of its suite as that of its archive.
pub(super) fn index<'s>(suites: &'s [Suite], architecture: &str, name: &str) -> Result<Index<'s>> {
    let mut index = Index::default();
    for (at, suite) in suites.iter().enumerate() {
        index.add(&suite.packages, at, architecture).map_err(|error| DebianError::from(error).of(name))?;
    }
    Ok(index)
}

/// Reads a file of keys that the stack names, relative to a directory.
pub(super) fn keys(directory: &Path, path: &str, name: &str) -> Result<Keyring> {
    let problem = |problem| DebianError::Keys { path: path.to_owned(), problem }.of(name);
    Keyring::parse(&fs_err::read(directory.join(path))?).map_err(problem)
}

/// Returns the keys of an archive that a stack names. Paths are relative to a directory.
pub(super) fn keys_of(workshop: &Workshop<'_>, directory: &Path, key: &ArchiveKey, name: &str) -> Result<Keyring> {
    let (url, fingerprint) = match key {
        ArchiveKey::File(path) => return keys(directory, path, name),
        ArchiveKey::Url { url, fingerprint } => (url, fingerprint),
    };
    let problem = |problem| DebianError::Keys { path: url.to_string(), problem }.of(name);
    let found = Keyring::parse(&workshop.document(url, LARGEST_KEYS)?).map_err(problem)?;
    match fingerprint.as_ref().filter(|wanted| !found.fingerprints().contains(wanted)) {
        None => Ok(found),
        Some(wanted) => Err(problem(format!("none has the fingerprint {wanted}: {}", found.fingerprints().join(", ")))),
    }
}

/// Returns the addresses of all archives that may have a package.
pub(super) fn addresses(wanted: &Debian, apt: &Path) -> Vec<String> {
    let archives = Archives::of(wanted, apt);
    archives.main.into_iter().chain(archives.security).collect()
}

/// Whoever reads suites.
pub(super) struct Reader<'r> {
    pub(super) workshop: &'r Workshop<'r>,
    /// The base or the image, for errors.
    pub(super) name: &'r str,
    pub(super) keys: Keyring,
    /// The architecture, as Debian calls it.
    pub(super) architecture: &'r str,
    pub(super) is_snapshot: bool,
    /// All archives are Debian's: a suite of one is that of the others.
    pub(super) is_one: bool,
    pub(super) locked: &'r [LockedSuite],
}

impl Reader<'_> {
    /// Returns a suite that must be there.
    fn first(&self, archives: &Archives, name: &str) -> Result<Suite> {
        if archives.main.is_empty() {
            return Err(DebianError::NoMirror.of(self.name));
        }
        let mut refused = Vec::new();
        for uri in &archives.main {
            let place = main(uri, name);
            match self.suite(&place) {
                Ok(suite) => return Ok(suite),
                // Archives of others lie beside Debian's in the configuration of a machine.
                Err(error) if !archives.are_named && is_elsewhere(&error) => refused.push(self.no_list(&place, error)),
                Err(error) => return Err(self.no_list(&place, error)),
            }
        }
        match refused.pop() {
            Some(only) if refused.is_empty() => Err(only),
            _ => Err(DebianError::NoSuite(name.to_owned()).of(self.name)),
        }
    }

    /// Returns a suite if one of these archives has it.
    fn any(&self, uris: &[String], name: &str) -> Result<Option<Suite>> {
        for uri in uris {
            match self.suite(&main(uri, name)) {
                Ok(suite) => return Ok(Some(suite)),
                Err(error) if is_absent(&error) => {}
                Err(error) => return Err(error),
            }
        }
        Ok(None)
    }

    /// Returns the suite of a place that a stack or a base names.
    pub(super) fn required(&self, place: &Place) -> Result<Suite> {
        self.suite(place).map_err(|error| self.no_list(place, error))
    }

    /// Returns the error of a suite that must be there.
    fn no_list(&self, place: &Place, error: BuildError) -> BuildError {
        match error {
            BuildError::Fetch(FetchError::Refused { status, .. }) => {
                DebianError::NoList { uri: place.uri.clone(), suite: place.suite.clone(), status }.of(self.name)
            }
            error => error,
        }
    }

    /// Returns the suite of a place.
    pub(super) fn suite(&self, place: &Place) -> Result<Suite> {
        let mut attempt = 1;
        loop {
            let release = self.release(place)?;
            match self.packages(place, &release) {
                Ok(packages) => {
                    let (uri, name) = (place.uri.clone(), place.suite.clone());
                    return Ok(Suite { uri, name, release, packages });
                }
                Err(error) if attempt < ATTEMPTS && is_changing(&error) => attempt += 1,
                Err(error) => return Err(error),
            }
        }
    }

    fn release(&self, place: &Place) -> Result<Release> {
        let list = format!("{}/InRelease", folder(place));
        let bytes = self.workshop.document(&address(&list)?, LARGEST_RELEASE)?;
        let untrusted = |problem: String| DebianError::Signature { list: list.clone(), problem }.of(self.name);
        let text = String::from_utf8(bytes).map_err(|_| untrusted("it is no text".into()))?;
        let release = Release::verify(&text, &self.keys).map_err(|error| untrusted(error.to_string()))?;
        self.require_valid(&list, place, &release).map_err(|error| error.of(self.name))?;
        Ok(release)
    }

    /// Refuses a list that is too old: whoever answers in the archive's place could hide updates with one.
    fn require_valid(&self, list: &str, place: &Place, release: &Release) -> std::result::Result<(), DebianError> {
        if self.is_snapshot || is_of_the_past(&place.uri) {
            return Ok(());
        }
        if let Some(until) = release.valid_until.filter(|until| *until < SystemTime::now()) {
            return Err(DebianError::Expired { list: list.to_owned(), until });
        }
        let is_same = |locked: &&LockedSuite| locked.suite == place.suite && (self.is_one || locked.uri == place.uri);
        let locked = self.locked.iter().filter(is_same);
        match locked.map(|locked| locked.date).max().filter(|date| seconds(release.date) < *date) {
            Some(date) => {
                let locked = UNIX_EPOCH + Duration::from_secs(date);
                Err(DebianError::Older { list: list.to_owned(), found: release.date, locked })
            }
            None => Ok(()),
        }
    }

    /// Returns the packages of all components, one list after the other.
    fn packages(&self, place: &Place, release: &Release) -> Result<String> {
        if place.components.is_empty() {
            return self.list(place, release, "");
        }
        let mut all = String::new();
        for component in &place.components {
            let list = self.list(place, release, &format!("{component}/binary-{}/", self.architecture))?;
            all.push_str(list.trim_end());
            all.push_str("\n\n");
        }
        Ok(all)
    }

    /// Returns the list of packages in a directory of a suite.
    fn list(&self, place: &Place, release: &Release, directory: &str) -> Result<String> {
        let forms = [".xz", ".gz", ""].map(|end| (end, format!("{directory}Packages{end}")));
        let found = forms.iter().find_map(|(end, path)| Some((end, path, release.files.get(path)?)));
        let folder = folder(place);
        let Some((end, path, (digest, size))) = found else {
            let list = format!("{folder}/{}", directory.trim_end_matches('/'));
            return Err(DebianError::NoPackages { list, architecture: self.architecture.into() }.of(self.name));
        };
        let url = match release.by_hash {
            true => format!("{folder}/{directory}by-hash/SHA256/{}", digest.hex()),
            false => format!("{folder}/{path}"),
        };
        let (file, digest) = (format!("{} {path}", place.suite), *digest);
        if !packages::is_here(self.workshop, &digest)? {
            self.workshop.download(&Wanted { file, url: address(&url)?, digest, size: Some(*size) })?;
        }
        self.inflated(end, &digest)
            .map_err(|source| BuildError::Unreadable { what: format!("`{folder}/{path}`"), source: source.into() })
    }

    fn inflated(&self, end: &str, digest: &Digest) -> std::io::Result<String> {
        let blob = self.workshop.store.open_blob(digest).map_err(std::io::Error::other)?;
        let mut text = String::new();
        let read = kiln_debian::deb::inflated(end, blob).map_err(std::io::Error::other)?;
        read.take(LARGEST_LIST).read_to_string(&mut text)?;
        Ok(text)
    }
}

/// Returns true for the address of a state of the past: one with a time such as `20250520T000000Z` in it.
fn is_of_the_past(uri: &str) -> bool {
    let is_time = |part: &str| {
        let fits = |(at, byte): (usize, u8)| match at {
            8 => byte == b'T',
            15 => byte == b'Z',
            _ => byte.is_ascii_digit(),
        };
        part.len() == 16 && part.bytes().enumerate().all(fits)
    };
    uri.split('/').any(is_time)
}

fn main(uri: &str, suite: &str) -> Place {
    Place { uri: uri.to_owned(), suite: suite.to_owned(), components: vec!["main".to_owned()] }
}

/// Returns the address of the directory of a suite: one that ends in a slash is a directory of the archive itself.
fn folder(place: &Place) -> String {
    let Place { uri, suite, .. } = place;
    match suite.strip_suffix('/') {
        Some(directory) => format!("{uri}/{}", directory.trim_start_matches("./").trim_start_matches('.'))
            .trim_end_matches('/')
            .to_owned(),
        None => format!("{uri}/dists/{suite}"),
    }
}

fn address(text: &str) -> Result<Url> {
    Url::parse(text).map_err(|_| BuildError::Mistake {
        message: format!("`{text}` is no address"),
        hint: "a mirror is the address above `dists` and `pool`, such as `https://HOST/debian`".into(),
    })
}

fn is_absent(error: &BuildError) -> bool {
    matches!(error, BuildError::Fetch(FetchError::Refused { status: 403 | 404 | 410, .. }))
}

/// Returns true if an archive has no such suite, or is not Debian's.
fn is_elsewhere(error: &BuildError) -> bool {
    let is_of_others = |error: &BuildError| matches!(error, BuildError::Debian { source, .. } if matches!(**source, DebianError::Signature { .. } | DebianError::NoPackages { .. }));
    is_absent(error) || is_of_others(error)
}

/// Returns true if an archive may have changed since its signed list was read.
fn is_changing(error: &BuildError) -> bool {
    let of_other_content =
        matches!(error, BuildError::Fetch(FetchError::Content { .. } | FetchError::OtherSize { .. }));
    of_other_content || is_absent(error)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn machine(files: &[(&str, &str)]) -> (tempfile::TempDir, Archives) {
        let directory = tempfile::tempdir().unwrap();
        for (path, text) in files {
            let path = directory.path().join(path);
            fs_err::create_dir_all(path.parent().unwrap()).unwrap();
            fs_err::write(path, text.replace("DIRECTORY", directory.path().to_str().unwrap())).unwrap();
        }
        let found = Archives::of_machine(&places(directory.path(), &From::Machine));
        (directory, found)
    }

    #[test]
    fn the_archives_of_a_machine_are_those_that_its_apt_knows() {
        let (_directory, found) = machine(&[
            ("sources.list", "deb http://a.example/debian bookworm main\ndeb cdrom:[Debian]/ bookworm main\n"),
            (
                "sources.list.d/x.sources",
                "Types: deb\nURIs: http://s.example/debian-security\nSuites: bookworm-security\nComponents: main\n\n\
                 Types: deb\nURIs: http://t.example/tools\nSuites: any\nComponents: stable\n",
            ),
            ("sources.list.d/old.list.save", "deb http://c.example/debian bookworm main\n"),
        ]);
        assert_eq!(found.main, ["http://a.example/debian"]);
        assert_eq!(found.security, ["http://s.example/debian-security"]);
    }

    #[test]
    fn a_file_of_mirrors_stands_for_its_addresses() {
        let (_directory, found) = machine(&[
            ("sources.list", "deb mirror+file:DIRECTORY/mirrors/debian.list bookworm main\n"),
            ("mirrors/debian.list", "https://a.example/debian/\thint\nhttps://b.example/debian\n"),
        ]);
        assert_eq!(found.main, ["https://a.example/debian", "https://b.example/debian"]);
        assert_eq!(found.security[0], "https://a.example/debian-security");
    }

    #[test]
    fn addresses_with_a_time_are_of_the_past() {
        assert!(is_of_the_past("http://s.example/archive/debian/20250520T000000Z"));
        assert!(!is_of_the_past("http://s.example/archive/debian/20250520"));
    }

    #[test]
    fn security_updates_lie_beside_the_archive() {
        let beside = |uri| beside(uri).unwrap_or_default();
        assert_eq!(beside("http://a.example/debian"), "http://a.example/debian-security");
        assert_eq!(
            beside("http://s.example/archive/debian/20250520T000000Z"),
            "http://s.example/archive/debian-security/20250520T000000Z"
        );
        assert_eq!(beside("http://a.example/debian-ports"), "");
        assert_eq!(beside("http://a.example/packages"), "");
    }
}
