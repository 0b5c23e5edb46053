//! Lines about the directories of a base, as the lock and the stack file write them: `/bin -> usr/bin` for a link,
//! `/tmp 1777 0:0` for a directory. A byte that would end a word, and any that is not printable ASCII or part of UTF-8, is
//! written as `%` and two hexadecimal digits.

use std::fmt;
use std::str::FromStr;

use schemars::{JsonSchema, Schema, SchemaGenerator, json_schema};
use serde::{Deserialize, Serialize};

/// The owner, mode and extended attributes of a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Attributes {
    /// Permission bits.
    pub mode: u32,
    /// User and group.
    pub owner: (u32, u32),
    /// Extended attributes by name (xattr(7)).
    pub xattrs: Vec<(Vec<u8>, Vec<u8>)>,
}

impl Default for Attributes {
    /// Returns those of a directory that nobody said anything about: root's, mode 0755.
    fn default() -> Self {
        Self { mode: 0o755, owner: (0, 0), xattrs: Vec::new() }
    }
}

impl fmt::Display for Attributes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:04o} {}:{}", self.mode, self.owner.0, self.owner.1)?;
        self.xattrs.iter().try_for_each(|(name, value)| write!(f, " {}={}", escape(name), escape(value)))
    }
}

/// A symbolic link that leads to a directory.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct LinkLine {
    /// Path without a leading slash.
    pub path: Vec<u8>,
    /// Target as the link has it.
    pub target: Vec<u8>,
}

/// A directory whose attributes are not the default ones.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct DirectoryLine {
    /// Path without a leading slash.
    pub path: Vec<u8>,
    /// True where all directories below it have the same attributes, unless another line is nearer: written `/opt/conda/**`.
    pub below: bool,
    /// Its attributes.
    pub attributes: Attributes,
}

/// A directory of the top level with those below it: `etc(alternatives apt(apt.conf.d))`.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct FolderLine {
    /// Its name.
    pub name: Vec<u8>,
    /// The directories in it.
    pub below: Vec<FolderLine>,
}

/// Folders within folders that a line may have.
const DEEPEST: usize = 64;

impl fmt::Display for LinkLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "/{} -> {}", escape(&self.path), escape(&self.target))
    }
}

impl fmt::Display for DirectoryLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let below = match (self.below, self.path.is_empty()) {
            (true, true) => "**",
            (true, false) => "/**",
            (false, _) => "",
        };
        write!(f, "/{}{below} {}", escape(&self.path), self.attributes)
    }
}

impl fmt::Display for FolderLine {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&escape(&self.name))?;
        let mut separator = '(';
        for folder in &self.below {
            write!(f, "{separator}{folder}")?;
            separator = ' ';
        }
        if self.below.is_empty() { Ok(()) } else { f.write_str(")") }
    }
}

impl FromStr for LinkLine {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let problem = || format!("`{line}` is not a link: it is written `/bin -> usr/bin`");
        let (path, target) = line.split_once(" -> ").ok_or_else(problem)?;
        let target =
            unescape(target).filter(|target| !target.is_empty() && !target.contains(&0)).ok_or_else(problem)?;
        let path = path_of(path).filter(|path| !path.is_empty()).ok_or_else(problem)?;
        Ok(Self { path, target })
    }
}

impl FromStr for DirectoryLine {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let problem = || format!("`{line}` is not a directory: it is written `/tmp 1777 0:0`");
        let mut words = line.split(' ');
        let path = words.next().ok_or_else(problem)?;
        let (path, below) = match path.strip_suffix("/**") {
            Some("") => ("/", true),
            Some(path) => (path, true),
            None => (path, false),
        };
        let path = path_of(path).ok_or_else(problem)?;
        let mode = words.next().and_then(|word| u32::from_str_radix(word, 8).ok()).filter(|mode| *mode <= 0o7777);
        let owner = words.next().and_then(|word| word.split_once(':'));
        let owner = owner.and_then(|(user, group)| Some((user.parse().ok()?, group.parse().ok()?)));
        let xattrs = words.map(|word| {
            word.split_once('=')
                .and_then(|(name, value)| Some((unescape(name).filter(|name| !name.is_empty())?, unescape(value)?)))
        });
        let attributes = Attributes {
            mode: mode.ok_or_else(problem)?,
            owner: owner.ok_or_else(problem)?,
            xattrs: xattrs.collect::<Option<_>>().ok_or_else(problem)?,
        };
        Ok(Self { path, below, attributes })
    }
}

impl FromStr for FolderLine {
    type Err = String;

    fn from_str(line: &str) -> Result<Self, String> {
        let problem = || format!("`{line}` is not a folder: it is written `etc(apt(apt.conf.d) cron.daily)`");
        // Folders whose closing bracket is still to come, the outermost first; the last may still get a first folder.
        let mut open: Vec<Self> = Vec::new();
        let mut done: Vec<Vec<Self>> = vec![Vec::new()];
        let mut rest = line;
        loop {
            let end = rest.find(['(', ')', ' ']).unwrap_or(rest.len());
            let (word, after) = rest.split_at(end);
            if !word.is_empty() {
                let name = unescape(word).filter(|name| is_name(name)).ok_or_else(problem)?;
                let folder = Self { name, below: Vec::new() };
                match after.starts_with('(') {
                    true if open.len() < DEEPEST => {
                        open.push(folder);
                        done.push(Vec::new());
                    }
                    true => return Err(problem()),
                    false => done.last_mut().ok_or_else(problem)?.push(folder),
                }
            } else if after.starts_with('(') {
                return Err(problem());
            }
            let Some(sign) = after.chars().next() else { break };
            if sign == ')' {
                let (below, mut folder) = (done.pop().ok_or_else(problem)?, open.pop().ok_or_else(problem)?);
                folder.below = below;
                done.last_mut().ok_or_else(problem)?.push(folder);
            }
            rest = &after[1..];
        }
        match (done.pop().as_deref_mut(), open.is_empty()) {
            (Some([folder]), true) => Ok(std::mem::replace(folder, Self { name: Vec::new(), below: Vec::new() })),
            _ => Err(problem()),
        }
    }
}

