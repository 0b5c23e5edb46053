//! Patterns of Docker as the expressions of Go that it makes of them.
//!
//! Docker writes each pattern as an expression and hands it to Go. Most of it is written so that it means what one would
//! think, some is not: beside an asterisk `^` is the beginning of the path, `|` parts two patterns, `{2}` repeats, `\d` is a
//! digit, and `*` or `?` between brackets ends them early. So the text is made here as Docker makes it, and read as Go
//! reads it.

use crate::pieces::{Alternative, Piece, Set};

/// The most repetitions that Go takes.
const MOST_REPETITIONS: u32 = 1000;

/// The way in which a pattern is compared with a path.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Expression {
    /// The pattern is the path.
    Is,
    /// The path begins with the pattern, without the two asterisks at its end.
    Begins,
    /// The path ends with the pattern, without the two asterisks at its beginning.
    Ends,
    /// The pieces of one alternative take a part of the path.
    Taken(Vec<Alternative>),
}

/// The reason why a pattern cannot be used.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Fault {
    Syntax,
    Unsupported,
}

/// Reads a pattern.
pub(super) fn read(pattern: &str) -> Result<Expression, Fault> {
    let (text, kind) = written(pattern);
    match kind {
        Some(kind) => Ok(kind),
        None => Ok(Expression::Taken(Reader(&text).alternatives()?)),
    }
}

/// Writes a pattern as an expression; where Docker needs none, what it does instead.
fn written(pattern: &str) -> (String, Option<Expression>) {
    let mut text = String::from("^");
    let mut kind = Some(Expression::Is);
    // A byte order mark at the beginning is skipped by the scanner that Docker uses.
    let mut characters = pattern.strip_prefix('\u{FEFF}').unwrap_or(pattern).chars().peekable();
    let mut is_first = true;
    while let Some(character) = characters.next() {
        match character {
            '*' if characters.next_if_eq(&'*').is_some() => {
                characters.next_if_eq(&'/');
                let is_last = characters.peek().is_none();
                text.push_str(if is_last { ".*" } else { "(.*/)?" });
                kind = match kind {
                    _ if is_first => Some(Expression::Ends),
                    Some(Expression::Is) if is_last => Some(Expression::Begins),
                    _ => None,
                };
            }
            '*' => {
                text.push_str("[^/]*");
                kind = None;
            }
            '?' => {
                text.push_str("[^/]");
                kind = None;
            }
            // Docker means to escape `|`, `{` and `}` as well, and does not: it shifts a byte by more than it has bits.
            '.' | '+' | '(' | ')' | '$' => text.extend(['\\', character]),
            '\\' => {
                text.push('\\');
                if let Some(escaped) = characters.next() {
                    text.push(escaped);
                    kind = None;
                }
            }
            '[' | ']' => {
                text.push(character);
                kind = None;
            }
            _ => text.push(character),
        }
        is_first = false;
    }
    text.push('$');
    (text, kind)
}

/// Reads expressions as Go's `regexp/syntax` does, as far as Docker can write them: what is left to read.
struct Reader<'t>(&'t str);

