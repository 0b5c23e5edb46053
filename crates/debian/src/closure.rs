//! The packages that belong to some: those that they need, and those that these need.
//!
//! There is no search. The first alternative that an archive offers is taken, unless another one is there already, as debootstrap does
//! it; apt's order decides between those that provide a name: priority, then the name. Sets that contradict themselves are refused.

use std::collections::{BTreeMap, VecDeque};

use crate::index::{Index, Package, Priority};
use crate::relation::{Alternatives, Relation, RelationError};
use crate::version::Version;

/// Packages that do not go together.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum ClosureError {
    /// A package that no archive offers.
    #[error("there is no package `{wanted}`{}", needed(by))]
    Absent {
        /// It, with its version.
        wanted: String,
        /// The package that needs it.
        by: Option<String>,
    },
    /// Two that cannot be beside one another.
    #[error("`{one}` and `{other}` cannot be installed together")]
    Apart {
        /// One.
        one: String,
        /// The other.
        other: String,
    },
    /// A package that would have to be of two versions.
    #[error("`{by}` needs {wanted}, and {found} is chosen")]
    Version {
        /// The package that needs it.
        by: String,
        /// The relation.
        wanted: String,
        /// The version that is chosen.
        found: String,
    },
    /// A relation that cannot be read.
    #[error("a relation of the package `{package}` cannot be read")]
    Relation {
        /// The package.
        package: String,
        /// The reason.
        source: RelationError,
    },
}

fn needed(by: &Option<String>) -> String {
    by.as_ref().map_or_else(String::new, |by| format!(", which `{by}` needs"))
}

/// A set of packages, by name.
pub type Chosen<'i, 't> = BTreeMap<&'t str, &'i Package<'t>>;

/// Returns the packages of a smallest system with apt, and those that are wanted, with everything that they need.
///
/// # Errors
///
/// If one is not offered, or they do not go together.
pub fn system<'i, 't>(index: &'i Index<'t>, wanted: &[Relation]) -> Result<Chosen<'i, 't>, ClosureError> {
    let mut closure = Closure { index, chosen: BTreeMap::new(), waiting: VecDeque::new() };
    // What is asked for by version comes first: what else is needed must fit to it.
    for relation in wanted {
        closure.take(relation, None)?;
    }
    for package in index.newest().filter(|one| one.is_essential() || one.priority() == Priority::Required) {
        closure.put(package);
    }
    closure.take(&Relation { name: "apt".to_owned(), architecture: None, version: None }, None)?;
    closure.complete()?;
    closure.require_together()?;
    Ok(closure.chosen)
}

struct Closure<'i, 't> {
    index: &'i Index<'t>,
    chosen: Chosen<'i, 't>,
    /// Packages whose needs were not looked at.
    waiting: VecDeque<&'i Package<'t>>,
}

impl<'i, 't> Closure<'i, 't> {
    fn put(&mut self, package: &'i Package<'t>) {
        if !self.chosen.contains_key(package.name) {
            self.chosen.insert(package.name, package);
            self.waiting.push_back(package);
        }
    }

    /// Chooses a package that a relation means.
    fn take(&mut self, relation: &Relation, by: Option<&str>) -> Result<(), ClosureError> {
        if self.holds(relation)? {
            return Ok(());
        }
        if let (Some(found), Some(by)) = (self.chosen.get(relation.name.as_str()), by)
            && self.index.providers(&relation.name).is_empty()
        {
            let found = format!("{} {}", found.name, found.version);
            return Err(ClosureError::Version { by: by.to_owned(), wanted: relation.to_string(), found });
        }
        let package = self
            .offered(relation)?
            .ok_or_else(|| ClosureError::Absent { wanted: relation.to_string(), by: by.map(str::to_owned) })?;
        self.put(package);
        Ok(())
    }

    fn complete(&mut self) -> Result<(), ClosureError> {
        while let Some(package) = self.waiting.pop_front() {
            for alternatives in package.needs().map_err(|source| unreadable(package, source))? {
                self.need(package, &alternatives)?;
            }
        }
        Ok(())
    }

