//! Test data of pip, uv and `packaging`, and variations of it, read by kiln and by pip and `packaging`.
//!
//! uv's and `packaging`'s sources on PyPI hold their tests. Each text in those is taken for a requirements file, a marker, a
//! lock (PEP 751), a project or a file name of a wheel. Where the peer reads it, kiln has to read the same or to refuse it
//! for a reason that its documentation gives; where the peer refuses it, kiln has to refuse it, too.

mod readings;
mod reasons;
mod through_uv;

use std::collections::BTreeMap;
use std::io::BufRead as _;
use std::path::Path;
use std::process::Command;

use serde::Deserialize;
use serde_json::Value;

use super::report::Checks;
use super::{Result, Suite, programs};
use readings::Reading;

/// The peers.
const PEERS: [&str; 2] = ["pip==26.3", "packaging==26.4"];
/// Sources with test data.
const SOURCES: [&str; 2] = ["packaging==26.4", "uv==0.13.9"];
/// Variations of each kind, and the seed that they follow from.
const VARIATIONS: &str = "3000";
const SEED: &str = "1";
/// Texts of one kind that a run has at least.
const FEWEST: usize = 100;
/// Differences that are shown.
const SHOWN: usize = 20;

/// A text with the reading of the peer.
#[derive(Debug, Deserialize)]
struct Case {
    kind: String,
    text: String,
    origin: String,
    #[serde(default)]
    choice: Choice,
    #[serde(default)]
    groups: Vec<String>,
    peer: Value,
    why: Option<String>,
}

/// The part of a lock that is installed.
#[derive(Debug, Default, Deserialize)]
struct Choice {
    extras: Vec<String>,
    groups: Option<Vec<String>>,
}

/// Makes the check.
pub(super) fn check(suite: &Suite, checks: &mut Checks) {
    let name = "test data of pip, uv and packaging is read as they read it";
    let work = suite.work.join("foreign-data");
    let read = checks.check(name, || {
        prepare(&work)?;
        compare(&work)
    });
    if let Some(markers) = read {
        let name = format!("uv decides {} markers that kiln takes as packaging does", markers.len());
        checks.check(&name, || through_uv::decides(suite, &work.join("project"), &markers));
    }
    suite.remove("foreign-data");
}

fn prepare(work: &Path) -> Result<()> {
    fs_err::create_dir_all(work)?;
    let mut install = Command::new("python3");
    install.args(["-m", "pip", "install", "--quiet", "--root-user-action=ignore", "--target"]).arg(work.join("pip"));
    programs::output(install.args(PEERS))?;
    let script = work.join("peer.py");
    fs_err::write(&script, include_str!("foreign_data/peer.py"))?;
    programs::output(Command::new("python3").arg(script).arg(work).args([SEED, VARIATIONS]).args(SOURCES))?;
    Ok(())
}

/// Reads all cases; the error lists those that kiln reads in another way. Returns the markers that kiln takes, with their
/// values in the environments.
fn compare(work: &Path) -> Result<Vec<(String, Value)>> {
    let mut markers = Vec::new();
    let mut counts: BTreeMap<(String, &str), usize> = BTreeMap::new();
    let mut wrong = Vec::new();
    let cases = std::io::BufReader::new(fs_err::File::open(work.join("cases.jsonl"))?);
    for line in cases.lines() {
        let case: Case = serde_json::from_str(&line?)?;
        let verdict = match readings::of(&case)? {
            Reading::Same => {
                if case.kind == "marker" {
                    markers.push((case.text, case.peer));
                }
                "the same"
            }
            Reading::RefusedByBoth => "refused by both",
            Reading::Refused => "refused by kiln",
            Reading::Other(how) => {
                wrong.push(format!(
                    "{} of {}: {:?}\n  {how}\n  {}",
                    case.kind,
                    case.origin,
                    case.text,
                    case.why.unwrap_or_default()
                ));
                "read otherwise"
            }
        };
        *counts.entry((case.kind, verdict)).or_default() += 1;
    }
    let told: Vec<String> =
        counts.iter().map(|((kind, verdict), count)| format!("{count} of kind {kind} {verdict}")).collect();
    super::say(&format!("  {}", told.join(", ")));
    if !wrong.is_empty() {
        let shown: Vec<&str> = wrong.iter().map(String::as_str).take(SHOWN).collect();
        return Err(format!("{} texts are read in another way:\n{}", wrong.len(), shown.join("\n")).into());
    }
    for kind in ["file", "marker", "lock", "project", "wheel"] {
        if counts.get(&(kind.to_owned(), "the same")).is_none_or(|count| *count < FEWEST) {
            return Err(format!("hardly anything of kind {kind} was compared").into());
        }
    }
    Ok(markers)
}
