//! BuildKit's side: each copy is a target of one bake, as long as none is refused.

use std::path::Path;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use serde_json::{Map, Value, json};

use super::generated::{Case, Copy};
use super::{Outcome, excused, seen};
use crate::interop::registries::docker::Docker;
use crate::interop::{Result, programs, transports};

/// Copies of one bake: where one is refused, each is built alone.
const AT_ONCE: usize = 25;
/// Calls at once.
const THREADS: usize = 3;
/// Attempts to hear why a build failed.
const TRIES: u32 = 5;
const BASE: &str = "copied/base:1";

/// Returns what becomes of all copies of a case. Those that kiln refuses are likely to be refused.
pub(super) fn outcomes(docker: &Docker, project: &Path, case: &Case, ours: &[Outcome]) -> Result<Vec<Outcome>> {
    let archive = project.join("base.tar");
    let (from, to) =
        (transports::in_layout(&project.join("base"), "base"), format!("docker-archive:{}:{BASE}", archive.display()));
    programs::output(transports::skopeo().args(["copy", "--quiet", &from, &to]))?;
    docker.text(&["load", "--quiet", "--input", &archive.display().to_string()])?;
    let is_likely = |number: &usize| ours[*number].as_ref().is_ok_and(|seen| !excused::replaces_file(case, seen));
    let (likely, unlikely): (Vec<usize>, Vec<usize>) = (0..ours.len()).partition(is_likely);
    let builds: Vec<&[usize]> = likely.chunks(AT_ONCE).chain(unlikely.chunks(1)).collect();
    let (next, refusals) = (AtomicUsize::new(0), Mutex::new(vec![None; ours.len()]));
    let build = || -> Result<()> {
        while let Some(numbers) = builds.get(next.fetch_add(1, Ordering::Relaxed)) {
            for (number, why) in refused(docker, project, case, numbers)? {
                refusals.lock().unwrap_or_else(PoisonError::into_inner)[number] = Some(why);
            }
        }
        Ok(())
    };
    std::thread::scope(|scope| {
        let threads: Vec<_> = (0..THREADS).map(|_| scope.spawn(build)).collect();
        threads.into_iter().try_for_each(|thread| thread.join().unwrap_or_else(|_| Err("a build panicked".into())))
    })?;
    let refusals: Vec<Option<String>> = refusals.into_inner().unwrap_or_else(PoisonError::into_inner);
    let outcome = |(number, refusal): (usize, Option<String>)| match refusal {
        Some(why) => Ok(Err(why)),
        None => seen::archive(&archive_of(project, number)).map(Ok),
    };
    refusals.into_iter().enumerate().map(outcome).collect()
}

/// Builds some copies; those that BuildKit refuses, with the reason.
fn refused(docker: &Docker, project: &Path, case: &Case, numbers: &[usize]) -> Result<Vec<(usize, String)>> {
    let mut refused = Vec::new();
    let Some(why) = bake(docker, project, case, numbers)? else { return Ok(refused) };
    if let [number] = numbers {
        return Ok(vec![(*number, why)]);
    }
    for number in numbers {
        refused.extend(bake(docker, project, case, &[*number])?.map(|why| (*number, why)));
    }
    Ok(refused)
}

fn archive_of(project: &Path, number: usize) -> std::path::PathBuf {
    project.join(format!("c{number}.tar"))
}

/// Builds some copies; the reason why BuildKit refuses one of them.
fn bake(docker: &Docker, project: &Path, case: &Case, numbers: &[usize]) -> Result<Option<String>> {
    let mut targets = Map::new();
    for number in numbers {
        let output = format!("type=tar,dest={}", archive_of(project, *number).display());
        let dockerfile = dockerfile(&case.copies[*number]);
        let target = json!({ "context": project.join("src"), "dockerfile-inline": dockerfile, "output": [output] });
        targets.insert(format!("c{number}"), target);
    }
    let names: Vec<Value> = targets.keys().map(|name| json!(name)).collect();
    let file = project.join(format!("bake-{numbers:?}.json"));
    fs_err::write(&file, json!({ "group": { "default": { "targets": names } }, "target": targets }).to_string())?;
    let mut why = String::new();
    for _ in 0..TRIES {
        match docker.text(&["buildx", "bake", "--progress", "plain", "--file", &file.display().to_string()]) {
            Ok(_) => return Ok(None),
            Err(error) => why = error.to_string(),
        }
        if !why.contains("context canceled") {
            break;
        }
    }
    let last = why.lines().rfind(|line| line.contains("ERROR")).unwrap_or(&why).trim().to_owned();
    Ok(Some(last))
}

fn dockerfile(copy: &Copy) -> String {
    let options = copy.shown();
    let options: Vec<&str> = options.split(' ').filter(|word| word.starts_with("--")).collect();
    let source = |path: &String| if path.is_empty() { ".".to_owned() } else { path.clone() };
    let paths: Vec<String> = copy.from.iter().map(source).chain([copy.to.clone()]).collect();
    format!("FROM {BASE}\nCOPY {} {}\n", options.join(" "), json!(paths))
}
