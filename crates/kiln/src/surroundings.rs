//! What comes from outside: the environment, the home directory, the processors. Only the command line looks at it.

use std::ffi::OsString;
use std::path::{Path, PathBuf};
use std::process::Command;

use kiln_build::{Netrc, Surroundings};

use crate::arguments::Global;
use crate::render::Failure;

/// The store's directory: what was said, else `kiln` below the XDG cache directory.
pub(crate) fn store_directory(global: &Global) -> Result<PathBuf, Failure> {
    if let Some(store) = &global.store {
        return Ok(store.clone());
    }
    let absolute = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    absolute("XDG_CACHE_HOME")
        .or_else(|| absolute("HOME").map(|home| home.join(".cache")))
        .map(|cache| cache.join("kiln"))
        .ok_or_else(|| {
            Failure::usage("there is no home directory to keep the store in").hint("say where: `--store DIR`")
        })
}

/// Everything that a build works with and no file says.
pub(crate) fn surroundings(global: &Global, native: bool) -> Result<Surroundings, Failure> {
    Ok(Surroundings {
        environment: std::env::vars_os().collect(),
        netrc: netrc(),
        jobs: jobs(global),
        offline: global.offline,
        created: created(std::env::var_os("SOURCE_DATE_EPOCH"))?,
        native_gpus: if native { native_gpus() } else { Vec::new() },
    })
}

fn jobs(global: &Global) -> usize {
    global.jobs.map_or_else(|| std::thread::available_parallelism().map_or(1, usize::from), usize::from)
}

/// The time that images are said to be made at (reproducible-builds.org, "SOURCE_DATE_EPOCH").
fn created(variable: Option<OsString>) -> Result<u64, Failure> {
    let Some(value) = variable.filter(|value| !value.is_empty()) else { return Ok(kiln_oci::FILE_TIME) };
    let seconds = value.to_str().and_then(|text| text.parse().ok()).filter(|seconds| *seconds < 253_402_300_800);
    seconds.ok_or_else(|| {
        Failure::usage(format!("`SOURCE_DATE_EPOCH` is `{}`", value.display()))
            .hint("it is a number of seconds since 1970")
    })
}

fn netrc() -> Netrc {
    let file = std::env::var_os("NETRC").map(PathBuf::from);
    let file = file.or_else(|| std::env::var_os("HOME").map(|home| Path::new(&home).join(".netrc")));
    let text = file.and_then(|file| fs_err::read_to_string(file).ok());
    text.map(|text| Netrc::parse(&text)).unwrap_or_default()
}

/// The capabilities of this machine's GPUs, as the driver's own tool tells them.
fn native_gpus() -> Vec<String> {
    let asked = Command::new("nvidia-smi").args(["--query-gpu=compute_cap", "--format=csv,noheader"]).output();
    let Ok(output) = asked else { return Vec::new() };
    let text = String::from_utf8_lossy(&output.stdout);
    let mut found: Vec<String> = text.lines().map(|line| line.trim().to_owned()).collect();
    found.retain(|capability| capability.parse::<kiln_plan::gpu::Capability>().is_ok());
    found.sort();
    found.dedup();
    found
}
