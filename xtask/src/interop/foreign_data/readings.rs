//! Readings of kiln, in the words of the peers', and what follows where the two differ.

use std::io;
use std::path::Path;

use kiln_plan::base::{Libc, LibcFamily};
use kiln_plan::diagnostic::{Diagnostic, Diagnostics};
use kiln_plan::digest::Digest;
use kiln_plan::platform::Platform;
use kiln_wheel::name::{InvalidWheelName, WheelName};
use kiln_wheel::pylock;
use kiln_wheel::requirements::{self, FileRequirement, Placed, Provided, Requirements, Source, pyproject};
use kiln_wheel::tags::Tags;
use serde_json::{Value, json};

use super::reasons::{is_leniency, is_reason};
use super::{Case, Result};

/// Environments of markers: Python in both spellings, and the platform. `peer.py` has the same.
const ENVIRONMENTS: [(&str, &str, &str); 5] = [
    ("3.8", "3.8.20", "linux/amd64"),
    ("3.11", "3.11.2", "linux/amd64"),
    ("3.11", "3.11.2", "linux/arm64"),
    ("3.12", "3.12.0", "linux/amd64"),
    ("3.13", "3.13.7", "linux/amd64"),
];
/// The directory of every file.
const PROJECT: &str = "/";

/// A reading beside the peer's.
pub(super) enum Reading {
    Same,
    RefusedByBoth,
    /// By kiln alone, for a reason that its documentation gives.
    Refused,
    /// Another reading, or a refusal for no such reason.
    Other(String),
}

type Read = std::result::Result<Value, String>;

/// Reads a case, and compares.
pub(super) fn of(case: &Case) -> Result<Reading> {
    let kiln = match case.kind.as_str() {
        "file" => file(&case.text),
        "marker" => marker(&case.text),
        "lock" => return lock(case),
        "project" => project(&case.text, &case.groups),
        "wheel" => wheel(&case.text),
        other => return Err(format!("there is no kind {other}").into()),
    };
    Ok(compare(kiln, &case.peer, case))
}

fn compare(kiln: Read, peer: &Value, case: &Case) -> Reading {
    match kiln {
        Err(_) if peer.is_null() => Reading::RefusedByBoth,
        Ok(read) if read == *peer => Reading::Same,
        Ok(_) if peer.is_null() && case.why.as_deref().is_some_and(is_leniency) => Reading::Same,
        Err(reason) if is_reason(&reason) => Reading::Refused,
        Ok(read) => Reading::Other(format!("kiln {read}, the peer {peer}")),
        Err(reason) => Reading::Other(format!("kiln refuses it: {reason}")),
    }
}

/// All mistakes in one line.
fn told(wrong: &Diagnostics) -> String {
    let one = |one: &Diagnostic| {
        let labels: Vec<&str> = one.labels.iter().map(|label| label.text.as_str()).collect();
        format!("{} ({})", one.message, labels.concat())
    };
    wrong.0.iter().map(one).collect::<Vec<_>>().join("; ")
}

fn read(text: &str) -> std::result::Result<Requirements, String> {
    let path = Path::new(PROJECT).join("requirements.txt");
    let mut content = |asked: &Path| match asked == path {
        true => Ok(text.as_bytes().to_vec()),
        false => Err(io::ErrorKind::NotFound.into()),
    };
    requirements::read(Path::new(PROJECT), &path, &Provided::new(), &mut content).map_err(|wrong| told(&wrong))
}

fn file(text: &str) -> Read {
    let read = read(text)?;
    let mut indexes = read.index.iter().chain(&read.extra_indexes).filter(|_| read.no_index.is_none());
    let values = |placed: &mut dyn Iterator<Item = &Placed<String>>| -> Vec<String> {
        placed.map(|placed| placed.value.clone()).collect()
    };
    Ok(json!({
        "requirements": all(&read.requirements)?,
        "constraints": all(&read.constraints)?,
        "indexes": values(&mut indexes),
        "links": values(&mut read.find_links.iter()),
    }))
}

fn all(list: &[Placed<FileRequirement>]) -> std::result::Result<Vec<Value>, String> {
    list.iter().map(|one| requirement(&one.value)).collect()
}

fn requirement(one: &FileRequirement) -> Read {
    let sorted = |mut texts: Vec<String>| {
        texts.sort();
        texts.dedup();
        texts
    };
    let decoded = |url: &str| String::from_utf8_lossy(&pylock::percent_decoded(url)).into_owned();
    let (versions, url) = match &one.source {
        Source::Index(specifiers) => {
            (specifiers.iter().map(|specifier| clause(&specifier.to_string())).collect(), None)
        }
        Source::Url(url) => (Vec::new(), Some(decoded(url.as_str()))),
        Source::File(path) => (Vec::new(), Some(format!("file://{}", path.display()))),
    };
    Ok(json!({
        "name": one.name.to_string(),
        "extras": sorted(one.extras.iter().map(ToString::to_string).collect()),
        "versions": sorted(versions),
        "url": url,
        "holds": holds(one)?,
        "hashes": sorted(one.hashes.iter().map(Digest::hex).collect()),
    }))
}

