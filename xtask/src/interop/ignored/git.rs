//! Beside `git check-ignore`, which names the file, the line and the pattern that decide for each path.

use std::collections::BTreeMap;
use std::io::Write;
use std::path::Path;
use std::process::{Command, Stdio};

use kiln_ignore::Rules;

use super::generated::{Kind, Tree, join};
use super::{SEED, TREES};
use crate::interop::report::none;
use crate::interop::{Result, programs};
use crate::random::Random;

/// The decision for a path: the directory of the file, the line, and true if the path stays out.
type Decision = Option<(Vec<u8>, usize, bool)>;
/// One tree in so many has ignore files in its directories too, by percent.
const NESTED: u64 = 30;

/// Compares all trees.
pub(super) fn check(directory: &Path) -> Result<()> {
    fs_err::create_dir_all(directory)?;
    let repository = directory.join("repository");
    programs::output(Command::new("git").args(["init", "--quiet", "--bare"]).arg(&repository))?;
    let mut wrong = Vec::new();
    for case in 0..TREES {
        let mut random = Random::of_case(SEED, "git", case);
        let tree = Tree::new(&mut random);
        let files = ignore_files(&mut random, &tree);
        let root = directory.join(case.to_string());
        tree.write(&root)?;
        for (below, text) in &files {
            fs_err::write(join(&root, below).join(".gitignore"), text)?;
        }
        let ours = ours(&tree, &files);
        let theirs = theirs(&repository, &root, &tree)?;
        for (path, ours) in &ours {
            let theirs = theirs.get(path).cloned().flatten();
            if *ours != theirs {
                wrong.push(format!("{case}: {}: {} and {}", shown(path), said(ours, &files), said(&theirs, &files)));
            }
        }
    }
    none("paths are not ignored as git ignores them", &wrong)
}

fn ignore_files(random: &mut Random, tree: &Tree) -> BTreeMap<Vec<u8>, Vec<u8>> {
    let mut files = BTreeMap::new();
    for directory in tree.directories() {
        if directory.is_empty() || random.percent(NESTED) {
            files.insert(directory.clone(), tree.ignore_file(random, &directory));
        }
    }
    files
}

/// Returns the decisions of kiln, on a walk that looks into no directory that stays out.
fn ours(tree: &Tree, files: &BTreeMap<Vec<u8>, Vec<u8>>) -> BTreeMap<Vec<u8>, Decision> {
    let rules: BTreeMap<&[u8], Rules> = files.iter().map(|(below, text)| (&below[..], Rules::git(text))).collect();
    let mut decisions: BTreeMap<Vec<u8>, Decision> = BTreeMap::new();
    for (path, kind) in &tree.nodes {
        let above = parent(path).and_then(|above| decisions.get(above).cloned().flatten());
        let decision = match above {
            Some((file, line, true)) => Some((file, line, true)),
            _ => decide(&rules, path, *kind == Kind::Directory),
        };
        decisions.insert(path.clone(), decision);
    }
    decisions
}

/// Asks the deepest file first.
fn decide(rules: &BTreeMap<&[u8], Rules>, path: &[u8], is_directory: bool) -> Decision {
    let mut above = parent(path);
    loop {
        let directory = above.unwrap_or_default();
        let relative = if directory.is_empty() { path } else { &path[directory.len() + 1..] };
        let rules = rules.get(directory);
        if let Some(found) = rules.and_then(|rules| rules.look(&rules.root(), relative, is_directory).decided) {
            return Some((directory.to_vec(), found.line, found.excluded));
        }
        above = Some(parent(above?).unwrap_or_default()).filter(|_| !directory.is_empty());
        above?;
    }
}

fn parent(path: &[u8]) -> Option<&[u8]> {
    path.iter().rposition(|byte| *byte == b'/').map(|at| &path[..at])
}

/// Returns the decisions of git, asked twice: with the deciding line, and for what stays out alone.
fn theirs(repository: &Path, root: &Path, tree: &Tree) -> Result<BTreeMap<Vec<u8>, Decision>> {
    let verbose = ask(repository, root, tree, &["--verbose", "--non-matching"])?;
    let mut decisions = BTreeMap::new();
    let fields: Vec<&[u8]> = verbose.split(|byte| *byte == 0).collect();
    for found in fields.chunks_exact(4) {
        let [file, line, pattern, path] = [found[0], found[1], found[2], found[3]];
        let decision = match file {
            b"" => None,
            _ => {
                let line = std::str::from_utf8(line)?.parse()?;
                Some((parent(file).unwrap_or_default().to_vec(), line, !pattern.starts_with(b"!")))
            }
        };
        decisions.insert(path.to_vec(), decision);
    }
    let terse = ask(repository, root, tree, &[])?;
    let out: Vec<&[u8]> = terse.split(|byte| *byte == 0).filter(|path| !path.is_empty()).collect();
    let excluded = decisions.iter().filter(|(_, decision)| matches!(decision, Some((_, _, true))));
    if !excluded.map(|(path, _)| &path[..]).eq(out.iter().copied().collect::<std::collections::BTreeSet<_>>()) {
        return Err(format!("git contradicts itself in {}", root.display()).into());
    }
    Ok(decisions)
}

fn ask(repository: &Path, root: &Path, tree: &Tree, arguments: &[&str]) -> Result<Vec<u8>> {
    let mut command = Command::new("git");
    command.arg("--git-dir").arg(repository).arg("--work-tree").arg(root).args(["-c", "core.excludesFile=/dev/null"]);
    command.args(["-c", "core.bare=false", "check-ignore", "--stdin", "-z"]).args(arguments).current_dir(root);
    let mut child = command.stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let mut paths: Vec<u8> = Vec::new();
    for path in tree.nodes.keys() {
        paths.extend([&path[..], b"\0"].concat());
    }
    child.stdin.take().ok_or("git has no stdin")?.write_all(&paths)?;
    let output = child.wait_with_output()?;
    match output.status.code() {
        // 1 says that no path is ignored.
        Some(0 | 1) => Ok(output.stdout),
        _ => Err(format!("git check-ignore in {}: {}", root.display(), String::from_utf8_lossy(&output.stderr)).into()),
    }
}

fn shown(path: &[u8]) -> String {
    path.escape_ascii().to_string()
}

fn said(decision: &Decision, files: &BTreeMap<Vec<u8>, Vec<u8>>) -> String {
    let Some((file, line, excluded)) = decision else { return "no line".into() };
    let text = files.get(file).and_then(|text| text.split(|byte| *byte == b'\n').nth(line - 1)).unwrap_or_default();
    let verb = if *excluded { "out" } else { "in" };
    format!("{verb} by {}/.gitignore:{line} `{}`", shown(file), shown(text))
}
