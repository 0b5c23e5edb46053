//! `cargo xtask torture`: kiln is killed, its files are damaged, its disk is full, its servers fail, many run at once.
//!
//! After each case the next build must give the image of an undisturbed build, every layout and every tag must be right
//! by the digests that name their blobs, a command that ended with status 0 must have made what it was asked for, one
//! that failed must say why, and after the next `kiln gc` nothing may be left over. Nothing but Rust and a C compiler is
//! needed: wheels, base, index and registry are made here, and a stand-in resolves in the place of uv.
//!
//! Commands of images are a campaign of their own (`commands.rs`): their processes and mounts must be gone when kiln is.
//!
//! Kills and full disks hit at a system call that changes the file system. An undisturbed run counts these calls; the
//! call that is disturbed is drawn from them, and the log of the disturbed process proves where it was (`interpose.c`).
//!
//! A seed determines every case. Failures are printed with the command that runs the one case again, for example
//! `cargo xtask torture --seed 5 --only kills --case 17 --keep`, which leaves its directory to be looked at. What
//! threads and processes do at once differs from run to run, so that a case may have to be run several times.

mod campaign;
mod check;
mod commands;
mod damages;
mod groups;
mod interposer;
mod kills;
mod outcome;
mod place;
mod queue;

mod scenario;
mod servers;
mod summary;
mod world;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use clap::Args;

use crate::interop::{build_kiln, complain, say};
use campaign::Campaign;
use queue::{Left, Queue};
use summary::Summary;
use world::World;

/// A result whose error is for people to read.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Seconds of a run that says neither how long nor how much.
const DEFAULT_SECONDS: u64 = 120;
/// Kill kiln, damage its files, fill its disk, break its servers, and check what becomes of it
#[derive(Debug, Args)]
pub(crate) struct Torture {
    /// Run all campaigns for so long [default: 120, unless numbers are given]
    #[arg(long, value_name = "N")]
    seconds: Option<u64>,
    /// Kill so many processes
    #[arg(long, value_name = "N")]
    kills: Option<u64>,
    /// Damage so many files
    #[arg(long, value_name = "N")]
    damages: Option<u64>,
    /// Run so many groups of processes
    #[arg(long, value_name = "N")]
    groups: Option<u64>,
    /// Fill the disk so often
    #[arg(long, value_name = "N")]
    full_disks: Option<u64>,
    /// Build so often against servers that fail
    #[arg(long, value_name = "N")]
    servers: Option<u64>,
    /// Run commands of images so often
    #[arg(long, value_name = "N")]
    commands: Option<u64>,
    /// The seed of all cases [default: another one each time]
    #[arg(long, value_name = "S")]
    seed: Option<u64>,
    /// Only this campaign
    #[arg(long, value_name = "CAMPAIGN")]
    only: Option<Campaign>,
    /// Only this case of the campaign
    #[arg(long, value_name = "K", requires = "only", requires = "seed")]
    case: Option<u64>,
    /// This program rather than one that is built
    #[arg(long, value_name = "FILE")]
    kiln: Option<PathBuf>,
    /// This stand-in for uv (`crates/kiln/examples/fake-uv`) rather than one that is built
    #[arg(long, value_name = "FILE")]
    uv: Option<PathBuf>,
    /// Where everything is made [default: the system's directory for temporary files]
    #[arg(long, value_name = "DIR")]
    directory: Option<PathBuf>,
    /// Cases that run at once [default: two for each processor]
    #[arg(long, value_name = "N")]
    workers: Option<usize>,
    /// Leave the directories of all cases
    #[arg(long)]
    keep: bool,
}

impl Torture {
    /// Runs the campaigns; the status says whether nothing was found.
    pub(crate) fn run(&self) -> ExitCode {
        match self.torture() {
            Ok(true) => ExitCode::SUCCESS,
            Ok(false) => ExitCode::FAILURE,
            Err(error) => {
                complain(&format!("error: {error}"));
                ExitCode::FAILURE
            }
        }
    }

