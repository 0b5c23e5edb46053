//! The shell scripts that run in a Debian that is being made.

use std::fmt;

use kiln_plan::lock::LockedDeb;
use kiln_plan::secret::percent_decoded;
use kiln_plan::stack;
use serde::Serialize;

/// The directory with archives for apt. It is no part of the image.
pub(super) const PLACE: &str = "kiln-packages";
/// Packages that the scripts of all others need, in the order of their needs.
const FIRST: [&str; 8] = ["base-passwd", "base-files", "libc6", "dpkg", "perl-base", "mawk", "debconf", "dash"];
/// The file there with apt's answer.
pub(super) const CHOSEN: &str = "chosen";
/// The start of each line of apt's answer that names a package to install.
const URI: &str = "'file:/kiln-packages/";

/// Options of apt: its own files lie in [`PLACE`], it asks nobody, and it takes from there alone.
fn apt() -> String {
    let options = [
        format!("Dir::Etc::sourcelist=/{PLACE}/sources.list"),
        "Dir::Etc::sourceparts=-".into(),
        format!("Dir::State::lists=/{PLACE}/lists"),
        format!("Dir::Cache=/{PLACE}/cache"),
        format!("Dir::Log=/{PLACE}"),
        "Acquire::Languages=none".into(),
        "Acquire::Check-Valid-Until=false".into(),
        "APT::Sandbox::User=root".into(),
        "Dpkg::Use-Pty=false".into(),
        "Dpkg::Options::=--force-unsafe-io".into(),
    ];
    let options: Vec<String> = options.iter().map(|option| format!("-o {option}")).collect();
    format!("apt-get -q -y {}", options.join(" "))
}

/// The packages that apt is to change.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize)]
pub(crate) struct Wishes {
    /// Packages to install, perhaps of a version.
    pub(crate) install: Vec<String>,
    /// Packages to remove.
    pub(crate) remove: Vec<String>,
    /// All packages become as new as they are there.
    pub(crate) upgrade: bool,
    /// Recommended packages are installed too.
    pub(crate) recommends: bool,
}

impl Wishes {
    /// Returns the wishes of an image; packages that are no archive's are among those that are known.
    pub(crate) fn of(system: &stack::System, known: &[LockedDeb]) -> Self {
        let stack::System { mut install, remove, upgrade, recommends, debs, .. } = system.clone();
        let places: Vec<String> = debs.iter().map(stack::DebSource::place).collect();
        let own = known.iter().filter(|package| places.contains(&package.url));
        install.extend(own.map(|package| format!("{}={}", package.name, package.version)));
        Self { install, remove, upgrade, recommends }
    }

    /// Returns the commands of apt that fulfil them.
    fn commands(&self, options: &str) -> Vec<String> {
        let apt = format!("{} -o APT::Install-Recommends={} {options}", apt(), self.recommends);
        let mut commands = Vec::new();
        if self.upgrade {
            commands.push(format!("{apt} dist-upgrade"));
        }
        let install = self.install.iter().map(|word| format!("'{word}'"));
        let words: Vec<String> = install.chain(self.remove.iter().map(|word| format!("'{word}-'"))).collect();
        if !words.is_empty() {
            commands.push(format!("{apt} install {}", words.join(" ")));
        }
        commands
    }
}

impl fmt::Display for Wishes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let upgrade = self.upgrade.then(|| "upgrade".to_owned()).into_iter();
        let words =
            upgrade.chain(self.install.iter().cloned()).chain(self.remove.iter().map(|name| format!("{name}-")));
        f.write_str(&words.collect::<Vec<_>>().join(" "))
    }
}

/// Returns the script that copies what apt knows of archives and keys to [`PLACE`].
pub(super) fn look() -> String {
    let found = format!("/{PLACE}/found");
    format!(
        "command -v apt-get >/dev/null\nmkdir -p {found}/keyrings\ncp -rL /etc/apt {found}/ || true\n\
         [ ! -d /usr/share/keyrings ] || cp -rL /usr/share/keyrings/. {found}/keyrings/ || true\nchmod -R a+rX {found}"
    )
}

