//! Resolution by the uv program, asked through its command line, answered as `pylock.toml` (PEP 751).
//!
//! uv reads nothing but what kiln writes into an empty directory: a configuration file with the indexes, a project with
//! the stack's requirements, and a requirements file with those of the user's file. Its environment is made from nothing,
//! and it finds no program: neither `git` nor a Python. The interpreter that it inspects is kiln itself under another
//! name, with paths that do not exist, so that it can build nothing, whatever a package asks for. A wheel that is
//! compiled from source takes part as a wheel of metadata alone, which uv reads and nobody installs.

mod claims;
mod environment;
mod files;
mod interpreter;
mod offers;
mod said;

use std::collections::BTreeSet;
use std::path::Path;

use kiln_plan::base::Libc;
use kiln_plan::event::Work;
use kiln_plan::platform::Platform;
use kiln_plan::secret::Secrets;
use kiln_plan::stack::{Index, Prerelease};
use kiln_programs::{Call, ChildEnvironment, Ended, ProgramError, Stdout};
use pep508_rs::PackageName;

pub use claims::{Bound, Claim, against, attribute};
pub use environment::{IndexVariable, index_variable};
use files::{configuration, lines, metadata_wheel, preferences, project};
pub use interpreter::description;
pub use offers::{Offers, offers};
pub use said::Blocker;
pub(crate) use said::explain;

use crate::pylock::{self, LockedPackage, PylockError};

/// The version of uv that kiln installs for itself.
pub const PINNED_VERSION: &str = "0.13.8";
/// The SHA-256 digests of its wheels for Linux, as PyPI lists them: manylinux and musllinux, x86_64 and aarch64. One wheel
/// serves both C libraries of aarch64, beside one for newer systems.
pub const PINNED_SHA256: [&str; 4] = [
    "e18a57b8b352eb7c8feb317b9f6f533c8f0ad9673fd6cf34bbe3cf1a9f6a8984",
    "29451c60f5e8b07403e0a175d5229efc36b0289b34143ff4aaa499a5dd52553a",
    "0b3e8b1a4f5e405e31e2ff33de8af4744831e9f7338539671efbd8c3c94e791d",
    "5337c30bb893b4f9ce0ceb921ba2da0d13f649da644f40ad3bef84083bef0203",
];

/// The programs that take part, and the environment that one of them runs in.
#[derive(Debug, Clone, Copy)]
pub struct Programs<'a> {
    /// uv.
    pub uv: &'a Path,
    /// kiln, which answers for the interpreter.
    pub kiln: &'a Path,
    /// The user's variables; only those that uv needs are passed on.
    pub environment: &'a ChildEnvironment,
}

/// The interpreter and the system that packages are for.
#[derive(Debug, Clone, Copy)]
pub struct Target<'a> {
    /// The interpreter's full version, such as `3.11.2`.
    pub python: &'a str,
    /// Operating system and processor.
    pub platform: Platform,
    /// The base's C library.
    pub libc: Option<&'a Libc>,
}

/// A resolution: requirements, and where packages come from.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    /// Interpreter and system.
    pub target: Target<'a>,
    /// PEP 508 requirements.
    pub requirements: Vec<String>,
    /// Lines of a requirements file: requirements, with absolute paths.
    pub listed: Vec<String>,
    /// Lines of a constraints file.
    pub listed_constraints: Vec<String>,
    /// Requirements that must hold for what is chosen, without choosing it.
    pub constraints: Vec<String>,
    /// Indexes and find-links; paths and `file:` URLs absolute.
    pub index: &'a Index,
    /// Searches find-links alone.
    pub no_index: bool,
    /// Requirements that replace every other one of their packages.
    pub overrides: Vec<String>,
    /// Packages that are not chosen, whoever requires them.
    pub exclude: Vec<String>,
    /// Pre-releases that are chosen like releases.
    pub prerelease: Prerelease,
    /// An RFC 3339 time: nothing that the indexes got later.
    pub exclude_newer: Option<String>,
    /// Takes the requirements alone, without those that they have.
    pub alone: bool,
    /// Wheels compiled from source: name, version, requirements.
    pub recipes: Vec<(String, String, Vec<String>)>,
    /// Versions to stay with where they fit.
    pub preferences: Vec<(String, String)>,
    /// Builds of torch's family, by uv's name: `cu128`, `cpu`. They come from PyTorch's own index.
    pub torch_backend: Option<String>,
    /// Forbids the network.
    pub offline: bool,
}

