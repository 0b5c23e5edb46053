//! `kiln prune`

use std::collections::BTreeMap;
use std::io::{self, Write as _};
use std::os::unix::fs::{MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::sync::Arc;

use clap::{Args, ValueEnum};
use kiln_engine::{BuildError, FilePruner, PrunedFile, WheelPruner};
use kiln_fatbin::{Found, Listing, Outcome as Cut, Rewrite, Selection};
use kiln_oci::InflatePool;
use kiln_plan::event::{Cancel, Work};
use kiln_plan::gpu::{Capability, GpuNames};
use kiln_plan::size;
use kiln_store::{AtomicFile, parent};
use serde_json::{Value, json};

use super::inspect::is_wheel;
use super::{Asked, Outcome, count, print, print_json, require_file, table};
use crate::arguments::Global;
use crate::progress::Terminal;
use crate::render::Failure;
use crate::surroundings::jobs;

/// Cut GPU code that some GPUs do not need out of shared objects, wheels, and directories of them
///
/// Every kernel that runs on one of the GPUs before runs on it after, and natively where it did. A file that is not as
/// files are known to be stays as it is. Whether a library may be given to others once it is changed, its licence says:
/// NVIDIA's has terms for that.
#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// Shared objects, wheels or directories
    #[arg(required = true, value_name = "INPUT")]
    inputs: Vec<PathBuf>,
    /// Where the result goes: a new directory for a directory, else a file, or a directory for files
    #[arg(short, long, value_name = "PATH", required_unless_present = "in_place", conflicts_with = "in_place")]
    output: Option<PathBuf>,
    /// Replace files and what is in directories; wheels get a new one beside them
    #[arg(long)]
    in_place: bool,
    /// GPUs that code is kept for: names, generations, capabilities or `native`, separated by commas; `8.0+PTX` and
    /// `compute_80` keep PTX too
    #[arg(long, value_name = "GPUS", value_delimiter = ',', required = true)]
    gpus: Vec<String>,
    /// Keep all PTX, for GPUs that come later
    #[arg(long)]
    keep_ptx: bool,
    /// Drop code for the linker, which a program that only runs does not need
    #[arg(long)]
    drop_relocatable: bool,
    /// Print what was cut by library and architecture, like `--json`
    #[arg(long, value_name = "FORMAT")]
    report: Option<ReportFormat>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ReportFormat {
    Json,
}

/// What became of an input.
struct Done {
    input: PathBuf,
    output: PathBuf,
    /// Bytes of the whole input and output.
    before: u64,
    after: u64,
    files: Vec<PrunedFile>,
}

impl Prune {
    pub(crate) fn run(&self, global: &Global, cancel: &Cancel) -> Outcome {
        let asked = Asked::read(&self.gpus, global, cancel)?;
        let keep_ptx = self.keep_ptx || asked.ptx;
        let names = asked.names;
        let selection = Selection { gpus: asked.gpus, keep_ptx, drop_relocatable: self.drop_relocatable };
        let terminal = Terminal::new(global);
        let mut all = Vec::new();
        for (input, target) in self.targets()? {
            let name = input.file_name().unwrap_or(input.as_os_str()).to_string_lossy();
            let work = Work::start(&terminal, cancel, "prune", name, None);
            let one = One { selection: &selection, names: &names, threads: jobs(global), cancel, work: &work };
            all.push(one.prune(input, &target)?);
        }
        if global.json || self.report.is_some() {
            print_json(&json!({ "gpus": selection.gpus, "inputs": all.iter().map(Done::value).collect::<Vec<_>>() }))?;
        } else {
            print(&all.iter().map(|done| done.text(global.verbose > 0)).collect::<String>())?;
        }
        let refused = all.iter().flat_map(|done| &done.files).any(|file| matches!(file.outcome, Cut::Refused { .. }));
        Ok(if refused { ExitCode::FAILURE } else { ExitCode::SUCCESS })
    }

    /// Finds the places of the results, of which no two are the same.
    fn targets(&self) -> Result<Vec<(&Path, Target)>, Failure> {
        let (mut targets, mut taken) = (Vec::new(), BTreeMap::new());
        for input in &self.inputs {
            require_file(input)?;
            let target = self.target(input)?;
            let place = match &target {
                Target::InPlace => fs_err::canonicalize(input)?,
                Target::At(path) => path.clone(),
                Target::Into(directory) => directory.join(input.file_name().unwrap_or_default()),
            };
            if let Some(other) = taken.insert(place, input).filter(|other| !is_same(other, input)) {
                let message = format!("`{}` and `{}` have one name", other.display(), input.display());
                return Err(Failure::usage(message).hint("prune them to two directories, one after the other"));
            }
            targets.push((input.as_path(), target));
        }
        Ok(targets)
    }

    /// Where the result of an input goes; a directory for a wheel, whose new name is not known yet.
    fn target(&self, input: &Path) -> Result<Target, Failure> {
        let found = fs_err::metadata(input)?;
        let Some(output) = &self.output else {
            return Ok(match input.parent() {
                Some(parent) if is_wheel(input) => Target::Into(parent.to_owned()),
                _ => Target::InPlace,
            });
        };
        if found.is_dir() {
            require_outside(input, output)?;
            if self.inputs.len() > 1 {
                // `.` has a name too.
                let whole = fs_err::canonicalize(input)?;
                let name = whole.file_name().ok_or_else(|| Failure::usage("an input has no name"))?;
                return new_directory(output.join(name));
            }
            return new_directory(output.clone());
        }
        let as_directory = output.is_dir()
            || self.inputs.len() > 1
            || output.to_string_lossy().ends_with('/')
            || (is_wheel(input) && !is_wheel(output));
        Ok(if as_directory { Target::Into(output.clone()) } else { Target::At(output.clone()) })
    }
}

fn new_directory(path: PathBuf) -> Result<Target, Failure> {
    if path.symlink_metadata().is_ok() {
        let message = format!("`{}` is there already", path.display());
        return Err(Failure::usage(message).hint("name a new directory, or prune with `--in-place`"));
    }
    Ok(Target::At(path))
}

/// Refuses to write what a directory is pruned to into that directory.
fn require_outside(input: &Path, output: &Path) -> Result<(), Failure> {
    let input = fs_err::canonicalize(input)?;
    let absolute = std::path::absolute(output)?;
    let there = absolute.ancestors().find_map(|above| fs_err::canonicalize(above).ok());
    if there.is_some_and(|there| there.starts_with(&input)) {
        let message = format!("`{}` lies in what is pruned", output.display());
        return Err(Failure::usage(message).hint("name a directory outside of it, or prune with `--in-place`"));
    }
    Ok(())
}

enum Target {
    InPlace,
    /// At this path.
    At(PathBuf),
    /// Into this directory, under a name of its own.
    Into(PathBuf),
}

/// What one input is pruned with.
struct One<'a> {
    selection: &'a Selection,
    names: &'a GpuNames,
    threads: usize,
    cancel: &'a Cancel,
    work: &'a Work<'a>,
}

