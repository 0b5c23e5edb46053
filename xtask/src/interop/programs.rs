//! Programs that the suite runs: found, installed, run.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::de::DeserializeOwned;

use super::Result;
use super::report::eprint;

/// Programs, and the Debian packages that bring them.
const NEEDED: [(&str, &str); 19] = [
    ("buildah", "buildah"),
    ("busybox", "busybox-static"),
    ("containerd", "containerd"),
    ("crun", "crun"),
    ("curl", "curl"),
    ("docker-registry", "docker-registry"),
    ("dockerd", "docker.io"),
    ("eu-elflint", "elfutils"),
    ("git", "git"),
    ("git-lfs", "git-lfs"),
    ("htpasswd", "apache2-utils"),
    ("mmdebstrap", "mmdebstrap"),
    ("newuidmap", "uidmap"),
    ("openssl", "openssl"),
    ("podman", "podman"),
    ("readelf", "binutils"),
    ("skopeo", "skopeo"),
    ("umoci", "umoci"),
    ("zstd", "zstd"),
];
/// Lines of a program's messages that an error repeats.
const REPEATED: usize = 15;

/// A program on `PATH`.
pub(crate) fn find(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|directory| directory.join(name)).find(|path| path.is_file())
}

/// Installs what is missing.
pub(crate) fn install_missing() -> Result<()> {
    let missing: Vec<&str> =
        NEEDED.iter().filter(|(program, _)| find(program).is_none()).map(|(_, package)| *package).collect();
    if missing.is_empty() {
        return Ok(());
    }
    eprint(&format!("installing {}", missing.join(", ")));
    let apt = || {
        let mut command = Command::new("apt-get");
        command.env("DEBIAN_FRONTEND", "noninteractive").arg("--yes");
        command
    };
    output(apt().arg("update"))?;
    output(apt().args(["install", "--no-install-recommends"]).args(missing))?;
    Ok(())
}

/// Builds the product as it is released; cargo's target directory and the program.
pub(crate) fn build_kiln() -> Result<(PathBuf, PathBuf)> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.args(["build", "--release", "--package", "kiln"]).current_dir(workspace());
    if !build.stdout(Stdio::null()).status()?.success() {
        return Err("kiln cannot be built".into());
    }
    let target = target()?;
    let program = target.join("release/kiln");
    Ok((target, program))
}

/// cargo's target directory.
pub(crate) fn target() -> Result<PathBuf> {
    let said = std::env::var_os("CARGO_TARGET_DIR").unwrap_or_else(|| "target".into());
    Ok(fs_err::canonicalize(workspace().join(said))?)
}

fn workspace() -> &'static Path {
    Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap_or(Path::new("."))
}

/// Runs a program to its end; what it wrote to stdout, or an error with the end of what it wrote to stderr.
pub(crate) fn output(command: &mut Command) -> Result<Vec<u8>> {
    let said = format!("{command:?}");
    let output = command.stdin(Stdio::null()).output().map_err(|error| format!("{said}: {error}"))?;
    if output.status.success() {
        return Ok(output.stdout);
    }
    let stderr = String::from_utf8_lossy(&output.stderr);
    let lines: Vec<&str> = stderr.lines().filter(|line| !line.trim().is_empty()).collect();
    let last = lines[lines.len().saturating_sub(REPEATED)..].join("\n    ");
    Err(format!("{said}: {}\n    {last}", output.status).into())
}

/// What a program writes to stdout, as text.
pub(crate) fn text(command: &mut Command) -> Result<String> {
    Ok(String::from_utf8(output(command)?)?.trim_end().to_owned())
}

/// What a program writes to stdout, as JSON.
pub(crate) fn json<T: DeserializeOwned>(command: &mut Command) -> Result<T> {
    Ok(serde_json::from_slice(&output(command)?)?)
}
