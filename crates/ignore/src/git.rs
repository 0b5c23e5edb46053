//! git's rules: gitignore(5), and where that is silent what `git check-ignore` does.

mod glob;

use crate::pieces::Alternative;
use crate::{Line, Match};

/// The rules of a `.gitignore`.
#[derive(Debug, Clone)]
pub(crate) struct Rules(Vec<Rule>);

#[derive(Debug, Clone)]
struct Rule {
    line: usize,
    text: Vec<u8>,
    excludes: bool,
    directories_only: bool,
    form: Form,
}

/// The part of a path that a pattern is compared with, and the pattern.
#[derive(Debug, Clone)]
enum Form {
    /// The last name is this.
    Name(Vec<u8>),
    /// The last name ends so.
    NameEnds(Vec<u8>),
    /// The last name is taken by pieces; none where the pattern is malformed.
    NameTaken(Option<Alternative>),
    /// The path begins with these bytes, and pieces take the rest. The pieces know nothing of the bytes: `a**/b` takes `a`,
    /// any directories and `b`, as if `**` were a name of its own.
    Path(Vec<u8>, Option<Alternative>),
}

impl Rules {
    pub(crate) fn read(text: &[u8]) -> Self {
        let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
        let lines = text.split(|byte| *byte == b'\n').enumerate();
        Self(lines.filter_map(|(index, line)| Rule::read(index + 1, line)).collect())
    }

    pub(crate) fn matched(&self, path: &[u8], is_directory: bool) -> Option<Match> {
        let rule = self.0.iter().rev().find(|rule| rule.matches(path, is_directory))?;
        Some(Match { line: rule.line, excluded: rule.excludes })
    }

    pub(crate) fn lines(&self) -> Vec<Line<'_>> {
        self.0.iter().map(|rule| Line { number: rule.line, text: &rule.text }).collect()
    }

    pub(crate) fn line_matches(&self, index: usize, path: &[u8], is_directory: bool) -> bool {
        self.0[index].matches(path, is_directory)
    }
}

impl Rule {
    fn read(line: usize, text: &[u8]) -> Option<Self> {
        if text.first() == Some(&b'#') {
            return None;
        }
        let text = text.strip_suffix(b"\r").unwrap_or(text);
        let text = text.split(|byte| *byte == 0).next().unwrap_or_default();
        let text = without_trailing_spaces(text);
        if text.is_empty() {
            return None;
        }
        let (excludes, pattern) = text.strip_prefix(b"!").map_or((true, text), |pattern| (false, pattern));
        let (directories_only, pattern) =
            pattern.strip_suffix(b"/").map_or((false, pattern), |pattern| (true, pattern));
        Some(Self { line, text: text.to_owned(), excludes, directories_only, form: Form::of(pattern) })
    }

    fn matches(&self, path: &[u8], is_directory: bool) -> bool {
        if self.directories_only && !is_directory {
            return false;
        }
        let name = path.rsplit(|byte| *byte == b'/').next().unwrap_or(path);
        match &self.form {
            Form::Name(wanted) => name == wanted,
            Form::NameEnds(end) => name.ends_with(end),
            Form::NameTaken(pieces) => taken(pieces.as_ref(), name),
            Form::Path(begin, pieces) => path.strip_prefix(&begin[..]).is_some_and(|rest| taken(pieces.as_ref(), rest)),
        }
    }
}

impl Form {
    fn of(pattern: &[u8]) -> Self {
        let plain = glob::plain(pattern);
        if pattern.contains(&b'/') {
            let (begin, rest) = pattern.split_at(plain);
            return Self::Path(begin.strip_prefix(b"/").unwrap_or(begin).to_owned(), glob::read(rest));
        }
        match pattern {
            _ if plain == pattern.len() => Self::Name(pattern.to_owned()),
            [b'*', end @ ..] if glob::plain(end) == end.len() => Self::NameEnds(end.to_owned()),
            _ => Self::NameTaken(glob::read(pattern)),
        }
    }
}

fn taken(pieces: Option<&Alternative>, path: &[u8]) -> bool {
    let characters = || path.iter().map(|byte| u32::from(*byte)).collect::<Vec<_>>();
    pieces.is_some_and(|pieces| pieces.takes(&characters()))
}

/// Spaces at the end do not count unless a backslash is before them; tabs do.
fn without_trailing_spaces(text: &[u8]) -> &[u8] {
    let (mut end, mut at) = (0, 0);
    while at < text.len() {
        let escapes = text[at] == b'\\';
        let next = (at + 1 + usize::from(escapes)).min(text.len());
        if escapes || text[at] != b' ' {
            end = next;
        }
        at = next;
    }
    &text[..end]
}
