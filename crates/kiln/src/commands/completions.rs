//! `kiln completions`

use clap::{Args, CommandFactory};
use clap_complete::Shell;

use super::{Arguments, Outcome, print};

/// Print a completion script for a shell
#[derive(Debug, Args)]
pub(crate) struct Completions {
    /// For which shell
    shell: Shell,
}

impl Completions {
    pub(crate) fn run(&self) -> Outcome {
        let mut script = Vec::new();
        clap_complete::generate(self.shell, &mut Arguments::command(), "kiln", &mut script);
        print(&String::from_utf8_lossy(&script))
    }
}
