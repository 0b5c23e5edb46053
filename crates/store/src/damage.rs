//! Damaged content: after an error that it may have caused, all content that this process opened is read again.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kiln_plan::digest::Digest;

use crate::recipe::Recipe;
use crate::verified::digest_of;
use crate::{Result, Store};

/// Opens a file that can be read to an end: opening a pipe would wait for whoever writes into it.
fn open_regular(path: &Path) -> Option<fs_err::File> {
    fs_err::metadata(path).is_ok_and(|found| found.is_file()).then(|| fs_err::File::open(path).ok())?
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
            let (blob, recipe) = (self.blob_path(&digest), self.recipe_path(&digest));
            if let Some(file) = open_regular(&blob)
                && digest_of(file, &|_| Ok(()))? != digest
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
        }
        Ok(removed)
    }
}
