//! Places outside of the project that images copy from: layers of images, commits, downloads.
//!
//! Each is a [`Tree`], whose identity is its JSON: a digest, and nothing that depends on where it was found. A tree is made when its
//! files are needed, kept in the store by its identity, and listed once ([`crate::steps::list`]); lists are shared, so that a
//! machine with a cache learns what a copy takes without fetching anything.

mod archive;
mod checkout;

use std::cell::OnceCell;
use std::fmt;
use std::path::{Path, PathBuf};

use kiln_oci::layer::Layer;
use kiln_oci::names;
use kiln_oci::tree::{Listed, ListedKind, Owners, list, readable};
use kiln_plan::digest::Digest;
use kiln_plan::parallel;
use kiln_sandbox::Ids;
use serde::Serialize;
use url::Url;

pub(crate) use checkout::{Checkout, Patch};

use crate::error::{BuildError, FetchError, Result};
use crate::fetch::Wanted;
use crate::workshop::{Workshop, others_of};

/// Raised when the same source would give another tree.
const VERSION: u32 = 1;

/// A tree that files are copied from.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "kebab-case")]
pub(crate) enum Tree {
    /// A layer of an image, by its diff id.
    Layer(Digest, #[serde(skip)] Layer),
    /// The files of a commit.
    Checkout(Checkout),
    /// A file, whose path in the tree is empty.
    File(Download),
    /// The content of an archive.
    Archive(Download),
}

impl fmt::Display for Tree {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Layer(_, layer) => write!(f, "layer {}", layer.digest.short()),
            Self::Checkout(checkout) => write!(f, "{} at {}", checkout.url, checkout.commit),
            Self::File(download) | Self::Archive(download) => f.write_str(&download.file),
        }
    }
}

/// A file at an address.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Download {
    pub(crate) sha256: Digest,
    /// Its name, for messages.
    #[serde(skip)]
    pub(crate) file: String,
    #[serde(skip)]
    pub(crate) url: Url,
}

impl Tree {
    /// Returns the digest by which the store keeps it.
    fn id(&self) -> Result<Digest> {
        match self {
            Self::Layer(diff_id, _) => Ok(*diff_id),
            other => {
                let json = serde_json::to_vec(&(VERSION, other));
                Ok(Digest::of(&json.map_err(|source| BuildError::Json { what: "a source", source })?))
            }
        }
    }
}

impl Workshop<'_> {
    /// Returns the directory of a tree, which is made if it is not here.
    fn directory_of(&self, tree: &Tree) -> Result<PathBuf> {
        if let Tree::Layer(_, layer) = tree {
            return self.readable_tree(layer);
        }
        let (id, ids) = (tree.id()?, ids().to_string());
        if let Some(directory) = self.store.tree(&id, &ids)? {
            return Ok(directory);
        }
        self.store.add_tree(&id, &ids, |directory| match tree {
            Tree::Checkout(checkout) => checkout.fill(self, directory),
            Tree::Archive(download) => self.unpack_archive(download, directory),
            Tree::Layer(..) | Tree::File(_) => Err(BuildError::Unreachable("a tree of one file".into())),
        })
    }

    /// Lists a tree, with the BLAKE3 of each file.
    pub(crate) fn listing(&self, tree: &Tree) -> Result<Vec<Listed>> {
        if let Tree::File(download) = tree {
            let file = self.open_download(download)?;
            let kind = ListedKind::File(file.metadata()?.len(), digest(self, file)?);
            return Ok(vec![Listed {
                path: String::new(),
                mode: 0o644,
                owner: (0, 0),
                xattrs: Vec::new(),
                time: 0,
                kind,
            }]);
        }
        let directory = self.directory_of(tree)?;
        let listed = list(&directory, owners(), &others_of(&directory)?)?;
        parallel::each(&listed, self.surroundings.jobs, |one| {
            let mut one = one.clone();
            if let ListedKind::File(_, found) = &mut one.kind {
                let place = directory.join(native(&one.path));
                *found = digest(self, readable(&place, |place| fs_err::File::open(place))?)?;
            }
            match tree {
                Tree::Layer(..) => {}
                // Owners in archives are those of whoever packed them, and nobody else gets their rights.
                Tree::Archive(_) | Tree::File(_) => {
                    one.owner = (0, 0);
                    if matches!(one.kind, ListedKind::File(..)) {
                        one.mode &= 0o1777;
                    }
                }
                Tree::Checkout(_) => checkout::normalise(&mut one),
            }
            Ok(one)
        })
    }

    /// Opens a download, which is fetched if it is not here.
    fn open_download(&self, download: &Download) -> Result<fs_err::File> {
        let Download { sha256, file, url } = download.clone();
        if !self.store.has_blob(&sha256) {
            if self.surroundings.offline {
                return Err(FetchError::Offline(file).into());
            }
            self.download(&Wanted { file, url, digest: sha256, size: None })?;
        }
        Ok(self.store.open_blob(&sha256)?)
    }
}

/// Trees that files are read from: each is made, and found to be whole, when its first file is.
pub(crate) struct Opened<'t> {
    trees: &'t [Tree],
    directories: Vec<OnceCell<PathBuf>>,
}

impl<'t> Opened<'t> {
    pub(crate) fn new(trees: &'t [Tree]) -> Self {
        Self { trees, directories: trees.iter().map(|_| OnceCell::new()).collect() }
    }

    /// Opens a file of a tree by its path there; `None` if there is no such tree.
    pub(crate) fn open(&self, workshop: &Workshop<'_>, tree: usize, path: &Path) -> Result<Option<fs_err::File>> {
        let Some((tree, directory)) = self.trees.get(tree).zip(self.directories.get(tree)) else { return Ok(None) };
        if let Tree::File(download) = tree {
            return workshop.open_download(download).map(Some);
        }
        let directory = match directory.get() {
            Some(directory) => directory,
            None => {
                let made = workshop.directory_of(tree)?;
                directory.get_or_init(|| made)
            }
        };
        Ok(Some(readable(&directory.join(path), kiln_store::open_regular)?))
    }
}

/// Returns the ids by which trees of sources are kept: this process reads all of them without a namespace.
fn ids() -> Ids {
    match Ids::of_this_process() {
        Ids::All => Ids::All,
        Ids::One | Ids::Range(..) => Ids::One,
    }
}

/// Returns the place where trees of sources have owners.
fn owners() -> Owners {
    match ids() {
        Ids::All => Owners::Given,
        Ids::One | Ids::Range(..) => Owners::Noted,
    }
}

/// Returns the path that a text of [`kiln_oci::names`] stands for.
pub(crate) fn native(path: &str) -> PathBuf {
    use std::os::unix::ffi::OsStringExt as _;
    std::ffi::OsString::from_vec(names::bytes(path)).into()
}

/// Returns the BLAKE3 of a file.
pub(crate) fn digest(workshop: &Workshop<'_>, mut file: fs_err::File) -> Result<String> {
    let mut hasher = blake3::Hasher::new();
    let mut buffer = vec![0; 128 << 10];
    loop {
        workshop.cancel.check()?;
        match std::io::Read::read(&mut file, &mut buffer)? {
            0 => return Ok(hasher.finalize().to_hex().to_string()),
            read => hasher.update(&buffer[..read]),
        };
    }
}
