//! A stack as resolved: every value checked, variables replaced, groups unfolded, images in building order.

use std::collections::BTreeMap;

use pep508_rs::PackageName;

use crate::base::BaseFacts;
use crate::diagnostic::Span;
use crate::gpu::{Architecture, CudaRelease, GpuNames};
use crate::platform::Platform;
use crate::public_key::PublicKey;
use crate::reference::{Reference, Repository};

/// A stack file whose every value is known to be right.
#[derive(Debug, Clone)]
pub struct Stack {
    /// A component of image references.
    pub name: String,
    /// What everything is built for.
    pub target: Target,
    /// Where Python packages come from.
    pub index: Index,
    /// What machines share with one another.
    pub cache: Option<Cache>,
    /// Wheels compiled from source, by normalised name.
    pub recipes: BTreeMap<PackageName, Recipe>,
    /// The images; each stands after the one it is built from.
    pub images: Vec<Image>,
}

impl Stack {
    /// The image of this name.
    pub fn image(&self, name: &str) -> Option<&Image> {
        self.images.iter().find(|image| image.name == name)
    }

    /// The images that an image stands on, the nearest first.
    pub fn ancestors<'a>(&'a self, image: &'a Image) -> impl Iterator<Item = &'a Image> {
        std::iter::successors(self.parent(image), |image| self.parent(image))
    }

    fn parent(&self, image: &Image) -> Option<&Image> {
        match &image.from {
            From::Image(name) => self.image(name),
            _ => None,
        }
    }

    /// The lowest image of the chain that an image is in: the one that stands on a base. Itself, where it does.
    pub fn root<'a>(&'a self, image: &'a Image) -> &'a Image {
        self.ancestors(image).last().unwrap_or(image)
    }
}

/// What everything is built for.
#[derive(Debug, Clone)]
pub struct Target {
    /// At least one.
    pub platforms: Vec<Platform>,
    /// Whether the command line leaves out platforms that the file names.
    pub partial: bool,
    /// `3.11`. Nothing where no image has packages.
    pub python: Option<String>,
    /// The CUDA release; nothing for CPU builds or where it was not said.
    pub cuda: Option<CudaRelease>,
    /// Whether `cuda = "none"` was said.
    pub cpu_only: bool,
    /// Where `target.cuda` stands, to point at it.
    pub cuda_span: Option<Span>,
    /// The architectures that code is compiled for, sorted.
    pub gpus: Vec<Architecture>,
    /// Whether `native` is among the GPUs: resolved while locking.
    pub native_gpus: bool,
    /// The names under which GPUs are asked for.
    pub gpu_names: GpuNames,
}

/// Where Python packages come from.
#[derive(Debug, Clone, Default)]
pub struct Index {
    /// The index that is asked last; uv's default where nothing is said.
    pub default: Option<String>,
    /// Indexes that are asked before, in order.
    pub extra: Vec<String>,
    /// Packages that come from one index only.
    pub packages: BTreeMap<PackageName, String>,
    /// Directories (relative to the stack file) or URLs with wheels.
    pub find_links: Vec<String>,
}

/// A wheel compiled from source.
#[derive(Debug, Clone)]
pub struct Recipe {
    /// Where the recipe's name stands.
    pub span: Span,
    /// The version, where declared.
    pub version: Option<String>,
    /// The requirements, where declared.
    pub dependencies: Option<Vec<String>>,
}

/// One image.
#[derive(Debug, Clone)]
pub struct Image {
    /// Its name in the stack.
    pub name: String,
    /// Where the name stands.
    pub span: Span,
    /// What it stands on.
    pub from: From,
    /// Where `from` stands.
    pub from_span: Span,
    /// Declared facts of the base.
    pub base_facts: Option<BaseFacts>,
    /// Python requirements, groups unfolded.
    pub requirements: Vec<Requirement>,
    /// A file of requirements.
    pub requirements_file: Option<RequirementsFile>,
    /// How packages are installed.
    pub environment: Environment,
    /// Files from the project.
    pub copy: Vec<Copy>,
    /// The user that the image runs as.
    pub user: Option<User>,
    /// IANA time zone.
    pub timezone: Option<String>,
    /// Environment variables.
    pub env: BTreeMap<String, String>,
    /// Working directory.
    pub workdir: Option<String>,
    /// What is run.
    pub entrypoint: Option<Vec<String>>,
    /// Its arguments.
    pub command: Option<Vec<String>>,
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Garbage collection leaves it.
    pub persist: bool,
    /// How layers are compressed.
    pub compression: Compression,
    /// Wheels above this many bytes are split over several layers.
    pub max_layer_size: Option<u64>,
    /// Whether GPU code is cut to the target's GPUs, and how.
    pub prune: Option<Prune>,
    /// What must be true of its GPU code, and of that below it.
    pub gpu_code: GpuCode,
    /// Patterns of files that may lack code, or libraries that they need.
    pub except: Vec<String>,
    /// Where it goes; nothing where no registry was said.
    pub repository: Option<Repository>,
    /// Tags.
    pub tags: Vec<String>,
}

