//! Trees and the ignore files in them, which follow from a seed.

use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsStr;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};

use crate::interop::Result;
use crate::random::Random;

/// A tree without its ignore files.
pub(super) struct Tree {
    /// Paths, with what they are; a directory stands before all that it holds.
    pub(super) nodes: BTreeMap<Vec<u8>, Kind>,
}

/// The kind of a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Directory,
    File,
    /// A link to a directory, which is none.
    Link,
}

/// Names that patterns are likely to match, and names that look like patterns.
const NAMES: [&[u8]; 34] = [
    b"a",
    b"b",
    b"c",
    b"ab",
    b"abc",
    b"foo",
    b"bar",
    b"foobar",
    b"x.log",
    b"a.b",
    b".env",
    b"A",
    b"0",
    b"a b",
    b" a",
    b"a ",
    b"a\tb",
    b"[x]",
    b"a*",
    b"a?",
    b"a\\b",
    b"\xC3\xA9",
    b"#c",
    b"!n",
    b"^a",
    b"a-c",
    b"a+b",
    b"a$",
    b"(b|c)",
    b"{a}",
    b"a]",
    b"\xFFa",
    b"a\nb",
    b"**",
];
const DEEPEST: u64 = 4;

impl Tree {
    /// Makes one.
    pub(super) fn new(random: &mut Random) -> Self {
        let mut nodes = BTreeMap::new();
        fill(random, &[], 1, &mut nodes);
        Self { nodes }
    }

    /// Writes it into a directory.
    pub(super) fn write(&self, directory: &Path) -> Result<()> {
        fs_err::create_dir_all(directory)?;
        for (path, kind) in &self.nodes {
            let path = join(directory, path);
            match kind {
                Kind::Directory => fs_err::create_dir(path)?,
                Kind::File => fs_err::write(path, "x")?,
                Kind::Link => fs_err::os::unix::fs::symlink(".", path)?,
            }
        }
        Ok(())
    }

    /// Makes an ignore file for what lies below one of its directories.
    pub(super) fn ignore_file(&self, random: &mut Random, directory: &[u8]) -> Vec<u8> {
        let prefix = if directory.is_empty() { Vec::new() } else { [directory, b"/"].concat() };
        let below: Vec<&[u8]> = self.nodes.keys().filter_map(|path| path.strip_prefix(&prefix[..])).collect();
        let mut text = if random.percent(8) { b"\xEF\xBB\xBF".to_vec() } else { Vec::new() };
        for _ in 0..random.within(1, 7) {
            text.extend(line(random, &below));
            text.extend_from_slice(if random.percent(8) { b"\r\n" } else { b"\n" });
        }
        if random.percent(15) {
            text.pop();
        }
        text
    }

    /// Its directories, the root among them.
    pub(super) fn directories(&self) -> BTreeSet<Vec<u8>> {
        let below = self.nodes.iter().filter(|(_, kind)| **kind == Kind::Directory).map(|(path, _)| path.clone());
        below.chain([Vec::new()]).collect()
    }
}

/// A path of bytes below a directory.
pub(super) fn join(directory: &Path, path: &[u8]) -> PathBuf {
    directory.join(OsStr::from_bytes(path))
}

fn fill(random: &mut Random, directory: &[u8], depth: u64, nodes: &mut BTreeMap<Vec<u8>, Kind>) {
    for _ in 0..random.within(1, 4) {
        let name = name(random);
        let path = if directory.is_empty() { name.to_vec() } else { [directory, b"/", name].concat() };
        if nodes.contains_key(&path) {
            continue;
        }
        let kind = match random.below(100) {
            0..45 if depth < DEEPEST => Kind::Directory,
            0..95 => Kind::File,
            _ => Kind::Link,
        };
        nodes.insert(path.clone(), kind);
        if kind == Kind::Directory {
            fill(random, &path, depth + 1, nodes);
        }
    }
}

/// Plain names are more frequent: nothing would match otherwise.
fn name(random: &mut Random) -> &'static [u8] {
    let bound = if random.percent(70) { 8 } else { NAMES.len() };
    random.one_of(&NAMES[..bound]).copied().unwrap_or(b"a")
}

