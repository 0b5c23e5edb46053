//! `kiln doctor`

use std::path::Path;
use std::process::ExitCode;

use clap::Args;
use kiln_plan::event::{Cancel, SharedReporter, Work};
use kiln_plan::size;
use kiln_programs::{Call, Names, PATH};
use kiln_sandbox::{Finding, Sandbox, State};
use kiln_store::TemporaryDirectory;
use serde::Serialize;
use serde_json::json;

use super::{Outcome, print, print_json, table};
use crate::arguments::Global;
use crate::progress::Terminal;
use crate::surroundings::{NVIDIA_SMI, child_environment, registry, store_directory};

/// Bytes that should be free for the store: an image of torch takes 3 GB, and its unpacked layers 5.
const ROOM: u64 = 10_000_000_000;

/// Say what works on this machine and what does not, and what to do about it
///
/// A sandbox is made, as for the commands of images (`run`), and removed. The status is 0 where such commands can run, else 1:
/// images without commands need no sandbox.
#[derive(Debug, Args)]
pub(crate) struct Doctor {}

/// Findings about one thing.
#[derive(Serialize)]
struct Section {
    title: &'static str,
    findings: Vec<Finding>,
}

impl Doctor {
    pub(crate) fn run(&self, global: &Global, cancel: &Cancel) -> Outcome {
        let terminal = Terminal::shared(global);
        let store = store_directory(global)?;
        let (place, sandbox) = store_and_sandbox(&store);
        let can_run = sandbox.iter().all(|finding| matches!(finding.state, State::Works | State::Limited));
        let sections = [
            Section { title: "commands of images (`run`)", findings: sandbox },
            Section { title: "store", findings: place },
            Section { title: "programs", findings: programs(&terminal, cancel) },
            Section { title: "registries", findings: vec![helpers(global, &terminal, cancel)] },
            Section { title: "machine", findings: vec![container(), gpus(&terminal, cancel)] },
        ];
        if global.json {
            print_json(&json!({ "can-run-commands": can_run, "sections": sections }))?;
        } else {
            print(&text(&sections))?;
        }
        Ok(if can_run { ExitCode::SUCCESS } else { ExitCode::FAILURE })
    }
}

/// Tells of the store's file system, and tries a sandbox on it.
fn store_and_sandbox(store: &Path) -> (Vec<Finding>, Vec<Finding>) {
    const PLACE: &str = "directory";
    // Where the next kiln removes what a killed one left.
    let temporary = store.join("temporary");
    let made = fs_err::create_dir_all(&temporary).and_then(|()| TemporaryDirectory::create(&temporary));
    let directory = match made {
        Ok(directory) => directory,
        Err(error) => {
            let place = Finding::missing(PLACE, error.to_string(), "name another store: `--store DIR`, `KILN_STORE`");
            let untried = Finding {
                subject: "sandbox",
                state: State::Untried,
                detail: "it needs the store".into(),
                remedy: None,
            };
            return (vec![place], vec![untried]);
        }
    };
    let place = vec![Finding::works(PLACE, store.display().to_string()), room(store), attributes(directory.path())];
    (place, Sandbox::default().diagnose(directory.path()))
}

fn room(store: &Path) -> Finding {
    const SUBJECT: &str = "room";
    let free = rustix::fs::statvfs(store).map_or(0, |state| state.f_bavail.saturating_mul(state.f_frsize));
    let detail = format!("{} free", size::format(free));
    match free {
        free if free >= ROOM => Finding::works(SUBJECT, detail),
        _ => Finding::limited(SUBJECT, detail, "make room: `kiln gc --keep-storage 5GB`; or name another store"),
    }
}

/// Tries to give a file an extended attribute of a user (xattr(7)).
fn attributes(directory: &Path) -> Finding {
    const SUBJECT: &str = "extended attributes";
    let file = directory.join("attributes");
    let set = fs_err::write(&file, "")
        .and_then(|()| Ok(rustix::fs::setxattr(&file, "user.kiln.trial", b"1", rustix::fs::XattrFlags::empty())?));
    match set {
        Ok(()) => Finding::works(SUBJECT, ""),
        Err(error) => {
            Finding::missing(SUBJECT, error.to_string(), "put the store on ext4, xfs, btrfs, or a newer tmpfs")
        }
    }
}

/// The variables of programs that only tell their version.
const VERSION: Names = &[PATH];

