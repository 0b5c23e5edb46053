//! `kiln verify`

use std::ffi::{OsStr, OsString};
use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use kiln_engine::{Judge, Upgrade, Verification, VerifiedCode};
use kiln_fatbin::{Coverage, Extent, Verdict};
use kiln_link::Severity;
use kiln_plan::event::{Cancel, Event, Reporter as _};
use kiln_plan::gpu::{Capability, DriverVersion, GpuError, GpuNames};
use serde_json::json;

use super::inspect::{Named, is_wheel, named, not_built};
use super::{Asked, Outcome, count, print, print_json, require_file, with_project, with_workshop};
use crate::arguments::{Global, StackOptions};
use crate::progress::Terminal;
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
    what: Vec<OsString>,
    /// Count kernels in all code, rather than in code that is partly for a GPU
    #[arg(long)]
    kernels: bool,
    /// The Linux driver that everything has to run on: `535.104`
    #[arg(long, value_name = "VERSION", value_parser = driver)]
    driver: Option<DriverVersion>,
    /// Paths that may lack code or libraries: `*` stands for any characters [repeat for more]
    #[arg(long, value_name = "PATTERN")]
    except: Vec<String>,
    #[command(flatten)]
    stack: StackOptions,
}

fn driver(text: &str) -> Result<DriverVersion, String> {
    text.parse().map_err(|error: GpuError| format!("{error}: {}", error.hint().unwrap_or_default()))
}

impl Verify {
    pub(crate) fn run(&self, global: &Global, cancel: &Cancel) -> Outcome {
        let asked = Asked::read(self.stack.gpus.as_deref().unwrap_or_default(), global, cancel)?;
        let mut all = Vec::new();
        for what in &self.what {
            all.extend(self.one(what, &asked, global, cancel)?);
        }
        let mistyped = |pattern: &&String| all.iter().all(|found: &Verification| found.unmatched.contains(pattern));
        for pattern in all.first().into_iter().flat_map(|found| &found.unmatched).filter(mistyped) {
            let message = format!("the pattern `{pattern}` of `except` is like no file");
            Terminal::new(global).event(Event::Warning { message });
        }
        if global.json {
            print_json(&json!(all))?;
        } else {
            print(&all.iter().map(|verification| text(verification, global.verbose > 0)).collect::<String>())?;
        }
        Ok(if all.iter().all(Verification::is_sound) { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }

    fn judge(&self, gpus: Vec<Capability>, names: GpuNames, except: &[String]) -> Judge {
        let except = self.except.iter().chain(except).cloned().collect();
        Judge { gpus, names, kernels: self.kernels, driver: self.driver.clone(), except }
    }

    fn one(&self, what: &OsStr, asked: &Asked, global: &Global, cancel: &Cancel) -> Result<Vec<Verification>, Failure> {
        let path = Path::new(what);
        let layout = match named(what) {
            Named::Image(name) => return self.image(name, asked, global, cancel),
            Named::Layout(layout) => Some(layout),
            Named::Path => {
                require_file(path)?;
                None
            }
        };
        let judge = self.judge(asked.gpus.clone(), asked.names.clone(), &[]);
        with_workshop(global, cancel, |workshop| {
            Ok(match layout {
                Some(layout) => workshop.verify_layout(layout, &judge)?,
                None if path.is_dir() => vec![workshop.verify_directory(path, &judge)?],
                None if is_wheel(path) => vec![workshop.verify_wheel(path, &judge)?],
                None => vec![workshop.verify_file(path, &judge)?],
            })
        })
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
                None => (project.gpus(image, &lock), &image.target.gpu_names),
            };
            let judge = self.judge(gpus, names.clone(), &image.except);
            Ok(project.workshop.verify_built(&built, &judge)?)
        })
    }
}

