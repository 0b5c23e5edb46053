//! Docker's rules: those of a `.dockerignore` as BuildKit reads it and as its client walks a build context.
//!
//! Sources: `ignorefile` and `patternmatcher` of github.com/moby/patternmatcher, `filter.go` of
//! github.com/tonistiigi/fsutil, and `path/filepath` and `regexp/syntax` of Go.

mod expression;
mod syntax;

use self::expression::{Expression, Fault};
use crate::pieces::Alternative;
use crate::{BadPattern, Line, Match, Problem};

/// The longest line that Docker reads, without its end.
const LONGEST: usize = (64 << 10) - 1;
/// Characters that a pattern has which is more than a path.
const SPECIAL: &str = "*[]?^\\";

/// The rules of a `.dockerignore`.
#[derive(Debug, Clone)]
pub(crate) struct Rules {
    rules: Vec<Rule>,
    reach: Reach,
}

#[derive(Debug, Clone)]
struct Rule {
    line: usize,
    text: Vec<u8>,
    excludes: bool,
    form: Form,
}

/// A pattern that is compared with whole paths.
#[derive(Debug, Clone)]
enum Form {
    Is(Vec<u8>),
    Begins(Vec<u8>),
    /// The path ends so, or is the end without its slash.
    Ends(Vec<u8>),
    Taken(Vec<Alternative>),
}

/// Directories below which a `!` may match: Docker walks excluded ones for their sake.
#[derive(Debug, Clone)]
enum Reach {
    /// All, because some `!` is more than a path.
    Everywhere,
    /// Those above these paths, and these, each with a slash at its end.
    Towards(Vec<Vec<u8>>),
}

impl Rules {
    pub(crate) fn read(text: &[u8]) -> Result<Self, BadPattern> {
        let text = text.strip_prefix(b"\xEF\xBB\xBF").unwrap_or(text);
        let (mut rules, mut reach) = (Vec::new(), Reach::Towards(Vec::new()));
        for (index, line) in text.split(|byte| *byte == b'\n').enumerate() {
            let bad = |problem| BadPattern { line: index + 1, pattern: line.to_owned(), problem };
            if line.len() > LONGEST {
                return Err(BadPattern { pattern: line[..80].to_owned(), ..bad(Problem::TooLong) });
            }
            let line = decoded(line.strip_suffix(b"\r").unwrap_or(line));
            if line.starts_with('#') || line.trim().is_empty() {
                continue;
            }
            let text = line.trim();
            let (excludes, pattern) = pattern(text).map_err(bad)?;
            if !excludes {
                reach.extend(&pattern);
            }
            let form = Form::of(&pattern).map_err(bad)?;
            rules.push(Rule { line: index + 1, text: text.as_bytes().to_owned(), excludes, form });
        }
        Ok(Self { rules, reach })
    }

    /// Decides for a path below a directory whose matching lines are known; the lines that match it or that directory.
    ///
    /// A line that would change nothing is not compared, and then does not count as matching for what lies below.
    pub(crate) fn look(&self, above: &[bool], path: &[u8]) -> (Option<Match>, Vec<bool>) {
        let mut decided: Option<Match> = None;
        let mut matching = vec![false; self.rules.len()];
        for (index, rule) in self.rules.iter().enumerate() {
            let excluded = decided.is_some_and(|decided| decided.excluded);
            let inherited = above.get(index).is_some_and(|above| *above);
            if inherited || (rule.excludes != excluded && rule.form.matches(path)) {
                matching[index] = true;
                decided = Some(Match { line: rule.line, excluded: rule.excludes });
            }
        }
        (decided, matching)
    }

    /// Returns true if a `!` may bring back something below an excluded directory.
    pub(crate) fn may_include_below(&self, directory: &[u8]) -> bool {
        match &self.reach {
            Reach::Everywhere => true,
            Reach::Towards(paths) => {
                paths.iter().any(|path| path.strip_prefix(directory).is_some_and(|rest| rest.first() == Some(&b'/')))
            }
        }
    }

    pub(crate) fn lines(&self) -> Vec<Line<'_>> {
        self.rules.iter().map(|rule| Line { number: rule.line, text: &rule.text }).collect()
    }

    pub(crate) fn line_matches(&self, index: usize, path: &[u8]) -> bool {
        self.rules[index].form.matches(path)
    }
}

impl Reach {
    fn extend(&mut self, pattern: &str) {
        let path = pattern.strip_suffix("/**").unwrap_or(pattern);
        let path = path.strip_suffix("/*").unwrap_or(path);
        match self {
            Self::Towards(paths) if !path.contains(|character| SPECIAL.contains(character)) => {
                paths.push([path.as_bytes(), b"/"].concat());
            }
            _ => *self = Self::Everywhere,
        }
    }
}

impl Form {
    fn of(pattern: &str) -> Result<Self, Problem> {
        if !syntax::is_sound(pattern) {
            return Err(Problem::Syntax);
        }
        match expression::read(pattern) {
            Ok(Expression::Is) => Ok(Self::Is(pattern.into())),
            Ok(Expression::Begins) => Ok(Self::Begins(pattern.as_bytes()[..pattern.len() - 2].to_owned())),
            Ok(Expression::Ends) => Ok(Self::Ends(pattern.as_bytes()[2..].to_owned())),
            Ok(Expression::Taken(pieces)) => Ok(Self::Taken(pieces)),
            Err(Fault::Syntax) => Err(Problem::Syntax),
            Err(Fault::Unsupported) => Err(Problem::Unsupported),
        }
    }

    fn matches(&self, path: &[u8]) -> bool {
        match self {
            Self::Is(whole) => path == whole,
            Self::Begins(begin) => path.starts_with(begin),
            Self::Ends(end) => path.ends_with(end) || end.strip_prefix(b"/") == Some(path),
            Self::Taken(alternatives) => {
                let path: Vec<u32> = decoded(path).chars().map(u32::from).collect();
                alternatives.iter().any(|alternative| alternative.takes(&path))
            }
        }
    }
}

/// Reads a line without spaces around it: true if it excludes, and its pattern as a path in its shortest form.
fn pattern(line: &str) -> Result<(bool, String), Problem> {
    let (sign, rest) = line.strip_prefix('!').map_or(("", line), |rest| ("!", rest.trim()));
    let mut pattern = if rest.is_empty() { String::new() } else { syntax::clean(rest) };
    if pattern.len() > 1 && pattern.starts_with('/') {
        pattern.remove(0);
    }
    // Docker shortens the line once more with its `!` before it, which takes another slash from `!/` and nothing else.
    let whole = syntax::clean((sign.to_owned() + &pattern).trim());
    match whole.strip_prefix('!') {
        Some("") => Err(Problem::Empty),
        Some(pattern) => Ok((false, pattern.to_owned())),
        None => Ok((true, whole)),
    }
}

/// Reads text as Go does: each byte that is no UTF-8 is one replacement character.
fn decoded(text: &[u8]) -> String {
    let mut decoded = String::with_capacity(text.len());
    for chunk in text.utf8_chunks() {
        decoded.push_str(chunk.valid());
        decoded.extend(chunk.invalid().iter().map(|_| char::REPLACEMENT_CHARACTER));
    }
    decoded
}