/// Returns the bytes of an absolute path without the leading slash; `None` for one that leads elsewhere.
fn path_of(text: &str) -> Option<Vec<u8>> {
    let path = unescape(text.strip_prefix('/')?)?;
    (path.is_empty() || path.split(|byte| *byte == b'/').all(is_name)).then_some(path)
}

fn is_name(name: &[u8]) -> bool {
    !matches!(name, b"" | b"." | b"..") && !name.iter().any(|byte| matches!(byte, 0 | b'/'))
}

/// Returns a word for these bytes: text as it is but for what ends a word.
pub(crate) fn escape(bytes: &[u8]) -> String {
    let mut word = String::with_capacity(bytes.len());
    for chunk in bytes.utf8_chunks() {
        for character in chunk.valid().chars() {
            match character {
                ' ' | '%' | '(' | ')' | '=' | '*' => word.push_str(&format!("%{:02x}", u32::from(character))),
                character if character.is_control() || character.is_whitespace() => {
                    let mut buffer = [0; 4];
                    character.encode_utf8(&mut buffer).bytes().for_each(|byte| word.push_str(&format!("%{byte:02x}")));
                }
                character => word.push(character),
            }
        }
        chunk.invalid().iter().for_each(|byte| word.push_str(&format!("%{byte:02x}")));
    }
    word
}

fn unescape(word: &str) -> Option<Vec<u8>> {
    let mut bytes = Vec::with_capacity(word.len());
    let mut rest = word.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        if *first == b'%' {
            let digits = after.get(..2).filter(|digits| digits.iter().all(u8::is_ascii_hexdigit))?;
            let digits = std::str::from_utf8(digits).ok()?;
            bytes.push(u8::from_str_radix(digits, 16).ok()?);
            rest = &after[2..];
        } else {
            bytes.push(*first);
            rest = after;
        }
    }
    Some(bytes)
}

/// Implements what a line needs to be written as a string.
macro_rules! written_as_a_string {
    ($($line:ident: $example:literal),*) => {$(
        impl TryFrom<String> for $line {
            type Error = String;

            fn try_from(line: String) -> Result<Self, String> {
                line.parse()
            }
        }

        impl From<$line> for String {
            fn from(line: $line) -> Self {
                line.to_string()
            }
        }

        impl JsonSchema for $line {
            fn schema_name() -> std::borrow::Cow<'static, str> {
                stringify!($line).into()
            }

            fn json_schema(_: &mut SchemaGenerator) -> Schema {
                json_schema!({ "type": "string", "examples": [$example] })
            }
        }
    )*};
}

written_as_a_string!(LinkLine: "/bin -> usr/bin", DirectoryLine: "/tmp 1777 0:0", FolderLine: "etc(apt cron.daily)");

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn reads_what_it_writes<T: FromStr<Err = String> + fmt::Display + PartialEq + fmt::Debug>(line: &str) {
        let read: T = line.parse().unwrap();
        assert_eq!(read.to_string(), line);
    }

    #[test]
    fn lines_are_read_as_they_are_written() {
        reads_what_it_writes::<LinkLine>("/bin -> usr/bin");
        reads_what_it_writes::<LinkLine>("/a%20b/c%28 -> ../%ff");
        for line in ["/tmp 1777 0:0", "/ 0700 1:2", "/** 0755 5:5", "/opt/conda/** 2775 0:1000 user.a%3db=%00%ff"] {
            reads_what_it_writes::<DirectoryLine>(line);
        }
        for line in ["etc", "etc(apt)", "etc(apt(apt.conf.d auth.conf.d) cron.d)", "usr(lib(a(b(c))) share)"] {
            reads_what_it_writes::<FolderLine>(line);
        }
    }

    #[test]
    fn a_line_that_means_nothing_is_refused() {
        for line in ["", "/bin", "bin -> usr", "/bin -> ", "/.. -> a", "/a//b -> c", "/a%0 -> b", "/a%00 -> b"] {
            assert!(line.parse::<LinkLine>().is_err(), "{line}");
        }
        for line in
            ["", "/tmp", "/tmp 1777", "/tmp 1799 0:0", "/tmp 17777 0:0", "tmp 1777 0:0", "/tmp 1777 0", "/a 0 0:0 b"]
        {
            assert!(line.parse::<DirectoryLine>().is_err(), "{line}");
        }
        for line in ["", "a b", "a(", "a)", "a(b", "(a)", "a(b))", "a(..)", "a/b", "a()(b)"] {
            assert!(line.parse::<FolderLine>().is_err(), "{line}");
        }
        let deep = "a(".repeat(DEEPEST + 2) + "b" + &")".repeat(DEEPEST + 2);
        assert!(deep.parse::<FolderLine>().is_err());
    }
}
