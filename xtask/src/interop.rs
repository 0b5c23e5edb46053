//! `cargo xtask interop`: images made by kiln, seen through other people's programs.
//!
//! kiln writes layers that no installer ran for and that no container runtime packed. Whether they are what everybody
//! else takes them for is not for kiln's own tests to say: here skopeo and umoci read them, uv installs the same wheels
//! the usual way and the two results are compared file by file, and Python runs in what was unpacked. A registry and a
//! Docker daemon run on this machine alone, and images go to and fro between them and kiln. What Docker, buildah, podman,
//! umoci and containerd write and read is compared with what kiln does, every path of every image under each of them with
//! kiln's own picture, and what git and Docker leave out with kiln's ignore files. GPU code that kiln lists and
//! cuts is looked at with NVIDIA's tools, binutils, elfutils and the dynamic loader, and what kiln says of links with ldd.
//!
//! Made for Debian 12 on x86-64, as root (owners, `chroot`, containers), with Debian's archive and PyPI in reach and
//! nothing else. What is missing of other people's programs is installed with apt-get; uv is the one that kiln finds or
//! installs for itself. Everything else happens in a directory that is removed at the end.

mod awkward_wheel;
mod base;
mod base_packages;
mod commands;
mod confined;
mod copied;
mod debian;
mod differences;
mod docker26;
mod elsewhere;
mod environments;
mod foreign;
mod foreign_data;
mod frameworks;
mod gpu_code;
mod gpu_set;
mod gpu_wheels;
mod hostile_wheels;
mod ignored;
mod kernels;
mod links;
mod networked;
mod packages;
pub(crate) mod programs;
mod projects;
mod pruned;
mod registries;
pub(crate) mod report;
mod reproducible;
mod requirements;
mod running;
mod runtimes;
mod seen;
mod stack;
mod tiers;
mod torch_index;
mod transports;
mod tree;
mod unpacked;
mod uv;
mod zstd;

use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};

use clap::{Args, ValueEnum};

pub(crate) use gpu_wheels::{cuobjdump, is_torch, unpack, wheels};
pub(crate) use programs::build_kiln;
pub(crate) use pruned::Report as PruneReport;
use report::Checks;
pub(crate) use report::{eprint as complain, say};

/// A result whose error is for people to read.
type Result<T> = std::result::Result<T, Box<dyn std::error::Error + Send + Sync>>;

/// Check images made by kiln with skopeo, umoci, uv, Docker and a registry
#[derive(Debug, Args)]
pub(crate) struct Interop {
    /// Leave the directory with everything that was made: 35 GB
    #[arg(long)]
    keep: bool,
    /// Use this store of kiln rather than a fresh one, which saves downloading while the suite itself is worked on
    #[arg(long, value_name = "DIR")]
    store: Option<PathBuf>,
    /// Check this program rather than building one
    #[arg(long, value_name = "FILE")]
    kiln: Option<PathBuf>,
    /// Run the campaigns beside BuildKit in full, and compare large images under every runtime too
    #[arg(long)]
    long: bool,
    /// Only this part of the checks
    #[arg(long, value_name = "PART")]
    only: Option<Part>,
}

/// A part of the checks.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Images that kiln builds and writes to this machine
    Images,
    /// Images that go to registries and come from them
    Registries,
    /// Documents, archives, credentials and networks of other programs
    Foreign,
    /// GPU code in libraries: listed and cut
    GpuCode,
    /// GPU code in the wheels of many makers, beside cuobjdump of two releases: 30 GB to download; only where asked for
    GpuSet,
    /// What the dynamic loader finds for the programs of this system
    Links,
    /// Ignore files by git's rules and by Docker's
    Ignored,
    /// Images under every runtime, path by path
    Runtimes,
    /// Copies beside BuildKit's
    Copied,
    /// Commands of images beside BuildKit's, as root and as an ordinary user
    Commands,
    /// Debian bases beside mmdebstrap's, and packages of the distribution beside apt's
    Debian,
    /// Copies from other images beside BuildKit's, and from repositories beside git's
    Elsewhere,
    /// kiln in containers and on machines where sandboxes are forbidden
    Confined,
    /// Requirements files as pip reads them, and foreign code that must not run while packages are chosen
    Requirements,
    /// Test data of pip, uv and `packaging`, and variations of it, beside pip and `packaging`
    ForeignData,
    /// The environment of an image beside one that pip filled
    Environments,
    /// Images over a base's own packages beside what pip makes of the base
    BasePackages,
    /// Builds of torch for the CUDA release of a stack
    TorchIndex,
    /// Images over a base that has its own build of torch: 3 GB to download; with `--long`, or where asked for
    Frameworks,
}

/// What the checks work with.
struct Suite {
    /// Everything that is made lies in it.
    work: PathBuf,
    /// The program under test.
    kiln: PathBuf,
    /// Its store.
    store: PathBuf,
    /// Whether everything that is made stays.
    keep: bool,
    /// Campaigns are run in full.
    long: bool,
}

