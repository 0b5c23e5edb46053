//! An index and a registry that fail, and builds that must end with the right image or a reason, never a wrong image.

use std::time::Duration;

use kiln_registry::testing::{Fault, Request};
use kiln_wheel::testing::index::Behaviour;

use super::campaign::Report;
use super::damages::interrupt_download;
use super::outcome::{Problem, problem};
use super::place::{Place, Registry, Start};
use super::scenario::tags;
use super::world::{Variant, World};
use super::{Result, check};
use crate::random::Random;

/// Of a hundred faults, so many last until the end; each costs the seconds that kiln is patient.
const LASTING: u64 = 5;
/// Requests that a lasting fault is for.
const ALWAYS: usize = 1000;
/// A page that a gateway sends with status 200.
const PAGE: &[u8] = b"<html>moved</html>\n\n\n\n\n\n\n";

/// Runs one build against servers that fail.
pub(crate) fn run(world: &World, name: &str, random: &mut Random) -> Result<Report> {
    let start = Start { registry: Registry::Own, own_index: true, ..Start::new(Variant::A) };
    let place = Place::new(world, name, &start)?;
    // Either results go to the registry, or they come from it, or a download is resumed.
    let (way, command) = match random.below(3) {
        0 => ("from the cache", "build --json --locked --output oci:out"),
        1 => ("resumed", "build --json --output oci:out --push"),
        _ => ("cold", "build --json --output oci:out --push"),
    };
    if way == "from the cache" {
        let pushed = place.kiln("build --json --push")?;
        if !pushed.succeeded() {
            return Err(format!("undisturbed, a push ends with {}", pushed.brief()).into());
        }
        fs_err::remove_dir_all(place.store())?;
    }
    if way == "resumed" {
        interrupt_download(&place, random)?;
    }
    let faults = [index_faults(&place, random, way == "resumed"), registry_faults(&place, random)].concat();
    let outcome = place.kiln(command)?;
    let mut problems = outcome.problems(command);
    problems.extend(place.judge(&outcome, Some("out")));
    if outcome.succeeded() && command.contains("--push") {
        problems.extend(tags(&place));
    }
    problems.extend(check::registry(place.registry(), &Default::default()));
    let out = place.project().join("out");
    problems.extend(check::layout(&out, &Default::default(), check::Moment::Disturbed));
    place.registry().forgive();
    if let Some(index) = &place.index {
        index.forgive();
    }
    problems.extend(place.settle()?.into_iter().map(|found| problem(format!("later: {}", found.kind), found.details)));
    let pushed = place.kiln("build --json --push")?;
    problems.extend(pushed.problems("build --push"));
    match pushed.succeeded() {
        true => problems.extend(tags(&place)),
        false => problems.push(problem("later: the next push fails", pushed.brief())),
    }
    Ok(Report { what: format!("{way}: {}", faults.join(", ")), problems: unique(problems), hit: None, done: true })
}

fn unique(mut problems: Vec<Problem>) -> Vec<Problem> {
    problems.dedup();
    problems
}

fn times(random: &mut Random) -> usize {
    if random.percent(LASTING) { ALWAYS } else { random.within(1, 3) as usize }
}

/// Makes the index misbehave for some wheels.
fn index_faults(place: &Place<'_>, random: &mut Random, resumed: bool) -> Vec<String> {
    let Some(index) = &place.index else { return Vec::new() };
    let mut said = Vec::new();
    let served = place.world.root.join("served");
    for file in check::names(&served) {
        if !random.percent(60) {
            continue;
        }
        let content = fs_err::read(served.join(&file)).unwrap_or_default();
        let length = content.len() as u64;
        let (after, times) = (random.below(length) as usize, times(random));
        let behaviour = match if resumed { random.within(6, 9) } else { random.below(9) } {
            0 => Behaviour::Status { status: *random.one_of(&[500, 502, 503, 429, 404, 403]).unwrap_or(&500), times },
            1 => Behaviour::BreakOff { after, times },
            2 => Behaviour::Other(PAGE.to_vec()),
            3 => Behaviour::Other(content.get(..after).unwrap_or_default().to_vec()),
            4 => {
                let mut other = content;
                if let Some(byte) = other.get_mut(after) {
                    *byte ^= 1;
                }
                Behaviour::Other(other)
            }
            5 => Behaviour::Other([content, random.bytes(1000)].concat()),
            6 => Behaviour::NoRanges { after, times: times.min(3) },
            7 => Behaviour::Slow(Duration::from_millis(random.within(20, 300))),
            8 => Behaviour::WrongRange,
            _ => Behaviour::WrongPart,
        };
        let text = match &behaviour {
            Behaviour::Other(bytes) => format!("Other({} of {length} bytes)", bytes.len()),
            other => format!("{other:?}"),
        };
        said.push(format!("{file} {text}"));
        index.behave(&file, behaviour);
    }
    said
}

/// Makes the registry misbehave for some requests.
fn registry_faults(place: &Place<'_>, random: &mut Random) -> Vec<String> {
    let mut said = Vec::new();
    for _ in 0..random.below(4) {
        let request = *random.one_of(&Request::ALL).unwrap_or(&Request::GetBlob);
        let bytes = random.below(20_000) as usize;
        let fault = match random.below(11) {
            0 => Fault::Drop,
            1 => Fault::DropAfter(bytes),
            2 => Fault::DropAnswer,
            3 => Fault::Status(*random.one_of(&[500, 502, 503, 429]).unwrap_or(&500), Some(0)),
            4 => Fault::Status(*random.one_of(&[400, 403, 404]).unwrap_or(&400), None),
            5 => Fault::Slow(Duration::from_millis(random.within(20, 300))),
            6 => Fault::Truncated(bytes),
            7 => Fault::OtherContent,
            8 => Fault::OtherDigest,
            9 => Fault::Garbage,
            _ => Fault::Unauthorized,
        };
        let (skip, times) = (random.below(3) as usize, times(random));
        said.push(format!("{request:?} {fault:?} {times} times after {skip}"));
        place.registry().fail_after(request, skip, fault, times);
    }
    said
}
