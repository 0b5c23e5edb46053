//! The shell scripts that run in a Debian that is being made.

use kiln_plan::lock::LockedDeb;

/// The directory with archives for apt. It is no part of the image.
pub(super) const PLACE: &str = "kiln-packages";
/// Packages that the scripts of all others need, in the order of their needs.
const FIRST: [&str; 8] = ["base-passwd", "base-files", "libc6", "dpkg", "perl-base", "mawk", "debconf", "dash"];
/// The start of each line of apt's answer that names a package to install.
const URI: &str = "'file:/kiln-packages/";

/// Options of apt: its own files lie in [`PLACE`], it asks nobody, and it takes from there alone.
fn apt() -> String {
    let options = [
        format!("Dir::Etc::sourcelist=/{PLACE}/sources.list"),
        "Dir::Etc::sourceparts=-".into(),
        format!("Dir::State::lists=/{PLACE}/lists"),
        format!("Dir::Cache=/{PLACE}/cache"),
        "Dir::Log=/tmp".into(),
        "Acquire::Languages=none".into(),
        "Acquire::Check-Valid-Until=false".into(),
        "APT::Install-Recommends=false".into(),
        "APT::Sandbox::User=root".into(),
        "Dpkg::Use-Pty=false".into(),
        "Dpkg::Options::=--force-unsafe-io".into(),
    ];
    let options: Vec<String> = options.iter().map(|option| format!("-o {option}")).collect();
    format!("apt-get -q -y {}", options.join(" "))
}

fn quoted(words: &[String]) -> String {
    words.iter().map(|word| format!("'{word}'")).collect::<Vec<_>>().join(" ")
}

/// Returns the script that prints the packages which apt would install.
pub(super) fn choose(include: &[String]) -> String {
    let (apt, words) = (apt(), quoted(include));
    format!("{apt} -qq update && {apt} -qq --print-uris install {words}")
}

/// Returns the paths below [`PLACE`] of the packages that apt would install.
pub(super) fn chosen(lines: &[String]) -> Vec<String> {
    let path =
        |line: &String| Some(line.strip_prefix(URI)?.split('\'').next()?.replace("%2b", "+").replace("%7e", "~"));
    lines.iter().filter_map(path).collect()
}

/// Returns true for a line that names a package to install.
pub(super) fn is_choice(line: &str) -> bool {
    line.starts_with(URI)
}

/// Returns the script that configures a system of unpacked packages, and installs others from the archive in [`PLACE`].
pub(super) fn configure(base: &[&LockedDeb], preinst: &[String], include: &[String]) -> String {
    let is_there = |name: &&&str| base.iter().any(|package| package.name == **name);
    let first: Vec<&str> = FIRST.iter().filter(is_there).copied().collect();
    let mut lines = vec![
        "for kind in passwd group; do".to_owned(),
        "  [ -e /etc/$kind ] || [ ! -e /usr/share/base-passwd/$kind.master ] || cp /usr/share/base-passwd/$kind.master /etc/$kind"
            .to_owned(),
        "done".to_owned(),
        // Services do not start while packages are installed.
        "printf '#!/bin/sh\\nexit 101\\n' > /usr/sbin/policy-rc.d && chmod 755 /usr/sbin/policy-rc.d".to_owned(),
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
    if !include.is_empty() {
        let (apt, words) = (apt(), quoted(include));
        lines.push(format!("{apt} -qq update\n{apt} install {words}"));
    }
    lines.push("rm -f /usr/sbin/policy-rc.d".to_owned());
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
            "'http://other.example/x.deb' x.deb 1 SHA256:00",
        ];
        let lines = lines.map(str::to_owned);
        assert_eq!(chosen(&lines), ["1/pool/updates/main/p/python3/libpython3_3.11.2-6+deb12u6_amd64.deb"]);
    }
}
