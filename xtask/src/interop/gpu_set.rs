//! A set of wheels of many makers: what kiln lists is what NVIDIA's `cuobjdump` lists, file by file, and how much of their GPU
//! code can be cut.
//!
//! The wheels are those of `gpu_set.txt`, fetched one after the other and removed at once: 30 GB in all, 8 GB at a time. They
//! have code of CUDA 11 to 13. cuobjdump 13 gives up where code is for GPUs that its release has forgotten, and the one of
//! CUDA 12, which Triton brought, is asked then. It is asked of loose cubins too, for their suffix.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use kiln_fatbin::{Decision, Selection, list, prune};
use kiln_plan::parallel;

use super::gpu_code::{self, File};
use super::gpu_wheels::{self, tool};
use super::report::{Checks, same, say};
use super::{Result, Suite, kernels};

/// Wheels, one a line: maker, requirement, and where they are not for CPython 3.11 on x86-64, the version and the machine.
const SET: &str = include_str!("gpu_set.txt");
/// The last Triton with the cuobjdump of CUDA 12.
const WITH_CUOBJDUMP: &str = "triton==3.0.0";
/// Wheels and makers that there must be, and files whose kernels are compared.
const WHEELS: usize = 60;
const MAKERS: usize = 30;
const FILES: u64 = 20;
/// Bytes of the largest file whose kernels are compared: cuobjdump takes minutes for more.
const LARGEST: u64 = 100 << 20;
/// Loose cubins of a wheel that are compared.
const LOOSE: usize = 200;
/// The share of stored code that can be cut.
const SHARE: f64 = 0.96;

/// Programs of both releases.
struct Cuobjdump {
    cuda_13: PathBuf,
    cuda_12: PathBuf,
}

/// Counts over wheels.
#[derive(Debug, Default)]
struct Sums {
    files: u64,
    loose: u64,
    /// Files that neither program can list.
    unlisted: u64,
    /// Files whose kernels were compared.
    kernels: u64,
    /// Bytes of stored code, and those that can be cut.
    stored: u64,
    cut: u64,
}

struct Line<'a> {
    maker: &'a str,
    requirement: &'a str,
    python: &'a str,
    machine: &'a str,
}

/// Makes the checks.
pub(crate) fn check(suite: &Suite, checks: &mut Checks) {
    let at = suite.work.join("gpu-set");
    let programs = checks.check("cuobjdump of CUDA 13 and of CUDA 12 come", || {
        let cuda_12 = tool(&at, WITH_CUOBJDUMP)?.join("triton/backends/nvidia/bin/cuobjdump");
        Ok(Cuobjdump { cuda_13: gpu_wheels::cuobjdump(&at)?, cuda_12: gpu_wheels::runnable(cuda_12)? })
    });
    let Some(programs) = programs else { return };
    let (mut sums, mut makers, mut wheels) = (Sums::default(), BTreeSet::new(), 0);
    for line in SET.lines().filter(|line| !line.starts_with('#')).filter_map(Line::read) {
        let name = format!("{} is listed as cuobjdump lists it", line.requirement);
        let own = checks.check(&name, || one(suite, &at.join("wheel"), &programs, &line));
        _ = fs_err::remove_dir_all(at.join("wheel"));
        if let Some(own) = own {
            sums.add(&own);
            makers.insert(line.maker);
            wheels += 1;
        }
    }
    say(&format!("{wheels} wheels of {} makers; {sums:?}", makers.len()));
    checks.check("every file was compared", || same("files that neither cuobjdump lists", sums.unlisted, 0));
    checks.check("the set has enough wheels, makers and kernels", || {
        same("the set is large enough", wheels >= WHEELS && makers.len() >= MAKERS && sums.kernels >= FILES, true)
    });
    checks.check("enough of the stored code can be cut", || {
        let share = sums.cut as f64 / sums.stored as f64;
        if share < SHARE { Err(format!("{:.1}% can be cut", share * 100.0).into()) } else { Ok(()) }
    });
    suite.remove("gpu-set");
}

