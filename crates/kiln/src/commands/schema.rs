//! `kiln schema`

use clap::Args;

use super::{Outcome, print_json};

/// Print the JSON schema of the stack file, for editors
#[derive(Debug, Args)]
pub(crate) struct SchemaCommand {}

impl SchemaCommand {
    pub(crate) fn run(&self) -> Outcome {
        print_json(&kiln_plan::stack::schema())
    }
}
