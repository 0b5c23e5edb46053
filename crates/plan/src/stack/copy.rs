//! Files that an image copies: from the project, from another image, from a repository of git, from an address.

use std::fmt;

use url::Url;

use super::image::{Owner, Remote};
use crate::diagnostic::Span;
use crate::digest::Digest;
use crate::reference::Reference;

/// Files that an image copies.
#[derive(Debug, Clone)]
pub struct Copy {
    /// The place outside of the project that they come from.
    pub elsewhere: Option<Elsewhere>,
    /// The sources, at least one; exactly one from outside of the project.
    pub from: Vec<Source>,
    /// Sources keep their names in `to`, which is a directory: they were written as a list or as a pattern.
    pub keeps_names: bool,
    /// Absolute path in the image.
    pub to: String,
    /// Patterns of files that are left out.
    pub exclude: Vec<Pattern>,
    /// A file with such patterns.
    pub ignore_file: Option<String>,
    /// Owner of the files.
    pub owner: Owner,
    /// The place of `owner`.
    pub owner_span: Option<Span>,
    /// Mode of files.
    pub mode: Option<u32>,
}

impl Copy {
    /// Returns the sources as written, with commas between.
    pub fn shown(&self) -> String {
        let paths = self.from.iter().map(|source| source.path.as_str()).collect::<Vec<_>>().join(", ");
        match &self.elsewhere {
            None => paths,
            Some(elsewhere) if paths.is_empty() => elsewhere.to_string(),
            Some(elsewhere @ (Elsewhere::Image(_) | Elsewhere::Reference(_))) => format!("/{paths} of {elsewhere}"),
            Some(elsewhere) => format!("{paths} of {elsewhere}"),
        }
    }

    /// Returns the place of the sources in the stack file.
    pub fn span(&self) -> Span {
        let start = self.from.iter().map(|source| source.span.start).min().unwrap_or(0);
        start..self.from.iter().map(|source| source.span.end).max().unwrap_or(start)
    }
}

/// A place outside of the project that files are copied from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Elsewhere {
    /// Another image of the stack.
    Image(String),
    /// An image on a registry.
    Reference(Reference),
    /// A repository of git.
    Git(Checkout),
    /// An address.
    Url(Download),
}

impl Elsewhere {
    /// Returns the place as locks name it; `None` for images.
    pub fn remote(&self) -> Option<Remote> {
        match self {
            Self::Image(_) | Self::Reference(_) => None,
            Self::Git(Checkout { url, rev, .. }) => Some(Remote::Git { url: url.clone(), rev: rev.clone() }),
            Self::Url(download) => Some(Remote::Url(download.url.clone())),
        }
    }
}

impl fmt::Display for Elsewhere {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Image(name) => f.write_str(name),
            Self::Reference(reference) => reference.fmt(f),
            Self::Git(Checkout { url, rev, .. }) => write!(f, "{url} at {rev}"),
            Self::Url(download) => download.url.fmt(f),
        }
    }
}

/// The files of a commit.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Checkout {
    /// Address of the repository, without a password.
    pub url: String,
    /// A branch, a tag or a commit; `HEAD` for the repository's own branch.
    pub rev: String,
    /// The repositories that it contains are checked out, too.
    pub submodules: bool,
    /// Files that Git LFS keeps are fetched.
    pub lfs: bool,
    /// The directory `.git` stays.
    pub keep_git: bool,
    /// Patches of the project that are applied, in their order.
    pub patches: Vec<Source>,
    /// Leading components of paths that are left out.
    pub strip: u32,
}

/// A file that is downloaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Download {
    /// Its address, without a password.
    pub url: Url,
    /// Its digest; `None` where the lock has it.
    pub sha256: Option<Digest>,
    /// It is an archive that is unpacked.
    pub unpack: bool,
    /// Leading components of paths in the archive that are left out.
    pub strip: u32,
}

impl Download {
    /// Returns the name of the file: the last component of the address.
    pub fn file_name(&self) -> String {
        let last = self.url.path_segments().and_then(|mut segments| segments.next_back()).unwrap_or_default();
        let name = percent_decode(last);
        if matches!(name.as_str(), "" | "." | "..") || name.contains(['/', '\0']) { "download".into() } else { name }
    }
}

/// Returns a component of an address as text (RFC 3986, 2.1); one that is none stays as it is.
fn percent_decode(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, after @ ..] = rest {
        let digits = after.get(..2).and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.filter(|_| *first == b'%').and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(byte) => {
                bytes.push(byte);
                rest = &after[2..];
            }
            None => {
                bytes.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8(bytes).unwrap_or_else(|_| text.to_owned())
}

/// A pattern of files that a copy leaves out, and its place.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pattern {
    /// As in `.gitignore`.
    pub text: String,
    /// Its place in the stack file.
    pub span: Span,
}

/// A file or directory, or a pattern of some.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Source {
    /// Relative to the stack file, inside its directory; with a final `/` the content of a directory. Outside of the project:
    /// relative to the root of the place, empty for all of it.
    pub path: String,
    /// Its place in the stack file.
    pub span: Span,
}

impl Source {
    /// Returns true for a pattern.
    pub fn is_pattern(&self) -> bool {
        self.path.contains(['*', '?', '['])
    }
}