impl<'a> Line<'a> {
    fn read(line: &'a str) -> Option<Self> {
        let mut words = line.split_whitespace();
        let (maker, requirement) = (words.next()?, words.next()?);
        Some(Self {
            maker,
            requirement,
            python: words.next().unwrap_or("3.11"),
            machine: words.next().unwrap_or("x86_64"),
        })
    }
}

impl Sums {
    fn add(&mut self, other: &Self) {
        self.files += other.files;
        self.loose += other.loose;
        self.unlisted += other.unlisted;
        self.kernels += other.kernels;
        self.stored += other.stored;
        self.cut += other.cut;
    }
}

fn one(suite: &Suite, at: &Path, programs: &Cuobjdump, line: &Line<'_>) -> Result<Sums> {
    let unpacked = at.join("unpacked");
    for wheel in gpu_wheels::download_for(&at.join("wheels"), line.python, line.machine, line.requirement)? {
        gpu_wheels::unpack(&wheel, &unpacked)?;
        fs_err::remove_file(wheel)?;
    }
    let files = gpu_code::inspect(suite, &unpacked)?;
    let shared: Vec<&File> = files.iter().filter(|file| file.is_shared_object_with_sections()).collect();
    let loose = files.iter().filter(|file| file.is_loose());
    let all: Vec<&File> = shared.iter().copied().chain(loose.take(LOOSE)).collect();
    let cores = std::thread::available_parallelism().map_or(1, usize::from);
    let mut sums = Sums::default();
    for own in parallel::each(&all, cores, |file| compare(programs, file))? {
        sums.add(&own);
    }
    for file in &files {
        let (stored, cut) = bytes(&file.file)?;
        sums.stored += stored;
        sums.cut += cut;
    }
    same("a file with GPU code is in the wheel", files.is_empty(), false)?;
    Ok(sums)
}

/// Compares a file; an error where the two differ.
fn compare(programs: &Cuobjdump, file: &File) -> Result<Sums> {
    let mut sums = Sums::default();
    let Some(listing) = &file.listing else { return Err(format!("{} cannot be listed", file.file.display()).into()) };
    let mut theirs = None;
    let both = [programs.cuda_13.as_path(), programs.cuda_12.as_path()];
    for program in both {
        // It may also list nothing without a word.
        theirs = theirs.or(gpu_code::dumped(program, &file.file)?.filter(|counts| !counts.is_empty()));
    }
    let Some(theirs) = theirs else {
        sums.unlisted += 1;
        return Ok(sums);
    };
    let ours = if file.is_loose() { gpu_code::counts_of_all(listing) } else { gpu_code::counts(listing) };
    same(&format!("the code of {}", file.file.display()), format!("{ours:?}"), format!("{theirs:?}"))?;
    if file.is_loose() {
        sums.loose += 1;
        return Ok(sums);
    }
    sums.files += 1;
    let size = fs_err::metadata(&file.file)?.len();
    if size <= LARGEST && kernels::compare_one(&both, &file.file)? {
        sums.kernels += 1;
    }
    Ok(sums)
}

/// Bytes of stored code of a file, and those that go where no GPU in use is wanted.
fn bytes(path: &Path) -> Result<(u64, u64)> {
    let file = fs_err::File::open(path)?;
    let stored = list(&file)?.map_or(0, |listing| listing.code.iter().map(|code| code.bytes).sum());
    // A GPU that no code in use is for: what stays is what is not understood, or is for the linker.
    let selection = Selection { gpus: vec!["3.0".parse()?], keep_ptx: false, drop_relocatable: true };
    let cut = match prune(&file, &selection)? {
        Decision::Rewrite(rewrite) => rewrite.code.iter().map(|code| code.before - code.after).sum(),
        // A wheel leaves it out.
        Decision::Loose(..) => stored,
        Decision::NoCode | Decision::Stays { .. } | Decision::Refused(_) => 0,
    };
    Ok((stored, cut))
}
