//! GPU code: what kiln lists in real libraries is what NVIDIA's own `cuobjdump` lists, for every architecture.
//!
//! The libraries are those of wheels that are in use: CUDA 13's, torch, and others whose GPU code was put in by other
//! means. `cuobjdump` comes as a wheel too. It looks into the sections for regions alone and does not tell of the suffix
//! `f`, so that kiln's list is read in the same way here.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::process::Command;

use serde::Deserialize;

use super::report::{Checks, same};
use super::{Result, Suite, programs};

/// Wheels for x86-64, by requirement.
const WHEELS: [&str; 12] = [
    "nvidia-cublas==13.1.0.3",
    "nvidia-cudnn-cu13==9.19.0.56",
    "nvidia-cufft==12.0.0.61",
    "nvidia-curand==10.4.0.35",
    "nvidia-cusolver==12.0.4.66",
    "nvidia-cusparse==12.6.3.3",
    "nvidia-cusparselt-cu13==0.8.0",
    "nvidia-nccl-cu13==2.28.9",
    "nvidia-nvshmem-cu13==3.4.5",
    "torch==2.11.0",
    "onnxruntime-gpu==1.23.2",
    "bitsandbytes==0.49.2",
];
/// Wheels for aarch64.
const FOREIGN: [&str; 1] = ["nvidia-nccl-cu13==2.28.9"];
const CUOBJDUMP: &str = "nvidia-cuda-cuobjdump";
/// Libraries with GPU code that must at least have been compared.
const LEAST: usize = 20;
/// Sections that `cuobjdump` looks into.
const SECTIONS: [&str; 2] = [".nv_fatbin", "__nv_relfatbin"];

#[derive(Deserialize)]
struct Document {
    files: Vec<File>,
}

#[derive(Deserialize)]
struct File {
    file: PathBuf,
    listing: Option<Listing>,
}

#[derive(Deserialize)]
struct Listing {
    code: Vec<Code>,
    malformed: Vec<String>,
}

#[derive(Deserialize)]
struct Code {
    place: String,
    groups: Vec<Group>,
}

#[derive(Deserialize)]
struct Group {
    architecture: Option<String>,
    kind: String,
    entries: u64,
}

/// Entries for each architecture, as `cuobjdump` writes it: `sm_90a.cubin`, `sm_90.ptx`.
type Counts = BTreeMap<String, u64>;

/// Makes the checks.
pub(crate) fn check(suite: &Suite, checks: &mut Checks) {
    let at = suite.work.join("gpu-code");
    let Some(cuobjdump) = checks.check("wheels with GPU code and cuobjdump come", || fetch(&at)) else { return };
    let listed = checks.check("kiln lists the GPU code of the wheels", || list(suite, &at));
    if let Some(listed) = listed {
        checks.check("no library has a place that kiln cannot read", || all_read(&listed));
        checks.check("kiln and cuobjdump count the same for every architecture", || compare(&cuobjdump, &listed));
    }
    suite.remove("gpu-code");
}

/// Fetches and unpacks wheels; where cuobjdump is.
fn fetch(at: &Path) -> Result<PathBuf> {
    let here = [
        "manylinux_2_28_x86_64",
        "manylinux_2_27_x86_64",
        "manylinux_2_24_x86_64",
        "manylinux_2_18_x86_64",
        "manylinux2014_x86_64",
    ];
    let foreign = ["manylinux_2_18_aarch64", "manylinux2014_aarch64"];
    let unpacked = at.join("unpacked");
    for (requirements, platforms, name) in [
        (&WHEELS[..], &here[..], "x86-64"),
        (&FOREIGN[..], &foreign[..], "aarch64"),
        (&[CUOBJDUMP][..], &here[..], "tools"),
    ] {
        let wheels = at.join("wheels").join(name);
        let mut pip = Command::new("python3");
        pip.args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary",
            ":all:",
            "--python-version",
            "3.11",
        ]);
        pip.args(platforms.iter().flat_map(|platform| ["--platform", platform]));
        programs::output(pip.arg("--dest").arg(&wheels).args(requirements))?;
        for wheel in fs_err::read_dir(&wheels)? {
            let wheel = wheel?.path();
            let into = if name == "tools" { at.join(name) } else { unpacked.join(name) };
            programs::output(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(&wheel).arg(&into))?;
            fs_err::remove_file(wheel)?;
        }
    }
    let found = at.join("tools/nvidia");
    let program = fs_err::read_dir(&found)?.filter_map(|entry| Some(entry.ok()?.path().join("bin/cuobjdump")));
    let program = program.into_iter().find(|path| path.is_file()).ok_or("the wheel has no cuobjdump")?;
    fs_err::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(program)
}

fn list(suite: &Suite, at: &Path) -> Result<Vec<File>> {
    let document: Document = programs::json(suite.kiln(at).args(["--json", "inspect"]).arg(at.join("unpacked")))?;
    let files = document.files;
    same("whether there are enough libraries", files.len() >= LEAST, true).map(|()| files)
}

fn all_read(files: &[File]) -> Result<()> {
    for file in files {
        let listing = file.listing.as_ref().ok_or_else(|| format!("{} cannot be listed", file.file.display()))?;
        if let Some(problem) = listing.malformed.first() {
            return Err(format!("{}: {problem}", file.file.display()).into());
        }
    }
    Ok(())
}

fn compare(cuobjdump: &Path, files: &[File]) -> Result<()> {
    let mut compared = 0;
    for file in files {
        let Some(listing) = &file.listing else { continue };
        if let Some(theirs) = dumped(cuobjdump, &file.file)? {
            same(
                &format!("what is in {}", file.file.display()),
                format!("{:?}", counts(listing)),
                format!("{theirs:?}"),
            )?;
            compared += 1;
        }
    }
    same("whether enough libraries were compared", compared >= LEAST, true)
}

/// What cuobjdump lists; nothing where it gives up, as it does with code for GPUs that its release has forgotten.
fn dumped(cuobjdump: &Path, file: &Path) -> Result<Option<Counts>> {
    let mut counts = Counts::new();
    for option in ["-lelf", "-lptx"] {
        let output = Command::new(cuobjdump).args(["-all", option]).arg(file).output()?;
        if String::from_utf8_lossy(&output.stderr).contains("Invalid ELF") {
            return Ok(None);
        }
        for line in String::from_utf8_lossy(&output.stdout).lines() {
            if let Some((_, architecture)) = line.rsplit_once(".sm_") {
                *counts.entry(format!("sm_{architecture}")).or_default() += 1;
            }
        }
    }
    Ok(Some(counts))
}

fn counts(listing: &Listing) -> Counts {
    let mut counts = Counts::new();
    let groups =
        listing.code.iter().filter(|code| SECTIONS.contains(&code.place.as_str())).flat_map(|code| &code.groups);
    for group in groups {
        let ending = match group.kind.as_str() {
            "ptx" => "ptx",
            "cubin" => "cubin",
            _ => continue,
        };
        let name = group.architecture.as_deref().unwrap_or("?").replace("compute_", "sm_");
        *counts.entry(format!("{}.{ending}", name.trim_end_matches('f'))).or_default() += group.entries;
    }
    counts
}
