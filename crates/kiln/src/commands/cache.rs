//! `kiln cache`

use std::io::Write;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{SystemTime, UNIX_EPOCH};

use clap::{Args, Subcommand};
use kiln_engine::{CacheEntry, CacheVerdict, Signer, Truth, Upgrade};
use kiln_plan::event::Cancel;
use kiln_plan::size;
use serde_json::json;

use super::{Outcome, count, print, print_json, size_value, table, with_project};
use crate::arguments::{Global, StackOptions};
use crate::render::Failure;

const DAY: u64 = 24 * 3600;

/// Look after the results that machines share through a registry (`[cache]` in the stack file)
#[derive(Debug, Args)]
pub(crate) struct CacheCommand {
    #[command(subcommand)]
    command: CacheSubcommand,
}

#[derive(Debug, Subcommand)]
enum CacheSubcommand {
    /// List records with age and size
    Ls(Ls),
    /// Remove old records; those of images that say `persist` stay
    Prune(Prune),
    /// Find out here what the cache says about images, and compare
    Verify(Verify),
    /// Make a key pair: the secret key signs what a machine writes, and stacks name the public key in `cache.trust`
    Keygen(Keygen),
}

#[derive(Debug, Args)]
struct Ls {
    /// The cache of the stack on its registry; the store of this machine is listed by `kiln du`
    #[arg(long)]
    remote: bool,
    #[command(flatten)]
    stack: StackOptions,
}

#[derive(Debug, Args)]
struct Prune {
    /// The cache of the stack on its registry; the store of this machine is pruned by `kiln gc`
    #[arg(long)]
    remote: bool,
    /// Remove what was written longer ago, such as `30d` or `12h`
    #[arg(long, value_name = "AGE", value_parser = age, required_unless_present = "keep_storage")]
    older_than: Option<u64>,
    /// Remove the oldest until what stays keeps at most so much, such as `200GB`
    #[arg(long, value_name = "SIZE", value_parser = size_value)]
    keep_storage: Option<u64>,
    /// Only say what would go
    #[arg(long)]
    dry_run: bool,
    #[command(flatten)]
    stack: StackOptions,
}

#[derive(Debug, Args)]
struct Verify {
    /// Images [default: all]
    images: Vec<String>,
    #[command(flatten)]
    stack: StackOptions,
}

#[derive(Debug, Args)]
struct Keygen {
    /// Where the secret key goes; it must not exist
    file: PathBuf,
}

fn age(text: &str) -> Result<u64, String> {
    let wrong = || "write a number with a unit: `30d`, `12h`".to_owned();
    let (number, unit) = text.split_at(text.len() - text.chars().last().map_or(0, char::len_utf8));
    let seconds = match unit {
        "d" => DAY,
        "h" => 3600,
        "m" => 60,
        "s" => 1,
        _ => return Err(wrong()),
    };
    number.parse::<u64>().ok().and_then(|number| number.checked_mul(seconds)).ok_or_else(wrong)
}

impl CacheCommand {
    pub(crate) fn run(&self, global: &Global, cancel: &Cancel) -> Outcome {
        match &self.command {
            CacheSubcommand::Ls(command) => command.run(global, cancel),
            CacheSubcommand::Prune(command) => command.run(global, cancel),
            CacheSubcommand::Verify(command) => command.run(global, cancel),
            CacheSubcommand::Keygen(command) => command.run(global),
        }
    }
}

impl Ls {
    fn run(&self, global: &Global, cancel: &Cancel) -> Outcome {
        remote_only(self.remote, "kiln du")?;
        let entries = with_project(global, &self.stack, cancel, |project| Ok(project.cache_entries()?))?;
        if global.json {
            return print_json(&json!({ "records": entries }));
        }
        let kept: std::collections::BTreeMap<_, u64> = entries.iter().flat_map(|entry| entry.keeps.clone()).collect();
        let all: u64 = kept.values().sum();
        let rows: Vec<Vec<String>> = entries.iter().map(|entry| row(entry, now())).collect();
        print(&format!("{}{}, {}\n", table(&rows), count(rows.len(), "record"), size::format(all)))
    }
}

