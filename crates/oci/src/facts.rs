//! Base facts, extracted by streaming the layers of a base: nothing is unpacked, and nobody needs the bytes again.
//!
//! Layers are given bottom first. A layer on top replaces or takes away what layers below hold, and symbolic links
//! decide where a file really lies: on a merged `/usr`, `/bin/python3` and `/usr/bin/python3` are one file, and a layer
//! may write to either. So a picture of the file system is kept, of directories, links and files of interest.
//!
//! Everything here comes from a registry: reads and memory are bounded, and what makes no sense is an error or no fact.

mod contents;
mod directories;
pub(crate) mod entries;
mod files;
mod programs;
mod report;
#[cfg(test)]
mod tests;

use std::io::Read;

use kiln_picture::Picture;
use kiln_plan::base::{Attributes, BaseFacts};

use contents::{Content, ContentError, Interest};
pub use entries::{Entries, Member, TarError};
pub use files::Files;

/// What may be held of one base: far above what real ones need, far below what hurts.
const MAX_HELD: usize = 256 * 1024 * 1024;
/// Bytes that one node of the picture takes beyond its name, roughly.
const NODE_COST: usize = 240;

/// The content of a base: every directory and link, and files of interest.
type Held = Picture<Attributes, Content>;

/// A layer that facts cannot be read from. Layers count from 1, the lowest.
#[derive(Debug, thiserror::Error)]
pub enum FactsError {
    /// The layer is no sound tar.
    #[error("layer {layer} cannot be read")]
    Archive {
        /// Which layer.
        layer: usize,
        /// What is wrong.
        source: TarError,
    },
    /// A configuration file of absurd size.
    #[error("`/{path}` of layer {layer} is too large to be what its name says")]
    TooLarge {
        /// Which layer.
        layer: usize,
        /// Which file.
        path: String,
    },
    /// More links and files of interest than any base has.
    #[error("layer {layer} holds more links and metadata than {MAX_HELD} bytes")]
    TooMuch {
        /// Which layer.
        layer: usize,
    },
}

/// Collects facts from the layers of a base, or its files in some directories.
#[derive(Debug)]
pub struct FactsReader {
    held: Held,
    /// Files that are looked for, rather than facts.
    wanted: Option<files::Wanted>,
    layers: usize,
    /// `PATH` of the base's configuration.
    path: Option<String>,
    /// Bytes of names and content that were ever held; what is replaced still counts, which keeps the bound simple.
    bytes: usize,
}

impl Default for FactsReader {
    fn default() -> Self {
        Self::new()
    }
}

impl FactsReader {
    /// Returns a reader that has seen no layer: the facts of `scratch`.
    pub fn new() -> Self {
        Self { held: Held::new(), wanted: None, layers: 0, path: None, bytes: 0 }
    }

    /// Returns a reader that looks for files below directories, and for the text of others. Paths without links and without a leading
    /// slash.
    pub fn of_files(directories: Vec<String>, texts: Vec<String>) -> Self {
        Self { wanted: Some(files::Wanted::new(directories, texts)), ..Self::new() }
    }

    /// Looks for programs in the directories of a `PATH`.
    #[must_use]
    pub fn with_path(self, path: Option<&str>) -> Self {
        Self { path: path.map(str::to_owned), ..self }
    }

    /// Reads the next layer upwards, an *uncompressed* tar stream (see [`crate::compression::decompress`]), to its end.
    pub fn layer(&mut self, tar: impl Read) -> Result<(), FactsError> {
        self.layers += 1;
        let layer = self.layers;
        let archive = |source| FactsError::Archive { layer, source };
        self.held.next_layer();
        let mut entries = Entries::new(tar);
        while let Some(member) = entries.next_member().map_err(archive)? {
            self.member(&member, &mut entries)?;
            if self.held.size().saturating_mul(NODE_COST).saturating_add(self.bytes) > MAX_HELD {
                return Err(FactsError::TooMuch { layer });
            }
        }
        entries.drain().map_err(archive)
    }

