//! A stack as resolved: every value checked, variables replaced, groups unfolded, images in building order.

use std::collections::BTreeMap;

use pep508_rs::PackageName;
use url::Url;

use super::copy::{Copy, Elsewhere};
use super::run::{Run, SecretSource};
use crate::base::BaseFacts;
use crate::diagnostic::Span;
use crate::digest::Digest;
use crate::gpu::{Architecture, CudaRelease, GpuNames};
use crate::platform::Platform;
use crate::public_key::PublicKey;
use crate::reference::{Reference, Repository};

/// A stack file whose every value is known to be right.
#[derive(Debug, Clone)]
pub struct Stack {
    /// A component of image references.
    pub name: String,
    /// The choice that this is, as the lock names it: a variant, variables of the command line, or both. Empty for the
    /// stack as it stands in its file.
    pub variant: String,
    /// The variants that the file declares.
    pub variants: Vec<String>,
    /// The platforms of every image, at least one.
    pub platforms: Vec<Platform>,
    /// True if the command line leaves out platforms that the file names.
    pub partial: bool,
    /// Where Python packages come from.
    pub index: Index,
    /// What machines share with one another.
    pub cache: Option<Cache>,
    /// Wheels compiled from source, by normalised name.
    pub recipes: BTreeMap<PackageName, Recipe>,
    /// Secrets that commands read, by name.
    pub secrets: BTreeMap<String, SecretSource>,
    /// The images on the first platform; each stands after the one it is built from.
    pub images: Vec<Image>,
    /// The images on each other platform.
    pub elsewhere: BTreeMap<Platform, Vec<Image>>,
    /// Remarks on what may be meant otherwise.
    pub warnings: Vec<String>,
}

impl Stack {
    /// Returns true if the GPUs of this machine are among those of an image.
    pub fn has_native_gpus(&self) -> bool {
        self.images.iter().any(|image| image.target.native_gpus)
    }

    /// The image of this name.
    pub fn image(&self, name: &str) -> Option<&Image> {
        self.images.iter().find(|image| image.name == name)
    }

    /// Returns an image as it is on a platform.
    pub fn on<'a>(&'a self, image: &'a Image, platform: Platform) -> &'a Image {
        let same = |other: &&Image| other.name == image.name;
        self.elsewhere.get(&platform).and_then(|images| images.iter().find(same)).unwrap_or(image)
    }