/// Age, size, kind, name, image, remarks.
fn row(entry: &CacheEntry, now: u64) -> Vec<String> {
    let mut remarks = Vec::new();
    if entry.persist {
        remarks.push("persist".to_owned());
    }
    if !entry.trusted {
        remarks.push("not trusted".to_owned());
    }
    let (age, size) = (ago(now.saturating_sub(entry.written)), size::format(entry.size));
    vec![age, format!("{size:>9}"), entry.kind.clone(), entry.name.clone(), entry.image.clone(), remarks.join(", ")]
}

fn ago(seconds: u64) -> String {
    match seconds {
        0..120 => format!("{seconds} s"),
        120..7200 => format!("{} min", seconds / 60),
        7200..172_800 => format!("{} h", seconds / 3600),
        _ => format!("{} d", seconds / DAY),
    }
}

fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs())
}

/// What is on this machine has commands of its own.
fn remote_only(remote: bool, other: &str) -> Result<(), Failure> {
    let hint = format!("with `--remote` it is about the cache on the registry; for this machine's store: `{other}`");
    if remote { Ok(()) } else { Err(Failure::usage("which cache is meant is not said").hint(hint)) }
}

impl Prune {
    fn run(&self, global: &Global, cancel: &Cancel) -> Outcome {
        remote_only(self.remote, "kiln gc")?;
        let pruned = with_project(global, &self.stack, cancel, |project| {
            Ok(project.prune_cache(self.older_than, self.keep_storage, now(), self.dry_run)?)
        })?;
        if global.json {
            return print_json(&json!(pruned));
        }
        let rows: Vec<Vec<String>> = pruned.removed.iter().map(|entry| row(entry, now())).collect();
        let verb = if self.dry_run { "would go" } else { "removed" };
        let removed = count(pruned.removed.len(), "record");
        print(&format!("{}{removed} {verb}, {} kept\n", table(&rows), pruned.kept))
    }
}

impl Verify {
    fn run(&self, global: &Global, cancel: &Cancel) -> Outcome {
        let (verdicts, lock_name) = with_project(global, &self.stack, cancel, |project| {
            project.chosen(&self.images)?;
            let lock = project.lock(&Upgrade::Nothing, true)?;
            Ok((project.verify_cache(&self.images, &lock)?, project.lock_name()))
        })?;
        let wrong = verdicts.iter().filter(|verdict| !verdict.holds()).count();
        let status = if wrong == 0 { ExitCode::SUCCESS } else { ExitCode::from(1) };
        if global.json {
            print_json(&json!({ "records": verdicts, "wrong": wrong }))?;
            return Ok(status);
        }
        let rows: Vec<Vec<String>> = verdicts
            .iter()
            .map(|verdict| {
                let recorded = verdict.recorded.clone().unwrap_or_default();
                let place = verdict.line.map(|line| format!(" ({lock_name} line {line})")).unwrap_or_default();
                let said = match verdict.truth {
                    Truth::Unrecorded => "no record".to_owned(),
                    Truth::Right => "holds".to_owned(),
                    Truth::Wrong => format!("is WRONG{place}: recorded {recorded}, derived {}", verdict.derived),
                    Truth::CannotBeDerived => format!("cannot be derived: {}", signed(verdict)),
                };
                let image = format!("{} ({})", verdict.image, verdict.platform);
                vec![image, verdict.kind.to_owned(), verdict.name.clone(), said]
            })
            .collect();
        let recorded = verdicts.iter().filter(|verdict| verdict.recorded.is_some()).count();
        print(&format!("{}{} checked, {wrong} wrong\n", table(&rows), count(recorded, "record")))?;
        Ok(status)
    }
}

/// Says who signed a record, and when.
fn signed(verdict: &CacheVerdict) -> String {
    match &verdict.signed {
        Some((key, made)) => format!("signed by {key}, {} days ago", now().saturating_sub(*made) / 86_400),
        None => "nobody signed it".to_owned(),
    }
}

impl Keygen {
    fn run(&self, global: &Global) -> Outcome {
        use std::os::unix::fs::OpenOptionsExt;
        let signer = Signer::generate().map_err(|_| Failure::usage("this machine gives no random numbers"))?;
        let mut file = fs_err::OpenOptions::new();
        file.write(true).create_new(true).options_mut().mode(0o600);
        let mut file = file.open(&self.file)?;
        file.write_all(format!("{}\n", signer.secret()).as_bytes()).and_then(|()| file.sync_all())?;
        if global.json {
            return print_json(&json!({ "public": signer.public().to_string(), "secret_file": self.file }));
        }
        print(&format!("{}\n", signer.public()))
    }
}