    /// What all layers together say.
    pub fn finish(self) -> BaseFacts {
        report::report(&self.held, self.path)
    }

    /// Returns the files that all layers together have.
    pub fn finish_files(self) -> Files {
        Files(self.held)
    }

    fn interest(&self, path: &[u8]) -> Option<Interest> {
        match &self.wanted {
            Some(wanted) => wanted.interest(path),
            None => Interest::in_path(path),
        }
    }

    fn member(&mut self, member: &Member, data: &mut Entries<impl Read>) -> Result<(), FactsError> {
        let end = member.path.iter().rposition(|byte| *byte != b'/').map_or(0, |last| last + 1);
        let written = member.path.get(..end).unwrap_or_default();
        let (folder, name) = match written.iter().rposition(|byte| *byte == b'/') {
            Some(slash) => (written.get(..slash).unwrap_or_default(), written.get(slash + 1..).unwrap_or_default()),
            None => (b"".as_slice(), written),
        };
        if let Some(hidden) = name.strip_prefix(b".wh.") {
            self.whiteout(folder, hidden);
            return Ok(());
        }
        self.bytes = self.bytes.saturating_add(written.len() + member.link.len());
        let kind = member.kind;
        if kind.is_dir() {
            let attributes = member.attributes();
            self.bytes = self.bytes.saturating_add(attributes.xattrs.iter().map(|(n, v)| n.len() + v.len()).sum());
            self.held.put_directory(written, attributes);
        } else if kind.is_symlink() {
            self.held.put_symlink(written, &member.link);
        } else if let Some(path) = self.held.landing(written) {
            let content = match kind.is_hard_link() {
                true => self.hard_link(&path, &member.link),
                false => self.file(&path, member, data)?,
            };
            match content {
                Some(content) => {
                    self.bytes = self.bytes.saturating_add(content.cost());
                    self.held.put_file(written, content);
                }
                None => self.held.remove(written),
            }
        }
        Ok(())
    }

    fn whiteout(&mut self, folder: &[u8], hidden: &[u8]) {
        if hidden == b".wh..opq" {
            self.held.opaque(folder);
        } else if !matches!(hidden, b"" | b"." | b"..") {
            // Others of the form `.wh..wh.NAME` are AUFS's own files, and hide nothing that could be here.
            self.held.whiteout(&[folder, b"/", hidden].concat());
        }
    }

    /// A hard link is its target; where the target was of no interest, its existence is what is left to know.
    fn hard_link(&self, path: &[u8], target: &[u8]) -> Option<Content> {
        if self.interest(path).is_none() && !programs::may_hold(self.path.as_deref(), path) {
            return None;
        }
        let target = self.held.entry(target).and_then(|target| self.held.file_of(target));
        Some(target.cloned().unwrap_or(Content::Presence))
    }

    fn file(&self, path: &[u8], member: &Member, data: &mut Entries<impl Read>) -> Result<Option<Content>, FactsError> {
        let Some(interest) = self.interest(path) else {
            return Ok(programs::may_hold(self.path.as_deref(), path).then_some(Content::Presence));
        };
        let is_regular = member.kind.is_file() || member.kind.is_contiguous();
        if member.sparse || !is_regular {
            return Ok(None);
        }
        let layer = self.layers;
        match interest.read(&mut *data) {
            Ok(Content::Skeleton(_, text)) => Ok(Some(Content::Skeleton(member.mode, text))),
            Ok(Content::Account(_, text)) => Ok(Some(Content::Account(member.attributes(), text))),
            Ok(content) => Ok(Some(content)),
            Err(ContentError::Read(error)) => Err(FactsError::Archive { layer, source: data.failed(error) }),
            Err(ContentError::TooLarge) => {
                Err(FactsError::TooLarge { layer, path: String::from_utf8_lossy(path).into_owned() })
            }
        }
    }
}