    /// Returns true if commands run below the packages of an image: its `system` or `setup`, or those of images that it stands on.
    pub fn stands_on_commands(&self, image: &Image) -> bool {
        let prepares = |image: &Image| image.system.is_some() || !image.setup.is_empty();
        prepares(image) || self.ancestors(image).any(|below| prepares(below) || !below.run.is_empty())
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

/// The interpreter and the hardware that an image is for.
#[derive(Debug, Clone)]
pub struct Target {
    /// `3.11`; `None` where no image has packages.
    pub python: Option<String>,
    /// The place of `python`.
    pub python_span: Option<Span>,
    /// The CUDA release; `None` for CPU builds, or where the stack names none.
    pub cuda: Option<CudaRelease>,
    /// True for `cuda = "none"`.
    pub cpu_only: bool,
    /// The place of `cuda`.
    pub cuda_span: Option<Span>,
    /// The architectures that code is compiled for, sorted.
    pub gpus: Vec<Architecture>,
    /// True if `native` is among the GPUs, which are found while locking.
    pub native_gpus: bool,
    /// The names under which GPUs are asked for.
    pub gpu_names: GpuNames,
}

impl Target {
    /// Returns the Python version, `3.11`; empty where none is named.
    pub fn python(&self) -> &str {
        self.python.as_deref().unwrap_or_default()
    }
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
    /// Packages of the base's distribution.
    pub system: Option<System>,
    /// Commands that run before everything else of the image.
    pub setup: Vec<Run>,
    /// Commands that run over everything else of the image.
    pub run: Vec<Run>,
    /// Declared facts of the base.
    pub base_facts: Option<BaseFacts>,
    /// The interpreter and the hardware that it is for.
    pub target: Target,
    /// Python requirements, groups unfolded.
    pub requirements: Vec<Requirement>,
    /// Files of requirements.
    pub requirements_files: Vec<RequirementsFile>,
    /// The choice of versions: the stack's, and then the image's own.
    pub resolution: Resolution,
    /// Packages whose files win where another package brings them too, the strongest last.
    pub winners: Vec<Named>,
    /// The environment that packages are installed into.
    pub python: Python,
    /// Files from the project.
    pub copy: Vec<Copy>,
    /// Files, directories and links that the stack file holds.
    pub files: Vec<File>,
    /// Users that the image creates.
    pub users: Vec<NewUser>,
    /// The user that the image runs as: a name, or an id, each with a group or without.
    pub user: Option<String>,
    /// The place of `user`, or of the image's name.
    pub user_span: Span,
    /// IANA time zone.
    pub timezone: Option<String>,
    /// Environment variables.
    pub env: BTreeMap<String, Value>,
    /// Working directory.
    pub workdir: Option<String>,
    /// What is run.
    pub entrypoint: Option<CommandLine>,
    /// The place of `entrypoint`.
    pub entrypoint_span: Option<Span>,
    /// Its arguments.
    pub command: Option<CommandLine>,
    /// The check that says if a container is healthy.
    pub healthcheck: Option<Healthcheck>,
    /// Ports, as `8080/tcp`.
    pub expose: Vec<String>,
    /// Directories whose content outlives a container.
    pub volumes: Vec<String>,
    /// The signal that ends a container.
    pub stop_signal: Option<String>,
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
    /// It is pushed, loaded and tagged.
    pub publish: bool,
}

/// The value of an environment variable: parts that follow one another.
#[derive(Debug, Clone, Default, PartialEq, Eq, serde::Serialize)]
#[serde(transparent)]
pub struct Value(pub Vec<Part>);

/// A part of a [`Value`].
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Part {
    /// Text.
    Text(String),
    /// The value that the image below has for this name.
    Inherited(String),
}

impl Value {
    /// Returns the text, with the inherited values that `inherited` knows. An unknown one is empty, and so is a colon that
    /// would stand beside nothing.
    pub fn text<'a>(&self, inherited: impl Fn(&str) -> Option<&'a str>) -> String {
        let mut text = String::new();
        let mut dangling = false;
        for part in &self.0 {
            match part {
                Part::Text(part) if dangling => text.push_str(part.strip_prefix(':').unwrap_or(part)),
                Part::Text(part) => text.push_str(part),
                Part::Inherited(name) => match inherited(name).filter(|value| !value.is_empty()) {
                    Some(value) => text.push_str(value),
                    None if text.is_empty() => {
                        dangling = true;
                        continue;
                    }
                    None => text.truncate(text.strip_suffix(':').map_or(text.len(), str::len)),
                },
            }
            dangling = false;
        }
        text
    }
}

impl std::fmt::Display for Value {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.iter().try_for_each(|part| match part {
            Part::Text(text) => f.write_str(text),
            Part::Inherited(name) => write!(f, "${{{name}}}"),
        })
    }
}

/// A command.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum CommandLine {
    /// A program and its arguments.
    Words(Vec<String>),
    /// A line for the image's shell.
    Shell(String),
}

impl std::fmt::Display for CommandLine {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Words(words) => f.write_str(&words.join(" ")),
            Self::Shell(line) => f.write_str(line),
        }
    }
}

/// The check that says if a container is healthy. Times are in nanoseconds; 0 is the runtime's default.
#[derive(Debug, Clone, PartialEq, Eq, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Healthcheck {
    /// Not at all, whatever the image below says.
    Disabled,
    /// Status 0 of a command.
    Check {
        /// The command.
        command: CommandLine,
        /// Between checks.
        interval: u64,
        /// After which a check has failed.
        timeout: u64,
        /// In which failed checks do not count.
        start_period: u64,
        /// Between checks in the start period.
        start_interval: u64,
        /// Failed checks after which the container is unhealthy; 0 is the runtime's default.
        retries: u32,
    },
}

/// A file, directory or link that the stack file holds.
#[derive(Debug, Clone)]
pub struct File {
    /// Absolute path in the image.
    pub to: String,
    /// The place of `to`.
    pub to_span: Span,
    /// Its content.
    pub content: FileContent,
    /// User and group.
    pub owner: Owner,
    /// The place of `owner`.
    pub owner_span: Option<Span>,
    /// Its mode.
    pub mode: Option<u32>,
}