/// A clause without zeros at the end, where they say nothing.
fn clause(text: &str) -> String {
    let version = text.trim_start_matches(|c: char| !c.is_ascii_digit());
    let plain = version.chars().all(|c| c.is_ascii_digit() || c == '.');
    match plain && !text.starts_with("~=") && !text.starts_with("===") {
        true => text.trim_end_matches(".0").to_owned(),
        false => text.to_owned(),
    }
}

/// The values of a requirement's marker in all environments.
fn holds(one: &FileRequirement) -> std::result::Result<Vec<bool>, String> {
    let holds_in = |(python, full, platform): &(&str, &str, &str)| {
        let platform: Platform = platform.parse().map_err(|_| format!("{platform} is no platform"))?;
        let environment = pylock::environment(python, full, platform).map_err(|error| error.problem)?;
        Ok(one.applies(&environment))
    };
    ENVIRONMENTS.iter().map(holds_in).collect()
}

/// A marker, as a requirement has it.
fn marker(text: &str) -> Read {
    match read(&format!("a ; {text}"))?.requirements.as_slice() {
        [one] => Ok(json!(holds(&one.value)?)),
        _ => Err("it is not one requirement".into()),
    }
}

/// The chosen wheels of a lock, by environment.
fn lock(case: &Case) -> Result<Reading> {
    let mut readings = Vec::new();
    for (at, (python, full, platform)) in ENVIRONMENTS.into_iter().enumerate() {
        let kiln = installed(case, python, full, platform.parse()?);
        readings.push(compare(kiln, case.peer.get(at).unwrap_or(&Value::Null), case));
    }
    let rank = |reading: &Reading| match reading {
        Reading::RefusedByBoth => 0,
        Reading::Same => 1,
        Reading::Refused => 2,
        Reading::Other(_) => 3,
    };
    readings.into_iter().max_by_key(rank).ok_or_else(|| "there is no environment".into())
}

fn installed(case: &Case, python: &str, full: &str, platform: Platform) -> Read {
    let choice = pylock::Choice { groups: case.choice.groups.as_deref(), extras: &case.choice.extras };
    let libc = Libc { family: LibcFamily::Glibc, version: "2.36".into() };
    let minor = python.split('.').nth(1).and_then(|minor| minor.parse().ok()).unwrap_or(0);
    let tags = Tags::new(minor, platform, Some(&libc));
    let environment = pylock::environment(python, full, platform).map_err(|error| error.problem)?;
    let packages = pylock::parse(&case.text, &environment, choice).map_err(|error| error.problem)?;
    let chosen = |package: &pylock::LockedPackage| match pylock::best(&package.wheels, &tags) {
        Some(best) => Ok([package.name.clone(), best.file.clone()]),
        None => Err(format!("no wheel of {} fits", package.name)),
    };
    let mut all = packages.iter().map(chosen).collect::<std::result::Result<Vec<_>, _>>()?;
    all.sort();
    Ok(json!(all))
}

/// The requirements of a project, and those of each of its groups.
fn project(text: &str, names: &[String]) -> Read {
    let path = Path::new(PROJECT).join("pyproject.toml");
    let of = |groups: &[String]| {
        let choice = pyproject::Choice { groups, ..pyproject::Choice::default() };
        let read =
            pyproject::read(Path::new(PROJECT), &path, choice, &Provided::new(), &mut |_| Ok(text.as_bytes().to_vec()));
        all(&read.map_err(|wrong| told(&wrong))?.requirements)
    };
    let requirements = of(&[])?;
    let mut groups = serde_json::Map::new();
    for name in names {
        let all = of(std::slice::from_ref(name))?;
        groups.insert(name.clone(), all.get(requirements.len()..).unwrap_or_default().into());
    }
    Ok(json!({ "requirements": requirements, "groups": groups }))
}

fn wheel(file: &str) -> Read {
    let name: WheelName = file.parse().map_err(|error: InvalidWheelName| error.to_string())?;
    let mut tags = Vec::new();
    for python in &name.python {
        for abi in &name.abi {
            tags.extend(name.platform.iter().map(|platform| format!("{python}-{abi}-{platform}").to_lowercase()));
        }
    }
    tags.sort();
    tags.dedup();
    Ok(json!({ "name": name.name.to_string(), "version": name.version.to_string(), "tags": tags }))
}
