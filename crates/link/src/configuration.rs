//! The directories of `/etc/ld.so.conf` (ldconfig(8)).
//!
//! The loader itself reads a cache that ldconfig has made of them. What is in the files is what the cache holds after
//! the last package was installed, and it can be read from layers that no one has run.

use std::collections::BTreeSet;

use crate::tree::{Tree, split};

const FILE: &str = "etc/ld.so.conf";
const DIRECTORY: &str = "etc/ld.so.conf.d/";
/// Files that may be included, and directories that may be named: far above what systems have.
const MOST: usize = 1 << 10;

/// Whether the text of a file is wanted, by its path in the tree: `etc/ld.so.conf` and `etc/ld.so.conf.d/*.conf`.
pub fn is_configuration(path: &str) -> bool {
    let path = path.trim_start_matches("./").trim_start_matches('/');
    let included = path.strip_prefix(DIRECTORY).filter(|name| name.ends_with(".conf") && !name.contains('/'));
    path == FILE || included.is_some()
}

/// The directories, in the order in which they are searched.
pub(crate) fn directories(tree: &Tree) -> Vec<String> {
    let mut directories = Vec::new();
    let mut seen = BTreeSet::new();
    // What is included stands where the line is: files are read as a stack of lines.
    let mut waiting: Vec<(String, String)> = lines(tree, FILE);
    while let Some((file, line)) = waiting.pop() {
        if let Some(patterns) = line.strip_prefix("include").filter(|rest| rest.starts_with([' ', '\t'])) {
            for pattern in patterns.split_whitespace() {
                for included in included(tree, &file, pattern).into_iter().rev() {
                    if seen.len() < MOST && seen.insert(included.clone()) {
                        waiting.extend(lines(tree, &included));
                    }
                }
            }
        } else if line.starts_with('/') && directories.len() < MOST && !directories.contains(&line) {
            directories.push(line);
        }
    }
    directories
}

/// The lines of a file, the last first, each with the file's path.
fn lines(tree: &Tree, file: &str) -> Vec<(String, String)> {
    let lines = tree.text(file).unwrap_or_default().lines().rev().filter_map(|line| {
        let line = line.split('#').next().unwrap_or_default().trim();
        // `/lib=libc6` once said what kind of libraries a directory has.
        let line = line.split('=').next().unwrap_or_default().trim_end();
        (!line.is_empty()).then(|| (file.to_owned(), line.to_owned()))
    });
    lines.collect()
}

/// The files of an `include` line, sorted: a pattern of glob(7) in the last part of a path.
fn included(tree: &Tree, file: &str, pattern: &str) -> Vec<String> {
    let beside = split(file).map_or("", |(parent, _)| parent);
    let path = if pattern.starts_with('/') { pattern.to_owned() } else { format!("{beside}/{pattern}") };
    let Some((parent, pattern)) = split(&path) else { return Vec::new() };
    let names =
        tree.names(parent).filter(|name| !name.starts_with('.') && matches(pattern.as_bytes(), name.as_bytes()));
    names.map(|name| format!("{parent}/{name}")).collect()
}

/// Whether a name matches a pattern with `*` and `?`.
fn matches(pattern: &[u8], name: &[u8]) -> bool {
    let (mut at, mut star, mut place) = (0, None, 0);
    while place < name.len() {
        match pattern.get(at) {
            Some(b'*') => {
                star = Some((at, place));
                at += 1;
            }
            Some(byte) if *byte == b'?' || *byte == name[place] => {
                at += 1;
                place += 1;
            }
            // The last star takes one byte more.
            _ => {
                let Some((star_at, taken)) = star else { return false };
                star = Some((star_at, taken + 1));
                (at, place) = (star_at + 1, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}
