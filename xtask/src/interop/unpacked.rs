//! umoci unpacks images, and what lies there has the owners, modes and times that kiln promises.

use std::collections::{BTreeMap, BTreeSet};
use std::io::Read;
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_oci::time;

use super::report::{Checks, none};
use super::stack::{self, Built, Wheel};
use super::tree::{Kind, Tree};
use super::{Result, Suite, programs};

/// Directories of the environment that hold what wheels install.
const PACKAGES: &str = "lib/python3.11/site-packages";

/// Makes the checks; the root of the unpacked image.
pub(crate) fn check(suite: &Suite, built: &Built, checks: &mut Checks) -> Option<PathBuf> {
    let rootfs =
        checks.check("umoci unpacks the image", || unpack(&built.layout, "torch", &suite.work.join("torch")))?;
    checks.check("unpacked files have the owners, modes and times of kiln", || {
        let wheels = stack::lock(&built.project)?.wheels;
        none("paths are not as they should be", &wrong(&Tree::read(&rootfs.join("opt/venv"))?, &wheels)?)
    });
    Some(rootfs)
}

/// Unpacks an image of a layout; its root.
pub(crate) fn unpack(layout: &Path, image: &str, bundle: &Path) -> Result<PathBuf> {
    let reference = format!("{}:{image}", layout.display());
    programs::output(Command::new("umoci").args(["unpack", "--image", &reference]).arg(bundle))?;
    let rootfs = bundle.join("rootfs");
    devices(&rootfs)?;
    Ok(rootfs)
}

/// Files in place of the devices that a runtime would mount: programs that run here read little of them and write
/// nothing that matters, and a suite that makes no devices runs in more places.
fn devices(rootfs: &Path) -> Result<()> {
    let mut random = vec![0; 64 << 10];
    fs_err::File::open("/dev/urandom")?.read_exact(&mut random)?;
    fs_err::create_dir_all(rootfs.join("dev"))?;
    for (name, content) in [("null", &[][..]), ("urandom", &random)] {
        let path = rootfs.join("dev").join(name);
        if !path.exists() {
            fs_err::write(path, content)?;
        }
    }
    Ok(())
}

fn wrong(environment: &Tree, wheels: &[Wheel]) -> Result<Vec<String>> {
    let times = times(environment, wheels)?;
    let own: BTreeSet<i64> = environment
        .nodes
        .iter()
        .filter(|(path, node)| matches!(node.kind, Kind::File(_)) && !times.contains_key(*path))
        .map(|(_, node)| node.time)
        .collect();
    let mut wrong = Vec::new();
    if own.len() != 1 {
        wrong.push(format!("the environment's own files have the times {own:?}"));
    }
    for (path, node) in &environment.nodes {
        let mode = match node.kind {
            Kind::Directory => node.mode == 0o755,
            Kind::File(_) => matches!(node.mode, 0o644 | 0o755),
            Kind::Link(_) | Kind::Other => true,
        };
        let time = match node.kind {
            Kind::File(_) => times.get(path).is_none_or(|times| times.contains(&node.time)),
            _ => node.time == i64::try_from(time::OLDEST)?,
        };
        if node.kind == Kind::Other || !mode || node.owner != (0, 0) || !time {
            wrong.push(format!("{path}: {node:?}"));
        }
    }
    Ok(wrong)
}

/// The times of wheels by the files that they installed. A file may be of several wheels.
fn times(environment: &Tree, wheels: &[Wheel]) -> Result<BTreeMap<String, BTreeSet<i64>>> {
    let plain = |text: &str| text.to_lowercase().replace(['-', '.'], "_");
    let mut times: BTreeMap<String, BTreeSet<i64>> = BTreeMap::new();
    let installed = environment.nodes.keys().filter_map(|path| {
        let project = path.strip_prefix(PACKAGES)?.strip_prefix('/')?.strip_suffix(".dist-info/RECORD")?;
        // Packages may bring others inside of them, with their lists.
        (!project.contains('/')).then_some((path, project))
    });
    for (record, project) in installed {
        let wheel = wheels.iter().find(|wheel| {
            let mut parts = wheel.file.splitn(3, '-');
            let (name, version) = (parts.next().unwrap_or_default(), parts.next().unwrap_or_default());
            plain(&format!("{name}-{version}")) == plain(project)
        });
        let wheel = wheel.ok_or_else(|| format!("no wheel of the lock installed {project}"))?;
        let time = i64::try_from(time::packaged(&wheel.sha256.parse()?))?;
        for line in environment.text(record)?.lines() {
            let path = match line.strip_prefix('"').and_then(|rest| rest.split_once("\",")) {
                Some((quoted, _)) => quoted.replace("\"\"", "\""),
                None => line.split(',').next().unwrap_or_default().to_owned(),
            };
            let path = match path.strip_prefix("../../../") {
                Some(path) => path.to_owned(),
                None => format!("{PACKAGES}/{path}"),
            };
            times.entry(path).or_default().insert(time);
        }
    }
    Ok(times)
}