impl One<'_> {
    fn prune(&self, input: &Path, target: &Target) -> Result<Done, Failure> {
        if let Target::Into(directory) = target {
            fs_err::create_dir_all(directory)?;
        }
        if is_wheel(input) {
            return self.wheel(input, target);
        }
        let advance = |bytes| self.work.advance(bytes).map_err(io::Error::from);
        let tools =
            FilePruner { selection: self.selection, names: self.names, threads: self.threads, advance: &advance };
        let before = bytes_below(input)?;
        let output = match target {
            // What a link leads to is replaced, not the link.
            Target::InPlace => fs_err::canonicalize(input)?,
            Target::At(path) => path.clone(),
            Target::Into(directory) => directory.join(input.file_name().unwrap_or_default()),
        };
        let files = match (input.is_dir(), target) {
            (true, Target::InPlace) => tools.tree_in_place(&output)?,
            (true, _) => {
                fs_err::create_dir_all(parent(&output))?;
                tools.tree_to(input, &output)?
            }
            (false, _) => {
                let outcome = match tools.file(input, &output)? {
                    None => uncut(input, &self.selection.gpus)?,
                    Some(Cut::Loose { .. }) => Some(Cut::Needed { uncut: 0 }),
                    outcome => outcome,
                };
                let stays = matches!(target, Target::InPlace);
                if !matches!(outcome, Some(Cut::Pruned(_))) && !stays {
                    AtomicFile::copy(input, &output)?;
                }
                outcome.map(|outcome| PrunedFile { path: input.to_owned(), outcome }).into_iter().collect()
            }
        };
        let after = match files.as_slice() {
            // A pipe or a device has no size.
            [PrunedFile { outcome: Cut::Pruned(cut), .. }] if !input.is_dir() => cut.after,
            _ if !input.is_dir() => before,
            _ => bytes_below(&output)?,
        };
        let output = if matches!(target, Target::InPlace) { input.to_owned() } else { output };
        Ok(Done { input: input.to_owned(), output, before, after, files })
    }

    fn wheel(&self, input: &Path, target: &Target) -> Result<Done, Failure> {
        let name = input.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let (directory, file) = match target {
            Target::InPlace => (input.parent().unwrap_or(Path::new("")), None),
            Target::At(path) => (path.parent().unwrap_or(Path::new("")), Some(path.clone())),
            Target::Into(directory) => (directory.as_path(), None),
        };
        let directory = if directory.as_os_str().is_empty() { Path::new(".") } else { directory };
        let pool = InflatePool::new(self.threads, self.cancel)?;
        let (selection, work) = (self.selection, self.work);
        let pruner =
            WheelPruner { selection, pool: &pool, threads: self.threads, temporary: directory, work, except: None };
        let opened = Arc::new(fs_err::File::open(input)?);
        let before = opened.metadata()?.len();
        let cut = pruner.cut(&name, opened).map_err(|error| match error {
            BuildError::NothingLeft { file, .. } => {
                let gpus = self.selection.gpus.iter().map(|gpu| self.names.label(*gpu)).collect();
                BuildError::NothingLeft { file, gpus }
            }
            error => error,
        })?;
        let new_name = if cut.is_changed() { cut.file_name(&name) } else { name };
        let output = file.unwrap_or_else(|| directory.join(new_name));
        if cut.is_changed() {
            let mut new = AtomicFile::create(&output)?;
            let mut out = io::BufWriter::with_capacity(1 << 20, &mut new);
            cut.write(&pruner, &mut out)?;
            out.flush()?;
            drop(out);
            new.set_mode(fs_err::metadata(input)?.permissions().mode() & 0o7777);
            new.commit()?;
        } else if !is_same(input, &output) {
            AtomicFile::copy(input, &output)?;
        }
        let after = fs_err::metadata(&output)?.len();
        Ok(Done { input: input.to_owned(), output, before, after, files: cut.into_files() })
    }
}

