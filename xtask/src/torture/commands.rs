//! Commands of images: kiln is killed while one runs, several kilns run the same one, layers that lie unpacked are damaged, and the disk
//! is full. Afterwards the next build gives the image of an undisturbed one, and no process and no mount is left.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::{Duration, Instant};

use super::campaign::Report;
use super::check;
use super::outcome::{Outcome, Problem, finish, problem, start};
use super::place::Build;
use super::world::{Digests, World};
use super::{Result, complain};
use crate::random::Random;

const STACK: &str = "[stack]\nname = \"tools\"\n\n[target]\nplatforms = [\"linux/amd64\"]\n\n[images.app]\nfrom = \"scratch\"\n\
                     copy = [{ from = \"tool\", to = \"/tool\" }]\nrun = [[\"/tool\", \"0\"], [\"/tool\", \"1\"], { command = [\"/tool\", \"2\"], network = true, \
                     cache = [{ to = \"/cache\", max-size = \"1MB\" }], secrets = [\"token\"] }]\n\n\
                     [secrets]\ntoken = { file = \"secret\" }\n";
/// The content of the secret, which lies nowhere but in the project.
const SECRET: &[u8] = b"tok_nobody-may-find-this-0123456789";
const BUILD: &str = "build --json --output oci:out";
const AGAIN: &str = "build --json --no-cache app --output oci:out";
/// Entries that the project of a case has in the end.
const KNOWN: [&str; 5] = ["kiln.lock", "kiln.toml", "out", "secret", "tool"];
/// The time in which processes that lost their kiln end.
const PATIENCE: Duration = Duration::from_secs(5);
/// Bytes of the disk that a command must leave (`Sandbox::spare`), and more than a build needs.
const SPARE: u64 = 512 << 20;
const NEEDED: u64 = 64 << 20;

/// The start of all cases.
#[derive(Debug)]
pub(crate) struct Prepared {
    /// The program of the image.
    tool: PathBuf,
    /// The store of an undisturbed build.
    store: PathBuf,
    reference: Digests,
    /// The time that an undisturbed build took.
    took: Duration,
}

impl Prepared {
    /// Builds the image undisturbed; `None`, and a line that says so, where this machine allows no sandbox.
    pub(crate) fn make(root: &Path, kiln: &Path) -> Result<Option<Self>> {
        let directory = root.join("commands");
        fs_err::create_dir_all(&directory)?;
        let (source, tool) = (directory.join("tool.c"), directory.join("tool"));
        fs_err::write(&source, include_str!("tool.c"))?;
        let mut cc = Command::new(std::env::var_os("CC").unwrap_or_else(|| "cc".into()));
        if !cc.args(["-O1", "-Wall", "-static", "-o"]).arg(&tool).arg(&source).status()?.success() {
            return Err("the program of the image cannot be compiled: is there a static C library?".into());
        }
        let place = Case { kiln, root: directory.join("reference") };
        place.make(&tool)?;
        if !place.run("doctor")?.succeeded() {
            complain("SKIPPED commands: no sandbox can be made here (`kiln doctor`)");
            return Ok(None);
        }
        let since = Instant::now();
        let built = place.run(BUILD)?;
        let took = since.elapsed();
        if !built.succeeded() {
            return Err(format!("undisturbed, the image with commands is not built: {}", built.brief()).into());
        }
        Ok(Some(Self { tool, store: place.root.join("store"), reference: Build::of(&built).digests, took }))
    }
}

/// The directory of a case.
struct Case<'w> {
    kiln: &'w Path,
    root: PathBuf,
}

impl Case<'_> {
    fn make(&self, tool: &Path) -> Result<()> {
        let project = self.root.join("project");
        fs_err::create_dir_all(&project)?;
        fs_err::write(project.join("kiln.toml"), STACK)?;
        fs_err::write(project.join("secret"), SECRET)?;
        fs_err::copy(tool, project.join("tool"))?;
        Ok(())
    }

    fn command(&self, arguments: &str) -> Command {
        let mut command = Command::new(self.kiln);
        command.args(arguments.split_whitespace()).current_dir(self.root.join("project"));
        command.env_clear().env("HOME", &self.root).env("KILN_STORE", self.root.join("store")).env("PATH", "/nowhere");
        command
    }

    fn run(&self, arguments: &str) -> Result<Outcome> {
        finish(start(&mut self.command(arguments), None)?)
    }
}