/// What was found out, for people: what is missing first.
pub(super) fn text(verification: &Verification, verbose: bool) -> String {
    let mut code: Vec<&VerifiedCode> = verification.code.iter().collect();
    code.sort_by_key(|file| (std::cmp::Reverse(worst(file)), &file.path));
    let mut text = String::new();
    for file in &code {
        let files = file.files.map(|files| format!(" ({})", count(files, "cubin"))).unwrap_or_default();
        let mut said: Vec<String> = Vec::new();
        for (ranked, labels) in by_text(verification, file, verbose) {
            said.push(format!("{}: {ranked}", labels.join(", ")));
        }
        said.extend(file.problems.iter().cloned());
        match said.as_slice() {
            [] => {
                text.push_str(&format!("  {}{files}  has GPU code; name GPUs with `--gpus` to hear more\n", file.path))
            }
            [one] => text.push_str(&format!("  {}{files}  {one}\n", file.path)),
            several => {
                text.push_str(&format!("  {}{files}\n", file.path));
                several.iter().for_each(|line| text.push_str(&format!("    {line}\n")));
            }
        }
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
    for host in &verification.hosts {
        text.push_str(&format!("  error: {host}\n"));
    }
    for driver in &verification.drivers {
        text.push_str(&format!("  error: {driver}\n"));
    }
    for compiler in &verification.compilers {
        text.push_str(&format!("  warning: {compiler}\n"));
    }
    let subject = match verification.platform {
        Some(platform) => format!("{} ({platform})", verification.subject),
        None => verification.subject.clone(),
    };
    format!("{subject}: {}\n{text}", summary(verification))
}

/// The GPUs of which the same is to be said of a file, worst first. Of several, those that it serves natively are together,
/// unless all is to be told.
fn by_text(verification: &Verification, file: &VerifiedCode, verbose: bool) -> Vec<(String, Vec<String>)> {
    let mut verdicts: Vec<&Verdict> = file.verdicts.iter().collect();
    verdicts.sort_by_key(|verdict| (std::cmp::Reverse(rank(file, verdict)), verdict.gpu));
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for verdict in verdicts {
        let said = match file.excuses.get(&verdict.gpu.to_string()) {
            Some(excuse) => format!("{}, as it may: {excuse}", Verdict { advice: None, ..verdict.clone() }),
            None if verdict.coverage == Coverage::Native && rank(file, verdict) == Rank::Native => {
                let brief = file.verdicts.len() > 1 && !verbose;
                if brief { format!("native{}", verdict.drivers()) } else { verdict.to_string() }
            }
            None if rank(file, verdict) == Rank::Ptx && file.verdicts.len() > 1 && !verbose => {
                Verdict { advice: None, ..verdict.clone() }.to_string()
            }
            None => verdict.to_string(),
        };
        let too_old = verification.too_old(file, verdict).map(|driver| match &verdict.driver {
            Some(needed) if driver.is_branch() && needed.branch() == *driver => {
                format!("; {driver} may be older: name its whole version")
            }
            _ => format!("; {driver} is too old"),
        });
        let said = said + &too_old.unwrap_or_default();
        let label = verification.label(verdict.gpu);
        match groups.iter_mut().find(|(known, _)| *known == said) {
            Some((_, labels)) => labels.push(label),
            None => groups.push((said, vec![label])),
        }
    }
    groups
}

/// The way in which a file serves the GPU that it serves worst.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Native,
    Ptx,
    Partial,
    Excused,
    Driver,
    Missing,
    Damaged,
}

fn worst(file: &VerifiedCode) -> Option<Rank> {
    let damaged = file.damaged.then_some(Rank::Damaged);
    file.verdicts.iter().map(|verdict| rank(file, verdict)).chain(damaged).max()
}

fn rank(file: &VerifiedCode, verdict: &Verdict) -> Rank {
    match (verdict.coverage, verdict.extent) {
        _ if file.excuses.contains_key(&verdict.gpu.to_string()) => Rank::Excused,
        (Coverage::Missing, _) | (_, Extent::Thin) => Rank::Missing,
        _ if file.driver_too_old => Rank::Driver,
        (_, Extent::Partial) => Rank::Partial,
        (Coverage::Ptx, _) => Rank::Ptx,
        (Coverage::Native, _) => Rank::Native,
    }
}

fn summary(verification: &Verification) -> String {
    let number = |severity| verification.links.iter().filter(|link| link.severity == severity).count();
    let mut parts = Vec::new();
    for (rank, how) in [
        (Rank::Native, "native"),
        (Rank::Ptx, "through PTX"),
        (Rank::Partial, "in part"),
        (Rank::Excused, "may do without"),
        (Rank::Driver, "with too old a driver"),
        (Rank::Missing, "missing"),
        (Rank::Damaged, "damaged"),
    ] {
        let files = verification.code.iter().filter(|file| worst(file) == Some(rank)).count();
        if files > 0 {
            parts.push(format!("{files} {how}"));
        }
    }
    let mut text = count(verification.code.len(), "file") + " with GPU code";
    if !parts.is_empty() {
        text.push_str(&format!(" ({})", parts.join(", ")));
    }
    if let Some(driver) = &verification.driver {
        let last = verification.last_driver.as_ref().map(|last| format!(", up to {last}"));
        text.push_str(&format!("; driver {driver} or later{}", last.unwrap_or_default()));
    }
    let (errors, warnings) = (number(Severity::Error), number(Severity::Warning));
    if errors + warnings > 0 {
        text.push_str(&format!("; libraries: {}, {}", count(errors, "error"), count(warnings, "warning")));
    }
    if verification.is_sound() { text } else { text + ": it cannot run as it is" }
}
