//! Debian bases beside those that mmdebstrap makes of the same packages, and packages of the distribution beside what apt installs by
//! itself; the same image, whoever builds it.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::commands::ways::{self, Way};
use super::report::{Checks, none, same};
use super::tree::{Kind, Tree};
use super::{Result, Suite, networked, programs, stack, unpacked};

/// Packages of the distribution: some with scripts, users, triggers and alternatives.
const SYSTEM: [&str; 8] = ["libsndfile1", "sox", "openssh-client", "vim-tiny", "curl", "wget", "git", "python3-pip"];
/// Paths that only one of the two has: those of the machine, backups, locks, and caches.
const OF_ONE: [&str; 12] = [
    "etc/fstab",
    "etc/group-",
    "etc/hostname",
    "etc/passwd-",
    "etc/resolv.conf",
    "var/lib/dpkg/available",
    "var/lib/dpkg/diversions-old",
    "var/lib/dpkg/lock",
    "var/lib/dpkg/lock-frontend",
    "var/lib/dpkg/status-old",
    "var/lib/dpkg/triggers/Lock",
    "var/lib/apt/lists/auxfiles",
];
/// Directories whose content is not compared.
const BELOW: [&str; 8] =
    ["dev/", "proc/", "sys/", "run/", "var/log/", "var/cache/apt/", "var/cache/debconf/", "var/lib/apt/lists/"];

/// Makes the checks.
pub(super) fn check(suite: &Suite, checks: &mut Checks) {
    let suites: &[&str] = if suite.long { &["bookworm", "trixie"] } else { &["bookworm"] };
    for name in suites {
        let place = suite.work.join("debian").join(name);
        let built = checks
            .check(&format!("{name}: kiln makes it, and installs packages over it"), || build(suite, &place, name));
        let Some((images, base, system)) = built else { continue };
        let peer = checks.check(&format!("{name}: mmdebstrap makes it"), || bootstrap(&place, name));
        if let Some(peer) = &peer {
            checks.check(&format!("{name}: paths, kinds, modes and owners are mmdebstrap's"), || alike(&base, peer));
        }
        for (what, root) in [("the base", &base), ("the image with more packages", &system)] {
            checks.check(&format!("{name}: dpkg finds nothing wrong in {what}"), || sound(root));
        }
        if let Some(peer) = &peer {
            checks.check(
                &format!("{name}: packages are those that apt installs by itself, in the same versions"),
                || installed(&system, peer),
            );
        }
        checks.check(&format!("{name}: the same image, whoever builds it"), || whoever(suite, name, &images));
        if *name == "bookworm" {
            networked::check(suite, checks, &stack_of(name), &place.join("project/kiln.lock"));
        }
    }
    suite.remove("debian");
}

fn stack_of(suite: &str) -> String {
    let words: Vec<String> = SYSTEM.iter().map(|name| format!("\"{name}\"")).collect();
    format!(
        "[stack]\nname = \"debian\"\n\n[target]\nplatforms = [\"linux/amd64\"]\n\n[images.base]\n\
         from = {{ debian = \"{suite}\", include = [\"python3\"] }}\n\n[images.more]\nfrom = \"base\"\nsystem = [{}]\n",
        words.join(", ")
    )
}

/// Builds the images, and returns them and their trees.
fn build(suite: &Suite, place: &Path, name: &str) -> Result<(Vec<stack::Image>, PathBuf, PathBuf)> {
    let project = place.join("project");
    stack::write(&project, &stack_of(name))?;
    let images = suite.build(&project, &["--output", "oci:out"])?;
    let layout = project.join("out");
    Ok((
        images,
        unpacked::unpack(&layout, "base", &place.join("base"))?,
        unpacked::unpack(&layout, "more", &place.join("more"))?,
    ))
}

fn bootstrap(place: &Path, name: &str) -> Result<PathBuf> {
    let root = place.join("mmdebstrap");
    let mut program = Command::new("mmdebstrap");
    program.args(["--quiet", "--variant=minbase", "--include=python3", name]).arg(&root);
    programs::output(&mut program)?;
    Ok(root)
}