    fn need(&mut self, package: &Package<'t>, alternatives: &Alternatives) -> Result<(), ClosureError> {
        for one in alternatives {
            if self.holds(one)? {
                return Ok(());
            }
        }
        for one in alternatives {
            // Another version of what is chosen cannot be had.
            if !self.chosen.contains_key(one.name.as_str()) && self.offered(one)?.is_some() {
                return self.take(one, Some(package.name));
            }
        }
        match alternatives.first() {
            Some(first) => self.take(first, Some(package.name)),
            None => Ok(()),
        }
    }

    /// Returns true if something that is chosen is what a relation means.
    fn holds(&self, relation: &Relation) -> Result<bool, ClosureError> {
        if self.chosen.get(relation.name.as_str()).is_some_and(|one| is_meant(one, relation)) {
            return Ok(true);
        }
        for name in self.index.providers(&relation.name) {
            if let Some(provider) = self.chosen.get(name)
                && stands_for(provider, relation)?
            {
                return Ok(true);
            }
        }
        Ok(false)
    }

    /// Returns the package that apt would take: of the name itself, else the most important one that provides it.
    fn offered(&self, relation: &Relation) -> Result<Option<&'i Package<'t>>, ClosureError> {
        let own = self.index.versions(&relation.name).iter().find(|one| is_meant(one, relation));
        if own.is_some() {
            return Ok(own);
        }
        let mut best: Option<&'i Package<'t>> = None;
        for name in self.index.providers(&relation.name) {
            for provider in self.index.versions(name).iter().take(1) {
                let comes_first =
                    best.is_none_or(|best| (provider.priority(), provider.name) < (best.priority(), best.name));
                if comes_first && stands_for(provider, relation)? {
                    best = Some(provider);
                }
            }
        }
        Ok(best)
    }

    /// Refuses packages that exclude one another.
    fn require_together(&self) -> Result<(), ClosureError> {
        for package in self.chosen.values() {
            for excluded in package.excludes().map_err(|source| unreadable(package, source))? {
                let own = self.chosen.get(excluded.name.as_str()).filter(|one| is_meant(one, &excluded));
                let mut found: Vec<&Package<'t>> = own.copied().into_iter().collect();
                for name in self.index.providers(&excluded.name) {
                    if let Some(provider) = self.chosen.get(name)
                        && stands_for(provider, &excluded)?
                    {
                        found.push(provider);
                    }
                }
                // A package may exclude a name that it provides itself: others that do are meant.
                if let Some(other) = found.iter().find(|other| other.name != package.name) {
                    let (one, other) = (package.name.to_owned(), other.name.to_owned());
                    return Err(ClosureError::Apart { one, other });
                }
            }
        }
        Ok(())
    }
}

fn unreadable(package: &Package<'_>, source: RelationError) -> ClosureError {
    ClosureError::Relation { package: package.name.to_owned(), source }
}

fn is_meant(package: &Package<'_>, relation: &Relation) -> bool {
    package.name == relation.name
        && package.is_of(relation.architecture.as_deref())
        && relation.accepts(&package.version)
}

