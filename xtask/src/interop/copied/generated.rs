//! Bases, sources and copies, which follow from a seed.

use std::collections::BTreeMap;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

use crate::interop::Result;
use crate::interop::base::{self, Body, Member};
use crate::random::Random;

/// Names of everything: a source that is a file here is likely to be a directory or a link below.
const NAMES: [&str; 5] = ["a", "b", "c", "d", "e"];
const DEEPEST: usize = 3;
const OWNERS: [(u32, u32); 5] = [(0, 0), (0, 0), (33, 33), (1000, 1000), (5, 50)];
const DIRECTORY_MODES: [u32; 7] = [0o755, 0o755, 0o700, 0o750, 0o1777, 0o2775, 0o555];
/// Modes of sources: those that no umask makes, which kiln keeps, and those of a umask of 022.
const SOURCE_FILES: [u32; 7] = [0o644, 0o644, 0o755, 0o400, 0o444, 0o4755, 0o2755];
const SOURCE_DIRECTORIES: [u32; 4] = [0o755, 0o755, 0o1777, 0o555];

/// A base, the sources and the copies.
pub(super) struct Case {
    /// The members of both layers of the base.
    pub(super) base: BTreeMap<String, Member>,
    /// Paths that the second layer brings.
    second: Vec<String>,
    pub(super) sources: BTreeMap<String, Member>,
    pub(super) copies: Vec<Copy>,
}

/// A copy.
#[derive(Debug, Clone)]
pub(super) struct Copy {
    /// Paths of sources; the empty one is all of them.
    pub(super) from: Vec<String>,
    pub(super) to: String,
    pub(super) owner: Option<&'static str>,
    pub(super) mode: Option<u32>,
}

impl Copy {
    /// The copy as a line of a Dockerfile.
    pub(super) fn shown(&self) -> String {
        let mut line = "COPY ".to_owned();
        if let Some(owner) = self.owner {
            line.push_str(&format!("--chown={owner} "));
        }
        if let Some(mode) = self.mode {
            line.push_str(&format!("--chmod={mode:04o} "));
        }
        for from in &self.from {
            line.push_str(if from.is_empty() { "." } else { from });
            line.push(' ');
        }
        line + &self.to
    }
}

impl Case {
    /// Makes one.
    pub(super) fn new(seed: u64, number: u64, copies: usize) -> Self {
        let mut random = Random::of_case(seed, "copies", number);
        let mut base = BTreeMap::new();
        fill(&mut random, "", 1, &mut base, &OWNERS, (&DIRECTORY_MODES, &[0o644, 0o755, 0o600]));
        link(&mut random, &mut base);
        let mut second = Vec::new();
        for path in base.keys() {
            let parent = path.rsplit_once('/').map(|(parent, _)| parent.to_owned());
            if random.percent(30) || parent.is_some_and(|parent| second.contains(&parent)) {
                second.push(path.clone());
            }
        }
        let mut sources = BTreeMap::new();
        fill(&mut random, "", 1, &mut sources, &[(0, 0)], (&SOURCE_DIRECTORIES, &SOURCE_FILES));
        link(&mut random, &mut sources);
        let mut case = Self { base, second, sources, copies: Vec::new() };
        for _ in 0..copies {
            let copy = case.copy(&mut random);
            case.copies.push(copy);
        }
        case
    }

    fn copy(&self, random: &mut Random) -> Copy {
        // An absolute link is one of the whole system for kiln, and one of the context for BuildKit: none is named.
        let is_absolute = |member: &Member| matches!(&member.body, Body::Link(target) if target.starts_with('/'));
        let mut sources = self.sources.clone();
        sources.retain(|_, member| !is_absolute(member));
        let named: Vec<&String> = sources.keys().filter(|path| end(&sources, path).is_some()).collect();
        let count = if random.percent(85) { 1 } else { random.within(2, 3) };
        let mut from = Vec::new();
        for _ in 0..count {
            from.push(random.one_of(&named).map_or_else(String::new, |path| (*path).clone()));
        }
        if random.percent(8) {
            from = vec![String::new()];
        }
        // Few copies go to files of the base, or below them: most are refused there, and teach nothing more.
        let places: Vec<&String> =
            self.base.keys().filter(|path| random.percent(8) || !self.is_file_below(path)).collect();
        let place = random.one_of(&places).map_or_else(String::new, |path| (*path).clone());
        let mut to = match random.below(100) {
            0..10 => String::new(),
            10..70 => place,
            70..80 => "new".into(),
            _ => format!("{place}/{}", random.one_of(&["a", "new", "b/new"]).unwrap_or(&"new")),
        };
        if from.len() > 1 || to.is_empty() || random.percent(40) {
            to.push('/');
        }
        let to = if to == "/" { to } else { format!("/{to}") };
        let owner = ["7:8", "33", "33:33", "alice", "alice:staff", "0:0"];
        let owner = if random.percent(35) { random.one_of(&owner).copied() } else { None };
        let mode =
            if random.percent(20) { random.one_of(&[0o640, 0o755, 0o600, 0o4755, 0o444]).copied() } else { None };
        Copy { from, to, owner, mode }
    }

    /// Returns the source to which a path leads, through links.
    pub(super) fn source(&self, path: &str) -> Option<&Member> {
        end(&self.sources, path).map(|(_, member)| member)
    }

    /// Returns the path without links to which a path of the base leads, and what is there.
    pub(super) fn below(&self, path: &str) -> Option<(String, &Member)> {
        end(&self.base, path)
    }

