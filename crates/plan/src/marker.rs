//! Markers (PEP 508), taken where every tool reads the same in them.
//!
//! The library behind the tree leaves out what it does not understand, panics at some texts and needs exponential time for
//! others, and pip and uv evaluate some comparisons in different ways. So every comparison is looked at before: one that
//! pip or uv leaves out, or that the two decide differently, is an error that says how to write it.

use pep508_rs::{MarkerTree, MarkerWarningKind};

/// Bounds of a marker: deciding one takes time exponential in the number of its unordered comparisons.
const LONGEST: usize = 4096;
const DEEPEST: usize = 64;
const COMPARISONS: usize = 16;

/// Digits of a number in a version: the library adds one to it.
const DIGITS: usize = 9;

/// Variables whose values are versions.
const VERSIONS: [&str; 3] = ["python_version", "python_full_version", "implementation_version"];
/// Variables whose values are texts, with the names that they had before PEP 508.
const TEXTS: [&str; 11] = [
    "os_name",
    "sys_platform",
    "platform_machine",
    "platform_python_implementation",
    "platform_system",
    "implementation_name",
    "os.name",
    "sys.platform",
    "platform.machine",
    "platform.python_implementation",
    "python_implementation",
];
/// Variables about the kernel that runs an image.
const KERNEL: [&str; 3] = ["platform_release", "platform_version", "platform.version"];

/// A marker that is not taken.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum MarkerError {
    /// It cannot be read, for this reason.
    #[error("{0}")]
    Invalid(String),
    /// A comparison has no meaning, or not the same one for every tool.
    #[error("{part}: {hint}")]
    Unclear {
        /// The comparison, and a clause about it.
        part: String,
        /// Advice.
        hint: String,
    },
}

/// Reads a marker.
pub fn read(text: &str) -> Result<MarkerTree, MarkerError> {
    // The library panics where it reports another character.
    if !text.is_ascii() || text.contains(|c: char| c.is_control() && c != '\t') {
        return invalid("a marker consists of ASCII characters");
    }
    if text.len() > LONGEST || text.matches('(').count() > DEEPEST {
        return invalid("its marker is too long");
    }
    let tokens = tokens(text)?;
    let mut reader = Reader { tokens: &tokens, unordered: 0, plain: String::new() };
    reader.alternatives()?;
    if let Some(rest) = reader.tokens.first() {
        return invalid(format!("its marker goes on with `{}`, where `and` or `or` is expected", rest.text()));
    }
    if reader.unordered > COMPARISONS {
        return invalid("its marker has too many comparisons with `in` or `extra`");
    }
    let mut dropped = Dropped(None);
    let tree = MarkerTree::parse_reporter(&reader.plain, &mut dropped).map_err(|error| {
        MarkerError::Invalid(format!("its marker cannot be read: {}", first_line(&error.message.to_string())))
    })?;
    match dropped.0 {
        Some(warning) => Err(MarkerError::Unclear { part: first_line(&warning), hint: COMPARE.to_owned() }),
        None => Ok(tree),
    }
}

/// Advice about comparisons.
pub(crate) const COMPARE: &str = "compare a variable with a quoted string: `; python_version >= '3.10'`";

/// Collects what the parser would drop.
struct Dropped(Option<String>);

impl pep508_rs::Reporter for Dropped {
    fn report(&mut self, kind: MarkerWarningKind, warning: String) {
        if !matches!(kind, MarkerWarningKind::DeprecatedMarkerName) {
            self.0.get_or_insert(warning);
        }
    }
}

fn first_line(text: &str) -> String {
    text.lines().next().unwrap_or_default().trim_end_matches('.').to_owned()
}

