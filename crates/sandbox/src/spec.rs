//! The description of a sandbox.

use std::collections::BTreeMap;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};

use crate::given::Given;
use crate::ids::Ids;

/// A command and its surroundings.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Command {
    /// The program, by its path or by its name on `PATH`, and its arguments. Without words nothing starts: the sandbox is tried.
    pub words: Vec<String>,
    /// The whole environment.
    pub env: Vec<(String, String)>,
    /// Absolute path of the directory that it starts in.
    pub workdir: String,
    /// User id, group id and further groups, in the image.
    pub user: (u32, u32, Vec<u32>),
    /// Things that it has besides the files of the image.
    pub given: Given,
}

/// Names in the directory of a command.
pub(crate) const UPPER: &str = "upper";
pub(crate) const COPIES: &str = "copies";

/// The file system of a command.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Root {
    /// Trees of layers, the lowest first; at most 490.
    pub layers: Vec<PathBuf>,
    /// Owners, in the image, of links and other files of the layers that can have no attribute ([`OWNER`](crate::OWNER)), by path
    /// without a leading slash. They count for a user with one id.
    pub owners_below: BTreeMap<String, (u32, u32)>,
    /// A directory for this command alone. What the command changes is left in its `upper` ([`Root::upper`]).
    pub directory: PathBuf,
}

impl Root {
    /// Returns the directory of the changes, in the form of an overlay with `userxattr` (overlayfs, kernel documentation): a
    /// character device 0:0 hides a path, `user.overlay.opaque` hides what lies below a directory. Where layers were copied, it has the
    /// form of a layer: files `.wh.NAME` and `.wh..wh..opq` do that.
    pub fn upper(&self) -> PathBuf {
        self.directory.join(UPPER)
    }

    pub(crate) fn work(&self) -> PathBuf {
        self.directory.join("work")
    }

    /// Returns the directory that holds everything, where layers are copied.
    pub(crate) fn copies(&self) -> PathBuf {
        self.directory.join(COPIES)
    }

    /// Returns the file in which the helper leaves what it knows of owners.
    pub(crate) fn owners(&self) -> PathBuf {
        self.directory.join("owners")
    }

    pub(crate) fn place(&self) -> PathBuf {
        self.directory.join("root")
    }
}

/// The way in which layers are laid over one another.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum Overlay {
    /// By `fsopen(2)`, else by `mount(2)`, else as copies.
    #[default]
    Any,
    /// By `mount(2)`, as kernels before 6.7 need it: its options end at a page.
    Mount,
    /// As copies in one directory, where overlays cannot be mounted: what changed is found by comparison.
    Copies,
}

/// Everything that the helper must know.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Spec {
    pub(crate) root: Root,
    pub(crate) command: Command,
    pub(crate) overlay: Overlay,
    pub(crate) ids: Ids,
    /// Standard error is a terminal, which becomes the command's input and output too.
    pub(crate) terminal: bool,
    /// Processes that may be there at once.
    pub(crate) processes: u32,
}