    fn torture(&self) -> Result<bool> {
        let clock = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
        let seed = self.seed.unwrap_or(clock);
        say(&format!("seed {seed}"));
        let (kiln, uv) = self.programs()?;
        let parent = self.directory.clone().unwrap_or_else(std::env::temp_dir);
        let directory = tempfile::Builder::new().prefix("kiln-torture-").tempdir_in(parent)?;
        let root = fs_err::canonicalize(directory.path())?;
        let world = World::prepare(&root, &kiln, &uv, self.keep)?;
        for (name, calls) in &world.calls {
            let (first, last) = (calls.first_write().unwrap_or(0), calls.last_rename().unwrap_or(0));
            say(&format!("{name}: {} calls, first write {first}, last rename {last}", calls.total()));
        }
        let run = Run {
            world: &world,
            seed,
            repeats: self.case.is_none(),
            queue: self.queue().into(),
            summary: Mutex::default(),
        };
        let processors = std::thread::available_parallelism().map_or(2, usize::from);
        std::thread::scope(|scope| {
            for _ in 0..self.workers.unwrap_or(2 * processors).max(1) {
                scope.spawn(|| run.work());
            }
        });
        if self.keep {
            complain(&format!("kept {}", directory.keep().display()));
        }
        let summary = run.summary.into_inner().unwrap_or_default();
        say(summary.text(seed).trim_end());
        Ok(summary.is_good())
    }

    fn queue(&self) -> Queue {
        if let (Some(campaign), Some(case)) = (self.only, self.case) {
            return Queue::new(vec![Left { campaign, next: case, end: case + 1 }], None);
        }
        let asked = [
            (Campaign::Kills, self.kills),
            (Campaign::Damages, self.damages),
            (Campaign::Groups, self.groups),
            (Campaign::FullDisks, self.full_disks),
            (Campaign::Servers, self.servers),
            (Campaign::Commands, self.commands),
        ];
        let wanted = |campaign| self.only.is_none_or(|only| only == campaign);
        let timed = asked.iter().all(|(_, count)| count.is_none()) || self.seconds.is_some();
        let until = timed.then(|| Instant::now() + Duration::from_secs(self.seconds.unwrap_or(DEFAULT_SECONDS)));
        let most = if timed { u64::MAX } else { 0 };
        let left = asked.into_iter().filter(|(campaign, _)| wanted(*campaign));
        let left = left.map(|(campaign, count)| Left { campaign, next: 0, end: count.unwrap_or(most) });
        Queue::new(left.collect(), until)
    }

    fn programs(&self) -> Result<(PathBuf, PathBuf)> {
        let kiln = match &self.kiln {
            Some(kiln) => kiln.clone(),
            None => build_kiln()?.1,
        };
        let uv = match &self.uv {
            Some(uv) => fs_err::canonicalize(uv)?,
            None => build_uv()?,
        };
        Ok((kiln, uv))
    }
}

/// A run of all cases.
struct Run<'w> {
    world: &'w World,
    seed: u64,
    /// Whether a case whose disturbance did not happen is made up for by another.
    repeats: bool,
    queue: Mutex<Queue>,
    summary: Mutex<Summary>,
}

impl Run<'_> {
    /// The next case. Not part of the loop's head, which would hold the lock while the case runs.
    fn next_case(&self) -> Option<(Campaign, u64)> {
        locked(&self.queue).next()
    }

    /// Runs cases until none is left.
    fn work(&self) {
        while let Some((campaign, case)) = self.next_case() {
            let name = campaign.name();
            let again = format!("cargo xtask torture --seed {} --only {name} --case {case}", self.seed);
            match campaign.run(self.world, self.seed, case) {
                Ok(report) => {
                    if !report.done && self.repeats {
                        locked(&self.queue).one_more(campaign);
                    }
                    for problem in &report.problems {
                        say(&format!("FAIL {name} {case}: {}\n  {}", problem.kind, problem.details));
                    }
                    if !report.problems.is_empty() {
                        say(&format!("  it was: {}\n  again: {again}", report.what));
                    } else if !self.repeats {
                        say(&format!("ok {name} {case}: {}", report.what));
                    }
                    locked(&self.summary).add(campaign, case, &report);
                }
                Err(error) => {
                    say(&format!("BROKEN {name} {case}: {error}\n  again: {again}"));
                    locked(&self.summary).add_broken();
                }
            }
        }
    }
}

/// What a mutex holds; a thread that panicked leaves nothing half-done in it.
fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Builds the stand-in for uv, as the tests do.
fn build_uv() -> Result<PathBuf> {
    let workspace = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."));
    let mut build = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    // The whole workspace, so that what the tests compiled is taken.
    build.args(["build", "--workspace", "--example", "fake-uv"]).current_dir(workspace);
    if !build.stdout(Stdio::null()).status()?.success() {
        return Err("the stand-in for uv cannot be built".into());
    }
    let target = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    Ok(fs_err::canonicalize(workspace.join(target).join("debug/examples/fake-uv"))?)
}