fn programs(reporter: &SharedReporter, cancel: &Cancel) -> Vec<Finding> {
    let rare = [
        ("uv", "--version", "kiln installs its own with `python3 -m pip` where packages are resolved"),
        ("git", "--version", "repositories in `copy` and `packages` need it: `apt-get install git`"),
        ("git-lfs", "version", "repositories with large files need it: `apt-get install git-lfs`"),
    ];
    let environment = child_environment();
    let found = rare.into_iter().map(|(program, argument, remedy)| {
        let Some(path) = environment.find(program) else { return Finding::limited(program, "not on PATH", remedy) };
        let work = Work::start(reporter, cancel, "ask", program, None);
        match Call::new(&path, VERSION).args([argument]).run(&environment, &work) {
            Ok(said) => {
                let said = String::from_utf8_lossy(&said);
                let version = said.lines().next().unwrap_or_default().trim_start_matches(program);
                let version = version.trim_start_matches(['/', ' ']).trim_start_matches("version ");
                Finding::works(program, format!("{version} ({})", path.display()))
            }
            Err(error) => Finding::limited(program, format!("{} fails: {error}", path.display()), remedy),
        }
    });
    found.collect()
}

/// Tells of the programs that keep credentials, as Docker's and podman's configuration names them.
fn helpers(global: &Global, reporter: &SharedReporter, cancel: &Cancel) -> Finding {
    const SUBJECT: &str = "credential helpers";
    let credentials = registry(global, reporter, cancel).credentials;
    let helpers = match credentials.helpers() {
        Ok(helpers) => helpers,
        Err(error) => {
            return Finding::limited(SUBJECT, error.to_string(), "mend the file, or remove it and log in again");
        }
    };
    let programs: Vec<String> = helpers.iter().map(|helper| format!("docker-credential-{helper}")).collect();
    let missing: Vec<&str> =
        programs.iter().filter(|name| credentials.environment.find(name).is_none()).map(String::as_str).collect();
    match missing.as_slice() {
        [] if programs.is_empty() => Finding::works(SUBJECT, "none are named"),
        [] => Finding::works(SUBJECT, programs.join(", ")),
        missing => Finding::limited(
            SUBJECT,
            format!("not on PATH: {}", missing.join(", ")),
            "install them, or take their names out of Docker's `config.json`",
        ),
    }
}

/// Tells of the container that kiln runs in, and of what holds it (proc(5): `Seccomp`, `attr/current`).
fn container() -> Finding {
    const SUBJECT: &str = "container";
    let Some(name) = kiln_sandbox::container() else { return Finding::works(SUBJECT, "none") };
    let mut detail = vec![name.to_owned()];
    let status = fs_err::read_to_string("/proc/self/status").unwrap_or_default();
    if status.lines().any(|line| line.split_whitespace().eq(["Seccomp:", "2"])) {
        detail.push("calls are filtered".into());
    }
    let profile = fs_err::read_to_string("/proc/self/attr/current").unwrap_or_default();
    let profile = profile.trim_end_matches(['\n', '\0']);
    if !profile.is_empty() {
        detail.push(format!("profile {profile}"));
    }
    Finding::works(SUBJECT, detail.join(", "))
}

/// Tells of this machine's GPUs, which no build needs.
fn gpus(reporter: &SharedReporter, cancel: &Cancel) -> Finding {
    const SUBJECT: &str = "GPUs";
    let environment = child_environment();
    let Some(program) = environment.find("nvidia-smi") else {
        return Finding::works(SUBJECT, "no driver; no build needs one");
    };
    let work = Work::start(reporter, cancel, "ask", "nvidia-smi", None);
    let call = Call::new(program, NVIDIA_SMI).args(["--query-gpu=name,driver_version", "--format=csv,noheader"]);
    match call.run(&environment, &work) {
        Ok(said) => {
            let said = String::from_utf8_lossy(&said);
            Finding::works(
                SUBJECT,
                said.lines().map(|line| line.replace(", ", ", driver ")).collect::<Vec<_>>().join("; "),
            )
        }
        Err(error) => Finding::limited(SUBJECT, error.to_string(), "`nvidia-smi` must work for `gpus = [\"native\"]`"),
    }
}

fn text(sections: &[Section]) -> String {
    let rows = |finding: &Finding| {
        let state = match finding.state {
            State::Works => "ok",
            State::Limited => "limited",
            State::Missing => "MISSING",
            State::Untried => "untried",
        };
        vec![format!("  {state}"), finding.subject.to_owned(), finding.detail.clone()]
    };
    let all: Vec<_> = sections.iter().flat_map(|section| &section.findings).collect();
    let lines = table(&all.iter().map(|finding| rows(finding)).collect::<Vec<_>>());
    let mut lines = lines.lines();
    let mut text = String::new();
    for section in sections {
        text.push_str(&format!("{}\n", section.title));
        for finding in &section.findings {
            text.push_str(&format!("{}\n", lines.next().unwrap_or_default()));
            if let Some(remedy) = &finding.remedy {
                text.push_str(&format!("           {remedy}\n"));
            }
        }
    }
    text
}
