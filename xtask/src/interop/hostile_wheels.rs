//! Wheels that lie or attack, given to uv and to kiln: kiln refuses whatever uv refuses, and some that uv installs.

use std::path::Path;
use std::process::Command;

use super::awkward_wheel::{Entry, archive, record_line};
use super::report::{Checks, none};
use super::running::chroot;
use super::stack::{self, Built};
use super::{Result, Suite, programs, unpacked, uv};

const DIST_INFO: &str = "hostile-1.0.dist-info";
const METADATA: &str = "Metadata-Version: 2.1\nName: hostile\nVersion: 1.0\n";
const WHEEL: &str = "Wheel-Version: 1.0\nGenerator: kiln\nRoot-Is-Purelib: true\nTag: py3-none-any\n";

/// The verdict about a wheel.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    /// Both install it.
    Installed,
    /// Both refuse it.
    Refused,
    /// uv installs it, as pip does, and kiln refuses it.
    Stricter,
}
use Verdict::{Installed, Refused, Stricter};

/// A name, what differs from a sound wheel, and the verdict.
type Case = (&'static str, &'static [(&'static str, &'static str)], Verdict);

const CASES: [Case; 30] = [
    ("sound", &[], Installed),
    ("python", &[("DI/entry_points.txt", "[console_scripts]\npython = hostile:main\n")], Refused),
    ("python3", &[("DI/entry_points.txt", "[gui_scripts]\npython3 = hostile:main\n")], Refused),
    ("other-python", &[("DI/entry_points.txt", "[console_scripts]\npython3.9 = hostile:main\n")], Refused),
    ("pythonw", &[("DI/entry_points.txt", "[console_scripts]\npythonw = hostile:main\n")], Refused),
    ("case", &[("DI/entry_points.txt", "[console_scripts]\nPython = hostile:main\n")], Refused),
    ("config", &[("DI/entry_points.txt", "[console_scripts]\npython-config = hostile:main\n")], Installed),
    ("old-python", &[("DI/entry_points.txt", "[console_scripts]\npython2 = hostile:main\n")], Installed),
    ("twice", &[("DI/entry_points.txt", "[console_scripts]\nx = hostile:a\nx = hostile:b\n")], Refused),
    ("no-section", &[("DI/entry_points.txt", "x = hostile:a\n")], Refused),
    ("outside", &[("DI/entry_points.txt", "[console_scripts]\n../x = hostile:a\n")], Refused),
    ("script", &[("hostile-1.0.data/scripts/python3", "#!python\n")], Refused),
    ("nested-script", &[("hostile-1.0.data/scripts/sub/x", "#!python\n")], Refused),
    ("data-python", &[("hostile-1.0.data/data/bin/python", "")], Refused),
    ("activate", &[("hostile-1.0.data/scripts/activate", "")], Stricter),
    ("configuration", &[("hostile-1.0.data/data/pyvenv.cfg", "home = /nowhere\n")], Stricter),
    ("lib64", &[("hostile-1.0.data/data/lib64/python3.11/site-packages/below.py", "")], Installed),
    ("lib64-itself", &[("hostile-1.0.data/data/lib64", "")], Stricter),
    ("lib-itself", &[("hostile-1.0.data/data/lib", "")], Refused),
    ("whiteout", &[(".wh.numpy", "")], Stricter),
    ("opaque", &[(".wh..wh..opq", "")], Stricter),
    ("two-dist-info", &[("other-2.0.dist-info/METADATA", "Name: other\nVersion: 2.0\n")], Refused),
    ("two-versions", &[("hostile-2.0.dist-info/METADATA", "Name: hostile\nVersion: 2.0\n")], Refused),
    ("vendored-dist-info", &[("vendored/other-2.0.dist-info/METADATA", "Name: other\n")], Installed),
    ("name", &[("DI/METADATA", "Metadata-Version: 2.1\nName: other\nVersion: 1.0\n")], Refused),
    ("version", &[("DI/METADATA", "Metadata-Version: 2.1\nName: hostile\nVersion: 2.0\n")], Refused),
    ("same-version", &[("DI/METADATA", "Metadata-Version: 2.1\nName: Hostile\nVersion: 1.0.0\n")], Installed),
    ("folded", &[("DI/METADATA", "Metadata-Version: 2.1\nName:\n hostile\nVersion: 1.0\n")], Installed),
    ("no-metadata", &[("DI/METADATA", "")], Refused),
    ("wheel-version", &[("DI/WHEEL", "Wheel-Version: 2.0\nTag: py3-none-any\n")], Refused),
];

