//! `cargo xtask circles`: modules directly below a crate's root that use one another in a circle. Such modules can neither
//! be read nor moved alone.
//!
//! Paths are read, not resolved: `crate::x` and, by its depth, `super::x`, in `use` and elsewhere; a name that the root
//! re-exports counts as its module. Tests are left out.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use clap::Args;

use crate::interop::say;
use crate::sources;

/// The file with the names of crates that have circles, one a line. It may only become shorter.
const KNOWN: &str = ".ci/circles";

/// Find circles between the modules below a crate's root, and fail where `.ci/circles` does not name the crate
#[derive(Debug, Args)]
pub(crate) struct Circles {}

/// The modules that a module uses, each with one file that does.
type Uses = BTreeMap<String, BTreeMap<String, String>>;

impl Circles {
    pub(crate) fn run(&self) -> Result<(), String> {
        let root = sources::root();
        let known = sources::read(&root.join(KNOWN))?;
        let known: BTreeSet<&str> = known.lines().filter(|line| !line.is_empty()).collect();
        let mut have = BTreeSet::new();
        for entry in fs_err::read_dir(root.join("crates")).map_err(|error| error.to_string())? {
            let directory = entry.map_err(|error| error.to_string())?.path();
            let name = directory.file_name().unwrap_or_default().to_string_lossy().into_owned();
            let uses = uses(&directory.join("src"))?;
            for circle in circles(&uses) {
                say(&format!("{name}: {}", circle.iter().cloned().collect::<Vec<_>>().join(", ")));
                for (from, to, file) in edges(&uses, &circle) {
                    say(&format!("    {from} uses {to}, in {file}"));
                }
                have.insert(name.clone());
            }
        }
        check(&have, &known)
    }
}

fn check(have: &BTreeSet<String>, known: &BTreeSet<&str>) -> Result<(), String> {
    if let Some(name) = have.iter().find(|name| !known.contains(name.as_str())) {
        return Err(format!("modules of the crate `{name}` use one another in a circle: see above"));
    }
    match known.iter().find(|name| !have.contains(**name)) {
        Some(name) => Err(format!("the crate `{name}` has no circles any more: remove its line from `{KNOWN}`")),
        None => Ok(()),
    }
}

/// Reads a crate's files below `src`.
fn uses(source: &Path) -> Result<Uses, String> {
    let mut files = BTreeMap::new();
    for path in sources::files(source)? {
        let name = path.strip_prefix(source).unwrap_or(&path).to_string_lossy().into_owned();
        files.insert(name, sources::read(&path)?);
    }
    Ok(uses_of(&files))
}

fn uses_of(files: &BTreeMap<String, String>) -> Uses {
    let parts = |name: &str| -> Vec<String> {
        let mut parts: Vec<String> = name.trim_end_matches(".rs").split('/').map(str::to_owned).collect();
        if parts.len() > 1 && parts.last().is_some_and(|last| last == "mod") {
            parts.pop();
        }
        parts
    };
    let is_root = |name: &str| name == "lib.rs" || name == "main.rs";
    let modules: BTreeSet<String> =
        files.keys().filter(|name| !is_root(name)).filter_map(|name| parts(name).into_iter().next()).collect();
    let roots = files.iter().filter(|(name, _)| is_root(name)).map(|(_, text)| text.as_str());
    let exported: BTreeMap<String, String> = roots.flat_map(exports).collect();
    let mut uses = Uses::new();
    for (file, text) in files.iter().filter(|(name, _)| !is_root(name)) {
        let parts = parts(file);
        let (Some(module), Some(last)) = (parts.first(), parts.last()) else { continue };
        if parts.iter().any(|part| part == "tests" || part == "testing") || last == "fuzzing" {
            continue;
        }
        for name in paths(text, parts.len()) {
            let to = exported.get(&name).unwrap_or(&name);
            if modules.contains(to) && to != module {
                uses.entry(module.clone()).or_default().entry(to.clone()).or_insert_with(|| file.clone());
            }
        }
    }
    uses
}

/// Returns the names that a crate's root exports, each with its module.
fn exports(text: &str) -> Vec<(String, String)> {
    let mut found = Vec::new();
    for item in text.split(';') {
        let used = item.split_once("pub use ").or_else(|| item.split_once("pub(crate) use "));
        let Some((module, names)) = used.and_then(|(_, path)| path.split_once("::")) else { continue };
        found.extend(last_names(names).into_iter().map(|name| (name, module.to_owned())));
    }
    found
}

/// Returns the names below the crate's root that a file names, which is a module so deep.
fn paths(text: &str, depth: usize) -> BTreeSet<String> {
    let text = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
    let code: String =
        text.lines().filter(|line| !line.trim_start().starts_with("//")).flat_map(|line| [line, "\n"]).collect();
    let mut names = BTreeSet::new();
    for prefix in ["crate::".to_owned(), "super::".repeat(depth)] {
        for (at, _) in code.match_indices(&prefix) {
            let before = code[..at].chars().next_back();
            if before.is_none_or(|letter| !letter.is_alphanumeric() && !"_:$".contains(letter)) {
                names.extend(first_names(&code[at + prefix.len()..]));
            }
        }
    }
    names
}

