//! Images over a base's own packages beside what pip makes of the same base: what Python imports, what `pip list` and `pip check`
//! say, and which files there are. Where kiln refuses a wheel for its modules, pip's result must show the reason.
//!
//! Bases and wheels are generated: packages with and without an `__init__`, of `pkgutil`'s style, with modules inside others'
//! packages, of the same module under other names, with scripts and data, and with requirements that contradict one another.

use std::path::Path;
use std::process::Command;

use serde::Deserialize;

use super::report::Checks;
use super::{Result, Suite, programs, stack, unpacked};

/// The seed of the generated cases.
const SEED: &str = "23";
/// Cases of a run, and of a long one.
const CASES: [usize; 2] = [12, 100];

const GENERATE: &str = include_str!("base_packages/generate.py");
const COMPARE: &str = include_str!("base_packages/compare.py");

/// The result of the comparison.
#[derive(Deserialize)]
struct Told {
    outcomes: std::collections::BTreeMap<String, usize>,
    problems: Vec<String>,
}

/// Makes the checks.
pub(crate) fn check(suite: &Suite, checks: &mut Checks) {
    let cases = CASES[usize::from(suite.long)];
    let place = suite.work.join("base-packages");
    let made = checks.check("pip fills bases of generated packages, and kiln builds over them", || {
        generate(&place, cases)?;
        build(suite, &place, cases)
    });
    let Some(layers) = made else { return };
    checks.check("images over bases are what pip makes of these bases", || {
        let bases = place.join("bases/layout");
        let rootfs = unpacked::unpack(&bases, "debian", &place.join("bundle"))?;
        let told = compare(&rootfs, &place, cases, layers)?;
        match (told.problems.as_slice(), told.outcomes.get("built").copied().unwrap_or(0)) {
            ([], built) if built * 2 >= cases => Ok(()),
            ([], _) => Err(format!("few cases were built: {:?}", told.outcomes).into()),
            (problems, _) => Err(problems.join("\n").into()),
        }
    });
    suite.remove("base-packages");
}

fn generate(place: &Path, cases: usize) -> Result<()> {
    let mut python = Command::new("python3");
    programs::output(python.args(["-c", GENERATE]).arg(place).args([SEED, &cases.to_string()])).map(|_| ())
}

/// Builds the bases, and over each of them an image where kiln does not refuse it; the number of layers of the Debian below.
fn build(suite: &Suite, place: &Path, cases: usize) -> Result<usize> {
    let images = suite.build(&place.join("bases"), &["--output", "oci:layout"])?;
    for case in 0..cases {
        let project = place.join(case.to_string());
        let mut copy = Command::new("cp");
        programs::output(copy.args(["--archive", "--link"]).arg(place.join("bases/layout")).arg(project.join("base")))?;
        let done = suite.kiln(&project).args(["build", "--output", "oci:out"]).output()?;
        fs_err::write(project.join("said.txt"), done.stderr)?;
    }
    Ok(stack::image(&images, "debian")?.layers.len())
}

fn compare(rootfs: &Path, place: &Path, cases: usize, layers: usize) -> Result<Told> {
    let mut python = Command::new("python3");
    python.args(["-c", COMPARE]).arg(rootfs).arg(place).args([cases.to_string(), layers.to_string()]);
    programs::json(&mut python)
}