/// Runs one case.
pub(crate) fn run(world: &World, name: &str, random: &mut Random) -> Result<Report> {
    let Some(prepared) = &world.commands else {
        return Ok(Report { what: "no sandbox here".into(), done: true, ..Report::default() });
    };
    let case = Case { kiln: &world.kiln, root: world.root.join("cases").join(name) };
    case.make(&prepared.tool)?;
    let is_used = random.percent(50);
    let (what, mut problems) = match random.below(10) {
        0..=3 => kill(&case, prepared, random, is_used)?,
        4 | 5 => at_once(&case, prepared, random, is_used)?,
        6..=8 => damage(&case, prepared, random)?,
        _ => fill(&case, prepared, random)?,
    };
    problems.extend(settle(&case, prepared)?);
    if !world.keep {
        // Directories of the store may be closed to their owner.
        let mut remove = Command::new("rm");
        remove.arg("-rf").arg(&case.root).status()?;
    }
    Ok(Report { what, problems, hit: None, done: true })
}

/// Copies the store of the undisturbed build: with links, devices, modes and times.
fn use_store(case: &Case<'_>, prepared: &Prepared) -> Result<()> {
    match Command::new("cp").arg("-a").arg(&prepared.store).arg(&case.root).status()?.success() {
        true => Ok(()),
        false => Err("a store cannot be copied".into()),
    }
}

/// Kills kiln at a moment of its work.
fn kill(case: &Case<'_>, prepared: &Prepared, random: &mut Random, is_used: bool) -> Result<(String, Vec<Problem>)> {
    if is_used {
        use_store(case, prepared)?;
    }
    let after = Duration::from_micros(random.below(prepared.took.as_micros() as u64 * 5 / 4));
    let mut child = start(&mut case.command(if is_used { AGAIN } else { BUILD }), None)?;
    std::thread::sleep(after);
    child.kill()?;
    let outcome = finish(child)?;
    let problems = if outcome.killed { Vec::new() } else { judge(&outcome, prepared) };
    Ok((format!("killed after {} ms of {}", after.as_millis(), prepared.took.as_millis()), problems))
}

/// Runs several kilns in one store, one of which may be killed, and one of which may remove everything from it.
fn at_once(case: &Case<'_>, prepared: &Prepared, random: &mut Random, is_used: bool) -> Result<(String, Vec<Problem>)> {
    if is_used {
        use_store(case, prepared)?;
    }
    let arguments: Vec<&str> = (0..random.within(2, 5))
        .map(|_| {
            *random
                .one_of(&["build --json", "build --json --no-cache app", "build --json --no-cache app:2", "gc --all"])
                .unwrap_or(&BUILD)
        })
        .collect();
    let is_killed = random.percent(40);
    let mut running =
        arguments.iter().map(|words| start(&mut case.command(words), None)).collect::<Result<Vec<_>>>()?;
    if let (true, Some(first)) = (is_killed, running.first_mut()) {
        std::thread::sleep(Duration::from_micros(random.below(prepared.took.as_micros() as u64)));
        first.kill()?;
    }
    let mut problems = Vec::new();
    for (words, child) in arguments.iter().zip(running) {
        let outcome = finish(child)?;
        if outcome.killed && is_killed {
            continue;
        }
        if words.starts_with("build") {
            problems.extend(judge(&outcome, prepared));
        }
        problems.extend(outcome.problems(words));
    }
    let killed = if is_killed { ", the first killed" } else { "" };
    Ok((format!("at once: {}{killed}", arguments.join(", ")), problems))
}

/// Damages a file of a layer that lies unpacked, and performs the commands again.
fn damage(case: &Case<'_>, prepared: &Prepared, random: &mut Random) -> Result<(String, Vec<Problem>)> {
    use_store(case, prepared)?;
    let mut files = Vec::new();
    let mut waiting = vec![case.root.join("store/trees/sha256")];
    while let Some(directory) = waiting.pop() {
        for entry in fs_err::read_dir(&directory)? {
            let entry = entry?;
            match entry.file_type()? {
                kind if kind.is_dir() => waiting.push(entry.path()),
                kind if kind.is_file() => files.push(entry.path()),
                _ => {}
            }
        }
    }
    files.sort();
    let Some(file) = random.one_of(&files) else { return Err("the store has no trees".into()) };
    let how = match random.below(5) {
        0 => {
            fs_err::OpenOptions::new().write(true).open(file)?.file().set_len(1)?;
            "cut"
        }
        1 => {
            fs_err::remove_file(file)?;
            "lost"
        }
        2 => {
            fs_err::write(file, "other content")?;
            "changed"
        }
        3 => {
            fs_err::remove_file(file)?;
            fs_err::create_dir(file)?;
            "a directory"
        }
        _ => {
            fs_err::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600))?;
            fs_err::write(file.with_file_name("foreign"), "x")?;
            "with another beside it"
        }
    };
    let outcome = case.run(AGAIN)?;
    let shown = file.strip_prefix(&case.root).unwrap_or(file).display().to_string();
    Ok((format!("{shown} is {how}"), judge(&outcome, prepared)))
}