fn line(random: &mut Random, below: &[&[u8]]) -> Vec<u8> {
    let mut pattern = match random.below(100) {
        0..82 => from_path(random, below),
        82..92 => from_pieces(random),
        92..94 => return b"# a comment".to_vec(),
        94..96 => return Vec::new(),
        _ => {
            return random
                .one_of(&[&b"!"[..], b"/", b"!/", b"**", b"*", b".", b"..", b"//", b" ", b"!**"])
                .map_or_else(Vec::new, |line| line.to_vec());
        }
    };
    let mut decorate = |percent, before: &[u8], after: &[u8]| {
        if random.percent(percent) {
            pattern = [before, &pattern, after].concat();
        }
    };
    decorate(20, b"", b"/");
    decorate(15, b"", b"/**");
    decorate(6, b"", b"/*");
    decorate(20, b"/", b"");
    decorate(8, b"**/", b"");
    decorate(3, b"./", b"");
    decorate(2, b"x/../", b"");
    decorate(2, b"//", b"");
    decorate(25, b"!", b"");
    decorate(3, b"! ", b"");
    decorate(3, b" ", b"");
    decorate(6, b"", b"  ");
    decorate(1, b"", b"\\ ");
    decorate(2, b"", b"\t");
    decorate(2, b"", b"\xC2\xA0");
    pattern
}

/// A path of the tree, or its end, or its beginning, with some of it replaced by what matches it, or almost does.
fn from_path(random: &mut Random, below: &[&[u8]]) -> Vec<u8> {
    let path = random.one_of(below).copied().unwrap_or(b"a");
    let mut names: Vec<Vec<u8>> = path.split(|byte| *byte == b'/').map(<[u8]>::to_vec).collect();
    if random.percent(50) {
        names.drain(..random.below(names.len() as u64) as usize);
    }
    if random.percent(30) {
        names.truncate(random.within(1, names.len() as u64) as usize);
    }
    for name in &mut names {
        match random.below(100) {
            0..50 => {}
            50..62 => *name = b"*".to_vec(),
            62..74 => *name = b"**".to_vec(),
            74..78 => *name = b"***".to_vec(),
            _ => *name = name.iter().flat_map(|byte| replaced(random, *byte)).collect(),
        }
    }
    names.join(&b'/')
}

fn replaced(random: &mut Random, byte: u8) -> Vec<u8> {
    match random.below(100) {
        0..40 => vec![byte],
        40..50 => b"?".to_vec(),
        50..60 => b"*".to_vec(),
        60..65 => b"**".to_vec(),
        65..75 if !byte.is_ascii_alphanumeric() || random.percent(5) => vec![b'\\', byte],
        65..75 => vec![byte],
        75..82 => vec![b'[', byte, b']'],
        82..86 => vec![b'[', byte.saturating_sub(1), b'-', byte, b']'],
        86..89 => vec![b'[', b'^', byte, b']'],
        89..91 => vec![b'[', b'!', b'z', b']'],
        91..93 => vec![b'[', b'\\', byte, b'x', b']'],
        93..95 => vec![b'*', byte],
        95..97 => vec![byte, b'*', b'*'],
        97..98 => Vec::new(),
        _ => b"[[:alpha:]]".to_vec(),
    }
}

/// Something of a pattern, from nothing.
fn from_pieces(random: &mut Random) -> Vec<u8> {
    const PIECES: [&[u8]; 43] = [
        b"a",
        b"b",
        b"c",
        b"foo",
        b"bar",
        b".log",
        b"/",
        b"/",
        b"/",
        b"*",
        b"*",
        b"**",
        b"**/",
        b"/**",
        b"?",
        b"[ab]",
        b"[a-c]",
        b"[!a]",
        b"[^a]",
        b"[]]",
        b"[]a]",
        b"[a-]",
        b"[-a]",
        b"[[:alnum:]]",
        b"[[:^alpha:]]",
        b"[[:nope:]]",
        b"[[:upper:]x]",
        b"[c-a]",
        b"[a",
        b"]",
        b"\\",
        b"\\a",
        b"\\d",
        b"\\w",
        b"\\b",
        b"\\x61",
        b"[*]",
        b"[a*]",
        b"[?]",
        b"[/]",
        b"^",
        b"$",
        b"{a,b}",
    ];
    (0..random.within(1, 3)).flat_map(|_| random.one_of(&PIECES).copied().unwrap_or_default().to_vec()).collect()
}
