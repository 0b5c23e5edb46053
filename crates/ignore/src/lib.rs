//! Ignore files: `.gitignore` by git's rules and `.dockerignore` by Docker's.
//!
//! The two look alike and differ in most things: git's patterns match at any depth unless they hold a slash, Docker's
//! count from the top; git never looks into an excluded directory, Docker does if a later `!` may match there; `!` in
//! brackets negates for git alone; Docker's patterns become expressions of Go, with what those make of `^` and `\d`.
//! Everything here was compared with `git check-ignore` and `docker build` on generated files and trees, and is again by
//! `cargo xtask interop --only ignored`.
//!
//! Paths are bytes, relative to the directory of the file, with slashes between names and none at either end. Memory and
//! time are bounded: a match takes no more steps than the length of the pattern times that of the path.
//!
//! # A walk
//!
//! ```
//! use kiln_ignore::{Directory, Rules};
//!
//! fn walk(rules: &Rules, tree: &[(&str, bool)], directory: &Directory, below: &str, kept: &mut Vec<String>) {
//!     for (path, is_directory) in tree {
//!         let Some((parent, _)) = path.rsplit_once('/').or(Some(("", path))) else { continue };
//!         if parent != below {
//!             continue;
//!         }
//!         let found = rules.look(directory, path.as_bytes(), *is_directory);
//!         if !found.excluded() {
//!             kept.push(path.to_string());
//!         }
//!         if let Some(inside) = &found.inside {
//!             walk(rules, tree, inside, path, kept);
//!         }
//!     }
//! }
//!
//! let rules = Rules::docker(b"logs\n!logs/keep\n").unwrap();
//! let tree = [("app.py", false), ("logs", true), ("logs/keep", false), ("logs/old", false)];
//! let mut kept = Vec::new();
//! walk(&rules, &tree, &rules.root(), "", &mut kept);
//! assert_eq!(kept, ["app.py", "logs/keep"]);
//! ```
//!
//! Docker makes the directory `logs` all the same, with its own mode and owner, because it holds something that is
//! kept; an excluded directory that keeps nothing is not made. A walker for Docker therefore remembers excluded
//! directories on its way down, and makes them before the first thing below that is kept.
//!
//! Docker contradicts itself about some files: those that its walk keeps, because it did not compare a line that would
//! have changed nothing for a directory above, and that it then refuses to open, because that line matches this directory
//! (`a`, `!a/b`, `a`). It makes an empty file. Here such a file is kept.
//!
//! git reads a `.gitignore` in each directory. A walker asks the deepest first, with the path relative to it, and the
//! first that decides counts; the outer ones are asked only where no inner one decides.

mod docker;
mod git;
mod pieces;
#[cfg(test)]
mod tests;

/// Rules of one file, or of patterns written elsewhere one a line, relative to one directory.
#[derive(Debug, Clone)]
pub struct Rules(Kind);

#[derive(Debug, Clone)]
enum Kind {
    Git(git::Rules),
    Docker(docker::Rules),
}

/// The line that decides for a path.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Match {
    /// Its number, from 1.
    pub line: usize,
    /// True if the path stays out, false if a `!` brought it back.
    pub excluded: bool,
}

/// The state of a walk in one directory: for Docker the lines that match it or a directory above.
#[derive(Debug, Clone, Default)]
pub struct Directory(Vec<bool>);

/// The answer for one path of a walk.
#[derive(Debug, Clone)]
pub struct Found {
    /// The line that decides; none where no line matches, and the path is kept.
    pub decided: Option<Match>,
    /// The state of the walk inside, if the path is a directory that may hold something that is kept: git looks into no
    /// excluded directory, Docker into those below which a `!` may match.
    pub inside: Option<Directory>,
}

impl Found {
    /// Returns true if the path itself stays out.
    pub fn excluded(&self) -> bool {
        self.decided.is_some_and(|decided| decided.excluded)
    }
}

/// A line that holds a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Line<'r> {
    /// Its number, from 1.
    pub number: usize,
    /// The pattern as it is written, without the spaces around it that do not count.
    pub text: &'r [u8],
}

/// A pattern for which Docker refuses the whole file. git refuses none: a malformed one matches no path.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("`{}` in line {line}: {problem}", String::from_utf8_lossy(pattern))]
pub struct BadPattern {
    /// The number of its line, from 1.
    pub line: usize,
    /// The pattern as it is written.
    pub pattern: Vec<u8>,
    /// The fault in it.
    pub problem: Problem,
}