/// Returns the first name of a path, or those of a group in braces.
fn first_names(path: &str) -> Vec<String> {
    let name = |text: &str| -> String {
        text.trim_start().chars().take_while(|letter| letter.is_alphanumeric() || *letter == '_').collect()
    };
    let Some(group) = path.strip_prefix('{') else { return vec![name(path)] };
    let (mut names, mut depth, mut begin) = (Vec::new(), 0, 0);
    for (at, letter) in group.char_indices() {
        match letter {
            '{' => depth += 1,
            '}' if depth > 0 => depth -= 1,
            ',' | '}' if depth == 0 => {
                names.push(name(&group[begin..at]));
                begin = at + 1;
                if letter == '}' {
                    break;
                }
            }
            _ => {}
        }
    }
    names
}

/// Returns the names that a `use` brings in: the last of each path.
fn last_names(path: &str) -> Vec<String> {
    let ends = path.split(['{', ',', '}']).map(str::trim).filter(|end| !end.is_empty() && !end.ends_with("::"));
    ends.map(|end| end.rsplit([' ', ':']).next().unwrap_or(end).to_owned()).collect()
}

/// Returns the groups of modules each of which reaches every other.
fn circles(uses: &Uses) -> Vec<BTreeSet<String>> {
    let reached: BTreeMap<&String, BTreeSet<&String>> = uses.keys().map(|from| (from, reach(uses, from))).collect();
    let mut found: BTreeSet<BTreeSet<String>> = BTreeSet::new();
    for (from, to) in &reached {
        if to.contains(*from) {
            let both = to.iter().filter(|other| reached.get(**other).is_some_and(|back| back.contains(*from)));
            found.insert(both.map(|module| (*module).clone()).collect());
        }
    }
    found.into_iter().collect()
}

fn reach<'a>(uses: &'a Uses, from: &'a String) -> BTreeSet<&'a String> {
    let (mut reached, mut waiting) = (BTreeSet::new(), vec![from]);
    while let Some(module) = waiting.pop() {
        waiting.extend(uses.get(module).into_iter().flat_map(BTreeMap::keys).filter(|next| reached.insert(*next)));
    }
    reached
}

fn edges<'a>(uses: &'a Uses, circle: &BTreeSet<String>) -> Vec<(&'a str, &'a str, &'a str)> {
    let within = uses.iter().filter(|(from, _)| circle.contains(*from));
    let all =
        within.flat_map(|(from, to)| to.iter().map(move |(to, file)| (from.as_str(), to.as_str(), file.as_str())));
    all.filter(|(_, to, _)| circle.contains(*to)).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(files: &[(&str, &str)]) -> Vec<BTreeSet<String>> {
        circles(&uses_of(&files.iter().map(|(name, text)| ((*name).to_owned(), (*text).to_owned())).collect()))
    }

    fn set(names: &[&str]) -> BTreeSet<String> {
        names.iter().map(|name| (*name).to_owned()).collect()
    }

    #[test]
    fn modules_that_use_one_another_are_a_circle() {
        let files = [
            ("lib.rs", "mod a;\nmod b;\nmod c;\nmod d;\n"),
            ("a.rs", "use crate::b::B;\n"),
            ("b.rs", "use crate::{\n    c::{C, D},\n    Root,\n};\n"),
            ("c/inner.rs", "fn f() { super::super::a::g() }\n"),
            ("d.rs", "use crate::a::A;\nuse super::c;\n"),
        ];
        assert_eq!(found(&files), [set(&["a", "b", "c"])]);
    }

    #[test]
    fn a_name_that_the_root_exports_is_its_modules() {
        let files = [
            ("lib.rs", "mod a;\nmod b;\npub use a::{A, E as Error};\npub use b::B;\n"),
            ("a.rs", "use crate::B;\n"),
            ("b.rs", "use crate::Error;\n"),
        ];
        assert_eq!(found(&files), [set(&["a", "b"])]);
    }

    #[test]
    fn tests_comments_and_other_crates_are_left_out() {
        let files = [
            ("lib.rs", "mod a;\nmod b;\n"),
            ("a.rs", "use crate::b;\n// use crate::a;\n"),
            ("b.rs", "// crate::a\nuse mycrate::a;\n$crate::a!();\n#[cfg(test)]\nmod tests {\n    use crate::a;\n}\n"),
            ("b/tests.rs", "use crate::a;\n"),
        ];
        assert!(found(&files).is_empty());
    }

    #[test]
    fn the_list_of_crates_only_becomes_shorter() {
        let known = BTreeSet::from(["old"]);
        assert_eq!(check(&set(&["old"]), &known), Ok(()));
        assert!(check(&set(&["new", "old"]), &known).unwrap_err().contains("`new` use one another"));
        assert!(check(&set(&[]), &known).unwrap_err().contains("`old` has no circles any more"));
    }
}