/// Says of a file with GPU code, none of which can be cut, why that is.
fn uncut(path: &Path, gpus: &[Capability]) -> Result<Option<Cut>, Failure> {
    let listing = kiln_fatbin::list(&fs_err::File::open(path)?).ok().flatten();
    let Some(listing) = listing.filter(Listing::has_code) else { return Ok(None) };
    let serves = |gpu: &Capability| listing.code.iter().any(|code| code.coverage(*gpu).served() > 0);
    let reason = match listing.format {
        Found::Ptx if gpus.iter().any(serves) => return Ok(Some(Cut::Needed { uncut: 0 })),
        Found::Ptx => "it is PTX, which none of the GPUs can run",
        Found::Windows => "libraries of Windows are not cut",
        _ => "its GPU code is of a kind that is not cut",
    };
    Ok(Some(Cut::Refused { reason: reason.into() }))
}

/// Tells if two paths lead to one file.
fn is_same(one: &Path, other: &Path) -> bool {
    let file = |path: &Path| fs_err::metadata(path).map(|found| (found.dev(), found.ino())).ok();
    file(one).is_some_and(|one| file(other) == Some(one))
}

/// Bytes of all files below a path, those with several names once.
fn bytes_below(path: &Path) -> io::Result<u64> {
    // Of a link, the size of what it leads to.
    let (mut bytes, mut seen, mut left) = (0, std::collections::HashSet::new(), vec![fs_err::canonicalize(path)?]);
    while let Some(path) = left.pop() {
        let found = fs_err::symlink_metadata(&path)?;
        if found.is_dir() {
            for entry in fs_err::read_dir(&path)? {
                left.push(entry?.path());
            }
        } else if found.is_file() && seen.insert((found.dev(), found.ino())) {
            bytes += found.len();
        }
    }
    Ok(bytes)
}

