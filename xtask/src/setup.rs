//! `cargo xtask setup`: the first command of the README. It leaves a machine on which kiln runs.

use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::process::Command;

use clap::Args;

use crate::interop::programs::find;

/// Install what the example needs and this machine lacks (Debian and Ubuntu; with sudo, unless root), build kiln, and
/// build the example image
#[derive(Debug, Args)]
pub(crate) struct Setup {
    /// Another stack file than that of the example
    #[arg(short, long, default_value = "examples/torch/kiln.toml")]
    file: PathBuf,
}

impl Setup {
    pub(crate) fn run(&self) -> Result<(), String> {
        let root = fs_err::metadata("/proc/self").is_ok_and(|found| found.uid() == 0);
        let pip = || Command::new("python3").args(["-m", "pip", "--version"]).output();
        let machine = Machine {
            root,
            has: &|program| find(program).is_some(),
            pip: pip().is_ok_and(|output| output.status.success()),
        };
        for mut command in machine.commands()?.iter().map(|words| command(words)) {
            succeed(&mut command)?;
        }
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut kiln = Command::new(cargo);
        succeed(kiln.args(["run", "--release", "--package", "kiln", "--", "build", "-f"]).arg(&self.file))
    }
}

/// The programs and rights of a machine.
struct Machine<'a> {
    root: bool,
    has: &'a dyn Fn(&str) -> bool,
    pip: bool,
}

impl Machine<'_> {
    /// Returns the Debian packages that are missing: pip installs uv.
    fn missing(&self) -> Vec<&'static str> {
        if (self.has)("uv") || self.pip { Vec::new() } else { vec!["python3-pip"] }
    }

    /// Returns the commands that install them.
    fn commands(&self) -> Result<Vec<Vec<&'static str>>, String> {
        let missing = self.missing();
        if missing.is_empty() {
            return Ok(Vec::new());
        }
        let list = missing.join(" ");
        if !(self.has)("apt-get") {
            return Err(format!(
                "kiln needs what Debian packages as {list}, and this machine has no apt-get: install it, or uv"
            ));
        }
        let apt = match self.root {
            true => vec!["apt-get"],
            false if (self.has)("sudo") => vec!["sudo", "apt-get"],
            false => {
                return Err(format!("packages are missing, and there is no sudo: as root, `apt-get install {list}`"));
            }
        };
        let install = [&apt[..], &["install", "--yes"], &missing].concat();
        Ok(vec![[&apt[..], &["update"]].concat(), install])
    }
}

fn command(words: &[&str]) -> Command {
    let mut command = Command::new(words.first().unwrap_or(&"true"));
    command.args(words.iter().skip(1));
    command
}

fn succeed(command: &mut Command) -> Result<(), String> {
    let shown = format!("{command:?}").replace('"', "");
    crate::interop::report::eprint(&format!("$ {shown}"));
    match command.status() {
        Ok(status) if status.success() => Ok(()),
        Ok(status) => Err(format!("`{shown}` failed: {status}")),
        Err(error) => Err(format!("`{shown}` cannot be run: {error}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn commands(root: bool, programs: &[&str], pip: bool) -> Result<Vec<String>, String> {
        let machine = Machine { root, has: &|program| programs.contains(&program), pip };
        Ok(machine.commands()?.iter().map(|words| words.join(" ")).collect())
    }

    #[test]
    fn what_is_missing_is_installed_and_nothing_else() {
        assert_eq!(commands(false, &["apt-get", "sudo"], true), Ok(vec![]));
        assert_eq!(commands(true, &["uv"], false), Ok(vec![]));
        let install = ["apt-get update".into(), "apt-get install --yes python3-pip".into()].to_vec();
        assert_eq!(commands(true, &["apt-get"], false), Ok(install));
        let with_sudo = "sudo apt-get install --yes python3-pip";
        assert_eq!(commands(false, &["apt-get", "sudo"], false).unwrap()[1], with_sudo);
    }

    #[test]
    fn who_cannot_install_is_told_what_to_install() {
        let without_sudo = commands(false, &["apt-get"], false).unwrap_err();
        assert!(without_sudo.ends_with("as root, `apt-get install python3-pip`"), "{without_sudo}");
        assert!(commands(true, &[], false).unwrap_err().contains("has no apt-get"));
    }
}
