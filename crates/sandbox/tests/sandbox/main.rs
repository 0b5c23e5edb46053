//! Commands in sandboxes: ordinary ones, and hostile ones, as root, as a user with one id, and as a user with a range of ids.
//!
//! The test is its own helper, and its own hostile command: it copies itself and its libraries into a tree. So it has a `main` in
//! place of the usual harness, whose threads a helper must not have.

#![allow(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "these are tests")]
#![allow(clippy::print_stdout, reason = "the program is its own harness")]
#![allow(unsafe_code, reason = "hostile commands make calls that no library has")]

mod attacks;
mod cases;
mod given;
mod owners;
mod tree;

use std::process::ExitCode;

use attacks::{ATTACKS, Aim, special};

fn main() -> ExitCode {
    if let Some(status) = kiln_sandbox::help(|_| Ok(())) {
        return status;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    match arguments.iter().map(String::as_str).collect::<Vec<_>>().as_slice() {
        ["attack", name, ..] => {
            let aim = Aim::parse(&arguments[2..]);
            let attack = ATTACKS.iter().chain(given::ATTACKS).find(|(known, _)| known == name).unwrap().1;
            ExitCode::from(u8::from(attack(&aim)))
        }
        ["special", name] => ExitCode::from(u8::from(special(name))),
        ["wait", ..] => ExitCode::from(u8::from(special("waits"))),
        ["give-away", ..] => owners::give_away_for_ever(),
        ["unsupervised", tree, directory] => owners::run_unsupervised(tree, directory),
        ["act", rest @ ..] => cases::act(rest),
        ["as-user", rest @ ..] => cases::all(rest.first().copied()),
        ["with-range", rest @ ..] => cases::with_range(rest.first().copied()),
        ["runs-until-killed", directory, what] => cases::run_until_killed(directory, what),
        rest => {
            let filter = rest.iter().copied().find(|word| !word.starts_with('-'));
            let all = [cases::all(filter), cases::again("as-user", filter), cases::again("with-range", filter)];
            all.into_iter().find(|done| *done != ExitCode::SUCCESS).unwrap_or(ExitCode::SUCCESS)
        }
    }
}
