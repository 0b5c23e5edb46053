//! Lists of the packages that suites offer (`Packages`), together.

use std::collections::BTreeMap;

use kiln_plan::digest::Digest;

use crate::control::{ControlError, Stanza, stanzas};
use crate::relation::{Alternatives, Relation, RelationError, relations};
use crate::version::{InvalidVersion, Version};

/// A list that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IndexError {
    /// Its text.
    #[error(transparent)]
    Control(#[from] ControlError),
    /// A package without a field that it needs.
    #[error("the package `{package}` has no field `{field}`")]
    Missing {
        /// Its name, as far as it is known.
        package: String,
        /// The field.
        field: &'static str,
    },
    /// A field that cannot be read.
    #[error("the package `{package}` has the field `{field}: {value}`")]
    Invalid {
        /// Its name.
        package: String,
        /// The field.
        field: &'static str,
        /// Its value.
        value: String,
    },
    /// A version.
    #[error(transparent)]
    Version(#[from] InvalidVersion),
}

/// The need of a system for a package (Debian policy, 2.5).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Priority {
    /// It does not work without.
    Required,
    /// People expect it to be there.
    Important,
    /// A small system for the console has it.
    Standard,
    /// All others.
    Optional,
}

/// A version of a package that an archive offers.
#[derive(Debug, Clone)]
pub struct Package<'t> {
    /// Its name.
    pub name: &'t str,
    /// Its version.
    pub version: Version,
    /// Its architecture, or `all`.
    pub architecture: &'t str,
    /// The archive that offers it, by the number that the list was added with.
    pub archive: usize,
    /// Its path in the archive.
    pub filename: &'t str,
    /// Bytes of the file.
    pub size: u64,
    /// SHA-256 of the file.
    pub sha256: Digest,
    stanza: Stanza<'t>,
}

impl<'t> Package<'t> {
    fn of(stanza: Stanza<'t>, archive: usize) -> Result<Self, IndexError> {
        let name = stanza.get("Package").unwrap_or_default();
        let word = |field: &'static str| {
            stanza.get(field).ok_or_else(|| IndexError::Missing { package: name.to_owned(), field })
        };
        let invalid =
            |field, value: &str| IndexError::Invalid { package: name.to_owned(), field, value: value.to_owned() };
        word("Package")?;
        let (version, size, sha256) = (Version::parse(word("Version")?)?, word("Size")?, word("SHA256")?);
        let filename = word("Filename")?;
        if filename.starts_with('/') || filename.split('/').any(|part| part == "..") {
            return Err(invalid("Filename", filename));
        }
        Ok(Self {
            name,
            version,
            architecture: word("Architecture")?,
            archive,
            filename,
            size: size.parse().map_err(|_| invalid("Size", size))?,
            sha256: Digest::from_hex(sha256).map_err(|_| invalid("SHA256", sha256))?,
            stanza,
        })
    }

    /// Returns the packages that must be there before it is configured: those of `Pre-Depends`, then those of `Depends`.
    ///
    /// # Errors
    ///
    /// If a relation cannot be read.
    pub fn needs(&self) -> Result<Vec<Alternatives>, RelationError> {
        let mut all = relations(self.stanza.get("Pre-Depends").unwrap_or_default())?;
        all.extend(relations(self.stanza.get("Depends").unwrap_or_default())?);
        Ok(all)
    }

    /// Returns the packages that it cannot be beside: those of `Conflicts` and `Breaks`.
    ///
    /// # Errors
    ///
    /// If a relation cannot be read.
    pub fn excludes(&self) -> Result<Vec<Relation>, RelationError> {
        self.all(&["Conflicts", "Breaks"])
    }

    /// Returns the names that it stands for, perhaps of a version.
    ///
    /// # Errors
    ///
    /// If a relation cannot be read.
    pub fn provides(&self) -> Result<Vec<Relation>, RelationError> {
        self.all(&["Provides"])
    }

    fn all(&self, fields: &[&str]) -> Result<Vec<Relation>, RelationError> {
        let mut all = Vec::new();
        for field in fields {
            all.extend(relations(self.stanza.get(field).unwrap_or_default())?.into_iter().flatten());
        }
        Ok(all)
    }

    /// Returns true if no system is without it.
    pub fn is_essential(&self) -> bool {
        self.stanza.get("Essential") == Some("yes")
    }

    /// Returns its priority; an unknown one is the lowest.
    pub fn priority(&self) -> Priority {
        match self.stanza.get("Priority") {
            Some("required") => Priority::Required,
            Some("important") => Priority::Important,
            Some("standard") => Priority::Standard,
            _ => Priority::Optional,
        }
    }

    /// Returns true if a relation with this architecture means it (multi-arch specification; `native` systems alone).
    pub fn is_of(&self, architecture: Option<&str>) -> bool {
        match architecture {
            None | Some("native") => true,
            Some("any") => matches!(self.stanza.get("Multi-Arch"), Some("allowed" | "foreign" | "same")),
            Some(named) => named == self.architecture || self.architecture == "all",
        }
    }
}