/// Returns the script that prints the packages which apt would install.
pub(super) fn choose(wishes: &Wishes) -> String {
    let mut commands = vec![format!("{} -qq update", apt())];
    // What an error shows stays short.
    commands
        .extend(wishes.commands("-qq --print-uris").iter().map(|command| format!("{command} >> /{PLACE}/{CHOSEN}")));
    commands.join("\n")
}

/// Returns the script that has apt install what it finds in [`PLACE`].
pub(super) fn install(wishes: &Wishes) -> String {
    [BEFORE, &fulfil(wishes).join("\n"), AFTER].join("\n")
}

fn fulfil(wishes: &Wishes) -> Vec<String> {
    [vec![format!("{} -qq update", apt())], wishes.commands("")].concat()
}

/// Services do not start while packages are installed.
const BEFORE: &str = "[ -e /usr/sbin/policy-rc.d ] || { printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d; \
                      chmod 755 /usr/sbin/policy-rc.d; made=1; }";
const AFTER: &str = "[ -z \"$made\" ] || rm -f /usr/sbin/policy-rc.d";

/// Returns the packages that apt would install: the number of a suite, and a path in its archive. A line that names something else is
/// the error.
pub(super) fn chosen(answer: &str) -> Result<Vec<(usize, String)>, String> {
    let path = |line: &str| {
        let path = percent_decoded(line.strip_prefix(URI)?.split('\'').next()?);
        let (suite, path) = path.split_once('/')?;
        Some((suite.parse().ok()?, path.to_owned()))
    };
    let named = answer.lines().filter(|line| line.starts_with('\''));
    named.map(|line| path(line).ok_or_else(|| line.to_owned())).collect()
}

/// Returns the script that configures a system of unpacked packages, and installs others from the archive in [`PLACE`].
pub(super) fn configure(base: &[&LockedDeb], preinst: &[String], wishes: &Wishes) -> String {
    let is_there = |name: &&&str| base.iter().any(|package| package.name == **name);
    let first: Vec<&str> = FIRST.iter().filter(is_there).copied().collect();
    let mut lines = vec![
        "for kind in passwd group; do".to_owned(),
        "  [ -e /etc/$kind ] || [ ! -e /usr/share/base-passwd/$kind.master ] || cp /usr/share/base-passwd/$kind.master /etc/$kind"
            .to_owned(),
        "done".to_owned(),
        BEFORE.to_owned(),
    ];
    for key in preinst {
        let name = key.split(':').next().unwrap_or(key);
        lines.push(format!(
            "DPKG_MAINTSCRIPT_PACKAGE='{name}' DPKG_MAINTSCRIPT_NAME=preinst DPKG_MAINTSCRIPT_ARCH=\"$(dpkg --print-architecture)\" \
             DPKG_ADMINDIR=/var/lib/dpkg DPKG_ROOT= '/var/lib/dpkg/info/{key}.preinst' install"
        ));
    }
    lines.push(format!("dpkg --force-unsafe-io --configure --force-depends {}", first.join(" ")));
    lines.push("dpkg --force-unsafe-io --configure -a".to_owned());
    if *wishes != Wishes::default() {
        lines.extend(fulfil(wishes));
    }
    lines.push(AFTER.to_owned());
    lines.join("\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn apt_names_files_of_archives_that_it_was_shown() {
        let lines = [
            "Reading package lists...",
            "'file:/kiln-packages/1/pool/updates/main/p/python3/libpython3_3.11.2-6%2bdeb12u6_amd64.deb' libpython3.deb 100 SHA256:00",
            "'file:/kiln-packages/12/a_1%3a2%7erc%C3%A9_100%.deb' a.deb 100 SHA256:00",
        ];
        let expected = [
            (1, "pool/updates/main/p/python3/libpython3_3.11.2-6+deb12u6_amd64.deb".to_owned()),
            (12, "a_1:2~rcé_100%.deb".to_owned()),
        ];
        assert_eq!(chosen(&lines.join("\n")).unwrap(), expected);
        let other = "'http://other.example/x.deb' x.deb 1 SHA256:00";
        assert_eq!(chosen(other), Err(other.to_owned()));
    }
}
