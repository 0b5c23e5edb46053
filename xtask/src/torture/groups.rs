//! Two to eight processes in one store at once: the same and different images, downloads of the same wheels, one shared
//! layout, garbage collection among them, and some that are killed.

use std::collections::BTreeMap;

use super::campaign::Report;
use super::interposer::{Disturbance, Mode};
use super::kills::point;
use super::outcome::{Outcome, Problem, finish, problem, start};
use super::place::{Build, Place, Start};
use super::scenario::{PRUNE, is_archive};
use super::world::{Variant, World};
use super::{Result, check};
use crate::random::Random;

/// What the processes do: arguments, and the scenario whose calls are about as many.
const COMMANDS: [(&str, &str); 11] = [
    ("build --json --output oci:shared", "cold"),
    ("build train --json --output oci:shared", "cold"),
    ("build serve --json --output oci:shared", "cold"),
    ("build ml --json --output oci:shared", "cold"),
    ("build train --json --output oci:out", "cold"),
    ("build --json", "locked"),
    ("build serve --json", "locked"),
    ("build ml --json --output docker-archive:ml.tar", "archive"),
    ("lock", "lock"),
    ("gc", "gc"),
    (PRUNE, "prune"),
];
/// Of a hundred groups, so many have processes that are killed.
const WITH_KILLS: u64 = 35;

/// One process of a group.
struct Member<'a> {
    place: &'a Place<'a>,
    arguments: &'static str,
    killed_at: Option<u64>,
}

/// Runs one group.
pub(crate) fn run(world: &World, name: &str, random: &mut Random) -> Result<Report> {
    let store = [None, Some(Variant::A)].get(random.below(2) as usize).copied().flatten();
    let lock = random.percent(80).then_some(Variant::A);
    let place = Place::new(world, name, &Start { store, lock, ..Start::new(Variant::A) })?;
    // Another project in the same store, with other versions.
    let mut other = Place::new(world, &format!("{name}-other"), &Start::new(Variant::B))?;
    other.shared_store = Some(place.store());
    let count = random.within(2, 8);
    let kills = random.percent(WITH_KILLS);
    let members: Vec<Member<'_>> = (0..count)
        .map(|_| {
            let (arguments, like) = *random.one_of(&COMMANDS).unwrap_or(&COMMANDS[0]);
            let place = if random.percent(15) && arguments.starts_with("build") { &other } else { &place };
            let calls = world.calls.get(like).cloned().unwrap_or_default();
            let killed_at = (kills && random.percent(40)).then(|| point(&calls, random));
            Member { place, arguments, killed_at }
        })
        .collect();
    let mut running = Vec::new();
    for (number, member) in members.iter().enumerate() {
        let log = place.root.join(format!("calls-{number}"));
        let disturbance = member.killed_at.map(|at| Disturbance { mode: Mode::Kill, at });
        let mut command = match disturbance {
            Some(_) => member.place.disturb(member.arguments, &log, disturbance),
            None => member.place.command(member.arguments),
        };
        running.push(start(&mut command, None)?);
    }
    let outcomes = running.into_iter().map(finish).collect::<Result<Vec<Outcome>>>()?;
    let mut problems = judge(&place, &members, &outcomes);
    problems.extend(settle(&place, &other, &members)?);
    let what: Vec<String> = members
        .iter()
        .map(|member| match member.killed_at {
            Some(at) => format!("{} (killed at {at})", member.arguments),
            None => member.arguments.to_owned(),
        })
        .collect();
    let from = if store.is_some() { "used" } else { "empty" };
    Ok(Report { what: format!("{from} store: {}", what.join(", ")), problems, hit: None, done: true })
}

fn judge(place: &Place<'_>, members: &[Member<'_>], outcomes: &[Outcome]) -> Vec<Problem> {
    let mut problems = Vec::new();
    // What was written to the layouts with status 0: it must be there whatever the others did.
    let mut finished: BTreeMap<(std::path::PathBuf, &str), BTreeMap<String, String>> = BTreeMap::new();
    for (member, outcome) in members.iter().zip(outcomes) {
        if outcome.killed && member.killed_at.is_some() {
            continue;
        }
        problems.extend(outcome.problems(member.arguments));
        if !outcome.succeeded() {
            let details = format!("`{}`: {}", member.arguments, outcome.brief());
            problems.push(problem("a process of the group fails", details));
            continue;
        }
        if !member.arguments.contains("--json") {
            continue;
        }
        let (built, reference) = (Build::of(outcome).digests, member.place.reference());
        if built.is_empty() || built.iter().any(|(name, digest)| reference.get(name) != Some(digest)) {
            problems.push(problem("status 0 with another digest", format!("{built:?}")));
        }
        // The images that were asked for, without those that they build on.
        let words: Vec<&str> = member.arguments.split(' ').collect();
        let named = words.get(1).filter(|word| !word.starts_with('-'));
        let mut wanted = member.place.listed();
        wanted.retain(|name, _| named.is_none_or(|named| *named == name.as_str()));
        for layout in ["shared", "out"] {
            if member.arguments.ends_with(&format!("oci:{layout}")) {
                finished.entry((member.place.project(), layout)).or_default().extend(wanted.clone());
            }
        }
        if member.arguments.contains("docker-archive") && !is_archive(member.place, member.place.project) {
            problems.push(problem("status 0 with an archive with wrong bytes", "ml.tar"));
        }
    }
    for ((project, layout), images) in finished {
        problems.extend(check::layout(&project.join(layout), &images, check::Moment::Disturbed));
    }
    // Also what no process finished.
    problems.extend(check::layout(&place.project().join("shared"), &BTreeMap::new(), check::Moment::Disturbed));
    problems
}

/// The next runs of what was killed, the next builds into every layout, and what is left over then.
fn settle(place: &Place<'_>, other: &Place<'_>, members: &[Member<'_>]) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    for member in members.iter().filter(|member| member.killed_at.is_some()) {
        let outcome = member.place.kiln(member.arguments)?;
        problems.extend(outcome.problems(member.arguments));
        if !outcome.succeeded() {
            problems.push(problem("the same command fails the next time", outcome.brief()));
        }
    }
    for (place, layout) in [(place, "shared"), (other, "out")] {
        let built = place.build_reference(layout)?;
        if built.is_empty() {
            let path = place.project().join(layout);
            problems.extend(check::layout(&path, &place.listed(), check::Moment::Settled));
        }
        problems.extend(built);
    }
    problems.extend(place.settle()?);
    let later = |found: Problem| problem(format!("later: {}", found.kind), found.details);
    Ok(problems.into_iter().map(later).collect())
}