impl<'a> Question<'a> {
    /// Returns the question for nothing at all.
    pub fn about(target: Target<'a>, index: &'a Index) -> Self {
        Self {
            target,
            requirements: Vec::new(),
            listed: Vec::new(),
            listed_constraints: Vec::new(),
            constraints: Vec::new(),
            index,
            no_index: false,
            overrides: Vec::new(),
            exclude: Vec::new(),
            prerelease: Prerelease::Necessary,
            exclude_newer: None,
            alone: false,
            recipes: Vec::new(),
            preferences: Vec::new(),
            torch_backend: None,
            offline: false,
        }
    }
}

/// Packages that go together, and what is to be said about them.
#[derive(Debug)]
pub struct Answer {
    /// The packages.
    pub packages: Vec<LockedPackage>,
    /// Warnings.
    pub warnings: Vec<String>,
}

/// Why uv gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum UvError {
    /// The requirements contradict one another, or something does not exist.
    #[error("{0}")]
    Unsatisfiable(String),
    /// No wheel of these packages fits.
    #[error("no wheel fits of {}", .0.iter().map(|blocker| blocker.name.as_str()).collect::<Vec<_>>().join(", "))]
    NoWheels(Vec<Blocker>),
    /// The index cannot be reached.
    #[error("{0}")]
    Index(String),
    /// The index refuses whoever asks without the right credentials.
    #[error("{index} answered {status}")]
    Refused {
        /// Its address, without credentials.
        index: String,
        /// The HTTP status.
        status: u16,
    },
    /// The index answers with something else than what it is asked for.
    #[error("`{address}` {answer}")]
    Odd {
        /// The address of a page, or the name of a file.
        address: String,
        /// A clause: `answered 500 Internal Server Error`.
        answer: String,
    },
    /// uv failed in another way.
    #[error("uv failed: {0}")]
    Failed(String),
    /// uv could not be run.
    #[error(transparent)]
    Program(ProgramError),
    /// The files of a question could not be written, or the answer not be read.
    #[error(transparent)]
    Io(#[from] std::io::Error),
    /// The user wants to stop.
    #[error("interrupted")]
    Interrupted,
    /// Its answer cannot be read.
    #[error("uv's answer cannot be read")]
    Answer(#[from] PylockError),
}

/// Packages without a fitting wheel that are looked for.
const MOST_BLOCKERS: usize = 40;

/// Asks uv. `directory` is empty and for this question alone.
///
/// uv ends at the first package that has no fitting wheel. A wheel of metadata then stands for it, and uv is asked again, so
/// that the error names all of them.
pub fn resolve(
    programs: Programs<'_>,
    question: &Question<'_>,
    directory: &Path,
    work: &Work<'_>,
) -> Result<Answer, UvError> {
    let python = interpreter::pretend(directory, programs.kiln, &question.target)?;
    let mut blockers: Vec<Blocker> = Vec::new();
    let mut asked = question.clone();
    let mut unreachable: Option<UvError> = None;
    loop {
        let error = match ask_for_all(programs, &asked, &python, directory, work) {
            Ok(answer) if blockers.is_empty() => return Ok(answer),
            Ok(_) => return Err(UvError::NoWheels(blockers)),
            Err(error @ UvError::Interrupted) => return Err(error),
            // A page of an index in uv's cache hides the same version in a directory of wheels.
            Err(error) if asked.offline && !asked.no_index && said::needs_network(&error) => {
                asked.no_index = true;
                unreachable = Some(error);
                continue;
            }
            Err(error) => unreachable.take().unwrap_or(error),
        };
        let mut more = match &error {
            UvError::Unsatisfiable(text) => said::blockers(text),
            _ => Vec::new(),
        };
        more.retain(|one| !asked.recipes.iter().any(|(name, ..)| *name == one.name));
        let none = more.is_empty();
        for one in &more {
            asked.recipes.push((one.name.clone(), one.version().unwrap_or("9999").to_owned(), Vec::new()));
        }
        blockers.extend(more);
        match (none, blockers.is_empty()) {
            (true, true) => return Err(error),
            (true, false) => return Err(UvError::NoWheels(blockers)),
            (false, _) if blockers.len() >= MOST_BLOCKERS => return Err(UvError::NoWheels(blockers)),
            (false, _) => {}
        }
    }
}

/// Asks uv for everything. uv binds a package to an index of its own only where the project names the package. So what
/// turns out to be needed is named, and uv is asked again.
fn ask_for_all(
    programs: Programs<'_>,
    question: &Question<'_>,
    python: &Path,
    directory: &Path,
    work: &Work<'_>,
) -> Result<Answer, UvError> {
    let recipes = directory.join("recipes");
    fs_err::create_dir_all(&recipes)?;
    for (name, version, requires) in &question.recipes {
        let (file, bytes) = metadata_wheel(name, version, requires)?;
        fs_err::write(recipes.join(file), bytes)?;
    }
    fs_err::write(directory.join(CONFIGURATION), configuration(question, &recipes))?;
    for (file, written) in [(REQUIREMENTS, &question.listed), (CONSTRAINTS, &question.listed_constraints)] {
        if !written.is_empty() {
            fs_err::write(directory.join(file), lines(written))?;
        }
    }
    let named = |name: &PackageName| question.requirements.iter().any(|text| requires(text, name));
    let mut bound: BTreeSet<&PackageName> = question.index.packages.keys().filter(|name| named(name)).collect();
    loop {
        let answer = ask(programs, question, &bound, python, directory, work);
        let more: Vec<&PackageName> = question.index.packages.keys().filter(|name| !bound.contains(name)).collect();
        let more: Vec<&PackageName> = match &answer {
            Ok(Answer { packages, .. }) => {
                more.into_iter().filter(|name| packages.iter().any(|package| package.name == name.as_ref())).collect()
            }
            Err(UvError::Unsatisfiable(text)) => {
                more.into_iter().filter(|name| mentions(text, name.as_ref())).collect()
            }
            Err(_) => Vec::new(),
        };
        if more.is_empty() {
            return answer;
        }
        bound.extend(more);
    }
}

/// Asks once, with these packages bound to their indexes.
fn ask(
    programs: Programs<'_>,
    question: &Question<'_>,
    bound: &BTreeSet<&PackageName>,
    python: &Path,
    directory: &Path,
    work: &Work<'_>,
) -> Result<Answer, UvError> {
    fs_err::write(directory.join("pyproject.toml"), project(question, bound))?;
    let answer = directory.join(ANSWER);
    match question.preferences.is_empty() {
        false => fs_err::write(&answer, preferences(&question.preferences))?,
        true if answer.exists() => fs_err::remove_file(&answer)?,
        true => {}
    }
    let mut call = call(programs, directory)
        .secrets(secrets(question))
        .args(["pip", "compile", "--no-progress", "--color", "never", "--format", "pylock.toml"])
        .args(["--config-file", CONFIGURATION, "--only-binary", ":all:", "--no-header", "--no-annotate"])
        .args(["--no-python-downloads", "--python"])
        .arg(python)
        .args(["--output-file", ANSWER, "pyproject.toml"]);
    if !question.listed.is_empty() {
        call = call.arg(REQUIREMENTS);
    }
    if !question.listed_constraints.is_empty() {
        call = call.args(["--constraints", CONSTRAINTS]);
    }
    if question.alone {
        call = call.arg("--no-deps");
    }
    if let Some(backend) = &question.torch_backend {
        call = call.args(["--torch-backend", backend]);
    }
    if question.offline {
        call = call.arg("--offline");
    }
    let warnings = said::warnings(&run(call, programs, work)?);
    let mut packages =
        pylock::parse(&fs_err::read_to_string(&answer)?, &question.target.markers()?, pylock::Choice::default())?;
    for wheel in packages.iter_mut().flat_map(|package| &mut package.wheels) {
        if !wheel.location.contains("://") {
            wheel.location = directory.join(&wheel.location).display().to_string();
        }
    }
    packages.retain(|package| package.name != PROJECT);
    Ok(Answer { packages, warnings })
}

/// The index that uv asks where nobody names one, by its own word; nothing where it does not say. `directory` is for this
/// question alone.
pub fn default_index(
    programs: Programs<'_>,
    target: &Target<'_>,
    directory: &Path,
    work: &Work<'_>,
) -> Result<Option<String>, UvError> {
    const ANSWER: &str = "index.txt";
    let python = interpreter::pretend(directory, programs.kiln, target)?;
    for file in [CONFIGURATION, REQUIREMENTS] {
        fs_err::write(directory.join(file), "")?;
    }
    let call = call(programs, directory)
        .args(["pip", "compile", "--quiet", "--color", "never", "--offline", "--config-file", CONFIGURATION])
        .args(["--no-header", "--emit-index-url", "--no-python-downloads", "--python"])
        .arg(&python)
        .args(["--output-file", ANSWER, REQUIREMENTS]);
    run(call, programs, work)?;
    let said = fs_err::read_to_string(directory.join(ANSWER))?;
    Ok(said.lines().find_map(|line| line.strip_prefix("--index-url ")).map(|url| url.trim().to_owned()))
}

/// A project with a `uv.lock`, and the part of it that is installed.
#[derive(Debug)]
pub struct Export<'a> {
    /// Its directory.
    pub project: &'a Path,
    /// The project's settings for uv, as a configuration file.
    pub settings: Option<&'a str>,
    /// The workspace has a project at its root, which is what is locked. Without one, all its members are.
    pub has_root: bool,
    /// Dependency groups.
    pub groups: &'a [String],
    /// Extras.
    pub extras: &'a [String],
    /// The groups that are installed by default, too.
    pub dev: bool,
    /// A member of its workspace.
    pub package: Option<&'a str>,
}

