//! Runs a command in a sandbox over directories: `sandboxed LAYER[:LAYER...] DIRECTORY COMMAND...`. For tests and measurements.

use std::collections::BTreeMap;
use std::io::Write as _;
use std::process::ExitCode;

use kiln_sandbox::{Command, Ended, Given, Output, Ran, Root, Sandbox};

fn main() -> ExitCode {
    if let Some(status) = kiln_sandbox::help(|_| Ok(())) {
        return status;
    }
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [layers, directory, words @ ..] = arguments.as_slice() else { return ExitCode::from(2) };
    let root = Root {
        layers: layers.split(':').map(Into::into).collect(),
        owners_below: BTreeMap::new(),
        directory: directory.into(),
    };
    let env = vec![("PATH".to_owned(), "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin".to_owned())];
    let command =
        Command { words: words.to_vec(), env, workdir: "/".into(), user: (0, 0, Vec::new()), given: Given::default() };
    let told = |line: Option<Output>| {
        match line {
            Some(Output::Stdout(line)) => drop(writeln!(std::io::stdout(), "{}", String::from_utf8_lossy(&line))),
            Some(Output::Stderr(line)) => drop(writeln!(std::io::stderr(), "{}", String::from_utf8_lossy(&line))),
            Some(Output::Listener(_)) | None => {}
        }
        true
    };
    match Sandbox::default().run(&root, &command, told) {
        Ok(Ran { ended: Ended::Exited(status), .. }) => ExitCode::from(status),
        Ok(_) => ExitCode::from(125),
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "{error:?}");
            ExitCode::from(125)
        }
    }
}