/// The content of a [`File`].
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FileContent {
    /// A file with this text.
    Text(String),
    /// A file of the image with this text at its end.
    Append(String),
    /// A symbolic link to this.
    Link(String),
    /// A directory.
    Directory,
}

impl Image {
    /// Returns everything that it copies: into layers, and for its commands to see.
    pub fn copies(&self) -> impl Iterator<Item = &Copy> {
        let binds = self.setup.iter().chain(&self.run).flat_map(|run| &run.bind);
        self.copy.iter().chain(binds)
    }

    /// Returns the images of the stack that must be made before this one, with the places that name them.
    pub fn needs(&self) -> impl Iterator<Item = (&str, Span)> {
        let below = match &self.from {
            From::Image(name) => Some((name.as_str(), self.from_span.clone())),
            _ => None,
        };
        let copied = self.copies().filter_map(|copy| match &copy.elsewhere {
            Some(Elsewhere::Image(name)) => Some((name.as_str(), copy.span())),
            _ => None,
        });
        below.into_iter().chain(copied)
    }

    /// Whether it installs Python packages of its own.
    pub fn has_packages(&self) -> bool {
        !self.requirements.is_empty() || !self.requirements_files.is_empty()
    }
}

/// Options of cutting GPU code.
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

/// An archive of Debian packages.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Mirror {
    /// The address above `dists` and `pool`, without a slash at the end.
    pub uri: String,
    /// The archive of security updates.
    pub security: Option<String>,
    /// Its lists may be older than they allow themselves to be.
    pub snapshot: bool,
    /// A file of keys that sign its lists, relative to the stack file. Nothing for Debian's.
    pub key: Option<String>,
}

/// An archive of packages that an image names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Archive {
    /// The address above `dists` and `pool`, without a slash at the end.
    pub uri: String,
    /// Suites; one that ends in a slash is a directory of the archive.
    pub suites: Vec<String>,
    /// Such as `main`.
    pub components: Vec<String>,
    /// The keys that sign its lists. Nothing for those of the base.
    pub key: Option<ArchiveKey>,
}

/// Keys that sign the lists of an archive.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum ArchiveKey {
    /// A file, relative to the stack file.
    File(String),
    /// A file elsewhere, which is read when packages are chosen.
    Url {
        /// Its address.
        url: Url,
        /// The fingerprint that one of its keys must have: lower-case hexadecimal digits.
        fingerprint: Option<String>,
    },
}

/// A package that is no archive's.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum DebSource {
    /// A file, relative to the stack file.
    File(String),
    /// A file elsewhere.
    Url {
        /// Its address.
        url: Url,
        /// Its digest.
        sha256: Digest,
    },
}

impl DebSource {
    /// Returns its place, as the lock has it: an address, or a path that begins with `./`.
    pub fn place(&self) -> String {
        match self {
            Self::File(path) => format!("./{}", path.trim_start_matches("./")),
            Self::Url { url, .. } => url.to_string(),
        }
    }
}

/// Changes of the packages of a distribution.
#[derive(Debug, Clone)]
pub struct System {
    /// Packages that are installed, sorted: `name`, `name=version`.
    pub install: Vec<String>,
    /// Packages that are removed, sorted.
    pub remove: Vec<String>,
    /// All packages become as new as the archive has them.
    pub upgrade: bool,
    /// Recommended packages are installed too.
    pub recommends: bool,
    /// Archives besides those that the base knows.
    pub repositories: Vec<Archive>,
    /// Names of files of the base whose archives are left out, sorted.
    pub disable: Vec<String>,
    /// Packages that are no archive's, which are installed.
    pub debs: Vec<DebSource>,
    /// Its place in the stack file.
    pub span: Span,
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
        mirror: Option<Mirror>,
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
    /// The path of the wheel that is required, relative to the stack file; nothing where indexes or a URL have it.
    pub wheel: Option<String>,
    /// Its place in the stack file.
    pub span: Span,
}

