//! Names in the choice of versions that no image has: a typing error would change nothing, without a word.

use std::cell::RefCell;
use std::collections::{BTreeMap, BTreeSet};

use kiln_plan::diagnostic::{Span, closest};
use kiln_plan::lock::Lock;
use kiln_plan::stack::Image;
use kiln_wheel::uv;

use super::answer::{Given, Part};
use crate::error::Result;
use crate::project::Project;

/// Names that one warning lists.
const MOST: usize = 3;

/// The exclusions of the stack by their places, and if something requires their packages.
#[derive(Debug, Default)]
pub(super) struct Exclusions(RefCell<BTreeMap<usize, (String, bool)>>);

impl Exclusions {
    /// Notes the exclusions of an image.
    pub(super) fn note(&self, image: &Image, is_used: impl Fn(&str) -> bool) {
        let mut seen = self.0.borrow_mut();
        for one in &image.resolution.exclude {
            let name = one.name.to_string();
            let used = is_used(&name);
            seen.entry(one.span.start).or_insert((name, false)).1 |= used;
        }
    }
}

impl Project<'_> {
    /// The packages among an image's exclusions that something requires. The resolver tells nothing of packages that it leaves out, so
    /// that it is asked once more for those of which nothing else tells, with a package that needs nothing in the place of each.
    pub(super) fn required_exclusions(&self, part: &Part<'_>, given: &Given<'_>) -> Result<BTreeSet<String>> {
        let image = part.question.image;
        let mut all: BTreeSet<String> = image.resolution.exclude.iter().map(|one| one.name.to_string()).collect();
        let named = |name: &str| part.question.place_of(name, None, part.listed).is_some();
        let (mut required, unknown): (BTreeSet<String>, BTreeSet<String>) =
            std::mem::take(&mut all).into_iter().partition(|name| named(name));
        if unknown.is_empty() || part.asks_nothing() {
            return Ok(required);
        }
        let searched = self.searched(part)?;
        let mut asked = self.asked(part, std::slice::from_ref(part), given, &searched)?;
        asked.exclude.retain(|name| !unknown.contains(name));
        for name in &unknown {
            asked.overrides.push(format!("{name}==0"));
            asked.recipes.push((name.clone(), "0".to_owned(), Vec::new()));
        }
        let name = format!("{} ({}), with what it excludes", image.name, part.question.platform);
        match self.ask_quietly(&asked, &name)? {
            Ok(answer) => {
                required.extend(
                    answer.packages.into_iter().map(|package| package.name).filter(|one| unknown.contains(one)),
                );
            }
            // Nothing can be told.
            Err(uv::UvError::Interrupted) => return Err(crate::error::BuildError::Interrupted),
            Err(_) => required.extend(unknown),
        }
        Ok(required)
    }

    /// Warns of names in `resolution` and `overlaps` that no image has that they hold for.
    pub(super) fn warn_of_unused(&self, lock: &Lock, exclusions: &Exclusions) -> Result<()> {
        let stack = &self.stack;
        // A name may count for another variant, which is locked later.
        if !stack.variants.is_empty() && stack.variants.last() != Some(&stack.variant) {
            return Ok(());
        }
        let in_base = lock.bases.iter().flat_map(|base| &base.facts.distributions).map(|held| held.name.as_str());
        let locked = lock.images.iter().flat_map(|image| &image.packages).map(|package| package.name.as_str());
        let there: BTreeSet<&str> = locked.chain(in_base).collect();
        let mut unused: BTreeMap<&str, BTreeMap<usize, String>> = BTreeMap::new();
        let mut check = |key, span: &Span, name: &str| {
            if !there.contains(name) {
                unused.entry(key).or_default().insert(span.start, name.to_owned());
            }
        };
        for image in stack.images.iter().filter(|image| image.has_packages()) {
            let resolution = &image.resolution;
            resolution.overrides.iter().for_each(|one| check("overrides", &one.span, one.name.as_ref()));
            resolution.constraints.iter().for_each(|one| check("constraints", &one.span, one.name.as_ref()));
            image.winners.iter().for_each(|one| check("winner", &one.span, one.name.as_ref()));
        }
        for (start, (name, _)) in exclusions.0.borrow().iter().filter(|(_, (_, is_used))| !is_used) {
            unused.entry("exclude").or_default().insert(*start, name.clone());
        }
        if unused.is_empty() {
            return Ok(());
        }
        let text = fs_err::read_to_string(&self.file)?;
        let file = self.file.file_name().unwrap_or_default().to_string_lossy();
        for (key, names) in unused {
            let line = names
                .keys()
                .next()
                .map_or(1, |start| text.get(..*start).map_or(0, |text| text.matches('\n').count()) + 1);
            let mut listed: Vec<String> = names.values().take(MOST).map(|name| format!("`{name}`")).collect();
            if names.len() > MOST {
                let last = listed.pop().unwrap_or_default();
                listed.push(format!("{last} and {} more", names.len() - MOST));
            }
            let meant = names.values().find_map(|name| closest(name, there.iter().copied()));
            let meant = meant.map(|close| format!(": did you mean `{close}`?")).unwrap_or_default();
            let why = if key == "exclude" { "which nothing requires" } else { "which no image has" };
            self.workshop.warn(format!("{file}:{line}: `{key}` names {}, {why}{meant}", listed.join(", ")));
        }
        Ok(())
    }
}
