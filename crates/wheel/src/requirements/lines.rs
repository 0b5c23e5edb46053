//! Logical lines: physical lines joined at a final backslash, without comments, each byte with its place in the file.

use std::ops::Range;

/// Bytes that a logical line may have.
const LONGEST: usize = 1 << 20;

/// A logical line.
#[derive(Debug, Default)]
pub(super) struct Line {
    /// Its text, without white space around it.
    pub(super) text: String,
    /// Offset in the file of each byte of the text.
    offsets: Vec<usize>,
}

impl Line {
    /// The place in the file of a part of the line.
    pub(super) fn span(&self, part: Range<usize>) -> Range<usize> {
        let start = self.offsets.get(part.start).or(self.offsets.last()).copied().unwrap_or(0);
        let last = part.end.checked_sub(1).and_then(|last| self.offsets.get(last)).copied();
        start..last.map_or(start, |last| (last + 1).max(start))
    }

    fn append(&mut self, source: &str, part: Range<usize>) {
        self.text.push_str(&source[part.clone()]);
        self.offsets.extend(part);
    }

    /// Without the comment and the white space around what is left.
    fn without_comment(mut self) -> Self {
        let end = comment(&self.text).unwrap_or(self.text.len());
        let kept = self.text[..end].trim_end_matches(is_space).len();
        let start = kept - self.text[..kept].trim_start_matches(is_space).len();
        self.offsets = self.offsets[start..kept].to_vec();
        self.text = self.text[start..kept].to_owned();
        self
    }
}

/// White space in the sense of Python's `str.isspace`.
pub(super) fn is_space(c: char) -> bool {
    c.is_whitespace() || matches!(c, '\u{1c}'..='\u{1f}')
}

/// The logical lines of a text that are not empty. A line that is too long is an error with its place.
pub(super) fn lines(text: &str) -> impl Iterator<Item = Result<Line, Range<usize>>> {
    let mut physical = physical(text);
    std::iter::from_fn(move || {
        let mut joined = Line::default();
        loop {
            let part = physical.next();
            let Some(part) = part else {
                return (!joined.text.is_empty()).then_some(Ok(joined));
            };
            if joined.text.len() + part.len() > LONGEST {
                return Some(Err(part));
            }
            let line = &text[part.clone()];
            let is_comment = line.trim_start_matches(is_space).starts_with('#');
            if line.ends_with('\\') && !is_comment {
                let start = part.start + (line.len() - line.trim_start_matches('\\').len());
                let end = part.start + line.trim_end_matches('\\').len();
                joined.append(text, start.min(end)..end);
                continue;
            }
            if is_comment {
                // It is a comment wherever it is joined to.
                joined.text.push(' ');
                joined.offsets.push(part.start);
            }
            joined.append(text, part);
            return Some(Ok(std::mem::take(&mut joined)));
        }
    })
    .map(|line| line.map(Line::without_comment))
    .filter(|line| line.as_ref().map_or(true, |line| !line.text.is_empty()))
}

/// The start of a comment: `#` at the beginning or after white space, which belongs to it.
fn comment(text: &str) -> Option<usize> {
    let begins = |at: usize| at == 0 || text[..at].ends_with(is_space);
    let at = text.match_indices('#').map(|(at, _)| at).find(|at| begins(*at))?;
    Some(text[..at].trim_end_matches(is_space).len())
}

/// The ranges of physical lines, divided where Python's `str.splitlines` divides.
fn physical(text: &str) -> impl Iterator<Item = Range<usize>> {
    let mut start = 0;
    std::iter::from_fn(move || {
        let rest = text.get(start..).filter(|rest| !rest.is_empty())?;
        let end = rest.char_indices().find(|(_, c)| is_line_break(*c));
        let (length, separator) = match end {
            Some((at, '\r')) if rest[at + 1..].starts_with('\n') => (at, 2),
            Some((at, c)) => (at, c.len_utf8()),
            None => (rest.len(), 0),
        };
        let line = start..start + length;
        start += length + separator;
        Some(line)
    })
}

fn is_line_break(c: char) -> bool {
    matches!(c, '\n' | '\r' | '\u{b}' | '\u{c}' | '\u{1c}'..='\u{1e}' | '\u{85}' | '\u{2028}' | '\u{2029}')
}
