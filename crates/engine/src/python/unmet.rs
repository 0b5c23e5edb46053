//! Requirements of a base's own distributions that are not met, as `pip check` finds them: the resolver never sees them, and
//! an image that takes away or replaces what they need is told.

use std::collections::{BTreeMap, BTreeSet};
use std::str::FromStr as _;

use kiln_plan::base::Distribution;
use pep440_rs::Version;
use pep508_rs::{MarkerEnvironment, Requirement, VerbatimUrl, VersionOrUrl};

use super::BasePython;

/// Requirements that one warning names.
const MOST: usize = 5;

/// Packages of an image beside those of its base.
pub(crate) struct Beside<'a> {
    /// Packages that the image brings.
    pub(crate) own: BTreeMap<&'a str, &'a str>,
    /// Packages of the images below it.
    pub(crate) below: BTreeMap<&'a str, &'a str>,
    /// Names of the base's distributions that the image takes away.
    pub(crate) removed: BTreeSet<&'a str>,
    /// Names of the base's distributions that the image's own packages require.
    pub(crate) needed: BTreeSet<&'a str>,
}

/// A requirement of a distribution that is not met.
struct Unmet<'f> {
    held: &'f Distribution,
    requirement: &'f str,
    name: String,
    version: Option<String>,
}

impl Unmet<'_> {
    fn clause(&self) -> String {
        let Self { held, requirement, version, .. } = self;
        let requirement = requirement.split(';').next().unwrap_or(requirement).trim();
        let found =
            version.as_ref().map_or_else(|| "which is not there".into(), |version| format!("and there is {version}"));
        format!("{} {} requires {requirement}, {found}", held.name, held.version)
    }
}

impl<'f> BasePython<'f> {
    /// Returns the warnings about requirements of the base's distributions: those that the image breaks, and those that the base
    /// itself does not meet as far as packages of the image reach them.
    pub(crate) fn unmet(&self, image: &str, beside: &Beside<'_>, markers: &MarkerEnvironment) -> Vec<String> {
        let all = self.all_unmet(beside, markers);
        let is_changed = |unmet: &&Unmet<'_>| {
            beside.own.contains_key(unmet.name.as_str()) || beside.removed.contains(unmet.name.as_str())
        };
        let is_below = |unmet: &&Unmet<'_>| {
            beside.below.contains_key(unmet.name.as_str()) || self.removed.iter().any(|held| held.name == unmet.name)
        };
        let reached = self.reached(&beside.needed, markers);
        let changed: Vec<&Unmet<'_>> = all.iter().filter(is_changed).collect();
        let own =
            |unmet: &&Unmet<'_>| !is_changed(unmet) && !is_below(unmet) && reached.contains(unmet.held.name.as_str());
        let own: Vec<&Unmet<'_>> = all.iter().filter(own).collect();
        let breaks = told(&changed).map(|text| {
            format!(
                "`{image}` breaks what distributions of its base require: {text}. Other versions, or another choice of \
                 `python.replace` and `python.remove`, mend it; `remove` takes away what is not used"
            )
        });
        let lacks = told(&own).map(|text| {
            format!(
                "the base of `{image}` lacks what its own distributions require, and packages of the image need them: {text}. \
                 What is missing can be added to `packages`"
            )
        });
        breaks.into_iter().chain(lacks).collect()
    }

    fn all_unmet(&self, beside: &Beside<'_>, markers: &MarkerEnvironment) -> Vec<Unmet<'f>> {
        let stays = |held: &&&Distribution| !self.removed.contains(*held);
        let in_base =
            |name: &str| self.all.iter().filter(stays).find(|held| held.name == name).map(|held| held.version.as_str());
        let mut found = Vec::new();
        for held in self.seen.iter().copied() {
            for (text, requirement) in requirements(held, markers) {
                let name = requirement.name.to_string();
                let module = name.replace('-', "_");
                let is_module = || self.seen.iter().any(|held| held.modules.contains(&module));
                let image = beside.own.get(name.as_str()).or_else(|| beside.below.get(name.as_str())).copied();
                let version = image.or_else(|| in_base(&name));
                let is_accepted = self.accepted.contains_key(&name) || version.is_none() && is_module();
                if !is_accepted && !version.is_some_and(|version| meets(&requirement, version)) {
                    found.push(Unmet { held, requirement: text, name, version: version.map(str::to_owned) });
                }
            }
        }
        found
    }

    /// Returns the names of the base's distributions that some require, and those that these require, and so on.
    fn reached(&self, needed: &BTreeSet<&str>, markers: &MarkerEnvironment) -> BTreeSet<String> {
        let mut reached = BTreeSet::new();
        let mut waiting: Vec<String> = needed.iter().map(|name| (*name).to_owned()).collect();
        while let Some(name) = waiting.pop() {
            let Some(held) = self.seen.iter().find(|held| held.name == name) else { continue };
            if reached.insert(name) {
                waiting.extend(requirements(held, markers).map(|(_, requirement)| requirement.name.to_string()));
            }
        }
        reached
    }
}

/// Returns the requirements of a distribution that apply, with their texts. One that is none is left out, as its own installer did.
fn requirements<'f>(
    held: &'f Distribution,
    markers: &MarkerEnvironment,
) -> impl Iterator<Item = (&'f str, Requirement<VerbatimUrl>)> {
    let parsed = held.requires.iter().filter_map(|text| Some((text.as_str(), Requirement::from_str(text).ok()?)));
    parsed.filter(|(_, requirement)| requirement.marker.evaluate(markers, &[]))
}

fn meets(requirement: &Requirement<VerbatimUrl>, version: &str) -> bool {
    match &requirement.version_or_url {
        Some(VersionOrUrl::VersionSpecifier(specifiers)) => {
            version.parse::<Version>().is_ok_and(|version| specifiers.contains(&version))
        }
        Some(VersionOrUrl::Url(_)) | None => true,
    }
}

/// Returns the text about some requirements; `None` where there is none.
fn told(unmet: &[&Unmet<'_>]) -> Option<String> {
    let clauses: Vec<String> = unmet.iter().take(MOST).map(|unmet| unmet.clause()).collect();
    let more = match unmet.len().saturating_sub(MOST) {
        0 => String::new(),
        number => format!("; and {number} more"),
    };
    (!clauses.is_empty()).then(|| format!("{}{more}", clauses.join("; ")))
}
