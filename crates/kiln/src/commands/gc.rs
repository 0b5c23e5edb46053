//! `kiln gc`

use clap::Args;
use kiln_plan::event::Cancel;
use kiln_plan::size;
use kiln_store::Store;
use serde_json::json;

use super::{Outcome, print, print_json, size_value, table, waiting};
use crate::arguments::Global;
use crate::progress::Terminal;
use crate::surroundings::store_directory;

/// Remove what was used least recently from the store; images that say `persist` and stacks whose lock is there stay
#[derive(Debug, Args)]
pub(crate) struct Gc {
    /// Bytes that may stay besides what must, such as `20GB`
    #[arg(long, value_name = "SIZE", default_value = "0", value_parser = size_value)]
    keep_storage: u64,
    /// Also what stacks need whose lock is there
    #[arg(long)]
    all: bool,
}

impl Gc {
    pub(crate) fn run(&self, global: &Global, cancel: &Cancel) -> Outcome {
        let terminal = Terminal::new(global);
        let mut waiting = waiting(cancel, &terminal, "other kilns use it");
        let report = Store::collect_garbage(&store_directory(global)?, self.keep_storage, self.all, &mut waiting)?;
        if global.json {
            return print_json(&json!(report));
        }
        let removed = report.removed.iter().map(|removed| {
            vec!["removed".into(), removed.digest.short(), size::format(removed.size), removed.reason.clone()]
        });
        let kept =
            report.kept.iter().map(|kept| vec!["kept".into(), kept.image.clone(), String::new(), kept.reason.clone()]);
        let rows: Vec<Vec<String>> = removed.chain(kept).collect();
        let freed = size::format(report.before - report.after);
        print(&format!("{}{freed} freed, {} left\n", table(&rows), size::format(report.after)))
    }
}
