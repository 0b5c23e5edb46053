//! Ignore files beside the programs whose rules they follow: generated ones in generated trees, `.gitignore` beside `git
//! check-ignore` and `.dockerignore` beside `docker build`.
//!
//! Patterns are made from the names of the tree, so that most of them match something, and from what the two programs
//! treat in ways of their own. A pattern for which kiln refuses a `.dockerignore` has to fail in Docker as well.

mod docker;
mod generated;
mod git;

use super::report::Checks;
use super::{Suite, docker26};

/// Trees for each program, contexts for Docker in a short run, and the seed that they follow from.
const TREES: u64 = 500;
const FEW: u64 = 150;
const SEED: u64 = 21;

/// Makes the checks.
pub(super) fn check(suite: &Suite, checks: &mut Checks) {
    let directory = suite.work.join("ignored");
    let name = format!("git ignores what kiln ignores, and for the same line: {TREES} trees of seed {SEED}");
    checks.check(&name, || git::check(&directory.join("git")));
    if let Some(docker) = checks.check("a Docker daemon of Debian 13 runs", || docker26::start(&directory)) {
        let contexts = if suite.long { TREES } else { FEW };
        let name = format!("Docker leaves out what kiln leaves out: {contexts} contexts of seed {SEED}");
        checks.check(&name, || docker::check(&docker, &directory.join("contexts"), contexts));
    }
    suite.remove("ignored");
}
