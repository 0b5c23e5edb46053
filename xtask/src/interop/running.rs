//! Python and scripts run in the unpacked image.

use std::path::Path;
use std::process::Command;

use super::report::{Checks, same};
use super::{Result, awkward_wheel, packages, programs};

/// Scripts, one of each kind, with an argument that makes them finish, and what their output begins with.
const SCRIPTS: [(&str, &[&str], &str); 9] = [
    // For entry points.
    ("meson", &["--version"], "1.12.1"),
    ("isympy", &["--version"], "1.14.0"),
    ("kiln-awkward", &[], "pure"),
    (awkward_wheel::DOTTED_SCRIPT, &[], "dotted"),
    // Their first line was `#!python`.
    ("rst2html.py", &["--version"], "rst2html.py (Docutils 0.20.1"),
    (awkward_wheel::SCRIPT_WITH_ARGUMENT, &[], "isolated"),
    (awkward_wheel::SCRIPT_OF_WINDOWS, &[], "windows"),
    // As the wheel has them.
    ("kiln-awkward-sh", &[], "shell"),
    ("ninja", &["--version"], "1.13"),
];

/// A program inside another root, with an environment that depends on nothing outside.
pub(crate) fn chroot(rootfs: &Path, program: &str) -> Command {
    let chroot = programs::find("chroot").unwrap_or_else(|| "/usr/sbin/chroot".into());
    let mut command = Command::new(chroot);
    let path = "/opt/venv/bin:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    command.env_clear().env("PATH", path).env("HOME", "/root").env("LANG", "C.UTF-8");
    command.env("PYTHONDONTWRITEBYTECODE", "1").arg(rootfs).arg(program);
    command
}

/// Runs a line of Python in the environment of an image; what it prints.
pub(crate) fn python(rootfs: &Path, code: &str) -> Result<String> {
    programs::text(chroot(rootfs, "/opt/venv/bin/python").args(["-c", code]))
}

/// Makes the checks.
pub(crate) fn check(rootfs: &Path, checks: &mut Checks) {
    checks.check("torch computes", || {
        same("the sum", python(rootfs, "import torch; print(torch.ones(3).sum())")?.as_str(), "tensor(3.)")
    });
    checks.check("packages can be imported", || import(rootfs, &packages::IMPORTS));
    checks.check("namespace packages are found", || {
        let code = format!(
            "from importlib.util import find_spec; print([name for name in {:?} if not find_spec(name)])",
            packages::IN_NAMESPACES
        );
        same("the list of those that are not", python(rootfs, &code)?.as_str(), "[]")
    });
    checks.check("a file with a name that is not ASCII is found", || {
        let code = "from countryinfo import CountryInfo; print(CountryInfo('Cura\u{e7}ao').capital())";
        same("the capital", python(rootfs, code)?.as_str(), "Willemstad")
    });
    checks.check("Python finds what is installed and where", || {
        let code =
            "import importlib.metadata as m, sys; print(sys.prefix, m.version('torch'), len(m.files('torch')) > 9999)";
        same("the answer", python(rootfs, code)?.as_str(), "/opt/venv 2.11.0 True")
    });
    for (script, arguments, expected) in SCRIPTS {
        checks.check(&format!("the script {script} runs"), || {
            let printed = programs::text(chroot(rootfs, &format!("/opt/venv/bin/{script}")).args(arguments))?;
            match printed.starts_with(expected) {
                true => Ok(()),
                false => Err(format!("it printed `{printed}` rather than `{expected}...`").into()),
            }
        });
    }
}

/// Imports modules, all in one process.
pub(crate) fn import(rootfs: &Path, modules: &[&str]) -> Result<()> {
    let code = format!("import {}; print('imported')", modules.join(", "));
    same("the answer", python(rootfs, &code)?.as_str(), "imported")
}
