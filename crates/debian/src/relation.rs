//! Relations between packages (Debian policy, 7.1): `libc6 (>= 2.36) | libc6-udeb, python3:any`.

use std::fmt;

use crate::version::{InvalidVersion, Version};

/// A relation that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RelationError {
    /// It is no relation.
    #[error("`{0}` is no relation to a package")]
    Invalid(String),
    /// Its version.
    #[error(transparent)]
    Version(#[from] InvalidVersion),
}

/// A comparison with a version.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Compare {
    /// `<<`
    Less,
    /// `<=`
    LessOrEqual,
    /// `=`
    Equal,
    /// `>=`
    GreaterOrEqual,
    /// `>>`
    Greater,
}

/// A package, perhaps of some versions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Relation {
    /// Its name.
    pub name: String,
    /// The architecture after a colon: `any`, or one.
    pub architecture: Option<String>,
    /// The versions.
    pub version: Option<(Compare, Version)>,
}

/// Relations of which one must hold.
pub type Alternatives = Vec<Relation>;

impl Relation {
    /// Reads one relation.
    ///
    /// # Errors
    ///
    /// If it is none.
    pub fn parse(text: &str) -> Result<Self, RelationError> {
        let invalid = || RelationError::Invalid(text.trim().to_owned());
        let (package, version) = match text.split_once('(') {
            Some((package, rest)) => {
                let inner = rest.trim_end().strip_suffix(')').ok_or_else(invalid)?;
                (package, Some(constraint(inner).ok_or_else(invalid)?))
            }
            None => (text, None),
        };
        let package = package.trim();
        let (name, architecture) = match package.split_once(':') {
            Some((name, architecture)) => (name, Some(architecture.to_owned())),
            None => (package, None),
        };
        if !is_name(name) || architecture.as_deref().is_some_and(|text| !is_word(text)) {
            return Err(invalid());
        }
        let version = version.map(|(compare, text)| Version::parse(text).map(|version| (compare, version)));
        Ok(Self { name: name.to_owned(), architecture, version: version.transpose()? })
    }

    /// Returns true if a version fits.
    pub fn accepts(&self, found: &Version) -> bool {
        self.version.as_ref().is_none_or(|(compare, version)| match compare {
            Compare::Less => found < version,
            Compare::LessOrEqual => found <= version,
            Compare::Equal => found == version,
            Compare::GreaterOrEqual => found >= version,
            Compare::Greater => found > version,
        })
    }
}

/// Returns the comparison and the version. A single `<` or `>` is old, and includes the version (policy, 7.1).
fn constraint(text: &str) -> Option<(Compare, &str)> {
    let text = text.trim();
    let operators = [
        ("<<", Compare::Less),
        ("<=", Compare::LessOrEqual),
        (">=", Compare::GreaterOrEqual),
        (">>", Compare::Greater),
        ("=", Compare::Equal),
        ("<", Compare::LessOrEqual),
        (">", Compare::GreaterOrEqual),
    ];
    operators.iter().find_map(|(sign, compare)| Some((*compare, text.strip_prefix(sign)?.trim_start())))
}

/// Returns true for a name of a package (policy, 5.6.1).
pub fn is_name(text: &str) -> bool {
    let is_allowed = |byte: u8| byte.is_ascii_lowercase() || byte.is_ascii_digit() || b"+-.".contains(&byte);
    text.len() >= 2 && text.as_bytes()[0].is_ascii_alphanumeric() && text.bytes().all(is_allowed)
}

fn is_word(text: &str) -> bool {
    !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_lowercase() || byte.is_ascii_digit() || byte == b'-')
}

/// Reads a field of relations: commas between them, bars between alternatives.
///
/// # Errors
///
/// If one of them is none.
pub fn relations(text: &str) -> Result<Vec<Alternatives>, RelationError> {
    let all = text.split(',').filter(|one| !one.trim().is_empty());
    all.map(|one| one.split('|').map(Relation::parse).collect()).collect()
}

impl fmt::Display for Compare {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Less => "<<",
            Self::LessOrEqual => "<=",
            Self::Equal => "=",
            Self::GreaterOrEqual => ">=",
            Self::Greater => ">>",
        })
    }
}

impl fmt::Display for Relation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.name)?;
        if let Some(architecture) = &self.architecture {
            write!(f, ":{architecture}")?;
        }
        match &self.version {
            Some((compare, version)) => write!(f, " ({compare} {version})"),
            None => Ok(()),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn relations_are_read_as_they_are_written() {
        let text =
            "libc6 (>= 2.36), debconf (>= 0.5) | debconf-2.0, python3:any (<< 3.12~) ,\n perl-base(=5.36.0-7+deb12u1)";
        let read = relations(text).unwrap();
        let shown: Vec<String> =
            read.iter().map(|one| one.iter().map(ToString::to_string).collect::<Vec<_>>().join(" | ")).collect();
        assert_eq!(
            shown,
            [
                "libc6 (>= 2.36)",
                "debconf (>= 0.5) | debconf-2.0",
                "python3:any (<< 3.12~)",
                "perl-base (= 5.36.0-7+deb12u1)"
            ]
        );
        assert_eq!(relations("").unwrap(), Vec::<Alternatives>::new());
    }

    #[test]
    fn what_is_no_relation_is_refused() {
        for text in [
            "A",
            "a b",
            "libc6 (2.36)",
            "libc6 (>= 2.36",
            "libc6 (>= )",
            "libc6 [amd64]",
            "x|",
            "${misc:Depends}",
            "lib:",
        ] {
            assert!(relations(text).is_err(), "{text}");
        }
    }

    #[test]
    fn versions_are_compared() {
        let accepts = |relation: &str, version: &str| {
            Relation::parse(relation).unwrap().accepts(&Version::parse(version).unwrap())
        };
        assert!(
            accepts("ab", "1") && accepts("ab (>= 1)", "1") && accepts("ab (> 1)", "1") && accepts("ab (<< 2)", "1")
        );
        assert!(!accepts("ab (>> 1)", "1") && !accepts("ab (= 1-1)", "1") && accepts("ab (= 1.0)", "1.00"));
    }
}
