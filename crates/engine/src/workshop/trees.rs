//! Layers as directories, for steps that run programs.

use std::collections::BTreeMap;
use std::io::{BufReader, Read};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Mutex, PoisonError};

use kiln_oci::compression::LayerTar;
use kiln_oci::layer::Layer;
use kiln_oci::names;
use kiln_oci::tree::Others;
use kiln_plan::digest::Digest;
use kiln_plan::event::Work;
use kiln_sandbox::Ids;
use kiln_store::OWNERS;

use super::Workshop;
use crate::error::{BuildError, Result};
use crate::inside;

impl Workshop<'_> {
    /// Returns the trees of layers, in their order. Those that are not here are made, several at once and the largest first.
    pub(crate) fn trees(&self, layers: &[&Layer]) -> Result<Vec<PathBuf>> {
        let mut order: Vec<usize> = (0..layers.len()).collect();
        order.sort_by_key(|at| std::cmp::Reverse(layers[*at].size));
        let (next, made) = (AtomicUsize::new(0), Mutex::new(Vec::new()));
        let work = || {
            while let Some(at) = order.get(next.fetch_add(1, Ordering::Relaxed)) {
                let tree = self.tree(layers[*at]);
                let failed = tree.is_err();
                made.lock().unwrap_or_else(PoisonError::into_inner).push((*at, tree));
                if failed {
                    // Nobody begins another one.
                    next.store(order.len(), Ordering::Relaxed);
                }
            }
        };
        std::thread::scope(|scope| {
            (1..self.surroundings.jobs.min(layers.len())).for_each(|_| drop(scope.spawn(work)));
            work();
        });
        let mut made = made.into_inner().unwrap_or_else(PoisonError::into_inner);
        made.sort_by_key(|(at, _)| *at);
        made.into_iter().map(|(_, tree)| tree).collect()
    }

    /// Returns the tree of a layer: the one of the store, or one that is made now of bytes from wherever they are.
    fn tree(&self, layer: &Layer) -> Result<PathBuf> {
        self.tree_as(layer, &layer.diff_id, Ids::of_this_process())
    }

    /// Returns a tree of a layer in which this process can read everything: a user with a range of ids has another for commands.
    pub(crate) fn readable_tree(&self, layer: &Layer) -> Result<PathBuf> {
        match Ids::of_this_process() {
            Ids::Range(..) => self.tree_as(layer, &Digest::of(format!("noted {}", layer.diff_id).as_bytes()), Ids::One),
            ids => self.tree_as(layer, &layer.diff_id, ids),
        }
    }

    fn tree_as(&self, layer: &Layer, id: &Digest, ids: Ids) -> Result<PathBuf> {
        let kept = match ids {
            Ids::One => "one, and links have owners".to_owned(),
            ids => ids.to_string(),
        };
        if let Some(tree) = self.store.tree(id, &kept)? {
            return Ok(tree);
        }
        let unreadable = |source| BuildError::Unreadable { what: format!("the layer {}", layer.digest), source };
        let work = self.work("unpack", layer.digest.short(), None);
        self.store.add_tree(id, &kept, |tree| {
            let blob = self.open_anywhere(&layer.digest, layer.size)?;
            let mut tar = LayerTar::open(layer, blob)?;
            self.unpack_tree(ids, &mut tar, tree, &work).map_err(|error| unreadable(error.into()))?;
            tar.verify().map_err(|error| unreadable(error.into()))
        })
    }
}

impl Workshop<'_> {
    /// Unpacks a tar into an empty directory, which commands can stand on.
    pub(crate) fn unpack_tree(&self, ids: Ids, tar: impl Read, tree: &Path, work: &Work<'_>) -> Result<()> {
        let mut watch = |bytes| work.advance(bytes).map_err(std::io::Error::from);
        let done = inside::unpack(ids, BufReader::with_capacity(1 << 20, tar), tree, &mut watch);
        self.cancel.check()?;
        write_others(tree, &done?)
    }
}

fn write_others(tree: &Path, others: &Others) -> Result<()> {
    let others: Vec<_> = others.iter().filter_map(|(path, owner)| Some((names::text(path)?, owner))).collect();
    if others.is_empty() {
        return Ok(());
    }
    let text = serde_json::to_vec(&others).map_err(|source| BuildError::Json { what: "owners", source })?;
    Ok(fs_err::write(tree.with_file_name(OWNERS), text)?)
}

/// Returns the owners of files of a tree that can have no attribute.
pub(crate) fn others_of(tree: &Path) -> Result<Others> {
    let text = match fs_err::read(tree.with_file_name(OWNERS)) {
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(Others::new()),
        text => text?,
    };
    let others: Vec<(String, (u32, u32))> =
        serde_json::from_slice(&text).map_err(|source| BuildError::Json { what: "owners", source })?;
    Ok(others.into_iter().map(|(path, owner)| (names::bytes(&path), owner)).collect())
}

/// Returns such owners of trees over one another, the lowest first, by path. Paths that are not UTF-8 are left out.
pub(crate) fn owners_of(trees: &[PathBuf]) -> Result<BTreeMap<String, (u32, u32)>> {
    let mut all: BTreeMap<String, (u32, u32)> = BTreeMap::new();
    for tree in trees {
        all.retain(|path, _| fs_err::symlink_metadata(tree.join(path)).is_err());
        all.extend(
            others_of(tree)?.into_iter().filter_map(|(path, owner)| Some((String::from_utf8(path).ok()?, owner))),
        );
    }
    Ok(all)
}
