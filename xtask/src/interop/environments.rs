//! The environment of an image beside one that pip filled with the same wheels: pip, uv, `python -m venv`, and Python's own
//! modules must find the same in both, and be able to change it.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::report::{Checks, same};
use super::{Result, Suite, programs, running, stack, unpacked};

/// Wheels of every kind that concerns an environment: scripts, entry points, namespaces, extras, data, machine code, and pip.
const PACKAGES: [&str; 12] = [
    "pip==25.3",
    "requests==2.32.3",
    "certifi==2025.1.31",
    "charset-normalizer==3.4.1",
    "idna==3.10",
    "urllib3==2.3.0",
    "rich==13.9.4",
    "markdown-it-py==3.0.0",
    "mdurl==0.1.2",
    "pygments==2.19.1",
    "docutils==0.20.1",
    "zope.interface==8.7",
];
/// A release to go to from one of them.
const OTHER: &str = "idna==3.9";

/// Tells everything that Python's modules find in an environment, with its prefix left out.
const TELL: &str = include_str!("environments/tell.py");

/// Makes the checks.
pub(crate) fn check(suite: &Suite, checks: &mut Checks) {
    let made = checks.check("pip fills an environment with the same wheels", || prepare(suite));
    let Some(rootfs) = made else { return };
    checks.check("Python finds the same as in an environment of pip", || both(&rootfs, &["-c", TELL]));
    checks.check("pip lists the same, and finds nothing wrong", || {
        both(&rootfs, &["-m", "pip", "list", "--format", "json", "--disable-pip-version-check"])?;
        both(&rootfs, &["-m", "pip", "check"])
    });
    checks.check("pip shows the same files", || {
        for package in ["rich", "docutils", "zope.interface", "pip"] {
            both(&rootfs, &["-m", "pip", "show", "--files", package])?;
        }
        Ok(())
    });
    checks.check("pip takes another release and removes a package", || {
        let offline = ["--quiet", "--no-index", "--find-links", "/wheels", "--root-user-action", "ignore"];
        for environment in ENVIRONMENTS {
            let pip = |arguments: &[&str]| {
                let mut command = running::chroot(&rootfs, &format!("{environment}/bin/python"));
                programs::output(command.args(["-m", "pip"]).args(arguments)).map(|_| ())
            };
            pip(&[&["install"], &offline[..], &[OTHER]].concat())?;
            pip(&["uninstall", "--quiet", "--yes", "--root-user-action", "ignore", "rich", "docutils"])?;
        }
        both(&rootfs, &["-c", TELL])
    });
    checks.check("`python -m venv` and its pip work from within", || {
        for environment in ENVIRONMENTS {
            let inner = format!("{environment}-inner");
            let mut make = running::chroot(&rootfs, &format!("{environment}/bin/python"));
            programs::output(make.args(["-m", "venv", "--without-pip", &inner]))?;
            let code =
                "import sys, sysconfig; print(sys.prefix != sys.base_prefix, sysconfig.get_paths()['purelib'][-40:])";
            let printed = programs::text(running::chroot(&rootfs, &format!("{inner}/bin/python")).args(["-c", code]))?;
            if !printed.starts_with("True ") {
                return Err(format!("in {inner}: {printed}").into());
            }
        }
        Ok(())
    });
    checks.check("uv lists, changes and removes as in an environment of pip", || with_uv(suite, &rootfs));
    suite.remove("environments");
}

/// The environment of the image, and the one that pip filled.
const ENVIRONMENTS: [&str; 2] = ["/opt/venv", "/opt/peer"];

