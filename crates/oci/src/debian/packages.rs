//! The packages of a bootstrapped system: what dpkg installed, with the content that apt's signed lists vouch for.

use std::collections::BTreeMap;

use kiln_plan::digest::Digest;
use serde::{Deserialize, Serialize};

use super::DebianError;

/// One installed Debian package.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case", deny_unknown_fields)]
pub struct Package {
    /// Name, such as `libc6`.
    pub name: String,
    /// Architecture as Debian names it, or `all`.
    pub architecture: String,
    /// Version with epoch and revision, such as `2.36-9+deb12u10`.
    pub version: String,
    /// SHA-256 of the `.deb`.
    pub sha256: Digest,
}

/// Joins what `dpkg-query` says is installed, one `NAME<tab>ARCHITECTURE<tab>VERSION` a line, with the stanzas that
/// `apt-cache show` prints for it (deb822(5)). Sorted by name and architecture.
pub(super) fn join(installed: &str, available: &str) -> Result<Vec<Package>, DebianError> {
    let digests = digests(available);
    let mut packages = Vec::new();
    for line in installed.lines() {
        let mut fields = line.split('\t');
        let (Some(name), Some(architecture), Some(version)) = (fields.next(), fields.next(), fields.next()) else {
            return Err(DebianError::PackageList { line: line.to_owned() });
        };
        let unlisted = || DebianError::Unlisted { package: name.to_owned(), version: version.to_owned() };
        packages.push(Package {
            name: name.to_owned(),
            architecture: architecture.to_owned(),
            version: version.to_owned(),
            sha256: *digests.get(&(name, architecture, version)).ok_or_else(unlisted)?,
        });
    }
    packages.sort();
    Ok(packages)
}

/// The SHA-256 of every stanza. A version that several lists offer is one and the same file to Debian: the first
/// counts.
fn digests(available: &str) -> BTreeMap<(&str, &str, &str), Digest> {
    let mut digests = BTreeMap::new();
    for stanza in available.split("\n\n") {
        let field = |name: &str| {
            let line = stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':'));
            line.map(str::trim)
        };
        if let (Some(name), Some(architecture), Some(version), Some(sha256)) =
            (field("Package"), field("Architecture"), field("Version"), field("SHA256"))
            && let Ok(digest) = Digest::from_hex(sha256)
        {
            digests.entry((name, architecture, version)).or_insert(digest);
        }
    }
    digests
}

#[cfg(test)]
mod tests {
    use super::*;

    const AVAILABLE: &str = "Package: libc6\nVersion: 2.36-9\nArchitecture: amd64\nDescription: GNU C Library\n \
                             Package: a continuation is no field\nSHA256: \
                             1111111111111111111111111111111111111111111111111111111111111111\n\nPackage: adduser\n\
                             Architecture: all\nVersion: 3.134\n\
                             SHA256: 2222222222222222222222222222222222222222222222222222222222222222\n\n";

    #[test]
    fn every_installed_package_gets_the_digest_of_its_list() {
        let packages = join("libc6\tamd64\t2.36-9\nadduser\tall\t3.134\n", AVAILABLE).unwrap();
        let names: Vec<_> = packages
            .iter()
            .map(|package| (package.name.as_str(), package.architecture.as_str(), &package.sha256.hex()[..1] == "2"))
            .collect();
        assert_eq!(names, [("adduser", "all", true), ("libc6", "amd64", false)]);
    }

    #[test]
    fn a_package_that_no_list_vouches_for_is_an_error() {
        let error = join("libc6\tamd64\t2.36-10\n", AVAILABLE).unwrap_err();
        assert_eq!(error.to_string(), "`libc6` 2.36-10 is installed and in no package list");
        assert!(join("libc6 amd64", AVAILABLE).is_err());
    }
}