/// The packages of several lists.
#[derive(Debug, Default)]
pub struct Index<'t> {
    /// By name, the highest version first.
    packages: BTreeMap<&'t str, Vec<Package<'t>>>,
    /// Names of packages that provide a name.
    providers: BTreeMap<String, Vec<&'t str>>,
}

impl<'t> Index<'t> {
    /// Adds the packages of a list that are for an architecture.
    ///
    /// # Errors
    ///
    /// If the list cannot be read.
    pub fn add(&mut self, list: &'t str, archive: usize, architecture: &str) -> Result<(), IndexError> {
        for stanza in stanzas(list) {
            let package = Package::of(stanza?, archive)?;
            if package.architecture != architecture && package.architecture != "all" {
                continue;
            }
            let invalid = |error: RelationError| IndexError::Invalid {
                package: package.name.to_owned(),
                field: "Provides",
                value: error.to_string(),
            };
            for provided in package.provides().map_err(invalid)? {
                let providers = self.providers.entry(provided.name).or_default();
                if !providers.contains(&package.name) {
                    providers.push(package.name);
                }
            }
            self.packages.entry(package.name).or_default().push(package);
        }
        for versions in self.packages.values_mut() {
            // The first of equal versions stays the first.
            versions.sort_by(|one, other| other.version.cmp(&one.version));
        }
        Ok(())
    }

    /// Returns the versions of a package, the highest first.
    pub fn versions(&self, name: &str) -> &[Package<'t>] {
        self.packages.get(name).map_or(&[], Vec::as_slice)
    }

    /// Returns the highest version of each package.
    pub fn newest(&self) -> impl Iterator<Item = &Package<'t>> {
        self.packages.values().filter_map(|versions| versions.first())
    }

    /// Returns the version of a package that lies at a path of an archive.
    pub fn at(&self, archive: usize, filename: &str) -> Option<&Package<'t>> {
        self.packages.values().flatten().find(|one| one.archive == archive && one.filename == filename)
    }

    /// Returns the names of the packages that provide a name.
    pub fn providers(&self, name: &str) -> &[&'t str] {
        self.providers.get(name).map_or(&[], Vec::as_slice)
    }
}

#[cfg(test)]
pub(crate) mod tests {
    use super::*;

    /// Returns a list of packages; each has a name, a version, and further fields.
    pub(crate) fn list(packages: &[(&str, &str, &str)]) -> String {
        let stanza = |(name, version, more): &(&str, &str, &str)| {
            let digest = Digest::of(format!("{name} {version}").as_bytes()).hex();
            let more = if more.is_empty() { String::new() } else { format!("{more}\n") };
            let architecture = if more.contains("Architecture:") { "" } else { "Architecture: amd64\n" };
            format!(
                "Package: {name}\nVersion: {version}\n{architecture}{more}Filename: pool/{name}.deb\nSize: 5\nSHA256: {digest}\n"
            )
        };
        packages.iter().map(stanza).collect::<Vec<_>>().join("\n")
    }

    #[test]
    fn the_highest_version_of_several_lists_comes_first() {
        let lists = [
            list(&[("ab", "1", ""), ("cd", "2", "")]),
            list(&[("ab", "1+deb12u1", ""), ("other", "1", "Architecture: arm64")]),
        ];
        let mut index = Index::default();
        for (archive, list) in lists.iter().enumerate() {
            index.add(list, archive, "amd64").unwrap();
        }
        let newest: Vec<_> = index.newest().map(|one| (one.name, one.version.as_str(), one.archive)).collect();
        assert_eq!(newest, [("ab", "1+deb12u1", 1), ("cd", "2", 0)]);
        assert_eq!(index.versions("ab").len(), 2);
        assert_eq!(index.versions("other").len(), 0);
    }

    #[test]
    fn a_package_that_lacks_something_is_told() {
        let error = |text: &str| Index::default().add(text, 0, "amd64").unwrap_err().to_string();
        assert_eq!(error("Package: ab\n"), "the package `ab` has no field `Version`");
        let sound = list(&[("ab", "1", "")]);
        let sound: &'static str = sound.leak();
        assert_eq!(error(sound.replace("Size: 5", "Size: x").leak()), "the package `ab` has the field `Size: x`");
        assert_eq!(
            error(sound.replace("pool/", "pool/../../").leak()),
            "the package `ab` has the field `Filename: pool/../../ab.deb`"
        );
    }
}
