//! Layers as directories, for steps that run programs.

use std::io::BufReader;
use std::path::PathBuf;

use kiln_oci::compression::LayerTar;
use kiln_oci::layer::Layer;
use kiln_plan::digest::Digest;
use kiln_sandbox::Ids;

use super::Workshop;
use crate::error::{BuildError, Result};
use crate::inside;

impl Workshop<'_> {
    /// Returns the tree of a layer: the one of the store, or one that is made now of bytes from wherever they are.
    pub(crate) fn tree(&self, layer: &Layer) -> Result<PathBuf> {
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
        if let Some(tree) = self.store.tree(id, &ids.to_string())? {
            return Ok(tree);
        }
        let unreadable = |source| BuildError::Unreadable { what: format!("the layer {}", layer.digest), source };
        let work = self.work("unpack", layer.digest.short(), None);
        self.store.add_tree(id, &ids.to_string(), |tree| {
            let blob = self.open_anywhere(&layer.digest, layer.size)?;
            let mut tar = LayerTar::open(layer, blob)?;
            let mut watch = |bytes| work.advance(bytes).map_err(std::io::Error::from);
            let done = inside::unpack(ids, BufReader::with_capacity(1 << 20, &mut tar), tree, &mut watch);
            self.cancel.check()?;
            done.map_err(|error| unreadable(error.into()))?;
            tar.verify().map_err(|error| unreadable(error.into()))
        })
    }
}