impl Requirement {
    /// Returns the requirement as it may be printed and recorded: without the password of an address.
    pub fn redacted(&self) -> String {
        crate::secret::redact_address(&self.text).into_owned()
    }
}

/// A file of requirements, and the part of it that is installed.
#[derive(Debug, Clone)]
pub struct RequirementsFile {
    /// Path relative to the stack file; it may lead above its directory, within the repository.
    pub path: String,
    /// Its place in the stack file.
    pub span: Span,
    /// Names of dependency groups; nothing for those that the file takes by default.
    pub groups: Option<Vec<String>>,
    /// Names of extras.
    pub extras: Vec<String>,
    /// A project's groups for its developers count, too.
    pub dev: bool,
    /// The member of a workspace whose requirements they are.
    pub package: Option<String>,
    /// Its place outside of the project's repository.
    pub from: Option<Remote>,
}

/// A place outside of the project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Remote {
    /// A repository of git.
    Git {
        /// Its address, without a password.
        url: String,
        /// A branch, a tag or a commit; `HEAD` for the repository's own branch.
        rev: String,
    },
    /// An address, without a password.
    Url(Url),
}

impl std::fmt::Display for Remote {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Git { url, rev } => write!(f, "{url} at {rev}"),
            Self::Url(url) => url.fmt(f),
        }
    }
}

impl RequirementsFile {
    /// Returns true if it says which part of the file is installed.
    pub fn chooses(&self) -> bool {
        self.groups.is_some() || !self.extras.is_empty() || self.dev || self.package.is_some()
    }
}

/// The choice of versions.
#[derive(Debug, Clone, Default)]
pub struct Resolution {
    /// Requirements that replace every other one of their packages.
    pub overrides: Vec<Requirement>,
    /// Requirements that hold for what is installed anyhow.
    pub constraints: Vec<Requirement>,
    /// Packages that are not installed.
    pub exclude: Vec<Named>,
    /// Pre-releases that are chosen like releases.
    pub prerelease: Prerelease,
    /// An RFC 3339 time: nothing that the indexes got later.
    pub exclude_newer: Option<String>,
}

/// Pre-releases that are chosen like releases.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Prerelease {
    /// Those that a requirement names, and those of packages without a release.
    #[default]
    Necessary,
    /// Those of these packages, too.
    Of(Vec<PackageName>),
    /// All.
    All,
}

/// The environment of an image's Python packages.
#[derive(Debug, Clone, Default)]
pub struct Python {
    /// The kind of environment, as the image or one below it says; `None` where the base decides.
    pub environment: Option<Environment>,
    /// The place of `environment`.
    pub environment_span: Option<Span>,
    /// The base's interpreter, by its path.
    pub interpreter: Option<String>,
    /// Packages that the base meets, whatever its versions are.
    pub accept: Vec<Named>,
    /// Distributions of the base that the image's own take the place of.
    pub replace: Vec<Named>,
    /// Distributions of the base that the image hides.
    pub remove: Vec<Named>,
}

/// The name of a package, and its place in the stack file.
#[derive(Debug, Clone)]
pub struct Named {
    /// The name.
    pub name: PackageName,
    /// Its place.
    pub span: Span,
}

/// Where Python packages are installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Environment {
    /// `/opt/venv`, which does not see the base's packages.
    Venv,
    /// `/opt/venv`, which sees the base's packages.
    Overlay,
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

/// A user and a group, each by id or by a name that the base facts know.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Owner {
    /// User name or id; nothing for 0.
    pub user: Option<String>,
    /// Group name or id; nothing for the user's primary group.
    pub group: Option<String>,
}

/// A user that an image creates.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct NewUser {
    /// Login name.
    pub name: String,
    /// The place of its declaration.
    pub span: Span,
    /// User id; `None` for the first free one.
    pub uid: Option<u32>,
    /// Id of the user's own group; `None` for the user id's.
    pub gid: Option<u32>,
    /// Name of the user's own group, which the base has.
    pub group: Option<String>,
    /// Names of further groups.
    pub groups: Vec<String>,
    /// Home directory.
    pub home: String,
    /// Login shell.
    pub shell: String,
    /// The user takes the place of one who has the name or the id.
    pub replace: bool,
}
