//! Requirements that have no answer: which they are, where they stand, and the bounds that they meet.
//!
//! The resolver gets what an image stands on, constraints, overrides and locks of other tools as bounds of versions, and tells
//! them as requirements of whoever needs the package.

use kiln_plan::diagnostic::{Diagnostic, Diagnostics, Label};
use kiln_wheel::pylock::LockedPackage;
use kiln_wheel::uv::{self, Blocker, Bound};

use super::answer::{Given, Part};
use super::question::ImageQuestion;
use crate::error::BuildError;
use crate::project::Project;

/// Ways out of a conflict with packages of a base.
fn base_ways(name: &str, version: &str) -> String {
    format!(
        "{name} {version} is one of the base's own packages, which stay as they are. `python = {{ accept = [\"{name}\"] }}` \
         takes it as it is, `replace = [\"{name}\"]` installs another in its place, and `environment = \"venv\"` sees none of \
         the base's packages"
    )
}

/// A bound that was given to the resolver, and its place.
struct Placed {
    bound: Bound,
    place: Option<Label>,
}

/// The bound of a requirement, as the resolver writes it.
fn bound(name: &str, text: &str, says: String) -> Bound {
    let text = text.split(';').next().unwrap_or_default();
    let versions = text.find(['=', '<', '>', '~', '!']).map_or("", |at| &text[at..]);
    let versions: String = versions.chars().filter(|c| !c.is_whitespace() && *c != ')').collect();
    Bound { name: name.to_owned(), requirement: format!("{name}{versions}"), says }
}

