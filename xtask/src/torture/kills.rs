//! Processes that are killed, and processes that find a full disk, at a chosen change of the file system.

use super::Result;
use super::campaign::{Hit, Report};
use super::interposer::{Calls, Disturbance, Mode};
use super::outcome::{Outcome, Problem, problem};
use super::place::Place;
use super::scenario::{Scenario, draw};
use super::world::World;
use crate::random::Random;

/// Of a hundred points, so many lie between the first write and the last rename; the rest may be anywhere.
const BETWEEN: u64 = 75;
/// A run may have fewer calls than the one that was counted: then an earlier point is taken.
const TRIES: usize = 4;

/// Kills one process.
pub(crate) fn kill(world: &World, name: &str, random: &mut Random) -> Result<Report> {
    let mode = if random.percent(30) { Mode::Tear } else { Mode::Kill };
    run(world, name, random, mode)
}

/// Fills the disk under one process.
pub(crate) fn fill(world: &World, name: &str, random: &mut Random) -> Result<Report> {
    let mode = *random.one_of(&[Mode::Full, Mode::Full, Mode::Short, Mode::Once]).unwrap_or(&Mode::Full);
    run(world, name, random, mode)
}

/// The number of a call: mostly between the first write and the last rename.
pub(crate) fn point(calls: &Calls, random: &mut Random) -> u64 {
    match (calls.first_write(), calls.last_rename()) {
        (Some(first), Some(last)) if random.percent(BETWEEN) => random.within(first, last),
        _ => random.within(1, calls.total().max(1)),
    }
}

fn run(world: &World, name: &str, random: &mut Random, mode: Mode) -> Result<Report> {
    let scenario = draw(random);
    let counted = world.calls.get(scenario.name).cloned().unwrap_or_default();
    let mut at = point(&counted, random);
    for _ in 0..TRIES {
        let place = scenario.place(world, name)?;
        let (outcome, calls) = place.disturbed(scenario, Some(Disturbance { mode, at }))?;
        if calls.total() < at {
            at = random.within(1, calls.total().max(1));
            continue;
        }
        let problems = judge(&place, scenario, &outcome, mode)?;
        return Ok(Report {
            what: format!("{} {} at call {at} of {}", scenario.name, mode.name(), counted.total()),
            problems,
            hit: hit(&calls, &counted, at),
            done: true,
        });
    }
    Ok(Report { what: format!("{} was never hit", scenario.name), ..Report::default() })
}

/// Where a disturbance was, as the log of the disturbed process proves.
fn hit(calls: &Calls, counted: &Calls, at: u64) -> Option<Hit> {
    let call = calls.get(at)?;
    let after_first_write = calls.first_write().is_some_and(|first| first <= at);
    let before_last_rename = counted.last_rename().is_some_and(|last| at <= last);
    Some(Hit { function: call.function.clone(), between: after_first_write && before_last_rename })
}

fn judge(place: &Place<'_>, scenario: &Scenario, outcome: &Outcome, mode: Mode) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    let kills = mode.kills();
    if !(kills && outcome.killed) {
        problems.extend(outcome.problems(scenario.arguments));
        let named = ["No space left", "disk is full", "database or disk"];
        if !kills && outcome.status.is_some_and(|status| status != 0) {
            if !named.iter().any(|text| outcome.stderr.contains(text)) {
                problems.push(problem("a full disk that is not named", outcome.brief()));
            } else if outcome.status != Some(3) {
                problems.push(problem("a full disk with another status than 3", outcome.brief()));
            }
        }
    }
    if outcome.succeeded() {
        problems.extend((scenario.finished)(place, outcome));
    } else {
        let after = |found: Problem| problem(format!("after it ended: {}", found.kind), found.details);
        problems.extend((scenario.between)(place).into_iter().map(after));
    }
    let again = finish_scenario(place, scenario)?;
    problems.extend(again);
    problems.extend(place.settle()?);
    Ok(problems)
}

/// Runs the same command again, undisturbed.
fn finish_scenario(place: &Place<'_>, scenario: &Scenario) -> Result<Vec<Problem>> {
    let mut command = place.command(&scenario.command(place));
    let outcome = super::outcome::finish(super::outcome::start(&mut command, scenario.input)?)?;
    let mut problems = outcome.problems(scenario.arguments);
    if problems.is_empty() && !outcome.succeeded() {
        problems.push(problem("the same command fails the next time", outcome.brief()));
    }
    if outcome.succeeded() {
        problems.extend((scenario.finished)(place, &outcome));
    }
    Ok(problems)
}
