//! Measuring a process: wall time, processor time, peak memory.

use std::path::Path;
use std::process::{Command, Stdio};

use serde::Serialize;

/// What one run took.
#[derive(Debug, Clone, Copy, PartialEq, Serialize)]
pub(crate) struct Sample {
    /// Seconds from start to end.
    pub(crate) wall: f64,
    /// Seconds of processor time, of all threads and children.
    pub(crate) cpu: f64,
    /// Peak resident memory of the largest process, in bytes.
    pub(crate) peak: u64,
}

/// What several runs of the same took.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    /// What was measured.
    pub(crate) name: String,
    /// Every run.
    pub(crate) samples: Vec<Sample>,
    /// Median of the wall times, in seconds.
    pub(crate) median: f64,
    /// Median of the processor times, in seconds.
    pub(crate) cpu: f64,
    /// The highest peak, in bytes.
    pub(crate) peak: u64,
}

impl Figure {
    pub(crate) fn new(name: &str, samples: Vec<Sample>) -> Self {
        Self {
            name: name.to_owned(),
            median: median(samples.iter().map(|sample| sample.wall).collect()),
            cpu: median(samples.iter().map(|sample| sample.cpu).collect()),
            peak: samples.iter().map(|sample| sample.peak).max().unwrap_or(0),
            samples,
        }
    }
}

fn median(mut values: Vec<f64>) -> f64 {
    values.sort_by(f64::total_cmp);
    match values.len() {
        0 => 0.0,
        count if count % 2 == 1 => values[count / 2],
        count => (values[count / 2 - 1] + values[count / 2]) / 2.0,
    }
}

/// Runs a shell command line in a directory under GNU time; an error holds the end of what it said.
pub(crate) fn timed(directory: &Path, line: &str) -> Result<Sample, String> {
    let report = tempfile::NamedTempFile::new().map_err(|error| error.to_string())?;
    let output = Command::new("/usr/bin/time")
        .args(["--quiet", "-f", "%e %U %S %M", "-o"])
        .arg(report.path())
        .args(["bash", "-o", "pipefail", "-e", "-c", line])
        .current_dir(directory)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| format!("/usr/bin/time cannot be run ({error}): `apt-get install time`"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let end: Vec<&str> = said.lines().rev().take(15).collect();
        return Err(format!("`{line}` failed:\n{}", end.into_iter().rev().collect::<Vec<_>>().join("\n")));
    }
    let text = fs_err::read_to_string(report.path()).map_err(|error| error.to_string())?;
    let numbers: Vec<f64> = text.split_whitespace().filter_map(|word| word.parse().ok()).collect();
    match numbers.as_slice() {
        [wall, user, system, kilobytes] => {
            Ok(Sample { wall: *wall, cpu: user + system, peak: (*kilobytes as u64) * 1024 })
        }
        _ => Err(format!("GNU time wrote `{}`", text.trim())),
    }
}

/// Runs a shell command line that is not measured.
pub(crate) fn run(directory: &Path, line: &str) -> Result<(), String> {
    timed(directory, line).map(|_| ())
}

/// Whether a program is on `PATH`.
pub(crate) fn has(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|directory| directory.join(program).is_file())
}