fn invalid<T>(reason: impl Into<String>) -> Result<T, MarkerError> {
    Err(MarkerError::Invalid(reason.into()))
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Token<'t> {
    /// A name, `and`, `or`, `in` or `not`.
    Word(&'t str),
    /// A string without its quotes.
    Quoted(&'t str),
    /// An operator of signs.
    Signs(&'t str),
    Parenthesis(&'t str),
}

impl<'t> Token<'t> {
    fn text(self) -> &'t str {
        match self {
            Self::Word(text) | Self::Quoted(text) | Self::Signs(text) | Self::Parenthesis(text) => text,
        }
    }
}

fn tokens(text: &str) -> Result<Vec<Token<'_>>, MarkerError> {
    let mut found = Vec::new();
    let mut rest = text.trim_start();
    let end_of = |rest: &str, inside: fn(char) -> bool| rest.find(|c| !inside(c)).unwrap_or(rest.len());
    while let Some(first) = rest.chars().next() {
        let (token, length) = match first {
            '\'' | '"' => {
                let Some(length) = rest[1..].find(first) else { return invalid("a quote of its marker is not closed") };
                (Token::Quoted(&rest[1..=length]), length + 2)
            }
            '(' | ')' => (Token::Parenthesis(&rest[..1]), 1),
            '<' | '>' | '=' | '!' | '~' => {
                let length = end_of(rest, |c| matches!(c, '<' | '>' | '=' | '!' | '~'));
                (Token::Signs(&rest[..length]), length)
            }
            _ => match end_of(rest, |c| c.is_ascii_alphanumeric() || matches!(c, '_' | '.')) {
                0 => return invalid(format!("its marker has `{first}` outside of quotes")),
                length => (Token::Word(&rest[..length]), length),
            },
        };
        found.push(token);
        rest = rest[length..].trim_start();
    }
    Ok(found)
}

/// Looks at each comparison of a marker.
struct Reader<'a, 't> {
    tokens: &'a [Token<'t>],
    /// Comparisons that the library decides slowly.
    unordered: usize,
    /// The marker for the library, which drops zeros at the end of a version behind `~=`.
    plain: String,
}

impl<'t> Reader<'_, 't> {
    fn next(&mut self) -> Option<Token<'t>> {
        let (first, rest) = self.tokens.split_first()?;
        self.tokens = rest;
        Some(*first)
    }

    fn take(&mut self, token: Token<'_>) -> bool {
        let found = self.tokens.first() == Some(&token);
        if found {
            self.tokens = &self.tokens[1..];
        }
        found
    }

    /// Comparisons between `and` and `or`, to the end or to a parenthesis.
    fn alternatives(&mut self) -> Result<(), MarkerError> {
        loop {
            if self.take(Token::Parenthesis("(")) {
                self.plain.push('(');
                self.alternatives()?;
                if !self.take(Token::Parenthesis(")")) {
                    return invalid("a parenthesis of its marker is not closed");
                }
                self.plain.push(')');
            } else {
                let comparison = self.comparison()?;
                self.plain.push_str(&comparison);
            }
            if self.take(Token::Word("and")) {
                self.plain.push_str(" and ");
            } else if self.take(Token::Word("or")) {
                self.plain.push_str(" or ");
            } else {
                return Ok(());
            }
        }
    }

    /// One comparison, as it is for the library.
    fn comparison(&mut self) -> Result<String, MarkerError> {
        let one = self.operand()?;
        let operator = match self.next() {
            Some(Token::Word("in")) => "in",
            Some(Token::Word("not")) if self.take(Token::Word("in")) => "not in",
            Some(Token::Signs(signs @ ("==" | "!=" | "<=" | ">=" | "<" | ">" | "~=" | "==="))) => signs,
            Some(other) => return invalid(format!("its marker has `{}`, where an operator is expected", other.text())),
            None => return invalid(format!("its marker ends after `{}`", one.text())),
        };
        let other = self.operand()?;
        let comparison = Comparison { one, operator, other };
        if matches!(operator, "in" | "not in") || comparison.variable() == Some("extra") {
            self.unordered += 1;
        }
        comparison.check()?;
        Ok(comparison.plain())
    }

    fn operand(&mut self) -> Result<Token<'t>, MarkerError> {
        match self.next() {
            Some(token @ Token::Quoted(text)) if !text.contains('\\') => Ok(token),
            Some(Token::Quoted(_)) => invalid("its marker has a backslash"),
            Some(token @ Token::Word(name)) => {
                let is_variable = |names: &[&str]| names.contains(&name);
                match is_variable(&VERSIONS) || is_variable(&TEXTS) || is_variable(&KERNEL) || name == "extra" {
                    true => Ok(token),
                    false => invalid(format!("`{name}` is no variable of markers")),
                }
            }
            Some(other) => {
                invalid(format!("its marker has `{}`, where a variable or a string is expected", other.text()))
            }
            None => invalid("its marker ends too early"),
        }
    }
}

