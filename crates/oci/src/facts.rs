//! Base facts, extracted by streaming the layers of a base: nothing is unpacked, and nobody needs the bytes again.
//!
//! Layers are given bottom first. A layer on top replaces or takes away what layers below hold, and symbolic links
//! decide where a file really lies: on a merged `/usr`, `/bin/python3` and `/usr/bin/python3` are one file, and a layer
//! may write to either. So a small picture of the file system is kept, of links and files of interest alone. As in
//! containerd, a folder that a layer states explicitly replaces a link of that name, while links in the *parents* of an
//! entry are followed.
//!
//! Everything here comes from a registry: reads and memory are bounded, and what makes no sense is an error or no fact.

mod contents;
pub(crate) mod entries;
mod report;
#[cfg(test)]
mod tests;
mod tree;

use std::io::Read;

use kiln_plan::base::BaseFacts;

use contents::{Content, ContentError, Interest};
pub use entries::{Entries, Member, TarError};
use tree::{Held, Tree};

/// What may be held of one base: far above what real ones need, far below what hurts.
const MAX_HELD: usize = 256 * 1024 * 1024;

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

/// Collects facts from the layers of a base.
#[derive(Debug)]
pub struct FactsReader {
    tree: Tree<Content>,
    layers: usize,
}

impl Default for FactsReader {
    fn default() -> Self {
        Self::new()
    }
}

impl FactsReader {
    /// A reader that has seen no layer: the facts of `scratch`.
    pub fn new() -> Self {
        Self { tree: Tree::new(), layers: 0 }
    }

    /// Reads the next layer upwards, an *uncompressed* tar stream (see [`crate::compression::decompress`]), to its end.
    pub fn layer(&mut self, tar: impl Read) -> Result<(), FactsError> {
        self.layers += 1;
        let layer = self.layers;
        let archive = |source| FactsError::Archive { layer, source };
        self.tree.next_layer();
        let mut entries = Entries::new(tar);
        while let Some(member) = entries.next_member().map_err(archive)? {
            self.member(&member, &mut entries)?;
            if self.tree.cost() > MAX_HELD {
                return Err(FactsError::TooMuch { layer });
            }
        }
        entries.drain().map_err(archive)
    }

    /// What all layers together say.
    pub fn finish(self) -> BaseFacts {
        report::report(&self.tree)
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
        let Some(path) = self.tree.landing(written) else {
            return Ok(());
        };
        let kind = member.kind;
        if kind.is_dir() {
            self.tree.folder(&path);
            return Ok(());
        }
        let held = if kind.is_symlink() {
            Some(Held::Symlink(member.link.clone()))
        } else if kind.is_hard_link() {
            self.hard_link(&path, &member.link)
        } else {
            self.file(&path, member, data)?.map(Held::File)
        };
        self.tree.clear(&path);
        if let Some(held) = held {
            let cost = match &held {
                Held::Symlink(target) => target.len(),
                Held::File(content) => content.cost(),
            };
            self.tree.put(path, held, cost);
        }
        Ok(())
    }

    fn whiteout(&mut self, folder: &[u8], hidden: &[u8]) {
        if hidden == b".wh..opq" {
            let folder = self.tree.resolve(folder).unwrap_or_default();
            self.tree.opaque(&folder);
        } else if !matches!(hidden, b"" | b"." | b"..")
            && let Some(path) = self.tree.landing(&[folder, b"/", hidden].concat())
        {
            // Others of the form `.wh..wh.NAME` are AUFS's own files, and hide nothing that could be here.
            self.tree.whiteout(&path);
        }
    }

    /// A hard link is its target; where the target was of no interest, its existence is what is left to know.
    fn hard_link(&self, path: &[u8], target: &[u8]) -> Option<Held<Content>> {
        Interest::in_path(path)?;
        let target = self.tree.landing(target);
        let content = target.and_then(|target| self.tree.file_at(&target)).cloned();
        Some(Held::File(content.unwrap_or(Content::Presence)))
    }

    fn file(&self, path: &[u8], member: &Member, data: &mut Entries<impl Read>) -> Result<Option<Content>, FactsError> {
        let Some(interest) = Interest::in_path(path) else {
            return Ok(None);
        };
        let is_regular = member.kind.is_file() || member.kind.is_contiguous();
        if member.sparse || !is_regular {
            return Ok(None);
        }
        let layer = self.layers;
        match interest.read(&mut *data) {
            Ok(content) => Ok(Some(content)),
            Err(ContentError::Read(error)) => Err(FactsError::Archive { layer, source: data.failed(error) }),
            Err(ContentError::TooLarge) => {
                Err(FactsError::TooLarge { layer, path: String::from_utf8_lossy(path).into_owned() })
            }
        }
    }
}
