//! `kiln`: the command line, and nothing else. What it does lies in the libraries; here arguments are read, progress is
//! drawn, errors are rendered, and a run ends with a status.

mod arguments;
mod commands;
mod interpreter;
mod interrupt;
mod progress;
mod render;
mod shell;
mod steps;
mod surroundings;
mod trace;

use std::process::ExitCode;

use clap::Parser;

use crate::commands::Arguments;

fn main() -> ExitCode {
    // First of all: it must have one thread.
    if let Some(status) = kiln_sandbox::help(kiln_engine::inside) {
        return status;
    }
    kiln_engine::remove_others();
    if let Some(status) = interpreter::answer(std::env::args_os().next()) {
        return status;
    }
    let arguments = match Arguments::try_parse() {
        Ok(arguments) => arguments,
        Err(error) => return render::usage(&error),
    };
    let cancel = interrupt::install();
    match trace::install(&arguments.global).and_then(|()| commands::run(&arguments, &cancel)) {
        Ok(code) => code,
        Err(failure) => render::failure(&failure, arguments.global.color()),
    }
}
