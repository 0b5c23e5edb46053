//! Resolution by the uv program, asked through its command line, answered as `pylock.toml` (PEP 751).
//!
//! uv reads nothing but what kiln writes into an empty directory: a configuration file with the indexes, a project with
//! the stack's requirements, and a requirements file with those of the user's file. Its environment is made from nothing,
//! and it finds no program: neither `git` nor a Python. The interpreter that it inspects is kiln itself under another
//! name, with paths that do not exist, so that it can build nothing, whatever a package asks for. A wheel that is
//! compiled from source takes part as a wheel of metadata alone, which uv reads and nobody installs.

mod environment;
mod interpreter;

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use kiln_plan::base::Libc;
use kiln_plan::event::Work;
use kiln_plan::platform::Platform;
use kiln_plan::secret::Secrets;
use kiln_plan::stack::Index;
use kiln_programs::{Call, ChildEnvironment, Ended, ProgramError, Stdout};
use pep508_rs::PackageName;

pub use environment::{IndexVariable, index_variable};
pub use interpreter::description;

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
#[derive(Debug)]
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
    /// Chooses pre-releases like releases.
    pub prereleases: bool,
    /// Wheels compiled from source: name, version, requirements.
    pub recipes: Vec<(String, String, Vec<String>)>,
    /// Versions to stay with where they fit.
    pub preferences: Vec<(String, String)>,
    /// Forbids the network.
    pub offline: bool,
}

