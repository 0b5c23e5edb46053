//! The differences between the changes of a command and those of the same command that ran again.

use std::io::{self, Read};

use super::super::names::shown;
use super::{Change, Changes, Entry};
use crate::error::OciError;

impl Changes {
    /// Compares everything that goes into a layer. A line for each path that differs.
    pub fn differences(&self, again: &Self) -> Result<Vec<String>, OciError> {
        let mut lines = Vec::new();
        let added = again.entries.keys().filter(|path| !self.entries.contains_key(*path));
        let mut paths: Vec<&Vec<u8>> = self.entries.keys().chain(added).collect();
        paths.sort();
        for path in paths {
            let difference = match (self.entries.get(path), again.entries.get(path)) {
                (Some(one), Some(other)) => self.difference(path, one, (again, other))?,
                (Some(one), None) => Some(format!("the first run leaves {}, the second nothing", describe(one))),
                (None, Some(other)) => Some(format!("the second run leaves {}, the first nothing", describe(other))),
                (None, None) => None,
            };
            lines.extend(difference.map(|difference| format!("/{}: {difference}", shown(path))));
        }
        Ok(lines)
    }

    fn difference(&self, path: &[u8], one: &Entry, (again, other): (&Self, &Entry)) -> io::Result<Option<String>> {
        let both = |what: &str, one: String, other: String| Ok(Some(format!("{what} {one}, then {other}")));
        match (&one.change, &other.change) {
            (Change::File(size), Change::File(other)) if size != other => {
                return both("the size is", size.to_string(), other.to_string());
            }
            (first, second) if first != second => return both("it is", describe(one), describe(other)),
            _ => {}
        }
        if one.mode != other.mode {
            return both("the mode is", format!("{:04o}", one.mode), format!("{:04o}", other.mode));
        }
        if one.owner != other.owner {
            let owner = |(user, group): (u32, u32)| format!("{user}:{group}");
            return both("the owner is", owner(one.owner), owner(other.owner));
        }
        if let Some(((name, _), _)) = one.records.iter().zip(&other.records).find(|(one, other)| one != other) {
            return Ok(Some(format!("the attribute {} differs", shown(name))));
        }
        if one.records.len() != other.records.len() {
            return Ok(Some("the attributes differ".into()));
        }
        let Change::File(_) = one.change else { return Ok(None) };
        let at = first_difference(self.content(path, one, 0)?, again.content(path, other, 0)?)?;
        Ok(at.map(|at| format!("the content differs from byte {at} on")))
    }
}

fn describe(entry: &Entry) -> String {
    match &entry.change {
        Change::Directory(false) => "a directory".into(),
        Change::Directory(true) => "a directory in the place of another".into(),
        Change::File(size) => format!("a file of {size} bytes"),
        Change::HardLink(to) => format!("another name of /{}", shown(to)),
        Change::Symlink(to) => format!("a link to `{}`", shown(to)),
        Change::Pipe => "a named pipe".into(),
        Change::Whiteout => "nothing of what was there".into(),
    }
}

/// Returns the position of the first byte that differs in two contents of one size.
fn first_difference(mut one: impl Read, mut other: impl Read) -> io::Result<Option<usize>> {
    let (mut left, mut right, mut at) = (vec![0; 64 << 10], vec![0; 64 << 10], 0);
    loop {
        let read = one.read(&mut left)?;
        if read == 0 {
            return Ok(None);
        }
        other.read_exact(&mut right[..read])?;
        if let Some(found) = left[..read].iter().zip(&right).position(|(one, other)| one != other) {
            return Ok(Some(at + found));
        }
        at += read;
    }
}
