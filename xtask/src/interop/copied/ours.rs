//! kiln's side: each copy is an image of one stack.

use std::fmt::Write as _;
use std::path::Path;
use std::process::Stdio;

use super::generated::{Case, Copy};
use super::{Outcome, seen};
use crate::interop::{Result, Suite, programs};

/// Returns what becomes of all copies of a case.
pub(super) fn outcomes(suite: &Suite, project: &Path, case: &Case) -> Result<Vec<Outcome>> {
    let mut text = "[stack]\nname = \"copied\"\n\n[target]\nplatforms = [\"linux/amd64\"]\n".to_owned();
    for (number, copy) in case.copies.iter().enumerate() {
        write!(text, "\n[images.c{number}]\nfrom = {{ oci = \"base\" }}\ncopy = [{}]\n", written(case, copy))?;
    }
    fs_err::write(project.join("kiln.toml"), text)?;
    programs::output(suite.kiln(project).arg("lock"))?;
    let mut outcomes = Vec::new();
    for number in 0..case.copies.len() {
        let name = format!("c{number}");
        let mut build = suite.kiln(project);
        build.args(["build", "--locked", &name, "--output", "oci:layout"]).stdin(Stdio::null());
        let built = build.output()?;
        outcomes.push(match built.status.success() {
            true => Ok(seen::image(&project.join("layout"), &name)?),
            false => Err(String::from_utf8_lossy(&built.stderr).into_owned()),
        });
    }
    Ok(outcomes)
}

/// A copy as the stack file has it. In a list, a directory's content is copied if its name has a slash at its end; Docker
/// copies no directory otherwise.
fn written(case: &Case, copy: &Copy) -> String {
    let is_directory = |path: &String| {
        path.is_empty() || case.source(path).is_some_and(|found| matches!(found.body, super::base::Body::Directory))
    };
    let name = |path: &String| {
        let slash = if copy.from.len() > 1 && is_directory(path) { "/" } else { "" };
        format!("\"src/{path}{slash}\"")
    };
    let names: Vec<String> = copy.from.iter().map(name).collect();
    let from = match names.as_slice() {
        [one] => one.clone(),
        several => format!("[{}]", several.join(", ")),
    };
    let owner = copy.owner.map_or_else(String::new, |owner| format!(", owner = \"{owner}\""));
    let mode = copy.mode.map_or_else(String::new, |mode| format!(", mode = \"{mode:04o}\""));
    format!("{{ from = {from}, to = \"{}\"{owner}{mode} }}", copy.to)
}
