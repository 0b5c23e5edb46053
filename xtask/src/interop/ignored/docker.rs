//! Beside `docker build`: what `COPY . /` brings into an image.

use std::collections::BTreeSet;
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use kiln_ignore::{BadPattern, Directory, Problem, Rules};
use serde_json::{Map, Value, json};

use super::SEED;
use super::generated::{Kind, Tree};
use crate::interop::Result;
use crate::interop::registries::docker::Docker;
use crate::interop::report::none;
use crate::random::Random;

/// Contexts that one call of `docker buildx bake` builds.
const AT_ONCE: usize = 50;
/// Files that kiln refuses and that are tried.
const REFUSED: usize = 60;
/// Attempts to hear why a build failed.
const TRIES: u32 = 5;
const DOCKERFILE: &str = "FROM scratch\nCOPY . /\n";

/// A context that is built, and what kiln says is in it.
struct Context {
    case: u64,
    text: Vec<u8>,
    kept: BTreeSet<Vec<u8>>,
}

/// Compares so many contexts.
pub(super) fn check(docker: &Docker, directory: &Path, count: u64) -> Result<()> {
    let (mut contexts, mut refused) = (Vec::new(), Vec::new());
    for case in 0.. {
        if contexts.len() as u64 == count {
            break;
        }
        let mut random = Random::of_case(SEED, "docker", case);
        let tree = Tree::new(&mut random);
        let text = printable(&tree.ignore_file(&mut random, &[]));
        match Rules::docker(&text) {
            Ok(rules) => {
                let root = directory.join(case.to_string());
                tree.write(&root)?;
                fs_err::write(root.join(".dockerignore"), &text)?;
                contexts.push(Context { case, text, kept: kept(&rules, &tree) });
            }
            Err(bad) => refused.push((case, bad)),
        }
    }
    let mut wrong = Vec::new();
    for contexts in contexts.chunks(AT_ONCE) {
        build(docker, directory, contexts)?;
        for context in contexts {
            wrong.extend(differences(directory, context)?);
        }
    }
    for (case, bad) in refused.iter().take(REFUSED) {
        wrong.extend(taken(docker, &directory.join("refused"), *case, bad)?);
    }
    none("differences", &wrong)
}

/// The lines whose patterns are printable ASCII: this BuildKit hands patterns over in a header, and fails for others.
fn printable(text: &[u8]) -> Vec<u8> {
    let is_printable = |line: &&[u8]| {
        let line = String::from_utf8_lossy(line);
        line.trim_start_matches('\u{FEFF}').trim().bytes().all(|byte| matches!(byte, b' '..=b'~'))
    };
    text.split_inclusive(|byte| *byte == b'\n').filter(is_printable).flatten().copied().collect()
}

/// Returns the paths that a walk keeps, and the directories in which something is kept.
fn kept(rules: &Rules, tree: &Tree) -> BTreeSet<Vec<u8>> {
    let mut kept = BTreeSet::new();
    walk(rules, tree, &rules.root(), &[], &mut kept);
    let file = rules.look(&rules.root(), b".dockerignore", false);
    if !file.excluded() {
        kept.insert(b".dockerignore".to_vec());
    }
    kept
}

fn walk(rules: &Rules, tree: &Tree, directory: &Directory, below: &[u8], kept: &mut BTreeSet<Vec<u8>>) {
    for (path, kind) in &tree.nodes {
        let at = path.iter().rposition(|byte| *byte == b'/');
        if at.map_or(&[][..], |at| &path[..at]) != below {
            continue;
        }
        let found = rules.look(directory, path, *kind == Kind::Directory);
        if !found.excluded() {
            kept.extend((0..path.len()).filter(|at| path[*at] == b'/').map(|at| path[..at].to_vec()));
            kept.insert(path.clone());
        }
        if let Some(inside) = &found.inside {
            walk(rules, tree, inside, path, kept);
        }
    }
}

fn build(docker: &Docker, directory: &Path, contexts: &[Context]) -> Result<()> {
    let mut targets = Map::new();
    for Context { case, .. } in contexts {
        let output = format!("type=local,dest={}", directory.join(format!("{case}.out")).display());
        let context = directory.join(case.to_string());
        let target = json!({ "context": context, "dockerfile-inline": DOCKERFILE, "output": [output] });
        targets.insert(format!("case{case}"), target);
    }
    let names: Vec<Value> = targets.keys().map(|name| json!(name)).collect();
    let file = directory.join("bake.json");
    fs_err::write(&file, json!({ "group": { "default": { "targets": names } }, "target": targets }).to_string())?;
    let file = file.display().to_string();
    docker.text(&["buildx", "bake", "--progress", "plain", "--file", &file]).map(drop)
}

fn differences(directory: &Path, context: &Context) -> Result<Vec<String>> {
    let Context { case, text, kept } = context;
    let root = directory.join(format!("{case}.out"));
    let (mut copied, mut waiting) = (BTreeSet::new(), vec![root.clone()]);
    while let Some(directory) = waiting.pop() {
        for entry in fs_err::read_dir(directory)? {
            let entry = entry?;
            copied.insert(entry.path().strip_prefix(&root)?.as_os_str().as_bytes().to_vec());
            if entry.file_type()?.is_dir() {
                waiting.push(entry.path());
            }
        }
    }
    let differs = |path: &Vec<u8>, by: &str| {
        format!("{case}: {} is copied by {by} alone: `{}`", path.escape_ascii(), text.escape_ascii())
    };
    let ours = kept.difference(&copied).map(|path| differs(path, "kiln"));
    let theirs = copied.difference(kept).map(|path| differs(path, "Docker"));
    Ok(ours.chain(theirs).collect())
}

/// Says so if Docker takes a pattern that kiln refuses: alone, or after one that leaves everything out, since it looks at no
/// pattern that could change nothing.
fn taken(docker: &Docker, directory: &Path, case: u64, bad: &BadPattern) -> Result<Option<String>> {
    let expected = match bad.problem {
        Problem::Syntax => "syntax error in pattern",
        Problem::Empty => "illegal exclusion pattern",
        Problem::TooLong => "token too long",
        // Nothing is generated that has them.
        Problem::Unsupported => return Err(format!("{case}: {bad}").into()),
    };
    let pattern = String::from_utf8(bad.pattern.clone())?;
    let mut answers = Vec::new();
    for text in [pattern.clone(), format!("**\n{pattern}")] {
        let answer = refusal(docker, directory, &text)?;
        if answer.contains(expected) {
            return Ok(None);
        }
        answers.push(answer);
    }
    Ok(Some(format!("{case}: {bad}, but Docker: {}", answers.join(" / "))))
}

/// Returns the message with which Docker refuses an ignore file; empty if it takes it.
fn refusal(docker: &Docker, directory: &Path, text: &str) -> Result<String> {
    fs_err::create_dir_all(directory)?;
    fs_err::write(directory.join("Dockerfile"), DOCKERFILE)?;
    fs_err::write(directory.join(".dockerignore"), text)?;
    let context = directory.display().to_string();
    let mut answer = String::new();
    for _ in 0..TRIES {
        match docker.text(&["build", "--progress", "plain", "--output", "type=cacheonly", &context]) {
            Ok(_) => return Ok(String::new()),
            Err(error) => answer = error.to_string(),
        }
        // Now and then it tells how it ended rather than why.
        if !answer.contains("context canceled") {
            break;
        }
    }
    Ok(answer)
}