/// The relation of a `uv.lock` to its project.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Fit {
    /// It holds what the project asks for.
    Fits,
    /// It does not.
    Stale,
    /// That cannot be told, for this reason: some member must be built before its requirements are known.
    Unknown(String),
}

/// Turns the `uv.lock` of a project into `pylock.toml`. uv reads the project's `pyproject.toml` for that, and no more.
/// `directory` is for this question alone.
pub fn export(
    programs: Programs<'_>,
    target: &Target<'_>,
    export: &Export<'_>,
    directory: &Path,
    work: &Work<'_>,
) -> Result<String, UvError> {
    run(export.call("--frozen", programs, target, directory)?, programs, work)?;
    Ok(fs_err::read_to_string(directory.join(ANSWER))?)
}

/// Compares a `uv.lock` with its project, without a network: one that is right needs none.
pub fn compare(
    programs: Programs<'_>,
    target: &Target<'_>,
    export: &Export<'_>,
    directory: &Path,
    work: &Work<'_>,
) -> Result<Fit, UvError> {
    match run(export.call("--locked", programs, target, directory)?, programs, work) {
        Ok(_) => Ok(Fit::Fits),
        Err(UvError::Unsatisfiable(_)) => Ok(Fit::Stale),
        Err(UvError::Failed(text) | UvError::Index(text)) => {
            let is_stale = text.contains("needs to be updated") && !text.contains("Failed to build");
            Ok(if is_stale { Fit::Stale } else { Fit::Unknown(text) })
        }
        Err(error @ UvError::Odd { .. }) => Ok(Fit::Unknown(error.to_string())),
        Err(error) => Err(error),
    }
}

