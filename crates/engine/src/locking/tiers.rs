//! Tiers that must agree: an image takes the packages of the images below it as they are, until it requires another version of
//! one that nobody asked for.
//!
//! `datasets==2.20.0` needs an older fsspec than torch brings into the image below. Then all requirements of the chain are
//! resolved together, and the images below are locked again with that answer: what somebody wrote stays, and what the
//! resolver chose gives way. Where written requirements contradict one another, the error shows those alone.

use std::collections::{BTreeMap, BTreeSet};

use kiln_plan::lock::{Lock, LockedImage};
use kiln_plan::platform::Platform;
use kiln_plan::stack::Image;

use super::answer::{Failed, Given, Part};
use super::unused::Exclusions;
use super::{How, Upgrade};
use crate::error::{BuildError, Result};
use crate::project::Project;

/// Images whose versions were chosen together.
#[derive(Debug, Default)]
pub(super) struct Together {
    /// Names of the images.
    members: BTreeSet<String>,
    /// Versions by package.
    versions: BTreeMap<String, String>,
    /// For each image the packages that gave way, as `PACKAGE for IMAGE`.
    given_way: BTreeMap<String, BTreeSet<String>>,
}

impl Together {
    /// Returns the versions that an image must have.
    pub(super) fn choices(&self, image: &Image) -> Vec<(String, String)> {
        let is_member = self.members.contains(&image.name);
        let pair = |(name, version): (&String, &String)| (name.clone(), version.clone());
        self.versions.iter().filter(|_| is_member).map(pair).collect()
    }

    /// Returns true if an image that is locked has the versions that it must have.
    pub(super) fn agrees(&self, known: &LockedImage) -> bool {
        let same = |name: &str, version: &str| self.versions.get(name).is_none_or(|chosen| chosen == version);
        !self.members.contains(&known.name)
            || known.packages.iter().all(|package| same(&package.name, &package.version))
    }

    /// Returns what gave way in an image.
    pub(super) fn given_way(&self, image: &str) -> Vec<String> {
        self.given_way.get(image).into_iter().flatten().cloned().collect()
    }
}

impl Project<'_> {
    /// Locks all images on a platform.
    pub(super) fn lock_platform(
        &self,
        platform: Platform,
        old: &Lock,
        new: &mut Lock,
        (upgrade, frozen): (&Upgrade, bool),
        exclusions: &Exclusions,
    ) -> Result<()> {
        let mut together = Together::default();
        loop {
            let mut trial = new.clone();
            let how = How { upgrade, frozen, together: &together, exclusions };
            let stopped = self.stack.images.iter().map(|image| self.stack.on(image, platform)).find_map(|image| {
                let locked = match self.workshop.cancel.check() {
                    Ok(()) => self.lock_one(image, platform, old, &mut trial, how),
                    Err(_) => Err(BuildError::Interrupted.into()),
                };
                locked.err().map(|failed| (image, failed))
            });
            // Bases are not looked into again.
            new.bases.clone_from(&trial.bases);
            match stopped {
                None => {
                    *new = trial;
                    return Ok(());
                }
                Some((image, Failed::Conflict(error))) => {
                    let alone = self.stack.ancestors(image).all(|above| !above.has_packages());
                    if alone || !self.choose_together(image, platform, &trial, &mut together)? {
                        return Err(error);
                    }
                }
                Some((_, Failed::Other(error))) => return Err(error),
            }
        }
    }

    /// Chooses versions for an image, those below it, and those that were chosen together before. False if that was done for
    /// this image already.
    fn choose_together(
        &self,
        image: &Image,
        platform: Platform,
        trial: &Lock,
        together: &mut Together,
    ) -> Result<bool> {
        if !together.members.insert(image.name.clone()) {
            return Ok(false);
        }
        together.members.extend(self.stack.ancestors(image).map(|above| above.name.clone()));
        let members = self.stack.images.iter().map(|image| self.stack.on(image, platform));
        let mut members: Vec<&Image> = members.filter(|one| together.members.contains(&one.name)).collect();
        // The error is about the image that it is asked for.
        members.sort_by_key(|one| one.name != image.name);
        let mut questions = Vec::new();
        for member in &members {
            questions.push(self.question(member, platform, trial, true)?);
        }
        let mut listed = Vec::new();
        for question in &questions {
            listed.push(question.listed(self)?);
        }
        let mut parts = Vec::new();
        for (question, listed) in questions.iter().zip(&listed) {
            parts.push(Part::of(self, question, listed.as_ref())?);
        }
        let locked = members.iter().filter_map(|member| trial.image(&member.name, platform));
        let packages = |image: &LockedImage| -> Vec<(String, String)> {
            image.packages.iter().map(|package| (package.name.clone(), package.version.clone())).collect()
        };
        let preferences: Vec<(String, String)> = locked.clone().flat_map(packages).collect();
        let in_base = questions.first().map(|question| question.in_base.clone()).unwrap_or_default();
        let found = self.resolve(&parts, &Given { pins: &in_base, preferences: &preferences, ..Given::default() })?;
        together.versions = found.into_iter().filter_map(|package| Some((package.name, package.version?))).collect();
        for below in locked {
            for (name, version) in packages(below) {
                let Some(chosen) = together.versions.get(&name).filter(|chosen| **chosen != version) else { continue };
                let given = together.given_way.entry(below.name.clone()).or_default();
                if given.insert(format!("{name} for {}", image.name)) {
                    let (below, image) = (&below.name, &image.name);
                    self.workshop.warn(format!(
                        "`{below}` gets {name} {chosen} rather than {version}: `{image}` requires it, and nothing below forbids it"
                    ));
                }
            }
        }
        Ok(true)
    }

    /// Returns true if what an image gave way to is still in the stack.
    pub(super) fn gives_way_to_images(&self, known: &LockedImage) -> bool {
        known.gives_way.iter().filter_map(|text| text.rsplit_once(" for ")).all(|(_, name)| {
            let image = self.stack.image(name);
            image.is_some_and(|image| self.stack.ancestors(image).any(|above| above.name == known.name))
        })
    }
}
