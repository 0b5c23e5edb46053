//! Packages of the images below, which an image takes as they are: they must be the very wheels that its own lines allow.

use std::collections::{BTreeMap, BTreeSet};

use kiln_plan::diagnostic::{Diagnostic, Diagnostics};
use kiln_plan::digest::Digest;
use kiln_plan::lock::Lock;
use kiln_plan::platform::Platform;
use kiln_plan::stack::{Image, Requirement};
use kiln_wheel::pylock::LockedPackage;
use kiln_wheel::requirements::{Requirements, Source};

use super::answer::Part;
use super::listed::Listed;
use super::question::ImageQuestion;
use crate::error::Result;
use crate::project::Project;

/// A wheel of an image below.
#[derive(Debug, Clone)]
pub(super) struct Above {
    pub(super) digest: Digest,
    pub(super) file: String,
    /// The image that has it.
    pub(super) image: String,
}

/// Returns the wheels of images that are locked, by package.
pub(super) fn wheels(images: &[&Image], platform: Platform, lock: &Lock) -> BTreeMap<String, Above> {
    let known = lock.wheels_by_digest();
    let mut found = BTreeMap::new();
    for image in images {
        for package in lock.image(&image.name, platform).into_iter().flat_map(|locked| &locked.packages) {
            let file = known.get(&package.wheel).map(|wheel| wheel.file.clone()).unwrap_or_default();
            let above = Above { digest: package.wheel, file, image: image.name.clone() };
            found.insert(package.name.clone(), above);
        }
    }
    found
}

/// Returns the names of packages for which lines demand a certain wheel: by a hash, a path or an address.
pub(super) fn certain(own: &[Requirement], list: Option<&Requirements>) -> BTreeSet<String> {
    let lines = list.into_iter().flat_map(|list| list.requirements.iter().chain(&list.constraints));
    let is_certain = |source: &Source| !matches!(source, Source::Index(_));
    let lines = lines.filter(|line| !line.value.hashes.is_empty() || is_certain(&line.value.source));
    let own = own.iter().filter(|one| is_direct(one)).map(|one| one.name.to_string());
    own.chain(lines.map(|line| line.value.name.to_string())).collect()
}

/// Returns true for a requirement of one wheel.
fn is_direct(requirement: &Requirement) -> bool {
    requirement.wheel.is_some() || requirement.text.split(';').next().is_some_and(|text| text.contains('@'))
}

impl Project<'_> {
    /// Refuses packages of images below that are other wheels than this image demands, and warns of hashes that cannot be checked.
    pub(super) fn check_above(
        &self,
        question: &ImageQuestion<'_>,
        part: &Part<'_>,
        listed: Option<&Listed<'_>>,
        found: &[LockedPackage],
    ) -> Result<()> {
        let mut wrong = Diagnostics::default();
        for (name, version) in &question.above {
            let Some(above) = question.wheels_above.get(name) else { continue };
            if let Some(listed) = listed {
                listed.check_above(name, version, above)?;
            }
            let package = |list: &[LockedPackage]| list.iter().find(|package| package.name == *name).cloned();
            let locked = package(&part.locked);
            let demanded = locked.or_else(|| package(found).filter(|_| question.demands(name)));
            let is_other = |package: &LockedPackage| {
                !package.wheels.is_empty() && !package.wheels.iter().any(|wheel| wheel.sha256 == above.digest)
            };
            if let Some(package) = demanded.filter(is_other) {
                let of_lock = question.locks.first().filter(|_| part.locked.iter().any(|locked| locked.name == *name));
                let place =
                    of_lock.map(|(source, _)| source.span().into()).or_else(|| question.place_of(name, None, listed));
                let place = place.unwrap_or_else(|| question.image.span.clone().into());
                let other = package.wheels.first().map(|wheel| wheel.file.as_str()).unwrap_or_default();
                let message = format!(
                    "{name} {version} is another wheel in `{}`, below: `{}` with {}",
                    above.image, above.file, above.digest
                );
                let hint = format!("`{other}` is demanded here: demand the same in both, or leave it out here");
                wrong.push(Diagnostic::at(place, message).hint(hint));
            }
        }
        self.warn_of_unchecked(question, listed);
        Ok(wrong.or(())?)
    }

    /// Warns of hashes of packages that the base brings: nobody knows which wheels it was made of.
    fn warn_of_unchecked(&self, question: &ImageQuestion<'_>, listed: Option<&Listed<'_>>) {
        let has_hash = |name: &&str| listed.is_some_and(|listed| listed.has_hash(name));
        let names: Vec<&str> = question.in_base.iter().map(|(name, _)| name.as_str()).filter(has_hash).collect();
        if let Some(first) = names.first() {
            let more = if names.len() > 1 { format!(" and {} more", names.len() - 1) } else { String::new() };
            self.workshop.warn(format!(
                "the hashes of {first}{more} are not checked in `{}`: the base has them, and not as wheels. \
                 `python.replace` installs them from wheels",
                question.image.name
            ));
        }
    }
}