/// A comparison as it is written.
struct Comparison<'t> {
    one: Token<'t>,
    operator: &'t str,
    other: Token<'t>,
}

impl Comparison<'_> {
    fn variable(&self) -> Option<&str> {
        match (self.one, self.other) {
            (Token::Word(name), _) | (_, Token::Word(name)) => Some(name),
            _ => None,
        }
    }

    fn shown(&self) -> String {
        let shown = |token: Token<'_>| match token {
            Token::Quoted(text) if text.contains('\'') => format!("\"{text}\""),
            Token::Quoted(text) => format!("'{text}'"),
            other => other.text().to_owned(),
        };
        format!("{} {} {}", shown(self.one), self.operator, shown(self.other))
    }

    /// The comparison without `~=`, by its definition (PEP 440, "Compatible release").
    fn plain(&self) -> String {
        match (self.operator, self.one, self.other) {
            ("~=", Token::Word(name), Token::Quoted(version)) => {
                let release = version.rsplit_once('.').map_or(version, |(release, _)| release);
                format!("({name} >= '{version}' and {name} == '{release}.*')")
            }
            _ => self.shown(),
        }
    }

    fn unclear(&self, problem: &str, hint: impl Into<String>) -> Result<(), MarkerError> {
        let part = format!("`{}` {problem}", self.shown());
        Err(MarkerError::Unclear { part, hint: hint.into() })
    }

    fn check(&self) -> Result<(), MarkerError> {
        let (name, value, reversed) = match (self.one, self.other) {
            (Token::Word(name), Token::Quoted(value)) => (name, value, false),
            (Token::Quoted(value), Token::Word(name)) => (name, value, true),
            (Token::Word(_), _) => return self.unclear("compares two variables", COMPARE),
            _ => return self.unclear("compares two strings", COMPARE),
        };
        if name == "extra" {
            let is_name = !value.is_empty() && pep508_rs::ExtraName::new(value.to_owned()).is_ok();
            return match self.operator {
                "==" | "!=" if is_name => Ok(()),
                "==" | "!=" => self.unclear("names no extra", "an extra is a word: `; extra == 'cuda'`"),
                _ => self.unclear("is read by no tool", "an extra is compared with `==` or `!=`"),
            };
        }
        if KERNEL.contains(&name) {
            return self.unclear(
                "asks for the kernel of the machine that runs the image",
                "nobody knows it while packages are chosen: leave it out",
            );
        }
        if VERSIONS.contains(&name) {
            return self.version(name, value, reversed);
        }
        match self.operator {
            "==" | "!=" | "in" | "not in" => Ok(()),
            _ => {
                self.unclear("orders texts, which tools do in different ways", "compare texts with `==`, `!=` or `in`")
            }
        }
    }

    /// A comparison with a version of Python.
    fn version(&self, name: &str, value: &str, reversed: bool) -> Result<(), MarkerError> {
        let parts: Vec<&str> = value.split('.').collect();
        let is_number =
            |part: &&str| (1..=DIGITS).contains(&part.len()) && part.bytes().all(|byte| byte.is_ascii_digit());
        let numbers = parts.iter().take_while(|part| is_number(part)).count();
        let write = |operator: &str| format!("write `{name} {operator} '3.11'`, with a version in digits and dots");
        match self.operator {
            "in" | "not in" => {
                let is_minor = |version: &str| {
                    version.split('.').count() == 2
                        && version.split('.').all(|part| is_number(&part) && (part == "0" || !part.starts_with('0')))
                };
                match !reversed
                    && name == "python_version"
                    && value.split_whitespace().all(is_minor)
                    && !value.trim().is_empty()
                {
                    true => Ok(()),
                    false => self.unclear(
                        "looks for a text in a text, and some tools compare versions",
                        format!("compare with `{}`, joined by `or`", if self.operator == "in" { "==" } else { "!=" }),
                    ),
                }
            }
            "===" => self.unclear("compares text, and some tools compare versions", write("==")),
            // `python_version` has two numbers: tools differ on whether a third one can fit.
            "==" | "!=" if !reversed && numbers > 0 && parts[numbers..] == ["*"] => {
                match name != "python_version" || numbers <= 2 {
                    true => Ok(()),
                    false => {
                        self.unclear("asks for more than two numbers", write("==").replace(name, "python_full_version"))
                    }
                }
            }
            "~=" if reversed || numbers < 2 => self.unclear("has no meaning", write(">=")),
            operator if numbers < parts.len() => self.unclear("does not compare with a plain version", write(operator)),
            _ => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn comparisons_that_every_tool_reads_alike_are_taken() {
        for text in [
            "python_version >= '3.8'",
            "'3.8'<=python_version and python_full_version!=\"3.11.2\"",
            "python_version == '3.11.*' or (sys_platform=='linux' and 'x86' in platform_machine)",
            "python_version not in '3.9 3.10' and os_name in \"posix nt\"",
            "python_full_version ~= '3.11.0'",
            "extra == 'a_b' or 'x' != extra",
            "os.name == 'posix' and python_implementation == \"CPython\"",
        ] {
            assert!(read(text).is_ok(), "{text}: {:?}", read(text));
        }
    }

    /// The library behind the tree panics at some of them, and drops others.
    #[test]
    fn comparisons_that_tools_read_in_different_ways_are_refused_with_advice() {
        for (text, part) in [
            ("sys_platform ~= 'linux'", "orders texts"),
            ("os_name > 'a'", "orders texts"),
            ("os_name === 'posix'", "orders texts"),
            ("python_version > '3.18446744073709551615'", "does not compare with a plain version"),
            ("python_version >= '3.x'", "does not compare with a plain version"),
            ("python_version >= '3.9.*'", "does not compare with a plain version"),
            ("'3.9.*' == python_version", "does not compare with a plain version"),
            ("python_version == '3.11+local'", "does not compare with a plain version"),
            ("python_version == ''", "does not compare with a plain version"),
            ("python_version != '3.11.2.*'", "asks for more than two numbers"),
            ("python_version === '3.11'", "compares text"),
            ("'3.11' in python_version", "looks for a text"),
            ("python_version in '3.9,3.10'", "looks for a text"),
            ("python_version in '3.09'", "looks for a text"),
            ("python_full_version in '3.11.2'", "looks for a text"),
            ("python_version ~= '3'", "has no meaning"),
            ("'3.8' ~= python_version", "has no meaning"),
            ("platform_release >= '5'", "the kernel"),
            ("'x' == platform_version", "the kernel"),
            ("extra in 'a b'", "read by no tool"),
            ("extra == ''", "names no extra"),
            ("extra == 'a b'", "names no extra"),
            ("'a' == 'a'", "compares two strings"),
            ("os_name == sys_platform", "compares two variables"),
        ] {
            let Err(MarkerError::Unclear { part: said, hint }) = read(text) else { panic!("{text}: {:?}", read(text)) };
            assert!(said.contains(part) && !hint.is_empty(), "{text}: {said}");
        }
    }

    #[test]
    fn texts_that_are_no_markers_are_refused() {
        for text in [
            "",
            "python_version",
            "python_version >=",
            "(python_version >= '3'",
            "python_version >= '3')",
            "python_version >= '3' and",
            "python_version >= '3' or or os_name == 'x'",
            "python_version => '3'",
            "python_version not '3'",
            "python_version >= 3.8",
            "bogus == 'x'",
            "os_name == 'x",
            "os_name == 'a\\'",
            "os_name == 'na\u{ef}ve'",
            "os_name & 'x'",
            "os_name == 'x' \n",
        ] {
            assert!(matches!(read(text), Err(MarkerError::Invalid(_))), "{text}: {:?}", read(text));
        }
        assert!(read(&"(".repeat(10_000)).is_err());
        assert!(read(&vec!["extra == 'a'"; 100].join(" or ")).is_err());
    }
}
