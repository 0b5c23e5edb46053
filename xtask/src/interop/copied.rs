//! Copies beside BuildKit's `COPY`: random ones, of random files, onto random bases, with the same result, or refused
//! where BuildKit refuses.
//!
//! Bases have links to directories, links that lead nowhere, directories of others with modes of all kinds, in two layers.
//! Sources have all of that too, under the same names, so that everything falls upon everything. What differs on purpose is
//! a table in `excused`, as `docs/layers.md` and `docs/stack-file.md` say it.

mod buildkit;
mod excused;
mod generated;
mod ours;

use std::collections::BTreeMap;
use std::path::Path;

use excused::Excuse;
use generated::{Case, Copy};

use super::registries::docker::Docker;
use super::report::{Checks, eprint, none};
use super::seen::Seen;
use super::{Result, Suite, base, docker26, seen};

/// Bases in a short and in a long run, the copies onto each, and the seed that they follow from.
const BASES: [u64; 2] = [8, 40];
const COPIES: usize = 50;
const SEED: u64 = 21;

/// The image after a copy, or the reason why it is refused.
type Outcome = std::result::Result<Seen, String>;

/// Makes the checks.
pub(super) fn check(suite: &Suite, checks: &mut Checks) {
    let directory = suite.work.join("copied");
    if let Some(docker) = checks.check("a Docker daemon of Debian 13 runs", || docker26::start(&directory)) {
        let bases = BASES[usize::from(suite.long)];
        let name = format!("{} copies come out as BuildKit's: seed {SEED}, {bases} bases", bases as usize * COPIES);
        checks.check(&name, || compare(suite, &docker, &directory));
    }
    suite.remove("copied");
}

fn compare(suite: &Suite, docker: &Docker, directory: &Path) -> Result<()> {
    let (mut wrong, mut excused, mut refused) = (Vec::new(), BTreeMap::new(), 0);
    for number in 0..BASES[usize::from(suite.long)] {
        let case = Case::new(SEED, number, COPIES);
        let project = directory.join(number.to_string());
        case.write(&project)?;
        let ours = ours::outcomes(suite, &project, &case)?;
        let theirs = buildkit::outcomes(docker, &project, &case, &ours)?;
        for (copy, (ours, theirs)) in case.copies.iter().zip(ours.iter().zip(&theirs)) {
            refused += usize::from(ours.is_err() && theirs.is_err());
            for (difference, excuse) in differences(&case, copy, ours, theirs) {
                match excuse {
                    Some(excuse) => *excused.entry(excuse).or_insert(0) += 1,
                    None => wrong.push(format!("{number}: {}: {difference}", copy.shown())),
                }
            }
        }
        if !suite.keep {
            fs_err::remove_dir_all(project)?;
        }
    }
    eprint(&format!("{refused} copies are refused by both"));
    for (excuse, count) in excused {
        eprint(&format!("{count} times {excuse:?}"));
    }
    none("differences", &wrong)
}

fn differences(case: &Case, copy: &Copy, ours: &Outcome, theirs: &Outcome) -> Vec<(String, Option<Excuse>)> {
    let (ours, theirs) = match (ours, theirs) {
        (Err(_), Err(_)) => return Vec::new(),
        (Err(why), Ok(_)) => {
            return vec![(format!("kiln alone refuses: {why}"), excused::refusal(case, copy, why))];
        }
        (Ok(ours), Err(why)) => {
            return vec![(format!("BuildKit alone refuses: {why}"), excused::acceptance(case, why, ours))];
        }
        (Ok(ours), Ok(theirs)) => (ours, theirs),
    };
    let mut differences = Vec::new();
    for path in ours.keys().chain(theirs.keys().filter(|path| !ours.contains_key(*path))) {
        let (found, expected) = (ours.get(path), theirs.get(path));
        if found != expected && !path.is_empty() {
            let show = |node: Option<&(super::tree::Node, String)>| match node {
                Some((node, _)) => format!("{} {:o} {:?}", node.describe(), node.mode, node.owner),
                None => "nothing".into(),
            };
            let text = format!("/{} is {}, BuildKit: {}", path.escape_ascii(), show(found), show(expected));
            differences.push((text, excused::path(case, copy, path, (found, expected))));
        }
    }
    differences
}