/// Makes the checks.
pub(crate) fn check(suite: &Suite, built: &Built, checks: &mut Checks) {
    checks.check("hostile wheels are judged as by uv, or more strictly", || {
        let rootfs = unpacked::unpack(&built.layout, "base", &suite.work.join("hostile"))?;
        fs_err::create_dir_all(rootfs.join("uv"))?;
        fs_err::copy(uv::program(suite)?, rootfs.join("uv/uv"))?;
        let mut wrong = Vec::new();
        for case in &CASES {
            let found = (judged_by_uv(&rootfs, case)?, judged_by_kiln(suite, case)?);
            let expected = match case.2 {
                Installed => (true, true),
                Refused => (false, false),
                Stricter => (true, false),
            };
            if found != expected {
                wrong.push(format!("{}: uv and kiln install it: {found:?} rather than {expected:?}", case.0));
            }
        }
        none("wheels are judged in another way", &wrong)
    });
    suite.remove("hostile");
    suite.remove("hostile-stacks");
}

/// Writes the wheel of a case into a directory; its file name.
fn write(directory: &Path, (_, changes, _): &Case) -> Result<&'static str> {
    const FILE_NAME: &str = "hostile-1.0-py3-none-any.whl";
    let plain = |path: &str, content: &str| Entry { path: path.into(), content: content.into(), mode: 0o644 };
    let mut entries = vec![
        plain("hostile.py", "def main():\n    pass\n"),
        plain(&format!("{DIST_INFO}/METADATA"), METADATA),
        plain(&format!("{DIST_INFO}/WHEEL"), WHEEL),
    ];
    for (path, content) in *changes {
        let new = plain(&path.replace("DI/", &format!("{DIST_INFO}/")), content);
        entries.retain(|entry| entry.path != new.path);
        entries.push(new);
    }
    let mut record: String = entries.iter().map(record_line).collect();
    record.push_str(&format!("{DIST_INFO}/RECORD,,\n"));
    entries.push(plain(&format!("{DIST_INFO}/RECORD"), &record));
    fs_err::create_dir_all(directory)?;
    fs_err::write(directory.join(FILE_NAME), archive(&entries)?)?;
    Ok(FILE_NAME)
}

fn judged_by_uv(rootfs: &Path, case: &Case) -> Result<bool> {
    let file = write(&rootfs.join("wheels").join(case.0), case)?;
    let uv = || {
        let mut command = chroot(rootfs, "/uv/uv");
        command.args(["--no-config", "--offline", "--no-cache"]);
        command
    };
    programs::output(uv().args(["venv", "--clear", "--python", "/usr/bin/python3.11", "/opt/venv"]))?;
    let wheel = format!("/wheels/{}/{file}", case.0);
    let mut install = uv();
    install.args(["pip", "install", "--no-deps", "--no-index", "--python=/opt/venv/bin/python", &wheel]);
    Ok(install.output()?.status.success())
}

fn judged_by_kiln(suite: &Suite, case: &Case) -> Result<bool> {
    let project = suite.work.join("hostile-stacks").join(case.0);
    let text = "[stack]\nname = \"hostile\"\n\n[target]\nplatforms = [\"linux/amd64\"]\npython = \"3.11\"\n\n\
                [index]\nfind-links = [\"wheels\"]\n\n[images.app]\nfrom = \"scratch\"\npackages = [\"hostile\"]\n\
                base-facts = { libc = { family = \"glibc\", version = \"2.36\" }, interpreters = [{ path = \
                \"/usr/bin/python3.11\", version = \"3.11.2\" }] }\n";
    stack::write(&project, text)?;
    write(&project.join("wheels"), case)?;
    let mut build: Command = suite.kiln(&project);
    Ok(build.args(["build", "--offline"]).output()?.status.success())
}
