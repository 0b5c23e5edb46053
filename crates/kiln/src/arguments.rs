//! Arguments that several commands take.

use std::io::IsTerminal;
use std::path::PathBuf;

use clap::{ArgAction, Args, ValueEnum};

/// Arguments of every command.
#[derive(Debug, Clone, Args)]
#[command(next_help_heading = "Global options")]
pub(crate) struct Global {
    /// The stack file
    #[arg(short = 'f', long, global = true, value_name = "FILE", default_value = "kiln.toml")]
    pub(crate) file: PathBuf,
    /// The store [default: `kiln` in the XDG cache directory]
    #[arg(long, global = true, value_name = "DIR", env = "KILN_STORE", hide_env_values = true)]
    pub(crate) store: Option<PathBuf>,
    /// Threads that work at once [default: one for each processor]
    #[arg(long, global = true, value_name = "N", value_parser = clap::value_parser!(u16).range(1..=1024))]
    pub(crate) jobs: Option<u16>,
    /// Speak plain HTTP to registries, and accept certificates that nobody vouches for
    #[arg(long, global = true)]
    pub(crate) insecure: bool,
    /// Do not use the network
    #[arg(long, global = true)]
    pub(crate) offline: bool,
    /// Print one JSON document on standard output
    #[arg(long, global = true)]
    pub(crate) json: bool,
    /// Say less: errors and results only
    #[arg(short, long, global = true, conflicts_with = "verbose")]
    pub(crate) quiet: bool,
    /// Say more: every retry, and the lines of the programs that kiln runs; twice: every step, request and written file
    /// too, as `KILN_LOG` does (`KILN_LOG=kiln_registry=debug`)
    #[arg(short, long, global = true, action = ArgAction::Count)]
    pub(crate) verbose: u8,
    /// Whether to use colour
    #[arg(long, global = true, value_name = "WHEN", default_value = "auto")]
    pub(crate) color: ColorWhen,
}

/// Whether to use colour.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum ColorWhen {
    /// On a terminal, unless `NO_COLOR` is set
    Auto,
    Always,
    Never,
}

impl Global {
    /// Whether messages are coloured.
    pub(crate) fn color(&self) -> bool {
        match self.color {
            ColorWhen::Always => true,
            ColorWhen::Never => false,
            ColorWhen::Auto => {
                std::io::stderr().is_terminal() && std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
            }
        }
    }
}

/// Arguments of the commands that read the stack.
#[derive(Debug, Clone, Default, Args)]
pub(crate) struct StackOptions {
    /// A variant that the stack declares
    #[arg(long, value_name = "NAME")]
    pub(crate) variant: Option<String>,
    /// Set a variable of the stack
    #[arg(long = "var", value_name = "NAME=VALUE", value_parser = variable)]
    pub(crate) vars: Vec<(String, String)>,
    /// GPUs instead of the stack's: names, generations or capabilities, separated by commas
    #[arg(long, value_name = "GPUS", value_delimiter = ',')]
    pub(crate) gpus: Option<Vec<String>>,
    /// Platforms instead of the stack's, separated by commas
    #[arg(long, value_name = "PLATFORMS", value_delimiter = ',')]
    pub(crate) platform: Option<Vec<String>>,
}

fn variable(text: &str) -> Result<(String, String), String> {
    let (name, value) = text.split_once('=').ok_or("write NAME=VALUE")?;
    Ok((name.to_owned(), value.to_owned()))
}
