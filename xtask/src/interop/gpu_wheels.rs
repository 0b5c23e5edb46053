//! Wheels with GPU code, fetched and unpacked: CUDA 13's, torch, and others whose GPU code was put in by other means.
//!
//! What torch loads besides comes with them, so that its libraries load and Python can import it from the place where
//! they are unpacked. Nothing is installed: a wheel for this interpreter lies unpacked as it lies installed.

use std::path::{Path, PathBuf};
use std::process::Command;

use super::{Result, programs};

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
/// What torch loads and imports besides: no GPU code is in it.
const COMPANIONS: [&str; 14] = [
    "nvidia-cuda-cupti==13.0.85",
    "nvidia-cuda-nvrtc==13.0.88",
    "nvidia-cuda-runtime==13.0.96",
    "nvidia-cufile==1.15.1.6",
    "nvidia-nvjitlink==13.0.88",
    "nvidia-nvtx==13.0.85",
    "filelock",
    "fsspec",
    "jinja2",
    "markupsafe",
    "mpmath",
    "networkx",
    "sympy",
    "typing-extensions",
];
/// Wheels for aarch64.
const FOREIGN: [&str; 1] = ["nvidia-nccl-cu13==2.28.9"];
const CUOBJDUMP: &str = "nvidia-cuda-cuobjdump";
const HERE: [&str; 9] = [
    "manylinux_2_28_x86_64",
    "manylinux_2_27_x86_64",
    "manylinux_2_25_x86_64",
    "manylinux_2_24_x86_64",
    "manylinux_2_18_x86_64",
    "manylinux_2_17_x86_64",
    "manylinux2014_x86_64",
    "manylinux2010_x86_64",
    "manylinux1_x86_64",
];
const THERE: [&str; 2] = ["manylinux_2_18_aarch64", "manylinux2014_aarch64"];
/// Directories of what is unpacked, by machine.
pub(crate) const X86_64: &str = "x86-64";
pub(crate) const AARCH64: &str = "aarch64";

/// What was fetched.
pub(crate) struct Wheels {
    /// Unpacked wheels, in a directory for each machine.
    pub(crate) unpacked: PathBuf,
    /// torch's wheel as it came.
    pub(crate) torch: PathBuf,
    /// Programs.
    pub(crate) cuobjdump: PathBuf,
    pub(crate) uv: PathBuf,
}

/// Fetches and unpacks wheels.
pub(crate) fn fetch(at: &Path) -> Result<Wheels> {
    let (unpacked, kept) = (at.join("unpacked"), at.join("wheels"));
    let here: Vec<&str> = WHEELS.into_iter().chain(COMPANIONS).collect();
    for (requirements, platforms, name) in [(&here[..], &HERE[..], X86_64), (&FOREIGN[..], &THERE[..], AARCH64)] {
        for wheel in download(&kept.join(name), platforms, requirements)? {
            unpack(&wheel, &unpacked.join(name))?;
            if !is_torch(&wheel) {
                fs_err::remove_file(wheel)?;
            }
        }
    }
    let torch = wheels(&kept.join(X86_64))?.into_iter().find(|wheel| is_torch(wheel)).ok_or("torch did not come")?;
    Ok(Wheels { unpacked, torch, cuobjdump: cuobjdump(at)?, uv: uv(at)? })
}

/// Fetches NVIDIA's cuobjdump.
pub(crate) fn cuobjdump(at: &Path) -> Result<PathBuf> {
    let tools = tool(at, CUOBJDUMP)?;
    let versions = fs_err::read_dir(tools.join("nvidia"))?;
    let mut programs = versions.filter_map(|entry| Some(entry.ok()?.path().join("bin/cuobjdump")));
    runnable(programs.find(|path| path.is_file()).ok_or("the wheel has no cuobjdump")?)
}

/// Fetches uv.
fn uv(at: &Path) -> Result<PathBuf> {
    let mut entries = fs_err::read_dir(tool(at, "uv")?)?.filter_map(|entry| Some(entry.ok()?.path()));
    let data = entries.find(|path| path.extension().is_some_and(|extension| extension == "data"));
    runnable(data.ok_or("the wheel has no uv")?.join("scripts/uv"))
}

/// Fetches and unpacks a wheel with a program; its directory.
pub(crate) fn tool(at: &Path, requirement: &str) -> Result<PathBuf> {
    let into = at.join("tools").join(requirement);
    for wheel in download(&at.join("wheels").join(requirement), &HERE, &[requirement])? {
        unpack(&wheel, &into)?;
    }
    Ok(into)
}

pub(crate) fn runnable(program: PathBuf) -> Result<PathBuf> {
    fs_err::set_permissions(&program, std::os::unix::fs::PermissionsExt::from_mode(0o755))?;
    Ok(program)
}

fn download(to: &Path, platforms: &[&str], requirements: &[&str]) -> Result<Vec<PathBuf>> {
    download_with(to, "3.11", platforms, requirements)
}

/// Fetches a wheel for a version of Python on a machine, of any of the platforms that wheels are for.
pub(crate) fn download_for(to: &Path, python: &str, machine: &str, requirement: &str) -> Result<Vec<PathBuf>> {
    let minors = [12, 17, 18, 24, 25, 26, 27, 28, 31, 34, 35, 39].map(|minor| format!("manylinux_2_{minor}"));
    let old = ["manylinux1", "manylinux2010", "manylinux2014", "linux"].map(str::to_owned);
    let platforms: Vec<String> = minors.into_iter().chain(old).map(|name| format!("{name}_{machine}")).collect();
    let platforms: Vec<&str> = platforms.iter().map(String::as_str).collect();
    download_with(to, python, &platforms, &[requirement])
}

fn download_with(to: &Path, python: &str, platforms: &[&str], requirements: &[&str]) -> Result<Vec<PathBuf>> {
    let mut pip = Command::new("python3");
    pip.args(["-m", "pip", "download", "--quiet", "--no-cache-dir", "--no-deps", "--only-binary", ":all:"]);
    pip.args(["--python-version", python]);
    pip.args(platforms.iter().flat_map(|platform| ["--platform", platform]));
    programs::output(pip.arg("--dest").arg(to).args(requirements))?;
    wheels(to)
}

/// Wheels that lie in a directory.
pub(crate) fn wheels(directory: &Path) -> Result<Vec<PathBuf>> {
    let mut wheels = Vec::new();
    for entry in fs_err::read_dir(directory)? {
        let path = entry?.path();
        if path.extension().is_some_and(|extension| extension == "whl") {
            wheels.push(path);
        }
    }
    wheels.sort();
    Ok(wheels)
}

/// Unpacks a wheel, as any zip archive.
pub(crate) fn unpack(wheel: &Path, into: &Path) -> Result<()> {
    programs::output(Command::new("python3").args(["-m", "zipfile", "-e"]).arg(wheel).arg(into))?;
    Ok(())
}

/// Whether a wheel is torch's.
pub(crate) fn is_torch(wheel: &Path) -> bool {
    wheel.file_name().is_some_and(|name| name.to_string_lossy().starts_with("torch-"))
}
