//! Development tasks of kiln: `cargo xtask TASK`, each in a file of its own.

mod bench;
mod circles;
mod generate;
mod interop;
mod random;
mod seed;
mod setup;
mod sources;
mod torture;
mod words;

use std::process::ExitCode;

use clap::{Parser, Subcommand};

/// Development tasks of kiln.
#[derive(Debug, Parser)]
#[command(name = "xtask", bin_name = "cargo xtask", max_term_width = 100)]
struct Arguments {
    #[command(subcommand)]
    task: Task,
}

/// The tasks.
#[derive(Debug, Subcommand)]
enum Task {
    /// Check images made by kiln with skopeo, umoci and uv
    Interop(interop::Interop),
    Torture(torture::Torture),
    Bench(bench::Bench),
    Generate(generate::Generate),
    Seed(seed::Seed),
    Setup(setup::Setup),
    Words(words::Words),
    Circles(circles::Circles),
}

fn main() -> ExitCode {
    let done = match Arguments::parse().task {
        Task::Interop(task) => return task.run(),
        Task::Torture(task) => return task.run(),
        Task::Bench(task) => task.run(),
        Task::Generate(task) => task.run(),
        Task::Seed(task) => task.run(),
        Task::Setup(task) => task.run(),
        Task::Words(task) => task.run(),
        Task::Circles(task) => task.run(),
    };
    match done {
        Ok(()) => ExitCode::SUCCESS,
        Err(message) => {
            interop::complain(&message);
            ExitCode::FAILURE
        }
    }
}
