//! Damaged content: after an error that it may have caused, all content that this process opened is read again; on demand, all content.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kiln_plan::digest::Digest;
use serde::Serialize;

use crate::link::Advance;
use crate::recipe::Recipe;
use crate::removal::remove_tree;
use crate::tree::TREES;
use crate::verified::digest_of;
use crate::{BLOBS, RECIPES, Result, Store};

/// Opens a file that can be read to an end: opening a pipe would wait for whoever writes into it.
fn open_regular(path: &Path) -> Option<fs_err::File> {
    fs_err::metadata(path).is_ok_and(|found| found.is_file()).then(|| fs_err::File::open(path).ok())?
}

/// The outcome of a look at everything in a store.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub struct Verified {
    /// Wheels and other files.
    pub blobs: usize,
    /// Recipes of layers.
    pub recipes: usize,
    /// Unpacked layers.
    pub trees: usize,
    /// Damaged files and trees, which are gone. They are fetched or made again when they are needed.
    pub removed: Vec<PathBuf>,
}

impl Store {
    /// Reads all content again that this process opened, and removes what is not what its digest says. Returns the paths
    /// of the removed files.
    pub fn discard_damaged(&self) -> Result<Vec<PathBuf>> {
        let mut suspects: BTreeSet<Digest> = self.opened().clone();
        let recipes: Vec<Recipe> = suspects.iter().filter_map(|digest| self.recipe(digest).ok()).collect();
        suspects.extend(recipes.iter().flat_map(|recipe| &recipe.sources));
        let mut removed = Vec::new();
        for digest in suspects {
            self.discard_if_damaged(&digest, &|_| Ok(()), &mut removed)?;
        }
        Ok(removed)
    }

    /// Reads all content, and looks at all trees; removes what is damaged. `advance` is told of bytes as they are read.
    pub fn verify(&self, advance: Advance<'_>) -> Result<Verified> {
        let mut verified = Verified::default();
        for (directory, count) in [(BLOBS, &mut verified.blobs), (RECIPES, &mut verified.recipes)] {
            for digest in self.names(directory)? {
                *count += 1;
                self.discard_if_damaged(&digest, advance, &mut verified.removed)?;
            }
        }
        for diff_id in self.names(TREES)? {
            verified.trees += 1;
            if !self.is_whole_tree(&diff_id)? {
                let place = self.tree_path(&diff_id);
                remove_tree(&place)?;
                verified.removed.push(place);
            }
        }
        verified.removed.sort();
        verified.removed.dedup();
        Ok(verified)
    }

    fn discard_if_damaged(&self, digest: &Digest, advance: Advance<'_>, removed: &mut Vec<PathBuf>) -> Result<()> {
        let (blob, recipe) = (self.blob_path(digest), self.recipe_path(digest));
        if let Some(file) = open_regular(&blob)
            && digest_of(file, advance)? != *digest
        {
            self.discard(&blob)?;
            removed.push(blob);
        }
        if let Some(file) = open_regular(&recipe)
            && !Recipe::is_intact(&file)?
        {
            self.discard(&recipe)?;
            removed.push(recipe);
        }
        Ok(())
    }

    /// Returns the digests by which a directory holds something.
    fn names(&self, directory: &str) -> Result<Vec<Digest>> {
        let mut names = Vec::new();
        for entry in fs_err::read_dir(self.root().join(directory))? {
            names.extend(Digest::from_hex(&entry?.file_name().to_string_lossy()));
        }
        names.sort();
        Ok(names)
    }
}