fn alike(own: &Path, peer: &Path) -> Result<()> {
    let (own, peer) = (Tree::read(own)?, Tree::read(peer)?);
    let paths: BTreeSet<&String> = own.nodes.keys().chain(peer.nodes.keys()).collect();
    let is_compared = |path: &&&String| {
        !OF_ONE.contains(&path.as_str()) && !BELOW.iter().any(|below| path.starts_with(below)) && !path.is_empty()
    };
    let shown = |tree: &Tree, path: &str| {
        tree.nodes.get(path).map_or_else(
            || "nothing".to_owned(),
            |node| {
                let size = if let Kind::File(_) = node.kind { "a file".to_owned() } else { node.describe() };
                format!("{size} {:04o} {:?}", node.mode, node.owner)
            },
        )
    };
    let wrong: Vec<String> = paths
        .iter()
        .filter(is_compared)
        .map(|path| (path, shown(&own, path), shown(&peer, path)))
        .filter(|(_, own, peer)| own != peer)
        .map(|(path, own, peer)| format!("{path}: {own}, and {peer}"))
        .collect();
    none("paths differ", &wrong)
}

fn within(root: &Path, words: &[&str]) -> Result<String> {
    programs::text(Command::new("chroot").arg(root).args(words).env("DEBIAN_FRONTEND", "noninteractive"))
}

fn sound(root: &Path) -> Result<()> {
    same("`dpkg --audit`", within(root, &["dpkg", "--audit"])?, String::new())?;
    same("`dpkg --verify`", within(root, &["dpkg", "--verify"])?, String::new())?;
    within(root, &["apt-get", "check"]).map(drop)
}

/// Compares what is installed, and what was asked for, with what apt installs in the other tree.
fn installed(own: &Path, peer: &Path) -> Result<()> {
    fs_err::copy("/etc/resolv.conf", peer.join("etc/resolv.conf"))?;
    let before = manual(peer)?;
    within(peer, &["apt-get", "-q", "update"])?;
    let install = ["apt-get", "-q", "-y", "--no-install-recommends", "install"];
    within(peer, &[&install[..], &SYSTEM].concat())?;
    let list = ["dpkg-query", "--show", "--showformat=${binary:Package} ${Version} ${db:Status-Abbrev}\n"];
    same("the list of packages", within(own, &list)?, within(peer, &list)?)?;
    let added: BTreeSet<String> = manual(peer)?.difference(&before).cloned().collect();
    let missing: Vec<String> = added.difference(&manual(own)?).cloned().collect();
    none("packages are not marked as asked for", &missing)
}

fn manual(root: &Path) -> Result<BTreeSet<String>> {
    Ok(within(root, &["apt-mark", "showmanual"])?.lines().map(str::to_owned).collect())
}

fn whoever(suite: &Suite, name: &str, built: &[stack::Image]) -> Result<()> {
    // The first build was root's.
    let is_wanted = |way: &&Way| match way.ids {
        ways::As::One => !way.copies,
        ways::As::Range => !way.copies && suite.long,
        ways::As::Root => false,
    };
    let told = |images: &[stack::Image]| -> Vec<String> {
        images.iter().map(|image| format!("{} {}", image.name, image.manifest)).collect()
    };
    // The lock is the first one's: an archive may change meanwhile.
    let lock = fs_err::read(suite.work.join("debian").join(name).join("project/kiln.lock"))?;
    let mut digests = BTreeSet::from([told(built)]);
    for way in ways::WAYS.iter().filter(is_wanted) {
        let images = ways::build(*way, &suite.kiln, |project| {
            stack::write(project, &stack_of(name))?;
            Ok(fs_err::write(project.join("kiln.lock"), &lock)?)
        })?;
        digests.insert(told(&images));
    }
    same("the number of different results", digests.len(), 1)
}
