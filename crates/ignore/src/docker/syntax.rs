//! Paths and patterns as Go's `path/filepath` takes them.

use std::iter::Peekable;
use std::str::Chars;

/// Returns the shortest path that means the same: `filepath.Clean`.
pub(super) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut names: Vec<&str> = Vec::new();
    for name in path.split('/') {
        match name {
            "" | "." => {}
            ".." if names.last().is_some_and(|last| *last != "..") => drop(names.pop()),
            ".." if rooted => {}
            _ => names.push(name),
        }
    }
    match (rooted, names.is_empty()) {
        (true, _) => format!("/{}", names.join("/")),
        (false, true) => ".".into(),
        (false, false) => names.join("/"),
    }
}

/// Returns true if `filepath.Match` finds no fault in a pattern while it compares it with `.`, which is how Docker asks.
///
/// It reads as far as the name matches, up to the next asterisk.
pub(super) fn is_sound(pattern: &str) -> bool {
    let mut rest = pattern;
    let mut dot = true;
    while !rest.is_empty() {
        let (has_asterisk, chunk, after) = next_chunk(rest);
        rest = after;
        if has_asterisk && chunk.is_empty() {
            return true;
        }
        let Some(found) = compare(chunk, dot) else { return false };
        dot = match found {
            Some(left) if !left || !rest.is_empty() => left,
            // The asterisk takes the dot.
            _ if has_asterisk && dot => match compare(chunk, false) {
                Some(Some(left)) => left,
                Some(None) => return true,
                None => return false,
            },
            _ => return true,
        };
    }
    true
}

/// Splits off what stands before the next asterisk outside brackets; true if asterisks are before it.
fn next_chunk(pattern: &str) -> (bool, &str, &str) {
    let rest = pattern.trim_start_matches('*');
    let (mut escaped, mut bracketed) = (false, false);
    let end = rest.find(|character| {
        let was_escaped = escaped;
        escaped = character == '\\' && !was_escaped;
        match character {
            _ if was_escaped => {}
            '[' => bracketed = true,
            ']' => bracketed = false,
            '*' => return !bracketed,
            _ => {}
        }
        false
    });
    let (chunk, after) = rest.split_at(end.unwrap_or(rest.len()));
    (rest.len() < pattern.len(), chunk, after)
}

/// Compares a chunk with a dot, or with nothing: none if it has a fault, `Some(None)` if it does not match, otherwise true
/// if the dot is left.
fn compare(chunk: &str, mut dot: bool) -> Option<Option<bool>> {
    let mut matches = true;
    let mut characters = chunk.chars().peekable();
    while let Some(character) = characters.next() {
        matches &= dot;
        matches &= match character {
            '[' => brackets(&mut characters)?,
            '?' => true,
            '\\' => characters.next()? == '.',
            character => character == '.',
        };
        dot = false;
    }
    Some(matches.then_some(dot))
}

/// Reads brackets, of which the first has been read; true if they take a dot, none if they have a fault.
fn brackets(characters: &mut Peekable<Chars<'_>>) -> Option<bool> {
    let negated = characters.next_if_eq(&'^').is_some();
    let (mut ranges, mut takes) = (0, false);
    while ranges == 0 || characters.next_if_eq(&']').is_none() {
        let low = bound(characters)?;
        let high = if characters.next_if_eq(&'-').is_some() { bound(characters)? } else { low };
        takes |= (low..=high).contains(&'.');
        ranges += 1;
    }
    Some(takes != negated)
}

/// Reads one end of a range, after which something has to follow.
fn bound(characters: &mut Peekable<Chars<'_>>) -> Option<char> {
    let bound = match characters.next()? {
        '-' | ']' => return None,
        '\\' => characters.next()?,
        character => character,
    };
    characters.peek().map(|_| bound)
}
