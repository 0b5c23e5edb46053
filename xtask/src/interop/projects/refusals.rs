//! Requirements that have no answer: what kiln makes of the words of the real resolver.

use std::path::Path;

use super::{Result, Suite, lock};
use crate::interop::report::Checks;

/// Packages that torch's own release keeps back over a base with another build of it.
const BASE: &str = "\n[images.a.base-facts]\nlibc = { family = \"glibc\", version = \"2.36\" }\n\
                    interpreters = [{ path = \"/usr/bin/python3.11\", version = \"3.11.9\" }]\n\
                    distributions = [{ location = \"/usr/lib/python3/dist-packages\", name = \"torch\", version = \"2.8.0a0+nv25.5\" }]";

/// Makes the checks.
pub(super) fn check(suite: &Suite, checks: &mut Checks, project: &Path) {
    checks.check("all packages without a wheel are named at once, with the wheels that there are", || {
        let images =
            "packages = [\"pycocotools==2.0.0\", \"omegaconf==2.3.0\", \"tensorflow==2.5.0\", \"numpy==1.19.5\"]";
        refused(
            suite,
            &project.join("blockers"),
            images,
            &[
                "no wheel of pycocotools",
                "these have their source alone",
                "no wheel of antlr4-python3-runtime",
                "no wheel of tensorflow",
                "no wheel of numpy",
                "are for cp36, pp36, cp37, cp38, cp39 alone; 1.23.2 to",
            ],
        )
    });
    checks.check("a constraint and an override are told as what they are", || {
        let constraint = "packages = [\"pandas==2.2.0\"]\nresolution = { constraints = [\"numpy<1.20\"] }";
        let says = ["pandas==2.2.0 depends on numpy>=1.23.2,<2, and the constraint `numpy<1.20` holds", "a constraint"];
        refused(suite, &project.join("constraint"), constraint, &says)?;
        let bound = "packages = [\"datasets==2.20.0\"]\n\
                     resolution = { overrides = [\"fsspec==2024.6.1\"], constraints = [\"fsspec<2024\"] }";
        let says =
            ["the override `fsspec==2024.6.1` replaces what others require", "the constraint `fsspec<2024` holds"];
        refused(suite, &project.join("override"), bound, &says)
    });
    checks.check("a package that the torch of a base keeps back is named, with what it needs", || {
        let project = project.join("over");
        let text = "[stack]\nname = \"over\"\n\n[target]\nplatforms = [\"linux/amd64\"]\npython = \"3.11\"\n\n[images.a]\n\
                    from = \"scratch\"\npackages = [\"xformers\"]\n";
        fs_err::create_dir_all(&project)?;
        fs_err::write(project.join("kiln.toml"), format!("{text}{BASE}\n"))?;
        let says = ["depends on torch", "and the base has torch 2.8.0a0+nv25.5", "accept = [\"torch\"]"];
        says_all(suite, &project, &says)
    });
}

/// Locks an image that cannot be, and looks for parts of the message.
fn refused(suite: &Suite, project: &Path, images: &str, says: &[&str]) -> Result<()> {
    if lock(suite, project, images, "a").is_ok() {
        return Err("it is locked".into());
    }
    says_all(suite, project, says)
}

fn says_all(suite: &Suite, project: &Path, says: &[&str]) -> Result<()> {
    let output = suite.kiln(project).arg("lock").output()?;
    let error = String::from_utf8_lossy(&output.stderr).into_owned();
    match says.iter().find(|part| !error.contains(**part)) {
        Some(part) => Err(format!("`{part}` is not in: {error}").into()),
        None if output.status.code() != Some(2) => Err(format!("it ends with {}: {error}", output.status).into()),
        None => Ok(()),
    }
}