impl Interop {
    /// Runs everything; the status says whether all checks passed.
    pub(crate) fn run(&self) -> ExitCode {
        let mut checks = Checks::default();
        if let Some(suite) = checks.check("the suite has what it needs", || self.prepare()) {
            let wanted = |part: Part| self.only.is_none_or(|only| only == part);
            if wanted(Part::Images) {
                suite.check(&mut checks);
            }
            if wanted(Part::Registries) {
                registries::check(&suite, &mut checks);
            }
            if wanted(Part::Foreign) {
                foreign::check(&suite, &mut checks);
            }
            if wanted(Part::GpuCode) {
                gpu_code::check(&suite, &mut checks);
            }
            if self.only == Some(Part::GpuSet) {
                gpu_set::check(&suite, &mut checks);
            }
            if self.only == Some(Part::Frameworks) || self.long && wanted(Part::Frameworks) {
                frameworks::check(&suite, &mut checks);
            }
            if wanted(Part::Links) {
                links::check_system(&mut checks);
            }
            if wanted(Part::Ignored) {
                ignored::check(&suite, &mut checks);
            }
            if wanted(Part::Runtimes) {
                runtimes::check(&suite, &mut checks);
            }
            if wanted(Part::Copied) {
                copied::check(&suite, &mut checks);
            }
            if wanted(Part::Commands) {
                commands::check(&suite, &mut checks);
            }
            if wanted(Part::Debian) {
                debian::check(&suite, &mut checks);
            }
            if wanted(Part::Elsewhere) {
                elsewhere::check(&suite, &mut checks);
            }
            if wanted(Part::Confined) {
                confined::check(&suite, &mut checks);
            }
            if wanted(Part::Environments) {
                environments::check(&suite, &mut checks);
            }
            if wanted(Part::BasePackages) {
                base_packages::check(&suite, &mut checks);
            }
            if self.only == Some(Part::TorchIndex) {
                torch_index::check(&suite, &mut checks);
            }
            if wanted(Part::Requirements) {
                requirements::check(&suite, &mut checks);
                projects::check(&suite, &mut checks);
                torch_index::check(&suite, &mut checks);
            }
            if wanted(Part::ForeignData) {
                foreign_data::check(&suite, &mut checks);
            }
            suite.remove("");
            if self.keep {
                report::eprint(&format!("kept {}", suite.work.display()));
            }
        }
        if checks.summary() { ExitCode::SUCCESS } else { ExitCode::FAILURE }
    }

    fn prepare(&self) -> Result<Suite> {
        programs::install_missing()?;
        let (target, kiln) = match &self.kiln {
            Some(kiln) => (programs::target()?, fs_err::canonicalize(kiln)?),
            None => programs::build_kiln()?,
        };
        let work = tempfile::Builder::new().prefix("interop-").tempdir_in(target)?.keep();
        let store = self.store.clone().unwrap_or_else(|| work.join("store"));
        Ok(Suite { work, kiln, store, keep: self.keep, long: self.long })
    }
}

impl Suite {
    fn check(&self, checks: &mut Checks) {
        let Some(built) = checks.check("kiln builds the stack", || stack::build(self)) else {
            return;
        };
        transports::check(self, &built, checks);
        if let Some(rootfs) = unpacked::check(self, &built, checks) {
            uv::check(self, &built, &rootfs, checks);
            running::check(&rootfs, checks);
            self.remove("torch");
        }
        let awkward = checks.check("umoci unpacks the image without torch", || {
            unpacked::unpack(&built.layout, "awkward", &self.work.join("awkward"))
        });
        if let Some(awkward) = awkward {
            zstd::check(self, &built, &awkward, checks);
            tiers::check(self, &built, &awkward, checks);
        }
        hostile_wheels::check(self, &built, checks);
        reproducible::check(self, checks);
        let names = |names: &[&str]| names.iter().map(|name| (*name).to_owned()).collect();
        // torch, five times unpacked, takes 30 GB and ten minutes.
        let is_looked_at = |name: &String| self.long || name != "torch";
        let layouts = [
            (built.layout, built.images.into_iter().map(|image| image.name).filter(is_looked_at).collect()),
            (self.work.join("tiers/layout"), names(&["first", "second"])),
            (self.work.join("reproducible/project/layout"), names(&["lower", "upper"])),
        ];
        runtimes::compare(self, &layouts, checks);
    }

    /// kiln with its store, in the directory of a stack.
    fn kiln(&self, project: &Path) -> Command {
        let mut command = Command::new(&self.kiln);
        command.arg("--store").arg(&self.store).current_dir(project);
        command
    }

    /// Removes what is not needed any more: images take gigabytes.
    fn remove(&self, name: &str) {
        if self.keep {
            return;
        }
        if let Err(error) = fs_err::remove_dir_all(self.work.join(name)) {
            report::eprint(&format!("it stays: {error}"));
        }
    }

    /// Builds the stack of a directory.
    fn build(&self, project: &Path, arguments: &[&str]) -> Result<Vec<stack::Image>> {
        stack::images(self.kiln(project).args(["--json", "build"]).args(arguments))
    }
}