/// The fault in a pattern.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Problem {
    /// Brackets without an end, a range without one, a backslash at the end, an escape that Go's expressions lack.
    #[error("syntax error in pattern")]
    Syntax,
    /// `!` alone, or before a `/` alone.
    #[error("`!` needs a pattern")]
    Empty,
    /// `\p`, `\P` and `\Q`, which Docker hands to Go's expressions. No ignore file needs them.
    #[error("`\\p`, `\\P` and `\\Q` are not supported")]
    Unsupported,
    /// Docker reads lines of at most 65,535 bytes.
    #[error("the line is longer than 65535 bytes")]
    TooLong,
}

impl Rules {
    /// Reads a `.gitignore` (gitignore(5)). A pattern that git cannot use matches no path.
    pub fn git(text: &[u8]) -> Self {
        Self(Kind::Git(git::Rules::read(text)))
    }

    /// Reads a `.dockerignore`.
    ///
    /// # Errors
    ///
    /// Those patterns for which Docker fails, when it reads the file or when it first uses them.
    pub fn docker(text: &[u8]) -> Result<Self, BadPattern> {
        Ok(Self(Kind::Docker(docker::Rules::read(text)?)))
    }

    /// Returns the state of a walk in the directory of the file.
    pub fn root(&self) -> Directory {
        Directory::default()
    }

    /// Decides for one path of a walk; `directory` is the state in the directory that holds it.
    pub fn look(&self, directory: &Directory, path: &[u8], is_directory: bool) -> Found {
        match &self.0 {
            Kind::Git(rules) => {
                let decided = rules.matched(path, is_directory);
                let inside = is_directory && !decided.is_some_and(|decided| decided.excluded);
                Found { decided, inside: inside.then(Directory::default) }
            }
            Kind::Docker(rules) => {
                let (decided, matching) = rules.look(&directory.0, path);
                let inside = match decided {
                    Some(Match { excluded: true, .. }) => is_directory && rules.may_include_below(path),
                    _ => is_directory,
                };
                Found { decided, inside: inside.then_some(Directory(matching)) }
            }
        }
    }

    /// Decides for one path as a walk from the root would that goes through the directories above it: where it does not
    /// look into one of them, the line that decides for that one decides.
    pub fn decide(&self, path: &[u8], is_directory: bool) -> Option<Match> {
        let mut directory = self.root();
        for (at, _) in path.iter().enumerate().filter(|(_, byte)| **byte == b'/') {
            let found = self.look(&directory, &path[..at], true);
            match found.inside {
                Some(inside) => directory = inside,
                None => return found.decided,
            }
        }
        self.look(&directory, path, is_directory).decided
    }

    /// Lists the lines that hold patterns, in their order.
    pub fn lines(&self) -> impl Iterator<Item = Line<'_>> {
        let lines = match &self.0 {
            Kind::Git(rules) => rules.lines(),
            Kind::Docker(rules) => rules.lines(),
        };
        lines.into_iter()
    }

    /// Begins to count which lines match anything.
    pub fn unmatched(&self) -> Unmatched<'_> {
        Unmatched { rules: self, lines: self.lines().enumerate().collect() }
    }

    fn line_matches(&self, index: usize, path: &[u8], is_directory: bool) -> bool {
        match &self.0 {
            Kind::Git(rules) => rules.line_matches(index, path, is_directory),
            Kind::Docker(rules) => rules.line_matches(index, path),
        }
    }
}

/// The lines that no path has matched so far, each for itself, whatever other lines say.
#[derive(Debug, Clone)]
pub struct Unmatched<'r> {
    rules: &'r Rules,
    lines: Vec<(usize, Line<'r>)>,
}

impl<'r> Unmatched<'r> {
    /// Takes out the lines that match a path.
    pub fn see(&mut self, path: &[u8], is_directory: bool) {
        self.lines.retain(|(index, _)| !self.rules.line_matches(*index, path, is_directory));
    }

    /// Lists those that are left.
    pub fn lines(&self) -> impl Iterator<Item = Line<'r>> {
        self.lines.iter().map(|(_, line)| *line)
    }
}