impl Reader<'_> {
    fn alternatives(mut self) -> Result<Vec<Alternative>, Fault> {
        let mut alternatives = Vec::new();
        loop {
            alternatives.push(Alternative::of(self.sequence()?));
            if !self.takes("|") {
                return Ok(alternatives);
            }
        }
    }

    fn sequence(&mut self) -> Result<Vec<Piece>, Fault> {
        let mut pieces = Vec::new();
        while !self.0.is_empty() && !self.0.starts_with('|') {
            let piece = match self.place() {
                Some(piece) => piece,
                None => {
                    let set = self.set()?;
                    if self.takes("*") { Piece::Many(set) } else { Piece::One(set) }
                }
            };
            let can_repeat = !matches!(piece, Piece::Many(_) | Piece::Directories(_));
            match self.repetition()? {
                None => pieces.push(piece),
                Some((least, most)) if can_repeat => pieces.push(Piece::Repeated(Box::new(piece), least, most)),
                Some(_) => return Err(Fault::Syntax),
            }
            if self.repetition()?.is_some() {
                return Err(Fault::Syntax);
            }
        }
        Ok(pieces)
    }

    /// Reads `{2}`, `{2,}` or `{2,3}`; other braces stand for themselves.
    fn repetition(&mut self) -> Result<Option<(u32, Option<u32>)>, Fault> {
        let Some((numbers, rest)) = self.0.strip_prefix('{').and_then(|rest| rest.split_once('}')) else {
            return Ok(None);
        };
        let is_number = |text: &str| {
            !text.is_empty()
                && (text == "0" || !text.starts_with('0'))
                && text.bytes().all(|byte| byte.is_ascii_digit())
        };
        let (least, most) = match numbers.split_once(',') {
            None => (numbers, Some(numbers)),
            Some((least, "")) => (least, None),
            Some((least, most)) => (least, Some(most)),
        };
        if !is_number(least) || !most.is_none_or(is_number) {
            return Ok(None);
        }
        self.0 = rest;
        let number = |text: &str| text.parse().ok().filter(|number| *number <= MOST_REPETITIONS).ok_or(Fault::Syntax);
        let (least, most) = (number(least)?, most.map(number).transpose()?);
        match most {
            Some(most) if most < least => Err(Fault::Syntax),
            _ => Ok(Some((least, most))),
        }
    }

    /// Reads what stands for a place rather than for a character, and the only group that there is.
    fn place(&mut self) -> Option<Piece> {
        let places = [
            ("(.*/)?", Piece::Directories(no_newline())),
            ("^", Piece::Begin),
            ("$", Piece::End),
            ("\\A", Piece::Begin),
            ("\\z", Piece::End),
            ("\\b", Piece::Boundary(true)),
            ("\\B", Piece::Boundary(false)),
        ];
        places.into_iter().find_map(|(text, place)| self.takes(text).then_some(place))
    }

    fn set(&mut self) -> Result<Set, Fault> {
        if let Some(class) = self.perl_class() {
            return Ok(class);
        }
        match self.next()? {
            '.' => Ok(no_newline()),
            '[' => self.brackets(),
            '\\' => self.escaped().map(Set::one),
            character => Ok(Set::one(u32::from(character))),
        }
    }

    /// Reads the character after a backslash.
    fn escaped(&mut self) -> Result<u32, Fault> {
        let octal = |character: char| character.to_digit(8);
        let character = self.next()?;
        Ok(match character {
            'p' | 'P' | 'Q' => return Err(Fault::Unsupported),
            'a' => 7,
            'f' => 12,
            'n' => 10,
            'r' => 13,
            't' => 9,
            'v' => 11,
            'x' => self.hexadecimal()? * 16 + self.hexadecimal()?,
            // One digit but 0 alone would refer to a group, which Go lacks.
            '0'..='7' if character == '0' || self.0.starts_with(|next| octal(next).is_some()) => {
                let mut value = octal(character).unwrap_or_default();
                for _ in 0..2 {
                    let Some(digit) = self.0.chars().next().and_then(octal) else { break };
                    value = value * 8 + digit;
                    self.next()?;
                }
                value
            }
            _ if character.is_ascii() && !character.is_ascii_alphanumeric() => u32::from(character),
            _ => return Err(Fault::Syntax),
        })
    }

    fn hexadecimal(&mut self) -> Result<u32, Fault> {
        self.next()?.to_digit(16).ok_or(Fault::Syntax)
    }

    /// Reads brackets, of which the first has been read.
    fn brackets(&mut self) -> Result<Set, Fault> {
        let negated = self.takes("^");
        let mut ranges: Vec<(u32, u32)> = Vec::new();
        let mut is_first = true;
        while std::mem::take(&mut is_first) || !self.takes("]") {
            if let Some(class) = self.named_class()?.or_else(|| self.perl_class()) {
                ranges.extend_from_slice(class.ranges());
                continue;
            }
            let low = self.bound()?;
            let is_range = self.0.strip_prefix('-').is_some_and(|rest| !rest.is_empty() && !rest.starts_with(']'));
            let high = if is_range && self.takes("-") { self.bound()? } else { low };
            if high < low {
                return Err(Fault::Syntax);
            }
            ranges.push((low, high));
        }
        let set = Set::of(ranges);
        Ok(if negated { set.complement() } else { set })
    }

    /// Reads one end of a range.
    fn bound(&mut self) -> Result<u32, Fault> {
        match self.next()? {
            '\\' => self.escaped(),
            character => Ok(u32::from(character)),
        }
    }

    /// Reads `[:digit:]` or `[:^digit:]`.
    fn named_class(&mut self) -> Result<Option<Set>, Fault> {
        let Some((name, rest)) = self.0.strip_prefix("[:").and_then(|rest| rest.split_once(":]")) else {
            return Ok(None);
        };
        let (negated, name) = name.strip_prefix('^').map_or((false, name), |name| (true, name));
        let class = Set::of(posix(name).ok_or(Fault::Syntax)?.to_vec());
        self.0 = rest;
        Ok(Some(if negated { class.complement() } else { class }))
    }

    /// Reads `\d` and its like.
    fn perl_class(&mut self) -> Option<Set> {
        let letter = self.0.strip_prefix('\\')?.chars().next()?;
        let ranges = match letter.to_ascii_lowercase() {
            'd' => posix("digit"),
            's' => Some(&[(9, 10), (12, 13), (32, 32)][..]),
            'w' => posix("word"),
            _ => None,
        };
        let class = Set::of(ranges?.to_vec());
        self.0 = &self.0[2..];
        Some(if letter.is_ascii_uppercase() { class.complement() } else { class })
    }

    fn takes(&mut self, text: &str) -> bool {
        let rest = self.0.strip_prefix(text);
        self.0 = rest.unwrap_or(self.0);
        rest.is_some()
    }

    fn next(&mut self) -> Result<char, Fault> {
        let mut characters = self.0.chars();
        let next = characters.next().ok_or(Fault::Syntax)?;
        self.0 = characters.as_str();
        Ok(next)
    }
}

fn no_newline() -> Set {
    Set::all_but(u32::from('\n'))
}

fn posix(name: &str) -> Option<&'static [(u32, u32)]> {
    Some(match name {
        "alnum" => &[(48, 57), (65, 90), (97, 122)],
        "alpha" => &[(65, 90), (97, 122)],
        "ascii" => &[(0, 127)],
        "blank" => &[(9, 9), (32, 32)],
        "cntrl" => &[(0, 31), (127, 127)],
        "digit" => &[(48, 57)],
        "graph" => &[(33, 126)],
        "lower" => &[(97, 122)],
        "print" => &[(32, 126)],
        "punct" => &[(33, 47), (58, 64), (91, 96), (123, 126)],
        "space" => &[(9, 13), (32, 32)],
        "upper" => &[(65, 90)],
        "word" => &[(48, 57), (65, 90), (95, 95), (97, 122)],
        "xdigit" => &[(48, 57), (65, 70), (97, 102)],
        _ => return None,
    })
}
