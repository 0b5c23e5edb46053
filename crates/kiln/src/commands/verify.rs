//! `kiln verify`

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use kiln_engine::{Upgrade, Verification, VerifiedCode};
use kiln_fatbin::Coverage;
use kiln_link::Severity;
use kiln_plan::event::Cancel;
use serde_json::json;

use super::inspect::{is_path, not_built};
use super::{Asked, Outcome, count, print, print_json, with_project, with_workshop};
use crate::arguments::{Global, StackOptions};
use crate::render::Failure;

/// Prove that something can run, without running it
///
/// For each library with GPU code: whether it runs on the GPUs natively, through PTX that the driver compiles at the first
/// start, or not at all. For each program and library of an image or directory: whether the libraries that it needs are
/// where the loader looks, in the versions that it needs. Exit status 1 if something is missing.
#[derive(Debug, Args)]
pub(crate) struct Verify {
    /// Images of the stack, `oci:DIR`, wheels, directories, libraries
    #[arg(required = true, value_name = "WHAT")]
    what: Vec<String>,
    #[command(flatten)]
    stack: StackOptions,
}

impl Verify {
    pub(crate) fn run(&self, global: &Global, cancel: &Cancel) -> Outcome {
        let asked = Asked::read(self.stack.gpus.as_deref().unwrap_or_default(), global, cancel)?;
        let mut all = Vec::new();
        for what in &self.what {
            all.extend(self.one(what, &asked, global, cancel)?);
        }
        if global.json {
            print_json(&json!(all))?;
        } else {
            print(&all.iter().map(|verification| text(verification, global.verbose > 0)).collect::<String>())?;
        }
        Ok(if all.iter().all(Verification::is_sound) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn one(&self, what: &str, asked: &Asked, global: &Global, cancel: &Cancel) -> Result<Vec<Verification>, Failure> {
        let path = Path::new(what);
        let layout = what.strip_prefix("oci:");
        if layout.is_none() && !is_path(what) {
            return self.image(what, asked, global, cancel);
        }
        let gpus = &asked.gpus;
        let verified = with_workshop(global, cancel, |workshop| {
            Ok(match layout {
                Some(layout) => workshop.verify_layout(Path::new(layout), gpus)?,
                None if path.is_dir() => vec![workshop.verify_directory(path, gpus)?],
                None if what.ends_with(".whl") => vec![workshop.verify_wheel(path, gpus)?],
                None => vec![workshop.verify_file(path, gpus)?],
            })
        })?;
        Ok(verified.into_iter().map(|verification| verification.named(&asked.names)).collect())
    }

    fn image(&self, name: &str, asked: &Asked, global: &Global, cancel: &Cancel) -> Result<Vec<Verification>, Failure> {
        // What an image is built for is the stack's to say; what it is judged for may be something else.
        let stack = StackOptions { gpus: None, ..self.stack.clone() };
        with_project(global, &stack, cancel, |project| {
            let chain = project.chosen(&[name.to_owned()])?;
            let Some(image) = chain.last() else { return Ok(Vec::new()) };
            let lock = project.lock(&Upgrade::Nothing, true)?;
            let built = project.known_image(image, &lock)?.map_err(|(step, _)| not_built(name, &step))?;
            let (gpus, names) = match self.stack.gpus {
                Some(_) => (asked.gpus.clone(), &asked.names),
                None => (project.gpus(&lock), &project.stack.target.gpu_names),
            };
            let verified = project.workshop.verify_built(&built, &gpus)?.into_iter();
            Ok(verified.map(|verification| verification.named(names)).collect())
        })
    }
}

/// What was found out, for people: what is missing first.
pub(super) fn text(verification: &Verification, verbose: bool) -> String {
    let mut code: Vec<&VerifiedCode> = verification.code.iter().collect();
    code.sort_by_key(|file| (std::cmp::Reverse(worst(file)), &file.path));
    let mut text = String::new();
    for file in &code {
        let verdicts = file.verdicts.iter().map(|verdict| format!("{}: {verdict}", verification.label(verdict.gpu)));
        let said: Vec<String> = verdicts.chain(file.problems.iter().cloned()).collect();
        let said =
            if said.is_empty() { "has GPU code; name GPUs with `--gpus` to hear more".into() } else { said.join("; ") };
        text.push_str(&format!("  {}  {said}\n", file.path));
    }
    for link in &verification.links {
        let word = match link.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
            Severity::Note if verbose => "note",
            Severity::Note => continue,
        };
        text.push_str(&format!("  {word}: {}\n", link.finding));
    }
    let subject = match verification.platform {
        Some(platform) => format!("{} ({platform})", verification.subject),
        None => verification.subject.clone(),
    };
    format!("{subject}: {}\n{text}", summary(verification))
}

fn worst(file: &VerifiedCode) -> Option<Coverage> {
    file.verdicts.iter().map(|verdict| verdict.coverage).max()
}

fn summary(verification: &Verification) -> String {
    let number = |severity| verification.links.iter().filter(|link| link.severity == severity).count();
    let mut parts = Vec::new();
    for (coverage, how) in
        [(Coverage::Native, "native"), (Coverage::Ptx, "through PTX"), (Coverage::Missing, "missing")]
    {
        let files = verification.code.iter().filter(|file| worst(file) == Some(coverage)).count();
        if files > 0 {
            parts.push(format!("{files} {how}"));
        }
    }
    let mut text = count(verification.code.len(), "file") + " with GPU code";
    if !parts.is_empty() {
        text.push_str(&format!(" ({})", parts.join(", ")));
    }
    let (errors, warnings) = (number(Severity::Error), number(Severity::Warning));
    if errors + warnings > 0 {
        text.push_str(&format!("; libraries: {}, {}", count(errors, "error"), count(warnings, "warning")));
    }
    if verification.is_sound() { text } else { text + ": it cannot run as it is" }
}