/// Why uv gave no answer.
#[derive(Debug, thiserror::Error)]
pub enum UvError {
    /// The requirements contradict one another, or something does not exist.
    #[error("{0}")]
    Unsatisfiable(String),
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

/// Asks uv. `directory` is empty and for this question alone.
///
/// uv binds a package to an index of its own only where the project names the package. So what turns out to be needed is
/// named, and uv is asked again.
pub fn resolve(
    programs: Programs<'_>,
    question: &Question<'_>,
    directory: &Path,
    work: &Work<'_>,
) -> Result<Vec<LockedPackage>, UvError> {
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
    let python = interpreter::pretend(directory, programs.kiln, &question.target)?;
    let named = |name: &PackageName| question.requirements.iter().any(|text| requires(text, name));
    let mut bound: BTreeSet<&PackageName> = question.index.packages.keys().filter(|name| named(name)).collect();
    loop {
        let answer = ask(programs, question, &bound, &python, directory, work);
        let more: Vec<&PackageName> = question.index.packages.keys().filter(|name| !bound.contains(name)).collect();
        let more: Vec<&PackageName> = match &answer {
            Ok(packages) => {
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
) -> Result<Vec<LockedPackage>, UvError> {
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
    if question.offline {
        call = call.arg("--offline");
    }
    if let Some(stderr) = run(call, programs, work)? {
        return Err(explain(&stderr));
    }
    let mut packages = pylock::parse(&fs_err::read_to_string(&answer)?, &question.target.markers()?)?;
    for wheel in packages.iter_mut().flat_map(|package| &mut package.wheels) {
        if !wheel.location.contains("://") {
            wheel.location = directory.join(&wheel.location).display().to_string();
        }
    }
    Ok(packages.into_iter().filter(|package| package.name != PROJECT).collect())
}

/// Turns the `uv.lock` of a project into `pylock.toml`. uv reads the project's `pyproject.toml` for that, and no more.
/// `directory` is empty and for this question alone.
pub fn export(
    programs: Programs<'_>,
    target: &Target<'_>,
    project: &Path,
    directory: &Path,
    work: &Work<'_>,
) -> Result<String, UvError> {
    let python = interpreter::pretend(directory, programs.kiln, target)?;
    let call = call(programs, directory)
        .args(["export", "--quiet", "--color", "never", "--frozen", "--no-emit-project", "--no-header"])
        .args(["--no-config", "--offline", "--no-build", "--no-python-downloads", "--python"])
        .arg(python)
        .args(["--format", "pylock.toml", "--output-file", ANSWER, "--project"])
        .arg(project);
    match run(call, programs, work)? {
        Some(stderr) => Err(explain(&stderr)),
        None => Ok(fs_err::read_to_string(directory.join(ANSWER))?),
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

/// Runs uv. Returns its messages if it failed.
fn run(call: Call<'_>, programs: Programs<'_>, work: &Work<'_>) -> Result<Option<String>, UvError> {
    match call.run(programs.environment, work) {
        Ok(_) => Ok(None),
        Err(ProgramError::Interrupted) => Err(UvError::Interrupted),
        Err(ProgramError::Failed(failed)) => match failed.ended {
            Ended::Status(_) => Ok(Some(failed.text())),
            ended => Err(UvError::Failed(format!("{ended} ended it {}", failed.text()).trim().to_owned())),
        },
        Err(error) => Err(UvError::Program(error)),
    }
}

fn quote(text: &str) -> String {
    toml::Value::String(text.to_owned()).to_string()
}

fn list(items: &[String]) -> String {
    items.iter().map(|item| quote(item)).collect::<Vec<_>>().join(", ")
}

fn lines(lines: &[String]) -> String {
    lines.iter().map(|line| format!("{line}\n")).collect()
}

/// The settings: where packages come from, and what holds for all of them.
fn configuration(question: &Question<'_>, recipes: &Path) -> String {
    let index = question.index;
    let mut links = index.find_links.clone();
    let mut constraints = question.constraints.clone();
    if !question.recipes.is_empty() {
        links.push(recipes.display().to_string());
        constraints.extend(question.recipes.iter().map(|(name, version, _)| format!("{name}=={version}")));
    }
    let mut text = format!(
        "no-build = true\nno-index = {}\nfind-links = [{}]\nconstraint-dependencies = [{}]\n",
        question.no_index,
        list(&links),
        list(&constraints),
    );
    if question.prereleases {
        text.push_str("prerelease = \"allow\"\n");
    }
    if !question.recipes.is_empty() {
        text.push_str("dependency-metadata = [\n");
        for (name, version, requires) in &question.recipes {
            let (name, version) = (quote(name), quote(version));
            let _ = writeln!(text, "  {{ name = {name}, version = {version}, requires-dist = [{}] }},", list(requires));
        }
        text.push_str("]\n");
    }
    for (at, url) in index.extra.iter().enumerate() {
        let _ = write!(text, "\n[[index]]\nname = \"extra-{at}\"\nurl = {}\n", quote(url));
    }
    if let Some(url) = &index.default {
        let _ = write!(text, "\n[[index]]\nname = \"default\"\nurl = {}\ndefault = true\n", quote(url));
    }
    text
}

/// The project: the stack's requirements, and the packages that have an index of their own. It is the root of its
/// workspace, so that uv looks for none above.
fn project(question: &Question<'_>, bound: &BTreeSet<&PackageName>) -> String {
    let mut requirements = question.requirements.clone();
    let stated = |name: &PackageName| question.requirements.iter().any(|text| requires(text, name));
    requirements.extend(bound.iter().filter(|name| !stated(name)).map(ToString::to_string));
    let mut text = format!(
        "[project]\nname = \"{PROJECT}\"\nversion = \"0\"\nrequires-python = \">={}\"\ndependencies = [{}]\n\n\
         [tool.uv.workspace]\nmembers = []\n",
        question.target.full_version(),
        list(&requirements),
    );
    let mut indexes = String::new();
    let mut sources = String::new();
    for (at, (package, url)) in question.index.packages.iter().enumerate() {
        let _ =
            write!(indexes, "\n[[tool.uv.index]]\nname = \"package-{at}\"\nurl = {}\nexplicit = true\n", quote(url));
        let _ = writeln!(sources, "{package} = {{ index = \"package-{at}\" }}");
    }
    if !sources.is_empty() {
        let _ = write!(text, "\n[tool.uv.sources]\n{sources}");
    }
    text + &indexes
}

fn preferences(versions: &[(String, String)]) -> String {
    let mut text = String::from("lock-version = \"1.0\"\ncreated-by = \"kiln\"\n");
    for (name, version) in versions {
        let _ = write!(text, "\n[[packages]]\nname = {}\nversion = {}\n", quote(name), quote(version));
    }
    text
}

/// A wheel that holds its metadata and nothing else. uv reads it from its beginning to its end, for which an entry whose
/// size follows its data must be deflated.
fn metadata_wheel(name: &str, version: &str, requires: &[String]) -> std::io::Result<(String, Vec<u8>)> {
    let stem = format!("{}-{version}", name.replace('-', "_"));
    let mut metadata = format!("Metadata-Version: 2.1\nName: {name}\nVersion: {version}\n");
    for requirement in requires {
        let _ = writeln!(metadata, "Requires-Dist: {requirement}");
    }
    let wheel = "Wheel-Version: 1.0\nGenerator: kiln\nRoot-Is-Purelib: true\nTag: py3-none-any\n";
    let files = [("METADATA", metadata.as_bytes()), ("WHEEL", wheel.as_bytes()), ("RECORD", b"")];
    let mut bytes = Vec::new();
    let mut archive = rawzip::ZipArchiveWriter::new(&mut bytes);
    for (file, content) in files {
        let path = format!("{stem}.dist-info/{file}");
        let file = archive.new_file(&path).compression_method(rawzip::CompressionMethod::DEFLATE);
        let (mut entry, config) = file.start().map_err(std::io::Error::other)?;
        let mut writer = config.wrap(flate2::write::DeflateEncoder::new(&mut entry, flate2::Compression::default()));
        std::io::Write::write_all(&mut writer, content)?;
        let (encoder, descriptor) = writer.finish().map_err(std::io::Error::other)?;
        encoder.finish()?;
        entry.finish(descriptor).map_err(std::io::Error::other)?;
    }
    archive.finish().map_err(std::io::Error::other)?;
    Ok((format!("{stem}-py3-none-any.whl"), bytes))
}

/// uv's explanation without what only concerns its own command line.
pub(crate) fn explain(stderr: &str) -> UvError {
    let unreachable = ["Failed to fetch", "error sending request", "Network connectivity is disabled", "dns error"];
    let lines: Vec<&str> = stderr
        .lines()
        .map(str::trim)
        .filter(|line| !line.is_empty() && !line.starts_with("hint:") && !line.starts_with("warning:"))
        .collect();
    let text = lines.join(" ").replace("`kiln-image`", "this image").replace("kiln-image", "this image");
    let text = text.trim_start_matches("error: ").to_owned();
    if let Some((_, cause)) = text.split_once("No solution found when resolving dependencies") {
        // Where packages cannot be seen, uv says that there are none, and only in a hint why.
        if let Some(refused) =
            stderr.lines().find_map(refused).filter(|_| cause.contains("not found in the package registry"))
        {
            return refused;
        }
        let cause = cause.trim_start_matches([':', ' ']).trim_start_matches("cause:").trim();
        return UvError::Unsatisfiable(sentences(cause));
    }
    if unreachable.iter().any(|sign| text.contains(sign)) {
        return UvError::Index(text);
    }
    UvError::Failed(text)
}

/// Reads uv's hint about an index that it may not ask.
fn refused(line: &str) -> Option<UvError> {
    let (_, rest) = line.trim().strip_prefix("hint: An index")?.split_once('(')?;
    let (index, rest) = rest.split_once(')')?;
    let status = [401, 403].into_iter().find(|status| rest.contains(&status.to_string()))?;
    Some(UvError::Refused { index: index.to_owned(), status })
}

/// One clause a line, without the conclusion that everybody knows.
fn sentences(cause: &str) -> String {
    let cause = cause.replace(", we can conclude that your requirements are unsatisfiable", "");
    let cause = cause.replace("╰─▶", "").replace("  ", " ");
    cause.trim().trim_end_matches('.').replace(". And because ", ",\nand because ")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::install::Wheel;

    #[test]
    fn a_wheel_of_metadata_alone_is_a_wheel_that_can_be_read_from_its_beginning() {
        let (file, bytes) = metadata_wheel("torch-scatter", "2.1.2", &["torch>=2".into()]).unwrap();
        // APPNOTE.TXT, section 4.3.7: flag 3 says that the size follows the data, method 8 is deflate.
        let (flags, method) = (bytes[6], bytes[8]);
        assert!(flags & 8 == 0 || method == 8, "flags {flags}, method {method}");
        let wheel = Wheel::open(file.parse().unwrap(), bytes.as_slice(), bytes.len() as u64).unwrap();
        let metadata = wheel.metadata().unwrap();
        assert_eq!((metadata.version.as_str(), metadata.requires), ("2.1.2", vec!["torch>=2".to_owned()]));
    }

    #[test]
    fn a_conflict_is_shortened_to_what_conflicts() {
        let stderr = "error: No solution found when resolving dependencies\n  cause: Because torch==2.7.1 depends on \
                      sympy>=1.13.3 and kiln-image depends on torch==2.7.1, we can conclude that kiln-image depends \
                      on sympy>=1.13.3.\n         And because kiln-image depends on sympy<1.10, we can conclude that \
                      your requirements are unsatisfiable.\n\nhint: something about uv\n";
        let UvError::Unsatisfiable(text) = explain(stderr) else { panic!() };
        insta::assert_snapshot!(text);
    }

    #[test]
    fn an_index_that_refuses_is_told_apart() {
        let error = "error: No solution found when resolving dependencies\n  cause: Because torch was not found in the \
                     package registry and kiln-image depends on torch==2, we can conclude that your requirements are \
                     unsatisfiable.\n\nhint: ";
        for (hint, expected) in [
            (
                "An index URL (http://a.example/simple) could not be queried due to a lack of valid authentication \
                 credentials (401 Unauthorized)",
                401,
            ),
            (
                "An index (http://a.example/simple) returned a 403 Forbidden error. Check that the index URL is \
                 correct and the credentials are valid.",
                403,
            ),
        ] {
            let UvError::Refused { index, status } = explain(&format!("{error}{hint}\n")) else { panic!("{hint}") };
            assert_eq!((index.as_str(), status), ("http://a.example/simple", expected));
        }
        assert!(matches!(explain(error), UvError::Unsatisfiable(_)));
    }

    #[test]
    fn an_unreachable_index_is_told_apart() {
        let stderr = "error: Failed to fetch: `http://127.0.0.1:1/simple/six/`\n  Caused by: error sending request\n";
        assert!(matches!(explain(stderr), UvError::Index(_)));
    }
}