/// Returns true if a package provides what a relation means: one with a version means what is provided with a version alone.
fn stands_for(package: &Package<'_>, relation: &Relation) -> Result<bool, ClosureError> {
    let provided = package.provides().map_err(|source| unreadable(package, source))?;
    let fits = |found: Option<&Version>| match (&relation.version, found) {
        (None, _) => true,
        (Some(_), Some(version)) => relation.accepts(version),
        (Some(_), None) => false,
    };
    Ok(provided.iter().any(|one| one.name == relation.name && fits(one.version.as_ref().map(|(_, version)| version))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::index::tests::list;

    fn names(packages: &[(&str, &str, &str)], wanted: &[&str]) -> Result<Vec<String>, String> {
        let base = [
            ("apt", "2", "Depends: libc6"),
            ("libc6", "2.36", ""),
            ("dash", "1", "Essential: yes\nPriority: required"),
        ];
        let list = list(&[&base[..], packages].concat());
        let mut index = Index::default();
        index.add(&list, 0, "amd64").unwrap();
        let wanted: Vec<Relation> = wanted.iter().map(|text| Relation::parse(text).unwrap()).collect();
        let chosen = system(&index, &wanted).map_err(|error| error.to_string())?;
        Ok(chosen.values().map(|one| format!("{} {}", one.name, one.version)).collect())
    }

    #[test]
    fn a_system_has_what_is_essential_and_apt_and_what_these_need() {
        assert_eq!(names(&[("unused", "1", "")], &[]).unwrap(), ["apt 2", "dash 1", "libc6 2.36"]);
        let more = [("tool", "3", "Pre-Depends: libtool1\nDepends: libc6 (>= 2.30)"), ("libtool1", "1", "")];
        assert_eq!(names(&more, &["tool"]).unwrap(), ["apt 2", "dash 1", "libc6 2.36", "libtool1 1", "tool 3"]);
    }

    #[test]
    fn the_first_alternative_is_taken_unless_another_is_there() {
        let packages = [("tool", "1", "Depends: first | second"), ("first", "1", ""), ("second", "1", "")];
        assert!(names(&packages, &["tool"]).unwrap().contains(&"first 1".to_owned()));
        let both = names(&packages, &["tool", "second"]).unwrap();
        assert!(both.contains(&"second 1".to_owned()) && !both.contains(&"first 1".to_owned()), "{both:?}");
        let absent = [("tool", "1", "Depends: absent | second"), ("second", "1", "")];
        assert!(names(&absent, &["tool"]).unwrap().contains(&"second 1".to_owned()));
    }

    #[test]
    fn a_provided_name_is_the_most_important_package_s() {
        let packages = [
            ("tool", "1", "Depends: awk"),
            ("gawk", "5", "Provides: awk"),
            ("mawk", "1", "Provides: awk\nPriority: important"),
        ];
        assert!(names(&packages, &["tool"]).unwrap().contains(&"mawk 1".to_owned()));
        let versioned = [
            ("tool", "1", "Depends: api (>= 2)"),
            ("one", "1", "Provides: api"),
            ("two", "1", "Provides: api (= 2.1)"),
        ];
        assert!(names(&versioned, &["tool"]).unwrap().contains(&"two 1".to_owned()));
    }

    #[test]
    fn a_version_that_is_asked_for_is_taken() {
        let packages = [("tool", "2", ""), ("tool", "1", "")];
        assert!(names(&packages, &["tool"]).unwrap().contains(&"tool 2".to_owned()));
        assert!(names(&packages, &["tool (= 1)"]).unwrap().contains(&"tool 1".to_owned()));
        let needs = [("tool", "2", ""), ("tool", "1", ""), ("user", "1", "Depends: tool (>= 2)")];
        assert_eq!(
            names(&needs, &["tool (= 1)", "user"]).unwrap_err(),
            "`user` needs tool (>= 2), and tool 1 is chosen"
        );
    }

    #[test]
    fn what_does_not_go_together_is_refused() {
        let error = |packages: &[(&str, &str, &str)], wanted: &[&str]| names(packages, wanted).unwrap_err();
        assert_eq!(error(&[], &["absent"]), "there is no package `absent`");
        assert_eq!(
            error(&[("tool", "1", "Depends: absent (>= 2)")], &["tool"]),
            "there is no package `absent (>= 2)`, which `tool` needs"
        );
        let apart = [("one", "1", "Conflicts: other"), ("other", "1", "")];
        assert_eq!(error(&apart, &["one", "other"]), "`one` and `other` cannot be installed together");
        let newer = [("one", "1", "Breaks: other (<< 1)"), ("other", "1", "")];
        assert!(names(&newer, &["one", "other"]).is_ok());
        let same = [("one", "1", "Provides: mta\nConflicts: mta"), ("other", "1", "Provides: mta")];
        assert_eq!(error(&same, &["one", "other"]), "`one` and `other` cannot be installed together");
        assert!(names(&same, &["one"]).is_ok());
    }
}
