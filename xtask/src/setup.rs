//! `cargo xtask setup`: the first command of the README. It leaves a machine on which kiln runs.

use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use clap::Args;

use crate::interop::programs::find;

/// The keys of Debian's archive, which other distributions do not have.
const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

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
            keyring: Path::new(KEYRING).exists(),
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
    keyring: bool,
    pip: bool,
}

impl Machine<'_> {
    /// Returns the Debian packages that are missing: mmdebstrap bootstraps the base, as an ordinary user with uidmap,
    /// and pip installs uv.
    fn missing(&self) -> Vec<&'static str> {
        let mut missing = Vec::new();
        if !(self.has)("mmdebstrap") {
            missing.push("mmdebstrap");
        }
        if !self.root && !(self.has)("newuidmap") {
            missing.push("uidmap");
        }
        if !self.keyring {
            missing.push("debian-archive-keyring");
        }
        if !(self.has)("uv") && !self.pip {
            missing.push("python3-pip");
        }
        missing
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
                "the example needs what Debian packages as {list}, and this machine has no apt-get: install it, or \
                 name a stack with another base with `-f`"
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

    fn commands(root: bool, programs: &[&str], keyring: bool, pip: bool) -> Result<Vec<String>, String> {
        let machine = Machine { root, has: &|program| programs.contains(&program), keyring, pip };
        Ok(machine.commands()?.iter().map(|words| words.join(" ")).collect())
    }

    #[test]
    fn what_is_missing_is_installed_and_nothing_else() {
        let all = ["mmdebstrap", "newuidmap", "apt-get", "sudo"];
        assert_eq!(commands(false, &all, true, true), Ok(vec![]));
        assert_eq!(commands(true, &["mmdebstrap", "uv"], true, false), Ok(vec![]));
        let install = |packages: &str| Ok(vec!["apt-get update".into(), format!("apt-get install --yes {packages}")]);
        assert_eq!(commands(true, &["apt-get"], true, true), install("mmdebstrap"));
        let bare = "mmdebstrap debian-archive-keyring python3-pip";
        assert_eq!(commands(true, &["apt-get"], false, false), install(bare));
        let with_sudo = "sudo apt-get install --yes mmdebstrap uidmap";
        assert_eq!(commands(false, &["apt-get", "sudo"], true, true).unwrap()[1], with_sudo);
    }

    #[test]
    fn who_cannot_install_is_told_what_to_install() {
        let without_sudo = commands(false, &["apt-get"], true, true).unwrap_err();
        assert!(without_sudo.ends_with("as root, `apt-get install mmdebstrap uidmap`"), "{without_sudo}");
        assert!(commands(true, &[], true, true).unwrap_err().contains("has no apt-get"));
    }
}