impl Export<'_> {
    fn call(
        &self,
        how: &str,
        programs: Programs<'_>,
        target: &Target<'_>,
        directory: &Path,
    ) -> Result<Call<'static>, UvError> {
        let python = interpreter::pretend(directory, programs.kiln, target)?;
        let configuration = directory.join(CONFIGURATION);
        fs_err::write(&configuration, self.settings.unwrap_or_default())?;
        let mut call = call(programs, directory)
            .args(["export", "--quiet", "--color", "never", how, "--no-header", "--offline"])
            .arg(if self.has_root || self.package.is_some() { "--no-emit-project" } else { "--no-emit-workspace" })
            .args(["--no-build", "--no-python-downloads", "--config-file"])
            .arg(&configuration)
            .arg("--python")
            .arg(&python)
            .args(["--format", "pylock.toml", "--output-file", ANSWER, "--project"])
            .arg(self.project);
        if !self.dev {
            call = call.arg("--no-default-groups");
        }
        call = self.groups.iter().fold(call, |call, group| call.arg("--group").arg(group));
        call = self.extras.iter().fold(call, |call, extra| call.arg("--extra").arg(extra));
        Ok(self.package.iter().fold(call, |call, package| call.arg("--package").arg(package)))
    }
}

fn call(programs: Programs<'_>, directory: &Path) -> Call<'static> {
    let call = Call::new(programs.uv, environment::NEEDED).directory(directory).stdout(Stdout::Discarded);
    match environment::cache_directory(programs.environment) {
        Some(cache) => call.arg("--cache-dir").arg(cache),
        None => call,
    }
}

/// Returns true if a text has a package's name in it as a word.
pub fn mentions(text: &str, name: &str) -> bool {
    let boundary = |c: Option<char>| c.is_none_or(|c| !c.is_alphanumeric() && !matches!(c, '-' | '_'));
    text.match_indices(name)
        .any(|(at, _)| boundary(text[..at].chars().next_back()) && boundary(text[at + name.len()..].chars().next()))
}

/// Returns true if a requirement of the stack is one of a package.
fn requires(requirement: &str, package: &PackageName) -> bool {
    let of_name = |c: char| c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-');
    let text = requirement.trim_start();
    let name = &text[..text.find(|c| !of_name(c)).unwrap_or(text.len())];
    crate::name_of(name).is_some_and(|name| name == *package)
}

/// kiln's own settings for uv.
const CONFIGURATION: &str = "kiln-uv.toml";
/// The requirements of the user's file, as kiln read them.
const REQUIREMENTS: &str = "requirements.txt";
/// The constraints of the user's file, as kiln read them.
const CONSTRAINTS: &str = "constraints.txt";
/// The file that uv writes; it insists on such a name.
const ANSWER: &str = "pylock.kiln.toml";
/// The name of the project that stands for the image.
const PROJECT: &str = "kiln-image";

/// Returns the secrets that uv gets to see, in order to keep them out of what it says.
fn secrets(question: &Question<'_>) -> Secrets {
    let index = question.index;
    let addresses = index.default.iter().chain(&index.extra).chain(index.packages.values()).chain(&index.find_links);
    Secrets::of(addresses.chain(&question.requirements).map(String::as_str))
}

/// Runs uv, and returns its messages.
fn run(call: Call<'_>, programs: Programs<'_>, work: &Work<'_>) -> Result<Vec<String>, UvError> {
    call.run_for_lines(programs.environment, work).map_err(|error| match error {
        ProgramError::Interrupted => UvError::Interrupted,
        ProgramError::Failed(failed) => match failed.ended {
            Ended::Status(_) => explain(&failed.text()),
            ended => UvError::Failed(format!("{ended} ended it {}", failed.text()).trim().to_owned()),
        },
        error => UvError::Program(error),
    })
}