impl Done {
    fn text(&self, verbose: bool) -> String {
        // Text is as long as it likes, and would make columns of numbers as wide.
        let (mut rows, mut stay, mut loose) = (Vec::new(), Vec::new(), [0, 0]);
        for file in &self.files {
            let path = file.path.display().to_string();
            match &file.outcome {
                Cut::Pruned(cut) => {
                    rows.push(vec![
                        format!("  {path}"),
                        format!("{:>9}", size::format(cut.before)),
                        format!("{:>9}", size::format(cut.after)),
                        change(cut.before, cut.after) + &note(cut),
                    ]);
                    for code in cut.code.iter().filter(|_| verbose) {
                        let architecture = code.architecture.map_or_else(|| "?".into(), |known| known.to_string());
                        rows.push(vec![
                            format!("    {architecture} {}", code.kind.name()),
                            format!("{:>9}", size::format(code.before)),
                            format!("{:>9}", size::format(code.after)),
                        ]);
                    }
                }
                Cut::Needed { uncut } => stay.push(vec![format!("  {path}"), needed(*uncut)]),
                Cut::Small { serves, uncut } => {
                    let served = if *serves { "" } else { ", though none of it is for the GPUs" };
                    let rest = if *uncut > 0 { format!("; {}", of_uncut(*uncut)) } else { String::new() };
                    let text = format!("stays as it is{served}: too little can be cut to free a page{rest}");
                    stay.push(vec![format!("  {path}"), text]);
                }
                Cut::Loose { needed, .. } => loose[usize::from(*needed)] += 1,
                Cut::Refused { reason } => stay.push(vec![format!("  {path}"), format!("stays as it is: {reason}")]),
            }
        }
        let others = if is_wheel(&self.input) { "left out" } else { "stay, though none of the GPUs runs them" };
        for (number, fate) in loose.into_iter().zip([others, "needed"]).filter(|(number, _)| *number > 0) {
            stay.push(vec![format!("  {}", count(number, "loose cubin")), fate.into()]);
        }
        format!(
            "{}{}{} -> {}: {} -> {} ({}), {} with GPU code\n",
            table(&rows),
            table(&stay),
            self.input.display(),
            self.output.display(),
            size::format(self.before),
            size::format(self.after),
            change(self.before, self.after),
            count(self.files.len(), "file"),
        )
    }

    fn value(&self) -> Value {
        json!({
            "input": self.input.display().to_string(), "output": self.output.display().to_string(), "before": self.before, "after": self.after,
            "files": self.files,
        })
    }
}

/// Says of a file that it stays as it is, and how much of its code is never cut.
fn needed(uncut: u64) -> String {
    match uncut {
        0 => "all of it is needed".to_owned(),
        bytes => format!("what can be cut is needed; {}", of_uncut(bytes)),
    }
}

fn of_uncut(bytes: u64) -> String {
    format!("{} among other data cannot be cut", size::format(bytes))
}

/// Says what is to be known of a file that was cut.
fn note(cut: &Rewrite) -> String {
    let mut note = if cut.serves { String::new() } else { ", nothing is left: none of it is for the GPUs".to_owned() };
    if cut.uncut > 0 {
        note.push_str(&format!(", {}", of_uncut(cut.uncut)));
    }
    note
}

/// By how much something changed: `-32.7%`.
fn change(before: u64, after: u64) -> String {
    if before == after {
        return "unchanged".into();
    }
    format!("{:+.1}%", (after as f64 / before.max(1) as f64 - 1.0) * 100.0)
}
