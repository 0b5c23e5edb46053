//! Patterns of git as pieces.

use crate::pieces::{Alternative, Piece, Set};

const SLASH: u32 = b'/' as u32;

type Ranges = &'static [(u32, u32)];

/// The number of bytes before the first that is special.
pub(super) fn plain(pattern: &[u8]) -> usize {
    pattern.iter().position(|byte| b"*?[\\".contains(byte)).unwrap_or(pattern.len())
}

/// Reads a pattern; none where brackets or a backslash make it one that matches nothing.
///
/// At its beginning `**` counts as a whole name.
pub(super) fn read(pattern: &[u8]) -> Option<Alternative> {
    let mut pieces = Vec::new();
    let mut rest = pattern;
    let mut begins_name = true;
    while let [first, after @ ..] = rest {
        let begins = std::mem::replace(&mut begins_name, *first == b'/');
        rest = after;
        match first {
            b'*' => {
                let more = rest.iter().take_while(|byte| **byte == b'*').count();
                rest = &rest[more..];
                pieces.push(match (more > 0 && begins, rest) {
                    (true, [b'/', after @ ..]) => {
                        (rest, begins_name) = (after, true);
                        Piece::Directories(Set::any())
                    }
                    (true, [] | [b'\\', b'/', ..]) => Piece::Many(Set::any()),
                    _ => Piece::Many(Set::all_but(SLASH)),
                });
            }
            b'?' => pieces.push(Piece::One(Set::all_but(SLASH))),
            b'[' => {
                let (set, after) = brackets(rest)?;
                pieces.push(Piece::One(set));
                rest = after;
            }
            b'\\' => {
                let [escaped, after @ ..] = rest else { return None };
                (rest, begins_name) = (after, *escaped == b'/');
                pieces.push(Piece::One(Set::one(u32::from(*escaped))));
            }
            byte => pieces.push(Piece::One(Set::one(u32::from(*byte)))),
        }
    }
    Some(Alternative::whole(pieces))
}

/// Reads brackets, of which the first has been read; the set, and what comes after the last one.
fn brackets(pattern: &[u8]) -> Option<(Set, &[u8])> {
    let negated = matches!(pattern, [b'!' | b'^', ..]);
    let mut rest = &pattern[usize::from(negated)..];
    let (mut ranges, mut first) = (Vec::new(), true);
    // The character that a `-` would make the beginning of a range.
    let mut before = None;
    loop {
        let is_first = std::mem::take(&mut first);
        (before, rest) = match (rest, before) {
            ([b']', after @ ..], _) if !is_first => {
                rest = after;
                break;
            }
            ([b'-', after @ ..], Some(low)) if after.first().is_some_and(|next| *next != b']') => {
                let (high, after) = character(after)?;
                ranges.push((low, high));
                (None, after)
            }
            ([b'[', b':', after @ ..], _) => match named(after)? {
                Some((class, after)) => {
                    ranges.extend_from_slice(class);
                    (None, after)
                }
                None => {
                    ranges.push(one(b'['));
                    (Some(u32::from(b'[')), &rest[1..])
                }
            },
            (_, _) => {
                let (character, after) = character(rest)?;
                ranges.push((character, character));
                (Some(character), after)
            }
        };
    }
    ranges.retain(|(low, high)| low <= high);
    let set = Set::of(ranges);
    // Brackets take no slash.
    Some((if negated { set.complement() } else { set }.without(SLASH), rest))
}

/// Reads one character, which a backslash may be before.
fn character(pattern: &[u8]) -> Option<(u32, &[u8])> {
    match pattern {
        [b'\\', escaped, after @ ..] => Some((u32::from(*escaped), after)),
        [b'\\'] | [] => None,
        [byte, after @ ..] => Some((u32::from(*byte), after)),
    }
}

/// Reads the rest of a class such as `[:digit:]`; `Some(None)` if it is none, and the bracket stands for itself.
fn named(pattern: &[u8]) -> Option<Option<(Ranges, &[u8])>> {
    let end = pattern.iter().position(|byte| *byte == b']')?;
    match &pattern[..end] {
        [name @ .., b':'] => Some(Some((class(name)?, &pattern[end + 1..]))),
        _ => Some(None),
    }
}

fn class(name: &[u8]) -> Option<Ranges> {
    Some(match name {
        b"alnum" => &[(48, 57), (65, 90), (97, 122)],
        b"alpha" => &[(65, 90), (97, 122)],
        b"blank" => &[(9, 9), (32, 32)],
        b"cntrl" => &[(0, 31), (127, 127)],
        b"digit" => &[(48, 57)],
        b"graph" => &[(33, 126)],
        b"lower" => &[(97, 122)],
        b"print" => &[(32, 126)],
        b"punct" => &[(33, 47), (58, 64), (91, 96), (123, 126)],
        // Neither vertical tab nor form feed is a space for git.
        b"space" => &[(9, 10), (13, 13), (32, 32)],
        b"upper" => &[(65, 90)],
        b"xdigit" => &[(48, 57), (65, 70), (97, 102)],
        _ => return None,
    })
}

fn one(byte: u8) -> (u32, u32) {
    (u32::from(byte), u32::from(byte))
}