    /// Returns true for a path of the base that leads to no directory: a file, or a link to one or to nothing.
    pub(super) fn is_file_below(&self, path: &str) -> bool {
        self.base.contains_key(path)
            && !self.below(path).is_some_and(|(_, member)| matches!(member.body, Body::Directory))
    }

    /// Returns true if a path, or one above it, is a link of the base that leads to no directory.
    pub(super) fn meets_link(&self, path: &str) -> bool {
        let mut here = String::new();
        for name in path.split('/').filter(|name| !name.is_empty()) {
            let next = if here.is_empty() { name.to_owned() } else { format!("{here}/{name}") };
            let is_link = self.base.get(&next).is_some_and(|member| matches!(member.body, Body::Link(_)));
            match self.below(&next) {
                Some((real, Member { body: Body::Directory, .. })) => here = real,
                _ => return is_link,
            }
        }
        false
    }

    /// Writes the base as a layout and the sources as files.
    pub(super) fn write(&self, project: &Path) -> Result<()> {
        let accounts = [
            Member::new("etc", Body::Directory),
            Member::file("etc/passwd", "root:x:0:0::/root:/bin/sh\nalice:x:1000:1000::/home:/bin/sh\n"),
            Member::file("etc/group", "root:x:0:\nalice:x:1000:\nstaff:x:50:\n"),
        ];
        let is_above = |path: &str| self.second.iter().any(|below| below.starts_with(&format!("{path}/")));
        let is_second = |path: &String| self.second.contains(path);
        let first = self.base.iter().filter(|(path, _)| !is_second(path)).map(|(_, member)| member.clone());
        let second = self.base.iter().filter(|(path, _)| is_second(path) || is_above(path));
        let second: Vec<Member> = second.map(|(_, member)| member.clone()).collect();
        base::write(&project.join("base"), &[accounts.into_iter().chain(first).collect(), second])?;
        let root = project.join("src");
        fs_err::create_dir_all(&root)?;
        for (path, member) in &self.sources {
            match &member.body {
                Body::Directory => fs_err::create_dir(root.join(path))?,
                Body::File(text) => fs_err::write(root.join(path), text)?,
                Body::Link(target) => fs_err::os::unix::fs::symlink(target, root.join(path))?,
            }
        }
        for (path, member) in self.sources.iter().filter(|(_, member)| !matches!(member.body, Body::Link(_))) {
            fs_err::set_permissions(root.join(path), PermissionsExt::from_mode(member.mode))?;
        }
        Ok(())
    }
}

fn fill(
    random: &mut Random,
    directory: &str,
    depth: usize,
    members: &mut BTreeMap<String, Member>,
    owners: &[(u32, u32)],
    modes: (&[u32], &[u32]),
) {
    for _ in 0..random.within(1, 4) {
        let name = random.one_of(&NAMES).unwrap_or(&"a");
        let path = if directory.is_empty() { (*name).to_owned() } else { format!("{directory}/{name}") };
        if members.contains_key(&path) {
            continue;
        }
        let owner = random.one_of(owners).copied().unwrap_or_default();
        let is_directory = depth < DEEPEST && random.percent(55);
        let mode = random.one_of(if is_directory { modes.0 } else { modes.1 }).copied().unwrap_or(0o755);
        let body = if is_directory { Body::Directory } else { Body::File(format!("{path} {}\n", random.below(1000))) };
        members.insert(path.clone(), Member { mode, owner, ..Member::new(&path, body) });
        if is_directory {
            fill(random, &path, depth + 1, members, owners, modes);
        }
    }
}

/// Turns some files into links: most to directories, others to files, or to nothing.
fn link(random: &mut Random, members: &mut BTreeMap<String, Member>) {
    let of = |wanted: bool| -> Vec<String> {
        let found = members.iter().filter(|(_, member)| matches!(member.body, Body::Directory) == wanted);
        found.map(|(path, _)| path.clone()).collect()
    };
    let (directories, files) = (of(true), of(false));
    for path in &files {
        if !random.percent(35) {
            continue;
        }
        let target = match random.below(100) {
            0..70 => random.one_of(&directories).cloned(),
            70..85 => random.one_of(&files).cloned(),
            _ => None,
        };
        let target = target.unwrap_or_else(|| "nowhere".into());
        let up = "../".repeat(path.matches('/').count());
        let target = if random.percent(50) { format!("/{target}") } else { format!("{up}{target}") };
        let owner = members.get(path).map_or((0, 0), |member| member.owner);
        members.insert(path.clone(), Member { owner, ..Member::link(path, &target) });
    }
}

/// Follows the links of a path, those of its parents too. All links here climb to the root before they go down.
fn end<'m>(members: &'m BTreeMap<String, Member>, path: &str) -> Option<(String, &'m Member)> {
    let mut left: Vec<String> = path.rsplit('/').map(str::to_owned).collect();
    let (mut here, mut found, mut links) = (String::new(), None, 0);
    while let Some(name) = left.pop() {
        let next = if here.is_empty() { name } else { format!("{here}/{name}") };
        let member = members.get(&next)?;
        match &member.body {
            Body::Link(target) => {
                links += 1;
                if links > 16 {
                    return None;
                }
                left.extend(target.trim_start_matches("../").trim_start_matches('/').rsplit('/').map(str::to_owned));
                here = String::new();
            }
            _ => (here, found) = (next, Some(member)),
        }
    }
    found.map(|member| (here, member))
}