/// Builds on a disk that is nearly full; then there is more room.
fn fill(case: &Case<'_>, prepared: &Prepared, random: &mut Random) -> Result<(String, Vec<Problem>)> {
    let store = case.root.join("store");
    fs_err::create_dir_all(&store)?;
    let size = SPARE + random.below(NEEDED);
    let mount = |options: String| -> Result<bool> {
        let mut mount = Command::new("mount");
        mount.args(["-t", "tmpfs", "-o", &options, "kiln-torture"]).arg(&store);
        Ok(mount.stderr(std::process::Stdio::null()).status()?.success())
    };
    if !mount(format!("size={size}"))? {
        return Ok(("a full disk: nothing can be mounted here".into(), Vec::new()));
    }
    let full = case.run(BUILD);
    let larger = mount(format!("remount,size={}", SPARE + 4 * NEEDED));
    let again = case.run(BUILD);
    let unmounted = Command::new("umount").arg(&store).status()?.success();
    let (full, again) = (full?, again?);
    let mut problems = [judge(&again, prepared), full.problems(BUILD)].concat();
    if full.succeeded() {
        problems.extend(judge(&full, prepared));
    } else if full.status != Some(3) || !["disk", "No space left"].iter().any(|word| full.stderr.contains(word)) {
        problems.push(problem("a full disk that is not named", full.brief()));
    }
    if !larger? || !unmounted {
        problems.push(problem("the store's file system is in use", store.display().to_string()));
    }
    Ok((format!("a disk of {} MB", size >> 20), problems))
}

/// Judges a build that nothing kept from its end.
fn judge(outcome: &Outcome, prepared: &Prepared) -> Vec<Problem> {
    let mut problems = outcome.problems("build");
    if !outcome.succeeded() {
        problems.push(problem("the build fails", outcome.brief()));
    } else if Build::of(outcome).digests != prepared.reference {
        problems.push(problem("status 0 with another digest", format!("{:?}", Build::of(outcome).digests)));
    }
    problems
}

/// Checks what must hold in the end.
fn settle(case: &Case<'_>, prepared: &Prepared) -> Result<Vec<Problem>> {
    let mut problems = Vec::new();
    if let Some(path) = holding_secret(&case.root.join("store"))? {
        problems.push(problem("a file of the store holds the secret", path.display().to_string()));
    }
    let since = Instant::now();
    while let Some(left) = left_running(&case.root) {
        if since.elapsed() > PATIENCE {
            problems.push(problem("a process or a mount is left", left));
            break;
        }
        std::thread::sleep(Duration::from_millis(20));
    }
    for arguments in [BUILD, AGAIN] {
        let later = judge(&case.run(arguments)?, prepared).into_iter();
        problems.extend(later.map(|found| problem(format!("later: {}", found.kind), found.details)));
    }
    let collected = case.run("gc")?;
    problems.extend(collected.problems("gc"));
    problems.extend(check::layout(&case.root.join("project/out"), &Digests::new(), check::Moment::Settled));
    problems.extend(check::left_over(&case.root, &KNOWN));
    Ok(problems)
}

/// Returns a file below a directory that holds the secret.
fn holding_secret(directory: &Path) -> Result<Option<PathBuf>> {
    for entry in fs_err::read_dir(directory)? {
        let entry = entry?;
        let (path, kind) = (entry.path(), entry.file_type()?);
        let found = if kind.is_dir() {
            holding_secret(&path)?
        } else {
            let holds = kind.is_file() && fs_err::read(&path)?.windows(SECRET.len()).any(|part| part == SECRET);
            holds.then_some(path)
        };
        if found.is_some() {
            return Ok(found);
        }
    }
    Ok(None)
}

/// Returns a process that has something of a directory mounted: a sandbox of a kiln that worked there, or what that left on the host.
fn left_running(root: &Path) -> Option<String> {
    let root = root.display().to_string();
    let processes = fs_err::read_dir("/proc").ok()?.filter_map(std::result::Result::ok);
    let numbers =
        processes.filter(|entry| entry.file_name().to_string_lossy().bytes().all(|byte| byte.is_ascii_digit()));
    let mut left = numbers.filter_map(|entry| {
        let mounts = fs_err::read_to_string(entry.path().join("mountinfo")).ok()?;
        let line = mounts.lines().find(|line| line.contains(&root))?;
        Some(format!("process {}: {line}", entry.file_name().to_string_lossy()))
    });
    left.next()
}
