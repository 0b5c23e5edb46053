//! `kiln du`

use clap::Args;
use kiln_plan::event::Cancel;
use kiln_plan::size;
use serde_json::json;

use super::{Outcome, open_store, print, print_json, table};
use crate::arguments::Global;
use crate::progress::Terminal;

/// Say what the store takes up
#[derive(Debug, Args)]
pub(crate) struct Du {}

impl Du {
    pub(crate) fn run(&self, global: &Global, cancel: &Cancel) -> Outcome {
        let store = open_store(global, cancel, &Terminal::new(global))?;
        let usage = store.usage()?;
        if global.json {
            return print_json(&json!({ "store": store.root(), "usage": usage }));
        }
        let row =
            |what: &str, bytes: u64, note: String| vec![what.to_owned(), format!("{:>9}", size::format(bytes)), note];
        let rows = [
            row("wheels and other files", usage.blobs, format!("{}", usage.blob_count)),
            row(
                "recipes of layers",
                usage.recipes,
                format!("{}, for {} of layers", usage.recipe_count, size::format(usage.spliced)),
            ),
            row("unpacked layers", usage.trees, format!("{}", usage.tree_count)),
            row("caches of commands", usage.caches, format!("{}", usage.cache_count)),
            row("other", usage.other, "programs, interrupted downloads, database".into()),
        ];
        print(&format!("{}\n{}", store.root().display(), table(&rows)))
    }
}