impl Project<'_> {
    /// The error about requirements that contradict one another.
    pub(super) fn conflict(&self, parts: &[Part<'_>], given: &Given<'_>, explanation: &str) -> Diagnostics {
        let Some(first) = parts.first() else { return Diagnostics::default() };
        let bounds = self.bounds(parts, given, explanation);
        let mut labels = mentioned(parts, explanation);
        labels.extend(bounds.iter().filter_map(|one| one.place.clone()));
        let problem = if labels.len() > 1 { "contradict one another" } else { "cannot be resolved" };
        let message =
            format!("the packages of `{}` {problem} on {}", first.question.image.name, first.question.platform);
        if labels.is_empty() {
            labels.push(first.question.image.span.clone().into());
        }
        let bounds: Vec<Bound> = bounds.into_iter().map(|one| one.bound).collect();
        let mut explanation = uv::attribute(explanation, &bounds);
        if parts.len() > 1 {
            explanation = explanation.replace("this image depends on", "the stack requires");
        }
        let held = first.question.in_base.iter().find(|(name, _)| uv::mentions(&explanation, name));
        if let Some((name, version)) = held {
            explanation = format!("{explanation}\n{}", base_ways(name, version));
        }
        Diagnostic { message, labels, hint: None }.hint(explanation).into()
    }

    /// The error about packages of which wheels fit that a bound keeps from being chosen; `None` where there is no such.
    pub(super) fn held_back(&self, parts: &[Part<'_>], given: &Given<'_>, blockers: &[Blocker]) -> Option<Diagnostics> {
        blockers.iter().find_map(|blocker| {
            let own = |claim: &uv::Claim| claim.by.starts_with(blocker.name.as_str());
            let mut bounds = self.bounds(parts, given, &blocker.explanation).into_iter();
            let is_held = bounds.any(|one| uv::against(&blocker.explanation, &one.bound).iter().any(own));
            is_held.then(|| self.conflict(parts, given, &blocker.explanation))
        })
    }

    /// The errors about packages of which no wheel fits, all at once.
    pub(super) fn no_wheels(&self, parts: &[Part<'_>], given: &Given<'_>, blockers: &[Blocker]) -> Diagnostics {
        let mut wrong = Diagnostics::default();
        let Some(first) = parts.first() else { return wrong };
        let question = first.question;
        for (at, blocker) in blockers.iter().enumerate() {
            let Blocker { name, versions, explanation, .. } = blocker;
            let message = format!("no wheel of {name}{versions} fits {}", question.system());
            let mut labels = mentioned(parts, explanation);
            let place = parts.iter().find_map(|part| part.question.place_of(name, None, part.listed));
            labels.retain(|label| {
                place.as_ref().is_none_or(|place| (&label.file, &label.span) != (&place.file, &place.span))
            });
            labels.extend(self.bounds(parts, given, explanation).into_iter().filter_map(|one| one.place));
            labels.splice(0..0, place.or_else(|| labels.is_empty().then(|| question.image.span.clone().into())));
            let mut hint = blocker.told().to_owned();
            if at + 1 == blockers.len() {
                hint.push_str(
                    "; choose a version or a Python that has wheels, or build the wheel elsewhere (`pip wheel --no-deps`) and \
                     put it into a directory of `[index] find-links`",
                );
            }
            wrong.push(Diagnostic { message, labels, hint: Some(hint) });
        }
        wrong
    }

    /// The bounds that an explanation mentions.
    fn bounds(&self, parts: &[Part<'_>], given: &Given<'_>, explanation: &str) -> Vec<Placed> {
        let mut found: Vec<Placed> = Vec::new();
        let Some(first) = parts.first() else { return found };
        let question = first.question;
        let is_mentioned = |name: &str| uv::mentions(explanation, name);
        let mut add = |name: &str, text: &str, says: String, place: Option<Label>| {
            found.push(Placed { bound: bound(name, text, says), place });
        };
        for (name, version) in given.pins.iter().filter(|(name, _)| is_mentioned(name)) {
            let says = match question.in_base.iter().any(|(held, _)| held == name) {
                true => format!("the base has {name} {version}"),
                false => format!("what `{}` stands on has {name} {version}", question.image.name),
            };
            add(name, &format!("=={version}"), says, None);
        }
        for text in given.bounds {
            let name = text.split(['=', '<', '>', '~', '!']).next().unwrap_or_default();
            add(name, text, format!("the torch that was chosen goes with `{text}`"), None);
        }
        for (name, version, _) in question.recipes.iter().filter(|(name, ..)| is_mentioned(name)) {
            let recipe = self.stack.recipes.iter().find(|(known, _)| known.as_ref() == name);
            let place = recipe.map(|(_, recipe)| Label { text: "its wheel".into(), ..recipe.span.clone().into() });
            add(name, &format!("=={version}"), format!("`[wheels.{name}]` brings {name} {version}"), place);
        }
        for part in parts {
            for package in part.locked.iter().filter(|package| is_mentioned(&package.name)) {
                let (name, Some(version)) = (&package.name, &package.version) else { continue };
                let at = part.question.locked_at(name, Some(version));
                let (place, file) = at.map_or((None, "the lock".to_owned()), |(place, file)| (Some(place), file));
                let place = place.map(|place| Label { text: "locked here".into(), ..place });
                add(name, &format!("=={version}"), format!("{file} has {name} {version}"), place);
            }
            let resolution = &part.question.image.resolution;
            let constraints = resolution.constraints.iter().map(|one| (one, Kind::Constraint));
            let overrides = resolution.overrides.iter().map(|one| (one, Kind::Override));
            for (one, kind) in constraints.chain(overrides).filter(|(one, _)| is_mentioned(one.name.as_ref())) {
                let place = Label { text: kind.label().into(), ..one.span.clone().into() };
                add(one.name.as_ref(), &one.text, kind.says(one.name.as_ref(), &one.text), Some(place));
            }
            for (line, is_override) in part.listed.into_iter().flat_map(|listed| listed.bounds()) {
                let (name, text) = (line.value.name.to_string(), line.value.to_string());
                if is_mentioned(&name) {
                    let kind = if is_override { Kind::Override } else { Kind::Constraint };
                    let place = Label { text: kind.label().into(), ..line.place.clone().into() };
                    add(&name, &text, kind.says(&name, &text), Some(place));
                }
            }
        }
        found.dedup_by(|one, other| one.bound == other.bound && one.place == other.place);
        found
    }
}

/// Bounds that somebody wrote.
#[derive(Clone, Copy)]
enum Kind {
    Constraint,
    Override,
}

impl Kind {
    fn label(self) -> &'static str {
        match self {
            Self::Constraint => "a constraint",
            Self::Override => "an override",
        }
    }

    fn says(self, name: &str, text: &str) -> String {
        match self {
            Self::Constraint => format!("the constraint `{text}` holds"),
            Self::Override => format!("the override `{text}` replaces what others require of {name}"),
        }
    }
}

/// Returns the error about a package that a lock of another tool has in another version than what the image stands on.
pub(super) fn locked_otherwise(question: &ImageQuestion<'_>, package: &LockedPackage, below: &str) -> BuildError {
    let (name, version) = (&package.name, package.version.as_deref().unwrap_or("?"));
    let place = question.locked_at(name, package.version.as_deref()).map(|(place, _)| place);
    let place = place.unwrap_or_else(|| question.image.span.clone().into());
    let message =
        format!("the lock has {name} {version}, and what `{}` stands on has {name} {below}", question.image.name);
    let hint = format!(
        "lock the same version in both, leave it out with `resolution = {{ exclude = [\"{name}\"] }}`, or take a base without it"
    );
    Diagnostics::from(Diagnostic::at(place, message).hint(hint)).into()
}

/// Returns the error about two locks that name two versions of a package.
pub(super) fn differently(question: &ImageQuestion<'_>, one: &LockedPackage, other: &LockedPackage) -> BuildError {
    let [first, second] = [other, one].map(|package| package.version.as_deref().unwrap_or("?"));
    let message = format!("two locks of `{}` name {} {first} and {second}", question.image.name, one.name);
    let mut places = [other, one]
        .into_iter()
        .filter_map(|package| question.locked_at(&package.name, package.version.as_deref()).map(|(place, _)| place));
    let mut diagnostic = Diagnostic::at(places.next().unwrap_or_else(|| question.image.span.clone().into()), message);
    if let Some(place) = places.next() {
        diagnostic.labels.push(place);
    }
    Diagnostics::from(diagnostic.hint("lock them together, or take one")).into()
}

/// The places of all requirements that an explanation mentions.
fn mentioned(parts: &[Part<'_>], explanation: &str) -> Vec<Label> {
    let mentions = |name: &str| uv::mentions(explanation, name);
    let Some(first) = parts.first() else { return Vec::new() };
    let mut labels: Vec<Label> = Vec::new();
    for (requirement, image) in first.question.requirements(parts).filter(|(r, _)| mentions(r.name.as_ref())) {
        let text = if *image == first.question.image.name { String::new() } else { format!("in `{image}`") };
        labels.push(Label { text, ..requirement.span.clone().into() });
    }
    for listed in parts.iter().filter_map(|part| part.listed) {
        labels.extend(listed.named().filter(|(name, _)| mentions(name)).map(|(_, place)| place.clone().into()));
    }
    labels
}
