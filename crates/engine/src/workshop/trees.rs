//! Layers as directories, for steps that run programs.

use std::io::BufReader;
use std::path::PathBuf;

use kiln_oci::compression::LayerTar;
use kiln_oci::layer::Layer;
use kiln_sandbox::Ids;

use super::Workshop;
use crate::error::{BuildError, Result};
use crate::inside;

impl Workshop<'_> {
    /// Returns the tree of a layer: the one of the store, or one that is made now of bytes from wherever they are.
    pub(crate) fn tree(&self, layer: &Layer) -> Result<PathBuf> {
        let ids = Ids::of_this_process();
        if let Some(tree) = self.store.tree(&layer.diff_id, &ids.to_string())? {
            return Ok(tree);
        }
        let unreadable = |source| BuildError::Unreadable { what: format!("the layer {}", layer.digest), source };
        let work = self.work("unpack", layer.digest.short(), None);
        self.store.add_tree(&layer.diff_id, &ids.to_string(), |tree| {
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