/// Builds an image, unpacks it, and lets pip fill another environment in it.
fn prepare(suite: &Suite) -> Result<PathBuf> {
    let project = suite.work.join("environments");
    let packages = PACKAGES.iter().map(|package| format!("{package:?}")).collect::<Vec<_>>().join(", ");
    let text = format!(
        "[stack]\nname = \"environments\"\n\n[target]\nplatforms = [\"linux/amd64\"]\npython = \"3.11\"\n\n[images.a]\n\
         from = {{ debian = \"bookworm\", include = [\"python3\", \"python3-venv\"] }}\npackages = [{packages}]\n"
    );
    stack::write(&project, &text)?;
    let layout = project.join("layout");
    suite.build(&project, &["--output", &format!("oci:{}", layout.display())])?;
    let rootfs = unpacked::unpack(&layout, "a", &project.join("bundle"))?;
    let wheels = rootfs.join("wheels");
    download(&wheels, &PACKAGES)?;
    download(&wheels, &[OTHER])?;
    // A chroot has no device to read random bytes from, and none to write into.
    programs::output(running::chroot(&rootfs, "/usr/bin/python3").args([
        "-m",
        "venv",
        "--without-pip",
        ENVIRONMENTS[1],
    ]))?;
    let peer = format!("{}/bin/python", ENVIRONMENTS[1]);
    let mut fill = running::chroot(&rootfs, "/opt/venv/bin/python");
    fill.args([
        "-m",
        "pip",
        "--python",
        &peer,
        "install",
        "--quiet",
        "--no-index",
        "--no-compile",
        "--find-links",
        "/wheels",
    ]);
    programs::output(fill.args(["--no-deps", "--root-user-action", "ignore"]).args(PACKAGES))?;
    Ok(rootfs)
}

/// Downloads exactly these wheels into a directory.
fn download(wheels: &Path, packages: &[&str]) -> Result<()> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-deps", "--only-binary", ":all:", "--python-version", "3.11"]);
    pip.args(["--disable-pip-version-check", "--dest"]).arg(wheels).args(packages);
    programs::output(&mut pip).map(|_| ())
}

/// Runs Python with these arguments in both environments; they must print the same.
fn both(rootfs: &Path, arguments: &[&str]) -> Result<()> {
    let told = |environment: &str| -> Result<String> {
        let mut python = running::chroot(rootfs, &format!("{environment}/bin/python"));
        let text = programs::text(python.args(arguments))?.replace(environment, "PREFIX");
        // pip marks what was asked for; wheels of kiln are the same whoever asks for them.
        Ok(text.lines().filter(|line| !line.ends_with("/REQUESTED")).map(|line| format!("{line}\n")).collect())
    };
    let [kiln, pip] = [told(ENVIRONMENTS[0])?, told(ENVIRONMENTS[1])?];
    if kiln == pip {
        return Ok(());
    }
    let differs = |(one, other): &(&str, &str)| one != other;
    let first = kiln.lines().zip(pip.lines()).find(differs).unwrap_or(("more", "less"));
    Err(format!("kiln's: {}\npip's: {}", first.0, first.1).into())
}

fn with_uv(suite: &Suite, rootfs: &Path) -> Result<()> {
    let uv = super::uv::program(suite)?;
    fs_err::copy(&uv, rootfs.join("uv"))?;
    for environment in ENVIRONMENTS {
        let python = format!("{environment}/bin/python");
        let run = |arguments: &[&str]| {
            let mut command = running::chroot(rootfs, "/uv");
            programs::text(command.args(["--no-cache", "--offline"]).args(arguments).args(["--python", &python]))
        };
        run(&["pip", "uninstall", "--quiet", "requests"])?;
        run(&["pip", "install", "--quiet", "--no-index", "--find-links", "/wheels", "--no-deps", "idna==3.10"])?;
    }
    let listed = |environment: &str| -> Result<String> {
        let mut command = running::chroot(rootfs, "/uv");
        let python = format!("{environment}/bin/python");
        programs::text(command.args([
            "--no-cache",
            "--offline",
            "pip",
            "list",
            "--format",
            "json",
            "--python",
            &python,
        ]))
    };
    same("the list of packages", listed(ENVIRONMENTS[0])?, listed(ENVIRONMENTS[1])?)?;
    both(rootfs, &["-c", TELL])
}