impl Image {
    /// Whether it installs Python packages of its own.
    pub fn has_packages(&self) -> bool {
        !self.requirements.is_empty() || self.requirements_file.is_some()
    }
}

/// How GPU code is cut.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Prune {
    /// Whether all PTX stays.
    pub keep_ptx: bool,
    /// Whether code for the linker goes.
    pub drop_relocatable: bool,
}

/// What must be true of GPU code.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GpuCode {
    /// Nothing.
    Any,
    /// Every library has some that runs on each GPU.
    Required,
    /// Every library has some that runs on each GPU without being compiled there.
    Native,
}

/// What machines share with one another.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cache {
    /// The repository that keeps results of steps.
    pub remote: Repository,
    /// Whom it is believed.
    pub trust: Trust,
}

/// Whom a cache is believed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Trust {
    /// Whoever may write it.
    Registry,
    /// Whoever has the secret key that belongs to one of these.
    Keys(Vec<PublicKey>),
}

/// What an image stands on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    /// Nothing at all.
    Scratch,
    /// Another image of the stack.
    Image(String),
    /// An OCI image layout, relative to the stack file.
    OciLayout(String),
    /// A bootstrapped Debian.
    Debian {
        /// Such as `bookworm`.
        suite: String,
        /// Packages besides the minimal set, sorted.
        include: Vec<String>,
        /// Nothing for this machine's.
        mirror: Option<String>,
    },
    /// An image on a registry.
    Reference(Reference),
}

/// A Python requirement and where it was said.
#[derive(Debug, Clone)]
pub struct Requirement {
    /// As written, variables replaced (PEP 508).
    pub text: String,
    /// The normalised name of what is required.
    pub name: PackageName,
    /// Where it stands.
    pub span: Span,
}

impl Requirement {
    /// Returns the requirement as it may be printed and recorded: without the password of an address.
    pub fn redacted(&self) -> String {
        crate::secret::redact_address(&self.text).into_owned()
    }
}

/// A file of requirements, relative to the stack file.
#[derive(Debug, Clone)]
pub struct RequirementsFile {
    /// Relative path.
    pub path: String,
    /// Where it stands.
    pub span: Span,
}

/// Where Python packages are installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// `/opt/venv`, blind to what the base has installed.
    Venv,
    /// The base's own environment.
    Base,
}

/// How layers are compressed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Compression {
    /// Spliced from the wheels' own deflate streams.
    Gzip,
    /// Recompressed.
    Zstd,
}

/// Files from the project.
#[derive(Debug, Clone)]
pub struct Copy {
    /// Relative to the stack file, inside its directory.
    pub from: String,
    /// Where `from` stands.
    pub from_span: Span,
    /// Absolute path in the image.
    pub to: String,
    /// Patterns of what is left out.
    pub exclude: Vec<String>,
    /// A file with such patterns.
    pub ignore_file: Option<String>,
    /// Whose the files are.
    pub owner: Owner,
    /// Where `owner` stands.
    pub owner_span: Option<Span>,
    /// Mode of files.
    pub mode: Option<u32>,
}

/// A user and a group, each by id or by a name that the base facts know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// User name or id; nothing for 0.
    pub user: Option<String>,
    /// Group name or id; nothing for the user's primary group.
    pub group: Option<String>,
}

/// The user that an image runs as.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum User {
    /// One that the base has, or an id.
    Existing(String),
    /// One that the image creates.
    Create {
        /// Login name.
        name: String,
        /// User id.
        uid: u32,
        /// Group id.
        gid: u32,
        /// Home directory.
        home: String,
        /// Login shell.
        shell: String,
    },
}
