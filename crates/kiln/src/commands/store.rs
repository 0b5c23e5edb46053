//! `kiln store`

use std::process::ExitCode;

use clap::{Args, Subcommand};
use kiln_plan::event::{Cancel, Work};
use serde_json::json;

use super::{Outcome, count, open_store, print, print_json};
use crate::arguments::Global;
use crate::progress::Terminal;

/// Look after what the store holds
#[derive(Debug, Args)]
pub(crate) struct StoreCommand {
    #[command(subcommand)]
    command: StoreSubcommand,
}

#[derive(Debug, Subcommand)]
enum StoreSubcommand {
    /// Read everything, and remove what is damaged: it is fetched or made again when it is needed
    Verify {},
}

impl StoreCommand {
    pub(crate) fn run(&self, global: &Global, cancel: &Cancel) -> Outcome {
        let StoreSubcommand::Verify {} = self.command;
        let terminal = Terminal::new(global);
        let store = open_store(global, cancel, &terminal)?;
        let usage = store.usage()?;
        let work = Work::start(&terminal, cancel, "verify", "the store", Some(usage.blobs));
        let verified = store.verify(&|bytes| work.advance(bytes).map_err(std::io::Error::from))?;
        drop(work);
        let status = if verified.removed.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE };
        if global.json {
            return print_json(&json!({ "store": store.root(), "verified": verified })).map(|_| status);
        }
        let removed: String =
            verified.removed.iter().map(|path| format!("damaged, removed: {}\n", path.display())).collect();
        let all = [(verified.blobs, "file"), (verified.recipes, "recipe"), (verified.trees, "unpacked layer")];
        let all: Vec<String> = all.iter().map(|(number, what)| count(*number, what)).collect();
        print(&format!("{removed}{} read, {} damaged\n", all.join(", "), verified.removed.len())).map(|_| status)
    }
}
